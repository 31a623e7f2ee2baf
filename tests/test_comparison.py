"""Several methods on one clip: what the figure, players and tables show is what was scored."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.model import build_model
from audiointerp.runs.clip import job_metrics
from audiointerp.runs.comparison import Comparison
from audiointerp.runs.files import compare_methods

RATE = 8000
CLASSES = ("dog", "<b>cat</b>", "rain")
MASKS = ["topK_5", "minmax"]
METHODS = {"saliency": ai.SaliencyInterpreter, "gradcam": ai.GradCAMInterpreter}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a weight file of a tiny model that has opinions."""
    processor = ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}
    model = build_model(settings, seed=0).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=4, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return ai.save_weights(path, model, processor, classes=CLASSES, duration=1.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a sound file."""
    wave = 0.3 * np.random.default_rng(0).standard_normal(RATE)
    wave[RATE // 2 :] *= 0.1
    path = tmp_path_factory.mktemp("clip") / "bark.wav"
    soundfile.write(path, wave, RATE)
    return path


def compare(clip, weights, **options) -> Comparison:
    settings = {"methods": list(METHODS), "masks": MASKS, "on": ("features", "audio")}
    return compare_methods(clip, weights, **(settings | options), progress=False)


@pytest.fixture(scope="module")
def comparison(clip, weights):
    return compare(clip, weights)


def test_every_method_is_the_one_that_predict_gives(comparison, clip, weights):
    assert list(comparison.results) == list(METHODS)
    model, processor = ai.load(weights)
    for name, method in METHODS.items():
        alone = ai.Predict(model, processor, method(model), masks=MASKS).predict(clip)
        result = comparison.results[name]
        assert (result.clip, result.method, result.target) == ("bark", name, alone.target)
        torch.testing.assert_close(result.attribution, alone.attribution)
        pd.testing.assert_frame_equal(result.metrics, alone.metrics)


class Cells(HTMLParser):
    """Reads a table: the words of every cell, and the sound that is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[dict]] = []

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append({"words": "", "sound": None})
        elif tag == "audio" and self.rows:
            self.rows[-1][-1] |= dict(attributes)
            self.rows[-1][-1]["sound"] = dict(attributes)["src"]

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1]["words"] += data


def decode(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.split(",")[1], validate=True)
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def test_every_player_holds_the_sound_of_its_row_and_column(comparison):
    markup = comparison.players(form="wav")
    table = Cells()
    table.feed(markup)
    head, *rows = table.rows
    assert [cell["words"] for cell in head] == ["", "", *MASKS]
    assert len(rows) == 4
    for (name, result), pair in zip(comparison.results.items(), (rows[:2], rows[2:]), strict=True):
        assert pair[0].pop(0)["words"] == name
        for (word, *cells), (part, spoken) in zip(
            pair, (("in", "kept"), ("out", "removed")), strict=True
        ):
            assert word["words"] == spoken
            for mask, cell in zip(MASKS, cells, strict=True):
                sound = result.audio(mask, part)
                heard = decode(cell["sound"]) * 10 ** (sound.excess_db / 20)
                assert np.abs(heard - sound.waveform).max() < 1e-4
                assert cell["aria-label"] == f"{name}, {mask}: {spoken}"
                expected = result.probabilities_on["audio"].loc[mask, part]
                assert cell["words"] == f"p({result.target_label}) = {expected:.2f}"
    original = re.search(r'src="([^"]+)"', markup).group(1)
    assert np.abs(decode(original) - comparison.results["gradcam"].audio().waveform).max() < 1e-4
    assert "<b>cat" not in markup


def test_players_are_small_unless_lossless_is_asked_for(comparison):
    small, exact = comparison.players(["topK_5"]), comparison.players(["topK_5"], "wav")
    assert small.count("data:audio/mpeg") == exact.count("data:audio/wav") == 1 + 2 * 2
    assert len(small) < len(exact) / 1.5
    assert "minmax" not in small


def test_without_metrics_on_sound_players_show_those_on_features(clip, weights):
    comparison = compare(clip, weights, on="features", methods=["gradcam"])
    result = comparison.results["gradcam"]
    expected = result.probabilities_on["features"].loc["topK_5", "out"]
    assert f"= {expected:.2f}<br>" in comparison.players(["topK_5"])


@pytest.mark.parametrize(("part", "words"), [("in", "mask keeps"), ("out", "without what")])
def test_the_figure_shows_the_masked_features_and_their_probabilities(comparison, part, words):
    picture = comparison.plot(MASKS, part)
    (axes,) = picture.axes
    texts = [text.get_text() for text in axes.texts]
    assert any(words in text and text.startswith("bark: ") for text in texts)
    rows = {}
    for image in axes.images[:-2]:
        rows.setdefault(image.get_extent()[3], []).append(image.get_array())
    for (original, effect, *masked), result in zip(
        rows.values(), comparison.results.values(), strict=True
    ):
        np.testing.assert_array_equal(original, result.view.cells[0, 0])
        np.testing.assert_array_equal(effect, result.attribution[0, 0])
        for mask, cells in zip(MASKS, masked, strict=True):
            expected = result.masked[mask][part == "out"][0, 0]
            np.testing.assert_array_equal(cells, expected)
            assert f"p = {result.probabilities_on['features'].loc[mask, part]:.2f}" in texts


