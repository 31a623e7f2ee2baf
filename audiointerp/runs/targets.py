"""Choose the labels to explain: the predicted one, named or true ones, the top k, all above p."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audiointerp.registry import UnknownNameError


@dataclass(frozen=True)
class Top:
    """The `count` most probable labels of each clip, the most probable first."""

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"Top({self.count!r}): expected a whole number of at least 1")


@dataclass(frozen=True)
class Above:
    """Every label whose probability reaches `probability`, the most probable first."""

    probability: float

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"Above({self.probability!r}): expected a probability between 0 and 1")


@dataclass(frozen=True)
class TrueLabels:
    """The labels that a set says each clip has, in the order of the classes.

    Truth is measured on these: a map of another class has nothing true to find. Only clips of a
    set have labels; see `audiointerp.runs.experiment.run_experiment`.
    """


Label = str | int
Target = Label | Sequence[Label] | Top | Above | TrueLabels | None
"""What to explain; None is the most probable label of each clip."""


def choose_targets(
    target: Target,
    probabilities: Tensor,
    classes: Sequence[str],
    *,
    true: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return which labels of which clips are explained.

    Parameters
    ----------
    target : str, int, sequence of them, Top, Above, TrueLabels or None
        Labels by name or index, the same for every clip; or a rule.
    probabilities : Tensor, shape (batch, classes)
    classes : sequence of str
    true : Tensor of bool, shape (batch, classes), optional
        The labels that the clips have, for `TrueLabels`.

    Returns
    -------
    clip, label : Tensor of int64, shape (explanations,)
        Position in the batch, ascending, and index of the class. Under `Above` and
        `TrueLabels` a clip may have none.

    Raises
    ------
    ValueError
        If a label is no class, is named twice, or more are asked for than there are; or true
        labels are asked for of clips that have none.
    TypeError
        If a label is neither a name nor a whole number.
    """
    batch, count = probabilities.shape
    if isinstance(target, TrueLabels):
        if true is None:
            raise ValueError(_NO_LABELS)
        return true.to(probabilities.device).nonzero(as_tuple=True)
    if isinstance(target, Above):
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        reached = probabilities.gather(1, order) >= target.probability
        clip, place = reached.nonzero(as_tuple=True)
        return clip, order[clip, place]
    if isinstance(target, Top):
        if target.count > count:
            raise ValueError(f"the top {target.count} labels of {count} classes were asked for")
        labels = probabilities.argsort(dim=1, descending=True, stable=True)[:, : target.count]
    elif target is None:
        labels = probabilities.argmax(1, keepdim=True)
    else:
        named = _listed(target)
        chosen = [class_index(each, classes) for each in named]
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"the labels to explain are {named}: expected some, each once")
        labels = torch.tensor(chosen, device=probabilities.device).expand(batch, -1)
    clip = torch.arange(batch, device=labels.device).repeat_interleave(labels.shape[1])
    return clip, labels.reshape(-1)


_NO_LABELS = (
    "TrueLabels() explains the labels that a set says its clips have, and files and waveforms have "
    "none: name the label to explain, or interpret a set"
)


def check_target(target: Target, classes: Sequence[str] | None, *, labelled: bool = False) -> None:
    """Check before any clip is classified that a target is one of a model's labels.

    Parameters
    ----------
    target : str, int, sequence of them, Top, Above, TrueLabels or None
    classes : sequence of str, optional
        The model's; where it has no names for them, nothing can be said.
    labelled : bool
        Whether the clips are, or may be, those of a set that says which labels they have.

    Raises
    ------
    ValueError, TypeError
        As `choose_targets`.
    """
    if isinstance(target, TrueLabels):
        if not labelled:
            raise ValueError(_NO_LABELS)
    elif classes is not None:
        choose_targets(target, torch.zeros(1, len(classes)), classes)


def class_index(label: Label, classes: Sequence[str]) -> int:
    """Return the index of a class by its name or index.

    Raises
    ------
    UnknownNameError, ValueError
        If there is none; the message names those there are.
    TypeError
        If it is neither a name nor a whole number.
    """
    if isinstance(label, str):
        if label in classes:
            return list(classes).index(label)
        close = difflib.get_close_matches(label, classes, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(f"unknown class {label!r}: choose from {_some(classes)}{hint}")
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise TypeError(f"target {label!r}: expected the name or the index of a class")
    index = operator.index(label)
    if not 0 <= index < len(classes):
        raise ValueError(
            f"target {label}: expected 0 … {len(classes) - 1}, or one of {_some(classes)}"
        )
    return index


def _listed(target: Label | Sequence[Label]) -> list[Label]:
    """Return one label or several as a list."""
    return list(target) if _is_several(target) else [target]


def _is_several(target: Any) -> bool:
    single = isinstance(target, str) or getattr(target, "ndim", 1) == 0
    return isinstance(target, Iterable) and not single


def _some(classes: Sequence[str], most: int = 20) -> str:
    return ", ".join(classes[:most]) + (f", … ({len(classes)})" if len(classes) > most else "")


def describe_target(target: Target) -> Any:
    """Return a target, ready for JSON, as a run's settings have it."""
    if isinstance(target, Top):
        return {"top": target.count}
    if isinstance(target, Above):
        return {"above": target.probability}
    if isinstance(target, TrueLabels):
        return {"true_labels": True}
    if target is None or isinstance(target, str):
        return target
    labels = [each if isinstance(each, str) else operator.index(each) for each in _listed(target)]
    return labels if _is_several(target) else labels[0]
