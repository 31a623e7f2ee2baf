"""Report what a command skipped."""

from __future__ import annotations

from collections.abc import Mapping

import typer


def report_skipped(failures: Mapping[str, str]) -> None:
    """List what was skipped and why, and end with exit status 1 if anything was."""
    if failures:
        typer.echo(f"\n{len(failures)} skipped:", err=True)
        for name, why in failures.items():
            typer.echo(f"  {name}: {why}", err=True)
        raise typer.Exit(1)
