"""Windows of a recording: how they are cut, which are interpreted, what is omitted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiointerp.dataset.decode import check_part
from audiointerp.processing import FrontEnd

INTERPRETED = 5
"""How many windows of a recording are interpreted unless told otherwise."""

_LISTED = 3
"""Stretches that were not analysed are listed up to so many, more are counted."""


class Section(NamedTuple):
    """A part of a recording.

    Attributes
    ----------
    recording : str
        Name of the recording.
    start, end : float
        Seconds from its beginning.
    """

    recording: str
    start: float
    end: float

    @property
    def name(self) -> str:
        """The recording's name with the times."""
        return f"{self.recording}, {span(self.start, self.end)}"


@dataclass(frozen=True)
class Windowing:
    """Which part of a recording is analysed, in which windows, and how many are interpreted.

    Attributes
    ----------
    start, end : float, optional
        The part to analyse, in seconds; all of the recording by default.
    window : float, optional
        Length of a window in seconds; the duration that the model takes by default.
    hop : float, optional
        Seconds from the start of one window to the next, rounded up to whole frames of the front
        end. Half a window by default, so that an event at the edge of one window is in the middle
        of another.
    windows : int or "all"
        How many windows to interpret: the most confident ones, see `choose_windows`. All windows
        are classified.

    Raises
    ------
    ValueError
        If a length or the number is not above 0, or `end` not after `start`.
    """

    start: float | None = None
    end: float | None = None
    window: float | None = None
    hop: float | None = None
    windows: int | Literal["all"] = INTERPRETED

    def __post_init__(self) -> None:
        check_part(self.start or 0.0, self.end)
        for name in ("window", "hop"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}: expected seconds above 0")
        if self.windows == "all":
            return
        if isinstance(self.windows, bool) or not isinstance(self.windows, int) or self.windows < 1:
            raise ValueError(
                f"windows is {self.windows!r}: expected how many to interpret, 1 or more, or 'all'"
            )

    def of_background(self) -> dict[str, float]:
        """Return how long clips are that windows can be compared with, if not the model's own."""
        return {} if self.window is None else {"duration": self.window}


@dataclass(frozen=True)
class Coverage:
    """How much of a recording was analysed and interpreted.

    Attributes
    ----------
    duration : float
        Length of the whole recording in seconds.
    window, hop : float
        Seconds of a window, and from one to the next.
    windows : tuple of (float, float)
        Start and end of every window that was classified, seconds.
    interpreted : tuple of int
        Which of them were interpreted.
    """

    duration: float
    window: float
    hop: float
    windows: tuple[tuple[float, float], ...]
    interpreted: tuple[int, ...]

    @property
    def not_analysed(self) -> list[tuple[float, float]]:
        """Stretches that lie in no window, (start, end) in seconds."""
        edges = [0.0, *itertools.chain(*self.windows), self.duration]
        # Resampling rounds the end by up to half a sample.
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1e-3]

    @property
    def not_interpreted(self) -> list[tuple[float, float]]:
        """Windows that were classified and not interpreted, (start, end) in seconds."""
        chosen = set(self.interpreted)
        return [times for place, times in enumerate(self.windows) if place not in chosen]

    @property
    def is_partial(self) -> bool:
        """Whether anything of the recording was not interpreted."""
        return bool(self.not_analysed or self.not_interpreted)

    def summary(self) -> dict[str, Any]:
        """Return what was analysed and what was not, as plain values for JSON."""
        return {
            "duration": self.duration,
            "window": self.window,
            "hop": self.hop,
            "windows": len(self.windows),
            "interpreted": [list(self.windows[place]) for place in self.interpreted],
            "not_interpreted": [list(times) for times in self.not_interpreted],
            "not_analysed": [list(times) for times in self.not_analysed],
        }

    def __str__(self) -> str:
        count = len(self.windows)
        if count == 1:
            said = f"{in_seconds(self.duration)} s, one window of {in_seconds(self.window)} s"
        else:
            said = (
                f"{in_seconds(self.duration)} s, {count} windows of {in_seconds(self.window)} s "
                f"every {in_seconds(self.hop)} s, {len(self.interpreted)} interpreted"
            )
            if len(self.interpreted) == 1:
                said += f" ({span(*self.windows[self.interpreted[0]])})"
        left = self.not_analysed
        if not left:
            return said
        if len(left) > _LISTED:
            seconds = in_seconds(sum(end - start for start, end in left))
            return f"{said}; not analysed: {seconds} s in {len(left)} stretches"
        return f"{said}; not analysed: {', '.join(itertools.starmap(span, left))}"


