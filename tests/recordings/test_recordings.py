"""Recordings longer than the model's clips: windows, timeline, joined maps, what is left out."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nights import CLASSES, RATE, Bands, make_front_end, scene
from repository import REPOSITORY
from torch import nn

import audiointerp as ai
from audiointerp.dataset import AudioError, load_audio
from audiointerp.runs.names import has_several_labels, labelled
from audiointerp.runs.result import Interpretation
from audiointerp.runs.timeline import Overview, reduce_frames
from audiointerp.runs.windows import Coverage, choose_windows, first_frames, round_hop

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
    with pytest.raises(AudioError, match=r"mute\.wav: silent"):
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


# ---------- memory ----------


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs /proc/self/status, which Linux has"
)
def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path):
    script = textwrap.dedent(
        r"""
        import re, sys, torch, audiointerp as ai
        from pathlib import Path
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
            # Of this process alone: getrusage counts that of the process that started it.
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
            print(len(heard.silent), int(peak) // 1024)
        """
    )
    rate = 44100
    block = (0.3 * np.sin(np.arange(rate) / 50)).astype(np.float32)
    files = [tmp_path / "five_minutes.wav", tmp_path / "twenty_minutes.wav"]
    for file, minutes in zip(files, (5, 20), strict=True):
        with soundfile.SoundFile(file, "w", rate, 1, "PCM_16") as opened:
            for _ in range(60 * minutes):
                opened.write(block)
    command = [sys.executable, "-c", script, *map(str, files)]
    # What is freed goes back to the system, so that only what is held counts.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (short, before), (long, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (short, long) == (60, 240)
    # 15 minutes of sound alone would take 159 MB at the file's rate, 115 MB at the model's.
    assert after - before < 10
