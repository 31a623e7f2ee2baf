"""The tables of a paper, made from results: of masks, methods, experiments, and the summaries.

`make_tables` returns them twice: the numbers in full as frames, and captioned and rounded for
reading. They show themselves in a notebook; `audiointerp.tables.files` writes them.
`docs/tables.md` says how to read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from audiointerp.tables import (
    HIGHER_IS_BETTER,
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
from audiointerp.tables.html import to_html
from audiointerp.tables.statistics import bootstrap_means

TITLES = {
    "accuracy": "Accuracy",
    "summary": "The best mask of each method",
    "plane": "The fidelity-simplicity plane",
    "masks_by_method": "All masks of each method",
    "methods_by_mask": "All methods under each mask",
    "correct_and_wrong": "Clips classified correctly and wrongly apart",
    "experiments": "Experiments side by side",
}
"""What the kinds of tables are called, in the order they are shown in."""
MEASURED_ON = {
    "features": "measured on masked features",
    "audio": "measured on masked sounds",
}


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


class Row(NamedTuple):
    """A line of a table.

    ``group`` is what the rows with the same one are compared in, ``label`` the row's own name;
    ``about`` says by kind what it shows, such as the method and the mask.
    """

    group: str
    label: str
    cells: tuple[Cell, ...]
    about: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Table:
    """A table for reading.

    Attributes
    ----------
    kind : str
        Which of the kinds of tables it is; a key of ``Tables.frames``.
    caption : str
        What it shows.
    stub : tuple of str
        Headings of the row labels: of the group, where there are several, and of the row.
    columns : tuple of Column
        Headings of the cells.
    rows : tuple of Row
        Rows of a group follow each other. Marks compare the rows of a group.
    about : mapping of str to str
        What all its rows are of, by kind: model, experiment, method or metric.
    """

    kind: str
    caption: str
    stub: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[tuple[str, tuple[Row, ...]]]:
        """The rows by group."""
        rows = groupby(self.rows, key=lambda row: row.group)
        return [(group, tuple(members)) for group, members in rows]

    def _repr_html_(self) -> str:
        return to_html([self])


@dataclass(frozen=True)
class Tables:
    """All tables of some results, or those that `select` chose.

    Attributes
    ----------
    frames : dict of str to DataFrame
        The numbers in full, by kind: ``accuracy``, ``summary``, ``masks_by_method``,
        ``methods_by_mask``, ``correct_and_wrong``, ``experiments``, ``comparisons`` (every test
        between methods) and ``plane``. No tables for reading are made of the last two, nor of the
        experiments of a model that has one only.
    tables : list of Table
        The same for reading.
    on : str
        What the metrics were measured on, "features" or "audio".
    """

    frames: dict[str, pd.DataFrame]
    tables: list[Table]
    on: str = "features"

    def select(self, kind: str | Sequence[str], **names: str | Sequence[str]) -> Tables:
        """Return the tables of a kind and, in them, the rows of some names.

        ``tables.select("masks_by_method", method="shap", experiment=["clean", "horse"])``. What
        marks a row stays what it was in the whole table.

        Parameters
        ----------
        kind : str or sequence of str
            Which kinds of tables; a key of `frames`.
        **names : str or sequence of str
            By model, experiment, method, mask, metric or label ("correct" and "wrong"), where the
            kind has them: which to keep.

        Returns
        -------
        Tables

        Raises
        ------
        ValueError
            If there is no such kind, or no row of such a name.
        """
        wanted = {key: [name] if isinstance(name, str) else [*name] for key, name in names.items()}
        kinds = [kind] if isinstance(kind, str) else [*kind]
        if unknown := [name for name in kinds if name not in self.frames]:
            raise ValueError(
                f"no tables of the kind {unknown[0]!r}: choose from {', '.join(self.frames)}"
            )
        frames = {name: _keep(self.frames[name], name, wanted) for name in kinds}
        tables = []
        for table in (table for table in self.tables if table.kind in kinds):
            rows = tuple(row for row in table.rows if _is_of({**table.about, **row.about}, wanted))
            if rows:
                tables.append(replace(table, rows=rows))
        return replace(self, frames=frames, tables=tables)

    def _repr_html_(self) -> str:
        return to_html(self.tables)


def _keep(frame: pd.DataFrame, kind: str, wanted: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return the rows of a frame that have the wanted names, all of which must be there."""
    for key, names in wanted.items():
        known = list(dict.fromkeys(frame[key])) if key in _NAMES and key in frame else []
        missing = [name for name in names if name not in known]
        if missing or not names:
            choices = f"choose from {', '.join(known)}" if known else "the kind is not told apart"
            raise ValueError(
                f"{kind}: no {key} {', '.join(map(repr, missing)) or '(none named)'}: {choices}"
            )
    chosen = pd.Series(True, index=frame.index)
    for key, names in wanted.items():
        chosen &= frame[key].isin(names)
    return frame[chosen].reset_index(drop=True)


