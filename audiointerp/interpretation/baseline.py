"""Baselines of methods that need a level for cells without content."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Base = float | Callable[[Tensor], Tensor]
"""A masking base: a level in the cells' unit, or a function of cells (batch, 1, freq, time) that
returns a Tensor which broadcasts to them, such as a partial of `audiointerp.masking.base_level`."""


def check_base(base: Base) -> Base:
    """Return a base.

    Raises
    ------
    ValueError
        If it is neither a function nor a finite number.
    """
    if not callable(base) and not math.isfinite(base):
        raise ValueError(f"base must be a finite number or a function, got {base!r}")
    return base


def base_cells(base: Base, cells: Tensor) -> Tensor:
    """Return what every cell becomes where there is nothing.

    Parameters
    ----------
    base : float or callable
        See `Base`.
    cells : Tensor, shape (batch, 1, freq, time)

    Returns
    -------
    Tensor, shape (batch, 1, freq, time)
        Of the cells' dtype and device; an expanded view that must not be written to.

    Raises
    ------
    ValueError
        If what the function returns does not broadcast to the cells.
    """
    level = base(cells) if callable(base) else base
    level = torch.as_tensor(level, dtype=cells.dtype, device=cells.device)
    try:
        return level.expand(cells.shape)
    except RuntimeError:
        raise ValueError(
            f"the base must broadcast to {tuple(cells.shape)}, got {tuple(level.shape)}"
        ) from None


def describe(setting: Any) -> Any:
    """Return a setting ready for JSON: a number as it is, a function by its name and settings."""
    if isinstance(setting, partial):
        keywords = {key: describe(value) for key, value in setting.keywords.items()}
        arguments = [describe(value) for value in setting.args]
        return {"name": describe(setting.func), "arguments": arguments, **keywords}
    if is_dataclass(setting):
        return {"name": type(setting).__name__.lower(), **asdict(setting)}
    if callable(setting):
        return getattr(setting, "__qualname__", type(setting).__qualname__)
    return setting if isinstance(setting, str | int | float) else str(setting)
