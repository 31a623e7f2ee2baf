"""Sanity checks, against Quantus, captum and what references must give."""

import copy

import captum.metrics
import numpy as np
import pandas as pd
import pytest
import quantus
import torch
from captum.attr import IntegratedGradients
from scipy.stats import spearmanr
from torch import nn

import audiointerp as ai
from audiointerp.cli.commands import app
from audiointerp.evaluation.sanity import (
    SIMILARITIES,
    completeness,
    gaussian_noise,
    infidelity,
    spearman,
    stability,
    uniform_noise,
)
from audiointerp.model.randomise import list_layers, randomised
from audiointerp.registry import UnknownNameError
from audiointerp.runs.recipe import background_view, open_set
from audiointerp.runs.sanity import CHECKS, check_sanity, summarise_sanity

BINS, FRAMES, COUNT, DRAWS = 8, 10, 4, 5
WEIGHTS = "weights/synthetic_logmel.safetensors"


def network(classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * BINS * FRAMES, classes),
        )
        made(torch.randn(8, 1, BINS, FRAMES))
    return made.eval()


def cells(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(COUNT, 1, BINS, FRAMES, generator=generator)


TARGET = torch.tensor([0, 1, 2, 0])


def saliency(model, x, target=TARGET):
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)
    return gradient


def explain_for_quantus(model, inputs, targets, **_):
    return saliency(model, torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()


class Perturbing:
    """Our perturbations as Quantus asks for them: one draw after the other, cells in rows."""

    def __init__(self):
        self.draw = -1

    def __call__(self, arr, **_):
        self.draw += 1
        moved = uniform_noise(torch.as_tensor(arr).view(-1, 1, BINS, FRAMES), self.draw, radius=0.3)
        return moved.flatten(1).numpy()


def ours():
    model, x = network(), cells()
    return stability(
        lambda changed: saliency(model, changed),
        x,
        saliency(model, x),
        lambda changed, draw: uniform_noise(changed, draw, radius=0.3),
        draws=DRAWS,
    )


QUANTUS = {
    "nr_samples": DRAWS,
    "abs": False,
    "normalise": False,
    "return_nan_when_prediction_changes": False,
    "disable_warnings": True,
}


def run_quantus(metric, model, x=None, target=TARGET):
    return metric(
        model=model,
        x_batch=cells().numpy() if x is None else x,
        y_batch=target.numpy(),
        explain_func=explain_for_quantus,
        batch_size=COUNT,
        device="cpu",
    )


def test_max_sensitivity_is_that_of_quantus_and_of_captum():
    model, x = network(), cells()
    norm = quantus.norm_func.fro_norm
    metric = quantus.MaxSensitivity(
        **QUANTUS,
        norm_numerator=norm,
        norm_denominator=norm,
        similarity_func=quantus.similarity_func.difference,
        perturb_func=Perturbing(),
    )
    found = ours()["max_sensitivity"]
    np.testing.assert_allclose(found, run_quantus(metric, model), rtol=1e-5)

    def perturb(inputs):
        moved = torch.stack([uniform_noise(x, draw, radius=0.3) for draw in range(DRAWS)], dim=1)
        return moved.flatten(0, 1).view_as(inputs)

    def explain(inputs, target):
        if isinstance(inputs, tuple):  # and then it wants a tuple back
            return (saliency(model, inputs[0], target),)
        return saliency(model, inputs, target)

    theirs = captum.metrics.sensitivity_max(
        explain, x, perturb, n_perturb_samples=DRAWS, target=TARGET
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-5)


def test_local_lipschitz_is_that_of_quantus():
    distance = quantus.similarity_func.distance_euclidean
    metric = quantus.LocalLipschitzEstimate(
        **QUANTUS, norm_numerator=distance, norm_denominator=distance, perturb_func=Perturbing()
    )
    np.testing.assert_allclose(ours()["local_lipschitz"], run_quantus(metric, network()), rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_that_of_captum(normalize):
    model, x = network(), cells()
    maps = saliency(model, x) * torch.rand(x.shape, generator=torch.Generator().manual_seed(7))
    draws = [gaussian_noise(x, draw, radius=0.5) for draw in range(DRAWS)]

    def score(changed):
        with torch.no_grad():
            return model(changed).gather(1, TARGET[:, None])[:, 0]

    found = infidelity(
        score, x, maps, lambda changed, draw: gaussian_noise(changed, draw, radius=0.5), draws=DRAWS
    )

    def perturb(inputs):
        moved = torch.stack(draws, dim=1).flatten(0, 1).view_as(inputs)
        return inputs - moved, moved

    expected = captum.metrics.infidelity(
        model, perturb, x, maps, target=TARGET, n_perturb_samples=DRAWS, normalize=normalize
    ).detach()
    if normalize:
        power = torch.stack([(score(x) - score(moved)) ** 2 for moved in draws]).mean(0)
        np.testing.assert_allclose(found["infidelity_scaled"] * power, expected, rtol=1e-4)
        assert ((found["infidelity_scaled"] >= 0) & (found["infidelity_scaled"] <= 1)).all()
    else:
        np.testing.assert_allclose(found["infidelity"], expected, rtol=1e-4)


def test_the_gradient_of_a_linear_function_is_perfectly_faithful():
    weight = cells(9)[:1]
    found = infidelity(
        lambda changed: (changed * weight).sum((1, 2, 3)),
        cells().double(),
        weight.expand(COUNT, -1, -1, -1),
        lambda changed, draw: gaussian_noise(changed, draw, radius=0.5),
    )
    for values in found.values():
        np.testing.assert_allclose(values, 0, atol=1e-9)


def test_completeness_is_captums_convergence_delta():
    model, x = network(), cells()
    base = torch.full_like(x, -1)
    method = IntegratedGradients(model)
    maps = method.attribute(x, base, TARGET, n_steps=3)
    with torch.no_grad():
        gain = (model(x) - model(base)).gather(1, TARGET[:, None])[:, 0]
    expected = method.compute_convergence_delta(maps, base, x, TARGET).abs()
    np.testing.assert_allclose(completeness(maps, gain), expected, atol=1e-5)
    assert expected.max() > 1e-3


@pytest.mark.parametrize(("order", "cascading"), [("top_down", True), ("independent", False)])
def test_randomised_parameters_are_those_of_quantus(order, cascading, monkeypatch):
    monkeypatch.setattr("audiointerp.model.randomise.layer_seed", lambda seed, name: seed + 1)
    metric = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman,
        layer_order=order,
        seed=5,
        abs=False,
        normalise=False,
        disable_warnings=True,
    )
    model = network()
    expected = run_quantus(metric, network())
    x = cells()
    before = saliency(model, x)
    found = {
        name: spearman(before, saliency(changed, x)).numpy()
        for name, changed in randomised(model, ["4", "1", "0"], cascading=cascading, seed=5)
    }
    assert found.keys() == {name.rpartition(".")[2] or name for name in expected} & found.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6)


