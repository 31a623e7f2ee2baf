"""The command line: every command is one call into the library.

Imports of the library are inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from audiointerp.model.memory import keep_freed_memory

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See, hear and measure what an audio classifier listened to.",
)
data_app = typer.Typer(no_args_is_help=True, help="Get or make data: ESC-50, the synthetic set.")
app.add_typer(data_app, name="data")

Weights = Annotated[
    list[Path], typer.Option("--weights", "-w", help="Weight file; may be given several times.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="saliency, gradcam, lime, shap; all by default."),
]
Base = Annotated[str, typer.Option(help="What a removed cell becomes: floor, minimum, quiet.")]
Places = Annotated[
    list[str], typer.Option("--on", help="What metrics are measured on: features, audio.")
]
Seed = Annotated[int, typer.Option(help="For everything that is drawn at random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Subset = Annotated[str | None, typer.Option(help="Part of the set: esc10.")]
Alpha = Annotated[
    float | None, typer.Option(help="Share of the clip in α·clip + (1-α)·noise; 0.6 by default.")
]
SnrDb = Annotated[float | None, typer.Option(help="The clip's level over the noise, dB, instead.")]
Target = Annotated[str | None, typer.Option(help="Class to explain; the predicted one by default.")]
Background = Annotated[
    str, typer.Option(help="Set that SHAP compares with: 'synthetic' or a folder.")
]
Data = Annotated[
    str, typer.Option("--data", "-d", help="A folder laid out like ESC-50, or 'synthetic'.")
]


@app.command()
def interpret(
    files: Annotated[list[Path], typer.Argument(help="Sound files: WAV, OGG or FLAC.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results/interpret"),
    method: Methods = None,
    mask: Annotated[
        list[str] | None, typer.Option(help="Mask to draw and to make audible; topK_5, topK_30.")
    ] = None,
    all_masks: Annotated[
        bool, typer.Option("--all-masks", help="Draw all masks and make them audible.")
    ] = False,
    sound: Annotated[
        str, typer.Option(help="wav, exact; flac, half as large; mp3, a tenth, but not exact.")
    ] = "wav",
    target: Target = None,
    background: Background = "synthetic",
    base: Base = "floor",
    on: Places = ["features"],  # noqa: B006 (typer reads the default, nobody changes it)
    seed: Seed = 0,
    device: Device = "auto",
    report: Annotated[bool, typer.Option(help="Write a page to look at and listen to.")] = True,
) -> None:
    """Interpret sound files: pictures, masked-in and masked-out sounds, metrics, a page of all."""
    from audiointerp.files import interpret_files
    from audiointerp.masking import MASKS
    from audiointerp.prepare import SHOWN_MASKS

    shown = list(MASKS) if all_masks else mask or SHOWN_MASKS
    result = interpret_files(
        files,
        weights,
        out,
        methods=method,
        masks=shown,
        sound=sound,
        target=target,
        background=background,
        base=base,
        on=on,
        seed=seed,
        device=device,
        report=report,
    )
    if len(result.table):
        from audiointerp.tables import summarise_files

        typer.echo(summarise_files(result.table, shown).to_string())
        typer.echo(f"\nPictures, sounds and tables: {result.folder}/<model>/<method>/<clip>/")
        typer.echo(f"Every metric of every mask:  {result.folder}/summary.csv")
    if result.report is not None:
        typer.echo(f"To look at and listen to:    {result.report}")
    _report(result.failures)


@app.command()
def figure(
    file: Annotated[Path, typer.Argument(help="Sound file: WAV, OGG or FLAC.")],
    weights: Annotated[Path, typer.Option("--weights", "-w", help="Weight file.")],
    out: Annotated[Path, typer.Option(help="Where to, without ending.")] = Path("figure"),
    method: Methods = None,
    mask: Annotated[
        list[str] | None, typer.Option(help="Mask of a column, six at most; topK_5, topK_30.")
    ] = None,
    part: Annotated[
        str, typer.Option(help="in: what masks keep; out: what is left without that.")
    ] = "in",
    target: Target = None,
    background: Background = "synthetic",
    base: Base = "floor",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw the paper's figure of one sound, methods by masks, as PDF and PNG for print."""
    from audiointerp.files import compare_methods
    from audiointerp.prepare import SHOWN_MASKS

    shown = mask or SHOWN_MASKS
    comparison = compare_methods(
        file,
        weights,
        methods=method,
        masks=shown,
        target=target,
        background=background,
        base=base,
        seed=seed,
        device=device,
    )
    for path in comparison.plot(shown, part).save_print(out):
        typer.echo(path)


