"""FLAC: compare the length in the header with the last frame (RFC 9639)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, NamedTuple

from audiointerp.dataset.containers.contents import Contents, truncated

_LARGEST_FRAME = 1 << 20
_RATES = {4: 8000, 5: 16000, 6: 22050, 7: 24000, 8: 32000, 9: 44100, 10: 48000, 11: 96000}
_RATES |= {1: 88200, 2: 176400, 3: 192000}
_DEPTHS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}


class _Info(NamedTuple):
    """The STREAMINFO block, and where its length is."""

    place: int
    block: int
    largest: int
    rate: int
    channels: int
    depth: int
    frames: int


class _Frame(NamedTuple):
    place: int
    end: int  # the sample after its last


def examine(file: BinaryIO, start: int, end: int) -> Contents:
    """Return how to decode a FLAC file.

    Parameters
    ----------
    file : BinaryIO
    start, end : int
        The first byte of the stream, which is "fLaC", and the one after its last.

    Raises
    ------
    SoundFileError
        If the file ends before the length that its header states.
    """
    info = _info(file, start)
    first = _first_frame(file, start, end)
    tail_start = max(first, end - min(info.largest or _LARGEST_FRAME, _LARGEST_FRAME) - 1024)
    file.seek(tail_start)
    tail = file.read(end - tail_start)
    last = 0
    for frame in _frames_from_behind(tail, info):
        last = max(last, frame.end)
        if frame.end == info.frames:
            return Contents(most=info.frames)
        if _is_complete(tail, frame):
            break
    else:
        raise truncated(f"its header promises {info.frames} samples, and its last frame is cut")
    if info.frames > last:
        raise truncated(f"its header promises {info.frames} samples and {last} are there")
    return _restated(file, info, last, end)


def _info(file: BinaryIO, start: int) -> _Info:
    file.seek(start)
    block = file.read(42)
    if len(block) < 42 or block[4] & 0x7F or int.from_bytes(block[5:8], "big") != 34:
        raise truncated("a FLAC file without a complete header")
    packed = int.from_bytes(block[18:26], "big")
    return _Info(
        place=start + 18,
        block=int.from_bytes(block[10:12], "big"),
        largest=int.from_bytes(block[15:18], "big"),
        rate=packed >> 44,
        channels=(packed >> 41 & 7) + 1,
        depth=(packed >> 36 & 31) + 1,
        frames=packed & (1 << 36) - 1,
    )


def _first_frame(file: BinaryIO, start: int, end: int) -> int:
    """Return where the metadata blocks end."""
    position, is_last = start + 4, False
    while not is_last and position < end:
        file.seek(position)
        header = file.read(4)
        is_last = bool(header[:1] >= b"\x80")
        position += 4 + int.from_bytes(header[1:4], "big")
    if not is_last or position >= end:
        raise truncated("a FLAC file without a sound behind its header")
    return position


def _frames_from_behind(tail: bytes, info: _Info) -> Iterator[_Frame]:
    """Yield what looks like the frames of a stream, the last one first."""
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        header = tail[place : place + 16]
        if len(header) > 5 and header[1] & 0xFE == 0xF8:
            frame = _frame(header, place, info)
            if frame is not None:
                yield frame


def _frame(header: bytes, place: int, info: _Info) -> _Frame | None:
    """Return the frame whose header this is; None if it is not one of this stream."""
    size, rate = header[2] >> 4, header[2] & 15
    channels, depth = header[3] >> 4, header[3] >> 1 & 7
    wanted = channels + 1 if channels < 8 else 2
    if not size or rate == 15 or channels > 10 or header[3] & 1 or wanted != info.channels:
        return None
    if _RATES.get(rate, info.rate) != info.rate or _DEPTHS.get(depth, info.depth) != info.depth:
        return None
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # as in UTF-8, how many bytes the number has
    if ones == 1 or ones == 8:
        return None
    number = header[4] & (0x7F >> ones)
    position = 5
    for _ in range(1, ones):
        number = number << 6 | header[position] & 0x3F if position < len(header) else 0
        position += 1
    extra = {6: 1, 7: 2}.get(size, 0)
    block = int.from_bytes(header[position : position + extra], "big") + 1
    if not extra:
        block = 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8
    position += extra + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if position >= len(header) or _crc(header[:position], 8, 0x07) != header[position]:
        return None
    start = number if header[1] & 1 else number * info.block
    return _Frame(place, start + block)


def _is_complete(tail: bytes, frame: _Frame) -> bool:
    """Return whether a frame reaches to the end of the file, or to an ID3v1 tag there."""
    ends = [len(tail)]
    if tail[-128:-125] == b"TAG":
        ends.append(len(tail) - 128)
    return any(_crc(tail[frame.place : end], 16, 0x8005) == 0 for end in ends)


def _crc(content: bytes, width: int, polynomial: int) -> int:
    """Return the cyclic redundancy check; 0 over content that its own check follows."""
    table, mask, register = _crc_table(width, polynomial), (1 << width) - 1, 0
    for byte in content:
        register = register << 8 & mask ^ table[register >> width - 8 ^ byte]
    return register


@cache
def _crc_table(width: int, polynomial: int) -> list[int]:
    table = []
    for register in range(256):
        register <<= width - 8
        for _ in range(8):
            register = register << 1 ^ (polynomial if register >> width - 1 else 0)
            register &= (1 << width) - 1
        table.append(register)
    return table


def _restated(file: BinaryIO, info: _Info, frames: int, end: int) -> Contents:
    """Return the file with its true length in the header."""
    file.seek(info.place)
    packed = int.from_bytes(file.read(8), "big") >> 36 << 36 | frames
    pieces = [(0, info.place), packed.to_bytes(8, "big"), (info.place + 8, end)]
    return Contents(frames, frames, pieces)
