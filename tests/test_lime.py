"""LIME against the lime package, scikit-learn's ridge and models with known answers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lime.lime_image import LimeImageExplainer
from lime.wrappers.scikit_image import SegmentationAlgorithm
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from torch import nn

from audiointerp.interpretation import LIMEInterpreter, Quickshift
from audiointerp.interpretation.lime import _draw, proximity, weighted_ridge
from audiointerp.model import build_model
from audiointerp.registry import UnknownNameError


def blocks(image: np.ndarray, size: int = 4) -> np.ndarray:
    """A grid of size x size cells, labelled out of order and with gaps."""
    rows, columns = np.indices(image.shape) // size
    return 1000 - 7 * (rows * -(-image.shape[1] // size) + columns)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(6 * 6 * 10, 4),
        ).double()


class SameSamples:
    """Stands in for lime's random state and hands out our perturbations."""

    def __init__(self, kept: torch.Tensor) -> None:
        self.kept = kept

    def randint(self, low: int, high: int, size: int) -> np.ndarray:
        assert size == self.kept.numel()
        return self.kept.numpy().astype(int).flatten()


def by_lime(model, clip, interpreter, target):
    """Return the coefficients per segment and R² of the lime package, run from end to end."""
    segments = interpreter.segment(clip)
    kept = _draw(interpreter.num_samples, segments.max() + 1, interpreter.seed)

    def classify(images):
        with torch.no_grad():
            return model(torch.from_numpy(images[..., 0])[:, None]).softmax(1).numpy()

    explainer = LimeImageExplainer(
        kernel_width=interpreter.kernel_width, feature_selection="none", random_state=0
    )
    explainer.random_state = SameSamples(kept)
    explained = explainer.explain_instance(
        np.repeat(clip[0].numpy()[..., None], 3, axis=2),
        classify,
        labels=(target,),
        top_labels=None,
        hide_color=interpreter.base if interpreter.hide == "base" else None,
        num_samples=interpreter.num_samples,
        segmentation_fn=lambda image: segments,
        random_seed=0,
    )
    coefficients = np.zeros(segments.max() + 1)
    for segment, value in explained.local_exp[target]:
        coefficients[segment] = value
    return segments, coefficients, explained.score


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("hide", ["base", "mean"])
@pytest.mark.parametrize("segmentation", [blocks, Quickshift(kernel_size=1.5, max_dist=4)])
@pytest.mark.parametrize("kernel_width", [0.25, 1.0])
def test_the_lime_package_agrees_on_the_same_segments_and_samples(
    hide, segmentation, kernel_width, model
):
    features = 2 * randn(2, 1, 12, 20, seed=1).double()
    interpreter = LIMEInterpreter(
        model,
        num_samples=120,
        segmentation=segmentation,
        kernel_width=kernel_width,
        hide=hide,
        base=-3.0,
        batch_size=50,
    )
    explanation = interpreter.explain(features, 2)
    for index, clip in enumerate(features):
        segments, coefficients, score = by_lime(model, clip, interpreter, 2)
        got = explanation.attribution[index, 0].numpy()
        np.testing.assert_allclose(got, coefficients[segments], atol=1e-9)
        assert np.ptp(coefficients) > 1e-3
        assert explanation.diagnostics["local_fit"][index].item() == pytest.approx(score, abs=1e-9)
        assert explanation.diagnostics["segments"][index].item() == len(coefficients)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_lime_package_agrees_on_cnn14_in_float32():
    shape = {"name": "Cnn14", "num_classes": 5, "num_bins": 64, "width": 0.125}
    model = build_model(shape, seed=0).eval()
    features = 10 * randn(1, 1, 64, 64) - 40
    interpreter = LIMEInterpreter(model, num_samples=60, segmentation=partial(blocks, size=16))
    attribution = interpreter.attribute(features, 1)
    segments, coefficients, _ = by_lime(model, features[0], interpreter, 1)
    np.testing.assert_allclose(attribution[0, 0].numpy(), coefficients[segments], atol=1e-6)


