"""Opening a set by what it is called, and taking some of its clips, as many of every class."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.dataset import (
    LAYOUTS,
    AudioSetDataset,
    ClipDataset,
    ESC50Dataset,
    FolderDataset,
    SyntheticDataset,
    TableDataset,
    UrbanSound8KDataset,
    load_audio,
    open_dataset,
)
from audiointerp.dataset.base import choose_clips, parse_fold, rarest_labels
from audiointerp.dataset.choose import Layout

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


@given(st.lists(st.sets(st.integers(0, 4)), max_size=30), st.integers(1, 29))
def test_clips_of_several_classes_count_for_their_rarest(label_sets, clips):
    counts = Counter(label for labels in label_sets for label in labels)
    rarest = rarest_labels(label_sets)
    for label, labels in zip(rarest, label_sets, strict=True):
        if labels:
            assert counts[label] == min(counts[each] for each in labels)
        else:
            assert label == -1
    last = [label if label >= 0 else 9 for label in rarest]
    assert choose_clips(label_sets, clips) == deal(last, clips)


@pytest.mark.parametrize(
    ("text", "fold"),
    [("5", 5), (" 5.0 ", 5), ("007", 7), ("test", "test"), (" dev set ", "dev set"), ("-1", "-1")],
)
def test_a_fold_is_a_number_or_a_name(text, fold):
    assert parse_fold(text) == fold


@pytest.fixture
def roots(tiny_esc50, write_tones):
    """Return a folder of every layout, by the layout's name."""
    roots = {
        "esc50": tiny_esc50,
        "urbansound8k": write_tones("us8k", ["audio/fold1/1-3.wav"]),
        "audioset": write_tones("audioset", ["eval/--4gqARaEJE.wav"]),
        "folder": write_tones("folders", ["dog/1.wav", "cat/1.wav"]),
    }
    (roots["urbansound8k"] / "metadata").mkdir()
    (roots["urbansound8k"] / "metadata" / "UrbanSound8K.csv").write_text(
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n1-3.wav,1,0,1,1,1,3,dog\n"
    )
    (roots["audioset"] / "eval_segments.csv").write_text(
        '# YTID, ...\n--4gqARaEJE, 0.000, 10.000, "/m/0bt9lr"\n'
    )
    return roots


class TestFolders:
    def test_every_layout_is_tested(self, roots):
        assert roots.keys() == LAYOUTS.keys()

    @pytest.mark.parametrize(
        ("layout", "kind"),
        [
            ("esc50", ESC50Dataset),
            ("urbansound8k", UrbanSound8KDataset),
            ("audioset", AudioSetDataset),
            ("folder", FolderDataset),
        ],
    )
    def test_each_is_recognised(self, roots, layout, kind):
        for data in (roots[layout], str(roots[layout]), f"{roots[layout]}?layout={layout}"):
            opened = open_dataset(data, folds=None, clips=5, **TINY)
            assert type(opened) is kind
            assert opened[0].waveform.shape == (1, 8000)
            assert len(opened) == len(open_dataset(data, window_hop=0.5, clips=5, **TINY))

    def test_a_folder_that_looks_like_two_is_refused(self, roots):
        root = roots["esc50"]
        (root / "eval_segments.csv").touch()
        with pytest.raises(
            ValueError, match=r"could be esc50 or audioset.*say which, layout='esc50'"
        ):
            open_dataset(root)
        assert type(open_dataset(root, layout="esc50")) is ESC50Dataset
        assert type(open_dataset(f"{root}?layout=esc50")) is ESC50Dataset

    def test_a_folder_that_is_nothing_is_refused(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="no set is recognised") as caught:
            open_dataset(tmp_path / "empty")
        for layout in LAYOUTS.values():
            assert layout.looked_for in str(caught.value)

    @pytest.mark.parametrize("place", [".", "esc50/audio"])
    def test_a_folder_above_or_inside_says_which_was_meant(self, tmp_path, tiny_esc50, place):
        with pytest.raises(FileNotFoundError, match=f"did you mean {re.escape(str(tiny_esc50))}"):
            open_dataset(tmp_path / place)

    def test_nothing_of_that_name(self, tmp_path):
        for data in (tmp_path / "no", tmp_path / "no.csv", "synthetik"):
            with pytest.raises(FileNotFoundError, match="no such folder or table"):
                open_dataset(data)

    def test_an_unknown_layout(self, roots):
        with pytest.raises(ValueError, match="unknown layout of a set 'esc': choose from esc50"):
            open_dataset(roots["esc50"], layout="esc")

    def test_a_new_layout_is_one_record(self, tmp_path, monkeypatch):
        class Beeps(ClipDataset):
            def __init__(self, root, **options):
                super().__init__(
                    clip_ids=["beep"], labels=[0], folds=[1], classes=["beep"], **options
                )

            def _decode(self, index):
                return torch.sin(torch.arange(self.num_samples, dtype=torch.float32))[None]

            def _source(self, index):
                return "beep"

        (tmp_path / "beeps.txt").touch()
        record = Layout("beeps.txt", lambda root: (root / "beeps.txt").is_file(), Beeps)
        monkeypatch.setitem(LAYOUTS, "beeps", record)
        beeps = open_dataset(tmp_path, **TINY, normalize=False)
        assert type(beeps) is Beeps
        assert torch.equal(beeps[0].waveform, torch.sin(torch.arange(8000.0))[None])

    def test_a_subset_is_esc50s(self, roots, tiny_esc50):
        assert open_dataset(tiny_esc50, subset="esc10", **TINY).classes == ("dog", "rain")
        with pytest.raises(ValueError, match=r"\(FolderDataset\) has no subset 'esc10'"):
            open_dataset(roots["folder"], subset="esc10")