def choose_windows(
    times: Sequence[tuple[float, float]],
    window: NDArray[np.int64],
    label: NDArray[np.int64],
    probability: NDArray[np.float64],
    silent: NDArray[np.bool_],
    most: int | Literal["all"] = INTERPRETED,
) -> list[int]:
    """Return which windows to interpret, in the order of time.

    First the most confident window of every label that is to be explained, the most probable
    label first, so that a rare event is not crowded out by what is heard all the time; then the
    most confident of the others that overlap none of those chosen; then the most confident of the
    rest. Silent windows come last.

    Parameters
    ----------
    times : sequence of (float, float)
        Start and end of every window.
    window, label : ndarray of int, shape (explanations,)
        Which labels of which windows are to be explained; see
        `audiointerp.runs.targets.choose_targets`.
    probability : ndarray, shape (explanations,)
        Of those labels.
    silent : ndarray of bool, shape (windows,)
        Windows of zeros.
    most : int or "all"
        How many to choose.

    Returns
    -------
    list of int
        Fewer where fewer have a label to be explained.
    """
    if most == "all":
        return sorted(set(window.tolist()))
    order = np.lexsort((window, -probability, silent[window]))
    heard = order[~silent[window[order]]]
    best = heard[np.sort(np.unique(label[heard], return_index=True)[1])]
    chosen: list[int] = []

    def is_apart(place: int) -> bool:
        start, end = times[place]
        return all(end <= times[other][0] or times[other][1] <= start for other in chosen)

    for candidates, wanted in ((best, None), (heard, is_apart), (order, None)):
        for place in window[candidates].tolist():
            if len(chosen) == most:
                return sorted(chosen)
            if place not in chosen and (wanted is None or wanted(place)):
                chosen.append(place)
    return sorted(chosen)


def frame_step(front_end: FrontEnd) -> float:
    """Return how many samples lie between two frames of a front end."""
    first, second = front_end.times(2).double().tolist()
    step = (second - first) * front_end.sample_rate
    return float(round(step)) if abs(step - round(step)) < 1e-3 else step


def round_hop(hop: float, front_end: FrontEnd) -> float:
    """Return seconds rounded up to whole frames of a front end.

    Rounded down, the last window of a recording, which ends with it, would nearly be the one before
    where windows fit without a rest.
    """
    step = frame_step(front_end) / front_end.sample_rate
    return max(1, math.ceil(hop / step - 1e-6)) * step


def first_frames(times: Sequence[tuple[float, float]], front_end: FrontEnd) -> NDArray[np.int64]:
    """Return the frame that each window of a recording begins at, counted from the first window.

    Windows start a whole number of frames apart, see `round_hop`, but for the last, which ends with
    the recording wherever that is: it is placed to the nearest frame.

    Parameters
    ----------
    times : sequence of (float, float)
        Start and end of every window, seconds.
    front_end : FrontEnd
    """
    starts = np.array([start for start, _ in times])
    frames = (starts - starts[0]) * front_end.sample_rate / frame_step(front_end)
    return np.rint(frames).astype(np.int64)


def join_maps(
    places: Sequence[int], maps: Iterable[NDArray[np.floating]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Join attribution maps of windows over a recording: the mean where windows overlap.

    Parameters
    ----------
    places : sequence of int
        The frame of the recording that each window begins at; at least one.
    maps : iterable of ndarray, shape (bins, frames)
        Of the windows, all of one shape; one is held at a time.

    Returns
    -------
    frames : ndarray of int, shape (known,)
        Frames of the recording that lie in a window, ascending.
    joined : ndarray, shape (bins, known)
    """
    frames = total = count = np.zeros(0)
    for place, values in zip(places, maps, strict=True):
        length = values.shape[1]
        if not len(frames):
            frames = np.unique(np.add.outer(np.asarray(places), np.arange(length)))
            total, count = np.zeros((len(values), len(frames))), np.zeros(len(frames))
        first = np.searchsorted(frames, place)
        total[:, first : first + length] += values
        count[first : first + length] += 1
    return frames, (total / count).astype(np.float32)


def span(start: float, end: float) -> str:
    """Return a stretch of time in words."""
    return f"{in_seconds(start)}–{in_seconds(end)} s"


def in_seconds(time: float) -> str:
    """Return a time to milliseconds, without zeros at the end."""
    return f"{time:.3f}".rstrip("0").rstrip(".")
