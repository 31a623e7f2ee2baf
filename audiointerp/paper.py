"""The tables of a paper, made from results: of masks, methods, experiments, and the summaries.

`make_tables` returns them twice: the numbers in full as frames, and cut, captioned and rounded for
reading. `audiointerp.table_files` writes both. `docs/tables.md` says how to read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from audiointerp.statistics import bootstrap_means
from audiointerp.tables import (
    METRIC_COLUMNS,
    RUN_COLUMNS,
    SCORE,
    Mark,
    best_masks,
    compare,
    estimate,
    fidelity_simplicity,
    in_order,
    interval,
    mark,
    rank_names,
)


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


class Row(NamedTuple):
    """A line of a table, below those of its group."""

    group: str
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table for reading.

    Attributes
    ----------
    kind : str
        Which of the kinds of tables it is; a key of ``Tables.frames``.
    caption : str
        What it shows.
    stub : str
        Heading of the row labels.
    columns : tuple of str
        Headings of the cells.
    rows : tuple of Row
        Rows of a group follow each other. Marks compare the rows of a group.
    """

    kind: str
    caption: str
    stub: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Tables:
    """All tables of some results.

    Attributes
    ----------
    frames : dict of str to DataFrame
        The numbers in full, by kind: ``accuracy``, ``summary``, ``masks_by_method``,
        ``methods_by_mask``, ``correct_and_wrong``, ``experiments`` (if there are several),
        ``comparisons`` (every test between methods) and ``plane``.
    tables : list of Table
        The same for reading.
    """

    frames: dict[str, pd.DataFrame]
    tables: list[Table]


def make_tables(results: pd.DataFrame, *, resamples: int = 5_000, seed: int = 0) -> Tables:
    """Make every table: of masks, of methods, correct and wrong, experiments, and the summaries.

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.
    resamples : int
        Of the bootstrap.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Tables
    """
    of_run, of_mask = ("model", "experiment", "method"), ("model", "experiment", "mask")
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    estimates = in_order(estimate(results, **options))
    by_method = mark(estimates, compare(results, "mask", within=of_run), "mask", within=of_run)
    of_methods = compare(results, "method", within=of_mask)
    by_mask = mark(estimates, of_methods, "method", within=of_mask)

    apart = results.assign(label=np.where(results["is_correct"].astype(bool), "correct", "wrong"))
    of_part = (*of_run, "label")
    parts = in_order(estimate(apart, (*RUN_COLUMNS, "label"), **options))
    parts = mark(parts, compare(apart, "mask", within=of_part), "mask", within=of_part)

    best = best_masks(estimates)
    chosen = results.merge(best[list(RUN_COLUMNS)], on=list(RUN_COLUMNS))
    of_best = compare(chosen, "method", within=("model", "experiment"))
    best = mark(best, of_best, "method", within=("model", "experiment"))

    frames = {
        "accuracy": accuracy_intervals(results, **options),
        "summary": best,
        "masks_by_method": by_method,
        "methods_by_mask": by_mask.sort_values(
            list(of_mask), key=rank_names, kind="stable", ignore_index=True
        ),
        "correct_and_wrong": parts,
    }
    tables = [
        *_accuracy_tables(frames["accuracy"]),
        *_summary_tables(best),
        *_mask_tables(by_method),
        *_method_tables(frames["methods_by_mask"]),
        *_part_tables(parts),
    ]
    if len(results["experiment"].unique()) > 1:
        frames["experiments"] = _side_by_side(by_method)
        tables += _experiment_tables(by_method)
    of_best = of_best.assign(mask="best of each")
    comparisons = [table for table in (of_methods, of_best) if len(table)]
    frames["comparisons"] = pd.concat(comparisons, ignore_index=True) if comparisons else of_methods
    frames["plane"] = fidelity_simplicity(results)
    return Tables(frames, tables)


_DECIMALS = {
    "FF": 3,
    "AI": 1,
    "AD": 1,
    "AG": 1,
    "FidIn": 3,
    "SPS": 3,
    "COMP": 2,
    SCORE: 3,
    "accuracy": 1,
}
_ALL_COLUMNS = (*METRIC_COLUMNS, SCORE)
_ROWS_AT_MOST = 32
"""Of a table that fits a page; longer ones are cut between groups."""


def accuracy_intervals(
    results: pd.DataFrame, *, resamples: int = 5_000, seed: int = 0
) -> pd.DataFrame:
    """Return the share of correctly classified clips, with its interval.

    The interval is the 95 % percentile bootstrap interval over clips. One clip has none (NaN).

    Parameters
    ----------
    results : DataFrame
        One row or more per clip, with ``model``, ``experiment``, ``clip`` and ``is_correct``.
    resamples : int
        How often the clips are drawn anew.
    seed : int
        For the draws.

    Returns
    -------
    DataFrame
        One row per model and experiment: ``clips`` and, in percent, ``accuracy``,
        ``accuracy_low`` and ``accuracy_high``.
    """
    once = results.drop_duplicates(["model", "experiment", "clip"])
    rows = []
    for (model, experiment), group in once.groupby(["model", "experiment"], sort=False):
        correct = 100 * group["is_correct"].to_numpy(float)[:, None]
        low, high = np.nan, np.nan
        if len(correct) > 1:
            drawn = bootstrap_means(correct, resamples=resamples, seed=seed)
            low, high = interval(drawn)[:, 0]
        rows.append((model, experiment, len(correct), correct.mean(), low, high))
    names = ("model", "experiment", "clips", "accuracy", "accuracy_low", "accuracy_high")
    return in_order(pd.DataFrame(rows, columns=list(names)))


