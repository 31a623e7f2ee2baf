"""Recordings of any length: blocks, windows, what they leave out and how much memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiointerp.dataset import AudioError, AudioStream, load_audio
from audiointerp.dataset.resampling import resample_blocks
from audiointerp.dataset.stream import window_starts

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 300_000).astype(np.float32)


def write(path, samples, rate=8000, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def joined(stream: AudioStream) -> np.ndarray:
    return np.concatenate(list(stream.blocks()))


@pytest.mark.parametrize(
    ("rate", "new_rate"),
    [(44100, 32000), (44100, 16000), (8000, 32000), (48000, 44100), (384000, 32000), (22050, 8000)],
)
@pytest.mark.parametrize("block", [1, 1000, 65536])
def test_resampled_blocks_join_to_the_sound_resampled_at_once(rate, new_rate, block):
    sound = NOISE[: 3000 if block == 1 else 200_001]
    blocks = [sound[place : place + block] for place in range(0, len(sound), block)]
    got = np.concatenate(list(resample_blocks(blocks, rate, new_rate)))
    expected = soxr.resample(sound, rate, new_rate, "VHQ")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_blocks_join_to_what_load_audio_reads(tmp_path, kind):
    stereo = np.stack([NOISE, 0.5 * NOISE[::-1]], axis=1)
    path = write(tmp_path / f"a.{kind}", stereo, 44100)
    expected, rate = load_audio(path, 32000, normalize=False)
    stream = AudioStream(path, 32000)
    assert np.array_equal(joined(stream), expected[0].numpy())
    assert (stream.sample_rate, stream.file_rate) == (rate, 44100)
    assert stream.samples == expected.shape[-1]
    assert stream.file_duration == len(NOISE) / 44100


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
@pytest.mark.parametrize(("start", "end"), [(0.5, 2.25), (5.9, None), (0, 1), (6.2, 6.25)])
def test_a_part_is_that_of_the_whole_sample_for_sample(tmp_path, kind, start, end):
    options = {"format": "OGG", "subtype": "OPUS"} if kind == "opus" else {}
    path = write(tmp_path / f"a.{kind}", NOISE, 48000, **options)
    whole = load_audio(path, normalize=False)[0][0].numpy()
    part = joined(AudioStream(path, start=start, end=end))
    last = None if end is None else round(end * 48000)
    np.testing.assert_array_equal(part, whole[round(start * 48000) : last])


def test_a_part_of_a_real_ogg_file_is_that_of_the_whole(real_data):
    # libsndfile itself misses the end of this one by 64 samples.
    path = real_data / "esc10" / "audio" / "1-17808-B-12.ogg"
    whole = load_audio(path, normalize=False)[0][0]
    part, _ = load_audio(path, normalize=False, start=7.15)
    assert torch.equal(part[0], whole[round(7.15 * 44100) :])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 30_000),
    st.sampled_from([8000, 16000, 11025, 44100]),
    st.sampled_from([8000, 16000, 22050, 32000]),
)
def test_the_length_is_known_before_reading(tmp_path_factory, samples, rate, new_rate):
    path = write(tmp_path_factory.mktemp("s") / "a.wav", NOISE[:samples], rate)
    if samples * new_rate / rate < 0.5:
        with pytest.raises(AudioError, match="too short"):
            AudioStream(path, new_rate)
    else:
        stream = AudioStream(path, new_rate)
        assert len(joined(stream)) == stream.samples


class TestWindows:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 40_000), st.integers(10, 20_000), st.integers(5, 30_000))
    def test_each_is_the_stretch_of_the_recording_that_it_says(
        self, tmp_path_factory, samples, size, step
    ):
        path = write(tmp_path_factory.mktemp("w") / "a.wav", NOISE[:samples], subtype="FLOAT")
        stream = AudioStream(path)
        windows = list(stream.windows(size / 8000, step / 8000, normalize=False))
        starts = [round(window.start * 8000) for window in windows]
        assert starts == window_starts(samples, size, step)
        for start, window in zip(starts, windows, strict=True):
            expected = np.zeros(size, dtype=np.float32)
            stretch = NOISE[:samples][start : start + size]
            expected[: len(stretch)] = stretch
            assert window.waveform.shape == (1, size)
            assert np.array_equal(window.waveform[0].numpy(), expected)
            assert window.end == pytest.approx((start + len(stretch)) / 8000)
        times = [(window.start, window.end) for window in windows]
        assert stream.times(size / 8000, step / 8000) == times

    @given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 60))
    def test_starts_cover_all_but_gaps_and_end_with_the_recording(self, samples, size, step):
        starts = window_starts(samples, size, step)
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert starts[-1] == max(0, samples - size)
        heard = {place for start in starts for place in range(start, start + size)}
        if step <= size:
            assert heard >= set(range(samples))
        assert starts[:-1] == [step * place for place in range(len(starts) - 1)]

    def test_without_a_hop_they_follow_each_other_and_the_last_moves_back(self, tmp_path):
        path = write(tmp_path / "a.wav", NOISE[:20_000])
        times = [(window.start, window.end) for window in AudioStream(path).windows(1.0)]
        assert times == [(0.0, 1.0), (1.0, 2.0), (1.5, 2.5)]

    def test_a_short_recording_is_padded(self, tmp_path):
        path = write(tmp_path / "a.wav", NOISE[:2000], subtype="FLOAT")
        (window,) = AudioStream(path).windows(1.0)
        assert (window.start, window.end) == (0.0, 0.25)
        assert torch.equal(window.waveform, load_audio(path, duration=1.0)[0])

    def test_a_recording_of_one_window_is_what_load_audio_returns(self, tmp_path):
        path = write(tmp_path / "a.wav", NOISE[:44100], 44100)
        (window,) = AudioStream(path, 32000).windows(1.0)
        assert torch.equal(window.waveform, load_audio(path, 32000, 1.0)[0])

    def test_times_count_from_the_beginning_of_the_file(self, tmp_path):
        path = write(tmp_path / "a.wav", NOISE[:80_000])
        stream = AudioStream(path, 16000, start=2.5, end=5.0)
        times = [(window.start, window.end) for window in stream.windows(1.0, 1.0)]
        assert times == [(2.5, 3.5), (3.5, 4.5), (4.0, 5.0)]

    def test_one_gain_serves_the_whole_recording(self, tmp_path, tone):
        sound = np.concatenate([tone(400, level=0.05), tone(400, level=0.5), np.zeros(8000)])
        path = write(tmp_path / "a.wav", sound, subtype="FLOAT")
        stream = AudioStream(path)
        assert stream.peak() == pytest.approx(0.5, rel=1e-3)
        peaks = [window.waveform.abs().max().item() for window in stream.windows(1.0)]
        assert peaks == pytest.approx([0.1, 1.0, 0.0], rel=1e-3)
        peaks = [
            window.waveform.abs().max().item() for window in stream.windows(1.0, normalize=False)
        ]
        assert peaks == pytest.approx([0.05, 0.5, 0.0], rel=1e-3)

    def test_the_gain_is_that_of_the_part(self, tmp_path, tone):
        sound = np.concatenate([tone(400, level=0.05), tone(400, level=0.5)])
        path = write(tmp_path / "a.wav", sound, subtype="FLOAT")
        assert AudioStream(path, end=1.0).peak() == pytest.approx(0.05, rel=1e-3)

    @pytest.mark.parametrize(
        ("window", "hop", "error", "words"),
        [
            (0, None, ValueError, "above 0"),
            (5000, None, ValueError, "did you give samples"),
            (1.0, 0, ValueError, "above 0"),
            (1.0, -1, ValueError, "above 0"),
            ("1", None, TypeError, "seconds"),
        ],
    )
    def test_lengths_that_make_no_sense_are_refused(self, tmp_path, window, hop, error, words):
        stream = AudioStream(write(tmp_path / "a.wav", NOISE[:8000]))
        with pytest.raises(error, match=words):
            next(stream.windows(window, hop))


class TestNotAnalysed:
    def test_nothing_by_default(self, tmp_path):
        stream = AudioStream(write(tmp_path / "a.wav", NOISE[:20_001], 44100), 32000)
        assert stream.not_analysed() == stream.not_analysed(0.1) == 0
        assert stream.not_analysed(0.1, 0.03) == 0

    def test_what_is_outside_and_between(self, tmp_path):
        stream = AudioStream(write(tmp_path / "a.wav", NOISE[:80_000]), start=1.5, end=8.0)
        assert stream.not_analysed() == pytest.approx(3.5)
        assert stream.not_analysed(1.0) == pytest.approx(3.5)
        assert stream.not_analysed(1.0, 2.5) == pytest.approx(3.5 + 1.5 + 1.5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("part", "error", "words"),
        [
            ({"start": -1}, ValueError, "start=-1"),
            ({"start": float("nan")}, ValueError, "start=nan"),
            ({"end": float("inf")}, ValueError, "end=inf"),
            ({"start": "1"}, TypeError, "seconds"),
            ({"start": 2, "end": 1}, ValueError, "end=1 s is not after start=2 s"),
            ({"start": 1, "end": 1}, ValueError, "not after"),
            ({"start": 2.5}, AudioError, "has no part from 2.5 s, it is 2.5 s long"),
            ({"end": 2.7}, AudioError, "has no part from 0 to 2.7 s"),
            ({"start": 1, "end": 1.00001}, AudioError, "holds no sample"),
        ],
    )
    def test_parts_that_are_not_there(self, tmp_path, part, error, words):
        path = write(tmp_path / "a.wav", NOISE[:20_000])
        for read in (AudioStream, load_audio):
            with pytest.raises(error, match=words):
                read(path, **part)

    def test_an_end_a_little_behind_the_file_is_its_end(self, tmp_path):
        stream = AudioStream(write(tmp_path / "a.wav", NOISE[:20_000]), end=2.55)
        assert (stream.end, stream.not_analysed()) == (2.5, 0)

    def test_silence_as_a_whole(self, tmp_path):
        stream = AudioStream(write(tmp_path / "a.wav", np.zeros(20_000)))
        with pytest.raises(AudioError, match=r"a\.wav: silent"):
            next(stream.windows(1.0))
        assert not next(stream.windows(1.0, normalize=False)).waveform.any()

    def test_samples_that_are_no_numbers_are_placed(self, tmp_path):
        sound = np.concatenate([NOISE[:200_000], [np.nan], NOISE[:10]])
        stream = AudioStream(write(tmp_path / "a.wav", sound, subtype="FLOAT"))
        with pytest.raises(AudioError, match=r"1 of 3403 samples from 24\.58 s on are NaN"):
            list(stream.windows(1.0, normalize=False))

    @pytest.mark.parametrize("kind", ["flac", "mp3"])
    def test_a_cut_file_is_seen_before_anything_is_decoded(self, tmp_path, kind):
        whole = write(tmp_path / f"whole.{kind}", NOISE, 44100)
        content = whole.read_bytes()
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(content[: len(content) * 9 // 10])
        with pytest.raises(AudioError, match=r"cut\.\w+: truncated"):
            AudioStream(cut)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_memory_does_not_grow_with_the_recording(tmp_path, kind):
    peaks = []
    for minutes in (1, 10):
        path = tmp_path / f"{minutes}.{kind}"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            for _ in range(minutes * 2):
                file.write(NOISE[:240_000])
        tracemalloc.start()
        count = sum(1 for _ in AudioStream(path, 16000).windows(5.0, 2.5))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == minutes * 24 - 1
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 4 * (5 * 16000 + 2 * 65536 * 2) * 4  # a few windows and blocks, in bytes
