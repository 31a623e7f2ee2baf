"""Named choices: methods, masks, metrics, models and front ends are looked up here by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is not in a registry; the message lists the names that are."""


class Registry(dict[str, T]):
    """A dictionary of named choices whose unknown names raise an error that lists them.

    Parameters
    ----------
    kind : str
        What is registered, as it reads in an error: ``"mask"``, ``"method"``.

    Examples
    --------
    >>> shapes = Registry("shape")
    >>> @shapes.register("square")
    ... def square(side):
    ...     return side * side
    >>> shapes["square"](3)
    9
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its target under `name`.

        Raises
        ------
        ValueError
            If `name` is taken: two things of one name would silently shadow each other.
        """
        if name in self:
            raise ValueError(f"the {self.kind} {name!r} is already registered")

        def add(target: T) -> T:
            self[name] = target
            return target

        return add

    def __missing__(self, name: object) -> T:
        close = difflib.get_close_matches(str(name), self, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}: choose from {', '.join(self)}.{hint}"
        )
