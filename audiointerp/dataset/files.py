"""Shared parts of file-based sets: segments and windows of files, names, truncation."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from torch import Tensor

from audiointerp.dataset.audio import check_duration, read_part, why_file_silent
from audiointerp.dataset.base import ClipDataset, Fold, choose_clips, choose_folds, sort_folds
from audiointerp.dataset.channels import CHANNELS, MID
from audiointerp.dataset.contamination import Contamination
from audiointerp.dataset.decode import EXTENSIONS, TOLERANCE, AudioError, SoundReader, check_file
from audiointerp.dataset.resampling import check_rate
from audiointerp.dataset.stream import window_starts
from audiointerp.reading import is_hidden, is_stray

LONGEST_KEPT = 60.0
"""Seconds of a clip that are decoded and cached, however short `duration` is."""

_LOOKED_AT = 1000
"""Most files that are opened to say how many clips are cut."""

_LONGEST_ID = 160


class TruncationWarning(UserWarning):
    """Clips are longer than the set's `duration`, so that their ends are not analysed."""


class FileClip(NamedTuple):
    """One clip of a set of files: a file, or a part of one.

    Attributes
    ----------
    clip_id : str
        Unique in its set, and usable as a file name.
    path : Path
        The sound file.
    labels : tuple of int
        Its classes.
    fold : int or str
    start : float
        Where it begins in the file, in seconds.
    end : float or None
        Where it ends; None is the end of the file.
    """

    clip_id: str
    path: Path
    labels: tuple[int, ...]
    fold: Fold
    start: float = 0.0
    end: float | None = None


class ClipOptions(TypedDict, total=False):
    """Options that all sets of files have; see `FileDataset`."""

    sample_rate: int
    duration: float
    normalize: bool
    contamination: Contamination | None
    cache_dir: str | os.PathLike[str] | None
    clips: int | None
    window_hop: float | None
    channel: str


