"""Order of names in tables: registration order first, then alphabetical."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from audiointerp.interpretation import METHODS
from audiointerp.masking import MASKS

_KNOWN: dict[str, Iterable[str]] = {
    "method": METHODS,
    "mask": MASKS,
    "experiment": ("clean",),
    "label": ("correct", "wrong"),
}


def sorting_key(kind: str) -> Callable[[str], tuple[int, str]]:
    """Return a key to sort names by.

    Parameters
    ----------
    kind : str
        "method" and "mask" have the order of their registries, "experiment" begins with the clean
        clips; any other kind is sorted by the alphabet.
    """
    places = {name: place for place, name in enumerate(_KNOWN.get(kind, ()))}
    return lambda name: (places.get(name, len(places)), name)


def rank_names(names: pd.Series) -> pd.Series:
    """Return a key for ``DataFrame.sort_values``, by the kind that the column is called."""
    return names.map(sorting_key(str(names.name)))


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by model, experiment, method and mask, each in its usual order."""
    keys = [key for key in ("model", "experiment", "method", "mask", "label") if key in frame]
    return frame.sort_values(keys, key=rank_names, kind="stable", ignore_index=True)