def test_attribution_maps_are_in_one_row(comparison):
    (axes,) = comparison.plot_attributions().axes
    assert len({image.get_extent()[3] for image in axes.images[:-2]}) == 1
    assert {"original", *METHODS} <= {text.get_text() for text in axes.texts}


def test_tables_are_those_of_the_methods(comparison):
    for place in ("features", "audio"):
        metrics = comparison.metrics(["minmax"], on=place)
        chances = comparison.class_probabilities(["minmax"], on=place)
        assert metrics.index.names == ["method", "mask"]
        assert list(metrics.columns) == list(job_metrics())
        assert list(chances.columns) == list(CLASSES)
        assert len(chances) == 1 + 2 * 2
        for name, result in comparison.results.items():
            expected = result.metrics_on[place].loc["minmax"]
            pd.testing.assert_series_equal(metrics.loc[name, "minmax"], expected, check_names=False)
            for part, word in (("in", "kept"), ("out", "removed")):
                row = chances.loc[(name, "minmax", word)]
                expected = result.class_probabilities_on[place].loc[("minmax", part)]
                assert list(row) == list(expected)
    assert list(chances.iloc[0]) == list(comparison.results["gradcam"].probabilities)
    assert len(comparison.metrics()) == 2 * len(MASKS)


@pytest.mark.parametrize("place", ["features", "audio"])
def test_probabilities_are_drawn_as_they_are_in_the_table(comparison, place):
    (axes,) = comparison.plot_probabilities(["topK_5"], place).axes
    expected = comparison.class_probabilities(["topK_5"], place)
    np.testing.assert_array_equal(axes.images[0].get_array(), expected)
    assert axes.get_yticklabels()[2].get_text() == "saliency topK_5 removed"


def test_the_class_that_is_asked_for_is_explained_and_shown(clip, weights):
    comparison = compare(clip, weights, target="rain", methods=["saliency"])
    assert comparison.results["saliency"].target_label == "rain"
    assert "p(rain) = " in comparison.players(["topK_5"])


def half_as_loud(analysis):
    return dataclasses.replace(analysis, waveform=0.5 * analysis.waveform)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: {"target": (r.target + 1) % 3}, "class"),
        (lambda r: {"masks": {}}, "masks"),
        (lambda r: {"probabilities": r.probabilities[::-1] + 0.1}, "model"),
        (lambda r: {"view": half_as_loud(r.view)}, "clip"),
        (lambda r: {"processor": ai.LogSTFTSpectrogram()}, "front end"),
        (lambda r: {"metrics_on": {}}, "places"),
    ],
)
def test_what_cannot_be_compared_is_refused(comparison, change, what):
    first, second = comparison.results.values()
    other = dataclasses.replace(second, **change(second))
    with pytest.raises(ValueError, match=f"b has another {what} than a"):
        Comparison({"a": first, "b": other})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda c: Comparison({}), "no interpretations"),
        (lambda c: c.plot(["bin"]), "mask 'bin' was not made: choose from topK_5, minmax"),
        (lambda c: c.players(["topK_6"]), "unknown mask 'topK_6'"),
        (lambda c: c.plot(MASKS, "kept"), "part 'kept'"),
        (lambda c: c.metrics(on="sound"), "nothing was measured on 'sound', only on features"),
    ],
)
def test_a_wrong_request_is_refused(comparison, action, message):
    with pytest.raises(ValueError, match=message):
        action(comparison)


def test_the_command_line_draws_the_figure_for_print(clip, weights, tmp_path, monkeypatch, capsys):
    words = ["figure", clip, "-w", weights, "-m", "saliency", "--mask", "bin", "--part", "out"]
    words += ["--out", tmp_path / "new" / "figure"]
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    files = [tmp_path / "new" / f"figure.{ending}" for ending in ("pdf", "png")]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert files[0].read_bytes().startswith(b"%PDF")
    with Image.open(files[1]) as image:
        assert image.width == 2100


def test_an_unusable_request_is_refused_before_work_is_done(clip, weights, tmp_path):
    for options, message in (
        ({"methods": ["grad-cam"]}, "unknown method"),
        ({"masks": ["topK"]}, "unknown mask"),
        ({"target": "horse"}, "unknown class 'horse'"),
        ({"device": "cuda:99"}, "not there"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(clip, weights, **options)
    with pytest.raises(ValueError, match="no such file"):
        compare(tmp_path / "nothing.wav", weights)