def _is_of(about: Mapping[str, str], wanted: Mapping[str, list[str]]) -> bool:
    return all(about[key] in names for key, names in wanted.items())


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
    frames["experiments"] = _side_by_side(by_method)
    tables += _experiment_tables(by_method)
    of_best = of_best.assign(mask="best of each")
    comparisons = [table for table in (of_methods, of_best) if len(table)]
    frames["comparisons"] = pd.concat(comparisons, ignore_index=True) if comparisons else of_methods
    frames["plane"] = fidelity_simplicity(results)
    return Tables(frames, tables, on=results["on"].iloc[0] if "on" in results else "features")


_DECIMALS = {
    "FF": 3,
    "AI": 1,
    "AD": 1,
    "AG": 1,
    "FidIn": 3,
    "SPS": 3,
    "COMP": 2,
    SCORE: 3,
    "accuracy": 2,
}
_ALL_COLUMNS = (*METRIC_COLUMNS, SCORE)
_PERCENT = ("AI", "AD", "AG", "accuracy")
_NAMES = ("model", "experiment", "method", "mask", "metric", "label")


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
    lines = [_row(row, row["model"], row["experiment"], ("accuracy",)) for row in rows]
    caption = f"Share of the clips classified correctly ({_clips(rows)})"
    return [_table("accuracy", caption, ("model", "experiment"), lines, columns=("accuracy",))]


def _summary_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        caption = f"{model}: each method with its best mask by the score ({_clips(rows)})"
        lines = [_row(row, row["experiment"], f"{row['method']} ({row['mask']})") for row in rows]
        stub = ("experiment", "method (mask)")
        tables.append(_table("summary", caption, stub, lines, model=model))
    return tables


def _mask_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        caption = f"{model}, {experiment}, {method}: all masks ({_clips(rows)})"
        lines = [_row(row, "", row["mask"]) for row in rows]
        about = {"model": model, "experiment": experiment, "method": method}
        tables.append(_table("masks_by_method", caption, ("mask",), lines, **about))
    return tables


def _method_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment), rows in _by(frame, "model", "experiment"):
        caption = f"{model}, {experiment}: all methods under each mask ({_clips(rows)})"
        lines = [_row(row, row["mask"], row["method"]) for row in rows]
        about = {"model": model, "experiment": experiment}
        tables.append(_table("methods_by_mask", caption, ("mask", "method"), lines, **about))
    return tables


def _part_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        lines, counts = [], []
        for label in ("correct", "wrong"):
            part = [row for row in rows if row["label"] == label]
            lines += [_row(row, label, row["mask"]) for row in part]
            counts += [f"{_clips(part)} classified {label}ly"] if part else []
        caption = f"{model}, {experiment}, {method}: {', '.join(counts)}"
        about = {"model": model, "experiment": experiment, "method": method}
        tables.append(_table("correct_and_wrong", caption, ("clips", "mask"), lines, **about))
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
            lines = [
                Row(
                    method,
                    mask,
                    tuple(_cell(found.get((method, mask, name)), metric) for name in experiments),
                    {"method": method, "mask": mask},
                )
                for method, mask in zip(pairs["method"], pairs["mask"], strict=True)
            ]
            _, unit, better = _column(metric)
            way = "higher is better" if better > 0 else "lower is better"
            caption = f"{model}, {metric} ({f'{unit}, ' if unit else ''}{way}; {_clips(rows)})"
            headings = tuple(map(Column, experiments))
            about = {"model": model, "metric": metric}
            stub = ("method", "mask")
            tables.append(Table("experiments", caption, stub, headings, tuple(lines), about))
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


def _table(
    kind: str,
    caption: str,
    stub: tuple[str, ...],
    rows: Sequence[Row],
    *,
    columns: Sequence[str] = _ALL_COLUMNS,
    **about: str,
) -> Table:
    return Table(kind, caption, stub, tuple(map(_column, columns)), tuple(rows), about)


def _column(metric: str) -> Column:
    better = 1 if HIGHER_IS_BETTER.get(metric, True) else -1
    return Column(metric, "%" if metric in _PERCENT else "", better)


def _row(row: dict[str, Any], group: str, label: str, columns: Sequence[str] = _ALL_COLUMNS) -> Row:
    about = {key: row[key] for key in _NAMES if key in row}
    return Row(group, label, tuple(_cell(row, metric) for metric in columns), about)


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
