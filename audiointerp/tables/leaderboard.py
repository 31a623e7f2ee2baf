"""Leaderboard of methods: benchmark results → rankings, levels and agreement.

`load_benchmark` reads the runs, `make_leaderboard` makes the tables and pictures. What a row pools:
the clips of a model under every noise of the main level, explained by their true label.
`docs/benchmark.md` says how to read them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from audiointerp.evaluation import METRICS, metric_columns
from audiointerp.evaluation.agreement import agreement
from audiointerp.interpretation import METHODS, is_reference, method_label
from audiointerp.plots.levels import draw_agreement, draw_levels
from audiointerp.runs.names import split_condition
from audiointerp.tables.build import column_of, family_tables
from audiointerp.tables.cells import Cell, Column, Row
from audiointerp.tables.load import EXPLAINED, load_results
from audiointerp.tables.order import in_order, sorting_key
from audiointerp.tables.paper import accuracy_intervals, accuracy_tables, with_references
from audiointerp.tables.summary import compare, estimate, mark
from audiointerp.tables.table import Drawing, Table, Tables

FIDELITY = ("fidelity", "robust fidelity", "curves")
"""Families of metrics that ask the network alone."""
TRUTH = ("localisation", "localisation in time", "sound")
"""Families of metrics that ask what is known of the clip."""
SHOWN = ("AUPRC", "FF")
"""The metrics that are drawn over the level and against each other, if there are both."""

Clips = Literal["correct", "all"]

_LEVELS_LEGEND = (
    "Mean over the clips with its 95 % bootstrap interval; those that are classified correctly are "
    "others at each level. Grey, dashed: references."
)
_AGREEMENT_LEGEND = (
    "Means over the clips with 95 % bootstrap intervals; grey: references. If fidelity told which "
    "method finds the sound, the points would rise to the right."
)


def load_benchmark(
    results: str | os.PathLike[str],
    *,
    models: Sequence[str] | None = None,
    on: str = "features",
) -> pd.DataFrame:
    """Read the runs of a benchmark into one long table.

    Parameters
    ----------
    results : path
        Holds ``<model>/<method>_<noise>/`` and, at other levels, ``<method>_<noise>_<level>dB/``.
    models : sequence of str, optional
        Which to read; all by default.
    on : {"features", "audio"}
        What the metrics were measured on.

    Returns
    -------
    DataFrame
        As `audiointerp.tables.load_results` returns it, with ``noise`` and ``snr_db`` (NaN at the
        main level).

    Raises
    ------
    ValueError
        If there are no results, or none with metrics of truth.
    """
    table = load_results(results, on=on, models=models)
    if not metric_columns(table, TRUTH):
        raise ValueError(
            f"{Path(results)}: no run has a metric of {' or '.join(TRUTH)}: a benchmark needs "
            "clips whose parts are known, with noise or of the synthetic set"
        )
    conditions = [split_condition(experiment) for experiment in table["experiment"]]
    noise, level = (list(each) for each in zip(*conditions, strict=True))
    return table.assign(noise=noise, snr_db=level)


def make_leaderboard(
    results: pd.DataFrame,
    *,
    mask: str = "topK_30",
    clips: Clips = "correct",
    resamples: int = 5_000,
    seed: int = 0,
) -> Tables:
    """Make the tables of a benchmark: leaderboard, conditions, levels and agreement.

    Parameters
    ----------
    results : DataFrame
        As `load_benchmark` returns it.
    mask : str
        The mask whose fidelity and sound are shown; what is measured on maps depends on none.
    clips : {"correct", "all"}
        Take the clips that are classified correctly, or all. The true label is explained; of a
        clip that the network takes for something else, there may be nothing to find.
    resamples, seed : int
        Of the bootstrap, over clips.

    Returns
    -------
    Tables
        Frames: ``accuracy``; ``leaderboard``, one row per model and method, over all noises of the
        main level; ``conditions``, the same for each noise; ``levels``, for each noise and level;
        ``agreement``, rank correlations between metrics of fidelity and of truth over the methods;
        ``comparisons``, every paired test between methods of the leaderboard.

    Raises
    ------
    ValueError
        If no run has the mask, or the main level is missing.
    """
    if clips not in get_args(Clips):
        raise ValueError(f"clips={clips!r}: choose from {', '.join(get_args(Clips))}")
    masked = results[results["mask"] == mask]
    if masked.empty:
        known = ", ".join(dict.fromkeys(results["mask"]))
        raise ValueError(f"no run has the mask {mask!r}: choose from {known}")
    if clips == "correct":
        masked = masked[masked["is_correct"].astype(bool)]
        if masked.empty:
            raise ValueError("no clip is classified correctly: take clips='all'")
    main = masked[masked["snr_db"].isna()]
    if main.empty:
        raise ValueError("all runs are at a level of their own: make those of the main level too")
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    pooled = in_order(estimate(main, ("model", "method"), **options))
    tests = compare(main, "method", within=("model",), unit=("clip", "experiment", *_label(main)))
    pooled = mark(pooled, tests, "method", within=("model",))
    of_noise = ("model", "experiment")
    conditions = in_order(estimate(main, (*of_noise, "method"), **options))
    of_each = compare(main, "method", within=of_noise)
    conditions = mark(conditions, of_each, "method", within=of_noise)
    levels = _estimate_levels(masked, **options)
    frames = {
        "accuracy": accuracy_intervals(results, **options),
        "leaderboard": pooled,
        "conditions": conditions,
        "levels": levels,
        "agreement": rank_agreement(main, **options),
        "comparisons": tests,
    }
    frames = {kind: with_references(frame) for kind, frame in frames.items()}
    tables = [
        *accuracy_tables(frames["accuracy"]),
        *_leaderboard_tables(pooled, main, mask, clips),
        *_condition_tables(conditions, mask, clips),
        *_level_tables(levels, mask),
        *_agreement_tables(frames["agreement"]),
    ]
    drawings = [*_draw_levels(levels), *_draw_agreements(pooled)]
    on = results["on"].iloc[0]
    notes = tuple(results.attrs.get("notes", ()))
    explains = "the class is the one that the clip truly has"
    return Tables(frames, tables, drawings, on, (), notes, explains)


def rank_agreement(results: pd.DataFrame, *, resamples: int = 5_000, seed: int = 0) -> pd.DataFrame:
    """Return how far metrics of fidelity and of truth order the methods of each model alike.

    Parameters
    ----------
    results : DataFrame
        As `load_benchmark` returns it, of one mask.
    resamples, seed : int
        Of the bootstrap, over clips.

    Returns
    -------
    DataFrame
        One row per model, metric of fidelity and metric of truth: ``rho``, Spearman's correlation
        over the methods' means, 1 where both order them alike (whichever way a metric points),
        ``rho_low`` and ``rho_high``, and ``methods``, how many there are. References take part,
        but for those that know the truth.
    """
    sides = [metric_columns(results, families) for families in (FIDELITY, TRUTH)]
    names = [*sides[0], *sides[1]]
    signs = np.array([METRICS[name].better for name in names])
    pairs = [(names.index(a), names.index(b)) for a, b in product(*sides)]
    unit = ["clip", "experiment", *_label(results)]
    parts = []
    for model, rows in results.groupby("model", sort=False):
        methods = [
            name
            for name in sorted(rows["method"].unique(), key=sorting_key("method"))
            if "truth" not in getattr(METHODS.get(name), "requires", ())
        ]
        wide = rows.set_index([*unit, "method"])[names].unstack("method")  # noqa: PD010
        wide = wide.reindex(columns=pd.MultiIndex.from_product([names, methods]))
        values = wide.to_numpy(float).reshape(len(wide), len(names), len(methods))
        clips = wide.index.get_level_values("clip")
        found = agreement(
            signs * values.transpose(0, 2, 1), pairs, clusters=clips, resamples=resamples, seed=seed
        )
        for (first, second), (rho, low, high) in zip(pairs, found, strict=True):
            parts.append((model, names[first], names[second], len(methods), rho, low, high))
    columns = ["model", "fidelity", "truth", "methods", "rho", "rho_low", "rho_high"]
    return pd.DataFrame(parts, columns=columns)


def _label(results: pd.DataFrame) -> list[str]:
    """Return the column of the explained label, if there is one."""
    return [EXPLAINED] if EXPLAINED in results else []


def _estimate_levels(results: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Return means and intervals by model, noise, level and method, of runs at other levels."""
    rows = results[results["snr_db"].notna()]
    if rows.empty:
        return pd.DataFrame(columns=["model", "noise", "snr_db", "method"])
    names = ("model", "noise", "snr_db", "method")
    frame = estimate(rows, names, **options)
    return frame.sort_values(
        list(names),
        key=lambda column: (
            column.map(sorting_key(str(column.name))) if column.name == "method" else column
        ),
        kind="stable",
        ignore_index=True,
    )


