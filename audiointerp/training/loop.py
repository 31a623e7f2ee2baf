"""Training: features in batches on the model's device, augmentation, the best epoch kept as a file.

All randomness of a training step is a pure function of the seed and the step's number, so a run
that was cut off and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import check_clips
from audiointerp.device import resolve_device, to_double
from audiointerp.evaluation.ranking import mean_average_precision
from audiointerp.model import TransferModel
from audiointerp.processing import FrontEnd, STFTSpectrogram
from audiointerp.runs.classification import check_set, shares_of
from audiointerp.storage import check_writable, claim, replacing
from audiointerp.training import augment
from audiointerp.training.augment import SpecAugment
from audiointerp.training.checkpoints import (
    BEST,
    HISTORY,
    LAST,
    LOSS,
    best_epoch,
    is_finished,
    load_epoch,
    read_earlier,
    score_name,
    write_history,
)
from audiointerp.training.checks import check_keep, check_numbers, check_precision, check_sets
from audiointerp.training.holes import RandomHoles


class TrainingError(ValueError):
    """A training that cannot go on; the message says what to change."""


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


class Epochs(LightningModule):
    """What every training does beside its steps: the history is the only record of progress.

    A subclass has the steps, which call `count`. What is random in a step comes from
    `generator`.

    Parameters
    ----------
    model : Module
        What is trained.
    processor : FrontEnd
    settings : dict
        Of the training, ready for JSON, with ``learning_rate``, ``weight_decay``, ``batch_size``,
        ``epochs``, ``clips``, ``patience``, ``seed`` and ``precision``.
    out : Path
        Folder of checkpoints and history.
    """

    def __init__(
        self, model: nn.Module, processor: FrontEnd, settings: dict[str, Any], out: Path
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.settings = settings
        self.out = out
        self.history: list[dict[str, float]] = []
        self.has_started = False
        self._sums: dict[str, float] = {}

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW and its rate: a rise, then half a cosine."""
        optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.settings["learning_rate"],
            weight_decay=self.settings["weight_decay"],
        )
        total = self.total_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, total))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Check that the history is of the epochs that are done."""
        done = self.trainer.current_epoch
        if done != len(self.history):
            raise ValueError(f"its progress is {done} epochs, its history {len(self.history)}")
        self.has_started = True

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's sums anew."""
        self._sums = {}

    def on_train_epoch_end(self) -> None:
        """Enter the epoch, then keep it: as the last one, and as the best one if it is."""
        epoch = self.current_epoch + 1
        row = {"epoch": epoch} | self.measured() | {"learning_rate": self._last_rate}
        self.history = [*self.history, row]
        self.out.mkdir(parents=True, exist_ok=True)
        best = best_epoch(self.history)
        for name in (BEST, LAST) if best == epoch else (LAST,):
            with replacing(self.out / name) as partial:
                self.trainer.save_checkpoint(partial)
        write_history(self.history, self.out / HISTORY)
        patience = self.settings["patience"]
        self.trainer.should_stop = patience is not None and epoch - best >= patience

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep settings and history."""
        checkpoint["training"] = {"settings": self.settings, "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history back."""
        self.history = checkpoint["training"]["history"]

    @property
    def total_steps(self) -> int:
        """The number of steps of all epochs."""
        steps = math.ceil(self.settings["clips"][0] / self.settings["batch_size"])
        return steps * self.settings["epochs"]

    def generator(self) -> torch.Generator:
        """Return the step's generator, on the CPU, and seed torch's own by the same number."""
        seed = _mix_seed(self.settings["seed"], self.global_step)
        torch.manual_seed(seed)  # dropout's; `run` gives the caller's state back
        return torch.Generator().manual_seed(seed)

    def count(self, phase: str, clips: int, **sums: float) -> None:
        """Add what was measured of some clips: sums over them, by what is measured."""
        self._last_rate = self.optimizers().param_groups[0]["lr"]
        for name, value in (*sums.items(), ("clips", clips)):
            key = f"{phase}_{name}"
            self._sums[key] = self._sums.get(key, 0) + value

    def measured(self) -> dict[str, float]:
        """Return the epoch's means over the clips, by phase and measure."""
        counts = {phase: self._sums[f"{phase}_clips"] for phase in ("train", "val")}
        return {
            name: total / counts[name.partition("_")[0]]
            for name, total in self._sums.items()
            if not name.endswith("_clips")
        }

    def check_loss(self, loss: Tensor) -> Tensor:
        """Return a loss that the training can go on with.

        Raises
        ------
        TrainingError
            If it is infinite or NaN.
        """
        if not torch.isfinite(loss):
            rate, precision = (self.settings[name] for name in ("learning_rate", "precision"))
            raise TrainingError(
                f"the loss is {float(loss.detach())} in epoch {self.current_epoch + 1}: lower the "
                f"learning rate, now {rate}, or use the precision 32-true, now {precision}"
            )
        return loss

    def full_precision(self) -> torch.autocast:
        """Features and validation in float32, whatever the training: what inference will see."""
        return torch.autocast(self.device.type, enabled=False)


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


