"""Inspect a sound file's container before decoding: its format, and whether it is complete.

libsndfile decodes what is left of a file that was cut off, and believes the lengths that headers
state. `examine` compares them with the file. One module for each family of containers, and
`signatures` for what is no sound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from audiointerp.dataset.containers import chunks, flac, mpeg, ogg
from audiointerp.dataset.containers.contents import CONVERT, Contents, PiecedFile, SoundFileError
from audiointerp.dataset.containers.signatures import LONGEST, foreign_kind

__all__ = ["CONVERT", "Contents", "PiecedFile", "SoundFileError", "examine"]

_Examine = Callable[[BinaryIO, bytes, int], Contents]

_CONTAINERS: dict[tuple[tuple[int, bytes], ...], _Examine] = {
    ((0, b"RIFF"), (8, b"WAVE")): chunks.examine_wav,
    ((0, b"RIFX"), (8, b"WAVE")): chunks.examine_wav,
    ((0, b"RF64"), (8, b"WAVE")): chunks.examine_wav,
    ((0, b"riff\x2e\x91\xcf\x11"),): chunks.examine_w64,
    ((0, b"FORM"), (8, b"AIF")): chunks.examine_aiff,
    ((0, b"FORM"), (8, b"8SVX")): chunks.examine_aiff,
    ((0, b"FORM"), (8, b"16SV")): chunks.examine_aiff,
    ((0, b".snd"),): chunks.examine_au,
    ((0, b"dns."),): chunks.examine_au,
    ((0, b"caff"),): chunks.examine_caf,
    ((0, b"OggS"),): lambda file, start, end: ogg.examine(file, end),
    ((0, b"fLaC"),): lambda file, start, end: flac.examine(file, 0, end),
    ((0, b"2BIT"),): chunks.examine_avr,
    ((0, b"\x01\x04"),): chunks.examine_mpc,
    ((0, b"ALawSoundFile**"),): chunks.examine_wve,
    ((0, b"NIST_1A"),): chunks.examine_nist,
    ((0, b"\0\0\x03\xe8\0\0\0\x01\0\0\0\x01"),): chunks.examine_mat4,
    ((0, b"\0\0\0\0\x01\0\0\0\x01\0\0\0"),): chunks.examine_mat4,
    ((0, b"MATLAB 5.0"),): chunks.examine_mat5,
    ((0, b"Creative Voice File"),): chunks.examine_voc,
    ((0, b"\xf0\x7e"), (3, b"\x01")): chunks.examine_sds,
    ((0, b" paf"),): chunks.examine_unsized,
    ((0, b"fap "),): chunks.examine_unsized,
    ((0, b"PVF1"),): chunks.examine_unsized,
    ((0, b"\x64\xa3"),): chunks.examine_unsized,
    ((1, b"\xa3\x64"),): chunks.examine_unsized,
    ((0, b"Extended Instrument: "),): chunks.examine_unsized,
}
"""What recognises a container: bytes at places."""


def examine(file: BinaryIO, end: int) -> Contents:
    """Return how to decode a sound file.

    Parameters
    ----------
    file : BinaryIO
    end : int
        Its size in bytes.

    Raises
    ------
    SoundFileError
        If it is no sound that can be read, or not all of it is there.
    """
    file.seek(0)
    start = file.read(LONGEST)
    for magic, look in _CONTAINERS.items():
        if all(start.startswith(content, place) for place, content in magic):
            return look(file, start.ljust(LONGEST, b"\0"), end)
    if start.startswith(b"ID3"):
        behind = mpeg.after_id3(file, 0)
        file.seek(behind)
        if file.read(4) == b"fLaC":
            return flac.examine(file, behind, end)
        return mpeg.examine(file, 0, end)
    if mpeg.starts_at(file, 0, end):
        return mpeg.examine(file, 0, end)
    kind = foreign_kind(start)
    if kind:
        raise SoundFileError(kind)
    return chunks.examine_unsized(file, start, end)
