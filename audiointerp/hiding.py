"""Ways to hide cells: put a base there, or what the neighbouring cells suggest.

A masking base is a level that a clip has whatever is hidden; imputation depends on which cells
remain. A new way is one function under ``HIDINGS.register``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from audiointerp.device import to_double
from audiointerp.registry import Registry

HIDINGS: Registry[Callable[[Tensor, Tensor, Tensor], Tensor]] = Registry("way to hide cells")
"""``hide(features, keep, level)``: the features with the cells that are not kept replaced."""

NOISE = 0.01
"""Standard deviation of the noise on imputed cells, as a share of the clip's own."""
_STRAIGHT, _DIAGONAL = 1 / 6, 1 / 12
"""Weights of a cell's neighbours: of those beside, above and below it, and of the others."""


@HIDINGS.register("base")
def hide_by_base(features: Tensor, keep: Tensor, level: Tensor) -> Tensor:
    """Return the features with a base where they are not kept.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
    keep : Tensor of bool, same shape
    level : Tensor, broadcastable to the features
        See `audiointerp.masking.base_level`.
    """
    return torch.where(keep, features, level.to(features))


@HIDINGS.register("road")
def hide_by_neighbours(features: Tensor, keep: Tensor, level: Tensor) -> Tensor:
    """Return the features with noisy linear imputation where they are not kept.

    As `impute`, with noise of a hundredth of the clip's standard deviation. Without it a network
    could tell imputed cells, which are smooth, from others, and with them the mask's shape.

    Parameters and returns as `hide_by_base`; the level is used for clips of which nothing is kept.

    References
    ----------
    Y. Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML
    2022 (remove and debias, ROAD).
    """
    return impute(features, keep, level, noise=NOISE, tolerance=NOISE / 1000)


@torch.no_grad()
def impute(
    features: Tensor,
    keep: Tensor,
    level: Tensor,
    *,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float = 1e-8,
) -> Tensor:
    """Replace cells by the weighted mean of their neighbours, which may be replaced ones.

    Each hidden cell is the mean of its up to eight neighbours, those on its sides weighted by 1/6,
    the diagonal ones by 1/12; beyond the edges there are none. The linear system of all hidden
    cells is solved by conjugate gradients in double precision, every clip by itself.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
    keep : Tensor of bool, same shape
        Cells that stay as they are, bit for bit.
    level : Tensor, broadcastable to the features
        What the cells become of a clip that keeps none: there is nothing to derive them from.
    noise : float
        Standard deviation of the Gaussian noise on imputed cells, as a share of the standard
        deviation of the clip's cells.
    seed : int
        Of the noise, which is drawn on the CPU and is the same for all clips up to its scale.
    tolerance : float
        Residual of the system, relative to its right side, at which it counts as solved.

    Returns
    -------
    Tensor, shape (batch, 1, bins, frames)
        Of the features' dtype and device.

    Warns
    -----
    UserWarning
        If the system is not solved to the tolerance.
    """
    values = to_double(features)
    kept = keep.to(values.device)
    hidden = ~kept
    some = kept.flatten(1).any(1)
    wanted = hidden & some[:, None, None, None]
    # One clip stays in a processor's cache, a GPU is filled by many.
    rows = 1 if values.device.type == "cpu" else len(values)
    parts = zip(values.split(rows), wanted.split(rows), strict=True)
    filled = torch.cat([_solve(*part, tolerance) for part in parts])
    if noise:
        drawn = torch.randn(features.shape[1:], generator=torch.Generator().manual_seed(seed))
        spread = values.flatten(1).std(1, correction=0)[:, None, None, None]
        filled = filled + noise * spread * drawn.to(values)
    empty = torch.where(some[:, None, None, None], filled, to_double(level))
    return torch.where(keep, features, empty.to(features))


def _solve(values: Tensor, hidden: Tensor, tolerance: float) -> Tensor:
    """Return the values with the hidden ones solved for, in double precision."""
    where = hidden.to(values)
    known = torch.where(hidden, 0, values)
    counts = _of_neighbours(torch.ones_like(values[:1]))
    # (counts - neighbours) x = neighbours of what is known: symmetric and positive definite. The
    # mean of what is known is where the search starts.
    right = _of_neighbours(known).mul_(where)
    size = (~hidden).flatten(1).sum(1)[:, None, None, None]
    x = where * (known.sum((1, 2, 3), keepdim=True) / size.clamp(min=1))

    def apply(cells: Tensor) -> Tensor:
        return (counts * cells).sub_(_of_neighbours(cells)).mul_(where)

    residual = right - apply(x)
    # Scaled by the diagonal, which is less than 1 at the edges.
    direction = residual / counts
    product = _dot(residual, direction)
    goal = (tolerance**2 * _dot(right, right)).clamp(min=torch.finfo(values.dtype).tiny)
    for _ in range(10 * (values.shape[2] + values.shape[3])):
        # A clip that is done stays as it is, so that no clip depends on another.
        running = _dot(residual, residual) > goal
        if not running.any():
            break
        image = apply(direction)
        step = torch.where(running, product / _dot(direction, image), 0)
        x.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        scaled = residual / counts
        before, product = product, torch.where(running, _dot(residual, scaled), product)
        direction = torch.where(running, torch.addcmul(scaled, product / before, direction), 0)
    else:
        warnings.warn(
            "imputed cells miss the mean of their neighbours by more than the tolerance "
            f"{tolerance:g}: the iterations were not enough",
            stacklevel=3,
        )
    return torch.where(hidden, x, values)


def _of_neighbours(cells: Tensor) -> Tensor:
    """Return the weighted sum of each cell's neighbours, as many as there are."""
    beside = torch.zeros_like(cells)
    beside[..., 1:] += cells[..., :-1]
    beside[..., :-1] += cells[..., 1:]
    row = _STRAIGHT * cells + _DIAGONAL * beside
    found = _STRAIGHT * beside
    found[..., 1:, :] += row[..., :-1, :]
    found[..., :-1, :] += row[..., 1:, :]
    return found


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((1, 2, 3), keepdim=True)
