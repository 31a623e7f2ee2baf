"""Interpret sound files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import (
    AboveProbability,
    Background,
    Base,
    Channel,
    Device,
    End,
    Extra,
    Hop,
    Methods,
    Places,
    Seed,
    Start,
    Targets,
    TopLabels,
    Weights,
    WindowSeconds,
    build_recipe,
)
from audiointerp.cli.skipped import report_degenerate, report_skipped
from audiointerp.cli.windows import report_windows
from audiointerp.cli.wording import say, say_table


def interpret(
    files: Annotated[
        list[Path], typer.Argument(help="Sound files of any length: WAV, OGG, FLAC, MP3.")
    ],
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
    start: Start = None,
    end: End = None,
    window: WindowSeconds = None,
    hop: Hop = None,
    windows: Annotated[
        str, typer.Option(help="How many windows of a recording to interpret, or 'all'.")
    ] = "5",
    channel: Channel = "mid",
    background: Background = "synthetic",
    base: Base = "floor",
    on: Places = ["features"],  # noqa: B006 (typer reads the default, nobody changes it)
    extra: Extra = None,
    seed: Seed = 0,
    device: Device = "auto",
    report: Annotated[bool, typer.Option(help="Write a page to look at and listen to.")] = True,
) -> None:
    """Interpret sound files: pictures, masked-in and masked-out sounds, metrics, a page of all.

    A file that is longer than what the model takes is cut into windows: all are classified, the
    most confident ones interpreted.
    """
    from audiointerp.masking import MASKS
    from audiointerp.runs.files import interpret_files
    from audiointerp.runs.recipe import SHOWN_MASKS
    from audiointerp.runs.windows import Windowing

    most = int(windows) if windows.isdecimal() else windows
    shown = list(MASKS) if all_masks else mask or SHOWN_MASKS
    recipe = build_recipe(
        method, target, top, above, base=base, on=on, extra=extra or (), seed=seed
    )
    result = interpret_files(
        files,
        weights,
        out,
        masks=shown,
        sound=sound,
        background=background,
        device=device,
        channel=channel,
        windowing=Windowing(start, end, window, hop, most),
        recipe=recipe,
    )
    report_windows(result.recordings)
    if len(result.table):
        from audiointerp.tables import summarise_files

        say_table(summarise_files(result.table, shown))
        say()
        say(f"Pictures, sounds and tables: {result.folder}/<model>/<method>/<clip>/")
        say(f"Every metric of every mask:  {result.folder}/summary.csv")
    report_degenerate(result.degenerate, shown)
    skipped = dict(result.failures)
    if report and result.written:
        from audiointerp.report import PAGE, write_report

        try:
            page = write_report(result.folder, results=result.written)
            say(f"To look at and listen to:    {page}")
        except (ValueError, OSError) as error:
            skipped[PAGE] = f"{error}; all results are there, `audiointerp report` makes their page"
    report_skipped(skipped)
