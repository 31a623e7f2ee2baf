"""Results folder of one run: its files, and how an interrupted run resumes.

::

    results/<model>/<method>_<experiment>/
        run.json            every setting, the seeds, the code version, the model's hash
        csvs/<mask>.csv     one row per clip, measured on masked features
        csvs_audio/…        the same, measured on masked sounds, where asked for
        attributions/<clip>.npy, or <clip>@<class index>.npy where several labels are explained
        diagnostics.csv     what the method says of each map, and what makes it degenerate

Rows are written batch by batch, so that an interrupted run loses one batch at most. A run of some
clips goes on when it is asked for more of them, and keeps them all when it is asked for fewer: how
many were asked for is the one setting that changes no row. The folds are compared, although they
change no row either: a table of two folds would be of no test set.

What is written is on the disk before what says that it is there: ``run.json`` before tables, maps
before their rows. A map that is there and damaged is made again, with its rows; one that somebody
removed is not missed.

A run whose tables lack a metric that exists now is completed: its clips are measured again, by
their saved maps where these are there.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audiointerp.evaluation import METRICS, metric_columns
from audiointerp.reading import (
    FOLDS,
    OBJECT,
    TEXTS,
    WHOLE,
    FileError,
    advising,
    check_array,
    check_fields,
    listed,
    parse_number,
    read_array,
    read_csv,
    read_object,
    shown,
)
from audiointerp.registry import check_different
from audiointerp.runs.names import LONGEST_NAME, split_run_name
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import append, ignores_case, replacing, write_atomically

CLIP_COLUMNS = ("clip", "target", "predicted", "is_correct")
EXPLAINED = "explained"
"""Column of the explained label, in runs that were asked for others than the predicted one."""
TABLES = {"features": "csvs", "audio": "csvs_audio"}
"""Folder of the tables, by what the metrics were measured on."""

_ROUNDING = 1e-3
"""Share of a metric's range that rounding may lead beyond it."""

_MOST_CELLS = 2**40
"""Of a mask, where a run does not say how many it has."""

CHANGES_NO_ROW = frozenset(
    {"dataset.clips", "interpreter.batch_size", "interpreter.fold_batch_norm"}
)
"""Settings that two requests for one run may differ in; earlier versions recorded the last two."""

Row = Mapping[str, Any]


