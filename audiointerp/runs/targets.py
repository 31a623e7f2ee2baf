"""Choose the labels to explain: the predicted one, named ones, the top k, or all above p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audiointerp.registry import Registry


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


Label = str | int
Target = Label | Sequence[Label] | Top | Above | None
"""What to explain; None is the most probable label of each clip."""


def choose_targets(
    target: Target, probabilities: Tensor, classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return which labels of which clips are explained.

    Parameters
    ----------
    target : str, int, sequence of them, Top, Above or None
        Labels by name or index, the same for every clip; or a rule.
    probabilities : Tensor, shape (batch, classes)
    classes : sequence of str

    Returns
    -------
    clip, label : Tensor of int64, shape (explanations,)
        Position in the batch, ascending, and index of the class. Under `Above` a clip may have
        none.

    Raises
    ------
    ValueError
        If a label is no class, is named twice, or more are asked for than there are.
    """
    batch, count = probabilities.shape
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
        named = [target] if isinstance(target, str | int) else list(target)
        chosen = [class_index(each, classes) for each in named]
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"the labels to explain are {named}: expected some, each once")
        labels = torch.tensor(chosen, device=probabilities.device).expand(batch, -1)
    clip = torch.arange(batch, device=labels.device).repeat_interleave(labels.shape[1])
    return clip, labels.reshape(-1)


def class_index(label: Label, classes: Sequence[str]) -> int:
    """Return the index of a class by its name or index.

    Raises
    ------
    ValueError
        If there is none; the message names those there are.
    """
    if isinstance(label, str):
        choices: Registry[int] = Registry("class")
        choices.update({name: index for index, name in enumerate(classes)})
        return choices[label]
    if not 0 <= label < len(classes):
        names = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
        raise ValueError(f"target {label}: expected 0 … {len(classes) - 1}, or one of {names}")
    return int(label)


def describe_target(target: Target) -> Any:
    """Return a target, ready for JSON, as a run's settings have it."""
    if isinstance(target, Top):
        return {"top": target.count}
    if isinstance(target, Above):
        return {"above": target.probability}
    if target is None or isinstance(target, str | int):
        return target
    return list(target)
