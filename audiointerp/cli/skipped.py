"""Report clips that a command skipped and degenerate results."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import typer

from audiointerp.cli.wording import in_options, say


def report_degenerate(found: Mapping[str, Mapping[str, str]], masks: Collection[str]) -> None:
    """List the interpretations whose map, or one of some masks, is degenerate, and how."""
    told = {
        name: [f"{what}: {how}" for what, how in said.items() if what in ("map", *masks)]
        for name, said in found.items()
    }
    told = {name: said for name, said in told.items() if said}
    if told:
        say()
        say("Degenerate, their metrics say nothing of the clip:")
        for name, said in told.items():
            say(f"  {name}: {'; '.join(said)}")


def report_skipped(failures: Mapping[str, str]) -> None:
    """List what was skipped and why, and end with exit status 1 if anything was."""
    if failures:
        say(err=True)
        say(f"{len(failures)} skipped:", err=True)
        for name, why in failures.items():
            say(f"  {name}: {in_options(why)}", err=True)
        raise typer.Exit(1)
