"""What all sets of files share: names of clips, windows of long files, a warning of what is cut."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.dataset import (
    AudioError,
    AudioStream,
    ESC50Dataset,
    FolderDataset,
    TruncationWarning,
    load_audio,
)
from audiointerp.dataset.audio import peak_normalize
from audiointerp.dataset.files import clip_name, format_seconds, hashed_fold

TINY = {"sample_rate": 8000, "duration": 1.0}

FOLDERS = st.text(st.sampled_from("ab_@%~.-"), min_size=1, max_size=5)
PATHS = st.lists(FOLDERS, min_size=1, max_size=3).map("/".join)
TIMES = st.integers(0, 5_000_000).map(lambda microseconds: microseconds / 1e6)
PARTS = st.one_of(
    st.just((0.0, None)), st.tuples(TIMES, st.none()), st.tuples(TIMES, TIMES.map(lambda t: t + 6))
)


class TestNames:
    @given(st.lists(st.tuples(PATHS, PARTS), min_size=2, max_size=2, unique=True))
    def test_different_clips_have_different_names(self, clips):
        one, other = (clip_name(path, *part) for path, part in clips)
        assert one != other

    @given(st.text(st.characters(codec="utf-8"), min_size=1), PARTS)
    def test_a_name_can_be_that_of_a_file(self, path, part):
        name = clip_name(path, *part)
        assert "/" not in name
        assert "\0" not in name
        assert 0 < len(name.encode()) <= 160

    def test_long_names_differ_by_their_hash(self):
        folder = "very_long_name" * 20
        names = {clip_name(f"{folder}/{number}.wav") for number in range(100)}
        assert len(names) == 100
        assert all(name.startswith("very_long_name") for name in names)

    @pytest.mark.parametrize(
        ("clip", "name"),
        [
            (("1.wav",), "1.wav"),
            (("dog/big/1.wav",), "dog__big__1.wav"),
            (("1.wav", 3, 4.5), "1.wav@3.00-4.50"),
            (("1.wav", 0, 4.5), "1.wav@0.00-4.50"),
            (("1.wav", 1 / 3), "1.wav@0.333333-"),
            (("a__b/_c_/1@2.wav",), "a_%5Fb__%5Fc%5F__1%402.wav"),
        ],
    )
    def test_they_read_as_the_path_and_the_part(self, clip, name):
        assert clip_name(*clip) == name

    @given(TIMES)
    def test_seconds_are_written_exactly(self, seconds):
        text = format_seconds(seconds)
        assert float(text) == seconds
        assert len(text.split(".")[1]) >= 2


def test_folds_by_hash_are_the_same_everywhere():
    # Worked out with sha256sum, for all machines and versions to come.
    assert [hashed_fold(path, 5) for path in ("dog/1.wav", "dog/2.wav", "cat/1.wav")] == [1, 4, 3]
    counts = np.bincount([hashed_fold(f"class/{number}.wav", 5) for number in range(5000)])
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 1000) < 150).all()


class TestWindows:
    def test_a_long_file_becomes_several_clips(self, write_tones):
        root = write_tones("set", {"dog/long.wav": 3.3, "dog/short.wav": 1.0, "cat/1.wav": 0.4})
        data = FolderDataset(root, window_hop=0.5, **TINY)
        starts = ["0.00", "0.50", "1.00", "1.50", "2.00", "2.30"]
        assert data.clip_ids == [
            "cat__1.wav",
            *(f"dog__long.wav@{start}" for start in starts),
            "dog__short.wav",
        ]
        assert data.labels == [0] + [1] * 7
        assert len(set(data.folds[1:7])) == 1
        assert data.settings()["window_hop"] == 0.5
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all(clip.waveform.shape == (1, 8000) for clip in data)
        assert data.cut_clips() == {}

    @pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
    def test_they_are_those_of_the_stream(self, tmp_path, kind):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 3 + 1234)
        (tmp_path / "hiss").mkdir()
        soundfile.write(tmp_path / "hiss" / f"a.{kind}", noise, 8000)
        data = FolderDataset(tmp_path, window_hop=0.75, **TINY)
        stream = AudioStream(data.paths[0], 8000)
        windows = list(stream.windows(1.0, 0.75, normalize=False))
        assert len(windows) == len(data)
        for clip, window in zip(data, windows, strict=True):
            assert torch.equal(clip.waveform, peak_normalize(window.waveform))

    def test_the_number_of_clips_counts_windows(self, write_tones):
        root = write_tones("set", {"dog/long.wav": 3.0, "cat/1.wav": 1.0})
        data = FolderDataset(root, window_hop=1.0, clips=3, **TINY)
        assert data.clip_ids == ["cat__1.wav", "dog__long.wav@0.00", "dog__long.wav@1.00"]

    def test_a_broken_file_is_one_clip_that_says_so_when_it_is_taken(self, write_tones):
        root = write_tones("set", {"dog/long.wav": 3.0, "dog/short.wav": 1.0})
        path = root / "dog" / "long.wav"
        path.write_bytes(path.read_bytes()[:1000])
        data = FolderDataset(root, window_hop=1.0, **TINY)
        assert data.clip_ids == ["dog__long.wav", "dog__short.wav"]
        with pytest.raises(AudioError, match="truncated"):
            data[0]

    def test_of_an_esc50(self, tiny_esc50):
        data = ESC50Dataset(tiny_esc50, 1, sample_rate=8000, duration=0.5, window_hop=0.5)
        assert data.clip_ids[:2] == ["1-1000-A-10@0.00", "1-1000-A-10@0.50"]
        assert len(data) == 6

    def test_a_cache_keeps_them_apart(self, write_tones, tmp_path):
        root = write_tones("set", {"dog/long.wav": 2.0})
        options = {**TINY, "window_hop": 1.0}
        kept = FolderDataset(root, cache_dir=tmp_path / "cache", **options)
        for _ in range(2):
            for clip, expected in zip(kept, FolderDataset(root, **options), strict=True):
                assert torch.equal(clip.waveform, expected.waveform)

    @pytest.mark.parametrize(("hop", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
    def test_a_hop_that_makes_no_sense(self, write_tones, hop, kind):
        with pytest.raises(kind, match="hop"):
            FolderDataset(write_tones("set", ["dog/1.wav"]), window_hop=hop)


class TestCutClips:
    def test_one_warning_says_how_many_and_how_much(self, write_tones):
        lengths = {"dog/1.wav": 1.0, "dog/2.wav": 1.05, "dog/3.wav": 1.5, "cat/1.wav": 4.25}
        data = FolderDataset(write_tones("set", lengths), **TINY)
        words = r"2 of 4 clips are longer than the set's 1 s.*up to 3\.2 s \(clip cat__1\.wav\)"
        with pytest.warns(TruncationWarning, match=words) as caught:
            clips = list(data)
        assert all(clip.waveform.shape == (1, 8000) for clip in clips)
        assert len(caught) == 1
        assert data.cut_clips() == {"cat__1.wav": 3.25, "dog__3.wav": 0.5}

    def test_nothing_is_said_where_nothing_is_cut(self, write_tones):
        data = FolderDataset(write_tones("set", {"dog/1.wav": 1.05, "cat/1.wav": 0.2}), **TINY)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(list(data)) == 2
        assert data.cut_clips() == {}

    def test_a_cached_clip_is_reported_too(self, write_tones, tmp_path):
        root = write_tones("set", {"dog/1.wav": 2.0})
        for _ in range(2):
            data = FolderDataset(root, cache_dir=tmp_path / "cache", **TINY)
            with pytest.warns(TruncationWarning):
                data[0]

    def test_broken_files_do_not_hide_it(self, write_tones):
        root = write_tones("set", {"dog/1.wav": 2.0, "dog/2.wav": 1.0})
        (root / "dog" / "2.wav").write_bytes(b"RIFF")
        data = FolderDataset(root, **TINY)
        with pytest.warns(TruncationWarning, match="1 of 2"):
            data[0]

    @pytest.mark.parametrize("duration", [1.0, 70.0])
    def test_of_a_long_file_only_what_is_needed_is_kept(self, tmp_path, duration):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 150)
        (tmp_path / "hiss").mkdir()
        path = tmp_path / "hiss" / "a.flac"
        soundfile.write(path, noise, 8000)
        data = FolderDataset(tmp_path, sample_rate=16000, duration=duration)
        with pytest.warns(TruncationWarning, match=f"up to {150 - duration:.1f} s"):
            waveform = data[0].waveform
        whole = load_audio(path, 16000, normalize=False)[0]
        assert torch.equal(waveform, peak_normalize(whole[:, : round(16000 * duration)]))
        assert data._cached(0).shape[1] < 16000 * (duration + 80)


def test_it_pickles_with_its_files(write_tones):
    data = FolderDataset(write_tones("set", ["dog/1.wav", "cat/1.wav"]), **TINY)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.clip_ids == data.clip_ids
    assert torch.equal(copy[1].waveform, data[1].waveform)
