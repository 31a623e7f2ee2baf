"""Sound files of which one fails, and requests that are refused before any work."""

import errno
import os
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from nights import CLASSES, RATE, make_front_end

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.model import build_model
from audiointerp.runs import experiment
from audiointerp.runs.clip import job_metrics
from audiointerp.runs.files import compare_methods, interpret_files
from audiointerp.runs.names import file_name, labelled
from audiointerp.runs.recipe import Recipe
from audiointerp.runs.result import Interpretation
from audiointerp.runs.windows import Windowing

SEVEN = list(ai.MASKS)[:7]
QUICK = {"methods": ["saliency"], "masks": ["topK_5"], "progress": False}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return two weight files, the second of other classes."""
    folder = tmp_path_factory.mktemp("weights")
    paths = []
    for name, classes in (("tiny", CLASSES), ("other", ("low", "high", "rain"))):
        kind = {"name": "Cnn14", "num_classes": 3, "num_bins": 33, "width": 1 / 16}
        model = build_model(kind, seed=1)
        with torch.no_grad():
            model.classifier.weight.normal_(std=4, generator=torch.Generator().manual_seed(2))
        path = folder / f"{name}.safetensors"
        paths.append(ai.save_weights(path, model, make_front_end(), classes=classes, duration=1.0))
    return paths


@pytest.fixture
def clips(tmp_path):
    """Return three files of one second, not alike."""
    noise = np.random.default_rng(0)
    paths = [tmp_path / f"clip{number}.wav" for number in range(3)]
    for path in paths:
        soundfile.write(path, 0.3 * noise.uniform(-1, 1, RATE), RATE, subtype="FLOAT")
    return paths


@pytest.fixture
def no_work(monkeypatch):
    """Fail a test that analyses a sound."""

    def fail(*_):
        pytest.fail("work began before the request was checked")

    monkeypatch.setattr(ai.LogSTFTSpectrogram, "analyse", fail)


def refuse(monkeypatch, path, error):
    """Let the front end raise an error on the sound of a file."""
    refused, _ = ai.load_audio(path, RATE, 1.0)
    original = ai.LogSTFTSpectrogram.analyse

    def analyse(self, waveform):
        if any(torch.equal(refused, each) for each in waveform):
            raise error
        return original(self, waveform)

    monkeypatch.setattr(ai.LogSTFTSpectrogram, "analyse", analyse)


def command(monkeypatch, *words):
    """Run the command line; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


def rows_of(table, clip):
    found = table[table["clip"] == clip].set_index("mask")
    return found[list(job_metrics())].astype(float)


@pytest.mark.usefixtures("quick_pictures")
def test_a_clip_that_fails_costs_no_other_its_results(
    weights, clips, tmp_path, monkeypatch, capsys
):
    whole = interpret_files(clips, weights[:1], tmp_path / "whole", **QUICK)
    refuse(monkeypatch, clips[1], RuntimeError("no such sound"))
    result = interpret_files(clips, weights[:1], tmp_path / "out", **QUICK)
    assert result.failures == {"tiny/clip1": "RuntimeError: no such sound"}
    assert "skipped tiny/clip1: RuntimeError: no such sound" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out/tiny/saliency").iterdir()) == [
        "clip0",
        "clip2",
    ]
    for clip in ("clip0", "clip2"):
        expected = rows_of(whole.table, clip)
        pd.testing.assert_frame_equal(rows_of(result.table, clip), expected, atol=1e-4)
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["clip"]) == {"clip0", "clip2"}


@pytest.mark.usefixtures("quick_pictures")
def test_a_result_that_cannot_be_saved_is_that_clips_failure(weights, clips, tmp_path, monkeypatch):
    save = Interpretation.save

    def fail(self, folder, *args, **options):
        if self.clip == "clip0":
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return save(self, folder, *args, **options)

    monkeypatch.setattr(Interpretation, "save", fail)
    result = interpret_files(clips, weights[:1], tmp_path / "out", **QUICK)
    assert list(result.failures) == ["tiny/saliency/clip0"]
    assert set(result.table["clip"]) == {"clip1", "clip2"}
    assert len(result.written) == 2


