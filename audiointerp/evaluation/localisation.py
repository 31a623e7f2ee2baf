"""Localisation: whether a map lies where the explained sound is.

In cells, a map is compared with the ideal binary mask over the counted cells; see
`audiointerp.evaluation.truth.Truth`. In time, its positive part, summed over frequency, is compared
with the frames in which the event sounds.

Cells of equal attribution count together, by what is expected if their order is drawn at random:
what is found does not depend on how cells are sorted, and a constant map is at chance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from audiointerp.device import double_device
from audiointerp.evaluation.arithmetic import smallest
from audiointerp.evaluation.record import METRICS, Evidence, Metric


class Ranking:
    """A batch of rows of values, from the highest to the lowest, and which are of true places.

    What several metrics share is computed once, on the values' device, or on the CPU where that
    has no double precision.

    Parameters
    ----------
    values : Tensor, shape (batch, ...)
        Such as attribution maps.
    true : Tensor of bool, same shape
        Where the values should be high, such as the ideal binary mask.
    counted : Tensor of bool, same shape, optional
        The places that count; all by default.

    Attributes
    ----------
    found, seen : Tensor of int64, shape (batch, places)
        How many true places, and how many counted ones, are among those up to each rank.
    is_last : Tensor of bool, shape (batch, places)
        Whether a rank is the last of those with its value. Only there is anything decided.

    Raises
    ------
    ValueError
        If the shapes differ, or the values are not finite floating point.
    """

    def __init__(self, values: Tensor, true: Tensor, counted: Tensor | None = None) -> None:
        counted = torch.ones_like(true) if counted is None else counted
        if not values.shape == true.shape == counted.shape or values.ndim < 2:
            raise ValueError(
                f"the values have shape {tuple(values.shape)}, the true places "
                f"{tuple(true.shape)}, the counted ones {tuple(counted.shape)}: expected "
                "(batch, ...) for all"
            )
        if not (values.is_floating_point() and torch.isfinite(values).all()):
            raise ValueError(
                f"the values are {values.dtype}, or NaN or infinite: expected finite floating point"
            )
        place = double_device(values.device)
        self.values = values.detach().flatten(1).to(place)
        self.counted = counted.flatten(1).to(place)
        self.true = true.flatten(1).to(place) & self.counted
        order = _descending(self.values)
        ranked = self.values.gather(1, order)
        self.found = self.true.gather(1, order).cumsum(1)
        self.seen = self.counted.gather(1, order).cumsum(1)
        self.is_last = torch.ones_like(self.true)
        self.is_last[:, :-1] = ranked[:, :-1] != ranked[:, 1:]

    @cached_property
    def total(self) -> Tensor:
        """How many places are true, shape (batch,)."""
        return self.found[:, -1]

    @cached_property
    def is_decided(self) -> Tensor:
        """Whether some counted places are true and some are not, bool (batch,)."""
        return (self.total > 0) & (self.total < self.seen[:, -1])

    @cached_property
    def found_before(self) -> Tensor:
        """How many true places have a higher value than that of each rank."""
        return self._before(self.found)

    @cached_property
    def seen_before(self) -> Tensor:
        """How many counted places have a higher value than that of each rank."""
        return self._before(self.seen)

    def _before(self, counts: Tensor) -> Tensor:
        before = torch.zeros_like(counts)
        before[:, 1:] = (counts * self.is_last).cummax(1).values[:, :-1]
        return before

    def at_levels(self, values: Tensor) -> Tensor:
        """Return values by rank as float64, 0 but at the last rank of each level."""
        return values.double() * self.is_last

    def decided(self, values: Tensor) -> Tensor:
        """Return values (batch,), NaN where all or none of the counted places are true."""
        return torch.where(self.is_decided, values, torch.nan)


def _descending(values: Tensor) -> Tensor:
    """Return the positions of rows of values from the highest on; on a CPU by NumPy, faster."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.argsort(-values.numpy(), axis=1))
    return values.argsort(dim=1, descending=True)


def auprc(ranking: Ranking) -> Tensor:
    """AUPRC, the average precision Σ (R_k - R_(k-1))·P_k over the levels of a map.

    Parameters
    ----------
    ranking : Ranking

    Returns
    -------
    Tensor of float64, shape (batch,)
        In (0, 1], higher is better; by chance the share of the counted places that are true. NaN
        where all or none of them are.
    """
    precision = ranking.found.double() / ranking.seen.clamp(min=1)
    gained = ranking.at_levels(ranking.found - ranking.found_before)
    return ranking.decided((gained * precision).sum(1) / ranking.total)


