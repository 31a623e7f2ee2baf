"""Measure methods against what is known of the clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import (
    TRAIN_FOLDS,
    Alpha,
    Base,
    Data,
    Device,
    Extra,
    Methods,
    Places,
    Seed,
    Subset,
    Weights,
    read_fold,
)
from audiointerp.cli.skipped import report_skipped
from audiointerp.cli.wording import say

LEVELS = [-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0]


def benchmark(
    weights: Weights,
    data: Data,
    noise: Annotated[list[str], typer.Option(help="Noise file: FILE or NAME=FILE; several.")],
    subset: Subset = None,
    fold: Annotated[str, typer.Option(help="The fold to interpret: its number or name.")] = "5",
    clips: Annotated[
        int | None, typer.Option(help="At most so many of its clips, class by class; or all.")
    ] = None,
    train_folds: Annotated[
        list[str], typer.Option(help="Folds that SHAP's background is drawn from.")
    ] = TRAIN_FOLDS,
    method: Methods = None,
    alpha: Alpha = None,
    snr_db: Annotated[
        list[float], typer.Option(help="Further levels of the clips over the noise, dB.")
    ] = LEVELS,
    levels: Annotated[bool, typer.Option(help="Also run at the further levels.")] = True,
    level_method: Annotated[
        list[str] | None, typer.Option(help="Method to run at these levels; leave out slow ones.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="Mask to score, all by default. The first is shown and scored at all levels; "
            "topK_30 if none is named."
        ),
    ] = None,
    correct: Annotated[
        bool, typer.Option(help="Show clips that are classified correctly, or all.")
    ] = True,
    base: Base = "floor",
    on: Places = ["features"],  # noqa: B006
    extra: Extra = None,
    results: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("results/benchmark"),
    out: Annotated[Path, typer.Option(help="Folder for tables, pictures and the page.")] = Path(
        "benchmark"
    ),
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Do runs again that are there.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Compare methods with the truth: which of them find the sound, which only appear to.

    Clips are mixed with every noise, at the main level and at others; the label that a clip truly
    has is explained, by all methods and references. What the results hold already is not done
    again.
    """
    from audiointerp.report.benchmark import write_benchmark
    from audiointerp.runs.benchmark import LEVEL_MASK, run_benchmark
    from audiointerp.runs.experiment import parse_noises
    from audiointerp.runs.recipe import ALL
    from audiointerp.runs.targets import TrueLabels

    shown = mask[0] if mask else LEVEL_MASK
    done = run_benchmark(
        weights,
        data,
        noises=parse_noises(noise),
        alpha=alpha,
        snr_db=snr_db if levels else (),
        level_methods=level_method,
        level_mask=shown,
        subset=subset,
        fold=read_fold(fold),
        clips=clips,
        train_folds=[read_fold(each) for each in train_folds],
        results=results,
        cache_dir=cache,
        device=device,
        overwrite=overwrite,
        methods=method or ALL,
        masks=mask,
        target=TrueLabels(),
        base=base,
        on=on,
        extra=extra or (),
        seed=seed,
    )
    written = write_benchmark(
        results,
        out,
        mask=shown,
        clips="correct" if correct else "all",
        on=on[0],
        models=list(dict.fromkeys(folder.parent.name for folder in done)),
        seed=seed,
    )
    for path in written:
        say(path)
    report_skipped(
        {
            f"{folder.parent.name}/{folder.name}/{clip}": why
            for folder, result in done.items()
            for clip, why in result.failures.items()
        }
    )
