"""Time each method next to the public library that has it, on the same clips, in one process.

    python benchmarks/methods.py                               # all pairs, Cnn14 at width 1/4, mel
    python benchmarks/methods.py --pair fullgrad --clips 4 --device cuda

Library and package take turns, after an untimed call of each; a ratio is that of their medians, of
seconds and of the peak memory of one call (above what was held before it). The library's loop is
the obvious one: a clip at a time, its defaults but for what the package's defaults say. Where both
compute the same, their largest difference is printed, as a share of the largest value.

A new pair is one entry of `PAIRS`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum.attr import (
    DeepLift,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from machine import describe
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sides import Side, seconds
from torch import Tensor

from audiointerp.device import resolve_device
from audiointerp.interpretation import METHODS
from audiointerp.processing import FRONT_ENDS
from audiointerp.registry import Registry

FLOOR = -100.0
TARGET = 0
"""The class that is explained, of every clip."""

Call = Callable[[Tensor], Tensor]
"""Clips (batch, 1, freq, time) to maps."""


@dataclass(frozen=True)
class Pair:
    """A method of the package and of a library.

    Attributes
    ----------
    library : str
        What the other side is.
    theirs : callable
        ``theirs(side)`` returns what explains clips with the library.
    options : dict
        Of the package's method.
    same : bool
        Whether both compute the same numbers.
    """

    library: str
    theirs: Callable[[Side], Call]
    options: dict[str, Any]
    same: bool = True

    def ours(self, name: str, side: Side) -> Call:
        """Return what explains clips with the package."""
        needed = "background" in METHODS[name].requires
        given = {"background": side.background} if needed else {}
        method = METHODS[name](side.model, **given, **self.options)
        return lambda clips: method.attribute(clips, TARGET)


PAIRS: Registry[Pair] = Registry("pair")


def by_captum(make: Callable[..., Any], **options: Any) -> Callable[[Side], Call]:
    """Return captum's loop for a method that is made of the network."""

    def theirs(side: Side) -> Call:
        method = make(side.model)

        def explain(clips: Tensor) -> Tensor:
            maps = [
                method.attribute(clip.clone().requires_grad_(), target=TARGET, **options)
                for clip in clips.split(1)
            ]
            return torch.cat(maps).detach()

        return explain

    return theirs


def noisy(kind: str) -> Callable[[Side], Call]:
    """Return captum's loop for a statistic of noisy gradients."""

    def theirs(side: Side) -> Call:
        method = NoiseTunnel(Saliency(side.model))

        def explain(clips: Tensor) -> Tensor:
            maps = [
                method.attribute(
                    clip.clone().requires_grad_(),
                    nt_type=kind,
                    nt_samples=32,
                    stdevs=0.1 * (clip.max() - clip.min()).item(),
                    target=TARGET,
                    abs=False,
                )
                for clip in clips.split(1)
            ]
            return torch.cat(maps).detach()

        return explain

    return theirs


def gradient_shap(side: Side) -> Call:
    """Return captum's loop for expected gradients."""
    method = GradientShap(side.model)

    def explain(clips: Tensor) -> Tensor:
        maps = [
            method.attribute(
                clip, baselines=side.background, n_samples=50, stdevs=0.0, target=TARGET
            )
            for clip in clips.split(1)
        ]
        return torch.cat(maps).detach()

    return explain


def guided_gradcam(side: Side) -> Call:
    """Return captum's loop for guided Grad-CAM, with the planes turned to (freq, time)."""
    fine = GuidedBackprop(side.model)
    coarse = LayerGradCam(side.model, side.model.target_layer)

    def explain(clips: Tensor) -> Tensor:
        maps = []
        for clip in clips.split(1):
            given = clip.clone().requires_grad_()
            plane = coarse.attribute(given, TARGET).mT
            plane = LayerAttribution.interpolate(plane, clip.shape[2:], "bilinear")
            maps.append(fine.attribute(given, TARGET) * plane.clamp(min=0))
        return torch.cat(maps).detach()

    return explain


