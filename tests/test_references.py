"""Reference methods: what they are, against their definitions and other libraries."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import audiointerp as ai
from audiointerp.evaluation.truth import Truth
from audiointerp.interpretation import METHODS, is_reference, method_label
from audiointerp.masking import make_masks
from audiointerp.processing import View
from audiointerp.runs.recipe import Recipe

BINS, FRAMES = 9, 14
REFERENCES = [name for name in METHODS if is_reference(name)]


class Bare(nn.Module):
    def forward(self, cells):
        return torch.stack([cells.mean((1, 2, 3)), cells.amax((1, 2, 3))], dim=1)


def cells(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 20 * torch.randn(count, 1, BINS, FRAMES, generator=generator) - 40


def parts(seed=0, count=3):
    foreground, background = cells(count, seed) - 20, cells(count, seed + 1) - 20
    mixture = 10 * torch.log10(10 ** (foreground / 10) + 10 ** (background / 10))
    return View(mixture), Truth(View(foreground), View(background))


def test_references_follow_the_four_methods():
    assert list(METHODS)[:4] == list(ai.DEFAULT_METHODS)
    assert REFERENCES == ["random", "energy", "excess", "smooth_excess", "edge", "ideal"]
    assert not any(METHODS[name].reference for name in ai.DEFAULT_METHODS)
    assert method_label("random") == "random (reference)"
    assert method_label("gradcam") == "gradcam"
    assert method_label("a method of mine") == "a method of mine"


@pytest.mark.parametrize("name", REFERENCES)
def test_the_map_is_the_same_for_every_class_and_network(name):
    view, truth = parts()
    one = METHODS[name](Bare()).explain(view, 0, truth=truth)
    other = METHODS[name](nn.Sequential(nn.Flatten(), nn.Linear(BINS * FRAMES, 4))).explain(
        view, torch.tensor([3, 1, 2]), truth=truth
    )
    assert torch.equal(one.attribution, other.attribution)
    assert other.target.tolist() == [3, 1, 2]
    predicted = METHODS[name](Bare()).explain(view, truth=truth).target
    assert torch.equal(predicted, Bare()(view.cells).argmax(1))
    with pytest.raises(ValueError, match="out of range"):
        METHODS[name](Bare()).explain(view, 2, truth=truth)


def test_random_is_uniform_and_drawn_by_seed_and_clip_alone():
    features = cells(2)[[0, 1, 0]]
    found = METHODS["random"](Bare(), seed=3).attribute(features)
    assert torch.equal(found[2], found[0])
    assert not torch.equal(found[1], found[0])
    assert torch.equal(METHODS["random"](Bare(), seed=3).attribute(features[1:2])[0], found[1])
    assert not torch.equal(METHODS["random"](Bare(), seed=4).attribute(features), found)
    many = METHODS["random"](Bare()).attribute(cells(400, seed=5)).flatten()
    assert many.min() >= 0
    assert many.max() < 1
    assert np.histogram(many, bins=10, range=(0, 1))[0] / len(many) == pytest.approx(0.1, abs=5e-3)
    # Neither rows nor columns nor neighbours of it are alike.
    maps = many.view(400, BINS, FRAMES).numpy()
    assert maps.mean(0) == pytest.approx(0.5, abs=0.08)
    assert abs(np.corrcoef(maps[:, :, 1:].ravel(), maps[:, :, :-1].ravel())[0, 1]) < 0.02


def test_random_is_drawn_by_the_sound_where_there_is_one():
    sound = torch.randn(2, 1, 50, generator=torch.Generator().manual_seed(0))
    one = METHODS["random"](Bare()).attribute(View(cells(2), sound))
    rounded = METHODS["random"](Bare()).attribute(View(cells(2) * (1 + 1e-6), sound))
    assert torch.equal(one, rounded)
    assert not torch.equal(one, METHODS["random"](Bare()).attribute(cells(2)))


def test_energy_is_the_level_above_the_floor():
    classifier = ai.classifier(
        Bare(), front_end=ai.LogSTFTSpectrogram(sample_rate=8000), classes=("a", "b")
    )
    features = cells().clamp(min=-100)
    found = METHODS["energy"](classifier).attribute(features)
    assert torch.equal(found, features + 100)
    assert found.min() >= 0
    bare = METHODS["energy"](Bare()).attribute(features)
    for clip, own in zip(bare, features, strict=True):
        assert torch.equal(clip, own - own.min())


def test_excess_is_the_level_above_the_quiet_level_of_each_band():
    features = cells()
    found = METHODS["excess"](Bare()).attribute(features)
    quiet = np.quantile(features.numpy(), 0.1, axis=3, keepdims=True)
    np.testing.assert_allclose(found, features.numpy() - quiet, atol=1e-4)
    steady = torch.arange(BINS).float()[None, None, :, None].expand(1, 1, BINS, FRAMES).clone()
    steady[..., 4, 6] += 30
    assert METHODS["excess"](Bare()).attribute(steady).nonzero().tolist() == [[0, 0, 4, 6]]


def test_smooth_excess_is_scipys_gaussian_of_the_excess():
    features = cells().double()
    excess = METHODS["excess"](Bare()).attribute(features)[:, 0].numpy()
    for widths in ({}, {"bins": 0.5, "frames": 3.0}, {"bins": 0, "frames": 1.5}):
        found = METHODS["smooth_excess"](Bare(), **widths).attribute(features)
        sigma = tuple(({"bins": 1, "frames": 2} | widths).values())
        for clip, own in zip(found[:, 0], excess, strict=True):
            expected = ndimage.gaussian_filter(own, sigma, mode="nearest", truncate=4)
            # Its kernel ends at a whole number of cells, rounded instead of rounded up.
            np.testing.assert_allclose(clip, expected, atol=0.02)
    with pytest.raises(ValueError, match="frames must be"):
        METHODS["smooth_excess"](Bare(), frames=-1.0)


def test_edge_is_scipys_sobel_magnitude():
    features = cells().double()
    found = METHODS["edge"](Bare()).attribute(features)
    for clip, own in zip(found[:, 0], features[:, 0].numpy(), strict=True):
        expected = np.hypot(*(ndimage.sobel(own, axis, mode="nearest") for axis in (0, 1)))
        np.testing.assert_allclose(clip, expected, rtol=1e-12, atol=1e-9)


def test_ideal_needs_the_parts():
    view, truth = parts()
    ideal = METHODS["ideal"](Bare())
    for missing in (None, Truth(), Truth(labels=torch.ones(3, 2, dtype=torch.bool))):
        with pytest.raises(ValueError, match="the method ideal needs the foreground"):
            ideal.explain(view, truth=missing)
    with pytest.raises(ValueError, match="expected the parts of the same clips"):
        ideal.explain(view, truth=truth[:2])


@pytest.mark.parametrize("log", [True, False])
def test_ideal_is_positive_where_the_foreground_is_louder_and_counted(log):
    view, truth = parts()
    if not log:
        power = [View(10 ** (part.cells / 10)) for part in (truth.foreground, truth.background)]
        view, truth = View(10 ** (view.cells / 10)), Truth(*power, log=False)
    found = METHODS["ideal"](Bare()).explain(view, 0, truth=truth).attribution
    assert torch.equal(found > 0, truth.binary & truth.counted)
    assert torch.equal(found < 0, ~truth.binary & truth.counted)
    assert (~truth.counted).any()


@pytest.mark.parametrize("share", [1, 7, 20, 40])
def test_no_mask_of_as_many_cells_is_nearer_to_the_clean_foreground(share):
    """By every exchange of one kept for one removed cell, with phases apart."""
    view, truth = parts(seed=4, count=1)
    found = METHODS["ideal"](Bare()).explain(view, 0, truth=truth).attribution.flatten()
    gained = 10 ** (truth.foreground.cells.double() / 10) - 10 ** (
        truth.background.cells.double() / 10
    )
    gained = torch.where(truth.counted, gained, 0).flatten()
    order = found.argsort(descending=True, stable=True)
    assert gained[order[:share]].min() >= gained[order[share:]].max() - 1e-12 * gained.abs().max()


def test_ideal_takes_silence_before_background():
    front, back = torch.full((2, 1, 1, BINS, FRAMES), -200.0)
    front[..., :3], back[..., 3:6] = -10, -10
    truth = Truth(View(front), View(back))
    found = METHODS["ideal"](Bare()).explain(View(torch.maximum(front, back)), 0, truth=truth)
    kept = make_masks(found.attribution, ["topK_50"])["topK_50"].bool()
    assert kept[..., :3].all()
    assert not kept[..., 3:6].any()


def test_a_recipe_has_the_four_methods_unless_told_otherwise():
    assert Recipe().methods == ai.DEFAULT_METHODS
    everything = Recipe("all")
    assert everything.methods == tuple(METHODS)
    assert everything.methods_for("clips", has_parts=True) == tuple(METHODS)
    with pytest.warns(UserWarning, match="left out of all methods, ideal: needs the foreground"):
        found = everything.methods_for("files", has_parts=False)
    assert set(METHODS) - set(found) == {"ideal"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Recipe(["saliency", "random"]).methods_for("files", has_parts=False)
    with pytest.raises(ValueError, match=r"ideal: needs .* are not known of files"):
        Recipe(["saliency", "ideal"]).methods_for("files", has_parts=False)
    assert not replace(Truth(), log=False).has_parts
