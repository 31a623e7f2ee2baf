"""Backward pass of relevance: torch functions have rules in place of derivatives.

A function without weights is one entry of `ELEMENTWISE`, `MEANS`, `MAXIMA` or `REARRANGING`, or a
method ``_do_<name>`` of `Propagation`. What has no rule is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from audiointerp.interpretation.relevance.calls import (
    depends_on_clip,
    name_of,
    out_of_place,
    place_in,
    split_input,
    tensors_in,
    without,
)
from audiointerp.interpretation.relevance.rules import (
    VALUE_FREE,
    Composite,
    Layer,
    ZPlus,
    change_from,
    share_mean,
    stable,
    tiny,
)
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
_NEW = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"})

# Nodes of autograd's graph that only move values, or give a maximum's relevance to the largest.
_HARMLESS = frozenset(
    {
        *("RuleFunction", "AccumulateGrad", "Alias", "AsStrided", "Cat", "Clone", "ConstantPadNd"),
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

    Attributes
    ----------
    method : str
        What the rules are called, as it reads in an error.

    References
    ----------
    S. Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation", PLoS ONE 10, 2015; G. Montavon et al., "Layer-Wise Relevance
    Propagation: An Overview", Explainable AI, LNCS 11700, 2019.

    Examples
    --------
    >>> with Propagation(network, composite) as propagation:              # doctest: +SKIP
    ...     scores = network(propagation.watch(x, reference))
    >>> relevance = propagation.relevance(scores, of_scores, x)           # doctest: +SKIP
    """

    method: ClassVar[str] = "LRP"

    def __init__(self, network: nn.Module, composite: Composite) -> None:
        super().__init__()
        self.network = network
        self.composite = composite
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
        given = [each for each in tensors_in((args, kwargs)) if depends_on_clip(each)]
        if not given:
            return func(*args, **kwargs)
        name = name_of(func)
        plain = name.removesuffix("_")
        in_place = plain != name or kwargs.get("inplace", False)
        if in_place:
            target = args[0] if args else kwargs["input"]
            if not depends_on_clip(target):
                self._refuse(f"{name}() into a tensor that does not depend on the clip")
            args, kwargs = (target.clone(), *args[1:]), without(kwargs, "inplace", "input")
            for attribute in (_REFERENCE, _LAYER):
                if hasattr(target, attribute):
                    setattr(args[0], attribute, getattr(target, attribute))
            result = self._run(out_of_place(func, plain), plain, args, kwargs)
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
            x, rest = split_input(args, kwargs)
            return self._mean(lambda x: func(x, *rest[0], **rest[1]), x)
        if name in _DROPOUT:
            bound = inspect.signature(getattr(functional, name)).bind(*args, **kwargs).arguments
            if bound.get("training", True) and bound.get("p", 0.5) > 0:
                self._refuse(f"{name}() in training mode")
            return bound["input"]
        handler = getattr(self, f"_do_{name}", None)
        if handler is not None:
            return handler(*args, **kwargs)
        result = func(*args, **kwargs)
        floating = [each for each in tensors_in(result) if each.is_floating_point()]
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
        if depends_on_clip(layer.weight) or (
            layer.bias is not None and depends_on_clip(layer.bias)
        ):
            self._refuse("a layer whose weight depends on the clip")
        reference = getattr(x, _REFERENCE, None)
        rule = self.composite.rule_for(layer, is_first=reference is not None)

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            wide = None if reference is None else reference.to(x.dtype)
            return (rule.share(layer.to(x.dtype), relevance, x, wide),)

        out = RuleFunction.apply(layer, back, x)
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
        if depends_on_clip(input) or not depends_on_clip(x) or depends_on_clip(scale):
            self._refuse("addcmul() of activations")
        return self._affine(x, value * scale, input, norm=True)

    def _do_mul(self, input: Any, other: Any) -> Tensor:
        if depends_on_clip(input) and depends_on_clip(other):
            return self._product("the product of two activations", torch.mul, input, other)
        x, factor = (input, other) if depends_on_clip(input) else (other, input)
        return self._affine(x, factor, 0.0)

    def _do_div(self, input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        if rounding_mode is not None or depends_on_clip(other):
            self._refuse("div() that rounds, or by an activation")
        return self._affine(input, 1 / other, 0.0)

    def _do_add(self, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
        if depends_on_clip(input) and depends_on_clip(other):
            return self._sum(input, other if alpha == 1 else self._affine(other, alpha, 0.0))
        if depends_on_clip(input):
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
                relevance = relevance * part / stable(part + shift, tiny(part))
            if not scales.all():  # what is multiplied by 0 has no part in it
                relevance = relevance * (scales != 0).to(relevance)
            return (relevance.sum_to_size(x.shape),)

        out = RuleFunction.apply(forward, back, x)
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
            terms = [change_from(*each) for each in zip((a, b), references, strict=True)]
            if self._positive:
                terms = [term.clamp(min=0) for term in terms]
            total = terms[0] + terms[1] if inputs or self._positive else a + b
            safe = stable(total, tiny(total))
            nothing = torch.full_like(total, 0.5)
            shares = []
            for term, x in zip(terms, (a, b), strict=True):
                share = nothing if even else torch.where(total == 0, nothing, term / safe)
                shares.append((relevance * share).sum_to_size(x.shape))
            return shares[0], shares[1]

        out = RuleFunction.apply(torch.add, back, a, b)
        if inputs:
            setattr(out, _REFERENCE, references[0] + references[1])
        return out

    def _mean(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return a weighted sum with fixed weights; relevance goes in proportion to the terms."""
        reference = getattr(x, _REFERENCE, None)
        even = reference is not None and isinstance(self.composite.input, VALUE_FREE)

        def back(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            terms = torch.ones_like(x) if even else change_from(x, reference)
            terms = terms.clamp(min=0) if self._positive else terms
            return (share_mean(function, terms, relevance),)

        out = RuleFunction.apply(function, back, x)
        if reference is not None:
            setattr(out, _REFERENCE, function(reference))
        layer, given, pools = getattr(x, _LAYER, (None, None, ()))
        if layer is not None and not layer.dense and _is_mean(function, x, out):
            setattr(out, _LAYER, (layer, given, (*pools, function)))
        return out

    def _elementwise(
        self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        x, (rest, named) = split_input(args, kwargs)
        named = without(named, "inplace")
        if not depends_on_clip(x) or any(
            depends_on_clip(each) for each in tensors_in((rest, named))
        ):
            self._refuse(f"{name_of(func)}() whose parameters depend on the clip")

        def forward(x: Tensor) -> Tensor:
            return func(x, *rest, **named)

        if forward(torch.zeros_like(x[:1])).any():
            self._refuse(f"{name_of(func)}() that is not 0 at 0")
        out = RuleFunction.apply(forward, lambda relevance, x: (relevance,), x)
        if hasattr(x, _REFERENCE):
            setattr(out, _REFERENCE, forward(getattr(x, _REFERENCE)))
        return out

    # --- products -------------------------------------------------------------------------------

    def _do_matmul(self, input: Tensor, other: Tensor) -> Tensor:
        return self._matrix_product("matmul()", input, other)

    def _do_bmm(self, input: Tensor, mat2: Tensor) -> Tensor:
        return self._matrix_product("bmm()", input, mat2)

    def _matrix_product(self, what: str, a: Tensor, b: Tensor) -> Tensor:
        if depends_on_clip(a) and depends_on_clip(b):
            return self._product(what, torch.matmul, a, b)
        if depends_on_clip(a) and b.ndim == 2:
            return self._do_linear(a, b.mT)
        return self._refuse(f"{what} of a constant and an activation")

    def _product(
        self, what: str, function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor
    ) -> Tensor:
        """Return a bilinear product of two activations, which has no rule here."""
        return self._refuse(what)

    # --- what is followed -----------------------------------------------------------------------

    @staticmethod
    def _follow(
        func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Rearrange the reference as its tensor was."""
        given = [each for each in tensors_in((args, kwargs)) if depends_on_clip(each)]
        if not all(hasattr(each, _REFERENCE) for each in given):
            return
        args, kwargs = _with_references((args, kwargs))
        for tensor, reference in zip(
            tensors_in(result), tensors_in(func(*args, **kwargs)), strict=True
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
        raise UnsupportedLayerError(
            f"{self.method} has no rule for {what}{place_in(self.network)}: relevance would be "
            "lost or made up there. Take another method, such as saliency, Grad-CAM or LIME"
        )


class RuleFunction(torch.autograd.Function):
    """A function whose backward pass is a rule of relevance, in single precision or better."""

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[..., Tensor], back: Callable[..., Any], *inputs: Tensor
    ) -> Tensor:
        """Return the function of the inputs."""
        ctx.back = back
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        """Return what ``back(relevance, *inputs)`` shares out."""
        inputs = ctx.saved_tensors
        wide = torch.promote_types(inputs[0].dtype, torch.float32)
        with torch.autocast(relevance.device.type, enabled=False):
            shares = ctx.back(relevance.to(wide), *(each.to(wide) for each in inputs))
        return (
            None,
            None,
            *(share.to(each.dtype) for share, each in zip(shares, inputs, strict=True)),
        )


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


def _with_references(value: Any) -> Any:
    """Return arguments with what each tensor is where the clip holds nothing."""
    if isinstance(value, Tensor):
        return getattr(value, _REFERENCE, value) if depends_on_clip(value) else value
    if isinstance(value, tuple | list):
        return type(value)(_with_references(each) for each in value)
    if isinstance(value, dict):
        return {key: _with_references(each) for key, each in value.items()}
    return value
