"""Metrics of an interpretation: pure functions of tensors, one value per clip.

Fidelity compares the class probabilities of a clip, p(x), with those of its masked-in and
masked-out versions, for the explained class c, which is argmax p(x) unless another is given.
Simplicity looks at the mask alone. Pass probabilities in double precision: a confident model's
1 - p(x) vanishes in single.

``METRICS`` holds every metric's record: what it measures, its unit, its bounds and which way it
points. ``print(metrics_table())`` lists them.
"""

from __future__ import annotations

from torch import Tensor

from audiointerp.evaluation import (
    AI_MARGIN,
    METRICS,
    Evidence,
    MaskCells,
    Metric,
    average_drop,
    average_gain,
    average_increase,
    complexity,
    evaluate_evidence,
    faithfulness,
    input_fidelity,
    metrics_table,
    sparseness,
)

__all__ = [
    "AI_MARGIN",
    "METRICS",
    "Evidence",
    "MaskCells",
    "Metric",
    "average_drop",
    "average_gain",
    "average_increase",
    "complexity",
    "evaluate",
    "evaluate_evidence",
    "faithfulness",
    "input_fidelity",
    "metrics_table",
    "sparseness",
]


def evaluate(
    original: Tensor,
    masked_in: Tensor,
    masked_out: Tensor,
    mask: Tensor,
    target: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the metrics that need probabilities and the mask only, of a batch under one mask.

    Parameters
    ----------
    original, masked_in, masked_out : Tensor, shape (batch, classes)
        Class probabilities; double precision is advised.
    mask : Tensor, shape (batch, ...)
    target : Tensor of int, shape (batch,), optional
        The explained class; argmax of `original` by default.

    Returns
    -------
    dict of str to Tensor of shape (batch,)
        By column name, in the order of ``METRICS``.
    """
    chosen = original.argmax(1) if target is None else target
    evidence = Evidence(original, chosen, inside=masked_in, outside=masked_out, mask=mask)
    return evaluate_evidence(evidence)
