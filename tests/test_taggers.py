"""Front ends of AudioSet taggers, next to extractors written by their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from package_models import AugmentMelSTFT, VGGishLogMelSpectrogram
from repository import REPOSITORY
from torchaudio.compliance.kaldi import get_mel_banks
from torchaudio.functional import melscale_fbanks

from audiointerp.dataset import load_audio
from audiointerp.processing import PasstLogMel, YamnetLogMel

SAMPLES = sorted((REPOSITORY / "samples").glob("*.wav"))


def sound(path, rate: int) -> torch.Tensor:
    return load_audio(path, sample_rate=rate, duration=2.0)[0].reshape(1, 1, -1)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_numbers_of_passts_extractor_follow_from_the_cells(path):
    wave = sound(path, 32000)
    expected = AugmentMelSTFT().eval()(wave[:, 0])
    power = 10 ** (PasstLogMel()(wave)[:, 0].double() / 10)
    found = (torch.log(power + 1e-5) + 4.5) / 5
    torch.testing.assert_close(found, expected.double(), atol=1e-4, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_numbers_of_yamnets_extractor_follow_from_the_cells(path):
    wave = sound(path, 16000)
    expected = VGGishLogMelSpectrogram()(wave[:, 0])
    magnitude = 10 ** (YamnetLogMel()(wave)[:, 0].double() / 20)
    torch.testing.assert_close(torch.log(magnitude + 0.001), expected.double(), atol=1e-4, rtol=0)
    assert expected.std() > 0.1


def test_bands_are_those_of_kaldi_and_of_htk():
    banks, _ = get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    torch.testing.assert_close(PasstLogMel().filters[:-1], banks.T, atol=1e-4, rtol=0)
    assert (PasstLogMel().filters[-1] == 0).all()
    banks = melscale_fbanks(257, 125.0, 7500.0, 64, 16000, norm=None, mel_scale="htk")
    torch.testing.assert_close(YamnetLogMel().filters, banks, atol=1e-5, rtol=0)


@pytest.mark.parametrize("front_end", [PasstLogMel, YamnetLogMel])
@pytest.mark.parametrize("samples", [12800, 12801, 12799, 10001])
def test_synthesis_is_the_inverse_stft_of_the_changed_stft(front_end, samples):
    """By torch's inverse: windows shorter than the FFT, the last frame's gain past the end."""
    processor = front_end()
    generator = torch.Generator().manual_seed(samples)
    wave = torch.randn(1, 1, samples, generator=generator, dtype=torch.float64)
    view = processor.analyse(wave)
    gain = torch.empty_like(view.cells).uniform_(-80, 10, generator=generator)
    ours = processor.synthesise(view, view.cells + gain)
    amplitude = processor._bin_power_gain(10 ** (gain[:, 0] / 10)).sqrt()
    amplitude = torch.cat([amplitude, amplitude[..., -1:]], -1)
    window = torch.hann_window(
        processor.win_length, periodic=front_end is YamnetLogMel, dtype=torch.float64
    )
    slow = torch.istft(
        view.context * amplitude,
        processor.n_fft,
        processor.hop_length,
        processor.win_length,
        window,
        length=samples,
    )
    torch.testing.assert_close(ours[:, 0], slow, atol=1e-7, rtol=0)


def test_a_gain_between_bands_follows_kaldis_triangles():
    processor = PasstLogMel()
    filters = processor.filters.double()
    covered = (filters > 0).sum(1) == 2  # bins that two bands share
    gain = torch.rand(1, 128, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (filters @ gain[0]) / filters.sum(1, keepdim=True)
    found = processor._bin_power_gain(gain)[0]
    torch.testing.assert_close(found[covered], expected[covered], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"win_length": 2000}, r"win_length is 2000: expected 2 to n_fft 1024"),
        ({"win_length": 1}, r"win_length is 1:"),
        ({"hop_length": 512, "win_length": 700}, r"512 is more than two thirds of win_length 700"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PasstLogMel(**settings)


def test_a_sound_too_short_for_a_frame_is_refused():
    with pytest.raises(ValueError, match="513 samples: expected"):
        PasstLogMel()(torch.zeros(1, 1, 513))


def test_silence_has_a_gradient():
    wave = torch.zeros(1, 1, 2000, requires_grad=True)
    for processor in (PasstLogMel(), YamnetLogMel()):
        (gradient,) = torch.autograd.grad(processor(wave).sum(), wave)
        assert np.isfinite(gradient.numpy()).all()
