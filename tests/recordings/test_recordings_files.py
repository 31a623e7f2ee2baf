"""Recordings among many files, and on the command line."""

import re
import sys
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from nights import CLASSES, RATE, make_front_end, scene
from repository import REPOSITORY

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.model import build_model
from audiointerp.runs.clip import job_metrics
from audiointerp.runs.files import compare_methods, interpret_files
from audiointerp.runs.result import Interpretation
from audiointerp.runs.windows import Windowing


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    front_end = make_front_end()
    kind = {"name": "Cnn14", "num_classes": 3, "num_bins": 33, "width": 1 / 16}
    model = build_model(kind, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.classifier.weight.normal_(std=4, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return ai.save_weights(path, model, front_end, classes=CLASSES, duration=1.0)


QUICK = {"methods": ["saliency", "gradcam"], "masks": ["topK_5"], "progress": False}


@pytest.mark.usefixtures("quick_pictures")
def test_files_are_read_and_classified_once_for_all_methods(weights, file, tmp_path, monkeypatch):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, scene()[:RATE], RATE)
    seen = []
    original = ai.LogSTFTSpectrogram.analyse
    monkeypatch.setattr(
        ai.LogSTFTSpectrogram, "analyse", lambda self, x: seen.append(len(x)) or original(self, x)
    )
    result = interpret_files([file, clip], [weights], tmp_path / "out", **QUICK)
    windows = len(result.recordings["tiny", "night"].windows)
    assert sum(seen) == windows + 5 + 1  # classified, interpreted, and the clip
    table = result.table
    assert list(table)[:6] == ["model", "method", "clip", "start", "end", "label"]
    assert len(table) == 2 * (5 + 1) * len(ai.MASKS)
    order = table[["method", "clip"]].drop_duplicates().to_numpy().tolist()
    assert order == [[m, c] for m in ("saliency", "gradcam") for c in ("night", "clip")]
    assert table.loc[table["clip"] == "clip", "start"].isna().all()
    written = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert written.shape == table.shape
    classifier = ai.load(weights)
    alone = ai.Predict(classifier, ai.SaliencyInterpreter(classifier)).predict(file)
    for window in alone.windows:
        rows = table[(table["method"] == "saliency") & (table["start"] == window.section.start)]
        found = rows.set_index("mask")[list(job_metrics())].astype(float)
        pd.testing.assert_frame_equal(found, window.metrics[list(job_metrics())], atol=1e-4)


@pytest.mark.usefixtures("quick_pictures")
def test_interpreting_again_keeps_what_the_user_put_beside_the_results(weights, file, tmp_path):
    request = QUICK | {"methods": ["saliency"], "windowing": Windowing(windows=2)}
    interpret_files([file], [weights], tmp_path / "out", **request)
    folder = tmp_path / "out" / "tiny" / "saliency" / "night"
    first = {path.name for path in folder.glob("*s")}
    assert len(first) == 2
    mine = {folder / "notes.txt": "mine", folder / "dog" / "summary.json": "mine"}
    mine |= {folder / name / "notes.txt": name for name in first}
    for path, text in mine.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    # Other windows than before.
    request["windowing"] = Windowing(start=3.25, windows=1)
    interpret_files([file], [weights], tmp_path / "out", **request)
    (second,) = {path.parent.name for path in folder.glob("*s/summary.json")}
    assert second not in first
    assert {path: path.read_text() for path in mine} == mine
    for name in first:
        assert [path.name for path in (folder / name).iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("quick_pictures")
def test_the_table_of_clips_alone_has_the_columns_it_had(weights, file, tmp_path):
    soundfile.write(tmp_path / "clip.wav", scene()[:RATE], RATE)
    result = interpret_files([tmp_path / "clip.wav"], [weights], tmp_path / "out", **QUICK)
    columns = ["model", "method", "clip", "label", "probability", "mask", *job_metrics()]
    assert list(result.table) == columns
    assert result.recordings == {}


@pytest.mark.usefixtures("quick_pictures")
def test_several_labels_are_filed_apart(weights, file, tmp_path):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, scene()[:RATE], RATE)
    request = QUICK | {"methods": ["saliency"], "target": ai.Top(2)}
    result = interpret_files(
        [file, clip], [weights], tmp_path / "out", windowing=Windowing(windows=1), **request
    )
    folder = tmp_path / "out" / "tiny" / "saliency"
    clips = sorted(path.name for path in folder.glob("clip*"))
    assert len(clips) == 2
    assert all(name.startswith("clip@") for name in clips)
    windows = sorted(path.name.partition("@")[2] for path in (folder / "night").glob("*s@*"))
    assert len(windows) == 2
    assert len(result.table) == 4 * len(ai.MASKS)
    assert result.table["explained"].nunique() >= 2


@pytest.mark.usefixtures("quick_pictures")
def test_clips_without_a_label_that_is_probable_enough_are_reported(weights, file, tmp_path):
    request = QUICK | {"methods": ["saliency"], "target": ai.Above(0.999999)}
    result = interpret_files([file], [weights], tmp_path / "out", **request)
    assert list(result.failures) == ["tiny/night"]
    assert "no label reaches" in result.failures["tiny/night"]
    assert (tmp_path / "out" / "tiny" / "saliency" / "night" / "timeline.csv").is_file()


@pytest.mark.usefixtures("quick_pictures")
def test_a_recording_that_turns_out_damaged_leaves_nothing(weights, tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * RATE)
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, sound, RATE)
    content = whole.read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) * 2 // 3])
    files = [tmp_path / "cut.flac"]
    result = interpret_files(files, [weights], tmp_path / "out", **QUICK)
    assert "truncated" in result.failures["cut"]
    assert not list(tmp_path.glob("out/tiny/*/*"))


