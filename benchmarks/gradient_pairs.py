"""Gradient methods next to captum's, and FullGrad next to grad-cam's."""

from __future__ import annotations

from collections.abc import Callable
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
from pairs import FLOOR, PAIRS, TARGET, Call, Pair
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sides import Side
from torch import Tensor


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
            plane = LayerAttribution.interpolate(plane.clamp(min=0), clip.shape[2:], "bilinear")
            maps.append(fine.attribute(given, TARGET) * plane)
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
