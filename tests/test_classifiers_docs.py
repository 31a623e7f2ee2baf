"""The examples of docs/classifiers.md run, and the numbers named there come out."""

from __future__ import annotations

import re

import numpy as np
import pytest
from repository import REPOSITORY

import audiointerp as ai

PAGE = (REPOSITORY / "docs" / "classifiers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def example(what):
    """Return the one example that calls something."""
    (found,) = (each for each in EXAMPLES if what in each)
    return found


@pytest.fixture
def names(monkeypatch):
    """Return the names that the first example makes."""
    monkeypatch.chdir(REPOSITORY)
    made = {}
    exec(EXAMPLES[0], made)
    return made


def test_a_network_of_ones_own_is_interpreted(names):
    assert names["result"].label in ("cat", "dog")
    assert names["result"].view.waveform.shape == (1, 1, 32000)


def test_the_pitch_tracker_hears_the_harmonics_by_the_share_that_is_named(names):
    pytest.importorskip("torchcrepe", reason="needs the package torchcrepe")
    exec(example("torchcrepe.Crepe"), names)
    pitch = names["pitch"]
    time = np.arange(1024) / 16000
    tone = sum(np.sin(2 * np.pi * 440 * k * time + k) / k for k in range(1, 9))
    tone += 0.01 * np.random.default_rng(0).standard_normal(1024)
    wave = (tone / np.abs(tone).max()).astype(np.float32)
    result = ai.Predict(pitch, ai.SaliencyInterpreter(pitch)).predict(wave, 16000)
    frequencies = pitch.front_end.frequencies.numpy()
    near = np.abs(frequencies[:, None] - 440 * np.arange(1, 18)).min(1) <= 40
    size = result.attribution[0, 0].abs().numpy()
    assert result.label == "441.5 Hz"
    assert near.mean() == pytest.approx(0.18, abs=0.01)
    assert size[near].sum() / size.sum() == pytest.approx(0.88, abs=0.02)


def test_a_transformer_of_ones_own_is_explained_by_its_attention(names):
    exec(example("gradient_attention"), names)
    found = names["attended"].attribution[0, 0]
    assert found.shape == (64, 101)
    assert (found >= 0).all()
    assert found.max() > found.min()  # over time only
    assert found.std(0).max() < 1e-6 * found.max()


def test_every_head_is_described():
    section = PAGE[PAGE.index("## Head") : PAGE.index("## Which labels")]
    assert set(re.findall(r'^\| `"(\w+)"`', section, re.MULTILINE)) == set(ai.HEADS)
