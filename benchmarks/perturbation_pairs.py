"""Perturbation methods next to shap's, shapiq's, captum's and a plain loop of RISE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shap
import shapiq
import torch
from captum.attr import Occlusion
from pairs import FLOOR, PAIRS, TARGET, Call, Pair
from sides import Side
from skimage.transform import resize
from torch import Tensor, nn

from audiointerp.interpretation.segmentation import Clip, Grid

SAMPLES = 1000
GRID = Grid(8, 8)
RISE_GRID = 7
BATCH = 10
"""Versions that the loops give to the network at once."""


def game_of(model: nn.Module, clip: Tensor, labels: Tensor) -> Callable:
    """Return the value function of one clip."""

    def game(kept: np.ndarray) -> np.ndarray:
        kept = torch.as_tensor(np.atleast_2d(np.asarray(kept, dtype=bool))).to(labels.device)
        found = []
        for part in kept.split(BATCH):
            cells = torch.where(part[:, labels][:, None], clip, FLOOR)
            with torch.no_grad():
                found.append(model(cells).softmax(1)[:, TARGET].double().cpu())
        return torch.cat(found).numpy()

    return game


def over_segments(values_of: Callable[[Callable, int], np.ndarray]) -> Callable[[Side], Call]:
    """Return a loop over clips whose segments are given values by a library."""

    def theirs(side: Side) -> Call:
        def explain(clips: Tensor) -> Tensor:
            maps = []
            for clip in clips:
                labels = torch.from_numpy(GRID(Clip(clip[0].cpu().numpy()))).to(clip.device)
                values = values_of(game_of(side.model, clip, labels), int(labels.max()) + 1)
                maps.append(torch.from_numpy(values).to(clip)[labels])
            return torch.stack(maps)[:, None]

        return explain

    return theirs


def by_shap(game: Callable, count: int) -> np.ndarray:
    """Return the segments' values by shap.KernelExplainer."""
    explainer = shap.KernelExplainer(game, np.zeros((1, count)), silent=True)
    return explainer.shap_values(np.ones((1, count)), nsamples=SAMPLES, l1_reg=0, silent=True)[0]


def by_shapiq(game: Callable, count: int) -> np.ndarray:
    """Return the segments' values by shapiq's sampled permutations."""
    approximator = shapiq.PermutationSamplingSV(n=count, random_state=0)
    values = approximator.approximate(SAMPLES, game)
    return np.array([values[(part,)] for part in range(count)])


def by_loop(side: Side) -> Call:
    """Return RISE as its authors' notebook has it: masks by scikit-image, drawn once for all."""

    def explain(clips: Tensor) -> Tensor:
        random = np.random.default_rng(0)
        shape = np.array(clips.shape[2:])
        step = np.ceil(shape / RISE_GRID).astype(int)
        masks = np.empty((SAMPLES, *shape), dtype=np.float32)
        for mask in masks:
            grid = (random.random((RISE_GRID, RISE_GRID)) < 0.5).astype(np.float32)
            size = (RISE_GRID + 1) * step
            large = resize(grid, size, order=1, mode="reflect", anti_aliasing=False)
            row, column = random.integers(step)
            mask[:] = large[row : row + shape[0], column : column + shape[1]]
        maps = []
        for clip in clips:
            found = torch.zeros_like(clip)
            for part in torch.from_numpy(masks).to(clip).split(BATCH):
                with torch.no_grad():
                    cells = FLOOR + (clip - FLOOR) * part[:, None]
                    value = side.model(cells).softmax(1)[:, TARGET]
                found += (value[:, None, None] * part).sum(0)
            maps.append(found / (SAMPLES * 0.5))
        return torch.stack(maps)

    return explain


def by_captum(side: Side) -> Call:
    """Return captum's Occlusion, with the windows of the package's defaults."""
    method = Occlusion(nn.Sequential(side.model, nn.Softmax(1)))

    def explain(clips: Tensor) -> Tensor:
        sizes = zip(clips.shape[2:], (8, 16), strict=True)
        window = tuple(-(-int(size) // part) for size, part in sizes)
        return method.attribute(
            clips,
            sliding_window_shapes=(1, *window),
            strides=(1, *(-(-size // 2) for size in window)),
            baselines=FLOOR,
            target=TARGET,
            perturbations_per_eval=BATCH,
        )

    return explain


PAIRS["kernelshap"] = Pair(
    "shap", over_segments(by_shap), {"num_samples": SAMPLES, "segmentation": GRID}, same=False
)
PAIRS["permutation_shap"] = Pair(
    "shapiq",
    over_segments(by_shapiq),
    {"num_permutations": SAMPLES // (2 * 63), "segmentation": GRID},
    same=False,
)
PAIRS["rise"] = Pair(
    "a loop",
    by_loop,
    {"num_samples": SAMPLES, "grid": (RISE_GRID, RISE_GRID), "centred": False},
    same=False,
)
PAIRS["occlusion"] = Pair("captum", by_captum)
