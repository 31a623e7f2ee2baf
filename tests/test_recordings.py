"""Recordings longer than the model's clips: windows, timeline, joined maps, what is left out."""

import json
import re
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import REPOSITORY
from torch import nn

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.dataset import AudioError, load_audio
from audiointerp.model import build_model
from audiointerp.plots import Picture
from audiointerp.runs.files import compare_methods, interpret_files
from audiointerp.runs.names import has_several_labels, labelled
from audiointerp.runs.result import Interpretation
from audiointerp.runs.timeline import Overview, reduce_frames
from audiointerp.runs.windows import Coverage, Windowing, choose_windows, first_frames, round_hop

RATE = 8000
CLASSES = ("low", "high", "hiss")


class Bands(nn.Module):
    """Score 'low', 'high' and 'hiss' by how loud some bands are, so that answers are known."""

    def forward(self, cells):
        loud = cells.mean(3)[:, 0] / 10
        low, high = loud[:, 2:10].amax(1), loud[:, 20:30].amax(1)
        return torch.stack([low, high, loud.amin(1) + 2], 1)


def make_front_end():
    return ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=64, hop_length=32)


@pytest.fixture(scope="module")
def bands():
    return ai.classifier(
        Bands(), front_end=make_front_end(), classes=CLASSES, duration=1.0, normalize=True
    )


@pytest.fixture(scope="module")
def predict(bands):
    return ai.Predict(bands, ai.SaliencyInterpreter(bands), masks=["topK_30", "minmax"])


@pytest.fixture
def quick_pictures(monkeypatch):
    """Draw nothing: pictures are slow and tested elsewhere."""
    for name in ("result.plot_masks", "result.plot_interpretation", "recording.plot_recording"):
        monkeypatch.setattr(f"audiointerp.runs.{name}", lambda *_, **__: Picture(figsize=(1, 1)))


