"""Models with independent labels from weight file to tables and page; several labels per clip."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pages import read_data
from sklearn.metrics import average_precision_score
from tones import RATE, Chords, Tones, front_end, small_model

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.cli.options import build_target, read_fold
from audiointerp.dataset import ESC50Dataset, save_audio
from audiointerp.masking import MASKS
from audiointerp.model.weights import load, save_weights
from audiointerp.plots import Picture
from audiointerp.report import write_report
from audiointerp.runs.classification import classify_set
from audiointerp.runs.experiment import measure_accuracy, run_experiment
from audiointerp.runs.files import interpret_files
from audiointerp.runs.names import has_several_labels, labelled, result_name
from audiointerp.runs.recipe import background_view

CLASSES = ("dog", "cat", "rain/wind")
QUICK = ["saliency", "gradcam"]


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Draw next to nothing: the pictures are not looked at."""
    for plot in ("plot_masks", "plot_interpretation"):
        monkeypatch.setattr(
            f"audiointerp.runs.result.{plot}", lambda *_, **__: Picture(figsize=(1, 1))
        )


def sigmoid_model(bias=(3.0, 0.5, -2.0)):
    """A model whose probabilities of the three labels are about 0.95, 0.6 and 0.1."""
    model = small_model(classes=3, head="sigmoid").eval()
    with torch.no_grad():
        model.classifier.weight *= 0.05
        model.classifier.bias.copy_(torch.tensor(bias))
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "labels.safetensors"
    return save_weights(path, sigmoid_model(), front_end(), classes=CLASSES, duration=1.0)


@pytest.fixture
def sounds(tmp_path):
    """Two sound files of a second."""
    paths = [tmp_path / "tone0.wav", tmp_path / "tone1.wav"]
    for path, clip in zip(paths, Tones(2), strict=True):
        save_audio(path, clip.waveform[0, :RATE].numpy(), RATE)
    return paths


