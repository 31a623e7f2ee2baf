"""Statistics of paired measurements: bootstrap intervals, signed-rank tests, Pareto fronts.

Pure functions of arrays; nothing here knows of audio or of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

CONFIDENCE = 0.95
EXACT_UP_TO = 50
"""Differences up to which a signed-rank test is exact; more of them are near enough to normal."""


def bootstrap_means(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 5_000,
    seed: int = 0,
) -> NDArray:
    """Return the means of random resamples of the clusters of rows, drawn with replacement.

    Every array with as many clusters is resampled alike, so what is computed from the columns of
    one resample, or from two arrays over the same clips, belongs together.

    Parameters
    ----------
    values : array, shape (rows, columns)
        NaN is left out of the means.
    clusters : array, shape (rows,), optional
        Rows with the same label are drawn together, such as those of one clip; by default each row
        is drawn on its own.
    resamples : int
        How many to draw.
    seed : int
        For the draws.

    Returns
    -------
    array, shape (resamples, columns)
        NaN where a resample has no value.

    Raises
    ------
    ValueError
        If there is no row, a value is infinite or nothing is to be drawn.

    References
    ----------
    B. Efron, R. Tibshirani, "An introduction to the bootstrap", 1993. Of clusters: C. Field, A.
    Welsh, "Bootstrapping clustered data", J. R. Stat. Soc. B 2007.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"values of shape {values.shape}: expected (rows, columns) with rows")
    if np.isinf(values).any():
        raise ValueError("the values have infinite ones among them: there is no mean")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: expected at least 1")
    known = ~np.isnan(values)
    labels = np.arange(len(values)) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    count = labels.max() + 1
    weights = _resample_weights(count, resamples, seed)
    if count == len(values) and known.all():
        return weights @ values
    sums, sizes = np.zeros((2, count, values.shape[1]))
    np.add.at(sums, labels, np.where(known, values, 0))
    np.add.at(sizes, labels, known)
    with np.errstate(invalid="ignore"):
        return (weights @ sums) / (weights @ sizes)


@lru_cache(maxsize=4)
def _resample_weights(clusters: int, resamples: int, seed: int) -> NDArray:
    """Return the share of each cluster in each resample, (resamples, clusters)."""
    counts = np.random.default_rng(seed).multinomial(
        clusters, np.full(clusters, 1 / clusters), size=resamples
    )
    weights = counts / clusters
    weights.flags.writeable = False
    return weights


