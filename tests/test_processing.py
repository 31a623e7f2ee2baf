"""Front ends against librosa, torchaudio and torchlibrosa; inversion against a slow numpy one."""

from __future__ import annotations

import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from audiointerp.processing import (
    FRONT_ENDS,
    BandLogSTFTSpectrogram,
    KaldiFilterbank,
    LogMelSTFTSpectrogram,
    LogSTFTSpectrogram,
    MelSTFTSpectrogram,
    STFTSpectrogram,
    build_processor,
)
from audiointerp.registry import UnknownNameError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

# The frames of the first two are others, the windows of the last two shorter than the FFT; see
# test_filterbank.py and test_taggers.py.
CENTRED = [
    front_end
    for name, front_end in FRONT_ENDS.items()
    if name not in ("KaldiFilterbank", "WhisperLogMel", "PasstLogMel", "YamnetLogMel")
]
PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "published" / "samples"
SIGNALS = ["noise", "sweep", "dog", "sea_waves"]


def with_gain(processor, view, gain_db):
    """Return the view's cells after a gain in every cell, dB."""
    if processor.log:
        return view.cells + gain_db
    return view.cells * 10 ** (torch.as_tensor(gain_db) / 10)


def noise(samples: int, *, batch: int = 1, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, 1, samples, generator=generator, dtype=torch.float64).to(dtype)


def decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-10))


