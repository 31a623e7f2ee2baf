"""UrbanSound8K and AudioSet, on files of the same form."""

from __future__ import annotations

import csv

import pytest
import torch

from audiointerp.dataset import (
    AudioSetDataset,
    TableError,
    UrbanSound8KDataset,
    audioset_classes,
    load_audio,
)
from audiointerp.dataset.audioset import audioset_numbers

RATE = {"sample_rate": 8000}


class TestUrbanSound8K:
    HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
    ROWS = (
        "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n"
        "100263-2-0-117.wav,100263,58.5,62.5,1,1,2,children_playing\n"
        "100648-1-0-0.wav,100648,4.823402,5.471927,2,10,1,car_horn\n"
    )

    @pytest.fixture
    def root(self, write_tones):
        names = ["fold5/100032-3-0-0.wav", "fold1/100263-2-0-117.wav", "fold10/100648-1-0-0.wav"]
        root = write_tones("us8k", {f"audio/{name}": 2.0 for name in names})
        (root / "metadata").mkdir()
        (root / "metadata" / "UrbanSound8K.csv").write_text(self.HEADER + self.ROWS)
        return root

    def test_clips_folds_and_classes_are_the_table_s(self, root):
        data = UrbanSound8KDataset(root, **RATE)
        assert data.clip_ids == ["100032-3-0-0", "100263-2-0-117", "100648-1-0-0"]
        assert data.folds == [5, 1, 10]
        assert data.classes == ("car_horn", "children_playing", "dog_bark")
        assert data.labels == [2, 1, 0]

    def test_start_and_end_do_not_cut(self, root):
        data = UrbanSound8KDataset(root, 1, **RATE)
        assert data.duration == 4.0
        assert data.classes == ("car_horn", "children_playing", "dog_bark")
        assert data.labels == [1]
        path = root / "audio" / "fold1" / "100263-2-0-117.wav"
        assert torch.equal(data[0].waveform, load_audio(path, 8000, 4.0)[0])

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("classID", "klass", "no column classID; its columns are"),
            (",5,3,", ",five,3,", "line 2, column 'fold': 'five' is not a whole number"),
            (
                ",3,dog_bark",
                ",2,dog_bark",
                "line 3, column 'class': class 2 is 'children_playing'",
            ),
            (",3,dog_bark", ",3,car_horn", "a class has two numbers"),
        ],
    )
    def test_another_table_is_refused(self, root, old, new, words):
        table = root / "metadata" / "UrbanSound8K.csv"
        table.write_text(table.read_text().replace(old, new))
        with pytest.raises(TableError) as caught:
            UrbanSound8KDataset(root)
        assert words in str(caught.value)
        assert str(table) in str(caught.value)


