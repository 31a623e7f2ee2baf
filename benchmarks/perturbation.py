"""Perturbation methods beside the libraries' own loops on the same network, clips and versions.

python benchmarks/perturbation.py --clips 2 --samples 300 --width 0.25

Each line: seconds of a clip by the loop, by the package, their ratio, and the correlation of the
two maps, which draw different versions: where the probability hardly varies, that of RISE is near
0. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import shap
import shapiq
import torch
from captum.attr import Occlusion
from machine import describe
from skimage.transform import resize
from torch import Tensor, nn

from audiointerp.interpretation import METHODS
from audiointerp.interpretation.segmentation import Clip, Grid
from audiointerp.model import build_model

FLOOR = -100.0
GRID = Grid(8, 8)
RISE_GRID = 7


def game_of(model: nn.Module, clip: Tensor, target: int, labels: Tensor) -> Callable:
    """Return the value function of one clip, its versions in batches of 10."""

    def game(kept: np.ndarray) -> np.ndarray:
        kept = torch.as_tensor(np.atleast_2d(np.asarray(kept, dtype=bool)))
        found = []
        for part in kept.split(10):
            cells = torch.where(part[:, labels][:, None], clip, FLOOR)
            with torch.no_grad():
                found.append(model(cells).softmax(1)[:, target].double())
        return torch.cat(found).numpy()

    return game


def by_shap(model: nn.Module, clips: Tensor, targets: Tensor, samples: int) -> Tensor:
    """shap.KernelExplainer over the segments."""
    maps = []
    for clip, target in zip(clips, targets.tolist(), strict=True):
        labels = torch.from_numpy(GRID(Clip(clip[0].numpy())))
        count = int(labels.max()) + 1
        explainer = shap.KernelExplainer(
            game_of(model, clip, target, labels), np.zeros((1, count)), silent=True
        )
        values = explainer.shap_values(np.ones((1, count)), nsamples=samples, l1_reg=0, silent=True)
        maps.append(torch.from_numpy(values[0])[labels])
    return torch.stack(maps)[:, None]


def by_shapiq(model: nn.Module, clips: Tensor, targets: Tensor, samples: int) -> Tensor:
    """shapiq's sampled permutations over the segments."""
    maps = []
    for clip, target in zip(clips, targets.tolist(), strict=True):
        labels = torch.from_numpy(GRID(Clip(clip[0].numpy())))
        count = int(labels.max()) + 1
        approximator = shapiq.PermutationSamplingSV(n=count, random_state=0)
        values = approximator.approximate(samples, game_of(model, clip, target, labels))
        found = np.array([values[(part,)] for part in range(count)])
        maps.append(torch.from_numpy(found)[labels])
    return torch.stack(maps)[:, None]


def by_loop(model: nn.Module, clips: Tensor, targets: Tensor, samples: int) -> Tensor:
    """RISE as its authors' notebook has it: masks by scikit-image, batches of 10."""
    random = np.random.default_rng(0)
    shape = np.array(clips.shape[2:])
    step = np.ceil(shape / RISE_GRID).astype(int)
    masks = np.empty((samples, *shape), dtype=np.float32)
    for mask in masks:
        grid = (random.random((RISE_GRID, RISE_GRID)) < 0.5).astype(np.float32)
        large = resize(grid, (RISE_GRID + 1) * step, order=1, mode="reflect", anti_aliasing=False)
        row, column = random.integers(step)
        mask[:] = large[row : row + shape[0], column : column + shape[1]]
    masks = torch.from_numpy(masks)
    maps = []
    for clip, target in zip(clips, targets.tolist(), strict=True):
        found = torch.zeros_like(clip)
        for part in masks.split(10):
            with torch.no_grad():
                value = model(FLOOR + (clip - FLOOR) * part[:, None]).softmax(1)[:, target]
            found += (value[:, None, None] * part).sum(0)
        maps.append(found / (samples * 0.5))
    return torch.stack(maps)


def by_captum(model: nn.Module, clips: Tensor, targets: Tensor, samples: int) -> Tensor:
    """Captum's Occlusion, with the windows of the package's defaults and its batches of 10."""
    window = tuple(
        -(-int(size) // part) for size, part in zip(clips.shape[2:], (8, 16), strict=True)
    )
    return Occlusion(nn.Sequential(model, nn.Softmax(1))).attribute(
        clips,
        sliding_window_shapes=(1, *window),
        strides=(1, *(-(-size // 2) for size in window)),
        baselines=FLOOR,
        target=targets,
        perturbations_per_eval=10,
    )


def ours(name: str, samples: int) -> dict[str, object]:
    """Return the settings under which the package does the work of a loop."""
    walks = max(1, samples // (2 * 63))
    return {
        "kernelshap": {"num_samples": samples, "segmentation": GRID},
        "permutation_shap": {"num_permutations": walks, "segmentation": GRID},
        "rise": {"num_samples": samples, "grid": (RISE_GRID, RISE_GRID), "centred": False},
        "occlusion": {},
    }[name]


LOOPS = {
    "kernelshap": by_shap,
    "permutation_shap": by_shapiq,
    "rise": by_loop,
    "occlusion": by_captum,
}


def seconds(call: Callable[..., Tensor], *arguments: object) -> tuple[float, Tensor]:
    started = time.perf_counter()
    found = call(*arguments)
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--frames", type=int, default=501)
    parser.add_argument("--method", choices=LOOPS, action="append")
    asked = parser.parse_args()
    shape = {"name": "Cnn14", "num_classes": 50, "num_bins": 64, "width": asked.width}
    model = build_model(shape, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    clips = 10 * torch.randn(asked.clips, 1, 64, asked.frames, generator=generator) - 40
    with torch.no_grad():
        targets = model(clips).argmax(1)
    print(f"{describe(torch.device('cpu'))}; Cnn14 at width {asked.width:g}, 64 × {asked.frames}")
    for name in asked.method or LOOPS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs, expected = seconds(LOOPS[name], model, clips, targets, asked.samples)
        method = METHODS[name](model, **ours(name, asked.samples))
        mine, found = seconds(method.attribute, clips, targets)
        both = torch.stack([found.flatten(), expected.flatten().to(found)])
        print(
            f"{name:17} loop {theirs / len(clips):8.3f} s   ours {mine / len(clips):8.3f} s   "
            f"ratio {theirs / mine:5.2f}   correlation {torch.corrcoef(both)[0, 1]:.3f}"
        )


if __name__ == "__main__":
    main()
