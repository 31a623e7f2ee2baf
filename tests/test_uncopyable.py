"""Networks that cannot be copied run as they are, give the same numbers and stay as they were."""

import logging
import threading
import warnings

import pytest
import torch
from torch import nn

from audiointerp.interpretation import METHODS
from audiointerp.model import classifier
from audiointerp.predict import Predict
from audiointerp.processing import LogSTFTSpectrogram
from audiointerp.runs.recipe import build_interpreter
from audiointerp.speed.inference import fast_copy
from audiointerp.speed.scoring import Scorer

RATE = 8000


class Network(nn.Module):
    """A small CNN with everything that has two modes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.flat = nn.Flatten()
        self.out = nn.Linear(24, 3)

    @property
    def target_layer(self) -> nn.Module:
        return self.relu

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x / 20)))
        return self.out(self.dropout(self.flat(self.pool(x))))


class KeepsActivations(Network):
    """Stores what it has computed, which is no leaf of a graph."""

    def forward(self, x):
        self.kept = self.conv.weight * 2
        return super().forward(x)


class HasLock(Network):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class HasGenerator(Network):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = (number for number in range(3))


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = Network()
        nn.utils.weight_norm(network.conv)
    network.conv(torch.zeros(1, 1, 4, 4))  # makes the weight anew, no leaf
    return network


def keeps_activations():
    network = KeepsActivations()
    network.train()(torch.zeros(2, 1, 8, 8))
    return network


MAKERS = {
    "stored activations": keeps_activations,
    "old weight norm": old_weight_norm,
    "lock": HasLock,
    "generator": HasGenerator,
}


@pytest.fixture(params=MAKERS)
def pair(request):
    """Return a network that cannot be copied and one of the same values that can."""
    torch.manual_seed(0)
    awkward = MAKERS[request.param]()
    with torch.no_grad():
        awkward.norm.running_mean.uniform_(-0.2, 0.2)
        awkward.norm.running_var.uniform_(0.5, 2)
        awkward.out.weight.mul_(4)
        plain = Network()
        weights = {
            name: value
            for name, value in awkward.state_dict().items()
            if not name.startswith("conv.weight")
        }
        plain.load_state_dict(weights | {"conv.weight": awkward.conv.weight.detach().clone()})
    return awkward.train(), plain.eval()


@pytest.fixture
def cells():
    generator = torch.Generator().manual_seed(1)
    return 20 * torch.rand(3, 1, 12, 16, generator=generator) - 60


def test_it_runs_itself_and_says_so_once(pair, caplog):
    awkward, plain = pair
    with caplog.at_level(logging.WARNING):
        assert fast_copy(awkward) is awkward
        assert fast_copy(awkward) is awkward
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be copied" in caplog.text
    assert fast_copy(plain) is not plain


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torchscript_runs_as_it_is(cells):
    torch.manual_seed(0)
    network = Network().eval()
    scripted = torch.jit.script(nn.Sequential(*network.children()))
    assert fast_copy(scripted) is scripted
    found = build_interpreter("saliency", scripted, LogSTFTSpectrogram(sample_rate=RATE))
    plain = build_interpreter(
        "saliency", nn.Sequential(*network.children()), LogSTFTSpectrogram(sample_rate=RATE)
    )
    torch.testing.assert_close(found.attribute(cells, 1), plain.attribute(cells, 1))
    torch.testing.assert_close(Scorer(scripted)(cells), Scorer(plain.model)(cells))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_maps_and_leaves_it_as_it_was(method, pair, cells):
    maps = []
    for network in pair:
        modes = [module.training for module in network.modules()]
        frozen = [parameter.requires_grad for parameter in network.parameters()]
        options = {"num_samples": 40} if method == "lime" else {}
        interpreter = build_interpreter(
            method,
            network,
            LogSTFTSpectrogram(sample_rate=RATE),
            background=cells.flip(3) - 5,
            **options,
        )
        first = interpreter.attribute(cells, 1)
        assert torch.allclose(interpreter.attribute(cells, 1), first)
        maps.append(first)
        assert modes == [module.training for module in network.modules()]
        assert frozen == [parameter.requires_grad for parameter in network.parameters()]
        assert not any("forward" in vars(module) for module in network.modules())
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_evaluation_mode(pair, cells):
    awkward, plain = pair
    torch.testing.assert_close(Scorer(awkward)(cells), Scorer(plain)(cells), rtol=0, atol=1e-6)
    assert awkward.training


def test_a_clip_is_interpreted_end_to_end(pair):
    front_end = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    sound = torch.sin(torch.arange(RATE) * 0.3) * torch.linspace(0, 1, RATE)
    results = []
    for network in pair:
        model = classifier(network, front_end=front_end, classes=["a", "b", "c"], duration=1.0)
        predict = Predict(model, build_interpreter("saliency", model))
        results.append(predict.predict(sound, RATE))
    first, second = (result.metrics.drop(columns="COMP") for result in results)
    assert (first - second).abs().to_numpy().max() < 0.1
