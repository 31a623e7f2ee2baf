"""Base class of all methods: input checks, an unchanged model, the explanation."""

from __future__ import annotations

import math
import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from audiointerp.evaluation.truth import Truth
from audiointerp.interpretation.facts import Facts
from audiointerp.model.classifier import Classifier, as_classifier, made_up_view
from audiointerp.processing import View
from audiointerp.registry import Registry
from audiointerp.speed.inference import evaluation_mode, fast_copy
from audiointerp.speed.memory import batch_size_for

METHODS: Registry[type[Interpreter]] = Registry("method")
DEFAULT_METHODS = ("saliency", "gradcam", "lime", "shap")
"""What an experiment runs where no method is named: the published four."""


def is_reference(method: str) -> bool:
    """Return whether a name is that of a reference; one that is not in `METHODS` is a method's."""
    return method in METHODS and METHODS[method].reference


def method_label(method: str) -> str:
    """Return a method's name as tables and pictures show it, marked where it is a reference."""
    return f"{method} (reference)" if is_reference(method) else method


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Explanation:
    """The attributions of a batch and what is worth knowing about them.

    Attributes
    ----------
    attribution : Tensor, shape (batch, 1, freq, time)
        Signed: positive cells speak for the class, negative ones against it. From a method of the
        kind "mask", the mask itself, in [0, 1].
    target : Tensor, shape (batch,)
        The class explained, int64.
    diagnostics : dict of str to Tensor, shape (batch,)
        One number per clip that says how far to trust the map; the method's page names them.
    """

    attribution: Tensor
    target: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Interpreter(ABC):
    """A method bound to a model.

    Parameters
    ----------
    model : Classifier or Module
        What `audiointerp.classifier` or `audiointerp.load` returns; or a network that maps cells
        (batch, 1, freq, time) to softmax logits (batch, classes). Each clip is classified
        independently of the others in evaluation mode.
    batch_size : int, optional
        Inputs that go through the model at once; by default what suits the device.
    fold_batch_norm : bool, default True
        Run on a copy of the model made for speed (see
        `audiointerp.speed.inference.fast_copy`); the same to float rounding.

    Attributes
    ----------
    name : str
        The method's name in `METHODS`.
    facts : Facts
        Its family, cost, guarantees and known failures.
    kind : {"attribution", "mask"}
        Whether it returns a signed map, of which masks are made, or a mask directly.
    requires : frozenset of str
        What it must be given: its constructor "background" (cells of clips to compare with),
        "base" (what hidden cells become) and "weights" (of a decoder that was trained for the
        classifier, found beside its file), `explain` "truth" (the parts of the clips); and
        "attention", which the network must have.
    reference : bool
        Whether it is no method but a reference that tables compare methods with, which sees no
        network; see `audiointerp.interpretation.references`.
    classifier : Classifier
        The model with its front end and head.

    Raises
    ------
    TypeError
        If `model` is not a Module.
    ValueError
        If the batch size is below 1, or the method takes gradients or layers of a network that has
        none; see `Classifier.differentiable`.
    """

    name: ClassVar[str]
    facts: ClassVar[Facts]
    kind: ClassVar[Literal["attribution", "mask"]] = "attribution"
    requires: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[bool] = False

    def __init__(
        self, model: nn.Module, *, batch_size: int | None = None, fold_batch_norm: bool = True
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a Classifier or a torch.nn.Module, got {type(model).__name__}"
            )
        self.model = model
        self.classifier = as_classifier(model)
        if not self.classifier.differentiable and self.facts.opens_network:
            raise ValueError(f"{self.name} {no_gradient(self.classifier)}")
        self.batch_size = None if batch_size is None else check_whole("batch_size", batch_size, 1)
        self.fold_batch_norm = bool(fold_batch_norm)

    @classmethod
    def unsuited(cls, classifier: Classifier) -> str:
        """Say why the method with its default settings cannot explain a classifier, "" if it can.

        A run of all methods asks first and leaves out those that say something. It is known before
        any work, or from one made-up clip.

        Parameters
        ----------
        classifier : Classifier
            With a front end.
        """
        if cls.facts.opens_network and not classifier.differentiable:
            return no_gradient(classifier)
        return cls._unsuited(classifier)

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say why the method cannot explain a differentiable classifier, "" where it can."""
        return ""

    @classmethod
    def _refusal(cls, classifier: Classifier) -> str:
        """Return the error by which the method refuses a made-up clip, "" where it explains it."""
        clips = made_up_view(classifier, clips=2)
        settings = {"background": clips[1:]} if "background" in cls.requires else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a clip that nobody asked about
            try:
                cls(classifier, **settings).explain(clips[:1])
            except ValueError as error:
                return str(error)
        return ""

    def attribute(self, features: Tensor | View, target: int | Tensor | None = None) -> Tensor:
        """Return how much each cell of the features speaks for a class.

        The model is run in evaluation mode and left as it was found: modes, gradients,
        `requires_grad` and hooks.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, freq, time), or View
            Finite and floating, on the model's device, in the front end's unit. A network that
            takes a waveform needs the `View` that its front end's ``analyse`` returns.
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

    def explain(
        self,
        view: Tensor | View,
        target: int | Tensor | None = None,
        *,
        truth: Truth | None = None,
    ) -> Explanation:
        """Return the attribution with the class it explains and the method's diagnostics.

        Takes and raises what `attribute` does.

        Parameters
        ----------
        truth : Truth, optional
            What is known of the clips, for methods that require "truth"; others take no notice.

        Raises
        ------
        ValueError
            If the method requires the parts of the clips and they are not given.
        """
        known: dict[str, Any] = {}
        if "truth" in self.requires:
            if truth is None or not truth.has_parts:
                raise ValueError(
                    f"the method {self.name} needs the foreground and the background of the clips, "
                    "which are known of contaminated and of synthetic sets: interpret such a set, "
                    "or choose another method"
                )
            known["truth"] = truth
        view = as_view(view)
        self._check_view(view)
        wanted = check_target(target, view.cells)
        with evaluating(self.classifier.network):
            # Clones, so that tensors made in inference mode can take part in a backward pass.
            wanted = wanted if wanted is None else wanted.clone()
            explanation = self._explain(self._detached(view), wanted, **known)
        finite = explanation.attribution.isfinite().flatten(1).all(1)
        if not finite.all():
            hint = ""
            if self.classifier.needs_view and (view.waveform == 0).any():
                hint = (
                    ". The sound is exactly zero in places, as padding is, where networks that "
                    "take the magnitude of a spectrum have no derivative: add faint noise to it"
                )
            raise ValueError(
                f"the {self.name} attribution of clips {_positions(~finite)} of this batch is not "
                f"finite: the model's gradients or activations overflow there{hint}"
            )
        return explanation

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all settings that change its maps, ready for JSON.

        Settings that change memory and time only, such as the batch size, are left out.
        """
        return {"method": self.name}

    @abstractmethod
    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        """Explain a checked view; the model is in evaluation mode, its parameters frozen.

        A method that requires "truth" is given it by this name.
        """

    def _fast_classifier(self, keep: Iterable[str] = (), *, backward: bool = False) -> Classifier:
        """Return what to run: the classifier around a fast copy, or itself where none is wanted."""
        if not self.fold_batch_norm:
            return self.classifier
        copied = fast_copy(self.classifier.network, keep=keep, backward=backward)
        return self.classifier.with_network(copied)

    def _in_batches(
        self, view: View, target: Tensor | None
    ) -> Iterator[tuple[View, Tensor | None]]:
        """Yield the clips and their classes, as many as go through a backward pass at once."""
        rows = self.batch_size or batch_size_for(view.cells, gradient=True)
        for start in range(0, len(view), rows):
            part = slice(start, start + rows)
            yield view[part], None if target is None else target[part]

    def _detached(self, view: View) -> View:
        """Return a view whose tensors can take part in a backward pass, as far as they are used."""
        cells = view.cells.detach().clone()
        if not self.classifier.needs_view:
            return View(cells, view.waveform, view.context)
        return View(cells, view.waveform.detach().clone(), view.context.detach().clone())

    def _check_view(self, view: View) -> None:
        check_features(view.cells, "features")
        if self.classifier.needs_view and view.waveform is None:
            raise ValueError(
                "a waveform network is explained on the view of its sound: pass "
                "front_end.analyse(waveform), not cells alone"
            )
        weights = self.classifier.weight_type
        if weights is not None and weights[0] != view.cells.device:
            raise ValueError(
                f"features are on {view.cells.device}, the model is on {weights[0]}: move one to "
                "the other with .to(...)"
            )


def no_gradient(classifier: Classifier) -> str:
    """Say what a network without gradients lacks, and which methods can explain it."""
    closed = [name for name, method in METHODS.items() if not method.facts.opens_network]
    methods = [name for name in closed if not METHODS[name].reference]
    return (
        "takes gradients or layers of the network, of which "
        f"{type(classifier.network).__name__} has none: choose from {', '.join(methods)}"
    )


def as_view(features: Tensor | View) -> View:
    """Return a view of features: themselves, where they are one, or of cells without sound.

    Raises
    ------
    TypeError
        If they are neither.
    """
    if isinstance(features, View):
        return features
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a Tensor or a View, got {type(features).__name__}")
    return View(features)


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
    if len(logits) != batch:
        raise ValueError(f"there are logits for {len(logits)} clips, expected {batch}")
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


def class_gradient(
    model: Classifier, view: View, target: Tensor | None, cells: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the gradient of each clip's class logit and the classes.

    Parameters
    ----------
    model : Classifier
        In evaluation mode, its parameters frozen.
    view : View
        Of clips that do not depend on each other in the network.
    target : Tensor of int64, shape (batch,), or None
        None for the predicted classes.
    cells : Tensor, shape (batch, 1, freq, time), optional
        Changed cells of the same clips to take the gradient at; by default the view's own.

    Returns
    -------
    gradient : Tensor, shape (batch, 1, freq, time)
        ∂logit_c/∂cells, of the cells' dtype and device.
    target : Tensor of int64, shape (batch,)
    """
    cells = (view.cells if cells is None else cells).detach().requires_grad_()
    logits = model.logits(cells, view)
    target = choose_target(logits, target, len(cells))
    # Clips do not depend on each other, so the gradient of the sum holds each clip's own.
    (gradient,) = torch.autograd.grad(pick(logits, target).sum(), cells)
    return gradient, target


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in `evaluation_mode` with gradients on, in any gradient mode of the caller."""
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


def check_positive(name: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a float.

    Parameters
    ----------
    name : str
        Of the setting, for the message.
    value : float
    zero : bool
        Whether it may be 0.

    Raises
    ------
    ValueError
        If it is no finite number above 0, or of at least 0 where that is allowed.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        wanted = "a number of at least 0" if zero else "a positive number"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return float(value)


def _positions(where: Tensor) -> list[int]:
    return where.nonzero()[:, 0].tolist()
