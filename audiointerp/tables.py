"""Results folders → tables. Needs pandas only, no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from audiointerp.results import TABLES, read_run

HIGHER_IS_BETTER = {
    "FF": True,
    "AI": True,
    "AD": False,
    "AG": True,
    "FidIn": True,
    "SPS": True,
    "COMP": False,
}
"""The metric columns, and which way each points."""

RUN_COLUMNS = ("model", "method", "experiment", "mask")


def load_results(results: str | os.PathLike[str], *, on: str = "features") -> pd.DataFrame:
    """Read every run below a results folder into one long table.

    Parameters
    ----------
    results : path
        Holds ``<model>/<method>_<experiment>/`` folders.
    on : {"features", "audio"}
        Which tables to read: measured on masked features or on masked sounds.

    Returns
    -------
    DataFrame
        One row per model, method, experiment, mask and clip.

    Raises
    ------
    ValueError
        If there are no results.
    """
    if on not in TABLES:
        raise ValueError(f"on={on!r}: choose from {', '.join(TABLES)}")
    root = Path(results)
    tables = [_read_table(path, root) for path in sorted(root.glob(f"*/*_*/{TABLES[on]}/*.csv"))]
    if not tables:
        raise ValueError(
            f"{root}: no results measured on {on}; expected <model>/<method>_<experiment>/"
            f"{TABLES[on]}/<mask>.csv below it"
        )
    return pd.concat(tables, ignore_index=True)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of every metric over the clips, one row per run and mask.

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.

    Returns
    -------
    DataFrame
        Indexed by model, method, experiment and mask, with the number of clips.
    """
    groups = results.groupby(list(RUN_COLUMNS), sort=False)
    means = groups[list(HIGHER_IS_BETTER)].mean()
    return means.assign(clips=groups.size())


def accuracy(results: pd.DataFrame) -> pd.Series:
    """Return the share of correctly labelled clips, by model and experiment, percent."""
    once = results.drop_duplicates(["model", "experiment", "clip"])
    shares = once.groupby(["model", "experiment"], sort=False)["is_correct"].mean()
    return (100 * shares).rename("accuracy")


def score_masks(summary: pd.DataFrame) -> pd.Series:
    """Return one score per row: the geometric mean of the metrics, normalised to [0, 1].

    Within each model, method and experiment every metric is scaled so that its worst mask has 0
    and its best 1, AD and COMP inverted. A metric that does not differ is left out.

    Parameters
    ----------
    summary : DataFrame
        As `summarise` returns it.

    Returns
    -------
    Series
        Of the summary's index.
    """
    runs = [name for name in RUN_COLUMNS if name != "mask"]
    values = summary[list(HIGHER_IS_BETTER)].copy()
    for name, higher in HIGHER_IS_BETTER.items():
        values[name] = values[name] if higher else -values[name]
    grouped = values.groupby(level=runs, sort=False)
    low, high = grouped.transform("min"), grouped.transform("max")
    scaled = (values - low) / (high - low).where(high > low)
    with np.errstate(divide="ignore"):
        logs = np.log(scaled)
    return np.exp(logs.mean(axis=1)).rename("score")


def best_masks(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the best-scoring mask of every model, method and experiment.

    Parameters
    ----------
    summary : DataFrame
        As `summarise` returns it.

    Returns
    -------
    DataFrame
        One row per run, with the `score_masks` score.
    """
    scored = summary.assign(score=score_masks(summary))
    runs = [name for name in RUN_COLUMNS if name != "mask"]
    best = scored.groupby(level=runs, sort=False)["score"].idxmax()
    return scored.loc[best]


def summarise_files(table: pd.DataFrame, masks: Sequence[str]) -> pd.DataFrame:
    """Return one row per model, method and mask: mean metrics over the files, for some masks.

    Parameters
    ----------
    table : DataFrame
        One row per model, method, clip and mask.
    masks : sequence of str
        Which masks to show.

    Returns
    -------
    DataFrame
        Means over the clips, rounded for reading.
    """
    shown = table[table["mask"].isin(masks)]
    means = shown.groupby(["model", "method", "mask"], sort=False)[list(HIGHER_IS_BETTER)].mean()
    return means.round(3)


def _read_table(path: Path, root: Path) -> pd.DataFrame:
    run = path.parent.parent
    method, experiment = run.name.split("_", 1)
    table = pd.read_csv(path, dtype={"clip": str})
    missing = {"clip", "is_correct", *HIGHER_IS_BETTER} - set(table.columns)
    if missing:
        raise ValueError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
    read_run(run)  # a damaged run is no source of numbers
    names = {"model": run.parent.name, "method": method, "experiment": experiment}
    return table.assign(**names, mask=path.stem)
