"""Mix channels down to one, and explain why the result is silent or nearly silent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from audiointerp.registry import Registry

CHANNELS: Registry[Callable[[NDArray[np.floating]], NDArray[np.floating]]] = Registry("channel")
"""How the channels of a sound become one: functions of an array of shape (samples, channels)."""

MID = "mid"
"""The channel that is analysed unless told otherwise."""

SILENT = "silent (all samples are zero). Is it an empty recording, or a muted one?"
"""What messages say of a sound without any sound."""

_SMALLEST_PEAK = float(np.finfo(np.float32).tiny)
"""Below it processors may take a number for zero, and dividing by it gives NaN."""

CANCELLED_DB = 20.0
"""A `CancellationWarning` is given where "mid" lies this far below the loudest channel."""


class CancellationWarning(UserWarning):
    """The mean of a sound's channels is much quieter than the channels themselves."""


@CHANNELS.register(MID)
def mid(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the mean of all channels."""
    return samples.mean(axis=1, dtype=np.float64)


@CHANNELS.register("left")
def left(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the first channel."""
    return samples[:, 0]


@CHANNELS.register("right")
def right(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the second channel; of a mono sound the only one."""
    return samples[:, min(1, samples.shape[1] - 1)]


@CHANNELS.register("side")
def side(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return half the difference of two channels, (left - right) / 2."""
    count = samples.shape[1]
    if count != 2:
        raise ValueError(
            f"it has {count} channel{'s' * (count != 1)}, and 'side' is half the difference of "
            "two: choose another channel"
        )
    return (samples[:, 0].astype(np.float64) - samples[:, 1]) / 2


def is_silent(peak: float) -> bool:
    """Return whether nothing can be brought to full scale: a peak of 0, or next to it."""
    return peak < _SMALLEST_PEAK


def mix(samples: NDArray[np.floating], channel: str = MID) -> NDArray[np.float32]:
    """Return one channel of a sound.

    Parameters
    ----------
    samples : ndarray, shape (samples, channels)
    channel : {"mid", "left", "right", "side"}
        A name in `CHANNELS`.

    Returns
    -------
    ndarray, shape (samples,)

    Raises
    ------
    ValueError
        If the sound has no such channel.
    """
    return CHANNELS[channel](samples).astype(np.float32)


def warn_cancelled(source: object, channel: str, mixed: float, loudest: float) -> None:
    """Warn if the channels of a sound nearly cancel in their mean.

    What is left is mostly rounding and coding noise, which normalisation would bring to full scale.

    Parameters
    ----------
    source : object
        What the warning calls the sound.
    channel : str
        The channel that was taken; only "mid" can cancel without having been asked for.
    mixed, loudest : float
        Peak of that channel, and of the loudest channel of the sound.
    """
    if channel != MID or mixed <= 0 or loudest <= 0:
        return
    below = 20 * math.log10(loudest / mixed)
    if below > CANCELLED_DB:
        warnings.warn(
            f"{source}: the channels nearly cancel, their mean is {below:.0f} dB below the loudest "
            "of them: choose the channel left, right or side",
            CancellationWarning,
            stacklevel=4,
        )


def why_silent(
    blocks: Iterable[NDArray[np.floating]], rate: int, channel: str, first: int, last: int
) -> str:
    """Say why a part of a sound is silent: cancellation, another channel, a late start, or zeros.

    Parameters
    ----------
    blocks : iterable of ndarray, shape (samples, channels)
        The whole sound. It is read until the reason is known.
    rate : int
        In Hz.
    channel : str
        The channel that is silent.
    first, last : int
        The part that is silent: its first sample, and that after its last.

    Returns
    -------
    str
        What to write after the name of the sound.
    """
    peaks: NDArray[np.floating] | None = None
    earlier = False
    position = 0
    for block in blocks:
        inside = block[max(0, first - position) : max(0, last - position)]
        if inside.size:
            peak = np.abs(inside).max(axis=0)
            peaks = peak if peaks is None else np.maximum(peaks, peak)
        sounding = np.flatnonzero(mix(block, channel)) + position
        earlier = earlier or bool((sounding < first).any())
        later = sounding[sounding >= last]
        position += len(block)
        if position < last:
            continue
        if peaks is not None and not is_silent(peaks.max()):
            return _why_mixed_silent(peaks, channel)
        if len(later):
            begins = later[0] / rate
            return (
                f"silent (all zeros) from {first / rate:g} to {last / rate:g} s; there is sound "
                f"from {begins:.6g} s on: analyse a part that holds it"
            )
    if earlier:
        return (
            f"silent (all zeros) from {first / rate:g} s on, there is sound before: analyse a part "
            "that holds it"
        )
    return SILENT


def _why_mixed_silent(peaks: Sequence[float], channel: str) -> str:
    """Say why one channel is silent of a sound whose channels have these peaks."""
    if channel == "side":
        return "the channel side is silent: left and right are equal. Choose the channel mid"
    names: Sequence[str] = ("left", "right")
    if len(peaks) != 2:
        names = [f"channel {number}" for number in range(1, len(peaks) + 1)]
    levels = ", ".join(f"{name} {peak:.3g}" for name, peak in zip(names, peaks, strict=True))
    if channel == MID:
        choose = "left, right or side" if len(peaks) == 2 else "left or right"
        return (
            f"the channels cancel out: their mean is silent, their peaks are {levels} "
            f"(right = -left?). Choose the channel {choose}"
        )
    return f"the channel {channel} is silent; the peaks are {levels}. Choose another channel"