@app.command("report")
def report_page(
    folder: Annotated[
        Path, typer.Argument(help="What `interpret` wrote, or runs of `experiment`, or a part.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page; FOLDER/report.html.")] = None,
    sound: Annotated[
        str, typer.Option(help="wav, lossless; mp3, much smaller; auto: mp3 for large pages.")
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Of runs: their set, to hear clips; or 'synthetic'."),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", "-w", help="Of runs: their model, for class probabilities."),
    ] = None,
    noise: Annotated[
        list[Path] | None, typer.Option(help="Of runs: their noise file, to hear noisy clips.")
    ] = None,
    mask: Annotated[
        list[str] | None, typer.Option(help="Of runs: mask to hear; topK_5, topK_30.")
    ] = None,
    clips: Annotated[
        int, typer.Option(help="Of runs: clips to hear, half the best and half the worst.")
    ] = 6,
    clip: Annotated[list[str] | None, typer.Option(help="Of runs: this clip instead.")] = None,
    by: Annotated[str, typer.Option(help="Of runs: the metric of best and worst.")] = "FF",
) -> None:
    """Make one page to look at and listen to, which needs no network, of saved interpretations.

    Or of an experiment's runs: how they were made, means by mask and every clip. With --data,
    some of the clips can be looked at and listened to.
    """
    from audiointerp.report import write_report

    page = write_report(
        folder,
        out=out,
        sound=sound,
        data=data,
        weights=weights or (),
        noises=noise or (),
        masks=mask,
        clips=clip or clips,
        by=by,
    )
    typer.echo(page)


