"""Decode sound files block by block, and refuse files that would decode to wrong samples."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiointerp.dataset.channels import MID, mix
from audiointerp.dataset.containers import CONVERT, Contents, PiecedFile, SoundFileError, examine

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

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sampling rates of sounds, in Hz."""

LOUDEST = 1e10
"""The largest absolute sample that counts as sound; full scale is 1. Squares stay finite."""

_BLOCK = 65_536
_UNRECOGNISED = 1  # of libsndfile's errors
_BLOCK_SAMPLES = 8 * _BLOCK
"""Samples of all channels that are decoded at once."""

_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    ArithmeticError,
    MemoryError,
    OSError,
    SystemError,
)
"""What soundfile and libsndfile raise at files that are damaged, or made to be."""


class AudioError(ValueError):
    """A sound file that cannot be used; the message names the file and the likely mistake."""


def check_file(path: Path) -> os.stat_result:
    """Return the status of a file that exists and is not empty.

    Raises
    ------
    AudioError
        If `path` is missing, not a regular file, without bytes, or raw samples.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        near = path.parent
        hint = "check its name" if near.is_dir() else f"the folder {near} does not exist either"
        raise AudioError(
            f"{path}: no such file; {hint} (relative names start in {Path.cwd()})"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in its name
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path}: cannot be read: {reason}") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path}: is a folder, a sound file was expected")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: is a pipe or a device, a sound file was expected")
    if status.st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); was its download or copy cut off?")
    if path.suffix.lower() == ".raw":
        raise AudioError(
            f"{path}: a .raw file does not say its sampling rate nor its kind of samples; convert "
            "it, for example with `ffmpeg -f s16le -ar 44100 -ac 1 -i IN.raw OUT.wav`"
        )
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


class _OneWay(soundfile.SoundFile):
    """A sound file that is read without moving in it after each block.

    Soundfile moves to where a block has ended. There MP3 decoders lack the data that the next frame
    takes from earlier ones, and give wrong samples; some other formats cannot be moved in at all.
    """

    def seekable(self) -> bool:
        """Return False, so that a block only ends where the next one begins."""
        return False

    @property
    def moves_exactly(self) -> bool:
        """Whether `seek` goes to the very frame.

        libsndfile may miss by a block in Ogg Vorbis (its issue 885), and only nears the place in
        MPEG audio of varying bit rate.
        """
        inexact = self.format in ("OGG", "MP3") or self.subtype.startswith("MPEG")
        return super().seekable() and not inexact


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
        If the file is missing, a folder, empty, cut off, damaged or not audio that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loudest = 0.0
        size = check_file(path).st_size
        with ExitStack() as opened:
            with self._errors_named():
                content = opened.enter_context(path.open("rb"))
                contents = examine(content, size)
                self._file = opened.enter_context(_OneWay(self._source(contents, content)))
                self.rate = self._file.samplerate
                self.frames = self._count_frames(contents)
            self._opened = opened.pop_all()

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

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
            If the file ends before, cannot be decoded, or has samples that are NaN, infinite or
            beyond `LOUDEST`.
        """
        position = self._go_to(first)
        last = self.frames if last is None else last
        while position < last:
            samples = self._read(last - position)
            if not len(samples):
                raise AudioError(
                    f"{self.path}: truncated: its header promises {self.frames} frames and "
                    f"{position} can be read; download or copy it again"
                )
            self._check_samples(samples, position)
            yield samples
            position += len(samples)

    def _source(self, contents: Contents, content: BinaryIO) -> bytes | str | PiecedFile:
        """Return what the decoder reads."""
        if contents.pieces is not None:
            return PiecedFile(content, contents.pieces)
        # soundfile cannot encode names that are no UTF-8
        return str(self.path) if sys.platform == "win32" else os.fsencode(self.path)

    def _count_frames(self, contents: Contents) -> int:
        """Return the length, checked."""
        file = self._file
        if file.format == "RAW":  # which libsndfile takes a file for by its ending
            raise SoundFileError("not an audio file this program can read: it has no header")
        if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
            raise SoundFileError(
                f"states a sampling rate of {file.samplerate} Hz, which is not between "
                f"{LOWEST_RATE} and {HIGHEST_RATE}; is the file damaged, or no sound?"
            )
        frames = file.frames if contents.frames is None else contents.frames
        if frames > contents.most:
            raise SoundFileError(
                f"damaged: its header promises {frames} frames, but a file of its size holds at "
                f"most {contents.most}; download or copy it again"
            )
        if frames > file.frames:
            raise SoundFileError(
                f"only {file.frames} of its {frames} frames can be read; {CONVERT}"
            )
        if frames <= 0:
            raise SoundFileError("the file has a header but no samples (0 frames)")
        return frames

    def _go_to(self, first: int) -> int:
        """Move to a frame, exactly: decode and drop what comes before where `seek` does not."""
        position = 0
        if first and self._file.moves_exactly:
            with self._errors_named():
                position = self._file.seek(first)
        while position < first:
            dropped = len(self._read(first - position))
            if not dropped:
                break
            position += dropped
        return position

    def _read(self, most: int) -> NDArray[np.float32]:
        """Return the next frames, up to `most` and those of a block."""
        block = max(1, min(_BLOCK, _BLOCK_SAMPLES // self._file.channels))
        with self._errors_named():
            return self._file.read(min(block, most), dtype="float32", always_2d=True)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except SoundFileError as error:
            raise AudioError(f"{self.path}: {error}") from error
        except _FAILURES as error:
            raise AudioError(f"{self.path}: {_why_unreadable(error)}") from error

    def _check_samples(self, samples: NDArray[np.float32], position: int) -> None:
        """Refuse samples that are no sound."""
        usable = np.abs(samples) <= LOUDEST  # false for NaN too
        if usable.all():
            return
        where = f"of {samples.size} samples from {position / self.rate:.2f} s on"
        bad = int((~np.isfinite(samples)).sum())
        if bad:
            raise AudioError(
                f"{self.path}: {bad} {where} are NaN or infinite; the program that wrote it "
                "probably divided by zero"
            )
        raise AudioError(
            f"{self.path}: {int((~usable).sum())} {where} are beyond {LOUDEST:g}, up to "
            f"{np.abs(samples).max():.3g}, where full scale is 1; is the file damaged?"
        )


def _why_unreadable(error: Exception) -> str:
    """Say why a decoder failed."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return "cannot be read: not enough memory for it"
    if not isinstance(error, soundfile.LibsndfileError):
        return f"cannot be decoded ({error}); is it damaged?"
    reason = error.error_string or f"error {error.code} of libsndfile"
    if error.code == _UNRECOGNISED:
        return f"not an audio file this program can read ({reason})"
    if "unsupported" in reason or "unimplemented" in reason:
        return f"of a kind that cannot be read ({reason}); {CONVERT}"
    return f"truncated or damaged audio ({reason}); download or copy it again"
