"""Fidelity: compare the class probabilities of a clip with those of its masked versions.

All functions take p(x), the probabilities of a clip, and those of what the mask keeps, p(in), or
removes, p(out), for the explained class c, which is argmax p(x) unless another is given. Pass
probabilities in double precision: a confident model's 1 - p(x) vanishes in single.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiointerp.evaluation.arithmetic import smallest
from audiointerp.evaluation.record import METRICS, Metric

AI_MARGIN = 1e-6
"""An increase smaller than this is rounding, not an increase."""


def faithfulness(original: Tensor, masked_out: Tensor, target: Tensor | None = None) -> Tensor:
    """FF = p_c(x) - p_c(out): what removing the mask takes from the class.

    Parameters
    ----------
    original, masked_out : Tensor, shape (batch, classes)
        Class probabilities of the clip and of the clip with the mask removed.
    target : Tensor of int, shape (batch,), optional
        The explained class c; argmax p(x) by default.

    Returns
    -------
    Tensor, shape (batch,)
        In [-1, 1], higher is better.

    Raises
    ------
    ValueError
        If the two do not agree in shape or are not probabilities, or a target is no class.

    References
    ----------
    J. Parekh et al., "Listen to interpret: post-hoc interpretability for audio networks with
    NMF", NeurIPS 2022.
    """
    before, after = _class_probabilities(original, masked_out, target)
    return before - after


def average_increase(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AI = 100·[p_c(in) > p_c(x) + 1e-6]: 100 where the mask alone scores higher, else 0.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    A. Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    before, after = _class_probabilities(original, masked_in, target)
    return 100 * (after > before + AI_MARGIN).to(before)


def average_drop(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AD = 100·max(0, p_c(x) - p_c(in)) / p_c(x): percent of the probability lost.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    A. Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    before, after = _class_probabilities(original, masked_in, target)
    return 100 * (before - after).clamp(min=0) / before.clamp(min=smallest(before))


def average_gain(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AG = 100·max(0, p_c(in) - p_c(x)) / (1 - p_c(x)): percent of the missing part gained.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    H. Zhang et al., "Opti-CAM: optimizing saliency maps for interpretability", CVIU 2024.
    """
    before, after = _class_probabilities(original, masked_in, target)
    return 100 * (after - before).clamp(min=0) / (1 - before).clamp(min=smallest(before))


def input_fidelity(
    original: Tensor,
    masked_in: Tensor,
    target: Tensor | None = None,
    *,
    keeps: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """FidIn: 1 where the mask alone leaves the decision for the explained class unchanged, else 0.

    Parameters
    ----------
    original, masked_in : Tensor, shape (batch, classes)
        Class probabilities of the clip and of what the mask keeps.
    target : Tensor of int, shape (batch,), optional
        The explained class c; argmax p(x) by default.
    keeps : callable, optional
        ``keeps(original, masked_in, target)``, bool of shape (batch,): whether the decision is
        unchanged; `audiointerp.model.heads.Head.keeps` of the classifier's head. By default that
        of softmax, argmax p(in) = c.

    References
    ----------
    F. Paissan et al., "Listenable maps for audio classifiers", ICML 2024.
    """
    _class_probabilities(original, masked_in, target)
    chosen = _explained(original, target)
    kept = masked_in.argmax(1) == chosen if keeps is None else keeps(original, masked_in, chosen)
    return kept.to(original)


def _class_probabilities(
    original: Tensor, masked: Tensor, target: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check the arguments of a fidelity metric; return p_c before and after masking."""
    if original.ndim != 2 or original.shape != masked.shape:
        raise ValueError(
            f"the probabilities have shapes {tuple(original.shape)} and {tuple(masked.shape)}: "
            "expected (batch, classes) for both"
        )
    if not (original.is_floating_point() and masked.is_floating_point()):
        raise ValueError(
            f"the probabilities are {original.dtype} and {masked.dtype}: expected floating point"
        )
    for values in (original, masked):
        low, high = values.aminmax() if values.numel() else (torch.zeros(()), torch.ones(()))
        if not (low >= 0 and high <= 1 + 1e-5):
            raise ValueError(
                f"the probabilities run from {low:g} to {high:g}: expected [0, 1]; "
                "did you pass logits? take their softmax"
            )
    chosen = _explained(original, target)
    if chosen.shape != original.shape[:1]:
        raise ValueError(
            f"the target has shape {tuple(chosen.shape)}: expected one class per clip, "
            f"({original.shape[0]},)"
        )
    if chosen.numel() and not (chosen.min() >= 0 and chosen.max() < original.shape[1]):
        raise ValueError(
            f"a target lies outside 0 … {original.shape[1] - 1}, the classes of the model"
        )
    index = chosen[:, None]
    # Never above 1, which rounding allows: the rest, 1 - p, must not be negative.
    before, after = original.gather(1, index)[:, 0], masked.gather(1, index)[:, 0]
    return before.clamp(max=1), after.clamp(max=1)


def _explained(original: Tensor, target: Tensor | None) -> Tensor:
    if target is None:
        return original.argmax(1)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"the target is {target.dtype}: expected whole numbers, one per clip")
    return target.to(original.device, torch.long)


FAMILY = "fidelity"


def _percent(cells: int) -> tuple[float, float]:
    return 0.0, 100.0


METRICS["FF"] = Metric(
    "FF",
    title="faithfulness",
    meaning="probability of the explained class lost when what the mask selects is removed",
    unit="",
    decimals=3,
    clip_decimals=3,
    better=1,
    bounds=lambda cells: (-1.0, 1.0),
    family=FAMILY,
    level="mask",
    needs=frozenset({"outside"}),
    compute=lambda evidence: faithfulness(evidence.before, evidence.outside, evidence.target),
)
METRICS["AI"] = Metric(
    "AI",
    title="average increase",
    meaning="share of clips whose probability of the explained class rises when only what the "
    "mask selects is kept",
    unit="%",
    decimals=1,
    clip_decimals=0,
    better=1,
    bounds=_percent,
    family=FAMILY,
    level="mask",
    needs=frozenset({"inside"}),
    compute=lambda evidence: average_increase(evidence.before, evidence.inside, evidence.target),
)
METRICS["AD"] = Metric(
    "AD",
    title="average drop",
    meaning="share of the probability of the explained class lost when only what the mask "
    "selects is kept",
    unit="%",
    decimals=1,
    clip_decimals=1,
    better=-1,
    bounds=_percent,
    family=FAMILY,
    level="mask",
    needs=frozenset({"inside"}),
    compute=lambda evidence: average_drop(evidence.before, evidence.inside, evidence.target),
)
METRICS["AG"] = Metric(
    "AG",
    title="average gain",
    meaning="relative gain of the probability of the explained class towards 1 when only what "
    "the mask selects is kept",
    unit="%",
    decimals=1,
    clip_decimals=1,
    better=1,
    bounds=_percent,
    family=FAMILY,
    level="mask",
    needs=frozenset({"inside"}),
    compute=lambda evidence: average_gain(evidence.before, evidence.inside, evidence.target),
)
METRICS["FidIn"] = Metric(
    "FidIn",
    title="input fidelity",
    meaning="share of clips whose decision for the explained class stays the same when only "
    "what the mask selects is kept",
    unit="",
    decimals=3,
    clip_decimals=0,
    better=1,
    bounds=lambda cells: (0.0, 1.0),
    family=FAMILY,
    level="mask",
    needs=frozenset({"inside"}),
    compute=lambda evidence: input_fidelity(
        evidence.before, evidence.inside, evidence.target, keeps=evidence.keeps
    ),
)
