"""Recognise files that are not readable sound by their first bytes."""

from __future__ import annotations

from typing import NamedTuple

from audiointerp.dataset.containers.contents import CONVERT

_TAKE_SOUND = "take the sound out of it, for example with `ffmpeg -i IN -vn OUT.wav`"
_DOWNLOAD = "look at what the server said, and download it again"
_UNPACK = "unpack it"
_NOT_SOUND = "is it the right file?"


class Signature(NamedTuple):
    """Bytes at a place that tell what a file is.

    Attributes
    ----------
    place : int
    magic : bytes
    kind : str
        With its article, as a message says it.
    remedy : str
        What to do.
    """

    place: int
    magic: bytes
    kind: str
    remedy: str


SIGNATURES = (
    Signature(4, b"ftypM4A", "an M4A file (AAC or ALAC in MPEG-4)", CONVERT),
    Signature(4, b"ftypM4B", "an M4B audio book (AAC in MPEG-4)", CONVERT),
    Signature(4, b"ftyp3g", "a 3GP file (AMR or AAC in MPEG-4)", CONVERT),
    Signature(4, b"ftypqt", "a QuickTime film", _TAKE_SOUND),
    Signature(4, b"ftyp", "an MPEG-4 file (AAC, ALAC or a video)", _TAKE_SOUND),
    Signature(4, b"moov", "a QuickTime film", _TAKE_SOUND),
    Signature(4, b"mdat", "a QuickTime film", _TAKE_SOUND),
    Signature(0, b"ADIF", "AAC audio (ADIF)", CONVERT),
    Signature(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (WMA, WMV)", CONVERT),
    Signature(0, b"#!AMR", "AMR speech", CONVERT),
    Signature(0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM file", _TAKE_SOUND),
    Signature(0, b"\x0b\x77", "AC-3 (Dolby Digital) audio", CONVERT),
    Signature(0, b"\x7f\xfe\x80\x01", "DTS audio", CONVERT),
    Signature(0, b"DSD ", "DSD audio (DSF)", CONVERT),
    Signature(0, b"FRM8", "DSD audio (DSDIFF)", CONVERT),
    Signature(0, b"MAC ", "Monkey's Audio", CONVERT),
    Signature(0, b"wvpk", "WavPack audio", CONVERT),
    Signature(0, b"ajkg", "Shorten audio", CONVERT),
    Signature(0, b"MPCK", "Musepack audio", CONVERT),
    Signature(0, b"MP+", "Musepack audio", CONVERT),
    Signature(0, b"TTA1", "True Audio (TTA)", CONVERT),
    Signature(0, b"OFR ", "OptimFROG audio", "convert it with `ofr`"),
    Signature(0, b".RMF", "RealMedia", CONVERT),
    Signature(0, b".ra\xfd", "RealAudio", CONVERT),
    Signature(0, b"FLV\x01", "Flash video", _TAKE_SOUND),
    Signature(0, b".SoX", "a SoX file", "convert it with `sox IN.sox OUT.wav`"),
    Signature(0, b"XoS.", "a SoX file", "convert it with `sox IN.sox OUT.wav`"),
    Signature(0, b"BW64", "a BW64 file (Broadcast WAV of 64 bits)", CONVERT),
    Signature(0, b"\0\0\x01\xba", "an MPEG video", _TAKE_SOUND),
    Signature(0, b"MThd", "a MIDI file, notes without a sound", "render it with a synthesiser"),
    Signature(8, b"RMID", "a MIDI file, notes without a sound", "render it with a synthesiser"),
    Signature(8, b"AVI ", "an AVI video", _TAKE_SOUND),
    Signature(8, b"WEBP", "a WebP picture", _NOT_SOUND),
    Signature(0, b"\x89PNG", "a PNG picture", _NOT_SOUND),
    Signature(0, b"\xff\xd8\xff", "a JPEG picture", _NOT_SOUND),
    Signature(0, b"GIF8", "a GIF picture", _NOT_SOUND),
    Signature(0, b"%PDF", "a PDF document", _NOT_SOUND),
    Signature(0, b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull`"),
    Signature(0, b"PK\x03\x04", "a ZIP archive (or a file in one, as PyTorch writes)", _UNPACK),
    Signature(0, b"PK\x05\x06", "an empty ZIP archive", _NOT_SOUND),
    Signature(0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    Signature(0, b"BZh", "a bzip2 archive", _UNPACK),
    Signature(0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    Signature(0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    Signature(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    Signature(0, b"Rar!", "a RAR archive", _UNPACK),
    Signature(257, b"ustar", "a tar archive", _UNPACK),
    Signature(0, b"\x93NUMPY", "a NumPy array", "load it with numpy.load and pass the waveform"),
    Signature(0, b"\x89HDF", "an HDF5 file", _NOT_SOUND),
    *(Signature(0, bytes([0x80, n]), "a Python pickle", _NOT_SOUND) for n in range(2, 6)),
)
"""What is no sound that libsndfile reads. The first that fits counts."""

LONGEST = 1024
"""Bytes from the beginning of a file that `foreign_kind` looks at."""


def foreign_kind(start: bytes) -> str:
    """Say what a file is and what to do with it, "" where it may be a sound that can be read.

    Parameters
    ----------
    start : bytes
        Its first `LONGEST` bytes. None of them comes back: the file could be any.
    """
    for place, magic, kind, remedy in SIGNATURES:
        if start.startswith(magic, place):
            return f"{kind}, which cannot be read; {remedy}"
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
        return f"AAC audio (ADTS), which cannot be read; {CONVERT}"
    return _text_kind(start)


def _text_kind(start: bytes) -> str:
    """Recognise text, in UTF-8 or UTF-16."""
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = start[: len(start) // 2 * 2].decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # a character may be cut by the end of what was read
            return ""
        text = start[: error.start].decode(encoding, errors="ignore")
    if not text.strip() or any(c < " " and c not in "\t\n\r\f\x1b" for c in text):
        return ""
    text = text.strip().lower()
    if text.startswith(("<!doctype html", "<html")) or "<html" in text:
        return f"an HTML page, not audio: probably an error message; {_DOWNLOAD}"
    if text.startswith("<?xml"):
        return f"an XML document, not audio; {_DOWNLOAD}"
    if text.startswith(("{", "[")):
        return f"JSON, not audio: probably an error message; {_DOWNLOAD}"
    return f"not an audio file but text; {_NOT_SOUND}"
