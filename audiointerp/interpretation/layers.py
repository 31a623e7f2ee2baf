"""Shared parts of class activation maps: layers, their planes, and resizing to the cells.

A new class activation map is a subclass of `GradientCAM` or `ForwardCAM` that says how a layer's
channels are weighed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import (
    Explanation,
    Interpreter,
    as_view,
    choose_target,
    evaluating,
    pick,
)
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.processing import View

Layers = nn.Module | str | Sequence[nn.Module | str] | None
"""Layers of a network, as methods take them: modules, dotted names, or None for the default."""


class ClassActivationMap(Interpreter):
    """A method that shows a layer's activations, weighed by what they are for the class.

    Activations become planes (batch, channels, freq, time) by `Classifier.to_plane`: a model says
    in its ``activation_axes`` what its axes are, as PANNs do, which keep (time, freq). One-
    dimensional activations and tokens of patches have planes too. The map of a layer is laid
    on the cells by `Classifier.to_cells`: bilinear, unless the network says where its units lie.

    The papers end with a ReLU, and libraries scale the map to [0, 1] by its minimum and maximum
    after it. Neither is done: evidence against the class stays visible, 0 stays 0, and
    ``attribution.clamp(min=0)`` gives the map of the paper. Where the weights of a method are never
    negative, its map is negative only where the activations are, so nowhere after a ReLU.

    With several layers each layer's map is divided by its largest absolute value before the mean,
    so that none drowns the others.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    target_layers : Module, str, or sequence of them, optional
        Layers of the network, each used once per forward pass: the modules or their dotted names,
        e.g. ``"base.conv_block4"``. Default: the network's ``target_layer``.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If a layer is not in the model, none is given and the model names none, or (in `attribute`)
        a layer does not run exactly once, its activation's axes are not known, or only tokens
        without a place count behind it.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = None,
        *,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.target_layers = find_layers(self.classifier.network, target_layers)

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say why a classifier has no layer to look at by default; see `Interpreter`."""
        return missing_layer(classifier)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {"target_layers": list(self.target_layers)}

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
        maps, target = self._layer_maps(model, layers, view, target)
        maps = [
            self.classifier.to_cells(name, each, view)
            for name, each in zip(layers, maps, strict=True)
        ]
        if len(maps) > 1:
            maps = [each / _largest(each) for each in maps]
        return torch.stack(maps).mean(0), target

    @abstractmethod
    def _layer_maps(
        self,
        model: Classifier,
        layers: dict[str, nn.Module],
        view: View,
        target: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return each layer's map (batch, 1, freq, time) in its own size, and the classes."""

    def _plane(self, layer: str, activation: Tensor, view: View) -> Tensor:
        """Return a layer's activation as planes, in the cells' precision whatever the network's."""
        # By the classifier itself: in a fast copy some layers are of another type.
        return planes_of(self.classifier, layer, activation.detach().to(view.cells), len(view))