def test_quickshift_is_lime_s_segmentation_of_the_scaled_clip():
    features = 10 * randn(1, 48, 100) - 50
    scaled = (features[0] - features.min()) / (features.max() - features.min())
    lime = SegmentationAlgorithm("quickshift", kernel_size=4, max_dist=200, ratio=0.2, rng=0)
    expected = lime(np.repeat(scaled.double().numpy()[..., None], 3, axis=2))
    segments = LIMEInterpreter(nn.Identity()).segment(features)
    assert segments.max() == expected.max() > 0
    # The same partition: each of our segments meets exactly one of lime's.
    assert len(np.unique(np.stack([segments, expected]).reshape(2, -1), axis=1).T) == (
        segments.max() + 1
    )


@settings(max_examples=10, deadline=None)
@given(gain=st.floats(0.1, 10), shift=st.floats(-100, 100))
def test_quickshift_ignores_level_and_unit(gain, shift):
    features = randn(16, 24).double().numpy()
    labels = Quickshift(kernel_size=2)(features)
    assert np.array_equal(Quickshift(kernel_size=2)(gain * features + shift), labels)


def test_segments_are_numbered_without_gaps():
    segments = LIMEInterpreter(nn.Identity(), segmentation=blocks).segment(randn(1, 10, 14))
    assert np.array_equal(np.unique(segments), np.arange(3 * 4))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    samples=st.integers(2, 40),
    variables=st.integers(1, 60),
    alpha=st.floats(0.01, 10),
)
def test_the_ridge_is_scikit_learns(seed, samples, variables, alpha):
    generator = torch.Generator().manual_seed(seed)
    design = torch.randint(0, 2, (3, samples, variables), generator=generator).double()
    response = torch.rand(3, samples, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, samples, generator=generator, dtype=torch.float64) + 1e-3
    coefficients, intercept, fit = weighted_ridge(design, response, weights, alpha)
    for row in range(3):
        x, y, w = design[row].numpy(), response[row].numpy(), weights[row].numpy()
        oracle = Ridge(alpha=alpha).fit(x, y, sample_weight=w)
        np.testing.assert_allclose(coefficients[row].numpy(), oracle.coef_, atol=1e-9)
        assert intercept[row].item() == pytest.approx(oracle.intercept_, abs=1e-9)
        assert fit[row].item() == pytest.approx(oracle.score(x, y, sample_weight=w), abs=1e-9)


@pytest.mark.parametrize("segments", [1, 2, 9, 100])
def test_the_kernel_is_lime_s(segments):
    kept = torch.cat([_draw(50, segments, 3), torch.zeros(1, segments, dtype=torch.bool)])
    rows = kept.numpy().astype(int)
    distance = pairwise_distances(rows, rows[:1], metric="cosine").ravel()
    expected = np.sqrt(np.exp(-(distance**2) / 0.25**2))
    np.testing.assert_allclose(proximity(kept, 0.25).numpy(), expected, atol=1e-12)