def test_the_figure_of_a_recording_is_of_its_most_confident_window(weights, file):
    comparison = compare_methods(file, weights, **QUICK)
    (place,) = comparison.coverage.interpreted
    start, end = comparison.coverage.windows[place]
    classifier = ai.load(weights)
    heard = ai.Predict(classifier, ai.SaliencyInterpreter(classifier)).predict(file).heard
    audible = np.where(heard.silent, 0, heard.probabilities.max(1))
    assert place == audible.argmax()
    for result in comparison.results.values():
        assert result.section[1:] == (start, end)
    part = compare_methods(file, weights, windowing=Windowing(start=2, end=3), **QUICK)
    assert next(iter(part.results.values())).section[1:] == (2, 3)
    assert part.coverage.not_analysed == [(0, 2), (3, 6)]


@pytest.mark.usefixtures("quick_pictures")
def test_a_background_has_the_length_of_the_windows(file, tmp_path):
    weights = REPOSITORY / "weights" / "synthetic_logmel.safetensors"
    request = {"methods": ["shap"], "masks": ["topK_5"], "progress": False}
    windowing = Windowing(window=2.0, windows=1)
    result = interpret_files([file], [weights], tmp_path / "o", windowing=windowing, **request)
    assert not result.failures
    comparison = compare_methods(file, weights, windowing=windowing, **request)
    assert len(comparison.results) == 1


def test_a_timeline_of_many_classes_shows_those_that_are_probable_or_explained(predict, file):
    heard = predict.predict(file, windows=1).heard
    count = 60
    rng = np.random.default_rng(0)
    chances = 0.5 * rng.uniform(size=(len(heard.probabilities), count))
    chances[3, 7] = 0.9
    many = replace(
        heard,
        classes=tuple(f"c{n}" for n in range(count)),
        probabilities=chances,
        decisions=chances > 0.5,
        explained=((59,), *((),) * (len(chances) - 1)),
    )
    table = many.table()
    shown = [name for name in table if name.startswith("p(")]
    assert {"p(c7)", "p(c59)"} <= set(shown)
    assert len(shown) in (20, 21)
    highest = np.argsort(-chances.max(0))[:20]
    assert {f"p(c{n})" for n in highest} <= set(shown)
    assert table["labels"].tolist() == ["c7" if n == 3 else "" for n in range(len(chances))]
    assert table["explained"][0] == "c59"


def command(monkeypatch, *arguments):
    """Run the command line; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


@pytest.mark.usefixtures("quick_pictures")
def test_the_command_line_says_what_was_analysed(monkeypatch, capsys, weights, file, tmp_path):
    options = ("-w", weights, "-m", "saliency", "--out", tmp_path / "out", "--no-report")
    part = ("--start", 1, "--end", 5, "--window", 0.5, "--hop", 0.5, "--windows", 3)
    assert command(monkeypatch, "interpret", file, *options, *part) == 0
    printed = capsys.readouterr().out
    assert (
        "night: 6 s, 8 windows of 0.5 s every 0.5 s, 3 interpreted; not analysed: 0–1 s, 5–6 s"
    ) in printed
    folder = tmp_path / "out" / "tiny" / "saliency" / "night"
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 3
    assert command(monkeypatch, "interpret", file, *options, "--windows", "all") == 0
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 11
    assert command(monkeypatch, "interpret", file, *options, "--windows", "some") == 2
    assert "windows is 'some'" in capsys.readouterr().err


def test_the_figure_says_which_part_it_is_of(monkeypatch, capsys, weights, file, tmp_path):
    options = ("-w", weights, "-m", "saliency", "--out", tmp_path / "figure")
    assert command(monkeypatch, "figure", file, *options, "--start", 1, "--end", 5) == 0
    printed = capsys.readouterr().out
    assert "7 windows of 1 s every 0.5 s, 1 interpreted (" in printed
    assert "not analysed: 0–1 s, 5–6 s" in printed


def test_results_of_windows_are_let_go_once_they_are_saved(weights, tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(scene()[: 4 * RATE], 8), RATE)
    alive, most = weakref.WeakSet(), []

    def save(self, folder, *_, **__):
        alive.add(self.view.cells)
        most.append(len(alive))
        folder.mkdir(parents=True)
        np.save(folder / "attribution.npy", self.attribution[0, 0].numpy())
        return folder

    monkeypatch.setattr(Interpretation, "save", save)
    windowing = Windowing(windows="all", hop=1.0)
    interpret_files(
        [path],
        [weights],
        tmp_path / "out",
        windowing=windowing,
        **QUICK | {"methods": ["saliency"]},
    )
    assert len(most) == 32
    assert max(most) <= 16  # those of a batch, and of the one before


@pytest.mark.usefixtures("quick_pictures")
def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    for folder in ("samples", "weights"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "recordings.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["result"].labels == ("sea_waves", "dog")
    assert f"# {str(names['result'].coverage)!r}" in code
    assert names["result"].window_at(15).label == "dog"
    assert names["everywhere"].attribution.shape == (1, 1, 64, 2001)
