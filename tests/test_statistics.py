"""Statistics against scipy, complete enumeration and numbers computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from audiointerp.evaluation.statistics import bootstrap_means, holm, pareto_front, signed_rank_test

RNG = np.random.default_rng(7)


def test_bootstrap_has_the_distribution_of_all_resamples():
    values = np.array([0.0, 1.0, 5.0, 6.0])
    every = [np.mean(chosen) for chosen in itertools.product(values, repeat=4)]
    drawn = bootstrap_means(values[:, None], resamples=200_000, seed=3)[:, 0]
    for value in np.unique(every):
        expected = np.isclose(every, value).mean()
        assert np.isclose(drawn, value).mean() == pytest.approx(expected, abs=0.004)


def test_bootstrap_interval_is_scipys():
    values = RNG.gamma(2, size=60)
    ours = np.quantile(bootstrap_means(values[:, None], resamples=40_000)[:, 0], [0.025, 0.975])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.015)


def test_bootstrap_is_the_seeds_and_resamples_columns_together():
    values = RNG.normal(size=(20, 1))
    both = bootstrap_means(np.hstack([values, 3 * values + 1]), resamples=50, seed=5)
    np.testing.assert_allclose(both[:, 1], 3 * both[:, 0] + 1)
    again = bootstrap_means(values, resamples=50, seed=5)
    np.testing.assert_allclose(again[:, 0], both[:, 0])
    assert not np.allclose(bootstrap_means(values, resamples=50, seed=6), again)


def test_rows_of_one_clip_are_drawn_together():
    values, clips = [1.0, 5.0, 3.0, 7.0, 9.0], ["a", "b", "a", "c", "c"]
    groups = [[1.0, 3.0], [5.0], [7.0, 9.0]]
    every = [np.mean(np.concatenate(chosen)) for chosen in itertools.product(groups, repeat=3)]
    drawn = bootstrap_means(np.array(values)[:, None], clusters=clips, resamples=100_000)[:, 0]
    for value in np.unique(np.round(every, 9)):
        expected = np.isclose(every, value).mean()
        assert np.isclose(drawn, value).mean() == pytest.approx(expected, abs=0.005)


def test_clips_of_one_row_each_are_drawn_as_rows():
    values = RNG.normal(size=(30, 2))
    alone = bootstrap_means(values, resamples=40, seed=2)
    np.testing.assert_array_equal(
        bootstrap_means(values, clusters=np.arange(30)[::-1], resamples=40, seed=2), alone
    )


def test_a_mean_leaves_out_what_has_no_value():
    values = np.array([[1.0, np.nan], [2.0, 4.0], [6.0, np.nan], [3.0, 8.0]])
    drawn = bootstrap_means(values, resamples=300, seed=1)
    np.testing.assert_allclose(
        drawn[:, 0], bootstrap_means(values[:, :1], resamples=300, seed=1)[:, 0]
    )
    # Only the clips with a value count: a resample without any has no mean.
    weights = bootstrap_means(np.eye(4), resamples=300, seed=1)[:, [1, 3]]
    with np.errstate(invalid="ignore"):
        expected = (weights @ [4.0, 8.0]) / weights.sum(1)
    np.testing.assert_allclose(drawn[:, 1], expected)
    assert np.isnan(drawn[:, 1]).any()


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "with rows"),
        ([1.0, 2.0], {}, "with rows"),
        ([[1.0], [np.inf]], {}, "no mean"),
        ([[1.0]], {"resamples": 0}, "at least 1"),
    ],
)
def test_bootstrap_refuses_what_has_no_mean(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_means(values, **options)


@pytest.mark.parametrize("count", [1, 3, 12, 50])
def test_without_ties_it_is_scipys_exact_test(count):
    differences = RNG.normal(0.3, size=(5, count))
    p, direction = signed_rank_test(differences)
    for row in range(5):
        expected = stats.wilcoxon(differences[row], method="exact").pvalue
        assert p[row] == pytest.approx(expected, rel=1e-9)
    ranks = stats.rankdata(abs(differences), axis=1)
    assert direction.tolist() == np.sign((np.sign(differences) * ranks).sum(1)).tolist()


def test_many_differences_with_ties_and_zeros_are_scipys_normal_approximation():
    differences = RNG.integers(-3, 5, size=(6, 120)).astype(float)
    assert ((differences != 0).sum(1) > 50).all()
    p, _ = signed_rank_test(differences)
    for row in range(6):
        expected = stats.wilcoxon(differences[row], method="asymptotic", zero_method="wilcox")
        assert p[row] == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    "differences", [[1, 1, 1, 1, 1], [0, 2, -1, 1, 1, 3, 0], [1, -1], [4, 4, -1, -1, 2, 2, 0]]
)
def test_few_differences_with_ties_are_counted_out(differences):
    left = np.array([value for value in differences if value], dtype=float)
    ranks = stats.rankdata(abs(left))
    observed = abs((np.sign(left) * ranks).sum())
    signs = itertools.product([-1, 1], repeat=len(left))
    expected = np.mean([abs(np.dot(sign, ranks)) >= observed - 1e-9 for sign in signs])
    p, _ = signed_rank_test([differences])
    assert p[0] == pytest.approx(min(1, expected))


def test_a_metric_of_zeros_and_ones_gives_the_exact_sign_test():
    differences = np.array([[1] * 9 + [-1] * 2 + [0] * 30], dtype=float)
    p, direction = signed_rank_test(differences)
    assert p[0] == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert direction[0] == 1


def test_no_difference_is_no_evidence():
    p, direction = signed_rank_test([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]])
    assert p.tolist() == [1, 1]
    assert direction.tolist() == [0, 0]
    assert signed_rank_test(np.zeros((2, 0)))[0].tolist() == [1, 1]


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=20))
def test_swapping_the_sides_turns_only_the_direction(differences):
    values = np.array([differences], dtype=float)
    p, direction = signed_rank_test(values)
    swapped, other = signed_rank_test(-values)
    assert swapped == pytest.approx(p)
    assert (other == -direction).all()


def test_differences_must_be_numbers():
    with pytest.raises(ValueError, match="leave those pairs out"):
        signed_rank_test([[1.0, np.nan]])
    with pytest.raises(ValueError, match="expected \\(rows, pairs\\)"):
        signed_rank_test([1.0, 2.0])


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8, 0.7]) == pytest.approx([1, 1, 1])
    assert holm([]).tolist() == []


def test_holm_corrects_each_row_for_itself():
    p = RNG.uniform(size=(3, 5)) ** 3
    for row, adjusted in zip(p, holm(p), strict=True):
        for index, value in enumerate(row):
            # The definition, slowly: the largest over all tests at most as likely.
            smaller = sorted(row[row <= value])
            expected = max(min(1, (5 - j) * q) for j, q in enumerate(smaller))
            assert adjusted[index] == pytest.approx(expected)
    with pytest.raises(ValueError, match="probabilities"):
        holm([0.5, 1.5])


def test_front_by_hand():
    points = [(1, 5), (2, 4), (2, 3), (3, 1), (3, 1), (0, 0)]
    assert pareto_front(points).tolist() == [True, True, False, True, True, False]
    assert pareto_front(np.zeros((0, 2))).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_front_is_what_nothing_dominates(points):
    front = pareto_front(points)
    for point, on_front in zip(points, front, strict=True):
        beaten = any(q != point and q[0] >= point[0] and q[1] >= point[1] for q in points)
        assert on_front == (not beaten)


def test_points_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        pareto_front([[0.0, np.nan]])
