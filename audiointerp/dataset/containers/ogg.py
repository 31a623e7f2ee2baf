"""Ogg: walk the pages (RFC 3533) to find the length and check that the file is complete."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from audiointerp.dataset.containers.contents import CONVERT, Contents, SoundFileError, truncated

_HEADER = struct.Struct("<4sBBqIIIB")
_FIRST, _LAST = 2, 4  # flags of a page
_NO_GRANULE = -1  # of a page on which no packet ends

# What the first packet of a stream begins with.
_CODECS = {
    b"\x01vorbis": "Vorbis",
    b"OpusHead": "Opus",
    b"Speex   ": "Speex",
    b"\x7fFLAC": "FLAC",
    b"fLaC": "FLAC",
    b"PCM     ": "PCM",
    b"CELT    ": "CELT",
    b"\x80theora": "Theora video",
    b"BBCD\0": "Dirac video",
    b"OVP80": "VP8 video",
    b"fishead\0": "a Skeleton",
    b"\x80kate": "Kate subtitles",
}
_LONGEST_OPUS = 5760  # samples of a packet: 120 ms at 48 kHz


@dataclass
class _Stream:
    """A logical stream, as far as its pages were walked."""

    codec: str
    longest: int  # samples that a packet can hold
    page: int = -1
    granule: int = 0
    packets: int = 0
    ended: bool = False


def examine(file: BinaryIO, end: int) -> Contents:
    """Return how to decode an Ogg file of one stream, Vorbis or Opus.

    Raises
    ------
    SoundFileError
        If a page is cut or missing, the end is not marked, or it holds anything else.
    """
    streams: dict[int, _Stream] = {}
    position = 0
    while position < end:
        file.seek(position)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size and b"OggS".startswith(header[:4]):
            raise truncated("its last Ogg page is cut")
        if header[:4] != b"OggS":
            raise SoundFileError(
                f"damaged: there is no Ogg page at byte {position} of {end}; download or copy it "
                "again"
            )
        _, _, flags, granule, serial, page, _, segments = _HEADER.unpack(header)
        table = file.read(segments)
        size = _HEADER.size + segments + sum(table)
        if len(table) < segments or position + size > end:
            raise truncated("its last Ogg page is cut")
        if flags & _FIRST:
            _begin(streams, serial, file.read(min(64, sum(table))))
        if serial not in streams:
            raise SoundFileError("damaged: an Ogg stream without a beginning; download it again")
        _go_on(streams[serial], table, granule, page, flags)
        position += size
    return _result(streams)


def _begin(streams: dict[int, _Stream], serial: int, packet: bytes) -> None:
    if any(stream.packets > 1 or stream.ended for stream in streams.values()):
        raise SoundFileError(
            "several Ogg streams one after the other (chained Ogg), of which only the first could "
            f"be read; {CONVERT}"
        )
    codec = next((name for magic, name in _CODECS.items() if packet.startswith(magic)), "")
    longest = _LONGEST_OPUS
    if codec == "Vorbis" and len(packet) > 28:
        longest = 1 << (packet[28] >> 4)  # the larger block size
    streams[serial] = _Stream(codec, longest)


def _go_on(stream: _Stream, table: bytes, granule: int, page: int, flags: int) -> None:
    if page != stream.page + 1 and stream.page >= 0:
        raise SoundFileError(
            f"damaged: between its Ogg pages {stream.page} and {page} some are missing or double; "
            "download or copy it again"
        )
    stream.page = page
    stream.packets += sum(length < 255 for length in table)
    stream.ended = bool(flags & _LAST)
    if granule != _NO_GRANULE:
        if granule < stream.granule:
            raise SoundFileError(
                f"damaged: an Ogg page ends at sample {granule}, before the page in front of it "
                f"({stream.granule}); {CONVERT}"
            )
        stream.granule = granule


def _result(streams: dict[int, _Stream]) -> Contents:
    codecs = [stream.codec or "an unknown codec" for stream in streams.values()]
    if len(streams) > 1:
        raise SoundFileError(
            f"an Ogg file of several streams ({', '.join(codecs)}); take the sound out of it, for "
            "example with `ffmpeg -i IN -vn OUT.wav`"
        )
    (stream,) = streams.values()
    if stream.codec not in ("Vorbis", "Opus"):
        raise SoundFileError(f"{codecs[0]} in Ogg, which cannot be read; {CONVERT}")
    if not stream.ended:
        raise SoundFileError(
            f"{codecs[0]} in Ogg whose last page is not marked as the end of the stream: either "
            "its end is missing or the program that wrote it was stopped. If you know that it is "
            "complete, `ffmpeg -i IN.ogg -c copy OUT.ogg` marks the end"
        )
    return Contents(most=stream.packets * stream.longest)