class TestTables:
    @pytest.fixture
    def table(self, write_tones):
        root = write_tones("set", ["clips & more/a.wav", "clips & more/b.wav"])
        (root / "m.csv").write_text("file,tags,when\na.wav,dog|cat,test\nb.wav,dog,train\n")
        return root / "m.csv"

    QUERY = "path=file&labels=tags&separator=|&fold=when&audio=clips+%26+more/"

    def test_columns_follow_a_question_mark(self, table):
        data = open_dataset(f"{table}?{self.QUERY}", folds="test", **TINY)
        assert isinstance(data, TableDataset)
        assert (data.classes, data.label_sets) == (("cat", "dog"), [(0, 1)])
        path = table.parent / "clips & more" / "a.wav"
        assert (data[0].waveform == load_audio(path, 8000, 1.0)[0]).all()

    def test_or_are_arguments(self, table):
        options = {"path": "file", "labels": "tags", "separator": "|", "fold": "when"}
        given = open_dataset(table, audio="clips & more", **options)
        written = open_dataset(f"{table}?{self.QUERY}")
        assert given.settings() == written.settings()

    def test_numbers_and_yes_and_no(self, table, roots):
        data = open_dataset(f"{table}?{self.QUERY}&window_hop=0.25&num_folds=3", **TINY)
        assert data.window_hop == 0.25
        assert open_dataset(f"{roots['folder']}?splits=no&num_folds=2").num_folds == 2

    def test_a_name_with_a_question_mark_is_a_name(self, write_tones):
        root = write_tones("what?", ["dog/1.wav"])
        assert open_dataset(root).clip_ids == ["dog__1.wav"]

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("colour=red", "unknown option 'colour'; choose from audio, path, label, labels, sep"),
            ("layout=folder", "unknown option 'layout'"),
            ("splits=no", "unknown option 'splits'"),
            ("path", "options are written path?name=value&name=value"),
            ("path=a&path=b", "the option 'path' is given twice, as 'a' and as 'b'"),
            ("num_folds=many", "expected a number"),
            ("window_hop=", "expected a number"),
            ("label=x", "no column 'path' (path); its columns are 'file', 'tags', 'when'"),
        ],
    )
    def test_options_that_cannot_be(self, table, query, words):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            open_dataset(f"{table}?{query}")
        assert str(table) in str(caught.value)

    def test_options_of_other_sets(self, roots, table):
        with pytest.raises(ValueError, match="unknown option 'path'; choose from layout, splits"):
            open_dataset(f"{roots['folder']}?path=x")
        with pytest.raises(ValueError, match="expected yes or no"):
            open_dataset(f"{roots['folder']}?splits=maybe")
        with pytest.raises(ValueError, match="unknown option 'seed'; choose from events"):
            open_dataset("synthetic?seed=1")
        with pytest.raises(ValueError, match="layout='folder' is for folders"):
            open_dataset(table, layout="folder")

    def test_given_twice(self, table, roots):
        with pytest.raises(ValueError, match="path is given twice"):
            open_dataset(f"{table}?path=file", path="file")
        with pytest.raises(ValueError, match="layout is given twice"):
            open_dataset(f"{roots['folder']}?layout=folder", layout="folder")

    def test_a_misspelt_argument(self, table):
        with pytest.raises(TypeError, match="durration"):
            open_dataset(f"{table}?{self.QUERY}", durration=1.0)


def test_settings_hold_the_folds_asked_for_whatever_clips_are_taken(tiny_esc50):
    for data in (tiny_esc50, "synthetic"):
        few, all_clips = (
            open_dataset(data, folds=[3, 1], clips=clips, **TINY).settings() for clips in (2, None)
        )
        assert few["folds"] == [1, 3]
        assert few | {"clips": all_clips["clips"]} == all_clips
