"""Train a classifier: batches of features, augmentation, selection of the best epoch.

All randomness of a training step is a pure function of the seed and the step's number, so a run
that was cut off and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import check_clips
from audiointerp.device import resolve_device, to_double
from audiointerp.evaluation.ranking import mean_average_precision
from audiointerp.model import TransferModel
from audiointerp.processing import STFTSpectrogram
from audiointerp.runs.classification import check_set, shares_of
from audiointerp.storage import check_writable, claim
from audiointerp.training import augment
from audiointerp.training.augment import SpecAugment
from audiointerp.training.checkpoints import (
    BEST,
    LAST,
    best_epoch,
    is_finished,
    load_epoch,
    read_earlier,
)
from audiointerp.training.checks import check_keep, check_numbers, check_precision, check_sets
from audiointerp.training.epochs import (
    Epochs,
    fingerprint,
    make_loader,
    run,
)
from audiointerp.training.holes import RandomHoles


@dataclass(frozen=True)
class Training:
    """What came of a training.

    Attributes
    ----------
    model : TransferModel
        With the kept epoch's weights, in evaluation mode, on the device it came from.
    history : DataFrame
        One row per epoch: ``epoch`` (from 1), ``train_loss``, ``train_accuracy`` (of the
        augmented clips), ``val_loss``, ``val_accuracy``, ``learning_rate`` (at its last step);
        with a sigmoid head also ``val_map``, the macro mean of the average precisions of the
        labels that a validation clip has. Accuracies are shares of 1: of the clips, or with a
        sigmoid head of the decisions, one for every clip and label; see
        `audiointerp.runs.classification.SetPredictions.accuracy`.
    best_epoch : int
        The epoch of the highest validation accuracy, or mAP with a sigmoid head; of several, the
        one of the lowest loss.
    kept_epoch : int
        The epoch whose weights the model has: the best, or the last where that was asked for.
    checkpoint : Path
        The kept epoch's Lightning checkpoint.
    """

    model: TransferModel = field(repr=False)
    history: pd.DataFrame
    best_epoch: int
    kept_epoch: int
    checkpoint: Path

    @property
    def best(self) -> pd.Series:
        """The history's row of the best epoch."""
        return self.history.loc[self.history["epoch"] == self.best_epoch].iloc[0]

    @property
    def kept(self) -> pd.Series:
        """The history's row of the kept epoch."""
        return self.history.loc[self.history["epoch"] == self.kept_epoch].iloc[0]


