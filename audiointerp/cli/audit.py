"""Audit the detections in a folder of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import (
    Background,
    Channel,
    Device,
    End,
    Hop,
    Seed,
    Start,
    WindowSeconds,
)
from audiointerp.cli.skipped import report_skipped
from audiointerp.cli.wording import say, say_table


def audit(
    folder: Annotated[Path, typer.Argument(help="Folder of recordings, at any depth.")],
    weights: Annotated[Path, typer.Option("--weights", "-w", help="Weight file.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results/audit"),
    threshold: Annotated[
        float, typer.Option("--above", help="A class is detected from this probability on.")
    ] = 0.5,
    method: Annotated[str, typer.Option("--method", "-m", help="Attribution method.")] = "saliency",
    mask: Annotated[
        str, typer.Option(help="What is described and played as the evidence.")
    ] = "topK_5_pos",
    base: Annotated[
        str, typer.Option(help="What a removed cell becomes: quiet, floor, minimum.")
    ] = "quiet",
    shown: Annotated[int, typer.Option(help="Detections of each group to show on the page.")] = 3,
    sound: Annotated[
        str, typer.Option(help="wav, lossless; mp3, much smaller; auto: mp3 for large pages.")
    ] = "auto",
    start: Start = None,
    end: End = None,
    window: WindowSeconds = None,
    hop: Hop = None,
    channel: Channel = "mid",
    background: Background = "synthetic",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in the folder.")
    ] = False,
) -> None:
    """Say what triggered each detection in a folder, sorted by suspicion of a shortcut.

    The same command goes on after it was stopped, and takes up recordings that are new.
    """
    from audiointerp.report.audit import PAGE
    from audiointerp.report.audit import audit as audit_recordings
    from audiointerp.runs.windows import Windowing

    found = audit_recordings(
        folder,
        weights,
        out,
        threshold=threshold,
        method=method,
        mask=mask,
        base=base,
        windowing=Windowing(start, end, window, hop),
        channel=channel,
        background=background,
        seed=seed,
        device=device,
        overwrite=overwrite,
    )
    if found.found.detections:
        files = found.save(out / PAGE, shown=shown, sound=sound)
        columns = ["suspicion", "detections", "recordings", "probability", "p_without_band"]
        say_table(found.groups[columns].round(2))
        say()
        say(f"All detections:             {files[1]}")
        say(f"To look at and listen to:   {files[0]}")
    else:
        say(found.no_detection)
    report_skipped(found.failures)
