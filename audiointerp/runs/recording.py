"""Interpretation of a recording that is longer than the model's clips."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiointerp.arguments import several
from audiointerp.plots import Picture, plot_recording
from audiointerp.processing import FrontEnd
from audiointerp.runs.names import labelled, result_name
from audiointerp.runs.result import (
    RECORDING,
    Interpretation,
    Part,
    check_replaceable,
    written_files,
)
from audiointerp.runs.targets import describe_target
from audiointerp.runs.timeline import Timeline, reduce_frames
from audiointerp.runs.windows import Coverage, join_maps
from audiointerp.sound import Sound
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import replacing, replacing_folder, write_atomically


@dataclass(frozen=True)
class RecordingInterpretation:
    """What `Predict.predict` returns of a recording longer than a window.

    Every window was classified; some, or all, were interpreted.

    Attributes
    ----------
    heard : Timeline
        What the classifier makes of every window.
    method : str
        Name of the attribution method.
    windows : tuple of Interpretation
        Of the interpreted windows, in the order of time; each knows its `section`. A window of
        which several labels are explained is there once for each.
    """

    heard: Timeline
    method: str
    windows: tuple[Interpretation, ...]

    @property
    def clip(self) -> str:
        """Name of the recording."""
        return self.heard.recording

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.heard.classes

    @property
    def processor(self) -> FrontEnd:
        """The front end."""
        return self.heard.front_end

    @property
    def coverage(self) -> Coverage:
        """What was analysed and interpreted, and what was not."""
        return self.heard.coverage

    @property
    def timeline(self) -> pd.DataFrame:
        """One row per window with times, labels and probabilities; see `Timeline.table`."""
        return self.heard.table()

    @property
    def label(self) -> str:
        """The class that is predicted in the most confident window."""
        return self.classes[int(self.heard.predicted[self.heard.most_confident])]

    @property
    def probability(self) -> float:
        """Its probability there."""
        return float(self.heard.probabilities[self.heard.most_confident].max())

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes that are predicted in some window, the one with the highest peak first.

        What is predicted of digital silence only is not among them.
        """
        return self.heard.labels

    @property
    def target_label(self) -> str:
        """The class that `attribution` is of: the explained one with the highest peak."""
        explained = self.heard.explained_labels
        return self.classes[explained[0]] if explained else self.label

    @property
    def explained_labels(self) -> tuple[str, ...]:
        """All classes that are explained in some window, the one with the highest peak first."""
        return tuple(self.classes[label] for label in self.heard.explained_labels)

    @property
    def attribution(self) -> Tensor:
        """The maps of `target_label`, joined over the recording; see `join`."""
        return self.join(self.target_label)

    def join(self, label: str) -> Tensor:
        """Return the attribution maps of one class, joined over the part that was analysed.

        Parameters
        ----------
        label : str
            One of `explained_labels`.

        Returns
        -------
        Tensor, shape (1, 1, bins, frames)
            The mean where windows overlap, NaN where no window was interpreted for this class.
            The first frame is that of the first window; `Timeline.times` has their seconds.

        Raises
        ------
        ValueError
            If the class is explained nowhere.
        """
        frames, joined = self._joined(label)
        whole = np.full((len(joined), self.heard.frames), np.nan, dtype=np.float32)
        whole[:, frames] = joined
        return torch.from_numpy(whole)[None, None]

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of the interpreted windows: one row per window, explained class and mask."""
        names = ["start", "explained", "mask"]
        tables = {(r.section.start, r.target_label): r.metrics for r in self.windows}
        if not tables:
            return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], [], []], names=names))
        return pd.concat(tables, names=names)

    def window_at(self, seconds: float, label: str | None = None) -> Interpretation:
        """Return the interpreted window whose middle is nearest to a time of the recording.

        Parameters
        ----------
        seconds : float
            From the beginning of the recording.
        label : str, optional
            Of the windows that explain this class only.

        Raises
        ------
        ValueError
            If no window is interpreted, or none for this class.
        """
        return min(self._explaining(label), key=lambda r: abs(_middle(r) - seconds))

    @property
    def best(self) -> Interpretation:
        """The window in which `target_label` is the most probable, of those interpreted for it."""
        return max(self._explaining(self.target_label), key=lambda r: r.probabilities[r.target])

    def audio(self, mask: str | None = None, part: Part = "in") -> Sound:
        """Return what a mask keeps of the `best` window; see `Interpretation.audio`."""
        return self.best.audio(mask, part)

    def plot(self, mask: str | None = None) -> Picture:
        """Draw probabilities, spectrogram and joined map over time; or a mask of `best`.

        Parameters
        ----------
        mask : str, optional
            Draw what this mask keeps of the best window instead; see `Interpretation.plot`.

        Returns
        -------
        Picture
        """
        if mask is not None:
            return self.best.plot(mask)
        known = self._joined(self.target_label) if self.windows else None
        return _plot(self.heard, self.method, known, self.heading())

    def save(
        self,
        folder: str | os.PathLike[str],
        masks: Iterable[str] | None = None,
        *,
        sound: str = "wav",
    ) -> Path:
        """Write the timeline, the joined maps and every interpreted window, all of it or none.

        Parameters
        ----------
        folder : path
            Is made; the files of an earlier result in it are replaced, others stay.
        masks, sound
            See `Interpretation.save`.

        Returns
        -------
        Path
            The folder; see `saving_recording` for what it holds.

        Raises
        ------
        FileExistsError, ValueError
            As `Interpretation.save`.
        """
        with saving_recording(folder, self.heard, self.method, masks, sound=sound) as saved:
            for result in self.windows:
                saved.add(result)
        return Path(folder)

    def summary(self) -> dict[str, Any]:
        """Return what the model said and what was analysed, as plain values for JSON."""
        return _summary(self.heard, self.method)

    def heading(self) -> str:
        """Return the name, what is heard, and what was analysed."""
        return _heading(self.heard)

    def _repr_html_(self) -> str:
        """Show the timeline, and players of the interpreted windows."""
        rows = "".join(
            f"<tr><th>{html.escape(result.heading())}</th><td>{result.audio().player()}</td></tr>"
            for result in self.windows
        )
        columns = ["start", "end", "label", "probability", "explained"]
        return (
            f"<h4>{html.escape(self.heading())}</h4><table>{rows}</table>"
            f"{self.timeline[columns].round(3).to_html()}"
        )

    def _explaining(self, label: str | None) -> list[Interpretation]:
        found = [r for r in self.windows if label is None or r.target_label == label]
        if not found:
            there = ", ".join(self.explained_labels) or "none"
            raise ValueError(f"no window explains {label!r}: there are {there}")
        return found

    def _joined(self, label: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        results = self._explaining(label)
        return join_maps(
            _places(self.heard, results[0].target),
            (result.attribution[0, 0].float().cpu().numpy() for result in results),
        )


class SavedRecording:
    """The folder of a recording while it is written; see `saving_recording`."""

    def __init__(
        self,
        folder: Path,
        heard: Timeline,
        method: str,
        masks: Iterable[str] | None,
        sound: str,
    ) -> None:
        self._folder = folder
        self._heard = heard
        self._method = method
        self._masks = None if masks is None else several(masks)
        self._sound = sound
        self._saved: dict[int, list[Path]] = {}

    def add(self, result: Interpretation) -> None:
        """Save an interpreted window; they come in the order of time."""
        name = window_name(self._heard, result)
        folder = result.save(self._folder / name, self._masks, sound=self._sound)
        self._saved.setdefault(result.target, []).append(folder)

    def finish(self) -> None:
        """Write what is of the whole recording."""
        heard = self._heard
        write_atomically(self._folder / "timeline.csv", to_csv(heard.table()))
        for name, values in (("probabilities", heard.probabilities), ("overview", heard.overview)):
            with replacing(self._folder / f"{name}.npy") as partial:
                np.save(partial, values)
        shown = None
        for label in reversed(heard.explained_labels):  # the one that is drawn comes last
            maps = (np.load(folder / "attribution.npy") for folder in self._saved[label])
            frames, joined = shown = join_maps(_places(heard, label), maps)
            name = labelled("attribution", heard.classes[label], label)
            with replacing(self._folder / f"{name}.npz") as partial:
                np.savez(
                    partial,
                    attribution=joined,
                    times=heard.times(frames),
                    frequencies=heard.front_end.frequencies.cpu().numpy(),
                )
        picture = _plot(heard, self._method, shown, _heading(heard))
        picture.save_screen(self._folder / "recording.png")
        summary = json.dumps(_summary(heard, self._method), indent=2)
        write_atomically(self._folder / RECORDING, summary + "\n")


@contextmanager
def saving_recording(
    folder: str | os.PathLike[str],
    heard: Timeline,
    method: str,
    masks: Iterable[str] | None = None,
    *,
    sound: str = "wav",
) -> Iterator[SavedRecording]:
    """Yield what the interpreted windows of a recording are saved with, one by one.

    The folder takes its place at the end and is complete then, or left as it was after an error.
    It holds:

    - ``recording.json``: what the model said, what was analysed and what was not;
    - ``timeline.csv``: `Timeline.table`; ``probabilities.npy``: (windows, classes), all of them;
    - ``attribution@LABEL.npz`` for every explained class: ``attribution`` (bins, frames), the mean
      where windows overlap, ``times`` (frames,) in seconds and ``frequencies`` (bins,) in Hz.
      Frames that lie in no window interpreted for this class are left out;
    - ``recording.png``: `RecordingInterpretation.plot`; ``overview.npy``: its spectrogram in dB;
    - a folder for every interpreted window, named after its start, as `Interpretation.save` makes.

    Parameters
    ----------
    folder : path
        Is made; the files of an earlier result in it are replaced, others stay.
    heard : Timeline
    method : str
        Name of the method.
    masks, sound
        See `Interpretation.save`.
    """
    folder = Path(folder)
    check_replaceable(folder)
    with replacing_folder(folder, written_files) as partial:
        saved = SavedRecording(partial, heard, method, masks, sound)
        yield saved
        saved.finish()


def window_name(heard: Timeline, result: Interpretation) -> str:
    """Return the name of a window's folder: its start, with the label if it may have several."""
    width = len(f"{heard.coverage.duration:.3f}")
    name = f"{result.section.start:0{width}.3f}s"
    return result_name(name, heard.target, result.target_label, result.target)


