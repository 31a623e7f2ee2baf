"""Read and write sound files: mono, at one rate, at one length, at full scale."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiointerp.dataset.channels import (
    CHANNELS,
    MID,
    SILENT,
    is_silent,
    mix,
    warn_cancelled,
    why_silent,
)
from audiointerp.dataset.decode import (
    LOUDEST,
    AudioError,
    SoundReader,
)
from audiointerp.dataset.resampling import check_rate, resample, resample_blocks, resampled_length
from audiointerp.storage import write_atomically

MOST_SAMPLES = 2**28
"""Samples that one waveform may have: 1 GiB as float32, 2.3 hours at 32 kHz."""

_LONGEST = 3600.0
_MOST_CHANNELS = 16

WAVEFORM = "the waveform given"
"""What messages call a sound that is no file."""


def check_duration(duration: float) -> float:
    """Return `duration` as a float if it can be the length of a clip in seconds.

    Parameters
    ----------
    duration : float
        Seconds, above 0 and at most 3600.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is out of range, as a length given in samples is.
    """
    if isinstance(duration, bool) or not isinstance(duration, (int, float, np.number)):
        raise TypeError(f"duration must be a number of seconds such as 5.0, not {duration!r}")
    if not 0 < duration <= _LONGEST:  # false for NaN too
        raise ValueError(
            f"duration={duration} is not above 0 and at most {_LONGEST:g} s: "
            "it is given in seconds, did you give samples or milliseconds?"
        )
    return float(duration)


def fix_length(waveform: Tensor, samples: int) -> Tensor:
    """Cut or zero-pad at the end to exactly `samples` samples.

    Parameters
    ----------
    waveform : Tensor
        Shape ``(..., length)``.
    samples : int
        The wanted length, at least 1.

    Returns
    -------
    Tensor
        Shape ``(..., samples)``; the input itself where nothing had to change.
    """
    if samples < 1:
        raise ValueError(f"a clip needs at least one sample, not {samples}")
    length = waveform.shape[-1]
    if length > samples:
        return waveform[..., :samples]
    if length < samples:
        return torch.nn.functional.pad(waveform, (0, samples - length))
    return waveform


def peak_normalize(waveform: Tensor) -> Tensor:
    """Scale each waveform so that its largest absolute sample is 1.

    Parameters
    ----------
    waveform : Tensor
        Shape ``(..., samples)``; every row of the leading dimensions is scaled on its own.

    Returns
    -------
    Tensor
        A new tensor of the same shape.

    Raises
    ------
    ValueError
        If a waveform is silent: no gain brings zeros to full scale. Peaks below the smallest
        normal float32, 1.2e-38, count as zero.
    """
    peak = waveform.abs().amax(dim=-1, keepdim=True)
    if any(map(is_silent, peak.flatten().tolist())):
        raise ValueError("the waveform is silent (all zeros), so it has no peak to normalise to")
    return waveform / peak


def load_audio(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    duration: float | None = None,
    normalize: bool = True,
    *,
    start: float = 0.0,
    end: float | None = None,
    channel: str = MID,
) -> tuple[Tensor, int]:
    """Read a sound file, or a part of it, as one mono waveform.

    In this order: decode, take the channel, resample, cut or zero-pad, peak-normalise. The
    peak is that of the part that is kept. What lies behind it is not decoded. Recordings of more
    than `MOST_SAMPLES` are read by `audiointerp.dataset.AudioStream`.

    Parameters
    ----------
    path : path-like
        A WAV, OGG, FLAC or MP3 file, or anything else libsndfile reads.
    sample_rate : int, optional
        Resample to this rate in Hz. None keeps the file's own.
    duration : float, optional
        Cut or zero-pad to exactly this many seconds. None keeps all.
    normalize : bool
        Scale the result to a peak of 1.
    start, end : float, optional
        The part of the file to read, in seconds; the whole file by default. What lies outside
        does not sound into it.
    channel : {"mid", "left", "right", "side"}
        The mean of all channels, the first, the second, or half the difference of two. A mono
        file has no side, and gives its only channel otherwise. A `CancellationWarning` says so
        where the channels of a file nearly cancel in their mean.

    Returns
    -------
    waveform : Tensor
        Shape ``(1, samples)``, float32.
    rate : int
        Its sampling rate in Hz.

    Raises
    ------
    AudioError
        If the file is missing, a folder, empty, truncated or not audio, has no such part or
        channel, holds NaN, infinite or absurdly large samples, is too long to be held at once, or
        is silent where it should be normalised.

    Examples
    --------
    >>> waveform, rate = load_audio("samples/dog.wav", 32000, duration=5.0)  # doctest: +SKIP
    >>> tuple(waveform.shape)  # doctest: +SKIP
    (1, 160000)
    """
    if sample_rate is not None:
        sample_rate = check_rate(sample_rate)
    if duration is not None:
        duration = check_duration(duration)
    waveform, rate = read_part(
        path, sample_rate, start=start, end=end, longest=duration, channel=channel
    )

    def explain() -> str:
        return why_file_silent(path, channel, start=start, end=end, longest=duration)

    return _finish(waveform, rate, duration, normalize, path, explain), rate


def read_part(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    *,
    start: float = 0.0,
    end: float | None = None,
    longest: float | None = None,
    channel: str = MID,
) -> tuple[Tensor, int]:
    """Read a part of a sound file as it is: mono, resampled, neither padded nor normalised.

    Parameters
    ----------
    path, sample_rate, start, end, channel
        See `load_audio`.
    longest : float, optional
        Decode no more than what gives this many seconds. The waveform is cut there to within a
        block, not exactly.

    Returns
    -------
    waveform : Tensor
        Shape ``(1, samples)``, float32.
    rate : int
        Its sampling rate in Hz.
    """
    CHANNELS[channel]
    with SoundReader(Path(path)) as reader:
        rate = reader.rate if sample_rate is None else sample_rate
        first, last = reader.part(start, end)
        enough = None if longest is None else samples_in(longest, rate)
        if enough is None and resampled_length(last - first, reader.rate, rate) > MOST_SAMPLES:
            raise AudioError(
                f"{path}: {(last - first) / reader.rate:.6g} s at {rate} Hz are more than the "
                f"{MOST_SAMPLES} samples that are held at once; read a part (`duration`, `start`, "
                "`end`), or all of it in windows with audiointerp.dataset.AudioStream"
            )
        kept, samples = [np.zeros(0, dtype=np.float32)], 0
        for block in read_blocks(reader, rate, first, last, channel=channel):
            kept.append(block)
            samples += len(block)
            if enough is not None and samples >= enough:
                break
    peak = max(float(np.abs(block).max(initial=0)) for block in kept)
    warn_cancelled(path, channel, peak, reader.loudest)
    return torch.from_numpy(np.concatenate(kept))[None], rate


def why_file_silent(
    path: str | os.PathLike[str],
    channel: str = MID,
    *,
    start: float = 0.0,
    end: float | None = None,
    longest: float | None = None,
) -> str:
    """Say why a part of a file is silent.

    Parameters
    ----------
    path, channel, start, end
        See `load_audio`.
    longest : float, optional
        Only this many seconds of the part were looked at.

    Returns
    -------
    str
        What to write after the name of the file.
    """
    with SoundReader(Path(path)) as reader:
        first, last = reader.part(start, end)
        if longest is not None:
            last = min(last, first + samples_in(longest, reader.rate))
        return why_silent(reader.channel_blocks(), reader.rate, channel, first, last)


def read_blocks(
    reader: SoundReader, sample_rate: int, first: int, last: int, *, channel: str = MID
) -> Iterator[NDArray[np.float32]]:
    """Yield a part of an open file as mono blocks at `sample_rate`.

    Parameters
    ----------
    reader : SoundReader
    sample_rate : int
        In Hz.
    first, last : int
        As `SoundReader.part` returns them.
    channel : {"mid", "left", "right", "side"}
        See `load_audio`.

    Yields
    ------
    ndarray
        Shape ``(samples,)``, float32.

    Raises
    ------
    AudioError
        See `SoundReader.blocks`.
    """
    blocks = reader.blocks(first, last, channel=channel)
    yield from resample_blocks(blocks, reader.rate, sample_rate)


def prepare_waveform(
    waveform: Tensor | np.ndarray,
    rate: int,
    sample_rate: int | None = None,
    duration: float | None = None,
    normalize: bool = True,
    *,
    channel: str = MID,
) -> tuple[Tensor, int]:
    """Do with a waveform in memory what `load_audio` does with a file.

    Parameters
    ----------
    waveform : Tensor or ndarray
        Shape ``(samples,)`` or ``(channels, samples)``, floating point.
    rate : int
        Its sampling rate in Hz.
    sample_rate, duration, normalize, channel
        See `load_audio`.

    Returns
    -------
    waveform : Tensor
        Shape ``(1, samples)``, float32.
    rate : int
        Its sampling rate in Hz.

    Raises
    ------
    AudioError
        If it holds NaN, infinite or absurdly large samples, or is silent where it should be
        normalised.
    ValueError
        If it has another shape or whole-number samples.
    """
    CHANNELS[channel]
    rate = check_rate(rate)
    new_rate = rate if sample_rate is None else sample_rate
    samples = by_channel(torch.as_tensor(waveform))
    mono = _take_channel(samples, channel)
    if isinstance(waveform, Tensor):
        mono = mono.to(waveform.device)
    done = resample(mono, rate, new_rate)

    def explain() -> str:
        last = len(samples) if duration is None else samples_in(duration, rate)
        return why_silent([samples], rate, channel, 0, min(last, len(samples)))

    return _finish(done, new_rate, duration, normalize, WAVEFORM, explain), new_rate


def _finish(
    waveform: Tensor,
    rate: int,
    duration: float | None,
    normalize: bool,
    source: object,
    explain: Callable[[], str],
) -> Tensor:
    """Cut or pad, and normalise; name the `source` in an error, and say why it is silent."""
    if duration is not None:
        waveform = fix_length(waveform, samples_in(duration, rate))
    if waveform.shape[-1] == 0:
        raise AudioError(f"{source}: too short to leave a sample at {rate} Hz")
    return normalize_named(waveform, source, explain) if normalize else waveform


def by_channel(waveform: Tensor) -> NDArray[np.floating]:
    """Return a waveform in memory with its channels side by side.

    Parameters
    ----------
    waveform : Tensor
        Shape ``(samples,)`` or ``(channels, samples)``, floating point, on any device.

    Returns
    -------
    ndarray
        Shape ``(samples, channels)``.

    Raises
    ------
    AudioError
        If it holds NaN or infinite samples.
    ValueError
        If it has another shape or whole-number samples.
    """
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise ValueError(
            f"the waveform has shape {tuple(waveform.shape)}: expected (samples,) or "
            "(channels, samples)"
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"the waveform is {waveform.dtype}: expected floating point in [-1, 1]; "
            "divide 16-bit samples by 32768"
        )
    if waveform.ndim == 2 and waveform.shape[0] > _MOST_CHANNELS:
        raise ValueError(
            f"the waveform has {waveform.shape[0]} channels: is it (samples, channels)? "
            "transpose it"
        )
    if not torch.isfinite(waveform).all():
        raise AudioError(f"{WAVEFORM}: has NaN or infinite samples; is it damaged?")
    if waveform.abs().max() > LOUDEST:
        raise AudioError(
            f"{WAVEFORM}: has samples up to {waveform.abs().max():.3g}, where full scale is 1 and "
            f"at most {LOUDEST:g} is taken; is it damaged?"
        )
    rows = waveform.detach().cpu().reshape(-1, waveform.shape[-1])
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).numpy().T


def _take_channel(samples: NDArray[np.floating], channel: str) -> Tensor:
    """Return one channel of a waveform (samples, channels) as float32 (1, samples)."""
    try:
        mono = torch.from_numpy(mix(samples, channel))[None]
    except ValueError as error:
        raise AudioError(f"{WAVEFORM}: {error}") from error
    loudest = float(np.abs(samples).max()) if samples.shape[1] > 1 else 0.0
    warn_cancelled(WAVEFORM, channel, float(mono.abs().max()), loudest)
    return mono


def samples_in(duration: float, rate: int) -> int:
    """Return the number of samples in `duration` seconds at `rate` Hz, at least one.

    Raises
    ------
    ValueError
        If they are more than `MOST_SAMPLES`.
    """
    samples = max(1, round(duration * rate))
    if samples > MOST_SAMPLES:
        raise ValueError(
            f"duration={duration:g} s at {rate} Hz is {samples} samples, more than the "
            f"{MOST_SAMPLES} that one waveform may have"
        )
    return samples


def normalize_named(
    waveform: Tensor, source: object, explain: Callable[[], str] = lambda: SILENT
) -> Tensor:
    """Peak-normalise; if the waveform is silent, name the `source` and say why.

    Parameters
    ----------
    waveform : Tensor
        Shape ``(1, samples)``.
    source : object
        What to call it in an error.
    explain : callable
        Returns why it is silent; called only if it is.
    """
    try:
        return peak_normalize(waveform)
    except ValueError as error:
        raise AudioError(f"{source}: {explain()}") from error


def save_audio(
    path: str | os.PathLike[str],
    waveform: Tensor | np.ndarray,
    rate: int,
    *,
    subtype: str = "FLOAT",
) -> Path:
    """Write a WAV file, whole or not at all.

    Parameters
    ----------
    path : path-like
        Where to write; the name ends in ``.wav``. An existing file is replaced.
    waveform : Tensor or ndarray
        Shape ``(samples,)`` or ``(channels, samples)``, at most 16 channels, finite.
    rate : int
        Sampling rate in Hz.
    subtype : {"FLOAT", "PCM_16"}
        32-bit float keeps every value, also beyond full scale. 16-bit integers halve the file.

    Returns
    -------
    Path
        The file written. The same waveform always gives the same bytes.

    Raises
    ------
    ValueError
        If the shape, values, rate, name or subtype cannot be written. A waveform beyond [-1, 1]
        is never clipped: PCM_16 refuses it.
    FileNotFoundError
        If the folder does not exist.
    """
    path, rate = Path(path), check_rate(rate)
    if path.suffix.lower() != ".wav":
        raise ValueError(f"{path}: sounds are written as WAV, so the name must end in .wav")
    if subtype not in ("FLOAT", "PCM_16"):
        raise ValueError(f"unknown subtype {subtype!r}: choose from FLOAT, PCM_16")
    samples = _writable(waveform, path)
    # Normalising a sum leaves it up to a rounding above 1; more than that would be heard.
    peak = np.abs(samples).max()
    if subtype == "PCM_16" and peak > 1 + 1e-6:
        raise ValueError(
            f"{path}: samples reach {peak:.4g}, beyond the full scale of PCM_16: peak-normalise "
            "the waveform, or write it as FLOAT"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, rate, subtype=subtype, format="WAV")
    write_atomically(path, _without_time(buffer.getvalue()))
    return path


def _writable(waveform: Tensor | np.ndarray, path: Path) -> np.ndarray:
    """Return the waveform as float32 ``(channels, samples)``, or say why it cannot be written."""
    if isinstance(waveform, Tensor):
        waveform = waveform.detach().cpu().to(torch.float32).numpy()
    samples = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if samples.ndim != 2 or samples.shape[0] > _MOST_CHANNELS or samples.shape[1] == 0:
        raise ValueError(
            f"{path}: cannot write a waveform of shape {tuple(np.shape(waveform))}: expected "
            "(samples,) or (channels, samples) with up to 16 channels; is it a batch, or the "
            "wrong way round?"
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: the waveform holds NaN or infinite samples")
    return samples


def _without_time(content: bytes) -> bytes:
    """Zero the time of writing in a float WAV's PEAK chunk: equal sounds make equal files."""
    chunk = content.find(b"PEAK", 0, 128)
    if chunk < 0:
        return content
    stamp = chunk + 12  # name, size, version, then the time
    return content[:stamp] + bytes(4) + content[stamp + 4 :]
