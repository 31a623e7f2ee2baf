"""Interpret sound files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import (
    AboveProbability,
    Background,
    Base,
    Device,
    Methods,
    Places,
    Seed,
    Targets,
    TopLabels,
    Weights,
    build_recipe,
)
from audiointerp.cli.skipped import report_skipped


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
    target: Targets = None,
    top: TopLabels = None,
    above: AboveProbability = None,
    background: Background = "synthetic",
    base: Base = "floor",
    on: Places = ["features"],  # noqa: B006 (typer reads the default, nobody changes it)
    seed: Seed = 0,
    device: Device = "auto",
    report: Annotated[bool, typer.Option(help="Write a page to look at and listen to.")] = True,
) -> None:
    """Interpret sound files: pictures, masked-in and masked-out sounds, metrics, a page of all."""
    from audiointerp.masking import MASKS
    from audiointerp.runs.files import interpret_files
    from audiointerp.runs.recipe import SHOWN_MASKS

    shown = list(MASKS) if all_masks else mask or SHOWN_MASKS
    recipe = build_recipe(method, target, top, above, base=base, on=on, seed=seed)
    result = interpret_files(
        files,
        weights,
        out,
        masks=shown,
        sound=sound,
        background=background,
        device=device,
        report=report,
        recipe=recipe,
    )
    if len(result.table):
        from audiointerp.tables import summarise_files

        typer.echo(summarise_files(result.table, shown).to_string())
        typer.echo(f"\nPictures, sounds and tables: {result.folder}/<model>/<method>/<clip>/")
        typer.echo(f"Every metric of every mask:  {result.folder}/summary.csv")
    if result.report is not None:
        typer.echo(f"To look at and listen to:    {result.report}")
    report_skipped(result.failures)
