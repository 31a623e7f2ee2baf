"""The tables of a paper, made from results: of masks, methods, experiments, and the summaries.

`make_tables` returns them twice: the numbers in full as frames, and captioned and rounded for
reading. They show themselves in a notebook; `audiointerp.tables.files` writes them.
`docs/tables.md` says how to read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any

import numpy as np
import pandas as pd

from audiointerp.evaluation import METRICS, SCORED_FAMILIES, metric_columns
from audiointerp.evaluation.statistics import share_interval
from audiointerp.interpretation import is_reference, method_label
from audiointerp.tables.cells import CLIPS, COUNT, COUNTS, Cell, Column, Row
from audiointerp.tables.load import RUN_COLUMNS
from audiointerp.tables.notes import Note, find_notes, sources_of
from audiointerp.tables.order import in_order, rank_names
from audiointerp.tables.score import SCORE, SCORE_DECIMALS, scored_metrics
from audiointerp.tables.summary import (
    best_masks,
    compare,
    estimate,
    fidelity_simplicity,
    mark,
)
from audiointerp.tables.table import NAMES, Table, Tables


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

    Raises
    ------
    ValueError
        If no metric that the score could be made of is in all runs, or a mean lies outside the
        bounds of its metric.
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
    on = results["on"].iloc[0] if "on" in results else "features"
    notes = results.attrs.get("notes")
    if notes is None:
        notes = find_notes(sources_of(results))
    tables = [_with_notes(table, notes, frames["accuracy"]) for table in tables]
    frames = {kind: _with_references(frame) for kind, frame in frames.items()}
    return Tables(frames, tables, on, tuple(scored_metrics(results)), tuple(notes))


def _with_references(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that says which rows are of references, where some are."""
    if "method" not in frame:
        return frame
    references = [is_reference(method) for method in frame["method"]]
    if not any(references):
        return frame
    marked = frame.copy()
    marked.insert(frame.columns.get_loc("method") + 1, "reference", references)
    return marked


def _with_notes(table: Table, notes: Sequence[Note], accuracies: pd.DataFrame) -> Table:
    """Return a table with the notes that concern its rows and metrics.

    The accuracy depends on no mask, and is of every clip that some method has.
    """
    if table.kind == "accuracy":
        clips = accuracies.set_index(["model", "experiment"])["clips"]
        notes = [
            note._replace(method="", masks=())
            for note in notes
            if note.kind in ("settings", "leakage")
            or (note.kind == "clips" and clips.get((note.model, note.experiment), 0) < note.of)
        ]
    shown = {table.about.get("metric", ""), *(column.name for column in table.columns)}
    notes = [note for note in notes if not note.metrics or shown & set(note.metrics)]
    return table.choose_rows(table.rows, notes)


_ACCURACY = "accuracy"
_DERIVED = {
    SCORE: Column(SCORE, "", 1, SCORE_DECIMALS),
    _ACCURACY: Column(_ACCURACY, "%", 1, 2),
}
"""Columns that are no metrics of a clip."""
_COLUMNS_AT_MOST = 9
"""Of a table that fits the width of a page."""

_Line = tuple[dict[str, Any], str, str]
"""A row of a frame, the group it is in and its label."""
_Field = tuple[Column, str]
"""A heading, and the column of a frame that stands below it."""


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
        share = share_interval(group["is_correct"], resamples=resamples, seed=seed)
        rows.append((model, experiment, len(group), *share))
    names = ("model", "experiment", "clips", _ACCURACY, "accuracy_low", "accuracy_high")
    return in_order(pd.DataFrame(rows, columns=list(names)))


def _accuracy_tables(frame: pd.DataFrame) -> list[Table]:
    rows = frame.to_dict("records")
    lines = [(row, row["model"], row["experiment"]) for row in rows]
    caption = f"Share of the clips classified correctly ({_clips(rows)})"
    return _tables("accuracy", caption, ("model", "experiment"), lines, {"": [_ACCURACY]})


