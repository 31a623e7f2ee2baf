"""RISE: the class's probability under random smooth masks of the plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.interpretation.base import METHODS, check_whole
from audiointerp.interpretation.baseline import Base
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.game import Game, Output, Request
from audiointerp.interpretation.hidden import Filling, Mix
from audiointerp.interpretation.perturbation import PerturbationInterpreter
from audiointerp.processing import View


class SmoothMasks:
    """Random masks of a plane: coarse grids of zeros and ones, enlarged bilinearly and shifted.

    A grid of h × w points is enlarged to (h + 1)·⌈F/h⌉ × (w + 1)·⌈T/w⌉ cells, of which F × T are
    cut out at a random offset of less than ⌈F/h⌉ × ⌈T/w⌉.

    Parameters
    ----------
    count : int
        Masks.
    grid : tuple of int
        h and w.
    shape : tuple of int
        F and T, bins and frames.
    keep : float
        Probability that a point of a grid is 1.
    seed : int
    """

    def __init__(
        self, count: int, grid: tuple[int, int], shape: tuple[int, int], keep: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.shape = shape
        self.step = tuple(-(-cells // points) for cells, points in zip(shape, grid, strict=True))
        self.size = tuple((points + 1) * step for points, step in zip(grid, self.step, strict=True))
        self.grids = (torch.rand(count, 1, *grid, generator=generator) < keep).float()
        self.offsets = torch.stack(
            [torch.randint(step, (count,), generator=generator) for step in self.step], 1
        )

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.grids)

    def masks(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Return some of the masks, (stop - start, 1, F, T), of a tensor's dtype and device."""
        large = nn.functional.interpolate(
            self.grids[start:stop].to(like.device), size=self.size, mode="bilinear"
        )
        parts = [
            mask[:, row : row + self.shape[0], column : column + self.shape[1]]
            for mask, (row, column) in zip(large, self.offsets[start:stop].tolist(), strict=True)
        ]
        return torch.stack(parts).to(like.dtype)


