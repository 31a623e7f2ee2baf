"""MPEG audio (MP3): count the frames, and write their number where the file lacks it.

libsndfile guesses the length of an MP3 without a Xing header from its size, which is wrong where
the bit rate varies, and decodes no more than it guessed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import BinaryIO, NamedTuple

from audiointerp.dataset.containers.contents import CONVERT, Contents, SoundFileError, truncated

# kbit/s by whether the version is 2 or 2.5, and layer (ISO 11172-3, 13818-3)
_BIT_RATES = {
    (False, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (False, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (True, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (True, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_DECODER_DELAY = 529  # samples of layer III, which mpg123 drops where it is told a delay
_SEARCHED = 1 << 16
_UNEXPLAINED = 0.1  # seconds that bytes behind the last frame may stand for


class _Frame(NamedTuple):
    """The header of a frame."""

    size: int
    samples: int
    version: int
    layer: int
    rate: int
    mono: bool

    def is_like(self, other: _Frame) -> bool:
        """Return whether both can belong to one stream."""
        return self[2:] == other[2:]


def starts_at(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether MPEG audio begins at a place, behind ID3 tags."""
    position = after_id3(file, start)
    frame = _read_frame(file, position)
    if frame is None:
        return False
    following = _read_frame(file, position + frame.size)
    return (following is not None and following.is_like(frame)) or position + frame.size >= end


def examine(file: BinaryIO, start: int, end: int) -> Contents:
    """Return how to decode MPEG audio.

    Parameters
    ----------
    file : BinaryIO
    start, end : int
        The first byte of the stream or of its tags, and the one after its last.

    Raises
    ------
    SoundFileError
        If it is cut, holds anything but frames and tags, or promises more frames than are there.
    """
    begin = after_id3(file, start)
    first = _read_frame(file, begin)
    if first is None:
        raise SoundFileError(f"MPEG audio of an unknown or free format; {CONVERT}")
    promised = _promised(file, begin, first)
    sound = begin if promised is None else begin + first.size
    count, stop = _walk(file, sound, end, first)
    _check_rest(file, stop, end, first)
    if promised is not None and promised.frames > count:
        raise truncated(f"its header promises {promised.frames} MP3 frames and {count} are there")
    frames = count * first.samples
    if promised is not None and promised.is_xing and promised.frames == count:
        return Contents(frames, pieces=[(begin, stop)] if begin else None)
    if first.layer != 3:
        return Contents(frames, frames, [(sound, stop)] if sound else None)
    return Contents(frames, frames, [_stated(count, first), (sound, stop)])


def after_id3(file: BinaryIO, position: int) -> int:
    """Return where the ID3v2 tags at a place end."""
    while True:
        file.seek(position)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3" or max(header[6:10]) > 0x7F:
            return position
        a, b, c, d = header[6:10]
        position += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if header[5] & 0x10 else 0)


def _read_frame(file: BinaryIO, position: int) -> _Frame | None:
    file.seek(position)
    return _frame(file.read(4))


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> _Frame | None:
    """Return the frame of a header, None if it is none or has no stated size (free format)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, frequency, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or rate in (0, 15) or frequency == 3:
        return None
    low = version != 3
    hertz = _SAMPLE_RATES[version][frequency]
    bits = _BIT_RATES[low, layer][rate] * 1000
    samples = 384 if layer == 1 else 576 if layer == 3 and low else 1152
    slot = 4 if layer == 1 else 1
    size = (samples // 8 // slot * bits // hertz + padding) * slot
    return _Frame(size, samples, version, layer, hertz, header[3] >> 6 == 3)


class _Promise(NamedTuple):
    """What the first frame says where it is a header; 0 frames where it does not say."""

    frames: int
    is_xing: bool


def _promised(file: BinaryIO, begin: int, first: _Frame) -> _Promise | None:
    file.seek(begin)
    content = file.read(first.size)
    for place in {4 + _side(first), 6 + _side(first)}:  # with and without a check of its own
        tag = content[place : place + 12]
        if tag[:4] in (b"Xing", b"Info"):
            return _Promise(
                int.from_bytes(tag[8:12], "big") if tag[7:8] and tag[7] & 1 else 0, True
            )
    if content[36:40] == b"VBRI":
        return _Promise(int.from_bytes(content[50:54], "big"), False)
    return None


def _side(frame: _Frame) -> int:
    """Return the bytes of a layer III frame's side information."""
    if frame.version == 3:
        return 17 if frame.mono else 32
    return 9 if frame.mono else 17


