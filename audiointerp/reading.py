"""Read files that may be damaged or edited by others: text, JSON, CSV, arrays.

Whatever is wrong with a file, the error is a `FileError` that names it and says what to do.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from audiointerp.spreadsheet import unmark

LARGEST_TEXT = 2**30
"""Bytes of the largest file that is read as text."""

_LISTED = 20
"""Names that an error lists."""

DEEPEST_JSON = 32
"""Levels of lists and objects in each other, more than any file of this package has."""

_SYSTEM_NAMES = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir")
)
"""What macOS, Windows and network storage leave in folders, in lower case."""

_BACKUP = re.compile(r"~\$.+|.+~|#.+#|.+\.(bak|swp|swo|tmp)", re.IGNORECASE)
"""Names of backups and locks of editors and office programs."""

_BYTE_ORDER_MARKS = (  # UTF-32's begins with UTF-16's
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_BINARY_KINDS = (
    (b"PK\x03\x04", "a ZIP archive or a workbook (.xlsx, .ods)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PAR1", "a Parquet table"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"%PDF", "a PDF"),
)

Pathlike = str | os.PathLike[str]


class FileError(ValueError):
    """A file that cannot be used; the message names it, what is wrong and what to do."""


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Add what to do to the message of a `FileError` raised within."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{error}; {advice}") from error


def shown(value: object) -> str:
    """Return a value as an error shows it: the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def listed(names: Sequence[str]) -> str:
    """Return names as an error lists them: the first of many."""
    more = f", … ({len(names)})" if len(names) > _LISTED else ""
    return ", ".join(map(shown, names[:_LISTED])) + more


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or left by macOS, Windows or network storage.

    Examples
    --------
    >>> is_hidden("._dog.wav"), is_hidden("Thumbs.db"), is_hidden("dog.wav")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_stray(name: str) -> bool:
    """Return whether a file is no data: hidden, or the backup or lock of an editor.

    Examples
    --------
    >>> is_stray("bin.csv~"), is_stray("~$bin.csv"), is_stray("bin.bak"), is_stray("bin.bak.csv")
    (True, True, True, False)
    """
    return is_hidden(name) or _BACKUP.fullmatch(name) is not None


def without_stray(paths: Iterable[Path], root: Path) -> list[Path]:
    """Return files below a folder, sorted, without stray ones and those in hidden folders."""
    return sorted(
        path
        for path in paths
        if not is_stray(path.name)
        and not any(is_hidden(part) for part in path.relative_to(root).parts[:-1])
    )


def describe_stray(root: Path) -> str:
    """Say which files below a folder are stray, to end an error with; "" if none are."""
    found = [
        name
        for _, folders, files in os.walk(root)
        for name in (*(folder for folder in folders if is_hidden(folder)), *files)
        if is_stray(name)
    ]
    if not found:
        return ""
    example = min(found)
    return (
        f"; {len(found)} hidden files, backups and files of the system are ignored, such as "
        f"{example!r}"
    )


def read_text(path: Pathlike) -> str:
    """Return the content of a file as text.

    Parameters
    ----------
    path : path
        UTF-8, with or without a byte-order mark. Line ends are kept as they are.

    Raises
    ------
    FileError
        If it is missing, a folder, a pipe or a device, larger than 1 GiB, or not text in UTF-8.
    """
    path = _regular(path)
    if path.stat().st_size > LARGEST_TEXT:
        raise FileError(
            f"{path}: has {path.stat().st_size} bytes, too many for text; at most {LARGEST_TEXT} "
            "are read"
        )
    return decode_text(path.read_bytes(), path)


def decode_text(content: bytes, path: Pathlike) -> str:
    """Return text in UTF-8 without its byte-order mark; see `read_text`."""
    encoding = _encoding_with_nulls(content)
    if encoding:
        raise FileError(f"{path}: is text in {encoding}, not UTF-8; {_remedy(path, encoding)}")
    kind = next((kind for magic, kind in _BINARY_KINDS if content.startswith(magic)), None)
    if kind:
        raise FileError(f"{path}: is {kind}, not text; was it renamed?")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise FileError(f"{path}: line {line} has a NUL byte: it is damaged or not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise FileError(
            f"{path}: line {line} is not text in UTF-8; it may be Windows-1252 or Latin-1: "
            f"{_remedy(path, 'WINDOWS-1252')}"
        ) from None


