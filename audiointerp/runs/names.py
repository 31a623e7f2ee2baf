"""Names of folders and files that results are saved under."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[^\w .,()&'+-]|^\.|[ .]$")


def labelled(name: str, label: str, index: int) -> str:
    """Return the name of a result that explains one of several labels: ``name@label``.

    Parameters
    ----------
    name : str
        Of the clip, or "attribution".
    label : str
        Name of the class. What a file name cannot have becomes ``_``; the class's index then keeps
        names apart.
    index : int
        Of the class.

    Examples
    --------
    >>> labelled("night", "dog", 4), labelled("night", "snare/rim", 7)
    ('night@dog', 'night@snare_rim_7')
    """
    safe = _UNSAFE.sub("_", label)
    return f"{name}@{label}" if safe == label and label else f"{name}@{safe}_{index}"
