"""Metrics as SpeechBrain's interpretability recipe computes them, to compare with its tables.

Its recipe for ESC-50 (``recipes/ESC50/interpret/interpreter_brain.py``), which the published
figures of L-MAC come from, takes the softmax of the probabilities once more before it computes AD.
These second probabilities lie close together (of 50 classes, a certain one has
e / (e + 49) = 5.3 %, the others 2.0 %), so that a drop looks smaller: a class that loses all of its
probability has an AD of 63 % at most. Its AI, AG, FF and FidIn are those of this package but for
the margin of AI.

There, masks multiply log(1 + magnitude) of the spectrogram; interpretations that are run with
``domain="log1p"`` do so, see `audiointerp.masking.DOMAINS`.
"""

from __future__ import annotations

from torch import Tensor

from audiointerp.evaluation.fidelity import average_drop
from audiointerp.evaluation.record import METRICS, Metric

FAMILY = "speechbrain"


def twice_softmax_drop(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AD of softmax(p(x)) and softmax(p(in)): `average_drop` after a second softmax.

    Parameters and errors as `audiointerp.evaluation.faithfulness`, with the probabilities of the
    mask alone. The class explained by default is argmax p(x), as the softmax keeps the order.
    """
    average_drop(original, masked_in, target)  # checks that these are probabilities
    return average_drop(original.softmax(1), masked_in.softmax(1), target)


METRICS["SB_AD"] = Metric(
    "SB_AD",
    title="average drop after a second softmax",
    meaning="AD as SpeechBrain's tables have it, of the softmax of the probabilities; smaller than "
    "the share of the probability that is lost",
    unit="%",
    decimals=1,
    clip_decimals=1,
    better=-1,
    bounds=lambda cells: (0.0, 100.0),
    family=FAMILY,
    level="mask",
    needs=frozenset({"inside"}),
    compute=lambda evidence: twice_softmax_drop(evidence.before, evidence.inside, evidence.target),
    on_request=True,
)
