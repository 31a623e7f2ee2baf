"""Networks that take a waveform, explained on the log STFT of the sound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_new_parts import Blocks
from tones import Tones
from torch import nn

import audiointerp as ai
from audiointerp.processing import build_processor
from audiointerp.speed.scoring import Scorer

RATE = 8000
SAMPLES = 2000
DB = 20 / math.log(10)
"""dB for each unit of a natural logarithm of amplitude."""


class Convolutions(nn.Module):
    """A small network of modules on (batch, samples)."""

    def __init__(self, seed=0, classes=3, pool="mean", activation=nn.ReLU):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv1 = nn.Conv1d(1, 6, 16, stride=4)
            self.norm = nn.BatchNorm1d(6)
            self.relu1 = activation()
            self.conv2 = nn.Conv1d(6, 8, 8, stride=4)
            self.relu2 = activation()
            self.pool = nn.AdaptiveMaxPool1d(1) if pool == "max" else nn.AdaptiveAvgPool1d(1)
            self.flatten = nn.Flatten()
            self.linear = nn.Linear(8, classes)
            nn.init.uniform_(self.norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, waveform):
        hidden = self.relu1(self.norm(self.conv1(waveform[:, None])))
        hidden = self.relu2(self.conv2(hidden))
        return 10 * self.linear(self.flatten(self.pool(hidden)))


class Linear(nn.Module):
    """Scores linear in the waveform."""

    def __init__(self, samples=SAMPLES, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(samples, 3)

    def forward(self, waveform):
        return self.linear(waveform)


def front_end(**options) -> ai.WaveformFrontEnd:
    return ai.WaveformFrontEnd(**{"sample_rate": RATE, "n_fft": 64, "hop_length": 16} | options)


def wrap(network, **options) -> ai.Classifier:
    return ai.classifier(
        network,
        **{
            "front_end": front_end(),
            "classes": ["a", "b", "c"],
            "duration": SAMPLES / RATE,
            "outputs": "logits",
        }
        | options,
    )


def sounds(count=3, samples=SAMPLES, seed=0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, samples, generator=generator, dtype=torch.float64)
    level = torch.logspace(-2, -0.5, count, dtype=torch.float64)[:, None, None]
    return (level * noise).clamp(-1, 1).to(dtype)


METHODS = {
    "saliency": lambda model, background: ai.SaliencyInterpreter(model),
    "gradcam": lambda model, background: ai.GradCAMInterpreter(model, "conv2"),
    "lime": lambda model, background: ai.LIMEInterpreter(model, num_samples=25),
    "shap": lambda model, background: ai.SHAPInterpreter(model, background),
    "input_gradient": lambda model, background: ai.METHODS["input_gradient"](model),
    "integrated_gradients": lambda model, background: ai.METHODS["integrated_gradients"](
        model, steps=8
    ),
    "expected_gradients": lambda model, background: ai.METHODS["expected_gradients"](
        model, background, samples=8
    ),
    "smoothgrad": lambda model, background: ai.METHODS["smoothgrad"](model, samples=4),
    "smoothgrad_squared": lambda model, background: ai.METHODS["smoothgrad_squared"](
        model, samples=4
    ),
    "vargrad": lambda model, background: ai.METHODS["vargrad"](model, samples=4),
    "guided_backprop": lambda model, background: ai.METHODS["guided_backprop"](model),
    "guided_gradcam": lambda model, background: ai.METHODS["guided_gradcam"](model, "conv2"),
    "deeplift": lambda model, background: ai.METHODS["deeplift"](model),
    "fullgrad": lambda model, background: ai.METHODS["fullgrad"](model),
}


# --- the sound of cells -------------------------------------------------------------------------


@given(
    samples=st.integers(65, 700),
    hop=st.sampled_from([1, 7, 16, 32]),
    channel_axis=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_unchanged_cells_give_the_network_the_waveform_bit_for_bit(
    samples, hop, channel_axis, dtype, seed
):
    processor = front_end(hop_length=hop, channel_axis=channel_axis)
    waveform = sounds(2, samples, seed, dtype)
    waveform[0, 0, samples // 2 :] = 0  # digital silence, whose cells are at the floor
    view = processor.analyse(waveform)
    given_to_network = processor.network_input(view, view.cells)
    expected = waveform if channel_axis else waveform[:, 0]
    assert given_to_network.dtype == dtype
    assert torch.equal(given_to_network, expected)


def test_a_mask_of_ones_returns_the_clips_own_probabilities():
    classifier = wrap(Convolutions())
    view = classifier.front_end.analyse(sounds())
    scorer = Scorer(classifier)
    whole = scorer(view.cells, view)
    floor = classifier.front_end.floor
    kept, left = ai.apply_mask(view.cells, torch.ones_like(view.cells), floor)
    assert torch.equal(scorer(kept, view), whole)
    expected = classifier.network.eval()(view.waveform[:, 0]).double().softmax(1).detach()
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-6)
    # And of zeros, next to nothing: 100 dB below full scale in every cell.
    with torch.no_grad():
        silent = classifier.network_input(left, view)
    assert silent.abs().max() < 1e-4
    assert not torch.allclose(scorer(left, view), whole, atol=1e-3)


def test_a_cell_that_is_removed_takes_its_own_sound_and_no_other():
    processor = front_end(n_fft=256, hop_length=64)
    time = torch.arange(SAMPLES) / RATE
    low, high = (torch.sin(2 * math.pi * hertz * time) for hertz in (500, 2500))
    view = processor.analyse((low + high)[None, None])
    removed = torch.where(processor.frequencies[:, None] > 1500, -100.0, view.cells)
    heard = processor.network_input(view, removed)[0]
    middle = slice(300, -300)
    assert (heard - low)[middle].abs().max() < 1e-2


def test_settings_make_the_same_front_end_again():
    for channel_axis in (False, True):
        processor = front_end(channel_axis=channel_axis)
        again = build_processor(processor.settings())
        assert type(again) is ai.WaveformFrontEnd
        assert again.settings() == processor.settings()
        view = processor.analyse(sounds(1))
        quieter = [each.network_input(view, view.cells - 3) for each in (again, processor)]
        assert torch.equal(*quieter)


def test_a_network_may_take_a_channel_axis():
    class WithChannel(Convolutions):
        def forward(self, waveform):
            return super().forward(waveform[:, 0])

    plain = wrap(Convolutions())
    other = wrap(WithChannel(), front_end=front_end(channel_axis=True))
    view = plain.front_end.analyse(sounds())
    for name, make in METHODS.items():
        maps = [make(each, view[:2]).attribute(view, 1) for each in (plain, other)]
        assert torch.equal(*maps), name
    with pytest.raises(ValueError, match=r"fails on \(4, 2000\)"):
        wrap(nn.Sequential(nn.Conv1d(1, 3, 5), nn.AdaptiveAvgPool1d(1), nn.Flatten()))


# --- methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_saliency_is_the_derivative_by_each_cell(activation):
    network = Convolutions(activation=activation).double().eval()
    classifier = wrap(network)
    view = classifier.front_end.analyse(sounds(1, dtype=torch.float64))
    label = 2
    gradient = ai.SaliencyInterpreter(classifier).attribute(view, label)
    assert gradient.dtype == torch.float64
    generator = np.random.default_rng(0)
    bins, frames = view.cells.shape[2:]
    places = [(0, 0), (bins - 1, frames - 1), (3, frames - 1)]
    places += [(int(generator.integers(bins)), int(generator.integers(frames))) for _ in range(12)]
    step = 1e-4
    for bin_, frame in places:
        scores = []
        for sign in (1, -1):
            cells = view.cells.clone()
            cells[0, 0, bin_, frame] += sign * step
            with torch.no_grad():
                scores.append(classifier.logits(cells, view)[0, label].item())
        expected = (scores[0] - scores[1]) / (2 * step)
        assert gradient[0, 0, bin_, frame].item() == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        ("conv1", None),
        ("norm", None),
        ("conv2", None),
        ("relu2", ("channel", "time")),
        ("relu2", ("time",)),
        ("relu1", lambda layer, activation: activation[:, :, None]),
    ],
)
def test_gradcam_of_layers_over_time(layer, axes):
    classifier = wrap(Convolutions(), activation_axes=axes)
    view = classifier.front_end.analyse(sounds(2))
    found = ai.GradCAMInterpreter(classifier, layer).attribute(view, 1)
    assert found.shape == view.cells.shape
    # Σ_k mean_t(∂z/∂A_k)·A_k, by hand.
    seen = []
    network = classifier.network.eval()
    handle = network.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    scores = network(view.waveform[:, 0].requires_grad_())
    handle.remove()
    (activation,) = seen
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), activation)
    by_hand = (gradient.mean(2, keepdim=True) * activation).sum(1)
    size = view.cells.shape[2:]
    resized = nn.functional.interpolate(by_hand[:, None, None], size, mode="bilinear")
    torch.testing.assert_close(found, resized.detach(), rtol=1e-3, atol=1e-5)


def test_gradcam_asks_which_axis_is_which():
    classifier = wrap(Convolutions())
    view = classifier.front_end.analyse(sounds(1))
    with pytest.raises(
        ValueError, match=r"'relu2' \(ReLU\) .*activation_axes=\('channel', 'time'\)"
    ):
        ai.GradCAMInterpreter(classifier, "relu2").attribute(view)

    class Planes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 5)

        def forward(self, waveform):
            return self.conv(waveform[:, None, :1600].unflatten(2, (40, 40))).mean((2, 3))

    classifier = wrap(Planes())
    with pytest.raises(
        ValueError, match=r"'conv' of a waveform network .* \('channel', 'time', 'freq'\)"
    ):
        ai.GradCAMInterpreter(classifier, "conv").attribute(view)


def test_gradcam_finds_when_a_sound_is():
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 1, bias=False)
            self.relu = nn.ReLU()

        def forward(self, waveform):
            level = self.relu(self.conv(waveform[:, None])).mean((1, 2))
            return torch.stack([-level, level], dim=1)

    network = Loud()
    nn.init.ones_(network.conv.weight)
    classifier = wrap(network, classes=["quiet", "loud"], activation_axes=("channel", "time"))
    waveform = 1e-4 * sounds(1)
    waveform[..., 1200:1500] += sounds(1, 300, seed=1)
    view = classifier.front_end.analyse(waveform)
    over_time = ai.GradCAMInterpreter(classifier, "relu").attribute(view, 1)[0, 0, 0]
    times = classifier.front_end.times(len(over_time)) * RATE
    inside = (times >= 1184) & (times <= 1516)  # the map's cells are a frame wide
    assert over_time[inside].sum() > 0.95 * over_time.sum()


def overlap_add(stft: np.ndarray, n_fft: int, hop: int, samples: int) -> np.ndarray:
    """Return the least-squares inverse of a centred STFT with a periodic Hann window."""
    window = np.float32(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(float)
    total = np.zeros(n_fft + hop * (stft.shape[1] - 1))
    weight = np.zeros_like(total)
    for frame, spectrum in enumerate(stft.T):
        place = slice(frame * hop, frame * hop + n_fft)
        total[place] += np.fft.irfft(spectrum, n_fft) * window
        weight[place] += window**2
    return (total / np.maximum(weight, 1e-12))[n_fft // 2 : n_fft // 2 + samples]


def test_shap_of_a_linear_network_is_the_effect_of_replacing_each_cell():
    samples = 300
    classifier = wrap(Linear(samples).double(), duration=samples / RATE)
    processor = classifier.front_end
    view = processor.analyse(sounds(1, samples, dtype=torch.float64))
    background = processor.analyse(sounds(2, samples, seed=1, dtype=torch.float64))
    label = 1
    explanation = ai.SHAPInterpreter(classifier, background).explain(view, label)
    weight = classifier.network.linear.weight[label].detach().numpy()
    clip = view.context[0].numpy()
    frames = view.cells.shape[-1]
    assert clip.shape[1] == frames + 1  # one past the end, which counts for the last
    expected = np.zeros((33, frames))
    for reference in background.context.numpy():
        for bin_ in range(33):
            for frame in range(frames + 1):
                replaced = clip.copy()
                replaced[bin_, frame] = reference[bin_, frame]
                before, after = (overlap_add(each, 64, 16, samples) for each in (clip, replaced))
                expected[bin_, min(frame, frames - 1)] += weight @ (before - after) / 2
    np.testing.assert_allclose(explanation.attribution[0, 0].numpy(), expected, atol=1e-10)
    assert explanation.diagnostics["residual"] < 1e-9


def test_against_silence_shap_of_a_linear_network_is_what_each_cell_gives():
    # f(x) is homogeneous, so a cell's derivative by the logarithm of its level is its share.
    network = Linear()
    nn.init.zeros_(network.linear.bias)
    classifier = wrap(network.double())
    view = classifier.front_end.analyse(sounds(2, dtype=torch.float64))
    silence = classifier.front_end.analyse(torch.zeros(1, 1, SAMPLES, dtype=torch.float64))
    given_ = ai.SHAPInterpreter(classifier, silence).attribute(view, 0)
    slope = ai.SaliencyInterpreter(classifier).attribute(view, 0)
    torch.testing.assert_close(given_, DB * slope, rtol=1e-6, atol=1e-9)
    scores = classifier.logits(view.cells, view)[:, 0]
    torch.testing.assert_close(given_.sum((1, 2, 3)), scores.detach())


@given(
    seed=st.integers(0, 10_000),
    pool=st.sampled_from(["mean", "max"]),
    activation=st.sampled_from([nn.ReLU, nn.GELU, nn.Tanh]),
    label=st.integers(0, 2),
)
@settings(max_examples=25, deadline=None)
def test_shap_adds_up_whatever_the_network(seed, pool, activation, label):
    classifier = wrap(Convolutions(seed, pool=pool, activation=activation))
    view = classifier.front_end.analyse(sounds(2, seed=seed))
    background = classifier.front_end.analyse(sounds(3, seed=seed + 1))
    explanation = ai.SHAPInterpreter(classifier, background).explain(view, label)
    with torch.no_grad():
        here = classifier.network.eval()(view.waveform[:, 0])[:, label]
        there = classifier.network(background.waveform[:, 0])[:, label].mean()
    found = explanation.attribution.sum((1, 2, 3))
    torch.testing.assert_close(found, here - there, rtol=2e-3, atol=2e-3)


def test_lime_fits_what_the_network_says_of_the_changed_sound():
    classifier = wrap(Convolutions())
    view = classifier.front_end.analyse(sounds(1))

    def halves(features):
        labels = np.zeros(features.shape, dtype=int)
        labels[:, features.shape[1] // 2 :] = 1
        return labels

    method = ai.LIMEInterpreter(classifier, num_samples=200, segmentation=halves, base=-100.0)
    explanation = method.explain(view, 0)
    first, second = explanation.attribution[0, 0, 0, [0, -1]].tolist()
    middle = view.cells.shape[-1] // 2
    chances = {}
    for keep in [(True, True), (True, False), (False, True), (False, False)]:
        cells = view.cells.clone()
        for kept, part in zip(keep, (slice(None, middle), slice(middle, None)), strict=True):
            if not kept:
                cells[..., part] = -100
        with torch.no_grad():
            sound = classifier.front_end.synthesise(view, cells)
            chances[keep] = classifier.network.eval()(sound[:, 0]).softmax(1)[0, 0].item()
    # Kept and hidden are near the mean effect of each half with and without the other.
    effects = [
        chances[True, True] - chances[False, True],
        chances[True, False] - chances[False, False],
    ]
    assert min(effects) - 0.05 <= first <= max(effects) + 0.05
    effects = [
        chances[True, True] - chances[True, False],
        chances[False, True] - chances[False, False],
    ]
    assert min(effects) - 0.05 <= second <= max(effects) + 0.05


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_alone_is_the_clip_in_a_batch(method):
    classifier = wrap(Convolutions())
    view = classifier.front_end.analyse(sounds(5))
    interpreter = METHODS[method](classifier, view[:2])
    together = interpreter.explain(view)
    for row in range(5):
        alone = interpreter.explain(view[row : row + 1])
        assert alone.target == together.target[row]
        torch.testing.assert_close(
            together.attribution[row : row + 1], alone.attribution, rtol=1e-3, atol=1e-6
        )
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = interpreter.attribute(view[order])
    torch.testing.assert_close(shuffled, together.attribution[order], rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore::audiointerp.interpretation.AdditivityWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_networks_of_other_precision_give_maps_in_the_cells_precision(method, dtype):
    plain = wrap(Convolutions())
    other = wrap(Convolutions().to(dtype))
    view = plain.front_end.analyse(sounds())
    expected, found = (
        METHODS[method](each, view[:2]).attribute(view, 1) for each in (plain, other)
    )
    assert found.dtype == torch.float32
    alike = torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]
    assert alike > (0.9999 if dtype == torch.float64 else 0.9)


@pytest.mark.parametrize("method", METHODS)
def test_measuring_on_sound_is_measuring_on_features(method):
    # A waveform network is given the sound of the masked cells at once. Analysing that sound again
    # leaves it as it is, since unchanged cells are the waveform itself.
    classifier = wrap(Convolutions())
    view = classifier.front_end.analyse(sounds(2, seed=1))
    interpreter = METHODS[method](classifier, view)
    predict = ai.Predict(classifier, interpreter, on=("features", "audio"))
    result = predict.predict(sounds(1)[0], RATE)
    on_features, on_audio = (result.metrics_on[place] for place in ("features", "audio"))
    np.testing.assert_array_equal(on_features.to_numpy(float), on_audio.to_numpy(float))
    for place in ("features", "audio"):
        chances = result.class_probabilities_on[place]
        sound = torch.from_numpy(result.audio("topK_30").waveform)[None]
        with torch.no_grad():
            expected = classifier.network.eval()(sound).double().softmax(1)[0].numpy()
        np.testing.assert_allclose(chances.loc[("topK_30", "in")], expected, atol=1e-5)


def test_a_set_is_interpreted_by_every_method(tmp_path):
    class Bands(nn.Module):
        """Low and high by the energy of two differences of samples."""

        def __init__(self):
            super().__init__()
            self.conv2 = nn.Conv1d(1, 2, 2, bias=False)
            self.relu = nn.ReLU()
            with torch.no_grad():
                self.conv2.weight[:] = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])

        def forward(self, waveform):
            return 20 * self.relu(self.conv2(waveform[:, None])).mean(2)

    classifier = wrap(
        Bands(),
        classes=["low", "high"],
        duration=1.2,
        front_end=front_end(n_fft=256, hop_length=128),
    )
    background = classifier.front_end.analyse(Tones(1)[0].waveform[None])
    for name, make in METHODS.items():
        predict = ai.Predict(classifier, make(classifier, background), on=("features", "audio"))
        done = predict.predict_set(Tones(4), tmp_path / name, progress=False)
        assert done.failures == {}
        assert done.accuracy == 1.0
        for mask in ("bin", "topK_30"):
            on_features, on_audio = (done.tables[place, mask] for place in ("features", "audio"))
            assert on_features.equals(on_audio)
        again = predict.predict_set(Tones(4), tmp_path / name, progress=False)
        assert again.interpreted == 0


# --- what cannot be explained -------------------------------------------------------------------


def test_cells_without_their_sound_are_refused():
    classifier = wrap(Convolutions())
    view = classifier.front_end.analyse(sounds())
    for name in ("saliency", "gradcam", "lime"):
        method = METHODS[name](classifier, None)
        with pytest.raises(ValueError, match=r"view of its sound: pass front_end\.analyse"):
            method.attribute(view.cells)
    with pytest.raises(ValueError, match=r"cells alone have no phase|pass the View"):
        classifier.logits(view.cells)
    with pytest.raises(ValueError, match="must be a View of sound"):
        ai.SHAPInterpreter(classifier, view.cells)
    with pytest.raises(ValueError, match="networks that take cells, not a waveform"):
        ai.SHAPInterpreter(classifier, view, backend="shap")


def test_a_network_that_takes_cells_is_not_given_a_waveform():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"fails on \(4, 2000\), what the front end makes"):
        wrap(network, classes=["a", "b"])


def test_a_bare_waveform_network_needs_its_front_end():
    network = Convolutions()
    with pytest.raises(ValueError, match="made for another model"):
        ai.Predict(network, front_end(), ai.SaliencyInterpreter(Convolutions()))


def test_any_length_is_explained_where_no_duration_is_given():
    classifier = wrap(Convolutions(), duration=None)
    method = ai.SaliencyInterpreter(classifier)
    for samples in (500, 1501, 8000):
        result = ai.Predict(classifier, method, masks=["bin"]).predict(sounds(1, samples)[0], RATE)
        assert result.view.waveform.shape[-1] == samples
        assert len(result.audio("bin").waveform) == samples


def test_other_front_ends_can_feed_a_waveform():
    class FedBlocks(Blocks):
        feeds_waveform = True

        def network_input(self, view, cells):
            return self.synthesise(view, cells)[:, 0]

    classifier = wrap(Convolutions(), front_end=FedBlocks())
    view = classifier.front_end.analyse(sounds(2))
    for name in ("saliency", "gradcam", "lime"):
        found = METHODS[name](classifier, None).attribute(view, 1)
        assert found.shape == view.cells.shape
        assert found.abs().max() > 0


def test_a_background_of_another_length_is_named():
    model = ai.classifier(
        Convolutions(),
        front_end=ai.WaveformFrontEnd(sample_rate=RATE, n_fft=128, hop_length=64),
        classes=["a", "b", "c"],
        duration=SAMPLES / RATE,
    )
    shorter, longer = (
        model.front_end.analyse(torch.randn(2, 1, n)) for n in (SAMPLES - 5, SAMPLES)
    )
    assert shorter.cells.shape == longer.cells.shape
    with pytest.raises(ValueError, match=rf"{SAMPLES} samples, the background {SAMPLES - 5}"):
        ai.SHAPInterpreter(model, shorter).attribute(longer)
