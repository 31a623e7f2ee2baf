"""Whole runs and the command line, with tiny models on a tiny set."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from decoders import untrained
from fewer import FEW

from audiointerp.cli import main
from audiointerp.dataset import Contamination, ESC50Dataset
from audiointerp.device import resolve_device
from audiointerp.evaluation.truth import Truth
from audiointerp.interpretation import METHODS
from audiointerp.masking import MASKS
from audiointerp.model import build_model
from audiointerp.model.weights import load, save_weights
from audiointerp.processing import LogMelSTFTSpectrogram, LogSTFTSpectrogram, View
from audiointerp.runs.clip import job_metrics
from audiointerp.runs.experiment import (
    list_runs,
    mean_metrics,
    measure_accuracy,
    parse_noise,
    run_experiment,
)
from audiointerp.runs.files import interpret_files
from audiointerp.runs.recipe import background_features, build_interpreter, by_stem, open_set
from audiointerp.tables import load_results

RATE = 8000
QUICK = ["saliency", "gradcam"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return two weight files, mel and STFT, of untrained models for the tiny set's classes."""
    folder = tmp_path_factory.mktemp("weights")
    processors = {
        "tiny_mel": LogMelSTFTSpectrogram(
            sample_rate=RATE, n_fft=256, hop_length=64, n_mels=32, f_min=100, f_max=4000
        ),
        "tiny_stft": LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64),
    }
    paths = []
    for name, processor in processors.items():
        settings = {"name": "Cnn14", "num_classes": 3, "num_bins": processor.num_bins}
        model = build_model(settings | {"width": 1 / 16}, seed=0)
        path = folder / f"{name}.safetensors"
        classes = ("dog", "cat", "rain")
        paths.append(save_weights(path, model, processor, classes=classes, duration=1.0))
    return paths


