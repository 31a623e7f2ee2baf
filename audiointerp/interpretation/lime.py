"""LIME: hide random segments of the spectrogram, fit a linear model to what the classifier says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiointerp.device import double_device, to_double
from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    check_whole,
    choose_target,
    pick,
)
from audiointerp.interpretation.baseline import Base, base_cells, check_base, describe
from audiointerp.interpretation.facts import Facts
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.registry import Registry
from audiointerp.speed.memory import batch_size_for
from audiointerp.speed.threads import usable_processors

Segmentation = Callable[[np.ndarray], np.ndarray]
SEGMENTATIONS: Registry[Callable[[], Segmentation]] = Registry("segmentation")


@SEGMENTATIONS.register("quickshift")
@dataclass(frozen=True)
class Quickshift:
    """Quickshift segments of a spectrogram seen as a grey image, with lime's own parameters.

    The features are scaled to [0, 1] by their minimum and maximum first: what is a segment then
    does not depend on the recording's level or on the unit.

    Parameters
    ----------
    kernel_size : float, default 4
        Width in cells of the Gaussian that smooths the density; larger means fewer segments.
    max_dist : float, default 200
        Largest distance between cells that are linked; larger means fewer segments.
    ratio : float, default 0.2
        Weight of level against position, in [0, 1].
    seed : int, default 0
        For the tiny noise that breaks ties.

    References
    ----------
    A. Vedaldi, S. Soatto, "Quick Shift and Kernel Methods for Mode Seeking", ECCV 2008.
    """

    kernel_size: float = 4
    max_dist: float = 200
    ratio: float = 0.2
    seed: int = 0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return one segment label per cell for features (freq, time)."""
        from skimage.color import gray2rgb
        from skimage.segmentation import quickshift

        low, high = float(features.min()), float(features.max())
        scaled = (features.astype(np.float64) - low) / ((high - low) or 1.0)
        return quickshift(
            gray2rgb(scaled),
            kernel_size=self.kernel_size,
            max_dist=self.max_dist,
            ratio=self.ratio,
            rng=self.seed,
        )


