"""Check what works on a classifier."""

from __future__ import annotations

from typing import Annotated

import typer

from audiointerp.cli.options import Device
from audiointerp.cli.wording import say


def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Weight file, or file.py:function of your own, which is run: the function "
            "returns what audiointerp.classifier returns, or (module, arguments).",
        ),
    ],
    device: Device = "auto",
) -> None:
    """Try everything on a classifier: what is supported, what is missing, and what to do.

    Ends with exit status 1 if something fails that interpreting needs.
    """
    from audiointerp.runs.check import check_file, works

    findings = check_file(source, device=device)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        say(f"{finding.check:<{width}}  {finding.status:<7}  {finding.found}")
        if finding.advice:
            say(f"{'':<{width}}  {'':<7}  → {finding.advice}")
    if not works(findings):
        raise typer.Exit(1)
