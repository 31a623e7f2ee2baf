"""The DeepLIFT rescale rule, implemented as a modified backward pass.

One forward pass of the baselines records what goes into every nonlinearity. One forward pass of the
clips builds a graph in which every nonlinearity's derivative is replaced by Δout/Δin against one
baseline; each baseline then costs one backward pass over the clips. Where every clip has a baseline
of its own, one backward pass does for all.

A new elementwise activation is one entry in `ELEMENTWISE`; a new kind of maximum one
``MAXIMA`` entry. Layers that are linear in evaluation mode (convolutions, batch norm, mean
pooling) need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiointerp.model.layers import MaxOverTime
from audiointerp.model.outputs import Logit, LogProbability


class UnsupportedLayerError(ValueError):
    """An operation in a network that a method has no rule for; the message names it."""


class Elementwise(nn.Module):
    """A function of one variable as a layer.

    Parameters
    ----------
    function : callable
        ``function(x, *arguments, **kwargs)``, applied to every value on its own.
    arguments, kwargs
        What it takes beside the input.
    """

    def __init__(
        self, function: Callable[..., Tensor], arguments: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.function = function
        self.arguments = tuple(arguments)
        self.kwargs = dict(kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of every value."""
        return self.function(x, *self.arguments, **self.kwargs)


ELEMENTWISE: set[type[nn.Module]] = {
    Elementwise,
    Logit,
    LogProbability,
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
}
"""Activations of one variable, beside nn.ReLU, which has a faster rule of its own."""

LINEAR = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AlphaDropout,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
    nn.Linear,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.Upsample,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
)
"""Layers that are linear in evaluation mode, but for an offset."""


