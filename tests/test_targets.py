"""Which labels of a clip are explained."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.runs.targets import (
    Above,
    Top,
    TrueLabels,
    check_target,
    choose_targets,
    describe_target,
)

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
        (np.int64(1), [(0, "cat"), (1, "cat")]),
        (torch.tensor(1), [(0, "cat"), (1, "cat")]),
        (np.array([2, 1]), [(0, "rain"), (0, "cat"), (1, "rain"), (1, "cat")]),
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
    json.dumps(describe_target(target))


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
    ("target", "error", "message"),
    [
        ("dgo", ValueError, "unknown class 'dgo'.*Did you mean 'dog'"),
        (4, ValueError, r"target 4: expected 0 … 3, or one of dog, cat, rain, wind"),
        (-1, ValueError, "target -1"),
        ([], ValueError, "expected some, each once"),
        (["dog", 0], ValueError, "expected some, each once"),
        (Top(5), ValueError, "top 5 labels of 4 classes"),
        (True, TypeError, "target True: expected the name or the index"),
        (1.5, TypeError, r"target 1\.5"),
        ([None], TypeError, "target None"),
    ],
)
def test_labels_that_are_none_are_named(target, error, message):
    with pytest.raises(error, match=message):
        choose_targets(target, PROBABILITIES, CLASSES)


def test_true_labels_are_those_that_each_clip_has():
    true = torch.tensor([[False, True, False, True], [False] * 4])
    clip, label = choose_targets(TrueLabels(), PROBABILITIES, CLASSES, true=true)
    assert (clip.tolist(), label.tolist()) == ([0, 0], [1, 3])
    check_target(TrueLabels(), CLASSES, labelled=True)
    json.dumps(describe_target(TrueLabels()))


def test_what_is_no_clip_of_a_set_has_no_true_labels():
    for classes in (CLASSES, None):
        with pytest.raises(ValueError, match="files and waveforms have none: name the label"):
            check_target(TrueLabels(), classes)
    with pytest.raises(ValueError, match="files and waveforms have none"):
        choose_targets(TrueLabels(), PROBABILITIES, CLASSES)


def test_a_long_list_of_classes_is_cut_in_messages():
    names = [f"class number {index}" for index in range(527)]
    with pytest.raises(ValueError, match=r"… \(527\)") as caught:
        choose_targets("dog", torch.rand(1, 527), names)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "2"])
def test_top_takes_a_number_of_labels(wrong):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        Top(wrong)


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 2, math.nan])
def test_above_takes_a_probability(wrong):
    with pytest.raises(ValueError, match="expected a probability between 0 and 1"):
        Above(wrong)


def test_a_target_is_described_for_json():
    targets = (None, "dog", 3, ("dog", 2), Top(2), Above(0.5), TrueLabels())
    described = [None, "dog", 3, ["dog", 2], {"top": 2}, {"above": 0.5}, {"true_labels": True}]
    assert list(map(describe_target, targets)) == described