def tone(hertz, seconds, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def scene(rate=RATE):
    """Return 6 s: a low tone, a high one from 3 s to 4 s, silence from 5 s on."""
    sound = 0.1 * tone(700, 6, rate)
    sound[3 * rate : 4 * rate] = 0.8 * tone(3000, 1, rate)
    sound[5 * rate :] = 0
    return sound.astype(np.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "night.wav"
    soundfile.write(path, scene(), RATE, subtype="FLOAT")
    return path


# ---------- what is heard ----------


def test_a_dog_at_second_12_is_in_the_timeline_and_interpreted(tmp_path):
    rate = 32000
    dog = load_audio(REPOSITORY / "samples" / "dog.wav", rate)[0][0].numpy()
    room = load_audio(REPOSITORY / "noises" / "room.wav", rate, 5.0)[0][0].numpy()
    sound = 0.1 * np.tile(room, 4)
    sound[12 * rate : 12 * rate + len(dog)] += dog[: 8 * rate]
    soundfile.write(tmp_path / "yard.flac", sound / np.abs(sound).max(), rate, subtype="PCM_24")
    classifier = ai.load(REPOSITORY / "weights" / "synthetic_logmel.safetensors")
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["topK_30"])
    result = predict.predict(tmp_path / "yard.flac")
    timeline = result.timeline
    heard = timeline[timeline["label"] == "dog"]
    assert heard["start"].tolist() == [10.0, 12.5, 15.0]
    assert (heard["probability"] > 0.9).all()
    assert (timeline.loc[timeline["end"] <= 10, "p(dog)"] < 0.5).all()
    assert result.label == result.target_label == "dog"
    assert result.best.section.start == 12.5
    joined = result.attribution[0, 0].abs().sum(0)
    times = result.heard.times(np.arange(len(joined)))
    known = joined[(times >= 10) & (times <= 20)]
    bark = joined[(times >= 12.5) & (times <= 17)]
    assert float(bark.mean()) > 1.3 * float(known.nanmean())


@pytest.mark.parametrize("rate", [RATE, 11025])
def test_probabilities_are_those_of_windows_cut_by_hand(predict, tmp_path, rate):
    path = tmp_path / "night.wav"
    soundfile.write(path, scene(rate), rate, subtype="FLOAT")
    result = predict.predict(path)
    whole = load_audio(path, RATE)[0]  # one gain for all windows
    for row, (start, end) in enumerate(result.coverage.windows):
        cut = whole[:, round(start * RATE) :][:, :RATE]
        assert cut.shape == (1, RATE)
        assert end - start == pytest.approx(1, abs=1e-3)
        alone = predict.predict_batch(cut[None], ["cut"])[0]
        np.testing.assert_allclose(result.heard.probabilities[row], alone.probabilities, atol=1e-6)
        assert result.timeline["label"][row] == alone.label
    for window in result.windows:
        cut = whole[:, round(window.section.start * RATE) :][:, :RATE]
        alone = predict.predict_batch(cut[None], ["cut"])[0]
        pd.testing.assert_frame_equal(window.metrics, alone.metrics, atol=1e-5)
        assert torch.allclose(window.attribution, alone.attribution, atol=1e-6)


def test_a_rare_event_is_interpreted_beside_what_is_heard_all_the_time(predict, file):
    result = predict.predict(file, windows=2)
    assert [window.target_label for window in result.windows] == ["low", "high"]
    assert result.windows[1].section[1:] == (3.0, 4.0)
    assert result.labels[:2] == ("high", "low")
    assert result.label == "high"


def test_a_class_that_is_asked_for_is_explained_where_it_is_the_most_probable(predict, file):
    result = predict.predict(file, target="high", windows=1)
    assert {window.target_label for window in result.windows} == {"high"}
    assert result.best.section.start == 3.0
    assert result.timeline["p(high)"].idxmax() == result.coverage.interpreted[0]
    everywhere = predict.predict(file, target="high", windows="all")
    assert len(everywhere.windows) == len(everywhere.timeline)


def test_silent_windows_are_marked_and_chosen_last(predict, file):
    result = predict.predict(file, hop=1.0)
    assert result.timeline["silent"].tolist() == [False] * 5 + [True]
    assert not result.timeline["silent"][list(result.coverage.interpreted)].any()
    everything = predict.predict(file, hop=1.0, windows="all")
    last = everything.windows[-1]
    assert last.section.start == 5
    assert last.label == everything.timeline["label"][5] == "hiss"
    assert "hiss" not in everything.labels
    assert everything.explained_labels[-1] == "hiss"
    assert not last.audio().waveform.any()
    assert not last.audio("topK_30").waveform.any()
    assert last.metrics.notna().all(axis=None)


def test_a_recording_that_is_silent_throughout_is_refused(predict, tmp_path):
    soundfile.write(tmp_path / "mute.wav", np.zeros(3 * RATE), RATE)
    with pytest.raises(AudioError, match=r"mute\.wav: the waveform is silent"):
        predict.predict(tmp_path / "mute.wav")


def test_a_waveform_gives_what_its_file_gives(predict, file):
    from_file = predict.predict(file, start=0.5, end=5.5)
    from_memory = predict.predict(scene(), RATE, start=0.5, end=5.5)
    pd.testing.assert_frame_equal(from_file.timeline, from_memory.timeline)
    assert torch.equal(from_file.attribution.nan_to_num(9), from_memory.attribution.nan_to_num(9))
    assert from_memory.clip == "waveform"


# ---------- what fits into one window ----------


@pytest.mark.parametrize("seconds", [0.6, 1.0, 1.015])
def test_what_fits_into_a_window_is_a_clip_bit_for_bit(predict, tmp_path, seconds):
    path = tmp_path / "clip.wav"
    soundfile.write(path, scene()[: round(seconds * RATE)], RATE, subtype="FLOAT")
    result = predict.predict(path)
    waveform = load_audio(path, RATE, 1.0)[0]
    expected = predict.predict_batch(waveform[None], ["clip"])[0]
    assert isinstance(result, Interpretation)
    assert result.section is None
    assert result.summary() == expected.summary()
    assert torch.equal(result.view.waveform, expected.view.waveform)
    assert torch.equal(result.attribution, expected.attribution)
    pd.testing.assert_frame_equal(result.metrics, expected.metrics, check_exact=True)


def test_more_than_rounding_is_a_recording(predict, tmp_path):
    soundfile.write(tmp_path / "clip.wav", scene()[: round(1.03 * RATE)], RATE)
    result = predict.predict(tmp_path / "clip.wav")
    assert [times for times in result.coverage.windows] == [(0.0, 1.0), (0.03, 1.03)]


def test_a_part_that_fits_into_a_window_knows_where_it_is(predict, file):
    result = predict.predict(file, start=3, end=4)
    assert isinstance(result, Interpretation)
    assert result.clip == "night, 3–4 s"
    assert (result.summary()["start"], result.summary()["end"]) == (3, 4)
    assert result.label == "high"


def test_a_model_of_no_duration_takes_a_recording_whole_unless_windows_are_asked_for(
    file, monkeypatch
):
    network = ai.classifier(Bands(), front_end=make_front_end(), classes=CLASSES, normalize=True)
    predict = ai.Predict(network, ai.SaliencyInterpreter(network), masks=["topK_30"])
    assert predict.predict(file).view.waveform.shape[-1] == 6 * RATE
    assert len(predict.predict(file, window=2.0).timeline) == 5
    monkeypatch.setattr("audiointerp.runs.passes.LONGEST_WHOLE", 5.0)
    with pytest.raises(AudioError, match=r"6 s are too long .* such as window=10"):
        predict.predict(file)


# ---------- windows ----------


def test_start_end_window_and_hop_are_obeyed_and_the_rest_is_reported(predict, file):
    result = predict.predict(file, start=0.5, end=5.75, window=0.5, hop=2)
    assert result.coverage.windows == ((0.5, 1.0), (2.5, 3.0), (4.5, 5.0), (5.25, 5.75))
    left = [(0.0, 0.5), (1.0, 2.5), (3.0, 4.5), (5.0, 5.25), (5.75, 6.0)]
    assert result.coverage.not_analysed == left
    assert str(result.coverage) == (
        "6 s, 4 windows of 0.5 s every 2 s, 4 interpreted; not analysed: 4 s in 5 stretches"
    )
    assert np.isnan(result.heard.overview[:, 300]).all()
    part = predict.predict(file, start=1, end=5, windows=1)
    assert str(part.coverage).startswith("6 s, 7 windows of 1 s every 0.5 s, 1 interpreted (3–4 s)")
    assert str(part.coverage).endswith("not analysed: 0–1 s, 5–6 s")
    assert len(part.coverage.not_interpreted) == 6


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"audio": scene(), "sample_rate": RATE, "start": 7}, AudioError, "given: has no part"),
        ({"start": 7}, AudioError, "no part from 7 s, it is 6 s long"),
        ({"start": 4, "end": 2}, ValueError, "end=2 s is not after start=4 s"),
        ({"window": 0}, ValueError, "window is 0: expected seconds above 0"),
        ({"hop": -1.0}, ValueError, "hop is -1.0: expected seconds above 0"),
        ({"windows": 0}, ValueError, "windows is 0: expected how many"),
        ({"windows": "some"}, ValueError, "windows is 'some': .* or 'all'"),
        ({"target": "loud"}, ValueError, "unknown class 'loud'"),
    ],
)
def test_a_wrong_request_is_refused(predict, file, change, error, message):
    with pytest.raises(error, match=message):
        predict.predict(**({"audio": file} | change))


