"""Open a set by what a user calls it: the bundled synthetic one, or a folder."""

from __future__ import annotations

import os
from typing import Any

from audiointerp.dataset.base import ClipDataset
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.dataset.synthetic import SyntheticDataset

SYNTHETIC = "synthetic"


def open_dataset(
    data: str | os.PathLike[str], *, subset: str | None = None, **options: Any
) -> ClipDataset:
    """Return the bundled synthetic set, or the one in a folder laid out like ESC-50.

    Parameters
    ----------
    data : "synthetic" or path
        Which.
    subset : {"esc10"}, optional
        Of a folder's clips; see `ESC50Dataset`.
    **options
        What both kinds take: folds, clips, sample_rate, duration, contamination, cache_dir.

    Returns
    -------
    ClipDataset

    Raises
    ------
    ValueError
        If a subset of the synthetic set is asked for.
    """
    if str(data) != SYNTHETIC:
        return ESC50Dataset(data, subset=subset, **options)
    if subset is not None:
        raise ValueError(f"the synthetic set has no subset {subset!r}")
    return SyntheticDataset(**options)
