"""Read and write sound files: mono, at one rate, at one length, at full scale."""

from __future__ import annotations

import io
import operator
import os
import struct
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from audiointerp.storage import write_atomically

EXTENSIONS = (".wav", ".ogg", ".flac")
"""Kinds of file a dataset looks for, in this order."""

# soxr's best grade. Measured on 44.1 kHz tones: 0.01 dB down at 0.45 of the new rate and aliases
# below -150 dB, in 2 ms for a 5 s clip; torchaudio's default kernel loses 2.4 dB there, lets
# aliases through at -10 dB, and takes twice as long.
_QUALITY = "VHQ"

_LOWEST_RATE, _HIGHEST_RATE = 1_000, 768_000
_LONGEST = 3600.0
_MOST_CHANNELS = 16


class AudioError(ValueError):
    """A sound file that cannot be used; the message names the file and the likely mistake."""


def check_rate(sample_rate: int) -> int:
    """Return `sample_rate` as an int if it can be a sampling rate in Hz.

    Parameters
    ----------
    sample_rate : int
        Samples per second, 1000 to 768000.

    Raises
    ------
    TypeError
        If it is not a whole number.
    ValueError
        If it is out of range, as a rate given in kHz is.
    """
    try:
        rate = operator.index(sample_rate)
    except TypeError:
        raise TypeError(
            f"sample_rate must be a whole number of Hz such as 32000, not {sample_rate!r}"
        ) from None
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise ValueError(
            f"sample_rate={rate} is not between {_LOWEST_RATE} and {_HIGHEST_RATE} Hz: "
            "it is given in Hz, did you give kHz?"
        )
    return rate


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


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample with soxr's highest quality, a linear-phase filter without delay.

    Parameters
    ----------
    waveform : Tensor
        Any shape ``(..., samples)``, floating point.
    rate, new_rate : int
        Sampling rates in Hz.

    Returns
    -------
    Tensor
        Shape ``(..., round(samples * new_rate / rate))``, of the input's dtype and device. Equal
        rates return the input itself.
    """
    rate, new_rate = check_rate(rate), check_rate(new_rate)
    if rate == new_rate:
        return waveform
    if not waveform.is_floating_point():
        raise TypeError(f"the waveform must be floating point, not {waveform.dtype}")
    rows = waveform.detach().cpu().to(torch.promote_types(waveform.dtype, torch.float32))
    rows = rows.reshape(-1, waveform.shape[-1]).numpy()
    done = [soxr.resample(np.ascontiguousarray(row), rate, new_rate, _QUALITY) for row in rows]
    return torch.from_numpy(np.stack(done)).reshape(*waveform.shape[:-1], -1).to(waveform)


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
        If a waveform is silent: no gain brings zeros to full scale.
    """
    peak = waveform.abs().amax(dim=-1, keepdim=True)
    if (peak == 0).any():
        raise ValueError("the waveform is silent (all zeros), so it has no peak to normalise to")
    return waveform / peak


