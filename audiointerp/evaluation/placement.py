"""Placement: where in a clip the positive relevance of a map lies, in Hz, seconds and level.

The relevance is R = A⁺ / ΣA⁺, the positive part of a map as a distribution over the cells of the
clip. All that is computed of it is the same for c·A, c > 0, and depends on no other clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audiointerp.device import to_double
from audiointerp.evaluation.arithmetic import smallest
from audiointerp.evaluation.truth import COUNTED_DB
from audiointerp.processing import FrontEnd, View

HALF, MOST = 0.5, 0.9
"""Shares of the relevance that bands and spans hold."""
EDGE = 0.05
"""Share of the frames at each end of a clip that count as its edge."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Placement:
    """Where the positive relevance of a batch of maps lies; one entry per map.

    NaN throughout where a map has no positive cell.

    Attributes
    ----------
    relevance : Tensor, shape (batch, bins, frames), float64
        R, which adds up to 1.
    profile, energy : Tensor, shape (batch, bins)
        R, and the share of the clip's energy, summed over time.
    band, wide_band : Tensor, shape (batch, 2)
        Lowest and highest frequency of the narrowest band of adjacent bins that holds 50 % of the
        relevance, and 90 %, Hz. Of several equally narrow ones, that with the most relevance.
    band_bins : Tensor of int64, shape (batch, 2)
        The first bin of `band` and the one after its last; 0 and 0 where there is no relevance.
    span, wide_span : Tensor, shape (batch, 2)
        The same in time: start and end of the shortest stretch of adjacent frames, seconds from
        the beginning of the clip.
    bandwidth : Tensor, shape (batch,)
        Effective share of the bins, 1 / (bins·Σ p²) of the profile p: 1 where all bins have as
        much, 1 / bins where one has all.
    steadiness : Tensor, shape (batch,)
        Effective share of the frames, of the relevance within `band`: near 1 for a hum, for a beep
        about its share of the clip.
    band_energy : Tensor, shape (batch,)
        Share of the clip's energy that lies within `band`.
    overlap : Tensor, shape (batch,)
        Σ min(R, E) with the clip's energy E as a distribution over the cells: 1 where the relevance
        is the energy, 0 where the two have no cell in common.
    start, end : Tensor, shape (batch,)
        Share of the relevance in the first and in the last 5 % of the frames, at least one each.
    edge_energy : Tensor, shape (batch,)
        Share of the clip's energy in these frames at both ends.
    silence : Tensor, shape (batch,)
        Share of the relevance in cells at least 60 dB below the clip's loudest cell.
    """

    relevance: Tensor
    profile: Tensor
    energy: Tensor
    band: Tensor
    wide_band: Tensor
    band_bins: Tensor
    span: Tensor
    wide_span: Tensor
    bandwidth: Tensor
    steadiness: Tensor
    band_energy: Tensor
    overlap: Tensor
    start: Tensor
    end: Tensor
    edge_energy: Tensor
    silence: Tensor


def place_evidence(attribution: Tensor, view: View, front_end: FrontEnd) -> Placement:
    """Return where the positive relevance of maps lies.

    Parameters
    ----------
    attribution : Tensor, shape (batch, 1, bins, frames)
        Finite, in any unit.
    view : View
        Of the clips.
    front_end : FrontEnd
        Which made the view.

    Returns
    -------
    Placement
        In float64, on the maps' device or on the CPU where that has no double precision.

    Raises
    ------
    ValueError
        If the maps are not shaped like the cells, or have NaN or infinite cells.
    """
    if attribution.shape != view.cells.shape:
        raise ValueError(
            f"the attribution has shape {tuple(attribution.shape)}, the cells "
            f"{tuple(view.cells.shape)}: expected maps of these clips"
        )
    if not torch.isfinite(attribution).all():
        raise ValueError(
            "the attribution has NaN or infinite cells: was the model's output finite?"
        )
    relevance = _distribution(to_double(attribution.detach())[:, 0].clamp(min=0))
    cells = to_double(view.cells.detach())[:, 0].to(relevance.device)
    power = 10 ** (cells / 10) if front_end.log else cells.clamp(min=0)
    energy = _distribution(power)
    bins, frames = relevance.shape[1:]
    hertz = bin_edges(to_double(front_end.frequencies).to(relevance.device))
    seconds = bin_edges(to_double(front_end.times(frames)).to(relevance.device))
    if view.waveform is not None:
        seconds = seconds.clamp(max=view.waveform.shape[-1] / front_end.sample_rate)
    profile, course = relevance.sum(2), relevance.sum(1)
    band = narrowest(profile, HALF)
    inside = _between(band, bins)
    course_inside = (relevance * inside[:, :, None]).sum(1)
    edge = max(1, int(EDGE * frames))
    loudest = power.amax((1, 2), keepdim=True)
    is_silent = power <= loudest * 10 ** (-COUNTED_DB / 10)
    known = ~torch.isnan(profile[:, 0])
    return Placement(
        relevance=relevance,
        profile=profile,
        energy=energy.sum(2),
        band=_ends(band, hertz, known),
        wide_band=_ends(narrowest(profile, MOST), hertz, known),
        band_bins=band,
        span=_ends(narrowest(course, HALF), seconds, known),
        wide_span=_ends(narrowest(course, MOST), seconds, known),
        bandwidth=effective_share(profile),
        steadiness=effective_share(course_inside),
        band_energy=torch.where(known, (energy.sum(2) * inside).sum(1), torch.nan),
        overlap=torch.minimum(relevance, energy).sum((1, 2)),
        start=course[:, :edge].sum(1),
        end=course[:, -edge:].sum(1),
        edge_energy=energy[..., :edge].sum((1, 2)) + energy[..., -edge:].sum((1, 2)),
        silence=(relevance * is_silent).sum((1, 2)),
    )


