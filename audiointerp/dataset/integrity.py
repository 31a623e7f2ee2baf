"""Find sound files that were cut off: libsndfile decodes what is left of one without a word."""

from __future__ import annotations

import io
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

_UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""What programs that write to a pipe leave for a size they never knew."""


def missing_bytes(path: Path) -> str:
    """Say what is missing from a sound file by its own container, "" if nothing is.

    WAV, RF64, Wave64, AIFF, AU, CAF and Ogg are looked at. The end of FLAC and MP3 shows only when
    they are decoded to it.

    Parameters
    ----------
    path : Path
        A file that exists.
    """
    with path.open("rb") as file:
        start = file.read(40)
        end = file.seek(0, os.SEEK_END)
        for magic, look in _LOOKS.items():
            if start.startswith(magic):
                return look(file, start.ljust(40, b"\0"), end)
    return ""


def _of_chunks(
    file: io.BufferedReader, end: int, first: int, header: str, wanted: bytes, pad: int
) -> str:
    """Look for the chunk that holds the sound, and compare its size with what follows."""
    position, length = first, struct.calcsize(header)
    while position + length <= end:
        file.seek(position)
        name, size = struct.unpack(header, file.read(length))
        position += length
        if name == wanted:
            return _compare(size, end - position)
        if size < 0:
            return ""
        position += size + size % pad
    return ""


def _compare(promised: int, there: int) -> str:
    if promised in _UNKNOWN or promised <= there:
        return ""
    return f"its header promises {promised} bytes of sound and {there} are there"


def _of_wav(file: io.BufferedReader, start: bytes, end: int) -> str:
    return _of_chunks(file, end, 12, "<4sI", b"data", 2)


def _of_caf(file: io.BufferedReader, start: bytes, end: int) -> str:
    return _of_chunks(file, end, 8, ">4sq", b"data", 1)  # -1 where the size is unknown


def _of_aiff(file: io.BufferedReader, start: bytes, end: int) -> str:
    return _of_chunks(file, end, 12, ">4sI", b"SSND", 2)


def _of_rf64(file: io.BufferedReader, start: bytes, end: int) -> str:
    return _compare(struct.unpack_from("<Q", start, 20)[0], end - 8)  # chunk ds64


def _of_wave64(file: io.BufferedReader, start: bytes, end: int) -> str:
    return _compare(struct.unpack_from("<Q", start, 16)[0], end)


def _of_au(file: io.BufferedReader, start: bytes, end: int) -> str:
    offset, size = struct.unpack_from(">II", start, 4)
    return _compare(size, end - offset)


def _of_ogg(file: io.BufferedReader, start: bytes, end: int) -> str:
    """Look for the end-of-stream flag on the last page (RFC 3533), and that page's last byte."""
    file.seek(max(0, end - 2 * 65_307))  # the largest page is 65307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27] if page >= 0 else b""
    if len(header) < 27:
        return "its last Ogg page is cut"
    segments = tail[page + 27 : page + 27 + header[26]]
    if len(segments) < header[26] or page + 27 + header[26] + sum(segments) > len(tail):
        return "its last Ogg page is cut"
    if not header[5] & 4:
        return "its last Ogg page is not marked as the end of the stream"
    return ""


_LOOKS: dict[bytes, Callable[[io.BufferedReader, bytes, int], str]] = {
    b"RIFF": _of_wav,
    b"OggS": _of_ogg,
    b"FORM": _of_aiff,
    b"RF64": _of_rf64,
    b"riff": _of_wave64,
    b".snd": _of_au,
    b"caff": _of_caf,
}

# kbit/s of MPEG 1 layer III, then of MPEG 2 and 2.5 (ISO 11172-3, 13818-3)
_BIT_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mp3_frames(path: Path) -> int | None:
    """Count the sample frames of an MP3 that does not state its length.

    libsndfile guesses the length of such a file from its first bit rate, which is wrong where the
    bit rate varies, and decodes no more than it guessed.

    Parameters
    ----------
    path : Path
        An MP3 file.

    Returns
    -------
    int or None
        None where the file states its length (a Xing, Info or VBRI header) or is not layer III.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = _after_id3(content)
        size, samples = _mpeg_frame(content, position)
        first = content[position : position + size]
        if not size or any(tag in first for tag in (b"Xing", b"Info", b"VBRI")):
            return None
        total = 0
        while size and position + size <= len(content):
            total += samples
            position += size
            size, samples = _mpeg_frame(content, position)
    return total


def _after_id3(content: mmap.mmap) -> int:
    if content[:3] != b"ID3":
        return 0
    a, b, c, d = content[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _mpeg_frame(content: mmap.mmap, position: int) -> tuple[int, int]:
    """Return bytes and samples of the layer III frame at a position, (0, 0) if there is none."""
    header = content[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0, 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate, frequency, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer != 1 or rate in (0, 15) or frequency == 3:
        return 0, 0
    half = version != 3
    samples = 576 if half else 1152
    bits = _BIT_RATES[half][rate] * 1000
    return samples // 8 * bits // _SAMPLE_RATES[version][frequency] + padding, samples
