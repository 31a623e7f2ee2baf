"""Chunk-based containers: compare the number of bytes that headers declare with the file.

A program that writes to a pipe cannot state the length of its sound. Such files are given to the
decoder under a header that does: libsndfile reads some of them as empty, and some not at all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, NoReturn

from audiointerp.dataset.containers import mpeg
from audiointerp.dataset.containers.contents import (
    CONVERT,
    Contents,
    Piece,
    SoundFileError,
    truncated,
)

_UNKNOWN = (0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""What SoX, FFmpeg, opusdec, arecord and others write for a length that they do not know."""

_LARGEST_32 = 0xFFFFFF00
_UNEXPLAINED = 0.1  # seconds of sound that bytes behind it may stand for
_DENSEST = 8  # samples of one channel in a byte, in what is neither FLAC, Ogg, ALAC nor MPEG
_ALAC_FRAMES = 4096  # of a packet, at least one byte of the table of packets


_NAMES = frozenset(
    b"LIST|INFO|adtl|bext|cue |smpl|inst|fact|PEAK|JUNK|junk|PAD |FLLR|iXML|_PMX|afsp|acid|cart|"
    b"plst|levl|strc|DISP|id3 |ID3 |ID32|LGWV|MARK|INST|COMT|NAME|AUTH|ANNO|(c) |APPL|MIDI|AESD|"
    b"SAUR|CHAN|uuid|info|pakt|kuki|free|chan|strg|umid|ovvw|edct|peak|midi|mark|regn|mrkr|aXML|"
    b"chna|dbmd|SNDM|ResU|minf|elm1|tlst|CSET|COMM|VHDR|FVER".split(b"|")
)
"""Chunks that are seen behind the sound."""

