"""Normalise arguments: one name or several, and settings by name."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def several(given: Any) -> tuple[Any, ...]:
    """Return one thing or several as a tuple.

    A text, a path or a number is one: the letters of a name are no names.

    Parameters
    ----------
    given : str, path, number or iterable of these

    Examples
    --------
    >>> several("saliency"), several(["saliency", "lime"])
    (('saliency',), ('saliency', 'lime'))
    """
    if isinstance(given, (str, bytes, os.PathLike)) or not isinstance(given, Iterable):
        return (given,)
    return tuple(given)


_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build(what: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> Any:
    """Return what a class or function makes of some settings.

    Parameters
    ----------
    what : callable
        Its parameters are the settings that there are.
    name : str
        What messages call it.
    settings : mapping

    Raises
    ------
    ValueError
        If a setting is unknown or misses; the message lists those that there are. If a value is of
        a type that the callable refuses.
    """
    parameters = inspect.signature(what).parameters.values()
    known = {each.name: each for each in parameters if each.kind not in _COLLECTING}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = [setting for setting in settings if setting not in known and not takes_any]
    needed = [each for each, about in known.items() if about.default is about.empty]
    missing = [each for each in needed if each not in settings]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"{name} has no setting {', '.join(unknown)}: {takes}{hint}")
    if missing:
        raise ValueError(f"{name} needs the setting {', '.join(missing)}, got {dict(settings)}")
    try:
        return what(**settings)
    except TypeError as error:
        raise ValueError(f"settings {dict(settings)} do not fit {name}: {error}") from error
