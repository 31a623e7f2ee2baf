"""Clips that a table lists: columns, parts of files, several labels, errors that say where."""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from audiointerp.dataset import (
    AudioError,
    ESC50Dataset,
    TableDataset,
    TableError,
    TruncationWarning,
    load_audio,
    open_dataset,
)
from audiointerp.dataset.files import hashed_fold

TINY = {"sample_rate": 8000, "duration": 3.0}
SHORT = {"sample_rate": 8000, "duration": 1.0}
LISTED = {"labels": "tags", "separator": ";"}


@pytest.fixture
def make(write_tones):
    """Return a maker of a table beside the sound files a, b, c (.wav, 3 s each)."""

    def write(text: str, name: str = "meta.csv"):
        root = write_tones("set", {"a.wav": 3.0, "b.wav": 3.0, "c.wav": 3.0})
        (root / name).write_text(text, encoding="utf-8")
        return root / name

    return write


class TestColumns:
    def test_by_default_path_label_and_fold(self, make):
        data = TableDataset(make("path,label,fold\na.wav,dog,1\nb.wav,cat,2\nc.wav,dog,2\n"))
        assert data.classes == ("cat", "dog")
        assert data.labels == [1, 0, 1]
        assert data.folds == [1, 2, 2]
        assert data.clip_ids == ["a.wav", "b.wav", "c.wav"]

    def test_of_any_name_and_order(self, make):
        table = make("what,when,file name\ndog,test,a.wav\ncat,train,b.wav\n")
        data = TableDataset(table, "test", path="file name", label="what", fold="when", **TINY)
        assert (data.clip_ids, data.folds, data.classes) == (["a.wav"], ["test"], ("cat", "dog"))
        assert data[0].label == 1
        assert torch.equal(data[0].waveform, load_audio(table.parent / "a.wav", 8000, 3.0)[0])

    @pytest.mark.parametrize(
        ("name", "delimiter", "text"),
        [
            ("m.csv", None, "path,label\r\na.wav,dog\r\n\r\nb.wav,cat\r\n"),
            ("m.CSV", None, '\ufeff"path","label"\n"a.wav","dog"\nb.wav, cat'),
            ("m.tsv", None, "path\tlabel\na.wav\tdog\nb.wav\tcat\n"),
            ("m.csv", ";", "path;label\na.wav;dog\nb.wav;cat\n"),
            ("m.txt", "|", "path | label\na.wav | dog\nb.wav | cat\n"),
        ],
    )
    def test_of_any_text(self, make, name, delimiter, text):
        data = TableDataset(make(text, name), delimiter=delimiter)
        assert (data.clip_ids, data.labels) == (["a.wav", "b.wav"], [1, 0])

    def test_of_parquet(self, make, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        root = make("").parent
        rows = {
            "path": ["a.wav", "a.wav", "b.wav"],
            "tags": [["dog", "cat, big"], [], ["cat, big"]],
            "fold": [1, 2, 2],
            "from": [0.0, 1.5, None],
            "audio": [b"x" * 10] * 3,
        }
        parquet.write_table(pyarrow.table(rows), root / "m.parquet")
        data = TableDataset(root / "m.parquet", labels="tags", start="from", **SHORT)
        assert data.classes == ("cat, big", "dog")
        assert data.label_sets == [(0, 1), (), (0,)]
        assert (data.folds, data.starts, data.ends) == ([1, 2, 2], [0, 1.5, 0], [1, 2.5, 1])
        with pytest.raises(
            TableError, match=r"no column 'label' \(label\); its columns are 'path'"
        ):
            TableDataset(root / "m.parquet")
        with pytest.raises(TableError, match=r"m\.parquet, row 3, column 'from': is empty"):
            TableDataset(root / "m.parquet", label="from")

    def test_numbers_as_names_keep_their_order(self, make):
        data = TableDataset(make("path,label\na.wav,10\nb.wav,9\nc.wav,10\n"))
        assert (data.classes, data.labels) == (("9", "10"), [1, 0, 1])

    def test_classes_can_be_given(self, make):
        table = make("path,label\na.wav,dog\nb.wav,cat\n")
        data = TableDataset(table, classes=["rain", "dog", "cat"])
        assert (data.classes, data.labels) == (("rain", "dog", "cat"), [1, 2])

    def test_classes_do_not_depend_on_the_folds(self, make):
        table = make("path,label,split\na.wav,dog,train\nb.wav,cat,test\n")
        data = TableDataset(table, "train")
        assert (data.classes, data.labels, data.folds) == (("cat", "dog"), [1], ["train"])

    @pytest.mark.parametrize("folds", [3, "3", [3, "test"], "test"])
    def test_folds_may_be_numbers_and_names(self, make, folds):
        table = make("path,label,fold\na.wav,dog,3\nb.wav,cat,test\nc.wav,dog, 3.0\n")
        if folds == "3":
            with pytest.raises(ValueError, match=r"unknown fold '3': choose from 3, test$"):
                TableDataset(table, folds)
        else:
            wanted = folds if isinstance(folds, list) else [folds]
            data = TableDataset(table, folds)
            assert data.folds == [fold for fold in [3, "test", 3] if fold in wanted]

    def test_without_folds_they_are_drawn_by_the_path(self, make):
        table = make("path,label,s\na.wav,dog,0\na.wav,cat,1\nb.wav,dog,0\n./c.wav,dog,0\n")
        data = TableDataset(table, start="s", num_folds=7)
        assert data.folds == [hashed_fold(f"{name}.wav", 7) for name in "aabc"]

    def test_of_fold_and_split_one_has_to_be_named(self, make):
        table = make("path,label,fold,split\na.wav,dog,1,test\n")
        with pytest.raises(TableError, match="say which holds the folds"):
            TableDataset(table)
        assert TableDataset(table, fold="split").folds == ["test"]


class TestPaths:
    def test_start_in_the_table_s_folder_or_the_one_given(self, write_tones):
        root = write_tones("set", ["clips/x/a.wav", "meta/none.wav"])
        table = root / "meta" / "m.csv"
        table.write_text("path,label\nx/a.wav,dog\n")
        for audio in ("../clips", root / "clips", str(root / "clips")):
            data = TableDataset(table, audio=audio, **TINY)
            assert data.clip_ids == ["x__a.wav"]
            assert data[0].waveform.shape == (1, 24000)
        with pytest.raises(FileNotFoundError, match="none of the 1 sound files is there"):
            TableDataset(table)
        with pytest.raises(FileNotFoundError, match=r"clips: no such folder.*starts in the folder"):
            TableDataset(table, audio="clips")

    def test_a_clip_is_called_the_same_however_its_path_is_written(self, make):
        table = make("path,label\na.wav,dog\n")
        (table.parent / "x").mkdir()
        for path in ("a.wav", "./a.wav", "x/../a.wav", f"{table.parent}/a.wav"):
            table.write_text(f"path,label\n{path},dog\n")
            assert TableDataset(table).clip_ids == ["a.wav"]

    def test_an_ending_may_be_missing(self, make):
        data = TableDataset(make("path,label\na,dog\nb.wav,cat\n"), **TINY)
        assert data[0].waveform.shape == (1, 24000)
        assert data.clip_ids == ["a", "b.wav"]

    def test_one_missing_file_leaves_the_others(self, make):
        data = TableDataset(make("path,label\nno.wav,dog\nb.wav,cat\n"), **TINY)
        assert data[1].waveform.shape == (1, 24000)
        with pytest.raises(AudioError, match=r"no\.wav: no such file"):
            data[0]


class TestParts:
    TEXT = "path,label,on,off\na.wav,dog,0.25,0.75\na.wav,cat,1,2.5\nb.wav,dog,,1\nb.wav,dog,2,\n"

    def test_rows_are_parts_of_files(self, make):
        table = make(self.TEXT)
        data = TableDataset(table, start="on", end="off", normalize=False, **SHORT)
        assert data.clip_ids == [
            "a.wav@0.25-0.75",
            "a.wav@1.00-2.50",
            "b.wav@0.00-1.00",
            "b.wav@2.00-",
        ]
        wholes = {
            name: load_audio(table.parent / f"{name}.wav", normalize=False)[0] for name in "ab"
        }
        for place, (name, first, last) in enumerate(
            [("a", 2000, 6000), ("a", 8000, 16000), ("b", 0, 8000), ("b", 16000, 24000)]
        ):
            expected = torch.zeros(1, 8000)
            expected[:, : last - first] = wholes[name][:, first:last]
            with nullcontext() if place != 1 else pytest.warns(TruncationWarning):
                waveform = data[place].waveform
            assert torch.equal(waveform, expected)
        assert data.cut_clips() == {"a.wav@1.00-2.50": 0.5}

    def test_without_an_end_a_clip_is_as_long_as_the_set_says(self, make, recwarn):
        data = TableDataset(make(self.TEXT), start="on", **SHORT)
        assert data.clip_ids[0] == "a.wav@0.25-1.25"
        assert data.ends == [1.25, 2, 1, 3]
        assert all(clip.waveform.shape == (1, 8000) for clip in data)
        assert not recwarn

    def test_a_part_behind_the_file_is_named(self, make):
        table = make("path,label,on,off\na.wav,dog,2.5,3.5\na.wav,cat,0,1\n")
        data = TableDataset(table, start="on", end="off", **TINY)
        with pytest.raises(AudioError, match=r"a\.wav: has no part from 2.5 to 3.5 s, it is 3 s"):
            data[0]
        assert data[1].label == 0

    def test_a_silent_part_is_named(self, make):
        table = make("path,label,on\na.wav,dog,1.5\n")
        data = TableDataset(table, start="on", **SHORT)
        soundfile.write(table.parent / "a.wav", np.r_[np.ones(8000), np.zeros(16000)], 8000)
        with pytest.raises(AudioError, match=r"a\.wav, from 1\.5 s to 2\.5 s: .*silent"):
            data[0]

    def test_the_same_part_twice_is_refused(self, make):
        table = make("path,label,on,off\na.wav,dog,0,1\nb.wav,dog,0,1\n./a.wav,cat,0.0,1.000\n")
        words = r"line 4: is the clip a\.wav@0\.00-1\.00 again, which .*line 2 is"
        with pytest.raises(TableError, match=words):
            TableDataset(table, start="on", end="off")


class TestSeveralLabels:
    TEXT = 'path,tags,fold\na.wav,"dog;""cat; big""; dog",1\nb.wav,,1\nc.wav,rain,2\n'

    @pytest.fixture
    def data(self, make):
        return TableDataset(make(self.TEXT), **LISTED, **TINY)

    def test_names_between_separators_and_in_quotes(self, data):
        assert data.multi_label
        assert data.classes == ("cat; big", "dog", "rain")
        assert data.label_sets == [(0, 1), (), (2,)]

    @pytest.mark.parametrize("separator", [",", "|", "\t", " ", "/"])
    def test_any_character_separates(self, make, separator):
        table = make(f'path,tags\na.wav,"dog{separator}cat"\nb.wav,rain\n')
        data = TableDataset(table, labels="tags", separator=separator)
        assert data.classes == ("cat", "dog", "rain")
        assert data.label_sets == [(0, 1), (2,)]

    def test_a_label_is_one_number_per_class(self, data):
        assert [clip.label.tolist() for clip in data] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
        assert data[0].label.dtype == torch.float32
        (batch,) = DataLoader(data, batch_size=3)
        assert batch.label.shape == (3, 3)
        assert batch.waveform.shape == (3, 1, 24000)

    def test_one_label_per_clip_is_not_to_be_had(self, data):
        with pytest.raises(ValueError, match=r"multi-label set.*use label_sets"):
            _ = data.labels

    def test_it_says_so(self, data):
        assert "3 classes, multi-label, folds 1, 2" in repr(data)
        assert data.settings()["multi_label"] is True

    def test_clips_are_chosen_by_their_rarest_class(self, make):
        rows = ["a,dog", "b,dog;cat", "c,dog;rain", "d,cat;dog", "e,", "f,dog;rain"]
        text = "path,tags,fold\n" + "".join(f"{row.replace(',', '.wav,')},1\n" for row in rows)
        chosen = [
            {clip[0] for clip in TableDataset(make(text), clips=clips, **LISTED).clip_ids}
            for clips in range(1, 7)
        ]
        # cat: b, d; dog: a, the others count for what is rarer; rain: c, f; e has no class.
        assert chosen == [set("bacedf"[:clips]) for clips in range(1, 7)]

    def test_classes_are_needed_where_no_clip_has_one(self, make):
        table = make("path,tags,fold\na.wav,,1\n")
        with pytest.raises(TableError, match="no row has a label"):
            TableDataset(table, **LISTED)
        data = TableDataset(table, classes=["dog"], **LISTED)
        assert data.label_sets == [()]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"labels": "tags"}, "line 2, column 'tags': is text: say what separates"),
            ({"separator": ";"}, "say labels="),
            ({"labels": "tags", "separator": "; "}, "expected one character"),
            ({"labels": "tags", "separator": '"'}, "expected one character"),
            ({"labels": "tags", "label": "tags"}, "name one of the two"),
            (
                {"labels": "tags", "separator": ";", "classes": ["dog", "cat; big"]},
                "line 4.*'rain'",
            ),
        ],
    )
    def test_arguments_that_do_not_fit(self, make, options, words):
        with pytest.raises(ValueError, match=words):
            TableDataset(make(self.TEXT), **options)

    @pytest.mark.parametrize("cell", ["dog;;cat", ";dog", "dog;", '"""dog""s;cat"'])
    def test_an_empty_or_broken_label_is_refused(self, make, cell):
        table = make(f"path,tags\na.wav,dog\nb.wav,{cell}\n")
        with pytest.raises(TableError, match=r"meta\.csv, line 3, column 'tags': "):
            TableDataset(table, **LISTED)


