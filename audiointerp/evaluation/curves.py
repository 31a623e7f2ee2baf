"""Insertion and deletion curves: class probability while cells are added or removed in order.

Cells follow each other in the order of the map, the highest first, equal ones by position, as in
the top-K masks: a share of 30 % keeps the very cells that ``topK_30`` does. Hidden cells become
the masking base or what their neighbours suggest; see `audiointerp.hiding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from audiointerp.evaluation.record import METRICS, Evidence, Metric
from audiointerp.hiding import HIDINGS
from audiointerp.registry import Registry

FAMILY = "curves"
STEPS = 20
"""Steps of a curve; each is as many cells as the others."""
ROAD_SHARES = (0.2, 0.4, 0.6, 0.8)
"""Shares of the cells that are hidden for ``ROAD``."""
_CELLS_AT_ONCE = 2**24
"""Of masked versions that are made before they are scored; results do not depend on it."""

CURVES: Registry[str] = Registry("curve")
CURVES["insertion"] = "cells are added to nothing, those that speak most for the class first"
CURVES["deletion"] = "cells are taken away, those that speak most for the class first"


def masking_curves(
    evidence: Evidence,
    curves: Sequence[str] = ("insertion", "deletion"),
    *,
    hide: str = "base",
    steps: int = STEPS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the probability of the explained class along insertion and deletion.

    Every distinct masked version is scored once: nothing kept, where both curves end, and the
    whole clip, whose probabilities are known.

    Parameters
    ----------
    evidence : Evidence
        With ``attribution``, ``view``, ``level`` and ``score``.
    curves : sequence of {"insertion", "deletion"}
        Insertion keeps the highest cells, deletion removes them.
    hide : {"base", "road"}
        What hidden cells become; see `audiointerp.hiding.HIDINGS`.
    steps : int
        From nothing to everything.

    Returns
    -------
    shares : Tensor of float64, shape (steps + 1,)
        From 0 to 1: what is kept along insertion, and what is removed along deletion.
    probabilities : dict of str to Tensor of float64, shape (batch, steps + 1)
        By curve.

    Raises
    ------
    UnknownNameError
        If there is no such curve or way to hide cells.
    ValueError
        If there are fewer steps than one, or more than cells.

    References
    ----------
    V. Petsiuk, A. Das, K. Saenko, "RISE: randomized input sampling for explanation of black-box
    models", BMVC 2018.
    """
    for name in curves:
        CURVES[name]
    cells = evidence.attribution[0].numel()
    if not 1 <= steps <= cells:
        raise ValueError(f"{steps} steps of {cells} cells: expected 1 to {cells}")
    # As many cells as a top-K mask of that share keeps, ⌈share·cells⌉, in whole numbers.
    counts = torch.tensor([-(-step * cells // steps) for step in range(steps + 1)])
    inner = counts[1:-1].tolist()
    wanted = [(count, name == "insertion") for name in curves for count in inner]
    batch = len(evidence.target)
    found = _class_probabilities(evidence, [*wanted, (0, True)], hide)
    nothing, whole = found[:, -1:], _of_class(evidence.before, evidence.target)[:, None]
    parts = found[:, :-1].reshape(batch, len(curves), len(inner)).unbind(1)
    ends = {"insertion": (nothing, whole), "deletion": (whole, nothing)}
    values = {
        name: torch.cat([ends[name][0], part, ends[name][1]], dim=1)
        for name, part in zip(curves, parts, strict=True)
    }
    return counts.double() / cells, values


def area(shares: Tensor, probabilities: Tensor) -> Tensor:
    """Return the area below curves, by the trapezoidal rule.

    Parameters
    ----------
    shares : Tensor, shape (points,)
        From 0 to 1.
    probabilities : Tensor, shape (batch, points)

    Returns
    -------
    Tensor, shape (batch,)
        In [0, 1]: the mean probability along the curve.
    """
    return torch.trapezoid(probabilities, shares.to(probabilities), dim=1)


def road(evidence: Evidence, shares: Sequence[float] = ROAD_SHARES) -> Tensor:
    """ROAD: half of what removing the highest cells costs beyond removing the lowest ones.

    Mean over some shares r of (p_c(lowest r removed) - p_c(highest r removed)) / 2, with removed
    cells imputed from their neighbours, so that neither holes nor their shape give the class away.

    Parameters
    ----------
    evidence : Evidence
        With ``attribution``, ``view``, ``level`` and ``score``.
    shares : sequence of float
        Of the cells to remove, each between 0 and 1.

    Returns
    -------
    Tensor of float64, shape (batch,)
        In [-0.5, 0.5]; about 0 for a map that says nothing.

    Raises
    ------
    ValueError
        If a share is not between 0 and 1.

    References
    ----------
    Y. Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML
    2022; combined as in J. Gildenblat's grad-cam library (``ROADCombined``).
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"the shares to remove are {tuple(shares)}: expected some between 0 and 1")
    cells = evidence.attribution[0].numel()
    counts = [round(share * cells) for share in shares]
    least = [(cells - count, True) for count in counts]
    most = [(count, False) for count in counts]
    found = _class_probabilities(evidence, [*least, *most], "road")
    kept, removed = found.chunk(2, dim=1)
    return (kept - removed).mean(1) / 2


def _class_probabilities(
    evidence: Evidence, wanted: Sequence[tuple[int, bool]], hide: str
) -> Tensor:
    """Return p_c of masked versions of each clip, float64 (batch, versions).

    A version is a count of the highest cells, and whether these are kept or what is not among them.
    """
    hiding = HIDINGS[hide]
    features, batch = evidence.view.cells, len(evidence.target)
    ranks = evidence.once("ranks of cells", lambda: _ranks(evidence.attribution))
    level = evidence.level.expand(batch, *evidence.level.shape[1:])
    size = max(1, _CELLS_AT_ONCE // features[0].numel())
    pairs = list(product(range(batch), wanted))
    found = []
    for start in range(0, len(pairs), size):
        rows, versions = zip(*pairs[start : start + size], strict=True)
        counts, inside = (torch.tensor(each) for each in zip(*versions, strict=True))
        row = torch.tensor(rows)
        where = row.to(features.device)
        counts, inside = (
            each.to(features.device)[:, None, None, None] for each in (counts, inside)
        )
        keep = (ranks[where] < counts) == inside
        cells = hiding(features[where], keep, level[where])
        found.append(
            _of_class(evidence.score(cells, row), evidence.target[row.to(evidence.target.device)])
        )
    return torch.cat(found).reshape(batch, len(wanted))


def _ranks(attribution: Tensor) -> Tensor:
    """Return each cell's place from the highest on, (batch, 1, bins, frames); ties by position."""
    order = attribution.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(attribution)


def _of_class(probabilities: Tensor, target: Tensor) -> Tensor:
    return probabilities.gather(1, target[:, None].to(probabilities.device))[:, 0]


_NEEDS = frozenset({"attribution", "view", "level", "score"})


def _area_of(name: str) -> Callable[[Evidence], Tensor]:
    def compute(evidence: Evidence) -> Tensor:
        shares, curves = evidence.once("curves", lambda: masking_curves(evidence))
        return area(shares, curves[name])

    return compute


METRICS["insertion"] = Metric(
    "insertion",
    title="insertion",
    meaning="mean probability of the explained class while the cells are added to the masking "
    "base, the highest of the map first",
    unit="",
    decimals=3,
    clip_decimals=3,
    better=1,
    bounds=lambda cells: (0.0, 1.0),
    family=FAMILY,
    level="map",
    needs=_NEEDS,
    compute=_area_of("insertion"),
    on_request=True,
)
METRICS["deletion"] = Metric(
    "deletion",
    title="deletion",
    meaning="mean probability of the explained class while the cells are replaced by the masking "
    "base, the highest of the map first",
    unit="",
    decimals=3,
    clip_decimals=3,
    better=-1,
    bounds=lambda cells: (0.0, 1.0),
    family=FAMILY,
    level="map",
    needs=_NEEDS,
    compute=_area_of("deletion"),
    on_request=True,
)
METRICS["ROAD"] = Metric(
    "ROAD",
    title="remove and debias",
    meaning="half of what removing the highest cells of the map costs the explained class beyond "
    "removing the lowest ones, with removed cells imputed from their neighbours",
    unit="",
    decimals=3,
    clip_decimals=3,
    better=1,
    bounds=lambda cells: (-0.5, 0.5),
    family=FAMILY,
    level="map",
    needs=_NEEDS,
    compute=road,
    on_request=True,
)
