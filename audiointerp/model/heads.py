"""Heads: from a network's outputs to logits, probabilities and decisions.

A new head is one subclass of `Head` registered in `HEADS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiointerp.arguments import build
from audiointerp.model.outputs import Logit, LogProbability
from audiointerp.registry import Registry

HEADS: Registry[type[Head]] = Registry("head")


class Head(ABC):
    """What a network's outputs mean.

    Attributes
    ----------
    name : str
        In `HEADS`.
    exclusive : bool
        Whether exactly one class is decided for each clip.
    """

    name: ClassVar[str]
    exclusive: ClassVar[bool]

    def settings(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again, ready for JSON."""
        return {"name": self.name}

    def num_classes(self, outputs: int) -> int:
        """Return how many classes a network of so many outputs tells apart."""
        return outputs

    def num_outputs(self, classes: int) -> int:
        """Return how many outputs a network needs to tell so many classes apart.

        Raises
        ------
        ValueError
            If the head is not for so many classes.
        """
        return classes

    def logits(self, outputs: Tensor) -> Tensor:
        """Return one logit per class, (batch, classes), from outputs (batch, outputs)."""
        return outputs

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities (batch, classes) in [0, 1]."""

    def inverse(self) -> nn.Module:
        """Return a module that turns a network's probabilities into the outputs they are of.

        For networks that end with their softmax or sigmoid:
        ``head.probabilities(head.logits(head.inverse()(p)))`` is p. By default the log-odds.
        """
        return Logit()

    @abstractmethod
    def decisions(self, probabilities: Tensor) -> Tensor:
        """Return which classes are decided for, bool (batch, classes)."""

    def keeps(self, before: Tensor, after: Tensor, target: Tensor) -> Tensor:
        """Return whether the decision for the target is the same, bool (batch,).

        Parameters
        ----------
        before, after : Tensor, shape (batch, classes)
            Probabilities of the clip and of its masked version.
        target : Tensor of int64, shape (batch,)
        """
        index = target[:, None]
        then, now = self.decisions(before), self.decisions(after)
        return (then.gather(1, index) == now.gather(1, index))[:, 0]

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the training loss.

        Parameters
        ----------
        logits : Tensor, shape (batch, classes)
        targets : Tensor, shape (batch, classes)
            Shares of the classes in [0, 1]: one-hot, multi-hot, or mixed.
        label_smoothing : float
        """


@HEADS.register("softmax")
class Softmax(Head):
    """One class of several: probabilities sum to 1, the largest is decided for."""

    name = "softmax"
    exclusive = True

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return softmax(logits)."""
        return logits.softmax(1)

    def inverse(self) -> nn.Module:
        """Return the logarithm, of which softmax makes the same probabilities again."""
        return LogProbability()

    def decisions(self, probabilities: Tensor) -> Tensor:
        """Return True for the class of the largest probability, the first of equal ones."""
        return _largest(probabilities)

    def keeps(self, before: Tensor, after: Tensor, target: Tensor) -> Tensor:
        """Return argmax p(after) = target, whatever class was decided for before."""
        return after.argmax(1) == target

    def loss(self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy; targets may be the indices of the classes, (batch,), too."""
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)


@HEADS.register("sigmoid")
class Sigmoid(Head):
    """Any number of labels: each has a probability of its own and is decided for at a threshold.

    Parameters
    ----------
    threshold : float, default 0.5
        Probability from which a label is decided for, in (0, 1).
    """

    name = "sigmoid"
    exclusive = False

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}: expected a probability between 0 and 1")
        self.threshold = float(threshold)

    def settings(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again, ready for JSON."""
        return super().settings() | {"threshold": self.threshold}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return sigmoid(logits)."""
        return logits.sigmoid()

    def decisions(self, probabilities: Tensor) -> Tensor:
        """Return where the probability reaches the threshold."""
        return probabilities >= self.threshold

    def loss(self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean binary cross-entropy; smoothing moves targets towards 1/2."""
        smooth = targets * (1 - label_smoothing) + 0.5 * label_smoothing
        return functional.binary_cross_entropy_with_logits(logits, smooth)


@HEADS.register("binary")
class Binary(Head):
    """Two classes from a single output z: their logits are -z and z, their probabilities σ(∓z).

    The first class is the absent one, the second the one that z speaks for.
    """

    name = "binary"
    exclusive = True

    def num_classes(self, outputs: int) -> int:
        """Return 2.

        Raises
        ------
        ValueError
            If the network has more than one output.
        """
        if outputs != 1:
            raise ValueError(
                f"head='binary' is for a network with one output, this one has {outputs}: "
                "declare 'softmax' or 'sigmoid'"
            )
        return 2

    def num_outputs(self, classes: int) -> int:
        """Return 1.

        Raises
        ------
        ValueError
            If there are not two classes.
        """
        if classes != 2:
            raise ValueError(
                f"head='binary' tells two classes apart, there are {classes}: take 'softmax' for "
                "one class of several, 'sigmoid' for any number of labels"
            )
        return 1

    def logits(self, outputs: Tensor) -> Tensor:
        """Return (-z, z)."""
        return torch.cat([-outputs, outputs], dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return sigmoid(logits), which sum to 1."""
        return logits.sigmoid()

    def decisions(self, probabilities: Tensor) -> Tensor:
        """Return True for the class of the larger probability, the first of equal ones."""
        return _largest(probabilities)

    def keeps(self, before: Tensor, after: Tensor, target: Tensor) -> Tensor:
        """Return argmax p(after) = target, whatever class was decided for before."""
        return after.argmax(1) == target

    def loss(self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the binary cross-entropy of the second class."""
        smooth = targets[:, 1] * (1 - label_smoothing) + 0.5 * label_smoothing
        return functional.binary_cross_entropy_with_logits(logits[:, 1], smooth)


def build_head(head: str | Head | dict[str, Any]) -> Head:
    """Return a head from its name or its `settings()`; a head is returned as it is.

    Raises
    ------
    UnknownNameError
        If no head has that name.
    ValueError
        If the settings have no name, or a setting is not one of that head's.
    """
    if isinstance(head, Head):
        return head
    if isinstance(head, str):
        return HEADS[head]()
    options = dict(head)
    if "name" not in options:
        raise ValueError(
            f"head settings without a 'name': {head!r}; choose from {', '.join(HEADS)}"
        )
    name = str(options.pop("name"))
    return build(HEADS[name], f"the head {name!r}", options)


def _largest(probabilities: Tensor) -> Tensor:
    chosen = torch.zeros_like(probabilities, dtype=torch.bool)
    return chosen.scatter_(1, probabilities.argmax(1, keepdim=True), True)
