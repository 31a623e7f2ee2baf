"""AttnLRP: rules for products of activations, softmax, attention and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from audiointerp.interpretation.relevance.attending import AttentionCalls
from audiointerp.interpretation.relevance.calls import depends_on_clip
from audiointerp.interpretation.relevance.propagation import Propagation, RuleFunction
from audiointerp.interpretation.relevance.rules import Epsilon, stable


class AttentionPropagation(Propagation, AttentionCalls):
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

    def _projected(self, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not depends_on_clip(tokens):
            self._refuse("multi_head_attention_forward() of a constant query, key or value")
        return self._do_linear(tokens, weight, bias)

    def _scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        return self._affine(self._product("attention", torch.matmul, query, key.mT), scale, 0.0)

    def _read(self, weights: Tensor, value: Tensor) -> Tensor:
        return self._product("attention", torch.matmul, weights, value)

    def _over_heads(self, weights: Tensor) -> Tensor:
        return self._mean(lambda x: x.mean(1), weights)
