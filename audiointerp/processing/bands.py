"""Mel bands that front ends share: Kaldi's, and triangles on HTK's scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class KaldiBands:
    """Kaldi's bands for a `MelSTFTSpectrogram`: triangles over mel, of height 1.

    They are evenly spaced on the scale 1127·ln(1 + f/700), and the bin at half the sample rate is
    in none of them.
    """

    def _hz_to_mel(self, hz: float) -> float:
        return 1127 * math.log1p(hz / 700)

    def _mel_to_hz(self, mel: Tensor) -> Tensor:
        return 700 * torch.expm1(mel / 1127)

    def _to_mel(self, hz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hz / 700)

    def _filters(self) -> Tensor:
        """Weights (fft_bins, bands)."""
        low, centre, high = self._to_mel(self._edges()).unfold(0, 3, 1).unbind(1)
        bins = self._to_mel(self._bins())[:, None]
        rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
        filters = torch.minimum(rise, fall).clamp(min=0)
        filters[-1] = 0
        return filters

    def _neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        below, above, _ = super()._neighbours()
        centres, bins = self._to_mel(self._edges()[1:-1]), self._to_mel(self._bins())
        gap = centres[above] - centres[below]
        return below, above, torch.where(gap > 0, (bins - centres[below]) / gap, 0.0)


class HTKBands:
    """HTK's scale for a `MelSTFTSpectrogram`: triangles over Hz, of height 1."""

    def _hz_to_mel(self, hz: float) -> float:
        return hz_to_htk(hz)

    def _mel_to_hz(self, mel: Tensor) -> Tensor:
        return htk_to_hz(mel)

    def _filters(self) -> Tensor:
        """Weights (fft_bins, bands)."""
        return of_height_one(super()._filters(), self._edges())


def hz_to_htk(hz: float) -> float:
    """Return a frequency on HTK's mel scale, 2595·log10(1 + f/700)."""
    return 2595 * math.log10(1 + hz / 700)


def htk_to_hz(mel: Tensor) -> Tensor:
    """Return the frequencies, Hz, of points on HTK's mel scale."""
    return 700 * (torch.pow(10.0, mel / 2595) - 1)


def of_height_one(filters: Tensor, edges: Tensor) -> Tensor:
    """Return triangles of height 1, made of those of area 1 over Hz.

    Parameters
    ----------
    filters : Tensor, shape (fft_bins, bands)
    edges : Tensor, shape (bands + 2,)
        Lower edge, centres and upper edge of the bands, Hz.
    """
    return filters * ((edges[2:] - edges[:-2]) / 2)
