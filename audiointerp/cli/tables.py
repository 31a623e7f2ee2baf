"""Make tables from results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import Seed
from audiointerp.cli.wording import say


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
        say(path)
