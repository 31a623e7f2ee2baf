"""The command line: every command is one call into the library, in a module of its own.

Nothing is imported here that takes long: from the first moment on, Ctrl-C ends a command in order,
and `main` is in time to say how torch's threads wait.
"""

from __future__ import annotations

import io
import sys

from audiointerp.cli.stop import ending_in_order


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    with ending_in_order(sys.argv[1:]):
        from audiointerp.cli.commands import app
        from audiointerp.cli.wording import say, say_error
        from audiointerp.registry import UnknownNameError
        from audiointerp.speed import keep_freed_memory, share_processors

        _show_any_text()
        encoding = sys.getfilesystemencoding()
        if encoding != "utf-8":
            say(
                f"note: this locale takes the names of files as {encoding}, so that those with "
                "other letters are misread; set PYTHONUTF8=1 to take them as UTF-8",
                err=True,
            )
        if "torch" not in sys.modules:  # a program that has it loaded already decides for itself
            share_processors()
        keep_freed_memory()
        try:
            app()
        except (ValueError, OSError, ImportError, UnknownNameError) as error:
            say_error(error)
            sys.exit(2)


def _show_any_text() -> None:
    """Show a character that the console's encoding lacks as its code, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
