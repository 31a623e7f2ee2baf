"""Networks that cannot be copied run themselves: the same numbers, and left as they were found."""

from __future__ import annotations

import logging
import threading

import pytest
import torch
from decoders import untrained
from torch import nn
from torch.nn import functional

from audiointerp.interpretation import METHODS
from audiointerp.interpretation import shap as shap_module
from audiointerp.interpretation.segmentation import Grid
from audiointerp.speed.inference import NotCopyableError, fast_copy, inference_copy
from audiointerp.speed.scoring import Scorer


class Network(nn.Module):
    """Batch norm and dropout, whose mode matters, a functional and a reused in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.act, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.deep = nn.Conv2d(6, 6, 3, padding=1)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x):
        x = self.pool(self.act(self.bn(self.conv(x))))
        x = self.act(self.deep(x)) + functional.relu(x)
        return self.last(self.drop(x.mean((2, 3))))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FEATURES, BACKGROUND = randn(2, 1, 12, 14), randn(3, 1, 12, 14, seed=1)


def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Network()
        model(3 * randn(8, 1, 12, 14, seed=2) + 1)  # statistics
    return model


def _stored_activations(model: Network) -> Network:
    class Stores(Network):
        def forward(self, x):
            self.seen = self.conv(x)
            return super().forward(x)

    model.__class__ = Stores
    model(FEATURES.clone())
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
def _weight_norm(model: Network) -> Network:
    nn.utils.weight_norm(model.deep)
    model(FEATURES.clone())
    return model


def _holds(made) -> object:
    def hold(model: Network) -> Network:
        model.act.held = made()
        return model

    return hold


OBSTACLES = {
    "stored activations": (_stored_activations, "the attribute 'seen' of the model"),
    "weight norm": (_weight_norm, "the attribute 'weight' of 'deep', a Conv2d"),
    "lock": (_holds(threading.Lock), "the attribute 'held' of 'act', a ReLU"),
    "generator": (_holds(lambda: iter(x for x in "ab")), "the attribute 'held' of 'act', a ReLU"),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


@pytest.fixture(params=OBSTACLES)
def obstacle(request):
    return request.param


def obstructed(obstacle: str) -> Network:
    model = network()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model = OBSTACLES[obstacle][0](model)
    for key, value in model.state_dict().items():
        if key in state:  # the batch norm's statistics; weight norm has other names for a weight
            value.copy_(state[key])
    return model


SETTINGS = {
    **{
        name: {"target_layers": "deep"}
        for name, method in METHODS.items()
        if method.facts.family == "CAM"
    },
    "lime": {"num_samples": 30},
    "shap": {"background": BACKGROUND},
    "expected_gradients": {"background": BACKGROUND},
    "guided_gradcam": {"target_layers": "deep"},
    # Levels on the way from -100 would be rounded by as much as these clips' cells differ.
    "integrated_gradients": {"base": -1.0},
    # Far from the clips the network is so certain that values are rounding.
    "rise": {"num_samples": 100, "base": -1.0},
    "freqrise": {"num_samples": 100, "base": -1.0},
    "sobol": {"num_designs": 8, "base": -1.0, "segmentation": Grid(2, 3)},
}


def test_the_attribute_in_the_way_is_named(obstacle):
    with pytest.raises(NotCopyableError, match=OBSTACLES[obstacle][1]):
        inference_copy(obstructed(obstacle))


def test_the_original_is_used_and_the_log_says_so_once(obstacle, caplog):
    model = obstructed(obstacle)
    with caplog.at_level(logging.WARNING):
        assert fast_copy(model) is model
        assert fast_copy(model, keep=["conv"]) is model
        Scorer(model)(FEATURES)
        assert fast_copy(model) is model
    (record,) = caplog.records
    assert OBSTACLES[obstacle][1] in record.getMessage()
    assert "runs as it is" in record.getMessage()


FITTING = [name for name in METHODS if METHODS[name].requires.isdisjoint({"truth", "attention"})]
"""Methods that need neither the clips' parts nor attention, which this network has not."""


