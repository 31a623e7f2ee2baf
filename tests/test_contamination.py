from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiointerp.dataset import AudioError, Contamination, contaminate
from audiointerp.dataset.contamination import active_rms


def level_db(clip, noise):
    """Measure the level in float64, over what is not padding: the slow and simple way."""

    def rms(x):
        x = np.trim_zeros(x.numpy().astype(np.float64).ravel())
        return math.sqrt(sum(v * v for v in x) / len(x))

    return 20 * math.log10(rms(clip) / rms(noise))


@pytest.fixture
def clip(tone):
    return torch.from_numpy(tone(440, level=0.01))[None]


@pytest.fixture
def noise():
    return torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise_file(tmp_path, noise):
    soundfile.write(tmp_path / "hiss.wav", 0.1 * noise[0].numpy(), 8000, subtype="FLOAT")
    return tmp_path / "hiss.wav"


def test_default_is_the_published_level(clip, noise):
    clip_part, noise_part = contaminate(clip, noise)
    assert level_db(clip_part, noise_part) == pytest.approx(3.5218, abs=1e-4)


@given(st.floats(-30, 30), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 3000))
def test_measured_level_is_the_one_asked_for_whatever_the_gains_and_the_padding(
    snr_db, gain, noise_gain, padding
):
    generator = torch.Generator().manual_seed(padding)
    clip = gain * torch.randn(1, 4000, generator=generator)
    clip[:, 4000 - padding :] = 0
    noise = noise_gain * torch.randn(1, 4000, generator=generator)
    clip_part, noise_part = contaminate(clip, noise, snr_db=snr_db)
    assert level_db(clip_part, noise_part) == pytest.approx(snr_db, abs=1e-3)
    assert (clip_part + noise_part).abs().max().item() == pytest.approx(1, abs=1e-6)
    # The parts are the inputs scaled, nothing else.
    scale = clip_part.abs().max() / clip.abs().max()
    torch.testing.assert_close(clip_part, clip * scale)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.6, 0.9])
def test_alpha_is_the_share_of_the_clip(clip, noise, alpha):
    clip_part, noise_part = contaminate(clip, noise, alpha=alpha)
    assert level_db(clip_part, noise_part) == pytest.approx(
        20 * math.log10(alpha / (1 - alpha)), abs=1e-4
    )


def test_formula_by_hand():
    clip = torch.tensor([2.0, -2.0, 0.0, 0.0])  # active RMS 2
    noise = torch.tensor([3.0, 3.0, 3.0, 3.0])  # RMS 3
    # 0.6·(1, -1, 0, 0) + 0.4·(1, 1, 1, 1) = (1, -0.2, 0.4, 0.4): its peak is 1 already
    clip_part, noise_part = contaminate(clip, noise, alpha=0.6)
    torch.testing.assert_close(clip_part, torch.tensor([0.6, -0.6, 0, 0]))
    torch.testing.assert_close(noise_part, torch.full((4,), 0.4))


