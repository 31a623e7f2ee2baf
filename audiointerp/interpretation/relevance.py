"""Layer-wise relevance propagation as a backward pass of its own.

The network runs in a `Propagation`, a mode of torch in which functions such as ``conv2d`` and
``relu`` have rules of relevance in place of their derivatives. One backward pass then carries the
relevance of a class's logit to the network's input. Rules belong to functions, not to modules, so a
network may call them as it likes: as layers or functions, once or several times, in place, with or
without control flow. An operation without a rule is refused by name.

A rule for layers with weights is a class with a method ``share``; a function without weights is one
entry of `ELEMENTWISE`, `MEANS` or `REARRANGING`, or a method of `Propagation`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from audiointerp.interpretation.rescale import UnsupportedLayerError

ELEMENTWISE: frozenset[str] = frozenset(
    {
        *("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish"),
        *("tanh", "hardswish", "hardtanh", "softsign", "softshrink", "hardshrink", "tanhshrink"),
        *("clamp", "clamp_min", "clamp_max", "clip", "neg", "negative"),
    }
)
"""Functions of one variable that relevance passes unchanged; refused where they are not 0 at 0."""

MEANS: frozenset[str] = frozenset(
    {
        *("mean", "sum", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
        *("interpolate", "upsample"),
    }
)
"""Weighted sums of activations with fixed weights: relevance goes in proportion to the terms."""

MAXIMA: frozenset[str] = frozenset(
    {
        *("max", "amax", "maximum", "max_pool1d", "max_pool2d"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d"),
    }
)
"""Maxima: the largest term takes all relevance."""

REARRANGING: frozenset[str] = frozenset(
    {
        *("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "squeeze"),
        *("unsqueeze", "permute", "transpose", "t", "movedim", "swapaxes", "contiguous", "clone"),
        *("expand", "expand_as", "repeat", "tile", "repeat_interleave", "chunk", "split"),
        *("split_with_sizes", "tensor_split", "unbind", "getitem", "narrow", "select"),
        *("index_select", "gather", "cat", "concat", "stack", "roll", "flip", "pad", "unfold"),
        *("to", "type_as", "type", "float", "double", "half", "bfloat16", "mT", "T"),
    }
)
"""Functions that only move values, or copy them: relevance moves back, that of copies adds up."""

_DROPOUT = frozenset(
    {"dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"}
)
_SCORES = frozenset({"matmul", "bmm", "softmax", "layer_norm", "group_norm"})
_NEW = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"})
_SAME_OPERATION = {
    **{"concatenate": "concat", "multiply": "mul", "divide": "div", "truediv": "div"},
    **{"true_divide": "div", "subtract": "sub", "swapdims": "swapaxes", "swish": "silu"},
}

# Nodes of autograd's graph that only move values, or give a maximum's relevance to the largest.
_HARMLESS = frozenset(
    {
        *("_Rule", "AccumulateGrad", "Alias", "AsStrided", "Cat", "Clone", "ConstantPadNd"),
        *("CopyBackwards", "CopySlices", "Expand", "Flip", "Gather", "Index", "IndexSelect"),
        *("Permute", "ReflectionPad1D", "ReflectionPad2D", "Repeat", "RepeatInterleave"),
        *("ReplicationPad1D", "ReplicationPad2D", "ReshapeAlias", "Roll", "Select", "Slice"),
        *("Split", "SplitWithSizes", "Squeeze", "Stack", "T", "ToCopy", "Transpose", "Unbind"),
        *("Unfold", "UnsafeView", "Unsqueeze", "View"),
        *("AdaptiveMaxPool2D", "Amax", "Max", "Maximum", "MaxPool2DWithIndices"),
    }
)

_REFERENCE, _LAYER = "_lrp_reference", "_lrp_layer"
"""Attributes of tensors inside a `Propagation`: what they are where the clip holds nothing, for
those between the input and the first layers; the layer that they come out of."""


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer as a function of its input and weight.

    Attributes
    ----------
    call : callable
        ``call(x, weight, bias)``.
    weight : Tensor
    bias : Tensor or None
    dense : bool
        Whether it is a dense layer and not a convolution.
    out_axis : int or None
        Axis of the weight that output channels are on; None where a batch norm cannot be merged.
    """

    call: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    dense: bool
    out_axis: int | None = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return self.call(x, self.weight, self.bias)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return its output with another weight and without the bias."""
        return self.call(x, weight, None)

    def scaled(self, scale: Tensor, shift: Tensor) -> Layer:
        """Return the layer whose output is this one's times scale plus shift, in each channel."""
        ones = [1] * (self.weight.ndim - 1)
        weight = self.weight * scale.reshape(-1, *ones)
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=weight, bias=bias.expand(len(weight)))

    def to(self, dtype: torch.dtype) -> Layer:
        """Return the layer with weights of a dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)


class Rule(Protocol):
    """How a layer's relevance is shared out among its inputs."""

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs.

        Parameters
        ----------
        layer : Layer
        relevance : Tensor
            Of the outputs.
        x : Tensor
            The inputs.
        reference : Tensor or None
            Inputs that stand for nothing: contributions are those of ``x - reference``, and what
            the reference alone puts out counts as bias. None for zeros.

        Returns
        -------
        Tensor
            Shaped like `x`.
        """


@dataclass(frozen=True)
class Epsilon:
    """R_i = Σ_j w_ij·x_i / (z_j + ε·sign(z_j)) · R_j, z the output with its bias.

    A bias keeps its share, and ε absorbs some of what weak outputs have. With ε → 0 and
    rectifiers between the layers it is the gradient times the input.

    Parameters
    ----------
    epsilon : float, default 1e-6
        In units of the outputs; above 0.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_number("epsilon", self.epsilon, zero=False)

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = layer(x)
        (back,) = torch.autograd.grad(out, x, relevance / _stable(out.detach(), self.epsilon))
        return _change(x.detach(), reference) * back


