"""Sound files in one folder per class."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import soundfile
import torch

from audiointerp.dataset import ESC50Dataset, FolderDataset, load_audio
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.files import hashed_fold

TINY = {"sample_rate": 8000, "duration": 1.0}
CLASSES = ["dog/1.wav", "dog/2.wav", "cat/1.wav", "rain/a/b/1.wav"]
SPLITS = ["train/dog/1.wav", "train/cat/1.wav", "test/dog/1.wav", "test/rain/1.wav"]


class TestFolderPerClass:
    def test_folders_are_classes_in_alphabetical_order(self, write_tones):
        root = write_tones("set", CLASSES)
        data = FolderDataset(root, **TINY)
        assert data.classes == ("cat", "dog", "rain")
        assert data.clip_ids == ["cat__1.wav", "dog__1.wav", "dog__2.wav", "rain__a__b__1.wav"]
        assert data.labels == [0, 1, 1, 2]
        assert [path.relative_to(root).as_posix() for path in data.paths] == sorted(CLASSES)
        assert torch.equal(data[3].waveform, load_audio(root / CLASSES[3], 8000, 1.0)[0])

    def test_folds_are_drawn_by_the_path(self, write_tones):
        names = [f"{kind}/{number}.wav" for kind in ("dog", "cat") for number in range(12)]
        root = write_tones("set", names)
        data = FolderDataset(root, **TINY)
        paths = [path.relative_to(root).as_posix() for path in data.paths]
        assert data.folds == [hashed_fold(path, 5) for path in paths]
        three = FolderDataset(root, 2, num_folds=3, **TINY)
        assert three.paths == [root / path for path in paths if hashed_fold(path, 3) == 2]
        assert three.classes == data.classes

    def test_a_fold_may_hold_no_clip(self, write_tones):
        root = write_tones("set", ["dog/1.wav", "cat/1.wav"])  # folds 1 and 3
        assert FolderDataset(root, [1, 2]).clip_ids == ["dog__1.wav"]
        with pytest.raises(ValueError, match="no clip is in fold 2, 4; the 2 clips are in 1, 3"):
            FolderDataset(root, [2, 4])
        with pytest.raises(ValueError, match="unknown fold 6: choose from 1, 2, 3, 4, 5"):
            FolderDataset(root, 6)

    def test_a_fold_does_not_depend_on_other_files_or_the_place(self, write_tones):
        few = FolderDataset(write_tones("few", CLASSES))
        many = FolderDataset(write_tones("many", ["ape/1.wav", "dog/0.wav", *CLASSES]))
        folds = dict(zip(many.clip_ids, many.folds, strict=True))
        assert [folds[clip] for clip in few.clip_ids] == few.folds

    @pytest.mark.parametrize("ending", [".WAV", *EXTENSIONS])
    def test_every_kind_of_file_counts(self, tmp_path, tone, ending):
        (tmp_path / "dog").mkdir()
        kind = {".opus": "OGG", ".oga": "OGG", ".aif": "AIFF", ".aifc": "AIFF", ".snd": "AU"}
        kind |= {".wave": "WAV", ".WAV": "WAV"}
        soundfile.write(tmp_path / "dog" / f"1{ending}", tone(440), 8000, format=kind.get(ending))
        data = FolderDataset(tmp_path, **TINY)
        assert data.clip_ids == [f"dog__1{ending}"]
        assert data[0].waveform.shape == (1, 8000)

    def test_what_is_hidden_and_other_files_do_not_count(self, write_tones, recwarn):
        hidden = [".trash/1.wav", "__MACOSX/1.wav", "@eaDir/1.wav", "dog/._1.wav"]
        root = write_tones("set", [*CLASSES, *hidden])
        for name in ("notes.txt", "Thumbs.db", "desktop.ini", ".DS_Store", "1.wav~", "1.wav.bak"):
            (root / "dog" / name).write_text("barks")
        (root / "empty").mkdir()
        assert FolderDataset(root).classes == ("cat", "dog", "rain")
        assert not recwarn

    def test_a_backup_of_a_class_is_no_class_and_is_reported(self, write_tones):
        root = write_tones("set", [*CLASSES, "dog.bak/1.wav", "dog~/1.wav", "dog.bak/2.wav"])
        with pytest.warns(UserWarning, match=r"left out: 3 in backups of folders \(dog.bak, dog~"):
            data = FolderDataset(root)
        assert data.classes == ("cat", "dog", "rain")

    def test_a_folder_with_nothing_but_what_is_ignored_says_so(self, write_tones):
        root = write_tones("set", ["dog/._1.wav", "__MACOSX/dog/1.wav"])
        words = r"no sound files in folders of classes.*hidden files.* are ignored, such as '\._1"
        with pytest.raises(FileNotFoundError, match=words):
            FolderDataset(root)

    def test_sounds_that_cannot_be_used_are_reported(self, write_tones):
        root = write_tones("set", [*CLASSES, "loose.wav"])
        for name in ("dog/a.m4a", "cat/b.M4A", "c.wma"):
            (root / name).touch()
        words = r"left out: 2 that end in \.m4a, which is not read; 1 that end in \.wma.*1 that"
        with pytest.warns(UserWarning, match=words):
            assert len(FolderDataset(root)) == 4

    def test_links_are_followed_but_not_in_circles(self, write_tones):
        root = write_tones("set", CLASSES)
        elsewhere = write_tones("elsewhere", ["1.wav"])
        os.symlink(elsewhere, root / "frog")
        os.symlink(root, root / "dog" / "all")
        assert FolderDataset(root).classes == ("cat", "dog", "frog", "rain")
        assert len(FolderDataset(root)) == 5


class TestSplits:
    def test_folders_named_like_splits_are_splits(self, write_tones):
        data = FolderDataset(write_tones("set", SPLITS), **TINY)
        assert data.classes == ("cat", "dog", "rain")
        assert data.folds == ["test", "test", "train", "train"]
        assert data.clip_ids[0] == "test__dog__1.wav"
        assert "folds test, train" in repr(data)
        assert data.settings()["folds"] == ["test", "train"]

    def test_a_split_is_taken_by_its_name(self, write_tones):
        data = FolderDataset(write_tones("set", SPLITS), "test", **TINY)
        assert data.clip_ids == ["test__dog__1.wav", "test__rain__1.wav"]
        assert data.labels == [1, 2]
        with pytest.raises(ValueError, match=r"unknown fold 'tset': choose from test, train$"):
            FolderDataset(write_tones("set", SPLITS), "tset")
        with pytest.raises(ValueError, match=r"unknown fold 1, 2: choose from test, train$"):
            FolderDataset(write_tones("set", SPLITS), [1, 2])

    def test_folders_of_folds_have_numbers(self, write_tones):
        root = write_tones("set", ["fold1/dog/1.wav", "fold2/dog/1.wav", "fold10/cat/1.wav"])
        assert FolderDataset(root).folds == [1, 10, 2]
        assert FolderDataset(root, 10).clip_ids == ["fold10__cat__1.wav"]

    def test_a_class_called_train_is_a_class(self, write_tones):
        root = write_tones("set", ["train/1.wav", "train/wheels/2.wav", "ship/1.wav"])
        assert FolderDataset(root).classes == ("ship", "train")

    def test_what_could_be_both_has_to_be_said(self, write_tones):
        root = write_tones("set", ["train/wheels/1.wav", "ship/1.wav"])
        with pytest.raises(ValueError, match=r"train may be splits.*ship cannot: say splits=False"):
            FolderDataset(root)
        assert FolderDataset(root, splits=False).classes == ("ship", "train")

    def test_any_names_can_be_splits(self, write_tones):
        root = write_tones("set", ["north/dog/1.wav", "south/cat/1.wav", "south/loose.wav"])
        with pytest.warns(UserWarning, match="1 that are in no folder of a class"):
            data = FolderDataset(root, splits=True)
        assert (data.folds, data.classes) == (["north", "south"], ("cat", "dog"))


class TestBadInput:
    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such folder; expected one folder per"):
            FolderDataset(tmp_path / "no")

    def test_no_sounds_in_folders(self, write_tones):
        root = write_tones("set", ["1.wav"])
        (root / "dog").mkdir()
        with pytest.raises(FileNotFoundError, match=r"no sound files in folders of classes.*\.mp3"):
            FolderDataset(root)

    @pytest.mark.parametrize(
        ("number", "kind"), [(1, ValueError), (0, ValueError), (2.0, TypeError)]
    )
    def test_number_of_folds(self, write_tones, number, kind):
        with pytest.raises(kind, match="num_folds"):
            FolderDataset(write_tones("set", CLASSES), num_folds=number)

    def test_a_misspelt_option(self, write_tones):
        with pytest.raises(TypeError, match="durration"):
            FolderDataset(write_tones("set", CLASSES), durration=1.0)


def test_settings_tell_sets_apart(write_tones):
    root = write_tones("set", CLASSES)
    before = FolderDataset(root, clips=2).settings()
    assert before == FolderDataset(root, clips=3).settings() | {"clips": 2}
    write_tones("set", ["dog/3.wav"])
    assert FolderDataset(root).settings()["clips_sha256"] != before["clips_sha256"]


@pytest.mark.filterwarnings("ignore::audiointerp.dataset.TruncationWarning")
def test_real_clips_are_those_of_esc50(real_data, tmp_path):
    esc10 = ESC50Dataset(real_data / "esc10", 5, subset="esc10", clips=20)
    for path, label in zip(esc10.paths, esc10.labels, strict=True):
        (tmp_path / esc10.classes[label]).mkdir(exist_ok=True)
        os.symlink(path, tmp_path / esc10.classes[label] / path.name)
    data = FolderDataset(tmp_path)
    places = {Path(path).name: place for place, path in enumerate(data.paths)}
    assert len(data) == len(esc10)
    for path, clip in zip(esc10.paths, esc10, strict=True):
        same = data[places[path.name]]
        assert torch.equal(same.waveform, clip.waveform)
        assert data.classes[same.label] == esc10.classes[clip.label]