def _summary_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        caption = f"{model}: each method with its best mask by the score ({_clips(rows)})"
        lines = [(row, row["experiment"], _with_mask(row)) for row in rows]
        stub = ("experiment", "method (mask)")
        tables += _tables("summary", caption, stub, lines, _families(frame), model=model)
    return tables


def _with_mask(row: Mapping[str, Any]) -> str:
    reference = "; reference" if is_reference(row["method"]) else ""
    return f"{row['method']} ({row['mask']}{reference})"


def _mask_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        name = method_label(method)
        caption = f"{model}, {experiment}, {name}: all masks ({_clips(rows)})"
        lines = [(row, "", row["mask"]) for row in rows]
        about = {"model": model, "experiment": experiment, "method": method}
        families = _families(frame)
        tables += _tables("masks_by_method", caption, ("mask",), lines, families, **about)
    return tables


def _method_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment), rows in _by(frame, "model", "experiment"):
        caption = f"{model}, {experiment}: all methods under each mask ({_clips(rows)})"
        lines = [(row, row["mask"], method_label(row["method"])) for row in rows]
        about = {"model": model, "experiment": experiment}
        stub = ("mask", "method")
        tables += _tables("methods_by_mask", caption, stub, lines, _families(frame), **about)
    return tables


def _part_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        lines, counts = [], []
        for label in ("correct", "wrong"):
            part = [row for row in rows if row["label"] == label]
            lines += [(row, label, row["mask"]) for row in part]
            counts += [f"{_clips(part)} classified {label}ly"] if part else []
        caption = f"{model}, {experiment}, {method_label(method)}: {', '.join(counts)}"
        about = {"model": model, "experiment": experiment, "method": method}
        stub, families = ("clips", "mask"), _families(frame)
        tables += _tables("correct_and_wrong", caption, stub, lines, families, **about)
    return tables


def _experiment_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        experiments = tuple(dict.fromkeys(row["experiment"] for row in rows))
        if len(experiments) < 2:
            continue
        found = {(row["method"], row["mask"], row["experiment"]): row for row in rows}
        pairs = in_order(frame[frame["model"] == model][["method", "mask"]].drop_duplicates())
        for metric in [name for names in _families(frame).values() for name in names]:
            column = _column(metric)
            fields = _with_counts(metric, rows)
            if len(fields) == 1 and _differ(rows):
                fields.append((CLIPS, _population(rows)))
            lines = [
                Row(
                    method_label(method),
                    mask,
                    tuple(
                        _cell(found.get((method, mask, name)), field, heading.decimals)
                        for name in experiments
                        for heading, field in fields
                    ),
                    {"method": method, "mask": mask},
                )
                for method, mask in zip(pairs["method"], pairs["mask"], strict=True)
            ]
            way = "higher is better" if column.better > 0 else "lower is better"
            unit = f"{column.unit}, " if column.unit else ""
            caption = f"{model}, {metric} ({unit}{way}; {_clips(rows)}){_explain_counts(fields)}"
            headings = [
                heading if heading in COUNTS else Column(name, decimals=column.decimals)
                for name in experiments
                for heading, _ in fields
            ]
            about = {"model": model, "metric": metric}
            stub = ("method", "mask")
            tables.append(Table("experiments", caption, stub, tuple(headings), tuple(lines), about))
    return tables


