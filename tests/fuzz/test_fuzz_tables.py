"""Damaged tables: a set with rows that are in bounds, or an error that names the table."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mutants import mutants

from audiointerp.dataset import (
    AudioSetDataset,
    ESC50Dataset,
    TableDataset,
    TableError,
    UrbanSound8KDataset,
)
from audiointerp.model.classes import read_classes

COUNT = 400
ROWS = [(f"{name}{number}.wav", name, number % 3 + 1) for number in range(6) for name in ("a", "b")]


def write_sounds(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, _ in ROWS:
        soundfile.write(folder / name, np.full(400, 0.1), 8000)


def text_table(delimiter):
    lines = (
        ["path", "label", "fold", "on", "off"],
        *([path, label, str(fold), "0.01", "0.04"] for path, label, fold in ROWS),
    )
    return "\n".join(delimiter.join(line) for line in lines).encode()


def parquet_table():
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "path": [path for path, _, _ in ROWS],
        "tags": [[label, "c"] for _, label, _ in ROWS],
        "fold": [fold for _, _, fold in ROWS],
        "on": [0.01] * len(ROWS),
        "off": [0.04] * len(ROWS),
    }
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


def esc50_table():
    lines = [f"{path},{fold},{'ab'.index(name)},{name},True" for path, name, fold in ROWS]
    return "\n".join(["filename,fold,target,category,esc10", *lines]).encode()


def urbansound_table():
    lines = [f"{path},0,1,{fold},{'ab'.index(name)},{name}" for path, name, fold in ROWS]
    return "\n".join(["slice_file_name,start,end,fold,classID,class", *lines]).encode()


def audioset_table():
    lines = [f'{Path(path).stem}, 30.000, 40.000, "/m/09x0r,/m/068hy"' for path, _, _ in ROWS]
    return "\n".join(["# a comment", "# YTID, start_seconds, end_seconds", *lines]).encode()


def open_esc50(root):
    return ESC50Dataset(root, subset="esc10", sample_rate=8000)


PARTS = {"start": "on", "end": "off", "sample_rate": 8000}
LAYOUTS = {
    "meta.csv": (lambda: text_table(","), ".", lambda r: TableDataset(r / "meta.csv", **PARTS)),
    "meta.tsv": (lambda: text_table("\t"), ".", lambda r: TableDataset(r / "meta.tsv", **PARTS)),
    "meta.parquet": (
        parquet_table,
        ".",
        lambda root: TableDataset(root / "meta.parquet", labels="tags", **PARTS),
    ),
    "meta/esc50.csv": (esc50_table, "audio", open_esc50),
    "metadata/UrbanSound8K.csv": (urbansound_table, "audio/fold*", UrbanSound8KDataset),
    "eval_segments.csv": (audioset_table, "sounds", AudioSetDataset),
}


def check_set(data, root):
    assert len(data) == len(data.clip_ids) == len(set(data.clip_ids)) > 0
    for path, start, end in zip(data.paths, data.starts, data.ends, strict=True):
        assert path.resolve().is_relative_to(root.resolve())
        assert math.isfinite(start)
        assert start >= 0
        assert end is None or start < end < math.inf
    for labels in data.label_sets:
        assert all(0 <= label < len(data.classes) for label in labels)
    json.dumps(data.settings(), allow_nan=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_damaged_table_gives_a_set_in_bounds_or_an_error_that_names_it(
    name, tmp_path, limited_memory
):
    make, sounds, read = LAYOUTS[name]
    content, table, messages = make(), tmp_path / name, []
    for folder in (1, 2, 3) if "*" in sounds else ("",):
        write_sounds(tmp_path / sounds.replace("*", str(folder)))
    table.parent.mkdir(exist_ok=True)
    table.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of AudioSet's clips that are not there
        check_set(read(tmp_path), tmp_path)
        with limited_memory(2**29):
            for damaged in mutants(content, count=COUNT, seed=len(name)):
                table.write_bytes(damaged)
                try:
                    data = read(tmp_path)
                except (ValueError, FileNotFoundError) as error:
                    messages.append(str(error))
                else:
                    check_set(data, tmp_path)
    assert messages
    assert [said for said in messages if str(tmp_path) not in said or len(said) > 3000] == []


@pytest.mark.parametrize("ending", ["txt", "csv", "json"])
def test_a_damaged_file_of_class_names_gives_names_or_an_error_that_names_it(ending, tmp_path):
    file = tmp_path / f"classes.{ending}"
    names = [f"class {number}" for number in range(9)]
    contents = {
        "txt": "\n".join(names),
        "csv": "\n".join(["index,name", *(f"{n},{name}" for n, name in enumerate(names))]),
        "json": json.dumps(dict(enumerate(names))),
    }
    for damaged in mutants(contents[ending].encode(), count=COUNT):
        file.write_bytes(damaged)
        try:
            found = read_classes(file)
        except ValueError:
            continue
        assert len(set(found)) == len(found) > 0


HOSTILE = {
    "a long cell": f"path,label\na0.wav,{'x' * 200_000}\n",
    "a NUL": "path,label\na0.wav,do\0g\n",
    "a huge time": "path,label,on\na0.wav,a,1e999\n",
    "no number": "path,label,on\na0.wav,a,nan\n",
    "a number with a separator": "path,label,on\na0.wav,a,1_0\n",
    "a path outside": "path,label\n../../x.wav,a\n",
    "an absolute path": "path,label\n/etc/hostname,a\n",
    "a drive": "path,label\nC:\\x.wav,a\n",
    "the folder itself": "path,label\n.,a\n",
    "a quote that is not closed": 'path,label\na0.wav,"a\nb0.wav,b\n',
    "two columns of a name": "path,label,label\na0.wav,a,b\n",
    "a missing cell": "path,label\na0.wav\n",
    "nothing": "",
    "only a NUL": "\0",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_table_is_refused_by_name(case, tmp_path):
    write_sounds(tmp_path)
    table = tmp_path / "meta.csv"
    table.write_text(HOSTILE[case], encoding="utf-8")
    options = {"start": "on"} if ",on" in HOSTILE[case] else {}
    with pytest.raises(TableError, match=r"meta\.csv") as caught:
        TableDataset(table, **options)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("digits", [19, 400, 5000])
def test_numbers_of_any_length_are_read_as_names_or_refused(digits, tmp_path):
    write_sounds(tmp_path)
    number = "9" * digits
    table = tmp_path / "meta.csv"
    table.write_text(f"path,label,fold\na0.wav,{number},{number}\n", encoding="utf-8")
    data = TableDataset(table)
    assert (data.classes, data.folds) == ((number,), [number])
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    esc50 = tmp_path / "meta" / "esc50.csv"
    esc50.write_text(f"filename,fold,target,category\na.wav,{number},0,a\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"line 2, column 'fold': .* at most 18 digits"):
        ESC50Dataset(tmp_path)
