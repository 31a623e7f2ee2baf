"""Score of a method and mask: metrics scaled to [0, 1] and combined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from audiointerp.arguments import several
from audiointerp.evaluation import METRICS, SCORED_FAMILIES, metric_columns
from audiointerp.tables.load import RUN_COLUMNS

SCORE = "score"
"""Column of the geometric mean of the scaled metrics."""
SCORE_DECIMALS = 3
SCORE_FLOOR = 0.01
"""What a scaled metric counts for at least in the score."""


def scored_metrics(results: pd.DataFrame) -> list[str]:
    """Return the metrics that the score of some results is made of, in the order of ``METRICS``.

    Those of the families in ``SCORED_FAMILIES`` that every run has under every mask: the scores of
    two runs could not be compared if they were made of different metrics.

    Parameters
    ----------
    results : DataFrame
        As `audiointerp.tables.load_results` returns it.

    Raises
    ------
    ValueError
        If there are none.
    """
    names = metric_columns(results, SCORED_FAMILIES)
    if results[names].isna().any(axis=None):
        known = results.groupby(list(RUN_COLUMNS))[names].count() > 0
        names = [name for name in names if known[name].all()]
    if not names:
        raise ValueError(
            f"no metric of the families {' and '.join(SCORED_FAMILIES)} is in all of the runs: "
            "there is nothing to make their score of; load fewer runs"
        )
    return names


def describe_score(names: Sequence[str]) -> str:
    """Return what a score of some metrics is, as a phrase."""
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"Geometric mean of {listed}, each scaled from 0 (worthless) to 1 (best)"


def score_range(name: str, cells: float) -> tuple[float, float]:
    """Return the part of a metric's bounds that is scaled to [0, 1], lowest value first.

    The bounds themselves or, where 0 lies between them, what is between 0 and the better one. At 0
    a mask is worth nothing, so a metric in [-1, 1] is cut at 0 and not moved to (value + 1)/2,
    which would give half the marks for nothing.

    Parameters
    ----------
    name : str
        Of a metric.
    cells : float
        Cells N of a mask.
    """
    low, high = METRICS[name].bounds(cells)
    if low < 0 < high:
        return (0.0, high) if METRICS[name].better > 0 else (low, 0.0)
    return low, high


def normalise(means: ArrayLike, cells: float, names: Sequence[str] | None = None) -> NDArray:
    """Map mean metrics to [0, 1], 1 the best, by what each can be.

    A metric where higher is better becomes (value - low)/(high - low), else 1 minus that, cut to
    [0, 1]; `score_range` gives low and high. For FF that is max(FF, 0), for AI and AG the hundredth
    part, for AD 1 - AD/100, for COMP 1 - COMP/ln N; FidIn and SPS stay as they are. Zero always
    means an uninformative mask: removing it costs nothing, it alone keeps nothing of the class, it
    selects nothing. The mean is cut, not the clips: noise about zero stays zero.

    The ranges are those of the definitions, not of the rows compared. From minimum to maximum of
    the rows, the worst row of any metric would get 0 and so lose the whole product, however small
    its distance, and a row's score would change with its company.

    Parameters
    ----------
    means : array, shape (..., metrics)
        NaN stays NaN.
    cells : float
        Cells N of a mask.
    names : sequence of str
        The metrics of the last axis; by default all of ``SCORED_FAMILIES``.

    Returns
    -------
    array, shape (..., metrics)

    Raises
    ------
    ValueError
        If a value lies outside its metric's bounds.
    """
    names = metric_columns(METRICS, SCORED_FAMILIES) if names is None else several(names)
    means = np.asarray(means, dtype=float)
    if means.shape[-1:] != (len(names),):
        raise ValueError(f"means of shape {means.shape}: expected (..., {len(names)})")
    check_bounds(means, cells, names)
    return scale(means, cells, names)


def check_bounds(means: NDArray, cells: float, names: Sequence[str]) -> None:
    """Raise a ValueError if a mean lies outside the bounds of its metric."""
    for column, name in enumerate(names):
        values, (low, high) = means[..., column], METRICS[name].bounds(cells)
        # Masks in single precision have an entropy that is a little off.
        slack = 1e-4 * max([abs(end) for end in (low, high) if math.isfinite(end)], default=0)
        wrong = (values < low - slack) | (values > high + slack)
        if wrong.any():
            raise ValueError(
                f"{name} is {values[wrong].flat[0]:g}: expected {low:g} to {high:g} "
                f"for masks of {cells:g} cells"
            )


def scale(means: NDArray, cells: float, names: Sequence[str]) -> NDArray:
    """Map mean metrics to [0, 1] as `normalise`, cutting what lies outside without a word."""
    low, high = np.array([score_range(name, cells) for name in names]).T
    higher = np.array([METRICS[name].better > 0 for name in names])
    shares = (means - low) / (high - low)
    return np.clip(np.where(higher, shares, 1 - shares), 0, 1)


def score(
    means: ArrayLike,
    cells: float,
    *,
    names: Sequence[str] | None = None,
    of: Sequence[str] | None = None,
) -> NDArray:
    """Return the geometric mean of the normalised metrics, 1 the best.

    A normalised metric counts for at least 0.01: where a metric is 0 for all (AI often is, if the
    model is sure of its clips), a product would be 0 for all and the others would say nothing. The
    floor is about what one clip in a hundred is worth.

    Parameters
    ----------
    means : array, shape (..., metrics)
    cells : float
        Cells N of a mask.
    names : sequence of str
        The metrics of the last axis; by default all of ``SCORED_FAMILIES``.
    of : sequence of str
        Metrics to take together; all of `names` by default.

    Returns
    -------
    array, shape (...,)
        In [0.01, 1]; NaN where a metric is.
    """
    names = metric_columns(METRICS, SCORED_FAMILIES) if names is None else list(several(names))
    shares = normalise(means, cells, names)
    if of is not None:
        shares = shares[..., [names.index(name) for name in several(of)]]
    return combine(shares)


def combine(shares: NDArray) -> NDArray:
    """Return the geometric mean of scaled metrics over the last axis, none below the floor."""
    return np.exp(np.log(np.maximum(shares, SCORE_FLOOR)).mean(axis=-1))
