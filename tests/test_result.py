"""Saved results: sounds in every format, turned down where a format would clip them."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import soundfile
import torch

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.interpretation import Explanation
from audiointerp.masking import MASKS
from audiointerp.model import build_model
from audiointerp.plots import Picture
from audiointerp.runs.files import interpret_files
from audiointerp.sound import SOUND_FORMATS

RATE = 8000
MASKED = ["topK_5", "minmax"]


@pytest.fixture
def quick_pictures(monkeypatch):
    """Draw next to nothing where the pictures are not looked at."""
    for plot in ("plot_masks", "plot_interpretation"):
        monkeypatch.setattr(
            f"audiointerp.runs.result.{plot}", lambda *_, **__: Picture(figsize=(1, 1))
        )


def make_model(rate):
    processor = ai.LogSTFTSpectrogram(sample_rate=rate, n_fft=128, hop_length=64)
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}
    return build_model(settings, seed=0).eval(), processor


def interpret(rate=RATE):
    model, processor = make_model(rate)
    predict = ai.Predict(model, processor, ai.SaliencyInterpreter(model), masks=MASKED)
    noise = torch.randn(1, 1, rate, generator=torch.Generator().manual_seed(0))
    # As a clip that was not normalised: some masked sounds go beyond full scale.
    return predict.predict_batch(1.5 * noise / noise.abs().max(), ["clip"])[0]


@pytest.fixture(scope="module")
def result():
    return interpret()


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def files_of(folder):
    return {path.stem: path for path in folder.iterdir() if path.suffix[1:] in SOUND_FORMATS}


@pytest.mark.parametrize("form", SOUND_FORMATS)
def test_a_saved_sound_is_what_was_heard_but_for_what_its_format_loses(
    result, tmp_path, quick_pictures, form
):
    files = files_of(result.save(tmp_path / "clip", sound=form))
    assert set(files) == {
        "original",
        *(f"{mask}_{part}" for mask in MASKED for part in ("in", "out")),
    }
    turned_down = summary(tmp_path / "clip")["turned_down_db"]
    loud = set()
    for name, path in files.items():
        mask, _, part = name.rpartition("_")
        sound = result.audio(mask, part) if mask else result.audio()
        saved, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        assert saved.shape == sound.waveform.shape
        if np.abs(sound.waveform).max() > 1:
            loud.add(path.name)
        level = 10 ** (turned_down.get(path.name, 0) / 20)
        error = np.abs(level * saved - sound.waveform).max()
        if path.suffix == ".wav":
            assert error == 0
        elif path.suffix == ".flac":
            assert error <= 2 * level / 2**23  # 24 bits, read as 32-bit float
        else:
            assert np.corrcoef(saved, sound.waveform)[0, 1] > 0.9
            assert np.abs(saved).max() < 1.2
    assert len(loud) > 1
    assert set(turned_down) == (set() if form == "wav" else loud)


def test_the_clip_itself_stays_exact(result, tmp_path, quick_pictures):
    for form, ending in (("wav", ".wav"), ("flac", ".flac"), ("mp3", ".flac")):
        files = files_of(result.save(tmp_path / form, sound=form))
        assert files.pop("original").suffix == ending
        assert {path.suffix for path in files.values()} == {f".{form}"}


def test_saving_in_another_format_leaves_none_of_the_first(result, tmp_path, quick_pictures):
    result.save(tmp_path / "clip", sound="wav")
    result.save(tmp_path / "clip", ["topK_5"], sound="mp3")
    found = {path.name for path in files_of(tmp_path / "clip").values()}
    assert found == {"original.flac", "topK_5_in.mp3", "topK_5_out.mp3"}


def test_saving_again_keeps_what_the_user_put_there(tmp_path, quick_pictures, monkeypatch):
    """Also where masks of the user's own were drawn, and after an earlier version of the page."""
    folder = tmp_path / "clip"
    monkeypatch.setitem(MASKS, "mine", MASKS["bin"])
    model, processor = make_model(RATE)
    predict = ai.Predict(model, processor, ai.SaliencyInterpreter(model), masks=["mine", "bin"])
    first = predict.predict_batch(torch.randn(1, 1, RATE), ["clip"])[0]
    first.save(folder)
    monkeypatch.delitem(MASKS, "mine")
    (folder / "report.html").write_text("a page of the first numbers")
    mine = {"notes.txt", ".DS_Store", "paper/draft.tex", "topK_5 of the other.png", "dog.wav"}
    for name in mine:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"my {name}")
        os.utime(path, (1e9, 1e9))
    interpret().save(folder, ["topK_5"], sound="flac")
    interpret().save(tmp_path / "fresh", ["topK_5"], sound="flac")

    def below(top):
        return {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()}

    assert below(folder) == below(tmp_path / "fresh") | mine
    for name in mine:
        assert (folder / name).read_text() == f"my {name}"
        assert (folder / name).stat().st_mtime == 1e9
    assert {path.name for path in tmp_path.iterdir()} == {"clip", "fresh"}


