"""Fixtures of the tests that read damaged files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def limited_memory() -> Callable[[int], AbstractContextManager[None]]:
    """Return a context in which this process may take so many more bytes, or skip the test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux to limit the address space")
    import resource

    @contextmanager
    def limit(more: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return limit
