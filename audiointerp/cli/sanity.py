"""Run sanity checks: dependence on the network and on the class, stability under faint noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import Base, Data, Device, Methods, Seed, Subset, read_fold
from audiointerp.cli.wording import say, say_table


def sanity(
    weights: Annotated[Path, typer.Option("--weights", "-w", help="Weight file.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the table and the picture.")],
    subset: Subset = None,
    fold: Annotated[str, typer.Option(help="The fold to take clips of: number or name.")] = "5",
    clips: Annotated[int, typer.Option(help="How many of its clips, class by class.")] = 10,
    method: Methods = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="cascading, independent, class, stability, infidelity, completeness; all by "
            "default."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Layer to randomise, output first; all by default.")
    ] = None,
    draws: Annotated[int, typer.Option(help="How often a clip is perturbed.")] = 10,
    base: Base = "floor",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Check whether methods depend on the network and the class, and not on faint noise.

    Every layer is randomised, from the output to the input: minutes for fast methods and some ten
    clips, an hour for lime. docs/sanity.md says how to read the numbers.
    """
    from audiointerp.runs.sanity import run_sanity, summarise_sanity

    found, files = run_sanity(
        weights,
        data,
        out,
        subset=subset,
        fold=read_fold(fold),
        clips=clips,
        methods=method,
        checks=check,
        layers=layer,
        draws=draws,
        base=base,
        seed=seed,
        device=device,
    )
    say_table(summarise_sanity(found).T.round(3))
    for path in files:
        say(path)