_SOUNDS = (b"data", b"SSND", b"BODY", b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff")
"""What begins another sound."""


class _Chunk(NamedTuple):
    name: bytes
    body: int  # first byte behind its header
    size: int  # as stated


class _Layout(NamedTuple):
    """How a container writes its chunks.

    Attributes
    ----------
    header : struct.Struct
        Of a chunk: name and size.
    pad : int
        Chunks begin at multiples of it.
    own : int
        Bytes of the header that its size counts.
    """

    header: struct.Struct
    pad: int = 2
    own: int = 0

    def chunks(self, file: BinaryIO, position: int, end: int) -> Iterator[_Chunk]:
        """Yield the chunks from a position on, as far as their headers go."""
        while position + self.header.size <= end:
            file.seek(position)
            name, size = self.header.unpack(file.read(self.header.size))
            body = position + self.header.size
            yield _Chunk(name, body, size - self.own)
            if size < self.own:
                return
            position = body + size - self.own
            position += -position % self.pad

    def follows(self, file: BinaryIO, position: int, end: int, *, whole: bool) -> bool:
        """Return whether chunks of metadata follow at a position, rather than sound.

        Their sizes lead to the end of the file; or, unless all must be `whole`, the first has one
        of the names that chunks have.
        """
        file.seek(position)
        name = file.read(4)
        if name == bytes(4):  # padding
            return False
        reached = position
        for chunk in self.chunks(file, position, end):
            if chunk.name[:4] in _SOUNDS:
                return False
            reached = chunk.body + chunk.size
        if not whole and name in _NAMES:
            return True
        named = not whole or all(0x20 <= byte < 0x7F for byte in name)
        return named and position < reached <= end < reached + max(self.pad, self.header.size)


_RIFF = _Layout(struct.Struct("<4sI"))
_RIFX = _Layout(struct.Struct(">4sI"))
_W64 = _Layout(struct.Struct("<16sQ"), pad=8, own=24)
_CAF = _Layout(struct.Struct(">4sq"), pad=1)


class _Sound(NamedTuple):
    """Where the samples are.

    Attributes
    ----------
    start : int
        The first byte.
    size : int
        Bytes, as the container states them.
    width : int
        Bytes of a frame, or of a block of them.
    second : int
        Bytes of a second.
    """

    start: int
    size: int
    width: int
    second: int


def examine_wav(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode RIFF, RIFX or RF64."""
    layout = _RIFX if start[:4] == b"RIFX" else _RIFF
    number = struct.Struct(">I" if layout is _RIFX else "<I")
    tag, width, second, long_form = 0, 1, 0, None
    for name, body, size in layout.chunks(file, 12, end):
        if name == b"fmt ":
            file.seek(body)
            content = file.read(16).ljust(16, b"\0")
            order = number.format[0]
            tag, _, _, second, width = struct.unpack(f"{order}HHIIH", content[:14])
        elif name == b"ds64" and size >= 24:
            long_form = body
        elif name == b"data":
            break
    else:
        _without_sound()
    if start[:4] == b"RF64":
        return _examine_rf64(file, end, _Sound(body, size, width, second), long_form)
    sound = _Sound(body, size, max(width, 1), second)
    stated = _check_size(file, sound, end, layout)
    if tag in (0x50, 0x55):
        return mpeg.examine(file, body, end if stated is None else body + size)
    if stated is not None:
        return _densely(end)
    there = _whole(end - body, sound.width)
    if there > _LARGEST_32:
        raise SoundFileError(f"a WAV file of more than 4 GiB that states no length; {CONVERT}")
    pieces = [(0, 4), number.pack(body - 8 + there), (8, body - 4), number.pack(there)]
    return _densely(end, [*pieces, (body, body + there)])


def _examine_rf64(file: BinaryIO, end: int, sound: _Sound, long_form: int | None) -> Contents:
    if long_form is None:
        raise SoundFileError(f"an RF64 file without the chunk that states its length; {CONVERT}")
    file.seek(long_form + 8)
    (promised,) = struct.unpack("<Q", file.read(8))
    if sound.size != 0xFFFFFFFF:
        promised = sound.size
    sound = sound._replace(size=promised, width=max(sound.width, 1))
    if _check_size(file, sound, end, _RIFF) is not None:
        return _densely(end)
    there = _whole(end - sound.start, sound.width)
    lengths = struct.pack("<QQQ", sound.start - 8 + there, there, there // sound.width)
    pieces = [(0, long_form), lengths, (long_form + 24, sound.start - 4), b"\xff" * 4]
    return _densely(end, [*pieces, (sound.start, sound.start + there)])


def examine_w64(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode Wave64."""
    width, second = 1, 0
    for chunk in _W64.chunks(file, 40, end):
        name, body, size = chunk
        if name[:4] == b"fmt ":
            file.seek(body + 8)
            second, width = struct.unpack("<IH", file.read(6).ljust(6, b"\0"))
        elif name[:4] == b"data":
            break
    else:
        _without_sound()
    if size < 0 and size + 24 != 0:
        raise SoundFileError(f"damaged: its sound has a size of {size + 24} bytes; {CONVERT}")
    sound = _Sound(body, max(size, 0), max(width, 1), second)
    if _check_size(file, sound, end, _W64) is not None:
        return _densely(end)
    there = _whole(end - body, sound.width)
    number = struct.Struct("<Q")
    pieces = [(0, 16), number.pack(body + there), (24, body - 8), number.pack(there + 24)]
    return _densely(end, [*pieces, (body, body + there)])


# Bytes of a sample by the compression type of an AIFF-C file, 0: as many as its bits need.
_AIFF_WIDTHS = {b"": 0, b"NONE": 0, b"twos": 0, b"sowt": 0, b"in24": 3, b"in32": 4, b"raw ": 0}
_AIFF_WIDTHS |= dict.fromkeys((b"fl32", b"FL32"), 4) | dict.fromkeys((b"fl64", b"FL64"), 8)
_AIFF_WIDTHS |= dict.fromkeys((b"ulaw", b"ULAW", b"alaw", b"ALAW"), 1)


def examine_aiff(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode AIFF, AIFF-C or 8SVX."""
    wanted = b"BODY" if start[8:12] in (b"8SVX", b"16SV") else b"SSND"
    common, chunk = None, None
    for found in _RIFX.chunks(file, 12, end):
        if found.name == b"COMM":
            common = _common(file, found)
        elif found.name == wanted:
            chunk = found
            if common is not None or wanted == b"BODY":
                break
    if chunk is None:
        _without_sound()
    if common is None:  # 8SVX, whose samples begin with the chunk; or an AIFF without a header
        _check_size(file, _Sound(chunk.body, max(chunk.size, 1), 1, 0), end, _RIFX)
        return _densely(end)
    return _examine_ssnd(file, end, common, chunk)


class _Common(NamedTuple):
    """The COMM chunk of an AIFF file."""

    place: int
    frames: int
    width: int  # of a frame, 0 where samples are compressed
    second: int


def _common(file: BinaryIO, chunk: _Chunk) -> _Common:
    file.seek(chunk.body)
    content = file.read(min(max(chunk.size, 0), 22))
    if len(content) < 18:
        raise SoundFileError("damaged: an AIFF file without a complete header")
    channels, frames, bits, exponent, mantissa = struct.unpack(">HIHHQ", content[:18])
    kind = content[18:22]
    width = channels * (_AIFF_WIDTHS.get(kind, -1) or -(-bits // 8))
    power = (exponent & 0x7FFF) - 16383 - 63
    rate = mantissa * 2.0**power if -80 < power < 0 else 0
    width = max(width, 0) if kind in _AIFF_WIDTHS else 0
    return _Common(chunk.body + 2, frames, width, int(rate * width))


def _examine_ssnd(file: BinaryIO, end: int, common: _Common, chunk: _Chunk) -> Contents:
    file.seek(chunk.body)
    offset = int.from_bytes(file.read(4), "big")
    start = chunk.body + 8 + offset
    size = chunk.size if chunk.size in _UNKNOWN else max(0, chunk.size - 8 - offset)
    if start > end:
        raise truncated("its sound begins behind its end")
    sound = _Sound(start, size, max(common.width, 1), common.second)
    if not common.frames and chunk.size == 8:
        _without_sound()
    if _check_size(file, sound, end, _RIFX) is not None:
        wanted = common.frames * common.width
        if common.width and abs(wanted - size) > common.width:
            raise SoundFileError(
                f"damaged: its header promises {common.frames} frames, {wanted} bytes, and its "
                f"sound has {size}; {CONVERT}"
            )
        return _densely(end)
    if not common.width:
        raise SoundFileError(f"a compressed AIFF-C file that states no length; {CONVERT}")
    there = _whole(end - start, common.width)
    if there > _LARGEST_32:
        raise SoundFileError(f"an AIFF file of more than 4 GiB that states no length; {CONVERT}")
    numbers = {
        4: start - 8 + there,
        common.place: there // common.width,
        chunk.body - 4: there + 8 + offset,
    }
    pieces: list[Piece] = []
    position = 0
    for place in sorted(numbers):
        pieces += [(position, place), struct.pack(">I", numbers[place])]
        position = place + 4
    return _densely(end, [*pieces, (position, start + there)])


def examine_au(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode AU, big or little endian."""
    order = ">" if start[:4] == b".snd" else "<"
    offset, size, coding, rate, channels = struct.unpack(f"{order}5I", start[4:24].ljust(20, b"\0"))
    if offset > end:
        raise truncated("its sound begins behind its end")
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding, 0) * channels
    sound = _Sound(offset, size, max(width, 1), rate * max(width, 1))
    if _check_size(file, sound, end, None) is not None:
        return _densely(end)
    there = min(_whole(end - offset, sound.width), _LARGEST_32)
    if there < end - offset - sound.width:
        raise SoundFileError(f"an AU file of more than 4 GiB that states no length; {CONVERT}")
    pieces = [(0, 8), struct.pack(f"{order}I", there), (12, offset + there)]
    return _densely(end, pieces)


def examine_caf(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode CAF."""
    kind, width, second = b"", 1, 0
    for chunk in _CAF.chunks(file, 8, end):
        name, body, size = chunk
        if name == b"desc":
            file.seek(body)
            content = file.read(20).ljust(20, b"\0")
            kind, packet = content[8:12], int.from_bytes(content[16:20], "big")
            (rate,) = struct.unpack(">d", content[:8])
            width, second = max(packet, 1), int(rate * packet) if 0 < rate < 2**31 else 0
        elif name == b"data":
            break
    else:
        _without_sound()
    most = end * (_ALAC_FRAMES if kind == b"alac" else _DENSEST)
    samples = body + 4  # behind the number of edits
    unknown = size < 4
    sound = _Sound(samples, 0 if unknown else size - 4, width, second)
    if _check_size(file, sound, end, _CAF) is not None:
        return Contents(most)
    there = _whole(end - samples, width)
    pieces = [(0, body - 8), struct.pack(">q", there + 4), (body, samples + there)]
    return Contents(most, pieces=pieces)


def _check_size(file: BinaryIO, sound: _Sound, end: int, layout: _Layout | None) -> int | None:
    """Return the size of the sound, None if it is not stated and goes to the end of the file.

    Raises
    ------
    SoundFileError
        If the file ends before, or goes on with what is no chunk.
    """
    there = end - sound.start
    rounded = {value - value % sound.width for value in _UNKNOWN}
    if sound.size > there:
        if sound.size in rounded or sound.size in _UNKNOWN or sound.size >= 2**63 - 48:
            return _unstated(file, sound)
        raise truncated(f"its header promises {sound.size} bytes of sound and {there} are there")
    behind = sound.start + sound.size
    pad = 0 if layout is None else -behind % layout.pad
    rest = end - behind - pad
    if rest <= 0:
        return _stated(sound)
    if layout is not None:
        whole = not sound.size
        if any(layout.follows(file, at, end, whole=whole) for at in {behind, behind + pad}):
            return _stated(sound)
    if not sound.size:
        return _unstated(file, sound)
    if rest > max(_UNEXPLAINED * sound.second, 512) and not _all_zero(file, behind):
        raise SoundFileError(
            f"damaged or joined from several files: its header promises {sound.size} bytes of "
            f"sound, and behind them are {rest} more that are no part of the format; "
            "`sox --ignore-length IN.wav OUT.wav` reads a WAV file to its end"
        )
    return sound.size


def _all_zero(file: BinaryIO, position: int) -> bool:
    file.seek(position)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
    return True


def _unstated(file: BinaryIO, sound: _Sound) -> None:
    """Refuse a header that follows another: libsndfile writes it again where it cannot go back."""
    file.seek(0)
    magic = file.read(8)
    file.seek(sound.start)
    if file.read(8) == magic:
        raise SoundFileError(
            "written to a pipe by a program that needs a file: its header comes twice; write it "
            "to a file, or as WAV"
        )


def _stated(sound: _Sound) -> int:
    if not sound.size:
        raise SoundFileError("the file has a header but no samples (0 frames)")
    return sound.size


def _whole(size: int, width: int) -> int:
    return size - size % width


def _densely(end: int, pieces: Sequence[Piece] | None = None) -> Contents:
    return Contents(_DENSEST * end, pieces=pieces)


def _without_sound() -> NoReturn:
    raise SoundFileError("truncated or damaged: it has no samples; download or copy it again")


def examine_avr(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode AVR."""
    stereo, bits = struct.unpack(">HH", start[12:16])
    frames = int.from_bytes(start[26:30], "big")
    return _of_size(128, frames * (2 if stereo else 1) * (bits // 8), end)


def examine_mpc(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode Akai MPC 2000."""
    return _of_size(42, int.from_bytes(start[30:34], "little") * (start[21] % 2 + 1) * 2, end)


def examine_wve(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode Psion WVE."""
    return _of_size(32, int.from_bytes(start[18:22], "big"), end)


def examine_nist(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode NIST SPHERE."""
    header = start[:1024]
    if b"shorten" in header or b"wavpack" in header or b"shortpack" in header:
        raise SoundFileError(f"compressed NIST SPHERE audio, which cannot be read; {CONVERT}")
    fields = dict(re.findall(rb"(\w+) -i +(\d{1,12})", header))
    wanted = (b"sample_count", b"channel_count", b"sample_n_bytes")
    count, channels, width = (int(fields.get(name, b"1")) for name in wanted)
    if b"sample_count" not in fields:
        raise SoundFileError(f"a NIST SPHERE file that does not state its length; {CONVERT}")
    size = re.match(rb"NIST_1A\s+(\d{1,9})", header)
    return _of_size(int(size[1]) if size else 1024, count * channels * width, end)


def examine_mat4(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode a MATLAB 4 file: a matrix with the rate, and one of samples."""
    order = "<" if start[:4] == b"\0\0\0\0" else ">"
    position = 0
    for _ in range(2):
        file.seek(position)
        kind, rows, columns, _, name = struct.unpack(f"{order}5I", file.read(20).ljust(20, b"\0"))
        width = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}.get(kind // 10 % 10, 1)
        position += 20 + name
        _of_size(position, rows * columns * width, end)
        position += rows * columns * width
    return _densely(end)


def examine_mat5(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode a MATLAB 5 file."""
    order = "<" if start[126:128] == b"IM" else ">"
    position = 128
    while position + 8 <= end:
        file.seek(position)
        _, size = struct.unpack(f"{order}2I", file.read(8))
        _of_size(position + 8, size - 8, end)  # libsndfile states 8 bytes too many
        position += 8 + size
    return _densely(end)


def examine_voc(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode a Creative voice file of one block of sound."""
    position = int.from_bytes(start[20:22], "little")
    blocks = 0
    while position + 4 <= end:
        file.seek(position)
        header = file.read(4)
        if header[0] == 0:
            break
        blocks += header[0] in (1, 2, 9)
        if blocks > 1:
            raise SoundFileError(f"a VOC file of several blocks, which cannot be read; {CONVERT}")
        size = int.from_bytes(header[1:], "little")
        _of_size(position + 4, size, end)
        position += 4 + size
    return _densely(end)


def examine_sds(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode a MIDI sample dump: packets of 127 bytes."""
    frames = start[10] | start[11] << 7 | start[12] << 14
    packets = -(-frames // {1: 120, 2: 60, 3: 40}.get(-(-start[6] // 7), 30))
    return _of_size(21, 127 * packets, end)


def examine_unsized(file: BinaryIO, start: bytes, end: int) -> Contents:
    """Return how to decode a format whose header states no length: it goes to the file's end."""
    return _densely(end)


def _of_size(start: int, size: int, end: int) -> Contents:
    """Check that so many bytes of sound are there."""
    if start + size > end:
        raise truncated(
            f"its header promises {size} bytes of sound and {max(0, end - start)} are there"
        )
    return _densely(end)
