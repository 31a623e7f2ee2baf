"""Fixtures shared by the tests: real recordings where they are, and tiny made sets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from browser import CHROMIUM, Browser
from repository import REPOSITORY

# Two test processes with two threads each on two cores would wait for each other.
torch.set_num_threads(1)

RATE = 8000
"""Sampling rate of the tiny set, in Hz."""

# (stem, fold, target, category, in ESC-10): two classes of ESC-10 and one that is not in it.
TINY_CLIPS = [
    (f"{fold}-{1000 * fold + number}-A-{target}", fold, target, category, esc10)
    for fold in range(1, 6)
    for number, (target, category, esc10) in enumerate(
        [(10, "rain", True), (0, "dog", True), (5, "cat", False)]
    )
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser, one for a module's tests, or skip the test."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium to open the page in")
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real recordings, or skip the test."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not (folder / "esc10" / "meta" / "esc50.csv").is_file():
        pytest.skip(f"needs the real recordings in {folder}")
    return folder


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    """Return a maker of float32 sines: ``tone(440, seconds=1, rate=8000, level=0.5)``."""

    def make(
        frequency: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.5
    ) -> np.ndarray:
        time = np.arange(round(seconds * rate)) / rate
        return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)

    return make


@pytest.fixture
def tiny_esc50(tmp_path: Path, tone: Callable[..., np.ndarray]) -> Path:
    """Return the root of a set laid out like ESC-50: 15 clips, 3 classes, 5 folds, 1 s at 8 kHz."""
    root = tmp_path / "esc50"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for number, (stem, fold, target, category, esc10) in enumerate(TINY_CLIPS):
            table.writerow([f"{stem}.wav", fold, target, category, esc10, stem.split("-")[1], "A"])
            wave = tone(200 + 50 * number)
            soundfile.write(root / "audio" / f"{stem}.wav", wave, RATE, subtype="PCM_16")
    return root


@pytest.fixture
def write_tones(tmp_path: Path, tone: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Return a writer of sound files below a folder: ``write_tones("set", ["dog/1.wav", …])``.

    Each is another tone at 8 kHz, of one second or of the length given as ``{name: seconds}``.
    """

    def write(folder: str, names: list[str] | dict[str, float]) -> Path:
        lengths = names if isinstance(names, dict) else dict.fromkeys(names, 1.0)
        for number, (name, seconds) in enumerate(lengths.items()):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(200 + 37 * number, seconds), RATE)
        return tmp_path / folder

    return write
