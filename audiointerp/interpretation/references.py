"""Reference maps to compare methods with: a floor, baselines without a network, a ceiling.

They are filed in `METHODS` beside the methods and run like them. A method that does not beat
``random`` says nothing of the network, one that does not beat ``energy`` says less than the
spectrogram; ``ideal`` is what could be reached. None of them depends on the network or on the
explained class.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from audiointerp.evaluation.truth import COUNTED_DB, Truth
from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    check_positive,
    check_whole,
    choose_target,
)
from audiointerp.interpretation.draws import clip_generator
from audiointerp.interpretation.facts import Facts
from audiointerp.masking import quiet_level
from audiointerp.processing import View

QUIET_SHARE = 0.1
"""Share of the frames that stay below a band's quiet level in `ExcessReference`."""


class Reference(Interpreter):
    """A map that is made of the clip and not of the network.

    A subclass gives `_map`. The network is only asked which class it predicts, where no target is
    given.
    """

    reference = True

    def _explain(self, view: View, target: Tensor | None, **known: Any) -> Explanation:
        chosen = self._choose(view, target)
        return Explanation(self._map(view, **known), chosen)

    @abstractmethod
    def _map(self, view: View) -> Tensor:
        """Return the maps of a checked view, of its cells' shape, dtype and device."""

    @torch.no_grad()
    def _choose(self, view: View, target: Tensor | None) -> Tensor:
        """Return the classes to explain; if given, check them on one clip."""
        if target is None:
            parts = self._in_batches(view, None)
            logits = [self.classifier.logits(part.cells, part) for part, _ in parts]
            return choose_target(torch.cat(logits), None, len(view))
        first = view[:1]
        logits = self.classifier.logits(first.cells, first)
        return choose_target(logits.expand(len(view), -1), target, len(view))


