"""Rows of a frame → captioned tables: one per family of metrics, at page width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import pandas as pd

from audiointerp.evaluation import METRICS, SCORED_FAMILIES, metric_columns
from audiointerp.tables.cells import CLIPS, COUNT, COUNTS, Cell, Column, Row
from audiointerp.tables.score import SCORE, SCORE_DECIMALS
from audiointerp.tables.table import NAMES, Table

ACCURACY = "accuracy"
_DERIVED = {
    SCORE: Column(SCORE, "", 1, SCORE_DECIMALS),
    ACCURACY: Column(ACCURACY, "%", 1, 2),
}
"""Columns that are no metrics of a clip."""
_COLUMNS_AT_MOST = 9
"""Of a table that fits the width of a page."""

Line = tuple[dict[str, Any], str, str]
"""A row of a frame, the group it is in and its label."""
Field = tuple[Column, str]
"""A heading, and the column of a frame that stands below it."""


def families_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the metrics by the table that shows them: those of the score, "", then by family."""
    families = {"": [*metric_columns(frame, SCORED_FAMILIES), SCORE]}
    for name in metric_columns(frame):
        if METRICS[name].family not in SCORED_FAMILIES:
            families.setdefault(METRICS[name].family, []).append(name)
    return families


def family_tables(
    kind: str,
    caption: str,
    stub: tuple[str, ...],
    lines: Sequence[Line],
    families: Mapping[str, Sequence[str]],
    **about: str,
) -> list[Table]:
    """Return a table for each family of metrics, or several if a page is too narrow for one."""
    tables = []
    rows = [row for row, _, _ in lines]
    before: list[Field] = [(CLIPS, population_column(rows))] if populations_differ(rows) else []
    for family, metrics in families.items():
        parts: list[list[Field]] = [[*before]]
        for fields in _share_counts([with_counts(metric, rows) for metric in metrics], rows):
            if len(parts[-1]) + len(fields) > _COLUMNS_AT_MOST:
                parts.append([*before])
            parts[-1] += fields
        for number, fields in enumerate(parts, start=1):
            notes = ([family] if family else []) + ([f"{number} of {len(parts)}"] * (number > 1))
            tables.append(
                Table(
                    kind,
                    "; ".join([caption, *notes]) + explain_counts(fields),
                    stub,
                    tuple(column for column, _ in fields),
                    tuple(_row(*line, fields) for line in lines),
                    about,
                )
            )
    return tables


def population_column(rows: Sequence[dict[str, Any]]) -> str:
    """Return the column that counts what a mean is over: explained classes, or clips."""
    return "rows" if "rows" in rows[0] else "clips"


def populations_differ(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether means that are compared are over different numbers of clips.

    Those of correctly and of wrongly classified clips are not compared with each other.
    """
    parts: dict[str, set[tuple]] = {}
    for row in rows:
        counts = row["clips"], row.get("rows", 0)
        parts.setdefault(row.get("label", ""), set()).add(counts)
    return any(len(counts) > 1 for counts in parts.values())


def with_counts(metric: str, rows: Sequence[dict[str, Any]]) -> list[Field]:
    """Return the column of a metric and, where some rows lack its value, how many have one."""
    fields, count = [(column_of(metric), metric)], f"{metric}_n"
    if any(0 < row.get(count, 0) < row.get("rows", row["clips"]) for row in rows):
        fields.append((COUNT, count))
    return fields


def _share_counts(
    columns: Sequence[list[Field]], rows: Sequence[dict[str, Any]]
) -> list[list[Field]]:
    """Return the columns of metrics, with one count for neighbours that have the same ones."""

    def counts(fields: list[Field]) -> list[int] | None:
        return [row.get(fields[1][1]) for row in rows] if len(fields) > 1 else None

    return [
        fields[:1] if after is not None and counts(fields) == counts(after) else fields
        for fields, after in zip_longest(columns, columns[1:])
    ]


def explain_counts(fields: Sequence[Field]) -> str:
    """Return what a caption says of the columns that count values, nothing if there is none."""
    count = [column for column, _ in fields].count(COUNT)
    if not count:
        return ""
    shared = count < sum(column not in COUNTS for column, _ in fields)
    return "; n: how many have a value" + (" in the columns before it" if shared else "")


def column_of(metric: str) -> Column:
    """Return the heading of a metric, or of another column of numbers."""
    if metric in _DERIVED:
        return _DERIVED[metric]
    known = METRICS[metric]
    return Column(known.name, known.unit, known.better, known.decimals)


def _row(row: dict[str, Any], group: str, label: str, fields: Sequence[Field]) -> Row:
    about = {key: row[key] for key in NAMES if key in row}
    cells = tuple(cell_of(row, field, column.decimals) for column, field in fields)
    return Row(group, label, cells, about)


def cell_of(row: dict[str, Any] | None, field: str, decimals: int) -> Cell:
    """Return one number of a row, an empty cell where there is no row."""
    if row is None:
        return Cell(math.nan, math.nan, math.nan, decimals)
    low, high = (row.get(f"{field}_{end}", math.nan) for end in ("low", "high"))
    return Cell(row[field], low, high, decimals, row.get(f"{field}_mark", ""))


def clips_in_words(rows: list[dict[str, Any]]) -> str:
    """Say how many clips some rows are over, and how many explained classes where that differs."""
    said = _from_to([row["clips"] for row in rows], "clip")
    if "rows" in rows[0]:
        return f"{_from_to([row['rows'] for row in rows], 'explained class', 'es')} of {said}"
    return said


def _from_to(counts: Sequence[int], what: str, plural: str = "s") -> str:
    low, high = min(counts), max(counts)
    if low < high:
        return f"{low} to {high} {what}{plural}"
    return f"{low} {what}{plural if low != 1 else ''}"
