"""Rank agreement between metrics: correlations of the methods' means, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from audiointerp.evaluation.statistics import bootstrap_means, interval


def rank_correlation(first: ArrayLike, second: ArrayLike) -> NDArray:
    """Return Spearman's rank correlation along the last axis; tied values share their mean rank.

    Parameters
    ----------
    first, second : array, shape (..., items)
        Pairs in which one is NaN are left out.

    Returns
    -------
    array, shape (...)
        In [-1, 1]; NaN where fewer than three pairs are left or one side is constant.

    References
    ----------
    C. Spearman, "The proof and measurement of association between two things", 1904.
    """
    first, second = np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float))
    known = ~(np.isnan(first) | np.isnan(second))
    ranks = [
        rankdata(np.where(known, values, np.nan), axis=-1, nan_policy="omit")
        for values in (first, second)
    ]
    return _correlation(*ranks, known.sum(-1))


def _correlation(first: NDArray, second: NDArray, count: NDArray) -> NDArray:
    """Return the correlation of ranks along the last axis; NaN in both where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = [
            np.nan_to_num(ranks - (np.nansum(ranks, -1) / count)[..., None])
            for ranks in (first, second)
        ]
        spread = np.sqrt(np.prod([np.square(each).sum(-1) for each in centred], axis=0))
        value = (centred[0] * centred[1]).sum(-1) / spread
    return np.where((count > 2) & (spread > 1e-12), value, np.nan)


def agreement(
    values: ArrayLike,
    pairs: Sequence[tuple[int, int]],
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 5_000,
    seed: int = 0,
) -> NDArray:
    """Return how much metrics agree about the order of some methods.

    The rank correlation over the methods of the metrics' means over the clips, with its 95 %
    percentile bootstrap interval over clips. With the handful of methods there usually are, it
    takes few values, and the interval is wide.

    Parameters
    ----------
    values : array, shape (rows, methods, metrics)
        Higher is better. NaN is left out of the means.
    pairs : sequence of (int, int)
        Positions of the metrics to compare.
    clusters : array, shape (rows,), optional
        Rows with the same label, such as those of one clip under several noises, are drawn
        together.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    array, shape (pairs, 3)
        Correlation and the ends of its interval; NaN where fewer than three methods have a mean of
        both, or all have the same.
    """
    values = np.asarray(values, float)
    rows, methods, metrics = values.shape
    flat = values.reshape(rows, methods * metrics)
    known = ~np.isnan(flat)
    with np.errstate(invalid="ignore"):
        means = np.where(known, flat, 0).sum(0) / known.sum(0)
    drawn = bootstrap_means(flat, clusters=clusters, resamples=resamples, seed=seed)
    every = np.concatenate([means[None], drawn]).reshape(-1, methods, metrics)
    # Metrics by themselves: the ranks of one serve all its pairs.
    whole = ~np.isnan(every).any((0, 1))
    sides = [
        rankdata(every[..., place], axis=1) if whole[place] else every[..., place]
        for place in range(metrics)
    ]
    found = np.full((len(pairs), 3), np.nan)
    for row, (first, second) in enumerate(pairs):
        if whole[first] and whole[second]:
            value = _correlation(sides[first], sides[second], np.full(len(every), methods))
        else:
            value = rank_correlation(every[..., first], every[..., second])
        if not np.isnan(value[0]):
            found[row] = value[0], *interval(value[1:, None])[:, 0]
    return found
