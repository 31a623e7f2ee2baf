"""Report what a command skipped."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from audiointerp.cli.wording import in_options, say


def report_skipped(failures: Mapping[str, str]) -> None:
    """List what was skipped and why, and end with exit status 1 if anything was."""
    if failures:
        say(err=True)
        say(f"{len(failures)} skipped:", err=True)
        for name, why in failures.items():
            say(f"  {name}: {in_options(why)}", err=True)
        raise typer.Exit(1)
