"""Methods of the package and of a library that are timed next to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sides import Side
from torch import Tensor

from audiointerp.interpretation import METHODS
from audiointerp.registry import Registry

FLOOR = -100.0
TARGET = 0
"""The class that is explained, of every clip."""

Call = Callable[[Tensor], Tensor]
"""Clips (batch, 1, freq, time) to maps."""


@dataclass(frozen=True)
class Pair:
    """A method of the package and of a library.

    Attributes
    ----------
    library : str
        What the other side is.
    theirs : callable
        ``theirs(side)`` returns what explains clips with the library.
    options : dict
        Of the package's method.
    same : bool
        Whether both compute the same numbers.
    """

    library: str
    theirs: Callable[[Side], Call]
    options: dict[str, Any] = field(default_factory=dict)
    same: bool = True

    def ours(self, name: str, side: Side) -> Call:
        """Return what explains clips with the package."""
        needed = "background" in METHODS[name].requires
        given = {"background": side.background} if needed else {}
        method = METHODS[name](side.model, **given, **self.options)
        return lambda clips: method.attribute(clips, TARGET)


PAIRS: Registry[Pair] = Registry("pair")
