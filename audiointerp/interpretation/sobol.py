"""Sobol indices: the share of each part in the variance of the class probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from audiointerp.interpretation.base import METHODS
from audiointerp.interpretation.baseline import Base
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.game import Output
from audiointerp.interpretation.hidden import Filling
from audiointerp.interpretation.perturbation import Estimate, Estimator, SegmentInterpreter
from audiointerp.interpretation.segmentation import ClipSegmentation, Grid, Segmentation

_GRID = Grid(8, 8)


@dataclass(frozen=True)
class Sobol(Estimator):
    """Total Sobol indices by Jansen's estimator on a quasi-random design.

    How far each part is kept is uniform in [0, 1]. With the rows A and B of a scrambled Sobol
    sequence of twice as many dimensions as there are parts, and C_i equal to A but for part i,
    which is B's, the index of part i is mean (v(A) - v(C_i))² / (2 Var v), the variance over A and
    B.

    Parameters
    ----------
    num_designs : int, default 32
        Rows of A, a power of two; they take num_designs·(S + 2) versions of a clip of S parts.
    seed : int, default 0
        For the scrambling.

    References
    ----------
    See `SobolInterpreter`.
    """

    num_designs: int = 32
    seed: int = 0

    soft = True

    def __post_init__(self) -> None:
        self._check_whole("num_designs", 2)
        self._check_whole("seed", 0)
        if self.num_designs & (self.num_designs - 1):
            raise ValueError(
                f"num_designs must be a power of two, as Sobol sequences are balanced, got "
                f"{self.num_designs}"
            )

    def design(self, parts: int, number: int = 0) -> Tensor:
        """Return how far each version keeps each part: the rows of A, B, C_1, C_2 and so on."""
        if 2 * parts > SobolEngine.MAXDIM:
            raise ValueError(
                f"there are Sobol sequences for {SobolEngine.MAXDIM // 2} parts at most, got "
                f"{parts}: take a coarser segmentation"
            )
        engine = SobolEngine(2 * parts, scramble=True, seed=self.seed)
        first, second = engine.draw(self.num_designs, dtype=torch.float64).split(parts, dim=1)
        mixed = first.repeat(parts, 1, 1)
        place = torch.arange(parts)
        mixed[place, :, place] = second.T
        return torch.cat([first, second, mixed.flatten(0, 1)])

    def estimate(self, kept: Sequence[Tensor], values: Sequence[Tensor]) -> Estimate:
        """Return the total indices, 0 where the value does not vary."""
        found = []
        for value in values:
            ends = value[: 2 * self.num_designs]
            first = value[: self.num_designs]
            mixed = value[len(ends) :].reshape(-1, self.num_designs)
            change = (first - mixed).square().mean(1)
            variance = ends.var(correction=0)
            found.append(torch.where(variance > 0, change / (2 * variance), 0))
        samples = torch.tensor([len(value) for value in values])
        return Estimate(found, {"samples": samples})


@METHODS.register("sobol")
class SobolInterpreter(SegmentInterpreter):
    """Total Sobol indices of the parts of a clip.

    A part's value is the share of the variance of the class's probability that it has a part in,
    alone or together with others, when all parts are kept to random degrees; see `Sobol`. It is not
    negative: what speaks against the class counts as what speaks for it.

    The diagnostics of `explain` are ``"segments"`` and ``"samples"``, the number of versions.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    num_designs : int, default 32
        A power of two; it takes num_designs·(S + 2) versions of a clip of S parts.
    segmentation : str or callable, default an 8 × 8 grid
        A name in `audiointerp.interpretation.segmentation.SEGMENTATIONS`, or a function; see there.
    hide : {"base", "mean"} or Filling, default "base"
        What hidden parts become; see `audiointerp.interpretation.hidden`.
    base : float or callable, default -100.0
        The masking base in the features' unit; see `audiointerp.interpretation.baseline.Base`.
    output : {"probability", "logit"}, default "probability"
        Whose variance is explained.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    seed : int, default 0
        For the scrambling of the Sobol sequence.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the versions.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a segmentation returns something else or more
        parts than there are Sobol sequences for.

    References
    ----------
    T. Fel et al., "Look at the Variance! Efficient Black-box Explanations with Sobol-based
    Sensitivity Analysis", NeurIPS 2021; M. Jansen, "Analysis of variance designs for model output",
    Computer Physics Communications 117, 1999.
    """

    name = "sobol"
    facts = Facts(
        family="perturbation",
        passes="2113 forward",
        source="Fel et al., NeurIPS 2021",
        fails="Does not tell what speaks for the class from what speaks against it",
        draws=True,
        signed=False,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        num_designs: int = 32,
        segmentation: str | Segmentation | ClipSegmentation = _GRID,
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
            Sobol(num_designs, seed),
            segmentation=segmentation,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