@pytest.fixture
def hiss(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "hiss.flac"
    soundfile.write(path, 0.1 * generator.standard_normal((3000, 2)), 11025)
    return path


def command(monkeypatch, *arguments):
    """Run the command line; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


@pytest.mark.parametrize(
    "method", [name for name in METHODS if "attention" not in METHODS[name].requires]
)
def test_every_method_is_made_from_what_its_constructor_names(method, weights):
    model, processor = load(weights[1])
    background = torch.full((2, 1, 65, 126), -100.0)
    options = dict(FEW.get(method, {}))
    if "weights" in METHODS[method].requires:
        options["weights"] = untrained(method, model, background)
    interpreter = build_interpreter(
        method, model, processor, background=background, base="quiet", seed=3, **options
    )
    features = torch.full((1, 1, 65, 126), -80.0)
    features[..., 20:40] = -10
    truth = Truth(View(features), View(torch.full_like(features, -90)))
    assert interpreter.explain(features, truth=truth).attribution.shape == features.shape
    assert interpreter.settings().get("seed", 3) == 3


def test_the_background_has_clips_of_every_class_chosen_by_the_seed(tiny_esc50, weights):
    processor = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    clips = ESC50Dataset(tiny_esc50, [1, 2, 3], sample_rate=RATE, duration=1.0)
    one, same, other = (
        background_features(clips, processor, per_class=1, seed=seed) for seed in (0, 0, 1)
    )
    assert one.shape == (3, 1, 65, 126)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    everything = torch.stack([processor(clip.waveform[None])[0] for clip in clips])
    labels = [
        clips.labels[int((everything - chosen).abs().amax((1, 2, 3)).argmin())] for chosen in one
    ]
    assert sorted(labels) == [0, 1, 2]


def test_the_background_may_be_of_another_set(weights, tiny_esc50, tmp_path):
    hashes = {}
    for name, chosen in {"data": None, "same": tiny_esc50, "made": "synthetic"}.items():
        request = {"background": chosen, "methods": ["shap"], "masks": ["topK_30"], "clips": 1}
        (folder,) = run_experiment(weights[:1], tiny_esc50, results=tmp_path / name, **request)
        settings = json.loads((folder / "run.json").read_text())["settings"]
        hashes[name] = settings["interpreter"]["background_sha256"]
    assert hashes["data"] == hashes["same"] != hashes["made"]
    classifier = load(weights[0])
    clips = open_set("synthetic", classifier, folds=(1, 2, 3))
    cells = background_features(clips, classifier.front_end, seed=0).contiguous()
    values = cells.view(torch.uint8).numpy().tobytes()
    assert hashes["made"] == hashlib.sha256(values).hexdigest()


def test_a_method_that_compares_needs_something_to_compare_with(weights):
    with pytest.raises(ValueError, match="give their features"):
        build_interpreter("shap", *load(weights[0]))


def test_an_experiment_fills_results_for_every_model_method_and_condition(
    weights, tiny_esc50, hiss, tmp_path
):
    results = tmp_path / "results"
    done = run_experiment(
        weights,
        tiny_esc50,
        methods=[*QUICK, "shap", "input_gradient"],
        noises={"hiss": hiss},
        results=results,
        device="cpu",
        progress=False,
    )
    expected = {
        results / model / f"{method}_{condition}"
        for model in ("tiny_mel", "tiny_stft")
        for method in ("saliency", "gradcam", "shap", "input_gradient")
        for condition in ("clean", "hiss")
    }
    assert set(done) == expected
    for folder in expected:
        tables = {path.stem: pd.read_csv(path) for path in (folder / "csvs").glob("*.csv")}
        assert set(tables) == set(MASKS)
        assert all(len(table) == 3 for table in tables.values())
    residual = pd.read_csv(results / "tiny_mel" / "shap_clean" / "diagnostics.csv")
    assert list(residual["clip"]) == [f"5-500{n}-A-{t}" for n, t in enumerate((10, 0, 5))]
    clean, noisy = (done[results / "tiny_mel" / f"saliency_{c}"] for c in ("clean", "hiss"))
    assert not clean.mean_metrics().equals(noisy.mean_metrics())
    table = load_results(results)
    assert set(table["method"]) == {"saliency", "gradcam", "shap", "input_gradient"}
    assert set(table["experiment"]) == {"clean", "hiss"}


def test_an_experiment_of_some_clips_goes_on_with_all_to_the_same_files(
    weights, tiny_esc50, tmp_path
):
    request = {"methods": ["saliency", "shap"], "device": "cpu", "progress": False}

    def run(results, clips):
        return run_experiment(weights[1:], tiny_esc50, clips=clips, results=results, **request)

    def listed(done):
        return list_runs(done)[["clips", "interpreted now", "already there"]].to_numpy().tolist()

    grown, once = tmp_path / "grown", tmp_path / "once"
    assert listed(run(grown, 2)) == [[2, 2, 0]] * 2
    assert listed(run(grown, None)) == [[3, 1, 2]] * 2
    before = {path: path.stat().st_mtime_ns for path in grown.rglob("*.*")}
    fewer = run(grown, 1)
    assert listed(fewer) == [[1, 0, 1]] * 2
    (table, *_) = next(iter(fewer.values())).tables.values()
    assert table["target"].tolist() == ["dog"]
    assert {path: path.stat().st_mtime_ns for path in grown.rglob("*.*")} == before
    run(once, None)
    for path in once.rglob("*.csv"):
        table, expected = pd.read_csv(grown / path.relative_to(once)), pd.read_csv(path)
        pd.testing.assert_frame_equal(table, expected, atol=1e-4)
    settings, expected = (
        json.loads((results / "tiny_stft" / "shap_clean" / "run.json").read_text())["settings"]
        for results in (grown, once)
    )
    assert settings == expected


def test_what_an_experiment_decodes_is_decoded_once(weights, tiny_esc50, tmp_path):
    cache = tmp_path / "cache"
    request = {"methods": ["shap"], "cache_dir": cache, "device": "cpu", "progress": False}
    run_experiment(weights[:1], tiny_esc50, results=tmp_path / "one", **request)
    entries = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(entries) == 3 + 2 * 3  # the test fold, and SHAP's two clips of each class
    run_experiment(weights[:1], tiny_esc50, results=tmp_path / "two", **request)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == entries


def test_an_experiment_of_another_fold_is_not_mixed_in(weights, tiny_esc50, tmp_path):
    request = {"methods": ["saliency"], "results": tmp_path, "device": "cpu", "progress": False}
    run_experiment(weights[:1], tiny_esc50, fold=5, **request)
    with pytest.raises(ValueError, match=r"other settings \(dataset.folds\)"):
        run_experiment(weights[:1], tiny_esc50, fold=4, **request)


def test_runs_are_listed_and_averaged_from_their_tables(weights, tiny_esc50, hiss, tmp_path):
    (tiny_esc50 / "audio" / "5-5001-A-0.wav").unlink()
    done = run_experiment(
        weights,
        tiny_esc50,
        methods=QUICK,
        noises={"hiss_1": hiss},
        results=tmp_path / "r",
        device="cpu",
        progress=False,
    )
    runs = list_runs(done)
    means = mean_metrics(done, ["topK_5", "bin"])
    assert len(runs) == 2 * 2 * 2
    assert means.index.get_level_values("mask").tolist() == ["topK_5"] * 8 + ["bin"] * 8
    for model in ("tiny_mel", "tiny_stft"):
        for method in QUICK:
            for experiment in ("clean", "hiss_1"):
                folder = tmp_path / "r" / model / f"{method}_{experiment}"
                table = pd.read_csv(folder / "csvs" / "bin.csv")
                correct = (table["target"] == table["predicted"]).to_numpy()
                row = runs.loc[folder.as_posix()]
                assert row["accuracy"] == pytest.approx(100 * correct.mean())
                assert (row["clips"], row["interpreted now"], row["failed"]) == (2, 2, 1)
                found = means.loc["bin", model, experiment, method]
                for metric in job_metrics():
                    assert found[metric] == pytest.approx(sum(table[metric]) / 2)


def test_a_mask_or_place_that_was_not_measured_has_no_mean(weights, tiny_esc50, tmp_path):
    request = {"methods": ["saliency"], "masks": ["bin"], "results": tmp_path, "progress": False}
    done = run_experiment(weights[:1], tiny_esc50, **request)
    with pytest.raises(ValueError, match="saliency_clean: mask 'topK_5' was not scored"):
        mean_metrics(done)
    with pytest.raises(ValueError, match=r"was not scored on audio: .*not measured"):
        mean_metrics(done, ["bin"], on="audio")


def test_accuracy_comes_with_its_interval_for_every_condition(weights, tiny_esc50, hiss):
    model, processor = load(weights[0])
    sets = {
        "hiss": open_set(tiny_esc50, model, processor, contamination=Contamination(hiss)),
        "clean": open_set(tiny_esc50, model, processor),
        "one clip": open_set(tiny_esc50, model, processor, clips=1),
    }
    found = measure_accuracy(model, processor, sets, seed=1)
    assert list(found.index) == ["clean", "hiss", "one clip"]
    assert found["clips"].tolist() == [15, 15, 1]
    generator = np.random.default_rng(2)
    for name in ("clean", "hiss"):
        with torch.no_grad():
            guesses = [int(model(processor(clip.waveform[None])).argmax()) for clip in sets[name]]
        correct = 100 * (np.array(guesses) == np.array(sets[name].labels))
        assert found.loc[name, "accuracy"] == pytest.approx(correct.mean())
        drawn = generator.choice(correct, (20_000, 15)).mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert found.loc[name, "accuracy_low"] == pytest.approx(low, abs=100 / 15 + 1e-9)
        assert found.loc[name, "accuracy_high"] == pytest.approx(high, abs=100 / 15 + 1e-9)
    assert np.isnan(found.loc["one clip", "accuracy_low"])


def test_all_sets_of_an_accuracy_are_checked_before_the_first(weights, tiny_esc50, monkeypatch):
    model, processor = load(weights[0])
    sets = {
        "clean": open_set(tiny_esc50, model, processor),
        "room": ESC50Dataset(tiny_esc50, sample_rate=2 * RATE, duration=1.0),
    }
    monkeypatch.setattr(ESC50Dataset, "__getitem__", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match="the set 'room' is at 16000 Hz"):
        measure_accuracy(model, processor, sets)


def test_a_set_is_opened_as_the_model_takes_it(weights, tiny_esc50):
    model, processor = load(weights[0])
    clips = open_set(tiny_esc50, model, processor, folds=5, clips=2)
    assert (len(clips), clips.sample_rate, clips.num_samples) == (2, RATE, RATE)
    model.duration = None
    assert open_set("synthetic", model, processor, folds=5).duration == 5.0


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is imitated:UserWarning")
def test_a_lower_precision_is_asked_for_on_the_command_line_and_filed(
    monkeypatch, weights, tiny_esc50, tmp_path
):
    arguments = ["experiment", "-w", weights[1], "-d", tiny_esc50, "-m", "saliency"]
    arguments += ["--results", tmp_path, "--precision"]
    assert command(monkeypatch, *arguments, "bfloat16") == 0
    run = json.loads((tmp_path / "tiny_stft" / "saliency_clean" / "run.json").read_text())
    assert run["settings"]["precision"] == "bfloat16"
    assert command(monkeypatch, *arguments, "float32") == 2  # another run's folder


def test_files_are_interpreted_with_every_model_and_method(weights, tiny_esc50, tmp_path):
    files = sorted((tiny_esc50 / "audio").iterdir())[:2]
    result = interpret_files(
        files, weights, tmp_path / "out", methods=QUICK, masks=["topK_5"], progress=False
    )
    assert len(result.table) == 2 * 2 * 2 * len(MASKS)
    assert set(job_metrics()) <= set(result.table.columns)
    for model in ("tiny_mel", "tiny_stft"):
        for method in QUICK:
            for file in files:
                folder = tmp_path / "out" / model / method / file.stem
                assert (folder / "topK_5_in.wav").is_file()
                assert not (folder / "topK_30.png").exists()
    assert pd.read_csv(tmp_path / "out" / "summary.csv").shape == result.table.shape


def test_files_of_any_length_and_number_are_interpreted_each_as_alone(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("audiointerp.runs.opening.CLIPS_PER_BATCH", 2)
    model, processor = load(weights[1])
    whole = tmp_path / "whole.safetensors"
    save_weights(whole, model, processor, classes=model.classes)  # no duration: nothing is cut
    generator = np.random.default_rng(1)
    files = [tmp_path / f"clip{number}.wav" for number in range(6)]
    for file, seconds in zip(files, (1, 2, 1, 1, 2, 1), strict=True):
        soundfile.write(file, 0.1 * generator.standard_normal(seconds * RATE), RATE)
    files[3].write_bytes(b"no sound")
    request = {"methods": ["saliency"], "masks": ["minmax"], "progress": False}
    together = interpret_files(files, [whole], tmp_path / "all", **request)
    assert list(together.failures) == ["clip3"]
    assert set(together.table["clip"]) == {"clip0", "clip1", "clip2", "clip4", "clip5"}
    for file in (files[2], files[4]):
        alone = interpret_files([file], [whole], tmp_path / file.stem, **request)
        row = together.table[together.table["clip"] == file.stem]
        expected = alone.table.set_index("mask").loc["minmax", list(job_metrics())].astype(float)
        found = row.set_index("mask").loc["minmax", list(job_metrics())].astype(float)
        pd.testing.assert_series_equal(found, expected, rtol=1e-3, atol=1e-3)
        heard = soundfile.info(tmp_path / "all" / "whole" / "saliency" / file.stem / "original.wav")
        assert heard.frames == soundfile.info(file).frames


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["grad-cam"]}, "unknown method 'grad-cam': choose from .*Did you mean"),
        ({"masks": ["topK_31"]}, "unknown mask 'topK_31'"),
        ({"weights": []}, "weights/"),
        ({"weights": ["nowhere.safetensors"]}, r"nowhere\.safetensors: no such file"),
        ({"device": "cuda:99"}, "the device 'cuda:99' is not there"),
        ({"files": ["a/dog.wav", "b/dog.wav"]}, "'a/dog.wav' and 'b/dog.wav' are both called dog"),
        ({"target": "horse"}, "unknown class 'horse'"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    weights, tiny_esc50, tmp_path, change, message
):
    request = {
        "files": [tiny_esc50 / "audio" / "1-1000-A-10.wav"],
        "weights": weights,
        "out": tmp_path / "out",
        "methods": ["saliency"],
        "progress": False,
    }
    with pytest.raises(ValueError, match=message):
        interpret_files(**(request | change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("noises/horse.wav", ("horse", "noises/horse.wav")), ("room=a=b.wav", ("room", "a=b.wav"))],
)
def test_a_noise_is_named_by_its_file_or_by_hand(text, expected):
    assert parse_noise(text) == expected


@pytest.mark.parametrize("text", ["a b.wav", "x=", "=x.wav", "../=x.wav"])
def test_a_noise_name_that_makes_no_folder_is_refused(text):
    with pytest.raises(ValueError, match="expected FILE"):
        parse_noise(text)


def test_the_device_is_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(expected)


def test_the_command_line_interprets_files_and_says_where_to_look(
    monkeypatch, capsys, weights, tiny_esc50, tmp_path
):
    files = sorted((tiny_esc50 / "audio").iterdir())[:2]
    status = command(
        monkeypatch,
        "interpret",
        *files,
        "-w",
        weights[0],
        "-m",
        "saliency",
        "--out",
        tmp_path / "o",
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "saliency" in printed
    assert "topK_30" in printed
    assert str(tmp_path / "o" / "summary.csv") in printed
    page = tmp_path / "o" / "report.html"
    assert str(page) in printed
    assert all(file.stem in page.read_text() for file in files)


def test_no_page_is_written_where_none_is_wanted(monkeypatch, weights, tiny_esc50, tmp_path):
    file = tiny_esc50 / "audio" / "1-1000-A-10.wav"
    arguments = ("-w", weights[0], "-m", "saliency", "--no-report", "--out", tmp_path / "o")
    assert command(monkeypatch, "interpret", file, *arguments) == 0
    assert (tmp_path / "o" / "summary.csv").is_file()
    assert not (tmp_path / "o" / "report.html").exists()


def test_a_broken_file_is_skipped_and_the_exit_status_says_so(
    monkeypatch, capsys, weights, tiny_esc50, tmp_path
):
    good = tiny_esc50 / "audio" / "1-1000-A-10.wav"
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"")
    status = command(
        monkeypatch,
        "interpret",
        bad,
        good,
        "-w",
        weights[0],
        "-m",
        "saliency",
        "--out",
        tmp_path / "o",
    )
    printed = capsys.readouterr()
    assert status == 1
    assert "bad.wav: the file is empty" in printed.err
    assert (tmp_path / "o" / "tiny_mel" / "saliency" / good.stem).is_dir()
    assert not (tmp_path / "o" / "tiny_mel" / "saliency" / "bad").exists()


def test_the_command_line_runs_an_experiment_and_reports_broken_clips(
    monkeypatch, capsys, weights, tiny_esc50, hiss, tmp_path
):
    (tiny_esc50 / "audio" / "5-5001-A-0.wav").unlink()
    status = command(
        monkeypatch,
        *("experiment", "-w", weights[1], "-d", tiny_esc50, "-m", "gradcam", "--no-clean"),
        *("--noise", f"fan={hiss}", "--snr-db", "10", "--results", tmp_path / "r"),
    )
    printed = capsys.readouterr()
    assert status == 1
    assert "gradcam_fan: accuracy" in printed.out
    assert "5-5001-A-0" in printed.err
    assert len(pd.read_csv(tmp_path / "r" / "tiny_stft" / "gradcam_fan" / "csvs" / "bin.csv")) == 2


def test_the_command_line_takes_some_clips_of_the_fold(monkeypatch, weights, tiny_esc50, tmp_path):
    arguments = ("-w", weights[1], "-d", tiny_esc50, "-m", "saliency", "--results", tmp_path / "r")
    for clips in (2, 3):
        assert command(monkeypatch, "experiment", *arguments, "--clips", clips) == 0
        table = pd.read_csv(tmp_path / "r" / "tiny_stft" / "saliency_clean" / "csvs" / "bin.csv")
        assert len(table) == clips


def test_a_mistake_is_one_line_and_exit_status_two(monkeypatch, capsys, tiny_esc50, tmp_path):
    status = command(
        monkeypatch, "experiment", "-w", "nowhere.safetensors", "-d", tiny_esc50, "-m", "saliency"
    )
    assert status == 2
    assert capsys.readouterr().err.startswith("error: nowhere.safetensors: no such file")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["interpret"],
        ["figure"],
        ["report"],
        ["experiment"],
        ["train"],
        ["data"],
        ["data", "esc50"],
    ],
)
def test_every_command_explains_itself(monkeypatch, capsys, words):
    assert command(monkeypatch, *words, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    shown = subprocess.run(
        [sys.executable, "-m", "audiointerp", "--help"], capture_output=True, text=True, check=True
    )
    assert "interpret" in shown.stdout


def test_what_a_pattern_finds_beside_sounds_is_left_out_with_a_warning():
    found = ["a/dog.wav", "a/._dog.wav", "a/Thumbs.db", "a/dog.wav~", "a/desktop.ini"]
    with pytest.warns(UserWarning, match=r"no data by their names: 'a/\._dog\.wav', 'a/Thumbs"):
        assert by_stem("sound file", found) == {"dog": Path("a/dog.wav")}
    words = "no file is left"
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=words):
        by_stem("sound file", found[1:])
