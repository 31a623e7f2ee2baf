"""Base class of all labelled sets: clips, classes, folds, noise, cache."""

from __future__ import annotations

import difflib
import hashlib
import io
import itertools
import math
import operator
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiointerp.dataset.audio import (
    AudioError,
    check_duration,
    fix_length,
    normalize_named,
    samples_in,
)
from audiointerp.dataset.channels import SILENT
from audiointerp.dataset.contamination import Contamination
from audiointerp.dataset.resampling import check_rate
from audiointerp.reading import FileError, read_array
from audiointerp.storage import write_atomically
from audiointerp.text import printable

Fold = int | str
"""A fold's number, or a split's name such as "test"."""

# Part of every key of the cache: raise it when decoding or resampling changes.
_CACHE_VERSION = 1

# What the names of parts and of windows of a file end in; see `audiointerp.dataset.files`.
_PART = re.compile(r"(@\d+\.\d+(-(\d+\.\d+)?)?)+$")


class Clip(NamedTuple):
    """One labelled clip; ``torch.utils.data.default_collate`` makes batches of them.

    Attributes
    ----------
    waveform : Tensor
        Shape ``(1, samples)``, float32.
    label : int or Tensor
        Index into the dataset's `classes`; in a multi-label set a float32 tensor of shape
        ``(classes,)``, 1 for each class that the clip has and 0 for the others.
    clip_id : str
        The clip's name, unique in its dataset.
    """

    waveform: Tensor
    label: int | Tensor
    clip_id: str


class Event(NamedTuple):
    """A sound in a clip.

    Attributes
    ----------
    onset, offset : float
        Where it begins and ends, in seconds from the clip's beginning.
    label : str
        The set's name of its class.
    low, high : float
        Its lowest and highest frequency, Hz; all frequencies where they are not known.
    """

    onset: float
    offset: float
    label: str
    low: float = 0.0
    high: float = math.inf

    @property
    def has_band(self) -> bool:
        """Whether it is known at which frequencies it sounds."""
        return self.low > 0 or self.high < math.inf


