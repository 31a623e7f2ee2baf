"""LIME: hide random segments of the spectrogram and fit a linear model to the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.interpretation.base import METHODS, check_positive
from audiointerp.interpretation.baseline import Base
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.hidden import Filling
from audiointerp.interpretation.perturbation import Estimate, Estimator, SegmentInterpreter
from audiointerp.interpretation.segmentation import ClipSegmentation, Quickshift, Segmentation

__all__ = ["LIME", "LIMEInterpreter", "Quickshift", "proximity", "weighted_ridge"]


@dataclass(frozen=True)
class LIME(Estimator):
    """A ridge regression of the value on which parts are kept, near the whole clip.

    Parameters
    ----------
    num_samples : int, default 1000
        Versions, the whole clip included.
    kernel_width : float, default 0.25
        In units of cosine distance.
    alpha : float, default 1.0
        Ridge penalty; the intercept is not penalised.
    seed : int, default 0

    References
    ----------
    See `LIMEInterpreter`.
    """

    num_samples: int = 1000
    kernel_width: float = 0.25
    alpha: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_whole("num_samples", 2)
        self._check_whole("seed", 0)
        check_positive("kernel_width", self.kernel_width)
        check_positive("alpha", self.alpha)

    def design(self, parts: int, number: int = 0) -> Tensor:
        """Return which parts the versions keep, each with probability 1/2; the first keeps all."""
        return _draw(self.num_samples, parts, self.seed)

    def samples(self) -> int:
        """Return the number of versions of a clip."""
        return self.num_samples

    def estimate(self, kept: Sequence[Tensor], values: Sequence[Tensor]) -> Estimate:
        """Return the coefficients of all clips, and the R² of the fits as ``"local_fit"``."""
        counts = [each.shape[1] for each in kept]
        response = torch.stack(list(values))
        # Clips with fewer segments get columns of zeros, whose coefficient is 0 whatever the rest.
        design = response.new_zeros(len(kept), self.num_samples, max(counts))
        weights = torch.empty_like(response)
        for row, each in enumerate(kept):
            design[row, :, : counts[row]] = each
            weights[row] = proximity(each, self.kernel_width)
        coefficients, _, fit = weighted_ridge(design, response, weights, self.alpha)
        parts = [row[:count] for row, count in zip(coefficients, counts, strict=True)]
        return Estimate(parts, {"local_fit": fit})


@METHODS.register("lime")
class LIMEInterpreter(SegmentInterpreter):
    """LIME over segments of the spectrogram.

    Each of `num_samples` versions of the clip keeps or hides every segment with probability 1/2
    (the first keeps all). The probability of the class is fitted by a ridge regression on which
    segments were kept, each version weighted by sqrt(exp(-d²/kernel_width²)), d its cosine
    distance to the whole clip. A cell's attribution is its segment's coefficient.

    Which segments are hidden depends on `seed` and the number of segments only, so a clip's map is
    the same alone and in a batch. The diagnostics of `explain` are ``"segments"``, their number,
    and ``"local_fit"``, the weighted R² of the fit: near 0 the map explains little.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`. The probability that is fitted is that of its head.
    num_samples : int, default 1000
        Versions of each clip, the whole one included.
    segmentation : str or callable, default "quickshift"
        A name in `audiointerp.interpretation.segmentation.SEGMENTATIONS`, or a function from
        features (freq, time), a NumPy array, to integer labels of the same shape: `Quickshift` with
        other parameters, for instance.
    kernel_width : float, default 0.25
        In units of cosine distance.
    hide : {"base", "mean", "road"} or Filling, default "base"
        What a hidden segment becomes: the masking base, as in the metrics, its own mean, or what
        its neighbours suggest; see `audiointerp.interpretation.hidden`.
    base : float or callable, default -100.0
        The masking base in the features' unit: the processor's ``floor``, or a function of the
        features (1, 1, freq, time) that returns a Tensor which broadcasts to them.
    alpha : float, default 1.0
        Ridge penalty; the intercept is not penalised.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    seed : int, default 0
        For the choice of hidden segments.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the versions.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a segmentation returns something else.

    References
    ----------
    M. Ribeiro, S. Singh, C. Guestrin, "Why Should I Trust You? Explaining the Predictions of Any
    Classifier", KDD 2016, with the settings of its authors' image explainer (lime 0.2).
    """

    name = "lime"
    facts = Facts(
        family="perturbation",
        passes="1001 forward",
        source="Ribeiro et al., KDD 2016",
        fails="A map says little where the fit is poor (`local_fit` near 0), and its resolution is "
        "that of the segments",
        draws=True,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        num_samples: int = 1000,
        segmentation: str | Segmentation | ClipSegmentation = "quickshift",
        kernel_width: float = 0.25,
        hide: str | Filling = "base",
        base: Base = -100.0,
        alpha: float = 1.0,
        batch_size: int | None = None,
        seed: int = 0,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            LIME(num_samples, float(kernel_width), float(alpha), seed),
            segmentation=segmentation,
            hide=hide,
            base=base,
            output="probability",
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
        self.num_samples, self.seed = self.estimator.num_samples, self.estimator.seed
        self.kernel_width, self.alpha = self.estimator.kernel_width, self.estimator.alpha

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        settings = super().settings()
        del settings["output"]  # there is no choice
        return settings


def _draw(samples: int, segments: int, seed: int) -> Tensor:
    """Return which segments each version keeps, bool (samples, segments), on the CPU.

    Drawn on the CPU, so that every device explains the same versions.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randint(0, 2, (samples, segments), generator=generator, dtype=torch.uint8).bool()
    kept[0] = True
    return kept


def proximity(kept: Tensor, kernel_width: float) -> Tensor:
    """Return lime's weights sqrt(exp(-d²/kernel_width²)), d the cosine distance to all ones.

    Parameters
    ----------
    kept : Tensor of bool, shape (samples, segments)
    kernel_width : float

    Returns
    -------
    Tensor of float64, shape (samples,)
        1 where every segment is kept.
    """
    # The cosine of a 0/1 row with k ones and the row of S ones is k / sqrt(k S).
    distance = 1 - (to_double(kept.sum(1)) / kept.shape[1]).sqrt()
    return torch.exp(-((distance / kernel_width) ** 2) / 2)


def weighted_ridge(
    design: Tensor, response: Tensor, weights: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise Σ w (y - X β - c)² + alpha |β|² for a batch of problems, in closed form.

    Parameters
    ----------
    design : Tensor of float64, shape (batch, samples, variables)
        X.
    response, weights : Tensor of float64, shape (batch, samples)
        y and w, the weights positive.
    alpha : float
        Positive; the intercept c is not penalised.

    Returns
    -------
    coefficients : Tensor, shape (batch, variables)
        β.
    intercept : Tensor, shape (batch,)
        c.
    fit : Tensor, shape (batch,)
        Weighted R², 1 for a perfect fit; 0 for a response that does not vary.
    """
    share = weights / weights.sum(1, keepdim=True)
    centre = (share[:, None] @ design)[:, 0]
    deviation = design - centre[:, None]
    # From the first response, so that one that does not vary gives exactly 0, not its rounding.
    change = response - response[:, :1]
    mean_change = (share * change).sum(1)
    variation = change - mean_change[:, None]
    weighted = deviation * weights[:, :, None]
    gram = weighted.mT @ deviation
    gram.diagonal(dim1=1, dim2=2).add_(alpha)
    moment = weighted.mT @ variation[:, :, None]
    coefficients = torch.cholesky_solve(moment, torch.linalg.cholesky(gram))[:, :, 0]
    rest = variation - (deviation @ coefficients[:, :, None])[:, :, 0]
    total = (weights * variation**2).sum(1)
    left = (weights * rest**2).sum(1)
    fit = torch.where(total > 0, 1 - left / total, torch.zeros_like(total))
    level = response[:, 0] + mean_change
    return coefficients, level - (centre * coefficients).sum(1), fit
