"""The command line: every command is one call into the library, in a module of its own.

The library is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from audiointerp.cli import check, data, experiment, figure, interpret, report, tables, train
from audiointerp.cli.wording import Command, say_error

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
    app.command(cls=Command)(_command)
_data = typer.Typer(no_args_is_help=True, help="Get or make data: ESC-50, the synthetic set.")
for _command in (data.esc50, data.samples, data.synthetic):
    _data.command(cls=Command)(_command)
app.add_typer(_data, name="data")


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    from audiointerp.registry import UnknownNameError
    from audiointerp.speed.memory import keep_freed_memory

    keep_freed_memory()
    try:
        app()
    except (ValueError, OSError, ImportError, UnknownNameError) as error:
        say_error(error)
        sys.exit(2)