class ClipDataset(Dataset[Clip], ABC):
    """Labelled mono clips of one rate and one length, clean or with background noise.

    A subclass says which clips it has by calling this constructor, how to get one by `_decode`,
    and what that depends on by `_source`. `_clean_parts` is there to override where a clip
    without contamination has a background of its own.

    Parameters
    ----------
    clip_ids : sequence of str
        Names of the clips, all different.
    labels : sequence of int, or of collections of int
        Index into `classes`, one per clip; in a multi-label set any number of them per clip, which
        may be none.
    folds : sequence of int or str
        Fold number or name of the split, one per clip.
    classes : sequence of str
        Class names, in the order of the labels.
    sample_rate : int
        Rate of the clips in Hz.
    duration : float
        Length of the clips in seconds.
    normalize : bool
        Scale every clean clip to a peak of 1. A contaminated clip always has that peak.
    contamination : Contamination, optional
        Background noise to mix into every clip.
    cache_dir : path-like, optional
        Where to keep decoded and resampled clips as ``.npy`` files, shared by processes and
        runs. None keeps them in this object's memory (640 kB per 5 s at 32 kHz), which each
        worker of a DataLoader starts with only so far as it was filled before.
    multi_label : bool
        Whether a clip may have several classes, or none.
    asked_folds : sequence of int or str, optional
        The folds that the clips were chosen from, for `settings`; those they are of by default.

    Attributes
    ----------
    classes : tuple of str
    clip_ids : list of str
    label_sets : list of tuple of int
        The classes of each clip, ascending; one in a single-label set.
    labels : list of int
        The class of each clip; a multi-label set raises `ValueError`.
    multi_label : bool
    folds : list of int or str
    recordings : list of str
        The recording that each clip is from; clips of one are not independent of each other.
    absent_classes : tuple of str
        The classes that no clip has.
    sample_rate : int
    duration : float
    num_samples : int
        Samples in every clip.
    """

    def __init__(
        self,
        *,
        clip_ids: Sequence[str],
        labels: Sequence[int] | Sequence[Collection[int]],
        folds: Sequence[Fold],
        classes: Sequence[str],
        sample_rate: int,
        duration: float,
        normalize: bool = True,
        contamination: Contamination | None = None,
        cache_dir: str | Path | None = None,
        multi_label: bool = False,
        asked_folds: Sequence[Fold] | None = None,
    ) -> None:
        if not len(clip_ids) == len(labels) == len(folds):
            raise ValueError(
                "every clip needs an id, a label and a fold: "
                f"got {len(clip_ids)} ids, {len(labels)} labels, {len(folds)} folds"
            )
        if len(set(clip_ids)) != len(clip_ids):
            twice = sorted(name for name, count in Counter(clip_ids).items() if count > 1)
            raise ValueError(f"clip ids must be unique, results are filed by them: {twice} repeat")
        _check_text(clip_ids, classes, folds)
        if contamination is not None and not isinstance(contamination, Contamination):
            raise TypeError(
                f"contamination must be a Contamination, not {contamination!r}: "
                "write Contamination(noise_file, alpha=0.6)"
            )
        self.classes = tuple(classes)
        self.clip_ids = list(clip_ids)
        self.multi_label = bool(multi_label)
        self.label_sets = _label_sets(labels, len(self.classes), self.multi_label)
        self.folds = list(folds)
        self._asked_folds = sort_folds(folds if asked_folds is None else asked_folds)
        self.sample_rate = check_rate(sample_rate)
        self.duration = check_duration(duration)
        self.num_samples = samples_in(self.duration, self.sample_rate)
        self.normalize = bool(normalize)
        self.contamination = contamination
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        if self.cache_dir is not None and self.cache_dir.exists() and not self.cache_dir.is_dir():
            raise NotADirectoryError(f"cache_dir {self.cache_dir} is a file, not a folder")
        self._positions = {name: place for place, name in enumerate(self.clip_ids)}
        self._memory: dict[int, Tensor] = {}
        self._events: list[list[Event]] | None = None
        self._event_settings: dict[str, Any] = {}
        if contamination is not None:
            contamination.noise(self.sample_rate, self.num_samples)  # a bad noise file shows now

    @property
    def labels(self) -> list[int]:
        """The class of each clip.

        Raises
        ------
        ValueError
            In a multi-label set, whose clips have any number of classes.
        """
        if self.multi_label:
            raise ValueError(
                f"{type(self).__name__} is a multi-label set, whose clips have any number of "
                "classes, not one label each: use label_sets, or a set with one label per clip"
            )
        return [label for (label,) in self.label_sets]

    @labels.setter
    def labels(self, labels: Sequence[int]) -> None:
        self.label_sets = _label_sets(labels, len(self.classes), multi_label=False)

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """The classes that no clip has."""
        there = {label for labels in self.label_sets for label in labels}
        return tuple(name for label, name in enumerate(self.classes) if label not in there)

    @property
    def recordings(self) -> list[str]:
        """The recording that each clip is from, by name: clips of one are not independent.

        Parts and windows of a file are of one recording. Sets whose names say more override this.
        """
        return [_PART.sub("", name) for name in self.clip_ids]

    @abstractmethod
    def _decode(self, index: int) -> Tensor:
        """Return clip `index` as float32 ``(rows, samples)`` at `sample_rate`, any length or level.

        Rows are one for a plain clip; a set that keeps the parts of a clip returns one row each
        and overrides `_clean_parts`. What is returned here is what the cache keeps.
        """

    @abstractmethod
    def _source(self, index: int) -> str:
        """Return what the decoded clip depends on, apart from the rate: its key on disk."""

    def _clean_parts(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the clip without contamination and the background it has of itself (zeros)."""
        waveform = fix_length(self._cached(index), self.num_samples)
        if self.normalize:
            waveform = normalize_named(
                waveform, self._describe(index), partial(self._why_silent, index)
            )
        else:
            waveform = waveform.clone()  # what is handed out may be changed, the cache may not
        return waveform, torch.zeros_like(waveform)

    def _why_silent(self, index: int) -> str:
        """Say why a clip is silent, to be written after its name in an error."""
        return SILENT

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        several = {"multi_label": True} if self.multi_label else {}
        return several | {
            "name": type(self).__name__,
            "classes": list(self.classes),
            "folds": self._asked_folds,
            "clips": len(self),
            "sample_rate": self.sample_rate,
            "duration": self.duration,
            "normalize": self.normalize,
            "contamination": None if self.contamination is None else self.contamination.settings(),
            **self._event_settings,
        }

    def _describe(self, index: int) -> str:
        """Name the clip's source in an error."""
        return f"clip {self.clip_ids[index]}"

    @property
    def has_parts(self) -> bool:
        """Whether foreground and background of the clips are known apart; see `true_parts`."""
        return self.contamination is not None

    def true_parts(self, index: int) -> tuple[Tensor, Tensor]:
        """Return foreground and background of clip `index`, which sum to its waveform.

        Only where `has_parts`; shapes as `parts` returns them.
        """
        return self.parts(index)

    def foreground_labels(self, index: int) -> tuple[int, ...]:
        """Return the classes that the foreground of clip `index` is evidence of, ascending.

        Those of the clip, in most sets: maps of other classes are not judged by its parts, see
        `true_parts`.
        """
        return self.label_sets[self._check_index(index)]

    @property
    def has_events(self) -> bool:
        """Whether a table says when what sounds in the clips; see `true_events`."""
        return self._events is not None

    @property
    def has_boxes(self) -> bool:
        """Whether the events have frequencies as well: boxes in time and frequency."""
        return any(event.has_band for events in self._events or () for event in events)

    def add_events(self, events: Sequence[Sequence[Event]], source: Mapping[str, str]) -> None:
        """Take what sounds in the clips, and when; `audiointerp.dataset.EventTable` reads it.

        Parameters
        ----------
        events : sequence of sequence of Event
            Of each clip.
        source : mapping of str to str
            What they depend on, for `settings`.
        """
        if len(events) != len(self):
            raise ValueError(f"events of {len(events)} clips for a set of {len(self)}")
        self._events = [sorted(each) for each in events]
        self._event_settings = {"events": dict(source)}

    def true_events(self, index: int) -> list[Event]:
        """Return the events of clip `index` by their onsets: onset, offset and label of each.

        Raises
        ------
        ValueError
            If no table of events was given; see `has_events`.
        """
        if self._events is None:
            raise ValueError("no events are known of this set: give their table, events='FILE'")
        return self._events[self._check_index(index)]

    def sound_names(self, index: int) -> tuple[str, ...]:
        """Return what tables may call the sound that clip `index` is of, the full name first.

        Names of files are without their ending.
        """
        return (self.clip_ids[index],)

    def part_of_sound(self, index: int) -> tuple[float, float]:
        """Return the seconds of its sound that clip `index` begins and ends at."""
        return 0.0, self.duration

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, index: int) -> Clip:
        index = self._check_index(index)
        clip, noise = self.parts(index)
        return Clip(clip + noise, self._label(index), self.clip_ids[index])

    def _label(self, index: int) -> int | Tensor:
        if not self.multi_label:
            return self.label_sets[index][0]
        label = torch.zeros(len(self.classes))
        label[list(self.label_sets[index])] = 1
        return label

    def parts(self, index: int) -> tuple[Tensor, Tensor]:
        """Return what clip `index` is the sum of.

        Parameters
        ----------
        index : int
            Position of the clip; negative counts from the end.

        Returns
        -------
        clip, noise : Tensor
            Shape ``(1, samples)`` each. ``clip + noise`` is ``dataset[index].waveform`` bit for
            bit; the noise is zero where the clip is clean.
        """
        index = self._check_index(index)
        clip, noise = self._clean_parts(index)
        if self.contamination is None:
            return clip, noise
        source, whole = self._describe(index), clip + noise
        if not whole.any():
            raise AudioError(f"{source}: {self._why_silent(index)}")
        return self.contamination.parts(whole, self.sample_rate, source=source)

    def index(self, clip_id: str) -> int:
        """Return the position of the clip called `clip_id`.

        Raises
        ------
        ValueError
            If there is none; the message suggests the nearest names.
        """
        if clip_id in self._positions:
            return self._positions[clip_id]
        close = difflib.get_close_matches(str(clip_id), self.clip_ids, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"no clip {clip_id!r} among these {len(self)} (folds {sort_folds(self.folds)}){hint}"
        )

    def __repr__(self) -> str:
        folds = ", ".join(map(str, sort_folds(self.folds)))
        kind = ", multi-label" if self.multi_label else ""
        text = (
            f"{type(self).__name__}({len(self)} clips, {len(self.classes)} classes{kind}, "
            f"folds {folds}, {self.duration:g} s at {self.sample_rate} Hz"
        )
        return f"{text}, {self.contamination})" if self.contamination else f"{text})"

    def __getstate__(self) -> dict[str, Any]:
        # Clips in memory can be a gigabyte, and a process that gets a copy can decode them again.
        return {**self.__dict__, "_memory": {}}

    def _check_index(self, index: int) -> int:
        try:
            place = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a clip is taken by its position, a whole number, not {index!r}: "
                "use dataset.index(clip_id) for a name, torch.utils.data.Subset for several"
            ) from None
        if not -len(self) <= place < len(self):
            raise IndexError(f"clip {place} of a dataset of {len(self)}")
        return place % len(self)

    def _cached(self, index: int) -> Tensor:
        """Return `_decode(index)`, from the cache where it is there. Not to be changed in place."""
        if self.cache_dir is not None:
            return self._from_disk(index, self.cache_dir)
        if index not in self._memory:
            self._memory[index] = self._decode(index)
        return self._memory[index]

    def _from_disk(self, index: int, folder: Path) -> Tensor:
        key = f"{_CACHE_VERSION}|{self._source(index)}|{self.sample_rate}"
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        path = folder / f"{digest[:32]}.npy"
        kept = _read_entry(path)
        if kept is not None:
            return kept
        waveform = self._decode(index)
        buffer = io.BytesIO()
        np.save(buffer, waveform.numpy())
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        return waveform


