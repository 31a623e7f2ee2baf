"""Average precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from audiointerp.evaluation.ranking import average_precision, mean_average_precision


@st.composite
def rankings(draw):
    """Scores with many ties, labels that each class has at least once, and whole weights."""
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    levels = draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    truth = random.random((clips, classes)) < 0.4
    truth[random.integers(clips, size=classes), range(classes)] = True
    weights = random.integers(0, 4, (3, clips))
    return random.integers(levels, size=(clips, classes)) / levels, truth, weights


@given(rankings())
def test_it_is_that_of_scikit_learn_ties_or_not(ranking):
    scores, truth, _ = ranking
    expected = average_precision_score(truth, scores, average=None)
    np.testing.assert_allclose(average_precision(scores, truth), np.atleast_1d(expected))
    assert mean_average_precision(scores, truth) == pytest.approx(np.mean(expected))


@given(rankings())
def test_weights_count_clips_as_often(ranking):
    scores, truth, weights = ranking
    found = average_precision(scores, truth, weights)
    for row, counts in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(len(scores)), counts)
        for label in range(scores.shape[1]):
            if truth[rows, label].any():
                expected = average_precision_score(truth[rows, label], scores[rows, label])
                assert row[label] == pytest.approx(expected)
            else:
                assert np.isnan(row[label])
    means = [row[~np.isnan(row)].mean() if (row == row).any() else np.nan for row in found]
    np.testing.assert_allclose(mean_average_precision(scores, truth, weights), means)


def test_a_class_that_no_clip_has_is_left_out_of_the_mean():
    scores = [[0.9, 0.1, 0.3], [0.8, 0.7, 0.2]]
    truth = [[False, True, False], [True, False, False]]
    np.testing.assert_array_equal(average_precision(scores, truth), [0.5, 0.5, np.nan])
    assert mean_average_precision(scores, truth) == 0.5
    assert np.isnan(mean_average_precision(scores, np.zeros((2, 3), bool)))


@pytest.mark.parametrize(
    ("scores", "truth", "weights", "message"),
    [
        ([[0.5]], [[True, False]], None, r"\(1, 1\) and truth of shape \(1, 2\)"),
        ([0.5], [True], None, r"expected \(clips, classes\)"),
        ([[np.nan]], [[True]], None, "some scores are NaN"),
        ([[0.5]], [[True]], [[1, 1]], r"expected \(resamples, 1\)"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, truth, weights, message):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, truth, weights)
