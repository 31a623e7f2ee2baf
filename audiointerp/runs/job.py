"""A job: one method on one classifier, with its masks and metrics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from audiointerp.arguments import several
from audiointerp.device import device_of
from audiointerp.evaluation.record import check_extra
from audiointerp.interpretation import Interpreter
from audiointerp.masking import (
    BASES,
    DOMAINS,
    IDENTITY,
    MASKS,
    apply_mask,
    base_level,
    make_masks,
)
from audiointerp.model.classifier import Classifier
from audiointerp.model.weights import model_hash
from audiointerp.registry import Registry, check_different
from audiointerp.runs.targets import Target, check_target, describe_target
from audiointerp.speed.precision import PRECISIONS, check_precision

Place = Literal["features", "audio"]

PLACES: Registry[str] = Registry("place to measure on")
PLACES["features"] = "the masked cells go straight to the model"
PLACES["audio"] = "the masked cells become sound, and that sound goes through the front end"


@dataclass(frozen=True)
class Job:
    """Everything that the interpretation of a clip depends on, apart from the clip.

    Attributes
    ----------
    classifier : Classifier
        With a front end.
    interpreter : Interpreter
        Of this classifier.
    masks : tuple of str
        Masks to make and score.
    base : str
        What a removed cell becomes; see `audiointerp.masking.base_level`.
    domain : str
        What a mask multiplies; see `audiointerp.masking.apply_mask`.
    on : tuple of {"features", "audio"}
        What metrics are measured on.
    precision : str
        See `audiointerp.speed.precision.computing`.
    target : str, int, sequence of them, Top, Above, TrueLabels or None
        Labels to explain; see `audiointerp.runs.targets`.
    batch_size : int, optional
        Most inputs that go through the model at once; results do not depend on it.
    extra : tuple of str
        Families of metrics to compute that are computed on request only; see
        `audiointerp.evaluation.Metric.on_request`.
    """

    classifier: Classifier
    interpreter: Interpreter
    masks: tuple[str, ...]
    base: str = "floor"
    domain: str = "feature"
    on: tuple[str, ...] = ("features",)
    precision: str = "float32"
    target: Target = None
    batch_size: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        front_end = self.classifier.front_end
        if front_end is None:
            raise ValueError("the classifier has no front end to analyse sound with")
        if self.domain != "feature" and self.domain in DOMAINS and not front_end.log:
            raise ValueError(
                f"{type(front_end).__name__} makes power already: domain={self.domain!r} is for "
                "features in dB, keep domain='feature'"
            )
        if self.interpreter.classifier.network is not self.classifier.network:
            raise ValueError(
                "the interpreter was made for another model: what it explains would be scored "
                "on a model that it never saw"
            )
        explained, measured = self.interpreter.classifier.settings(), self.classifier.settings()
        if explained != measured:
            raise ValueError(
                f"the interpreter was made for {explained}, its maps would be measured on "
                f"{measured}: make both of one classifier"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: expected 1 or more")
        check_target(self.target, self.classifier.classes, labelled=True)
        self._check_names()
        check_precision(self.precision, device_of(self.classifier.network), stacklevel=4)
        self._check_base()

    @property
    def front_end(self) -> Any:
        """The classifier's front end."""
        return self.classifier.front_end

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.interpreter.name

    def make_masks(self, attribution: Tensor) -> dict[str, Tensor]:
        """Return the job's masks of a batch of maps; see `audiointerp.masking.make_masks`."""
        return make_masks(attribution, self.masks)

    def level(self, cells: Tensor) -> Tensor:
        """Return what removed cells become; see `audiointerp.masking.base_level`."""
        return base_level(cells, self.base, floor=self.front_end.floor)

    def mask(self, cells: Tensor, mask: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masked-in and masked-out cells."""
        return apply_mask(cells, mask, level, domain=self.domain)

    def settings(self) -> dict[str, Any]:
        """Return every setting that a row of the results depends on, ready for JSON.

        Which masks are scored, on what and by which metrics changes no row: more of them can be
        added to a run.
        """
        return {
            "model": self.classifier.settings(),
            "model_hash": model_hash(self.classifier.network),
            "processor": self.front_end.settings(),
            "method": self.method,
            "interpreter": self.interpreter.settings(),
            "base": self.base,
            "domain": self.domain,
            **({} if self.precision == "float32" else {"precision": self.precision}),
            **({} if self.target is None else {"target": describe_target(self.target)}),
        }

    def _check_names(self) -> None:
        masks = {**MASKS, IDENTITY: None} if self.interpreter.kind == "mask" else MASKS
        for registry, names in (
            (PLACES, self.on),
            (BASES, [self.base]),
            (DOMAINS, [self.domain]),
            (PRECISIONS, [self.precision]),
        ):
            if not names:
                raise ValueError(f"no {registry.kind} given: choose from {', '.join(registry)}")
            for name in names:
                registry[name]
            check_different(registry.kind, names)
        check_extra(self.extra)
        check_different("mask", self.masks)
        if not self.masks:
            raise ValueError(f"no mask given: choose from {', '.join(masks)}")
        for name in self.masks:
            if name not in masks:
                MASKS[name]

    def _check_base(self) -> None:
        """Warn where a method hides parts of a clip otherwise than the metrics will."""
        hidden = getattr(self.interpreter, "base", None)
        if isinstance(hidden, int | float) and (
            self.base != "floor" or hidden != self.front_end.floor
        ):
            warnings.warn(
                f"{self.method} hides cells at {hidden:g}, the masks at the base "
                f"{self.base!r}: it explains what the metrics do not measure; "
                "audiointerp.runs.recipe.build_interpreter gives both the same",
                stacklevel=5,
            )


def choose_masks(masks: str | Iterable[str] | None, interpreter: Interpreter) -> tuple[str, ...]:
    """Return the names of masks: those given, or all that a method's maps allow."""
    if masks is None:
        return (IDENTITY,) if interpreter.kind == "mask" else tuple(MASKS)
    return several(masks)


def choose_places(on: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is measured on as a tuple."""
    return several(on)
