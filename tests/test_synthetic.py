from __future__ import annotations

import csv
import itertools
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal, stats

from audiointerp.dataset import load_audio, recipes, synthetic
from audiointerp.dataset.contamination import Contamination
from audiointerp.dataset.decode import AudioError
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.dataset.synthetic import (
    SyntheticDataset,
    render,
    sample_parts,
    write_noises,
    write_samples,
    write_synthetic,
)

ROOT = Path(__file__).parents[1]
CLASSES = list(recipes.TARGETS)

# ESC-50's own numbers, from its README.
ESC50_NUMBERS = dict(
    dog=0,
    cat=5,
    crow=9,
    sea_waves=11,
    clapping=22,
    clock_tick=38,
    helicopter=40,
    siren=42,
    car_horn=43,
    church_bells=46,
)


@pytest.fixture(scope="module")
def small() -> SyntheticDataset:
    return SyntheticDataset(folds=1, clips_per_class=5)


@pytest.fixture(scope="module")
def native() -> SyntheticDataset:
    """One clip of each class as it is made: no resampling, no normalisation."""
    return SyntheticDataset(folds=1, clips_per_class=5, sample_rate=44100, normalize=False)


@pytest.fixture(scope="module")
def noise_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(3).standard_normal(44100), 44100)
    return path


# --- the set -----------------------------------------------------------------------------------


def test_every_class_has_a_recipe_and_escs_number():
    assert dict(recipes.TARGETS) == ESC50_NUMBERS
    assert set(recipes.RECIPES) == set(ESC50_NUMBERS)
    assert SyntheticDataset().classes == tuple(sorted(ESC50_NUMBERS, key=ESC50_NUMBERS.get))


def test_forty_clips_a_class_eight_in_each_fold():
    data = SyntheticDataset()
    assert len(data) == 400
    counts = Counter(zip(data.labels, data.folds, strict=True))
    assert counts == {(label, fold): 8 for label in range(10) for fold in range(1, 6)}


def test_clip_ids_say_fold_class_and_number():
    data = SyntheticDataset()
    for clip_id, label, fold in zip(data.clip_ids, data.labels, data.folds, strict=True):
        first, category, number = clip_id.split("-")
        assert (int(first), category) == (fold, data.classes[label])
        assert 0 <= int(number) < 40
    assert "3-dog-07" in data.clip_ids


def test_folds_are_selected_and_do_not_share_clips():
    ids = [set(SyntheticDataset(fold).clip_ids) for fold in range(1, 6)]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(ids, 2))
    assert set(SyntheticDataset([1, 2, 3]).clip_ids) == ids[0] | ids[1] | ids[2]


def test_a_smaller_set_is_part_of_the_larger():
    larger = set(SyntheticDataset(clips_per_class=10).clip_ids)
    assert set(SyntheticDataset(clips_per_class=5).clip_ids) < larger


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 6}, "choose from 1, 2, 3, 4, 5"),
        ({"folds": 3, "clips_per_class": 2}, "choose from 1, 2"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"clips_per_class": 0}, "clips_per_class must be a whole number of at least 1"),
        ({"sample_rate": 32}, "did you give kHz"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SyntheticDataset(**settings)


def test_a_seed_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="seed must be a whole number, not 'one'"):
        SyntheticDataset(seed="one")


def test_an_unknown_class_lists_those_there_are():
    with pytest.raises(ValueError, match=r"unknown class.*'dogs'.*car_horn.*Did you mean 'dog'"):
        render("dogs", 0)


# --- determinism -------------------------------------------------------------------------------


def test_clips_do_not_depend_on_order_or_folds():
    forth, back = (SyntheticDataset([2, 5], clips_per_class=5) for _ in range(2))
    there = {forth.clip_ids[i]: forth[i].waveform for i in (0, 3, 11)}
    for i in (11, 3, 0):
        assert torch.equal(back[i].waveform, there[back.clip_ids[i]])
    alone = SyntheticDataset(5, clips_per_class=10)
    name = forth.clip_ids[11]
    assert torch.equal(alone[alone.index(name)].waveform, there[name])


def test_another_seed_is_another_set():
    first, second = render("cat", 0, seed=0), render("cat", 0, seed=1)
    assert abs(np.corrcoef(first.foreground, second.foreground)[0, 1]) < 0.5
    assert first.snr_db != second.snr_db


