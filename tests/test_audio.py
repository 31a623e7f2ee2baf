from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.dataset import AudioError, AudioStream, load_audio, prepare_waveform, save_audio
from audiointerp.dataset.audio import fix_length, peak_normalize
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.resampling import resample
from audiointerp.storage import write_atomically

FORMATS = {".opus": "OGG", ".oga": "OGG", ".aif": "AIFF", ".aifc": "AIFF", ".snd": "AU"}
FORMATS |= {".wave": "WAV"}


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, dtype=np.float64)))))


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_16")])
def test_lossless_files_come_back_sample_for_sample(tmp_path, tone, name, subtype):
    integers = np.round(tone(440) * 32768).astype(np.int16)
    soundfile.write(tmp_path / name, integers, 8000, subtype=subtype)
    waveform, rate = load_audio(tmp_path / name, normalize=False)
    assert rate == 8000
    assert waveform.dtype == torch.float32
    assert waveform.shape == (1, 8000)
    np.testing.assert_array_equal(waveform[0].numpy(), integers / 32768)


def test_ogg_is_read(tmp_path, tone):
    soundfile.write(tmp_path / "a.ogg", tone(440, 2), 8000)
    waveform, rate = load_audio(tmp_path / "a.ogg", normalize=False)
    assert (rate, waveform.shape) == (8000, (1, 16000))
    assert rms(waveform) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_stereo_becomes_the_mean_of_its_channels(tmp_path, tone):
    left, right = tone(300), tone(500, level=0.25)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    waveform, _ = load_audio(tmp_path / "a.wav", normalize=False)
    np.testing.assert_allclose(waveform[0].numpy(), (left + right) / 2, atol=1e-7)


def test_a_peak_outside_the_kept_part_does_not_set_the_level(tmp_path, tone):
    wave = np.concatenate([tone(440, level=0.1), tone(440, level=0.9)])
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    waveform, _ = load_audio(tmp_path / "a.wav", duration=1.0)
    assert waveform.abs().max() == 1


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.7])
def test_any_length_becomes_the_duration_with_zeros_at_the_end(tmp_path, tone, seconds):
    wave = tone(440, seconds)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    waveform, _ = load_audio(tmp_path / "a.wav", duration=1.25, normalize=False)
    expected = np.zeros(10000, dtype=np.float32)
    expected[: min(len(wave), 10000)] = wave[:10000]
    np.testing.assert_array_equal(waveform[0].numpy(), expected)


@pytest.mark.parametrize(("rate", "new_rate"), [(44100, 32000), (44100, 16000), (8000, 32000)])
def test_resampling_keeps_a_tone_and_its_phase(rate, new_rate):
    time, new_time = np.arange(rate) / rate, np.arange(new_rate) / new_rate
    got = resample(torch.from_numpy(np.sin(2 * np.pi * 1000 * time)), rate, new_rate)
    assert got.shape == (new_rate,)
    inner = slice(new_rate // 10, -new_rate // 10)  # away from where the tone begins and ends
    np.testing.assert_allclose(
        got.numpy()[inner], np.sin(2 * np.pi * 1000 * new_time)[inner], atol=1e-5
    )


def test_a_tone_above_the_new_nyquist_is_gone(tone):
    high = torch.from_numpy(tone(9000, 1, 44100))
    assert rms(resample(high, 44100, 16000)[2000:-2000]) < 0.35 * 1e-5  # -100 dB


def test_resampling_agrees_with_the_fourier_method_on_band_limited_noise():
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=44100))
    spectrum[6000:] = 0  # one second, so bins are Hz
    noise = np.fft.irfft(spectrum)
    ours = resample(torch.from_numpy(noise), 44100, 16000).numpy()
    inner = slice(1000, -1000)
    np.testing.assert_allclose(ours[inner], scipy.signal.resample(noise, 16000)[inner], atol=1e-4)


def test_resampling_a_batch_is_resampling_each(tone):
    batch = torch.from_numpy(np.stack([tone(f) for f in (200, 300, 400, 500)])).reshape(2, 2, -1)
    together = resample(batch, 8000, 16000)
    assert together.shape == (2, 2, 16000)
    for i in range(2):
        for j in range(2):
            assert torch.equal(together[i, j], resample(batch[i, j], 8000, 16000))


