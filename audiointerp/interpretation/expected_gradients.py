"""Expected gradients: integrated gradients at random points between random clips and the clip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.additivity import sum_residual
from audiointerp.interpretation.background import (
    check_background,
    describe_background,
    read_background,
)
from audiointerp.interpretation.base import METHODS, Explanation, check_whole
from audiointerp.interpretation.draws import clip_generator
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.versions import (
    Version,
    VersionsInterpreter,
    accumulated,
    weighted_sum,
)
from audiointerp.processing import View


@METHODS.register("expected_gradients")
class ExpectedGradientsInterpreter(VersionsInterpreter):
    """Expected gradients, the mean of (X - B)·∂logit_c/∂X at B + α(X - B).

    B is a random background clip and α uniform in [0, 1]. The draws are spread evenly, which
    leaves the expectation as it is and takes away some of the variance: every background clip is
    drawn equally often but for one time, and there is one α in each of `samples` equal parts of
    [0, 1].

    In expectation the map adds up to f_c(X) - mean f_c(B). It is a Monte-Carlo estimate, so the sum
    of one map is no promise; the diagnostic ``"sampling_residual"`` of `explain` says by how much
    it is missed (see `audiointerp.interpretation.additivity.sum_residual`). It falls with more
    samples.

    For a network that takes a waveform the lines run through cells, that is in decibels, and
    f_c(B) is the logit of the clip with the background's levels and its own phase.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    background : Tensor, shape (count, 1, freq, time), or View
        Clips that stand for "nothing in particular", in the front end's unit; see
        `audiointerp.interpretation.select_background`. A waveform network needs the `View` of
        their sound.
    samples : int, default 50
        Points at which the gradient is taken, for each clip.
    noise : float, default 0.0
        Standard deviation of Gaussian noise that is added to the clip for each point, as a share
        of its range (highest less lowest cell). With noise this is GradientSHAP.
    seed : int, default 0
        For the draws, with the clip's own content; see
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
        If a setting is out of range, or the background has another shape or is not finite.

    References
    ----------
    G. Erion et al., "Improving performance of deep learning models with axiomatic attribution
    priors and expected gradients", Nature Machine Intelligence 3, 2021. GradientSHAP: S. Lundberg,
    S.-I. Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, as captum and
    shap have it.
    """

    name = "expected_gradients"
    facts = Facts(
        family="gradient",
        passes="51 forward and 1 for each background clip, 50 backward",
        source="Erion et al., Nature Machine Intelligence 2021",
        fails="A Monte-Carlo estimate, noisy with few samples, which misses its sum by "
        "`sampling_residual`; a cell that is as loud in the background counts for little",
        draws=True,
    )
    requires = frozenset({"background"})

    def __init__(
        self,
        model: nn.Module,
        background: Tensor | View,
        *,
        samples: int = 50,
        noise: float = 0.0,
        seed: int = 0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.background = read_background(background, self.classifier, "background")
        self.samples = check_whole("samples", samples, 1)
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(
                f"noise must be a share of the clip's range, 0 for none, got {noise!r}"
            )
        self.noise = float(noise)
        self.seed = check_whole("seed", seed, 0)
        self.progress = bool(progress)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {
            "samples": self.samples,
            "noise": self.noise,
            "seed": self.seed,
            **describe_background(self.background),
        }

    def _check_view(self, view: View) -> None:
        super()._check_view(view)
        check_background(self.background, view, self.classifier, "background")

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        here, target = self._logits_of(model, view, target)
        background = self.background.cells.to(view.cells)

        def versions(clip: int) -> Iterator[Version]:
            return self._points(view, clip, background)

        found = self._gradients_at(model, view, target, versions, self.samples)
        total = weighted_sum(found, view.cells)
        there = self._logits_at(model, view, target, lambda clip: background)
        residual = sum_residual(total.sum((1, 2, 3)), here, there)
        return Explanation(total.to(view.cells), target, {"sampling_residual": residual})

    def _points(self, view: View, clip: int, background: Tensor) -> Iterator[Version]:
        """Yield the points of a clip, each with what its gradient is multiplied by."""
        cells = view.cells[clip]
        kind = accumulated(cells.dtype)
        generator = clip_generator(view, clip, self.seed)
        chosen, shares = draw_pairs(self.samples, len(background), generator)
        low, high = cells.aminmax()
        for place, share in zip(chosen, shares, strict=True):
            end = cells.to(kind)
            if self.noise:
                noise = torch.randn(cells.shape, generator=generator).to(end)
                end = end + self.noise * (high - low) * noise
            change = end - background[place].to(kind)
            yield Version(end - (1 - share) * change, change / self.samples)


def draw_pairs(
    samples: int, count: int, generator: torch.Generator
) -> tuple[list[int], list[float]]:
    """Draw background clips and places on the line from them to a clip, both spread evenly.

    Parameters
    ----------
    samples : int
    count : int
        Number of background clips.
    generator : torch.Generator

    Returns
    -------
    chosen : list of int
        Each clip equally often, but for one time.
    shares : list of float
        One in each of `samples` equal parts of [0, 1], in random order.
    """
    rounds = -(-samples // count)
    order = [torch.randperm(count, generator=generator) for _ in range(rounds)]
    chosen = torch.cat(order)[:samples]
    within = torch.rand(samples, generator=generator, dtype=torch.float64)
    shares = (torch.arange(samples) + within) / samples
    shares = shares[torch.randperm(samples, generator=generator)]
    return chosen.tolist(), shares.tolist()