class TestBadTables:
    @pytest.mark.parametrize(
        ("text", "options", "words"),
        [
            ("", {}, "is empty; its first line should name the columns"),
            ("path,label\n", {}, "has no rows; its columns are 'path', 'label'"),
            ("path,label,path\na,b,c\n", {}, "two columns are called 'path'"),
            (
                "file,lable\na.wav,dog\n",
                {"path": "file"},
                "no column 'label' (label); its columns are 'file', 'lable'; did you mean "
                "label='lable'?",
            ),
            ("file,label\na.wav,dog\n", {}, "no column 'path' (path); its columns are 'file'"),
            ("path;label\na.wav;dog\n", {}, "or delimiter=… if that is several columns"),
            ("path,label\na.wav,dog\nb.wav,dog,1\n", {}, "line 3: has 3 cells, the first line 2"),
            ("path,label\na.wav\n", {}, "line 2: has 1 cells, the first line 2"),
            ("path,label\na.wav,dog\n,dog\n", {}, "line 3, column 'path': is empty"),
            ("path,label\na.wav,\n", {}, "line 2, column 'label': is empty"),
            ("path,label,fold\na.wav,dog,\n", {}, "line 2, column 'fold': is empty"),
            (
                "path,label,on\na.wav,dog,0:30\n",
                {"start": "on"},
                "line 2, column 'on': '0:30' is not a number of seconds from 0 on",
            ),
            ("path,label,on\na.wav,dog,-1\n", {"start": "on"}, "'-1' is not a number of seconds"),
            ("path,label,on\na.wav,dog,nan\n", {"start": "on"}, "'nan' is not a number of seconds"),
            (
                "path,label,on,off\na.wav,dog,2,1\n",
                {"start": "on", "end": "off"},
                "line 2, column 'off': 1 s is not after the start, 2 s",
            ),
            (
                "path,label\na.wav,dgo\n",
                {"classes": ["dog"]},
                "'dgo' is not one of the 1 classes; did",
            ),
            ("path,label\na.wav,dog\na.wav,dog\n", {}, "line 3: is the clip a.wav again"),
            ("path,label\na.wav,dog\n", {"fold": "when"}, "no column 'when' (fold)"),
        ],
    )
    def test_errors_name_table_row_and_column(self, make, text, options, words):
        table = make(text)
        with pytest.raises(TableError, match=re.escape(words)) as caught:
            TableDataset(table, **options)
        assert str(table) in str(caught.value)

    def test_two_classes_of_one_name(self, make):
        with pytest.raises(ValueError, match="two classes are called 'dog'"):
            TableDataset(make("path,label\na.wav,dog\n"), classes=["dog", "dog"])

    def test_no_table(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such table"):
            TableDataset(tmp_path / "no.csv")

    def test_another_ending(self, make):
        with pytest.raises(TableError, match=r"ends in \.csv, \.tsv, .*say delimiter"):
            TableDataset(make("path,label\n", "m.xlsx"))

    def test_not_utf8(self, make):
        table = make("path,label\na.wav,dog\n")
        table.write_bytes("path,label\na.wav,Hündin\n".encode("latin-1"))
        words = rf"meta.csv: line 2 .*Latin-1: .*iconv -f WINDOWS-1252 -t UTF-8 .*{table.name} >"
        with pytest.raises(TableError, match=words):
            TableDataset(table)

    def test_not_parquet(self, make):
        pytest.importorskip("pyarrow")
        with pytest.raises(TableError, match=r"m\.parquet: not a Parquet table"):
            TableDataset(make("path,label\n", "m.parquet"))

    def test_parquet_without_pyarrow(self, make, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"m\.parquet: .*pip install pyarrow"):
            TableDataset(make("path,label\n", "m.parquet"))


def test_settings_tell_tables_apart(make):
    table = make("path,label\na.wav,dog\nb.wav,cat\n")
    before = TableDataset(table, clips=1).settings()
    assert before == TableDataset(table).settings() | {"clips": 1}
    table.write_text("path,label\na.wav,cat\nb.wav,dog\n")
    assert TableDataset(table).settings()["clips_sha256"] != before["clips_sha256"]


@pytest.mark.filterwarnings("ignore::audiointerp.dataset.TruncationWarning")
def test_real_clips_are_those_of_esc50(real_data):
    options = {"folds": 3, "clips": 20}
    esc10 = ESC50Dataset(real_data / "esc10", subset="esc10", **options)
    table = real_data / "esc10" / "meta" / "esc50.csv"
    data = TableDataset(table, audio="../audio", path="filename", label="category", folds=3)
    assert data.folds == [3] * 80
    clips = {path.stem: place for place, path in enumerate(data.paths)}
    for name, clip in zip(esc10.clip_ids, esc10, strict=True):
        same = data[clips[name]]
        assert torch.equal(same.waveform, clip.waveform)
        assert data.classes[same.label] == esc10.classes[clip.label]


def test_a_table_may_be_a_link(make):
    table = make("path,label\na.wav,dog\nb.wav,cat\n")
    os.symlink(table, table.parent / "link.csv")
    assert len(TableDataset(table.parent / "link.csv")) == 2


class TestPathsOutside:
    """A table reads files below its folder only, unless another folder is named."""

    @pytest.fixture
    def outside(self, make):
        """Return a table beside sounds, and an absolute path of one in another folder."""
        table = make("path,label\na.wav,dog\n")
        other = table.parent.parent / "other" / "x.wav"
        other.parent.mkdir()
        (table.parent / "a.wav").rename(other)
        return table, other

    def write(self, table, *paths):
        table.write_text("path,label\n" + "".join(f"{path},dog\n" for path in paths), "utf-8")

    @pytest.mark.parametrize("path", ["../other/x.wav", "b/../../other/x.wav", "../../../x.wav"])
    def test_a_path_that_leads_outside_is_refused(self, outside, path):
        table, _ = outside
        self.write(table, "b.wav", path)
        words = rf"line 3, column 'path': '{re.escape(path)}' is not below .*audio=…; audio='/'"
        with pytest.raises(TableError, match=words):
            TableDataset(table)

    def test_absolute_paths_need_the_folder_that_holds_them(self, outside):
        table, other = outside
        self.write(table, other)
        with pytest.raises(TableError, match=r"line 2, column 'path': .*is not below the folder"):
            TableDataset(table)
        for folder in (other.parent, other.parent.parent, "/"):
            assert TableDataset(table, audio=folder).paths[0].samefile(other)
        data = open_dataset(f"{table}?audio={other.parent}")
        assert data.clip_ids == ["x.wav"]

    def test_a_path_below_the_folder_is_the_same_however_it_is_written(self, make, tmp_path):
        table = make("path,label\n")
        for path in ("a.wav", "./a.wav", "b/../a.wav", table.parent / "a.wav"):
            self.write(table, path)
            data = TableDataset(table)
            assert data.clip_ids == ["a.wav"]
            assert data.paths[0].samefile(table.parent / "a.wav")
        (tmp_path / "link").symlink_to(table.parent)
        linked = TableDataset(tmp_path / "link" / table.name)
        assert linked.clip_ids == ["a.wav"]

    def test_links_in_the_folder_are_followed(self, outside):
        table, other = outside
        (table.parent / "more").symlink_to(other.parent)
        self.write(table, "more/x.wav")
        assert TableDataset(table).paths[0].samefile(other)

    @pytest.mark.skipif(os.name == "nt", reason="a drive is none elsewhere")
    @pytest.mark.parametrize("path", [r"C:\sounds\a.wav", "C:/a.wav", ".", "./"])
    def test_a_drive_or_the_folder_itself_is_no_sound_file(self, make, path):
        with pytest.raises(TableError, match="is not below the folder"):
            TableDataset(make(f"path,label\n{path},dog\n"))

    def test_a_name_that_is_too_long_is_a_file_that_is_not_there(self, make):
        data = TableDataset(make(f"path,label\na.wav,dog\n{'x' * 5000}.wav,dog\n"))
        assert len(data) == 2


class TestParquetCells:
    @pytest.mark.parametrize("column", ["label", "path"])
    @pytest.mark.parametrize("value", [b"dog", {"x": 1}, ["dog"]])
    def test_a_cell_that_is_no_text_is_refused(self, make, column, value):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = make("").parent / "m.parquet"
        cells = {"path": ["a.wav"], "label": ["dog"]} | {column: [value]}
        parquet.write_table(pyarrow.table(cells), table)
        with pytest.raises(TableError, match=rf"m\.parquet, row 1, column '{column}': holds a"):
            TableDataset(table)

    def test_a_null_in_a_list_is_an_empty_label(self, make):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = make("").parent / "m.parquet"
        parquet.write_table(pyarrow.table({"path": ["a.wav"], "tags": [["dog", None]]}), table)
        with pytest.raises(TableError, match=r"row 1, column 'tags': an empty label"):
            TableDataset(table, labels="tags")

    def test_two_columns_of_a_name_are_refused(self, make):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = make("").parent / "m.parquet"
        columns = [pyarrow.array([name]) for name in ("a.wav", "dog", "cat")]
        parquet.write_table(pyarrow.Table.from_arrays(columns, ["path", "label", "label"]), table)
        with pytest.raises(TableError, match=r"m\.parquet: two columns are called 'label'"):
            TableDataset(table)
