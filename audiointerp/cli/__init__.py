"""The command line: every command is one call into the library, in a module of its own.

The library is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
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
    from audiointerp.speed.memory import keep_freed_memory

    _show_any_text()
    keep_freed_memory()
    try:
        app()
    except (ValueError, OSError, ImportError, UnknownNameError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _show_any_text() -> None:
    """Show a character that the console's encoding lacks as its code, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        typer.echo(
            f"note: this locale takes the names of files as {encoding}, so that those with other "
            "letters are misread; set PYTHONUTF8=1 to take them as UTF-8",
            err=True,
        )