@given(st.integers(1, 50), st.integers(1, 50))
def test_fix_length_keeps_the_start_and_adds_zeros(length, samples):
    wave = torch.arange(1.0, length + 1)[None]
    fixed = fix_length(wave, samples)
    assert fixed.shape == (1, samples)
    kept = min(length, samples)
    assert fixed[0, :kept].tolist() == list(range(1, kept + 1))
    assert fixed[0, kept:].tolist() == [0] * (samples - kept)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.floats(0.01, 100))
def test_normalised_peak_is_one_whatever_the_level(values, gain):
    wave = torch.tensor(values)
    if wave.abs().max() < np.finfo(np.float32).tiny:
        with pytest.raises(ValueError, match="silent"):
            peak_normalize(wave)
    else:
        before = wave.clone()
        assert peak_normalize(wave).abs().max() == 1
        assert torch.equal(wave, before)


def test_each_waveform_of_a_batch_is_normalised_on_its_own():
    batch = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    assert peak_normalize(batch).tolist() == [[0.5, -1.0], [1.0, 0.5]]


class TestBadFiles:
    def refuses(self, path, *words, **options):
        with pytest.raises(AudioError) as caught:
            load_audio(path, **options)
        for word in (str(path), *words):
            assert word in str(caught.value)

    def test_missing(self, tmp_path):
        self.refuses(tmp_path / "no.wav", "no such file", "check its name")
        self.refuses(tmp_path / "nowhere" / "no.wav", "does not exist either")

    def test_folder(self, tmp_path):
        self.refuses(tmp_path, "folder")

    def test_no_bytes(self, tmp_path):
        (tmp_path / "a.wav").touch()
        self.refuses(tmp_path / "a.wav", "0 bytes")

    def test_no_frames(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), 8000)
        self.refuses(tmp_path / "a.wav", "0 frames")

    def test_text(self, tmp_path):
        (tmp_path / "a.wav").write_text("this is not a sound " * 20)
        self.refuses(tmp_path / "a.wav", "not an audio file", "text")

    def test_git_lfs_pointer(self, tmp_path):
        (tmp_path / "a.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
        self.refuses(tmp_path / "a.wav", "git lfs pull")

    @pytest.mark.parametrize("kind", EXTENSIONS)
    @pytest.mark.parametrize("kept", [0.01, 0.5, 0.9, 0.999])
    def test_truncated(self, tmp_path, kind, kept):
        noise = np.random.default_rng(1).uniform(-0.5, 0.5, 40000)
        whole = tmp_path / f"whole{kind}"
        soundfile.write(whole, noise, 8000, format=FORMATS.get(kind))
        load_audio(whole)
        content = whole.read_bytes()
        cut = tmp_path / f"cut{kind}"
        cut.write_bytes(content[: int(len(content) * kept)])
        self.refuses(cut, "truncated")

    @pytest.mark.parametrize("name", ["a.raw", "A.RAW"])
    def test_raw_samples(self, tmp_path, tone, name):
        soundfile.write(tmp_path / "a.wav", tone(440), 8000)
        (tmp_path / "a.wav").rename(tmp_path / name)
        self.refuses(tmp_path / name, "does not say its sampling rate", "ffmpeg -f s16le")

    def test_names_that_cannot_be(self, tmp_path):
        self.refuses(tmp_path / ("x" * 300 + ".wav"), "name too long")
        self.refuses(tmp_path / "a\0.wav", "null")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
    def test_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "a.wav")
        self.refuses(tmp_path / "a.wav", "a pipe or a device")

    @pytest.mark.parametrize("error", [MemoryError, SystemError, OSError, OverflowError, TypeError])
    @pytest.mark.parametrize("method", ["read", "seek", "__init__"])
    def test_whatever_the_decoder_raises(self, tmp_path, tone, monkeypatch, method, error):
        def fail(*_args, **_options):
            raise error("something")

        soundfile.write(tmp_path / "a.wav", tone(440), 8000)
        monkeypatch.setattr(soundfile.SoundFile, method, fail)
        self.refuses(tmp_path / "a.wav", start=0.5)

    @pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
    def test_rates_that_no_sound_has(self, tmp_path, rate):
        soundfile.write(tmp_path / "a.wav", np.ones(100), rate)
        self.refuses(tmp_path / "a.wav", f"sampling rate of {rate} Hz")

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("value", [1e38, -3e38, 1.1e10])
    def test_beyond_any_sound(self, tmp_path, channels, value):
        wave = np.full((100, channels), 0.5)
        wave[10] = value
        soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
        self.refuses(tmp_path / "a.wav", f"{channels} of {100 * channels}", "beyond 1e+10")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_not_finite(self, tmp_path, tone, bad):
        wave = tone(440).astype(np.float64)
        wave[[5, 7]] = bad
        soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="DOUBLE")
        self.refuses(tmp_path / "a.wav", "2 of 8000", "NaN")

    def test_silent(self, tmp_path, tone):
        soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
        self.refuses(tmp_path / "a.wav", "silent")
        assert not load_audio(tmp_path / "a.wav", normalize=False)[0].any()
        late = np.concatenate([np.zeros(8000), tone(440)])
        soundfile.write(tmp_path / "late.wav", late, 8000)
        self.refuses(tmp_path / "late.wav", "silent", duration=1.0)