def test_active_part_excludes_zeros_at_both_ends_but_not_inside():
    wave = torch.tensor([[0.0, 0, 3, 0, 4, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    expected = [math.sqrt(25 / 3), 1, 0]
    assert active_rms(wave)[:, 0].tolist() == pytest.approx(expected)


def test_a_batch_is_each_clip_on_its_own(clip, noise):
    batch = torch.stack([clip, 5 * clip.roll(7, -1), noise.flip(-1)])
    clips, noises = contaminate(batch, noise, alpha=0.7)
    for i in range(3):
        one = contaminate(batch[i], noise, alpha=0.7)
        assert torch.equal(clips[i], one[0])
        assert torch.equal(noises[i], one[1])


def test_dtype_is_kept(clip, noise):
    parts = contaminate(clip.double(), noise.double())
    assert {part.dtype for part in parts} == {torch.float64}


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan])
def test_alpha_out_of_range(clip, noise, alpha):
    with pytest.raises(ValueError, match="above 0"):
        contaminate(clip, noise, alpha=alpha)


@pytest.mark.parametrize("snr_db", [math.nan, math.inf, -500])
def test_level_out_of_range(clip, noise, snr_db):
    with pytest.raises(ValueError, match="dB"):
        contaminate(clip, noise, snr_db=snr_db)


def test_what_cannot_be_mixed(clip, noise):
    with pytest.raises(ValueError, match="not both"):
        contaminate(clip, noise, alpha=0.5, snr_db=3)
    with pytest.raises(ValueError, match="the noise is silent"):
        contaminate(clip, torch.zeros_like(noise))
    with pytest.raises(ValueError, match="the noise is silent"):
        contaminate(clip, 1e-21 * noise)  # whose squares are not even normal numbers
    with pytest.raises(ValueError, match="the clip is silent"):
        contaminate(torch.stack([clip, 0 * clip]), noise)
    with pytest.raises(ValueError, match="same number of samples"):
        contaminate(clip, noise[:, :100])
    with pytest.raises(ValueError, match="upside down"):
        contaminate(clip, -clip, alpha=0.5)


class TestNoiseFile:
    def test_a_short_noise_repeats_and_a_long_one_is_cut(self, noise_file, noise):
        kept = 0.1 * noise
        contamination = Contamination(noise_file)
        long = contamination.noise(8000, 20000)
        torch.testing.assert_close(long, torch.cat([kept, kept, kept[:, :4000]], -1))
        torch.testing.assert_close(contamination.noise(8000, 300), kept[:, :300])

    def test_stereo_of_another_rate(self, tmp_path, tone):
        left = tone(440, 2, 44100)
        soundfile.write(tmp_path / "a.wav", np.stack([left, 0 * left], 1), 44100, subtype="FLOAT")
        got = Contamination(tmp_path / "a.wav").noise(16000, 16000)
        np.testing.assert_allclose(
            got[0, 500:-500], tone(440, 1, 16000, level=0.25)[500:-500], atol=1e-4
        )

    def test_the_file_is_read_once_for_a_rate(self, noise_file, clip, monkeypatch):
        contamination = Contamination(noise_file)
        first = contamination.parts(clip, 8000), contamination.parts(clip, 16000)
        noise_file.unlink()
        again = contamination.parts(clip, 8000), contamination.parts(clip, 16000)
        assert torch.equal(first[0][1], again[0][1])
        assert torch.equal(first[1][1], again[1][1])

    def test_parts_are_those_of_contaminate(self, noise_file, clip):
        contamination = Contamination(noise_file, snr_db=6)
        expected = contaminate(clip, contamination.noise(8000, 8000), snr_db=6)
        for got, want in zip(contamination.parts(clip, 8000), expected, strict=True):
            torch.testing.assert_close(got, want)

    def test_settings_tell_the_level_both_ways(self, noise_file):
        by_level = Contamination(noise_file, snr_db=20 * math.log10(1.5)).settings()
        by_share = Contamination(noise_file, 0.6).settings()
        assert by_level["alpha"] == pytest.approx(0.6)
        assert by_share["snr_db"] == pytest.approx(3.5218, abs=1e-4)
        assert by_share["noise"] == Contamination(noise_file).name == "hiss"
        assert by_share["noise_file"] == "hiss.wav"
        assert "0.6" in repr(Contamination(noise_file))

    def test_settings_tell_two_noises_of_one_name_apart(self, noise_file, tone):
        before = Contamination(noise_file).settings()
        soundfile.write(noise_file, tone(100), 8000)
        assert Contamination(noise_file).settings() != before

    def test_it_pickles(self, noise_file, clip):
        contamination = Contamination(noise_file)
        copy = pickle.loads(pickle.dumps(contamination))
        assert torch.equal(copy.parts(clip, 8000)[0], contamination.parts(clip, 8000)[0])

    def test_bad_noise_files(self, tmp_path, tone):
        with pytest.raises(AudioError, match="no such file"):
            Contamination(tmp_path / "no.wav")
        soundfile.write(tmp_path / "silent.wav", np.zeros(100), 8000)
        with pytest.raises(AudioError, match=r"silent\.wav.*silent"):
            Contamination(tmp_path / "silent.wav")
        late = np.concatenate([np.zeros(8000), tone(440)])
        soundfile.write(tmp_path / "late.wav", late, 8000)
        with pytest.raises(AudioError, match="the first 1 s are silent"):
            Contamination(tmp_path / "late.wav").noise(8000, 8000)

    def test_both_levels(self, noise_file):
        with pytest.raises(ValueError, match="not both"):
            Contamination(noise_file, 0.6, snr_db=3)

    def test_a_silent_clip_is_named(self, noise_file):
        with pytest.raises(AudioError, match=r"dog\.wav: the clip is silent"):
            Contamination(noise_file).parts(torch.zeros(1, 100), 8000, source="dog.wav")


def test_the_published_noises_mix_at_the_published_level(real_data):
    for path in sorted((real_data / "published" / "noises").iterdir()):
        contamination = Contamination(path)
        clip = torch.randn(1, 160000, generator=torch.Generator().manual_seed(1))
        clip[:, 100000:] = 0
        assert level_db(*contamination.parts(clip, 32000)) == pytest.approx(3.5218, abs=1e-3)
