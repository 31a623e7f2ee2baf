"""Show the matrix of methods, and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import Base, Device, Methods, Seed, Subset, read_fold
from audiointerp.cli.wording import say, say_table

_SHOWN = ("family", "passes", "requires", "guarantees", "fails", "source")
"""What is said of a method that is named."""


def methods(
    name: Annotated[list[str] | None, typer.Argument(help="Method to describe in full.")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option("--weights", "-w", help="Measure on this network; several.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="The set to measure on; see docs/data.md."),
    ] = None,
    noise: Annotated[
        list[str] | None, typer.Option(help="Noise file: FILE or NAME=FILE; several.")
    ] = None,
    method: Methods = None,
    subset: Subset = None,
    fold: Annotated[str, typer.Option(help="The fold to take clips of: number or name.")] = "5",
    clips: Annotated[int, typer.Option(help="Clips under every noise, class by class.")] = 10,
    checked: Annotated[int, typer.Option(help="Clips without noise for sanity and time.")] = 4,
    results: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("results/methods"),
    out: Annotated[
        Path | None, typer.Option(help="CSV file for what was measured; needs --weights.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded clips.")] = None,
    base: Base = "floor",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Show what every method costs, requires and promises; with --weights, measure it.

    Without options a table of all methods; with a name all that is known of it. docs/methods.md
    has the same with what was measured on the bundled networks.
    """
    from audiointerp.interpretation import METHODS
    from audiointerp.tables.methods import method_table

    table = method_table()
    if not weights:
        given = {"--data": data, "--noise": noise, "--out": out}
        lone = [option for option, value in given.items() if value]
        if lone:
            raise ValueError(f"{', '.join(lone)}: only where methods are measured, with --weights")
        if not name:
            say_table(table[["family", "passes", "requires", "guarantees"]])
        for each in name or ():
            say(f"{each}: {METHODS[each].__doc__.splitlines()[0]}")
            for fact in _SHOWN:
                if table.loc[each, fact]:
                    say(f"  {fact}: {table.loc[each, fact]}")
        return
    if name:
        raise ValueError(f"{', '.join(name)}: name the methods to measure by --method")
    if not data or not noise:
        raise ValueError("--weights measures methods: it needs --data and at least one --noise")
    from audiointerp.report.methods import measure_methods
    from audiointerp.runs.experiment import parse_noises
    from audiointerp.spreadsheet import to_csv
    from audiointerp.storage import check_writable, write_atomically

    if out is not None:
        check_writable(out)
    found = measure_methods(
        weights,
        data,
        noises=parse_noises(noise),
        methods=method or "all",
        subset=subset,
        fold=read_fold(fold),
        clips=clips,
        checked_clips=checked,
        results=results,
        cache_dir=cache,
        base=base,
        seed=seed,
        device=device,
    )
    say_table(found.set_index(["model", "method"]).round(3))
    if out is not None:
        say(write_atomically(out, to_csv(found, index=False)))
