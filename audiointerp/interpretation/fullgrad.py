"""FullGrad: the input's gradient and those of every layer's bias, which add up to the logit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from audiointerp.device import to_double
from audiointerp.interpretation.additivity import (
    ROUNDING,
    RewritingInterpreter,
    Scores,
    sum_residual,
)
from audiointerp.interpretation.base import METHODS, Explanation, choose_target, pick
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.rescale import ELEMENTWISE, LINEAR
from audiointerp.interpretation.versions import accumulated
from audiointerp.model.classifier import Classifier
from audiointerp.model.planes import to_plane
from audiointerp.processing import View

_WITH_BIAS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


@METHODS.register("fullgrad")
class FullGradInterpreter(RewritingInterpreter):
    """FullGrad: X·∂f/∂X and, of every layer, b·∂f/∂b laid out over time and frequency.

    The logit f of a network of linear layers and ReLUs is X·∂f/∂X + Σ b·∂f/∂b, the sum over all
    cells and all biases b. Batch norms count with the bias that they amount to in evaluation
    mode, shift - mean·scale, and other activations η with η(z) - η'(z)·z, so the sum holds for them
    too. A bias that is added in every place of a plane has a term in each of these; the terms of a
    layer are summed over its channels, brought to planes by `Classifier.to_plane` and resized to
    the cells, linearly, so that their sum stays the same.

    The map is signed and adds up. The published one takes the absolute value of each layer's
    terms, rescales it to [0, 1] and adds these up, after which neither the sum nor the sign means
    anything, and with cells in decibels the large terms of the input and of the first batch norm,
    which cancel, both count.

    Biases without a place, those of layers after time and frequency are gone, are left out of the
    map. The diagnostics of `explain` are ``"unplaced"``, their sum, and ``"residual"``, by how much
    map and unplaced terms together miss f (see
    `audiointerp.interpretation.additivity.sum_residual`); above 1 % there is an
    `AdditivityWarning`, or an error if a part of the network is to blame.

    For a network that takes a waveform w, w·∂f/∂w is spread over the cells by their complex STFTs,
    as SHAP's values against silence are.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`. Nonlinearities may be layers or functions as for SHAP, see
        `audiointerp.interpretation.rewrite`; constants must be added by a layer.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    UnsupportedLayerError, AdditivityError
        In `attribute`, if the network has an operation whose bias is not known.
    ValueError
        In `attribute`, if a layer's axes are not known: declare ``activation_axes``; or the front
        end of a waveform network does not say how contributions are spread over cells.

    References
    ----------
    S. Srinivas, F. Fleuret, "Full-Gradient Representation for Neural Network Visualization",
    NeurIPS 2019.
    """

    name = "fullgrad"
    facts = Facts(
        family="gradient",
        passes="2 forward, 1 backward",
        source="Srinivas and Fleuret, NeurIPS 2019",
        fails="A bias says what the network assumes of any clip, and its terms lie where it is "
        "used, not where there is sound",
        sums_to="f_c(x) less `unplaced`, the terms of biases without a place",
    )
    rule = "FullGrad"
    values = "FullGrad terms"
    sum_ = "f(x)"
    advice = (
        "Constants must be added by a layer (nn.BatchNorm2d instead of `(x - mean) / std`), and a "
        "nonlinearity must be a layer where torch.fx cannot trace the network"
    )

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        rewritten = self._rewrite(model.network, view[:1])
        own = self._own_logits(model, rewritten, view)
        with _bias_terms(Scores(model.with_network(rewritten.network))) as terms:
            parts = [self._terms(terms, model, *part) for part in self._in_batches(view, target)]
        total, unplaced, logits, target, size = (
            torch.cat(each) for each in zip(*parts, strict=True)
        )
        self._check_same(own, logits, rewritten)
        here = to_double(pick(logits, target))
        sum_ = to_double(total.sum((1, 2, 3)) + unplaced)
        residual = sum_residual(sum_, here, torch.zeros_like(here)[None])
        far = (sum_ - here).abs() > ROUNDING * to_double(size)
        self._check_sum(residual, far, view.cells.device)
        diagnostics = {"unplaced": unplaced, "residual": residual}
        return Explanation(total.to(view.cells), target, diagnostics)

    def _terms(
        self, terms: _BiasTerms, model: Classifier, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return a batch's maps, unplaced sums, logits, classes, and the size of what is summed."""
        kind = accumulated(view.cells.dtype)
        total = torch.zeros_like(view.cells, dtype=kind)
        unplaced = total.new_zeros(len(view))
        size = total.new_zeros(len(view))

        def add(name: str, layer: nn.Module, found: Tensor) -> None:
            found = found.to(kind)
            size.add_(found.reshape(len(view), -1).sum(1).abs())
            if found.ndim < 3:
                unplaced.add_(found.reshape(len(view), -1).sum(1))
                return
            plane = self._plane(name, layer, found)
            if len(plane) != len(view):
                raise ValueError(
                    f"the layer {name!r} gives planes for {len(plane)} clips instead of "
                    f"{len(view)}: does the model put frames of a clip into the batch axis? Then "
                    "declare activation_axes, see audiointerp.model.planes.frames_to_plane"
                )
            total.add_(spread(plane.sum(1, keepdim=True), view.cells.shape[2:]))

        given = model.network_input(view.cells, view).detach().requires_grad_()
        terms.add = add
        logits = terms.scores(given)
        target = choose_target(logits, target, len(view))
        (gradient,) = torch.autograd.grad(pick(logits, target).sum(), given)
        share = model.contributions(gradient, view, self._nothing(view)).to(kind)
        size.add_(share.sum((1, 2, 3)).abs())
        return total.add_(share), unplaced, logits.detach(), target, size

    def _nothing(self, view: View) -> View:
        """Return clips whose every value is 0, for the cells' or the waveform's own terms."""
        if not self.classifier.needs_view:
            return View(torch.zeros_like(view.cells))
        zeros = torch.zeros_like(view.waveform), torch.zeros_like(view.context)
        return View(view.cells, *zeros)

    def _plane(self, name: str, layer: nn.Module, found: Tensor) -> Tensor:
        """Return a layer's terms as planes (batch, channels, freq, time)."""
        # By the layer as the model has it: in a fast copy some are of another type.
        if name in dict(self.classifier.network.named_modules()):
            return self.classifier.to_plane(name, found)
        axes = self.classifier.activation_axes
        axes = getattr(self.classifier.network, "activation_axes", None) if axes is None else axes
        return to_plane(found, axes, layer=name, module=layer)