def deeplift(side: Side) -> Call:
    """Return captum's loop for DeepLIFT."""
    method = DeepLift(side.model)

    def explain(clips: Tensor) -> Tensor:
        maps = [
            method.attribute(
                clip.clone().requires_grad_(), torch.full_like(clip, FLOOR), target=TARGET
            )
            for clip in clips.split(1)
        ]
        return torch.cat(maps).detach()

    return explain


def fullgrad(side: Side) -> Call:
    """Return grad-cam's loop for FullGrad; of absolute values, its planes untransposed."""
    wanted = [ClassifierOutputTarget(TARGET)]

    def explain(clips: Tensor) -> Tensor:
        with FullGrad(side.model, []) as method:
            maps = [method(input_tensor=clip.clone(), targets=wanted) for clip in clips.split(1)]
        return torch.cat([torch.as_tensor(each) for each in maps])[:, None]

    return explain


PAIRS["input_gradient"] = Pair("captum", by_captum(InputXGradient), {"base": 0.0})
PAIRS["integrated_gradients"] = Pair(
    "captum",
    by_captum(IntegratedGradients, baselines=FLOOR, n_steps=64, method="riemann_middle"),
    {},
)
PAIRS["expected_gradients"] = Pair("captum", gradient_shap, {}, same=False)
PAIRS["smoothgrad"] = Pair("captum", noisy("smoothgrad"), {}, same=False)
PAIRS["smoothgrad_squared"] = Pair("captum", noisy("smoothgrad_sq"), {}, same=False)
PAIRS["vargrad"] = Pair("captum", noisy("vargrad"), {}, same=False)
PAIRS["guided_backprop"] = Pair("captum", by_captum(GuidedBackprop), {})
PAIRS["guided_gradcam"] = Pair("captum", guided_gradcam, {})
# captum has no rule for a maximum over time, and grad-cam takes absolute values.
PAIRS["deeplift"] = Pair("captum", deeplift, {}, same=False)
PAIRS["fullgrad"] = Pair("grad-cam", fullgrad, {}, same=False)


def peak_of(call: Callable[[], Any], device: torch.device) -> float | None:
    """Return the memory that a call takes at most beyond what was held, MiB; None if unknown."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        # What earlier calls have freed would serve this one without being counted.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far
        before = _resident("VmRSS")
        call()
        return (_resident("VmHWM") - before) / 1024
    except (OSError, AttributeError):  # another system, another C library
        return None


def _resident(kind: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1])
    raise OSError(f"no {kind} in /proc/self/status")


def measure(name: str, side: Side, clips: int, repeats: int) -> dict[str, Any]:
    """Time a pair, library and package in turn."""
    pair, given = PAIRS[name], side.features[:clips]
    calls = {
        "theirs": partial(pair.theirs(side), given),
        "ours": partial(pair.ours(name, side), given),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = {who: call() for who, call in calls.items()}
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(repeats):
            for who, call in calls.items():
                times[who].append(seconds(call, side.device) / clips)
        peaks = {who: peak_of(call, side.device) for who, call in calls.items()}
    row = {"pair": name, "library": pair.library, "clips": clips, "repeats": repeats}
    row |= {f"{who}_s": statistics.median(each) for who, each in times.items()}
    row["ratio"] = row["theirs_s"] / row["ours_s"]
    row |= {f"{who}_mib": peak for who, peak in peaks.items()}
    if peaks["ours"]:
        row["memory_ratio"] = peaks["theirs"] / peaks["ours"]
    if pair.same:
        change = (maps["ours"] - maps["theirs"]).abs().max() / maps["theirs"].abs().max()
        row["difference"] = change.item()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pair", action="append", choices=PAIRS, help="all by default")
    parser.add_argument("--width", type=float, default=0.25, help="of Cnn14")
    parser.add_argument("--front-end", default="LogMelSTFTSpectrogram", choices=FRONT_ENDS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = resolve_device(options.device)
    side = Side(options.width, options.front_end, device)
    print(f"{describe(device)}, Cnn14 at width {options.width:g}", flush=True)
    for name in options.pair or PAIRS:
        print(json.dumps(measure(name, side, options.clips, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
