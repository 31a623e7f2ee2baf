"""What trained interpreters share: a decoder of the network's activations, and where it is from."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import (
    Explanation,
    Interpreter,
    as_view,
    choose_target,
    pick,
)
from audiointerp.interpretation.gradcam import (
    _find_layers,
    _only,
    _plane,
    _watching,
    usable_layers,
)
from audiointerp.model.classifier import Classifier
from audiointerp.model.weights import model_hash
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
    with torch.set_grad_enabled(gradient), _watching(_modules(model, layers)) as seen:
        logits = model.logits(view.cells, view)
        target = choose(logits.detach())
        activations = [_only(name, seen.get(name, [])) for name in layers]
        slope = None
        if gradient:
            (slope,) = torch.autograd.grad(
                pick(logits, target).sum(), activations[-1:], materialize_grads=True
            )

    def plane(name: str, activation: Tensor) -> Tensor:
        return _plane(described, name, activation.detach().to(view.cells), len(view))

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


class TrainedInterpreter(Interpreter):
    """A method that makes masks by a decoder that was trained for the classifier.

    A subclass gives `decoder_type` and `_masks`. The map is the mask itself, in [0, 1].

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    weights : path or Decoder, optional
        The decoder's weight file, which must be of this very classifier; by default the file
        ``<classifier's file>_<method>.safetensors`` beside the classifier's own. Or a decoder,
        which is taken as it is, without looking at what classifier it was trained for.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Attributes
    ----------
    decoder : Decoder

    Raises
    ------
    WeightsError
        If there is no such file, it is damaged, or of another method, classifier or front end.
    ValueError
        If the network has no layers of the names that the decoder reads.
    """

    kind = "mask"
    requires = frozenset({"weights"})
    decoder_type: ClassVar[type[Decoder]]

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: str | os.PathLike[str] | Decoder | None = None,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        if isinstance(weights, Decoder):
            if not isinstance(weights, self.decoder_type):
                raise ValueError(
                    f"a decoder of {weights.method} cannot make the masks of {self.name}: expected "
                    f"a {self.decoder_type.__name__}"
                )
            self.decoder = weights
        else:
            from audiointerp.interpretation.trained.files import read_decoder, weights_path

            path = weights_path(self.classifier, self.name) if weights is None else Path(weights)
            self.decoder = read_decoder(path, self.classifier, self.name).decoder
        self.layers = tuple(_find_layers(self.classifier.network, self.decoder.layers))

    def settings(self) -> dict[str, Any]:
        """Return the method's name, its decoder's settings and a hash of its weights, for JSON."""
        return super().settings() | {
            "decoder": self.decoder.settings(),
            "decoder_hash": model_hash(self.decoder),
        }

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier(keep=self.layers)
        # A copy in the cells' precision, so that the decoder is left as it is.
        decoder = copy.deepcopy(self.decoder).to(view.cells).eval().requires_grad_(False)
        parts = [self._masks(model, decoder, *part) for part in self._in_batches(view, target)]
        masks, targets, diagnostics = zip(*parts, strict=True)
        joined = {name: torch.cat([each[name] for each in diagnostics]) for name in diagnostics[0]}
        mask = torch.cat(masks).to(view.cells).clamp(0, 1)
        return Explanation(mask, torch.cat(targets), joined)

    @abstractmethod
    def _masks(
        self, model: Classifier, decoder: Decoder, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the masks of a batch, the classes explained, and diagnostics (batch,) by name."""

    def _observe(
        self, model: Classifier, view: View, target: Tensor | None, *, gradient: bool = False
    ) -> Observation:
        """Return what the decoder's layers did, for the classes wanted or the predicted ones."""
        return observe(
            model,
            self.classifier,
            self.layers,
            view,
            lambda logits: choose_target(logits, target, len(view)),
            gradient=gradient,
        )


def _modules(model: Classifier, layers: Sequence[str]) -> dict[str, nn.Module]:
    return {name: model.network.get_submodule(name) for name in layers}
