"""Grad-CAM: a layer's activations, weighted by the class's mean gradient in each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import METHODS, choose_target
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.layers import GradientCAM, Layers
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View

_BACKENDS = ("autograd", "grad-cam")


@METHODS.register("gradcam")
class GradCAMInterpreter(GradientCAM):
    """Signed Grad-CAM, Σ_k w_k·A_k with w_k the mean over the map of ∂logit_c/∂A_k.

    Unlike the original there is no ReLU, so evidence against the class stays visible;
    ``attribution.clamp(min=0)`` gives the original. See `ClassActivationMap` for the layers.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    backend : {"autograd", "grad-cam"}, default "autograd"
        The gradient taken here, from the layer on only, or by the grad-cam library, which runs the
        whole network twice and takes activations (batch, channels, ., .) only. The maps are the
        same.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `ClassActivationMap` does, or if the backend is unknown.

    References
    ----------
    R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2 (without its ReLU).
    """

    name = "gradcam"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Selvaraju et al., ICCV 2017",
        fails="As coarse as the layer's plane; one weight a channel, so a channel that speaks for "
        "the class in one place and against it in another is blurred",
    )

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = None,
        *,
        backend: str = "autograd",
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(
            model, target_layers, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )
        if backend not in _BACKENDS:
            raise ValueError(
                f"unknown Grad-CAM backend {backend!r}: choose from {', '.join(_BACKENDS)}"
            )
        self.backend = backend

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        settings = super().settings()
        return settings if self.backend == "autograd" else settings | {"backend": self.backend}

    def _layer_maps(
        self,
        model: Classifier,
        layers: dict[str, nn.Module],
        view: View,
        target: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        if self.backend == "autograd":
            return super()._layer_maps(model, layers, view, target)
        return _layer_maps_by_library(model, self.classifier, layers, view, target)

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        return weigh_by_mean(gradients, planes)


def weigh_by_mean(gradients: Tensor, planes: Tensor) -> Tensor:
    """Return Grad-CAM's map: each channel's plane times its mean gradient, summed.

    Parameters
    ----------
    gradients, planes : Tensor, shape (batch, channels, freq, time)

    Returns
    -------
    Tensor, shape (batch, 1, freq, time)
    """
    return (gradients.mean((2, 3), keepdim=True) * planes).sum(1, keepdim=True)


def _layer_maps_by_library(
    model: Classifier,
    described: Classifier,
    layers: dict[str, nn.Module],
    view: View,
    target: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with torch.no_grad():
        target = choose_target(model.logits(view.cells, view), target, len(view))
    wanted = [ClassifierOutputTarget(index) for index in target.tolist()]
    # The model's parameters are frozen: the gradient starts at the input.
    features = view.cells.detach().requires_grad_()
    modules = list(layers.values())
    with GradCAM(model=_OnView(model, view), target_layers=modules) as cam:
        cam(input_tensor=features, targets=wanted)
        seen = cam.activations_and_grads
        maps = [
            cam.get_cam_image(features, layer, wanted, activation.numpy(), gradient.numpy())
            for layer, activation, gradient in zip(
                modules, seen.activations, seen.gradients, strict=True
            )
        ]
    maps = [torch.as_tensor(each).to(features.detach())[:, None] for each in maps]
    return [described.to_plane(name, each) for name, each in zip(layers, maps, strict=True)], target


class _OnView(nn.Module):
    """A classifier of the clips of one view: cells to logits."""

    def __init__(self, model: Classifier, view: View) -> None:
        super().__init__()
        self.model = model
        self.view = view

    def forward(self, cells: Tensor) -> Tensor:
        return self.model.logits(cells, self.view)
