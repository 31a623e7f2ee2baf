"""Grad-CAM: a layer's activations, weighted by the class's mean gradient in each channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    choose_target,
    pick,
)

_BACKENDS = ("autograd", "grad-cam")
_AXES = (("freq", "time"), ("time", "freq"))


@METHODS.register("gradcam")
class GradCAMInterpreter(Interpreter):
    """Signed Grad-CAM, Σ_k w_k·A_k with w_k the mean over the map of ∂logit_c/∂A_k.

    The map is resized bilinearly to (freq, time). Activations whose last two axes are (time, freq),
    as in PANNs, are transposed first: the model says so in its ``activation_axes``; a model without
    that attribute is taken to keep (freq, time). Unlike the original there is no ReLU, so evidence
    against the class stays visible; ``attribution.clamp(min=0)`` gives the original.

    With several layers each layer's map is divided by its largest absolute value before the mean,
    so that none drowns the others.

    Parameters
    ----------
    model : Module
        Maps features (batch, 1, freq, time) to logits (batch, classes).
    target_layers : Module, str, or sequence of them, optional
        Layers with activations (batch, channels, ., .), each used once per forward pass: the
        modules or their dotted names, e.g. ``"base.conv_block4"``. Default: ``model.target_layer``.
    backend : {"autograd", "grad-cam"}, default "autograd"
        The gradient taken here, from the layer on only, or by the grad-cam library, which runs the
        whole network twice. The maps are the same.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If a layer is not in the model, none is given and the model names none, or (in `attribute`)
        a layer does not run exactly once or gives no (batch, channels, ., .) activations, or the
        backend is unknown.

    References
    ----------
    R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2 (without its ReLU).
    """

    name = "gradcam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        backend: str = "autograd",
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        if backend not in _BACKENDS:
            raise ValueError(
                f"unknown Grad-CAM backend {backend!r}: choose from {', '.join(_BACKENDS)}"
            )
        self.backend = backend
        self.target_layers = _find_layers(model, target_layers)
        self.activation_axes = tuple(getattr(model, "activation_axes", ("freq", "time")))
        if self.activation_axes not in _AXES:
            raise ValueError(
                f"model.activation_axes must be one of {_AXES}, got {self.activation_axes}"
            )

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        settings = super().settings() | {"target_layers": list(self.target_layers)}
        return settings if self.backend == "autograd" else settings | {"backend": self.backend}

    def _explain(self, features: Tensor, target: Tensor | None) -> Explanation:
        model = self._fast_model(keep=self.target_layers)
        layers = {name: model.get_submodule(name) for name in self.target_layers}
        parts = [self._maps(model, layers, *part) for part in self._in_batches(features, target)]
        maps, targets = zip(*parts, strict=True)
        return Explanation(torch.cat(maps), torch.cat(targets))

    def _maps(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        features: Tensor,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return a batch's maps, resized to its features, and the classes explained."""
        layer_maps = _layer_maps if self.backend == "autograd" else _layer_maps_by_library
        maps, target = layer_maps(model, layers, features, target)
        if self.activation_axes == ("time", "freq"):
            maps = [each.transpose(2, 3) for each in maps]
        maps = [
            interpolate(each, size=features.shape[2:], mode="bilinear", align_corners=False)
            for each in maps
        ]
        if len(maps) > 1:
            maps = [each / _largest(each) for each in maps]
        return torch.stack(maps).mean(0), target


def _layer_maps(
    model: nn.Module, layers: dict[str, nn.Module], features: Tensor, target: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """Return each layer's map (batch, 1, ., .), in its own size, and the classes explained."""
    with _watching(layers) as seen:
        logits = model(features)
        target = choose_target(logits, target, len(features))
        activations = [_only(name, seen[name], len(features)) for name in layers]
        gradients = torch.autograd.grad(
            pick(logits, target).sum(), activations, materialize_grads=True
        )
    # In the features' precision, whichever the network computes in.
    maps = [
        (gradient.to(features).mean((2, 3), keepdim=True) * activation.detach().to(features)).sum(
            1, keepdim=True
        )
        for gradient, activation in zip(gradients, activations, strict=True)
    ]
    return maps, target


def _layer_maps_by_library(
    model: nn.Module, layers: dict[str, nn.Module], features: Tensor, target: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with torch.no_grad():
        target = choose_target(model(features), target, len(features))
    wanted = [ClassifierOutputTarget(index) for index in target.tolist()]
    # The model's parameters are frozen: the gradient starts at the input.
    features = features.detach().requires_grad_()
    modules = list(layers.values())
    with GradCAM(model=model, target_layers=modules) as cam:
        cam(input_tensor=features, targets=wanted)
        seen = cam.activations_and_grads
        maps = [
            cam.get_cam_image(features, layer, wanted, activation.numpy(), gradient.numpy())
            for layer, activation, gradient in zip(
                modules, seen.activations, seen.gradients, strict=True
            )
        ]
    return [torch.as_tensor(each).to(features.detach())[:, None] for each in maps], target


def _find_layers(
    model: nn.Module, layers: nn.Module | str | Sequence[nn.Module | str] | None
) -> dict[str, nn.Module]:
    """Return the layers by their dotted names."""
    if layers is None:
        if not isinstance(getattr(model, "target_layer", None), nn.Module):
            raise ValueError(
                f"{type(model).__name__} names no target_layer: say which layers Grad-CAM shall "
                "look at, e.g. target_layers=['layer4'] or [model.layer4]"
            )
        layers = model.target_layer
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, nn.Module] = {}
    for layer in layers:
        if isinstance(layer, str):
            try:
                layer = model.get_submodule(layer)
            except AttributeError as error:
                raise ValueError(
                    f"the model has no layer {layer!r} ({error}); it has {_some(names.values())}"
                ) from None
        if layer not in names:
            raise ValueError(
                f"the layer {layer!r} is not part of the model: is it from a copy or another model?"
            )
        found[names[layer]] = layer
    if not found:
        raise ValueError("target_layers is empty: give at least one layer, or None for the default")
    return found


def _some(names: Any, most: int = 30) -> str:
    shown = [name for name in names if name]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")


@contextmanager
def _watching(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Collect the layers' outputs, as tensors that a gradient can be taken for."""
    seen: dict[str, list[Any]] = {name: [] for name in layers}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, Tensor) and output.is_floating_point():
                # The graph starts at the first layer watched: nothing before it needs a gradient.
                output = output if output.requires_grad else output.detach().requires_grad_()
            seen[name].append(output)
            # A clone goes on, so that a later in-place operation cannot change what was seen.
            return output.clone() if isinstance(output, Tensor) else output

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _only(name: str, outputs: list[Any], batch: int) -> Tensor:
    """Return the one activation of a layer, checked."""
    if len(outputs) != 1:
        raise ValueError(
            f"the layer {name!r} ran {len(outputs)} times in one forward pass, Grad-CAM needs "
            "exactly one: choose another layer"
        )
    output = outputs[0]
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != batch:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the layer {name!r} must give activations ({batch}, channels, ., .), got {got}: "
            "choose a convolution block or its activation"
        )
    return output


def _largest(maps: Tensor) -> Tensor:
    """Return each map's largest absolute value, 1 where a map is all zero."""
    largest = maps.abs().amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, largest, torch.ones_like(largest))
