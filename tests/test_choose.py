"""Opening a set by name, and taking some of its clips: the same number of every class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.dataset import ESC50Dataset, SyntheticDataset, open_dataset
from audiointerp.dataset.base import choose_clips

TINY = {"sample_rate": 8000, "duration": 1.0}


def deal(labels: list[int], clips: int) -> list[int]:
    """Take clips as cards are dealt: once round the classes, again and again."""
    left = {label: [] for label in sorted(labels)}
    for place, label in enumerate(labels):
        left[label].append(place)
    taken: list[int] = []
    while len(taken) < min(clips, len(labels)):
        for places in left.values():
            if places and len(taken) < clips:
                taken.append(places.pop(0))
    return sorted(taken)


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 50))
def test_clips_are_dealt_class_by_class(labels, clips):
    assert choose_clips(labels, clips) == deal(labels, clips)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(1, 29))
def test_fewer_clips_are_part_of_more(labels, clips):
    assert set(choose_clips(labels, clips)) <= set(choose_clips(labels, clips + 1))


def test_none_takes_all_clips():
    assert choose_clips([2, 2, 0], None) == [0, 1, 2]
    assert len(open_dataset("synthetic", folds=5)) == 80


@pytest.mark.parametrize("clips", [20, np.int64(20)])
def test_the_synthetic_set_is_balanced_whatever_the_folds(clips):
    whole = open_dataset("synthetic", folds=[2, 4])
    data = open_dataset("synthetic", folds=[2, 4], clips=clips)
    assert isinstance(data, SyntheticDataset)
    assert Counter(data.labels) == dict.fromkeys(range(10), 2)
    assert data.classes == whole.classes
    assert data.clip_ids == [name for name in whole.clip_ids if name in data.clip_ids]


def test_a_clip_is_the_same_in_the_smaller_set():
    data = open_dataset("synthetic", folds=5, clips=3)
    assert [data.classes[label] for label in data.labels] == list(data.classes[:3])
    assert data.clip_ids == ["5-dog-04", "5-cat-04", "5-crow-04"]
    whole = open_dataset("synthetic", folds=5)
    waveform, label, name = data[2]
    assert (waveform == whole[whole.index(name)].waveform).all()
    assert label == whole.labels[whole.index(name)]
    assert data.snr_db(2) == whole.snr_db(whole.index(name))


def test_a_folder_keeps_all_its_classes_and_finds_the_right_files(tiny_esc50):
    data = open_dataset(tiny_esc50, folds=[1, 3], clips=4, **TINY)
    assert isinstance(data, ESC50Dataset)
    # Of both folds the dog first, then the cat, then the rain: the order of ESC-50's numbers.
    assert data.clip_ids == ["1-1000-A-10", "1-1001-A-0", "1-1002-A-5", "3-3001-A-0"]
    assert data.classes == ("dog", "cat", "rain")
    assert data.labels == [2, 0, 1, 0]
    assert [path.stem for path in data.paths] == data.clip_ids
    assert data[3].clip_id == "3-3001-A-0"


def test_more_clips_than_there_are_takes_all(tiny_esc50):
    assert len(open_dataset(tiny_esc50, clips=99, **TINY)) == 15


@pytest.mark.parametrize(
    ("clips", "error", "message"),
    [
        (0, ValueError, "clips=0: expected at least 1, or None for all"),
        (-1, ValueError, "clips=-1"),
        (2.0, TypeError, "whole number or None for all, not 2.0"),
        (True, TypeError, "not True"),
    ],
)
def test_a_number_of_clips_that_makes_no_sense_is_refused(tiny_esc50, clips, error, message):
    for data in (tiny_esc50, "synthetic"):
        with pytest.raises(error, match=message):
            open_dataset(data, clips=clips)


def test_the_synthetic_set_has_no_subset():
    with pytest.raises(ValueError, match="no subset 'esc10'"):
        open_dataset("synthetic", subset="esc10")
