"""Mix a clip with background noise at a known level, and keep the two apart."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiointerp.dataset.audio import AudioError, load_audio, why_file_silent
from audiointerp.dataset.channels import MID

PUBLISHED_ALPHA = 0.6
"""Share of the clip in the published experiments: 20·log10(0.6 / 0.4) = 3.52 dB."""

_SMALLEST_LEVEL = 1e-15
"""Below it the squares of samples lose their precision, down to a level of 0."""


def active_rms(waveform: Tensor) -> Tensor:
    """Return the root mean square over the active part of each waveform.

    The active part runs from the first sample that is not exactly zero to the last, so that the
    silence a short clip is padded with does not make it count as quiet.

    Parameters
    ----------
    waveform : Tensor
        Shape ``(..., samples)``.

    Returns
    -------
    Tensor
        Shape ``(..., 1)``; 0 where a waveform is silent.
    """
    sounding = (waveform != 0).to(torch.int64)
    samples = waveform.shape[-1]
    first = sounding.argmax(dim=-1, keepdim=True)
    last = samples - 1 - sounding.flip(-1).argmax(dim=-1, keepdim=True)
    energy = waveform.square().sum(dim=-1, keepdim=True)
    return (energy / (last - first + 1)).sqrt()


def contaminate(
    clip: Tensor,
    noise: Tensor,
    *,
    alpha: float | None = None,
    snr_db: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix clip and noise, and return the two as they are in the mixture.

    Both are divided by their active RMS, weighted as α·clip + (1−α)·noise, and scaled together
    so that the sum has a peak of 1. The level between them is 20·log10(α / (1−α)) dB.

    Parameters
    ----------
    clip : Tensor
        Shape ``(..., samples)``.
    noise : Tensor
        The same shape, or one that broadcasts to it, such as ``(1, samples)`` for a batch.
    alpha : float, optional
        Share of the clip, between 0 and 1 and neither. 0.6 if `snr_db` is not given either.
    snr_db : float, optional
        Level of the clip over the noise in dB, in place of `alpha`.

    Returns
    -------
    clip_part, noise_part : Tensor
        Shape ``(..., samples)`` each; their sum is the contaminated waveform.

    Raises
    ------
    ValueError
        If clip or noise is silent, the shapes do not fit, both `alpha` and `snr_db` are given, or
        one is out of range.
    """
    alpha = share_of_clip(alpha, snr_db)
    if clip.shape[-1] != noise.shape[-1]:
        raise ValueError(
            f"clip and noise must have the same number of samples, not {clip.shape[-1]} and "
            f"{noise.shape[-1]}: cut or repeat the noise first (Contamination does)"
        )
    clip, noise = torch.broadcast_tensors(clip, noise)
    clip_level, noise_level = active_rms(clip), active_rms(noise)
    for name, level in (("clip", clip_level), ("noise", noise_level)):
        if (level < _SMALLEST_LEVEL).any():
            raise ValueError(f"the {name} is silent (all zeros), so it has no level to mix at")
    clip_part = alpha * clip / clip_level
    noise_part = (1 - alpha) * noise / noise_level
    peak = (clip_part + noise_part).abs().amax(dim=-1, keepdim=True)
    if (peak == 0).any():
        raise ValueError("clip and noise cancel out: the noise is the clip, upside down")
    return clip_part / peak, noise_part / peak


def share_of_clip(alpha: float | None = None, snr_db: float | None = None) -> float:
    """Return α from whichever of the two is given; the published 0.6 if neither is.

    Raises
    ------
    ValueError
        If both are given, α is not between 0 and 1, or the level is not finite.
    """
    if alpha is not None and snr_db is not None:
        raise ValueError(f"give alpha or snr_db, not both (alpha={alpha}, snr_db={snr_db})")
    if snr_db is not None:
        if not -120 <= snr_db <= 120:  # false for NaN too
            raise ValueError(f"snr_db={snr_db} must be between -120 and 120 dB")
        return 1 / (1 + 10 ** (-snr_db / 20))
    if alpha is None:
        return PUBLISHED_ALPHA
    if not 0 < alpha < 1:
        raise ValueError(
            f"alpha={alpha} must be above 0 (only noise) and below 1 (only the clip); "
            "did you mean snr_db, or no contamination?"
        )
    return float(alpha)


