"""Rules of relevance: how a layer distributes its outputs' relevance over its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from audiointerp.interpretation.base import check_positive


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
    epsilon : float, default 1e-9
        In units of the outputs; above 0. Far below their rounding: what a larger one absorbs
        where outputs are near 0 depends on the rounding, and so on the size of the batch.
    """

    epsilon: float = 1e-9

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon)

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = layer(x)
        (back,) = torch.autograd.grad(out, x, relevance / stable(out.detach(), self.epsilon))
        return change_from(x.detach(), reference) * back


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
        check_positive("gamma", self.gamma, zero=True)

    def share(self, layer: Layer, relevance: Tensor, x: Tensor, reference: Tensor | None) -> Tensor:
        """Return the relevance of a layer's inputs; see `Rule.share`."""
        change = change_from(x, reference)
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
            share = relevance / stable(total, tiny(total))
            size = more[1] * totals[1] - more[-1] * totals[-1]
            for sign in terms:
                factor = 1 + sign * own / stable(size, tiny(size)) if self.conserves else 1
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
        terms = _signed_terms(layer, change_from(x, reference), 1)
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


def change_from(x: Tensor, reference: Tensor | None) -> Tensor:
    """Return how far inputs are from those that stand for nothing."""
    return x if reference is None else x - reference


def stable(z: Tensor, epsilon: float) -> Tensor:
    """Return z moved away from 0 by ε."""
    return z + torch.where(z < 0, -epsilon, epsilon)


def tiny(z: Tensor) -> float:
    """Return the smallest normal number of a tensor's dtype."""
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
    found = _back(made, torch.where(empty, 0, relevance / stable(total, tiny(total))), x)
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


def share_mean(function: Callable[[Tensor], Tensor], terms: Tensor, relevance: Tensor) -> Tensor:
    """Share relevance out by the terms of weighted sums; evenly where they are all 0."""
    with torch.enable_grad():
        given = terms.detach().requires_grad_()
        out = function(given)
    total = out.detach()
    empty = total == 0
    weighted = torch.where(empty, 0, relevance / stable(total, tiny(total)))
    lost = torch.where(empty, relevance, 0)
    keep = bool(lost.any())
    (back,) = torch.autograd.grad(out, given, weighted, retain_graph=keep)
    found = terms * back
    if keep:
        weights = function(torch.ones_like(terms))
        (even,) = torch.autograd.grad(out, given, lost / stable(weights, tiny(weights)))
        found = found + even
    return found