def _families(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the metrics by the table that shows them, those of truth first."""
    families = {family: metric_columns(frame, [family]) for family in (*TRUTH, *FIDELITY)}
    return {family: names for family, names in families.items() if names}


def _which(clips: str) -> str:
    return "correctly classified clips" if clips == "correct" else "all clips"


def _leaderboard_tables(
    frame: pd.DataFrame, results: pd.DataFrame, mask: str, clips: str
) -> list[Table]:
    tables = []
    noises = results.groupby("model")["experiment"].unique().map(", ".join)
    for model, group in frame.groupby("model", sort=False):
        rows = group.to_dict("records")
        caption = f"{model}: {_which(clips)} under {noises[model]}; mask {mask}"
        lines = [(row, "", method_label(row["method"])) for row in rows]
        families = _families(frame)
        about = {"model": str(model)}
        tables += family_tables("leaderboard", caption, ("method",), lines, families, **about)
    return tables


def _condition_tables(frame: pd.DataFrame, mask: str, clips: str) -> list[Table]:
    tables = []
    for model, group in frame.groupby("model", sort=False):
        caption = f"{model}: {_which(clips)}; mask {mask}"
        records = group.to_dict("records")
        lines = [(row, row["experiment"], method_label(row["method"])) for row in records]
        stub, families = ("experiment", "method"), _families(frame)
        tables += family_tables("conditions", caption, stub, lines, families, model=str(model))
    return tables


def _level_tables(frame: pd.DataFrame, mask: str) -> list[Table]:
    """Return a table for each model and metric that is drawn: methods by levels."""
    tables = []
    for (model, metric), group in _by_model(frame):
        levels = sorted(group["snr_db"].unique())
        found = {(r["noise"], r["method"], r["snr_db"]): r for r in group.to_dict("records")}
        heading = column_of(metric)
        rows = []
        for noise, method in dict.fromkeys((row[0], row[1]) for row in found):
            cells = tuple(
                _level_cell(found.get((noise, method, level)), metric, heading.decimals)
                for level in levels
            )
            about = {"model": model, "method": method}
            rows.append(Row(noise, method_label(method), cells, about))
        columns = tuple(Column(f"{level:g} dB", decimals=heading.decimals) for level in levels)
        way = "higher is better" if heading.better > 0 else "lower is better"
        caption = f"{model}, {metric} ({way}) at each level; mask {mask}"
        about = {"model": model, "metric": metric}
        tables.append(Table("levels", caption, ("noise", "method"), columns, tuple(rows), about))
    return tables


def _level_cell(row: dict[str, Any] | None, metric: str, decimals: int) -> Cell:
    if row is None:
        return Cell(np.nan, np.nan, np.nan, decimals)
    return Cell(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], decimals)


def _by_model(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Return the levels of each model with each of the metrics that are drawn."""
    return [
        ((str(model), metric), group)
        for model, group in frame.groupby("model", sort=False)
        for metric in SHOWN
        if metric in group
    ]


def _agreement_tables(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for model, group in frame.groupby("model", sort=False):
        names = list(dict.fromkeys(group["truth"]))
        found = {(row["fidelity"], row["truth"]): row for row in group.to_dict("records")}
        rows = tuple(
            Row(
                "",
                metric,
                tuple(
                    Cell(*(found[metric, name][f"rho{end}"] for end in ("", "_low", "_high")), 2)
                    for name in names
                ),
                {"model": str(model), "metric": metric},
            )
            for metric in dict.fromkeys(group["fidelity"])
        )
        caption = (
            f"{model}: rank correlation of the means of {group['methods'].iloc[0]} methods, of "
            "fidelity (rows) and of truth (columns)"
        )
        columns = tuple(Column(name, decimals=2) for name in names)
        for start in range(0, len(columns), 9):
            part = slice(start, start + 9)
            cut = tuple(row._replace(cells=row.cells[part]) for row in rows)
            about = {"model": str(model)}
            tables.append(Table("agreement", caption, ("fidelity",), columns[part], cut, about))
    return tables


def _draw_levels(frame: pd.DataFrame) -> list[Drawing]:
    drawings = []
    for (model, metric), group in _by_model(frame):
        for noise, rows in group.groupby("noise", sort=False):
            draw = partial(_draw_level, rows=rows, metric=metric)
            about = {"model": model, "noise": str(noise), "metric": metric}
            drawings.append(Drawing("levels", about, draw, _LEVELS_LEGEND))
    return drawings


def _draw_level(axes: Axes, title: str, *, rows: pd.DataFrame, metric: str) -> None:
    references = list(filter(is_reference, rows["method"]))
    draw_levels(axes, rows, metric, title=title, references=references)


def _draw_agreements(frame: pd.DataFrame) -> list[Drawing]:
    if not set(SHOWN) <= set(frame.columns):
        return []
    return [
        Drawing(
            "agreement", {"model": str(model)}, partial(_draw_pair, rows=rows), _AGREEMENT_LEGEND
        )
        for model, rows in frame.groupby("model", sort=False)
    ]


def _draw_pair(axes: Axes, title: str, *, rows: pd.DataFrame) -> None:
    references = list(filter(is_reference, rows["method"]))
    draw_agreement(axes, rows, *reversed(SHOWN), title=title, references=references)