@pytest.mark.usefixtures("quick_pictures")
def test_a_full_disk_ends_the_work(weights, clips, tmp_path, monkeypatch):
    saved = []

    def fail(self, folder, *_, **__):
        saved.append(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Interpretation, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        interpret_files(clips, weights[:1], tmp_path / "out", **QUICK)
    assert len(saved) == 1


@pytest.mark.usefixtures("quick_pictures")
def test_what_fails_for_every_clip_is_raised_as_it_is(weights, clips, tmp_path, monkeypatch):
    explain = ai.SaliencyInterpreter.explain

    def fail(self, view, target, **known):
        if "hiss" not in self.classifier.classes:
            raise KeyError("gain")
        return explain(self, view, target, **known)

    monkeypatch.setattr(ai.SaliencyInterpreter, "explain", fail)
    with pytest.raises(KeyError, match="gain"):
        interpret_files(clips, weights, tmp_path / "out", **QUICK)
    table = pd.read_csv(tmp_path / "out" / "summary.csv")  # of the model before
    assert set(table["model"]) == {"tiny"}
    assert set(table["clip"]) == {"clip0", "clip1", "clip2"}


@pytest.mark.usefixtures("quick_pictures")
def test_a_recording_that_one_method_fails_on_is_complete_in_the_others(
    weights, file, clips, tmp_path, monkeypatch
):
    explain = ai.SaliencyInterpreter.explain

    def fail(self, view, target, **known):
        if len(view) == 5:  # the windows of the recording
            raise RuntimeError("no gradient")
        return explain(self, view, target, **known)

    monkeypatch.setattr(ai.SaliencyInterpreter, "explain", fail)
    request = QUICK | {"methods": ["saliency", "gradcam"]}
    result = interpret_files([clips[0], file], weights[:1], tmp_path / "out", **request)
    assert result.failures == {"tiny/saliency/night": "RuntimeError: no gradient"}
    folder = tmp_path / "out" / "tiny"
    assert (folder / "gradcam" / "night" / "timeline.csv").is_file()
    assert not (folder / "saliency" / "night").exists()
    assert list(folder.glob("saliency/.*")) == []
    found = result.table.groupby("method")["clip"].unique().map(set).to_dict()
    assert found == {"saliency": {"clip0"}, "gradcam": {"clip0", "night"}}


@pytest.mark.usefixtures("quick_pictures")
def test_names_of_bytes_and_of_any_length_are_interpreted(
    weights, clips, tmp_path, monkeypatch, capsys
):
    long = clips[1].with_name("x" * 240 + ".wav")
    clips[1].rename(long)
    strange = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    try:
        os.rename(clips[2], strange)
    except OSError:
        pytest.skip("this file system has names of text only")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    options = ["-w", weights[0], "-m", "saliency", "--mask", "topK_5", "--out", tmp_path / "out"]
    status = command(
        monkeypatch, "interpret", clips[0], long, os.fsdecode(strange), broken, *options
    )
    assert status == 1
    assert "1 skipped:\n  broken: " in capsys.readouterr().err
    names = {"clip0", "caf%E9", file_name(long)}
    assert {path.name for path in (tmp_path / "out/tiny/saliency").iterdir()} == names
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["clip"]) == names
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)


def test_names_of_results_fit_a_file_system():
    assert file_name("sounds/dog.wav") == "dog"
    long = file_name("x" * 251 + ".wav")
    assert len(long.encode()) == 200
    assert long != file_name("x" * 250 + ".wav")
    both = labelled("x" * 150, "y" * 150, 3)
    assert len(both) == 200
    assert both.startswith("x" * 150 + "@yy")
    assert both != labelled("x" * 150, "y" * 151, 3)