def run(
    task: Epochs,
    loaders: tuple[DataLoader[Clip], DataLoader[Clip]],
    hardware: torch.device,
    *,
    resume: bool,
    progress: bool,
) -> None:
    """Run Lightning; model, front end and random state come back to where and what they were.

    Parameters
    ----------
    task : Epochs
    loaders : pair of DataLoader
        Of the training and the validation clips; see `make_loader`.
    hardware : torch.device
    resume : bool
        Whether to go on from the last checkpoint in the task's folder.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If the training cannot go on from the checkpoint.
    TrainingError
        See `Epochs.check_loss`.
    """
    settings = task.settings
    home = next(task.model.parameters()).device
    task.model.to(memory_format=torch.channels_last)  # convolutions run faster so
    try:
        with _quiet(), _random_state_kept(hardware):
            trainer = Trainer(
                max_epochs=settings["epochs"],
                callbacks=[_Progress()] if progress else None,
                precision=settings["precision"],
                num_sanity_val_steps=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=task.out,
                **_accelerator(hardware),
            )
            last = task.out / LAST if resume else None
            trainer.fit(task, *loaders, ckpt_path=last, weights_only=True)
    except Exception as error:
        if resume and not task.has_started:
            raise ValueError(
                f"the training cannot go on from {task.out / LAST}: {error}. To begin it anew, "
                "pass overwrite=True instead of resume=True"
            ) from error
        raise
    finally:
        task.model.to(home, memory_format=torch.contiguous_format)
        task.processor.to(home)


class _EpochOrder(Sampler[int]):
    """Shuffles by seed and epoch alone, so that a resumed run sees the order it would have seen."""

    def __init__(self, clips: int, seed: int) -> None:
        self.clips = clips
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch`; Lightning calls this before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_mix_seed(self.seed, self.epoch))
        yield from torch.randperm(self.clips, generator=generator).tolist()

    def __len__(self) -> int:
        return self.clips


class _Progress(Callback):
    """One bar over all epochs, with the last validation score."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        done, total = trainer.current_epoch, trainer.max_epochs
        self._bar = tqdm(desc="training", unit="epoch", total=total, initial=done)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Epochs) -> None:
        del trainer
        if pl_module.history:
            row = pl_module.history[-1]
            score = score_name(row)
            best = pl_module.history[best_epoch(pl_module.history) - 1][score]
            form = ".3f" if score == LOSS else ".1%"
            shown = {"loss": f"{row['train_loss']:.3f}", score: format(row[score], form)}
            self._bar.set_postfix(shown | {"best": format(best, form)})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._bar.update()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        if hasattr(self, "_bar"):
            self._bar.close()


def _rate(step: int, total: int) -> float:
    """Return the share of the highest learning rate at a step: a rise, then half a cosine."""
    rise = max(1, total // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def fingerprint(names: Iterable[str]) -> str:
    """Return a hash of names and their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _mix_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> 1)


def make_loader(
    dataset: ClipDataset, batch_size: int, num_workers: int = 0, seed: int | None = None
) -> DataLoader[Clip]:
    """Load batches: in the set's order, or shuffled if there is a seed."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=None if seed is None else _EpochOrder(len(dataset), seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def _accelerator(device: torch.device) -> dict[str, Any]:
    kind = "gpu" if device.type == "cuda" else device.type
    return {"accelerator": kind, "devices": [device.index or 0] if kind == "gpu" else 1}


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Give the caller back the random state that a training on a device changes."""
    before = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            yield
    finally:
        if before is not None:
            torch.mps.set_rng_state(before)


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's banners, tips and advice on workers; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
