"""Console output: option names instead of Python arguments, control characters escaped.

The library tells a Python user to pass ``overwrite=True``. On the command line that is
``--overwrite``, which the command itself knows: messages are put into its options here.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperOption

from audiointerp.text import printable

if TYPE_CHECKING:
    import pandas as pd

RENAMED = {
    "cache_dir": "cache",
    "experiments": "experiment",
    "key": "pretrained_key",
    "masks": "mask",
    "methods": "method",
    "models": "model",
    "noises": "noise",
}
"""Options whose argument in the library has another name."""
_SETS = ("data", "background")
"""Options that take a set, whose own options follow its path."""
_HINT = re.compile(
    r"""[\w.]+\([^()]*\)  # a call is Python, whatever is in it
    |(?<![\w?&./'"-])(?P<name>[a-z][a-z_]*)=
    (?P<value>'[^']*'|"[^"]*"|True|False|…|-?\d+(?:\.\d+)?(?![\w.]))""",
    re.VERBOSE,
)


_OPTIONS: ContextVar[Sequence[TyperOption]] = ContextVar("options", default=())
"""Of the command that runs."""


class Command(TyperCommand):
    """A command whose errors and warnings speak of its options."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command."""
        running = _OPTIONS.set([each for each in self.params if isinstance(each, TyperOption)])
        with _short_warnings():
            try:
                return super().invoke(ctx)
            except (ValueError, OSError, ImportError) as error:
                if len(error.args) == 1 and isinstance(error.args[0], str):
                    error.args = (in_options(error.args[0]),)
                raise
            finally:
                _OPTIONS.reset(running)


def say(text: object = "", *, err: bool = False) -> None:
    """Print a line, with the codes of control characters in the names that it holds."""
    typer.echo(printable(str(text)), err=err)


def say_error(error: BaseException) -> None:
    """Print an error; lines after its first are indented, so that no name looks like another."""
    first, *others = f"error: {error}".split("\n")
    for line in (first, *(f"  {other}" for other in others)):
        say(line, err=True)


def say_table(table: pd.DataFrame) -> None:
    """Print a table."""
    for line in _printable(table).to_string().split("\n"):
        typer.echo(line)


def in_options(message: str) -> str:
    """Return a message of the library in the options of the command that runs."""
    return translate(message, _OPTIONS.get())


def translate(message: str, of_command: Sequence[TyperOption]) -> str:
    """Return a message of the library in the options of a command.

    Parameters
    ----------
    message : str
        Arguments in it are written ``name=value``.
    of_command : sequence of TyperOption
        Arguments that the command has no option for stay.
    """
    from audiointerp.dataset.choose import PATH_OPTIONS

    options = {option.name: option for option in of_command}
    takes_set = next((options[name].opts[0] for name in _SETS if name in options), None)
    of_set: list[str] = []

    def replace(found: re.Match[str]) -> str:
        name = found["name"] and RENAMED.get(found["name"], found["name"])
        if name in options:
            return _spell(options[name], found["value"])
        if name in PATH_OPTIONS and takes_set:
            of_set.append(f"{name}={found['value'].strip(_QUOTES)}")
            return of_set[-1]
        return found[0]

    text = _HINT.sub(replace, message)
    if of_set:
        text += f" (options of a set follow its path: {takes_set} 'PATH?{of_set[0]}')"
    return text


_QUOTES = "'\""


def _spell(option: TyperOption, value: str) -> str:
    """Return an option with a value as it is typed."""
    if option.is_flag:
        names = option.secondary_opts if value == "False" else option.opts
        return (names or option.opts)[0]
    return f"{option.opts[0]} {value if value == '…' else shlex.quote(value.strip(_QUOTES))}"


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Print warnings as one line each, in the options of the command."""

    def line(message: Warning | str, *_: object) -> str:
        return f"warning: {printable(in_options(str(message)))}\n"

    before = warnings.formatwarning
    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _printable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without control characters in its names and texts."""

    def shown(value: Any) -> Any:
        return printable(value) if isinstance(value, str) else value

    plain = table.map(shown).rename(index=shown, columns=shown)
    plain.index = plain.index.set_names([shown(name) for name in plain.index.names])
    return plain