class FileDataset(ClipDataset):
    """Clips that are sound files or parts of them.

    A subclass finds the clips and calls this constructor, which takes the folds, makes the windows
    and chooses the clips that are wanted, in this order.

    Parameters
    ----------
    rows : sequence of FileClip
        All clips there are.
    classes : sequence of str
        Class names, in the order of the labels.
    source : str
        What the clips were found in, for errors.
    folds : int, str or iterable of these, optional
        Which folds or splits to take; all by default.
    available_folds : iterable of int or str, optional
        The folds that may be asked for; those of the clips by default.
    clips : int, optional
        Take at most this many clips, class by class in turn; see
        `audiointerp.dataset.base.choose_clips`.
    window_hop : float, optional
        Make several clips of one that is longer than `duration`: one every so many seconds, the
        last one ending with the clip. They are called ``name@12.50``, by the second they begin at.
        Every file is opened for this. None takes the beginning of a long clip only; a
        `TruncationWarning` then says how many there are.
    channel : {"mid", "left", "right", "side"}
        What becomes of the channels of a file; see `audiointerp.dataset.load_audio`.
    sample_rate, duration, normalize, contamination, cache_dir, multi_label
        See `audiointerp.dataset.ClipDataset`.

    Attributes
    ----------
    paths : list of Path
        The sound file of each clip.
    starts : list of float
        Where each clip begins in its file, in seconds.
    ends : list of float or None
        Where it ends; None is the end of the file.

    Raises
    ------
    FileNotFoundError
        If not one of the sound files exists. One that is missing or broken raises `AudioError`
        when it is taken, so that the others stay usable.
    """

    def __init__(
        self,
        rows: Sequence[FileClip],
        *,
        classes: Sequence[str],
        source: str,
        folds: Fold | Iterable[Fold] | None = None,
        available_folds: Iterable[Fold] | None = None,
        clips: int | None = None,
        window_hop: float | None = None,
        channel: str = MID,
        sample_rate: int = 32000,
        duration: float = 5.0,
        normalize: bool = True,
        contamination: Contamination | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        multi_label: bool = False,
    ) -> None:
        CHANNELS[channel]
        self.channel = channel
        there = {row.fold for row in rows}
        wanted = choose_folds(folds, there if available_folds is None else available_folds)
        _check_unique(rows, source)
        rows = _take_folds(rows, wanted, source)
        self._fingerprint = _fingerprint(rows)
        self.window_hop = None if window_hop is None else check_hop(window_hop)
        if self.window_hop is not None:
            rate, length = check_rate(sample_rate), check_duration(duration)
            rows = [part for row in rows for part in _windows(row, rate, length, self.window_hop)]
        labels = [row.labels if multi_label else row.labels[0] for row in rows]
        chosen = choose_clips(labels, clips)
        rows = [rows[place] for place in chosen]
        self.paths = [row.path for row in rows]
        self.starts = [row.start for row in rows]
        self.ends = [row.end for row in rows]
        self._cut_reported = False
        if not any(map(os.path.isfile, self.paths)):
            raise FileNotFoundError(
                f"{source}: none of the {len(set(self.paths))} sound files is there, the first "
                f"being {self.paths[0]}"
            )
        super().__init__(
            clip_ids=[row.clip_id for row in rows],
            labels=[labels[place] for place in chosen],
            folds=[row.fold for row in rows],
            classes=classes,
            sample_rate=sample_rate,
            duration=duration,
            normalize=normalize,
            contamination=contamination,
            cache_dir=cache_dir,
            multi_label=multi_label,
            asked_folds=wanted,
        )

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        windows = {} if self.window_hop is None else {"window_hop": self.window_hop}
        channel = {} if self.channel == MID else {"channel": self.channel}
        return super().settings() | windows | channel

    def cut_clips(self) -> dict[str, float]:
        """Return how much of each clip is not used because it is longer than `duration`.

        Opens every file. Files that cannot be read are left out.

        Returns
        -------
        dict of str to float
            Seconds by clip id; only of clips that lose more than 0.1 s.
        """
        return dict(self._find_cut(range(len(self))))

    def sound_names(self, index: int) -> tuple[str, ...]:
        """Return the file's path without its ending, and its last parts, down to the name."""
        path = self.paths[index]
        plain = path.with_suffix("") if path.suffix.lower() in EXTENSIONS else path
        parts = plain.parts
        names = [plain.as_posix(), *("/".join(parts[n:]) for n in range(1, len(parts)))]
        is_whole = not self.starts[index] and self.ends[index] is None
        own = [self.clip_ids[index]] if is_whole else []
        return tuple(dict.fromkeys([*names[:1], *own, *names[1:]]))

    def part_of_sound(self, index: int) -> tuple[float, float]:
        """Return the seconds of the file that clip `index` begins and ends at."""
        start, end = self.starts[index], self.ends[index]
        last = start + self.duration
        return start, last if end is None else min(end, last)

    def _decode(self, index: int) -> Tensor:
        return read_part(
            self.paths[index],
            self.sample_rate,
            start=self.starts[index],
            end=self.ends[index],
            longest=self._longest_kept(),
            channel=self.channel,
        )[0]

    def _source(self, index: int) -> str:
        path, start, end = self.paths[index], self.starts[index], self.ends[index]
        status = check_file(path)
        part = f"|{start}|{end}" if start or end is not None else ""
        longest = self._longest_kept()
        kept = f"|{longest}" if longest > LONGEST_KEPT else ""
        channel = "" if self.channel == MID else f"|{self.channel}"
        return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}{part}{kept}{channel}"

    def _describe(self, index: int) -> str:
        start, end = self.starts[index], self.ends[index]
        if not start and end is None:
            return str(self.paths[index])
        until = "to its end" if end is None else f"to {end:g} s"
        return f"{self.paths[index]}, from {start:g} s {until}"

    def _why_silent(self, index: int) -> str:
        return why_file_silent(
            self.paths[index],
            self.channel,
            start=self.starts[index],
            end=self.ends[index],
            longest=self.duration,
        )

    def _longest_kept(self) -> float:
        return max(LONGEST_KEPT, self.duration + 1.0)

    def _cached(self, index: int) -> Tensor:
        waveform = super()._cached(index)
        if not self._cut_reported and self._too_long(waveform.shape[-1] / self.sample_rate):
            self._cut_reported = True  # at once: another thread may read the next clip
            self._cut_reported = self._report_cut(index)
        return waveform

    def _too_long(self, seconds: float) -> bool:
        return seconds > self.duration + TOLERANCE

    def _find_cut(self, indices: Iterable[int]) -> Iterator[tuple[str, float]]:
        for index in indices:
            try:
                seconds = part_seconds(self.paths[index], self.starts[index], self.ends[index])
            except AudioError:
                continue
            if self._too_long(seconds):
                yield self.clip_ids[index], seconds - self.duration

    def _report_cut(self, index: int) -> bool:
        """Warn that clips are cut; opens the files to say how many, of a large set not all."""
        looked_at = min(len(self), _LOOKED_AT)
        cut = dict(self._find_cut(dict.fromkeys([index, *range(looked_at)])))
        if not cut:
            return False
        worst = max(cut, key=cut.__getitem__)
        of = f"the first {looked_at}" if looked_at < len(self) else f"{len(self)}"
        warnings.warn(
            f"{len(cut)} of {of} clips are longer than the set's {self.duration:g} s, what follows "
            f"is not used: up to {cut[worst]:.1f} s (clip {worst}); window_hop=… makes several "
            "clips of them, cut_clips() lists them",
            TruncationWarning,
            stacklevel=6,  # who took the clip
        )
        return True


