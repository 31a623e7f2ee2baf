"""Read tables (CSV, TSV, Parquet) cell by cell, with errors that say where."""

from __future__ import annotations

import csv
import difflib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Endings of tables that are text, and what their cells are separated by."""

PARQUET = (".parquet", ".pq")


class TableError(ValueError):
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
        value = self.cells[column]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return str(value).strip()

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
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds >= 0):
            raise self.error(column, f"{text!r} is not a number of seconds from 0 on")
        return seconds

    def whole(self, column: str) -> int:
        """Return a cell as a whole number."""
        text = self.needed(column)
        try:
            return int(text)
        except ValueError as error:
            raise self.error(column, f"{text!r} is not a whole number") from error

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
            found = [str(part).strip() for part in value]
        elif not self.text(column):
            return []
        elif separator is None:
            raise self.error(column, "is text: say what separates the labels, separator=';'")
        else:
            found = self._split(column, separator)
        if not all(found):
            raise self.error(column, f"an empty label in {value!r}")
        return found

    def error(self, column: str, what: str) -> TableError:
        """Return the error that something is wrong with a cell."""
        return TableError(f"{self.where}, column {column!r}: {what}")

    def _split(self, column: str, separator: str) -> list[str]:
        text = self.text(column)
        try:
            (parts,) = csv.reader(
                [text], delimiter=separator, skipinitialspace=separator != " ", strict=True
            )
        except (csv.Error, ValueError) as error:
            raise self.error(
                column, f"{text!r} cannot be split at {separator!r}: {error}"
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
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such table (in {Path.cwd()})")
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
            raise TableError(f"{self.path}: has no rows; its columns are {self._listed()}")

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
            f"{self._listed()}{hint}"
        )

    def _listed(self) -> str:
        return ", ".join(map(repr, self.columns))


def _read_text(path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = _lines(file, path, delimiter)
            _, columns = next(lines, (0, []))
            _check_header(columns, path)
            rows = [_text_row(path, line, columns, cells) for line, cells in lines]
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not text in UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise TableError(f"{path}: not a table as text ({error})") from error
    return columns, rows


def _lines(file: Iterator[str], path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    try:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    except (TypeError, ValueError) as error:
        raise TableError(f"{path}: delimiter={delimiter!r}: {error}") from None
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _check_header(columns: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise TableError(f"{path}: two columns are called {', '.join(map(repr, twice))}")
    if not columns:
        raise TableError(f"{path}: is empty; its first line should name the columns")


def _text_row(path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> Row:
    where = f"{path}, line {line}"
    if len(cells) != len(columns):
        raise TableError(
            f"{where}: has {len(cells)} cells, the first line {len(columns)} "
            f"({', '.join(map(repr, columns))}); is a delimiter within a cell not quoted?"
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
        wanted = there if columns is None else [name for name in there if name in columns]
        cells = parquet.read_table(path, columns=wanted).to_pylist()
    except (ArrowException, OSError) as error:
        raise TableError(f"{path}: not a Parquet table ({error})") from error
    return there, [Row(f"{path}, row {place}", row) for place, row in enumerate(cells, 1)]
