"""A mode of torch that sees the weights of attention, whichever library computes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from audiointerp.interpretation.relevance.attending import AttentionCalls
from audiointerp.interpretation.relevance.calls import (
    depends_on_clip,
    name_of,
    place_in,
    running_in,
    tensors_in,
)
from audiointerp.interpretation.rescale import UnsupportedLayerError

_PRODUCTS = frozenset({"matmul", "bmm", "mm", "einsum", "baddbmm"})
_KEEPING = frozenset(
    {
        *("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "squeeze"),
        *("unsqueeze", "permute", "transpose", "movedim", "swapaxes", "contiguous", "clone"),
        *("expand", "expand_as", "to", "type_as", "type", "float", "double", "half", "bfloat16"),
        *("mT", "T", "dropout"),
    }
)
"""Functions that hand weights on as they are; dropout, because networks run in evaluation mode."""
_ENDING = frozenset(
    {
        *("linear", "conv1d", "conv2d", "sum", "mean", "max", "amax", "layer_norm", "group_norm"),
        *("batch_norm", "softmax", "log_softmax", "scaled_dot_product_attention"),
    }
)
"""Functions whose result is no longer weights of attention; after all others these are changed."""

_ADVICE = "take another method, such as saliency or Grad-CAM"


@dataclass(frozen=True)
class Attention:
    """The weights of one attention, in the graph of the network's scores.

    Attributes
    ----------
    layer : str
        Dotted name of the module that computed them.
    weights : Tensor
        What softmax returned, of which a gradient can be taken.
    keys_last : bool
        Whether the axes are (..., queries, keys), or (..., keys, queries).
    """

    layer: str
    weights: Tensor
    keys_last: bool = True

    @property
    def queries(self) -> int:
        """How many tokens read."""
        return self.weights.shape[-2 if self.keys_last else -1]

    @property
    def keys(self) -> int:
        """How many tokens are read."""
        return self.weights.shape[-1 if self.keys_last else -2]

    def matrices(self, values: Tensor, clips: int) -> Tensor:
        """Return values of the weights' shape as (clips, heads, queries, keys)."""
        values = values if self.keys_last else values.mT
        return values if values.ndim == 4 else values.unflatten(0, (clips, -1))


@dataclass(frozen=True)
class _Softmax:
    """A softmax that may turn out to be that of attention."""

    attention: Attention
    changed: bool = False