class _BiasTerms:
    """The terms b·∂f/∂b of every layer of a network, as a backward pass computes them.

    Attributes
    ----------
    scores : Module
        Input to logits.
    add : callable
        ``add(name, layer, terms)`` is given each layer's terms, of its activation's shape.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.add: Any = None
        self._biases: dict[nn.Module, Tensor | None] = {}

    def before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        # The layer may overwrite what it is given.
        self._biases[layer] = _bias(layer, inputs[0])

    def after(self, name: str, layer: nn.Module, output: Tensor) -> None:
        bias = self._biases.pop(layer)
        if bias is not None and output.requires_grad:
            add = self.add
            # A hook gets the gradient of the output as the layer leaves it, whatever overwrites
            # it later, and frees it at once.
            output.register_hook(lambda gradient: add(name, layer, (gradient * bias).detach()))


@contextmanager
def _bias_terms(scores: Scores) -> Iterator[_BiasTerms]:
    """Watch the layers of a network that can have a bias."""
    terms = _BiasTerms(scores)
    handles = []
    network = scores.model.network
    names = {layer: name for name, layer in network.named_modules()}
    names[scores.model.inverse] = "inverse"
    try:
        for layer, name in names.items():
            if _can_have_bias(layer):
                handles.append(layer.register_forward_pre_hook(terms.before))
                handles.append(
                    layer.register_forward_hook(
                        lambda layer, inputs, output, name=name: terms.after(name, layer, output)
                    )
                )
        yield terms
    finally:
        for handle in handles:
            handle.remove()


def _can_have_bias(layer: nn.Module) -> bool:
    if type(layer) in ELEMENTWISE or isinstance(layer, LINEAR):
        return True
    # Of a fast copy: batch norms as scale and shift.
    own = type(layer).__module__.startswith("audiointerp.speed.")
    return own and not any(layer.children())


def _bias(layer: nn.Module, x: Tensor) -> Tensor | None:
    """Return what a layer adds to what is proportional to its input, None for nothing.

    Broadcasts to the layer's output.
    """
    if type(layer) in ELEMENTWISE:
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            # A clone, as the layer may overwrite it.
            out = layer.forward(point.clone())
            (slope,) = torch.autograd.grad(out.sum(), point)
        return out.detach() - slope * point.detach()
    if isinstance(layer, _WITH_BIAS):
        if layer.bias is None:
            return None
        axes = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
        return layer.bias.detach().reshape(-1, *[1] * axes)
    with torch.no_grad():
        bias = layer.forward(torch.zeros_like(x[:1]))
    return bias if bias.any() else None


def spread(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize planes linearly so that each value is spread over the cells near it.

    Parameters
    ----------
    plane : Tensor, shape (batch, 1, rows, columns)
    size : (int, int)
        Rows and columns of the cells.

    Returns
    -------
    Tensor, shape (batch, 1, *size)
        With the sum of the plane.
    """
    over_rows, over_columns = (
        _shares(count, wanted, plane) for count, wanted in zip(plane.shape[2:], size, strict=True)
    )
    return over_rows.mT @ plane @ over_columns


def _shares(count: int, wanted: int, like: Tensor) -> Tensor:
    """Return what each of `wanted` cells gets of each of `count` values, whose shares sum to 1."""
    few = min(count, wanted)
    axis = torch.eye(few, dtype=like.dtype, device=like.device)[None]
    weights = interpolate(axis, size=max(count, wanted), mode="linear", align_corners=False)[0]
    shares = weights if wanted >= count else weights.mT
    return shares / shares.sum(1, keepdim=True)
