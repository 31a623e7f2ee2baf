"""Train a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import TRAIN_FOLDS, Data, Device, Seed, Subset, read_fold
from audiointerp.cli.wording import say


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Weight file to write, .safetensors.")],
    front_end: Annotated[
        str, typer.Option(help="LogMelSTFTSpectrogram, LogSTFTSpectrogram, …")
    ] = "LogMelSTFTSpectrogram",
    model: Annotated[str, typer.Option(help="Cnn14, Cnn10, Cnn6, ResNet22, …")] = "Cnn14",
    head: Annotated[
        str,
        typer.Option(
            help="softmax: one of the classes; sigmoid: any number of labels; binary: one of two."
        ),
    ] = "softmax",
    width: Annotated[
        float | None, typer.Option(help="Channels of Cnn14 as a share of the published ones.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights to start from: a file, or 'audioset' to fetch them.")
    ] = None,
    pretrained_key: Annotated[
        str | None,
        typer.Option(help="Which weights of the file, if it holds several: model_ema, …"),
    ] = None,
    subset: Subset = None,
    train_folds: Annotated[
        list[str], typer.Option(help="Folds to train on: numbers or names.")
    ] = TRAIN_FOLDS,
    validation_fold: Annotated[str, typer.Option(help="Fold that chooses the epoch.")] = "4",
    test_fold: Annotated[str, typer.Option(help="Fold to test on, once.")] = "5",
    clips: Annotated[
        int | None, typer.Option(help="At most this many clips of each; all by default.")
    ] = None,
    epochs: int = 100,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    dropout_scale: Annotated[float, typer.Option(help="Times the published dropout.")] = 1.0,
    mixup_alpha: Annotated[float, typer.Option(help="0 for no mixup.")] = 0.4,
    spec_augment: Annotated[bool, typer.Option(help="Hide stripes of the spectrogram.")] = True,
    holes: Annotated[
        float, typer.Option(help="Share of clips that random cells are removed from; 0 for none.")
    ] = 0.0,
    time_shift: Annotated[float, typer.Option(help="Share of the clip; 0 for none.")] = 0.5,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better one before stopping.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="The epoch to keep: best, on the validation fold, or last.")
    ] = "best",
    resume: Annotated[bool, typer.Option(help="Go on with a stopped training.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier training.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed.")] = "32-true",
) -> None:
    """Train a classifier on some folds, choose the epoch on another, test it on the last."""
    from audiointerp.training.recipe import train_classifier

    trained = train_classifier(
        data,
        out,
        front_end=front_end,
        model=model,
        head=head,
        width=width,
        pretrained=pretrained,
        pretrained_key=pretrained_key,
        subset=subset,
        train_folds=[read_fold(fold) for fold in train_folds],
        validation_fold=read_fold(validation_fold),
        test_fold=read_fold(test_fold),
        clips=clips,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        dropout_scale=dropout_scale,
        mixup_alpha=mixup_alpha,
        spec_augment=spec_augment,
        holes=holes,
        time_shift=time_shift,
        patience=patience,
        keep=keep,
        resume=resume,
        overwrite=overwrite,
        cache_dir=cache,
        seed=seed,
        device=device,
        precision=precision,
    )
    if trained.test.head.exclusive:
        score, scores = "accuracy", (trained.validation_accuracy, trained.test_accuracy)
    else:
        score, scores = "mAP", (trained.validation_map, trained.test_map)
    validation, test = (f"{100 * each:.2f} %" for each in scores)
    say(
        f"{trained.weights}: epoch {trained.training.kept_epoch}, {score} {validation} on "
        f"the validation fold, {test} on the test fold"
    )
