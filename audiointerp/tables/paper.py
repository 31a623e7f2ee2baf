"""Tables of a paper, made from results: by mask, method and experiment, and summaries.

`make_tables` returns them twice: the numbers in full as frames, and captioned and rounded for
reading. They show themselves in a notebook; `audiointerp.tables.files` writes them.
`docs/tables.md` says how to read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from audiointerp.evaluation import metric_columns
from audiointerp.evaluation.statistics import share_interval
from audiointerp.interpretation import is_reference, method_label
from audiointerp.plots import draw_plane
from audiointerp.tables.build import (
    ACCURACY,
    cell_of,
    clips_in_words,
    column_of,
    explain_counts,
    families_of,
    family_tables,
    population_column,
    populations_differ,
    with_counts,
)
from audiointerp.tables.cells import CLIPS, COUNTS, Column, Row
from audiointerp.tables.load import EXPLAINED, RUN_COLUMNS
from audiointerp.tables.notes import Note, find_notes, sources_of
from audiointerp.tables.order import in_order, rank_names
from audiointerp.tables.score import SCORE, scored_metrics
from audiointerp.tables.summary import (
    best_masks,
    compare,
    estimate,
    fidelity_simplicity,
    mark,
)
from audiointerp.tables.table import Drawing, Table, Tables


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
        *accuracy_tables(frames["accuracy"]),
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
    frames = {kind: with_references(frame) for kind, frame in frames.items()}
    scored = tuple(scored_metrics(results))
    drawings = _planes(frames["plane"], scored)
    explains = {"explains": "every explained class counts"} if EXPLAINED in results else {}
    return Tables(frames, tables, drawings, on, scored, tuple(notes), **explains)


_PLANE_LEGEND = (
    "Each metric is scaled from 0 (worthless) to 1 (best). Pareto-optimal pairs lie on the front."
)


def _planes(frame: pd.DataFrame, scored: Sequence[str]) -> list[Drawing]:
    """Return a picture of every model's and experiment's methods and masks."""
    groups = frame.groupby(["model", "experiment"], sort=False)
    return [
        Drawing(
            "plane",
            {"model": model, "experiment": experiment},
            partial(_draw_plane, plane=plane, metrics=scored),
            _PLANE_LEGEND,
        )
        for (model, experiment), plane in groups
    ]


def _draw_plane(axes: Axes, title: str, *, plane: pd.DataFrame, metrics: Sequence[str]) -> None:
    draw_plane(axes, plane, title=title, metrics=metrics)


def with_references(frame: pd.DataFrame) -> pd.DataFrame:
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
    names = ("model", "experiment", "clips", ACCURACY, "accuracy_low", "accuracy_high")
    return in_order(pd.DataFrame(rows, columns=list(names)))


def accuracy_tables(frame: pd.DataFrame) -> list[Table]:
    """Return the table of what `accuracy_intervals` returns."""
    rows = frame.to_dict("records")
    lines = [(row, row["model"], row["experiment"]) for row in rows]
    caption = f"Share of the clips classified correctly ({clips_in_words(rows)})"
    return family_tables("accuracy", caption, ("model", "experiment"), lines, {"": [ACCURACY]})


def _summary_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        caption = f"{model}: each method with its best mask by the score ({clips_in_words(rows)})"
        lines = [(row, row["experiment"], _with_mask(row)) for row in rows]
        stub = ("experiment", "method (mask)")
        tables += family_tables("summary", caption, stub, lines, families_of(frame), model=model)
    return tables


def _with_mask(row: Mapping[str, Any]) -> str:
    reference = "; reference" if is_reference(row["method"]) else ""
    return f"{row['method']} ({row['mask']}{reference})"


def _mask_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        name = method_label(method)
        caption = f"{model}, {experiment}, {name}: all masks ({clips_in_words(rows)})"
        lines = [(row, "", row["mask"]) for row in rows]
        about = {"model": model, "experiment": experiment, "method": method}
        families = families_of(frame)
        tables += family_tables("masks_by_method", caption, ("mask",), lines, families, **about)
    return tables


def _method_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment), rows in _by(frame, "model", "experiment"):
        caption = f"{model}, {experiment}: all methods under each mask ({clips_in_words(rows)})"
        lines = [(row, row["mask"], method_label(row["method"])) for row in rows]
        about = {"model": model, "experiment": experiment}
        stub = ("mask", "method")
        tables += family_tables(
            "methods_by_mask", caption, stub, lines, families_of(frame), **about
        )
    return tables


def _part_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model, experiment, method), rows in _by(frame, "model", "experiment", "method"):
        lines, counts = [], []
        for label in ("correct", "wrong"):
            part = [row for row in rows if row["label"] == label]
            lines += [(row, label, row["mask"]) for row in part]
            counts += [f"{clips_in_words(part)} classified {label}ly"] if part else []
        caption = f"{model}, {experiment}, {method_label(method)}: {', '.join(counts)}"
        about = {"model": model, "experiment": experiment, "method": method}
        stub, families = ("clips", "mask"), families_of(frame)
        tables += family_tables("correct_and_wrong", caption, stub, lines, families, **about)
    return tables


def _experiment_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (model,), rows in _by(frame, "model"):
        experiments = tuple(dict.fromkeys(row["experiment"] for row in rows))
        if len(experiments) < 2:
            continue
        found = {(row["method"], row["mask"], row["experiment"]): row for row in rows}
        pairs = in_order(frame[frame["model"] == model][["method", "mask"]].drop_duplicates())
        for metric in [name for names in families_of(frame).values() for name in names]:
            column = column_of(metric)
            fields = with_counts(metric, rows)
            if len(fields) == 1 and populations_differ(rows):
                fields.append((CLIPS, population_column(rows)))
            lines = [
                Row(
                    method_label(method),
                    mask,
                    tuple(
                        cell_of(found.get((method, mask, name)), field, heading.decimals)
                        for name in experiments
                        for heading, field in fields
                    ),
                    {"method": method, "mask": mask},
                )
                for method, mask in zip(pairs["method"], pairs["mask"], strict=True)
            ]
            way = "higher is better" if column.better > 0 else "lower is better"
            unit = f"{column.unit}, " if column.unit else ""
            caption = (
                f"{model}, {metric} ({unit}{way}; {clips_in_words(rows)}){explain_counts(fields)}"
            )
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
