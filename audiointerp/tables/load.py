"""Results folders → one long table, whatever metrics each run has."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from audiointerp.arguments import several
from audiointerp.evaluation import METRICS, Metric, metric_columns
from audiointerp.processing import build_processor
from audiointerp.reading import TEXTS, FileError, describe_stray, shown, without_stray
from audiointerp.registry import check_different
from audiointerp.runs.names import split_run_name
from audiointerp.runs.store import (
    CLIP_COLUMNS,
    EXPLAINED,
    TABLES,
    read_diagnostics,
    read_run,
    read_table,
)
from audiointerp.tables.notes import IncompleteWarning, Note, Source, find_notes, note_lines

RUN_COLUMNS = ("model", "method", "experiment", "mask")
"""Column of the explained class, where a clip may have a row for each of several."""


def load_results(
    results: str | os.PathLike[str],
    *,
    on: str = "features",
    models: Sequence[str] | None = None,
    experiments: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read the runs below a results folder into one long table.

    Parameters
    ----------
    results : path
        Holds ``<model>/<method>_<experiment>/`` folders.
    on : {"features", "audio"}
        Which tables to read: measured on masked features or on masked sounds.
    models, experiments : sequence of str, optional
        Which to read; all by default.

    Returns
    -------
    DataFrame
        One row per model, method, experiment, mask and clip, or explained class of a clip, which
        ``explained`` then names. One column for every metric that some run has, in the order of
        ``METRICS``; NaN where a run lacks it or a clip gives no evidence for it. ``cells`` is the
        number N of cells of a mask, hence ln N the largest COMP: from the run's settings or, where
        they do not say, from the largest COMP among the model's rows. ``on`` is what was asked for.
        ``attrs["notes"]`` lists what the means do not show, such as the clips that a table lacks;
        see `audiointerp.tables.notes.Note`.

    Raises
    ------
    ValueError
        If there are no results, none of a wanted name, a name is given twice, or a table has no
        metrics, values that are no numbers or a clip twice.

    Warns
    -----
    IncompleteWarning
        If a run is not finished, or a table lacks clips that ``run.json`` or another table of the
        same set has, or runs that are compared were made with different settings.
    UserWarning
        If a run lacks metrics that another has, or columns are left out because no metric of that
        name is registered.
    """
    if on not in TABLES:
        raise ValueError(f"on={on!r}: choose from {', '.join(TABLES)}")
    root = Path(results)
    paths = without_stray(root.glob(f"*/*_*/{TABLES[on]}/*.csv"), root)
    if not paths:
        raise ValueError(
            f"{root}: no results measured on {on}; expected <model>/<method>_<experiment>/"
            f"{TABLES[on]}/<mask>.csv below it{describe_stray(root)}"
        )
    paths = _only(paths, "model", models, lambda path: path.parts[-4])
    paths = _only(paths, "experiment", experiments, lambda path: _names(path)["experiment"])
    folders = list(dict.fromkeys(path.parents[1] for path in paths))
    runs = {folder: read_run(folder) for folder in folders}
    settings = {folder: (run or {}).get("settings", {}) for folder, run in runs.items()}
    cells = {folder: _cells(each) for folder, each in settings.items()}
    frames = {path: read_rows(path, settings[path.parents[1]]) for path in paths}
    notes = find_notes([_source(folder, run, frames) for folder, run in runs.items()])
    warn_incomplete(notes, stacklevel=3)
    names = complete_metrics([(run_name(path.parents[1]), frames[path]) for path in paths])
    labels = [EXPLAINED] if any(EXPLAINED in frame for frame in frames.values()) else []
    parts = [
        frame.reindex(columns=[*CLIP_COLUMNS, *labels, *names]).assign(
            **_names(path), cells=cells[path.parents[1]]
        )
        for path, frame in frames.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    if labels:
        table[EXPLAINED] = table[EXPLAINED].fillna("")
    if "COMP" in table and table["cells"].isna().any():
        largest = table.groupby("model")["COMP"].transform("max").map(math.exp)
        table["cells"] = table["cells"].fillna(largest)
    table = table.assign(on=on)
    table.attrs["notes"] = notes
    return table


def warn_incomplete(notes: Iterable[Note], *, stacklevel: int = 2) -> None:
    """Warn once of all clips that are missing and of all settings that differ."""
    found = [note for note in notes if note.kind in ("clips", "settings")]
    if found:
        listed = "\n  ".join(note_lines(found))
        warnings.warn(
            f"results that are compared are not all of the same clips or settings:\n  {listed}",
            IncompleteWarning,
            stacklevel=stacklevel,
        )


def _source(
    folder: Path, run: Mapping[str, Any] | None, frames: Mapping[Path, pd.DataFrame]
) -> Source:
    """Return a run's tables, those of `frames` that are its, with what else is known of it."""
    names = _names(folder / "csvs" / "any.csv")
    tables = {path.stem: rows for path, rows in frames.items() if path.parents[1] == folder}
    return Source(
        names["model"],
        names["method"],
        names["experiment"],
        tables,
        # A run without a run.json is as one that never finished.
        {"settings": {}} if run is None else run,
        load_diagnostics(folder),
    )


def load_diagnostics(folder: Path) -> pd.DataFrame:
    """Return what is known of each map of a run, indexed as its rows are; empty if nothing is.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    path = folder / "diagnostics.csv"
    if not path.is_file():
        return pd.DataFrame()
    table = read_diagnostics(path)
    table = table.set_index(row_key(table))
    if table.index.has_duplicates:
        raise FileError(f"{path}: has {shown(table.index[table.index.duplicated()][0])} twice")
    return table


def read_rows(
    path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Read the table of one mask of a run and check it.

    Parameters
    ----------
    path : path
        ``<model>/<method>_<experiment>/csvs/<mask>.csv``.
    settings : mapping, optional
        Of the run, to check classes and bounds by.

    Returns
    -------
    DataFrame
        One row per clip, or per explained class of a clip: all columns of the file, names as text,
        metrics as float64, NaN for an empty field.

    Raises
    ------
    FileError
        A `ValueError`: it has no metric or lacks a column that says what a row is of, has values
        that are no numbers or out of the metric's bounds, names a class that the set has not, or
        has a row twice.
    """
    settings = settings or {}
    table = read_table(path, _cells(settings))
    missing = set(CLIP_COLUMNS) - set(table.columns)
    if missing:
        raise FileError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
    metrics = metric_columns(table.columns)
    if not metrics:
        raise FileError(f"{path}: has no column of a metric: expected some of {', '.join(METRICS)}")
    _check_labels(table, settings, path)
    twice = table.duplicated(row_key(table))
    if twice.any():
        row = table[twice].iloc[0]
        clip = " of ".join(row[name][:80] for name in row_key(table))
        raise FileError(f"{path}: has clip {clip} twice; was it put together from two runs?")
    return table


def row_key(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell a run's rows apart: the clip, and what is explained of it."""
    return ["clip", EXPLAINED] if EXPLAINED in table else ["clip"]


def run_name(folder: Path) -> str:
    """Return how a warning calls a run: by its folder and its model's."""
    return f"{folder.parent.name}/{folder.name}"


def complete_metrics(*groups: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """Return the metrics that some of several tables have, in the order of ``METRICS``.

    Parameters
    ----------
    *groups : iterable of (str, iterable of str)
        Tables that are compared with each other: what a table is of, and its columns.

    Warns
    -----
    UserWarning
        Once if tables lack metrics that others of their group have, and once if columns are of no
        metric. Clips without noise have no truth, and not every run has metrics on request: a
        table is said to lack these where another run of the same model and experiment has them.
    """
    every: set[str] = set()
    lacking: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for group in groups:
        tables = [(name, set(columns)) for name, columns in group]
        names = metric_columns(set().union(*(columns for _, columns in tables)))
        every.update(names)
        optional = {name for name in names if _is_optional(METRICS[name])}
        had = {(_clips_of(table), name) for table, columns in tables for name in columns}
        for table, columns in tables:
            for name in set(names) - columns:
                if name not in optional or (_clips_of(table), name) in had:
                    lacking.setdefault(name, []).append(table)
            for name in columns - {*CLIP_COLUMNS, EXPLAINED, *names}:
                unknown.setdefault(name, []).append(table)
    if lacking:
        warnings.warn(
            f"some results lack metrics that others have: {_listed(lacking)}; they are shown as –, "
            "and a score is made of those that all have. Make the runs again to add them",
            stacklevel=3,
        )
    if unknown:
        warnings.warn(
            f"columns that are no registered metric are left out: {_listed(unknown)}; register "
            "their records in METRICS to see them",
            stacklevel=3,
        )
    return metric_columns(every)


def _is_optional(metric: Metric) -> bool:
    """Return whether a run may be without a metric for good reason."""
    return metric.on_request or bool(metric.needs & {"truth", "parts", "events"})


def _clips_of(table: str) -> str:
    """Return the model and the experiment of a run's name, which its clips are of."""
    model, _, run = table.rpartition("/")
    return f"{model}/{run.partition('_')[2]}"


def _listed(found: Mapping[str, Iterable[str]]) -> str:
    """Say which columns are concerned in which tables."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, tables in sorted(found.items()):
        names.setdefault(tuple(dict.fromkeys(tables)), []).append(name)
    return "; ".join(f"{', '.join(some)} ({', '.join(tables)})" for tables, some in names.items())


def _check_labels(
    table: pd.DataFrame, settings: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Raise a FileError where rows name classes that the run's set has not, or contradict it."""
    dataset = settings.get("dataset")
    classes = dataset.get("classes") if isinstance(dataset, Mapping) else None
    if not TEXTS.fits(classes):
        return
    known = set(classes)
    named = zip(table["target"], table["predicted"], table["is_correct"], strict=True)
    for target, predicted, is_correct in dict.fromkeys(named):
        true = true_classes(target, known)
        unknown = [name for name in true if name not in known]
        if unknown:
            raise FileError(
                f"{path}: is damaged: column target has {shown(unknown[0])}, which is no class of "
                "the run's set"
            )
        if is_correct != (predicted in true):
            raise FileError(
                f"{path}: is damaged: has the class {shown(target)} predicted as "
                f"{shown(predicted)} with is_correct {is_correct}"
            )


def true_classes(target: str, known: Collection[str]) -> list[str]:
    """Return the classes that a row's target names: several are written with a | between them."""
    if target in known:
        return [target]
    return target.split("|") if target else []


def _names(path: Path) -> dict[str, str]:
    """Return what a table is of, by the names of its folders."""
    method, experiment = split_run_name(path.parents[1].name)
    model = path.parents[2].name
    return {"model": model, "method": method, "experiment": experiment, "mask": path.stem}


def _only(
    paths: list[Path],
    kind: str,
    wanted: Sequence[str] | None,
    name_of: Callable[[Path], str],
) -> list[Path]:
    """Return the files of some models or experiments."""
    if wanted is None:
        return paths
    wanted = several(wanted)
    check_different(kind, wanted)
    known = {name_of(path) for path in paths}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"no results of the {kind} {', '.join(map(repr, unknown)) or '(none named)'}: "
            f"choose from {', '.join(sorted(known))}"
        )
    return [path for path in paths if name_of(path) in wanted]


def _cells(settings: dict[str, Any]) -> float:
    """Return bins times frames of a run's masks, NaN if its settings do not tell."""
    try:
        front_end, seconds = settings["processor"], settings["dataset"]["duration"]
        samples = max(1, round(seconds * front_end["sample_rate"]))
        return _front_end_cells(json.dumps(front_end), samples)
    except (KeyError, TypeError, ValueError, OverflowError):
        return math.nan


@lru_cache(maxsize=64)
def _front_end_cells(settings: str, samples: int) -> float:
    processor = build_processor(json.loads(settings))
    return float(processor.num_bins * processor.num_frames(samples))
