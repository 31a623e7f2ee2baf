"""Shared training loop: epochs, checkpoints, order of clips."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.processing import FrontEnd
from audiointerp.storage import replacing
from audiointerp.training.checkpoints import (
    BEST,
    HISTORY,
    LAST,
    LOSS,
    best_epoch,
    score_name,
    write_history,
)


class TrainingError(ValueError):
    """A training that cannot go on; the message says what to change."""


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