def _places(heard: Timeline, label: int) -> list[int]:
    """Return the first frames of the windows that explain a class."""
    windows = [window for window, labels in enumerate(heard.explained) if label in labels]
    return heard.first_frames[windows].tolist()


def _middle(result: Interpretation) -> float:
    return (result.section.start + result.section.end) / 2


def _heading(heard: Timeline) -> str:
    return f"{heard.recording}: {heard.coverage}"


def _summary(heard: Timeline, method: str) -> dict[str, Any]:
    window = heard.most_confident
    explained = heard.explained_labels
    return {
        "recording": heard.recording,
        "about": str(heard.coverage),
        "method": method,
        "label": heard.classes[int(heard.predicted[window])],
        "probability": float(heard.probabilities[window].max()),
        "labels": list(heard.labels),
        "target": describe_target(heard.target),
        "explained_classes": [heard.classes[label] for label in explained],
        "classes": list(heard.classes),
        "silent_windows": np.flatnonzero(heard.silent).tolist(),
        **heard.coverage.summary(),
        "front_end": heard.front_end.settings(),
    }


def _plot(
    heard: Timeline,
    method: str,
    known: tuple[NDArray[np.int64], NDArray[np.float32]] | None,
    heading: str,
) -> Picture:
    attribution = np.full_like(heard.overview, np.nan)
    title = "no window is interpreted"
    if known is not None:
        columns, values = reduce_frames(*known, heard.frames, heard.overview.shape[1], np.add)
        attribution[:, columns] = values
        label = heard.classes[heard.explained_labels[0]]
        gaps = "; grey: not interpreted for it" if np.isnan(attribution).any() else ""
        title = f"{method} attribution for {label}{gaps}"
    coverage = heard.coverage
    shown: Mapping[str, NDArray[np.float64]] = {
        heard.classes[label]: heard.probabilities[:, label] for label in heard.shown_classes(6)
    }
    return plot_recording(
        shown,
        coverage.windows,
        [coverage.windows[place] for place in coverage.interpreted],
        heard.overview,
        attribution,
        heard.front_end,
        map_title=title,
        heading=heading,
    )
