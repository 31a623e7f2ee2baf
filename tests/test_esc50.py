from __future__ import annotations

import csv
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from audiointerp.dataset import (
    AudioError,
    Clip,
    Contamination,
    ESC50Dataset,
    TableError,
    load_audio,
)
from audiointerp.dataset import audio as audio_module

ESC10_CLASSES = (
    "dog",
    "rooster",
    "rain",
    "sea_waves",
    "crackling_fire",
    "crying_baby",
    "sneezing",
    "clock_tick",
    "helicopter",
    "chainsaw",
)


def tiny(root, folds=None, **options):
    return ESC50Dataset(root, folds, **{"sample_rate": 8000, "duration": 1.0, **options})


@pytest.fixture
def noise_file(tmp_path):
    hiss = 0.1 * np.random.default_rng(0).normal(size=8000)
    soundfile.write(tmp_path / "hiss.wav", hiss, 8000, subtype="FLOAT")
    return tmp_path / "hiss.wav"


@pytest.fixture
def count_reads(monkeypatch):
    """Return the list of files decoded since the test began."""
    files = []

    class Counted(audio_module.SoundReader):
        def __init__(self, path):
            files.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(audio_module, "SoundReader", Counted)
    return files


def test_classes_follow_the_target_numbers_not_the_order_of_the_table(tiny_esc50):
    dataset = tiny(tiny_esc50)
    assert dataset.classes == ("dog", "cat", "rain")
    assert len(dataset) == 15
    assert dataset.labels[:3] == [2, 0, 1]
    assert dataset.folds == [fold for fold in range(1, 6) for _ in range(3)]
    assert dataset.clip_ids[:2] == ["1-1000-A-10", "1-1001-A-0"]


def test_subset_takes_the_marked_clips_and_numbers_its_classes_anew(tiny_esc50):
    dataset = tiny(tiny_esc50, subset="esc10")
    assert dataset.classes == ("dog", "rain")
    assert dataset.labels == [1, 0] * 5


def test_classes_do_not_depend_on_the_folds(tiny_esc50):
    path = tiny_esc50 / "meta" / "esc50.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    kept = [row for row in rows if row[1] != "5" or row[3] == "rain"]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    dataset = tiny(tiny_esc50, 5)
    assert dataset.classes == ("dog", "cat", "rain")
    assert dataset.labels == [2]


@pytest.mark.parametrize("folds", [2, [2], (2, 2), {2}, np.int64(2), np.array([2])])
def test_folds_choose_clips(tiny_esc50, folds):
    assert set(tiny(tiny_esc50, folds).folds) == {2}


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        (6, "unknown fold 6: choose from 1, 2, 3, 4, 5"),
        ([1, 0], "unknown fold 0"),
        ("5", "unknown fold '5'"),
        ([], "no fold"),
        (True, "unknown fold True"),
    ],
)
def test_unknown_folds_are_refused_with_the_choices(tiny_esc50, folds, words):
    with pytest.raises(ValueError, match=words):
        tiny(tiny_esc50, folds)


def test_a_clip_is_what_load_audio_reads(tiny_esc50):
    dataset = tiny(tiny_esc50, sample_rate=16000, duration=1.5)
    clip = dataset[4]
    path = tiny_esc50 / "audio" / f"{dataset.clip_ids[4]}.wav"
    assert isinstance(clip, Clip)
    assert torch.equal(clip.waveform, load_audio(path, 16000, 1.5)[0])
    assert clip.waveform.shape == (1, 24000)
    assert (clip.label, clip.clip_id) == (dataset.labels[4], dataset.clip_ids[4])


def test_normalisation_can_be_left_out(tiny_esc50):
    assert tiny(tiny_esc50)[0].waveform.abs().max() == 1
    assert tiny(tiny_esc50, normalize=False)[0].waveform.abs().max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("kind", ["ogg", "flac"])
def test_the_table_may_name_another_kind_of_file(tiny_esc50, kind):
    for path in (tiny_esc50 / "audio").iterdir():
        wave, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(f".{kind}"), wave, rate)
        path.unlink()
    dataset = tiny(tiny_esc50)
    assert dataset.paths[0].suffix == f".{kind}"
    assert dataset[0].waveform.shape == (1, 8000)


def test_a_loader_makes_batches_in_workers(tiny_esc50, noise_file):
    dataset = tiny(tiny_esc50, contamination=Contamination(noise_file))
    batches = list(DataLoader(dataset, batch_size=4, num_workers=1))
    assert batches[0].waveform.shape == (4, 1, 8000)
    assert torch.cat([batch.label for batch in batches]).tolist() == dataset.labels
    assert [name for batch in batches for name in batch.clip_id] == dataset.clip_ids
    assert torch.equal(batches[0].waveform[2], dataset[2].waveform)


