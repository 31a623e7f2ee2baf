"""Classify a set: labels of every clip, accuracy, mAP, confusion matrix."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate
from tqdm.auto import tqdm

from audiointerp.arguments import several
from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import read_ahead
from audiointerp.dataset.decode import AudioError
from audiointerp.dataset.failures import Failures, each_alone
from audiointerp.device import device_of, resolve_device
from audiointerp.evaluation.ranking import average_precision, mean_average_precision
from audiointerp.evaluation.statistics import bootstrap_means, interval
from audiointerp.model.classifier import as_classifier
from audiointerp.model.heads import Head
from audiointerp.model.provenance import remark_overlap
from audiointerp.model.weights import check_fit
from audiointerp.processing import FrontEnd

BETWEEN_LABELS = "|"
"""What stands between the labels of a clip that has several, in a column of a table."""
MAP_RESAMPLES = 1_000
"""Resamples of the interval of the mAP."""
_WEIGHTS_AT_ONCE = 10_000_000


class SkippedClipsWarning(UserWarning):
    """Clips of a set could not be classified, so that what is measured is of the others."""


@dataclass(frozen=True)
class SetPredictions:
    """What a classifier says of the clips of a set, beside what they are.

    Attributes
    ----------
    head : Head
        What the probabilities mean.
    classes : tuple of str
    clip_ids : sequence of str
    probabilities : ndarray, shape (clips, classes)
    truth : ndarray of bool, shape (clips, classes)
        Which labels a clip has: one of several classes, or any number of labels.
    failures : dict of str to str
        Clips of the set that could not be classified, and why; they are in nothing else.
    """

    head: Head
    classes: tuple[str, ...]
    clip_ids: Sequence[str] = field(repr=False)
    probabilities: NDArray[np.floating] = field(repr=False)
    truth: NDArray[np.bool_] = field(repr=False)
    failures: dict[str, str] = field(default_factory=dict)

    @cached_property
    def decisions(self) -> NDArray[np.bool_]:
        """Which classes the head decides for, shape (clips, classes)."""
        return self.head.decisions(torch.from_numpy(self.probabilities)).numpy()

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One row per clip; see `predict_labels`."""
        predicted = self.probabilities.argmax(1)
        clips = np.arange(len(predicted))
        columns: dict[str, Any] = {
            "clip": list(self.clip_ids),
            "target": [self._names(row) for row in self.truth],
            "predicted": [self.classes[place] for place in predicted],
            "is_correct": self.truth[clips, predicted],
            "probability": self.probabilities[clips, predicted].tolist(),
        }
        if not self.head.exclusive:
            columns["decided"] = [self._names(row) for row in self.decisions]
        return pd.DataFrame(columns)

    @property
    def accuracy(self) -> float:
        """Share that is right: of the clips, or of the decisions where labels are independent.

        With a head that decides for one class, the share of the clips whose class is decided for.
        With a sigmoid head, the share of all decisions, one for every clip and label, that are
        right (1 minus the Hamming loss). Where labels are rare this is near 1 whatever the model
        has learned; `mean_average_precision` is not.
        """
        return float(self._right.mean())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % confidence interval of `accuracy`, of clips like these.

        Wilson's score of the clips; with a sigmoid head, whose decisions on a clip depend on each
        other, the percentile bootstrap over clips.
        """
        if self.head.exclusive:
            right = int(self._right.sum())
            found = binomtest(right, len(self._right)).proportion_ci(0.95, method="wilson")
            return float(found.low), float(found.high)
        low, high = interval(bootstrap_means(self._right[:, None]))[:, 0]
        return float(low), float(high)

    @cached_property
    def average_precisions(self) -> pd.Series:
        """Average precision of every class, NaN for classes that no clip of the set has."""
        values = average_precision(self.probabilities, self.truth)
        return pd.Series(values, pd.Index(self.classes, name="label"), name="AP")

    @property
    def mean_average_precision(self) -> float:
        """Macro mean of `average_precisions` over the classes that some clip has (mAP).

        The others are left out: their precision is not defined.
        """
        return float(self.average_precisions.mean())

    def map_interval(self, *, resamples: int = MAP_RESAMPLES, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval of the mAP over clips.

        Parameters
        ----------
        resamples : int
            How often the clips are drawn anew. A class that a resample has no clip of is left out
            of its mean.
        seed : int
            For the draws.

        Returns
        -------
        low, high : float
            NaN for one clip.
        """
        clips = len(self.truth)
        if clips < 2:
            return np.nan, np.nan
        random = np.random.default_rng(seed)
        shares = np.full(clips, 1 / clips)
        drawn = []
        for start in range(0, resamples, step := max(1, _WEIGHTS_AT_ONCE // clips)):
            counts = random.multinomial(clips, shares, size=min(step, resamples - start))
            drawn.append(mean_average_precision(self.probabilities, self.truth, counts))
        values = np.concatenate(drawn)
        low, high = interval(values[~np.isnan(values)][:, None])[:, 0]
        return float(low), float(high)

    def label_counts(self) -> pd.DataFrame:
        """Count the clips of every label: those that have it, those it was decided for, both.

        Returns
        -------
        DataFrame
            Indexed by label: ``clips`` that have it, ``decided`` (for how many clips the model
            decides for it), ``right`` (both) and ``AP``, its average precision.
        """
        return pd.DataFrame(
            {
                "clips": self.truth.sum(0),
                "decided": self.decisions.sum(0),
                "right": (self.truth & self.decisions).sum(0),
                "AP": self.average_precisions,
            },
            index=self.average_precisions.index,
        )

    @property
    def _right(self) -> NDArray[np.floating]:
        """How right the model is about each clip, shape (clips,)."""
        if self.head.exclusive:
            return (self.truth & self.decisions).any(1).astype(float)
        return (self.truth == self.decisions).mean(1)

    def _names(self, chosen: NDArray[np.bool_]) -> str:
        return BETWEEN_LABELS.join(self.classes[place] for place in np.flatnonzero(chosen))


def classify_set(
    model: nn.Module,
    processor: FrontEnd,
    dataset: ClipDataset,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> SetPredictions:
    """Classify every clip of a set.

    A clip that something goes wrong with is left out, and a `SkippedClipsWarning` says so.

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
    SetPredictions

    Raises
    ------
    ValueError
        If the set does not fit the model and the front end.
    AudioError
        If no clip can be read.

    Warns
    -----
    LeakageWarning
        If the model was trained on clips of the set, by its card.
    """
    check_set(model, processor, dataset, "set")
    remark_overlap(model, dataset)
    classifier = as_classifier(model, processor)
    home, mode = device_of(model), model.training
    where = home if device is None else resolve_device(str(device))
    failures = Failures()
    chances, truth, clip_ids = [], [], []

    def classify(clips: Sequence[Clip]) -> None:
        waveform, label, names = default_collate(clips)
        view = processor.analyse(waveform.to(where))
        logits = classifier.logits(view.cells, view)
        if not logits.isfinite().all():
            raise ValueError(f"the model returns NaN or infinite scores for {', '.join(names)}")
        failures.succeed()
        chances.append(classifier.head.probabilities(logits).cpu())
        truth.append(shares_of(label, len(dataset.classes)) > 0)
        clip_ids.extend(names)

    try:
        model.eval().to(where)
        processor.to(where)
        unread = Failures()
        batches = read_ahead(dataset, range(len(dataset)), batch_size, unread)
        with (
            tqdm(total=len(dataset), desc="classifying", disable=not progress) as bar,
            torch.inference_mode(),
        ):
            for clips in batches:
                each_alone(clips, classify, lambda clip, why: failures.add(clip.clip_id, why))
                bar.update(len(clips))
        failures.finish()
    finally:
        model.train(mode).to(home)
        processor.to(home)
    skipped = unread.reasons | failures.reasons
    _report_skipped(skipped, len(dataset))
    return SetPredictions(
        classifier.head,
        tuple(dataset.classes),
        clip_ids,
        torch.cat(chances).numpy(),
        torch.cat(truth).numpy(),
        skipped,
    )


def _report_skipped(failures: Mapping[str, str], clips: int) -> None:
    """Warn that clips are left out, or raise if all are."""
    if not failures:
        return
    clip, why = next(iter(failures.items()))
    said = f"{len(failures)} of {clips} clips could not be classified, the first {clip}: {why}"
    if len(failures) == clips:
        raise AudioError(said)
    said += "; what is measured is of the others"
    warnings.warn(said, SkippedClipsWarning, stacklevel=3)


def predict_labels(
    model: nn.Module,
    processor: FrontEnd,
    dataset: ClipDataset,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Classify every clip of a set and name the classes.

    Parameters
    ----------
    model, processor, dataset, batch_size, device, progress
        See `classify_set`.

    Returns
    -------
    DataFrame
        One row per clip in the set's order: ``clip`` (its id), ``target`` (its class, or its
        labels with ``|`` between them), ``predicted`` (the most probable class), ``is_correct``
        (whether that is one of the clip's), ``probability`` (of that class) and, with a sigmoid
        head, ``decided`` (all labels that the model decides for, with ``|`` between them).

    Raises
    ------
    ValueError
        If the set does not fit the model and the front end.
    """
    return classify_set(
        model, processor, dataset, batch_size=batch_size, device=device, progress=progress
    ).labels


def accuracy(
    model: nn.Module,
    processor: FrontEnd,
    dataset: ClipDataset,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> float:
    """Return the share of a set's clips, or of its labels, that is right.

    See `SetPredictions.accuracy` for what that is with each head, and `classify_set` for the
    parameters.
    """
    return classify_set(model, processor, dataset, batch_size=batch_size, device=device).accuracy


def confusion(labels: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count for every class what its clips were taken for.

    Parameters
    ----------
    labels : DataFrame
        With the columns ``target`` and ``predicted``, as `predict_labels` returns them; one label
        per clip.
    classes : sequence of str
        All classes, in the order wanted.

    Returns
    -------
    DataFrame
        One row and one column per class; a clip counts in the row of what it is and the column of
        what it was taken for, the most probable class.

    Raises
    ------
    ValueError
        If a label is not among the classes, or a clip has none or several.
    """
    names = list(several(classes))
    unknown = sorted((set(labels["target"]) | set(labels["predicted"])) - set(names))
    if unknown:
        combined = [name for name in unknown if set(name.split(BETWEEN_LABELS)) <= {*names, ""}]
        if combined:
            raise ValueError(
                f"a clip has the labels {combined[0]!r}: a confusion matrix is of clips with one "
                "label each; classify_set(…).label_counts() counts right and wrong by label"
            )
        raise ValueError(f"labels {', '.join(unknown)} are not among the classes {names}")
    counts = pd.crosstab(labels["target"], labels["predicted"])
    return counts.reindex(index=names, columns=names, fill_value=0)


def shares_of(labels: Tensor, classes: int) -> Tensor:
    """Return which classes a batch of clips has, shape (batch, classes).

    Parameters
    ----------
    labels : Tensor
        As batches of a `ClipDataset` have them: the index of each clip's class, shape (batch,),
        or 1 for each class that a clip has, shape (batch, classes).
    classes : int
    """
    return functional.one_hot(labels, classes) if labels.ndim == 1 else labels


def check_set(
    model: nn.Module,
    processor: FrontEnd,
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
    check_fit(getattr(model, "network", model), processor)
    if len(dataset) == 0:
        raise ValueError(f"the {name} is empty: were its folds chosen right?")
    if dataset.sample_rate != processor.sample_rate:
        raise ValueError(
            f"the {name} is at {dataset.sample_rate} Hz, {type(processor).__name__} expects "
            f"{processor.sample_rate} Hz: make the set with sample_rate=processor.sample_rate"
        )
    classes = _count_classes(model)
    if classes is not None and len(dataset.classes) != classes:
        raise ValueError(
            f"the {name} has {len(dataset.classes)} classes, the model {classes}: build it with "
            "num_classes=model.head.num_outputs(len(dataset.classes))"
        )
    names = getattr(model, "classes", None)
    if known and names is not None and tuple(names) != tuple(dataset.classes):
        raise ValueError(
            f"the {name}'s classes {list(dataset.classes)} are not the model's {list(names)}: was "
            "the model trained on other data?"
        )


def _count_classes(model: nn.Module) -> int | None:
    """Return how many classes a model tells apart, None where it does not say."""
    outputs = getattr(model, "num_classes", None)
    if outputs is not None:
        return model.head.num_classes(outputs)
    names = getattr(model, "classes", None)
    return None if names is None else len(names)
