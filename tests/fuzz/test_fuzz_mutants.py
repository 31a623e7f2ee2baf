"""The damaged copies that the other tests of this folder read."""

from __future__ import annotations

import numpy as np
import pytest
from mutants import mutants

CONTENT = bytes(range(256)) * 8


def test_equal_seeds_give_equal_copies_and_other_seeds_others():
    first = list(mutants(CONTENT, count=200, seed=1))
    assert first == list(mutants(CONTENT, count=200, seed=1))
    assert first != list(mutants(CONTENT, count=200, seed=2))


def test_nearly_all_copies_are_damaged_and_differ():
    copies = list(mutants(CONTENT, count=500))
    assert sum(copy == CONTENT for copy in copies) < 25
    assert len(set(copies)) > 450
    lengths = {len(copy) for copy in copies}
    assert min(lengths) < len(CONTENT) < max(lengths)


def test_an_empty_file_gets_content():
    assert all(mutants(b"", count=20))


def test_the_limit_stops_a_large_array_and_ends_with_its_context(limited_memory):
    with limited_memory(2**28), pytest.raises(MemoryError):
        np.ones(2**29, dtype=np.uint8)
    assert np.ones(2**29, dtype=np.uint8)[-1]
