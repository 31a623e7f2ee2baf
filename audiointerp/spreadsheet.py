"""Tables as CSV that a spreadsheet shows and that is read back exactly.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, which can
read other cells and open addresses; names of files and classes may begin so. Such a text is written
with an apostrophe before it, as spreadsheets have it for text, and read without. Numbers and all
other texts are written as they are.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from typing import IO, Any

import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What begins like a formula, and what has apostrophes before that already."""

READ_EXACTLY: dict[str, Any] = {"keep_default_na": False}
"""Options of ``pandas.read_csv`` for our tables: a class may be called None or NA, and a number
comes back as the one that was written."""
if int(pd.__version__.split(".")[0]) < 3:
    # Which later versions do without asking, and warn of being asked.
    READ_EXACTLY["float_precision"] = "round_trip"


def to_csv(table: pd.DataFrame, **options: Any) -> str:
    """Return a table as CSV, without formulas.

    Parameters
    ----------
    table : DataFrame
        The names of its columns and index are text cells as well.
    **options
        Of ``DataFrame.to_csv``, such as ``index=False``.
    """
    marked = _changed(table, _mark)
    text = marked.to_csv(**options)
    if "\r" in text.replace("\r\n", "\n"):
        # Before Python 3.13, csv writes a carriage return without quotes, which ends the row.
        text = marked.to_csv(**options, quoting=csv.QUOTE_NONNUMERIC)
    return text


def read_csv(source: str | os.PathLike[str] | IO[str], **options: Any) -> pd.DataFrame:
    """Read what `to_csv` wrote: the same texts and numbers.

    Parameters
    ----------
    source : path or text file
    **options
        Of ``pandas.read_csv``, beside those of `READ_EXACTLY`.
    """
    return _changed(pd.read_csv(source, **READ_EXACTLY, **options), _unmark)


def _mark(text: Any) -> Any:
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def _unmark(text: Any) -> Any:
    marked = isinstance(text, str) and text.startswith("'") and _FORMULA.match(text)
    return text[1:] if marked else text


def _changed(table: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """Return a table with all its texts changed, itself where none needs to be."""
    table = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            cells = table.iloc[:, place]
            if any(isinstance(cell, str) and _FORMULA.match(cell) for cell in cells):
                table.isetitem(place, cells.map(change))
    table.columns = _names(table.columns, change)
    table.index = _names(table.index, change)
    return table


def _names(index: pd.Index, change: Callable[[Any], Any]) -> pd.Index:
    if isinstance(index, pd.RangeIndex):
        return index
    if isinstance(index, pd.MultiIndex):
        levels = [[change(name) for name in level] for level in index.levels]
        index = index.set_levels(levels)
    elif any(isinstance(name, str) and _FORMULA.match(name) for name in index):
        index = pd.Index([change(name) for name in index], name=index.name)
    return index.set_names([change(name) for name in index.names])
