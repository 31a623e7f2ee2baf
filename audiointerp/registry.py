"""Registries: methods, masks, metrics, models and front ends by name.

`check_different` finds names that collide.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

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


def check_different(
    kind: str,
    values: Iterable[Any],
    *,
    name: Callable[[Any], str] | None = None,
    taken: Mapping[str, str] | None = None,
) -> None:
    """Check that no value is given twice and no two are filed under one name.

    Parameters
    ----------
    kind : str
        What the values are, as it reads in an error: ``"mask"``, ``"sound file"``.
    values : iterable
        What was given.
    name : callable, optional
        Returns the name that a value's results are filed under. Names that differ only in case,
        or in how their letters are encoded, are one name, as they are to some file systems.
        Without it values collide only if they are equal.
    taken : mapping of str to str, optional
        Names that none can have, and what has them.

    Raises
    ------
    ValueError
        If there is a collision; the message names both values.

    Examples
    --------
    >>> check_different("mask", ["bin", "bin"])
    Traceback (most recent call last):
        ...
    ValueError: the mask 'bin' is given twice
    """
    reserved = {_folded(each): what for each, what in (taken or {}).items()}
    seen: dict[str, Any] = {}
    for value in values:
        key = f"{type(value).__name__} {value}" if name is None else _folded(name(value))
        if key in reserved:
            raise ValueError(
                f"the {kind} {str(value)!r} cannot be called {name(value)}, which is the name of "
                f"{reserved[key]}: choose another"
            )
        if key in seen:
            raise ValueError(_collision(kind, seen[key], value, name))
        seen[key] = value


def _collision(kind: str, first: Any, second: Any, name: Callable[[Any], str] | None) -> str:
    if str(first) == str(second):
        return f"the {kind} {str(first)!r} is given twice"
    both = f"the {kind}s {str(first)!r} and {str(second)!r}"
    names = [name(first), name(second)]
    if names[0] == names[1]:
        return f"{both} are both called {names[0]}: results are filed by name, rename one"
    return (
        f"{both} are called {names[0]!r} and {names[1]!r}, which some file systems take for one "
        "name: results are filed by name, rename one"
    )


def _folded(name: str) -> str:
    """Return what the names have in common that a file system may take for one."""
    return unicodedata.normalize("NFC", name).casefold()
