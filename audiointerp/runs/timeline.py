"""Class probabilities of every window of a recording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audiointerp.processing import FrontEnd
from audiointerp.runs.targets import Target
from audiointerp.runs.windows import Coverage, frame_step

ALL_CLASSES = 50
"""A table has a column for every class of models with up to so many classes."""
SHOWN_CLASSES = 20
"""Of others it has so many, those that are the most probable anywhere."""


@dataclass(frozen=True)
class Timeline:
    """The probabilities of every window of a recording, and which labels are explained where.

    Attributes
    ----------
    recording : str
        Name of the recording.
    front_end : FrontEnd
    classes : tuple of str
    probabilities : ndarray, shape (windows, classes), float64
    decisions : ndarray of bool, shape (windows, classes)
        Which classes the head decides for.
    silent : ndarray of bool, shape (windows,)
        Windows of zeros.
    target : str, int, sequence of them, Top, Above or None
        What was asked to be explained; see `audiointerp.runs.targets`.
    explained : tuple of tuple of int
        For every window the classes that are explained, none where it is not interpreted.
    first_frames : ndarray of int, shape (windows,)
        The frame of the part that each window begins at.
    overview : ndarray, shape (bins, columns), float32
        Spectrogram of the part that was analysed, dB: the loudest frame of each column. NaN where
        no window lies.
    frames : int
        Frames of the front end in that part; a column has one or more of them.
    coverage : Coverage
        What was analysed and what was not.
    """

    recording: str
    front_end: FrontEnd
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    decisions: NDArray[np.bool_]
    silent: NDArray[np.bool_]
    target: Target
    explained: tuple[tuple[int, ...], ...]
    first_frames: NDArray[np.int64]
    overview: NDArray[np.float32]
    frames: int
    coverage: Coverage

    @property
    def start(self) -> float:
        """Where the first window begins, seconds."""
        return self.coverage.windows[0][0]

    @property
    def end(self) -> float:
        """Where the last window ends, seconds."""
        return self.coverage.windows[-1][1]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of every window, shape (windows,)."""
        return self.probabilities.argmax(1)

    @property
    def most_confident(self) -> int:
        """The window with the highest probability of its predicted class; not a silent one."""
        highest = self.probabilities.max(1)
        return int(np.lexsort((-highest, self.silent))[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are predicted in some window that is not silent, by their peaks."""
        heard = np.flatnonzero(~self.silent)
        ranked = self._rank((window, int(self.predicted[window])) for window in heard)
        return tuple(self.classes[label] for label in ranked)

    @property
    def explained_labels(self) -> tuple[int, ...]:
        """The classes that are explained somewhere, by their peaks; silent windows come last."""
        return self._rank(
            (window, label) for window, labels in enumerate(self.explained) for label in labels
        )

    def times(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the centres of frames of the part, in seconds of the recording."""
        step = frame_step(self.front_end) / self.front_end.sample_rate
        return self.start + float(self.front_end.times(1)[0]) + frames * step

    def shown_classes(self, most: int = SHOWN_CLASSES) -> list[int]:
        """Return the classes that are the most probable anywhere, and those that are explained."""
        highest = np.argsort(-self.probabilities.max(0), kind="stable")[:most]
        return sorted({*highest.tolist(), *self.explained_labels})

    def table(self) -> pd.DataFrame:
        """Return one row per window.

        Returns
        -------
        DataFrame
            ``start``, ``end`` (seconds), ``label`` and ``probability`` of the most probable class,
            ``labels`` (all that are decided for), ``silent``, ``explained`` (labels explained, ""
            where the window is not interpreted), and ``p(class)`` of every class. Models of more
            than 50 classes have the columns of `shown_classes`; `probabilities` has all.
        """
        count = len(self.classes)
        shown = list(range(count)) if count <= ALL_CLASSES else self.shown_classes()
        times = np.array(self.coverage.windows)
        about = {
            "start": times[:, 0],
            "end": times[:, 1],
            "label": [self.classes[label] for label in self.predicted],
            "probability": self.probabilities.max(1),
            "labels": [self._join(np.flatnonzero(row)) for row in self.decisions],
            "silent": self.silent,
            "explained": [self._join(labels) for labels in self.explained],
        }
        chances = {f"p({self.classes[label]})": self.probabilities[:, label] for label in shown}
        return pd.DataFrame(about | chances).rename_axis("window")

    def _rank(self, pairs: Iterable[tuple[int, int]]) -> tuple[int, ...]:
        """Return the classes of pairs of window and class, the one with the highest peak first."""
        ranks: dict[int, tuple[bool, float]] = {}
        for window, label in pairs:
            rank = (bool(self.silent[window]), -float(self.probabilities[window, label]))
            ranks[label] = min(rank, ranks.get(label, rank))
        return tuple(sorted(ranks, key=lambda label: ranks[label]))

    def _join(self, labels: NDArray[np.int64] | tuple[int, ...]) -> str:
        return "|".join(self.classes[label] for label in labels)


class Overview:
    """The spectrogram of a recording, reduced as its windows come.

    Parameters
    ----------
    bins, frames : int
        Of the whole recording.
    most : int
        Columns at most.
    """

    def __init__(self, bins: int, frames: int, most: int = 1024) -> None:
        self._frames = frames
        self._columns = min(frames, most)
        self._loudest = np.full((bins, self._columns), -np.inf, dtype=np.float32)

    def add(self, place: int, level: NDArray[np.float32]) -> None:
        """Add a window's levels (bins, frames), dB, from a frame on."""
        columns, reduced = reduce_frames(
            place + np.arange(level.shape[1]), level, self._frames, self._columns, np.maximum
        )
        self._loudest[:, columns] = np.maximum(self._loudest[:, columns], reduced)

    def picture(self) -> NDArray[np.float32]:
        """Return the levels (bins, columns), NaN where no window lies."""
        return np.where(np.isfinite(self._loudest), self._loudest, np.float32(np.nan))


def reduce_frames(
    frames: NDArray[np.int64],
    values: NDArray[np.float32],
    total: int,
    columns: int,
    reduce: np.ufunc,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Reduce the frames that fall into one column of a picture to one value each bin.

    Parameters
    ----------
    frames : ndarray of int, shape (known,)
        Ascending, from 0 to total - 1.
    values : ndarray, shape (bins, known)
    total : int
        Frames of the whole picture.
    columns : int
        Columns of the whole picture, `total` or fewer.
    reduce : ufunc
        ``np.maximum``, or ``np.add`` for the mean.

    Returns
    -------
    columns : ndarray of int, shape (reached,)
        Columns that some of the frames fall into.
    reduced : ndarray, shape (bins, reached)
    """
    reached, first = np.unique(frames * columns // total, return_index=True)
    reduced = reduce.reduceat(values, first, axis=1)
    if reduce is np.add:
        reduced = reduced / np.diff([*first, len(frames)])
    return reached, reduced.astype(np.float32)