def _regular(path: Pathlike) -> Path:
    path = Path(path)
    if not os.path.isfile(path):
        if not os.path.lexists(path):
            raise FileError(f"{path}: is missing")
        raise FileError(f"{path}: is not a file with content, but a folder, a pipe or a device")
    return path


def _encoding_with_nulls(content: bytes) -> str | None:
    """Return the name of the encoding of text of two or four bytes for each character."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return encoding
    start = content[:4096]
    for encoding, nulls in (("UTF-16LE", start[1::2]), ("UTF-16BE", start[::2])):
        # Where one byte of each pair is mostly 0 and the other never.
        others = start[::2] if encoding == "UTF-16LE" else start[1::2]
        if nulls and nulls.count(0) > len(nulls) / 2 and not others.count(0):
            return encoding
    return None


def _remedy(path: Pathlike, encoding: str) -> str:
    path = Path(path)
    there, made = (
        shlex.quote(str(name)) for name in (path, path.with_suffix(".utf8" + path.suffix))
    )
    command = f"iconv -f {encoding} -t UTF-8 {there} > {made}"
    if path.suffix.lower() in (".csv", ".tsv", ".tab", ".txt"):
        return f'save it as "CSV UTF-8" in Excel, or run: {command}'
    return f"run: {command}"


def read_json(path: Pathlike) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    FileError
        If it is missing, not text in UTF-8 or not JSON.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: is not JSON, or damaged ({error})") from None
    if _is_deeper(content, DEEPEST_JSON):
        raise FileError(f"{path}: is damaged: nested more than {DEEPEST_JSON} levels deep")
    return content


def _is_deeper(content: Any, levels: int) -> bool:
    if isinstance(content, dict):
        content = list(content.values())
    if not isinstance(content, list):
        return False
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in content)


def read_object(path: Pathlike) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object; see `read_json`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise FileError(f"{path}: is damaged: holds no JSON object")
    return content


def csv_lines(
    text: str, path: Pathlike, delimiter: str = ",", **dialect: Any
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line of a CSV text that has cells.

    Parameters
    ----------
    text : str
    path : path
        Where it is from, for errors.
    delimiter : str
    **dialect
        Other options of `csv.reader`.

    Raises
    ------
    FileError
        If a line cannot be split, or a cell is longer than `csv.field_size_limit`.
    """
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **dialect)
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: delimiter={delimiter!r}: {error}") from None
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise FileError(f"{path}, line {reader.line_num}: {error}") from None


def check_header(columns: list[str], path: Pathlike) -> list[str]:
    """Return the names of columns if there are some and all differ."""
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise FileError(f"{path}: two columns are called {listed(twice)}")
    if not columns:
        raise FileError(f"{path}: is empty; its first line should name the columns")
    return columns