def clip_name(path: str, start: float = 0.0, end: float | None = None) -> str:
    """Return the id of a clip: its file's path, and its part of the file if it is not all of it.

    Different clips have different names, which can be names of files: folders are joined by two
    underscores, and characters that could be mistaken or are not for file names become their
    percent codes. A name of more than 160 bytes ends in a hash instead.

    Parameters
    ----------
    path : str
        With ``/`` between folders.
    start, end : float
        In seconds; None is the end of the file.

    Examples
    --------
    >>> clip_name("dog/1.wav"), clip_name("1.wav", 3, 4.5), clip_name("1.wav", 3)
    ('dog__1.wav', '1.wav@3.00-4.50', '1.wav@3.00-')
    """
    name = "__".join(map(_escape, path.split("/")))
    if start or end is not None:
        until = "" if end is None else format_seconds(end)
        name = f"{name}@{format_seconds(start)}-{until}"
    return shorten_name(name, _LONGEST_ID)


def shorten_name(name: str, longest: int) -> str:
    """Return a name of at most so many bytes in UTF-8: a longer one ends in ``~`` and a hash."""
    encoded = name.encode()
    if len(encoded) <= longest:
        return name
    kept = encoded[: longest - 33].decode(errors="ignore")
    return f"{kept}~{hashlib.sha256(encoded).hexdigest()[:32]}"


def escape_bytes(name: str) -> str:
    r"""Return a file's name with percent codes for bytes that are no UTF-8.

    Python has these bytes as lone surrogates, which no table and no page can hold.

    Examples
    --------
    >>> escape_bytes(os.fsdecode(b"caf\xe9.wav"))
    'caf%E9.wav'
    """
    return re.sub("[\ud800-\udfff]", _percent, name)