def fit(
    model: TransferModel,
    processor: STFTSpectrogram,
    train: ClipDataset,
    validation: ClipDataset,
    *,
    out: str | os.PathLike[str],
    test: ClipDataset | None = None,
    epochs: int = 100,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    dropout_scale: float = 1.0,
    mixup_alpha: float = 0.4,
    spec_augment: SpecAugment | None = None,
    holes: RandomHoles | None = None,
    time_shift: float = 0.5,
    patience: int | None = None,
    keep: Literal["best", "last"] = "best",
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    resume: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    progress: bool = True,
) -> Training:
    """Train a classifier in place and leave it with the weights of its best or last epoch.

    AdamW on the loss of the model's head: cross-entropy for one class of several, binary
    cross-entropy for independent labels and for two classes from one output. The learning rate
    rises over the first tenth of the steps and falls to 0 along a cosine. Best is the highest
    validation accuracy, or mean average precision (mAP) with a sigmoid head, of several the lowest
    validation loss.

    Parameters
    ----------
    model : TransferModel
        Trained from the weights it has. What its outputs mean is its `head`; its `classes` and
        `duration` are set from `train`.
    processor : STFTSpectrogram
        The front end; its features are computed batch by batch on the training device.
    train, validation : ClipDataset
        Of the same classes, at the processor's sample rate, with no clip in common. Clips may
        have any number of labels where the head is sigmoid, and have one elsewhere.
    out : path
        Folder for ``best.ckpt``, ``last.ckpt`` (both with optimiser and progress) and
        ``history.csv``.
    test : ClipDataset, optional
        Clips that the model will be tested on afterwards. They are read once before the first
        epoch, as all are, so that a broken one shows then, and are used for nothing else.
    epochs, batch_size : int
    learning_rate : float
        The highest of the run.
    weight_decay, label_smoothing : float
    dropout_scale : float
        Multiplies the network's own dropout rates while it trains. 1 are the rates of PANNs, for
        full width and a million clips; a slim network learns faster with less.
    mixup_alpha : float
        See :func:`audiointerp.training.augment.mixup`; 0 for none.
    spec_augment : SpecAugment, optional
        None for none.
    holes : RandomHoles, optional
        Random masks, applied to the features last, so that removed cells are as they will be when
        an interpretation is measured; None for none.
    time_shift : float
        See :func:`audiointerp.training.augment.time_shift`; 0 for none.
    patience : int, optional
        Stop after this many epochs without a new best. None trains to the end.
    keep : {"best", "last"}
        Which epoch's weights the model is left with. The best one is found on whole clips: it may
        be an early one, which does not tolerate holes yet. A finished training that is resumed
        gives either.
    seed : int
        The same seed gives the same weights, on the same machine, device and number of threads.
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
    precision : str
        Of the training steps, Lightning's "32-true", "bf16-mixed" or "16-mixed", which is for
        GPUs; features and validation are always in float32. bf16-mixed is faster where the
        processor has it, and slower elsewhere, with a warning.
    resume : bool
        Go on from ``last.ckpt`` where there is one, to the very result of an uninterrupted run;
        a finished run is only read back.
    overwrite : bool
        Begin anew where `out` holds a training; with `resume`, only if it had other settings or
        other clips.
    num_workers : int
        Processes that load clips; 0 loads them in this one.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Training

    Raises
    ------
    ValueError
        If the sets, the front end, the model and the numbers do not fit each other, `out` holds
        another training, the device is not there or does not compute in the precision. Nothing is
        written then.
    AudioError
        If clips cannot be read; the message names all of them. Nothing is written then.
    OSError
        If `out` cannot be written; before anything is read.
    TrainingError
        If the loss becomes infinite or NaN.
    ClaimedError
        If another run is training in `out`.

    Warns
    -----
    MissingClassWarning
        If a class has no clip in one of the sets.
    LeakageWarning
        If a recording has clips in both.

    Examples
    --------
    >>> training = fit(model, processor, train, validation, out="runs/dog")  # doctest: +SKIP
    >>> training.history.plot(x="epoch", y="val_accuracy")  # doctest: +SKIP
    """
    check_keep(keep)
    check_sets(model, processor, train, validation)
    if test is not None:
        check_set(model, processor, test, "test set", known=False)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "dropout_scale": dropout_scale,
        "mixup_alpha": mixup_alpha,
        "time_shift": time_shift,
        "patience": patience,
        "seed": seed,
        "precision": precision,
        "spec_augment": repr(spec_augment),
        # Trainings before there were holes had none.
        "holes": None if holes is None else repr(holes),
        "model": model.settings(),
        # Trainings before there were heads had none of it.
        "head": None if model.head.name == "softmax" else model.head.settings(),
        "processor": processor.settings(),
        "clips": [len(train), len(validation)],
        "clip_ids": [fingerprint(train.clip_ids), fingerprint(validation.clip_ids)],
    }
    check_numbers(settings)
    hardware = resolve_device(device)
    check_precision(precision, hardware)
    out = Path(out).resolve()
    with claim(out / LAST):
        earlier = read_earlier(out, settings, resume, overwrite)
        if earlier is None or not is_finished(earlier, epochs, patience):
            check_writable(out, folder=True)
            task = _Task(model, processor, (spec_augment, holes), settings, out)
            loaders = (
                make_loader(train, batch_size, num_workers, seed),
                make_loader(validation, batch_size, num_workers),
            )
            sets = {"training": train, "validation": validation}
            check_clips(sets if test is None else sets | {"test": test}, progress=progress)
            with _scaled_dropout(model, dropout_scale):
                run(task, loaders, hardware, resume=earlier is not None, progress=progress)
            earlier = task.history
        best = best_epoch(earlier)
        kept, file = (best, out / BEST) if keep == "best" else (len(earlier), out / LAST)
        load_epoch(model, file, kept)
    model.classes, model.duration = train.classes, train.duration
    return Training(model.eval(), pd.DataFrame(earlier), best, kept, file)


