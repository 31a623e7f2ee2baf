"""Read a recording of any length in blocks, as overlapping windows, in constant memory.

The windows are those of the whole recording, resampled at once: joined without overlap they are
what `audiointerp.dataset.load_audio` returns.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiointerp.dataset.audio import (
    WAVEFORM,
    by_channel,
    check_duration,
    load_audio,
    normalize_named,
    prepare_waveform,
    read_blocks,
    samples_in,
    why_file_silent,
)
from audiointerp.dataset.channels import CHANNELS, MID, is_silent, warn_cancelled, why_silent
from audiointerp.dataset.decode import AudioError, SoundReader, part_of
from audiointerp.dataset.resampling import check_rate, resampled_length


class Window(NamedTuple):
    """A stretch of a recording.

    Attributes
    ----------
    waveform : Tensor
        Shape ``(1, samples)``, float32.
    start : float
        Where it begins, in seconds from the beginning of the file.
    end : float
        Where it ends; what follows in `waveform`, if the recording is shorter, is zeros.
    """

    waveform: Tensor
    start: float
    end: float


class SoundStream(ABC):
    """A sound, or a part of one, that can be gone through in blocks as often as wanted.

    Attributes
    ----------
    source : str
        What messages call it.
    sample_rate : int
        Of the blocks and windows, in Hz.
    file_duration : float
        Length of the whole sound in seconds, exactly.
    start, end : float
        The part that is read, in seconds.
    samples : int
        Length of the part at `sample_rate`.
    """

    source: str
    sample_rate: int
    file_duration: float
    start: float
    end: float
    samples: int
    _peak: float | None = None

    @abstractmethod
    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the part as mono blocks at `sample_rate`, at the sound's own level.

        Yields
        ------
        ndarray
            Shape ``(samples,)``, float32, never empty.
        """

    @abstractmethod
    def clip(self, duration: float | None = None, *, normalize: bool = True) -> Tensor:
        """Return the part as one clip, as `audiointerp.dataset.load_audio` does.

        Parameters
        ----------
        duration : float, optional
            Cut or zero-pad to exactly this many seconds. None keeps all.
        normalize : bool
            Scale it to a peak of 1.

        Returns
        -------
        Tensor
            Shape ``(1, samples)``, float32.
        """

    @abstractmethod
    def _why_silent(self) -> str:
        """Say why the part is silent, as `audiointerp.dataset.channels.why_silent` does."""

    @property
    def duration(self) -> float:
        """Length of the part that is read, in seconds."""
        return self.end - self.start

    def peak(self) -> float:
        """Return the largest absolute sample of the part at `sample_rate`; reads it once."""
        if self._peak is None:
            self._peak = max((float(np.abs(block).max()) for block in self.blocks()), default=0.0)
        return self._peak

    def windows(
        self, window: float, hop: float | None = None, *, normalize: bool = True
    ) -> Iterator[Window]:
        """Yield the part as windows.

        The last window is moved back so that it ends with the part. A part shorter than a window
        is padded with zeros.

        Parameters
        ----------
        window : float
            Length of a window in seconds.
        hop : float, optional
            Seconds from one window to the next; by default those of a window, so that each begins
            where the one before ends. More than that leaves gaps, see `not_analysed`.
        normalize : bool
            Divide all windows by the peak of the whole part, which is read once more before: one
            gain for the whole recording, so that what is quiet stays quiet. A window of it may be
            silent, not all.

        Yields
        ------
        Window
            In the order of time.

        Raises
        ------
        AudioError
            If all is silent where it should be normalised.
        """
        size, step = self._window(window, hop)
        level = np.float32(self._level() if normalize else 1)
        kept, offset, upcoming, covered = np.zeros(0, dtype=np.float32), 0, 0, 0
        for block in self.blocks():
            kept = np.concatenate([kept, block])
            while upcoming + size <= offset + len(kept):
                yield self._cut(kept[upcoming - offset :][:size], upcoming, size, level)
                covered = upcoming + size
                upcoming += step
            done = min(upcoming, max(0, offset + len(kept) - size))  # the last window needs a size
            kept, offset = kept[done - offset :], done
        if covered < offset + len(kept):
            last = max(0, offset + len(kept) - size)
            yield self._cut(kept[last - offset :], last, size, level)

    def times(self, window: float, hop: float | None = None) -> list[tuple[float, float]]:
        """Return start and end in seconds of what `windows` yields, without reading anything.

        Parameters
        ----------
        window, hop : float
            As for `windows`.
        """
        size, step = self._window(window, hop)
        return [self._times(place, size) for place in window_starts(self.samples, size, step)]

    def not_analysed(self, window: float | None = None, hop: float | None = None) -> float:
        """Return how many seconds of the file lie in no window.

        Parameters
        ----------
        window, hop : float, optional
            As for `windows`; without them gaps between windows do not count.

        Returns
        -------
        float
            What lies before `start` and behind `end`, and between windows where `hop` is longer
            than `window`.
        """
        outside = self.file_duration - self.duration
        if window is None:
            return outside
        size, step = self._window(window, hop)
        starts = window_starts(self.samples, size, step)
        gaps = sum(max(0, b - a - size) for a, b in pairwise(starts))
        return outside + gaps / self.sample_rate

    def _window(self, window: float, hop: float | None) -> tuple[int, int]:
        size = samples_in(check_duration(window), self.sample_rate)
        return size, size if hop is None else samples_in(check_duration(hop), self.sample_rate)

    def _level(self) -> float:
        if is_silent(self.peak()):
            raise AudioError(f"{self.source}: {self._why_silent()}")
        return self.peak()

    def _cut(self, samples: NDArray[np.float32], place: int, size: int, level: float) -> Window:
        waveform = np.zeros(size, dtype=np.float32)
        np.divide(samples, level, out=waveform[: len(samples)])
        return Window(torch.from_numpy(waveform)[None], *self._times(place, size))

    def _times(self, place: int, size: int) -> tuple[float, float]:
        start = self.start + place / self.sample_rate
        return start, min(self.end, start + size / self.sample_rate)


