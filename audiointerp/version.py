"""Provenance information: package version, commit, and library versions."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

__version__ = "0.1.0"


@cache
def code_version() -> dict[str, str | None]:
    """Return the versions of this package and of what its numbers depend on.

    As they are at the first call: a checkout can move on while a long run goes.
    """
    libraries = {name: version(name) for name in ("torch", "numpy", "scikit-image")}
    return {"audiointerp": __version__, "commit": _commit()} | libraries


def _commit() -> str | None:
    """Return the commit of the checkout that the package runs from, None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