class RunFolder:
    """Reads and writes one run's folder.

    Parameters
    ----------
    path : path
        ``results/<model>/<method>_<experiment>``.
    settings : mapping
        What makes this run this run, ready for JSON. A folder made with other settings is
        refused, so that no table ever mixes two runs.
    clips : sequence of str
        Names of the clips that are wanted now, in their order, each usable as a file name. The
        folder may hold others.
    masks : sequence of str
        Masks that every clip has a row for.
    metrics : sequence of str
        Metric columns.
    on : sequence of {"features", "audio"}
        What the metrics are measured on.
    explained : bool
        Whether the tables name the explained label of each row; a clip may then have several.
    overwrite : bool
        Take no notice of an earlier run, and remove it in `begin`.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings; the message names what differs. If a file
        of it is damaged, a clip's name cannot be that of a file, or two clips have one name where
        the file system ignores case.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        clips: Sequence[str],
        masks: Sequence[str],
        metrics: Sequence[str],
        on: Sequence[str] = ("features",),
        explained: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and ignores_case(self.path):
            check_different("clip", clips, name=str)  # maps are filed by it
        self.settings = json.loads(json.dumps(settings))
        self.clips = list(map(_check_file_name, clips))
        self.metrics = list(metrics)
        self.keys = ["clip", EXPLAINED] if explained else ["clip"]
        self.columns = [*CLIP_COLUMNS, *self.keys[1:], *metrics]
        self._tables = {(place, mask): self._table(place, mask) for place in on for mask in masks}
        self._overwrite = overwrite
        self._report = {} if overwrite else self._check_settings()
        self._rows = self._read_complete_rows()
        self._diagnostics = {} if overwrite else self._read_diagnostics()

    @property
    def attributions(self) -> Path:
        """Folder of the attribution maps."""
        return self.path / "attributions"

    @property
    def done(self) -> set[str]:
        """Clips that have all their rows in every table, wanted now or not."""
        return _complete(self._rows.values())

    @property
    def todo(self) -> list[str]:
        """Clips that are wanted and not done, in their order."""
        done = self.done
        return [clip for clip in self.clips if clip not in done]

    @property
    def is_finished(self) -> bool:
        """Whether an earlier request was finished that leaves nothing to do."""
        return bool(self._report) and not self.todo

    def begin(self) -> None:
        """Make the folder ready for rows; until then nothing is written or removed."""
        if self._overwrite:
            self._remove()
            self._overwrite = False
        self.attributions.mkdir(parents=True, exist_ok=True)
        for table in self._tables.values():
            table.parent.mkdir(exist_ok=True)
        self._write_run({})  # first: tables without it would be of nobody knows what
        self._write_tables(self._rows)

    def load_attribution(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return a saved attribution map by its name, or None where there is no usable one."""
        try:
            return read_map(self._attribution(name), shape)
        except (OSError, FileError):
            return None

    def save_attributions(
        self, maps: Mapping[str, np.ndarray], diagnostics: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Write attribution maps, each whole or not at all.

        Parameters
        ----------
        maps : mapping of str to ndarray of shape (bins, frames)
            By name; see `attribution_name`.
        diagnostics : sequence of mapping
            What is known of each map, with the key columns of its row; what an earlier row says
            beside it stays.
        """
        if diagnostics:
            for row in diagnostics:
                self._diagnostics[self._key(row)] = self._diagnostics.get(self._key(row), {}) | row
            self._write_diagnostics()
        for name, attribution in maps.items():
            with replacing(self._attribution(name)) as partial:
                np.save(partial, attribution)

    def append(self, rows: Mapping[tuple[str, str], Sequence[Row]]) -> None:
        """Add the rows of some clips: for every ("features" or "audio", mask) the same clips."""
        for key, added in rows.items():
            frame = pd.DataFrame(list(added), columns=self.columns)
            append(self._tables[key], to_csv(frame, header=False, index=False))
            before = self._rows[key]
            self._rows[key] = pd.concat([before, frame]) if len(before) else frame

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.keys)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Put the rows into the order of the clips and write the report into ``run.json``.

        Rows of clips that were not wanted now come last.
        """
        place = {clip: position for position, clip in enumerate(self.clips)}
        last = len(place)
        order = sorted(self._diagnostics, key=lambda key: place.get(key[0], last))
        self._diagnostics = {key: self._diagnostics[key] for key in order}
        if self._diagnostics:
            self._write_diagnostics()
        self._rows = {
            key: rows.sort_values("clip", key=lambda clips: clips.map(place), kind="stable")
            for key, rows in self._rows.items()
        }
        self._write_tables(self._rows)
        self._write_run(report)

    def table(self, on: str, mask: str) -> pd.DataFrame:
        """Return the wanted clips' rows measured on "features" or "audio" under a mask."""
        rows = self._rows[on, mask]
        return rows[rows["clip"].isin(self.clips)].reset_index(drop=True)

    def _table(self, on: str, mask: str) -> Path:
        return self.path / TABLES[on] / f"{mask}.csv"

    def _attribution(self, name: str) -> Path:
        return self.attributions / f"{name}.npy"

    def _remove(self) -> None:
        """Remove what an earlier run wrote and nothing else; ``run.json`` last, which says so."""
        tables = [file for name in TABLES.values() for file in (self.path / name).glob("*.csv")]
        maps = self.attributions.glob("*.npy")
        for file in (*maps, *tables, self.path / "diagnostics.csv", run_file(self.path)):
            file.unlink(missing_ok=True)

    def _check_settings(self) -> dict[str, Any]:
        """Return the report of the run that is there, empty if it is not finished or not there."""
        run = read_run(self.path)
        if run is None:
            if any(path.is_file() for path in self._tables.values()):
                raise ValueError(
                    f"{self.path}: has tables but no run.json to say how they were made; "
                    "name another experiment, or overwrite it"
                )
            return {}
        differing = differing_settings(run["settings"], self.settings)
        if differing:
            raise ValueError(
                f"{self.path}: holds a run with other settings ({', '.join(differing)}); "
                "name another experiment, or overwrite it"
            )
        return run.get("report") or {}

    def _read_complete_rows(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Return the rows that stay: a wanted clip is measured again unless it is in every table.

        And unless its map is damaged. Rows of a clip that is not wanted stay in the tables they
        are in.
        """
        rows = {key: self._read_table(path) for key, path in self._tables.items()}
        again = set(self.clips) - _complete(rows.values())
        again |= self._damaged()
        return {key: table[~table["clip"].isin(again)] for key, table in rows.items()}

    def _damaged(self) -> set[str]:
        """Return the wanted clips with a damaged map, and warn of them."""
        if self._overwrite or not self.attributions.is_dir():
            return set()
        found: dict[str, FileError] = {}
        wanted = set(self.clips)
        for file in sorted(self.attributions.glob("*.npy")):
            clip = file.stem.rpartition("@")[0] if len(self.keys) > 1 else file.stem
            try:
                if clip in wanted:
                    check_array(file)
            except FileError as error:
                found[clip] = error
        if found:
            warnings.warn(
                f"{len(found)} of the saved maps are damaged, and their clips are interpreted "
                f"again; the first: {next(iter(found.values()))}",
                stacklevel=2,
            )
        return set(found)

    def _read_table(self, path: Path) -> pd.DataFrame:
        """Return the rows of a table with all columns, none where a metric is missing."""
        if self._overwrite or not path.is_file():
            return pd.DataFrame(columns=self.columns)
        table = read_table(path)
        missing = [name for name in self.columns if name not in table.columns]
        unknown = [name for name in table.columns if name not in self.columns]
        if unknown or set(missing) - set(self.metrics):
            raise ValueError(
                f"{path}: its columns are {listed(table.columns)}, not {listed(self.columns)}"
                "; is a metric of yours not registered?"
            )
        if not missing:
            # Two rows of one clip that differ: neither can be told to be the right one.
            table = table.drop_duplicates()
            differing = table.loc[table.duplicated(self.keys), "clip"]
            return table[~table["clip"].isin(differing)]
        others = sorted(set(table["clip"]) - set(self.clips))
        if others:
            raise ValueError(
                f"{path}: was made before the metrics {', '.join(missing)} existed and holds "
                f"{len(others)} clips that are not asked for now, such as {others[0]}: ask for all "
                "of them to complete the run"
            )
        return pd.DataFrame(columns=self.columns)

    def _read_diagnostics(self) -> dict[tuple[str, ...], dict[str, Any]]:
        path = self.path / "diagnostics.csv"
        if not path.is_file():
            return {}
        table = read_diagnostics(path)
        missing = [name for name in self.keys if name not in table]
        if missing:
            raise FileError(f"{path}: is damaged: has no column {', '.join(missing)}")
        return {self._key(row): row for row in table.to_dict("records")}

    def _write_diagnostics(self) -> None:
        table = pd.DataFrame(self._diagnostics.values())
        write_atomically(self.path / "diagnostics.csv", to_csv(table, index=False))

    def _write_tables(self, rows: Mapping[tuple[str, str], pd.DataFrame]) -> None:
        for key, table in rows.items():
            write_atomically(self._tables[key], to_csv(table, index=False))

    def _write_run(self, report: Mapping[str, Any]) -> None:
        content = {"settings": self.settings, "report": dict(report)}
        write_atomically(run_file(self.path), json.dumps(content, indent=2) + "\n")


def _check_file_name(clip: str) -> str:
    """Return a clip's name if a map can be filed under it."""
    usable = clip not in ("", ".", "..") and not any(sign in clip for sign in "/\\\0")
    if not usable or len(clip.encode()) > LONGEST_NAME:
        raise ValueError(
            f"clip {clip!r}: attribution maps are filed by the clips' names: expected one without "
            f"a slash and of at most {LONGEST_NAME} bytes; audiointerp.dataset.files.clip_name "
            "makes it of a path"
        )
    return clip


def list_metrics(path: Path) -> list[str]:
    """Return the metrics that the tables of a run's folder have; none where it has no tables."""
    tables = [file for name in TABLES.values() for file in (path / name).glob("*.csv")]
    columns = {name for file in tables for name in read_table(file).columns}
    return metric_columns(columns)


def attribution_name(clip: str, label: int | None = None) -> str:
    """Return the name of a clip's map, or of its map for one of several labels."""
    return clip if label is None else f"{clip}@{label}"


def _complete(tables: Iterable[pd.DataFrame]) -> set[str]:
    """Return the clips that have rows in every table, and equally many."""
    counts = [table["clip"].value_counts() for table in tables]
    same = set(counts[0].index)
    for other in counts[1:]:
        same = {clip for clip in same if other.get(clip, 0) == counts[0][clip]}
    return same


def run_path(results: str | os.PathLike[str], model: str, method: str, experiment: str) -> Path:
    """Return the folder of a run, ``<results>/<model>/<method>_<experiment>``.

    Raises
    ------
    ValueError
        If the names could not be read back from the folder: one is empty or has a slash, or
        `audiointerp.runs.names.split_run_name` would split the folder's name elsewhere.
    """
    for name in (model, method, experiment):
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be part of a results folder's name")
    folder = f"{method}_{experiment}"
    read = split_run_name(folder)
    if read != (method, experiment):
        raise ValueError(
            f"the results of the method {method!r} and the experiment {experiment!r} would be read "
            f"as those of {read[0]!r} and {read[1]!r}: name another experiment, or register the "
            "method in METHODS"
        )
    return Path(results) / model / folder


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings by which two requests make different rows, sorted.

    A setting that is not named counts as None. The parts of a group are named one by one, as
    ``dataset.folds``. How many clips were asked for is no difference, nor what changes only time.
    """
    one, other = _ungrouped(one), _ungrouped(other)
    names = (one.keys() | other.keys()) - CHANGES_NO_ROW
    return sorted(name for name in names if one.get(name) != other.get(name))


def _ungrouped(settings: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            parts |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            parts[name] = value
    return parts


def read_frame(
    path: str | os.PathLike[str], *, index: int = 0, whole_lines: bool = False
) -> pd.DataFrame:
    """Return a CSV file that this package wrote, every cell as text; see `read_csv`.

    Parameters
    ----------
    path : path
    index : int
        How many of the first columns are the index.
    whole_lines : bool
        Leave out a last line that was cut off in writing.
    """
    columns, rows = read_csv(path, index=index, whole_lines=whole_lines)
    names = [f"index {place}" for place in range(index)]  # a column may be called as one of them
    frame = pd.DataFrame(rows, columns=[*names, *columns[index:]])
    return frame.set_index(names).rename_axis(columns[:index]) if index else frame


def read_numbers(
    texts: Iterable[str], what: str, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> NDArray[np.float64]:
    """Return a column of text as float64, NaN for an empty field: there is no evidence.

    Parameters
    ----------
    texts : iterable of str
    what : str
        What it is, for an error.
    bounds : (float, float)
        The lowest and highest number there can be. What is beyond by a thousandth of their
        distance is rounding.

    Raises
    ------
    FileError
        If a field is no finite number or lies out of the bounds.
    """
    texts = list(texts)
    # Python reads back the number that was written; pandas may be a digit off.
    numbers = np.array([parse_number(text) for text in texts], dtype=np.float64)
    wrong = next((texts[place] for place in np.flatnonzero(np.isnan(numbers)) if texts[place]), "")
    if wrong:
        raise FileError(f"{what} has values that are no finite numbers: {shown(wrong)}")
    low, high = bounds
    slack = _ROUNDING * (high - low) if math.isfinite(high - low) else 0.0
    beyond = (numbers < low - slack) | (numbers > high + slack)
    if beyond.any():
        raise FileError(
            f"{what} has the value {numbers[beyond][0]:g}, which lies out of {low:g} to {high:g}: "
            "the file is damaged"
        )
    return numbers


def read_metric(
    name: str, texts: Iterable[str], what: str, cells: float = math.nan
) -> NDArray[np.float64]:
    """Return a column of a metric as float64; see `read_numbers`.

    Parameters
    ----------
    name : str
        The metric's.
    texts : iterable of str
    what : str
    cells : float
        Number of cells of a mask, which some bounds depend on; NaN where it is not known.
    """
    largest = _MOST_CELLS if math.isnan(cells) else max(2, int(cells))
    return read_numbers(texts, what, METRICS[name].bounds(largest))


def read_table(path: str | os.PathLike[str], cells: float = math.nan) -> pd.DataFrame:
    """Return the rows of one CSV of a run, without a last line that was cut off in writing.

    Names are text, metrics float64 with NaN for a clip without evidence, ``is_correct`` is bool.

    Parameters
    ----------
    path : path
    cells : float
        Number of cells of a mask; see `read_metric`.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    names, rows = read_csv(path, whole_lines=True)
    cells_of = zip(*rows, strict=True) if rows else [()] * len(names)
    columns: dict[str, Any] = dict(zip(names, cells_of, strict=True))
    for name in metric_columns(columns):
        columns[name] = read_metric(name, columns[name], f"{path}: column {name}", cells)
    if "is_correct" in columns:
        columns["is_correct"] = np.array(
            [_truth(text, path) for text in columns["is_correct"]], dtype=bool
        )
    return pd.DataFrame(columns)


def _truth(text: str, path: str | os.PathLike[str]) -> bool:
    if text.lower() not in ("true", "false"):  # a spreadsheet writes TRUE
        raise FileError(f"{path}: column is_correct has values other than True and False")
    return text.lower() == "true"


def read_diagnostics(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return what a method says of each map: names as text, the rest as float64.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    table = read_frame(path)
    if "clip" not in table:
        raise FileError(f"{path}: is damaged: has no column clip")
    for name in table.columns.drop(["clip", EXPLAINED], errors="ignore"):
        table[name] = read_numbers(table[name], f"{path}: column {name}")
    return table


def read_map(path: str | os.PathLike[str], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Return a saved attribution map.

    Raises
    ------
    FileError
        If it is missing, damaged, has another shape or is not finite.
    """
    saved = read_array(path, shape)
    if not np.isfinite(saved).all():
        raise FileError(f"{path}: is damaged: has values that are not finite")
    return saved


def run_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of a run's folder that says what the folder is: claim it to write there."""
    return Path(path) / "run.json"


def read_run(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the content of a run's ``run.json``, None if there is none.

    Returns
    -------
    dict
        ``settings`` and ``report``; the report is empty where the run is not finished.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    file = run_file(path)
    if not os.path.lexists(file):
        return None
    with advising("remove the run's folder to start again"):
        content = read_object(file)
        check_fields(content, {"settings": OBJECT}, str(file), {"report": OBJECT})
        report = content.get("report") or {}
        known = {"clips": WHOLE, "failures": OBJECT, "code": OBJECT, "remarks": TEXTS}
        check_fields(report, {}, f"{file}, report", known)
        settings = content["settings"]
        check_fields(settings, {}, f"{file}, settings", {"dataset": OBJECT})
        dataset = settings.get("dataset") or {}
        check_fields(dataset, {}, f"{file}, dataset", {"clips": WHOLE, "folds": FOLDS})
    return {"settings": content["settings"], "report": report}