class ShareOfEnergy(nn.Module):
    """Probability of class 1 = a weighted sum of the cells, so linear in what is hidden."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, x):
        p = 0.5 + (x * self.weights).sum((1, 2, 3))
        return torch.stack([(1 - p).log(), p.log()], 1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_model_linear_in_the_segments_gives_back_its_coefficients(seed):
    weights = (torch.rand(8, 12, generator=torch.Generator().manual_seed(seed)) - 0.5) / 150
    weights = weights.double()
    features = torch.full((1, 1, 8, 12), 1.0, dtype=torch.float64)
    interpreter = LIMEInterpreter(
        ShareOfEnergy(weights), num_samples=300, segmentation=blocks, base=-1.0, alpha=1e-9
    )
    explanation = interpreter.explain(features, 1)
    # Hiding moves each cell by 2, and the segment's coefficient is what that moves p.
    for rows in range(0, 8, 4):
        for columns in range(0, 12, 4):
            expected = 2 * weights[rows : rows + 4, columns : columns + 4].sum()
            got = explanation.attribution[0, 0, rows : rows + 4, columns : columns + 4]
            torch.testing.assert_close(got, expected.expand(4, 4), rtol=0, atol=1e-8)
    assert explanation.diagnostics["local_fit"].item() == pytest.approx(1)


def test_it_explains_the_probability_so_two_classes_mirror_each_other():
    weights = (torch.rand(8, 12, generator=torch.Generator().manual_seed(0)) - 0.5) / 150
    interpreter = LIMEInterpreter(
        ShareOfEnergy(weights), num_samples=50, segmentation=blocks, base=0.0
    )
    features = torch.ones(1, 1, 8, 12)
    torch.testing.assert_close(
        interpreter.attribute(features, 0), -interpreter.attribute(features, 1), rtol=0, atol=1e-6
    )


class Watch(nn.Module):
    """Remembers every batch that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x.clone())
        return x.flatten(1)[:, :2]


def test_hidden_segments_take_the_base_and_kept_ones_stay_bit_for_bit():
    model = Watch()
    features = randn(1, 1, 8, 8)
    interpreter = LIMEInterpreter(
        model, num_samples=40, segmentation=blocks, base=-7.5, fold_batch_norm=False
    )
    interpreter.attribute(features, 0)
    versions = torch.cat(model.seen[1:])
    assert len(versions) == 40
    assert torch.equal(versions[0], features[0])
    assert ((versions == features) | (versions == -7.5)).all()
    hidden = (versions == -7.5).float().mean().item()
    assert 0.35 < hidden < 0.65


def test_the_base_may_be_a_function_of_the_clip():
    model = Watch()
    features = randn(2, 1, 8, 8)
    quiet = partial(torch.amin, dim=(1, 3), keepdim=True)  # one level per band
    interpreter = LIMEInterpreter(
        model, num_samples=20, segmentation=blocks, base=quiet, fold_batch_norm=False
    )
    interpreter.attribute(features, 0)
    versions = torch.cat(model.seen[1:]).reshape(2, 20, 1, 8, 8)
    for clip, made in zip(features, versions, strict=True):
        level = clip[0].amin(1)[:, None]
        assert ((made[:, 0] == clip[0]) | (made[:, 0] == level)).all()


