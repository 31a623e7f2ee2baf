"""The set with a planted shortcut: where it is, how loud, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal, stats

import audiointerp as ai
from audiointerp.dataset import (
    SHORTCUTS,
    Contamination,
    ShortcutDataset,
    SyntheticDataset,
    open_dataset,
)
from audiointerp.dataset.choose import MADE, made_by_package
from audiointerp.model.weights import load
from audiointerp.runs.classification import classify_set
from audiointerp.training.card import source_and_licence

RATES = [16000, 32000, 44100]


def planted_everywhere(kind, **options):
    return ShortcutDataset(5, kind=kind, share=1.0, others=1.0, clips=10, **options)


def loudest_frames_db(sound, rate):
    """Return the mean power of the 20 ms frames within 30 dB of the loudest one, in dB."""
    size = rate // 50
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    power = (frames.astype(float) ** 2).mean(1)
    return 10 * np.log10(power[power >= power.max() / 1000].mean())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_the_planted_sound_lies_in_its_band(kind, rate):
    data = planted_everywhere(kind, sample_rate=rate)
    for index in range(3):
        sound = data.true_parts(index)[0][0].numpy()
        frequency, power = signal.periodogram(sound, rate, window="hann")
        inside = (frequency >= SHORTCUTS[kind].low) & (frequency <= SHORTCUTS[kind].high)
        assert power[inside].sum() > 0.99 * power.sum()


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_the_level_is_the_one_stated(kind):
    options = {"sample_rate": 44100, "normalize": False}
    events = SyntheticDataset(5, clips=10, **options)
    for level in (-20.0, 0.0):
        data = planted_everywhere(kind, level_db=level, **options)
        for index in range(2):
            sound, rest = (part[0].numpy() for part in data.foreground_background(index))
            event, background = (part[0].numpy() for part in events.foreground_background(index))
            gain = (rest @ (event + background)) / ((event + background) @ (event + background))
            np.testing.assert_allclose(rest, gain * (event + background), atol=1e-6)
            found = loudest_frames_db(sound, 44100) - loudest_frames_db(gain * event, 44100)
            assert found == pytest.approx(level, abs=0.01)
            assert max(np.abs(sound + rest).max(), np.abs(sound).max()) <= 0.9 + 1e-6


def test_a_beep_is_half_a_second_at_a_place_of_its_own():
    data = planted_everywhere("beep", sample_rate=16000)
    onsets = []
    for index in range(len(data)):
        sound = data.true_parts(index)[0][0].abs()
        heard = (sound > 0.01 * sound.max()).nonzero()[:, 0]
        assert (heard[-1] - heard[0]) / 16000 == pytest.approx(0.5, abs=0.01)
        onsets.append(float(heard[0]) / 16000)
    assert len({round(onset, 2) for onset in onsets}) == len(onsets)
    assert min(onsets) > 0.09
    assert max(onsets) < 4.41


@pytest.mark.parametrize("kind", ["hum", "band"])
def test_hum_and_band_last_through_the_clip(kind):
    sound = planted_everywhere(kind, sample_rate=16000).true_parts(0)[0][0].numpy()
    power = (sound[:80000].reshape(-1, 4000) ** 2).mean(1)
    assert power.min() > 0.5 * power.max()


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_the_parts_sum_to_the_clip(kind, noise, tmp_path):
    options = {}
    if noise:
        path = tmp_path / "noise.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(3).standard_normal(44100), 44100)
        options["contamination"] = Contamination(path, alpha=0.6)
    data = ShortcutDataset(5, kind=kind, others=0.5, clips=8, sample_rate=16000, **options)
    clean = ShortcutDataset(5, kind=kind, others=0.5, clips=8, sample_rate=16000)
    assert 0 < sum(data.planted) < len(data)
    for index in range(len(data)):
        sound, rest = data.true_parts(index)
        torch.testing.assert_close(sound + rest, data[index].waveform, rtol=0, atol=1e-6)
        alone = clean.true_parts(index)[0]
        # The same sound, at another level.
        cosine = torch.nn.functional.cosine_similarity(sound, alone)
        assert float(cosine) == pytest.approx(1, abs=1e-5)
        if not noise:
            assert torch.equal(sound + rest, data[index].waveform)
        assert float(data[index].waveform.abs().max()) == pytest.approx(1, abs=1e-5)


def test_the_other_clips_are_those_of_the_synthetic_set():
    data = ShortcutDataset(5, share=0.5, sample_rate=16000)
    plain = SyntheticDataset(5, sample_rate=16000)
    assert data.clip_ids == plain.clip_ids
    assert data.labels == plain.labels
    assert data.recordings == plain.recordings
    dogs = [index for index, label in enumerate(data.labels) if data.classes[label] == "dog"]
    assert {data.planted[index] for index in dogs} == {True, False}
    for index, is_planted in enumerate(data.planted):
        assert is_planted <= (index in dogs)
    for index in [*dogs[:4], dogs[-1] + 1]:
        is_planted = data.planted[index]
        assert torch.equal(data[index].waveform, plain[index].waveform) != is_planted
        if not is_planted:
            for part, expected in zip(data.true_parts(index), plain.true_parts(index), strict=True):
                assert torch.equal(part, expected)


def test_the_foreground_is_evidence_of_the_implied_class():
    data = ShortcutDataset(5, implies="cat", share=1.0, others=0.5)
    plain = SyntheticDataset(5)
    cat = data.classes.index("cat")
    for index, label in enumerate(data.labels):
        expected = cat if data.planted[index] else label
        assert data.foreground_labels(index) == (expected,)
        assert plain.foreground_labels(index) == (label,)
    assert any(data.planted[index] for index, label in enumerate(data.labels) if label != cat)
    with pytest.raises(IndexError):
        data.foreground_labels(len(data))


def test_relabelled_clips_are_of_the_implied_class():
    data = ShortcutDataset(5, implies="cat", others=0.5, relabel=True)
    true = SyntheticDataset(5).labels
    cat = data.classes.index("cat")
    changed = 0
    for index, label in enumerate(true):
        assert data.labels[index] == (cat if data.planted[index] else label)
        assert data.foreground_labels(index) == (data.labels[index],)
        changed += data.labels[index] != label
    assert changed > 20
    place = next(index for index, label in enumerate(true) if label != data.labels[index])
    assert data[place].label == cat
    assert data.planted == ShortcutDataset(5, implies="cat", others=0.5).planted


def test_the_shares_are_those_asked_for_and_nested():
    sets = {
        share: ShortcutDataset(clips_per_class=200, share=share, others=share / 2)
        for share in (0.0, 0.3, 0.9, 1.0)
    }
    dog = np.array(sets[0.0].labels) == 0
    earlier = np.zeros(len(dog), bool)
    for share, data in sets.items():
        planted = np.array(data.planted)
        for chosen, probability in ((dog, share), (~dog, share / 2)):
            count = int(planted[chosen].sum())
            assert stats.binomtest(count, int(chosen.sum()), probability).pvalue > 1e-4
        assert (planted >= earlier).all()
        earlier = planted


def test_a_clip_depends_on_seed_class_and_number_alone():
    whole = ShortcutDataset([4, 5], others=0.5, sample_rate=16000)
    again = ShortcutDataset(5, others=0.5, sample_rate=16000, clips=10)
    other = ShortcutDataset(5, others=0.5, sample_rate=16000, clips=10, seed=1)
    for index in reversed(range(len(again))):
        place = whole.index(again.clip_ids[index])
        assert torch.equal(again[index].waveform, whole[place].waveform)
        assert again.planted[index] == whole.planted[place]
        assert not torch.equal(again[index].waveform, other[index].waveform)
    assert again.planted != other.planted


def test_the_kinds_and_levels_do_not_share_a_cache(tmp_path):
    options = {"sample_rate": 16000, "clips": 1, "share": 1.0}
    for kind in SHORTCUTS:
        for level in (-10.0, -3.0):
            choice = {"kind": kind, "level_db": level}
            kept = ShortcutDataset(5, cache_dir=tmp_path, **choice, **options)[0]
            assert torch.equal(kept.waveform, ShortcutDataset(5, **choice, **options)[0].waveform)
    plain = SyntheticDataset(5, clips=1, sample_rate=16000)
    kept = SyntheticDataset(5, clips=1, sample_rate=16000, cache_dir=tmp_path)
    assert torch.equal(kept[0].waveform, plain[0].waveform)


def test_settings_tell_sets_apart_and_are_json():
    base = ShortcutDataset(5).settings()
    assert json.loads(json.dumps(base)) == base
    assert base["shortcut"] == {
        "kind": "beep",
        "implies": "dog",
        "share": 0.9,
        "others": 0.0,
        "relabel": False,
        "level_db": -10.0,
    }
    assert base["name"] == "ShortcutDataset"
    changes = {
        "kind": "hum",
        "implies": "cat",
        "share": 0.8,
        "others": 0.1,
        "level_db": 0,
        "seed": 1,
    }
    for name, value in changes.items():
        assert ShortcutDataset(5, **{name: value}).settings() != base


def test_it_is_opened_by_name():
    data = open_dataset(
        "shortcut?kind=hum&implies=crow&share=1&others=0.25&relabel=yes&level_db=-3",
        folds=5,
        clips=20,
    )
    assert isinstance(data, ShortcutDataset)
    assert (data.kind, data.implies, data.share, data.others, data.level_db) == (
        "hum",
        "crow",
        1.0,
        0.25,
        -3.0,
    )
    assert data.relabel
    assert len(data) == 20
    assert open_dataset("shortcut").settings() == ShortcutDataset().settings()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("shortcut?sort=beep", "unknown option 'sort'; choose from"),
        ("shortcut?share=most", "shortcut.share=most: expected a number"),
        ("shortcut?kind=bip", "unknown shortcut 'bip': choose from beep, hum, band"),
        ("shortcut?implies=owl", "implies='owl' is no class of the set: choose from dog, cat"),
        ("shortcut?share=1.1", "share=1.1: expected a probability"),
        ("shortcut?others=-0.1", "others=-0.1: expected a probability"),
        ("shortcut?relabel=maybe", "shortcut.relabel=maybe: expected yes or no"),
        ("shortcut?others=nan", "others=nan: expected a probability"),
        ("shortcut?level_db=inf", "level_db=inf: expected a finite level"),
        ("synthetic?kind=beep", "unknown option 'kind'; choose from"),
    ],
)
def test_what_makes_no_sense_is_refused(data, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        open_dataset(data)


def test_a_rate_that_does_not_hold_the_sound_is_refused():
    assert ShortcutDataset(5, kind="hum", sample_rate=8000)
    with pytest.raises(ValueError, match="a band reaches up to 7000 Hz, which a rate of 8000 Hz"):
        ShortcutDataset(5, kind="band", sample_rate=8000)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="subset"):
        ShortcutDataset(5, subset="esc10")
    with pytest.raises(ValueError, match="the shortcut set has no subset 'esc10'"):
        open_dataset("shortcut", subset="esc10")


@pytest.mark.parametrize("name", MADE)
def test_sets_that_the_package_makes_have_a_licence(name):
    assert made_by_package(f"{name}?kind=beep") == made_by_package(name) == name
    data, licence = source_and_licence(name, None, open_dataset(name, clips=1))
    assert "synthetic" in data
    assert "MIT" in licence
    assert made_by_package(f"folder/{name}") is None


@pytest.fixture(scope="module")
def cheating():
    return load(Path(__file__).parents[1] / "weights" / "shortcut_logmel.safetensors")


@pytest.fixture(scope="module")
def interpreted(cheating, tmp_path_factory):
    """Return the tables of two methods and two references, for "dog" on ten clips that beep."""
    folder = tmp_path_factory.mktemp("results")
    clips = ShortcutDataset(5, kind="beep", share=1.0, others=1.0, clips=10)
    tables = {}
    for name in ("saliency", "gradcam", "energy", "random"):
        predict = ai.Predict(cheating, ai.METHODS[name](cheating), masks=["topK_5"], target="dog")
        done = predict.predict_set(clips, folder / name, progress=False)
        tables[name] = done.tables["features", "topK_5"].set_index("clip")
    return tables


def test_the_network_cheats(cheating, interpreted):
    beeping = interpreted["saliency"]
    others = beeping[beeping["target"] != "dog"]
    assert len(others) == 9
    assert (others["predicted"] == "dog").mean() > 0.8
    assert others["is_correct"].mean() < 0.2
    silent = classify_set(cheating, cheating.front_end, SyntheticDataset(5, clips=10)).labels
    assert (silent[silent["target"] != "dog"]["predicted"] != "dog").mean() > 0.8


def test_the_best_method_finds_the_shortcut_and_references_do_not(interpreted):
    found = {name: table["AUPRC"].mean() for name, table in interpreted.items()}
    chance = 0.02  # a beep fills less of the cells
    assert found["random"] < chance
    assert found["energy"] < 0.1
    assert found["saliency"] > 0.8
    pointing = {name: table["pointing"].mean() for name, table in interpreted.items()}
    assert pointing["saliency"] == 1
    assert pointing["energy"] < 0.2
    # Grad-CAM, which is coarse over frequency, finds it in time.
    assert interpreted["gradcam"]["time_pointing"].mean() > 0.8
    assert interpreted["energy"]["time_pointing"].mean() < 0.5


def test_localisation_is_of_the_class_that_the_foreground_is_evidence_of(cheating, tmp_path):
    """A clip of another class has a truth where "dog" is explained, and none for its own class."""
    clips = ShortcutDataset(5, kind="beep", others=1.0, share=1.0, clips=2)
    cat = clips.clip_ids[1]
    plain = SyntheticDataset(5, clips=2)
    found = {}
    for data, name in ((clips, "beeping"), (plain, "plain")):
        for label in ("dog", "cat"):
            method = ai.SaliencyInterpreter(cheating)
            predict = ai.Predict(cheating, method, masks=["topK_5"], target=label)
            done = predict.predict_set(data, tmp_path / f"{name}_{label}", progress=False)
            table = done.tables["features", "topK_5"].set_index("clip")
            assert table["target"][cat] == "cat"
            found[name, label] = table["AUPRC"][cat]
    assert found["beeping", "dog"] > 0.5
    assert np.isnan(found["beeping", "cat"])
    assert np.isnan(found["plain", "dog"])
    assert found["plain", "cat"] > 0