def _side_by_side(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, method, mask and metric, one set of columns per experiment."""
    keys = ["model", "method", "mask"]
    parts = []
    differ = len(frame["clips"].unique()) > 1
    for metric in (*metric_columns(frame), SCORE):
        endings = ["", "_low", "_high", "_mark", *(["_n"] if f"{metric}_n" in frame else [])]
        columns = [f"{metric}{ending}" for ending in endings]
        if differ:
            frame = frame.assign(**{f"{metric}_clips": frame["clips"]})
            columns.append(f"{metric}_clips")
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


def _families(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the metrics by the table that shows them: those of the score, "", then by family."""
    families = {"": [*metric_columns(frame, SCORED_FAMILIES), SCORE]}
    for name in metric_columns(frame):
        if METRICS[name].family not in SCORED_FAMILIES:
            families.setdefault(METRICS[name].family, []).append(name)
    return families


def _tables(
    kind: str,
    caption: str,
    stub: tuple[str, ...],
    lines: Sequence[_Line],
    families: Mapping[str, Sequence[str]],
    **about: str,
) -> list[Table]:
    """Return a table for each family of metrics, or several if a page is too narrow for one."""
    tables = []
    rows = [row for row, _, _ in lines]
    before: list[_Field] = [(CLIPS, _population(rows))] if _differ(rows) else []
    for family, metrics in families.items():
        parts: list[list[_Field]] = [[*before]]
        for fields in _share_counts([_with_counts(metric, rows) for metric in metrics], rows):
            if len(parts[-1]) + len(fields) > _COLUMNS_AT_MOST:
                parts.append([*before])
            parts[-1] += fields
        for number, fields in enumerate(parts, start=1):
            notes = ([family] if family else []) + ([f"{number} of {len(parts)}"] * (number > 1))
            tables.append(
                Table(
                    kind,
                    "; ".join([caption, *notes]) + _explain_counts(fields),
                    stub,
                    tuple(column for column, _ in fields),
                    tuple(_row(*line, fields) for line in lines),
                    about,
                )
            )
    return tables


def _population(rows: Sequence[dict[str, Any]]) -> str:
    """Return the column that counts what a mean is over: explained classes, or clips."""
    return "rows" if "rows" in rows[0] else "clips"


def _differ(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether means that are compared are over different numbers of clips.

    Those of correctly and of wrongly classified clips are not compared with each other.
    """
    parts: dict[str, set[tuple]] = {}
    for row in rows:
        counts = row["clips"], row.get("rows", 0)
        parts.setdefault(row.get("label", ""), set()).add(counts)
    return any(len(counts) > 1 for counts in parts.values())


def _with_counts(metric: str, rows: Sequence[dict[str, Any]]) -> list[_Field]:
    """Return the column of a metric and, where some rows lack its value, how many have one."""
    fields, count = [(_column(metric), metric)], f"{metric}_n"
    if any(0 < row.get(count, 0) < row.get("rows", row["clips"]) for row in rows):
        fields.append((COUNT, count))
    return fields


def _share_counts(
    columns: Sequence[list[_Field]], rows: Sequence[dict[str, Any]]
) -> list[list[_Field]]:
    """Return the columns of metrics, with one count for neighbours that have the same ones."""

    def counts(fields: list[_Field]) -> list[int] | None:
        return [row.get(fields[1][1]) for row in rows] if len(fields) > 1 else None

    return [
        fields[:1] if after is not None and counts(fields) == counts(after) else fields
        for fields, after in zip_longest(columns, columns[1:])
    ]


def _explain_counts(fields: Sequence[_Field]) -> str:
    count = [column for column, _ in fields].count(COUNT)
    if not count:
        return ""
    shared = count < sum(column not in COUNTS for column, _ in fields)
    return "; n: how many have a value" + (" in the columns before it" if shared else "")


def _column(metric: str) -> Column:
    if metric in _DERIVED:
        return _DERIVED[metric]
    known = METRICS[metric]
    return Column(known.name, known.unit, known.better, known.decimals)


def _row(row: dict[str, Any], group: str, label: str, fields: Sequence[_Field]) -> Row:
    about = {key: row[key] for key in NAMES if key in row}
    cells = tuple(_cell(row, field, column.decimals) for column, field in fields)
    return Row(group, label, cells, about)


def _cell(row: dict[str, Any] | None, field: str, decimals: int) -> Cell:
    """Return one number of a row, an empty cell where there is no row."""
    if row is None:
        return Cell(math.nan, math.nan, math.nan, decimals)
    low, high = (row.get(f"{field}_{end}", math.nan) for end in ("low", "high"))
    return Cell(row[field], low, high, decimals, row.get(f"{field}_mark", ""))


def _clips(rows: list[dict[str, Any]]) -> str:
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