@pytest.mark.parametrize(
    ("rate", "form", "message"),
    [
        (RATE, "ogg", "unknown sound format 'ogg': choose from wav, flac, mp3"),
        (10000, "mp3", "MP3 has no sampling rate of 10000 Hz"),
    ],
)
def test_an_unusable_format_is_refused_before_anything_is_written(tmp_path, rate, form, message):
    with pytest.raises(ValueError, match=message):
        interpret(rate).save(tmp_path / "clip", sound=form)
    model, processor = make_model(rate)
    weights = tmp_path / "tiny.safetensors"
    ai.save_weights(weights, model, processor, classes=("a", "b", "c"), duration=1.0)
    with pytest.raises(ValueError, match=message):
        interpret_files([tmp_path / "no.wav"], [weights], tmp_path / "out", sound=form)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".md"] == [weights.name]


def test_the_command_line_saves_all_masks_in_the_format_asked_for(
    tmp_path, quick_pictures, monkeypatch, capsys
):
    model, processor = make_model(RATE)
    weights = tmp_path / "tiny.safetensors"
    ai.save_weights(weights, model, processor, classes=("a", "b", "c"), duration=1.0)
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    words = ["interpret", clip, "-w", weights, "-m", "saliency", "--no-report"]
    words += ["--all-masks", "--sound", "mp3", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "pos_thresh_75" in capsys.readouterr().out
    folder = tmp_path / "out" / "tiny" / "saliency" / "clip"
    assert set(files_of(folder)) == {
        "original",
        *(f"{mask}_{part}" for mask in MASKS for part in ("in", "out")),
    }
    assert all((folder / f"{mask}.png").is_file() for mask in MASKS)


def nothing(self, view, target):
    """Explain nothing, as of a network that is constant."""
    return Explanation(torch.zeros_like(view.cells), view.cells.new_zeros(len(view)).long())


@pytest.fixture
def blind(monkeypatch):
    """Let saliency return all-zero maps."""
    monkeypatch.setattr(ai.SaliencyInterpreter, "_explain", nothing)


def test_a_degenerate_map_is_in_the_summary(blind, quick_pictures, tmp_path):
    result = interpret()
    words = {
        "map": "constant, 0 in every cell",
        "topK_5": "100 % of its cells chosen by position among equal ones",
        "minmax": "empty, it keeps nothing",
    }
    assert result.degenerate == words
    result.save(tmp_path / "out")
    assert summary(tmp_path / "out")["degenerate"] == words
    assert "Degenerate map: constant, 0 in every cell" in result._repr_html_()


def test_a_regular_map_is_not_degenerate(result):
    assert result.degenerate == {}
    assert "Degenerate" not in result._repr_html_()


def test_the_command_line_names_degenerate_maps(
    blind, quick_pictures, tmp_path, monkeypatch, capsys
):
    model, processor = make_model(RATE)
    weights = ai.save_weights(
        tmp_path / "tiny.safetensors", model, processor, classes=("a", "b", "c"), duration=1.0
    )
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    soundfile.write(tmp_path / "noise.wav", noise, RATE)
    arguments = ["interpret", tmp_path / "noise.wav", "--weights", weights, "--no-report"]
    arguments += ["--method", "saliency", "--mask", "topK_5", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments), "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "constant" in one]
    assert line.strip() == (
        "tiny/saliency/noise: map: constant, 0 in every cell; "
        "topK_5: 100 % of its cells chosen by position among equal ones"
    )
