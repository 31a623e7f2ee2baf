"""What all attribution methods share: input checks, a model left as it was found, the result."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiointerp.registry import Registry
from audiointerp.speed.inference import evaluation_mode, fast_copy
from audiointerp.speed.memory import batch_size_for

METHODS: Registry[type[Interpreter]] = Registry("method")

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Explanation:
    """The attributions of a batch and what is worth knowing about them.

    Attributes
    ----------
    attribution : Tensor, shape (batch, 1, freq, time)
        Signed: positive cells speak for the class, negative ones against it.
    target : Tensor, shape (batch,)
        The class explained, int64.
    diagnostics : dict of str to Tensor, shape (batch,)
        One number per clip that says how far to trust the map; the method's page names them.
    """

    attribution: Tensor
    target: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Interpreter(ABC):
    """An attribution method bound to a model.

    Parameters
    ----------
    model : Module
        Maps features (batch, 1, freq, time) to logits (batch, classes), each clip independently
        of the others in evaluation mode.
    batch_size : int, optional
        Inputs that go through the model at once; by default what suits the device.
    fold_batch_norm : bool, default True
        Run on a copy of the model made for speed (see
        `audiointerp.speed.inference.fast_copy`); the same to float rounding.

    Attributes
    ----------
    name : str
        The method's name in `METHODS`.

    Raises
    ------
    TypeError
        If `model` is not a Module.
    ValueError
        If the batch size is below 1.
    """

    name: ClassVar[str]

    def __init__(
        self, model: nn.Module, *, batch_size: int | None = None, fold_batch_norm: bool = True
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a torch.nn.Module, got {type(model).__name__}: "
                "audiointerp.load returns (model, processor), did you pass both?"
            )
        self.model = model
        self.batch_size = None if batch_size is None else check_whole("batch_size", batch_size, 1)
        self.fold_batch_norm = bool(fold_batch_norm)

    def attribute(self, features: Tensor, target: int | Tensor | None = None) -> Tensor:
        """Return how much each cell of the features speaks for a class.

        The model is run in evaluation mode and left as it was found: modes, gradients,
        `requires_grad` and hooks.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, freq, time)
            Finite and floating, on the model's device and of its dtype, in the processor's unit.
        target : int or Tensor, shape (batch,), optional
            The class to explain, one for all clips or one for each; by default the class that the
            model predicts for each clip.

        Returns
        -------
        Tensor, shape (batch, 1, freq, time)
            Signed, detached, of the features' device and dtype. A clip's map does not depend on
            its neighbours in the batch.

        Raises
        ------
        ValueError
            If shapes, values or classes do not fit.
        TypeError
            If the features or the target are of another type.
        """
        return self.explain(features, target).attribution

    def explain(self, features: Tensor, target: int | Tensor | None = None) -> Explanation:
        """Return the attribution with the class it explains and the method's diagnostics.

        Takes and raises what `attribute` does.
        """
        self._check_features(features)
        wanted = check_target(target, features)
        with evaluating(self.model):
            # Clones, so that tensors made in inference mode can take part in a backward pass.
            wanted = wanted if wanted is None else wanted.clone()
            explanation = self._explain(features.detach().clone(), wanted)
        finite = explanation.attribution.isfinite().flatten(1).all(1)
        if not finite.all():
            raise ValueError(
                f"the {self.name} attribution of clips {_positions(~finite)} of this batch is not "
                "finite: the model's gradients or activations overflow there"
            )
        return explanation

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return {"method": self.name}

    @abstractmethod
    def _explain(self, features: Tensor, target: Tensor | None) -> Explanation:
        """Explain checked features; the model is in evaluation mode, its parameters frozen."""

    def _fast_model(self, keep: Iterable[str] = ()) -> nn.Module:
        """Return what to run: a copy made for speed, or the model where none is wanted."""
        if not self.fold_batch_norm:
            return self.model
        return fast_copy(self.model, keep=keep)

    def _in_batches(
        self, features: Tensor, target: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the clips and their classes, as many as go through a backward pass at once."""
        rows = self.batch_size or batch_size_for(features, gradient=True)
        for start in range(0, len(features), rows):
            part = slice(start, start + rows)
            yield features[part], None if target is None else target[part]

    def _check_features(self, features: Tensor) -> None:
        if not isinstance(features, Tensor):
            raise TypeError(f"features must be a Tensor, got {type(features).__name__}")
        check_features(features, "features")
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        if weight is not None and (weight.device, weight.dtype) != (
            features.device,
            features.dtype,
        ):
            raise ValueError(
                f"features are {features.dtype} on {features.device}, the model is {weight.dtype} "
                f"on {weight.device}: move one to the other with .to(...)"
            )


