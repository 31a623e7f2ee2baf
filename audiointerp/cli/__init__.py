"""The command line: every command is one call into the library, in a module of its own.

The library is imported inside the commands, so that ``--help`` answers at once and `main` is in
time to say how torch's threads wait.
"""

from __future__ import annotations

import sys

import typer

from audiointerp.cli import check, data, experiment, figure, interpret, report, tables, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See, hear and measure what an audio classifier listened to.",
)
for _command in (
    interpret.interpret,
    figure.figure,
    report.report,
    experiment.experiment,
    train.train,
    tables.tables,
    check.check,
):
    app.command()(_command)
_data = typer.Typer(no_args_is_help=True, help="Get or make data: ESC-50, the synthetic set.")
for _command in (data.esc50, data.samples, data.synthetic):
    _data.command()(_command)
app.add_typer(_data, name="data")


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    from audiointerp.registry import UnknownNameError
    from audiointerp.speed import keep_freed_memory, share_processors

    if "torch" not in sys.modules:  # a program that has it loaded already decides for itself
        share_processors()
    keep_freed_memory()
    try:
        app()
    except (ValueError, OSError, ImportError, UnknownNameError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
