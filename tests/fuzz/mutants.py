"""Damaged copies of a file's content, drawn with a fixed seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

# Values that sizes, counts and offsets in headers are most often wrong by.
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**36 - 1)
_HEADER = 128


def mutants(content: bytes, *, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies of a file.

    Half of the changes hit the first 128 bytes, where formats keep their sizes and counts.

    Parameters
    ----------
    content : bytes
        A valid file.
    count : int
        How many copies.
    seed : int
        Equal seeds give equal copies.
    """
    draw = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
            _damage(damaged, draw)
        yield bytes(damaged)


def _damage(content: bytearray, draw: random.Random) -> None:
    """Change, cut, insert or repeat some bytes in place."""
    if not content:
        content.extend(draw.randbytes(8))
        return
    end = min(_HEADER, len(content)) if draw.random() < 0.5 else len(content)
    place = draw.randrange(end)
    kind = draw.randrange(7)
    if kind == 0:
        content[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
        content[place] = draw.choice((0, 0x7F, 0xFF, draw.randrange(256)))
    elif kind == 2:
        size = draw.choice((2, 4, 8))
        value = draw.choice(_EXTREMES) % 2 ** (8 * size)
        content[place : place + size] = value.to_bytes(size, draw.choice(("little", "big")))
    elif kind == 3:
        del content[place:]
    elif kind == 4:
        del content[place : place + draw.randrange(1, 64)]
    elif kind == 5:
        content[place:place] = draw.randbytes(draw.randrange(1, 64))
    else:
        start = draw.randrange(len(content))
        content[place:place] = content[start : start + draw.randrange(1, 256)]