def check_features(features: Tensor, name: str) -> None:
    """Raise unless a tensor is a batch of features: (batch, 1, freq, time), floating and finite.

    Raises
    ------
    ValueError
        Naming what was found and expected.
    TypeError
        If it does not hold floating-point numbers.
    """
    shape = tuple(features.shape)
    if len(shape) != 4 or shape[1] != 1 or 0 in shape:
        raise ValueError(
            f"{name} must have the shape (batch, 1, freq, time), none of them 0, got {shape}: "
            "did you pass a waveform, or leave out the batch or channel axis?"
        )
    if not features.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {features.dtype}")
    finite = features.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"{name} of clips {_positions(~finite)} of this batch hold NaN or infinity: "
            "is the waveform NaN, or was log taken of a silent clip?"
        )


def check_target(target: int | Tensor | None, features: Tensor) -> Tensor | None:
    """Return the wanted classes as (batch,) int64 on the features' device, or None."""
    if target is None:
        return None
    if isinstance(target, Tensor):
        if target.dtype not in _INTEGERS:
            raise TypeError(
                f"target must hold integers, got {target.dtype}: probabilities or a one-hot row "
                "must be turned into a class index first"
            )
        if target.ndim and target.shape != features.shape[:1]:
            raise ValueError(
                f"target must hold one class per clip, shape ({len(features)},), "
                f"got {tuple(target.shape)}"
            )
        wanted = target.detach().to(features.device, torch.int64)
    else:
        if isinstance(target, bool):
            raise TypeError(f"target must be a class index, got {target}")
        try:
            index = operator.index(target)
        except TypeError:
            raise TypeError(
                "target must be None, an int or an integer Tensor of shape (batch,), "
                f"got {type(target).__name__}"
            ) from None
        wanted = torch.tensor(index, device=features.device)
    return wanted.expand(len(features)).contiguous()


def choose_target(logits: Tensor, target: Tensor | None, batch: int) -> Tensor:
    """Return the classes to explain, shape (batch,): those wanted, or else the predicted ones.

    Raises
    ------
    ValueError
        If the logits are not (batch, classes) and finite, or a class is out of range.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model must return logits of shape ({batch}, classes) for {batch} clips, got {got}"
        )
    finite = logits.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"the model's logits are not finite for clips {_positions(~finite)}")
    if target is None:
        return logits.argmax(1)
    classes = logits.shape[1]
    wrong = (target < 0) | (target >= classes)
    if wrong.any():
        raise ValueError(
            f"target {target[wrong][0].item()} is out of range: the model has {classes} classes, "
            f"0 to {classes - 1}"
        )
    return target


def pick(logits: Tensor, target: Tensor) -> Tensor:
    """Return each clip's logit of its target class, shape (batch,)."""
    return logits.gather(1, target[:, None])[:, 0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode with frozen parameters and gradients on; put all back after.

    Frozen parameters take no `.grad`, and convolutions keep no inputs for a weight gradient that
    nobody wants. Works inside `torch.no_grad` and `torch.inference_mode`.
    """
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def check_whole(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`.

    Raises
    ------
    ValueError
        If it is not a whole number or too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return operator.index(value)


def _positions(where: Tensor) -> list[int]:
    return where.nonzero()[:, 0].tolist()