def test_hiding_by_the_mean_keeps_each_segments_mean():
    model = Watch()
    features = randn(1, 1, 8, 8)
    interpreter = LIMEInterpreter(
        model, num_samples=20, segmentation=blocks, hide="mean", fold_batch_norm=False
    )
    interpreter.attribute(features, 0)
    for version in torch.cat(model.seen[1:]):
        block_means = nn.functional.avg_pool2d(version, 4)
        torch.testing.assert_close(block_means, nn.functional.avg_pool2d(features[0], 4))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_batches_are_full_across_clips_and_do_not_change_the_result(batch_size, model):
    features = randn(3, 1, 12, 20).double()
    settings = {"num_samples": 30, "segmentation": blocks, "base": -2.0}
    expected = LIMEInterpreter(model, **settings, batch_size=30).attribute(features, 1)
    watched = nn.Sequential(Watch(), nn.Flatten())
    LIMEInterpreter(watched, **settings, batch_size=batch_size, fold_batch_norm=False).attribute(
        features, 1
    )
    sizes = [len(batch) for batch in watched[0].seen[-(-3 // batch_size) :]]
    assert sum(sizes) == 3 * 30
    assert all(size == batch_size for size in sizes[:-1])
    interpreter = LIMEInterpreter(model, **settings, batch_size=batch_size)
    torch.testing.assert_close(interpreter.attribute(features, 1), expected, rtol=1e-9, atol=1e-12)


def test_a_clip_of_one_segment_gets_a_finite_constant_map(model):
    features = randn(1, 1, 12, 20).double()
    one = LIMEInterpreter(model, num_samples=20, segmentation=lambda x: np.zeros(x.shape, int))
    explanation = one.explain(features)
    assert explanation.diagnostics["segments"].item() == 1
    assert explanation.attribution.isfinite().all()
    assert explanation.attribution.unique().numel() == 1


def test_a_constant_clip_and_a_model_that_ignores_it_give_zero():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), 2.0, dtype=x.dtype)

    features = torch.full((1, 1, 16, 24), -100.0)
    explanation = LIMEInterpreter(Constant(), num_samples=20).explain(features, 0)
    assert (explanation.attribution == 0).all()
    assert explanation.diagnostics["local_fit"].item() == 0


def test_the_seed_decides_what_is_hidden(model):
    features = randn(1, 1, 12, 20).double()
    maps = [
        LIMEInterpreter(model, num_samples=30, segmentation=blocks, seed=seed).attribute(features)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_the_global_random_state_is_not_touched(model):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    LIMEInterpreter(model, num_samples=5).attribute(randn(1, 1, 12, 20).double())
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_folding_the_batch_norm_changes_nothing_but_rounding():
    shape = {"name": "Cnn14", "num_classes": 5, "num_bins": 64, "width": 0.125}
    model = build_model(shape, seed=0).eval()
    features = 10 * randn(1, 1, 64, 64) - 40
    folded, plain = (
        LIMEInterpreter(
            model, num_samples=30, segmentation=partial(blocks, size=16), fold_batch_norm=fold
        ).attribute(features, 1)
        for fold in (True, False)
    )
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-6)


def test_settings_tell_the_segmentation_and_the_base():
    interpreter = LIMEInterpreter(nn.Identity(), base=partial(blocks, size=2))
    recorded = interpreter.settings()
    assert recorded["segmentation"] == {
        "name": "quickshift",
        "kernel_size": 4,
        "max_dist": 200,
        "ratio": 0.2,
        "seed": 0,
    }
    assert recorded["base"] == {"name": "blocks", "arguments": [], "size": 2}
    assert (
        LIMEInterpreter(nn.Identity(), segmentation=blocks).settings()["segmentation"] == "blocks"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_samples": 1}, "num_samples must be a whole number of at least 2, got 1"),
        ({"num_samples": 10.0}, "num_samples must be a whole number"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"kernel_width": 0}, "kernel_width must be a positive number"),
        ({"alpha": float("nan")}, "alpha must be a positive number"),
        ({"hide": "noise"}, "hide must be 'base' or 'mean' or 'road', or a Filling, got 'noise'"),
        ({"base": float("-inf")}, "base must be a finite number"),
        ({"segmentation": 3}, "segmentation must be one of quickshift, .* or a function, got 3"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        LIMEInterpreter(nn.Identity(), **setting)


def test_an_unknown_segmentation_lists_the_choices():
    with pytest.raises(UnknownNameError, match="quickshift"):
        LIMEInterpreter(nn.Identity(), segmentation="slick")


@pytest.mark.parametrize(
    "segmentation", [lambda x: x, lambda x: np.zeros((2, 2), int), lambda x: None]
)
def test_a_segmentation_that_returns_something_else_is_named(segmentation, model):
    with pytest.raises(ValueError, match=r"integer labels of shape \(12, 20\)"):
        LIMEInterpreter(model, segmentation=segmentation).attribute(randn(2, 1, 12, 20).double())


def test_a_base_of_another_shape_is_named(model):
    interpreter = LIMEInterpreter(model, base=lambda x: torch.zeros(5))
    with pytest.raises(ValueError, match=r"broadcast to \(1, 1, 12, 20\), got \(5,\)"):
        interpreter.attribute(randn(1, 1, 12, 20).double())