def test_it_pickles_without_the_clips_in_memory(tiny_esc50):
    dataset = tiny(tiny_esc50)
    size = len(pickle.dumps(dataset))
    clips = [clip.waveform for clip in dataset]
    dumped = pickle.dumps(dataset)
    assert len(dumped) == size
    copy = pickle.loads(dumped)
    assert all(torch.equal(a.waveform, b) for a, b in zip(copy, clips, strict=True))


class TestPositions:
    def test_from_both_ends(self, tiny_esc50):
        dataset = tiny(tiny_esc50)
        assert dataset[-1].clip_id == dataset[14].clip_id == dataset[torch.tensor(14)].clip_id
        assert len(list(dataset)) == 15
        for place in (15, -16):
            with pytest.raises(IndexError, match="dataset of 15"):
                dataset[place]

    @pytest.mark.parametrize("wrong", ["1-1000-A-10", slice(0, 2), 1.0, None])
    def test_not_a_position(self, tiny_esc50, wrong):
        with pytest.raises(TypeError, match="position"):
            tiny(tiny_esc50)[wrong]

    def test_of_an_id(self, tiny_esc50):
        dataset = tiny(tiny_esc50, 3)
        for place, name in enumerate(dataset.clip_ids):
            assert dataset.index(name) == place
        with pytest.raises(ValueError, match=r"no clip '3-3001-A-0\.wav'.*did you mean 3-3001-A-0"):
            dataset.index("3-3001-A-0.wav")

    def test_repr_says_what_it_holds(self, tiny_esc50, noise_file):
        text = repr(tiny(tiny_esc50, [1, 2], contamination=Contamination(noise_file)))
        for word in ("6 clips", "3 classes", "folds 1, 2", "1 s at 8000 Hz", "hiss", "3.52 dB"):
            assert word in text


class TestParts:
    def test_of_a_clean_clip(self, tiny_esc50):
        dataset = tiny(tiny_esc50)
        clip, noise = dataset.parts(3)
        assert torch.equal(clip, dataset[3].waveform)
        assert not noise.any()

    def test_sum_to_the_contaminated_clip(self, tiny_esc50, noise_file):
        contamination = Contamination(noise_file, snr_db=10)
        dataset = tiny(tiny_esc50, contamination=contamination)
        clean = tiny(tiny_esc50)
        for place in range(len(dataset)):
            clip, noise = dataset.parts(place)
            waveform = dataset[place].waveform
            assert torch.equal(clip + noise, waveform)
            assert waveform.abs().max().item() == pytest.approx(1, abs=1e-6)
            expected = contamination.parts(clean[place].waveform, 8000)
            torch.testing.assert_close(clip, expected[0])

    def test_the_noise_is_read_once(self, tiny_esc50, noise_file, count_reads):
        dataset = tiny(tiny_esc50, contamination=Contamination(noise_file))
        for _ in range(2):
            for clip in dataset:
                assert clip.waveform.any()
        assert count_reads.count("hiss.wav") == 1
        assert len(count_reads) == 1 + 15

    def test_a_path_is_not_a_contamination(self, tiny_esc50, noise_file):
        with pytest.raises(TypeError, match="write Contamination"):
            tiny(tiny_esc50, contamination=noise_file)

    def test_a_noise_too_silent_to_use_shows_before_the_first_clip(self, tiny_esc50, tmp_path):
        soundfile.write(tmp_path / "late.wav", np.r_[np.zeros(9000), np.ones(100)], 8000)
        with pytest.raises(AudioError, match="silent"):
            tiny(tiny_esc50, contamination=Contamination(tmp_path / "late.wav"))


@pytest.mark.parametrize("on_disk", [False, True])
class TestCache:
    def options(self, tmp_path, on_disk):
        return {"cache_dir": tmp_path / "cache"} if on_disk else {}

    def test_each_file_is_decoded_once(self, tiny_esc50, tmp_path, on_disk, count_reads):
        dataset = tiny(tiny_esc50, **self.options(tmp_path, on_disk))
        first = [clip.waveform for clip in dataset]
        again = [clip.waveform for clip in dataset]
        assert len(count_reads) == 15
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))

    @pytest.mark.parametrize("normalize", [False, True])
    def test_a_clip_can_be_changed_in_place(self, tiny_esc50, tmp_path, on_disk, normalize):
        dataset = tiny(tiny_esc50, normalize=normalize, **self.options(tmp_path, on_disk))
        before = dataset[0].waveform.clone()
        dataset[0].waveform.zero_()
        for part in dataset.parts(0):
            part.fill_(7)
        assert torch.equal(dataset[0].waveform, before)