@dataclass(frozen=True)
class Gamma:
    """The ε rule with ε = 0 and what has the output's sign (1 + γ) times as large.

    R_i = Σ_j c_ij / Σ_i c_ij · R_j, where c_ij is w_ij·x_i, or (1 + γ)·w_ij·x_i if that has the
    sign of the output z_j; a bias, which is part of the sum, is enlarged alike. The sum has the
    output's sign and at least its size, so relevance is stable. Inputs may have both signs, as in
    zennit's generalised rule.

    Parameters
    ----------
    gamma : float, default 0.25
        At least 0. The larger, the more like `ZPlus`; 0 is LRP-0.
    conserves : bool, default False
        Whether the share of a bias goes to the inputs, by the size of their c_ij: relevance is then
        conserved exactly, and inputs of 0 get none of it. Where nothing contributes, relevance is
        spread evenly. By default the bias keeps it.
    """

    gamma: float = 0.25
    conserves: bool = False

    def __post_init__(self) -> None:
        _check_number("gamma", self.gamma, zero=True)

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        change = _change(x, reference)
        out = layer(x)
        terms = {sign: _put_out(layer, _signed_terms(layer, change, sign)) for sign in (1, -1)}
        totals = {sign: _total(each, out) for sign, each in terms.items()}
        bias = out - totals[1] - totals[-1]
        found = torch.zeros_like(x)
        weights = {sign: torch.zeros_like(out) for sign in terms}
        for side in terms:
            here = side * out > 0
            more = {sign: 1 + self.gamma * (sign == side) for sign in terms}
            own = bias + self.gamma * side * (side * bias).clamp(min=0)
            total = more[1] * totals[1] + more[-1] * totals[-1] + own
            share = relevance / _stable(total, _tiny(total))
            size = more[1] * totals[1] - more[-1] * totals[-1]
            for sign in terms:
                factor = 1 + sign * own / _stable(size, _tiny(size)) if self.conserves else 1
                used = here & (size > 0) if self.conserves else here
                weights[sign] += torch.where(used, share * more[sign] * factor, 0)
            if self.conserves:
                alone = here & (size == 0)
                found += _share_evenly(layer, torch.where(alone, relevance, 0), x)
        if self.conserves:
            found += _share_evenly(layer, torch.where(out == 0, relevance, 0), x)
        for sign, each in terms.items():
            found += _back(each, weights[sign], x)
        return found


@dataclass(frozen=True)
class ZPlus:
    """R_i = Σ_j (w_ij·x_i)⁺ / Σ_i (w_ij·x_i)⁺ · R_j: only positive contributions count.

    Biases take no share. Where nothing contributes positively, an output's relevance is spread
    evenly over its inputs, so that relevance is conserved exactly.
    """

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        terms = _signed_terms(layer, _change(x, reference), 1)
        return _share_terms(layer, terms, relevance, x)


@dataclass(frozen=True)
class WSquare:
    """R_i = Σ_j w_ij² / Σ_i w_ij² · R_j: by the weights, whatever the inputs are. Conserves."""

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        return _share_terms(layer, [(torch.ones_like(x), layer.weight.square())], relevance, x)


@dataclass(frozen=True)
class Flat:
    """R_i = Σ_j 1/n_j · R_j: evenly over the n_j inputs that an output sees. Conserves."""

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        return _share_evenly(layer, relevance, x)


VALUE_FREE = (WSquare, Flat)
"""Rules that do not look at the inputs."""