def bin_edges(centres: Tensor) -> Tensor:
    """Return the edges of bins, half-way between their centres, shape (bins + 1,); not below 0.

    The first and the last bin reach as far outward as inward; a single one from 0 to twice its
    centre.
    """
    if len(centres) == 1:
        return torch.cat([torch.zeros_like(centres), 2 * centres])
    middle = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[:1] - middle[:1], 2 * centres[-1:] - middle[-1:]
    return torch.cat([first, middle, last]).clamp(min=0)


def narrowest(shares: Tensor, wanted: float) -> Tensor:
    """Return the fewest adjacent places that together hold a share.

    Parameters
    ----------
    shares : Tensor, shape (batch, places)
        Not negative, each row adding up to 1 or NaN throughout.
    wanted : float
        In (0, 1].

    Returns
    -------
    Tensor of int64, shape (batch, 2)
        The first place and the one after the last; of equally few, those that hold the most, of
        equal ones the first. 0 and 0 for a row of NaN.
    """
    total = torch.nn.functional.pad(shares.nan_to_num().cumsum(1), (1, 0))
    found = torch.zeros(len(shares), 2, dtype=torch.int64, device=shares.device)
    for row in (~torch.isnan(shares).any(1)).nonzero()[:, 0].tolist():
        low, width = 0, shares.shape[1]  # what `low` places hold is too little, `width` enough
        while width - low > 1:
            middle = (low + width) // 2
            if float(_held(total[row], middle).max()) >= wanted - _ROUNDING:
                width = middle
            else:
                low = middle
        held = _held(total[row], width)
        # What rounding tells apart is equal: the first place is taken.
        first = int((held >= held.max() - _ROUNDING).int().argmax())
        found[row, 0], found[row, 1] = first, first + width
    return found


def _held(total: Tensor, width: int) -> Tensor:
    """Return what every stretch of `width` places holds, given the sums before each place."""
    return total[width:] - total[:-width]


def effective_share(values: Tensor) -> Tensor:
    """Return which share of its places a distribution effectively takes, (Σ v)² / (n·Σ v²).

    Parameters
    ----------
    values : Tensor, shape (batch, n)
        Not negative.

    Returns
    -------
    Tensor, shape (batch,)
        1 where all values are equal, 1 / n where one has all; NaN where all are 0.
    """
    peak = values.amax(1, keepdim=True)
    scaled = values / peak
    return scaled.sum(1).square() / (values.shape[1] * scaled.square().sum(1))


def similarity(profiles: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation of profiles with others, row by row, shape (batch,).

    Parameters
    ----------
    profiles, others : Tensor, shape (batch, bins)

    Returns
    -------
    Tensor, shape (batch,)
        In [-1, 1]; NaN where a profile is the same in all bins.
    """
    first, second = (each - each.mean(1, keepdim=True) for each in (profiles, others))
    norm = first.square().sum(1).sqrt() * second.square().sum(1).sqrt()
    return (first * second).sum(1) / torch.where(norm > 0, norm, torch.nan)


def _distribution(values: Tensor) -> Tensor:
    """Return values (batch, bins, frames), not negative, as shares of their sum; NaN if it is 0."""
    peak = values.amax((1, 2), keepdim=True)
    scaled = values / peak.clamp(min=smallest(values))
    return scaled / torch.where(peak > 0, scaled.sum((1, 2), keepdim=True), torch.nan)


def _between(ends: Tensor, places: int) -> Tensor:
    """Return which places lie between two ends, bool (batch, places)."""
    place = torch.arange(places, device=ends.device)
    return (ends[:, :1] <= place) & (place < ends[:, 1:])


def _ends(found: Tensor, edges: Tensor, known: Tensor) -> Tensor:
    """Return the edges of stretches of places, shape (batch, 2); NaN where nothing is known."""
    return torch.where(known[:, None], edges[found], torch.nan)