def format_seconds(seconds: float) -> str:
    """Return a time with two decimals, or as many up to six as it has.

    Examples
    --------
    >>> format_seconds(12.5), format_seconds(0.3333333)
    ('12.50', '0.333333')
    """
    text = f"{seconds:.6f}"
    whole, decimals = text.split(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def hashed_fold(path: str, folds: int) -> int:
    """Return the fold of a file, 1 to `folds`, by a hash of its path.

    The first eight bytes of the SHA-256 of the path, as a big-endian number, modulo `folds`, plus
    1: it depends neither on the machine nor on what other files there are.

    Parameters
    ----------
    path : str
        With ``/`` between folders.
    folds : int
        How many folds there are.
    """
    encoded = path.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big") % folds + 1


def check_num_folds(num_folds: int) -> int:
    """Return `num_folds` if it can be a number of folds, 2 or more."""
    if isinstance(num_folds, bool) or not isinstance(num_folds, int):
        raise TypeError(f"num_folds must be a whole number such as 5, not {num_folds!r}")
    if num_folds < 2:
        raise ValueError(f"num_folds={num_folds}: expected 2 or more, to train on some of them")
    return num_folds


def walk_files(root: Path) -> Iterator[Path]:
    """Yield all files under a folder, sorted folder by folder, following links.

    What is no data is passed over; see `audiointerp.reading.is_stray`.
    """
    for where, folders, files in os.walk(root, followlinks=True):
        folder = Path(where)
        here = folder.resolve()
        folders[:] = sorted(
            name
            for name in folders
            if not is_hidden(name)
            and not here.is_relative_to((folder / name).resolve())  # no circles
        )
        yield from (folder / name for name in sorted(files) if not is_stray(name))


def part_seconds(path: Path, start: float = 0.0, end: float | None = None) -> float:
    """Return the length of a sound file, or of a part of it, in seconds. Nothing is decoded.

    Raises
    ------
    AudioError
        If the file cannot be used or has no such part.
    """
    with SoundReader(path) as reader:
        first, last = reader.part(start, end)
        return (last - first) / reader.rate


def check_hop(hop: float) -> float:
    """Return `hop` as a float if it can be the seconds from one window to the next."""
    try:
        return check_duration(hop)
    except (TypeError, ValueError) as error:
        raise type(error)(f"a window's hop: {error}") from None


def _check_unique(rows: Sequence[FileClip], source: str) -> None:
    counts = Counter(row.clip_id for row in rows)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ValueError(
            f"{source}: clip ids must be unique, results are filed by them: "
            f"{', '.join(twice[:5])}{more} repeat"
        )


def _take_folds(rows: Sequence[FileClip], wanted: Sequence[Fold], source: str) -> list[FileClip]:
    taken = [row for row in rows if row.fold in wanted]
    if not taken:
        raise ValueError(
            f"{source}: no clip is in fold {', '.join(map(str, wanted))}; the {len(rows)} clips "
            f"are in {', '.join(map(str, sort_folds(row.fold for row in rows)))}"
        )
    return taken


def _windows(row: FileClip, rate: int, duration: float, hop: float) -> list[FileClip]:
    """Return the windows of a clip that is longer than `duration`, otherwise the clip itself."""
    try:
        seconds = part_seconds(row.path, row.start, row.end)
    except AudioError:  # which whoever takes the clip will see
        return [row]
    if seconds <= duration + TOLERANCE:
        return [row]
    starts = window_starts(round(seconds * rate), round(duration * rate), round(hop * rate))
    windows = []
    for start in starts:
        begins = round(row.start + start / rate, 6)
        windows.append(
            row._replace(
                clip_id=f"{row.clip_id}@{format_seconds(begins)}",
                start=begins,
                end=round(begins + duration, 6),
            )
        )
    return windows


def _escape(folder: str) -> str:
    """Replace what must not be in a name, so that two underscores stand for a slash only."""
    escaped = escape_bytes(re.sub(r'[%@~\\:*?"<>|\x00-\x1f\x7f]', _percent, folder))
    return re.sub(r"^_|_$|(?<=_)_", "%5F", escaped)


def _percent(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"%{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02X}"


def _fingerprint(rows: Sequence[FileClip]) -> str:
    """Return a hash of which clips a set has and how they are labelled."""
    facts = [[row.clip_id, row.labels, row.fold] for row in rows]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