@pytest.mark.usefixtures("no_work")
class TestRefused:
    """Requests that can be known to fail are refused; nothing is written."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"target": "hiss"}, "unknown class 'hiss': choose from low, high, rain"),
            ({"target": ai.Top(4)}, "the top 4 labels of 3 classes"),
            ({"target": ["low", "low"]}, "low"),
            ({"sound": "ogg"}, "unknown sound format 'ogg'"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_what_one_of_the_models_cannot_do(self, weights, clips, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            interpret_files(clips, weights, tmp_path / "out", **(QUICK | change))
        assert not (tmp_path / "out").exists()

    def test_masks_to_draw_that_are_not_made(self, weights, clips, tmp_path):
        recipe = Recipe(methods=["saliency"], masks=["bin"], progress=False)
        with pytest.raises(ValueError, match="'topK_5' is to be drawn and is not made by saliency"):
            interpret_files(clips, weights, tmp_path / "out", masks=["topK_5"], recipe=recipe)
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_the_users_where_the_last_result_would_be(self, weights, clips, tmp_path):
        mine = tmp_path / "out" / "other" / "saliency" / "clip2"
        mine.mkdir(parents=True)
        (mine / "notes.txt").touch()
        with pytest.raises(FileExistsError, match="clip2"):
            interpret_files(clips, weights, tmp_path / "out", **QUICK)
        assert not (tmp_path / "out" / "tiny").exists()

    def test_such_a_folder_of_a_label(self, weights, clips, tmp_path):
        mine = tmp_path / "out" / "other" / "saliency" / "clip2@low"
        mine.mkdir(parents=True)
        (mine / "notes.txt").touch()
        with pytest.raises(FileExistsError, match="clip2@low"):
            interpret_files(clips, weights, tmp_path / "out", target=ai.Top(2), **QUICK)

    @pytest.mark.parametrize("blocked", ["out", "out/tiny", "out/other/saliency"])
    def test_a_folder_that_cannot_be_made(self, weights, clips, tmp_path, blocked):
        (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / blocked).touch()
        with pytest.raises(OSError, match="cannot write into the folder"):
            interpret_files(clips, weights, tmp_path / "out", **QUICK)

    def test_a_table_that_cannot_be_written(self, weights, clips, tmp_path):
        (tmp_path / "out" / "summary.csv").mkdir(parents=True)
        with pytest.raises(IsADirectoryError, match=r"cannot write the file .*summary\.csv"):
            interpret_files(clips, weights, tmp_path / "out", **QUICK)

    def test_an_unknown_target_of_a_long_recording(self, weights, file):
        predict = ai.Predict(model := ai.load(weights[0]), ai.SaliencyInterpreter(model))
        with pytest.raises(ValueError, match="unknown class 'owl'"):
            predict.predict(file, target="owl")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([word for mask in SEVEN for word in ("--mask", mask)], "7 masks are too many"),
            (["--part", "left"], "part 'left'"),
            (["--out", "OUT/figure"], "cannot write the file"),
        ],
    )
    def test_a_figure_that_cannot_be_drawn_or_written(
        self, weights, file, tmp_path, monkeypatch, capsys, options, message
    ):
        (tmp_path / "OUT").touch()
        monkeypatch.chdir(tmp_path)
        words = ("figure", file, "-w", weights[0], "-m", "saliency", *options)
        assert command(monkeypatch, *words) == 2
        assert message in capsys.readouterr().err


def test_a_window_too_short_for_a_model(weights, clips, tmp_path):
    with pytest.raises(ValueError, match=r"the model fails on sounds of 0\.003 s, 24 samples"):
        interpret_files(
            clips, weights, tmp_path / "out", windowing=Windowing(window=0.003), **QUICK
        )
    assert not (tmp_path / "out").exists()


def test_a_comparison_of_several_labels_is_refused_before_a_method_runs(
    weights, file, clips, monkeypatch
):
    monkeypatch.setattr(ai.SaliencyInterpreter, "explain", lambda *_: pytest.fail("too late"))
    for each in (file, clips[0]):
        with pytest.raises(ValueError, match="compare methods on one label"):
            compare_methods(each, weights[0], target=ai.Top(2), **QUICK)


@pytest.mark.usefixtures("quick_pictures")
def test_a_page_that_fails_leaves_the_results_and_says_so(
    weights, clips, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    words = ("interpret", clips[0], "-w", weights[0], "-m", "saliency", "--out", tmp_path / "out")
    assert command(monkeypatch, *words) == 1
    said = capsys.readouterr()
    assert "report.html: cannot write the file" in said.err
    assert "all results are there" in said.err
    assert (tmp_path / "out" / "summary.csv").is_file()


def test_an_experiment_is_checked_for_every_model_before_the_first(
    weights, tiny_esc50, tmp_path, monkeypatch
):
    request = {"methods": ["saliency"], "results": tmp_path / "r", "progress": False}
    monkeypatch.setattr(experiment, "interpret_sets", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ValueError, match="unknown class 'hiss'"):
        experiment.run_experiment(weights, tiny_esc50, target="hiss", **request)
    assert not (tmp_path / "r").exists()
