"""Write CSV tables without formulas; `audiointerp.reading.read_csv` reads them back exactly.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, which can
read other cells and open addresses; names of files and classes may begin so. Such a text is written
with an apostrophe before it, as spreadsheets have it for text, and read without. Numbers and all
other texts are written as they are.
"""

from __future__ import annotations

import csv
import re
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What begins like a formula, and what has apostrophes before that already."""


def to_csv(table: pd.DataFrame, **options: Any) -> str:
    """Return a table as CSV, without formulas.

    Parameters
    ----------
    table : DataFrame
        The names of its columns and index are text cells as well.
    **options
        Of ``DataFrame.to_csv``, such as ``index=False``.
    """
    marked = _marked(table)
    text = marked.to_csv(**options)
    if "\r" in text.replace("\r\n", "\n"):
        # Before Python 3.13, csv writes a carriage return without quotes, which ends the row.
        text = marked.to_csv(**options, quoting=csv.QUOTE_NONNUMERIC)
    return text


def _mark(text: Any) -> Any:
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def unmark(text: str) -> str:
    """Return the text that a cell of such a CSV stands for.

    Examples
    --------
    >>> unmark("'=x"), unmark("'x'"), unmark("-1")
    ('=x', "'x'", '-1')
    """
    marked = text.startswith("'") and _FORMULA.match(text)
    return text[1:] if marked else text


def _marked(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its texts marked, itself where none needs to be."""
    table = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            cells = table.iloc[:, place]
            if any(isinstance(cell, str) and _FORMULA.match(cell) for cell in cells):
                table.isetitem(place, cells.map(_mark))
    table.columns = _marked_names(table.columns)
    table.index = _marked_names(table.index)
    return table


def _marked_names(index: pd.Index) -> pd.Index:
    if isinstance(index, pd.RangeIndex):
        return index
    if isinstance(index, pd.MultiIndex):
        index = index.set_levels([list(map(_mark, level)) for level in index.levels])
    elif any(isinstance(name, str) and _FORMULA.match(name) for name in index):
        index = pd.Index(list(map(_mark, index)), name=index.name)
    return index.set_names(list(map(_mark, index.names)))