def signed_rank_test(differences: ArrayLike) -> tuple[NDArray, NDArray]:
    """Test, row by row, whether paired differences lie around zero (Wilcoxon, two-sided).

    Zero differences are left out, tied ones share their mean rank. Up to 50 differences the
    probability is exact, ties or not: all ways to sign the ranks are counted. More differences
    take the normal approximation with the variance of the ranks at hand, hence corrected for ties.
    For a metric that is 0 or 1 this is the sign test.

    Parameters
    ----------
    differences : array, shape (rows, pairs)
        One row per test.

    Returns
    -------
    p : array, shape (rows,)
        1 where no difference is left.
    direction : array of int, shape (rows,)
        1 where the positive differences rank higher, -1 where the negative ones do, else 0.

    Raises
    ------
    ValueError
        If the differences are not finite numbers in two dimensions.

    References
    ----------
    F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1945.
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 2:
        raise ValueError(f"differences of shape {differences.shape}: expected (rows, pairs)")
    if not np.isfinite(differences).all():
        raise ValueError("the differences have NaN or infinite ones: leave those pairs out")
    if differences.size == 0:
        return np.ones(len(differences)), np.zeros(len(differences), dtype=int)
    used = differences != 0
    zeros = (~used).sum(axis=1, keepdims=True)
    ranks = np.where(used, rankdata(np.abs(differences), axis=1) - zeros, 0)
    total = (np.sign(differences) * ranks).sum(axis=1)
    spread = np.sqrt((ranks**2).sum(axis=1))
    p = np.ones(len(differences))
    p[spread > 0] = 2 * norm.sf(np.abs(total[spread > 0]) / spread[spread > 0])
    count = used.sum(axis=1)
    for row in np.flatnonzero((count > 0) & (count <= EXACT_UP_TO)):
        # Twice the ranks are whole numbers: a tie's mean rank may end in a half.
        doubled = np.sort(np.rint(2 * ranks[row, used[row]]).astype(int))
        smaller = round((doubled.sum() - abs(2 * total[row])) / 2)
        p[row] = min(1.0, 2 * _smaller_sums(tuple(doubled))[smaller])
    return p, np.sign(total).astype(int)


@lru_cache(maxsize=4096)
def _smaller_sums(ranks: tuple[int, ...]) -> NDArray:
    """Return, for every s, the share of all subsets of the ranks with a sum of at most s."""
    shares = np.zeros(sum(ranks) + 1)
    shares[0] = 1
    for rank in ranks:
        with_it = np.zeros_like(shares)
        with_it[rank:] = shares[:-rank]
        shares = (shares + with_it) / 2
    return shares.cumsum()


def holm(p: ArrayLike) -> NDArray:
    """Correct the probabilities of several tests, along the last axis, for their number.

    Parameters
    ----------
    p : array, shape (..., tests)
        NaN where there was no test, which is not counted.

    Returns
    -------
    array, same shape
        Reject where below the level: then the chance of any false rejection is below it too.

    Raises
    ------
    ValueError
        If a value is not a probability.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 1979.
    """
    p = np.asarray(p, dtype=float)
    none = np.isnan(p)
    if not (((p >= 0) & (p <= 1)) | none).all():
        raise ValueError("the probabilities must lie in [0, 1]")
    # Those that are NaN come last.
    order = np.argsort(p, axis=-1, kind="stable")
    factors = (~none).sum(axis=-1, keepdims=True) - np.arange(p.shape[-1])
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1), -1)
    return adjusted


def pareto_front(points: ArrayLike) -> NDArray:
    """Say of each point whether no other is as good in everything and better in something.

    Parameters
    ----------
    points : array, shape (points, criteria)
        Higher is better in each.

    Returns
    -------
    array of bool, shape (points,)
        Equal points are on the front together.

    Raises
    ------
    ValueError
        If the points are not finite numbers in two dimensions.
    """
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"points of shape {points.shape}: expected finite numbers, (points, criteria)"
        )
    as_good = (points[:, None] >= points[None]).all(axis=-1)
    better = (points[:, None] > points[None]).any(axis=-1)
    return ~(as_good & better).any(axis=0)


def interval(drawn: NDArray) -> NDArray:
    """Return the ends of the 95 % percentile interval of each column, (2, columns).

    NaN is left out; a column that has nothing else has no interval.
    """
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    limits = np.quantile(drawn, ends, axis=0)
    for column in np.flatnonzero(np.isnan(limits[0])):
        known = drawn[~np.isnan(drawn[:, column]), column]
        if len(known):
            limits[:, column] = np.quantile(known, ends)
    return limits


def share_interval(
    right: ArrayLike, *, resamples: int = 5_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return a share in percent with the ends of its 95 % percentile bootstrap interval.

    Parameters
    ----------
    right : array of bool, shape (clips,)
    resamples : int
        How often the clips are drawn anew.
    seed : int
        For the draws.

    Returns
    -------
    share, low, high : float
        The interval of one clip is NaN.
    """
    values = 100 * np.asarray(right, float)[:, None]
    low, high = np.nan, np.nan
    if len(values) > 1:
        low, high = interval(bootstrap_means(values, resamples=resamples, seed=seed))[:, 0]
    return float(values.mean()), float(low), float(high)


def population_counts(groups: Any, partial: Sequence[str] = ()) -> dict[str, pd.Series]:
    """Return the columns that say what means are over, where that is not the same for all.

    Parameters
    ----------
    groups : DataFrameGroupBy
        Of rows with a column ``clip``.
    partial : sequence of str
        Metrics that have no value in some rows.

    Returns
    -------
    dict of str to Series
        ``clips`` if the groups have different numbers of clips; ``rows`` if they have more rows
        than clips, such as the windows of a recording; ``<metric>_n``, how many rows have a value.
    """
    clips, rows = groups["clip"].nunique(), groups.size()
    counts = {"clips": clips} if len(clips.unique()) > 1 else {}
    counts |= {"rows": rows} if (rows != clips).any() else {}
    return counts | {f"{name}_n": groups[name].count() for name in partial}
