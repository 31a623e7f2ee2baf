"""The record of a metric, and the evidence that metrics are computed from.

`METRICS` is the only place that states facts about metrics: tables, plots, the report and the
tests read names, units, directions and bounds from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor

from audiointerp.arguments import several
from audiointerp.registry import Registry, check_different

if TYPE_CHECKING:
    from audiointerp.evaluation.truth import Truth

Value = TypeVar("Value")

EVIDENCE = frozenset(
    (
        *("inside", "outside", "mask", "sound", "attribution", "view", "classifier"),
        *("truth", "parts", "events", "level", "score"),
    )
)
"""What a metric can need beside ``before`` and ``target``, which are always there.

"truth" are the cells in which the events of the clips sound, "parts" foreground and background
apart, "events" the frames in which the events sound.
"""

SCORED_FAMILIES = ("fidelity", "simplicity")
"""Families whose metrics are taken together in the score; see `audiointerp.tables.score`."""

_TAKEN = frozenset(
    (
        *("clip", "target", "predicted", "explained", "is_correct", "model", "method"),
        *("experiment", "mask", "metric", "label", "cells", "on", "clips", "rows", "n"),
        *("score", "accuracy", "reference"),
    )
)
"""Columns of tables that are no metrics."""


@dataclass(frozen=True)
class Evidence:
    """What is known about a batch of clips under one mask each; None where it is not known.

    Probabilities and targets are on the CPU where the device of the cells and masks has no double
    precision; see `audiointerp.device.double_device`.

    Attributes
    ----------
    before : Tensor, shape (batch, classes)
        Class probabilities of the clips as they are.
    target : Tensor of int64, shape (batch,)
        The explained classes.
    inside, outside : Tensor, shape (batch, classes), optional
        Class probabilities of what the masks keep and of what remains without that.
    mask : Tensor, shape (batch, ...), optional
        In [0, 1].
    attribution : Tensor, shape (batch, 1, bins, frames), optional
        The maps that the masks were made from.
    view : View, optional
        The clips; see `audiointerp.processing.View`.
    sound : Tensor, shape (batch, 1, samples), optional
        What the masks keep, made audible.
    truth : Truth, optional
        The clips' known parts and events; see `audiointerp.evaluation.truth.Truth`.
    classifier : Classifier, optional
        To run it on something else.
    keeps : callable, optional
        The head's rule for an unchanged decision; see `audiointerp.evaluation.input_fidelity`.
    level : Tensor, shape (batch, 1, 1, 1) or (batch, 1, bins, 1), optional
        What hidden cells become; see `audiointerp.masking.base_level`.
    score : callable, optional
        ``score(cells, rows)``, the class probabilities (n, classes) in double precision of changed
        cells (n, 1, bins, frames) of the rows (n,) named: straight or, where the run measures on
        sound, of the sound that they stand for. It fills the model's batches.
    """

    before: Tensor
    target: Tensor
    inside: Tensor | None = None
    outside: Tensor | None = None
    mask: Tensor | None = None
    attribution: Tensor | None = None
    view: Any = None
    sound: Tensor | None = None
    truth: Truth | None = None
    classifier: Any = None
    keeps: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    level: Tensor | None = None
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    _shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def known(self) -> frozenset[str]:
        """Names of what is known, of those in `EVIDENCE`."""
        names = {each.name for each in fields(self)} & EVIDENCE - {"truth"}
        known = {name for name in names if getattr(self, name) is not None}
        if self.truth is not None and self.truth.has_cells:
            known.add("truth")
        if self.truth is not None and self.truth.has_parts:
            known.add("parts")
        if self.truth is not None and self.truth.active is not None:
            known.add("events")
        return frozenset(known)

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """Return a value that several metrics share, computed by the first that asks."""
        if name not in self._shared:
            self._shared[name] = compute()
        return self._shared[name]


@dataclass(frozen=True)
class Metric:
    """A column of the results.

    Attributes
    ----------
    name : str
        Of the column.
    title : str
        The name in words, lower case.
    meaning : str
        What it measures, as a phrase.
    unit : str
        "%", "nats", "dB" or "" for a share or a difference of probabilities.
    decimals, clip_decimals : int
        Digits shown after the point, of a mean and of one clip's value.
    better : {1, -1}
        1 where higher is better, -1 where lower is.
    bounds : callable
        ``bounds(cells)``, the lowest and highest possible value for maps of that many cells;
        infinite where there is no limit. In the score, 0 stands for the worse bound, or for the
        value 0 where that lies between the bounds.
    family : str
        "fidelity", "simplicity", "localisation", …: metrics that answer one question. Those of
        ``SCORED_FAMILIES`` make up the score, so they must have finite bounds.
    level : {"map", "mask", "sound"}
        What is judged. A metric of the map is the same for every mask; one of the sound is the
        same whatever the probabilities are measured on, and so needs none of masked clips.
    needs : frozenset of str
        What must be known, of `EVIDENCE`; without it the column is left out.
    compute : callable
        ``compute(evidence)``, a Tensor of shape (batch,); NaN for a clip without evidence.
    on_request : bool
        Whether it is computed only where its family is asked for, ``extra`` of a `Recipe` or a
        `Job`: because it takes many passes through the model, or is for comparison with the tables
        of others only.
    chance : str
        The fact of the truth that a random map's mean is, "foreground_share" or "event_share" (see
        `audiointerp.evaluation.truth_facts`); "" where it is the same for all clips, or not known.

    Raises
    ------
    ValueError
        If the name is that of another column, something needed is not in `EVIDENCE` or not of the
        metric's level, or the bounds are none.
    """

    name: str
    title: str
    meaning: str
    unit: str
    decimals: int
    clip_decimals: int
    better: Literal[1, -1]
    bounds: Callable[[int], tuple[float, float]]
    family: str
    level: Literal["map", "mask", "sound"]
    needs: frozenset[str]
    compute: Callable[[Evidence], Tensor]
    on_request: bool = False
    chance: str = ""

    def __post_init__(self) -> None:
        unknown = self.needs - EVIDENCE
        if unknown:
            raise ValueError(
                f"the metric {self.name!r} needs {', '.join(sorted(unknown))}: expected some of "
                f"{', '.join(sorted(EVIDENCE))}"
            )
        if self.better not in (1, -1):
            raise ValueError(f"better is {self.better!r}: expected 1 (higher) or -1 (lower)")
        if self.name in _TAKEN:
            raise ValueError(
                f"a metric cannot be called {self.name!r}: tables have another column of that name"
            )
        if self.level == "sound" and self.needs & {"inside", "outside"}:
            raise ValueError(
                f"the metric {self.name} is of the sound, which is heard before it is scored: it "
                'cannot need inside or outside; is its level "mask"?'
            )
        if "sound" in self.needs and self.level != "sound":
            raise ValueError(
                f'the metric {self.name} of the {self.level} needs the sound: its level is "sound"'
            )
        low, high = self.bounds(2)
        if not low < high:
            raise ValueError(
                f"the bounds of {self.name} are {low:g} and {high:g}: expected low, high"
            )
        if self.family in SCORED_FAMILIES and not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"the metric {self.name} of the family {self.family} is unbounded, so it cannot be "
                "scaled for the score: give it finite bounds or another family"
            )

    @property
    def about(self) -> str:
        """Name in words, unit and meaning, as one phrase."""
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.title[:1].upper()}{self.title[1:]}{unit}: {self.meaning}"

    @property
    def scale(self) -> float:
        """The size of the unit: 100 where the unit is percent, else 1."""
        return 100.0 if self.unit == "%" else 1.0


METRICS: Registry[Metric] = Registry("metric")


def metric_columns(columns: Collection[str], families: Collection[str] | None = None) -> list[str]:
    """Return those of some columns that are metrics, in the order of ``METRICS``.

    Parameters
    ----------
    columns : collection of str
        Such as a DataFrame's.
    families : collection of str, optional
        Only metrics of these families.
    """
    columns = several(columns)
    families = None if families is None else several(families)
    return [
        name
        for name, metric in METRICS.items()
        if name in columns and (families is None or metric.family in families)
    ]


def available_metrics(known: Iterable[str], extra: Collection[str] = ()) -> dict[str, Metric]:
    """Return the metrics that can be computed from what is known, in the order of ``METRICS``.

    Parameters
    ----------
    known : iterable of str
        Names in `EVIDENCE`.
    extra : collection of str
        Families whose metrics on request are wanted too.
    """
    known = frozenset(known)
    return {
        name: metric
        for name, metric in METRICS.items()
        if metric.needs <= known and (not metric.on_request or metric.family in extra)
    }


def families_on_request(names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the families of the metrics on request among some names, by default among all."""
    metrics = [METRICS[name] for name in (METRICS if names is None else names)]
    return tuple(dict.fromkeys(metric.family for metric in metrics if metric.on_request))


