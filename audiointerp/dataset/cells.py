"""Read tables (CSV, TSV, Parquet) cell by cell, with error messages that give the position."""

from __future__ import annotations

import csv
import difflib
import math
import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from audiointerp.reading import (
    FileError,
    check_header,
    csv_lines,
    listed,
    parse_number,
    parse_whole,
    read_text,
    shown,
)

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Endings of tables that are text, and what their cells are separated by."""

PARQUET = (".parquet", ".pq")

_CELLS = (str, bool, int, float, Decimal, date)
"""What a cell of a Parquet table may be to be taken as text."""

_LONGEST = 1e9
"""Seconds, thirty years: more come from damage."""

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
"""What an absolute path of Windows begins with."""


class TableError(FileError):
    """A table that cannot be used; the message names the table, the line and the column."""


class Row:
    """One row of a table.

    Parameters
    ----------
    where : str
        The table and the line, as errors name them.
    cells : dict of str to object
        By column.
    """

    def __init__(self, where: str, cells: dict[str, Any]) -> None:
        self.where = where
        self.cells = cells

    def text(self, column: str) -> str:
        """Return a cell as text without surrounding spaces, "" if it is empty."""
        return self._as_text(column, self.cells[column])

    def needed(self, column: str) -> str:
        """Return a cell as `text` does, and raise `TableError` if it is empty."""
        text = self.text(column)
        if not text:
            raise self.error(column, "is empty")
        return text

    def seconds(self, column: str) -> float | None:
        """Return a cell as a time in seconds, None if it is empty."""
        text = self.text(column)
        if not text:
            return None
        seconds = parse_number(text)
        if not 0 <= seconds <= _LONGEST:
            raise self.error(column, f"{shown(text)} is not a number of seconds from 0 on")
        return seconds

    def whole(self, column: str) -> int:
        """Return a cell as a whole number of at most 18 digits."""
        text = self.needed(column)
        number = parse_whole(text)
        if number is None:
            raise self.error(column, f"{shown(text)} is not a whole number of at most 18 digits")
        return number

    def parts(self, column: str, separator: str | None) -> list[str]:
        """Return what a cell lists: a list of a Parquet table, or text between separators.

        Parameters
        ----------
        column : str
        separator : str, optional
            One character. A part in double quotes may hold it.
        """
        value = self.cells[column]
        if isinstance(value, (list, tuple)):
            found = [self._as_text(column, part) for part in value]
        elif not self.text(column):
            return []
        elif separator is None:
            raise self.error(column, "is text: say what separates the labels, separator=';'")
        else:
            found = self._split(column, separator)
        if not all(found):
            raise self.error(column, f"an empty label in {shown(value)}")
        return found

    def path_below(self, root: Path, column: str) -> str:
        """Return a cell that is the path of a file below a folder, however it is written there.

        A path that leads outside by ``..``, or is absolute and not below the folder, is refused:
        a table could otherwise have any file of the machine read. Links in the folder are
        followed.

        Parameters
        ----------
        root : Path
            The folder that relative paths start in.
        column : str

        Returns
        -------
        str
            From `root` on, without ``..``, with ``/`` between folders.
        """
        name = self.needed(column)
        full = os.path.join(os.path.abspath(root), name)
        below = [
            os.path.relpath(full, above)
            for above in (os.path.abspath(root), os.path.realpath(root))
            if _is_below(full, above) and not (os.name != "nt" and _DRIVE.match(name))
        ]
        if not below:
            raise self.error(column, f"{shown(name)} is not below the folder {root}")
        return Path(below[0]).as_posix()

    def error(self, column: str, what: str) -> TableError:
        """Return the error that something is wrong with a cell."""
        return TableError(f"{self.where}, column {column!r}: {what}")

    def _as_text(self, column: str, value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if not isinstance(value, _CELLS):
            raise self.error(
                column,
                f"holds a value of the type {type(value).__name__}, expected text or numbers",
            )
        text = str(value).strip()
        if "\0" in text:
            raise self.error(column, "holds a NUL character: the table is damaged")
        return text

    def _split(self, column: str, separator: str) -> list[str]:
        text = self.text(column)
        try:
            (parts,) = csv.reader(
                [text], delimiter=separator, skipinitialspace=separator != " ", strict=True
            )
        except (csv.Error, ValueError) as error:
            raise self.error(
                column, f"{shown(text)} cannot be split at {separator!r}: {error}"
            ) from None
        return [part.strip() for part in parts]


class Table:
    """The rows of a table, read as a whole.

    Parameters
    ----------
    path : path-like
        A file that ends in .csv, .tsv, .tab, .parquet or .pq, or in something else if `delimiter`
        is given. Text is UTF-8, its first line names the columns.
    columns : sequence of str, optional
        The columns to read; all by default. Parquet tables are not read beyond these.
    delimiter : str, optional
        What separates the cells of a text; by default a comma, in .tsv and .tab a tab.

    Attributes
    ----------
    path : Path
    columns : list of str
        All that there are.
    rows : list of Row
        At least one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TableError
        If it is not such a table, or has no rows.
    ImportError
        If a Parquet table is to be read and pyarrow is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        *,
        delimiter: str | None = None,
    ) -> None:
        self.path = Path(path)
        if not os.path.lexists(self.path):
            raise FileNotFoundError(f"{self.path}: no such table (in {Path.cwd()})")
        if not os.path.isfile(self.path):  # which opening may wait for, or never end
            raise TableError(f"{self.path}: is not a table, but a folder, a pipe or a device")
        suffix = self.path.suffix.lower()
        if suffix in PARQUET:
            self.columns, self.rows = _read_parquet(self.path, columns)
        elif delimiter is None and suffix not in DELIMITERS:
            raise TableError(
                f"{self.path}: a table ends in {', '.join([*DELIMITERS, *PARQUET])}; say "
                "delimiter=… if it is text of another ending"
            )
        else:
            self.columns, self.rows = _read_text(self.path, delimiter or DELIMITERS[suffix])
        if not self.rows:
            raise TableError(f"{self.path}: has no rows; its columns are {listed(self.columns)}")

    def check(self, column: str, role: str) -> str:
        """Return `column` if there is one of this name.

        Parameters
        ----------
        column : str
        role : str
            The argument that named it, for the error.

        Raises
        ------
        TableError
            If there is none; the message lists those there are.
        """
        if column in self.columns:
            return column
        close = difflib.get_close_matches(column, self.columns, n=1)
        hint = f"; did you mean {role}={close[0]!r}?" if close else f"; say {role}=…"
        if len(self.columns) == 1:
            hint += ", or delimiter=… if that is several columns"
        raise TableError(
            f"{self.path}: has no column {column!r} ({role}); its columns are "
            f"{listed(self.columns)}{hint}"
        )

    def require(self, columns: Sequence[str], of: str) -> None:
        """Raise a `TableError` if a table of a known set lacks some of its columns."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise TableError(
                f"{self.path}: has no column {', '.join(missing)}; its columns are "
                f"{listed(self.columns)}. Is it {of}'s own table?"
            )


def table_lines(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line of a table as text, blank lines left out.

    Cells have no surrounding spaces.

    Raises
    ------
    TableError
        If it is not text in UTF-8 or a line cannot be split.
    """
    try:
        lines = csv_lines(read_text(path), path, delimiter, skipinitialspace=True, strict=True)
        for line, cells in lines:
            if any(cell.strip() for cell in cells):
                yield line, [cell.strip() for cell in cells]
    except FileError as error:
        raise TableError(str(error)) from error


