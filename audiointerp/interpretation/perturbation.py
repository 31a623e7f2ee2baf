"""Perturbation methods as a composition: segmentation, filling and estimator.

A segmentation (`segmentation`) says what is hidden together, a filling (`hidden`) what it becomes,
the value function (`game`) what the model says of such versions. An `Estimator` chooses the
versions and turns their values into one for each part. A new method is an estimator and a
subclass of `SegmentInterpreter` that names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from audiointerp.device import double_device
from audiointerp.interpretation.base import Explanation, Interpreter, check_whole, choose_target
from audiointerp.interpretation.baseline import Base, check_base, describe
from audiointerp.interpretation.game import OUTPUTS, Game, Output, Request
from audiointerp.interpretation.hidden import Filling, Mix, Mixing, as_filling, mixing
from audiointerp.interpretation.parts import Parts, as_parts
from audiointerp.interpretation.segmentation import (
    ClipSegmentation,
    Segmentation,
    as_segmentation,
    clip_of,
    segment_ahead,
    segment_clip,
)
from audiointerp.processing import View
from audiointerp.speed.memory import batch_size_for


class Estimate(NamedTuple):
    """What an estimator makes of the values.

    Attributes
    ----------
    values : list of Tensor of float64, shape (parts,)
        One for each clip.
    diagnostics : dict of str to Tensor, shape (clips,)
    """

    values: list[Tensor]
    diagnostics: dict[str, Tensor]


class Estimator(ABC):
    """Chooses versions of a clip and turns their values into one for each part.

    A subclass is a frozen dataclass: its fields are the settings of the method.

    Attributes
    ----------
    soft : bool
        Whether it hides parts in part, so that its designs are not boolean.
    rounds : int
        Most times that it asks for versions.
    """

    soft: ClassVar[bool] = False
    rounds: ClassVar[int] = 1

    @abstractmethod
    def design(self, parts: int, number: int = 0) -> Tensor:
        """Return which parts the versions of a round keep, on the CPU.

        It depends on the number of parts only, so that a clip's map is the same in any batch.

        Returns
        -------
        Tensor, shape (versions, parts)
            Bool, or float64 in [0, 1].
        """

    @abstractmethod
    def estimate(self, kept: Sequence[Tensor], values: Sequence[Tensor]) -> Estimate:
        """Return each part's value for every clip.

        Parameters
        ----------
        kept : sequence of Tensor, shape (versions, parts)
            The designs of all rounds, for every clip.
        values : sequence of Tensor of float64, shape (versions,)
        """

    def samples(self) -> int | None:
        """Return the number of versions of a clip, where it does not depend on the clip."""
        return None

    def is_settled(self, kept: Tensor, values: Tensor) -> bool:
        """Say whether a clip needs no more rounds."""
        return False

    def _check_whole(self, name: str, least: int) -> None:
        object.__setattr__(self, name, check_whole(name, getattr(self, name), least))


class HiddenClip(NamedTuple):
    """A clip (1, freq, time), its parts and what they become where they are hidden."""

    cells: Tensor
    parts: Parts
    filling: Filling
    level: Tensor
    mix: Mixing

    def versions(self, kept: Tensor) -> Tensor:
        """Return the clip with only the parts that each row of (rows, parts) keeps."""
        return self.filling.fill(self.cells, self.parts.keep(kept), self.level, self.mix)


class PerturbationInterpreter(Interpreter):
    """What all perturbation methods share.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    hide : str or Filling
        What hidden cells become; see `audiointerp.interpretation.hidden.FILLINGS`.
    base : float or callable
        The masking base in the features' unit; see `audiointerp.interpretation.baseline.Base`.
    output : {"probability", "logit"}
        What is explained.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    fold_batch_norm : bool
        See `Interpreter`.
    progress : bool
        Show a bar over the versions.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown.
    """

    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        hide: str | Filling,
        base: Base,
        output: Output,
        batch_size: int | None,
        fold_batch_norm: bool,
        progress: bool,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.hide = hide
        self.filling = as_filling(hide)
        self.base = check_base(base)
        if output not in OUTPUTS:
            raise ValueError(f"output must be {' or '.join(map(repr, OUTPUTS))}, got {output!r}")
        self.output = output
        self.progress = bool(progress)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {
            "hide": self.filling.settings(),
            "base": describe(self.base),
            "output": self.output,
        }

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        with torch.no_grad():
            rows = self._rows(view.cells)
            parts = (view[start : start + rows] for start in range(0, len(view), rows))
            logits = torch.cat([model.logits(part.cells, part) for part in parts])
            target = choose_target(logits, target, len(view))
            game = Game(
                model,
                view,
                target,
                rows=rows,
                output=self.output,
                name=self.name,
                progress=self.progress,
            )
            maps, diagnostics = self._maps(game, view)
            return Explanation(maps, target, diagnostics)

    @abstractmethod
    def _maps(self, game: Game, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the maps (batch, 1, freq, time) and the diagnostics of a view."""

    def _rows(self, cells: Tensor) -> int:
        """Return how many versions go through the model at once."""
        return self.batch_size or batch_size_for(cells)

    def _mixing(self, mix: Mix) -> Mixing:
        front_end = self.classifier.front_end
        return mixing(mix, None if front_end is None else front_end.unit)

    def _check_soft(self, reason: str) -> None:
        if not self.filling.soft:
            raise ValueError(
                f"{reason}, which hide={self.hide!r} cannot: it fills cells that are hidden whole. "
                "Take hide='base'"
            )

    def _check_needs_no_parts(self) -> None:
        if self.filling.needs_parts:
            raise ValueError(
                f"{self.name} has no segments, on which hide={self.hide!r} depends: take "
                "hide='base'"
            )