class TestDiskCache:
    def test_it_outlives_the_dataset(self, tiny_esc50, tmp_path, count_reads):
        first = [clip.waveform for clip in tiny(tiny_esc50, cache_dir=tmp_path / "c")]
        again = [clip.waveform for clip in tiny(tiny_esc50, cache_dir=tmp_path / "c")]
        assert len(count_reads) == 15
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))

    @pytest.mark.filterwarnings("ignore::audiointerp.dataset.TruncationWarning")
    def test_one_entry_serves_every_duration_and_level(self, tiny_esc50, tmp_path, count_reads):
        cache = tmp_path / "c"
        for options in ({}, {"duration": 0.5}, {"duration": 2}, {"normalize": False}):
            got = tiny(tiny_esc50, cache_dir=cache, **options)[0].waveform
            assert torch.equal(got, tiny(tiny_esc50, **options)[0].waveform)
        assert len(list(cache.iterdir())) == 1

    def test_another_rate_is_another_entry(self, tiny_esc50, tmp_path):
        for rate in (8000, 16000):
            got = tiny(tiny_esc50, cache_dir=tmp_path / "c", sample_rate=rate)[0].waveform
            assert got.shape == (1, rate)

    def test_a_changed_file_is_decoded_again(self, tiny_esc50, tmp_path, tone):
        dataset = tiny(tiny_esc50, cache_dir=tmp_path / "c")
        before = dataset[0].waveform
        status = dataset.paths[0].stat()
        soundfile.write(dataset.paths[0], tone(3000), 8000, subtype="PCM_16")
        os.utime(dataset.paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        after = dataset[0].waveform
        assert not torch.equal(before, after)
        assert torch.equal(after, load_audio(dataset.paths[0], 8000, 1.0)[0])

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-100]),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"not an array"),
            lambda path: np.save(path, np.zeros((1, 8000))),
            lambda path: np.save(path, np.full((1, 8000), np.nan, dtype=np.float32)),
            lambda path: np.save(path, np.array([{"a": 1}], dtype=object)),
        ],
    )
    def test_a_damaged_entry_is_made_again(self, tiny_esc50, tmp_path, damage):
        dataset = tiny(tiny_esc50, cache_dir=tmp_path / "c")
        before = dataset[0].waveform
        (entry,) = (tmp_path / "c").iterdir()
        whole = entry.read_bytes()
        damage(entry)
        assert torch.equal(dataset[0].waveform, before)
        assert entry.read_bytes() == whole