@pytest.mark.parametrize("category", CLASSES)
def test_clips_of_a_class_differ(category):
    clips = [render(category, number) for number in (0, 1)]
    # Compared by their spectra too: two shifts of one sound would be alike there.
    spectra = [np.log(signal.welch(clip.foreground, 44100)[1] + 1e-12) for clip in clips]
    assert abs(np.corrcoef(clips[0].foreground, clips[1].foreground)[0, 1]) < 0.5
    assert np.abs(spectra[0] - spectra[1]).mean() > 0.1


# Foreground's median frequency (Hz, of its power) and level (dB) of clip 0 of the set of seed 0.
# If a recipe changes on purpose, raise synthetic.VERSION together with these.
FINGERPRINTS = {
    "dog": (614, 16.392),
    "cat": (1217, 16.787),
    "crow": (2024, 7.566),
    "sea_waves": (1809, 15.829),
    "clapping": (5017, 14.439),
    "clock_tick": (5362, 9.132),
    "helicopter": (172, 19.565),
    "siren": (1001, 9.592),
    "car_horn": (1938, 10.748),
    "church_bells": (409, 9.225),
}


@pytest.mark.parametrize("category", CLASSES)
def test_sounds_are_those_of_this_version(category):
    assert synthetic.VERSION == 1
    scene = render(category, 0)
    frequency, power = signal.welch(scene.foreground, 44100, nperseg=4096)
    median = frequency[np.searchsorted(np.cumsum(power), power.sum() / 2)]
    assert (round(median), round(scene.snr_db, 3)) == FINGERPRINTS[category]


def test_sampling_rates_give_the_same_sound(native):
    for rate in (32000, 16000):
        data = SyntheticDataset(1, clips_per_class=5, sample_rate=rate, normalize=False)
        for i in (0, 3):  # a dog and the sea
            low, whole = data[i].waveform[0].numpy(), native[i].waveform[0].numpy()
            # Oracle: the spectrum below the lower rate's band edge must be the same.
            assert len(low) == 5 * rate
            top = int(5 * 0.4 * rate)
            expected = np.fft.rfft(whole)[:top] * rate / 44100
            error = np.abs(np.fft.rfft(low)[:top] - expected)
            assert np.sum(error**2) < 1e-6 * np.sum(np.abs(expected) ** 2)


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_foreground_and_background_sum_to_the_clip(normalize):
    data = SyntheticDataset(2, clips_per_class=5, normalize=normalize)
    for i in (0, 4, -1):
        foreground, background = data.foreground_background(i)
        clip = data[i]
        assert foreground.shape == background.shape == clip.waveform.shape == (1, 160000)
        assert torch.equal(foreground + background, clip.waveform)
        assert torch.equal(data.parts(i)[0], clip.waveform)
        assert not data.parts(i)[1].any()
        if normalize:
            assert clip.waveform.abs().max().item() == pytest.approx(1, abs=1e-6)


def test_parts_follow_the_clip_into_contamination(noise_file):
    noise = Contamination(noise_file, snr_db=3.0)
    data = SyntheticDataset(2, clips_per_class=5, contamination=noise)
    clean = SyntheticDataset(2, clips_per_class=5)
    foreground, background = data.foreground_background(0)
    clip_part, noise_part = data.parts(0)
    assert torch.allclose(foreground + background, clip_part, atol=1e-6)
    assert torch.equal(clip_part + noise_part, data[0].waveform)
    # The contamination left the level between the two parts as it was.
    before = [part.square().sum() for part in clean.foreground_background(0)]
    ratio = (foreground.square().sum() / background.square().sum()) / (before[0] / before[1])
    assert ratio.item() == pytest.approx(1, abs=1e-4)


def test_short_and_long_durations_cut_and_pad():
    short = SyntheticDataset(1, clips_per_class=5, duration=2.0)
    long = SyntheticDataset(1, clips_per_class=5, duration=6.0)
    for data, samples in ((short, 64000), (long, 192000)):
        foreground, background = data.foreground_background(3)
        assert foreground.shape == (1, samples)
        assert torch.equal(foreground + background, data[3].waveform)
    assert not long[3].waveform[:, 160000:].any()


