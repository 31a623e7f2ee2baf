"""Front ends of transformers' extractors against these, and against slow ones; their inversion."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import REPOSITORY

import audiointerp as ai

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

SAMPLES = sorted((REPOSITORY / "samples").glob("*.wav"))
DECIBELS = 10 / np.log(10)


def noise(samples: int, *, batch: int = 1, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(samples)
    return (0.1 * torch.randn(batch, 1, samples, generator=generator, dtype=torch.float64)).to(
        dtype
    )


def sound(path: Path, rate: int, seconds: float | None = None) -> torch.Tensor:
    return ai.load_audio(path, rate, duration=seconds, normalize=False)[0][None]


def real_clips(folder: Path) -> list[Path]:
    return sorted((folder / "esc10" / "audio").glob("*.ogg"))[::45]


# --- Kaldi ---------------------------------------------------------------------------------------


def kaldi_by_hand(wave: np.ndarray, rate: int = 16000, bands: int = 128) -> np.ndarray:
    """Return the natural logarithms of the powers, one frame and one band at a time."""
    size, hop = int(0.025 * rate), int(0.01 * rate)
    n_fft = 2 ** math.ceil(math.log2(size))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))

    def mel(hz):
        return 1127 * np.log(1 + hz / 700)

    edges = np.linspace(mel(20), mel(rate / 2), bands + 2)
    bins = mel(np.arange(n_fft // 2) * rate / n_fft)
    rows = []
    for start in range(0, len(wave) - size + 1, hop):
        frame = wave[start : start + size] - wave[start : start + size].mean()
        emphasised = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(emphasised * window, n_fft))[:-1] ** 2
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            weight = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
            row.append(np.log(max(power @ np.maximum(weight, 0), np.finfo(np.float32).eps)))
        rows.append(row)
    return np.array(rows).T


@pytest.mark.parametrize("samples", [400, 559, 560, 4321])
def test_kaldi_is_the_slow_filterbank(samples):
    wave = noise(samples)
    cells = ai.KaldiFilterbank()(wave)
    expected = kaldi_by_hand(wave[0, 0].numpy())
    assert cells.shape == (1, 1, 128, 1 + (samples - 400) // 160)
    np.testing.assert_allclose(cells[0, 0].numpy() / DECIBELS, expected, rtol=0, atol=3e-5)


def normalised(cells: torch.Tensor, extractor) -> np.ndarray:
    return (cells[0, 0].numpy() / DECIBELS - extractor.mean) / (2 * extractor.std)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_kaldi_is_the_extractor_of_ast(path):
    extractor = transformers.ASTFeatureExtractor()
    wave = sound(path, 16000)
    theirs = extractor(wave[0, 0].numpy(), sampling_rate=16000, return_tensors="np")
    cells = ai.KaldiFilterbank()(wave)
    frames = cells.shape[3]
    ours = normalised(cells, extractor)
    np.testing.assert_allclose(ours, theirs["input_values"][0, :frames].T, rtol=0, atol=1e-4)
    # What follows is a constant, the value 0 before the scale.
    assert (
        theirs["input_values"][0, frames:] == np.float32(-extractor.mean / 2 / extractor.std)
    ).all()


def test_kaldi_is_the_extractor_of_ast_on_recordings(real_data):
    extractor = transformers.ASTFeatureExtractor()
    for path in real_clips(real_data):
        wave = sound(path, 16000)
        theirs = extractor(wave[0, 0].numpy(), sampling_rate=16000, return_tensors="np")
        cells = ai.KaldiFilterbank()(wave.double())
        away = np.abs(normalised(cells, extractor) - theirs["input_values"][0, : cells.shape[3]].T)
        # Theirs is in single precision, which shows in cells far below the loudest of a frame.
        assert np.quantile(away, 0.999) < 1e-4
        assert away.max() < 1e-3


def test_bands_without_an_fft_bin_stay_at_the_floor():
    front_end = ai.KaldiFilterbank()
    empty = front_end.filters.sum(0) == 0
    assert 0 < empty.sum() < 40
    view = front_end.analyse(noise(4000))
    assert (view.cells[:, :, empty] == front_end.floor).all()
    assert (view.cells[:, :, ~empty] > front_end.floor).all()
    # No FFT bin takes its gain from them but those that no band covers.
    gain = torch.ones(1, 128, 1, dtype=torch.float64)
    gain[:, empty] = 0
    spread = front_end._bin_power_gain(gain)[0, :, 0]
    covered = front_end.filters.sum(1) > 0
    assert (spread[covered] == 1).all()


def test_kaldi_times_are_the_middle_of_frames_that_begin_with_the_clip():
    front_end = ai.KaldiFilterbank()
    torch.testing.assert_close(front_end.times(2), torch.tensor([0.0125, 0.0225]))
    assert front_end.longest == pytest.approx((400 + 1023 * 160 + 159) / 16000)
    longest = round(front_end.longest * 16000)
    assert front_end.num_frames(longest) == 1024
    assert front_end.num_frames(longest + 1) == 1025


def kaldi_overlap_add(wave: np.ndarray, gain: np.ndarray, front_end) -> np.ndarray:
    """Return the changed sound: frames over both ends, each windowed, changed and windowed."""
    size, hop, n_fft = 400, 160, 512
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    centres = front_end.frequencies.double().numpy()
    mel, bins = 1127 * np.log1p(centres / 700), 1127 * np.log1p(np.arange(257) * 31.25 / 700)
    total, weight = np.zeros(len(wave) + 4 * n_fft), np.zeros(len(wave) + 4 * n_fft)
    shift = 2 * n_fft
    mirrored = np.pad(wave, 399, mode="reflect")
    padded = np.pad(mirrored, (shift - 399, 2 * n_fft))
    for frame in range(-2, math.ceil(len(wave) / hop)):
        start = shift + frame * hop
        spectrum = np.fft.rfft(padded[start : start + size] * window, n_fft)
        amplitude = np.sqrt(np.interp(bins, mel, gain[:, min(max(frame, 0), gain.shape[1] - 1)]))
        changed = np.fft.irfft(spectrum * amplitude, n_fft)[:size] * window
        total[start : start + size] += changed
        weight[start : start + size] += window**2
    inside = slice(shift, shift + len(wave))
    return total[inside] / weight[inside]


@pytest.mark.parametrize("samples", [3200, 3201, 3359, 3360, 4000])
def test_kaldi_synthesis_is_the_slow_overlap_add_of_the_clips_own_stft(samples):
    front_end, wave = ai.KaldiFilterbank(), noise(samples)
    view = front_end.analyse(wave)
    generator = torch.Generator().manual_seed(1)
    gain = torch.empty_like(view.cells).uniform_(-80, 10, generator=generator)
    ours = front_end.synthesise(view, view.cells + gain)[0, 0].numpy()
    slow = kaldi_overlap_add(wave[0, 0].numpy(), 10 ** (gain[0, 0].numpy() / 10), front_end)
    np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-6)


def test_what_is_taken_from_kaldis_cells_is_taken_from_what_it_hears():
    front_end, wave = ai.KaldiFilterbank(), noise(16000)
    view = front_end.analyse(wave)
    heard = front_end.synthesise(view, view.cells - 10)
    again, wanted = front_end(heard), (view.cells - 10).clamp(min=front_end.floor)
    above = wanted > front_end.floor + 1
    torch.testing.assert_close(again[above], wanted[above], rtol=0, atol=1e-2)


def test_a_tone_removed_from_kaldis_cells_is_not_heard_by_it():
    front_end = ai.KaldiFilterbank()
    time = torch.arange(16000, dtype=torch.float64) / 16000
    low, high = (0.3 * torch.sin(2 * torch.pi * hz * time)[None, None] for hz in (500, 3000))
    view = front_end.analyse(low + high)
    upper = front_end.frequencies > 1500
    masked = torch.where(upper[:, None], torch.tensor(front_end.floor).double(), view.cells)
    heard = front_end(front_end.synthesise(view, masked))
    alone = front_end(low)
    # But for the first and the last frame, where the mirrored tones have a kink.
    assert view.cells[:, :, upper].max() > front_end.floor + 90
    assert (heard - alone)[:, :, upper, 1:-1].max() < 4
    strong = alone > alone.max() - 20
    torch.testing.assert_close(heard[strong], alone[strong], rtol=0, atol=0.05)


# --- Whisper -------------------------------------------------------------------------------------


def whisper_scale(cells: torch.Tensor, frames: int) -> np.ndarray:
    level = cells[0, 0].numpy() / 10
    level = np.pad(level, ((0, 0), (0, frames - level.shape[1])), constant_values=-10)
    return (np.maximum(level, level.max() - 8) + 4) / 4


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("samples", [401, 16000, 16001, 47839, 47840, 47990, 48000])
def test_whisper_is_its_extractor_at_any_length(bands, samples):
    extractor = transformers.WhisperFeatureExtractor(feature_size=bands, chunk_length=3)
    front_end = ai.WhisperLogMel(n_mels=bands, seconds=3)
    wave = noise(samples, dtype=torch.float32)
    theirs = extractor(wave[0, 0].numpy(), sampling_rate=16000, return_tensors="np")
    cells = front_end(wave)
    ours = whisper_scale(cells, 300)
    np.testing.assert_allclose(ours, theirs["input_features"][0], rtol=0, atol=5e-5)
    # No cell that hears something is left out, and none that does not is there.
    heard = 1 + max(f for f in range(300) if f * 160 - 200 < samples)
    assert cells.shape[3] == front_end.num_frames(samples) == heard


@pytest.mark.parametrize("path", SAMPLES[:3], ids=lambda path: path.stem)
def test_whisper_is_its_extractor(path):
    wave = sound(path, 16000)
    theirs = transformers.WhisperFeatureExtractor()(
        wave[0, 0].numpy(), sampling_rate=16000, return_tensors="np"
    )
    ours = whisper_scale(ai.WhisperLogMel()(wave), 3000)
    np.testing.assert_allclose(ours, theirs["input_features"][0], rtol=0, atol=1e-4)


def test_whisper_is_its_extractor_on_recordings(real_data):
    extractor = transformers.WhisperFeatureExtractor(chunk_length=6)
    for path in real_clips(real_data):
        wave = sound(path, 16000)
        theirs = extractor(wave[0, 0].numpy(), sampling_rate=16000, return_tensors="np")
        ours = whisper_scale(ai.WhisperLogMel(seconds=6)(wave), 600)
        np.testing.assert_allclose(ours, theirs["input_features"][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [4000, 4001, 7900, 8000])
def test_whisper_synthesis_is_the_slow_overlap_add(samples):
    front_end = ai.WhisperLogMel(seconds=0.5)
    wave = noise(samples)
    view = front_end.analyse(wave)
    generator = torch.Generator().manual_seed(1)
    gain = torch.empty_like(view.cells).uniform_(-80, 10, generator=generator)
    ours = front_end.synthesise(view, view.cells + gain)[0, 0].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    bins, centres = np.arange(201) * 40.0, front_end.frequencies.double().numpy()
    full = np.pad(wave[0, 0].numpy(), (0, min(400, 8000 - samples)))
    padded = np.pad(np.pad(full, 200, mode="reflect"), (0, 1000))
    total, weight = np.zeros(len(padded)), np.zeros(len(padded))
    power = 10 ** (gain[0, 0].numpy() / 10)
    for frame in range(power.shape[1] + 1):
        place = slice(frame * 160, frame * 160 + 400)
        amplitude = np.sqrt(np.interp(bins, centres, power[:, min(frame, power.shape[1] - 1)]))
        changed = np.fft.irfft(np.fft.rfft(padded[place] * window) * amplitude, 400)
        total[place] += changed * window
        weight[place] += window**2
    inside = slice(200, 200 + samples)
    np.testing.assert_allclose(ours, total[inside] / weight[inside], rtol=0, atol=1e-6)


# --- CLAP ----------------------------------------------------------------------------------------


def clap_cells(extractor, wave: torch.Tensor) -> np.ndarray:
    made = extractor(wave[0, 0].numpy(), sampling_rate=48000, return_tensors="np")
    return made["input_features"][0, 0].T


@pytest.mark.parametrize(("truncation", "scale"), [("fusion", "htk"), ("rand_trunc", "slaney")])
@pytest.mark.parametrize("path", SAMPLES[2:4], ids=lambda path: path.stem)
def test_clap_is_its_extractor_on_a_clip_of_full_length(path, truncation, scale):
    extractor = transformers.ClapFeatureExtractor(
        truncation=truncation, max_length_s=2, frequency_min=50
    )
    wave = sound(path, 48000, 2.0)
    cells = ai.ClapLogMel(mel_scale=scale, longest=2)(wave.double())
    np.testing.assert_allclose(cells[0, 0].numpy(), clap_cells(extractor, wave), rtol=0, atol=1e-4)


def test_clap_is_its_extractor_on_recordings(real_data):
    extractor = transformers.ClapFeatureExtractor(
        truncation="rand_trunc", max_length_s=4, frequency_min=50
    )
    for path in real_clips(real_data):
        wave = sound(path, 48000, 4.0)
        cells = ai.ClapLogMel(longest=4)(wave.double())
        theirs = clap_cells(extractor, wave)
        away = np.abs(cells[0, 0].numpy() - theirs)
        # Theirs keeps the spectrum in single precision, which shows 100 dB below a frame's loudest.
        assert away[theirs > -75].max() < 1e-4
        assert away.max() < 1e-2


def test_clap_gives_the_network_the_sound_of_the_cells():
    front_end = ai.ClapLogMel()
    view = front_end.analyse(noise(9600, batch=2))
    assert torch.equal(front_end.network_input(view, view.cells), view.waveform[:, 0])
    half = front_end.network_input(view, view.cells - 6)
    torch.testing.assert_close(half, view.waveform[:, 0] * 10**-0.3, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="pass the View"):
        front_end.network_input(None, view.cells)


def test_contributions_of_mel_cells_are_what_replacing_their_sound_does():
    front_end = ai.ClapLogMel(
        sample_rate=1600, n_fft=64, hop_length=16, n_mels=5, f_min=20.0, f_max=600.0
    )
    view, reference = (front_end.analyse(noise(samples)[..., :300]) for samples in (300, 301))
    multipliers = noise(302)[..., :300]
    found = front_end.contributions(multipliers[:, 0], view, reference)
    assert found.shape == view.cells.shape
    change = view.waveform - reference.waveform
    torch.testing.assert_close(found.sum(), (multipliers * change).sum())
    # Half a contribution of a bin goes to each of two bands that it lies half-way between.
    shares = torch.zeros(1, 33, 1, dtype=torch.float64)
    bins, centres = torch.arange(33) * 25.0, front_end.frequencies
    shares[0, 10] = 1
    gathered = front_end._gather_bins(shares)[0, :, 0]
    below = int((centres < bins[10]).nonzero()[-1])
    weight = (bins[10] - centres[below]) / (centres[below + 1] - centres[below])
    expected = torch.zeros(5, dtype=torch.float64)
    expected[below], expected[below + 1] = 1 - weight, weight
    torch.testing.assert_close(gathered, expected, rtol=1e-5, atol=1e-7)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front_end", "longest"),
    [
        (ai.KaldiFilterbank(most_frames=20), 400 + 19 * 160 + 159),
        (ai.WhisperLogMel(seconds=0.2), 3200),
        (ai.ClapLogMel(longest=0.1), 4800),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sounds_that_are_too_long_are_refused(front_end, longest):
    wave = noise(longest + 1)
    assert front_end(wave[..., :longest]).shape[3] == front_end.num_frames(longest)
    with pytest.raises(ValueError, match=r"its network takes at most .* windows of that length"):
        front_end(wave)
    with pytest.raises(ValueError, match="takes at most"):
        front_end.analyse(wave)


@pytest.mark.parametrize(
    ("front_end", "arguments", "message"),
    [
        (ai.KaldiFilterbank, {"most_frames": 0}, "most_frames is 0: expected a positive whole"),
        (ai.KaldiFilterbank, {"sample_rate": 16e3}, "sample_rate is 16000.0"),
        (ai.KaldiFilterbank, {"n_mels": 300}, "n_mels is 300"),
        (ai.WhisperLogMel, {"seconds": 0}, "seconds is 0: expected seconds"),
        (ai.ClapLogMel, {"longest": True}, "longest is True: expected seconds"),
        (ai.ClapLogMel, {"mel_scale": "bark"}, "mel_scale is 'bark': choose 'htk' or 'slaney'"),
    ],
)
def test_settings_that_cannot_work_are_refused(front_end, arguments, message):
    with pytest.raises(ValueError, match=message):
        front_end(**arguments)


def test_a_sound_shorter_than_a_frame_is_refused():
    with pytest.raises(ValueError, match="399 samples: expected more than 399"):
        ai.KaldiFilterbank()(noise(399))