def _is_below(path: str, folder: str) -> bool:
    path = os.path.normpath(path)
    try:
        return path != folder and os.path.commonpath([path, folder]) == folder
    except ValueError:  # on another drive
        return False


def _read_text(path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    lines = table_lines(path, delimiter)
    _, columns = next(lines, (0, []))
    _check_header(columns, path)
    return columns, [_text_row(path, line, columns, cells) for line, cells in lines]


def _check_header(columns: list[str], path: Path) -> None:
    try:
        check_header(columns, path)
    except FileError as error:
        raise TableError(str(error)) from None


def _text_row(path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> Row:
    where = f"{path}, line {line}"
    if len(cells) != len(columns):
        raise TableError(
            f"{where}: has {len(cells)} cells, the first line {len(columns)} "
            f"({listed(columns)}); is a delimiter within a cell not quoted?"
        )
    return Row(where, dict(zip(columns, cells, strict=True)))


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[list[str], list[Row]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError(
            f"{path}: Parquet tables are read by pyarrow, which is not installed: "
            "pip install pyarrow, or save the table as CSV"
        ) from error
    try:
        there = parquet.read_schema(path).names
        _check_header(there, path)
        wanted = there if columns is None else [name for name in there if name in columns]
        cells = parquet.read_table(path, columns=wanted).to_pylist()
    except TableError:
        raise
    except (ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise TableError(f"{path}: not a Parquet table, or damaged ({error})") from error
    return there, [Row(f"{path}, row {place}", row) for place, row in enumerate(cells, 1)]
