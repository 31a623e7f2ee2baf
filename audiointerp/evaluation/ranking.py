"""Average precision: whether clips that have a label rank above those that do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_precision(
    scores: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the average precision of every class.

    The area under the precision-recall curve as a sum of steps, Σ (R_n - R_(n-1)) P_n over the
    distinct scores from the highest down. Clips with equal scores are counted together.

    Parameters
    ----------
    scores : array, shape (clips, classes)
        Higher for the clips that are more likely to have the label.
    truth : array of bool, shape (clips, classes)
        Whether a clip has the label.
    weights : array, shape (resamples, clips), optional
        How often each clip counts; by default once.

    Returns
    -------
    array, shape (classes,), or (resamples, classes) with weights
        In [0, 1]; NaN for a class that no clip has, or only clips that do not count.

    Raises
    ------
    ValueError
        If the shapes do not fit or a score is NaN.
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise ValueError(
            f"scores of shape {scores.shape} and truth of shape {truth.shape}: expected "
            "(clips, classes) of both"
        )
    if np.isnan(scores).any():
        raise ValueError("some scores are NaN: there is no order of them")
    counted = np.ones((1, len(scores))) if weights is None else np.asarray(weights, dtype=float)
    if counted.ndim != 2 or counted.shape[1] != len(scores):
        raise ValueError(
            f"weights of shape {counted.shape}: expected (resamples, {len(scores)}), one per clip"
        )
    columns = [_of_class(*pair, counted) for pair in zip(scores.T, truth.T, strict=True)]
    values = np.stack(columns, axis=1) if columns else np.empty((len(counted), 0))
    return values[0] if weights is None else values


def mean_average_precision(
    scores: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the macro mean of `average_precision` over the classes that some clip has.

    Classes without a clip that has them are left out: their precision is not defined.

    Parameters
    ----------
    scores, truth, weights
        See `average_precision`.

    Returns
    -------
    array, shape () or, with weights, (resamples,)
        NaN if no clip has any label.
    """
    values = np.asarray(average_precision(scores, truth, weights))
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def _of_class(scores: NDArray, truth: NDArray, weights: NDArray) -> NDArray:
    """Return the average precision of one class for every row of weights."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]  # of equal scores
    weights = weights[:, order]
    right = np.cumsum(weights * truth[order], axis=1)[:, last]
    taken = np.cumsum(weights, axis=1)[:, last]
    steps = np.diff(right, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        precision = np.where(taken > 0, right / taken, 0)
        total = right[:, -1] if right.shape[1] else np.zeros(len(weights))
        return (steps * precision).sum(1) / total
