"""Torch's functions of attention, taken apart into layers, products and a softmax."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class AttentionCalls(ABC):
    """What a mode does with calls of attention, given what it does with their parts.

    Torch's functions return what attention reads, not its weights. A subclass, which is a mode of
    torch, says how each part is computed and so sees all of them.
    """

    @abstractmethod
    def _projected(self, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the linear layer of tokens that queries, keys and values or the output have."""

    @abstractmethod
    def _scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """Return (query @ key.mT)·scale."""

    @abstractmethod
    def _softmax(self, forward: Callable[[Tensor], Tensor], axis: int, x: Tensor) -> Tensor:
        """Return ``forward(x)``, a softmax over an axis."""

    @abstractmethod
    def _read(self, weights: Tensor, value: Tensor) -> Tensor:
        """Return weights @ value, for the weights that `_softmax` returned."""

    @abstractmethod
    def _over_heads(self, weights: Tensor) -> Tensor:
        """Return the mean of weights (batch, heads, queries, keys) over the heads."""

    @abstractmethod
    def _refuse(self, what: str) -> Any:
        """Raise an error that names a call."""

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
            self._refuse("scaled_dot_product_attention() with dropout or shared keys")
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
        scores = self._scores(query, key, query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None and mask.dtype is torch.bool:
            hidden = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
            mask = hidden.masked_fill(~mask, float("-inf"))

        # The mask is part of the softmax: to rules of relevance it is a bias.
        def forward(x: Tensor) -> Tensor:
            return torch.softmax(x if mask is None else x + mask.to(x.dtype), -1)

        weights = self._softmax(forward, -1, scores)
        return self._read(weights, value), weights

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
            part = self._projected(token, weight, own)
            # (tokens, batch, features), or without the batch
            part = part if batched else part.unsqueeze(1)
            heads.append(part.unflatten(-1, (given["num_heads"], -1)).permute(1, 2, 0, 3))
        mask = self._attention_mask(given, heads[0])
        read, attention = self._attend(*heads, mask, False, None)
        read = read.permute(2, 0, 1, 3).flatten(2)
        out = self._projected(read, given["out_proj_weight"], given["out_proj_bias"])
        out = out if batched else out.squeeze(1)
        if not given["need_weights"]:
            return out, None
        if given["average_attn_weights"]:
            attention = self._over_heads(attention)
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
