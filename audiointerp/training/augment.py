"""Augmentation of training batches: SpecAugment stripes, mixup, time shifts.

References
----------
D. S. Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech
Recognition", Interspeech 2019.
H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
Recognition", IEEE/ACM TASLP 28, 2020 (the sizes of both).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class SpecAugment(nn.Module):
    """Hide random stripes of time and frequency, in training mode only.

    Every clip of a batch gets stripes of its own. A stripe's width is uniform from 0 to the
    largest, its place uniform over the axis; stripes may overlap.

    Parameters
    ----------
    time_stripes, freq_stripes : int
        Number of stripes along each axis.
    time_width, freq_width : int
        Largest width of a stripe, frames and bins. The defaults are those of PANNs.
    fill : float, optional
        What takes the place of the features. None: each clip's own mean, which shifts the
        statistics of batch normalisation least.

    Raises
    ------
    ValueError
        If a number is negative.

    Examples
    --------
    >>> augmented = SpecAugment()(features)  # doctest: +SKIP
    """

    def __init__(
        self,
        time_stripes: int = 2,
        time_width: int = 64,
        freq_stripes: int = 2,
        freq_width: int = 8,
        fill: float | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "time_stripes": time_stripes,
            "time_width": time_width,
            "freq_stripes": freq_stripes,
            "freq_width": freq_width,
        }
        for name, value in sizes.items():
            if value < 0:
                raise ValueError(f"{name} is {value}: expected a whole number, 0 for none")
        self.time_stripes, self.time_width = time_stripes, time_width
        self.freq_stripes, self.freq_width = freq_stripes, freq_width
        self.fill = fill

    def extra_repr(self) -> str:
        """Name the sizes, so that settings can be compared and printed."""
        return (
            f"time_stripes={self.time_stripes}, time_width={self.time_width}, "
            f"freq_stripes={self.freq_stripes}, freq_width={self.freq_width}, fill={self.fill}"
        )

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a copy of the features with stripes hidden; in evaluation mode the features.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, bins, frames)
        generator : torch.Generator, optional
            On the CPU, whatever the features' device, so that every device hides the same.

        Returns
        -------
        Tensor, shape (batch, 1, bins, frames)
        """
        if not self.training:
            return features
        batch, _, bins, frames = features.shape
        freq = _stripes(batch, bins, self.freq_stripes, self.freq_width, generator)
        time = _stripes(batch, frames, self.time_stripes, self.time_width, generator)
        hidden = (freq[:, None, :, None] | time[:, None, None, :]).to(features.device)
        fill = features.mean((1, 2, 3), keepdim=True) if self.fill is None else self.fill
        return torch.where(hidden, fill, features)


def mixup(
    features: Tensor, targets: Tensor, alpha: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Blend every clip with another of its batch, and their targets in the same proportion.

    Parameters
    ----------
    features : Tensor, shape (batch, ...)
    targets : Tensor, shape (batch, classes)
        Probabilities, such as one-hot labels.
    alpha : float
        The share λ of a clip is drawn from Beta(alpha, alpha), one for each; the larger of λ and
        1 - λ is its own, so a clip stays mainly itself. 0 changes nothing.
    generator : torch.Generator, optional
        On the CPU.

    Returns
    -------
    features, targets : Tensor
        λ·x + (1 - λ)·x', of the inputs' shapes.
    """
    if alpha == 0:
        return features, targets
    batch = len(features)
    partner = torch.randperm(batch, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, batch))
    share = torch.maximum(share, 1 - share).to(features)
    partner = partner.to(features.device)

    def blend(values: Tensor) -> Tensor:
        own = share.view(-1, *[1] * (values.ndim - 1))
        return own * values + (1 - own) * values[partner]

    return blend(features), blend(targets)


def time_shift(waveform: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Roll every clip in time by a random amount; what leaves at one end comes in at the other.

    Parameters
    ----------
    waveform : Tensor, shape (batch, 1, samples)
    share : float
        The largest shift, as a share of the clip's length; 0.5 reaches every alignment.
    generator : torch.Generator, optional
        On the CPU.
    """
    limit = int(share * waveform.shape[-1])
    if limit == 0:
        return waveform
    shifts = torch.randint(-limit, limit + 1, (len(waveform),), generator=generator)
    return torch.stack(
        [clip.roll(shift, -1) for clip, shift in zip(waveform, shifts.tolist(), strict=True)]
    )


def _stripes(
    batch: int, length: int, count: int, widest: int, generator: torch.Generator | None
) -> Tensor:
    """Return (batch, length), True where one of `count` random stripes lies."""
    widths = torch.randint(min(widest, length) + 1, (batch, count, 1), generator=generator)
    starts = torch.rand((batch, count, 1), generator=generator) * (length - widths + 1)
    place = torch.arange(length)
    starts = starts.long()
    return ((place >= starts) & (place < starts + widths)).any(1)
