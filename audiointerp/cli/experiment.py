"""Interpret whole sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiointerp.cli.options import (
    TRAIN_FOLDS,
    AboveProbability,
    Alpha,
    Base,
    Data,
    Device,
    Extra,
    Methods,
    OwnLabels,
    Places,
    Seed,
    SnrDb,
    Subset,
    Targets,
    TopLabels,
    Weights,
    build_recipe,
    read_fold,
)
from audiointerp.cli.skipped import report_skipped
from audiointerp.cli.wording import say, say_table

if TYPE_CHECKING:
    import pandas as pd


def experiment(
    weights: Weights,
    data: Data,
    subset: Subset = None,
    fold: Annotated[str, typer.Option(help="The fold to interpret: its number or name.")] = "5",
    clips: Annotated[
        int | None, typer.Option(help="At most so many of its clips, class by class; or all.")
    ] = None,
    train_folds: Annotated[
        list[str], typer.Option(help="Folds that SHAP's background is drawn from.")
    ] = TRAIN_FOLDS,
    background: Annotated[
        str | None,
        typer.Option(help="Set that SHAP's background is drawn from; by default --data."),
    ] = None,
    method: Methods = None,
    target: Targets = None,
    top: TopLabels = None,
    above: AboveProbability = None,
    true_labels: OwnLabels = False,
    noise: Annotated[
        list[str] | None, typer.Option(help="Noise file of a condition: FILE or NAME=FILE.")
    ] = None,
    clean: Annotated[bool, typer.Option(help="Also interpret the clips as they are.")] = True,
    alpha: Alpha = None,
    snr_db: SnrDb = None,
    mask: Annotated[list[str] | None, typer.Option(help="Mask to score; all by default.")] = None,
    base: Base = "floor",
    on: Places = ["features"],  # noqa: B006
    extra: Extra = None,
    precision: Annotated[
        str, typer.Option(help="float32; tf32 or bfloat16: faster, see benchmarks/README.md.")
    ] = "float32",
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Do runs again that are there.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Interpret a test fold with every model and method, clean and under noise.

    With labels to explain asked for, the tables name them in the column "explained".
    """
    from audiointerp.runs.experiment import parse_noises, run_experiment

    recipe = build_recipe(
        method,
        target,
        top,
        above,
        true_labels=true_labels,
        masks=mask,
        base=base,
        on=on,
        extra=extra or (),
        precision=precision,
        seed=seed,
    )
    done = run_experiment(
        weights,
        data,
        subset=subset,
        fold=read_fold(fold),
        clips=clips,
        train_folds=[read_fold(each) for each in train_folds],
        background=background,
        noises=parse_noises(noise or []),
        clean=clean,
        alpha=alpha,
        snr_db=snr_db,
        results=results,
        cache_dir=cache,
        device=device,
        overwrite=overwrite,
        recipe=recipe,
    )
    failures = {}
    for folder, result in done.items():
        clips, failed = result.clips, len(result.failures)
        of = f", {clips} of {clips + failed} clips" if failed else ""
        say()
        say(f"{folder}: accuracy {100 * result.accuracy:.2f} %{of}")
        for remark in result.remarks:
            say(f"note: {remark}")
        for table in _by_level(result.mean_metrics(on[0]).round(3)):
            say_table(table)
        run = f"{folder.parent.name}/{folder.name}"
        failures |= {f"{run}/{clip}": why for clip, why in result.failures.items()}
    report_skipped(failures)


def _by_level(means: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the means of every mask, and those of the maps, which are the same for all masks."""
    from audiointerp.evaluation import METRICS

    of_map = [
        column
        for column in means
        if (metric := METRICS.get(column.removesuffix("_n"))) and metric.level == "map"
    ]
    if not of_map:
        return [means]
    return [means.drop(columns=of_map), means[of_map].iloc[:1].set_axis(["every mask"])]