def _walk(file: BinaryIO, position: int, end: int, first: _Frame) -> tuple[int, int]:
    """Return how many frames follow one another, tags between them aside, and where they end."""
    count = 0
    while position < end:
        frame = _read_frame(file, position)
        if frame is None or not frame.is_like(first):
            behind = after_id3(file, position)
            if behind == position:
                break
            position = behind
            continue
        if position + frame.size > end:
            raise truncated("its last MPEG frame is cut")
        count += 1
        position += frame.size
    return count, min(position, end)


def _check_rest(file: BinaryIO, position: int, end: int, first: _Frame) -> None:
    """Refuse what follows the last frame if it may be sound."""
    position = _after_tags(file, position, end)
    file.seek(position)
    rest = file.read(min(_SEARCHED, end - position))
    for place in range(len(rest) - 3):
        frame = _frame(rest[place : place + 4]) if rest[place] == 0xFF else None
        if frame is None:
            continue
        following = _read_frame(file, position + place + frame.size)
        if following is not None and following.is_like(frame):
            if place:
                what = f"{place} bytes at {position} are no MPEG audio, and frames follow them"
            elif frame.rate != first.rate:
                what = f"its sampling rate changes from {first.rate} to {frame.rate} Hz"
            else:
                what = "its number of channels or its MPEG version changes"
            raise SoundFileError(f"damaged or joined from several files: {what}; {CONVERT}")
    if len(rest.strip(b"\0")) > 40_000 * _UNEXPLAINED or end - position > _SEARCHED:
        raise SoundFileError(
            f"damaged: the last {end - position} bytes are no MPEG audio; download or copy it "
            f"again, or {CONVERT}"
        )


def _after_tags(file: BinaryIO, position: int, end: int) -> int:
    """Return where tags of known kinds behind the sound end (APEv2, Lyrics3, ID3v1)."""
    file.seek(position)
    header = file.read(32)
    if header.startswith(b"APETAGEX") and len(header) == 32:
        is_header = header[23] & 0x20
        position += int.from_bytes(header[12:16], "little") + (32 if is_header else 0)
    elif header.startswith(b"LYRICSBEGIN"):
        position = max(position, end - 128)
    file.seek(position)
    if file.read(3) == b"TAG" and end - position <= 128 + 227:
        position = end
    return min(position, end)


def _stated(count: int, first: _Frame) -> bytes:
    """Return a Xing header for so many frames, and a silent frame to take away from them.

    mpg123 drops the decoder's delay behind such a header. Together with the encoder's delay that
    is stated here it is the silent frame, so that all of the sound is left.
    """
    version = {3: 0xFB, 2: 0xF3, 0: 0xE3}[first.version]
    frequency = _SAMPLE_RATES[first.version].index(first.rate)
    for rate in range(1, 15):
        header = bytes([0xFF, version, rate << 4 | frequency << 2, 0xC0 if first.mono else 0])
        frame = _frame(header)
        if frame.size >= 4 + _side(first) + 60:
            break
    delay = first.samples - _DECODER_DELAY
    lame = b"audiointe" + bytes(12) + bytes([delay >> 4, (delay & 15) << 4, 0])
    tag = b"Xing" + (1).to_bytes(4, "big") + (count + 1).to_bytes(4, "big") + lame
    stated = header + bytes(_side(first)) + tag
    return stated.ljust(frame.size, b"\0") + header.ljust(frame.size, b"\0")