def check_extra(families: str | Iterable[str]) -> tuple[str, ...]:
    """Return families of metrics on request as a tuple.

    Raises
    ------
    UnknownNameError
        If one has no metric on request.
    ValueError
        If one is given twice.
    """
    offered: Registry[None] = Registry("family of metrics on request")
    offered.update(dict.fromkeys(families_on_request()))
    chosen = several(families)
    for family in chosen:
        offered[family]
    check_different("family of metrics", chosen)
    return chosen


def evaluate_evidence(evidence: Evidence, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Compute metrics of a batch of clips under one mask each.

    Parameters
    ----------
    evidence : Evidence
    names : iterable of str, optional
        Names in ``METRICS``; by default all that the evidence suffices for, without those that
        are computed on request.

    Returns
    -------
    dict of str to Tensor of shape (batch,)
        By column name.

    Raises
    ------
    ValueError
        If a metric named needs what is not known.
    """
    if names is None:
        chosen = available_metrics(evidence.known)
    else:
        chosen = {name: METRICS[name] for name in several(names)}
    for name, metric in chosen.items():
        missing = metric.needs - evidence.known
        if missing:
            raise ValueError(f"the metric {name} needs {', '.join(sorted(missing))}, not given")
    return {name: metric.compute(evidence) for name, metric in chosen.items()}