def test_class_sensitivity_is_quantus_random_logit_of_two_classes(monkeypatch):
    front_end = ai.LogSTFTSpectrogram(sample_rate=800, n_fft=14, hop_length=7)
    sounds = torch.randn(COUNT, 1, 63, generator=torch.Generator().manual_seed(0))
    view = front_end.analyse(sounds)
    assert view.cells.shape[2:] == (BINS, FRAMES)
    model = network(2)
    classifier = ai.classifier(model, front_end=front_end, classes=("a", "b"), duration=63 / 800)
    found = check_sanity(classifier, "saliency", sounds, checks="class", similarities="spearman")
    metric = quantus.RandomLogit(
        similarity_func=quantus.similarity_func.correlation_spearman,
        num_classes=2,
        abs=False,
        normalise=False,
        disable_warnings=True,
    )
    predicted = model(view.cells).argmax(1)
    expected = run_quantus(metric, model, view.cells.numpy(), predicted)
    np.testing.assert_allclose(found["value"], expected, atol=1e-5)


def test_spearman_is_scipys_with_ties_and_nan_where_a_map_is_constant():
    first, second = cells().round(), cells(2).round()
    found = spearman(first, second)
    for value, one, other in zip(found, first, second, strict=True):
        assert float(value) == pytest.approx(spearmanr(one.flatten(), other.flatten())[0])
    assert spearman(first, torch.zeros_like(first)).isnan().all()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_map_is_like_itself(name):
    maps = cells()
    np.testing.assert_allclose(SIMILARITIES[name](maps, maps), 1)
    np.testing.assert_allclose(SIMILARITIES[name](maps, 3 * maps), 1)
    turned = SIMILARITIES[name](maps, -maps)
    np.testing.assert_allclose(turned, -1 if name == "spearman" else 1)
    assert (SIMILARITIES[name](maps, cells(5)) < 0.7).all()
    assert SIMILARITIES[name](maps, torch.zeros_like(maps)).isnan().all()


def test_maps_that_ignore_their_input_are_steady_and_their_input_itself_is_lipschitz_1():
    x = cells()
    moves = {"perturb": lambda changed, draw: uniform_noise(changed, draw, radius=0.3)}
    constant = stability(lambda changed: torch.ones_like(changed), x, torch.ones_like(x), **moves)
    assert all((values == 0).all() for values in constant.values())
    itself = stability(lambda changed: changed, x, x, **moves)
    np.testing.assert_allclose(itself["local_lipschitz"], 1, rtol=1e-5)
    empty = stability(lambda changed: changed, x, torch.zeros_like(x), **moves)
    assert empty["max_sensitivity"].isnan().all()