class SegmentInterpreter(PerturbationInterpreter):
    """A method that gives each part of a clip a value, by an estimator.

    The map is each part's value on its cells; of soft components, their weighted sum. Components
    mix by the amplitude of the sound, as if the sounds of those that are kept were added up
    (`audiointerp.interpretation.segmentation.component_sounds`). The diagnostics are
    ``"segments"``, the number of parts, and ``"samples"``, that of the versions.

    Parameters
    ----------
    model, hide, base, output, batch_size, fold_batch_norm, progress
        See `PerturbationInterpreter`.
    estimator : Estimator
    segmentation : str or callable
        A name in `audiointerp.interpretation.segmentation.SEGMENTATIONS`, or a function; see there.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a segmentation returns something else.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: Estimator,
        *,
        segmentation: str | Segmentation | ClipSegmentation,
        hide: str | Filling,
        base: Base,
        output: Output,
        batch_size: int | None,
        fold_batch_norm: bool,
        progress: bool,
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
        self.estimator = estimator
        self.segmentation = as_segmentation(segmentation)
        if estimator.soft:
            self._check_soft(f"{self.name} hides segments in part")

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return (
            super().settings()
            | {"segmentation": describe(self.segmentation)}
            | asdict(self.estimator)
        )

    def segment(self, features: Tensor | View) -> np.ndarray:
        """Return the parts of one clip.

        Parameters
        ----------
        features : Tensor, shape (1, freq, time), or View of one clip
            A segmentation that needs the sound needs the view.

        Returns
        -------
        ndarray
            Labels 0 to S - 1, int64 of shape (freq, time); of soft components, weights, float64 of
            shape (S, freq, time).

        Raises
        ------
        ValueError
            If the segmentation returns something else.
        """
        view = features if isinstance(features, View) else View(features[None])
        return segment_clip(self.segmentation, clip_of(view, self.classifier.front_end))

    def _maps(self, game: Game, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        clips: list[HiddenClip] = []
        kept: list[Tensor] = []
        samples = self.estimator.samples()
        total = None if samples is None else samples * len(view)
        values = game.values(self._requests(view, clips, kept), total=total)
        waiting = list(range(len(clips)))
        for number in range(1, self.estimator.rounds):
            waiting = [n for n in waiting if not self.estimator.is_settled(kept[n], values[n])]
            more = {n: self._design(clips[n], number) for n in waiting}
            found = game.values(_ask(n, clips[n], more[n]) for n in waiting)
            for n, new in zip(waiting, found, strict=True):
                kept[n], values[n] = torch.cat([kept[n], more[n]]), torch.cat([values[n], new])
        estimate = self.estimator.estimate(kept, values)
        laid = [
            clip.parts.lay(value.to(clip.cells))
            for clip, value in zip(clips, estimate.values, strict=True)
        ]
        counts = {"segments": torch.tensor([clip.parts.count for clip in clips])}
        device = view.cells.device
        return torch.stack(laid)[:, None], {
            name: numbers.to(double_device(device) if numbers.is_floating_point() else device)
            for name, numbers in (counts | estimate.diagnostics).items()
        }

    def _requests(
        self, view: View, clips: list[HiddenClip], kept: list[Tensor]
    ) -> Iterator[Request]:
        """Yield the first round's versions of every clip; collect the clips and the designs."""
        front_end = self.classifier.front_end
        found = segment_ahead(self.segmentation, view, front_end)
        for number, (cells, parts) in enumerate(zip(view.cells, found, strict=True)):
            clips.append(self._prepare(cells, as_parts(parts, cells)))
            kept.append(self._design(clips[-1], 0))
            yield _ask(number, clips[-1], kept[-1])

    def _prepare(self, cells: Tensor, parts: Parts) -> HiddenClip:
        if parts.soft:
            self._check_soft("the segmentation returns soft components")
        level = self.filling.level(cells, parts, self.base)
        mix = self._mixing("amplitude" if parts.soft else "cells")
        return HiddenClip(cells, parts, self.filling, level, mix)

    def _design(self, clip: HiddenClip, number: int) -> Tensor:
        kept = self.estimator.design(clip.parts.count, number)
        return kept.to(clip.cells.device) if kept.dtype is torch.bool else kept.to(clip.cells)


def _ask(number: int, clip: HiddenClip, kept: Tensor) -> Request:
    return Request(number, len(kept), lambda start, stop: clip.versions(kept[start:stop]))
