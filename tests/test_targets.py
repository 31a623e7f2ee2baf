"""Which labels of a clip are explained."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.runs.targets import Above, Top, choose_targets, describe_target

CLASSES = ("dog", "cat", "rain", "wind")
PROBABILITIES = torch.tensor([[0.9, 0.1, 0.7, 0.2], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)


def chosen(target, probabilities=PROBABILITIES):
    """Return (clip, class name) of every explanation."""
    clip, label = choose_targets(target, probabilities, CLASSES)
    return [(c, CLASSES[n]) for c, n in zip(clip.tolist(), label.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [(0, "dog"), (1, "wind")]),
        ("cat", [(0, "cat"), (1, "cat")]),
        (2, [(0, "rain"), (1, "rain")]),
        (["wind", 0], [(0, "wind"), (0, "dog"), (1, "wind"), (1, "dog")]),
        (Top(1), [(0, "dog"), (1, "wind")]),
        (Top(2), [(0, "dog"), (0, "rain"), (1, "wind"), (1, "rain")]),
        (Above(0.5), [(0, "dog"), (0, "rain")]),
        (Above(0.7), [(0, "dog"), (0, "rain")]),
        (Above(0.95), []),
    ],
)
def test_labels_are_chosen(target, expected):
    assert chosen(target) == expected


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=3),
    st.floats(0.01, 0.99),
)
def test_above_takes_exactly_the_labels_that_reach_the_probability(rows, least):
    found = chosen(Above(least), torch.tensor(rows, dtype=torch.float64))
    expected = {
        (clip, CLASSES[n]) for clip, row in enumerate(rows) for n in range(4) if row[n] >= least
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [clip for clip, _ in found] == sorted(clip for clip, _ in found)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("dgo", "unknown class 'dgo'.*Did you mean 'dog'"),
        (4, r"target 4: expected 0 … 3, or one of dog, cat, rain, wind"),
        (-1, "target -1"),
        ([], "expected some, each once"),
        (["dog", 0], "expected some, each once"),
        (Top(5), "top 5 labels of 4 classes"),
    ],
)
def test_labels_that_are_none_are_named(target, message):
    with pytest.raises(ValueError, match=message):
        choose_targets(target, PROBABILITIES, CLASSES)


@pytest.mark.parametrize(
    "wrong",
    [lambda: Top(0), lambda: Top(1.5), lambda: Top(True), lambda: Above(0), lambda: Above(1)],
)
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a"):
        wrong()


def test_a_target_is_described_for_json():
    described = [describe_target(each) for each in (None, "dog", 3, ("dog", 2), Top(2), Above(0.5))]
    assert described == [None, "dog", 3, ["dog", 2], {"top": 2}, {"above": 0.5}]
