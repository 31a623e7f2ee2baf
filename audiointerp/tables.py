"""Results folders → tables. Needs pandas only, no torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from audiointerp.results import TABLES, read_run, read_table

METRIC_COLUMNS = ("FF", "AI", "AD", "AG", "FidIn", "SPS", "COMP")
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
    means = groups[list(METRIC_COLUMNS)].mean()
    return means.assign(clips=groups.size())


def accuracy(results: pd.DataFrame) -> pd.Series:
    """Return the share of correctly labelled clips, by model and experiment, percent."""
    once = results.drop_duplicates(["model", "experiment", "clip"])
    shares = once.groupby(["model", "experiment"], sort=False)["is_correct"].mean()
    return (100 * shares).rename("accuracy")


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
    means = shown.groupby(["model", "method", "mask"], sort=False)[list(METRIC_COLUMNS)].mean()
    return means.round(3)


def _read_table(path: Path, root: Path) -> pd.DataFrame:
    run = path.parent.parent
    method, experiment = run.name.split("_", 1)
    table = read_table(path)
    missing = {"clip", "is_correct", *METRIC_COLUMNS} - set(table.columns)
    if missing:
        raise ValueError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
    if not (read_run(run) or {}).get("report"):
        warnings.warn(f"{run}: the run is not finished, its tables lack clips", stacklevel=3)
    names = {"model": run.parent.name, "method": method, "experiment": experiment}
    return table.assign(**names, mask=path.stem)