def level_slowly(foreground: np.ndarray, background: np.ndarray) -> float:
    """The documented definition of the level, frame by frame."""
    frames = [
        (sum(a * a for a in front), sum(b * b for b in back))
        for front, back in (
            (foreground[k : k + 882].tolist(), background[k : k + 882].tolist())
            for k in range(0, len(foreground) - 881, 882)
        )
    ]
    loudest = max(front for front, _ in frames)
    heard = [(front, back) for front, back in frames if front >= loudest / 1000]
    return 10 * np.log10(sum(front for front, _ in heard) / sum(back for _, back in heard))


def test_the_level_is_the_one_stated(native):
    for i in range(len(native)):
        foreground, background = (
            part[0].double().numpy() for part in native.foreground_background(i)
        )
        assert level_slowly(foreground, background) == pytest.approx(native.snr_db(i), abs=1e-3)


def test_levels_fill_their_range():
    data = SyntheticDataset()
    levels = [data.snr_db(i) for i in range(len(data))]
    assert 5 <= min(levels) < 6
    assert 19 < max(levels) <= 20
    assert stats.kstest(levels, "uniform", (5, 15)).pvalue > 0.01


def test_kinds_of_background_are_all_used_and_tell_nothing_of_class_or_fold():
    data = SyntheticDataset()
    kinds = [data.background_kind(i) for i in range(len(data))]
    assert set(kinds) == set(recipes.BACKGROUNDS)
    for known in (data.labels, data.folds):
        table = Counter(zip(kinds, known, strict=True))
        counts = [[table[kind, one] for one in sorted(set(known))] for kind in sorted(set(kinds))]
        assert stats.chi2_contingency(counts).pvalue > 0.01
    assert render("dog", 3).background_kind == kinds[data.index("4-dog-03")]


@pytest.mark.parametrize("index", range(10), ids=CLASSES)
def test_the_ideal_binary_mask_separates_the_foreground(small, index):
    foreground, background = (part[0].numpy() for part in small.foreground_background(index))
    settings = {"fs": 32000, "nperseg": 1024, "noverlap": 1024 - 320}
    spectra = [signal.stft(part, **settings)[2] for part in (foreground, background)]
    mask = np.abs(spectra[0]) > np.abs(spectra[1])
    assert 0.01 < mask.mean() < 0.99
    masked = signal.istft(mask * (spectra[0] + spectra[1]), **settings)[1][: len(foreground)]
    before = np.sum(foreground**2) / np.sum(background**2)
    after = np.sum(foreground**2) / np.sum((masked - foreground) ** 2)
    assert 10 * np.log10(after / before) > 2


# --- the sounds themselves ---------------------------------------------------------------------


def check_sound(sound: np.ndarray) -> None:
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() <= 0.99
    assert abs(sound.mean()) < 1e-3 * sound.std()
    # No click at either end, next to nothing above 18.5 kHz.
    assert np.abs(sound[[0, -1]]).max() < 1e-3 * np.abs(sound).max()
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert power[(18500 * 5) :].sum() < 1e-3 * power.sum()


@pytest.mark.parametrize("category", CLASSES)
def test_foregrounds_are_clean_and_audible(category):
    scene = render(category, 1)
    assert scene.foreground.shape == scene.background.shape == (220500,)
    for sound in (scene.foreground, scene.foreground + scene.background):
        check_sound(sound)
    # Somewhere in the clip the event stands out.
    frames = [np.square(part).reshape(-1, 8820).sum(1) for part in scene[:2]]
    assert (frames[0] > 2 * frames[1]).any()


@pytest.mark.parametrize("kind", sorted(recipes.BACKGROUNDS))
def test_backgrounds_are_clean_and_last(kind):
    sound = synthetic._band_limited(recipes.BACKGROUNDS[kind](np.random.default_rng(1)))
    sound *= 0.9 / np.abs(sound).max()
    check_sound(sound)
    quietest = np.square(sound).reshape(-1, 22050).mean(1).min()
    assert quietest > 1e-3 * np.mean(sound**2)


