"""Grad-CAM: a layer's activations, weighted by the class's mean gradient in each channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    as_view,
    choose_target,
    evaluating,
    pick,
)
from audiointerp.interpretation.facts import Facts
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.processing import View

_BACKENDS = ("autograd", "grad-cam")


@METHODS.register("gradcam")
class GradCAMInterpreter(Interpreter):
    """Signed Grad-CAM, Σ_k w_k·A_k with w_k the mean over the map of ∂logit_c/∂A_k.

    Activations become planes (batch, channels, freq, time) by `Classifier.to_plane`: a model says
    in its ``activation_axes`` what its axes are, as PANNs do, which keep (time, freq). One-
    dimensional activations and tokens of patches have planes too. The map is resized bilinearly
    to the cells. Unlike the original there is no ReLU, so evidence against the class stays
    visible; ``attribution.clamp(min=0)`` gives the original.

    With several layers each layer's map is divided by its largest absolute value before the mean,
    so that none drowns the others.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    target_layers : Module, str, or sequence of them, optional
        Layers of the network, each used once per forward pass: the modules or their dotted names,
        e.g. ``"base.conv_block4"``. Default: the network's ``target_layer``.
    backend : {"autograd", "grad-cam"}, default "autograd"
        The gradient taken here, from the layer on only, or by the grad-cam library, which runs the
        whole network twice and takes activations (batch, channels, ., .) only. The maps are the
        same.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If a layer is not in the model, none is given and the model names none, or (in `attribute`)
        a layer does not run exactly once or its activation's axes are not known, or the backend is
        unknown.

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
        self.target_layers = _find_layers(self.classifier.network, target_layers)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        settings = super().settings() | {"target_layers": list(self.target_layers)}
        return settings if self.backend == "autograd" else settings | {"backend": self.backend}

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier(keep=self.target_layers)
        layers = {name: model.network.get_submodule(name) for name in self.target_layers}
        parts = [self._maps(model, layers, *part) for part in self._in_batches(view, target)]
        maps, targets = zip(*parts, strict=True)
        return Explanation(torch.cat(maps), torch.cat(targets))

    def _maps(
        self,
        model: Classifier,
        layers: dict[str, nn.Module],
        view: View,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return a batch's maps, resized to its cells, and the classes explained."""
        layer_maps = _layer_maps if self.backend == "autograd" else _layer_maps_by_library
        # Planes by the classifier itself: in a fast copy some layers are of another type.
        maps, target = layer_maps(model, self.classifier, layers, view, target)
        maps = [
            interpolate(each, size=view.cells.shape[2:], mode="bilinear", align_corners=False)
            for each in maps
        ]
        if len(maps) > 1:
            maps = [each / _largest(each) for each in maps]
        return torch.stack(maps).mean(0), target


def usable_layers(model: nn.Module, features: Tensor | View) -> dict[str, tuple[int, int]]:
    """Return the layers that Grad-CAM can look at, with the size of their planes.

    Parameters
    ----------
    model : Classifier or Module
    features : Tensor, shape (batch, 1, freq, time), or View
        Any clips of the length that the model takes.

    Returns
    -------
    dict of str to (int, int)
        Rows over frequency and columns over time by the layer's dotted name, in the order in which
        the layers end. Layers that run once and give more than one cell.
    """
    classifier, view = as_classifier(model), as_view(features)
    layers = dict(classifier.network.named_modules())
    watched = {name: layer for name, layer in layers.items() if name and _can_watch(name, layers)}
    with evaluating(classifier.network), _watching(watched) as seen:
        classifier.logits(view.cells, view)
    sizes = {}
    for name, outputs in seen.items():
        try:
            plane = _plane(classifier, name, _only(name, outputs), len(view))
        except ValueError:
            continue
        if plane[0, 0].numel() > 1:
            sizes[name] = (plane.shape[2], plane.shape[3])
    return sizes


def _layer_maps(
    model: Classifier,
    described: Classifier,
    layers: dict[str, nn.Module],
    view: View,
    target: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Return each layer's map (batch, 1, freq, time) in its own size, and the classes."""
    with _watching(layers) as seen:
        logits = model.logits(view.cells, view)
        target = choose_target(logits, target, len(view))
        activations = [_only(name, seen.get(name, [])) for name in layers]
        gradients = torch.autograd.grad(
            pick(logits, target).sum(), activations, materialize_grads=True
        )
    maps = []
    for name, gradient, activation in zip(layers, gradients, activations, strict=True):
        # In the cells' precision, whichever the network computes in.
        weights, planes = (
            _plane(described, name, each.detach().to(view.cells), len(view))
            for each in (gradient, activation)
        )
        maps.append((weights.mean((2, 3), keepdim=True) * planes).sum(1, keepdim=True))
    return maps, target


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
    by_name = dict(model.named_modules(remove_duplicate=False))
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, nn.Module] = {}
    for layer in layers:
        if isinstance(layer, str):
            if layer not in by_name:
                there = _some(names.values())
                raise ValueError(f"the model has no layer {layer!r}; it has {there}")
            layer = by_name[layer]
        if layer not in names:
            raise ValueError(
                f"the layer {layer!r} is not part of the model: is it from a copy or another model?"
            )
        name = names[layer]
        if not _can_watch(name, by_name):
            raise ValueError(
                f"the layer {name!r} is TorchScript, which cannot be watched: choose a layer "
                "outside of it, or take the model that it was made of"
            )
        found[name] = layer
    if not found:
        raise ValueError("target_layers is empty: give at least one layer, or None for the default")
    return found


def _can_watch(name: str, layers: Mapping[str, nn.Module]) -> bool:
    """Say whether neither a layer nor a module around it is TorchScript, which takes no hooks."""
    while True:
        if isinstance(layers.get(name), torch.jit.ScriptModule):
            return False
        if not name:
            return True
        name = name.rpartition(".")[0]


def _some(names: Any, most: int = 30) -> str:
    shown = [name for name in names if name]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")


@contextmanager
def _watching(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Collect the layers' outputs, as tensors that a gradient can be taken for.

    By name, in the order in which they end; without those that do not run.
    """
    seen: dict[str, list[Any]] = {}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            # Blocks of transformers return a tuple that starts with the activation.
            first, *rest = output if isinstance(output, tuple) else (output,)
            if isinstance(first, Tensor) and first.is_floating_point():
                # The graph starts at the first layer watched: nothing before it needs a gradient.
                first = first if first.requires_grad else first.detach().requires_grad_()
            seen.setdefault(name, []).append(first)
            # A clone goes on, so that a later in-place operation cannot change what was seen.
            going_on = first.clone() if isinstance(first, Tensor) else first
            return (going_on, *rest) if isinstance(output, tuple) else going_on

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _only(name: str, outputs: list[Any]) -> Tensor:
    """Return the one activation of a layer."""
    if len(outputs) != 1:
        raise ValueError(
            f"the layer {name!r} ran {len(outputs)} times in one forward pass, Grad-CAM needs "
            "exactly one: choose another layer"
        )
    if not isinstance(outputs[0], Tensor):
        raise ValueError(
            f"the layer {name!r} must give activations over time or frequency, got "
            f"{type(outputs[0]).__name__}: choose a convolution block or its activation"
        )
    return outputs[0]


def _plane(model: Classifier, name: str, activation: Tensor, batch: int) -> Tensor:
    """Return a layer's activation as planes, one for each clip."""
    if activation.ndim < 3:
        raise ValueError(
            f"the layer {name!r} must give activations over time or frequency for {batch} clips, "
            f"got {tuple(activation.shape)}: choose a convolution block or its activation"
        )
    planes = model.to_plane(name, activation)
    if len(planes) != batch:
        raise ValueError(
            f"the layer {name!r} gives activations {tuple(activation.shape)}, planes for "
            f"{len(planes)} clips instead of {batch}: does the model put frames of a clip into "
            "the batch axis? Then declare activation_axes, see "
            "audiointerp.model.planes.frames_to_plane"
        )
    return planes


def _largest(maps: Tensor) -> Tensor:
    """Return each map's largest absolute value, 1 where a map is all zero."""
    largest = maps.abs().amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, largest, torch.ones_like(largest))
