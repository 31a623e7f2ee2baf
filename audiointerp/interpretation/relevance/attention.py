"""AttnLRP: rules for products of activations, softmax, attention and normalisation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from audiointerp.interpretation.relevance.calls import depends_on_clip
from audiointerp.interpretation.relevance.propagation import Propagation, RuleFunction
from audiointerp.interpretation.relevance.rules import Epsilon, stable


class AttentionPropagation(Propagation):
    """A `Propagation` with AttnLRP's rules for what transformers have besides layers.

    Parameters
    ----------
    network, composite
        See `Propagation`. The ε of products and of normalisation is that of dense layers.

    References
    ----------
    R. Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
    Transformers", ICML 2024.
    """

    method: ClassVar[str] = "AttnLRP"

    def _product(
        self, what: str, function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor
    ) -> Tensor:
        """Return a bilinear product; each factor takes half of what its terms contribute."""

        def back(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                factors = [each.detach().requires_grad_() for each in (a, b)]
                out = function(*factors)
            half = relevance / (2 * stable(out.detach(), self._epsilon))
            backs = torch.autograd.grad(out, factors, half)
            return a * backs[0], b * backs[1]

        return RuleFunction.apply(function, back, a, b)

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

        return RuleFunction.apply(forward, back, x)

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
                out, given, relevance / stable(out.detach(), self._epsilon)
            )
            return (x * share,)

        return RuleFunction.apply(forward, back, x)

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
        if dropout_p > 0 or enable_gqa:
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
        scores = self._product("attention", torch.matmul, query, key.mT)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None and mask.dtype is torch.bool:
            hidden = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
            mask = hidden.masked_fill(~mask, float("-inf"))

        # The mask is part of the softmax: it is a bias, which takes its relevance.
        def forward(x: Tensor) -> Tensor:
            return torch.softmax(x if mask is None else x + mask.to(x.dtype), -1)

        weights = self._softmax(forward, -1, self._affine(scores, factor, 0.0))
        return self._product("attention", torch.matmul, weights, value), weights

    def _do_multi_head_attention_forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
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
            part = self._do_linear(token, weight, own) if depends_on_clip(token) else None
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
