"""Suspicion of a shortcut: detections grouped by where their evidence lies, and indicators of each.

A network that takes a shortcut answers to a sound that has nothing to do with the class: a beep, a
hum, silence, the edge of the window. One detection does not show that; several do if the evidence
is narrow and always at the same frequencies.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from audiointerp.evaluation.placement import EDGE, similarity

STEADY = 0.5
"""Evidence that effectively takes this share of the frames is steady."""
AT_EDGE = 0.5
"""Share of the evidence at one end of the window, from which on the detection is filed there."""
LOWEST_HZ = 31.25
"""Edge of the octaves that evidence is grouped by: 62.5, 125, 250, …, 1000, 2000 Hz."""
NO_EVIDENCE = "no positive evidence"


@dataclass(frozen=True)
class Indicators:
    """How much each of some detections looks like a shortcut, by three named indicators in [0, 1].

    NaN where a map has no positive evidence.

    Attributes
    ----------
    same_narrow_band : ndarray, shape (detections,)
        Narrowness times sameness. Narrowness is 1 less the effective share of the bins; sameness is
        Pearson's correlation of the evidence's profile over frequency with the mean profile of the
        *other recordings* of the group, 0 where it is negative or there are none.
    edge : ndarray, shape (detections,)
        Share of the evidence in the first and last 5 % of the window, as far as it is above these
        10 %, which evenly spread evidence has, and above the share e of the energy there, which a
        sound at the edge has: (share - c) / (1 - c) with c = max(0.1, e), at least 0.
    silence : ndarray, shape (detections,)
        Share of the evidence in cells 60 dB or more below the loudest one.
    sameness : ndarray, shape (detections,)
        The correlation; NaN where there is no other recording.
    """

    same_narrow_band: NDArray[np.float64]
    edge: NDArray[np.float64]
    silence: NDArray[np.float64]
    sameness: NDArray[np.float64]

    @cached_property
    def suspicion(self) -> NDArray[np.float64]:
        """The largest of the three."""
        return np.max([self.same_narrow_band, self.edge, self.silence], axis=0)

    @cached_property
    def largest(self) -> list[str]:
        """Name of the largest of the three, "" where there is none."""
        names = ("same_narrow_band", "edge", "silence")
        values = np.stack([getattr(self, name) for name in names])
        unknown = np.isnan(values).any(axis=0).tolist()
        places = np.argmax(np.nan_to_num(values), axis=0).tolist()
        return ["" if un else names[place] for un, place in zip(unknown, places, strict=True)]


def place_in_words(
    peak_hz: float, steadiness: float, at_start: float, at_end: float
) -> tuple[str, int]:
    """Return how evidence lies in time, and the octave that its peak is in.

    Parameters
    ----------
    peak_hz : float
        Frequency with the most evidence; NaN where there is none.
    steadiness, at_start, at_end : float
        See `audiointerp.evaluation.placement.Placement`.

    Returns
    -------
    course : str
        "start of the window" or "end of the window", where half of the evidence lies in the first
        or last 5 % of the frames; "steady", where it effectively takes half of the frames; else
        "bursts". `NO_EVIDENCE` where there is none.
    octave : int
        0 for 31.25 Hz up to below 62.5 Hz, and so on; what lies lower is in 0.
    """
    if np.isnan(peak_hz):
        return NO_EVIDENCE, 0
    octave = max(0, int(np.floor(np.log2(max(peak_hz, LOWEST_HZ) / LOWEST_HZ))))
    if at_start >= AT_EDGE or at_end >= AT_EDGE:
        return ("start of the window" if at_start >= at_end else "end of the window"), octave
    return ("steady" if steadiness >= STEADY else "bursts"), octave


def measure_suspicion(
    groups: Sequence[Hashable],
    files: Sequence[Hashable],
    profiles: NDArray[np.float64],
    bandwidth: NDArray[np.float64],
    edge: NDArray[np.float64],
    edge_energy: NDArray[np.float64],
    silence: NDArray[np.float64],
) -> Indicators:
    """Return the indicators of detections.

    Parameters
    ----------
    groups, files : sequence, one entry per detection
        Which group each is in, and of which recording.
    profiles : ndarray, shape (detections, bins)
        Share of the evidence in each bin; NaN where there is none.
    bandwidth, edge, edge_energy, silence : ndarray, shape (detections,)
        Effective share of the bins; share of the evidence, and of the energy, at both ends of the
        window; share of the evidence in silent cells.

    Returns
    -------
    Indicators
        Which do not depend on the order of the detections but for rounding.
    """
    profiles = np.asarray(profiles, dtype=np.float64)
    same = np.full(len(profiles), np.nan)
    known = ~np.isnan(profiles).any(axis=1) if len(profiles) else np.zeros(0, dtype=bool)
    members: dict[Hashable, list[int]] = {}
    for place in np.flatnonzero(known).tolist():
        members.setdefault(groups[place], []).append(place)
    for places in members.values():
        total = profiles[places].sum(0)
        of_file: dict[Hashable, list[int]] = {}
        for place in places:
            of_file.setdefault(files[place], []).append(place)
        if len(of_file) < 2:
            continue
        for own in of_file.values():
            others = (total - profiles[own].sum(0)) / (len(places) - len(own))
            repeated = torch.from_numpy(np.broadcast_to(others, (len(own), len(others))).copy())
            same[own] = similarity(torch.from_numpy(profiles[own]), repeated).numpy()
    narrowness = 1 - np.asarray(bandwidth, dtype=np.float64)
    return Indicators(
        same_narrow_band=narrowness * np.nan_to_num(same).clip(0, 1),
        edge=_beyond(np.asarray(edge, dtype=np.float64), edge_energy),
        silence=np.asarray(silence, dtype=np.float64),
        sameness=same,
    )


def _beyond(edge: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far evidence at the edges exceeds what lies there by chance or as sound."""
    expected = np.maximum(2 * EDGE, np.nan_to_num(energy))
    return ((edge - expected) / np.maximum(1 - expected, 1e-9)).clip(0)