class TestBadInput:
    def test_one_broken_clip_leaves_the_others(self, tiny_esc50):
        dataset = tiny(tiny_esc50)
        dataset.paths[1].write_bytes(dataset.paths[1].read_bytes()[:1000])
        dataset.paths[2].unlink()
        soundfile.write(dataset.paths[3], np.zeros(8000), 8000)
        for place, words in ((1, "truncated"), (2, "no such file"), (3, "silent")):
            with pytest.raises(AudioError, match=words) as caught:
                dataset[place]
            assert str(dataset.paths[place]) in str(caught.value)
        assert dataset[4].waveform.shape == (1, 8000)

    def test_a_missing_clip_with_a_cache(self, tiny_esc50, tmp_path):
        dataset = tiny(tiny_esc50, cache_dir=tmp_path / "c")
        dataset.paths[2].unlink()
        with pytest.raises(AudioError, match="no such file"):
            dataset[2]

    def test_a_silent_clip_is_named_when_it_is_contaminated(self, tiny_esc50, noise_file):
        contamination = Contamination(noise_file)
        dataset = tiny(tiny_esc50, normalize=False, contamination=contamination)
        soundfile.write(dataset.paths[0], np.zeros(8000), 8000)
        with pytest.raises(AudioError, match=r"1-1000-A-10\.wav.*silent"):
            dataset[0]

    @pytest.mark.parametrize("inside", ["audio", "meta"])
    def test_a_folder_inside_the_root(self, tiny_esc50, inside):
        with pytest.raises(FileNotFoundError, match=re.escape(f"did you mean {tiny_esc50}")):
            ESC50Dataset(tiny_esc50 / inside)

    def test_the_folder_around_the_root(self, tiny_esc50):
        with pytest.raises(FileNotFoundError, match=re.escape(f"did you mean {tiny_esc50}")):
            ESC50Dataset(tiny_esc50.parent)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            ESC50Dataset(tmp_path / "no")

    def test_no_audio(self, tiny_esc50):
        for path in (tiny_esc50 / "audio").iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError, match="none of the 15 sound files"):
            ESC50Dataset(tiny_esc50)
        shutil.rmtree(tiny_esc50 / "audio")
        with pytest.raises(FileNotFoundError, match="no folder audio"):
            ESC50Dataset(tiny_esc50)

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ("", "is empty; its first line"),
            ("filename,fold,category\na.wav,1,dog\n", "no column target; its columns"),
            ("filename,fold,target,category\n", "has no rows"),
            ("filename,fold,target,category\na.wav,one,0,dog\n", "line 2, column 'fold': 'one' is"),
            ("filename,fold,target,category\na.wav,1\n", "line 2: has 2 cells, the first line 4"),
            ("filename,fold,target,category\n,1,0,dog\n", "line 2, column 'filename': is empty"),
            ("filename,fold,target,category\na.wav,1,0,dog\nb.wav,1,0,cat\n", "two categories"),
            ("filename,fold,target,category\na.wav,1,0,dog\nb.wav,1,1,dog\n", "category with two"),
        ],
    )
    def test_a_table_that_is_not_esc50s(self, tiny_esc50, table, words):
        (tiny_esc50 / "meta" / "esc50.csv").write_text(table)
        with pytest.raises(ValueError, match=words):
            ESC50Dataset(tiny_esc50)

    @pytest.mark.parametrize("name", ["../../x.wav", "/etc/hostname", ".."])
    def test_a_file_outside_audio_is_refused(self, tiny_esc50, name):
        path = tiny_esc50 / "meta" / "esc50.csv"
        path.write_text(f"{path.read_text()}{name},1,5,cat,False,1,A\n")
        with pytest.raises(
            TableError, match=r"line 17, column 'filename': .* is not below .*audio"
        ):
            ESC50Dataset(tiny_esc50)

    def test_a_clip_listed_twice(self, tiny_esc50):
        path = tiny_esc50 / "meta" / "esc50.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[1]]))
        with pytest.raises(ValueError, match=r"unique.*1-1000-A-10"):
            ESC50Dataset(tiny_esc50)

    def test_a_subset_needs_its_column(self, tiny_esc50):
        path = tiny_esc50 / "meta" / "esc50.csv"
        path.write_text(path.read_text().replace("esc10", "esc11"))
        assert len(ESC50Dataset(tiny_esc50)) == 15
        with pytest.raises(ValueError, match="no column esc10"):
            ESC50Dataset(tiny_esc50, subset="esc10")

    def test_unknown_subset_rate_and_duration(self, tiny_esc50):
        with pytest.raises(ValueError, match="choose from esc10"):
            ESC50Dataset(tiny_esc50, subset="esc20")
        with pytest.raises(ValueError, match="kHz"):
            ESC50Dataset(tiny_esc50, sample_rate=32)
        with pytest.raises(ValueError, match="samples"):
            ESC50Dataset(tiny_esc50, duration=160000)


def test_real_esc10(real_data):
    dataset = ESC50Dataset(real_data / "esc10", subset="esc10")
    assert dataset.classes == ESC10_CLASSES
    assert len(dataset) == 400
    for label in range(10):
        for fold in range(1, 6):
            pairs = list(zip(dataset.labels, dataset.folds, strict=True))
            assert pairs.count((label, fold)) == 8
    # The last number of an ESC-50 file name is its target, the first its fold.
    targets = dict(enumerate([0, 1, 10, 11, 12, 20, 21, 38, 40, 41]))
    for name, label, fold in zip(dataset.clip_ids, dataset.labels, dataset.folds, strict=True):
        assert name.endswith(f"-{targets[label]}")
        assert name.startswith(f"{fold}-")
    assert dataset[0].waveform.shape == (1, 160000)


def test_the_published_sample_is_the_clip_of_the_set(real_data):
    dataset = ESC50Dataset(real_data / "esc10", subset="esc10", sample_rate=16000)
    ours = dataset[dataset.index("3-157695-A-0")].waveform[0]
    published = load_audio(real_data / "published" / "samples" / "dog.wav", 16000, 5.0)[0][0]
    assert torch.corrcoef(torch.stack([ours, published]))[0, 1] > 0.999
