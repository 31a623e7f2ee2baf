"""Building blocks of display tables: cells, column headings, rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from audiointerp.tables.summary import Mark


class Cell(NamedTuple):
    """One number of a table: a mean, its interval and how it compares within its group."""

    mean: float
    low: float
    high: float
    decimals: int
    mark: Mark = ""

    @property
    def text(self) -> str:
        """The mean, rounded for reading."""
        return _rounded(self.mean, self.decimals)

    @property
    def interval(self) -> str:
        """The interval, or nothing where there is none."""
        if math.isnan(self.low):
            return ""
        return f"[{_rounded(self.low, self.decimals)}, {_rounded(self.high, self.decimals)}]"


class Column(NamedTuple):
    """What stands above the numbers of a column."""

    name: str
    unit: str = ""
    better: int = 0
    """1 where higher is better, -1 where lower is, 0 where the name says nothing of it."""
    decimals: int = 3
    """Digits shown after the point."""


COUNT = Column("n", "", 0, 0)
"""Beside a metric that has no value in some rows: over how many its mean is."""
CLIPS = Column("clips", "", 0, 0)
"""Before the metrics of rows that are not all of equally many clips: over how many each is."""
COUNTS = (COUNT, CLIPS)


class Row(NamedTuple):
    """A line of a table.

    ``group`` is what the rows with the same one are compared in, ``label`` the row's own name;
    ``about`` says by kind what it shows, such as the method and the mask.
    """

    group: str
    label: str
    cells: tuple[Cell, ...]
    about: Mapping[str, str] = MappingProxyType({})


def _rounded(value: float, decimals: int) -> str:
    """Return the number for reading; a zero has no sign."""
    if math.isnan(value):
        return "–"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
