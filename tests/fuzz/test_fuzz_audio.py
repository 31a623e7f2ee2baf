"""Damaged sound files: nothing but an `AudioError` comes out, or samples that can be used."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import soundfile
from mutants import mutants

from audiointerp.dataset import AudioError, AudioStream, load_audio
from audiointerp.dataset.audio import MOST_SAMPLES
from audiointerp.dataset.files import part_seconds

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # channels that cancel

RATE = 8000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (600, 2)).astype(np.float32)
COUNT = 100
"""Damaged copies of each file."""


def content_of(form: str, subtype: str) -> bytes:
    """Return a small file, of one channel where the format has no two; empty if it cannot be."""
    for sound in (NOISE, NOISE[:, 0]):
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, sound, RATE, format=form, subtype=subtype)
        except soundfile.LibsndfileError:
            continue
        return buffer.getvalue()
    return b""


KINDS = {
    f"{form}-{subtype}": content
    for form in soundfile.available_formats()
    if form not in ("RAW", "SD2")  # without a header, or in two files
    for subtype in list(soundfile.available_subtypes(form))[:: 4 if form != "OGG" else 1]
    if (content := content_of(form, subtype))
}


def without_length(kind: str) -> bytes:
    """Return a file as a program writes it to a pipe."""
    if kind == "mp3":
        content = content_of("MP3", "MPEG_LAYER_III")
        return content[content.index(content[:2], 2) :]
    form = {"wav": "WAV", "w64": "W64", "au": "AU"}[kind]
    content = bytearray(content_of(form, "PCM_16"))
    place = 8 if kind == "au" else content.index(b"data") + (16 if kind == "w64" else 4)
    size = 8 if kind == "w64" else 4
    content[place : place + size] = b"\xff" * size
    return bytes(content)


def use(path) -> None:
    """Do with a file what sets and recordings do; check what comes out."""
    seconds = part_seconds(path)
    assert 0 < seconds < math.inf
    stream = AudioStream(path)
    length = min(3600.0, seconds)
    assert (
        len(stream.times(0.01, 0.01)) <= 2 * seconds / 0.01 + 1
    )  # planned, before anything is read
    waveform, _ = load_audio(path, 16000, 0.1)
    assert waveform.shape == (1, 1600)
    assert waveform.isfinite().all()
    assert waveform.abs().max() == 1
    assert load_audio(path, duration=2)[0].isfinite().all()
    whole, rate = load_audio(path, normalize=False)
    assert whole.isfinite().all()
    assert whole.shape[1] == round(seconds * rate) <= MOST_SAMPLES
    windows = list(stream.windows(length, normalize=False))
    assert all(window.waveform.isfinite().all() for window in windows)
    assert [(window.start, window.end) for window in windows] == stream.times(length)


def extremes(content: bytes) -> Iterator[bytes]:
    """Yield copies with each number of the first bytes at its extremes."""
    for place in range(4, min(44, len(content) - 8)):
        for size, value in (
            (2, 0),
            (2, 1024),
            (2, 2**15),
            (4, 1),
            (4, 2**31 - 1),
            (4, 2**32 - 1),
            (5, 1),
        ):
            changed = value.to_bytes(size, "little")
            yield content[:place] + changed + content[place + size :]


def survive(path, copies: Iterable[bytes]) -> None:
    """Use damaged copies of a file."""
    for damaged in copies:
        path.write_bytes(damaged)
        message = str(path)
        try:
            use(path)
        except AudioError as error:
            message = str(error)
        assert str(path) in message


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_of_every_format(tmp_path, kind, limited_memory, capfd):
    content = KINDS[kind]
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    use(path)
    with limited_memory(2**28):
        survive(path, mutants(content, count=COUNT))


@pytest.mark.parametrize(
    "kind", ["WAV-PCM_16", "AIFF-PCM_S8", "AU-PCM_S8", "FLAC-PCM_S8", "W64-PCM_16", "RF64-PCM_16"]
)
def test_extreme_numbers_in_headers(tmp_path, kind, limited_memory, capfd):
    with limited_memory(2**28):
        survive(tmp_path / "a.bin", extremes(KINDS[kind]))


@pytest.mark.parametrize("kind", ["mp3", "wav", "w64", "au"])
def test_damaged_files_without_a_length(tmp_path, kind, limited_memory, capfd):
    content = without_length(kind)
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    use(path)
    with limited_memory(2**28):
        survive(path, mutants(content, count=COUNT))


def test_samples_of_any_bits(tmp_path, limited_memory):
    draw = np.random.default_rng(0)
    path = tmp_path / "a.wav"
    messages = []
    for _ in range(200):
        bits = draw.integers(0, 2**32, 100, dtype=np.uint32)
        bits[bits >> 23 & 255 == 255] &= 0x807FFFFF  # neither infinite nor NaN
        soundfile.write(path, bits.view(np.float32), RATE, subtype="FLOAT")
        try:
            use(path)
        except AudioError as error:
            messages.append(str(error))
    assert messages
    assert all("full scale is 1" in message for message in messages)
