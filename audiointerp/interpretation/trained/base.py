"""Decoders of a network's activations, and their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import as_view, pick
from audiointerp.interpretation.layers import (
    only_output,
    planes_of,
    usable_layers,
    watching,
)
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View

MOST_LAYERS = 6
"""Layers that a decoder reads unless it is told which."""


class Decoder(nn.Module, ABC):
    """A network that makes masks from another network's activations.

    Attributes
    ----------
    method : str
        Name of the method that it belongs to.
    layers : tuple of str
        Dotted names of the layers whose activations it takes, in the order in which they run.
    """

    method: ClassVar[str]
    layers: tuple[str, ...]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for JSON."""


@dataclass(frozen=True)
class Observation:
    """What a decoder is given of a batch of clips.

    Attributes
    ----------
    logits : Tensor, shape (batch, classes)
    target : Tensor of int64, shape (batch,)
        The classes to explain.
    planes : tuple of Tensor, shape (batch, channels, freq, time)
        The activations of the decoder's layers, each in its own size, detached.
    gradient : Tensor, shape (batch, channels, freq, time), or None
        Of the class's logit with respect to the last plane, where it was asked for.
    """

    logits: Tensor
    target: Tensor
    planes: tuple[Tensor, ...]
    gradient: Tensor | None = None


def observe(
    model: Classifier,
    described: Classifier,
    layers: Sequence[str],
    view: View,
    choose: Callable[[Tensor], Tensor],
    *,
    gradient: bool = False,
) -> Observation:
    """Run a network on a batch of clips and return what its layers did.

    Parameters
    ----------
    model : Classifier
        What is run: the classifier itself or a copy, in evaluation mode, its parameters frozen.
    described : Classifier
        What says which axes activations have.
    layers : sequence of str
    view : View
    choose : callable
        The classes to explain, (batch,), of the logits (batch, classes).
    gradient : bool
        Whether the gradient is wanted; gradients must be on then.

    Raises
    ------
    ValueError
        If a layer does not run exactly once or its activation has no known axes.
    """
    with torch.set_grad_enabled(gradient), watching(_modules(model, layers)) as seen:
        logits = model.logits(view.cells, view)
        target = choose(logits.detach())
        activations = [only_output(name, seen.get(name, [])) for name in layers]
        slope = None
        if gradient:
            (slope,) = torch.autograd.grad(
                pick(logits, target).sum(), activations[-1:], materialize_grads=True
            )

    def plane(name: str, activation: Tensor) -> Tensor:
        return planes_of(described, name, activation.detach().to(view.cells), len(view))

    planes = tuple(plane(*each) for each in zip(layers, activations, strict=True))
    return Observation(
        logits.detach(), target, planes, None if slope is None else plane(layers[-1], slope)
    )


def choose_layers(model: nn.Module, view: Tensor | View, *, most: int = MOST_LAYERS) -> list[str]:
    """Return the layers that a decoder reads by default: the last one of every size of plane.

    Parameters
    ----------
    model : Classifier or Module
    view : Tensor, shape (batch, 1, freq, time), or View
        Any clips of the length that the model takes.
    most : int
        How many layers at most, evenly over the sizes; the first and the last are among them.

    Returns
    -------
    list of str
        In the order in which they run. Of Cnn14 the last activation of each of its six blocks.

    Raises
    ------
    ValueError
        If no layer has planes.
    """
    sizes = {
        name: (freq, time)
        for name, (freq, time) in usable_layers(model, view).items()
        # A plane without time, or finer than the cells in frequency, is of other axes: that of
        # PANNs' bn0 has the bins as its channels.
        if time > 1 and freq <= as_view(view).cells.shape[2]
    }
    last = {size: name for name, size in sizes.items()}
    order = [name for name in sizes if name in last.values()]
    if not order:
        raise ValueError(
            "the network has no layer whose activations lie over time or frequency: a decoder has "
            "nothing to read"
        )
    if len(order) > most:
        places = torch.linspace(0, len(order) - 1, most).round().int().tolist()
        order = [order[place] for place in places]
    return order


def _modules(model: Classifier, layers: Sequence[str]) -> dict[str, nn.Module]:
    return {name: model.network.get_submodule(name) for name in layers}