def test_voiced_puts_harmonics_where_the_formants_say():
    pitch = np.full(44100, 500.0)
    spectrum = np.abs(np.fft.rfft(recipes.voiced(pitch, [(1500.0, 200.0, 1.0)]))) / 22050
    harmonics = np.arange(1, 28) * 500
    expected = 0.004 + 1 / (1 + ((harmonics - 1500) / 100) ** 2)
    expected[expected <= 2e-3 * expected.max()] = 0
    np.testing.assert_allclose(spectrum[harmonics], expected, rtol=1e-3)
    spectrum[np.arange(1, 34) * 500] = 0
    assert spectrum.max() < 1e-6


def test_ringing_is_a_sum_of_damped_sines():
    time_axis = np.arange(3000) / 44100
    expected = 0.5 * np.sin(2 * np.pi * 440 * time_axis) * 10 ** (-3 * time_axis / 0.2)
    expected += np.cos(2 * np.pi * 1000 * time_axis)
    found = recipes.ringing([440, 1000, 30000], [0.2, np.inf, 1], [0.5, 1j, 1], samples=3000)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_events_keep_their_order_and_fit():
    rng = np.random.default_rng(0)
    for count in (1, 3, 12):
        lengths = rng.uniform(0.1, 4.5 / count, count)
        onsets = recipes.spread(rng, lengths, (0.05, 2.0))
        assert onsets[0] >= 0
        assert (onsets[1:] >= onsets[:-1] + lengths[:-1] - 1e-9).all()
        assert onsets[-1] + lengths[-1] <= 5.0


# --- speed and cache ---------------------------------------------------------------------------


def test_four_hundred_clips_take_under_a_minute():
    data = SyntheticDataset(1, clips_per_class=5)
    start = time.process_time()
    for i in range(len(data)):
        data[i]
    # 400 clips in 60 s are 150 ms each; twice that, for a machine that is busy.
    assert (time.process_time() - start) / len(data) < 0.3


def test_the_cache_on_disk_serves_the_same_clip(tmp_path):
    settings = {"folds": 1, "clips_per_class": 5, "cache_dir": tmp_path}
    first = SyntheticDataset(**settings)[2].waveform
    (entry,) = tmp_path.iterdir()
    written = entry.stat().st_mtime_ns
    data = SyntheticDataset(**settings)
    assert torch.equal(data[2].waveform, first)
    assert entry.stat().st_mtime_ns == written
    assert torch.equal(sum(data.foreground_background(2)), first)
    # Another seed must not be served the same entry.
    other = SyntheticDataset(**settings, seed=1)[2].waveform
    assert not torch.equal(other, first)


def test_changing_a_clip_in_place_does_not_change_the_set(small):
    before = small[0].waveform.clone()
    small[0].waveform.zero_()
    for part in small.foreground_background(0):
        part.zero_()
    assert torch.equal(small[0].waveform, before)


# --- files -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written") / "deep" / "synthetic"
    return write_synthetic(root, seed=4, clips_per_class=2, progress=False)


def test_a_written_set_is_read_back_by_esc50dataset(written):
    read = ESC50Dataset(written, normalize=False)
    made = SyntheticDataset(seed=4, clips_per_class=2, normalize=False)
    assert read.classes == made.classes
    assert read.clip_ids == made.clip_ids
    assert read.labels == made.labels
    assert read.folds == made.folds
    for i in (0, 7, 19):
        # Rounding both parts to 16 bit moves the clip by at most one step of 2^-15.
        difference = (read[i].waveform - made[i].waveform).abs().max()
        assert difference < 2 * 2**-15


def test_written_parts_add_up_to_the_written_clip_exactly(written):
    names = sorted(path.name for path in (written / "audio").iterdir())
    assert len(names) == 20
    for name in names[::5]:
        clip, foreground, background = (
            soundfile.read(written / folder / name, dtype="int16")[0].astype(int)
            for folder in ("audio", "foreground", "background")
        )
        assert (clip == foreground + background).all()


