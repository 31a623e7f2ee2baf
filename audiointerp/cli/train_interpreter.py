"""Train an interpreter for a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import TRAIN_FOLDS, Data, Device, Seed, Subset, read_fold
from audiointerp.cli.wording import say


def train_interpreter(
    method: Annotated[str, typer.Argument(help="lmac, l2i.")],
    weights: Annotated[Path, typer.Option("--weights", "-w", help="The classifier's file.")],
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(help="Weight file to write; by default <weights>_<method>.safetensors."),
    ] = None,
    subset: Subset = None,
    train_folds: Annotated[
        list[str], typer.Option(help="Folds to train on: those of the classifier.")
    ] = TRAIN_FOLDS,
    validation_fold: Annotated[str, typer.Option(help="Fold that chooses the epoch.")] = "4",
    clips: Annotated[
        int | None, typer.Option(help="At most this many clips of each; all by default.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Layers that the decoder reads, by name.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the decoder.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Another setting of the method's training: sparsity=4."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="An interpreter's weight file to go on from.")
    ] = None,
    epochs: int = 30,
    batch_size: int = 8,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-4,
    mix: Annotated[
        float, typer.Option(help="Share of clips that another one is mixed into; 0 for none.")
    ] = 0.5,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better one before stopping.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped training.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier training.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train an interpreter for one classifier, on the folds that this was trained on."""
    from audiointerp.training.interpreter import train_interpreter

    trained = train_interpreter(
        method,
        weights,
        data,
        out,
        subset=subset,
        train_folds=[read_fold(fold) for fold in train_folds],
        validation_fold=read_fold(validation_fold),
        clips=clips,
        layers=layers or None,
        width=width,
        options=dict(_read_option(each) for each in option or ()),
        start=start,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mix=mix,
        patience=patience,
        resume=resume,
        overwrite=overwrite,
        cache_dir=cache,
        seed=seed,
        device=device,
    )
    best = trained.training.best
    say(
        f"{trained.weights}: best epoch {trained.training.best_epoch}, loss {best['val_loss']:.4f} "
        "on the validation fold"
    )


def _read_option(text: str) -> tuple[str, int | float | str]:
    """Return the name and the value of ``name=value``."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--option {text}: expected NAME=VALUE, a setting of the training")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
