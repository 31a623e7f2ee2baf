"""Names of result folders and files."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from audiointerp.dataset.channels import MID
from audiointerp.dataset.files import escape_bytes, shorten_name
from audiointerp.interpretation import METHODS
from audiointerp.runs.targets import Above, Target, Top, TrueLabels

LONGEST_NAME = 200
"""Bytes of a name at most: file systems have 255, and temporary names are longer."""

_UNSAFE = re.compile(r"[^\w .,()&'+-]|^\.|[ .]$")
_NUMBERED = re.compile(r"_\d+$")
_LEVEL = re.compile(r"_(-?\d+(?:\.\d+)?)dB$")


def file_name(path: str | os.PathLike[str]) -> str:
    r"""Return what a file is called in results: its name without ending.

    A name of more than 200 bytes ends in a hash instead, and bytes that are no UTF-8 become their
    percent codes, so that tables, pages and folders can have it.

    Examples
    --------
    >>> file_name("sounds/dog.wav"), file_name(os.fsdecode(b"caf\xe9.wav"))
    ('dog', 'caf%E9')
    """
    return shorten_name(escape_bytes(Path(path).stem), LONGEST_NAME)


def labelled(name: str, label: str, index: int) -> str:
    """Return the name of a result that explains one of several labels: ``name@label``.

    Parameters
    ----------
    name : str
        Of the clip, or "attribution".
    label : str
        Name of the class. What a file name cannot have becomes ``_``; the class's index then keeps
        names apart. A label that ends in a number of this kind has its index too. A name of more
        than 200 bytes ends in a hash instead.
    index : int
        Of the class.

    Examples
    --------
    >>> labelled("night", "dog", 4), labelled("night", "snare/rim", 7)
    ('night@dog', 'night@snare_rim_7')
    """
    safe = _UNSAFE.sub("_", label)
    is_plain = bool(label) and safe == label and not _NUMBERED.search(label)
    whole = f"{name}@{label}" if is_plain else f"{name}@{safe}_{index}"
    return shorten_name(whole, LONGEST_NAME)


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


def split_run_name(folder: str) -> tuple[str, str]:
    """Return the method and the experiment of a run's folder, ``<method>_<experiment>``.

    The method is the longest registered name that fits; without one, what stands before the first
    underscore.

    Examples
    --------
    >>> split_run_name("lrp_gamma_white_noise"), split_run_name("mine_clean")
    (('lrp_gamma', 'white_noise'), ('mine', 'clean'))
    """
    known = [name for name in METHODS if folder.startswith(f"{name}_")]
    method = max(known, key=len, default=folder.partition("_")[0])
    return method, folder[len(method) + 1 :]


def condition_name(noise: str, snr_db: float | None = None) -> str:
    """Return what the experiment of a noise at a level is called: ``horse``, ``horse_-10dB``.

    Parameters
    ----------
    noise : str
    snr_db : float, optional
        None for the main level.
    """
    return noise if snr_db is None else f"{noise}_{snr_db:g}dB"


def split_condition(experiment: str) -> tuple[str, float]:
    """Return the noise of an experiment and its level in dB, NaN for the main level.

    Examples
    --------
    >>> split_condition("room_-10dB"), split_condition("room")
    (('room', -10.0), ('room', nan))
    """
    found = _LEVEL.search(experiment)
    return (experiment[: found.start()], float(found[1])) if found else (experiment, math.nan)


def has_several_labels(target: Target) -> bool:
    """Return whether a target may explain several labels of one clip."""
    if target is None or isinstance(target, str | int):
        return False
    if isinstance(target, Top):
        return target.count > 1
    return isinstance(target, Above | TrueLabels) or len(target) > 1


def result_name(name: str, target: Target, label: str, index: int) -> str:
    """Return the name of a result's folder, with its label where a clip may have several.

    Parameters
    ----------
    name : str
        Of the clip.
    target : str, int, sequence of them, Top, Above, TrueLabels or None
        What was asked for; see `audiointerp.runs.targets`.
    label, index : str, int
        The class that is explained.
    """
    return labelled(name, label, index) if has_several_labels(target) else name
