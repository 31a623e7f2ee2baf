"""Integrated gradients: the gradient along a straight line from a baseline to the clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiointerp.interpretation.additivity import sum_residual
from audiointerp.interpretation.background import (
    check_background,
    describe_background,
    read_background,
)
from audiointerp.interpretation.base import METHODS, Explanation, check_whole
from audiointerp.interpretation.baseline import Base, base_cells, check_base, describe
from audiointerp.interpretation.draws import clip_generator
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.versions import (
    Version,
    VersionsInterpreter,
    accumulated,
    weighted_sum,
)
from audiointerp.processing import View


@METHODS.register("integrated_gradients")
class IntegratedGradientsInterpreter(VersionsInterpreter):
    """Integrated gradients, (X - B)·∫ ∂logit_c/∂X at B + α(X - B) dα, α from 0 to 1.

    The integral is taken by the midpoint rule: the mean gradient at α = 1/2n, 3/2n, …, n = `steps`.
    It is exact for gradients that are linear in α. Networks with ReLUs have gradients with jumps,
    where the error of every rule falls like 1/n only, and Gauss-Legendre quadrature was found to be
    no better. The diagnostic ``"residual"`` of `explain` says by how much the sum of a map misses
    f_c(X) - mean f_c(B), see `audiointerp.interpretation.additivity.sum_residual`: 1 % or so with
    the bundled models and the default settings.

    For a network that takes a waveform the line runs through cells, that is in decibels, and
    f_c(B) is the logit of the sound that the cells B stand for with the clip's phase.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    baseline : "base", "noise", Tensor of shape (count, 1, freq, time), or View
        What B is. "base": the masking base in every cell. "noise": cells uniform between the
        clip's lowest and highest one, the mean over `draws` maps. Or background clips, the mean
        over all of their maps; a waveform network needs their `View`.
    base : float or callable, default -100.0
        The masking base in the features' unit: the processor's ``floor``, or a function of the
        features (batch, 1, freq, time) that returns a Tensor which broadcasts to them.
    steps : int, default 64
        Points on each line.
    draws : int, default 4
        Noises for each clip, where the baseline is "noise".
    seed : int, default 0
        For the noise, with the clip's own content; see
        `audiointerp.interpretation.draws.clip_generator`.
    batch_size : int, optional
        Points per backward pass, of one or several clips; by default what suits the device.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the points.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a baseline has another shape.

    References
    ----------
    M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017. On
    baselines: P. Sturmfels, S. Lundberg, S.-I. Lee, "Visualizing the Impact of Feature Attribution
    Baselines", Distill 2020.
    """

    name = "integrated_gradients"
    facts = Facts(
        family="gradient",
        passes="66 forward, 64 backward",
        source="Sundararajan et al., ICML 2017",
        fails="Depends on the baseline: a cell at its level counts for nothing, and the line leads "
        "through spectrograms that no sound has",
        sums_to="f_c(x) less f_c of the baseline",
        sums_within=0.01,
    )
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        baseline: Literal["base", "noise"] | Tensor | View = "base",
        base: Base = -100.0,
        steps: int = 64,
        draws: int = 4,
        seed: int = 0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        if isinstance(baseline, str):
            if baseline not in ("base", "noise"):
                raise ValueError(
                    f"baseline must be 'base', 'noise' or background clips, got {baseline!r}"
                )
            self.baseline = baseline
        else:
            self.baseline = read_background(baseline, self.classifier, "baseline")
        self.base = check_base(base)
        self.steps = check_whole("steps", steps, 1)
        self.draws = check_whole("draws", draws, 1)
        self.seed = check_whole("seed", seed, 0)
        self.progress = bool(progress)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and the settings that its maps depend on, ready for JSON."""
        settings = super().settings() | {"steps": self.steps}
        if isinstance(self.baseline, View):
            return settings | {"baseline": "background"} | describe_background(self.baseline)
        settings |= {"baseline": self.baseline}
        if self.baseline == "noise":
            return settings | {"draws": self.draws, "seed": self.seed}
        return settings | {"base": describe(self.base)}

    def _check_view(self, view: View) -> None:
        super()._check_view(view)
        if isinstance(self.baseline, View):
            check_background(self.baseline, view, self.classifier, "baseline")

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        here, target = self._logits_of(model, view, target)
        points = [(step + 0.5) / self.steps for step in range(self.steps)]
        kind = accumulated(view.cells.dtype)

        def baselines(clip: int) -> Iterator[Tensor]:
            return self._baselines(view, clip)

        def versions(clip: int) -> Iterator[Version]:
            end = view.cells[clip].to(kind)
            starts = list(baselines(clip))
            for start in starts:
                change = end - start.to(kind)
                factor = change / (self.steps * len(starts))
                # From the clip, so that what no baseline changes is the clip's to the bit.
                yield from (Version(end - (1 - point) * change, factor) for point in points)

        count = self.steps * sum(1 for _ in baselines(0))
        found = self._gradients_at(model, view, target, versions, count)
        total = weighted_sum(found, view.cells)
        there = self._logits_at(model, view, target, baselines)
        residual = sum_residual(total.sum((1, 2, 3)), here, there)
        return Explanation(total.to(view.cells), target, {"residual": residual})

    def _baselines(self, view: View, clip: int) -> Iterator[Tensor]:
        """Yield what a clip is compared with, (1, freq, time) each."""
        cells = view.cells[clip]
        if isinstance(self.baseline, View):
            yield from self.baseline.cells.to(cells)
        elif self.baseline == "base":
            yield base_cells(self.base, cells[None])[0]
        else:
            generator = clip_generator(view, clip, self.seed)
            low, high = cells.aminmax()
            for _ in range(self.draws):
                share = torch.rand(cells.shape, generator=generator).to(cells)
                yield low + (high - low) * share