@pytest.mark.parametrize("level", [1e10, 2.0**31, 32768.0, 1e-15, 1.2e-38])
def test_any_level_of_a_sound_is_normalised(tmp_path, tone, level):
    wave = tone(440).astype(np.float64) * 2 * level
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    waveform, _ = load_audio(tmp_path / "a.wav", 16000)
    assert waveform.abs().max() == 1
    np.testing.assert_allclose(waveform[0, ::2], 2 * tone(440), atol=0.02)


@pytest.mark.parametrize("level", [1e-39, 1e-45])
def test_next_to_nothing_is_silence(tmp_path, level):
    soundfile.write(tmp_path / "a.wav", np.full(8000, level), 8000, subtype="FLOAT")
    for read in (load_audio, lambda path: list(AudioStream(path).windows(0.5))):
        with pytest.raises(AudioError, match="silent"):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [1e38, -1.1e10, 1e300])
def test_a_waveform_beyond_any_sound_is_refused(value):
    with pytest.raises(AudioError, match="full scale is 1"):
        prepare_waveform(np.array([0.0, value]), 8000)


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "IMA_ADPCM", "MS_ADPCM"])
def test_a_part_of_what_cannot_be_moved_in_is_that_of_the_whole(tmp_path, tone, subtype):
    soundfile.write(tmp_path / "a.wav", tone(440, 20), 8000, subtype=subtype)
    whole, _ = load_audio(tmp_path / "a.wav", normalize=False)
    part, _ = load_audio(tmp_path / "a.wav", normalize=False, start=12.34, end=17)
    assert torch.equal(part, whole[:, round(12.34 * 8000) : 17 * 8000])
    windows = list(AudioStream(tmp_path / "a.wav").windows(5, normalize=False))
    assert torch.equal(windows[1].waveform, whole[:, 5 * 8000 : 10 * 8000])


def test_a_name_that_is_no_utf8_is_read(tmp_path, tone):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    try:
        soundfile.write(tmp_path / "a.wav", tone(440), 8000)
        (tmp_path / "a.wav").rename(path)
    except (OSError, UnicodeEncodeError):
        pytest.skip("needs a file system that takes such names")
    assert load_audio(path)[0].shape == (1, 8000)


class TestLimits:
    def test_a_recording_too_long_to_be_held_is_read_in_parts(self, tmp_path, tone, monkeypatch):
        monkeypatch.setattr("audiointerp.dataset.audio.MOST_SAMPLES", 16_000)
        soundfile.write(tmp_path / "a.flac", tone(440, 3), 8000)
        with pytest.raises(AudioError, match=r"a\.flac: 3 s .*AudioStream"):
            load_audio(tmp_path / "a.flac")
        assert load_audio(tmp_path / "a.flac", end=2)[0].shape == (1, 16_000)
        with pytest.raises(AudioError, match="2 s at 16000 Hz"):
            load_audio(tmp_path / "a.flac", 16_000, end=2)
        assert load_audio(tmp_path / "a.flac", duration=1)[0].shape == (1, 8000)
        assert len(list(AudioStream(tmp_path / "a.flac").windows(1))) == 3
        for use in (
            lambda: load_audio(tmp_path / "a.flac", duration=2.5),
            lambda: next(AudioStream(tmp_path / "a.flac").windows(2.5)),
            lambda: prepare_waveform(tone(440), 8000, duration=2.5),
        ):
            with pytest.raises(ValueError, match="20000 samples, more than"):
                use()

    def test_memory_does_not_grow_with_the_channels(self, tmp_path):
        sound = np.zeros((3000, 1024), dtype=np.int16)
        sound[:, ::2] = 1 << 14
        soundfile.write(tmp_path / "a.wav", sound, 8000)
        tracemalloc.start()
        assert AudioStream(tmp_path / "a.wav").peak() == 0.25
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3000 * 1024 * 4  # less than all samples as floats


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sample_rate": 32}, ValueError, "did you give kHz"),
        ({"sample_rate": 0}, ValueError, "Hz"),
        ({"sample_rate": -32000}, ValueError, "Hz"),
        ({"sample_rate": 32000.5}, TypeError, "whole number"),
        ({"sample_rate": "32000"}, TypeError, "whole number"),
        ({"duration": 0}, ValueError, "above 0"),
        ({"duration": float("nan")}, ValueError, "above 0"),
        ({"duration": 160000}, ValueError, "did you give samples"),
        ({"duration": "5"}, TypeError, "seconds"),
    ],
)
def test_a_bad_rate_or_duration_is_refused_before_the_file_is_opened(options, error, words):
    with pytest.raises(error, match=words) as caught:
        load_audio("nowhere.wav", **options)
    assert not isinstance(caught.value, AudioError)


