"""What the system does to a run: another process holds a claim, the disk is full."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOLD = """
import sys
from audiointerp.storage import claim
with claim(*sys.argv[1:]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holding(*paths: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has claimed files; it ends with the block, or at a line of input."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond so many bytes of any file, or skip the test."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
