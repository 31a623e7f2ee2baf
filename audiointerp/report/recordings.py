"""The timelines of recordings, read from the folders that `RecordingInterpretation.save` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from audiointerp.report.media import draw_level
from audiointerp.runs.result import RECORDING
from audiointerp.spreadsheet import read_csv

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
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read: {error}") from error

    @cached_property
    def times(self) -> np.ndarray:
        """Start and end of every window, seconds, shape (windows, 2)."""
        table = self._read("timeline.csv", read_csv)
        return table[["start", "end"]].to_numpy(float)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Shape (windows, classes)."""
        return self._read("probabilities.npy", np.load)

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
            "overview": draw_level(self._read("overview.npy", np.load)),
        }

    def _read(self, name: str, read: Any) -> Any:
        path = self.folder / name
        try:
            return read(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path}: cannot be read: {error}; interpret the recording again"
            ) from error


def recording_of(window: Path) -> SavedRecording | None:
    """Return the recording that a saved interpretation is a window of, None if it is of none."""
    above = window.resolve().parent
    return SavedRecording(above) if (above / RECORDING).is_file() else None
