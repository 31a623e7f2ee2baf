"""SmoothGrad and variants: statistics of the gradient over noisy copies of the clip."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import METHODS, Explanation, check_whole
from audiointerp.interpretation.draws import clip_generator
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.versions import Version, VersionsInterpreter, accumulated
from audiointerp.processing import View


class NoisyGradients(VersionsInterpreter):
    """A statistic of ∂logit_c/∂X over copies of the clip with Gaussian noise in every cell.

    The noise has a standard deviation of `noise` times the clip's range, its highest cell less its
    lowest. A subclass gives `_statistic`.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    noise : float, default 0.1
        Standard deviation of the noise as a share of the clip's range; positive. The paper finds
        0.1 to 0.2 best.
    samples : int, default 32
        Noisy copies of each clip, at least 2.
    seed : int, default 0
        For the noise, with the clip's own content; see
        `audiointerp.interpretation.draws.clip_generator`.
    batch_size : int, optional
        Copies per backward pass, of one or several clips; by default what suits the device.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the copies.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        noise: float = 0.1,
        samples: int = 32,
        seed: int = 0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        if not (math.isfinite(noise) and noise > 0):
            raise ValueError(
                f"noise must be a positive share of the clip's range, such as 0.1, got {noise!r}"
            )
        self.noise = float(noise)
        self.samples = check_whole("samples", samples, 2)
        self.seed = check_whole("seed", seed, 0)
        self.progress = bool(progress)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {
            "noise": self.noise,
            "samples": self.samples,
            "seed": self.seed,
        }

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        _, target = self._logits_of(model, view, target)

        def versions(clip: int) -> Iterator[Version]:
            return map(Version, self._copies(view, clip))

        mean = torch.zeros_like(view.cells, dtype=accumulated(view.cells.dtype))
        # Of the squared distances to the mean, so that no digits are lost in a difference.
        spread = torch.zeros_like(mean)
        seen = [0] * len(view)
        found = self._gradients_at(model, view, target, versions, self.samples)
        for clip, gradients, _ in found:
            for gradient in gradients:
                seen[clip] += 1
                change = gradient - mean[clip]
                mean[clip] += change / seen[clip]
                spread[clip] += change * (gradient - mean[clip])
        variance = spread / self.samples
        return Explanation(self._statistic(mean, variance).to(view.cells), target)

    def _copies(self, view: View, clip: int) -> Iterator[Tensor]:
        """Yield the noisy copies of a clip, (1, freq, time) each."""
        cells = view.cells[clip]
        generator = clip_generator(view, clip, self.seed)
        low, high = cells.aminmax()
        for _ in range(self.samples):
            noise = torch.randn(cells.shape, generator=generator).to(cells)
            yield cells + self.noise * (high - low) * noise

    @abstractmethod
    def _statistic(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the map of the gradients' mean and variance in every cell."""


@METHODS.register("smoothgrad")
class SmoothGradInterpreter(NoisyGradients):
    """SmoothGrad: the mean gradient over noisy copies of the clip, signed.

    Parameters
    ----------
    model, noise, samples, seed, batch_size, fold_batch_norm, progress
        See `NoisyGradients`.

    Raises
    ------
    ValueError
        If a setting is out of range.

    References
    ----------
    D. Smilkov et al., "SmoothGrad: removing noise by adding noise", arXiv 1706.03825, 2017.
    """

    name = "smoothgrad"
    facts = Facts(
        family="gradient",
        passes="33 forward, 32 backward",
        source="Smilkov et al., arXiv 1706.03825, 2017",
        fails="Explains the clip in loud noise, in which the network may predict another class",
        draws=True,
    )

    def _statistic(self, mean: Tensor, variance: Tensor) -> Tensor:
        return mean


@METHODS.register("smoothgrad_squared")
class SquaredSmoothGradInterpreter(NoisyGradients):
    """SmoothGrad²: the mean squared gradient over noisy copies of the clip, never negative.

    Parameters
    ----------
    model, noise, samples, seed, batch_size, fold_batch_norm, progress
        See `NoisyGradients`.

    Raises
    ------
    ValueError
        If a setting is out of range.

    References
    ----------
    S. Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural Networks",
    NeurIPS 2019.
    """

    name = "smoothgrad_squared"
    facts = Facts(
        family="gradient",
        passes="33 forward, 32 backward",
        source="Hooker et al., NeurIPS 2019",
        fails="Has no sign: cells that speak against the class count as those that speak for it",
        draws=True,
        signed=False,
    )

    def _statistic(self, mean: Tensor, variance: Tensor) -> Tensor:
        return mean**2 + variance


@METHODS.register("vargrad")
class VarGradInterpreter(NoisyGradients):
    """VarGrad: the variance of the gradient over noisy copies of the clip, never negative.

    The variance is that of the copies, divided by their number.

    Parameters
    ----------
    model, noise, samples, seed, batch_size, fold_batch_norm, progress
        See `NoisyGradients`.

    Raises
    ------
    ValueError
        If a setting is out of range.

    References
    ----------
    J. Adebayo et al., "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to
    Parameter Values", ICLR workshop 2018; S. Hooker et al., "A Benchmark for Interpretability
    Methods in Deep Neural Networks", NeurIPS 2019.
    """

    name = "vargrad"
    facts = Facts(
        family="gradient",
        passes="33 forward, 32 backward",
        source="Adebayo et al., ICLR workshop 2018",
        fails="Has no sign, and is 0 where the logit is linear in a cell however much depends on "
        "it",
        draws=True,
        signed=False,
    )

    def _statistic(self, mean: Tensor, variance: Tensor) -> Tensor:
        return variance
