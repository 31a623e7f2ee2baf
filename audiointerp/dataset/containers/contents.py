"""Metadata of a container, checked, and a file assembled from pieces."""

from __future__ import annotations

import io
import itertools
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, TypeAlias

Piece: TypeAlias = "bytes | tuple[int, int]"
"""Bytes as they are, or a stretch of the file: its first byte and the one after its last."""

CONVERT = "convert it, for example with `ffmpeg -i IN OUT.wav`"


class SoundFileError(Exception):
    """Why a sound cannot be read. Whoever opened the file adds its name."""


def truncated(reason: str) -> SoundFileError:
    """Return the error for a file whose end is missing."""
    return SoundFileError(f"truncated: {reason}; download or copy it again")


class Contents(NamedTuple):
    """How to decode a file.

    Attributes
    ----------
    most : int
        More frames than these cannot be in the file.
    frames : int or None
        Its frames where they were counted; None where the decoder knows them.
    pieces : sequence of Piece or None
        What the decoder gets instead of the file: the same sound under a header that states its
        length. None where it gets the file.
    """

    most: int
    frames: int | None = None
    pieces: Sequence[Piece] | None = None


class PiecedFile:
    """A read-only file made of pieces, as soundfile reads one.

    Parameters
    ----------
    file : BinaryIO
        The file that stretches are read from. It stays open, and is not closed here.
    pieces : sequence of Piece
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = pieces
        sizes = (len(p) if isinstance(p, bytes) else p[1] - p[0] for p in pieces)
        self._bounds = [0, *itertools.accumulate(sizes)]
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as `io.IOBase.seek` does; not before the beginning."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._bounds[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer at the end only."""
        out = io.BytesIO()
        while size > 0 and self._position < self._bounds[-1]:
            number = bisect_right(self._bounds, self._position) - 1
            skipped = self._position - self._bounds[number]
            count = min(size, self._bounds[number + 1] - self._position)
            piece = self._pieces[number]
            if isinstance(piece, bytes):
                part = piece[skipped : skipped + count]
            else:
                self._file.seek(piece[0] + skipped)
                part = self._file.read(count)
            if not part:
                break
            out.write(part)
            self._position += len(part)
            size -= len(part)
        return out.getvalue()

    def write(self, data: bytes) -> int:
        """Refuse; soundfile asks whether there is such a method."""
        raise io.UnsupportedOperation("not writable")
