"""What a classifier makes of a set: every clip's class, the accuracy, the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from audiointerp.dataset.base import ClipDataset
from audiointerp.device import device_of, resolve_device
from audiointerp.model import TransferModel
from audiointerp.model.weights import check_fit
from audiointerp.processing import STFTSpectrogram


def predict_labels(
    model: TransferModel,
    processor: STFTSpectrogram,
    dataset: ClipDataset,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Classify every clip of a set.

    Parameters
    ----------
    model, processor
        A classifier and its front end. The model is put back to its mode and device afterwards.
    dataset : ClipDataset
        Of the model's classes, at the processor's sample rate.
    batch_size : int
    device : str or torch.device, optional
        Where to compute; None where the model is.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per clip in the set's order: ``clip`` (its id), ``target`` and ``predicted`` (class
        names), ``is_correct``, ``probability`` (of the predicted class).

    Raises
    ------
    ValueError
        If the set does not fit the model and the front end.
    """
    check_set(model, processor, dataset, "set")
    home, mode = device_of(model), model.training
    where = home if device is None else resolve_device(str(device))
    rows: list[dict[str, Any]] = []
    try:
        model.eval().to(where)
        processor.to(where)
        batches = tqdm(DataLoader(dataset, batch_size), desc="classifying", disable=not progress)
        with torch.inference_mode():
            for waveform, label, clip_ids in batches:
                chances = model(processor(waveform.to(where))).softmax(1).cpu()
                rows += _label_rows(dataset.classes, chances, label, clip_ids)
    finally:
        model.train(mode).to(home)
        processor.to(home)
    return pd.DataFrame(rows)


def accuracy(
    model: TransferModel,
    processor: STFTSpectrogram,
    dataset: ClipDataset,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> float:
    """Return the share of a set's clips that are classified right; see `predict_labels`."""
    labels = predict_labels(model, processor, dataset, batch_size=batch_size, device=device)
    return float(labels["is_correct"].mean())


def confusion(labels: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count for every class what its clips were taken for.

    Parameters
    ----------
    labels : DataFrame
        With the columns ``target`` and ``predicted``, as `predict_labels` returns them.
    classes : sequence of str
        All classes, in the order wanted.

    Returns
    -------
    DataFrame
        One row and one column per class; a clip counts in the row of what it is and the column of
        what it was taken for.

    Raises
    ------
    ValueError
        If a label is not among the classes.
    """
    names = list(classes)
    unknown = sorted((set(labels["target"]) | set(labels["predicted"])) - set(names))
    if unknown:
        raise ValueError(f"labels {', '.join(unknown)} are not among the classes {names}")
    counts = pd.crosstab(labels["target"], labels["predicted"])
    return counts.reindex(index=names, columns=names, fill_value=0)


def check_set(
    model: TransferModel,
    processor: STFTSpectrogram,
    dataset: ClipDataset,
    name: str,
    *,
    known: bool = True,
) -> None:
    """Check that a set fits a model and its front end.

    Parameters
    ----------
    model, processor, dataset
    name : str
        What messages call the set.
    known : bool
        Whether the model's class names must be the set's: not before it is trained on it.

    Raises
    ------
    ValueError
        If it does not.
    """
    check_fit(model, processor)
    if len(dataset) == 0:
        raise ValueError(f"the {name} is empty: were its folds chosen right?")
    if dataset.sample_rate != processor.sample_rate:
        raise ValueError(
            f"the {name} is at {dataset.sample_rate} Hz, {type(processor).__name__} expects "
            f"{processor.sample_rate} Hz: make the set with sample_rate=processor.sample_rate"
        )
    if len(dataset.classes) != model.num_classes:
        raise ValueError(
            f"the {name} has {len(dataset.classes)} classes, the model {model.num_classes}: "
            "build it with num_classes=len(dataset.classes)"
        )
    if known and model.classes is not None and tuple(model.classes) != tuple(dataset.classes):
        raise ValueError(
            f"the {name}'s classes {list(dataset.classes)} are not the model's "
            f"{list(model.classes)}: was the model trained on other data?"
        )


def _label_rows(
    classes: Sequence[str], chances: Tensor, labels: Tensor, clip_ids: Sequence[str]
) -> list[dict[str, Any]]:
    probabilities, predictions = chances.max(1)
    return [
        {
            "clip": clip_id,
            "target": classes[target],
            "predicted": classes[predicted],
            "is_correct": predicted == target,
            "probability": chance,
        }
        for clip_id, target, predicted, chance in zip(
            clip_ids, labels.tolist(), predictions.tolist(), probabilities.tolist(), strict=True
        )
    ]
