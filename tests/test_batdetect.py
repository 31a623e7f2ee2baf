"""batdetect2 as a classifier: its own spectrogram and heat map, and boxes as ground truth."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import audiointerp as ai
from audiointerp.dataset import save_audio
from audiointerp.evaluation import event_cells
from audiointerp.model.families.batdetect import BatSpectrogram, from_batdetect2

RATE = 256000
SAMPLES = 65920
CALL = (0.1, 0.106)
"""Seconds of the call of the made-up clip."""
BAND = (45e3, 70e3)
SPECIES = "Pipistrellus pipistrellus"


def call_like(level: float = 0.3, seed: int = 0) -> np.ndarray:
    """Return a clip of noise with a falling chirp from 70 to 45 kHz and a constant tail."""
    generator = np.random.default_rng(seed)
    wave = 2e-3 * generator.standard_normal(SAMPLES)
    time = np.arange(round((CALL[1] - CALL[0]) * RATE)) / RATE
    hertz = BAND[0] + (BAND[1] - BAND[0]) * np.exp(-time / 1e-3)
    chirp = np.hanning(len(time)) * np.sin(2 * np.pi * hertz.cumsum() / RATE)
    start = round(CALL[0] * RATE)
    wave[start : start + len(time)] += level * chirp
    return wave.astype("f4")


def event_boxes(bats: ai.Classifier, *, seconds: float = 0, hertz: float = 0) -> torch.Tensor:
    """Return the cells of the call, with a margin to all sides."""
    axes = bats.front_end.axes(SAMPLES)
    times, band = (CALL[0] - seconds, CALL[1] + seconds), (BAND[0] - hertz, BAND[1] + hertz)
    return event_cells([(*times, *band)], *axes)[None, None]


@pytest.fixture(scope="module")
def bats() -> ai.Classifier:
    pytest.importorskip("batdetect2", reason="needs the package batdetect2")
    return from_batdetect2()


@pytest.fixture(scope="module")
def api(bats):
    with np.errstate():  # which batdetect2 sets when it is imported
        from batdetect2 import api
    return api


@pytest.fixture(scope="module")
def view(bats) -> ai.View:
    return bats.front_end.analyse(torch.from_numpy(call_like())[None, None])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_network_sees_batdetects_own_spectrogram(bats, api, seed):
    wave = call_like(seed=seed)
    expected = api.generate_spectrogram(wave)
    cells = bats.front_end(torch.from_numpy(wave)[None, None])
    found = bats.network.spectrogram(cells)
    assert expected.max() > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_probabilities_are_the_peaks_of_batdetects_heat_map(bats, api, view):
    with torch.no_grad():
        heat = api.model(api.generate_spectrogram(call_like())).pred_class[0, :-1]
        found = bats.probabilities(bats.logits(view.cells, view))[0]
        places = bats.network.heat(view.cells)[0].sigmoid()
    torch.testing.assert_close(found, heat.amax((1, 2)).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(places, heat, rtol=0, atol=1e-5)
    assert bats.classes[int(found.argmax())] == SPECIES
    assert found.max() > 0.5


def test_the_same_species_is_detected_where_the_call_is(api):
    detections, _, _ = api.process_audio(call_like())
    best = max(detections, key=lambda found: found["class_prob"])
    assert best["class"] == SPECIES
    assert abs(best["start_time"] - CALL[0]) < 0.004


def test_cells_are_the_band_that_batdetect_keeps(bats):
    frequencies = bats.front_end.frequencies
    assert (frequencies[0], frequencies[-1], len(frequencies)) == (10500, 120000, 220)
    assert bats.front_end.num_frames(SAMPLES) == 516
    assert bats.duration == SAMPLES / RATE
    assert bats.licence.startswith("CC BY-NC")


@pytest.mark.parametrize(("asked", "frames"), [(0.01, 64), (0.0655, 128), (0.5, 1024)])
def test_durations_are_rounded_to_what_the_network_takes(bats, asked, frames):
    other = from_batdetect2(duration=asked)
    assert other.duration == (frames + 3) * 128 / RATE
    cells = other.front_end(torch.zeros(1, 1, round(other.duration * RATE)) + 1e-3)
    assert other.network.spectrogram(cells).shape == (1, 1, 128, frames // 2)


def test_other_lengths_and_durations_are_named(bats):
    with pytest.raises(ValueError, match=r"has 501 frames: .* a multiple of 64 and 4 at the ends"):
        bats.logits(torch.zeros(1, 1, 220, 501))
    with pytest.raises(ValueError, match="duration is -1: expected a number of seconds above 0"):
        from_batdetect2(duration=-1)
    with pytest.raises(FileNotFoundError):
        from_batdetect2("no.pth.tar")


def test_weights_of_another_spectrogram_are_refused(bats, tmp_path):
    from batdetect2.detector.parameters import DEFAULT_MODEL_PATH

    content = torch.load(DEFAULT_MODEL_PATH, map_location="cpu", weights_only=True)
    content["params"]["spec_scale"] = "log"
    torch.save(content, tmp_path / "log.pth.tar")
    with pytest.raises(ValueError, match=r"spec_scale='log', expected 'pcen'"):
        from_batdetect2(tmp_path / "log.pth.tar")


def test_importing_leaves_numpy_and_threads_as_they_are(bats):
    assert np.geterr()["divide"] == "warn"


def test_the_smoothing_is_the_recursion():
    spectrogram = BatSpectrogram(RATE, 128)
    values = torch.rand(1, 1, 3, 700, generator=torch.Generator().manual_seed(0)).double() * 1e6
    state, expected = torch.ones(1, 1, 3).double(), []
    for column in values.unbind(-1):
        state = spectrogram.weight * column + (1 - spectrogram.weight) * state
        expected.append(state)
    torch.testing.assert_close(spectrogram._smoothed(values), torch.stack(expected, -1))


def test_the_spectrogram_is_differentiable(bats):
    cells = torch.rand(1, 1, 4, 68, generator=torch.Generator().manual_seed(0)).double() * 40 - 60
    spectrogram = BatSpectrogram(RATE, 2)
    assert torch.autograd.gradcheck(spectrogram, cells.requires_grad_(), eps=1e-4, atol=1e-4)


def test_a_clip_in_a_batch_is_the_clip_alone(bats, view):
    waves = torch.from_numpy(np.stack([call_like(), call_like(0.02, seed=3)]))[:, None]
    both = bats.front_end.analyse(waves)
    with torch.no_grad():
        together, alone = bats.logits(both.cells, both), bats.logits(view.cells, view)
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_planes_have_low_frequencies_first_and_all_frames(bats, view):
    seen = []
    layer = bats.network.detector.conv_up_4
    with (
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output)),
        torch.no_grad(),
    ):
        bats.logits(view.cells, view)
    plane = bats.to_plane("detector.conv_up_4", seen[0])
    assert plane.shape == (1, 32, 128, 258)
    assert torch.equal(plane[..., 1:-1], seen[0].flip(2))
    with pytest.raises(ValueError, match=r"have frequency and time, such as detector.conv_dn_1"):
        bats.to_plane("detector.att", torch.zeros(1, 3, 4))


@pytest.mark.parametrize("method", ["saliency", "layercam", "hirescam", "guided_backprop"])
def test_maps_lie_on_the_call(bats, view, method):
    label = bats.classes.index(SPECIES)
    attribution = ai.METHODS[method](bats).explain(view, label).attribution
    boxes = event_boxes(bats)
    share = float(attribution.clamp(min=0)[boxes].sum() / attribution.clamp(min=0).sum())
    assert share > 4 * boxes.float().mean()


def test_the_call_keeps_the_species_and_the_rest_does_not(bats, view):
    label = bats.classes.index(SPECIES)
    boxes = event_boxes(bats, seconds=1e-3, hertz=5e3).float()
    quiet = view.cells.quantile(0.05)
    kept, left = (quiet + (view.cells - quiet) * mask for mask in (boxes, 1 - boxes))
    with torch.no_grad():
        whole, inside, outside = (
            float(bats.probabilities(bats.logits(cells, view))[0, label])
            for cells in (view.cells, kept, left)
        )
    assert whole > 0.5
    assert inside > 0.5 * whole
    assert outside < 0.1 * whole


def test_boxes_of_an_annotation_file_are_the_truth_of_a_set(bats, tmp_path):
    save_audio(tmp_path / "night.wav", call_like(), RATE)
    box = {"start_time": CALL[0], "end_time": CALL[1], "class": SPECIES}
    box |= {"low_freq": BAND[0], "high_freq": BAND[1]}
    content = {"id": "night.wav", "annotation": [box], "time_exp": 1}
    (tmp_path / "anns").mkdir()
    (tmp_path / "anns" / "night.wav.json").write_text(json.dumps(content))
    (tmp_path / "meta.csv").write_text(f"path,label,fold\nnight.wav,{SPECIES},1\n")
    data = ai.open_dataset(
        f"{tmp_path / 'meta.csv'}?events=anns",
        sample_rate=RATE,
        duration=bats.duration,
        normalize=False,
        classes=bats.classes,
    )
    method = ai.SaliencyInterpreter(bats)
    predict = ai.Predict(bats, method, masks=["topK_5"], target=ai.TrueLabels())
    predict.predict_set(data, tmp_path / "run")
    (table,) = (tmp_path / "run" / "csvs").glob("*.csv")
    row = pd.read_csv(table).iloc[0]
    expected = method.explain(
        bats.front_end.analyse(torch.from_numpy(call_like())[None, None]),
        bats.classes.index(SPECIES),
    ).attribution.clamp(min=0)
    boxes = event_boxes(bats)
    assert row["mass"] == pytest.approx(float(expected[boxes].sum() / expected.sum()), abs=2e-3)
    assert {"AUPRC", "AUROC", "rank", "pointing", "time_IoU"} <= set(row.index)
    assert "SI_SDR" not in row.index  # a box has no sound of its own
    facts = pd.read_csv(tmp_path / "run" / "diagnostics.csv").iloc[0]
    assert facts["foreground_share"] == pytest.approx(float(boxes.float().mean()))


def test_ultrasound_is_saved_as_it_is_and_ten_times_slower(bats, tmp_path, monkeypatch):
    result = ai.Predict(bats, ai.SaliencyInterpreter(bats), masks=["topK_5"]).predict(
        call_like(), RATE
    )
    assert result.audio("topK_5").sample_rate == RATE
    folder = result.save(tmp_path / "clip")
    exact, rate = soundfile.read(folder / "topK_5_in.wav", dtype="float32")
    slow, slow_rate = soundfile.read(folder / "topK_5_in_10_times_slower.wav", dtype="float32")
    assert (rate, slow_rate) == (RATE, RATE / 10)
    assert len(exact) == len(slow) == SAMPLES
    np.testing.assert_allclose(slow, exact, atol=2**-15)
    assert "played 10 times slower" in result._repr_html_()
    again = result.save(tmp_path / "clip", [])
    assert {path.name for path in again.glob("*.wav")} == {
        "original.wav",
        "original_10_times_slower.wav",
    }


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    for make, package, extra in (
        (from_batdetect2, "batdetect2", "bats"),
        (ai.from_torchcrepe, "torchcrepe", "pitch"),
        (ai.from_silero_vad, "silero-vad", "speech"),
    ):
        with pytest.raises(ImportError, match=rf"{package} is not .*audiointerp\[{extra}\]"):
            make()