def _pool(pool: Callable[..., Any], module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return pool(
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        return_indices=True,
    )


def _adaptive(pool: Callable[..., Any], module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return pool(x, module.output_size, return_indices=True)


MAXIMA: dict[type[nn.Module], tuple[int, Callable[[Any, Tensor], tuple[Tensor, Tensor]]]] = {
    nn.MaxPool1d: (1, partial(_pool, functional.max_pool1d)),
    nn.MaxPool2d: (2, partial(_pool, functional.max_pool2d)),
    nn.AdaptiveMaxPool1d: (1, partial(_adaptive, functional.adaptive_max_pool1d)),
    nn.AdaptiveMaxPool2d: (2, partial(_adaptive, functional.adaptive_max_pool2d)),
    MaxOverTime: (1, lambda module, x: x.max(dim=-1, keepdim=True)),
}
"""Maxima: how many last axes they pool, and a function to (maxima, flat positions in those)."""


class Recording(NamedTuple):
    """What baselines do in a model.

    Attributes
    ----------
    baselines : Tensor, shape (count, 1, freq, time)
    logits : Tensor, shape (count, classes)
    inputs : dict of Module to list of Tensor
        What goes into each layer that has a rule, in each of its uses.
    """

    baselines: Tensor
    logits: Tensor
    inputs: dict[nn.Module, list[Tensor]]

    @property
    def nbytes(self) -> int:
        """Memory that it holds on to."""
        held = [self.baselines, *(each for uses in self.inputs.values() for each in uses)]
        return sum(each.nbytes for each in held)


class RescaleRule:
    """A model whose backward pass gives DeepLIFT multipliers, inside a ``with`` block.

    A module may be used several times in a forward pass; its uses are matched by their order. A
    network may move other axes into the batch, such as the frames of a clip: row by row, clip
    after clip.

    Parameters
    ----------
    model : Module
        In evaluation mode. Left as it was after the block.

    Examples
    --------
    >>> with RescaleRule(model) as rule:                                  # doctest: +SKIP
    ...     recording = rule.record(baselines)
    ...     logits = rule.forward(features, recording)
    ...     multipliers = rule.multipliers(logits[:, 0].sum(), features, baseline=0)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._replaced: list[tuple[nn.Module, dict[str, Any]]] = []
        self._inputs: dict[nn.Module, list[Tensor]] = {}
        self._uses: dict[nn.Module, int] = {}
        self._recording = False
        self._count = 0
        self._baseline: int | None = None

    def __enter__(self) -> RescaleRule:
        for module in self.model.modules():
            rule = _rule_of(module)
            if rule is None:
                continue
            mine = {
                name: vars(module)[name] for name in ("forward", "inplace") if name in vars(module)
            }
            self._replaced.append((module, mine))
            # In place, an activation would overwrite the input that its rule needs.
            if getattr(module, "inplace", False):
                module.inplace = False
            module.forward = partial(self._run, module, module.forward, rule)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for module, mine in self._replaced:
            del module.forward
            vars(module).update(mine)
        self._replaced.clear()
        self._inputs = {}

    @torch.no_grad()
    def record(self, baselines: Tensor) -> Recording:
        """Return what the baselines (count, 1, freq, time) put into each layer, and their logits.

        A recording stays good for as long as the model is the same, in other ``with`` blocks too.
        """
        self._inputs = {}
        self._recording = True
        try:
            return Recording(baselines, self.model(baselines), self._inputs)
        finally:
            self._recording = False

    def forward(self, features: Tensor, recording: Recording) -> Tensor:
        """Return the logits of features that require a gradient, with the rules in the graph."""
        self._uses.clear()
        self._inputs = recording.inputs
        self._count = len(recording.baselines)
        return self.model(features)

    def multipliers(
        self, score: Tensor, features: Tensor, baseline: int | None, *, keep: bool = False
    ) -> Tensor:
        """Return Δscore/Δfeatures, shaped like the features.

        Parameters
        ----------
        score : Tensor, shape ()
            Made of what `forward` returned.
        features : Tensor
            What `forward` was given.
        baseline : int or None
            The recorded baseline that all clips are compared with. None: each clip with the
            baseline in its own place, of which there are as many as clips.
        keep : bool, default False
            Hold on to the graph for another baseline.

        Raises
        ------
        UnsupportedLayerError
            If the network has overwritten an activation that a rule needs.
        """
        self._baseline = baseline
        try:
            return torch.autograd.grad(score, features, retain_graph=keep)[0]
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise UnsupportedLayerError(
                "the network overwrites an activation in place that the rescale rule needs: "
                f"compute it out of place, or take another method ({error})"
            ) from error

    def _run(
        self, module: nn.Module, forward: Callable[[Tensor], Tensor], rule: _Rule, x: Tensor
    ) -> Tensor:
        if self._recording:
            self._inputs.setdefault(module, []).append(x)
            return forward(x)
        use = self._uses.get(module, 0)
        self._uses[module] = use + 1
        recorded = self._inputs.get(module, [])
        if (
            use >= len(recorded)
            or recorded[use].shape[1:] != x.shape[1:]
            or len(recorded[use]) % self._count
            or len(x) % (len(recorded[use]) // self._count)
        ):
            raise ValueError(
                f"{type(module).__name__} runs differently for the clip than for the background: "
                "the rescale rule needs a model that takes the same steps for every clip"
            )
        reference_for = partial(self._reference, recorded[use])
        if type(module) is nn.ReLU:
            return _ReLUWithRule.apply(x, reference_for)
        replace = partial(self._replace, module, forward, rule, reference_for)
        return _WithRule.apply(x, forward, replace)

    def _reference(self, recorded: Tensor, x: Tensor) -> Tensor:
        """Return the input of the present baseline that rows of a layer are compared with."""
        if self._baseline is None:
            return recorded
        rows = len(recorded) // self._count
        reference = recorded[self._baseline * rows : (self._baseline + 1) * rows]
        if rows > 1:
            reference = reference.repeat(len(x) // rows, *(1 for _ in x.shape[1:]))
        return reference

    def _replace(
        self,
        module: nn.Module,
        forward: Callable[[Tensor], Tensor],
        rule: _Rule,
        reference_for: Callable[[Tensor], Tensor],
        x: Tensor,
        gradient: Tensor,
    ) -> Tensor:
        return rule(module, forward, x, reference_for(x), gradient)


class _ReLUWithRule(torch.autograd.Function):
    """A ReLU whose derivative is Δrelu/Δin, which is (x⁺ + b⁺) / (|x| + |b|).

    Where both have one sign that is 1 or 0; where the signs differ, Δin is ±(|x| + |b|). Unlike the
    quotient of differences it loses no digits where x is near b. At x = b = 0 it is 0, as torch's
    derivative is. |x| and x⁺ are computed once for all baselines.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, reference_for: Callable[[Tensor], Tensor]) -> Tensor:
        positive = x.clamp(min=0)
        ctx.save_for_backward(x.abs(), positive)
        ctx.reference_for = reference_for
        # A later operation in place must not reach what is saved.
        return positive.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        size, positive = ctx.saved_tensors
        reference = ctx.reference_for(size)
        change = positive + reference.clamp(min=0)
        total = size + (reference.abs() + torch.finfo(size.dtype).tiny)
        return change.div_(total).mul_(gradient), None


class _WithRule(torch.autograd.Function):
    """A layer whose backward pass is a rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor], replace: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.replace = replace
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.replace(x, gradient), None, None


_Rule = Callable[[nn.Module, Callable[[Tensor], Tensor], Tensor, Tensor, Tensor], Tensor]


def _rule_of(module: nn.Module) -> _Rule | None:
    kind = type(module)
    if kind is nn.ReLU or kind in ELEMENTWISE:
        return _elementwise
    return _maximum if kind in MAXIMA else None


def _elementwise(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    reference: Tensor,
    gradient: Tensor,
) -> Tensor:
    """Multiply by Δout/Δin, or by the derivative where Δin is too small to divide by."""
    change = x - reference
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        out = forward(point)
        (derived,) = torch.autograd.grad(out, point, gradient)
    quotient = (out.detach() - forward(reference)) / change
    return torch.where(change.abs() < _too_small(x), derived, gradient * quotient)


def _maximum(
    module: nn.Module, forward: Any, x: Tensor, reference: Tensor, gradient: Tensor
) -> Tensor:
    """Give each window's Δmax to the position of its larger maximum, divided by Δin there.

    With t the position of the larger of the two maxima, |Δin_t| ≥ |Δmax|: the quotient lies in
    [0, 1] and the window's contributions sum to Δmax. Of positions that are equal but for rounding,
    as in a reference that is the same everywhere, the first is taken, whatever rounding makes of
    them: a batch of another size may round otherwise.
    """
    axes, pool = MAXIMA[type(module)]
    top, where = (each.flatten(-axes) for each in pool(module, x))
    top_reference = pool(module, reference)[0].flatten(-axes)
    where_reference = pool(module, _coarse(reference))[1].flatten(-axes)
    flat, flat_reference = x.flatten(-axes), reference.flatten(-axes).expand(len(x), -1, -1)
    position = torch.where(top >= top_reference, where, where_reference)
    change = flat.gather(-1, position) - flat_reference.gather(-1, position)
    small = change.abs() < _too_small(x)
    # Where neither moves, the derivative of a maximum with respect to its largest entry: 1.
    quotient = torch.where(small, torch.ones_like(change), (top - top_reference) / change)
    spread = torch.zeros_like(flat)
    spread.scatter_add_(-1, position, gradient.reshape(quotient.shape) * quotient)
    return spread.reshape(x.shape)


def _coarse(x: Tensor) -> Tensor:
    """Return values without their last digits, so that those equal but for rounding are equal."""
    digits = min(64 * torch.finfo(x.dtype).eps, 2**-10)  # in half precision none are to spare
    step = digits * x.abs().amax(tuple(range(1, x.ndim)), keepdim=True)
    return torch.where(step > 0, (x / step).round() * step, x)


def _too_small(x: Tensor) -> float:
    # 1e-6 for float32, as shap has it.
    return 8 * torch.finfo(x.dtype).eps