def auroc(ranking: Ranking) -> Tensor:
    """AUROC: how likely a true place has a higher value than another; equal ones count half.

    Parameters and NaN as `auprc`; in [0, 1], by chance 0.5.
    """
    other, other_before = (
        seen - found
        for seen, found in (
            (ranking.seen, ranking.found),
            (ranking.seen_before, ranking.found_before),
        )
    )
    height = (ranking.found + ranking.found_before).double() / 2
    area = (ranking.at_levels(other - other_before) * height).sum(1)
    return ranking.decided(area / (ranking.total.double() * other[:, -1]))


def relevance_mass(ranking: Ranking) -> Tensor:
    """Relevance mass: the share of the positive values that lies in true places.

    Parameters as `auprc`; in [0, 1], by chance the share of the counted places that are true. NaN
    also where no counted value is positive.

    References
    ----------
    L. Arras et al., "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural
    network explanations", Information Fusion 81, 2022.
    """
    positive = ranking.values.double().clamp(min=0) * ranking.counted
    peak = positive.amax(1, keepdim=True)
    share = positive / peak.clamp(min=smallest(peak))
    return ranking.decided((share * ranking.true).sum(1) / share.sum(1))


def relevance_rank(ranking: Ranking) -> Tensor:
    """Relevance rank: of as many highest values as there are true places, the share that is true.

    Parameters and NaN as `auprc`; in [0, 1], by chance the share of the counted places that are
    true. Where equal values do not all fit, those that do are expected to be true as often as all
    of them are.

    References
    ----------
    L. Arras et al., 2022; see `relevance_mass`.
    """
    return ranking.decided(_found_among(ranking, ranking.total) / ranking.total)


def pointing_game(ranking: Ranking) -> Tensor:
    """Pointing game: 1 where the highest value is at a true place, else 0.

    Parameters and NaN as `auprc`; in [0, 1], by chance the share of the counted places that are
    true. Of several highest values, the share that is at true places.

    References
    ----------
    J. Zhang et al., "Top-down neural attention by excitation backprop", IJCV 126, 2018.
    """
    return ranking.decided(_found_among(ranking, torch.ones_like(ranking.total)))


def _found_among(ranking: Ranking, count: Tensor) -> Tensor:
    """Return how many of the `count` (batch,) highest places are expected to be true, float64."""
    wanted = count[:, None]
    cut = (ranking.seen_before < wanted) & (wanted <= ranking.seen)
    share = (wanted - ranking.seen_before).double() / (ranking.seen - ranking.seen_before).clamp(
        min=1
    )
    found = ranking.found_before + share * (ranking.found - ranking.found_before)
    return (ranking.at_levels(cut) * found).sum(1)


def best_iou(ranking: Ranking) -> Tensor:
    """IoU of the true places and those above a threshold, at the threshold where it is highest.

    Parameters and NaN as `auprc`; in (0, 1]. Never below the share of the counted places that are
    true, which taking all of them gives.
    """
    union = ranking.seen - ranking.found + ranking.total[:, None]
    iou = ranking.at_levels(ranking.found) / union.clamp(min=1)
    return ranking.decided(iou.amax(1))