class TestClassesOfAudioSet:
    def test_they_are_those_published(self, real_data):
        with (real_data / "audioset" / "class_labels_indices.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(audioset_classes()) == [row["display_name"] for row in rows]
        assert audioset_numbers() == {row["mid"]: int(row["index"]) for row in rows}

    def test_some_of_them(self):
        classes = audioset_classes()
        assert len(set(classes)) == 527
        assert (classes[0], classes[74], classes[526]) == ("Speech", "Dog", "Field recording")
        assert audioset_numbers()["/m/0bt9lr"] == 74


class TestAudioSet:
    HEADER = (
        "# Segments csv created Sun Mar  5 10:54:25 2017\n"
        "# num_ytids=4, num_segs=4, num_unique_labels=4, num_positive_labels=7\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    EVAL = (
        '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"\n'
        '--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"\n'
        '-0DLPzsiXXE, 30.500, 40.500, "/m/04rlf,/m/07qwdck"\n'
        '-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"\n'
    )
    BALANCED = '-BCBpAHGuNU, 10.000, 20.000, "/m/09x0r"\n'
    SOUNDS = (
        "audio/--4gqARaEJE.wav",
        "audio/eval/part00/Y--BfvyPmVMo.flac",
        "audio/-0DLPzsiXXE_30500.wav",
        "more/Y-BCBpAHGuNU_10.000.wav",
        "more/not one of them.wav",
    )

    @pytest.fixture
    def root(self, write_tones):
        root = write_tones("audioset", {name: 1.0 for name in self.SOUNDS})
        (root / "eval_segments.csv").write_text(self.HEADER + self.EVAL)
        (root / "metadata").mkdir()
        table = root / "metadata" / "balanced_train_segments.csv"
        table.write_text(self.HEADER + self.BALANCED)
        return root

    def test_clips_are_those_that_are_there(self, root):
        words = "1 of the 5 clips of balanced_train, eval have no sound file there and are left out"
        with pytest.warns(UserWarning, match=words):
            data = AudioSetDataset(root, **RATE)
        assert data.missing == 1
        assert data.clip_ids == [
            "-BCBpAHGuNU_10",
            "--4gqARaEJE_0",
            "--BfvyPmVMo_20",
            "-0DLPzsiXXE_30.5",
        ]
        assert data.folds == ["balanced_train", "eval", "eval", "eval"]
        assert {path.relative_to(root).as_posix() for path in data.paths} == set(self.SOUNDS[:4])
        assert data.multi_label
        assert data.classes == audioset_classes()
        assert [[data.classes[label] for label in labels] for labels in data.label_sets] == [
            ["Speech"],
            ["Animal", "Domestic animals, pets", "Dog", "Squeak"],
            ["Hammer"],
            ["Music", "Ping"],
        ]

    def test_they_are_not_cut_by_the_times(self, root):
        data = AudioSetDataset(root, "balanced_train", **RATE)
        clip = data[0]
        assert clip.waveform.shape == (1, 80_000)
        assert torch.equal(clip.waveform, load_audio(data.paths[0], 8000, 10.0)[0])
        assert clip.label.shape == (527,)
        assert clip.label.nonzero().flatten().tolist() == [0]

    @pytest.mark.parametrize("prefix", ["", "Y"])
    @pytest.mark.parametrize("time", ["", "_420", "_420.0", "_420.000", "_420000"])
    def test_a_file_may_name_the_second_it_begins_at(
        self, root, write_tones, prefix, time, recwarn
    ):
        write_tones("audioset", [f"audio/{prefix}-0RWZT-miFs{time}.mp3"])
        assert AudioSetDataset(root, "eval").missing == 0
        assert not recwarn

    def test_two_files_of_one_clip_are_refused(self, root, write_tones):
        write_tones("audioset", ["more/Y--4gqARaEJE.wav"])
        with pytest.raises(ValueError, match=r"are both the clip --4gqARaEJE_0: keep one"):
            AudioSetDataset(root)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('x, 0.0, 10.0, "/m/nothing"', "line 8, positive_labels: '/m/nothing' is none of"),
            ("x, 0.0, 10.0, /m/09x0r,/m/068hy", "line 8: expected YTID, start_seconds"),
            ('x, soon, 10.0, "/m/09x0r"', "line 8: expected YTID, start_seconds"),
            ('--4gqARaEJE, 0, 10, "/m/09x0r"', "line 8: lists the clip --4gqARaEJE_0 again"),
        ],
    )
    def test_a_line_that_cannot_be_read_is_named(self, root, line, words):
        table = root / "eval_segments.csv"
        table.write_text(f"{table.read_text()}{line}\n")
        with pytest.raises(TableError) as caught:
            AudioSetDataset(root)
        assert f"{table}, {words}" in str(caught.value)

    def test_no_sounds_and_no_table(self, root, tmp_path):
        for path in root.rglob("*.*"):
            if path.suffix in (".wav", ".flac"):
                path.unlink()
        with pytest.raises(FileNotFoundError, match="none of the 4 clips of eval"):
            AudioSetDataset(root, "eval")
        with pytest.raises(FileNotFoundError, match=r"no table of AudioSet: .*eval_segments\.csv"):
            AudioSetDataset(tmp_path)
        with pytest.raises(ValueError, match="unknown fold 'test': choose from balanced_train, "):
            AudioSetDataset(root, "test")