@pytest.mark.parametrize("front_end", [make_front_end(), ai.LogMelSTFTSpectrogram()])
@pytest.mark.parametrize("hop", [0.001, 0.33, 2.5])
def test_a_hop_is_rounded_up_to_whole_frames(front_end, hop):
    frames = round_hop(hop, front_end) * front_end.sample_rate / front_end.hop_length
    assert frames == pytest.approx(round(frames), abs=1e-6)
    assert 0 <= round_hop(hop, front_end) - hop < front_end.hop_length / front_end.sample_rate


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_choice_of_windows_keeps_its_laws(data):
    count = data.draw(st.integers(1, 12))
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    chances = np.array(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    silent = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    most = data.draw(st.integers(1, 12))
    times = [(n * 0.5, n * 0.5 + 1) for n in range(count)]
    chosen = choose_windows(times, np.arange(count), labels, chances, silent, most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(most, count)
    assert silent[chosen].sum() == max(0, min(most, count) - (~silent).sum())
    heard = np.flatnonzero(~silent)
    if len(set(labels[heard])) <= most:
        for label in set(labels[heard]):
            of = heard[labels[heard] == label]
            assert chances[of].max() in chances[np.intersect1d(chosen, of)]
    if most == 1:
        heard = ~silent if (~silent).any() else silent
        assert chances[chosen[0]] == chances[heard].max()


def test_windows_that_do_not_overlap_are_preferred():
    times = [(n * 0.5, n * 0.5 + 1) for n in range(5)]
    chances = np.array([0.9, 0.89, 0.5, 0.4, 0.6])
    one = np.zeros(5, dtype=int)
    arguments = (times, np.arange(5), one, chances, one.astype(bool))
    assert choose_windows(*arguments, 3) == [0, 2, 4]
    assert choose_windows(*arguments, 4) == [0, 1, 2, 4]
    assert choose_windows(*arguments, "all") == [0, 1, 2, 3, 4]


def test_coverage_of_the_last_window_is_not_confused_by_rounding():
    windows = ((0.0, 5.0), (2.5, 7.5), (5.00001, 10.00001))
    assert Coverage(10.00003, 5.0, 2.5, windows, (0,)).not_analysed == []


# ---------- joined maps ----------


def test_the_joined_map_is_the_mean_of_the_maps_frame_by_frame(predict, file):
    result = predict.predict(file, start=0.1, target="low", windows=4)
    front_end = result.processor
    step = front_end.hop_length / RATE
    joined = result.attribution[0, 0]
    assert joined.shape == (33, front_end.num_frames(round(5.9 * RATE)))
    times = result.heard.times(np.arange(joined.shape[1]))
    for frame, time in enumerate(times):
        found = []
        for window in result.windows:
            place = (time - window.section.start) / step
            if -0.5 < place < window.attribution.shape[-1] - 0.5:
                found.append(window.attribution[0, 0, :, round(place)])
        if found:
            expected = torch.stack(found).double().mean(0).float()
            assert torch.allclose(joined[:, frame], expected, atol=1e-7)
        else:
            assert joined[:, frame].isnan().all()
    assert 0 < int(joined[0].isnan().sum()) < joined.shape[1]


def test_labels_have_maps_of_their_own(predict, file):
    result = predict.predict(file, windows="all")
    assert set(result.explained_labels) == {w.target_label for w in result.windows}
    high, low = result.join("high")[0, 0, 0], result.join("low")[0, 0, 0]
    times = result.heard.times(np.arange(len(high)))
    assert high[(times > 3.1) & (times < 3.9)].isfinite().all()
    assert high[times < 1].isnan().all()
    assert low[times < 1].isfinite().all()
    with pytest.raises(ValueError, match="no window explains 'owl': there are"):
        result.join("owl")


def test_the_last_window_is_placed_to_the_nearest_frame():
    front_end = make_front_end()  # 4 ms from frame to frame
    times = [(1.0, 2.0), (1.5, 2.5), (1.7021, 2.7021)]
    assert first_frames(times, front_end).tolist() == [0, 125, 176]


def test_frames_are_reduced_column_by_column():
    values = np.array([[1.0, 5.0, 2.0, 4.0, 3.0]], dtype=np.float32)
    frames = np.array([0, 1, 2, 7, 8])
    columns, loudest = reduce_frames(frames, values, 10, 5, np.maximum)
    assert (columns.tolist(), loudest.tolist()) == ([0, 1, 3, 4], [[5, 2, 4, 3]])
    assert reduce_frames(frames, values, 10, 5, np.add)[1].tolist() == [[3, 2, 4, 3]]
    overview = Overview(1, 10, most=5)
    overview.add(0, values)
    assert overview.picture()[0, :3].tolist() == [5, 4, 3]
    assert np.isnan(overview.picture()[0, 3:]).all()


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_waveform_networks_and_several_labels(file, head):
    class Energy(nn.Module):
        def forward(self, waveform):
            high = waveform.diff(dim=-1).square().mean(-1)
            low = waveform.square().mean(-1)
            return 3 * torch.stack([low, 2 * high - 0.2, 0.1 - low], 1)

    network = ai.classifier(
        Energy(),
        front_end=ai.WaveformFrontEnd(sample_rate=RATE, n_fft=64, hop_length=32),
        classes=CLASSES,
        head=head,
        duration=1.0,
        normalize=True,
    )
    predict = ai.Predict(network, ai.SaliencyInterpreter(network), masks=["topK_30"])
    result = predict.predict(file, target=ai.Top(2), windows=2)
    assert len(result.windows) == 4
    assert len(result.coverage.interpreted) == 2
    assert result.best.section.start == 3.0
    joined = result.attribution[0, 0]
    assert joined[:, 760].isfinite().all()


# ---------- folders ----------


def read_tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_saved_recording_holds_timeline_maps_and_windows(predict, file, tmp_path):
    result = predict.predict(file, windows=3)
    folder = result.save(tmp_path / "out", ["topK_30"], sound="flac")
    windows = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert windows == [f"{w.section.start:05.3f}s" for w in result.windows]
    for name, window in zip(windows, result.windows, strict=True):
        summary = json.loads((folder / name / "summary.json").read_text())
        assert summary["start"] == window.section.start
        assert (folder / name / "topK_30_in.flac").is_file()
        found = np.load(folder / name / "attribution.npy")
        assert np.array_equal(found, window.attribution[0, 0].numpy())
    table = pd.read_csv(folder / "timeline.csv", index_col=0, keep_default_na=False)
    pd.testing.assert_frame_equal(table, result.timeline)
    assert np.array_equal(np.load(folder / "probabilities.npy"), result.heard.probabilities)
    for label in result.explained_labels:
        saved = np.load(folder / f"attribution@{label}.npz")
        whole = result.join(label)[0, 0].numpy()
        known = np.isfinite(whole[0])
        assert np.array_equal(saved["attribution"], whole[:, known])
        times = result.heard.times(np.flatnonzero(known))
        np.testing.assert_allclose(saved["times"], times)
        assert len(saved["frequencies"]) == len(whole)
    about = json.loads((folder / "recording.json").read_text())
    assert about == json.loads(json.dumps(result.summary()))
    assert about["not_interpreted"]
    assert (folder / "recording.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick_pictures")
def test_saving_replaces_an_earlier_result_and_nothing_else(predict, file, tmp_path, monkeypatch):
    recording = predict.predict(file, windows=2)
    clip = predict.predict(file, start=3, end=4)
    folder = tmp_path / "out"
    clip.save(folder)
    recording.save(folder, ["topK_30"])
    assert not (folder / "summary.json").exists()
    clip.save(folder)
    assert not (folder / "recording.json").exists()
    recording.save(folder, ["topK_30"])
    before = read_tree(folder)
    monkeypatch.setattr("audiointerp.runs.recording._plot", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recording.save(folder, ["minmax"])
    assert read_tree(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no earlier result"):
        recording.save(tmp_path / "mine")
    with pytest.raises(ValueError, match="unknown mask 'topk_30'"):
        recording.save(tmp_path / "new", ["topk_30"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "night.wav", "out"]


def test_a_recording_shows_itself(predict, file):
    result = predict.predict(file, windows=2)
    assert result._repr_html_().count("<audio") == 2
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    assert result.plot("topK_30")._repr_png_().startswith(b"\x89PNG")
    assert np.array_equal(result.audio("topK_30").waveform, result.best.audio("topK_30").waveform)
    assert list(result.metrics.index.names) == ["start", "explained", "mask"]
    assert len(result.metrics) == 4
    assert result.window_at(3.4).section.start == 3.0
    assert result.window_at(3.4, "low").target_label == "low"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("dog", "x@dog"),
        ("a_7", "x@a_7_7"),
        ("a/b", "x@a_b_7"),
        ("a_b", "x@a_b"),
        ("..", "x@___7"),
        ("", "x@_7"),
    ],
)
def test_labels_make_names_of_files_that_differ(label, name):
    assert labelled("x", label, 7) == name


def test_names_have_labels_where_a_clip_may_have_several():
    several = {
        True: (ai.Top(2), ai.Above(0.5), ["a", "b"]),
        False: (None, "a", 3, ["a"], ai.Top(1)),
    }
    for expected, targets in several.items():
        assert [has_several_labels(target) for target in targets] == [expected] * len(targets)


# ---------- many files, the command line ----------


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
        found = rows.set_index("mask")[list(ai.METRICS)].astype(float)
        pd.testing.assert_frame_equal(found, window.metrics[list(ai.METRICS)], atol=1e-4)


@pytest.mark.usefixtures("quick_pictures")
def test_the_table_of_clips_alone_has_the_columns_it_had(weights, file, tmp_path):
    soundfile.write(tmp_path / "clip.wav", scene()[:RATE], RATE)
    result = interpret_files([tmp_path / "clip.wav"], [weights], tmp_path / "out", **QUICK)
    columns = ["model", "method", "clip", "label", "probability", "mask", *ai.METRICS]
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


# ---------- memory ----------


@pytest.mark.skipif(sys.platform == "win32", reason="needs the peak memory of a process")
def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path):
    script = textwrap.dedent(
        """
        import resource, sys, torch, audiointerp as ai
        from audiointerp.runs.passes import hear, open_recording
        from audiointerp.speed.scoring import Scorer

        class Mean(torch.nn.Module):
            def forward(self, cells):
                return cells[:, 0, :2].mean(2)

        torch.set_num_threads(1)
        network = ai.classifier(
            Mean(), front_end=ai.LogMelSTFTSpectrogram(), classes=["a", "b"], duration=5.0
        )
        job = ai.Predict(network, ai.SaliencyInterpreter(network)).job
        for file in sys.argv[1:]:
            recording = open_recording(file, network, ai.Windowing(hop=5.0))
            heard = hear(recording, job, Scorer(network), most=1)
            print(len(heard.silent), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        """
    )
    rate = 44100
    block = (0.3 * np.sin(np.arange(rate) / 50)).astype(np.float32)
    files = [tmp_path / "minute.wav", tmp_path / "ten_minutes.wav"]
    for file, minutes in zip(files, (1, 10), strict=True):
        with soundfile.SoundFile(file, "w", rate, 1, "PCM_16") as opened:
            for _ in range(60 * minutes):
                opened.write(block)
    command = [sys.executable, "-c", script, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (short, before), (long, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (short, long) == (12, 120)
    # The sound alone would take 100 MB at the file's rate, 77 MB at the model's.
    assert after - before < 30


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
