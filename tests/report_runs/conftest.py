"""The page of a small experiment, made once."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from pages import read_data
from runs import CLASSES, EXPERIMENTS, HEARD, METHODS, RATE, open_set, write_set

import audiointerp as ai
from audiointerp.model import build_model
from audiointerp.model.weights import load, save_weights
from audiointerp.report import write_report


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """Return a folder with a set, a noise, weights and the results of an experiment."""
    root = tmp_path_factory.mktemp("runs")
    write_set(root / "set")
    noise = 0.1 * np.random.default_rng(1).standard_normal(RATE)
    soundfile.write(root / "horse.wav", noise, RATE, subtype="FLOAT")
    processor = ai.LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=256, hop_length=80, n_mels=32, f_min=100, f_max=4000
    )
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 32, "width": 1 / 16}
    for name, seed in (("tiny", 0), ("other", 1)):
        model = build_model(settings, seed=seed)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            model.classifier.weight.normal_(std=40, generator=generator)
        path = root / f"{name}.safetensors"
        save_weights(path, model, processor, classes=CLASSES, duration=1.0)
    model, processor = load(root / "tiny.safetensors")
    for method, interpreter in METHODS.items():
        predict = ai.Predict(
            model, processor, interpreter(model), on=("features", "audio"), base="minimum"
        )
        for experiment in EXPERIMENTS:
            folder = root / "results" / "tiny" / f"{method}_{experiment}"
            predict.predict_set(open_set(root, experiment), folder, progress=False)
    return root


@pytest.fixture
def copy(workshop, tmp_path):
    """Return a copy of the results that a test may spoil."""
    shutil.copytree(workshop / "results", tmp_path / "results")
    return tmp_path / "results" / "tiny"


@pytest.fixture(scope="session")
def page(workshop):
    return write_report(
        workshop / "results" / "tiny",
        out=workshop / "page.html",
        data=workshop / "set",
        weights=[workshop / "tiny.safetensors"],
        noises=[workshop / "horse.wav"],
        masks=HEARD,
        clips=4,
    )


@pytest.fixture(scope="session")
def data(page):
    return read_data(page)


@pytest.fixture(scope="session")
def bare(workshop):
    """Return the page of one run without sounds."""
    return write_report(workshop / "results" / "tiny" / "gradcam_clean", out=workshop / "bare.html")