@app.command()
def experiment(
    weights: Weights,
    data: Data,
    subset: Subset = None,
    fold: Annotated[int, typer.Option(help="The fold to interpret.")] = 5,
    clips: Annotated[
        int | None, typer.Option(help="At most so many of its clips, class by class; or all.")
    ] = None,
    train_folds: Annotated[
        list[int], typer.Option(help="Folds that SHAP's background is drawn from.")
    ] = [1, 2, 3],  # noqa: B006
    method: Methods = None,
    noise: Annotated[
        list[str] | None, typer.Option(help="Noise file of a condition: FILE or NAME=FILE.")
    ] = None,
    clean: Annotated[bool, typer.Option(help="Also interpret the clips as they are.")] = True,
    alpha: Alpha = None,
    snr_db: SnrDb = None,
    mask: Annotated[list[str] | None, typer.Option(help="Mask to score; all by default.")] = None,
    base: Base = "floor",
    on: Places = ["features"],  # noqa: B006
    precision: Annotated[
        str, typer.Option(help="float32; tf32 or bfloat16: faster, see benchmarks/README.md.")
    ] = "float32",
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Do runs again that are there.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Interpret a test fold with every model and method, clean and under noise."""
    from audiointerp.experiment import parse_noise, run_experiment

    done = run_experiment(
        weights,
        data,
        subset=subset,
        fold=fold,
        clips=clips,
        train_folds=train_folds,
        methods=method,
        noises=dict(map(parse_noise, noise or [])),
        clean=clean,
        alpha=alpha,
        snr_db=snr_db,
        masks=mask,
        base=base,
        on=on,
        precision=precision,
        results=results,
        cache_dir=cache,
        seed=seed,
        device=device,
        overwrite=overwrite,
    )
    failures = {}
    for folder, result in done.items():
        typer.echo(f"\n{folder}: accuracy {100 * result.accuracy:.2f} %")
        typer.echo(result.mean_metrics(on[0]).round(3).to_string())
        failures |= {f"{folder.name}/{clip}": why for clip, why in result.failures.items()}
    _report(failures)


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Weight file to write, .safetensors.")],
    front_end: Annotated[
        str, typer.Option(help="LogMelSTFTSpectrogram, LogSTFTSpectrogram, …")
    ] = "LogMelSTFTSpectrogram",
    model: Annotated[str, typer.Option(help="Cnn14, Cnn10, Cnn6, ResNet22, …")] = "Cnn14",
    width: Annotated[
        float | None, typer.Option(help="Channels of Cnn14 as a share of the published ones.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights to start from: a file, or 'audioset' to fetch them.")
    ] = None,
    subset: Subset = None,
    train_folds: Annotated[list[int], typer.Option(help="Folds to train on.")] = [1, 2, 3],  # noqa: B006
    validation_fold: Annotated[int, typer.Option(help="Fold that chooses the epoch.")] = 4,
    test_fold: Annotated[int, typer.Option(help="Fold to test on, once.")] = 5,
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
    time_shift: Annotated[float, typer.Option(help="Share of the clip; 0 for none.")] = 0.5,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better one before stopping.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped training.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier training.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed.")] = "32-true",
) -> None:
    """Train a classifier on some folds, choose the epoch on another, test it on the last."""
    from audiointerp.train import train_classifier

    trained = train_classifier(
        data,
        out,
        front_end=front_end,
        model=model,
        width=width,
        pretrained=pretrained,
        subset=subset,
        train_folds=train_folds,
        validation_fold=validation_fold,
        test_fold=test_fold,
        clips=clips,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        dropout_scale=dropout_scale,
        mixup_alpha=mixup_alpha,
        spec_augment=spec_augment,
        time_shift=time_shift,
        patience=patience,
        resume=resume,
        overwrite=overwrite,
        cache_dir=cache,
        seed=seed,
        device=device,
        precision=precision,
    )
    typer.echo(
        f"{trained.weights}: best epoch {trained.training.best_epoch}, accuracy "
        f"{100 * trained.validation_accuracy:.2f} % on the validation fold, "
        f"{100 * trained.test_accuracy:.2f} % on the test fold"
    )


@app.command()
def tables(
    results: Annotated[Path, typer.Argument(help="Folder that 'experiment' wrote to.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("tables"),
    on: Annotated[str, typer.Option(help="What was measured: features or audio.")] = "features",
    model: Annotated[
        list[str] | None, typer.Option(help="Folder of a model; all by default.")
    ] = None,
    experiment: Annotated[
        list[str] | None, typer.Option(help="clean or the name of a noise; all by default.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make the tables of a paper from results: CSV, LaTeX, and one PDF with pictures."""
    from audiointerp.tables.files import write_tables

    written = write_tables(results, out, on=on, models=model, experiments=experiment, seed=seed)
    for path in written:
        typer.echo(path)


@data_app.command("esc50")
def data_esc50(
    root: Annotated[Path, typer.Argument(help="Folder to put ESC-50 into.")],
) -> None:
    """Download ESC-50 (600 MB), check it and unpack it; a broken download is taken up again."""
    from audiointerp.dataset.download import download_esc50

    typer.echo(f"ESC-50 is in {download_esc50(root)}")


@data_app.command("samples")
def data_samples(
    root: Annotated[Path, typer.Argument(help="Folder of your ESC-50.")],
    destination: Annotated[Path, typer.Argument(help="Folder to copy the clips to.")],
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
) -> None:
    """Copy the six original sample clips out of your ESC-50."""
    from audiointerp.dataset.download import copy_samples

    for path in copy_samples(root, destination, overwrite=overwrite).values():
        typer.echo(path)


@data_app.command("synthetic")
def data_synthetic(
    root: Annotated[Path, typer.Argument(help="Folder to write the set to.")],
    seed: Seed = 0,
) -> None:
    """Write the synthetic set as files, laid out like ESC-50."""
    from audiointerp.dataset.synthetic import write_synthetic

    typer.echo(f"the synthetic set is in {write_synthetic(root, seed=seed)}")


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    from audiointerp.registry import UnknownNameError

    keep_freed_memory()
    try:
        app()
    except (ValueError, OSError, UnknownNameError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _report(failures: dict[str, str]) -> None:
    """Say what was skipped; the exit status says so too."""
    if failures:
        typer.echo(f"\n{len(failures)} skipped:", err=True)
        for name, why in failures.items():
            typer.echo(f"  {name}: {why}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