@dataclass(frozen=True)
class Composite:
    """Which rule each layer has.

    Attributes
    ----------
    dense, convolution : Rule
        For dense layers and convolutions.
    input : Rule, optional
        For layers of either kind that see the network's input before any other layer; by default
        that of their kind.
    """

    dense: Rule
    convolution: Rule
    input: Rule | None = None

    def rule_for(self, layer: Layer, *, is_first: bool) -> Rule:
        """Return the rule of a layer."""
        if is_first and self.input is not None:
            return self.input
        return self.dense if layer.dense else self.convolution


class Propagation(TorchFunctionMode):
    """Inside this context functions of torch have rules of relevance in place of derivatives.

    Batch norm of a convolution's or dense layer's output is merged with that layer, also through
    mean pooling in between; elsewhere relevance passes it unchanged, as it passes products with
    constants. A sum of two activations shares relevance in proportion to them, a bias that is added
    elsewhere absorbs its share.

    Parameters
    ----------
    network : Module
        In evaluation mode, its parameters frozen.
    composite : Composite
    attention : bool, default False
        Whether products of two activations, softmax and normalisation over features have AttnLRP's
        rules; they are refused otherwise.

    References
    ----------
    S. Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation", PLoS ONE 10, 2015; G. Montavon et al., "Layer-Wise Relevance
    Propagation: An Overview", Explainable AI, LNCS 11700, 2019; R. Achtibat et al., "AttnLRP:
    Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024.

    Examples
    --------
    >>> with Propagation(network, composite) as propagation:              # doctest: +SKIP
    ...     scores = network(propagation.watch(x, reference))
    >>> relevance = propagation.relevance(scores, of_scores, x)           # doctest: +SKIP
    """

    def __init__(
        self, network: nn.Module, composite: Composite, *, attention: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.composite = composite
        self.attention = attention
        # Of sums, as of layers, only positive terms count.
        self._positive = isinstance(composite.dense, ZPlus)

    @staticmethod
    def watch(x: Tensor, reference: Tensor) -> Tensor:
        """Return the network's input, with what it is where the clip holds nothing."""
        watched = x.clone()
        setattr(watched, _REFERENCE, reference)
        return watched

    def relevance(self, scores: Tensor, of_scores: Tensor, x: Tensor) -> Tensor:
        """Return the relevance of an input that requires a gradient, given that of the scores.

        Raises
        ------
        UnsupportedLayerError
            If something happened to the scores, or inside of the network, that has no rule.
        """
        self._check_graph(scores)
        try:
            (found,) = torch.autograd.grad(scores, x, of_scores)
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise UnsupportedLayerError(
                "the network overwrites an activation in place that LRP needs: compute it out of "
                f"place, or take another method ({error})"
            ) from error
        return found

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch with its rule."""
        kwargs = kwargs or {}
        given = [each for each in _tensors((args, kwargs)) if _depends(each)]
        if not given:
            return func(*args, **kwargs)
        name = _name_of(func)
        plain = name.removesuffix("_")
        in_place = plain != name or kwargs.get("inplace", False)
        if in_place:
            target = args[0] if args else kwargs["input"]
            if not _depends(target):
                self._refuse(f"{name}() into a tensor that does not depend on the clip")
            args, kwargs = (target.clone(), *args[1:]), _without(kwargs, "inplace", "input")
            for attribute in (_REFERENCE, _LAYER):
                if hasattr(target, attribute):
                    setattr(args[0], attribute, getattr(target, attribute))
            result = self._run(_out_of_place(func, plain), plain, args, kwargs)
            return self._overwrite(target, result)
        return self._run(func, plain, args, kwargs)

    def _run(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name in REARRANGING or name in MAXIMA:
            result = func(*args, **kwargs)
            self._follow(func, args, kwargs, result)
            return result
        if name in ELEMENTWISE:
            return self._elementwise(func, args, kwargs)
        if name in MEANS:
            x, rest = _first(args, kwargs)
            return self._mean(lambda x: func(x, *rest[0], **rest[1]), x)
        if name in _DROPOUT:
            bound = inspect.signature(getattr(functional, name)).bind(*args, **kwargs).arguments
            if bound.get("training", True) and bound.get("p", 0.5) > 0:
                self._refuse(f"{name}() in training mode")
            return bound["input"]
        if name in _SCORES and not self.attention and not _has_constant_factor(name, args):
            self._refuse(f"{name}()")
        handler = getattr(self, f"_do_{name}", None)
        if handler is not None:
            return handler(*args, **kwargs)
        result = func(*args, **kwargs)
        floating = [each for each in _tensors(result) if each.is_floating_point()]
        if floating and name not in _NEW:
            self._refuse(f"{name}()")
        return result

    # --- layers with weights --------------------------------------------------------------------

    def _do_conv1d(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._convolution(torch.conv1d, *args, **kwargs)

    def _do_conv2d(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._convolution(torch.conv2d, *args, **kwargs)

    def _do_conv_transpose1d(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._convolution(torch.conv_transpose1d, *args, out_axis=None, **kwargs)

    def _do_conv_transpose2d(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._convolution(torch.conv_transpose2d, *args, out_axis=None, **kwargs)

    def _convolution(
        self,
        function: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        out_axis: int | None = 0,
        **kwargs: Any,
    ) -> Tensor:
        def call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return function(x, weight, bias, *args, **kwargs)

        return self._layer(Layer(call, weight, bias, dense=False, out_axis=out_axis), input)

    def _do_linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._layer(Layer(functional.linear, weight, bias, dense=True), input)

    def _layer(self, layer: Layer, x: Tensor) -> Tensor:
        if _depends(layer.weight) or (layer.bias is not None and _depends(layer.bias)):
            self._refuse("a layer whose weight depends on the clip")
        reference = getattr(x, _REFERENCE, None)
        rule = self.composite.rule_for(layer, is_first=reference is not None)

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            wide = None if reference is None else reference.to(x.dtype)
            return (rule.share(layer.to(x.dtype), relevance, x, wide),)

        out = _Rule.apply(layer, back, x)
        setattr(out, _LAYER, (layer, x, ()))
        return out

    # --- constants and sums ---------------------------------------------------------------------

    def _do_batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            self._refuse("batch_norm() that normalises by the batch itself")
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -running_mean * scale
        shift = shift if bias is None else shift + bias
        shape = (-1,) + (1,) * (input.ndim - 2)
        return self._affine(input, scale.reshape(shape), shift.reshape(shape), norm=True)

    def _do_addcmul(self, input: Tensor, x: Tensor, scale: Tensor, *, value: float = 1) -> Tensor:
        if _depends(input) or not _depends(x) or _depends(scale):
            self._refuse("addcmul() of activations")
        return self._affine(x, value * scale, input, norm=True)

    def _do_mul(self, input: Any, other: Any) -> Tensor:
        if _depends(input) and _depends(other):
            if not self.attention:
                self._refuse("the product of two activations")
            return self._product(torch.mul, input, other)
        x, factor = (input, other) if _depends(input) else (other, input)
        return self._affine(x, factor, 0.0)

    def _do_div(self, input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        if rounding_mode is not None or _depends(other):
            self._refuse("div() that rounds, or by an activation")
        return self._affine(input, 1 / other, 0.0)

    def _do_add(self, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
        if _depends(input) and _depends(other):
            return self._sum(input, other if alpha == 1 else self._affine(other, alpha, 0.0))
        if _depends(input):
            return self._affine(input, 1.0, alpha * other)
        return self._affine(other, alpha, input)

    def _do_sub(self, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
        return self._do_add(input, other, alpha=-alpha)

    def _do_rsub(self, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
        return self._do_add(other, input, alpha=-alpha)

    def _affine(self, x: Tensor, scale: Any, shift: Any, *, norm: bool = False) -> Tensor:
        """Return x·scale + shift, for constants."""
        merged = self._merge(x, scale, shift)
        if merged is not None:
            return merged

        def forward(x: Tensor) -> Tensor:
            return x * scale + shift

        reference = getattr(x, _REFERENCE, None)
        scales = torch.as_tensor(scale)
        takes_share = not (norm or self._positive) and reference is None
        shifted = takes_share and bool(torch.as_tensor(shift).any())

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            if shifted:
                part = (x * scale).expand(relevance.shape)
                relevance = relevance * part / _stable(part + shift, _tiny(part))
            if not scales.all():  # what is multiplied by 0 has no part in it
                relevance = relevance * (scales != 0).to(relevance)
            return (relevance.sum_to_size(x.shape),)

        out = _Rule.apply(forward, back, x)
        if reference is not None:
            setattr(out, _REFERENCE, forward(reference))
        return out

    def _merge(self, x: Tensor, scale: Any, shift: Any) -> Tensor | None:
        """Return the output of the layer before, merged with a scale and shift per channel."""
        layer, given, pools = getattr(x, _LAYER, (None, None, ()))
        if layer is None or layer.out_axis is None:
            return None
        axis = x.ndim - 1 if layer.dense else 1
        parts = [_per_channel(each, x, axis) for each in (scale, shift)]
        if any(each is None for each in parts):
            return None
        scaled, shifted = (each.to(layer.weight) for each in parts)
        out = self._layer(layer.scaled(scaled, shifted), given)
        for pool in pools:
            out = self._mean(pool, out)
        return out

    def _sum(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a + b; relevance goes in proportion to the terms."""
        references = [getattr(each, _REFERENCE, None) for each in (a, b)]
        inputs = all(each is not None for each in references)
        even = inputs and isinstance(self.composite.input, VALUE_FREE)

        def back(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            terms = [_change(*each) for each in zip((a, b), references, strict=True)]
            if self._positive:
                terms = [term.clamp(min=0) for term in terms]
            total = terms[0] + terms[1] if inputs or self._positive else a + b
            safe = _stable(total, _tiny(total))
            nothing = torch.full_like(total, 0.5)
            shares = []
            for term, x in zip(terms, (a, b), strict=True):
                share = nothing if even else torch.where(total == 0, nothing, term / safe)
                shares.append((relevance * share).sum_to_size(x.shape))
            return shares[0], shares[1]

        out = _Rule.apply(torch.add, back, a, b)
        if inputs:
            setattr(out, _REFERENCE, references[0] + references[1])
        return out

    def _mean(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return a weighted sum with fixed weights; relevance goes in proportion to the terms."""
        reference = getattr(x, _REFERENCE, None)
        even = reference is not None and isinstance(self.composite.input, VALUE_FREE)

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            terms = torch.ones_like(x) if even else _change(x, reference)
            terms = terms.clamp(min=0) if self._positive else terms
            return (_share_mean(function, terms, relevance),)

        out = _Rule.apply(function, back, x)
        if reference is not None:
            setattr(out, _REFERENCE, function(reference))
        layer, given, pools = getattr(x, _LAYER, (None, None, ()))
        if layer is not None and not layer.dense and _is_mean(function, x, out):
            setattr(out, _LAYER, (layer, given, (*pools, function)))
        return out

    def _elementwise(
        self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        x, (rest, named) = _first(args, kwargs)
        named = _without(named, "inplace")
        if not _depends(x) or any(_depends(each) for each in _tensors((rest, named))):
            self._refuse(f"{_name_of(func)}() whose parameters depend on the clip")

        def forward(x: Tensor) -> Tensor:
            return func(x, *rest, **named)

        if forward(torch.zeros_like(x[:1])).any():
            self._refuse(f"{_name_of(func)}() that is not 0 at 0")
        out = _Rule.apply(forward, lambda relevance, x: (relevance,), x)
        if hasattr(x, _REFERENCE):
            setattr(out, _REFERENCE, forward(getattr(x, _REFERENCE)))
        return out

    # --- attention ------------------------------------------------------------------------------

    def _do_matmul(self, input: Tensor, other: Tensor) -> Tensor:
        if _depends(input) and _depends(other):
            return self._product(torch.matmul, input, other)
        if _depends(input) and other.ndim == 2:
            return self._do_linear(input, other.mT)
        return self._refuse("matmul() of a constant and an activation")

    def _do_bmm(self, input: Tensor, mat2: Tensor) -> Tensor:
        return self._do_matmul(input, mat2)

    def _product(
        self, function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor
    ) -> Tensor:
        """Return a bilinear product; each factor takes half of what its terms contribute."""

        def back(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                factors = [each.detach().requires_grad_() for each in (a, b)]
                out = function(*factors)
            half = relevance / (2 * _stable(out.detach(), self._epsilon))
            backs = torch.autograd.grad(out, factors, half)
            return a * backs[0], b * backs[1]

        return _Rule.apply(function, back, a, b)

    @property
    def _epsilon(self) -> float:
        return getattr(self.composite.dense, "epsilon", Epsilon.epsilon)

    def _do_softmax(
        self, input: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None
    ) -> Tensor:
        return self._softmax(lambda x: torch.softmax(x, dim, dtype=dtype), dim, input)

    def _softmax(self, forward: Callable[[Tensor], Tensor], axis: int, x: Tensor) -> Tensor:
        """Return a softmax s of x: R_i = x_i·(R_i - s_i·ΣR), its Taylor expansion at x."""

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            share = relevance - forward(x) * relevance.sum(axis, keepdim=True)
            # Masked scores are minus infinity, and have no part in it.
            return (torch.where(x.isfinite(), x, torch.zeros_like(x)) * share,)

        return _Rule.apply(forward, back, x)

    def _do_layer_norm(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        shape = tuple(normalized_shape)
        axes = tuple(range(-len(shape), 0))

        def forward(x: Tensor) -> Tensor:
            return functional.layer_norm(x, shape, weight, bias, eps)

        def frozen(x: Tensor) -> Tensor:
            spread = x.detach().var(axes, unbiased=False, keepdim=True).add(eps).rsqrt()
            out = (x - x.mean(axes, keepdim=True)) * spread
            out = out if weight is None else out * weight.to(x.dtype)
            return out if bias is None else out + bias.to(x.dtype)

        return self._normalise(forward, frozen, input)

    def _do_group_norm(
        self,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        def forward(x: Tensor) -> Tensor:
            return functional.group_norm(x, num_groups, weight, bias, eps)

        def frozen(x: Tensor) -> Tensor:
            groups = x.unflatten(1, (num_groups, -1)).flatten(2)
            spread = groups.detach().var(-1, unbiased=False, keepdim=True).add(eps).rsqrt()
            out = ((groups - groups.mean(-1, keepdim=True)) * spread).reshape(x.shape)
            channels = (-1,) + (1,) * (x.ndim - 2)
            out = out if weight is None else out * weight.to(x.dtype).reshape(channels)
            return out if bias is None else out + bias.to(x.dtype).reshape(channels)

        return self._normalise(forward, frozen, input)

    def _normalise(
        self, forward: Callable[[Tensor], Tensor], frozen: Callable[[Tensor], Tensor], x: Tensor
    ) -> Tensor:
        """Return a normalised activation: the ε rule, with the standard deviation as a constant."""

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            with torch.enable_grad():
                given = x.detach().requires_grad_()
                out = frozen(given)
            (share,) = torch.autograd.grad(
                out, given, relevance / _stable(out.detach(), self._epsilon)
            )
            return (x * share,)

        return _Rule.apply(forward, back, x)

    def _do_scaled_dot_product_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not self.attention or dropout_p > 0 or enable_gqa:
            self._refuse("scaled_dot_product_attention()")
        return self._attend(query, key, value, attn_mask, is_causal, scale)[0]

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Return what attention reads and its weights, (..., queries, keys)."""
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = self._product(torch.matmul, query, key.mT)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None and mask.dtype is torch.bool:
            hidden = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
            mask = hidden.masked_fill(~mask, float("-inf"))

        # The mask is part of the softmax: it is a bias, which takes its relevance.
        def forward(x: Tensor) -> Tensor:
            return torch.softmax(x if mask is None else x + mask.to(x.dtype), -1)

        weights = self._softmax(forward, -1, self._affine(scores, factor, 0.0))
        return self._product(torch.matmul, weights, value), weights

    def _do_multi_head_attention_forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.attention:
            self._refuse("multi_head_attention_forward()")
        signature = inspect.signature(functional.multi_head_attention_forward)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        extras = given["bias_k"] is not None or given["static_k"] is not None
        if extras or given["add_zero_attn"] or (given["training"] and given["dropout_p"] > 0):
            self._refuse("multi_head_attention_forward() with a bias, zeros or dropout in its keys")
        tokens = [given[name] for name in ("query", "key", "value")]
        if given["use_separate_proj_weight"]:
            weights = [given[f"{name}_proj_weight"] for name in "qkv"]
        else:
            weights = given["in_proj_weight"].chunk(3)
        bias = given["in_proj_bias"]
        biases = [None] * 3 if bias is None else bias.chunk(3)
        batched = tokens[0].ndim == 3
        heads = []
        for token, weight, own in zip(tokens, weights, biases, strict=True):
            # (tokens, batch, features), or without the batch
            part = self._do_linear(token, weight, own) if _depends(token) else None
            if part is None:
                self._refuse("multi_head_attention_forward() of a constant query, key or value")
            part = part if batched else part.unsqueeze(1)
            heads.append(part.unflatten(-1, (given["num_heads"], -1)).permute(1, 2, 0, 3))
        mask = self._attention_mask(given, heads[0])
        read, attention = self._attend(*heads, mask, False, None)
        read = read.permute(2, 0, 1, 3).flatten(2)
        out = self._do_linear(read, given["out_proj_weight"], given["out_proj_bias"])
        out = out if batched else out.squeeze(1)
        if not given["need_weights"]:
            return out, None
        if given["average_attn_weights"]:
            attention = self._mean(lambda x: x.mean(1), attention)
        return out, attention if batched else attention.squeeze(0)

    @staticmethod
    def _attention_mask(given: dict[str, Any], query: Tensor) -> Tensor | None:
        """Return what is added to the scores (batch, heads, queries, keys)."""
        total: Tensor | None = None
        for name in ("attn_mask", "key_padding_mask"):
            mask = given[name]
            if mask is None:
                continue
            if mask.dtype is torch.bool:  # True is hidden here
                mask = torch.zeros(mask.shape, device=mask.device).masked_fill(mask, float("-inf"))
            if name == "key_padding_mask":
                mask = mask.reshape(-1, 1, 1, mask.shape[-1])
            elif mask.ndim == 3:
                mask = mask.unflatten(0, (-1, query.shape[1]))
            total = mask if total is None else total + mask
        return total

    # --- what is followed -----------------------------------------------------------------------

    @staticmethod
    def _follow(
        func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Rearrange the reference as its tensor was."""
        given = [each for each in _tensors((args, kwargs)) if _depends(each)]
        if not all(hasattr(each, _REFERENCE) for each in given):
            return
        args, kwargs = _with_references((args, kwargs))
        for tensor, reference in zip(
            _tensors(result), _tensors(func(*args, **kwargs)), strict=True
        ):
            setattr(tensor, _REFERENCE, reference)

    @staticmethod
    def _overwrite(target: Tensor, result: Tensor) -> Tensor:
        """Write a result into the tensor that an operation in place was called on."""
        target.copy_(result)
        for attribute in (_REFERENCE, _LAYER):
            if hasattr(result, attribute):
                setattr(target, attribute, getattr(result, attribute))
            elif hasattr(target, attribute):
                delattr(target, attribute)
        return target

    def _check_graph(self, scores: Tensor) -> None:
        """Refuse what autograd has seen that did not go through this mode, such as TorchScript."""
        if scores.grad_fn is None:
            raise UnsupportedLayerError(
                "the scores do not depend on the clip as far as LRP can see: does the network "
                "detach an activation, or run without gradients?"
            )
        seen, left = set(), [scores.grad_fn]
        while left:
            node = left.pop()
            if node in seen:
                continue
            seen.add(node)
            kind = node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")
            if kind not in _HARMLESS:
                raise UnsupportedLayerError(
                    f"LRP has no rule for the operation {node.name()!r} in the network's graph, "
                    "which runs outside of torch's functions, as TorchScript and custom autograd "
                    "functions do: take another method, such as saliency or Grad-CAM"
                )
            left += [following for following, _ in node.next_functions if following is not None]

    def _refuse(self, what: str) -> NoReturn:
        method = "AttnLRP" if self.attention else "LRP"
        raise UnsupportedLayerError(
            f"{method} has no rule for {what}{_place(self.network)}: relevance would be lost or "
            "made up there. Take another method, such as saliency, Grad-CAM or LIME"
        )


class _Rule(torch.autograd.Function):
    """A function whose backward pass is a rule of relevance, in single precision or better."""

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[..., Tensor], back: Callable[..., Any], *inputs: Tensor
    ) -> Tensor:
        ctx.back = back
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors
        wide = torch.promote_types(inputs[0].dtype, torch.float32)
        with torch.autocast(relevance.device.type, enabled=False):
            shares = ctx.back(relevance.to(wide), *(each.to(wide) for each in inputs))
        return (
            None,
            None,
            *(share.to(each.dtype) for share, each in zip(shares, inputs, strict=True)),
        )


def _change(x: Tensor, reference: Tensor | None) -> Tensor:
    return x if reference is None else x - reference


def _stable(z: Tensor, epsilon: float) -> Tensor:
    """Return z moved away from 0 by ε."""
    return z + torch.where(z < 0, -epsilon, epsilon)


def _tiny(z: Tensor) -> float:
    return torch.finfo(z.dtype).tiny


def _signed_terms(layer: Layer, x: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """Return inputs and weights whose products are a layer's contributions of one sign."""
    signs = [layer.weight.clamp(min=0), layer.weight.clamp(max=0)][::side]
    return [(x.clamp(min=0), signs[0]), (x.clamp(max=0), signs[1])]


def _put_out(layer: Layer, terms: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return terms, each an input and a weight, as inputs and outputs with a graph between them.

    Those without input are left out.
    """
    made = []
    for x, weight in terms:
        if x.any():
            with torch.enable_grad():
                given = x.detach().requires_grad_()
                made.append((given, layer.linear(given, weight)))
    return made


def _total(terms: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Return what terms put out together; shaped like the layer's output."""
    total = torch.zeros_like(like)
    for _, out in terms:
        total = total + out.detach()
    return total


def _back(terms: list[tuple[Tensor, Tensor]], weighted: Tensor, like: Tensor) -> Tensor:
    """Return what each input contributes to outputs of some weight; shaped like the input."""
    found = torch.zeros_like(like)
    for given, out in terms:
        found += given.detach() * torch.autograd.grad(out, given, weighted)[0]
    return found


def _share_terms(
    layer: Layer, terms: list[tuple[Tensor, Tensor]], relevance: Tensor, x: Tensor
) -> Tensor:
    """Share relevance out by the outputs' terms, which are positive; evenly where all are 0."""
    made = _put_out(layer, terms)
    total = _total(made, relevance)
    empty = total == 0
    found = _back(made, torch.where(empty, 0, relevance / _stable(total, _tiny(total))), x)
    return found + _share_evenly(layer, torch.where(empty, relevance, 0), x)


def _share_evenly(layer: Layer, relevance: Tensor, like: Tensor) -> Tensor:
    """Spread relevance evenly over the inputs that each output sees."""
    if not relevance.any():
        return torch.zeros_like(like)
    weight = torch.ones_like(layer.weight)
    with torch.enable_grad():
        ones = torch.ones_like(like[:1]).expand_as(like).clone().requires_grad_()
        seen = layer.linear(ones, weight)
    (back,) = torch.autograd.grad(seen, ones, relevance / seen.detach().clamp(min=1))
    return back


def _share_mean(function: Callable[[Tensor], Tensor], terms: Tensor, relevance: Tensor) -> Tensor:
    """Share relevance out by the terms of weighted sums; evenly where they are all 0."""
    with torch.enable_grad():
        given = terms.detach().requires_grad_()
        out = function(given)
    total = out.detach()
    empty = total == 0
    weighted = torch.where(empty, 0, relevance / _stable(total, _tiny(total)))
    lost = torch.where(empty, relevance, 0)
    keep = bool(lost.any())
    (back,) = torch.autograd.grad(out, given, weighted, retain_graph=keep)
    found = terms * back
    if keep:
        weights = function(torch.ones_like(terms))
        (even,) = torch.autograd.grad(out, given, lost / _stable(weights, _tiny(weights)))
        found = found + even
    return found


def _is_mean(function: Callable[[Tensor], Tensor], x: Tensor, out: Tensor) -> bool:
    """Return whether a function averages over the axes behind the channels, and keeps those."""
    if out.ndim != x.ndim or out.shape[:2] != x.shape[:2]:
        return False
    with torch.no_grad():
        ones = function(torch.ones_like(x[:1, :1]))
    return bool((ones - 1).abs().max() <= 8 * torch.finfo(ones.dtype).eps)


def _per_channel(value: Any, x: Tensor, axis: int) -> Tensor | None:
    """Return a constant as (channels,) or (1,); None where it varies along another axis of x."""
    value = torch.as_tensor(value)
    if value.numel() == 1:
        return value.reshape(1)
    if value.ndim > x.ndim:
        return None
    shape = (1,) * (x.ndim - value.ndim) + tuple(value.shape)
    others = shape[:axis] + shape[axis + 1 :]
    if any(size != 1 for size in others) or shape[axis] != x.shape[axis]:
        return None
    return value.flatten()


def _depends(value: Any) -> bool:
    """Return whether a value depends on the clip: nothing else requires a gradient."""
    return isinstance(value, Tensor) and value.requires_grad


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _with_references(value: Any) -> Any:
    """Return arguments with what each tensor is where the clip holds nothing."""
    if isinstance(value, Tensor):
        return getattr(value, _REFERENCE, value) if _depends(value) else value
    if isinstance(value, tuple | list):
        return type(value)(_with_references(each) for each in value)
    if isinstance(value, dict):
        return {key: _with_references(each) for key, each in value.items()}
    return value


def _name_of(func: Callable[..., Any]) -> str:
    """Return a function's name: ``add`` for ``__radd__``, ``mT`` for the property's getter."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        return func.__self__.__name__
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        if name in ("iadd", "isub", "imul", "itruediv", "idiv"):
            name = f"{name[1:]}_"
        elif name in ("radd", "rmul"):
            name = name[1:]
    in_place = name.endswith("_")
    plain = name.removesuffix("_")
    return _SAME_OPERATION.get(plain, plain) + ("_" if in_place else "")


def _out_of_place(func: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function that an operation in place is one of."""
    if not getattr(func, "__name__", "").endswith("_"):
        return func
    for module in (functional, torch, Tensor):
        if hasattr(module, name):
            return getattr(module, name)
    return func


def _first(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function's input, and its other arguments."""
    if args:
        return args[0], (args[1:], kwargs)
    return kwargs["input"], ((), _without(kwargs, "input"))


def _has_constant_factor(name: str, args: tuple[Any, ...]) -> bool:
    return name in ("matmul", "bmm") and not all(_depends(each) for each in args[:2])


def _without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}


def _check_number(name: str, value: float, *, zero: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and (value > 0 or (zero and value == 0)) and math.isfinite(value)):
        least = "of at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be a number {least}, got {value!r}")


def _place(network: nn.Module) -> str:
    """Return which module of a network is running, for an error."""
    names = {module: name for name, module in network.named_modules()}
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            where = f"{names[owner]!r}, a " if names[owner] else ""
            return f" in {where}{type(owner).__name__}"
        frame = frame.f_back
    return ""
