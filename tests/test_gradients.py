"""Input×Gradient, integrated and expected gradients, SmoothGrad: captum and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from captum.attr import (
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from networks import HEADS, Network, sounds, wrap
from torch import nn

import audiointerp as ai
from audiointerp.interpretation import METHODS
from audiointerp.interpretation.draws import clip_generator
from audiointerp.interpretation.expected_gradients import draw_pairs
from audiointerp.masking import base_level
from audiointerp.model import build_model
from audiointerp.processing import View
from audiointerp.processing.spectrogram import LogMelSTFTSpectrogram, LogSTFTSpectrogram
from audiointerp.runs.recipe import build_interpreter

FLOOR = -100.0
TARGET = torch.tensor([0, 3, 1])
SMOOTH = ("smoothgrad", "smoothgrad_squared", "vargrad")


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module", params=[LogMelSTFTSpectrogram, LogSTFTSpectrogram])
def cnn14(request):
    """A narrow Cnn14, three clips of noise in its cells, and two more."""
    if request.param is LogMelSTFTSpectrogram:
        processor = LogMelSTFTSpectrogram()
    else:
        processor = LogSTFTSpectrogram(sample_rate=8000, n_fft=128, hop_length=64)
    settings = {"name": "Cnn14", "num_classes": 4, "num_bins": processor.num_bins, "width": 1 / 8}
    model = build_model(settings, seed=0)
    samples = 40 * processor.hop_length
    waveform = 0.1 * randn(5, 1, samples, seed=1, dtype=torch.float32)
    waveform = waveform * torch.logspace(-1, 0, samples)
    # In double precision, lest a ReLU near its kink is on one side here and on the other there.
    cells, model = processor(waveform).double(), model.double()
    with torch.no_grad():
        model(cells)  # moves the batch norms' statistics
    return model.eval(), cells[:3], cells[3:]


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().amax() / expected.abs().amax()).item()


class Quadratic(nn.Module):
    """Class c is xᵀ A_c x + w_c·x over all cells."""

    def __init__(self, cells: int, classes: int = 2) -> None:
        super().__init__()
        self.form = nn.Parameter(randn(classes, cells, cells, seed=3))
        self.linear = nn.Linear(cells, classes).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return torch.einsum("bi,cij,bj->bc", flat, self.form, flat) + self.linear(flat)


def slope(model: Quadratic, x: torch.Tensor, label: int) -> torch.Tensor:
    """The gradient of a quadratic network, by hand."""
    form = model.form[label].detach()
    gradient = x.flatten(1) @ (form + form.T) + model.linear.weight[label].detach()
    return gradient.reshape(x.shape)


# --- Input×Gradient -----------------------------------------------------------------------------


def test_captum_agrees_on_input_times_gradient(cnn14):
    model, cells, _ = cnn14
    expected = InputXGradient(model).attribute(cells.clone().requires_grad_(), target=TARGET)
    found = METHODS["input_gradient"](model, base=0.0).attribute(cells, TARGET)
    assert largest_difference(found, expected.detach()) < 1e-5


def test_the_base_is_what_a_cell_is_counted_from():
    model, x = Quadratic(12), randn(3, 1, 3, 4)
    found = METHODS["input_gradient"](model, base=-2.5).attribute(x, 1)
    torch.testing.assert_close(found, (x + 2.5) * slope(model, x, 1))
    # Each clip's own minimum.
    lowest = METHODS["input_gradient"](model, base=lambda cells: cells.amin((1, 2, 3), True))
    expected = (x - x.amin((1, 2, 3), keepdim=True)) * slope(model, x, 1)
    torch.testing.assert_close(lowest.attribute(x, 1), expected)
    assert (
        METHODS["input_gradient"](model, base=x.max()).attribute(x[:1] * 0 + x.max()) == 0
    ).all()


# --- integrated gradients -----------------------------------------------------------------------


def test_captum_agrees_on_integrated_gradients(cnn14):
    model, cells, _ = cnn14
    expected, delta = IntegratedGradients(model).attribute(
        cells,
        FLOOR,
        target=TARGET,
        n_steps=16,
        method="riemann_middle",
        return_convergence_delta=True,
    )
    explanation = METHODS["integrated_gradients"](model, steps=16).explain(cells, TARGET)
    assert largest_difference(explanation.attribution, expected) < 1e-5
    with torch.no_grad():
        ends = (model(each)[torch.arange(3), TARGET] for each in (cells, cells * 0 + FLOOR))
        here, there = ends
    missed = delta.abs() / (here - there).abs()
    torch.testing.assert_close(
        explanation.diagnostics["residual"].float(), missed.float(), rtol=1e-4, atol=1e-7
    )


def test_captum_agrees_on_several_background_clips(cnn14):
    model, cells, background = cnn14
    method = IntegratedGradients(model)
    expected = torch.stack(
        [
            method.attribute(cells, clip[None], target=1, n_steps=8, method="riemann_middle")
            for clip in background
        ]
    ).mean(0)
    found = METHODS["integrated_gradients"](model, baseline=background, steps=8)
    assert largest_difference(found.attribute(cells, 1), expected) < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_of_a_quadratic_network_the_integral_is_exact(steps, batch_size):
    model, x, start = Quadratic(12), randn(3, 1, 3, 4), randn(2, 1, 3, 4, seed=1)
    options = {"steps": steps, "batch_size": batch_size}
    explanation = METHODS["integrated_gradients"](model, base=-1.5, **options).explain(x, 1)
    # The gradient is linear on the way, so its mean is that in the middle.
    expected = (x + 1.5) * slope(model, (x - 1.5) / 2, 1)
    torch.testing.assert_close(explanation.attribution, expected)
    assert (explanation.diagnostics["residual"] < 1e-12).all()
    several = METHODS["integrated_gradients"](model, baseline=start, **options).explain(x, 0)
    each = [(x - clip) * slope(model, (x + clip) / 2, 0) for clip in start]
    torch.testing.assert_close(several.attribution, torch.stack(each).mean(0))
    assert (several.diagnostics["residual"] < 1e-12).all()


def test_the_residual_is_what_the_sum_misses():
    class Step(nn.Module):
        """relu(sum of the cells), whose gradient jumps on the way."""

        def forward(self, x):
            total = x.flatten(1).sum(1, keepdim=True)
            return torch.cat([total.relu(), 5 - total], 1)

    x = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    # From -1 to 3 with points at -0.5, 0.5, 1.5, 2.5: three of four have slope 1, as they should.
    exact = METHODS["integrated_gradients"](Step(), base=-1.0, steps=4).explain(x, 0)
    assert exact.attribution.item() == pytest.approx(3)
    assert exact.diagnostics["residual"].item() == pytest.approx(0, abs=1e-12)
    # At -1/3, 1 and 7/3: two of three, which makes 4·2/3 of 3.
    missed = METHODS["integrated_gradients"](Step(), base=-1.0, steps=3).explain(x, 0)
    assert missed.attribution.item() == pytest.approx(4 * 2 / 3)
    assert missed.diagnostics["residual"].item() == pytest.approx((3 - 8 / 3) / 3)


def test_the_noise_is_uniform_over_the_clips_range_and_its_own():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x.flatten(1)[:, :2] ** 2

    x = randn(2, 1, 30, 40)
    method = METHODS["integrated_gradients"](Watched(), baseline="noise", steps=1, draws=3)
    explanation = method.explain(x, 0)
    points = torch.cat(seen)[len(x) : len(x) + 6].reshape(2, 3, 30, 40)
    noise = 2 * points - x  # the points are half way
    low, high = x.amin((1, 2, 3)), x.amax((1, 2, 3))
    share = (noise - low[:, None, None, None]) / (high - low)[:, None, None, None]
    assert -1e-9 < share.min() < 0.01
    assert 0.99 < share.max() < 1 + 1e-9
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.02)
    assert not torch.allclose(share[0], share[1])
    assert not torch.allclose(share[:, 0], share[:, 1])
    assert (explanation.diagnostics["residual"] < 1e-12).all()
    other = METHODS["integrated_gradients"](Watched(), baseline="noise", steps=1, draws=3, seed=1)
    assert not torch.equal(other.attribute(x, 0), explanation.attribution)
    assert torch.equal(method.attribute(x[1:], 0)[0], explanation.attribution[1])


def test_settings_hold_what_changes_the_maps_and_nothing_else():
    model, clips = Quadratic(12), randn(2, 1, 3, 4)
    make = METHODS["integrated_gradients"]
    shared = {"method": "integrated_gradients", "steps": 64}
    assert make(model, seed=4, draws=9, batch_size=2).settings() == shared | {
        "baseline": "base",
        "base": -100.0,
    }
    noise = make(model, baseline="noise", base=-3.0, seed=4).settings()
    assert noise == shared | {"baseline": "noise", "draws": 4, "seed": 4}
    background = make(model, baseline=clips).settings()
    assert background["background_clips"] == 2
    assert background != make(model, baseline=clips + 1).settings()


# --- SmoothGrad ---------------------------------------------------------------------------------


TYPES = {"smoothgrad": "smoothgrad", "smoothgrad_squared": "smoothgrad_sq", "vargrad": "vargrad"}


@pytest.mark.parametrize("name", SMOOTH)
def test_captum_agrees_on_noisy_gradients(name, cnn14, monkeypatch):
    model, cells, _ = cnn14
    samples, view = 6, View(cells)
    noises = []
    for clip in range(len(cells)):
        generator = clip_generator(view, clip, 5)
        noises += [torch.randn(cells.shape[1:], generator=generator) for _ in range(samples)]
    # The clips' ranges differ, so captum explains each alone.
    found = METHODS[name](model, noise=0.05, samples=samples, seed=5).attribute(cells, TARGET)
    for clip in range(len(cells)):
        spread = 0.05 * (cells[clip].max() - cells[clip].min()).item()
        own = spread * torch.stack(noises[clip * samples : (clip + 1) * samples]).double()
        monkeypatch.setattr(torch, "normal", lambda mean, std, own=own: own)
        expected = NoiseTunnel(Saliency(model)).attribute(
            cells[clip : clip + 1],
            nt_type=TYPES[name],
            nt_samples=samples,
            stdevs=spread,
            target=int(TARGET[clip]),
            abs=False,
        )
        assert largest_difference(found[clip : clip + 1], expected) < 1e-5
    assert found.shape == cells.shape


def test_of_a_quadratic_network_the_mean_gradient_is_the_gradient_and_its_variance_known():
    model, x = Quadratic(12), randn(2, 1, 3, 4)
    options = {"noise": 0.2, "samples": 1500}
    maps = {name: METHODS[name](model, **options).attribute(x, 1) for name in SMOOTH}
    spread = 0.2 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    form = model.form[1].detach()
    variance = ((form + form.T) ** 2).sum(0).reshape(3, 4) * spread[:, None, None, None] ** 2
    plain = slope(model, x, 1)
    error = variance.sqrt() / math.sqrt(1500)
    assert ((maps["smoothgrad"] - plain).abs() < 5 * error).all()
    torch.testing.assert_close(maps["vargrad"], variance, rtol=0.25, atol=0)
    torch.testing.assert_close(
        maps["smoothgrad_squared"], maps["smoothgrad"] ** 2 + maps["vargrad"], rtol=1e-9, atol=0
    )


def test_vargrad_is_where_the_slope_changes():
    class Bent(nn.Module):
        def forward(self, x):
            curved = (x[..., 4:6, 7:9] ** 2).sum((1, 2, 3))
            return torch.stack([x.sum((1, 2, 3)) + curved, -curved], 1)

    x = randn(1, 1, 9, 14)
    found = METHODS["vargrad"](Bent()).attribute(x, 0)
    assert (found[..., 4:6, 7:9] > 0).all()
    found[..., 4:6, 7:9] = 0
    assert found.abs().max() < 1e-20


@pytest.mark.parametrize("name", SMOOTH)
def test_no_digits_are_lost_where_the_gradient_is_large_and_hardly_varies(name):
    class Steep(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            return torch.stack([1e4 * flat.sum(1) + 0.5 * (flat**2).sum(1), -flat.sum(1)], 1)

    x = randn(1, 1, 3, 4)
    options = {"noise": 0.1, "samples": 50}
    exact = METHODS[name](Steep(), **options).attribute(x, 0)
    single = METHODS[name](Steep(), **options).attribute(x.float(), 0)
    assert largest_difference(single.double(), exact) < 1e-2


def test_the_noise_is_a_clips_own_and_the_seeds():
    model, x = Quadratic(12), randn(2, 1, 3, 4)
    one, other = (METHODS["smoothgrad"](model, seed=seed).attribute(x, 0) for seed in (0, 1))
    assert not torch.allclose(one, other)
    moved = METHODS["smoothgrad"](model).attribute(x[:1] + 1e-3, 0) - slope(model, x[:1] + 1e-3, 0)
    # Another clip, another noise.
    assert not torch.allclose(moved, one[:1] - slope(model, x[:1], 0), rtol=1e-3)


# --- expected gradients -------------------------------------------------------------------------


def test_captum_agrees_on_expected_gradients(cnn14, monkeypatch):
    model, cells, background = cnn14
    samples = 8
    method = METHODS["expected_gradients"](model, background[:1], samples=samples, seed=3)
    found = method.attribute(cells, TARGET)
    for clip in range(len(cells)):
        generator = clip_generator(View(cells), clip, 3)
        _, shares = draw_pairs(samples, 1, generator)
        # captum's share is that of the clip, drawn for all samples at once.
        monkeypatch.setattr(np.random, "uniform", lambda *_, shares=shares: np.asarray(shares))
        expected = GradientShap(model).attribute(
            cells[clip : clip + 1],
            background[:1],
            n_samples=samples,
            stdevs=0.0,
            target=int(TARGET[clip]),
        )
        assert largest_difference(found[clip : clip + 1], expected) < 1e-5


def test_captum_agrees_on_gradient_shap(cnn14, monkeypatch):
    model, cells, background = cnn14
    samples, clip = 5, cells[:1]
    spread = 0.1 * (clip.max() - clip.min()).item()
    generator = clip_generator(View(clip), 0, 0)
    chosen, shares = draw_pairs(samples, 2, generator)
    noise = torch.stack([torch.randn(clip.shape[1:], generator=generator) for _ in range(samples)])
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.asarray(shares))
    monkeypatch.setattr(np.random, "choice", lambda *_: np.asarray(chosen))
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise.double() * spread)
    options = {"n_samples": samples, "stdevs": spread, "target": 2}
    expected = GradientShap(model).attribute(clip, background, **options)
    method = METHODS["expected_gradients"](model, background, samples=samples, noise=0.1)
    assert largest_difference(method.attribute(clip, 2), expected) < 1e-5


def test_expected_gradients_approach_their_closed_form():
    model, x, background = Quadratic(12), randn(2, 1, 3, 4), randn(3, 1, 3, 4, seed=1)
    each = [(x - clip) * slope(model, (x + clip) / 2, 0) for clip in background]
    expected = torch.stack(each).mean(0)
    errors = []
    for samples in (30, 3000):
        method = METHODS["expected_gradients"](model, background, samples=samples)
        explanation = method.explain(x, 0)
        errors.append(largest_difference(explanation.attribution, expected))
        missed = explanation.diagnostics["sampling_residual"]
        with torch.no_grad():
            change = model(x)[:, 0] - model(background)[:, 0].mean()
        by_hand = (explanation.attribution.sum((1, 2, 3)) - change).abs() / change.abs()
        torch.testing.assert_close(missed, by_hand)
    assert errors[1] < 0.01
    assert errors[0] < 0.3


@pytest.mark.parametrize(("samples", "count"), [(1, 5), (5, 5), (50, 7), (12, 1)])
def test_draws_are_spread_evenly(samples, count):
    chosen, shares = draw_pairs(samples, count, torch.Generator().manual_seed(0))
    times = np.bincount(chosen, minlength=count)
    assert len(chosen) == len(shares) == samples
    assert times.max() - times.min() <= 1
    assert sorted(int(share * samples) for share in shares) == list(range(samples))
    if samples > 10:
        assert shares != sorted(shares)


# --- all of them --------------------------------------------------------------------------------


FAMILY = ("input_gradient", "integrated_gradients", "expected_gradients", *SMOOTH)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", FAMILY)
def test_the_logit_of_every_head_is_explained(name, head):
    outputs, after = HEADS[head]
    plain = wrap(Network(outputs), **({} if head == "softmax" else {"head": head}))
    chances = wrap(Network(outputs, after), head=head, outputs="probabilities")
    view = plain.front_end.analyse(sounds())
    maps = [
        build_interpreter(name, each, background=view[:2]).attribute(view, 1)
        for each in (plain, chances)
    ]
    if head != "softmax":  # whose logits of probabilities differ by a constant of the clip
        torch.testing.assert_close(*maps, rtol=1e-2, atol=1e-2 * float(maps[0].abs().max()))
    assert maps[0].abs().max() > 0
    if head == "binary":
        other = build_interpreter(name, plain, background=view[:2]).attribute(view, 0)
        sign = -1 if METHODS[name].facts.signed else 1
        torch.testing.assert_close(other, sign * maps[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("input_gradient", {"base": math.nan}, "base must be a finite number"),
        ("integrated_gradients", {"steps": 0}, "steps must be a whole number of at least 1"),
        ("integrated_gradients", {"draws": 0}, "draws must be"),
        ("integrated_gradients", {"baseline": "zero"}, "'base', 'noise' or background clips"),
        (
            "integrated_gradients",
            {"baseline": torch.zeros(2, 3, 4)},
            "baseline must have the shape",
        ),
        ("smoothgrad", {"noise": 0}, "noise must be a positive share .* got 0"),
        ("smoothgrad", {"samples": 1}, "samples must be a whole number of at least 2"),
        ("vargrad", {"seed": -1}, "seed must be"),
        ("expected_gradients", {"samples": 0}, "samples must be"),
        ("expected_gradients", {"noise": -0.1}, "0 for none, got -0.1"),
    ],
)
def test_bad_settings_are_named(name, options, message):
    if name == "expected_gradients":
        options = options | {"background": torch.zeros(1, 1, 3, 4)}
    with pytest.raises(ValueError, match=message):
        METHODS[name](nn.Identity(), **options)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("expected_gradients", "background"), ("integrated_gradients", "baseline")],
)
def test_background_clips_of_another_kind_are_named(name, argument):
    model = nn.Flatten()
    with pytest.raises(TypeError, match=f"{argument} must be a Tensor of features or a View"):
        METHODS[name](model, **{argument: [1.0]})
    method = METHODS[name](model, **{argument: torch.zeros(2, 1, 3, 4)})
    with pytest.raises(ValueError, match=rf"\(1, 3, 5\).*{argument} \(1, 3, 4\)"):
        method.attribute(torch.zeros(2, 1, 3, 5))


@pytest.mark.parametrize("base", ["floor", "minimum", "quiet"])
@pytest.mark.parametrize("name", ["input_gradient", "integrated_gradients", "deeplift"])
def test_the_masking_base_of_a_run_is_the_base(name, base):
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds())
    found = build_interpreter(name, classifier, base=base)
    level = base_level(view.cells, base, floor=classifier.front_end.floor)
    expected = METHODS[name](classifier, base=lambda cells: base_level(cells, base, floor=FLOOR))
    torch.testing.assert_close(found.attribute(view, 0), expected.attribute(view, 0))
    assert found.settings()["base"]["kind"] == base
    at_base = (view.cells == level).expand_as(view.cells)
    assert (found.attribute(view, 0)[at_base] == 0).all()


def test_the_sum_of_a_waveform_network_is_that_of_the_changed_sound():
    from test_waveform import Convolutions
    from test_waveform import sounds as waveforms
    from test_waveform import wrap as wrap_waveform

    classifier = wrap_waveform(Convolutions().double())
    view = classifier.front_end.analyse(waveforms(2, dtype=torch.float64))
    method = ai.METHODS["integrated_gradients"](classifier, base=-60.0, steps=60)
    explanation = method.explain(view, 1)
    with torch.no_grad():
        silent = classifier.front_end.synthesise(view, torch.full_like(view.cells, -60.0))
        here, there = (
            classifier.network.eval()(sound[:, 0])[:, 1] for sound in (view.waveform, silent)
        )
    torch.testing.assert_close(
        explanation.attribution.sum((1, 2, 3)), here - there, rtol=2e-2, atol=1e-3
    )
    gradient = ai.METHODS["saliency"](classifier).attribute(view, 1)
    times = ai.METHODS["input_gradient"](classifier, base=-60.0).attribute(view, 1)
    torch.testing.assert_close(times, gradient * (view.cells + 60))
