"""Write a page of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.wording import say


def report(
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
    say(page)
