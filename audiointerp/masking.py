"""Attribution map → mask, and mask → masked-in and masked-out features.

A mask is made from one clip's attribution map A of N = bins·frames cells and lies in [0, 1].
Write A⁺ for max(A, 0). The fourteen masks, by their published names:

================================  ==================================================================
``bin``                           A > 0
``minmax``, ``minmax_pos``        (A - min A) / (max A - min A);  A⁺ / max A⁺
``sigmoid``, ``sigmoid_pos``      σ(A / s), s the standard deviation of A;  the same of A⁺
``topK_5``, ``_30``, ``_50``      the ⌈k·N⌉ largest cells, k = 5, 30, 50 %
``topK_5_pos``, …                 the same, but positive cells only: at most ⌈k·N⌉
``pos_thresh_25``, ``_50``, …     A⁺ / max A⁺ ≥ 25, 50, 75 %
================================  ==================================================================

A new mask is one function and one ``MASKS.register`` line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from audiointerp.arguments import several
from audiointerp.registry import Registry


class AttributionMaps:
    """A batch of attribution maps, flattened, with what several masks share computed once.

    Attributes
    ----------
    values : Tensor, shape (batch, cells)
        The maps.
    """

    def __init__(self, attribution: Tensor) -> None:
        self.values = attribution.flatten(1)

    @cached_property
    def scaled(self) -> Tensor:
        """A / max|A|, shape (batch, cells).

        Its differences and squares neither overflow nor vanish, however large or tiny A is.
        """
        peak = self.values.abs().amax(1, keepdim=True)
        return torch.where(peak > 0, self.values / peak, self.values)

    @cached_property
    def positive(self) -> Tensor:
        """A⁺ = max(A, 0), shape (batch, cells)."""
        return self.values.clamp(min=0)

    @cached_property
    def positive_share(self) -> Tensor:
        """A⁺ / max A⁺, shape (batch, cells); 0 where no cell is positive."""
        peak = self.positive.amax(1, keepdim=True)
        return torch.where(peak > 0, self.positive / peak, torch.zeros_like(self.positive))

    @cached_property
    def ascending(self) -> Tensor:
        """The values sorted, shape (batch, cells)."""
        if self.values.device.type == "cpu" and self.values.dtype in (torch.float32, torch.float64):
            # By NumPy, as torch carries the positions along.
            return torch.from_numpy(np.sort(self.values.detach().numpy(), axis=1))
        return self.values.sort(dim=1).values


IDENTITY = "identity"
"""The mask of methods that return a mask directly: their map itself."""

MaskFunction = Callable[[AttributionMaps], Tensor]
MASKS: Registry[MaskFunction] = Registry("mask")


@MASKS.register("bin")
def _binary(maps: AttributionMaps) -> Tensor:
    return (maps.values > 0).to(maps.values)


@MASKS.register("minmax")
def _minmax(maps: AttributionMaps) -> Tensor:
    low, high = maps.scaled.aminmax(dim=1, keepdim=True)
    return torch.where(high > low, (maps.scaled - low) / (high - low), torch.zeros_like(low))


@MASKS.register("sigmoid")
def _sigmoid(maps: AttributionMaps) -> Tensor:
    return _deviation_sigmoid(maps.scaled)


def _boundary(maps: AttributionMaps, percent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells above the last one a top-K mask keeps, those equal to it, and how many fit.

    Shapes (batch, cells), (batch, cells) and (batch,).
    """
    # Whole numbers throughout: 0.29 · 100 is 28.999… in floating point.
    keep = -(-percent * maps.values.shape[1] // 100)
    last = maps.ascending[:, -keep].unsqueeze(1)
    above, level = maps.values > last, maps.values == last
    return above, level, keep - above.sum(1)


def _top(maps: AttributionMaps, percent: int) -> Tensor:
    above, level, wanted = _boundary(maps, percent)
    # Of the cells that equal the last one kept, the first ones by position.
    for clip in (level.sum(1) > wanted).nonzero()[:, 0].tolist():
        level[clip, level[clip].nonzero()[wanted[clip] :, 0]] = False
    return (above | level).to(maps.values)


def _top_positive(maps: AttributionMaps, percent: int) -> Tensor:
    return _top(maps, percent) * (maps.values > 0)


def _positive_threshold(maps: AttributionMaps, percent: int) -> Tensor:
    share = maps.positive_share
    return (share >= percent / 100).to(share)


_POSITIVE = "_pos"
_PERCENTS = {f"topK_{percent}": percent for percent in (5, 30, 50)}
for _name, _percent in _PERCENTS.items():
    MASKS[_name] = partial(_top, percent=_percent)


@MASKS.register("minmax_pos")
def _minmax_positive(maps: AttributionMaps) -> Tensor:
    return maps.positive_share


@MASKS.register("sigmoid_pos")
def _sigmoid_positive(maps: AttributionMaps) -> Tensor:
    return _deviation_sigmoid(maps.positive_share)


for _percent in (25, 50, 75):
    MASKS[f"pos_thresh_{_percent}"] = partial(_positive_threshold, percent=_percent)
for _name, _percent in _PERCENTS.items():
    MASKS[f"{_name}{_POSITIVE}"] = partial(_top_positive, percent=_percent)


def _deviation_sigmoid(values: Tensor) -> Tensor:
    """Return σ(values / s); 0.5 throughout a constant map, in which no cell stands out."""
    low, high = values.aminmax(dim=1, keepdim=True)
    deviation = values.std(dim=1, correction=0, keepdim=True)
    return torch.where(high > low, values / deviation, torch.zeros_like(values)).sigmoid()


def make_masks(attribution: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Make masks from a batch of attribution maps, each clip by its own map alone.

    Parameters
    ----------
    attribution : Tensor, shape (batch, 1, bins, frames)
        Signed attribution of every cell, in any unit: every mask is the same for c·A, c > 0.
    names : iterable of str, optional
        Which masks, from ``MASKS``; all fourteen by default. Or "identity", the map itself, for
        methods that return a mask.

    Returns
    -------
    dict of str to Tensor
        Mask of each name, in [0, 1], of the attribution's shape, dtype and device. The top-K
        masks keep exactly their count: equal cells are taken by position. A constant map gives
        an all-zero ``minmax`` and a ``sigmoid`` of 0.5; a map without positive cells gives
        all-zero positive masks.

    Raises
    ------
    ValueError
        If the map is not four-dimensional floating point or has NaN or infinite cells, or the mask
        "identity" is asked for and a cell is outside [0, 1].
    UnknownNameError
        If a name is no mask.
    """
    _check_features("attribution", attribution)
    if not torch.isfinite(attribution).all():
        raise ValueError(
            "the attribution has NaN or infinite cells: was the model's output finite?"
        )
    chosen = MASKS if names is None else several(names)
    functions = {name: _identity if name == IDENTITY else MASKS[name] for name in chosen}
    maps = AttributionMaps(attribution)
    return {name: make(maps).view_as(attribution) for name, make in functions.items()}


TIED = "tied_"
"""Of the name of a map's fact: what share of a top-K mask's cells was chosen by position."""
MAP_FACTS = ("constant_map", "positive_cells", TIED)
"""Names of the facts of maps, or what they begin with."""
BY_POSITION = 0.5
"""A top-K mask of which more than this share was chosen by position is degenerate."""


def map_facts(attribution: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Return what makes maps, and top-K masks of them, degenerate.

    Parameters
    ----------
    attribution : Tensor, shape (batch, 1, bins, frames)
        Finite attribution maps.
    names : iterable of str, optional
        The masks that are made of them; all of ``MASKS`` by default.

    Returns
    -------
    dict of str to Tensor of float64, shape (batch,), on the CPU
        ``constant_map``: 1 where all cells of a map are equal, as in an all-zero one, else 0.
        ``positive_cells``: the share of the cells that are positive; where it is 0, ``bin`` and
        the masks of A⁺ are empty or constant. ``tied_topK_5``, …, for each of these masks among
        the names: the share of the kept cells that were chosen by position, because more cells
        than there was room for equal the lowest value kept. It is 1 in a constant map. Maps that
        are constant on segments, as LIME's, have some in the segment at the boundary. The masks of
        positive cells have none where that value is not positive.
    """
    _check_features("attribution", attribution)
    maps = AttributionMaps(attribution)
    low, high = maps.values.aminmax(dim=1)
    counts = {
        "constant_map": ((low == high).long(), 1),
        "positive_cells": ((maps.values > 0).sum(1), maps.values.shape[1]),
    }
    for name in MASKS if names is None else names:
        percent = _PERCENTS.get(name.removesuffix(_POSITIVE))
        if percent is not None:
            above, level, wanted = _boundary(maps, percent)
            tied = wanted * (level.sum(1) > wanted)
            if name.endswith(_POSITIVE):
                tied = tied * (level & (maps.values > 0)).any(1)
            counts[f"{TIED}{name}"] = (tied, above.sum(1) + wanted)
    # Whole numbers until here: some devices have no double precision.
    return {
        name: count.cpu().double() / torch.as_tensor(of).cpu()
        for name, (count, of) in counts.items()
    }


def is_remarkable(name: str, values: Iterable[float]) -> bool:
    """Return whether a fact of some maps (see `map_facts`) hints at a degenerate one among them."""
    if name == "positive_cells":
        return any(value == 0 for value in values)
    return any(value > 0 for value in values)


def find_degenerate(attribution: Tensor, masks: Mapping[str, Tensor]) -> dict[str, str]:
    """Say what is degenerate about one clip's map and its masks.

    A map is degenerate if it is constant. A mask is degenerate if it is empty, full or otherwise
    constant, or if more than half of the cells that a top-K mask keeps were chosen by position
    among equal values: it then says little or nothing of the clip, whatever its metrics are.

    Parameters
    ----------
    attribution : Tensor, shape (1, 1, bins, frames)
        Finite.
    masks : mapping of str to Tensor, shape (1, 1, bins, frames)
        Made of it, by name.

    Returns
    -------
    dict of str to str
        A phrase for each degenerate mask, by its name; of the map, by "map". Empty if all is well.
    """
    facts = {name: float(value[0]) for name, value in map_facts(attribution, masks).items()}
    found = {}
    if facts["constant_map"]:
        value = float(attribution.flatten()[0]) + 0.0
        found["map"] = f"constant, {value:g} in every cell"
    for name, mask in masks.items():
        low, high = (float(end) for end in mask.aminmax())
        tied = facts.get(f"{TIED}{name}", 0.0)
        if low == high:
            kept = {0.0: "empty, it keeps nothing", 1.0: "full, it keeps every cell"}
            found[name] = kept.get(low, f"constant, {low:g} in every cell")
        elif tied > BY_POSITION:
            found[name] = f"{100 * tied:.0f} % of its cells chosen by position among equal ones"
    return found


def _identity(maps: AttributionMaps) -> Tensor:
    low, high = maps.values.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"the mask {IDENTITY!r} is the map itself, which runs from {low:g} to {high:g}: "
            "expected [0, 1], from a method that returns a mask"
        )
    return maps.values


def apply_mask(
    features: Tensor,
    mask: Tensor,
    base: float | Tensor,
    *,
    domain: Literal["feature", "power", "log1p"] = "feature",
) -> tuple[Tensor, Tensor]:
    """Return the features with the mask kept, and with the mask removed.

    In the features' own unit (``domain="feature"``), with base b: in = b + (X - b)·M and
    out = b + (X - b)·(1 - M), so in + out = X + b. M = 1 returns X bit for bit, M = 0 returns b.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
        X: dB, or power with ``domain="feature"`` and a base of 0.
    mask : Tensor, same shape
        M, in [0, 1].
    base : float or Tensor broadcastable to the features
        What a cell becomes where it is removed; see `base_level`.
    domain : {"feature", "power", "log1p"}
        ``"power"`` takes dB features and mixes them as power instead: M = 0.5 is then -3 dB
        rather than half-way down to the base. ``"log1p"`` mixes log(1 + magnitude), as the
        published figures of L-MAC and L2I do: of magnitudes far below 1, M = 0.5 is -6 dB, far
        above it half the decibels.

    Returns
    -------
    masked_in, masked_out : Tensor, shape (batch, 1, bins, frames)

    Raises
    ------
    ValueError
        If the shapes differ, the mask leaves [0, 1], the base is not finite, or the domain is
        unknown.
    """
    _check_features("features", features)
    if mask.shape != features.shape:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, the features {tuple(features.shape)}: "
            "expected one mask value per cell"
        )
    low, high = mask.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"the mask runs from {low:g} to {high:g}: expected values in [0, 1]; "
            "is this an attribution map? make_masks turns it into masks"
        )
    mix = DOMAINS[domain]
    level = torch.as_tensor(base, dtype=features.dtype, device=features.device)
    if not torch.isfinite(level).all():
        raise ValueError(
            "the base is NaN or infinite: expected the finite level of an empty cell, such as the "
            "front end's floor; see base_level"
        )
    level = level.expand_as(features)
    mask = mask.to(features)
    return mix(features, level, mask), mix(features, level, 1 - mask)


