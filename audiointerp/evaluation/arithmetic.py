"""Arithmetic that several metrics share."""

from __future__ import annotations

import torch
from torch import Tensor

from audiointerp.device import to_double


def smallest(values: Tensor) -> float:
    """Return the smallest positive normal number of the values' dtype, to divide by."""
    return torch.finfo(values.dtype).tiny


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """SI-SDR = 10·log10(‖α·s‖² / ‖α·s - x‖²), dB, α = <x, s> / <s, s>.

    How far the part of a sound x that is the reference s lies above the rest of it, whatever the
    level of either. No mean is subtracted.

    Parameters
    ----------
    estimate, reference : Tensor, shape (batch, 1, samples)
        x and s.

    Returns
    -------
    Tensor of float64, shape (batch,)
        NaN where a sound is silent, the two have nothing in common, or nothing but the reference
        is in the estimate: there is no finite value.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    J. Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019.
    """
    if estimate.shape != reference.shape:
        raise ValueError(
            f"the estimate has shape {tuple(estimate.shape)}, the reference "
            f"{tuple(reference.shape)}: expected two sounds of one length for each clip"
        )
    x, s = to_double(estimate).flatten(1), to_double(reference).flatten(1)
    both, of_s, of_x = (
        torch.bmm(a[:, None], b[:, :, None])[:, 0, 0] for a, b in ((x, s), (s, s), (x, x))
    )
    wanted = both.square() / of_s
    rest = of_x - wanted
    # Below this, rounding is all that is left of it.
    rest = torch.where(rest > 1e-14 * of_x, rest, torch.nan)
    ratio = 10 * (wanted / rest).log10()
    return torch.where(ratio.isfinite(), ratio, torch.nan)
