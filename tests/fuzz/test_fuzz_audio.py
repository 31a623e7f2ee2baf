"""Damaged sound files: nothing but an `AudioError` comes out, or samples that can be used."""

from __future__ import annotations

import io
import math
import struct

import numpy as np
import pytest
import soundfile
from mutants import mutants

from audiointerp.dataset import AudioError, AudioStream, load_audio
from audiointerp.dataset.audio import MOST_SAMPLES
from audiointerp.dataset.files import part_seconds

RATE = 8000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (600, 2)).astype(np.float32)
COUNT = 130
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
    assert math.isfinite(seconds)
    assert seconds > 0
    waveform, _ = load_audio(path, 16000, 0.1)
    assert waveform.shape == (1, 1600)
    assert waveform.isfinite().all()
    assert waveform.abs().max() <= 1
    whole, rate = load_audio(path, normalize=False)
    assert whole.isfinite().all()
    assert 0 < whole.shape[1] <= MOST_SAMPLES
    assert whole.shape[1] == round(seconds * rate)
    stream = AudioStream(path)
    length = min(3600.0, stream.duration)
    for window in stream.windows(length, normalize=False):
        assert window.waveform.isfinite().all()
        assert stream.start <= window.start < window.end <= stream.end


def survive(path, content: bytes) -> None:
    """Use damaged copies."""
    for damaged in mutants(content, count=COUNT):
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
        survive(path, content)


@pytest.mark.parametrize("kind", ["mp3", "wav", "w64", "au"])
def test_damaged_files_without_a_length(tmp_path, kind, limited_memory, capfd):
    content = without_length(kind)
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    use(path)
    with limited_memory(2**28):
        survive(path, content)


def test_samples_of_any_bits(tmp_path, limited_memory):
    draw = np.random.default_rng(0)
    path = tmp_path / "a.wav"
    outcomes = []
    for form, exponent in (("f", 30), ("d", 300)):
        for _ in range(100):
            values = draw.standard_normal(100) * 10.0 ** draw.integers(-exponent, exponent, 100)
            data = struct.pack(f"<100{form}", *values)
            width = struct.calcsize(form)
            header = struct.pack("<HHIIHH", 3, 1, RATE, RATE * width, width, 8 * width)
            body = b"WAVEfmt " + struct.pack("<I", 16) + header
            body += b"data" + struct.pack("<I", len(data)) + data
            path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
            try:
                use(path)
            except AudioError as error:
                outcomes.append("beyond" in str(error) or "infinite" in str(error))
    assert outcomes
    assert all(outcomes)