class AttentionObserver(AttentionCalls, TorchFunctionMode):
    """Inside this context the weights of all attention that depends on the clip are kept.

    Attention is `torch.nn.functional.scaled_dot_product_attention`,
    `torch.nn.functional.multi_head_attention_forward`, on which `torch.nn.MultiheadAttention` and
    transformer layers of torch rest, or a softmax over the last axis, or the one before it, whose
    result is multiplied with activations by a matrix product. The first two are computed by
    products and a softmax, to rounding the same, so that their weights are part of the graph.

    Parameters
    ----------
    network : Module
        In evaluation mode, its parameters frozen; its input requires a gradient.

    Attributes
    ----------
    seen : list of Attention
        In the order in which they are read.

    Examples
    --------
    >>> layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    >>> with AttentionObserver(layer) as observer:
    ...     returned = layer(torch.zeros(1, 3, 4, requires_grad=True))
    >>> [(each.layer, tuple(each.weights.shape)) for each in observer.seen]
    [('self_attn', (1, 2, 3, 3))]
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Attention] = []
        # By the id of the tensor, which is kept so that no other one gets the id.
        self._marks: dict[int, tuple[Tensor, _Softmax]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch and see whether it is one of attention."""
        kwargs = kwargs or {}
        name = name_of(func)
        given = [each for each in tensors_in((args, kwargs)) if depends_on_clip(each)]
        handler = getattr(self, f"_do_{name}", None)
        if handler is not None and given:
            return handler(*args, **kwargs)
        result = func(*args, **kwargs)
        marks = [self._marks[id(each)][1] for each in given if id(each) in self._marks]
        if name == "softmax" and given:
            self._watch(result, _axis(args, kwargs, result.ndim))
        elif name in _PRODUCTS and len(given) > 1:
            for mark in marks:
                self._keep(mark)
        elif name not in _ENDING:
            self._follow(marks, result, changed=name not in _KEEPING)
        return result

    def _watch(self, weights: Tensor, axis: int) -> None:
        """Mark what a softmax returned, which may be weights of attention."""
        if weights.ndim < 3 or axis < weights.ndim - 2:
            return
        running = running_in(self.network)
        layer = "" if running is None else running[0]
        found = Attention(layer, weights, axis == weights.ndim - 1)
        self._marks[id(weights)] = weights, _Softmax(found)

    def _keep(self, mark: _Softmax) -> None:
        """Take a softmax for attention, now that its result multiplies activations."""
        if mark.changed:
            self._refuse("a product with values of weights that are changed after their softmax")
        if not any(each is mark.attention for each in self.seen):
            self.seen.append(mark.attention)

    def _follow(self, marks: Sequence[_Softmax], result: Any, *, changed: bool) -> None:
        """Mark what is made of marked weights."""
        for mark in marks:
            made = _Softmax(mark.attention, mark.changed or changed)
            self._marks |= {id(each): (each, made) for each in tensors_in(result)}

    # --- what calls of attention are made of -----------------------------------------------------

    def _projected(self, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(tokens, weight, bias)

    def _scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        return query @ key.mT * scale

    def _softmax(self, forward: Callable[[Tensor], Tensor], axis: int, x: Tensor) -> Tensor:
        weights = forward(x)
        running = running_in(self.network)
        self.seen.append(Attention("" if running is None else running[0], weights))
        return weights

    def _read(self, weights: Tensor, value: Tensor) -> Tensor:
        # Where autocast computes the softmax in another precision than the values.
        return weights.to(value.dtype) @ value

    def _over_heads(self, weights: Tensor) -> Tensor:
        return weights.mean(1)

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedLayerError(
            f"attention is not followed through {what}{place_in(self.network)}: {_ADVICE}"
        )


def check_attention(seen: Sequence[Attention], clips: int) -> None:
    """Check that attention leads from tokens to the same tokens, one layer after the other.

    Parameters
    ----------
    seen : sequence of Attention
        What an `AttentionObserver` saw of a batch.
    clips : int
        In the batch.

    Raises
    ------
    UnsupportedLayerError
        If there is no attention, cross attention, attention within groups of tokens, or between
        other tokens in one layer than in another, or if a layer does not follow the one before it.
    """
    if not seen:
        raise UnsupportedLayerError(
            "the network has no attention, or none that torch's functions compute from the clip: "
            + _ADVICE
        )
    first = seen[0]
    for each in seen:
        shape = tuple(each.weights.shape)
        if each.queries != each.keys:
            raise UnsupportedLayerError(
                f"in the attention of {each.layer!r} {each.queries} tokens read {each.keys} "
                "others, by cross attention or pooling, and only self-attention can be followed: "
                + _ADVICE
            )
        groups = shape[0] % clips if len(shape) == 3 else len(shape) != 4 or shape[0] != clips
        if groups:
            raise UnsupportedLayerError(
                f"the attention of {each.layer!r} is within groups of {each.keys} tokens, such as "
                f"windows (weights {shape} for {clips} clip{'s' * (clips > 1)}), and only that "
                f"between all tokens of a clip can be followed: {_ADVICE}"
            )
        if each.keys != first.keys:
            raise UnsupportedLayerError(
                f"the attention of {first.layer!r} is between {first.keys} tokens, that of "
                f"{each.layer!r} between {each.keys}, as in networks that merge tokens, and only "
                f"the same tokens can be followed: {_ADVICE}"
            )
    for before, after in itertools.pairwise(seen):
        if not _depends_on(after.weights, before.weights):
            raise UnsupportedLayerError(
                f"the attention of {after.layer!r} does not depend on that of {before.layer!r}, as "
                "in two networks side by side, and only layers one after the other can be "
                f"followed: {_ADVICE}"
            )


def _depends_on(after: Tensor, before: Tensor) -> bool:
    """Return whether a tensor depends on another one by autograd's graph."""
    seen, left = {after.grad_fn}, [after.grad_fn]
    while left:
        node = left.pop()
        if node is before.grad_fn:
            return True
        following = {each for each, _ in node.next_functions if each is not None} - seen
        seen |= following
        left += following
    return False


def _axis(args: tuple[Any, ...], kwargs: dict[str, Any], ndim: int) -> int:
    """Return the axis of a softmax, counted from the first one; torch's default is none of last."""
    axis = args[1] if len(args) > 1 else kwargs.get("dim")
    return 0 if axis is None else axis % ndim
