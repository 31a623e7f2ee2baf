"""Names of folders and files that results are saved under."""

from __future__ import annotations

import re

from audiointerp.dataset.channels import MID
from audiointerp.runs.targets import Above, Target, Top

_UNSAFE = re.compile(r"[^\w .,()&'+-]|^\.|[ .]$")
_NUMBERED = re.compile(r"_\d+$")


def labelled(name: str, label: str, index: int) -> str:
    """Return the name of a result that explains one of several labels: ``name@label``.

    Parameters
    ----------
    name : str
        Of the clip, or "attribution".
    label : str
        Name of the class. What a file name cannot have becomes ``_``; the class's index then keeps
        names apart. A label that ends in a number of this kind has its index too.
    index : int
        Of the class.

    Examples
    --------
    >>> labelled("night", "dog", 4), labelled("night", "snare/rim", 7)
    ('night@dog', 'night@snare_rim_7')
    """
    safe = _UNSAFE.sub("_", label)
    is_plain = bool(label) and safe == label and not _NUMBERED.search(label)
    return f"{name}@{label}" if is_plain else f"{name}@{safe}_{index}"


def with_channel(name: str, channel: str) -> str:
    """Return the name of a sound of which one channel is analysed: ``name (left)``.

    Parameters
    ----------
    name : str
        Of the sound.
    channel : str
        A name in `audiointerp.dataset.channels.CHANNELS`. The mean of all channels has no name of
        its own.
    """
    return name if channel == MID else f"{name} ({channel})"


def has_several_labels(target: Target) -> bool:
    """Return whether a target may explain several labels of one clip."""
    if target is None or isinstance(target, str | int):
        return False
    if isinstance(target, Top):
        return target.count > 1
    return isinstance(target, Above) or len(target) > 1


def result_name(name: str, target: Target, label: str, index: int) -> str:
    """Return the name of a result's folder, with its label where a clip may have several.

    Parameters
    ----------
    name : str
        Of the clip.
    target : str, int, sequence of them, Top, Above or None
        What was asked for; see `audiointerp.runs.targets`.
    label, index : str, int
        The class that is explained.
    """
    return labelled(name, label, index) if has_several_labels(target) else name
