"""Run commands as on a Windows of Western Europe: files and console are in cp1252 by default."""

from __future__ import annotations

import builtins
import io
import json
import sys

_open = io.open


def _open_in_cp1252(file, mode="r", buffering=-1, encoding=None, *rest, **options):
    if "b" not in mode and encoding in (None, "locale"):
        encoding = "cp1252"
    return _open(file, mode, buffering, encoding, *rest, **options)


def main() -> None:
    """Run every command line of a JSON list, each of which must end without an error."""
    io.open = builtins.open = _open_in_cp1252
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(getattr(sys, name).detach(), "cp1252", errors="strict")
        setattr(sys, name, stream)
    from audiointerp.cli import main as run

    for command in json.loads(sys.argv[1]):
        sys.argv = ["audiointerp", *command]
        try:
            run()
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main()