class Contamination:
    """Background noise from a file, mixed into clips at one level.

    The file is read once for each sampling rate it is wanted at: mono, resampled, repeated where
    it is shorter than the clip and cut where it is longer.

    Parameters
    ----------
    noise_file : path-like
        Any sound file: mono or stereo, any rate, any length.
    alpha : float, optional
        Share of the clip, above 0 and below 1. 0.6 if `snr_db` is not given either.
    snr_db : float, optional
        Level of the clip over the noise in dB, in place of `alpha`.
    channel : {"mid", "left", "right", "side"}
        What becomes of the channels of the noise file; see `audiointerp.dataset.load_audio`.

    Raises
    ------
    AudioError
        If the noise file cannot be used.
    ValueError
        If the level is out of range or given twice.

    Examples
    --------
    >>> noise = Contamination("noises/horse.wav", snr_db=10)  # doctest: +SKIP
    >>> clip_part, noise_part = noise.parts(waveform, 32000)  # doctest: +SKIP
    """

    def __init__(
        self,
        noise_file: str | os.PathLike[str],
        alpha: float | None = None,
        *,
        snr_db: float | None = None,
        channel: str = MID,
    ) -> None:
        self.alpha = share_of_clip(alpha, snr_db)
        self.noise_file = Path(noise_file)
        self.channel = channel
        whole, rate = load_audio(self.noise_file, normalize=False, channel=channel)
        if not whole.any():
            why = why_file_silent(self.noise_file, channel)
            raise AudioError(f"{self.noise_file}: cannot be a background noise: {why}")
        self._whole: dict[int, Tensor] = {rate: whole}
        self._sha256 = hashlib.sha256(self.noise_file.read_bytes()).hexdigest()

    @property
    def name(self) -> str:
        """The noise file's name without its ending."""
        return self.noise_file.stem

    @property
    def snr_db(self) -> float:
        """Level of the clip over the noise in dB, 20·log10(α / (1−α))."""
        return 20 * math.log10(self.alpha / (1 - self.alpha))

    def settings(self) -> dict[str, Any]:
        """Return what identifies this contamination, ready for JSON.

        Returns
        -------
        dict
            The noise's name, its file's name and SHA-256, α and the level in dB; its channel if
            that is not "mid".
        """
        channel = {} if self.channel == MID else {"channel": self.channel}
        return channel | {
            "noise": self.name,
            "noise_file": self.noise_file.name,
            "noise_sha256": self._sha256,
            "alpha": self.alpha,
            "snr_db": self.snr_db,
        }

    def noise(self, sample_rate: int, samples: int) -> Tensor:
        """Return the noise at `sample_rate` Hz and exactly `samples` long.

        Returns
        -------
        Tensor
            Shape ``(1, samples)``, float32, at the file's own level.

        Raises
        ------
        AudioError
            If the part of the file that is used is silent.
        """
        if sample_rate not in self._whole:
            self._whole[sample_rate], _ = load_audio(
                self.noise_file, sample_rate, normalize=False, channel=self.channel
            )
        whole = self._whole[sample_rate]
        noise = whole.repeat(1, -(-samples // whole.shape[-1]))[:, :samples]
        if not noise.any():
            raise AudioError(
                f"{self.noise_file}: the first {samples / sample_rate:g} s are silent; cut the "
                "file to the part you want to hear"
            )
        return noise

    def parts(
        self, clip: Tensor, sample_rate: int, *, source: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Contaminate a clip and return clip and noise as mixed.

        Parameters
        ----------
        clip : Tensor
            Shape ``(..., samples)``.
        sample_rate : int
            The clip's rate in Hz.
        source : str, optional
            What to call the clip in an error.

        Returns
        -------
        clip_part, noise_part : Tensor
            Shape ``(..., samples)`` each, with a sum of peak 1.

        Raises
        ------
        AudioError
            If the clip is silent.
        """
        noise = self.noise(sample_rate, clip.shape[-1]).to(clip)
        try:
            return contaminate(clip, noise, alpha=self.alpha)
        except ValueError as error:
            raise AudioError(f"{source or 'the clip'}: {error}") from error

    def __repr__(self) -> str:
        return f"Contamination({self.name!r}, alpha={self.alpha:.4g}, {self.snr_db:.2f} dB)"
