"""Fillings: what replaces hidden parts of a clip in perturbation methods, by name in `FILLINGS`.

A new way is a subclass of `Filling` under ``FILLINGS.register``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from audiointerp.hiding import hide_by_base, hide_by_neighbours
from audiointerp.interpretation.base import as_view, check_features, check_whole
from audiointerp.interpretation.baseline import Base, base_cells
from audiointerp.interpretation.parts import Parts
from audiointerp.masking import DOMAINS
from audiointerp.processing import View
from audiointerp.registry import Registry

Mix = Literal["cells", "amplitude"]
"""What is mixed where cells are kept in part: the cells, or the amplitude of the sound."""


class Filling(ABC):
    """What hidden parts become.

    Attributes
    ----------
    soft : bool
        Whether cells can be hidden in part.
    needs_parts : bool
        Whether it depends on the parts, so that a method without segments cannot use it.
    """

    soft: ClassVar[bool] = True
    needs_parts: ClassVar[bool] = False

    @abstractmethod
    def level(self, clip: Tensor, parts: Parts | None, base: Base) -> Tensor:
        """Return what cells become where they are hidden, (1, freq, time).

        Parameters
        ----------
        clip : Tensor, shape (1, freq, time)
        parts : Parts or None
            None for a method without segments.
        base : float or callable
            The masking base; see `audiointerp.interpretation.baseline.Base`.
        """

    def fill(self, clip: Tensor, keep: Tensor, level: Tensor, mix: Mixing) -> Tensor:
        """Return versions of a clip, (rows, 1, freq, time).

        Parameters
        ----------
        clip : Tensor, shape (1, freq, time)
        keep : Tensor, shape (rows, 1, freq, time)
            Bool, or floating in [0, 1] where cells are hidden in part.
        level : Tensor, shape (1, freq, time)
            See `level`.
        mix : callable
            See `mixing`.
        """
        if keep.dtype is torch.bool:
            return hide_by_base(clip, keep, level)
        return mix(clip, level, keep.to(clip))

    @abstractmethod
    def settings(self) -> Any:
        """Return all that changes a number, ready for JSON: the name where there is no more."""


FILLINGS: Registry[Callable[[], Filling]] = Registry("filling of hidden parts")


@FILLINGS.register("base")
class BaseFilling(Filling):
    """The masking base, as in the metrics."""

    def level(self, clip: Tensor, parts: Parts | None, base: Base) -> Tensor:
        """Return the base's cells; see `Filling.level`."""
        return base_cells(base, clip[None])[0]

    def settings(self) -> str:
        """Return the name."""
        return "base"


@FILLINGS.register("mean")
class MeanFilling(Filling):
    """Each part's own mean."""

    needs_parts = True

    def level(self, clip: Tensor, parts: Parts | None, base: Base) -> Tensor:
        """Return the means of the parts; see `Filling.level`."""
        return parts.means(clip)

    def settings(self) -> str:
        """Return the name."""
        return "mean"


@FILLINGS.register("road")
class NeighbourFilling(Filling):
    """What the neighbouring cells that are kept suggest, with faint noise.

    See `audiointerp.hiding.hide_by_neighbours`. Where nothing is kept, the base. A linear system
    is solved for every version, which takes longer than a small network.
    """

    soft = False

    def level(self, clip: Tensor, parts: Parts | None, base: Base) -> Tensor:
        """Return the base's cells; see `Filling.level`."""
        return base_cells(base, clip[None])[0]

    def fill(self, clip: Tensor, keep: Tensor, level: Tensor, mix: Mixing) -> Tensor:
        """Return versions of a clip; see `Filling.fill`."""
        return hide_by_neighbours(clip.expand(keep.shape), keep, level)

    def settings(self) -> str:
        """Return the name."""
        return "road"


class BackgroundFilling(Filling):
    """The same cells of a background clip.

    Parameters
    ----------
    background : Tensor, shape (count, 1, freq, time), or View
        In the front end's unit, of the clips' size.
    seed : int, default 0
        Chooses one of the clips, for all clips that are explained.

    Raises
    ------
    ValueError
        If the background is no batch of finite cells, or the seed is negative.
    """

    def __init__(self, background: Tensor | View, *, seed: int = 0) -> None:
        cells = as_view(background).cells
        check_features(cells, "background")
        self.seed = check_whole("seed", seed, 0)
        generator = torch.Generator().manual_seed(seed)
        chosen = int(torch.randint(len(cells), (1,), generator=generator))
        self.cells = cells[chosen].detach().clone()

    def level(self, clip: Tensor, parts: Parts | None, base: Base) -> Tensor:
        """Return the background clip; see `Filling.level`."""
        if self.cells.shape != clip.shape:
            raise ValueError(
                f"the background has clips of shape {tuple(self.cells.shape)}, the clip "
                f"{tuple(clip.shape)}: expected the same"
            )
        return self.cells.to(clip)

    def settings(self) -> dict[str, Any]:
        """Return the name and the SHA-256 of the chosen clip's values."""
        values = self.cells.cpu().contiguous().view(torch.uint8).numpy()
        return {"name": "background", "sha256": hashlib.sha256(values.tobytes()).hexdigest()}


def as_filling(hide: str | Filling) -> Filling:
    """Return what hidden parts become: by a name in `FILLINGS`, or as given.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(hide, Filling):
        return hide
    if not isinstance(hide, str) or hide not in FILLINGS:
        names = " or ".join(map(repr, FILLINGS))
        raise ValueError(f"hide must be {names}, or a Filling, got {hide!r}")
    return FILLINGS[hide]()


Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]


def mixing(mix: Mix, unit: str | None) -> Mixing:
    """Return the function of clip, level and share that mixes cells that are kept in part.

    Parameters
    ----------
    mix : {"cells", "amplitude"}
        "cells" goes from the level to the clip in the cells' own unit, as masks do. "amplitude"
        multiplies the amplitude of the sound: a share m leaves m² of the power.
    unit : str or None
        "dB" or "power"; of a bare network it is not known, and the cells are mixed.
    """
    if mix == "cells" or unit is None:
        return _mix_cells
    domain = DOMAINS["power" if unit == "dB" else "feature"]
    return lambda clip, level, share: domain(
        clip.expand_as(share), level.expand_as(share), share.square()
    )


def _mix_cells(clip: Tensor, level: Tensor, share: Tensor) -> Tensor:
    return DOMAINS["feature"](clip.expand_as(share), level.expand_as(share), share)