def command(monkeypatch, *arguments):
    """Run the command line; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


# ---- what the command line asks for


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((None, None, None), None),
        (([], None, None), None),
        ((["dog"], None, None), "dog"),
        ((["dog", "cat"], None, None), ["dog", "cat"]),
        ((None, 3, None), ai.Top(3)),
        ((None, None, 0.4), ai.Above(0.4)),
    ],
)
def test_options_name_the_labels_to_explain(asked, expected):
    assert build_target(*asked) == expected


def test_an_option_asks_for_the_true_labels():
    assert build_target(None, true_labels=True) == ai.TrueLabels()
    with pytest.raises(ValueError, match="--top and --true-labels both say which labels"):
        build_target(None, 2, true_labels=True)


@pytest.mark.parametrize("asked", [(["dog"], 2, None), (None, 2, 0.5), (["dog"], None, 0.5)])
def test_options_that_exclude_each_other_are_refused(asked):
    with pytest.raises(ValueError, match=r"--\w+ and --\w+ both say which labels to explain"):
        build_target(*asked)


@pytest.mark.parametrize(("text", "fold"), [("5", 5), ("test", "test"), ("5a", "5a")])
def test_folds_are_numbers_or_names(text, fold):
    assert read_fold(text) == fold


# ---- names of folders

LABELS = st.lists(
    st.text(st.sampled_from("aB1/_\\:. *?\0"), max_size=6), min_size=2, max_size=8, unique=True
)


@given(LABELS)
def test_no_two_labels_of_a_clip_share_a_folder(labels):
    names = [labelled("clip", label, index) for index, label in enumerate(labels)]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.startswith("clip@")
        assert not set(name) & set('/\\:*?"<>|\0')
        assert name[-1] not in " ."


def test_a_plain_label_is_in_the_name_as_it_is():
    assert labelled("night", "Male speech, man speaking", 1) == "night@Male speech, man speaking"
    assert labelled("night", "snare/rim", 7) == "night@snare_rim_7"


@pytest.mark.parametrize(
    ("target", "several"),
    [
        (None, False),
        ("dog", False),
        (2, False),
        (["dog"], False),
        (ai.Top(1), False),
        (["dog", "cat"], True),
        (ai.Top(2), True),
        (ai.Above(0.5), True),
        (ai.TrueLabels(), True),
    ],
)
def test_only_where_there_may_be_several_labels_the_folder_names_one(target, several):
    assert has_several_labels(target) == several
    assert result_name("night", target, "dog", 0) == ("night@dog" if several else "night")


# ---- files


def test_every_label_of_a_file_has_a_folder_and_rows(weights, sounds, tmp_path):
    result = interpret_files(
        sounds,
        [weights],
        tmp_path / "out",
        masks=["topK_5"],
        methods=QUICK,
        target=ai.Top(3),
        progress=False,
    )
    labels = ("dog", "cat", "rain_wind_2")
    for method in QUICK:
        folders = {path.name for path in (tmp_path / "out" / "labels" / method).iterdir()}
        assert folders == {f"tone{n}@{label}" for n in (0, 1) for label in labels}
    assert len(result.table) == 2 * 2 * 3 * len(MASKS)
    by_label = result.table.groupby(["method", "clip", "explained"], sort=False)
    assert [name for _, _, name in list(by_label.groups)[:3]] == list(CLASSES)
    scenes = read_data(write_report(result.folder))["scenes"]
    assert len(scenes) == 6
    for scene in scenes:
        assert scene["labels"] == ["dog", "cat"]
        (explained,) = {method["explained"] for method in scene["methods"].values()}
        assert scene["clip"].endswith(labels[CLASSES.index(explained)])


def test_named_labels_are_explained_from_the_command_line(
    monkeypatch, capsys, weights, sounds, tmp_path
):
    out = tmp_path / "o"
    arguments = ("interpret", sounds[0], "-w", weights, "-m", "saliency", "--mask", "topK_5")
    arguments += ("--out", out, "--no-report")
    assert command(monkeypatch, *arguments, "--target", "cat") == 0
    assert (out / "labels" / "saliency" / "tone0" / "summary.json").is_file()
    assert command(monkeypatch, *arguments, "--target", "cat", "--target", "rain/wind") == 0
    table = pd.read_csv(out / "summary.csv")
    assert table["explained"].unique().tolist() == ["cat", "rain/wind"]
    assert table["label"].unique().tolist() == ["dog"]
    assert command(monkeypatch, *arguments, "--target", "cow") == 2
    assert "unknown class 'cow'" in capsys.readouterr().err


def test_a_file_without_a_label_above_the_threshold_is_reported(
    monkeypatch, capsys, weights, sounds, tmp_path
):
    arguments = ("interpret", *sounds, "-w", weights, "-m", "saliency", "--out", tmp_path / "o")
    assert command(monkeypatch, *arguments, "--no-report", "--above", "0.9999") == 1
    assert "labels/tone0: no label reaches" in capsys.readouterr().err
    assert command(monkeypatch, *arguments, "--no-report", "--above", "0.5") == 0
    folders = {path.name for path in (tmp_path / "o" / "labels" / "saliency").iterdir()}
    assert folders == {f"tone{n}@{label}" for n in (0, 1) for label in ("dog", "cat")}


def test_files_have_no_true_labels(weights, sounds, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="files and waveforms have none: name the label"):
        interpret_files(sounds, [weights], out, target=ai.TrueLabels(), progress=False)
    assert not out.exists()


def test_a_figure_is_of_one_label(monkeypatch, capsys, weights, sounds, tmp_path):
    arguments = ("figure", sounds[0], "-w", weights, "-m", "saliency", "--mask", "topK_30")
    out = tmp_path / "figure"
    assert command(monkeypatch, *arguments, "--out", out, "--target", "cat") == 0
    assert out.with_suffix(".pdf").is_file()
    assert command(monkeypatch, *arguments, "--out", tmp_path / "more", "--top", "2") == 2
    assert "compare methods on one label" in capsys.readouterr().err
    assert not (tmp_path / "more.pdf").exists()


# ---- sets


@pytest.fixture
def tiny_weights(tmp_path):
    """A weight file for the classes of the tiny set."""
    path = tmp_path / "tiny.safetensors"
    classes = ("dog", "cat", "rain")
    return save_weights(path, sigmoid_model(), front_end(), classes=classes, duration=1.0)


def test_an_experiment_stores_which_label_each_row_explains(
    monkeypatch, tiny_weights, tiny_esc50, tmp_path
):
    results = tmp_path / "results"
    arguments = ("experiment", "-w", tiny_weights, "-d", tiny_esc50, "-m", "saliency")
    arguments += ("--results", results, "--mask", "bin", "--mask", "topK_30", "--top", "2")
    assert command(monkeypatch, *arguments) == 0
    run = results / "tiny" / "saliency_clean"
    assert json.loads((run / "run.json").read_text())["settings"]["target"] == {"top": 2}
    table = pd.read_csv(run / "csvs" / "bin.csv")
    assert table.columns.tolist()[:5] == ["clip", "target", "predicted", "is_correct", "explained"]
    assert table["explained"].tolist() == ["dog", "cat"] * 3
    assert table["predicted"].tolist() == ["dog"] * 6
    assert len(list((run / "attributions").glob("*@0.npy"))) == 3
    model, processor = load(tiny_weights)
    predict = ai.Predict(model, processor, ai.SaliencyInterpreter(model), masks=["topK_30"])
    clips = ESC50Dataset(tiny_esc50, folds=5, sample_rate=RATE, duration=1.0)
    scored = pd.read_csv(run / "csvs" / "topK_30.csv").set_index(["clip", "explained"])
    for clip in clips:
        for label in ("dog", "cat"):
            (result,) = predict.predict_batch(clip.waveform[None], ["x"], target=label)
            for metric in result.metrics:
                expected = result.metrics.loc["topK_30", metric]
                assert scored.loc[(clip.clip_id, label), metric] == pytest.approx(
                    expected, abs=1e-4
                )


def test_an_experiment_explains_the_labels_that_the_clips_have(
    monkeypatch, capsys, tiny_weights, tiny_esc50, tmp_path
):
    results = tmp_path / "results"
    arguments = ("experiment", "-w", tiny_weights, "-d", tiny_esc50, "-m", "saliency")
    arguments += ("--results", results, "--mask", "bin")
    assert command(monkeypatch, *arguments, "--true-labels", "--top", "2") == 2
    assert "--top and --true-labels both say" in capsys.readouterr().err
    assert command(monkeypatch, *arguments, "--true-labels") == 0
    run = results / "tiny" / "saliency_clean"
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert settings["target"] == {"true_labels": True}
    table = pd.read_csv(run / "csvs" / "bin.csv")
    assert table["explained"].tolist() == table["target"].tolist()
    assert set(table["predicted"]) == {"dog"}
    assert len(set(table["explained"])) > 1
    model, processor = load(tiny_weights)
    predict = ai.Predict(model, processor, ai.SaliencyInterpreter(model), masks=["bin"])
    for clip in ESC50Dataset(tiny_esc50, folds=5, sample_rate=RATE, duration=1.0):
        row = table.set_index("clip").loc[clip.clip_id]
        (result,) = predict.predict_batch(clip.waveform[None], ["x"], target=row["explained"])
        assert row["FF"] == pytest.approx(result.metrics.loc["bin", "FF"], abs=1e-4)
    with pytest.raises(ValueError, match="files and waveforms have none"):
        predict.predict_batch(clip.waveform[None], ["x"], target=ai.TrueLabels())


def test_a_clip_without_labels_is_reported(tmp_path):
    data = Chords(4)
    model = small_model(classes=3, head="sigmoid")
    made = ai.classifier(
        model, front_end=front_end(), head="sigmoid", classes=data.classes, duration=1.2
    )
    predict = ai.Predict(made, ai.SaliencyInterpreter(made), masks=["bin"], target=ai.TrueLabels())
    done = predict.predict_set(data, tmp_path / "run", progress=False)
    assert done.failures == {"tone0": "the set gives it no label"}
    rows = done.tables["features", "bin"]
    explained = rows.groupby("clip")["explained"].agg("|".join)
    assert explained.to_dict() == {"tone1": "low", "tone2": "middle", "tone3": "low|middle"}


def test_named_labels_of_an_experiment_are_explained_for_every_clip(
    tiny_weights, tiny_esc50, tmp_path
):
    done = run_experiment(
        [tiny_weights],
        tiny_esc50,
        methods=QUICK,
        masks=["bin"],
        target=["rain", "cat"],
        results=tmp_path / "results",
        progress=False,
    )
    for result in done.values():
        assert result.tables["features", "bin"]["explained"].tolist() == ["rain", "cat"] * 3


def test_a_multi_label_set_is_measured_by_its_map():
    model, processor = small_model(classes=3, head="sigmoid"), front_end()
    sets = {"clean": Chords(20), "few": Chords(1, 3)}
    found = measure_accuracy(model, processor, sets, seed=2)
    assert list(found.columns) == ["clips", "mAP", "mAP_low", "mAP_high", "classes"]
    assert found["clips"].tolist() == [20, 1]
    assert found["classes"].tolist() == [3, len(sets["few"].label_sets[0])]
    predictions = classify_set(model, processor, sets["clean"])
    expected = average_precision_score(predictions.truth, predictions.probabilities)
    row = found.loc["clean"]
    assert row["mAP"] == pytest.approx(100 * expected)
    assert row["mAP_low"] < row["mAP"] < row["mAP_high"] <= 100
    assert np.isnan(found.loc["few", "mAP_low"])


def test_the_background_of_a_multi_label_set_has_clips_of_every_label():
    clips = Chords(16)
    found = background_view(clips, front_end(), per_class=1, seed=3).cells
    every = front_end()(torch.stack([clip.waveform for clip in clips]))
    chosen = [int((every - cells).abs().amax((1, 2, 3)).argmin()) for cells in found]
    assert len(set(chosen)) == 3
    assert set().union(*(clips.label_sets[place] for place in chosen)) == {0, 1, 2}


# ---- what is said of one clip


@pytest.mark.parametrize(
    ("bias", "verdict"),
    [
        ((3.0, 0.5, -2.0), r"dog 0\.\d+, cat 0\.\d+"),
        ((3.0, -2.0, -2.0), r"dog, p = 0\.\d+"),
        ((-1.0, -3.0, -2.0), r"no label is decided for; the most probable is dog, p = 0\.\d+"),
    ],
)
def test_the_heading_says_which_labels_are_decided_for(bias, verdict):
    model = sigmoid_model(bias)
    predict = ai.Predict(
        model, front_end(), ai.SaliencyInterpreter(model), classes=CLASSES, masks=["topK_5"]
    )
    result = predict.predict(Tones(1)[0].waveform, RATE)
    assert pytest.approx(result.probabilities, abs=0.1) == 1 / (1 + np.exp(-np.array(bias)))
    found = result.heading()
    assert re.fullmatch(rf"waveform: {verdict}", found), found
    assert result.summary()["labels"] == [
        name for name, each in zip(CLASSES, bias, strict=True) if each > 0
    ]


def test_a_heading_names_few_of_many_labels():
    model = small_model(classes=7, head="sigmoid").eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.arange(7.0) + 1)
    predict = ai.Predict(
        model, front_end(), ai.SaliencyInterpreter(model), classes=list("abcdefg"), masks=["topK_5"]
    )
    result = predict.predict(Tones(1)[0].waveform, RATE)
    assert result.verdict() == "g 0.999, f 0.998, e 0.993, d 0.982 and 3 more"


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        ((3.0, 0.5, -2.0), r"waveform: heard as dog \d+\.\d %, cat \d+\.\d %"),
        ((3.0, -2.0, -2.0), r"waveform: heard as dog, \d+\.\d %"),
        ((-1.0, -3.0, -2.0), r"waveform: no label is decided for; .* is dog, \d+\.\d %"),
    ],
)
def test_the_page_says_which_labels_are_decided_for(browser, tmp_path, bias, said):
    model = sigmoid_model(bias)
    predict = ai.Predict(
        model, front_end(), ai.SaliencyInterpreter(model), classes=CLASSES, masks=["topK_5"]
    )
    result = predict.predict(Tones(1)[0].waveform, RATE)
    result.save(tmp_path / "m" / "saliency" / "waveform")
    browser.open(write_report(tmp_path), 1000, 800)
    browser.until("byId('verdict').textContent")
    shown = browser.run("byId('verdict').textContent")
    assert re.fullmatch(said, shown), shown
    assert browser.complaints() == []