class _Task(Epochs):
    """The steps of a classifier's training."""

    def __init__(
        self,
        model: TransferModel,
        processor: STFTSpectrogram,
        augmentations: tuple[SpecAugment | None, RandomHoles | None],
        settings: dict[str, Any],
        out: Path,
    ) -> None:
        super().__init__(model, processor, settings, out)
        self.spec_augment, self.holes = augmentations
        self.head = model.head
        self.num_labels = model.head.num_classes(model.num_classes)
        self._validated: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._validated = []

    def training_step(self, batch: Clip, batch_idx: int) -> Tensor:
        del batch_idx
        features, targets = self._augmented(batch, self.generator())
        logits = self.head.logits(self.model(features))
        loss = self.head.loss(logits, targets, label_smoothing=self.settings["label_smoothing"])
        self._count("train", self.check_loss(loss), logits.detach(), targets)
        return loss

    def validation_step(self, batch: Clip, batch_idx: int) -> None:
        del batch_idx
        with self.full_precision():
            logits = self.head.logits(self.model(self.processor(batch.waveform)))
        targets = self._targets(batch).to(logits)
        # Softmax takes indices too, and sums them as it always did: shares differ in a last digit.
        is_index = self.head.name == "softmax" and batch.label.ndim == 1
        loss = self.head.loss(logits, batch.label if is_index else targets)
        self._count("val", loss, logits, targets)
        if not self.head.exclusive:
            self._validated.append((self.head.probabilities(logits).cpu(), targets.cpu() > 0))

    def measured(self) -> dict[str, float]:
        row = super().measured()
        if self._validated:
            scores, truth = (torch.cat(each).numpy() for each in zip(*self._validated, strict=True))
            row["val_map"] = float(mean_average_precision(scores, truth))
        return row

    def _augmented(self, batch: Clip, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self.full_precision():
            waveform = augment.time_shift(batch.waveform, self.settings["time_shift"], generator)
            features = self.processor(waveform)
            if self.spec_augment is not None:
                features = self.spec_augment(features, generator)
            targets = self._targets(batch).to(features)
            mixed, targets = augment.mixup(
                features, targets, self.settings["mixup_alpha"], generator
            )
            return mixed if self.holes is None else self.holes(mixed, generator), targets

    def _targets(self, batch: Clip) -> Tensor:
        return shares_of(batch.label, self.num_labels)

    def _count(self, phase: str, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        clips = len(targets)
        right = self._count_right(logits, targets)
        self.count(phase, clips, loss=float(loss.detach()) * clips, accuracy=right)

    def _count_right(self, logits: Tensor, targets: Tensor) -> float:
        """Return how many clips are right, each by the share of its labels where these are free.

        A label of a blended clip counts if half of the clip or more has it.
        """
        if self.head.exclusive:
            return int((logits.argmax(1) == targets.argmax(1)).sum())
        decided = self.head.decisions(self.head.probabilities(logits))
        return float(to_double(decided == (targets >= 0.5)).mean(1).sum())


@contextmanager
def _scaled_dropout(model: nn.Module, scale: float) -> Iterator[None]:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
    rates = [layer.p for layer in layers]
    try:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = min(1.0, scale * rate)
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = rate