def weights_of(method: str) -> dict:
    if "weights" not in METHODS[method].requires:
        return {}
    return {"weights": untrained(method, network().eval(), FEATURES)}


@pytest.mark.parametrize("method", FITTING)
def test_every_method_gives_the_map_of_the_network_without_the_obstacle(obstacle, method):
    model = obstructed(obstacle).train()
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = SETTINGS.get(method, {}) | weights_of(method)
    interpreter = METHODS[method](model, **settings)
    expected = METHODS[method](network(), **settings).attribute(FEATURES, 1)
    for _ in range(2):  # the first run changes what is stored
        found = interpreter.attribute(FEATURES, 1)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all(module.training for module in model.modules())
    assert model.act.inplace
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters[name])
        assert parameter.requires_grad
        assert parameter.grad is None


def test_the_scorer_gives_the_probabilities_of_the_network_without_the_obstacle(obstacle):
    model = obstructed(obstacle).train()
    statistics = model.bn.running_mean.clone()
    found = Scorer(model)(FEATURES)
    torch.testing.assert_close(found, Scorer(network())(FEATURES), rtol=1e-5, atol=1e-6)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.bn.running_mean, statistics)


def test_shap_sees_a_change_of_a_network_that_it_did_not_copy():
    model = obstructed("lock")
    interpreter = METHODS["shap"](model, BACKGROUND)
    before = interpreter.attribute(FEATURES, 1)
    with torch.no_grad():
        model.deep.weight.mul_(2)
    after = interpreter.attribute(FEATURES, 1)
    changed = network()
    with torch.no_grad():
        changed.deep.weight.mul_(2)
    expected = METHODS["shap"](changed, BACKGROUND).attribute(FEATURES, 1)
    assert (after - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not torch.allclose(after, before)


def test_the_shap_library_says_why_it_cannot_explain_a_network_that_it_cannot_copy():
    interpreter = METHODS["shap"](obstructed("lock"), BACKGROUND, backend="shap")
    with pytest.raises(ValueError, match=r"'held' of 'act'.*lock"):
        interpreter.attribute(FEATURES, 1)


def test_a_copy_that_calls_the_original_runs_it_in_evaluation_mode():
    model = network().train()
    model.last.forward = lambda x: functional.linear(model.drop(x), model.last.weight)
    first, second = (Scorer(model)(FEATURES) for _ in range(2))
    assert fast_copy(model) is not model
    assert torch.equal(first, second)
    assert model.drop.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", FITTING)
@pytest.mark.filterwarnings(f"ignore::{shap_module.__name__}.AdditivityWarning")
def test_networks_of_few_bits_are_copied_and_explained_as_they_are(method, dtype):
    # Rounded for both: what is compared is the network's arithmetic.
    features, background = FEATURES.to(dtype), BACKGROUND.to(dtype)
    settings = SETTINGS.get(method, {}) | weights_of(method)
    needs = "background" in settings
    coarse = settings | ({"background": background} if needs else {})
    exact = settings | ({"background": background.float()} if needs else {})
    found = METHODS[method](network().to(dtype), **coarse).attribute(features, 1)
    expected = METHODS[method](network(), **exact).attribute(features.float(), 1)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    copied = fast_copy(network().to(dtype))
    floating = [each for each in (*copied.parameters(), *copied.buffers()) if each.ndim]
    assert {each.dtype for each in floating} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_few_bits_are_scored_in_double_precision(dtype):
    found = Scorer(network().to(dtype))(FEATURES.to(dtype))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, Scorer(network())(FEATURES), rtol=0.02, atol=0.005)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torchscript_runs_as_it_is():
    plain = nn.Sequential(*list(network().children())[:3], nn.Flatten(), nn.Linear(720, 3)).eval()
    scripted = torch.jit.script(plain)
    assert fast_copy(scripted) is scripted
    found, expected = (
        METHODS["saliency"](each).attribute(FEATURES, 1) for each in (scripted, plain)
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(Scorer(scripted)(FEATURES), Scorer(plain)(FEATURES))
