"""The results folder of one run: what is written where, and how a run is taken up again.

::

    results/<model>/<method>_<experiment>/
        run.json            every setting, the seeds, the code version, the model's hash
        csvs/<mask>.csv     one row per clip, measured on masked features
        csvs_audio/…        the same, measured on masked sounds, where asked for
        attributions/<clip>.npy, or <clip>@<class index>.npy where several labels are explained
        diagnostics.csv     what the method says of each map, where it says something

Rows are written batch by batch, so that an interrupted run loses one batch at most. A run of some
clips goes on when it is asked for more of them, and keeps them all when it is asked for fewer: how
many were asked for is the one setting that changes no row. The folds are compared, although they
change no row either: a table of two folds would be of no test set.

A run whose tables lack a metric that exists now is completed: its clips are measured again, by
their saved maps where these are there.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audiointerp.evaluation import METRICS
from audiointerp.spreadsheet import read_csv, to_csv
from audiointerp.storage import replacing, write_atomically

CLIP_COLUMNS = ("clip", "target", "predicted", "is_correct")
EXPLAINED = "explained"
"""Column of the explained label, in runs that were asked for others than the predicted one."""
TABLES = {"features": "csvs", "audio": "csvs_audio"}
"""Folder of the tables, by what the metrics were measured on."""

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
        Names of the clips that are wanted now, in their order. The folder may hold others.
    masks : sequence of str
        Masks that every clip has a row for.
    metrics : sequence of str
        Metric columns.
    on : sequence of {"features", "audio"}
        What the metrics are measured on.
    explained : bool
        Whether the tables name the explained label of each row; a clip may then have several.
    overwrite : bool
        Remove an earlier run first.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings; the message names what differs.
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
        self.settings = json.loads(json.dumps(settings))
        self.clips = list(clips)
        self.metrics = list(metrics)
        self.keys = ["clip", EXPLAINED] if explained else ["clip"]
        self.columns = [*CLIP_COLUMNS, *self.keys[1:], *metrics]
        self._tables = {(place, mask): self._table(place, mask) for place in on for mask in masks}
        if overwrite:
            self._remove()
        self._report = self._check_settings()
        self._rows = self._read_complete_rows()
        self._diagnostics = self._read_diagnostics()

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
        """Make the folder ready for rows; until then nothing is written."""
        self.attributions.mkdir(parents=True, exist_ok=True)
        for table in self._tables.values():
            table.parent.mkdir(exist_ok=True)
        self._write_tables(self._rows)
        self._write_run({})

    def load_attribution(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return a saved attribution map by its name, or None where there is no whole one."""
        try:
            saved = np.load(self._attribution(name), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return saved if saved.shape == shape else None

    def save_attributions(
        self, maps: Mapping[str, np.ndarray], diagnostics: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Write attribution maps, each whole or not at all.

        Parameters
        ----------
        maps : mapping of str to ndarray of shape (bins, frames)
            By name; see `attribution_name`.
        diagnostics : sequence of mapping
            What the method says of each map, with the key columns of its row.
        """
        if diagnostics:
            self._diagnostics |= {self._key(row): dict(row) for row in diagnostics}
            self._write_diagnostics()
        for name, attribution in maps.items():
            with replacing(self._attribution(name)) as partial:
                np.save(partial, attribution)

    def append(self, rows: Mapping[tuple[str, str], Sequence[Row]]) -> None:
        """Add the rows of some clips: for every ("features" or "audio", mask) the same clips."""
        for key, added in rows.items():
            frame = pd.DataFrame(list(added), columns=self.columns)
            with self._tables[key].open("a", encoding="utf-8", newline="") as file:
                file.write(to_csv(frame, header=False, index=False))
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
        for folder in (self.attributions, *(self.path / name for name in TABLES.values())):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("run.json", "diagnostics.csv"):
            (self.path / name).unlink(missing_ok=True)

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

        Those of a clip that is not wanted stay in the tables they are in.
        """
        rows = {key: self._read_table(path) for key, path in self._tables.items()}
        again = set(self.clips) - _complete(rows.values())
        return {key: table[~table["clip"].isin(again)] for key, table in rows.items()}

    def _read_table(self, path: Path) -> pd.DataFrame:
        """Return the rows of a table with all columns, none where a metric is missing."""
        if not path.is_file():
            return pd.DataFrame(columns=self.columns)
        table = read_table(path)
        missing = [name for name in self.columns if name not in table.columns]
        unknown = [name for name in table.columns if name not in self.columns]
        if unknown or set(missing) - set(self.metrics):
            raise ValueError(
                f"{path}: its columns are {', '.join(table.columns)}, not {', '.join(self.columns)}"
                "; is a metric of yours not registered?"
            )
        if not missing:
            return table.drop_duplicates(self.keys)
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
        kinds = {name: str for name in self.keys}
        rows = read_csv(path, dtype=kinds).to_dict("records")
        return {self._key(row): row for row in rows}

    def _write_diagnostics(self) -> None:
        table = pd.DataFrame(self._diagnostics.values())
        write_atomically(self.path / "diagnostics.csv", to_csv(table, index=False))

    def _write_tables(self, rows: Mapping[tuple[str, str], pd.DataFrame]) -> None:
        for key, table in rows.items():
            write_atomically(self._tables[key], to_csv(table, index=False))

    def _write_run(self, report: Mapping[str, Any]) -> None:
        content = {"settings": self.settings, "report": dict(report)}
        write_atomically(self.path / "run.json", json.dumps(content, indent=2) + "\n")


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
        If a name could not be told apart again: it is empty or has a slash, or the method has an
        underscore.
    """
    for name in (model, method, experiment):
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be part of a results folder's name")
    if "_" in method:
        raise ValueError(f"method {method!r}: the name must have no underscore")
    return Path(results) / model / f"{method}_{experiment}"


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


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the rows of one CSV of a run, without a last line that was cut off in writing.

    A cut can fall within a number, which then still reads as one: only a whole line counts.
    """
    text = Path(path).read_bytes().decode()  # a carriage return in a name stays one
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        return pd.DataFrame()
    # An empty cell of a metric is a clip without evidence for it.
    empty = {name: [""] for name in METRICS}
    kinds = {"clip": str, EXPLAINED: str}
    return read_csv(io.StringIO(whole), dtype=kinds, na_values=empty)


def read_run(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the content of a run's ``run.json``, None if there is none.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    file = Path(path) / "run.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        content["settings"].keys()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: damaged; remove the run's folder to start again") from error
    return content