class TestSaving:
    def test_float_keeps_values_beyond_full_scale(self, tmp_path):
        wave = torch.tensor([[0.1, -3.5, 1e-9, 2.0]])
        assert save_audio(tmp_path / "a.wav", wave, 32000) == tmp_path / "a.wav"
        got, rate = load_audio(tmp_path / "a.wav", normalize=False)
        assert rate == 32000
        assert torch.equal(got, wave)

    def test_pcm_is_within_half_a_step(self, tmp_path, tone):
        save_audio(tmp_path / "a.wav", tone(440, level=1.0), 8000, subtype="PCM_16")
        assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
        got, _ = load_audio(tmp_path / "a.wav", normalize=False)
        assert np.abs(got[0].numpy() - tone(440, level=1.0)).max() <= 1 / 32768

    def test_pcm_refuses_to_clip(self, tmp_path):
        with pytest.raises(ValueError, match=r"reach 1\.5"):
            save_audio(tmp_path / "a.wav", np.array([0.5, -1.5]), 8000, subtype="PCM_16")
        assert list(tmp_path.iterdir()) == []

    def test_channels_stay_apart(self, tmp_path, tone):
        both = np.stack([tone(300), tone(500)])
        save_audio(tmp_path / "a.wav", both, 8000)
        np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav")[0].T, both)

    def test_a_float_file_does_not_hold_the_time_it_was_written(self, tmp_path, tone):
        save_audio(tmp_path / "a.wav", tone(440), 8000)
        content = (tmp_path / "a.wav").read_bytes()
        stamp = content.index(b"PEAK") + 12
        assert content[stamp : stamp + 4] == bytes(4)

    @pytest.mark.parametrize(
        ("wave", "words"),
        [
            (torch.zeros(2, 1, 100), "is it a batch"),
            (torch.zeros(100, 2), "wrong way round"),
            (torch.zeros(0), "shape"),
            (torch.tensor([0.0, float("nan")]), "NaN"),
        ],
    )
    def test_bad_waveforms_leave_an_older_file_alone(self, tmp_path, wave, words):
        (tmp_path / "a.wav").write_text("older")
        with pytest.raises(ValueError, match=words):
            save_audio(tmp_path / "a.wav", wave, 8000)
        assert (tmp_path / "a.wav").read_text() == "older"
        assert len(list(tmp_path.iterdir())) == 1

    def test_bad_names_and_subtypes(self, tmp_path):
        wave = np.ones(10)
        with pytest.raises(ValueError, match=r"end in \.wav"):
            save_audio(tmp_path / "a.mp3", wave, 8000)
        with pytest.raises(ValueError, match="choose from FLOAT, PCM_16"):
            save_audio(tmp_path / "a.wav", wave, 8000, subtype="PCM_8")
        with pytest.raises(FileNotFoundError, match="does not exist"):
            save_audio(tmp_path / "no" / "a.wav", wave, 8000)

    def test_a_failed_write_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(tmp_path / "a", b"content")
        assert list(tmp_path.iterdir()) == []


def test_every_real_clip_is_read_whole(real_data):
    files = sorted((real_data / "esc10" / "audio").iterdir())[::20]
    files += sorted((real_data / "published").rglob("*.wav"))
    for path in files:
        waveform, rate = load_audio(path, 32000, 5.0)
        assert (rate, waveform.shape) == (32000, (1, 160000))
        assert waveform.abs().max() == 1