def _accuracy_tables(frame: pd.DataFrame) -> list[Table]:
    rows = frame.to_dict("records")
    lines = [Row(row["model"], row["experiment"], (_cell(row, "accuracy"),)) for row in rows]
    caption = f"Share of the clips classified correctly, {_clips(rows)}"
    return _cut(Table("accuracy", caption, "experiment", ("accuracy",), tuple(lines)))


def _summary_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        caption = f"{model}: each method with its best mask by the score, {_clips(rows)}"
        lines = [_row(row, row["experiment"], f"{row['method']} ({row['mask']})") for row in rows]
        tables += _cut(Table("summary", caption, "method (mask)", _ALL_COLUMNS, tuple(lines)))
    return tables


def _mask_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        caption = f"{model}, {experiment}: {method} with all masks, {_clips(rows)}"
        lines = [_row(row, "", row["mask"]) for row in rows]
        tables += _cut(Table("masks_by_method", caption, "mask", _ALL_COLUMNS, tuple(lines)))
    return tables


def _method_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment), rows in _by(frame, "model", "experiment"):
        caption = f"{model}, {experiment}: all methods under each mask, {_clips(rows)}"
        lines = [_row(row, row["mask"], row["method"]) for row in rows]
        tables += _cut(Table("methods_by_mask", caption, "method", _ALL_COLUMNS, tuple(lines)))
    return tables


def _part_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        lines = []
        for label in ("correct", "wrong"):
            part = [row for row in rows if row["label"] == label]
            group = f"classified {label}ly, {_clips(part)}" if part else ""
            lines += [_row(row, group, row["mask"]) for row in part]
        caption = f"{model}, {experiment}: {method}, clips classified correctly and wrongly apart"
        tables += _cut(Table("correct_and_wrong", caption, "mask", _ALL_COLUMNS, tuple(lines)))
    return tables


def _experiment_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        experiments = tuple(dict.fromkeys(row["experiment"] for row in rows))
        if len(experiments) < 2:
            continue
        found = {(row["method"], row["mask"], row["experiment"]): row for row in rows}
        pairs = in_order(frame[frame["model"] == model][["method", "mask"]].drop_duplicates())
        for metric in _ALL_COLUMNS:
            lines = tuple(
                Row(
                    method,
                    mask,
                    tuple(_cell(found.get((method, mask, name)), metric) for name in experiments),
                )
                for method, mask in zip(pairs["method"], pairs["mask"], strict=True)
            )
            caption = f"{model}: {metric} in every experiment, {_clips(rows)}"
            tables += _cut(Table("experiments", caption, "mask", experiments, lines))
    return tables


def _side_by_side(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, method, mask and metric, one set of columns per experiment."""
    keys = ["model", "method", "mask"]
    parts = []
    for metric in _ALL_COLUMNS:
        endings = ["", "_low", "_high", "_mark"]
        columns = [f"{metric}{ending}" for ending in endings]
        wide = frame.pivot(index=keys, columns="experiment", values=columns)  # noqa: PD010
        order = [(c, e) for e in frame["experiment"].unique() for c in columns]
        wide = wide[order]
        wide.columns = [f"{e}{c.removeprefix(metric)}" for c, e in order]
        parts.append(in_order(wide.reset_index().assign(metric=metric)))
    whole = pd.concat(parts, ignore_index=True)
    return whole[[*keys, "metric", *whole.columns.difference([*keys, "metric"], sort=False)]]


def _by(frame: pd.DataFrame, *keys: str) -> Iterator[tuple[tuple, list[dict[str, Any]]]]:
    """Yield each group of rows that follow each other."""
    return (
        (key, list(rows))
        for key, rows in groupby(frame.to_dict("records"), lambda row: tuple(map(row.get, keys)))
    )


def _row(row: dict[str, Any], group: str, label: str) -> Row:
    return Row(group, label, tuple(_cell(row, metric) for metric in _ALL_COLUMNS))


def _cut(table: Table) -> list[Table]:
    """Cut a table between groups, so that no part is longer than a page."""
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(row.group, []).append(row)
    parts: list[list[Row]] = [[]]
    for rows in groups.values():
        if parts[-1] and len(parts[-1]) + len(rows) > _ROWS_AT_MOST:
            parts.append([])
        parts[-1] += rows
    numbers = [f" ({place} of {len(parts)})" for place in range(1, len(parts) + 1)]
    return [
        replace(table, caption=table.caption + (number if len(parts) > 1 else ""), rows=tuple(rows))
        for number, rows in zip(numbers, parts, strict=True)
    ]


def _cell(row: dict[str, Any] | None, metric: str) -> Cell:
    """Return one number of a row, an empty cell where there is no row."""
    if row is None:
        return Cell(math.nan, math.nan, math.nan, _DECIMALS[metric])
    limits = row[f"{metric}_low"], row[f"{metric}_high"]
    return Cell(row[metric], *limits, _DECIMALS[metric], row.get(f"{metric}_mark", ""))


def _clips(rows: list[dict[str, Any]]) -> str:
    low, high = min(row["clips"] for row in rows), max(row["clips"] for row in rows)
    if low < high:
        return f"{low} to {high} clips"
    return "1 clip" if low == 1 else f"{low} clips"


def _rounded(value: float, decimals: int) -> str:
    """Return the number for reading; a zero has no sign."""
    if math.isnan(value):
        return "–"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