def parse_fold(text: str) -> Fold:
    """Return a fold as sets name it: the number that `text` is, or the name.

    Examples
    --------
    >>> parse_fold("5"), parse_fold("5.0"), parse_fold(" test ")
    (5, 5, 'test')
    """
    name = text.strip()
    return int(name.split(".")[0]) if re.fullmatch(r"\d{1,18}(\.0*)?", name) else name


def sort_folds(folds: Iterable[Fold]) -> list[Fold]:
    """Return the different folds, numbers first."""
    return sorted(set(folds), key=lambda fold: (isinstance(fold, str), fold))


def choose_folds(folds: Fold | Iterable[Fold] | None, available: Iterable[Fold]) -> list[Fold]:
    """Return the folds asked for, sorted, all of them for None.

    Parameters
    ----------
    folds : int, str, iterable of these or None
        Folds as the data names them: numbers, ESC-50's being 1 to 5, or names such as "test".
    available : iterable of int or str
        The folds that exist.

    Raises
    ------
    ValueError
        If a fold does not exist, or none is asked for; the message lists those that do.
    """
    exist = sort_folds(available)
    if folds is None:
        return exist
    if isinstance(folds, (str, bytes)) or not isinstance(folds, Iterable):
        folds = [folds]
    wanted = set(folds)
    unknown = [fold for fold in wanted if fold not in exist or isinstance(fold, bool)]
    listed = ", ".join(map(str, exist))
    if unknown:
        named = ", ".join(sorted(map(repr, unknown)))
        numbers = all(isinstance(fold, int) for fold in exist)
        hint = " (numbers, counted from 1)" if numbers else ""
        raise ValueError(f"unknown fold {named}: choose from {listed}{hint}")
    if not wanted:
        raise ValueError(f"no fold was asked for: choose from {listed}, or None for all")
    return [fold for fold in exist if fold in wanted]