@METHODS.register("rise")
class RISEInterpreter(PerturbationInterpreter):
    """RISE: which cells are kept when the class's probability is high.

    With p_i the probability of the class under the mask M_i of n, the map is Σ (p_i - p̄) M_i / Σ
    M_i: how much higher the probability is where a cell is kept. The paper's Σ p_i M_i / (n·keep),
    without the mean p̄, is positive everywhere and orders cells in the same way, but for the chance
    by which some are kept more often than others.

    A mask multiplies the difference of the cells to the base, in the cells' unit. The diagnostic of
    `explain` is ``"samples"``, the number of versions.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    num_samples : int, default 1000
        Masks; the paper takes 4000 and more.
    grid : tuple of int, default (7, 7)
        Points of the coarse grids over frequency and time, at most as many as there are cells.
    keep : float, default 0.5
        Probability that a point keeps the cells around it.
    centred : bool, default True
        Whether the mean probability is taken off; False for the paper's map.
    hide : {"base"} or Filling, default "base"
        What hidden cells become; see `audiointerp.interpretation.hidden`.
    base : float or callable, default -100.0
        The masking base in the features' unit; see `audiointerp.interpretation.baseline.Base`.
    output : {"probability", "logit"}, default "probability"
        What is averaged.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    seed : int, default 0
        For the masks, which are the same for all clips of a size.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the versions.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown.

    References
    ----------
    V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", BMVC 2018.
    """

    name = "rise"
    mix: ClassVar[Mix] = "cells"
    facts = Facts(
        family="perturbation",
        passes="1001 forward",
        source="Petsiuk et al., BMVC 2018",
        fails="Noisy with few masks, and blurred by the width of the grid",
        draws=True,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        num_samples: int = 1000,
        grid: tuple[int, int] = (7, 7),
        keep: float = 0.5,
        centred: bool = True,
        hide: str | Filling = "base",
        base: Base = -100.0,
        output: Output = "probability",
        batch_size: int | None = None,
        seed: int = 0,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
        self._check_needs_no_parts()
        self._check_soft(f"{self.name} hides cells in part")
        self.num_samples = check_whole("num_samples", num_samples, 2)
        self.seed = check_whole("seed", seed, 0)
        if not isinstance(grid, tuple | list) or len(grid) != 2:
            raise ValueError(f"grid must be a pair of numbers of points, got {grid!r}")
        self.grid = tuple(check_whole("grid", points, 1) for points in grid)
        if not 0 < keep < 1:
            raise ValueError(f"keep must be a probability between 0 and 1, got {keep!r}")
        self.keep = float(keep)
        self.centred = bool(centred)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {
            "num_samples": self.num_samples,
            "grid": list(self.grid),
            "keep": self.keep,
            "centred": self.centred,
            "seed": self.seed,
        }

    def _maps(self, game: Game, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        masks = self._masks(tuple(view.cells.shape[2:]))
        total = len(masks) * len(view)
        values = torch.stack(game.values(self._requests(view, masks), total=total))
        if self.centred:
            values = values - values.mean(1, keepdim=True)
        sums = values.new_zeros(len(view), *view.cells.shape[2:])
        weight = torch.zeros_like(sums[0])
        for start in range(0, len(masks), self._rows(view.cells)):
            stop = min(start + self._rows(view.cells), len(masks))
            part = to_double(masks.masks(start, stop, view.cells))[:, 0]
            sums += torch.einsum("bn,nft->bft", values[:, start:stop], part)
            weight += part.sum(0)
        # The paper divides by what a cell's mask is expected to be, which is its mean but for
        # chance; the centred map divides by the mean, so that a cell that does not matter is 0.
        least = torch.finfo(weight.dtype).tiny
        maps = sums / (weight.clamp(min=least) if self.centred else len(masks) * self.keep)
        samples = torch.full((len(view),), len(masks), device=view.cells.device)
        return maps[:, None].to(view.cells), {"samples": samples}

    def _masks(self, shape: tuple[int, int]) -> SmoothMasks:
        grid = tuple(min(points, cells) for points, cells in zip(self.grid, shape, strict=True))
        return SmoothMasks(self.num_samples, grid, shape, self.keep, self.seed)

    def _requests(self, view: View, masks: SmoothMasks) -> Iterator[Request]:
        mix = self._mixing(self.mix)
        for number, cells in enumerate(view.cells):
            level = self.filling.level(cells, None, self.base)
            yield Request(
                number,
                len(masks),
                lambda start, stop, cells=cells, level=level: self.filling.fill(
                    cells, masks.masks(start, stop, cells), level, mix
                ),
            )


Over = Literal["time-frequency", "frequency"]
_OVER: tuple[Over, ...] = ("time-frequency", "frequency")


@METHODS.register("freqrise")
class FreqRISEInterpreter(RISEInterpreter):
    """FreqRISE: RISE with masks that multiply the amplitude of the sound.

    As the masks of an STFT do, and unlike `RISEInterpreter`, whose masks multiply decibels. The map
    is that of `RISEInterpreter`. A bare network has no unit: there the cells are masked.

    Masks over frequency keep or hide whole bins; the map is then the same in all frames.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    over : {"time-frequency", "frequency"}, default "time-frequency"
        What the masks change with.
    num_samples : int, default 1000
        Masks; the paper takes 3000 and more.
    grid : tuple of int, default (25, 25)
        Points of the coarse grids over frequency and time, at most as many as there are cells. Over
        frequency only the first one counts.
    keep, centred, hide, base, output, batch_size, seed, fold_batch_norm, progress
        See `RISEInterpreter`.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown.

    References
    ----------
    T. Brüsch et al., "FreqRISE: Explaining Time Series Using Frequency Masking", NLDL 2025.
    """

    name = "freqrise"
    mix = "amplitude"
    facts = Facts(
        family="perturbation",
        passes="1001 forward",
        source="Brüsch et al., NLDL 2025",
        fails="Noisy with few masks, and blurred by the width of the grid",
        draws=True,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        over: Over = "time-frequency",
        num_samples: int = 1000,
        grid: tuple[int, int] = (25, 25),
        keep: float = 0.5,
        centred: bool = True,
        hide: str | Filling = "base",
        base: Base = -100.0,
        output: Output = "probability",
        batch_size: int | None = None,
        seed: int = 0,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            num_samples=num_samples,
            grid=grid,
            keep=keep,
            centred=centred,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            seed=seed,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
        if over not in _OVER:
            raise ValueError(f"over must be {' or '.join(map(repr, _OVER))}, got {over!r}")
        self.over = over

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {"over": self.over}

    def _masks(self, shape: tuple[int, int]) -> SmoothMasks:
        if self.over == "time-frequency":
            return super()._masks(shape)
        grid = (min(self.grid[0], shape[0]), 1)
        return SmoothMasks(self.num_samples, grid, shape, self.keep, self.seed)
