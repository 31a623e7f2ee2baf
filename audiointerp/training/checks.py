"""Checks before a training: sets, numbers, precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from audiointerp.dataset.base import ClipDataset
from audiointerp.model import TransferModel
from audiointerp.model.provenance import warn_absent, warn_shared
from audiointerp.processing import STFTSpectrogram
from audiointerp.runs.classification import check_set
from audiointerp.speed.precision import check_bfloat16

TRAINING_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's names of the precisions that a model can be trained in."""


def check_sets(
    model: TransferModel, processor: STFTSpectrogram, train: ClipDataset, validation: ClipDataset
) -> None:
    """Raise a ValueError unless two sets can be trained and validated on; warn of what they lack.

    Parameters
    ----------
    model : TransferModel
    processor : STFTSpectrogram
    train, validation : ClipDataset

    Raises
    ------
    ValueError
        If a set does not fit the model, the two have other classes or share clips, or the head
        cannot learn their labels.

    Warns
    -----
    MissingClassWarning
        If a class has no clip in one of the sets.
    LeakageWarning
        If a recording has clips in both.
    """
    check_set(model, processor, train, "training set", known=False)
    check_set(model, processor, validation, "validation set", known=False)
    if train.classes != validation.classes:
        raise ValueError(
            f"the training set's classes {list(train.classes)} are not the validation set's "
            f"{list(validation.classes)}: are both made from the same data?"
        )
    common = sorted(set(train.clip_ids) & set(validation.clip_ids))
    if common:
        raise ValueError(
            f"{len(common)} clips are in both sets, the first {common[0]!r}: the validation "
            "accuracy would be of clips trained on; did you give both the same folds?"
        )
    for name, dataset, consequence in (
        ("training set", train, "the network cannot learn them"),
        ("validation set", validation, "the best epoch is chosen without them"),
    ):
        check_labels(model, dataset, name)
        warn_absent(dataset, name, consequence)
    warn_shared(train, validation, ("training set", "validation set"))


def check_labels(model: TransferModel, dataset: ClipDataset, name: str) -> None:
    """Raise a ValueError if the model's head cannot learn or be measured on a set's labels."""
    if not model.head.exclusive:
        if not any(dataset.label_sets):
            raise ValueError(f"no clip of the {name} has a label: there is nothing to learn of it")
        return
    for clip, labels in zip(dataset.clip_ids, dataset.label_sets, strict=True):
        if len(labels) != 1:
            raise ValueError(
                f"clip {clip!r} of the {name} has {len(labels)} labels, a {model.head.name} head "
                "decides for one of the classes: train a sigmoid head, head='sigmoid'"
            )


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError if one of the numbers of `fit` is out of range, or its precision unknown.

    Parameters
    ----------
    settings : mapping
        By the names of the arguments.
    """
    if settings["precision"] not in TRAINING_PRECISIONS:
        raise ValueError(
            f"unknown precision {settings['precision']!r}: choose from "
            f"{', '.join(TRAINING_PRECISIONS)}"
        )
    for name in ("epochs", "batch_size", "patience"):
        value = settings[name]
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}: expected a whole number of at least 1")
    if not isinstance(settings["seed"], int) or settings["seed"] < 0:
        raise ValueError(f"seed is {settings['seed']!r}: expected a whole number, 0 or more")
    ranges = {
        "learning_rate": (0, math.inf),
        "weight_decay": (0, math.inf),
        "label_smoothing": (0, 1),
        "dropout_scale": (0, 2),
        "mixup_alpha": (0, math.inf),
        "time_shift": (0, 0.5),
    }
    for name, (low, high) in ranges.items():
        if not low <= settings[name] <= high or settings[name] == math.inf:
            raise ValueError(f"{name} is {settings[name]}: expected {low} to {high}")
    if settings["learning_rate"] == 0:
        raise ValueError("learning_rate is 0: nothing would be learned")


def check_precision(precision: str, device: torch.device) -> None:
    """Raise or warn where a device trains in another precision than asked for, or slowly."""
    if precision == "16-mixed" and device.type == "cpu":
        # Lightning would train in bf16-mixed.
        raise ValueError(
            "precision '16-mixed' is for GPUs, this trains on the CPU: take bf16-mixed or 32-true"
        )
    if precision == "bf16-mixed":
        check_bfloat16(device, precision, stacklevel=3)


def check_keep(keep: str) -> None:
    """Raise a ValueError unless this is an epoch that a training can keep."""
    if keep not in ("best", "last"):
        raise ValueError(f"keep={keep!r}: expected 'best' or 'last', the epoch to keep")
