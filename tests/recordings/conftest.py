"""Fixtures of the tests of recordings."""

import pytest
import soundfile
from nights import CLASSES, RATE, Bands, make_front_end, scene

import audiointerp as ai
from audiointerp.plots import Picture


@pytest.fixture(scope="module")
def bands():
    return ai.classifier(
        Bands(), front_end=make_front_end(), classes=CLASSES, duration=1.0, normalize=True
    )


@pytest.fixture(scope="module")
def predict(bands):
    return ai.Predict(bands, ai.SaliencyInterpreter(bands), masks=["topK_30", "minmax"])


@pytest.fixture
def quick_pictures(monkeypatch):
    """Draw nothing: pictures are slow and tested elsewhere."""
    for name in ("result.plot_masks", "result.plot_interpretation", "recording.plot_recording"):
        monkeypatch.setattr(f"audiointerp.runs.{name}", lambda *_, **__: Picture(figsize=(1, 1)))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "night.wav"
    soundfile.write(path, scene(), RATE, subtype="FLOAT")
    return path