def test_noise_is_in_the_clips_spread_and_does_not_depend_on_neighbours():
    x = cells()
    x[1] *= 10
    for noise in (uniform_noise, gaussian_noise):
        moved = noise(x, 3, radius=0.5, seed=2)
        assert torch.equal(noise(x[1:2], 3, radius=0.5, seed=2)[0], moved[1])
        shares = ((moved - x) / x.flatten(1).std(1, correction=0)[:, None, None, None]).flatten(1)
        np.testing.assert_allclose(shares[1], shares[0], atol=1e-5)
        assert not torch.equal(noise(x, 4, radius=0.5, seed=2), moved)
    assert shares.std() == pytest.approx(0.5, rel=0.2)
    assert (uniform_noise(x, 0, radius=0.1) - x).abs().amax((1, 2, 3)).max() <= 0.1 * x[
        1
    ].std() * 1.01


class Odd(nn.Module):
    """A layer with parameters and no way to draw them; used by a module without being called."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, 5.0)[:, None, None])


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)  # registered first, runs last
        self.odd = Odd()
        self.conv = nn.Conv2d(1, 4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.out((self.conv(x) * self.odd.scale).mean((2, 3)))


def test_layers_are_in_the_order_in_which_they_run_backwards():
    classifier = ai.classifier(
        Nested(), front_end=ai.LogSTFTSpectrogram(sample_rate=8000), classes=("a", "b", "c")
    )
    view = classifier.front_end.analyse(torch.randn(1, 1, 4000))
    layers = list_layers(classifier, view)
    assert layers.index("out") < layers.index("conv")
    assert set(layers) == {"out", "conv", "odd", "unused"}
    changed = dict(
        (name, copy.deepcopy(each))
        for name, each in randomised(classifier.network, ["odd"], cascading=True)
    )["odd"]
    assert sorted(changed.odd.scale.flatten().tolist()) == [1, 2, 3, 4]
    assert torch.equal(changed.conv.weight, classifier.network.conv.weight)
    for wrong in ("pool", ""):
        with pytest.raises(ValueError, match=r"no layer .*choose from out, odd, conv, unused"):
            list(randomised(classifier.network, [wrong], cascading=True))


def test_a_network_that_cannot_be_copied_is_named():
    model = network()
    model.kept = (x for x in "ab")
    with pytest.raises(ValueError, match="Sequential cannot be copied"):
        list(randomised(model, ["0"], cascading=True))


@pytest.fixture(scope="module")
def bundled():
    return ai.load(WEIGHTS)


@pytest.fixture(scope="module")
def sounds(bundled):
    clips = open_set("synthetic", bundled, folds=5, clips=10)
    return torch.stack([clips[place].waveform for place in (0, 3)])


@pytest.fixture(scope="module")
def background(bundled):
    clips = open_set("synthetic", bundled, folds=1, clips=10)
    return background_view(clips, bundled.front_end, per_class=1)[:4]


LAYERS = [
    "classifier",
    "base.conv_block6.conv2",
    "base.conv_block2.conv2",
    "base.conv_block1.conv1",
]


@pytest.fixture(scope="module")
def found(bundled, sounds, background):
    before = {name: value.clone() for name, value in bundled.state_dict().items()}
    modes = [module.training for module in bundled.modules()]
    found = check_sanity(
        bundled,
        ["saliency", "gradcam", "lime", "shap", "edge", "random"],
        sounds,
        background=background,
        layers=LAYERS,
        draws=2,
        options={"lime": {"num_samples": 40}},
    )
    after = bundled.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [module.training for module in bundled.modules()] == modes
    assert all(value.requires_grad for value in bundled.network.parameters())
    return found


def test_parameter_randomisation_separates_methods_from_edge(found):
    """The acceptance test of the issue, on a bundled network."""
    rows = found[(found["check"] == "cascading") & (found["layer"] == LAYERS[-1])]
    for measure in ("spearman", "absolute"):
        values = rows[rows["measure"] == measure].groupby("method")["value"]
        for method in ("saliency", "gradcam", "shap"):
            assert values.max()[method] < 0.75, (method, measure)
        for reference in ("edge", "random"):
            assert values.min()[reference] == pytest.approx(1)


def test_references_have_their_levels_in_every_check(found):
    edge = found[found["method"] == "edge"]
    similar = edge[edge["check"].isin(["cascading", "independent", "class"])]
    np.testing.assert_allclose(similar["value"], 1)
    shap = found[found["method"] == "shap"].set_index("measure")["value"]
    assert shap["completeness"].max() < 1e-3
    energy = found[(found["method"] == "random") & (found["measure"] == "max_sensitivity")]
    assert energy["value"].between(0.6, 0.8).all()  # √½: unrelated draws


def test_every_check_has_a_row_for_every_method_clip_and_layer(found, bundled):
    assert set(found["check"]) == set(CHECKS)
    per_method = 2 * (2 * len(LAYERS) * 2 + 2 + 2 + 2 + 1)
    assert (found.groupby("method").size() == per_method).all()
    assert set(found["target"]) <= set(bundled.classes)
    cascading = found[found["check"] == "cascading"]
    assert list(dict.fromkeys(cascading["layer"])) == LAYERS
    summary = summarise_sanity(found)
    assert summary["reference"].to_dict() == {
        **dict.fromkeys(("saliency", "gradcam", "lime", "shap"), False),
        **dict.fromkeys(("edge", "random"), True),
    }
    last = cascading[(cascading["layer"] == LAYERS[-1]) & (cascading["measure"] == "spearman")]
    assert summary.loc["shap", "cascading: spearman"] == pytest.approx(
        last[last["method"] == "shap"]["value"].mean()
    )


def test_the_picture_has_a_line_for_each_method(found):
    from audiointerp.plots import plot_sanity

    picture = plot_sanity(found, heading="a network")
    names = [text.get_text() for text in picture.axes[0].get_legend().get_texts()]
    assert names == [
        "saliency",
        "gradcam",
        "lime",
        "shap",
        "edge (reference)",
        "random (reference)",
    ]
    assert [axes.get_title() for axes in picture.axes] == [
        "cascading: all layers so far",
        "one layer at a time",
    ]
    with pytest.raises(ValueError, match="no 'ssim' of randomised layers: it has spearman"):
        plot_sanity(found, measure="ssim")


def test_a_clip_is_checked_as_it_is_alone(found, bundled, sounds):
    alone = check_sanity(
        bundled, ["saliency", "edge"], sounds[1:], layers=LAYERS, draws=2, checks=list(CHECKS)
    )
    together = found[found["method"].isin(["saliency", "edge"]) & (found["clip"] == "1")]
    keys = ["method", "check", "layer", "measure"]
    both = together.merge(alone, on=keys)
    assert len(both) == len(alone)
    np.testing.assert_allclose(both["value_x"], both["value_y"], rtol=0.02, atol=1e-2)


def test_waveform_networks_are_checked(bundled):
    class Listening(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 64, stride=16)
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.conv(x.flatten(1)[:, None]).square().mean(2))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Listening()
    classifier = ai.classifier(
        model, front_end=ai.WaveformFrontEnd(sample_rate=8000), classes=("a", "b", "c")
    )
    waves = 0.1 * torch.randn(2, 1, 4000, generator=torch.Generator().manual_seed(0))
    found = check_sanity(classifier, ["saliency", "random"], waves, draws=2)
    assert found["value"].notna().all()
    moved = found[(found["method"] == "random") & (found["measure"] == "max_sensitivity")]["value"]
    assert moved.between(0.6, 0.8).all()


def test_what_cannot_be_checked_is_named(bundled, sounds):
    for options, message in (
        ({"checks": "cascade"}, "unknown sanity check 'cascade'"),
        ({"similarities": "pearson"}, "unknown similarity 'pearson'"),
        ({"layers": ["base.conv9"], "checks": "cascading"}, "no layer 'base.conv9'"),
        ({"draws": 0}, "expected positive"),
        ({"checks": ["class", "class"]}, "given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            check_sanity(bundled, "saliency", sounds, **options)
    with pytest.raises(ValueError, match="ideal: needs the foreground"):
        check_sanity(bundled, ["ideal"], sounds)
    with pytest.raises(UnknownNameError, match="unknown method"):
        check_sanity(bundled, ["edges"], sounds)
    with pytest.raises(ValueError, match=r"expected \(clips, 1, samples\)"):
        check_sanity(bundled, "saliency", sounds[0])


def test_the_command_writes_the_table_and_its_picture(tmp_path):
    from typer.testing import CliRunner

    arguments = [
        *("sanity", "--weights", WEIGHTS, "--data", "synthetic", "--out", str(tmp_path / "found")),
        *("--method", "saliency", "--method", "edge", "--clips", "2", "--layer", "classifier"),
        *("--check", "cascading", "--check", "class"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "edge" in done.output
    table = pd.read_csv(tmp_path / "found" / "sanity.csv")
    assert set(table["method"]) == {"saliency", "edge"}
    assert table["clip"].nunique() == 2
    for ending in ("pdf", "png"):
        assert (tmp_path / "found" / f"sanity.{ending}").stat().st_size > 1000