class AudioStream(SoundStream):
    """A recording, or a part of one, that is read in blocks however often it is gone through.

    Parameters
    ----------
    path : path-like
        Any sound file that libsndfile reads.
    sample_rate : int, optional
        Resample to this rate in Hz; the file's own by default.
    start, end : float, optional
        The part to read, in seconds from the beginning of the file; all of it by default. What
        lies outside does not sound into it.
    channel : {"mid", "left", "right", "side"}
        See `audiointerp.dataset.load_audio`.

    Attributes
    ----------
    path : Path
    channel : str
    sample_rate : int
        Of the blocks and windows, in Hz.
    file_rate : int
        Of the file, in Hz.
    file_duration : float
        Length of the file in seconds, exactly.
    start, end : float
        The part that is read, in seconds, to the file's own samples.
    samples : int
        Length of the part at `sample_rate`.

    Raises
    ------
    AudioError
        If the file is missing, empty, truncated or not audio, or has no such part. Damage inside
        FLAC, Ogg and MP3 files is seen only when it is read, so that errors may come from the
        iteration too.
    ValueError
        If the rate or the part makes no sense.

    Examples
    --------
    >>> stream = AudioStream("night.flac", 32000)  # doctest: +SKIP
    >>> for window in stream.windows(5.0, hop=2.5):  # doctest: +SKIP
    ...     print(window.start, window.end, classify(window.waveform))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
        channel: str = MID,
    ) -> None:
        CHANNELS[channel]
        self.path = Path(path)
        self.source = str(self.path)
        self.channel = channel
        if sample_rate is not None:
            sample_rate = check_rate(sample_rate)
        with SoundReader(self.path) as reader:
            self._first, self._last = reader.part(start, end)
            self.file_rate = reader.rate
            self.file_duration = reader.duration
        self.sample_rate = self.file_rate if sample_rate is None else sample_rate
        self.start = self._first / self.file_rate
        self.end = self._last / self.file_rate
        frames = self._last - self._first
        self.samples = resampled_length(frames, self.file_rate, self.sample_rate)
        if self.samples == 0:
            raise AudioError(f"{self.path}: too short to leave a sample at {self.sample_rate} Hz")

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the part as mono blocks at `sample_rate`, at the file's own level.

        Yields
        ------
        ndarray
            Shape ``(samples,)``, float32, never empty.
        """
        with SoundReader(self.path) as reader:
            part = self._first, self._last
            yield from read_blocks(reader, self.sample_rate, *part, channel=self.channel)
            self._loudest = reader.loudest

    def peak(self) -> float:
        """Return the largest absolute sample of the part; see `SoundStream.peak`."""
        known = self._peak is not None
        peak = super().peak()
        if not known:
            warn_cancelled(self.source, self.channel, peak, self._loudest)
        return peak

    def clip(self, duration: float | None = None, *, normalize: bool = True) -> Tensor:
        """Return the part as one clip; see `SoundStream.clip`."""
        part = {"start": self.start, "end": self.end, "channel": self.channel}
        return load_audio(self.path, self.sample_rate, duration, normalize, **part)[0]

    def _why_silent(self) -> str:
        return why_file_silent(self.path, self.channel, start=self.start, end=self.end)