def rarest_labels(label_sets: Sequence[Collection[int]]) -> list[int]:
    """Return one class for each clip: of those it has, the one that the fewest clips have.

    For whatever goes by class, such as taking the same number of clips of each.

    Parameters
    ----------
    label_sets : sequence of collections of int
        The classes of each clip.

    Returns
    -------
    list of int
        Of several equally rare classes the one that comes first; -1 for a clip of no class.

    Examples
    --------
    >>> rarest_labels([(0,), (0, 2), (), (0, 1), (1,)])
    [0, 2, -1, 1, 1]
    """
    clips_with = Counter(label for labels in label_sets for label in set(labels))
    return [
        min(labels, key=lambda label: (clips_with[label], label), default=-1)
        for labels in label_sets
    ]


def choose_clips(labels: Sequence[int] | Sequence[Collection[int]], clips: int | None) -> list[int]:
    """Return the positions of at most `clips` clips, taken class by class in turn.

    The first clip of every class, in the order of the labels, then the second of every class, and
    so on: no class has more than one clip more than another that has clips left. Fewer clips are
    part of more of them. A clip of several classes counts for its rarest (see `rarest_labels`),
    clips of no class are one class more, the last.

    Parameters
    ----------
    labels : sequence of int, or of collections of int
        Of all clips there are.
    clips : int, optional
        How many to take at most; None takes all.

    Returns
    -------
    list of int
        Ascending, so that the clips keep their order.

    Raises
    ------
    TypeError
        If `clips` is not a whole number.
    ValueError
        If it is below 1.
    """
    if clips is None:
        return list(range(len(labels)))
    if isinstance(clips, bool) or not isinstance(clips, (int, np.integer)):
        raise TypeError(f"clips must be a whole number or None for all, not {clips!r}")
    if clips < 1:
        raise ValueError(f"clips={clips}: expected at least 1, or None for all")
    several = len(labels) and isinstance(labels[0], Collection)
    taken: Counter[int] = Counter()
    turns = []
    for place, label in enumerate(rarest_labels(labels) if several else labels):
        turns.append((taken[label], label < 0, label, place))
        taken[label] += 1
    return sorted(place for *_, place in sorted(turns)[:clips])


def _check_text(*names: Iterable[object]) -> None:
    """Check that names can be written into tables: bytes of a folder's name may be no text."""
    for name in map(str, itertools.chain(*names)):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{printable(name)}: the name holds bytes that are no UTF-8, which no table can "
                "hold: rename the file or folder"
            ) from error


def _label_sets(
    labels: Sequence[int] | Sequence[Collection[int]], classes: int, multi_label: bool
) -> list[tuple[int, ...]]:
    """Return the classes of each clip, ascending, checked."""
    sets = [tuple(sorted(set(each))) if multi_label else (each,) for each in labels]
    used = {label for each in sets for label in each}
    if used and not 0 <= min(used) <= max(used) < classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, indices into classes")
    return sets


def _read_entry(path: Path) -> Tensor | None:
    """Return a cached clip, or None if there is none or it is damaged and must be made again."""
    try:
        kept = read_array(path)
    except (OSError, FileError):
        return None
    if kept.dtype != np.float32 or kept.ndim != 2 or not kept.size or not np.isfinite(kept).all():
        return None
    return torch.from_numpy(kept)
