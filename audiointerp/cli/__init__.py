"""The command line: every command is one call into the library, in a module of its own.

Nothing is imported here that takes long: from the first moment on, Ctrl-C ends a command in order.
"""

from __future__ import annotations

import sys

from audiointerp.cli.stop import ending_in_order


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    with ending_in_order(sys.argv[1:]):
        from audiointerp.cli.commands import app
        from audiointerp.registry import UnknownNameError
        from audiointerp.speed.memory import keep_freed_memory

        keep_freed_memory()
        try:
            app()
        except (ValueError, OSError, ImportError, UnknownNameError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