class WaveformStream(SoundStream):
    """A waveform in memory, or a part of it, gone through like a file.

    Parameters
    ----------
    waveform : Tensor or ndarray
        Shape ``(samples,)`` or ``(channels, samples)``, floating point.
    rate : int
        Its sampling rate in Hz.
    sample_rate : int, optional
        Resample to this rate in Hz; its own by default.
    start, end : float, optional
        The part to read, in seconds; all of it by default.
    channel : {"mid", "left", "right", "side"}
        See `audiointerp.dataset.load_audio`.

    Raises
    ------
    AudioError
        If it holds NaN or infinite samples, or has no such part.
    ValueError
        If it has another shape or whole-number samples, or the rate or the part makes no sense.
    """

    def __init__(
        self,
        waveform: Tensor | NDArray[Any],
        rate: int,
        sample_rate: int | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
        channel: str = MID,
    ) -> None:
        self.source = WAVEFORM
        self.channel = channel
        self._given = waveform
        mono, rate = prepare_waveform(waveform, rate, normalize=False, channel=channel)
        frames = mono.shape[-1]
        self._part = first, last = part_of(self.source, frames, rate, start, end)
        self._mono, self._rate = mono[:, first:last], rate
        self.sample_rate = rate if sample_rate is None else check_rate(sample_rate)
        self.file_duration = frames / rate
        self.start, self.end = first / rate, last / rate
        self.samples = resampled_length(last - first, rate, self.sample_rate)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the part as one mono block; see `SoundStream.blocks`."""
        yield self._resampled

    def clip(self, duration: float | None = None, *, normalize: bool = True) -> Tensor:
        """Return the part as one clip; see `SoundStream.clip`."""
        clip, _ = prepare_waveform(self._mono, self._rate, self.sample_rate, duration, False)
        return normalize_named(clip, self.source, self._why_silent) if normalize else clip

    def _why_silent(self) -> str:
        samples = by_channel(torch.as_tensor(self._given))
        return why_silent([samples], self._rate, self.channel, *self._part)

    @cached_property
    def _resampled(self) -> NDArray[np.float32]:
        return self.clip(normalize=False)[0].cpu().numpy()


def window_starts(samples: int, size: int, step: int) -> list[int]:
    """Return where the windows of a recording begin.

    Every `step` samples while a window of `size` fits, and once more at the end where samples are
    left: the last window ends with the recording. One window where the recording is shorter.

    Parameters
    ----------
    samples, size, step : int
        In samples, at least 1 each.

    Examples
    --------
    >>> window_starts(10, 4, 2), window_starts(11, 4, 4), window_starts(3, 4, 4)
    ([0, 2, 4, 6], [0, 4, 7], [0])
    """
    starts = list(range(0, max(samples - size, 0) + 1, step))
    if starts[-1] + size < samples:
        starts.append(samples - size)
    return starts