def load_audio(
    path: str | os.PathLike[str],
    sample_rate: int | None = None,
    duration: float | None = None,
    normalize: bool = True,
) -> tuple[Tensor, int]:
    """Read a sound file as one mono waveform.

    In this order: decode, average the channels, resample, cut or zero-pad, peak-normalise. The
    peak is that of the part that is kept.

    Parameters
    ----------
    path : path-like
        A WAV, OGG or FLAC file, or anything else libsndfile reads.
    sample_rate : int, optional
        Resample to this rate in Hz. None keeps the file's own.
    duration : float, optional
        Cut or zero-pad to exactly this many seconds. None keeps the whole file.
    normalize : bool
        Scale the result to a peak of 1.

    Returns
    -------
    waveform : Tensor
        Shape ``(1, samples)``, float32.
    rate : int
        Its sampling rate in Hz.

    Raises
    ------
    AudioError
        If the file is missing, a folder, empty, truncated or not audio, holds NaN or infinite
        samples, or is silent where it should be normalised.

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
    path = Path(path)
    waveform, rate = _decode(path)
    return _condition(waveform, rate, sample_rate, duration, normalize, path)


def prepare_waveform(
    waveform: Tensor | np.ndarray,
    rate: int,
    sample_rate: int | None = None,
    duration: float | None = None,
    normalize: bool = True,
) -> tuple[Tensor, int]:
    """Do with a waveform in memory what `load_audio` does with a file.

    Parameters
    ----------
    waveform : Tensor or ndarray
        Shape ``(samples,)`` or ``(channels, samples)``, floating point.
    rate : int
        Its sampling rate in Hz.
    sample_rate, duration, normalize
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
        If it holds NaN or infinite samples, or is silent where it should be normalised.
    ValueError
        If it has another shape or whole-number samples.
    """
    rate = check_rate(rate)
    mono = _mono(torch.as_tensor(waveform))
    return _condition(mono, rate, sample_rate, duration, normalize, "the waveform given")


def _condition(
    waveform: Tensor,
    rate: int,
    sample_rate: int | None,
    duration: float | None,
    normalize: bool,
    source: object,
) -> tuple[Tensor, int]:
    """Resample, cut or pad, and normalise; name the `source` in an error."""
    if sample_rate is not None and sample_rate != rate:
        try:
            waveform = resample(waveform, rate, sample_rate)
        except ValueError as error:
            raise AudioError(f"{source}: cannot be resampled: {error}") from error
        rate = sample_rate
    if duration is not None:
        waveform = fix_length(waveform, samples_in(duration, rate))
    if waveform.shape[-1] == 0:
        raise AudioError(f"{source}: too short to leave a sample at {rate} Hz")
    if normalize:
        waveform = normalize_named(waveform, source)
    return waveform, rate


def _mono(waveform: Tensor) -> Tensor:
    """Return a waveform (samples,) or (channels, samples) as float32 (1, samples)."""
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
        raise AudioError("the waveform given: has NaN or infinite samples; is it damaged?")
    mono = waveform.double().reshape(-1, waveform.shape[-1]).mean(0, keepdim=True)
    return mono.float()


def samples_in(duration: float, rate: int) -> int:
    """Return the number of samples in `duration` seconds at `rate` Hz, at least one."""
    return max(1, round(duration * rate))


def normalize_named(waveform: Tensor, source: object) -> Tensor:
    """Peak-normalise, and name the `source` in the error if the waveform is silent."""
    try:
        return peak_normalize(waveform)
    except ValueError as error:
        raise AudioError(f"{source}: {error}. Is it an empty recording, or a muted one?") from error


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


def _decode(path: Path) -> tuple[Tensor, int]:
    """Decode to mono float32 ``(1, samples)``, refusing what would give wrong samples."""
    check_file(path)
    try:
        with soundfile.SoundFile(path) as file:
            promised, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(_why_unreadable(path, error)) from error
    _check_whole(path, promised, len(samples))
    if len(samples) == 0:
        raise AudioError(f"{path}: the file has a header but no samples (0 frames)")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise AudioError(
            f"{path}: {bad} of {samples.size} samples are NaN or infinite; "
            "the program that wrote it probably divided by zero"
        )
    mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return torch.from_numpy(mono)[None], rate


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith((b"RIFF", b"OggS", b"fLaC")):
        return f"{path}: truncated or damaged audio ({error}); download or copy it again"
    if start.startswith(b"version http"):
        return f"{path}: a Git LFS pointer, not audio; run `git lfs pull` in its repository"
    return f"{path}: not an audio file this program can read ({error}); it begins with {start!r}"


def _check_whole(path: Path, promised: int, found: int) -> None:
    """Raise if the file ends before its own header or stream says.

    libsndfile decodes what is there of a cut WAV or OGG file without a word, so look here.
    """
    with path.open("rb") as file:
        kind = file.read(4)
        if kind == b"RIFF":
            missing = _missing_from_wav(file)
        elif kind == b"OggS":
            missing = _missing_from_ogg(file)
        else:
            missing = ""
    if not missing and found < promised:
        missing = f"its header promises {promised} frames and {found} can be read"
    if missing:
        raise AudioError(f"{path}: truncated: {missing}; download or copy it again")


def _missing_from_wav(file: io.BufferedReader) -> str:
    end = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= end:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        position += 8
        # Programs that write to a pipe leave 0 or the largest number for a size they never knew.
        if name == b"data":
            known = size not in (0, 0xFFFFFFFF)
            if known and size > end - position:
                return f"its header promises {size} bytes of sound and {end - position} are there"
            return ""
        position += size + size % 2
    return ""


def _missing_from_ogg(file: io.BufferedReader) -> str:
    """Look for the end-of-stream flag on the last page (RFC 3533), and that page's last byte."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - 2 * 65_307)  # the largest page is 65307 bytes
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27] if page >= 0 else b""
    if len(header) < 27:
        return "its last Ogg page is cut"
    segments = tail[page + 27 : page + 27 + header[26]]
    if len(segments) < header[26] or page + 27 + header[26] + sum(segments) > len(tail):
        return "its last Ogg page is cut"
    if not header[5] & 4:
        return "its last Ogg page is not marked as the end of the stream"
    return ""


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
