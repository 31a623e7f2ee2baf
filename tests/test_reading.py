"""Files that may be damaged or of another kind, and names of files that are no data."""

from __future__ import annotations

import codecs
import os
import subprocess

import numpy as np
import pytest
from numpy.lib import format as npy

from audiointerp.reading import (
    FileError,
    describe_stray,
    is_hidden,
    is_stray,
    read_array,
    read_csv,
    read_json,
    read_text,
    without_stray,
)

HIDDEN = (
    *("._dog.wav", ".DS_Store", ".dog.wav.swp", ".~lock.bin.csv#", "__MACOSX", "Thumbs.db"),
    *("thumbs.db", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "@eaDir"),
)
BACKUPS = ("bin.csv~", "#bin.csv#", "bin.csv.bak", "bin.BAK", "bin.csv.swp", "bin.tmp", "~$bin.csv")
DATA = ("dog.wav", "x.bak.wav", "a~b.wav", "C#.wav", "#1.wav", "~.wav", "tmp", "bak", "bin.csv")


@pytest.mark.parametrize("name", HIDDEN + BACKUPS + DATA)
def test_what_is_no_data_is_told_by_its_name(name):
    assert is_hidden(name) == (name in HIDDEN)
    assert is_stray(name) == (name not in DATA)


def test_stray_files_are_left_out_and_described(tmp_path):
    (tmp_path / "a" / ".hidden").mkdir(parents=True)
    (tmp_path / "a.bak").mkdir()
    for name in ("a/1.csv", "a/._1.csv", "a/1.csv~", "a/.hidden/2.csv", "a.bak/3.csv"):
        (tmp_path / name).touch()
    found = without_stray(tmp_path.rglob("*.csv*"), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/1.csv", "a.bak/3.csv"]
    assert "'._1.csv'" in describe_stray(tmp_path)
    assert describe_stray(tmp_path / "a.bak") == ""


TEXT = "path,label\nä.wav,雨\n"


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_utf8_is_read_with_and_without_its_mark(tmp_path, mark):
    file = tmp_path / "a.csv"
    file.write_bytes(mark + TEXT.replace("\n", "\r\n").encode())
    assert read_text(file) == TEXT.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("encoding", "text", "named"),
    [
        ("latin-1", "path,label\na.wav,Hündin\n", "line 2 .*Windows-1252 or Latin-1: save it as"),
        ("utf-16", TEXT, "text in UTF-16, not UTF-8; save it as .CSV UTF-8. in Excel"),
        ("utf-16-le", TEXT, "text in UTF-16LE, not"),
        ("utf-16-be", TEXT, "text in UTF-16BE, not"),
        ("utf-32", TEXT, "text in UTF-32, not"),
    ],
)
def test_text_of_another_encoding_is_named_and_its_remedy_works(tmp_path, encoding, text, named):
    file = tmp_path / "meta data.csv"
    file.write_bytes(text.encode(encoding))
    with pytest.raises(FileError, match=rf"meta data\.csv: .*{named}") as caught:
        read_text(file)
    command = str(caught.value).split("run: ")[1]
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    if done.returncode == 127:
        pytest.skip("needs iconv")
    assert (tmp_path / "meta data.utf8.csv").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"PK\x03\x04abc\0", r"a workbook"),
        (b"\x1f\x8b\x08\x00abc", "a gzip archive"),
        (b"a,b\nc,\0d\n", "line 2 has a NUL byte"),
    ],
)
def test_what_is_no_text_is_named_without_its_content(tmp_path, content, named):
    file = tmp_path / "meta.csv"
    file.write_bytes(content)
    with pytest.raises(FileError, match=named) as caught:
        read_text(file)
    assert "abc" not in str(caught.value)


def test_folders_pipes_and_devices_are_refused_at_once(tmp_path):
    special = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        special += [tmp_path / "pipe", "/dev/zero"]
    for path in special:
        for read in (read_text, read_json, read_csv, read_array):
            with pytest.raises(FileError, match="a folder, a pipe or a device"):
                read(path)
    with pytest.raises(FileError, match="is missing"):
        read_text(tmp_path / "no")


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": ' * 5000, "[" * 100 + "]" * 100, "1" * 5000, '{"a" 1}', "\ufeff\ufeff"]
)
def test_damaged_json_is_named(tmp_path, text):
    file = tmp_path / "run.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=r"run\.json: is "):
        read_json(file)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a,b\n1,2\n3\n", "line 3: is damaged: has 1 cells, not 2"),
        ("a,b\n1,2,3\n", "line 2: is damaged: has 3 cells, not 2"),
        ("a,a\n1,2\n", "two columns are called 'a'"),
        ('a,b\n1,"2\n3,4\n', "line 3: unexpected end of data"),
        (f"a,b\n1,{'x' * 200_000}\n", "line 2: field larger than field limit"),
        ("", "is empty"),
    ],
)
def test_damaged_csv_is_named(tmp_path, text, named):
    file = tmp_path / "bin.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=rf"bin\.csv.*{named}"):
        read_csv(file)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, dtype, order):
    array = np.asarray(np.random.default_rng(0).random((3, 4)), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy", (3, 4))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.load(tmp_path / "a.npy"))
    found[0, 0] = 1  # writable


def npy_file(path, shape, dtype="<f4", content=b""):
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        file.write(content)


@pytest.mark.parametrize(
    ("shape", "dtype", "content", "named"),
    [
        ((10**12,), "<f4", b"1234", r"its header says \(1000000000000,\) numbers of 4 bytes, 4"),
        ((2**32, 2**32), "<f4", b"", "its header says"),
        ((-1,), "<f4", b"", "its header says"),
        ((2,), "<f4", b"12345", "5 bytes follow"),
        ((1,), ">f4", b"1234", "holds >f4"),
        ((1,), "<i4", b"1234", "holds int32"),
        ((1,), "|O", b"cos\nsystem\n(S'x'\ntR.", "holds object"),
    ],
)
def test_damaged_and_pickled_arrays_are_refused_before_memory_is_taken(
    tmp_path, shape, dtype, content, named
):
    file = tmp_path / "a.npy"
    npy_file(file, shape, dtype, content)
    with pytest.raises(FileError, match=rf"a\.npy: .*{named}"):
        read_array(file)


def test_what_is_no_array_or_has_another_shape_is_refused(tmp_path):
    file = tmp_path / "a.npy"
    for content in (b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00{'descr': " + b"(" * 200):
        file.write_bytes(content)
        with pytest.raises(FileError, match="no array of numpy"):
            read_array(file)
    np.save(file, np.zeros((2, 3)))
    with pytest.raises(FileError, match=r"has the shape \(2, 3\), expected \(3, 2\)"):
        read_array(file, (3, 2))
