"""Register the commands. The library is imported inside them, so that help appears at once."""

from __future__ import annotations

import typer

from audiointerp.cli import (
    audit,
    benchmark,
    check,
    data,
    experiment,
    figure,
    interpret,
    methods,
    report,
    sanity,
    tables,
    train,
    train_interpreter,
)
from audiointerp.cli.wording import Command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See, hear and measure what an audio classifier listened to.",
)
for _command in (
    interpret.interpret,
    audit.audit,
    figure.figure,
    report.report,
    experiment.experiment,
    benchmark.benchmark,
    train.train,
    train_interpreter.train_interpreter,
    tables.tables,
    check.check,
    sanity.sanity,
    methods.methods,
):
    app.command(cls=Command)(_command)
_data = typer.Typer(no_args_is_help=True, help="Get or make data: ESC-50, the synthetic set.")
for _command in (data.esc50, data.samples, data.synthetic):
    _data.command(cls=Command)(_command)
app.add_typer(_data, name="data")
