"""Rank correlations against SciPy, and their bootstrap against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from audiointerp.evaluation.agreement import agreement, rank_correlation


def test_the_correlation_is_scipys_with_ties():
    random = np.random.default_rng(0)
    first = random.normal(size=(40, 7)).round(1)
    second = (first + random.normal(size=(40, 7))).round(1)
    expected = [spearmanr(*pair).statistic for pair in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), expected, atol=1e-12)


def test_unknown_pairs_are_left_out_and_too_few_give_none():
    first = [[3.0, 1.0, np.nan, 2.0, 5.0], [np.nan, np.nan, 1.0, 2.0, np.nan], [1.0] * 5]
    second = [[2.0, 1.0, 9.0, 4.0, np.nan], [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    found = rank_correlation(first, second)
    assert found[0] == pytest.approx(spearmanr([3, 1, 2], [2, 1, 4]).statistic)
    assert np.isnan(found[1:]).all()


def test_agreement_is_the_correlation_of_the_means_with_an_interval_over_clips():
    random = np.random.default_rng(1)
    quality = np.linspace(0, 1, 6)
    values = np.stack([quality, quality, quality[::-1]], axis=-1) + random.normal(
        scale=0.3, size=(60, 6, 3)
    )
    clips = np.arange(60) // 3
    found = agreement(values, [(0, 1), (0, 2)], clusters=clips, resamples=400, seed=0)
    means = values.mean(0)
    for row, second in zip(found, (1, 2), strict=True):
        assert row[0] == pytest.approx(spearmanr(means[:, 0], means[:, second]).statistic)
        assert -1 <= row[1] <= row[0] <= row[2] <= 1
    assert found[0, 1] > 0 > found[1, 2]
    drawn = []
    for _ in range(400):  # the slow way, with draws of its own
        chosen = random.integers(0, 20, 20)
        rows = np.concatenate([np.flatnonzero(clips == clip) for clip in chosen])
        resampled = values[rows].mean(0)
        drawn.append(spearmanr(resampled[:, 0], resampled[:, 1]).statistic)
    np.testing.assert_allclose(found[0, 1:], np.quantile(drawn, [0.025, 0.975]), atol=0.15)


def test_a_metric_that_a_method_lacks_leaves_that_method_out():
    values = np.random.default_rng(2).normal(size=(30, 5, 2)) + np.arange(5)[:, None]
    values[:, 1, 0] = np.nan
    found = agreement(values, [(0, 1)], resamples=100)[0, 0]
    kept = [0, 2, 3, 4]
    means = values[:, kept].mean(0)
    assert found == pytest.approx(spearmanr(means[:, 0], means[:, 1]).statistic)


def test_methods_that_are_all_alike_agree_with_nothing():
    values = np.random.default_rng(3).normal(size=(10, 4, 2))
    values[..., 1] = 1.0
    assert np.isnan(agreement(values, [(0, 1)], resamples=50)).all()
