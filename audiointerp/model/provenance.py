"""Training data of a network, as its card states it, and overlap with a given set.

A weight file's card holds, under ``trained_on``, the folds, hashes of the recordings that were used
for training and for validation, and the classes without a training clip. Older cards have the
folds as text.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from audiointerp.dataset.base import ClipDataset, parse_fold

CARD = "trained_on"
"""The part of a card that `describe_training` makes."""
_MOST = 5_000
"""Hashes of recordings that a card keeps of each use: the lowest ones, a sample of larger sets."""
_USES = ("training", "validation", "test")
_KINDS = {
    "the synthetic set": "SyntheticDataset",
    "ESC-10": "ESC50Dataset",
    "ESC-50": "ESC50Dataset",
}
"""What the text of older cards begins with, and the type of the set that it stands for."""


class LeakageWarning(UserWarning):
    """Clips that should be unseen were used in training, or are compared with themselves."""


class MissingClassWarning(UserWarning):
    """A class has no clip, so that the network cannot learn it or be measured on it."""


@dataclass(frozen=True)
class Provenance:
    """What a network was trained on.

    Attributes
    ----------
    folds : mapping of str to sequence of int or str
        By use: "training", "validation" and "test".
    untrained : tuple of str
        Classes without a training clip, as far as the card says so.
    recordings : mapping of str to frozenset of str
        Hashes of the recordings by use; empty for older cards.
    kind : str
        Type of the set; "" where it is not known.
    """

    folds: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    recordings: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kind: str = ""

    @classmethod
    def of(cls, model: nn.Module) -> Provenance:
        """Read the card of a classifier or a network; one without a card knows nothing."""
        card = getattr(getattr(model, "network", model), "card", None)
        if not isinstance(card, Mapping):
            return cls()
        said = card.get(CARD)
        if not isinstance(said, Mapping):
            return cls(_parse_folds(card.get("folds")), kind=_parse_kind(card.get("data")))
        return cls(
            said.get("folds", {}),
            tuple(said.get("untrained", ())),
            {use: frozenset(hashes) for use, hashes in said.get("recordings", {}).items()},
            said.get("set", ""),
        )

    def count(self, use: str, dataset: ClipDataset) -> tuple[int, int]:
        """Return how many clips of a set were used for something, out of how many can be judged.

        Parameters
        ----------
        use : {"training", "validation"}
        dataset : ClipDataset
        """
        if not self.recordings:
            same = self.kind == type(dataset).__name__ and not getattr(dataset, "seed", 0)
            folds = set(self.folds.get(use, ())) if same else set()
            return sum(fold in folds for fold in dataset.folds), len(dataset)
        known = self.recordings.get(use, frozenset())
        hashes = [_hash(name) for name in dataset.recordings]
        if len(known) == _MOST:
            # A sample: the lowest hashes of all.
            highest = max(known)
            hashes = [each for each in hashes if each <= highest]
        return sum(each in known for each in hashes), len(hashes)


def describe_training(
    train: ClipDataset, validation: ClipDataset, folds: Mapping[str, Sequence[int | str]]
) -> dict[str, Any]:
    """Return what a card says of the clips a network was trained on, ready for JSON.

    Parameters
    ----------
    train, validation : ClipDataset
    folds : mapping of str to sequence of int or str
        By use: "training", "validation" and "test".
    """
    return {
        "set": type(train).__name__,
        "folds": {use: list(named) for use, named in folds.items()},
        "untrained": list(train.absent_classes),
        "recordings": {
            use: sorted({_hash(name) for name in dataset.recordings})[:_MOST]
            for use, dataset in (("training", train), ("validation", validation))
        },
    }


def remark_overlap(model: nn.Module, dataset: ClipDataset) -> list[str]:
    """Return whether clips of a set were used in a network's training, as phrases.

    Warns
    -----
    LeakageWarning
        If clips were trained on. Those that only chose the epoch are remarked, no more.
    """
    provenance = Provenance.of(model)
    remarks = []
    for use, meaning in (
        ("training", "were trained on"),
        ("validation", "chose the epoch (validation)"),
    ):
        count, of = provenance.count(use, dataset)
        if not count:
            continue
        clips = f"{of} clips" if of == len(dataset) else f"the {of} clips that the card tells of"
        remarks.append(f"{count} of {clips} {meaning}")
        if use == "training":
            test = ", ".join(map(str, provenance.folds.get("test", ())))
            hint = f"; its card names fold {test} for tests" if test else ""
            warnings.warn(
                f"{remarks[-1]}: accuracy and interpretations are not those of unseen clips{hint}",
                LeakageWarning,
                stacklevel=2,
            )
    return remarks


def warn_untrained(model: nn.Module, classes: Iterable[str]) -> None:
    """Warn if a network never saw a clip of some classes, as far as its card says so."""
    untrained = [name for name in Provenance.of(model).untrained if name in set(classes)]
    if untrained:
        warnings.warn(
            f"{', '.join(untrained)}: the network was trained without a clip of this class, by its "
            "card; an interpretation of its output says nothing of the class",
            MissingClassWarning,
            stacklevel=2,
        )


def warn_absent(dataset: ClipDataset, name: str, consequence: str) -> None:
    """Warn of the classes of a set that none of its clips has.

    Parameters
    ----------
    dataset : ClipDataset
    name : str
        What the message calls the set.
    consequence : str
        What follows from it.
    """
    absent = dataset.absent_classes
    if absent:
        named = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" * (len(absent) > 10))
        warnings.warn(
            f"the {name} has no clip of {len(absent)} of its {len(dataset.classes)} classes "
            f"({named}): {consequence}",
            MissingClassWarning,
            stacklevel=2,
        )


def warn_shared(one: ClipDataset, other: ClipDataset, names: tuple[str, str]) -> None:
    """Warn of recordings that have clips in two sets, which should be independent."""
    shared = sorted(set(one.recordings) & set(other.recordings))
    if shared:
        warnings.warn(
            f"{len(shared)} recordings have clips in the {names[0]} and in the {names[1]}, such as "
            f"{shared[0]}: the scores are too high; keep the clips of a recording in one fold",
            LeakageWarning,
            stacklevel=2,
        )


def _hash(recording: str) -> str:
    return hashlib.sha256(recording.encode()).hexdigest()[:10]


def _parse_folds(text: Any) -> dict[str, list[int | str]]:
    """Return the folds that an older card names in words."""
    found = re.fullmatch("; ".join(f"{use} (.+?)" for use in _USES), str(text))
    if found is None:
        return {}
    return {
        use: [parse_fold(fold) for fold in named.split(", ")]
        for use, named in zip(_USES, found.groups(), strict=True)
    }


def _parse_kind(text: Any) -> str:
    """Return the type of the set that an older card names in words, "" if it does not."""
    text = str(text)
    own = re.fullmatch(r"a set of the user's, read as (\w+)", text)
    if own is not None:
        return own[1]
    return next((kind for begin, kind in _KINDS.items() if text.startswith(begin)), "")