def _mix_features(features: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    # torch.lerp is exact at both ends: no rounding where the mask is 1 or 0.
    return torch.lerp(base, features, mask)


def _mix_power(features: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    relative = torch.pow(10.0, (base - features) / 10)
    mixed = features + 10 * torch.log10(mask + (1 - mask) * relative)
    return torch.where(mask == 1, features, torch.where(mask == 0, base, mixed))


def _mix_log1p(features: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    loud, quiet = (torch.pow(10.0, level / 20).log1p() for level in (features, base))
    mixed = 20 * torch.log10(torch.lerp(quiet, loud, mask).expm1())
    return torch.where(mask == 1, features, torch.where(mask == 0, base, mixed))


DOMAINS: Registry[Callable[[Tensor, Tensor, Tensor], Tensor]] = Registry("masking domain")
DOMAINS["feature"] = _mix_features
DOMAINS["power"] = _mix_power
DOMAINS["log1p"] = _mix_log1p


BASES: Registry[Callable[[Tensor, float], Tensor]] = Registry("masking base")


@BASES.register("floor")
def _floor_base(features: Tensor, floor: float) -> Tensor:
    return features.new_full((features.shape[0], 1, 1, 1), floor)


@BASES.register("minimum")
def _minimum_base(features: Tensor, floor: float) -> Tensor:
    return features.amin(dim=(1, 2, 3), keepdim=True)


@BASES.register("quiet")
def _quiet_base(features: Tensor, floor: float) -> Tensor:
    return quiet_level(features, 0.05)


def quiet_level(features: Tensor, share: float) -> Tensor:
    """Return the level that a share of the frames stay below, in each band.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
    share : float
        In [0, 1]; between two frames it is interpolated.

    Returns
    -------
    Tensor, shape (batch, 1, bins, 1)
    """
    # As torch.quantile, which older versions of torch refuse for more than 16 million cells.
    ordered = features.sort(dim=3).values
    place = share * (features.shape[3] - 1)
    pair = ordered[..., [math.floor(place), math.ceil(place)]]
    return torch.lerp(pair[..., :1], pair[..., 1:], place % 1)


def base_level(features: Tensor, kind: str, *, floor: float) -> Tensor:
    """Return the level that stands for "nothing there" in each clip.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
    kind : {"floor", "minimum", "quiet"}
        The front end's floor; the clip's own lowest cell; or, in each band, the level that 5 %
        of the frames stay below, so that removing a cell leaves the clip's own background.
    floor : float
        The front end's ``floor``.

    Returns
    -------
    Tensor, shape (batch, 1, 1, 1) or (batch, 1, bins, 1)
        In the features' unit.

    Raises
    ------
    UnknownNameError
        If the kind is unknown.
    """
    _check_features("features", features)
    return BASES[kind](features, floor)


def ideal_binary_mask(
    foreground: Tensor, background: Tensor, *, threshold_db: float = 0.0
) -> Tensor:
    """Return where the foreground is louder than the background: 1 there, 0 elsewhere.

    Parameters
    ----------
    foreground, background : Tensor, shape (batch, 1, bins, frames)
        dB features of the two parts of a clip, each analysed alone.
    threshold_db : float
        How many dB louder it must be.

    References
    ----------
    D. Wang, "On ideal binary mask as the computational goal of auditory scene analysis", 2005.
    """
    if foreground.shape != background.shape:
        raise ValueError(
            f"the foreground has shape {tuple(foreground.shape)}, the background "
            f"{tuple(background.shape)}: expected the two parts of the same clips"
        )
    return (foreground > background + threshold_db).to(foreground)


def _check_features(name: str, value: Tensor) -> None:
    if value.ndim != 4 or value.shape[1] != 1 or value.numel() == 0:
        raise ValueError(
            f"the {name} has shape {tuple(value.shape)}: expected (batch, 1, bins, frames); "
            "for one clip write value[None, None]"
        )
    if not value.is_floating_point():
        raise ValueError(f"the {name} is {value.dtype}: expected floating point")