@METHODS.register("random")
class RandomReference(Reference):
    """Uniform in [0, 1) in every cell: the floor. A mask of it keeps cells at random.

    A clip's map is drawn by the seed and the clip itself: the SHA-256 of its waveform, or of its
    cells where there is no sound, both in single precision. It depends neither on the other clips
    nor on the device, which only rounds cells, and is the same for every class.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    seed : int, default 0
        Of the draws.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If the seed is no whole number of at least 0.
    """

    name = "random"
    facts = Facts(
        family="reference",
        passes="none",
        source="",
        fails="Says nothing of the sound or the network: the floor",
        class_sensitive=False,
        draws=True,
        signed=False,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.seed = check_whole("seed", seed, 0)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and its seed, ready for JSON."""
        return super().settings() | {"seed": self.seed}

    def _map(self, view: View) -> Tensor:
        shape = view.cells.shape[1:]
        generators = (clip_generator(view, clip, self.seed) for clip in range(len(view)))
        maps = [torch.rand(shape, generator=generator) for generator in generators]
        return torch.stack(maps).to(view.cells)


@METHODS.register("energy")
class EnergyReference(Reference):
    """The spectrogram itself: how far each cell lies above the front end's floor.

    In the front end's unit, so decibels of a log spectrogram; never negative. A bare network has
    no front end: there a cell counts from the clip's lowest one.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.
    """

    name = "energy"
    facts = Facts(
        family="reference",
        passes="none",
        source="",
        fails="Sees no network: loud noise counts as much as the sound",
        class_sensitive=False,
        signed=False,
    )

    def _map(self, view: View) -> Tensor:
        front_end = self.classifier.front_end
        if front_end is None:
            return view.cells - view.cells.amin((1, 2, 3), keepdim=True)
        return (view.cells - front_end.floor).clamp(min=0)


@METHODS.register("excess")
class ExcessReference(Reference):
    """Energy above each band's quiet level, the 10 % quantile of the band over time.

    A steady background counts for nothing, an event for as much as it rises above it. Negative
    where a band is quieter than that.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.
    """

    name = "excess"
    facts = Facts(
        family="reference",
        passes="none",
        source="",
        fails="Sees no network: a steady sound counts for nothing",
        class_sensitive=False,
    )

    def _map(self, view: View) -> Tensor:
        return view.cells - quiet_level(view.cells, QUIET_SHARE)


@METHODS.register("smooth_excess")
class SmoothExcessReference(ExcessReference):
    """Energy above each band's quiet level, smoothed over neighbouring cells.

    Noise fluctuates from cell to cell and events do not, so a Gaussian over the `excess` map finds
    sounds in noise better than any other map here that sees no network. The default widths
    were selected on fold 4 of ESC-10; see ``docs/truth.md``.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    bins, frames : float, default 1 and 2
        Standard deviations of the Gaussian over frequency and over time, in cells; 0 for none.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If a width is negative or not finite.
    """

    name = "smooth_excess"
    facts = Facts(
        family="reference",
        passes="none",
        source="",
        fails="Sees no network: a steady sound counts for nothing, and every event for as much as "
        "it is loud, of whatever class",
        class_sensitive=False,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        bins: float = 1.0,
        frames: float = 2.0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.bins = check_positive("bins", bins, zero=True)
        self.frames = check_positive("frames", frames, zero=True)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and the Gaussian's widths, ready for JSON."""
        return super().settings() | {"bins": self.bins, "frames": self.frames}

    def _map(self, view: View) -> Tensor:
        smoothed = _smooth(super()._map(view).mT, self.bins).mT
        return _smooth(smoothed, self.frames)


def _smooth(values: Tensor, width: float) -> Tensor:
    """Return values smoothed along their last axis by a Gaussian, the ends repeated."""
    reach = math.ceil(4 * width)
    if not reach:
        return values
    steps = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    weights = torch.exp(-0.5 * (steps / width) ** 2)
    padded = pad(values, (reach, reach, 0, 0), mode="replicate")
    # By shifts rather than a convolution: exact in every precision setting.
    size = values.shape[-1]
    shifted = (
        weight * padded[..., place : place + size] for place, weight in enumerate(weights.unbind())
    )
    return sum(shifted, torch.zeros_like(values)) / weights.sum()


@METHODS.register("edge")
class EdgeReference(Reference):
    """Sobel magnitude over time and frequency: an edge detector, which sees no network.

    It looks like an explanation and is none: a method whose maps stay as they are when the
    network's weights are randomised is not told apart from it (`audiointerp.check_sanity`).

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 5.
    """

    name = "edge"
    facts = Facts(
        family="reference",
        passes="none",
        source="Adebayo et al., NeurIPS 2018",
        fails="Sees no network: every onset and band edge counts, of noise too",
        class_sensitive=False,
        signed=False,
    )

    def _map(self, view: View) -> Tensor:
        # By shifts rather than a convolution: exact in every precision setting.
        cells = pad(view.cells, (1, 1, 1, 1), mode="replicate")
        rows = cells[..., :-2, :] + 2 * cells[..., 1:-1, :] + cells[..., 2:, :]
        columns = cells[..., :-2] + 2 * cells[..., 1:-1] + cells[..., 2:]
        over_time = rows[..., 2:] - rows[..., :-2]
        over_frequency = columns[..., 2:, :] - columns[..., :-2, :]
        return torch.hypot(over_time, over_frequency)


@METHODS.register("ideal")
class IdealReference(Reference):
    """The ceiling: positive exactly where the foreground is louder, ordered by what a cell gains.

    With f² and n² the power of foreground and background in a cell, a mask that keeps the cell
    errs by n² and one that removes it by f². The K cells of the highest f² - n² are therefore the
    K cells whose masked clip is nearest to the clean foreground (phases apart): they are what a
    ``topK`` mask of this map keeps. Cells that are not counted (`Truth.counted`), where there is
    as good as nothing, neither gain nor lose and are 0: a mask that is larger than the foreground
    takes silence before it takes background. All orders with the foreground first agree on the
    metrics of localisation.

    The values are ±10·log10(1 + 10⁶·|f² - n²| / p), p the power of the loudest cell of either part:
    about decibels above the level from which on cells are counted.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        In `explain`, if the parts of the clips are not given.

    References
    ----------
    D. Wang, "On ideal binary mask as the computational goal of auditory scene analysis", 2005.
    """

    name = "ideal"
    facts = Facts(
        family="reference",
        passes="none",
        source="Wang, 2005",
        fails="Sees no network, which may use only some of the foreground or what is not of it",
        class_sensitive=False,
    )
    requires = frozenset({"truth"})

    def _map(self, view: View, truth: Truth) -> Tensor:
        if truth.foreground.cells.shape != view.cells.shape:
            raise ValueError(
                f"the truth has cells of shape {tuple(truth.foreground.cells.shape)}, the clips "
                f"{tuple(view.cells.shape)}: expected the parts of the same clips"
            )
        advantage = truth.advantage_db
        louder = torch.maximum(truth.foreground.cells, truth.background.cells)
        peak = louder.amax((1, 2, 3), keepdim=True)
        # |f² - n²| / p is the share of the louder part, less what the other one takes off it.
        share = torch.pow(10.0, (louder - peak) / 10) if truth.log else louder / peak
        share = share * -torch.expm1(-advantage.abs() * (math.log(10) / 10))
        level = torch.log1p(share * 10 ** (COUNTED_DB / 10)) * (10 / math.log(10))
        gain = torch.copysign(level, advantage)
        return torch.where(truth.counted, gain, torch.zeros_like(gain)).to(view.cells)
