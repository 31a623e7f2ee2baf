"""What perturbation methods hide and what hidden parts become."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from networks import RATE, Network, sounds, stft, wrap
from skimage.segmentation import felzenszwalb, slic
from torch import nn

import audiointerp as ai
from audiointerp.hiding import impute
from audiointerp.interpretation import SEGMENTATIONS, LIMEInterpreter, Quickshift
from audiointerp.interpretation.hidden import BackgroundFilling, as_filling, mixing
from audiointerp.interpretation.parts import Components, Segments, as_parts
from audiointerp.interpretation.segmentation import (
    NMF,
    Clip,
    Felzenszwalb,
    Frequency,
    Grid,
    HarmonicPercussive,
    Onsets,
    Slic,
    Time,
    clip_of,
    component_sounds,
    segment_clip,
)
from audiointerp.processing import LogMelSTFTSpectrogram, STFTSpectrogram, View

SOFT = {"harmonic_percussive", "nmf"}
FRONT_ENDS = {
    "dB": stft,
    "power": lambda: STFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64),
    "mel": lambda: LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=256, hop_length=80, n_mels=20, f_max=4000
    ),
}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scaled(cells: np.ndarray) -> np.ndarray:
    return (cells.astype(float) - cells.min()) / (cells.max() - cells.min())


@pytest.fixture(params=FRONT_ENDS)
def clip(request):
    front_end = FRONT_ENDS[request.param]()
    return clip_of(front_end.analyse(sounds(1)), front_end)


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_every_segmentation_covers_the_plane_and_is_the_same_twice(name, clip):
    parts, again = (segment_clip(SEGMENTATIONS[name](), clip) for _ in range(2))
    np.testing.assert_array_equal(parts, again)
    if name in SOFT:
        assert parts.shape[1:] == clip.cells.shape
        np.testing.assert_allclose(parts.sum(0), 1, atol=1e-12)
        assert parts.min() >= 0
        assert parts.std(0).max() > 0.05
    else:
        assert parts.shape == clip.cells.shape
        assert np.array_equal(np.unique(parts), np.arange(parts.max() + 1))


@pytest.mark.parametrize("name", SEGMENTATIONS)
@pytest.mark.parametrize(
    "cells", [np.full((9, 14), -100.0), np.zeros((1, 1)), np.ones((3, 1), np.float32)]
)
def test_every_segmentation_takes_a_constant_clip_of_a_bare_network(name, cells):
    segment_clip(SEGMENTATIONS[name](), Clip(cells))


@pytest.mark.parametrize("name", sorted(set(SEGMENTATIONS) - SOFT))
@pytest.mark.parametrize("gain", [0.1, 7.0])
def test_hard_segments_do_not_depend_on_the_level_of_the_recording(name, gain):
    front_end = stft()
    view = front_end.analyse(sounds(1))
    louder = Clip(view.cells[0, 0].double().numpy() + 20 * np.log10(gain), "dB")
    plain = Clip(view.cells[0, 0].double().numpy(), "dB")
    segmentation = SEGMENTATIONS[name]()
    found = segment_clip(segmentation, louder), segment_clip(segmentation, plain)
    np.testing.assert_array_equal(*found)


def test_superpixels_are_those_of_scikit_image(clip):
    image = scaled(clip.cells)
    same = slic(image, n_segments=30, compactness=0.2, channel_axis=None, start_label=0)
    np.testing.assert_array_equal(Slic(30, 0.2)(clip.cells), same)
    same = felzenszwalb(image, scale=50, sigma=0.7, min_size=20, channel_axis=None)
    np.testing.assert_array_equal(Felzenszwalb(50, 0.7, 20)(clip.cells), same)


def rectangles(labels: np.ndarray) -> set[tuple[int, int]]:
    """Return the sizes of the segments, which must be rectangles."""
    sizes = set()
    for label in np.unique(labels):
        rows, columns = np.nonzero(labels == label)
        size = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert size[0] * size[1] == len(rows)
        sizes.add((int(size[0]), int(size[1])))
    return sizes


def test_a_grid_has_the_sizes_or_the_numbers_that_were_asked_for():
    clip = Clip(np.zeros((64, 501)), "dB", 125.0 * np.arange(64), 0.01 * np.arange(501))
    assert rectangles(Grid(8, 12)(clip)) == {(8, 41), (8, 42)}
    assert rectangles(Grid(bins=16, frames=100)(clip)) == {(16, 100), (16, 1)}
    assert rectangles(Grid(hertz=1000, seconds=0.1)(clip)) == {(8, 10), (8, 1)}
    assert rectangles(Grid(rows=2, seconds=5.01)(clip)) == {(32, 501)}
    assert Grid(100, 1000)(Clip(np.zeros((3, 4)))).max() == 11


@pytest.mark.parametrize("hop", [80, 100, 160])
def test_segments_in_time_last_as_long_as_asked(hop):
    front_end = ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=512, hop_length=hop)
    clip = clip_of(front_end.analyse(sounds(1)), front_end)
    labels = Time(seconds=0.2)(clip)
    assert (labels == labels[0]).all()
    np.testing.assert_array_equal(labels[0], np.arange(labels.shape[1]) * hop // (RATE // 5))
    bare = Time(frames=7)(Clip(clip.cells))
    np.testing.assert_array_equal(bare[0], np.arange(labels.shape[1]) // 7)


def test_bands_lie_between_their_edges():
    clip = Clip(np.zeros((6, 3)), "dB", np.array([0.0, 100, 200, 300, 400, 500]), np.arange(3.0))
    np.testing.assert_array_equal(Frequency(edges=(150.0, 400.0))(clip)[:, 1], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(Frequency(3)(clip)[:, 2], [0, 0, 1, 1, 2, 2])


def test_onsets_are_where_clicks_begin():
    front_end = ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    wave = 1e-3 * randn(RATE)
    starts = (2000, 4400, 6600)
    for start in starts:
        wave[start : start + 400] += randn(400, seed=start) * torch.linspace(1, 0.1, 400)
    clip = clip_of(front_end.analyse(wave[None, None]), front_end)
    labels = Onsets()(clip)
    changes = np.flatnonzero(np.diff(labels[0])) + 1
    assert len(changes) == 3
    assert np.abs(changes - np.array(starts) / 64).max() <= 3
    assert Onsets(bands=4)(clip).max() + 1 == 16


def test_harmonic_and_percussive_weights_tell_a_tone_from_a_click():
    front_end = stft()
    wave = 0.3 * torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)
    wave[4000:4004] = 1.0
    clip = clip_of(front_end.analyse(wave[None, None]), front_end)
    harmonic, percussive = HarmonicPercussive(kernel_size=17)(clip)
    assert harmonic[16, 20] > 0.95
    assert percussive[40, 62:64].max() > 0.95
    S = 10 ** (clip.cells.astype(float) / 20)
    expected = librosa.decompose.hpss(S, kernel_size=17, mask=True)
    np.testing.assert_allclose(np.stack([harmonic, percussive]), expected, atol=1e-9)


def test_nmf_takes_sounds_apart_that_share_no_bin():
    """Two sounds that are each alone at times have one factorisation: each is a component."""
    random = np.random.default_rng(0)
    levels = random.uniform(0.1, 1, (2, 40))
    levels[0, :10] = levels[1, 10:20] = 1e-5
    spectra = random.uniform(1, 2, (2, 3))
    magnitudes = np.vstack([np.outer(*each) for each in zip(spectra, levels, strict=True)])
    cells = 20 * np.log10(magnitudes)
    weights = NMF(components=2, iterations=500, seed=1)(Clip(cells, unit="dB"))
    low = weights[:, :3].mean((1, 2)).argmax()
    loud = magnitudes > 0.1
    np.testing.assert_allclose(weights[low, :3][loud[:3]], 1, atol=1e-3)
    np.testing.assert_allclose(weights[low, 3:][loud[3:]], 0, atol=1e-3)
    np.testing.assert_allclose(weights.sum(0), 1)


def test_nmf_finds_two_sounds():
    front_end = stft()
    time = torch.arange(RATE) / RATE
    low = torch.sin(2 * torch.pi * 500 * time) * (time < 0.6)
    high = torch.sin(2 * torch.pi * 3000 * time) * (time > 0.4)
    view = front_end.analyse((low + high)[None, None] / 2)
    found = component_sounds(front_end, view, NMF(components=2))[:, 0]
    shares = [
        [float((sound * part).sum() / (part * part).sum()) for part in (low / 2, high / 2)]
        for sound in found
    ]
    shares = np.array(sorted(shares))
    np.testing.assert_allclose(shares, [[0, 1], [1, 0]], atol=0.1)


@pytest.mark.parametrize("front_end", FRONT_ENDS.values(), ids=FRONT_ENDS)
@pytest.mark.parametrize("segmentation", ["nmf", "harmonic_percussive", "grid"])
def test_the_sounds_of_components_sum_to_the_clip(front_end, segmentation):
    front_end = front_end()
    view = front_end.analyse(sounds(1))
    found = component_sounds(front_end, view, segmentation)
    assert found.shape[1:] == view.waveform.shape[1:]
    torch.testing.assert_close(found.sum(0), view.waveform[0], rtol=0, atol=1e-5)
    assert all(not torch.allclose(sound, found[0], atol=1e-3) for sound in found[1:])


def test_the_sound_of_a_component_is_what_its_weights_leave_of_the_stft():
    front_end = stft()
    view = front_end.analyse(sounds(1))
    weights = HarmonicPercussive()(clip_of(view, front_end))
    sound = component_sounds(front_end, view, "harmonic_percussive")
    expected = librosa.istft(
        view.context[0, :, :-1].numpy() * weights[0], n_fft=128, hop_length=64, length=RATE
    )
    # The last frame counts for what lies past it.
    np.testing.assert_allclose(sound[0, 0, :-128], expected[:-128], atol=1e-4)


def test_component_sounds_need_one_clip_with_sound():
    view = stft().analyse(sounds(2))
    with pytest.raises(ValueError, match="the view of one clip with its sound, got 2 clips"):
        component_sounds(stft(), view, "nmf")
    with pytest.raises(ValueError, match="got 1 clips without sound"):
        component_sounds(stft(), View(view.cells[:1]), "nmf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(bins=4, hertz=100.0), "bins and hertz are two sizes of one axis"),
        (lambda: Grid(rows=0), "rows must be a whole number of at least 1, got 0"),
        (lambda: Grid(seconds=-1.0), "seconds must be a positive number, got -1"),
        (lambda: Time(seconds=0), "seconds must be a positive number, got 0"),
        (lambda: Frequency(edges=(300.0, 200.0)), r"increasing frequencies above 0 Hz, got \(300"),
        (lambda: Frequency(edges=()), "increasing frequencies"),
        (lambda: NMF(components=0), "components must be a whole number of at least 1"),
        (lambda: Slic(0), "segments must be a whole number"),
        (lambda: HarmonicPercussive(power=0), "power must be a positive number"),
        (lambda: Grid(seconds=0.1)(Clip(np.zeros((4, 4)))), "seconds needs the network's front"),
        (lambda: Frequency(edges=(100.0,))(Clip(np.zeros((4, 4)))), "edges needs the network's"),
    ],
)
def test_bad_settings_of_segmentations_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (np.full((2, 4, 5), 0.6), r"sum to 1 in every cell, they miss 1 by up to 0\.2"),
        (np.stack([np.full((4, 5), 1.5), np.full((4, 5), -0.5)]), r"the least is -0\.5"),
        (np.zeros((0, 4, 5)), "sum to 1"),
        (np.zeros((2, 5, 4)), r"weights of shape \(components, 4, 5\), got float64"),
    ],
)
def test_weights_that_are_none_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        segment_clip(lambda cells: parts, Clip(np.zeros((4, 5))))


# --- parts --------------------------------------------------------------------------------------


@pytest.fixture(params=["hard", "soft"])
def parts(request):
    if request.param == "hard":
        return Segments(torch.tensor([[0, 0, 1], [2, 1, 1]]))
    weights = randn(3, 2, 3).softmax(0).double()
    return Components(weights)


def weights_of(parts):
    if isinstance(parts, Components):
        return parts.weights
    return torch.stack([(parts.labels == n).double() for n in range(parts.count)])


@pytest.mark.parametrize("kept", [[[1, 0, 1], [1, 1, 1], [0, 0, 0]], [[0.2, 0.5, 1.0]]])
def test_parts_are_the_sum_of_their_weights(parts, kept):
    kept = torch.tensor(kept)
    kept = kept.bool() if kept.dtype == torch.int64 else kept.double()
    expected = torch.einsum("rs,sft->rft", kept.double(), weights_of(parts))[:, None]
    torch.testing.assert_close(parts.keep(kept).double(), expected)
    values = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    expected = torch.einsum("s,sft->ft", values, weights_of(parts))
    torch.testing.assert_close(parts.lay(values), expected)


def test_the_mean_of_a_part_is_weighted(parts):
    cells = randn(1, 2, 3, seed=4).double()
    weights = weights_of(parts)
    means = [(weight * cells[0]).sum() / weight.sum() for weight in weights]
    expected = sum(mean * weight for mean, weight in zip(means, weights, strict=True))
    torch.testing.assert_close(parts.means(cells)[0], expected)


def test_soft_components_that_are_all_kept_leave_the_clip_bit_for_bit():
    weights = randn(7, 5, 6).softmax(0)
    parts = as_parts(weights.double().numpy(), randn(1, 5, 6))
    kept = torch.ones(1, 7, dtype=torch.bool)
    cells = 10 * randn(1, 5, 6) - 30
    for mix in ("cells", "amplitude"):
        filled = as_filling("base").fill(
            cells, parts.keep(kept), torch.full_like(cells, -100), mixing(mix, "dB")
        )
        assert torch.equal(filled[0], cells)


# --- what hidden parts become -------------------------------------------------------------------


def test_neighbours_fill_what_is_hidden():
    cells, level = 10 * randn(1, 8, 9) - 40, torch.full((1, 8, 9), -100.0)
    keep = torch.rand(3, 1, 8, 9, generator=torch.Generator().manual_seed(0)) > 0.4
    keep[2] = False
    found = as_filling("road").fill(cells, keep, level, mixing("cells", "dB"))
    assert torch.equal(found[keep], cells.expand(3, 1, 8, 9)[keep])
    assert (found[2] == -100).all()
    exact = impute(cells.expand(3, 1, 8, 9), keep, level)
    assert (found - exact)[:2].abs().max() < 0.05 * cells.std()


def test_a_background_clip_takes_the_place_of_what_is_hidden():
    background = randn(4, 1, 5, 6, seed=1)
    filling = BackgroundFilling(background, seed=2)
    level = filling.level(randn(1, 5, 6), None, 0.0)
    assert sum(torch.equal(level, clip) for clip in background) == 1
    chosen = {
        int((background == BackgroundFilling(background, seed=n).cells).all((1, 2, 3)).nonzero())
        for n in range(30)
    }
    assert chosen == {0, 1, 2, 3}
    assert filling.settings() == BackgroundFilling(View(background), seed=2).settings()
    with pytest.raises(ValueError, match=r"clips of shape \(1, 5, 6\), the clip \(1, 5, 7\)"):
        filling.level(randn(1, 5, 7), None, 0.0)


def test_amplitudes_mix_as_sounds_do():
    """A share m of a sound over a silent base leaves m² of its power."""
    cells, level = torch.tensor([[[-20.0, -40.0]]]), torch.tensor([[[-300.0, -300.0]]])
    share = torch.tensor([[[[0.5, 0.1]]]])
    mixed = mixing("amplitude", "dB")(cells, level, share)
    torch.testing.assert_close(mixed, cells + 20 * share.log10())
    power = mixing("amplitude", "power")(torch.tensor([[[2.0, 8.0]]]), torch.zeros(1, 1, 2), share)
    torch.testing.assert_close(power, torch.tensor([[[[0.5, 0.08]]]]))
    for mix, unit in (("cells", "dB"), ("amplitude", None)):
        mixed = mixing(mix, unit)(cells, level, share)
        torch.testing.assert_close(mixed, level + (cells - level) * share)


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_lime_runs_on_every_segmentation(segmentation):
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(2))
    interpreter = LIMEInterpreter(classifier, num_samples=30, segmentation=segmentation)
    explanation = interpreter.explain(view, 1)
    alone = interpreter.attribute(view[1:], 1)
    torch.testing.assert_close(alone[0], explanation.attribution[1], rtol=1e-4, atol=1e-6)
    found = interpreter.segment(view[:1])
    count = len(found) if segmentation in SOFT else found.max() + 1
    assert explanation.diagnostics["segments"][0] == count
    assert interpreter.settings()["segmentation"]["name"]


@pytest.mark.parametrize("hide", ["base", "mean", "road", BackgroundFilling(randn(2, 1, 65, 126))])
def test_lime_runs_with_every_filling(hide):
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(1))
    interpreter = LIMEInterpreter(classifier, num_samples=6, segmentation=Grid(3, 4), hide=hide)
    assert interpreter.attribute(view, 1).isfinite().all()
    name = interpreter.settings()["hide"]
    assert name == hide if isinstance(hide, str) else name["name"] == "background"


def test_soft_components_cannot_be_filled_from_their_neighbours():
    interpreter = LIMEInterpreter(
        nn.Flatten(), num_samples=4, segmentation="harmonic_percussive", hide="road"
    )
    with pytest.raises(ValueError, match="soft components, which hide='road' cannot"):
        interpreter.attribute(randn(1, 1, 6, 8))


def test_kept_components_sound_together():
    """The network hears the sum of the sounds of the components that a version keeps."""
    heard = []

    class Listens(nn.Module):
        def forward(self, cells):
            heard.append(cells.clone())
            return cells.mean((2, 3)) * torch.tensor([1.0, -1.0])

    classifier = ai.classifier(Listens(), front_end=stft(), classes=["a", "b"], outputs="logits")
    view = classifier.front_end.analyse(sounds(1))
    interpreter = LIMEInterpreter(
        classifier, num_samples=5, segmentation=NMF(3), base=-200.0, fold_batch_norm=False
    )
    heard.clear()
    interpreter.attribute(view, 0)
    kept = interpreter.estimator.design(3)
    weights = torch.from_numpy(interpreter.segment(view)).float()
    for version, row in zip(heard[-1], kept, strict=True):
        gain = (row.float()[:, None, None] * weights).sum(0)
        expected = (view.cells[0, 0] + 20 * gain.log10()).clamp(min=-200)
        audible = expected > -150
        torch.testing.assert_close(version[0][audible], expected[audible], rtol=0, atol=0.02)


def test_quickshift_is_still_found_where_it_was():
    from audiointerp.interpretation import lime

    assert lime.Quickshift is Quickshift