def test_the_written_tables_are_escs_and_the_parts(written):
    with (written / "meta" / "esc50.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    for row in rows:
        assert int(row["target"]) == ESC50_NUMBERS[row["category"]]
        assert row["filename"].startswith(f"{row['fold']}-{row['category']}-")
    assert {row["category"] for row in rows if row["esc10"] == "True"} == {
        "dog",
        "sea_waves",
        "clock_tick",
        "helicopter",
    }
    with (written / "meta" / "parts.csv").open(newline="") as file:
        parts = list(csv.DictReader(file))
    made = SyntheticDataset(seed=4, clips_per_class=2)
    for i, row in enumerate(parts):
        assert row["filename"] == f"{made.clip_ids[i]}.flac"
        assert float(row["snr_db"]) == pytest.approx(made.snr_db(i), abs=1e-4)
        assert row["background"] == made.background_kind(i)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    original = synthetic._write_clip
    monkeypatch.setattr(synthetic, "_write_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", clips_per_class=1, progress=False)
    assert len(calls) == 2
    assert os.listdir(tmp_path) == []


def test_a_set_is_not_written_over_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_synthetic(tmp_path, clips_per_class=1)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_samples_are_what_the_project_ships(tmp_path):
    paths = write_samples(tmp_path / "samples")
    assert [path.stem for path in paths] == [
        "car_horn",
        "cat",
        "clapping",
        "crow",
        "dog",
        "sea_waves",
    ]
    check_shipped(paths, ROOT / "samples", channels={})


@pytest.mark.parametrize("name", ["dog", "sea_waves"])
def test_the_parts_of_a_shipped_sample_sum_to_it(name):
    path = ROOT / "samples" / f"{name}.wav"
    foreground, background = sample_parts(path, 32000)
    clip, _ = load_audio(path, 32000)
    assert foreground.shape == background.shape == clip.shape == (1, 160000)
    assert (foreground + background - clip).abs().max() < 1e-3
    scene = synthetic._render(synthetic._SAMPLE, name, synthetic.SAMPLES_SHIPPED[name], 0)
    parts = (part[0].double().numpy() for part in sample_parts(path))
    assert synthetic.level_difference(*parts) == pytest.approx(scene.snr_db, abs=1e-3)


def test_another_sound_has_no_parts_whatever_its_name(tmp_path):
    sound, rate = soundfile.read(ROOT / "samples" / "dog.wav")
    soundfile.write(tmp_path / "cat.wav", sound, rate)  # the name of another sample
    soundfile.write(tmp_path / "mine.wav", sound, rate)
    for changed, new in {
        "slower": (sound[::2], rate // 2),
        "later": (np.roll(sound, 1), rate),
    }.items():
        (tmp_path / changed).mkdir()
        soundfile.write(tmp_path / changed / "dog.wav", *new)
    for path in tmp_path.rglob("*.wav"):
        assert sample_parts(path) is None
    with pytest.raises(AudioError):
        sample_parts(tmp_path / "lost" / "dog.wav")


def test_noises_are_what_the_project_ships(tmp_path):
    paths = write_noises(tmp_path / "noises")
    assert [path.stem for path in paths] == ["horse", "room", "white"]
    check_shipped(paths, ROOT / "noises", channels={"room": 2})
    left, right = soundfile.read(tmp_path / "noises" / "room.wav")[0].T
    assert 0.5 < np.corrcoef(left, right)[0, 1] < 0.95
    white = soundfile.read(tmp_path / "noises" / "white.wav")[0]
    bands = np.square(np.abs(np.fft.rfft(white)))[1:].reshape(10, -1).mean(1)
    assert bands.max() / bands.min() < 1.1


def check_shipped(paths: list[Path], folder: Path, channels: dict[str, int]) -> None:
    for path in paths:
        about = soundfile.info(path)
        assert (about.samplerate, about.frames, about.subtype) == (44100, 220500, "PCM_16")
        assert about.channels == channels.get(path.stem, 1)
        made, shipped = (soundfile.read(p, dtype="int16")[0] for p in (path, folder / path.name))
        # Another processor's last bit may round a sample the other way.
        assert np.abs(made.astype(int) - shipped.astype(int)).max() <= 1


def test_samples_are_in_no_set():
    sample = synthetic._render(synthetic._SAMPLE, "dog", synthetic.SAMPLES_SHIPPED["dog"], 0)
    for number in range(40):
        assert synthetic._draw_level(synthetic._SET, "dog", number, 0) != sample.snr_db
    same = render("dog", 0).foreground
    assert abs(np.corrcoef(same, sample.foreground)[0, 1]) < 0.5