class GradientCAM(ClassActivationMap):
    """A class activation map by gradients of a score with respect to the activations.

    One forward pass and one backward pass from the first of the layers on, whatever their number.
    A subclass gives `_weigh`, and `_score` where that is not the class's logit.
    """

    def _layer_maps(
        self,
        model: Classifier,
        layers: dict[str, nn.Module],
        view: View,
        target: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        with watching(layers) as seen:
            logits = model.logits(view.cells, view)
        target = choose_target(logits, target, len(view))
        activations = [only_output(name, seen.get(name, [])) for name in layers]
        # Clips do not depend on each other, so the gradient of the sum holds each clip's own.
        gradients = torch.autograd.grad(
            self._score(logits, target).sum(), activations, materialize_grads=True
        )
        maps = []
        for name, gradient, activation in zip(layers, gradients, activations, strict=True):
            slopes = self._plane(name, gradient, view)
            if gradient.any() and not slopes.any():
                raise ValueError(
                    f"the scores depend on the layer {name!r} through tokens only that have no "
                    "place in the plane, such as a class token: choose a layer before the last "
                    "attention, such as the norm that the last block begins with"
                )
            maps.append(self._weigh(slopes, self._plane(name, activation, view)))
        return maps, target

    def _score(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return what the gradient is taken of, shape (batch,)."""
        return pick(logits, target)

    @abstractmethod
    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        """Return the map (batch, 1, freq, time) of gradients and planes (batch, channels, ., .)."""


@dataclass(frozen=True)
class Run:
    """A batch of clips that a classifier was run on.

    Attributes
    ----------
    model : Classifier
        Around the network that was run, which may be a fast copy.
    view : View
    target : Tensor of int64, shape (batch,)
        The classes explained.
    scores : Tensor, shape (batch,)
        Their logits.
    """

    model: Classifier
    view: View
    target: Tensor
    scores: Tensor


class ForwardCAM(ClassActivationMap):
    """A class activation map without gradients.

    A subclass gives `_weigh`, which may run the classifier on changed clips.
    """

    @torch.no_grad()
    def _layer_maps(
        self,
        model: Classifier,
        layers: dict[str, nn.Module],
        view: View,
        target: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        with watching(layers) as seen:
            logits = model.logits(view.cells, view)
        target = choose_target(logits, target, len(view))
        run = Run(model, view, target, pick(logits, target))
        activations = {name: only_output(name, seen.get(name, [])) for name in layers}
        maps = [
            self._weigh(run, name, self._plane(name, activation, view))
            for name, activation in activations.items()
        ]
        return maps, target

    @abstractmethod
    def _weigh(self, run: Run, layer: str, planes: Tensor) -> Tensor:
        """Return the map (batch, 1, freq, time) of a layer's planes (batch, channels, ., .)."""


def usable_layers(model: nn.Module, features: Tensor | View) -> dict[str, tuple[int, int]]:
    """Return the layers that class activation maps can look at, with the size of their planes.

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
    with evaluating(classifier.network), watching(watched) as seen:
        classifier.logits(view.cells, view)
    sizes = {}
    for name, outputs in seen.items():
        try:
            planes = planes_of(classifier, name, only_output(name, outputs), len(view))
        except ValueError:
            continue
        if planes[0, 0].numel() > 1:
            sizes[name] = (planes.shape[2], planes.shape[3])
    return sizes


def missing_layer(classifier: Classifier) -> str:
    """Say that a classifier's network names no layer to look at by default, "" where it does."""
    try:
        find_layers(classifier.network, None)
    except ValueError as error:
        return str(error)
    return ""


def find_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """Return the layers of a model by their dotted names.

    Raises
    ------
    ValueError
        If one is not in the model or cannot be watched, none is given, or the model names none.
    """
    if layers is None:
        if not isinstance(getattr(model, "target_layer", None), nn.Module):
            raise ValueError(
                f"{type(model).__name__} names no target_layer: say which layers to look "
                "at, e.g. target_layers=['layer4'] or [model.layer4]"
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
def watching(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
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
            if not isinstance(output, tuple):
                return going_on
            # A named tuple stays one: what follows may ask for its fields.
            return getattr(output, "_make", tuple)((going_on, *rest))

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def only_output(name: str, outputs: list[Any]) -> Tensor:
    """Return the one activation of a layer.

    Raises
    ------
    ValueError
        If the layer gave another number of outputs, or something else than a tensor.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"the layer {name!r} ran {len(outputs)} times in one forward pass, expected "
            "exactly one: choose another layer"
        )
    if not isinstance(outputs[0], Tensor):
        raise ValueError(
            f"the layer {name!r} must give activations over time or frequency, got "
            f"{type(outputs[0]).__name__}: choose a convolution block or its activation"
        )
    return outputs[0]


def planes_of(model: Classifier, name: str, activation: Tensor, batch: int) -> Tensor:
    """Return a layer's activation as planes (batch, channels, freq, time), one for each clip.

    Raises
    ------
    ValueError
        If its axes are not known, or it has planes for another number of clips.
    """
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
