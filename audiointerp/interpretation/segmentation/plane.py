"""Segmentations by time and frequency: grids, time segments, bands, onsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audiointerp.interpretation.base import check_positive, check_whole
from audiointerp.interpretation.segmentation.base import SEGMENTATIONS, Clip, ClipSegmentation

FRAMES_PER_SECOND = 100.0
"""Assumed by `Onsets` where the network has no front end that says it."""


@SEGMENTATIONS.register("grid")
@dataclass(frozen=True)
class Grid(ClipSegmentation):
    """Rectangles of time and frequency.

    An axis is divided into a number of parts as equal as can be, or into parts of a given size,
    of which the last one may be smaller.

    Parameters
    ----------
    rows, columns : int, default 8 and 12
        Parts of the frequency and of the time axis, at most as many as there are cells.
    bins, frames : int, optional
        Size of the parts in cells, instead of their number.
    hertz, seconds : float, optional
        Size of the parts in physical units, instead of their number; needs a front end.
    """

    rows: int = 8
    columns: int = 12
    bins: int | None = None
    frames: int | None = None
    hertz: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            check_whole(name, getattr(self, name), 1)
        for cells, unit in (("bins", "hertz"), ("frames", "seconds")):
            sizes = getattr(self, cells), getattr(self, unit)
            if None not in sizes:
                raise ValueError(f"{cells} and {unit} are two sizes of one axis: give one of them")
            if sizes[0] is not None:
                check_whole(cells, sizes[0], 1)
            if sizes[1] is not None:
                check_positive(unit, sizes[1])

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        bins, frames = clip.cells.shape
        row = _along(bins, self.rows, self.bins, self.hertz, clip.frequencies, "hertz")
        column = _along(frames, self.columns, self.frames, self.seconds, clip.times, "seconds")
        return row[:, None] * (column.max() + 1) + column


@SEGMENTATIONS.register("time")
@dataclass(frozen=True)
class Time(ClipSegmentation):
    """Segments of equal duration, over all frequencies.

    Parameters
    ----------
    seconds : float, default 0.1
        Duration of a segment.
    frames : int, default 10
        Its frames where the network has no front end, so that seconds are not known.
    """

    seconds: float = 0.1
    frames: int = 10

    def __post_init__(self) -> None:
        check_positive("seconds", self.seconds)
        check_whole("frames", self.frames, 1)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        seconds = None if clip.times is None else self.seconds
        column = _along(clip.cells.shape[1], 1, self.frames, seconds, clip.times, "seconds")
        return np.broadcast_to(column, clip.cells.shape)


@SEGMENTATIONS.register("frequency")
@dataclass(frozen=True)
class Frequency(ClipSegmentation):
    """Frequency bands, over all frames.

    Parameters
    ----------
    bands : int, default 16
        Their number; each has as many bins as the others, as near as can be.
    edges : tuple of float, optional
        Hz, increasing: where one band ends and the next one begins, instead of the number; needs
        a front end.
    """

    bands: int = 16
    edges: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_whole("bands", self.bands, 1)
        if self.edges is not None and (
            not len(self.edges) or (np.diff(self.edges, prepend=0) <= 0).any()
        ):
            raise ValueError(f"edges must be increasing frequencies above 0 Hz, got {self.edges}")

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        if self.edges is None:
            row = _parts(clip.cells.shape[0], self.bands)
        else:
            row = np.searchsorted(self.edges, _known(clip.frequencies, "edges"), side="right")
        return np.broadcast_to(row[:, None], clip.cells.shape)


@SEGMENTATIONS.register("onsets")
@dataclass(frozen=True)
class Onsets(ClipSegmentation):
    """Segments from one onset to the next one.

    Onsets are the peaks of the mean rise of the level from frame to frame, moved back to the
    minimum before them. What lies before the first one is a segment too.

    Parameters
    ----------
    bands : int, default 1
        Parts of the frequency axis that are segments of their own.
    delta : float, default 0.07
        How far a peak rises above the mean around it, as a share of the highest peak.

    Notes
    -----
    Peaks are picked by librosa, whose windows are in seconds; for a bare network,
    `FRAMES_PER_SECOND` is assumed.
    """

    bands: int = 1
    delta: float = 0.07

    def __post_init__(self) -> None:
        check_whole("bands", self.bands, 1)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        import librosa

        bins, frames = clip.cells.shape
        rise = np.maximum(np.diff(clip.levels(), axis=1, prepend=clip.levels()[:, :1]), 0).mean(0)
        starts = np.zeros(frames, dtype=np.int64)
        if rise.any():
            found = librosa.onset.onset_detect(
                onset_envelope=rise,
                sr=clip.frames_per_second or FRAMES_PER_SECOND,
                hop_length=1,
                backtrack=True,
                delta=self.delta,
            )
            starts[found[found > 0]] = 1
        column = np.cumsum(starts)
        return _parts(bins, self.bands)[:, None] * (column[-1] + 1) + column


def _parts(cells: int, count: int) -> np.ndarray:
    """Return the number of the part that each cell of an axis is in, of equal parts."""
    count = min(count, cells)
    return np.arange(cells) * count // cells


def _along(
    cells: int,
    count: int,
    size: int | None,
    extent: float | None,
    axis: np.ndarray | None,
    name: str,
) -> np.ndarray:
    """Return the part of each cell of an axis: by an extent, a size in cells, or a number."""
    if extent is not None:
        axis = _known(axis, name)
        # A hundredth of a cell, so that rounding moves no cell over an edge.
        slack = 0.01 * abs(float(axis[-1] - axis[0])) / max(len(axis) - 1, 1)
        place = np.floor((axis - axis[0] + slack) / extent).astype(np.int64)
        return np.unique(place, return_inverse=True)[1]
    return _parts(cells, count) if size is None else np.arange(cells) // size


def _known(axis: np.ndarray | None, name: str) -> np.ndarray:
    if axis is None:
        raise ValueError(
            f"{name} needs the network's front end, which says what its cells are in Hz and "
            "seconds: wrap the network by audiointerp.classifier, or give a size in cells"
        )
    return axis.astype(np.float64)
