"""Timelines of recordings, read from folders written by `RecordingInterpretation.save`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from audiointerp.reading import (
    TEXT,
    TEXTS,
    WHOLES,
    FileError,
    check_fields,
    read_array,
    read_object,
)
from audiointerp.report.media import draw_level
from audiointerp.runs.result import RECORDING
from audiointerp.runs.store import read_frame, read_numbers

_LOUDEST = 1000.0
"""dB from full scale, in either direction, more than any sound has."""

CURVES = 6
"""Classes whose probabilities are drawn: those that are the most probable anywhere."""


@dataclass(frozen=True)
class SavedRecording:
    """A saved recording: what is known of it apart from its windows."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``recording.json`` says."""
        path = self.folder / RECORDING
        summary = read_object(path)
        needed = {"about": TEXT, "classes": TEXTS, "silent_windows": WHOLES}
        check_fields(summary, needed, str(path))
        if max(summary["silent_windows"], default=-1) >= len(self.times):
            raise FileError(f"{path}: is damaged: more silent windows than there are")
        return summary

    @cached_property
    def times(self) -> np.ndarray:
        """Start and end of every window, seconds, shape (windows, 2)."""
        path = self.folder / "timeline.csv"
        table = read_frame(path, index=1)
        if not len(table) or not {"start", "end"} <= set(table.columns):
            raise FileError(f"{path}: is damaged: has no windows with start and end")
        bounds = (0.0, math.inf)
        columns = [
            read_numbers(table[name], f"{path}: column {name}", bounds) for name in ("start", "end")
        ]
        times = np.stack(columns, axis=1)
        if not (times[:, 0] < times[:, 1]).all() or not (np.diff(times, axis=0) > 0).all():
            raise FileError(f"{path}: is damaged: windows that do not follow each other")
        return times

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Shape (windows, classes)."""
        path = self.folder / "probabilities.npy"
        shares = read_array(path, (len(self.times), len(self.summary["classes"])))
        if not ((shares >= 0) & (shares <= 1 + 1e-6)).all():
            raise FileError(f"{path}: is damaged: has values that are no probabilities")
        return shares

    def is_same(self, other: SavedRecording) -> bool:
        """Return whether both are of the same windows with the same probabilities."""
        return (
            self.summary["classes"] == other.summary["classes"]
            and self.probabilities.shape == other.probabilities.shape
            and np.allclose(self.probabilities, other.probabilities, atol=1e-4)
            and np.allclose(self.times, other.times)
        )

    def content(self, name: str) -> dict[str, Any]:
        """Return what the page shows of it, ready for JSON."""
        start, end = self.times[0, 0], self.times[-1, 1]
        ticks = [t for t in MaxNLocator(8).tick_values(start, end) if start <= t <= end]
        peaks = self.probabilities.max(0)
        shown = np.argsort(-peaks, kind="stable")[:CURVES]
        return {
            "name": name,
            "about": self.summary["about"],
            "times": [[f"{t:g}", (t - start) / (end - start)] for t in ticks],
            "windows": self.times.tolist(),
            "silent": self.summary["silent_windows"],
            "curves": [
                {
                    "name": self.summary["classes"][index],
                    "values": self.probabilities[:, index].round(4).tolist(),
                }
                for index in shown
            ],
            "overview": draw_level(self._overview()),
        }

    def _overview(self) -> np.ndarray:
        path = self.folder / "overview.npy"
        level = read_array(path)
        known = level[~np.isnan(level)]
        if level.ndim != 2 or not len(known) or not (np.abs(known) <= _LOUDEST).all():
            raise FileError(f"{path}: is damaged: holds no levels in dB")
        return np.where(np.isnan(level), np.float32(np.nan), level)  # no signalling NaN


def recording_of(window: Path) -> SavedRecording | None:
    """Return the recording that a saved interpretation is a window of, None if it is of none."""
    above = window.resolve().parent
    return SavedRecording(above) if (above / RECORDING).is_file() else None