def snr(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Signal-to-noise ratio of `got`, dB, without the division by zero of a perfect copy."""
    error = (wanted.double() - got.double()).square().sum().item()
    return 10 * np.log10(wanted.double().square().sum().item() / max(error, 1e-300))


def assert_same_amplitudes(power: np.ndarray, wanted: np.ndarray) -> None:
    """Compare spectra to the precision of the float32 window: 1e-7 of the loudest cell."""
    tolerance = 1e-7 * np.sqrt(wanted.max())
    np.testing.assert_allclose(np.sqrt(power), np.sqrt(wanted), rtol=1e-6, atol=tolerance)


def load(name: str, rate: int, highest: float = 0.43) -> np.ndarray:
    """Return 1.5 s of a signal as float64; a sweep goes up to a share of the rate."""
    if name == "noise":
        return noise(rate * 3 // 2, dtype=torch.float64)[0, 0].numpy()
    if name == "sweep":
        time = np.arange(rate * 3 // 2) / rate
        return 0.5 * np.sin(2 * np.pi * (50 * time + highest * rate * time**2 / 3))
    path = PUBLISHED / f"{name}.wav"
    if not path.is_file():
        pytest.skip(f"needs the recording {path}")
    return librosa.load(path, sr=rate, duration=1.5, dtype=np.float64, res_type="polyphase")[0]


# The front ends against other libraries.


@pytest.mark.parametrize("name", SIGNALS)
def test_log_mel_is_librosas_with_the_panns_settings(name):
    wave = load(name, 32000)
    power = librosa.feature.melspectrogram(
        y=wave,
        sr=32000,
        n_fft=1024,
        hop_length=320,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=64,
        fmin=50,
        fmax=14000,
        htk=False,
        norm="slaney",
    )
    ours = MelSTFTSpectrogram()(torch.from_numpy(wave)[None, None])[0, 0].numpy()
    assert_same_amplitudes(ours, power)
    in_db = LogMelSTFTSpectrogram()(torch.from_numpy(wave)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(in_db, decibels(ours), rtol=0, atol=1e-10)
    heard = power > 1e-8 * power.max()
    np.testing.assert_allclose(in_db[heard], decibels(power)[heard], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SIGNALS)
def test_log_stft_is_librosas(name):
    wave = load(name, 16000)
    power = np.abs(librosa.stft(wave, n_fft=512, hop_length=256, pad_mode="reflect")) ** 2
    ours = STFTSpectrogram()(torch.from_numpy(wave)[None, None])[0, 0].numpy()
    assert_same_amplitudes(ours, power)
    in_db = LogSTFTSpectrogram()(torch.from_numpy(wave)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(in_db, decibels(ours), rtol=0, atol=1e-10)
    heard = power > 1e-8 * power.max()
    np.testing.assert_allclose(in_db[heard], decibels(power)[heard], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SIGNALS)
def test_log_mel_is_the_one_panns_were_trained_with(name):
    wave = torch.from_numpy(load(name, 32000)).float()[None]
    spectrogram = Spectrogram(
        n_fft=1024, hop_length=320, win_length=1024, window="hann", center=True, pad_mode="reflect"
    )
    log_mel = LogmelFilterBank(
        sr=32000, n_fft=1024, n_mels=64, fmin=50, fmax=14000, ref=1.0, amin=1e-10, top_db=None
    )
    theirs = log_mel(spectrogram(wave)).transpose(2, 3)
    ours = LogMelSTFTSpectrogram()(wave[None])
    assert ours.shape == theirs.shape
    # Their DFT is a float32 convolution: far below a clip's loudest cell it has rounding noise.
    heard = theirs > theirs.max() - 80
    torch.testing.assert_close(ours[heard], theirs[heard], rtol=0, atol=0.02)
    assert (ours - theirs).abs().median() < 1e-4


def test_filters_are_librosas():
    theirs = librosa.filters.mel(sr=32000, n_fft=1024, n_mels=64, fmin=50, fmax=14000)
    np.testing.assert_allclose(MelSTFTSpectrogram().filters.numpy().T, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n_mels", "f_min", "f_max"), [(32, 0.0, 16000.0), (10, 0.0, 900.0)])
def test_filters_are_librosas_at_other_settings(n_mels, f_min, f_max):
    processor = MelSTFTSpectrogram(n_mels=n_mels, f_min=f_min, f_max=f_max)
    theirs = librosa.filters.mel(sr=32000, n_fft=1024, n_mels=n_mels, fmin=f_min, fmax=f_max)
    np.testing.assert_allclose(processor.filters.numpy().T, theirs, rtol=1e-6, atol=0)


def test_both_front_ends_agree_with_torchaudio():
    wave = noise(20000)
    power = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=256)(wave)
    torch.testing.assert_close(STFTSpectrogram()(wave), power, rtol=1e-5, atol=1e-7)
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=32000,
        n_fft=1024,
        hop_length=320,
        f_min=50.0,
        f_max=14000.0,
        n_mels=64,
        norm="slaney",
        mel_scale="slaney",
    )
    torch.testing.assert_close(MelSTFTSpectrogram()(wave), mel(wave), rtol=1e-4, atol=1e-9)
    decibel = torchaudio.transforms.AmplitudeToDB("power")
    torch.testing.assert_close(LogSTFTSpectrogram()(wave), decibel(power), rtol=0, atol=1e-2)


def test_htk_mel_the_published_one_is_another_front_end():
    wave = noise(32000)
    settings = {"sample_rate": 32000, "n_fft": 1024, "hop_length": 320, "n_mels": 64}
    published = torchaudio.transforms.MelSpectrogram(**settings, f_min=50.0, f_max=14000.0)
    difference = LogMelSTFTSpectrogram()(wave) - 10 * published(wave).clamp(min=1e-10).log10()
    assert difference.abs().mean() > 10


def test_frequencies_are_the_centres():
    mel = LogMelSTFTSpectrogram()
    centres = librosa.mel_frequencies(n_mels=66, fmin=50, fmax=14000, htk=False)[1:-1]
    np.testing.assert_allclose(mel.frequencies, centres, rtol=1e-6)
    stft = LogSTFTSpectrogram()
    np.testing.assert_allclose(stft.frequencies, librosa.fft_frequencies(sr=16000, n_fft=512))
    assert len(mel.frequencies) == mel.num_bins
    assert len(stft.frequencies) == stft.num_bins


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_a_click_and_a_tone_lie_where_the_axes_say(front_end):
    processor = front_end()
    rate = processor.sample_rate
    click = torch.zeros(1, 1, rate)
    click[..., rate // 4] = 1
    frames = (
        processor(click)[0, 0].exp2().sum(0) if processor.log else processor(click)[0, 0].sum(0)
    )
    times = processor.times(len(frames))
    assert abs(times[frames.argmax()] - 0.25) <= processor.hop_length / rate / 2
    tone = torch.sin(2 * torch.pi * 3000 * torch.arange(rate) / rate)[None, None]
    loudest = processor(tone)[0, 0].mean(1).argmax()
    assert loudest == (processor.frequencies - 3000).abs().argmin()


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
@pytest.mark.parametrize("samples", [1024, 4799, 4800, 4801])
def test_the_number_of_frames_is_known_beforehand(front_end, samples):
    processor = front_end()
    shape = (2, 1, processor.num_bins, processor.num_frames(samples))
    assert processor(noise(samples, batch=2)).shape == shape


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_silence_is_at_the_floor_and_nothing_lies_below(front_end):
    processor = front_end()
    assert (processor(torch.zeros(1, 1, 4000)) == processor.floor).all()
    quiet = processor(noise(4000) * 1e-6)
    assert quiet.min() >= processor.floor
    assert torch.isfinite(quiet).all()


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_a_clip_in_a_batch_has_the_features_it_has_alone(front_end):
    processor = front_end()
    batch = noise(9001, batch=3)
    alone = torch.cat([processor(clip[None]) for clip in batch])
    torch.testing.assert_close(processor(batch), alone, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_follows_the_waveform(front_end, dtype):
    processor = front_end()
    view = processor.analyse(noise(4000, dtype=dtype))
    assert view.cells.dtype == dtype
    gain = torch.zeros_like(view.cells)
    assert processor.synthesise(view, with_gain(processor, view, gain)).dtype == dtype
    assert processor.synthesise(view, with_gain(processor, view, gain.double())).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_device_follows_the_waveform(front_end):
    wave = noise(9001)
    on_cpu, on_gpu = front_end(), front_end().cuda()
    view = on_gpu.analyse(wave.cuda())
    assert view.cells.is_cuda
    torch.testing.assert_close(view.cells.cpu(), on_cpu(wave), rtol=1e-3, atol=1e-2)
    change = torch.full_like(view.cells, -6.0)
    assert (
        snr(wave * 10**-0.3, on_gpu.synthesise(view, with_gain(on_gpu, view, change)).cpu()) > 100
    )


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_gradients_reach_the_waveform(front_end):
    small = {"sample_rate": 800, "n_fft": 16, "hop_length": 7}
    if front_end is KaldiFilterbank:
        small = {"sample_rate": 800, "n_mels": 4}
    elif issubclass(front_end, MelSTFTSpectrogram):
        small |= {"n_mels": 3, "f_min": 20.0, "f_max": 400.0}
    processor = front_end(**small)
    wave = noise(24, batch=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(processor, wave)


# Inversion.


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
@settings(max_examples=10, deadline=None)
@given(samples=st.integers(1025, 4000))
def test_an_unchanged_clip_comes_back_at_its_full_length(front_end, samples):
    processor = front_end()
    wave = noise(samples, seed=samples)
    view = processor.analyse(wave)
    back = processor.synthesise(view, with_gain(processor, view, torch.zeros_like(view.cells)))
    assert torch.equal(back, wave)


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1025, 4000), decibel=st.floats(-60, 20))
def test_the_same_gain_everywhere_scales_the_waveform(front_end, samples, decibel):
    """A true inversion: here every cell changes, so that the whole signal passes the ISTFT."""
    processor = front_end()
    wave = noise(samples, seed=samples)
    view = processor.analyse(wave)
    scaled = processor.synthesise(
        view, with_gain(processor, view, torch.full_like(view.cells, decibel))
    )
    wanted = wave.double() * 10 ** (decibel / 20)
    assert snr(wanted, scaled) > 100 + min(0, decibel)
    # The last samples too, where the windows run out.
    assert (scaled - wanted)[..., -8:].abs().max() < 1e-5 * wave.abs().max()


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_six_decibels_down_is_100_db_clean(front_end):
    processor = front_end()
    for samples in (32000, 32001, 31999, 12800 - 1, 12800 - 2):
        wave = noise(samples)
        view = processor.analyse(wave)
        half = processor.synthesise(
            view, with_gain(processor, view, torch.full_like(view.cells, -6.0))
        )
        assert snr(wave.double() * 10**-0.3, half) > 100


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
@pytest.mark.parametrize("name", SIGNALS)
def test_everything_at_the_floor_is_silence(front_end, name):
    processor = front_end()
    rate = processor.sample_rate
    # What no band hears is not removed.
    highest = 0.43 * min(1, getattr(processor, "f_max", rate) / (0.43 * rate))
    wave = torch.from_numpy(load(name, rate, highest)).float()[None, None]
    view = processor.analyse(wave)
    floor = torch.full_like(view.cells, processor.floor)
    silent = processor.synthesise(view, floor)
    # Kaldi's floor is 31 dB higher, and pre-emphasis hides low frequencies.
    assert snr(wave, wave + silent) > (50 if front_end is KaldiFilterbank else 80)


def overlap_add(wave: np.ndarray, amplitude: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Return the masked waveform the slow way: each frame windowed, changed, windowed, added up."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(wave, n_fft // 2, mode="reflect")
    padded = np.concatenate([padded, np.zeros(2 * n_fft)])
    total, weight = np.zeros(len(padded)), np.zeros(len(padded))
    # The frames of the features, and one past the end with the last one's gain.
    for frame in range(amplitude.shape[1] + 1):
        place = slice(frame * hop, frame * hop + n_fft)
        spectrum = np.fft.rfft(padded[place] * window)
        changed = spectrum * amplitude[:, min(frame, amplitude.shape[1] - 1)]
        total[place] += np.fft.irfft(changed, n_fft) * window
        weight[place] += window**2
    inside = slice(n_fft // 2, n_fft // 2 + len(wave))
    return total[inside] / weight[inside]


def triangles(n_fft: int, rate: int, edges: np.ndarray) -> np.ndarray:
    """Return the height of every band's triangle over every bin, one cell at a time."""
    heights = np.zeros((n_fft // 2 + 1, len(edges) - 2))
    for k in range(n_fft // 2 + 1):
        hz = k * rate / n_fft
        for band in range(len(edges) - 2):
            low, centre, high = edges[band : band + 3]
            if low < hz <= centre:
                heights[k, band] = (hz - low) / (centre - low)
            elif centre < hz < high:
                heights[k, band] = (high - hz) / (high - centre)
    return heights


def bin_gain(processor: STFTSpectrogram, power_gain: np.ndarray) -> np.ndarray:
    """Return the power gain per FFT bin from that per feature bin, the slow way."""
    if not isinstance(processor, MelSTFTSpectrogram):
        return power_gain
    edges = librosa.mel_frequencies(
        n_mels=processor.n_mels + 2, fmin=processor.f_min, fmax=processor.f_max
    )
    heights = triangles(processor.n_fft, processor.sample_rate, edges)
    spread = np.zeros((heights.shape[0], power_gain.shape[1]))
    for k, row in enumerate(heights):
        if row.sum() == 0:
            hz = k * processor.sample_rate / processor.n_fft
            spread[k] = power_gain[np.abs(edges[1:-1] - hz).argmin()]
        else:
            spread[k] = row @ power_gain / row.sum()
    return spread


@pytest.mark.parametrize("front_end", CENTRED)
@pytest.mark.parametrize("samples", [12800, 12801, 12799, 12798, 10001])
def test_synthesis_is_the_slow_overlap_add_of_the_changed_stft(front_end, samples):
    processor = front_end()
    wave = noise(samples, dtype=torch.float64)
    view = processor.analyse(wave)
    generator = torch.Generator().manual_seed(1)
    gain = torch.empty_like(view.cells).uniform_(-80, 10, generator=generator)
    gain[torch.rand(gain.shape, generator=generator) < 0.2] = -torch.inf
    ours = processor.synthesise(view, with_gain(processor, view, gain))[0, 0].numpy()
    amplitude = np.sqrt(bin_gain(processor, 10 ** (gain[0, 0].numpy() / 10)))
    slow = overlap_add(wave[0, 0].numpy(), amplitude, processor.n_fft, processor.hop_length)
    np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(half=st.integers(8, 60), part=st.floats(0.05, 1.0), samples=st.integers(130, 900))
def test_the_inverse_is_torchs_at_any_window_and_hop(half, part, samples):
    front_end = STFTSpectrogram(n_fft=2 * half, hop_length=max(1, int(part * half)))
    generator = torch.Generator().manual_seed(samples)
    waveform = torch.randn(2, 1, samples, generator=generator, dtype=torch.float64)
    view = front_end.analyse(waveform)
    kept = torch.rand(view.cells.shape, generator=generator, dtype=torch.float64)
    stft = view.context * torch.cat([kept, kept[..., -1:]], -1).squeeze(1).sqrt()
    size, hop, window = front_end.n_fft, front_end.hop_length, front_end.window.double()
    expected = torch.istft(stft, size, hop, window=window, length=samples)
    found = front_end.synthesise(view, view.cells * kept)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_no_clip_length_ends_in_a_click(front_end):
    """Where only the feet of the last window reach, a plain inverse STFT divides by almost 0."""
    processor = front_end()
    generator = torch.Generator().manual_seed(0)
    for extra in (
        0,
        1,
        processor.hop_length // 2,
        *range(processor.hop_length - 4, processor.hop_length),
    ):
        wave = noise(10 * processor.hop_length + extra)
        view = processor.analyse(wave)
        keep = torch.rand(view.cells.shape, generator=generator) > 0.5
        gain = torch.where(keep, 0.0, -100.0)
        assert (
            processor.synthesise(view, with_gain(processor, view, gain)).abs().max()
            < 2 * wave.abs().max()
        )


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_a_kept_band_keeps_its_tone_and_loses_another(front_end):
    processor = front_end()
    rate = processor.sample_rate
    time = torch.arange(rate) / rate
    low, high = (0.3 * torch.sin(2 * torch.pi * hz * time)[None, None] for hz in (600, 4000))
    view = processor.analyse(low + high)
    kept = (processor.frequencies > 300) & (processor.frequencies < 1200)
    masked = torch.where(kept[:, None], view.cells, torch.tensor(processor.floor))
    heard = processor.synthesise(view, masked)
    window = torch.hann_window(rate - 4000, dtype=torch.float64)

    def level(wave: torch.Tensor, hz: int) -> float:
        """Level of a tone away from the clip's ends, dB."""
        middle = wave[0, 0, 2000:-2000].double() * window
        turn = torch.exp(-2j * torch.pi * hz / rate * torch.arange(len(middle)).double())
        return 20 * np.log10(abs((middle * turn).sum().item()))

    assert abs(level(heard, 600) - level(low, 600)) < 0.05
    assert level(heard, 4000) < level(high, 4000) - 70


def test_a_mel_gain_follows_the_triangles_and_the_nearest_band_outside():
    processor = MelSTFTSpectrogram()
    bins = np.arange(513) * 31.25
    for band in (0, 20, 63):
        gain = torch.zeros(1, 64, 1, dtype=torch.float64)
        gain[0, band] = 1
        spread = processor._bin_power_gain(gain)[0, :, 0].numpy()
        np.testing.assert_allclose(
            spread, bin_gain(processor, gain[0].numpy())[:, 0], rtol=0, atol=1e-7
        )
    assert (spread[bins > 14000] == 1).all()  # the last band's gain, all the way up
    assert (processor._bin_power_gain(torch.full((1, 64, 3), 0.3)) == 0.3).all()


def test_what_is_masked_in_the_features_is_what_is_heard():
    """Taking 10 dB from every cell of the features takes 10 dB from those of the sound."""
    for front_end in (LogMelSTFTSpectrogram, LogSTFTSpectrogram):
        processor = front_end()
        view = processor.analyse(noise(16000))
        masked = view.cells - 10
        heard = processor.synthesise(view, masked)
        torch.testing.assert_close(processor(heard), masked, rtol=0, atol=1e-2)


def test_power_features_may_be_masked_to_nothing():
    processor = STFTSpectrogram()
    features = torch.tensor([[[[4.0, 0.0, 2.0, 0.0]]]])
    masked = torch.tensor([[[[2.0, 0.0, 0.0, 5.0]]]])
    expected = [10 * np.log10(0.5), 0.0, -np.inf, 0.0]
    np.testing.assert_allclose(processor.gain_db(features, masked)[0, 0, 0], expected, rtol=1e-6)


def test_some_clips_of_an_analysis():
    processor = LogSTFTSpectrogram()
    wave = noise(5001, batch=3)
    part = processor.analyse(wave)[1:2]
    assert torch.equal(part.waveform, wave[1:2])
    assert part.cells.shape[0] == part.context.shape[0] == 1
    gain = torch.full_like(part.cells, -6.0)
    assert (
        snr(
            wave[1:2].double() * 10**-0.3,
            processor.synthesise(part, with_gain(processor, part, gain)),
        )
        > 100
    )


# Settings and bad input.


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_front_end_is_made_again_from_its_settings(name):
    other = {"sample_rate": 22050, "n_fft": 256, "hop_length": 100}
    if name == "KaldiFilterbank":
        other = {"sample_rate": 22050, "n_mels": 12, "most_frames": 50}
    elif "Mel" in name:
        other |= {"n_mels": 12, "f_min": 30.0, "f_max": 9000.0}
    processor = FRONT_ENDS[name](**other)
    again = build_processor(processor.settings())
    assert type(again) is type(processor)
    assert again.settings() == processor.settings()
    assert processor.settings().items() >= ({"name": name} | other).items()
    wave = noise(3000)
    assert torch.equal(again(wave), processor(wave))


def test_a_band_has_the_bins_between_its_frequencies():
    whole, band = LogSTFTSpectrogram(), BandLogSTFTSpectrogram(f_min=1000.0, f_max=4000.0)
    assert (band.frequencies[0], band.frequencies[-1]) == (1000, 4000)
    wave = noise(4000)
    view = band.analyse(wave)
    first = 1000 * 512 // 16000
    inside = slice(first, first + band.num_bins)
    assert torch.equal(view.cells, whole(wave)[:, :, inside])
    # Outside, bins take the gain of the nearest one inside.
    full = whole.analyse(wave)
    gain = -20 * torch.rand(view.cells.shape, generator=torch.Generator().manual_seed(0))
    spread = torch.cat(
        [
            gain[:, :, :1].expand(-1, -1, first, -1),
            gain,
            gain[:, :, -1:].expand(-1, -1, 257 - first - band.num_bins, -1),
        ],
        dim=2,
    )
    expected = whole.synthesise(full, full.cells + spread)
    torch.testing.assert_close(band.synthesise(view, view.cells + gain), expected)


@pytest.mark.parametrize(
    ("band", "message"),
    [
        ({"f_min": 4000.0, "f_max": 1000.0}, "the band runs from 4000.0 to 1000.0 Hz"),
        ({"f_max": 8001.0}, "half the sample rate"),
        ({"f_min": -1.0}, "expected 0 <= f_min"),
        ({"f_min": 1001.0, "f_max": 1002.0}, "no FFT bin lies between 1001.0 and 1002.0 Hz"),
    ],
)
def test_a_band_that_is_none_is_named(band, message):
    with pytest.raises(ValueError, match=message):
        BandLogSTFTSpectrogram(**band)


def test_unknown_front_ends_and_settings_are_named():
    with pytest.raises(UnknownNameError, match=r"MelSpec.*LogMelSTFTSpectrogram"):
        build_processor({"name": "MelSpec"})
    with pytest.raises(ValueError, match="hop"):
        build_processor({"name": "STFTSpectrogram", "hop": 3})
    with pytest.raises(ValueError, match="'name'"):
        build_processor({"sample_rate": 16000})


@pytest.mark.parametrize(
    ("front_end", "arguments", "message"),
    [
        (STFTSpectrogram, {"sample_rate": 0}, "sample_rate is 0"),
        (STFTSpectrogram, {"sample_rate": 16000.5}, "sample_rate is 16000.5"),
        (STFTSpectrogram, {"hop_length": True}, "hop_length is True: expected a positive whole"),
        (STFTSpectrogram, {"n_fft": 2**30}, "n_fft is 1073741824: expected at most"),
        (
            MelSTFTSpectrogram,
            {"n_mels": 10**9},
            "n_mels is 1000000000: expected a whole number from",
        ),
        (STFTSpectrogram, {"n_fft": 511}, "n_fft is 511: expected an even"),
        (STFTSpectrogram, {"hop_length": True}, "hop_length is True"),
        (STFTSpectrogram, {"hop_length": 257}, "hop_length 257 is more than half"),
        (MelSTFTSpectrogram, {"f_max": 17000.0}, "17000.0 Hz"),
        (MelSTFTSpectrogram, {"f_min": 15000.0}, "f_min < f_max"),
        (MelSTFTSpectrogram, {"n_mels": 400}, "mel bands hold no FFT bin"),
        (MelSTFTSpectrogram, {"n_fft": 2**17, "n_mels": 2**16}, "more than 33554432 weights"),
    ],
)
def test_settings_that_cannot_work_are_refused(front_end, arguments, message):
    with pytest.raises(ValueError, match=message):
        front_end(**arguments)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(16000), r"\(16000,\): expected \(batch, 1, samples\)"),
        (torch.zeros(1, 2, 16000), "expected"),
        (torch.zeros(1, 1, 16000, dtype=torch.int16), "int16.*divide"),
        (torch.zeros(1, 1, 256), "256 samples: expected more than 256"),
        (torch.full((1, 1, 16000), torch.nan), "NaN"),
        (torch.full((1, 1, 16000), torch.inf), "infinite"),
    ],
)
def test_waveforms_that_cannot_be_analysed_are_refused(wave, message):
    with pytest.raises(ValueError, match=message):
        LogSTFTSpectrogram()(wave)


def test_changed_cells_of_another_shape_are_refused():
    processor = LogSTFTSpectrogram()
    view = processor.analyse(noise(4000))
    with pytest.raises(ValueError, match="one value per cell"):
        processor.synthesise(view, torch.zeros(1, 1, 257, 3))