def read_csv(
    path: Pathlike, *, index: int = 0, whole_lines: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a CSV file that this package wrote, all cells as text.

    Parameters
    ----------
    path : path
    index : int
        How many of the first columns name the row: one of the others may be called as one of them.
    whole_lines : bool
        Leave out a last line without an end: it was cut off in writing. A cut can fall within a
        number, which then still reads as one.

    Raises
    ------
    FileError
        If it is missing or not CSV in UTF-8, a column is there twice, or a line has not one cell
        for each column.
    """
    text = read_text(path)
    if whole_lines:
        text = text[: text.rfind("\n") + 1]
    lines = csv_lines(text, path, strict=True)
    _, columns = next(lines, (0, []))
    columns = list(map(unmark, columns))
    check_header(columns[index:], path)
    rows = []
    for line, cells in lines:
        if len(cells) != len(columns):
            raise FileError(
                f"{path}, line {line}: is damaged: has {len(cells)} cells, not {len(columns)}"
            )
        rows.append(list(map(unmark, cells)))
    return columns, rows


def parse_number(text: str) -> float:
    """Return the finite number that a text is, NaN if it is none.

    Examples
    --------
    >>> parse_number("1e-3"), parse_number("1_0"), parse_number("1e999"), parse_number("five")
    (0.001, nan, nan, nan)
    """
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def parse_whole(text: str) -> int | None:
    """Return the whole number of at most 18 digits that a text is, None if it is none.

    Examples
    --------
    >>> parse_whole("-3"), parse_whole("3.0"), parse_whole("1" * 400)
    (-3, None, None)
    """
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


def read_array(path: Pathlike, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the array of a ``.npy`` file of floating-point numbers.

    Nothing is allocated before the file is known to be as long as its header says.

    Parameters
    ----------
    path : path
    shape : tuple of int, optional
        What it must have.

    Raises
    ------
    FileError
        If it is missing or no such array: damaged, cut, pickled, of another type or shape.
    """
    path = _regular(path)
    with path.open("rb") as file:
        found, is_fortran, dtype = _read_array_header(file, path)
        if shape is not None and found != shape:
            raise FileError(f"{path}: has the shape {found}, expected {shape}")
        array = np.fromfile(file, dtype, math.prod(found))
    return array.reshape(found, order="F" if is_fortran else "C")


def check_array(path: Pathlike) -> None:
    """Raise what `read_array` does for a damaged file, by its header and its length alone."""
    path = _regular(path)
    with path.open("rb") as file:
        _read_array_header(file, path)


def _read_array_header(
    file: BinaryIO, path: Path
) -> tuple[tuple[int, ...], bool, np.dtype[np.floating]]:
    """Return shape, order and type of an array whose file is as long as these say."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        found, is_fortran, dtype = read(file)
    except Exception as error:  # whatever numpy's reader of headers meets in one
        raise FileError(f"{path}: is damaged or no array of numpy") from error
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8) or not dtype.isnative:
        raise FileError(f"{path}: holds {dtype}, expected floating-point numbers")
    there = os.fstat(file.fileno()).st_size - file.tell()
    if min(found, default=0) < 0 or math.prod(found) * dtype.itemsize != there:
        raise FileError(
            f"{path}: is damaged: its header says {found} numbers of {dtype.itemsize} bytes, "
            f"{there} bytes follow"
        )
    return found, is_fortran, dtype


@dataclass(frozen=True)
class Kind:
    """What a field of a JSON object must be.

    Attributes
    ----------
    name : str
        As an error says it.
    fits : callable
        Value → whether it is.
    """

    name: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 2**53 if isinstance(value, int) else math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


TEXT = Kind("text", lambda value: isinstance(value, str))
NUMBER = Kind("a finite number", _is_number)
WHOLE = Kind("a whole number from 0 on", _is_whole)
YES_OR_NO = Kind("true or false", lambda value: isinstance(value, bool))
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1 + 1e-6)
TEXTS = Kind("a list of text", _list_of(lambda value: isinstance(value, str)))
WHOLES = Kind("a list of whole numbers from 0 on", _list_of(_is_whole))
FOLDS = Kind("a list of folds", _list_of(lambda value: isinstance(value, str) or _is_whole(value)))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def mapping_to(kind: Kind) -> Kind:
    """Return the kind of an object whose values are all of one kind."""
    return Kind(
        f"an object of {kind.name} for each name",
        lambda value: isinstance(value, dict) and all(map(kind.fits, value.values())),
    )


def check_fields(
    content: Mapping[str, Any],
    needed: Mapping[str, Kind],
    where: str,
    optional: Mapping[str, Kind] | None = None,
) -> None:
    """Raise a `FileError` if an object of a JSON file lacks a field or has another kind of it.

    Parameters
    ----------
    content : mapping
    needed : mapping of str to Kind
    where : str
        File and object, for the error.
    optional : mapping of str to Kind, optional
        Fields that may be missing or null.
    """
    missing = sorted(needed.keys() - content.keys())
    if missing:
        raise FileError(
            f"{where}: does not say {', '.join(missing)}; was it written by another "
            "program or version?"
        )
    for kinds, may_be_null in ((needed, False), (optional or {}, True)):
        for name, kind in kinds.items():
            value = content.get(name)
            if not kind.fits(value) and not (may_be_null and value is None):
                raise FileError(f"{where}: is damaged: {name!r} is not {kind.name}")
