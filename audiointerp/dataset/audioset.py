"""AudioSet: its classes.

The names of the classes come from AudioSet's ontology, Google, CC BY 4.0.

References
----------
J. F. Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP
2017.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from importlib import resources


@functools.cache
def audioset_classes() -> tuple[str, ...]:
    """Return the names of AudioSet's 527 classes, in the order of PANNs' outputs.

    Source: AudioSet ontology, Google, CC BY 4.0.

    Examples
    --------
    >>> audioset_classes()[:2], len(audioset_classes())
    (('Speech', 'Male speech, man speaking'), 527)
    """
    return tuple(name for _, name in _labels())


def _labels() -> Iterator[tuple[str, str]]:
    """Yield machine id and name of each class."""
    text = resources.files(__package__).joinpath("audioset_labels.csv").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for row in csv.DictReader(lines):
        yield row["mid"], row["display_name"]