def mean_iou(ranking: Ranking) -> Tensor:
    """IoU of the true places and those above the mean value; 0 where no value is above it.

    Parameters and NaN as `auprc`; in [0, 1].
    """
    values, counted = ranking.values.double(), ranking.counted
    mean = (values * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
    # A value that is the mean but for rounding is not above it.
    rounding = 1e-9 * values.abs().amax(1, keepdim=True)
    above = (values > mean + rounding) & counted
    either = (above | ranking.true).sum(1)
    return ranking.decided((above & ranking.true).sum(1).double() / either.clamp(min=1))


def f1_of(iou: Tensor) -> Tensor:
    """F1 of the same places as an IoU, 2·IoU / (1 + IoU): both are highest at one threshold."""
    return 2 * iou / (1 + iou)


_LEVELS = 2.0**40
"""Levels of a map over time: what lies nearer together than rounding is equal."""


def time_ranking(attribution: Tensor, active: Tensor) -> Ranking:
    """Return the frames of maps by their positive attribution, summed over frequency.

    Parameters
    ----------
    attribution : Tensor, shape (batch, 1, bins, frames)
    active : Tensor of bool, shape (batch, frames)
        In which frames the event sounds.

    Returns
    -------
    Ranking
        Of whole numbers from 0 to 2^40. No place is counted of a map without positive cells,
        which says nothing of the time.
    """
    values = attribution.detach().to(double_device(attribution.device))
    if not torch.isfinite(values).all():
        raise ValueError(
            "the attribution has NaN or infinite cells: was the model's output finite?"
        )
    positive = values.double().clamp(min=0)
    peak = positive.amax(dim=(1, 2, 3), keepdim=True)
    curve = (positive / peak.clamp(min=smallest(peak))).sum(dim=(1, 2))
    highest = curve.amax(1, keepdim=True)
    levels = (curve / highest.clamp(min=smallest(highest)) * _LEVELS).round()
    return Ranking(levels, active.to(levels.device), (highest > 0).expand_as(levels))


def _cells(evidence: Evidence) -> Ranking:
    truth = evidence.truth
    return evidence.once(
        "ranked cells", lambda: Ranking(evidence.attribution, truth.binary, truth.counted)
    )


def _frames(evidence: Evidence) -> Ranking:
    return evidence.once(
        "ranked frames", lambda: time_ranking(evidence.attribution, evidence.truth.active)
    )


def _of_true_class(
    ranked: Callable[[Evidence], Ranking], measure: Callable[[Ranking], Tensor]
) -> Callable[[Evidence], Tensor]:
    """Return what computes a metric where the explained class is one that the clip has."""

    def compute(evidence: Evidence) -> Tensor:
        values = measure(ranked(evidence))
        return torch.where(
            evidence.truth.is_of(evidence.target).to(values.device), values, torch.nan
        )

    return compute


def _record(
    name: str, title: str, meaning: str, family: str, needs: str, chance: str, compute: Callable
) -> None:
    METRICS[name] = Metric(
        name,
        title=title,
        meaning=meaning,
        unit="",
        decimals=3,
        clip_decimals=3,
        better=1,
        bounds=lambda cells: (0.0, 1.0),
        family=family,
        level="map",
        needs=frozenset({"attribution", needs}),
        compute=compute,
        chance=chance,
    )


FAMILY = "localisation"

for _name, _title, _meaning, _measure, _chance in (
    (
        "AUPRC",
        "area under precision and recall",
        "how far the cells in which the foreground is louder come first in the map; by chance "
        "their share of the cells",
        auprc,
        "foreground_share",
    ),
    (
        "AUROC",
        "area under the ROC curve",
        "how likely a cell in which the foreground is louder has a higher attribution than one in "
        "which it is not; by chance 0.5",
        auroc,
        "",
    ),
    (
        "mass",
        "relevance mass",
        "share of the positive attribution that lies where the foreground is louder",
        relevance_mass,
        "foreground_share",
    ),
    (
        "rank",
        "relevance rank",
        "of as many highest cells as there are in which the foreground is louder, the share that "
        "is among these",
        relevance_rank,
        "foreground_share",
    ),
    (
        "pointing",
        "pointing game",
        "share of clips in which the foreground is louder in the map's highest cell",
        pointing_game,
        "foreground_share",
    ),
):
    _record(_name, _title, _meaning, FAMILY, "truth", _chance, _of_true_class(_cells, _measure))

TIME_FAMILY = "localisation in time"

for _name, _title, _meaning, _measure, _chance in (
    (
        "time_IoU",
        "intersection over union in time",
        "overlap of the event's frames with those above the best threshold",
        best_iou,
        "",
    ),
    (
        "time_F1",
        "F1 in time",
        "F1 of the frames above the best threshold",
        lambda ranking: f1_of(best_iou(ranking)),
        "",
    ),
    (
        "time_IoU_mean",
        "intersection over union in time at the mean",
        "overlap of the event's frames with those above the map's mean",
        mean_iou,
        "",
    ),
    (
        "time_F1_mean",
        "F1 in time at the mean",
        "F1 of the frames above the map's mean",
        lambda ranking: f1_of(mean_iou(ranking)),
        "",
    ),
    (
        "time_pointing",
        "pointing game in time",
        "share of clips in which the event sounds in the map's highest frame",
        pointing_game,
        "event_share",
    ),
):
    _compute = _of_true_class(_frames, _measure)
    _record(_name, _title, _meaning, TIME_FAMILY, "events", _chance, _compute)
