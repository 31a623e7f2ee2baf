"""A benchmark run: which runs it makes, that it goes on, and what the command writes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from audiointerp.cli import main
from audiointerp.cli.benchmark import LEVELS as CLI_LEVELS
from audiointerp.model import build_model
from audiointerp.model.weights import save_weights
from audiointerp.processing import LogMelSTFTSpectrogram
from audiointerp.runs.benchmark import LEVELS, run_benchmark
from audiointerp.runs.recipe import Recipe
from audiointerp.runs.targets import TrueLabels
from audiointerp.tables.leaderboard import load_benchmark

RATE = 8000
METHODS = ["saliency", "random", "ideal"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    processor = LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=256, hop_length=64, n_mels=32, f_min=100, f_max=4000
    )
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 32, "width": 1 / 16}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    classes = ("dog", "cat", "rain")
    return save_weights(
        path, build_model(settings, seed=0), processor, classes=classes, duration=1.0
    )


@pytest.fixture
def noises(tmp_path):
    generator = np.random.default_rng(0)
    files = {}
    for name in ("hiss", "rumble"):
        files[name] = tmp_path / f"{name}.wav"
        soundfile.write(files[name], 0.1 * generator.standard_normal(RATE), RATE)
    return files


def run(weights, data, noises, tmp_path, **options):
    options = {"methods": METHODS, "masks": ["topK_30", "bin"], "progress": False} | options
    return run_benchmark([weights], data, noises=noises, results=tmp_path / "runs", **options)


def test_runs_are_every_method_under_every_noise_and_level(weights, tiny_esc50, noises, tmp_path):
    request = {"snr_db": [-5, 10], "level_methods": ["random", "ideal"], "clips": 2}
    done = run(weights, tiny_esc50, noises, tmp_path, **request)
    names = {folder.name for folder in done}
    at_levels = {
        f"{method}_{noise}_{level}dB"
        for method in ("random", "ideal")
        for noise in noises
        for level in (-5, 10)
    }
    assert names == {f"{method}_{noise}" for method in METHODS for noise in noises} | at_levels
    for folder, result in done.items():
        settings = json.loads((folder / "run.json").read_text())["settings"]
        assert settings["target"] == {"true_labels": True}
        level = settings["dataset"]["contamination"]["snr_db"]
        wanted = {"-5dB": -5, "10dB": 10}.get(folder.name.rpartition("_")[2], 3.5218)
        assert level == pytest.approx(wanted, abs=1e-3)
        masks = {mask for _, mask in result.tables}
        assert masks == ({"topK_30"} if folder.name in at_levels else {"topK_30", "bin"})
        table = result.tables["features", "topK_30"]
        assert (table["explained"] == table["target"]).all()
    loaded = load_benchmark(tmp_path / "runs")
    assert set(loaded["noise"]) == set(noises)
    assert set(loaded["snr_db"].dropna()) == {-5, 10}
    ideal = loaded[loaded["method"] == "ideal"]
    assert ideal["AUPRC"].dropna().to_numpy() == pytest.approx(1)


def test_a_benchmark_goes_on_where_it_was(weights, tiny_esc50, noises, tmp_path):
    request = {"snr_db": (), "methods": ["random"]}
    first = run(weights, tiny_esc50, noises, tmp_path, clips=1, **request)
    assert {result.interpreted for result in first.values()} == {1}
    again = run(weights, tiny_esc50, noises, tmp_path, clips=2, **request)
    assert {result.interpreted for result in again.values()} == {1}
    rows = [pd.read_csv(folder / "csvs" / "topK_30.csv") for folder in again]
    assert all(len(each) == 2 for each in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noises": {}}, "no noise given"),
        ({"snr_db": [5, 5]}, "level '5.0' is given twice"),
        ({"snr_db": [500]}, "snr_db=500"),
        ({"recipe": Recipe(methods="random", target="dog")}, "target='dog': a benchmark explains"),
        ({"methods": ["nothing"]}, "unknown method 'nothing'"),
    ],
)
def test_a_request_that_makes_no_benchmark_is_refused_before_anything_is_written(
    weights, tiny_esc50, noises, tmp_path, change, message
):
    request = {"noises": noises, "results": tmp_path / "runs"} | change
    with pytest.raises(ValueError, match=message):
        run_benchmark([weights], tiny_esc50, **request)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_of_true_labels_is_taken_as_it_is(weights, tiny_esc50, noises, tmp_path):
    recipe = Recipe(methods="energy", masks="bin", target=TrueLabels(), progress=False)
    done = run_benchmark(
        [weights], tiny_esc50, noises=noises, snr_db=(), clips=1, recipe=recipe,
        results=tmp_path / "runs",
    )  # fmt: skip
    assert {folder.name for folder in done} == {"energy_hiss", "energy_rumble"}


def command(monkeypatch, weights, data, noises, tmp_path, *arguments):
    """Run ``audiointerp benchmark`` with the method "random" and those of the arguments."""
    noise = [word for name, file in noises.items() for word in ("--noise", f"{name}={file}")]
    words = ["audiointerp", "benchmark", "-w", weights, "-d", data, *noise, "-m", "random"]
    words += [*arguments, "--results", tmp_path / "runs", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def test_the_command_writes_tables_pictures_and_a_page(
    weights, tiny_esc50, noises, tmp_path, monkeypatch
):
    arguments = ["-m", "edge", "-m", "ideal", "--snr-db", 0, "--no-correct"]
    command(monkeypatch, weights, tiny_esc50, noises, tmp_path, "--clips", 3, *arguments)
    assert (tmp_path / "out" / "benchmark.html").is_file()
    board = pd.read_csv(tmp_path / "out" / "csv" / "leaderboard.csv")
    assert board["method"].tolist() == ["random", "edge", "ideal"]
    assert board["reference"].all()


def test_the_command_scores_the_masks_named_and_shows_the_first(
    weights, tiny_esc50, noises, tmp_path, monkeypatch
):
    arguments = ["--clips", 1, "--snr-db", 0, "--no-correct", "--mask", "bin", "--mask", "topK_5"]
    command(monkeypatch, weights, tiny_esc50, noises, tmp_path, *arguments)
    loaded = load_benchmark(tmp_path / "runs")
    at_main = loaded["snr_db"].isna()
    assert {*loaded[at_main]["mask"]} == {"bin", "topK_5"}
    assert {*loaded[~at_main]["mask"]} == {"bin"}
    assert "mask bin" in (tmp_path / "out" / "benchmark.html").read_text()


def test_the_command_has_the_levels_of_the_library():
    assert tuple(CLI_LEVELS) == LEVELS
