"""Decode sound files block by block, refusing those that would give wrong samples."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiointerp.dataset.channels import MID, mix
from audiointerp.dataset.integrity import missing_bytes, mp3_frames

EXTENSIONS = (
    ".wav",
    ".ogg",
    ".flac",
    ".mp3",
    ".opus",
    ".aiff",
    ".aif",
    ".aifc",
    ".oga",
    ".au",
    ".snd",
    ".caf",
    ".rf64",
    ".w64",
    ".wave",
)
"""Endings of the sound files that can be read (libsndfile), in the order of preference."""

TOLERANCE = 0.1
"""Seconds that a file may differ from what is said of it, or a clip be cut, without a word."""

_BLOCK = 65_536
_SOUND = (b"RIFF", b"OggS", b"fLaC", b"FORM", b"RF64", b"riff", b".snd", b"caff", b"ID3")


class AudioError(ValueError):
    """A sound file that cannot be used; the message names the file and the likely mistake."""


def check_file(path: Path) -> os.stat_result:
    """Return the status of a file that exists and is not empty.

    Raises
    ------
    AudioError
        If `path` is missing, not a regular file, or has no bytes.
    """
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, a sound file was expected")
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        near = path.parent
        hint = "check its name" if near.is_dir() else f"the folder {near} does not exist either"
        raise AudioError(
            f"{path}: no such file; {hint} (relative names start in {Path.cwd()})"
        ) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from error
    if status.st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); was its download or copy cut off?")
    return status


def check_part(start: float, end: float | None) -> None:
    """Raise `ValueError` unless `start` and `end` can be those of a part of a file, in seconds."""
    for name, value in (("start", start), ("end", end)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"{name} must be a number of seconds such as 2.5, not {value!r}")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value} is not a number of seconds from 0 on")
    if end is not None and end <= start:
        raise ValueError(
            f"end={end:g} s is not after start={start:g} s: both count from the file's beginning"
        )


def part_of(
    source: object, frames: int, rate: int, start: float = 0.0, end: float | None = None
) -> tuple[int, int]:
    """Return the first frame of a part of a sound and that after its last.

    Parameters
    ----------
    source : object
        What messages call it.
    frames, rate : int
        Its length, and frames per second.
    start, end : float
        In seconds; None is the end of the sound, and so is an `end` at most 0.1 s behind it.

    Raises
    ------
    AudioError
        If the part is not within the sound.
    ValueError
        If `end` is not after `start`, or one is negative.
    """
    check_part(start, end)
    first = round(start * rate)
    last = frames if end is None else round(end * rate)
    if first >= frames or last > frames + TOLERANCE * rate:
        span = f"from {start:g} s" if end is None else f"from {start:g} to {end:g} s"
        raise AudioError(
            f"{source}: has no part {span}, it is {frames / rate:.6g} s long; "
            "are the times those of another recording, or not in seconds?"
        )
    if last <= first:
        raise AudioError(
            f"{source}: the part from {start:g} to {end:g} s holds no sample at {rate} Hz"
        )
    return first, min(last, frames)


class SoundReader:
    """A sound file, open for reading as mono blocks. A context manager.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    rate : int
        The file's own sampling rate in Hz.
    frames : int
        Samples of each channel.
    loudest : float
        The largest absolute sample of any channel among those that `blocks` has read.

    Raises
    ------
    AudioError
        If the file is missing, a folder, empty, cut off or not audio.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loudest = 0.0
        check_file(path)
        with self._errors_named():  # a TypeError where the ending is .raw
            self._file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
        self.rate = self._file.samplerate
        try:
            self.frames = self._count_frames()
        except AudioError:
            self._file.close()
            raise

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def duration(self) -> float:
        """Length of the file in seconds."""
        return self.frames / self.rate

    def part(self, start: float = 0.0, end: float | None = None) -> tuple[int, int]:
        """Return the first frame of a part of the file and that after its last.

        Parameters
        ----------
        start, end : float
            In seconds; None is the end of the file, and so is an `end` at most 0.1 s behind it.

        Raises
        ------
        AudioError
            If the part is not within the file.
        ValueError
            If `end` is not after `start`, or one is negative.
        """
        return part_of(self.path, self.frames, self.rate, start, end)

    def blocks(
        self, first: int = 0, last: int | None = None, *, channel: str = MID
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the frames from `first` up to `last` as mono blocks.

        Parameters
        ----------
        first, last : int
            As `part` returns them; None is the end of the file.
        channel : {"mid", "left", "right", "side"}
            What becomes of the channels; see `audiointerp.dataset.channels`.

        Yields
        ------
        ndarray
            Shape ``(samples,)``, float32, never empty.

        Raises
        ------
        AudioError
            If the file ends before, has NaN or infinite samples, or no such channel.
        """
        for samples in self.channel_blocks(first, last):
            if samples.shape[1] > 1:
                self.loudest = max(self.loudest, float(np.abs(samples).max()))
            try:
                mono = mix(samples, channel)
            except ValueError as error:
                raise AudioError(f"{self.path}: {error}") from error
            yield mono

    def channel_blocks(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the frames from `first` up to `last` with all their channels, in blocks.

        Parameters
        ----------
        first, last : int
            As `part` returns them; None is the end of the file.

        Yields
        ------
        ndarray
            Shape ``(samples, channels)``, float32, never empty.

        Raises
        ------
        AudioError
            If the file ends before, or has NaN or infinite samples.
        """
        position = self._go_to(first)
        last = self.frames if last is None else last
        while position < last:
            samples = self._read(min(_BLOCK, last - position))
            if not len(samples):
                raise AudioError(
                    f"{self.path}: truncated: its header promises {self.frames} frames and "
                    f"{position} can be read; download or copy it again"
                )
            self._check_finite(samples, position)
            yield samples
            position += len(samples)

    def _count_frames(self) -> int:
        missing = missing_bytes(self.path)
        if missing:
            raise AudioError(f"{self.path}: truncated: {missing}; download or copy it again")
        frames = self._file.frames
        if self._file.format == "MP3":
            counted = mp3_frames(self.path)
            if counted is not None and counted > frames:
                raise AudioError(
                    f"{self.path}: an MP3 that does not state its length, of which only "
                    f"{frames} of {counted} frames can be read; `ffmpeg -i IN.mp3 -c copy OUT.mp3` "
                    "writes one that does, without loss"
                )
            frames = frames if counted is None else counted
        if frames == 0:
            raise AudioError(f"{self.path}: the file has a header but no samples (0 frames)")
        return frames

    def _go_to(self, first: int) -> int:
        """Move to a frame, exactly.

        libsndfile may miss by a block in Ogg Vorbis (its issue 885) and only nears the place in
        MP3s of varying bit rate, so what comes before is decoded there and dropped.
        """
        position = 0
        if first and self._file.format not in ("OGG", "MP3"):
            with self._errors_named():
                position = self._file.seek(first)
        while position < first:
            dropped = len(self._read(min(_BLOCK, first - position)))
            if not dropped:
                break
            position += dropped
        return position

    def _read(self, frames: int) -> NDArray[np.float32]:
        with self._errors_named():
            return self._file.read(frames, dtype="float32", always_2d=True)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            raise AudioError(_why_unreadable(self.path, error)) from error

    def _check_finite(self, samples: NDArray[np.float32], position: int) -> None:
        finite = np.isfinite(samples)
        if not finite.all():
            bad = int((~finite).sum())
            raise AudioError(
                f"{self.path}: {bad} of {samples.size} samples from {position / self.rate:.2f} s "
                "on are NaN or infinite; the program that wrote it probably divided by zero"
            )


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(_SOUND):
        return f"{path}: truncated or damaged audio ({error}); download or copy it again"
    if start.startswith(b"version http"):
        return f"{path}: a Git LFS pointer, not audio; run `git lfs pull` in its repository"
    return f"{path}: not an audio file this program can read ({error}); it begins with {start!r}"