@METHODS.register("lime")
class LIMEInterpreter(Interpreter):
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
        A name in `SEGMENTATIONS`, or a function from features (freq, time), a NumPy array, to
        integer labels of the same shape: `Quickshift` with other parameters, for instance.
    kernel_width : float, default 0.25
        In units of cosine distance.
    hide : {"base", "mean"}, default "base"
        What a hidden segment becomes: the masking base, as in the metrics, or its own mean.
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
        passes="1000 forward",
        source="Ribeiro et al., KDD 2016",
        fails="A map says little where the fit is poor (`local_fit` near 0), and its resolution is "
        "that of the segments",
        draws=True,
    )
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        num_samples: int = 1000,
        segmentation: str | Segmentation = "quickshift",
        kernel_width: float = 0.25,
        hide: Literal["base", "mean"] = "base",
        base: Base = -100.0,
        alpha: float = 1.0,
        batch_size: int | None = None,
        seed: int = 0,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.num_samples = check_whole("num_samples", num_samples, 2)
        self.seed = check_whole("seed", seed, 0)
        self.kernel_width = _check_positive("kernel_width", kernel_width)
        self.alpha = _check_positive("alpha", alpha)
        if hide not in ("base", "mean"):
            raise ValueError(f"hide must be 'base' or 'mean', got {hide!r}")
        if isinstance(segmentation, str):
            segmentation = SEGMENTATIONS[segmentation]()
        if not callable(segmentation):
            raise ValueError(
                f"segmentation must be one of {', '.join(SEGMENTATIONS)} or a function, "
                f"got {segmentation!r}"
            )
        self.segmentation = segmentation
        self.hide = hide
        self.base = check_base(base)
        self.progress = bool(progress)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {
            "num_samples": self.num_samples,
            "segmentation": describe(self.segmentation),
            "kernel_width": self.kernel_width,
            "hide": self.hide,
            "base": describe(self.base),
            "alpha": self.alpha,
            "seed": self.seed,
        }

    def segment(self, features: Tensor) -> np.ndarray:
        """Return the segments of one clip, labels 0 to S - 1.

        Parameters
        ----------
        features : Tensor, shape (1, freq, time)

        Returns
        -------
        ndarray of int64, shape (freq, time)

        Raises
        ------
        ValueError
            If the segmentation does not return one integer per cell.
        """
        cells = features[0].detach().cpu()
        # NumPy has no bfloat16.
        image = (cells.float() if cells.dtype is torch.bfloat16 else cells).numpy()
        labels = np.asarray(self.segmentation(image))
        if labels.shape != image.shape or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"the segmentation must return integer labels of shape {image.shape}, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        _, labels = np.unique(labels, return_inverse=True)
        return labels.reshape(image.shape).astype(np.int64)

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        rows = self._rows(view.cells)
        with torch.no_grad():
            parts = (view[start : start + rows] for start in range(0, len(view), rows))
            logits = torch.cat([model.logits(part.cells, part) for part in parts])
            target = choose_target(logits, target, len(view))
            clips, probability = self._sample(model, view, target)
            return self._fit(clips, probability, view.cells, target)

    def _sample(self, model: Classifier, view: View, target: Tensor) -> tuple[list[_Clip], Tensor]:
        """Return the clips' segments and the class's probability, (batch, num_samples) float64."""
        features = view.cells
        clips: list[_Clip] = []
        where = double_device(features.device)
        probability = torch.empty(
            len(features) * self.num_samples, dtype=torch.float64, device=where
        )
        wanted = target.repeat_interleave(self.num_samples).to(where)
        start = 0
        with tqdm(
            total=len(wanted), desc="lime", unit="version", leave=False, disable=not self.progress
        ) as bar:
            for rows in self._batches(features, clips):
                part = slice(start, start + len(rows))
                sound = None
                if model.needs_view:
                    numbers = torch.arange(start, start + len(rows), device=rows.device)
                    sound = view[numbers // self.num_samples]
                chances = model.probabilities(model.logits(rows, sound))
                probability[part] = pick(chances, wanted[part])
                start += len(rows)
                bar.update(len(rows))
        return clips, probability.reshape(len(features), -1)

    def _batches(self, features: Tensor, clips: list[_Clip]) -> Iterator[Tensor]:
        """Yield full batches of versions, (rows, 1, freq, time), and collect the clips.

        A batch may end one clip and begin the next. Clips are segmented in other threads, ahead
        of the network.
        """
        waiting: list[Tensor] = []
        room = size = self._rows(features)
        # A network on the CPU needs its cores itself.
        cores = 1 if features.device.type == "cpu" else usable_processors()
        pool = ThreadPoolExecutor(max_workers=cores)
        try:
            for clip, labels in zip(features, pool.map(self.segment, features), strict=True):
                clips.append(self._prepare(clip, labels))
                start = 0
                while start < self.num_samples:
                    stop = min(start + room, self.num_samples)
                    waiting.append(clips[-1].versions(start, stop))
                    room -= stop - start
                    start = stop
                    if room == 0:
                        yield torch.cat(waiting)
                        waiting, room = [], size
        finally:
            pool.shutdown(cancel_futures=True)
        if waiting:
            yield torch.cat(waiting)

    def _rows(self, features: Tensor) -> int:
        """Return how many versions go through the model at once."""
        return self.batch_size or batch_size_for(features)

    def _prepare(self, clip: Tensor, labels: np.ndarray) -> _Clip:
        segments = torch.from_numpy(labels).to(clip.device)
        count = int(labels.max()) + 1
        return _Clip(
            features=clip,
            hidden=self._hidden(clip, segments, count),
            segments=segments,
            kept=_draw(self.num_samples, count, self.seed).to(clip.device),
        )

    def _hidden(self, clip: Tensor, segments: Tensor, count: int) -> Tensor:
        """Return what the cells become where they are hidden, (1, freq, time)."""
        if self.hide == "mean":
            values = to_double(clip.flatten())
            flat = segments.flatten().to(values.device)
            total = values.new_zeros(count).index_add(0, flat, values)
            mean = total / torch.bincount(flat, minlength=count)
            return mean[flat].reshape(clip.shape).to(clip)
        return base_cells(self.base, clip[None])[0]

    def _fit(
        self, clips: list[_Clip], probability: Tensor, features: Tensor, target: Tensor
    ) -> Explanation:
        counts = [clip.kept.shape[1] for clip in clips]
        # Clips with fewer segments get columns of zeros, whose coefficient is 0 whatever the rest.
        kept = probability.new_zeros(len(clips), self.num_samples, max(counts))
        weights = torch.empty_like(probability)
        for row, clip in enumerate(clips):
            kept[row, :, : counts[row]] = clip.kept
            weights[row] = proximity(clip.kept, self.kernel_width)
        coefficients, _, fit = weighted_ridge(kept, probability, weights, self.alpha)
        maps = [
            coefficient[clip.segments]
            for coefficient, clip in zip(coefficients.to(features), clips, strict=True)
        ]
        return Explanation(
            torch.stack(maps)[:, None],
            target,
            {"segments": torch.tensor(counts, device=features.device), "local_fit": fit},
        )


class _Clip(NamedTuple):
    """One clip's features and hidden values (1, F, T), segments (F, T) and kept (samples, S)."""

    features: Tensor
    hidden: Tensor
    segments: Tensor
    kept: Tensor

    def versions(self, start: int, stop: int) -> Tensor:
        """Return versions `start` to `stop` of the clip, (stop - start, 1, F, T)."""
        shown = self.kept[start:stop].index_select(1, self.segments.flatten())
        return torch.where(shown.reshape(-1, *self.features.shape), self.features, self.hidden)


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


def _check_positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)
