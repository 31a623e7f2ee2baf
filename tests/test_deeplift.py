"""DeepLIFT against captum, SHAP with one background clip, and its own sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift
from networks import Network, sounds, wrap
from test_waveform import Convolutions
from test_waveform import sounds as waveforms
from test_waveform import wrap as wrap_waveform
from torch import nn

from audiointerp.interpretation import METHODS, SHAPInterpreter, UnsupportedLayerError
from audiointerp.model import MODELS, build_model
from audiointerp.processing import FrontEnd
from audiointerp.runs.recipe import build_interpreter

TARGET = torch.tensor([0, 2, 1])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(activation=nn.ReLU) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                activation(),
                nn.AvgPool2d(2),
                nn.Conv2d(4, 4, 3),
                activation(),
                nn.Flatten(),
                nn.Linear(4 * 2 * 3, 5),
                activation(),
                nn.Linear(5, 3),
            )
            .double()
            .eval()
        )


def minimum(cells: torch.Tensor) -> torch.Tensor:
    return cells.amin((1, 2, 3), keepdim=True)


class Mean(nn.Module):
    """In place of a maximum over time, whose rule captum does not have."""

    def forward(self, x):
        return x.mean(-1)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("base", [-70.0, minimum])
def test_captum_agrees_on_cnn14(base):
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 64, "width": 1 / 8}
    model = build_model(settings, seed=0)
    cells = 10 * randn(3, 1, 64, 80, seed=1, dtype=torch.float32) - 40
    cells *= torch.tensor([0.8, 1, 1.2])[:, None, None, None]
    model.base.max_over_time = Mean()
    with torch.no_grad():
        model(cells)
    model.eval()
    reference = (base(cells) if callable(base) else torch.tensor(base)).expand(cells.shape)
    expected = DeepLift(model).attribute(
        cells.clone().requires_grad_(), reference.clone(), target=TARGET
    )
    found = METHODS["deeplift"](model, base=base).attribute(cells, TARGET)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU, nn.Softplus])
def test_captum_agrees_on_references_of_each_clip(activation):
    model, x = small(activation), randn(3, 1, 8, 10)
    expected = DeepLift(model).attribute(
        x.clone().requires_grad_(), minimum(x).expand(x.shape).clone(), TARGET
    )
    explanation = METHODS["deeplift"](model, base=minimum).explain(x, TARGET)
    torch.testing.assert_close(explanation.attribution, expected.detach())
    assert (explanation.diagnostics["residual"] < 1e-9).all()


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_shap_with_the_reference_as_its_background_is_the_same(batch_size):
    model, x = small(), randn(5, 1, 8, 10)
    found = METHODS["deeplift"](model, base=minimum, batch_size=batch_size).attribute(x, 1)
    for clip in range(5):
        background = minimum(x)[clip : clip + 1].expand(1, 1, 8, 10)
        expected = SHAPInterpreter(model, background).attribute(x[clip : clip + 1], 1)
        torch.testing.assert_close(found[clip : clip + 1], expected)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_adds_up(name):
    shape = {"name": name, "num_classes": 4, "num_bins": 64}
    model = build_model(shape | ({"width": 0.125} if name == "Cnn14" else {}), seed=0)
    cells = 10 * randn(2, 1, 64, 64, dtype=torch.float32) - 40
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model(cells)
    explanation = METHODS["deeplift"](model.eval(), base=-60.0).explain(cells)
    assert explanation.diagnostics["residual"].max() < 0.01


def test_a_clip_that_is_its_own_reference_gets_zero():
    x = torch.full((2, 1, 8, 10), -3.0, dtype=torch.float64)
    explanation = METHODS["deeplift"](small(), base=-3.0).explain(x)
    assert (explanation.attribution == 0).all()


def test_frames_in_the_batch_axis_are_compared_with_their_own():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x):
            frames = x.squeeze(1).transpose(1, 2).reshape(-1, 8)
            return self.last(F.relu(self.first(frames))).reshape(x.shape[0], -1, 3).mean(1)

    x = randn(3, 1, 8, 10)
    model = Frames().double()
    found = METHODS["deeplift"](model, base=minimum).explain(x, TARGET)
    assert (found.diagnostics["residual"] < 1e-9).all()
    alone = METHODS["deeplift"](model, base=minimum).attribute(x[1:2], TARGET[1:2])
    torch.testing.assert_close(found.attribution[1:2], alone)


@pytest.mark.parametrize("base", ["floor", "minimum", "quiet"])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_the_sum_is_the_change_of_the_logit_from_the_base(base, head):
    classifier = wrap(Network(), head=head)
    view = classifier.front_end.analyse(sounds())
    method = build_interpreter("deeplift", classifier, base=base)
    explanation = method.explain(view, 1)
    with torch.no_grad():
        there = classifier.logits(method.base(view.cells).expand_as(view.cells))[:, 1]
        change = classifier.logits(view.cells)[:, 1] - there
    torch.testing.assert_close(explanation.attribution.sum((1, 2, 3)), change, rtol=1e-3, atol=1e-4)


def test_the_sum_of_a_waveform_network_is_the_change_from_the_sound_of_the_base():
    classifier = wrap_waveform(Convolutions().double())
    view = classifier.front_end.analyse(waveforms(2, dtype=torch.float64))
    explanation = METHODS["deeplift"](classifier, base=-40.0).explain(view, 1)
    network = classifier.network.eval()
    with torch.no_grad():
        quiet = classifier.front_end.synthesise(view, torch.full_like(view.cells, -40.0))
        change = network(view.waveform[:, 0])[:, 1] - network(quiet[:, 0])[:, 1]
    torch.testing.assert_close(explanation.attribution.sum((1, 2, 3)), change)
    assert (explanation.diagnostics["residual"] < 1e-9).all()


def test_what_it_has_no_rule_for_is_named():
    class Softmax(nn.Module):
        def forward(self, x):
            return x.softmax(3).flatten(1)

    with pytest.raises(UnsupportedLayerError, match=r"DeepLIFT.*no rule for softmax"):
        METHODS["deeplift"](Softmax()).attribute(randn(1, 1, 2, 3))


@pytest.mark.parametrize("name", ["deeplift", "fullgrad"])
def test_a_front_end_that_cannot_spread_contributions_is_refused(name):
    from test_new_parts import Blocks

    class FedBlocks(Blocks):
        feeds_waveform = True

        def network_input(self, view, cells):
            return self.synthesise(view, cells)[:, 0]

    assert FedBlocks.contributions is FrontEnd.contributions
    classifier = wrap_waveform(Convolutions(), front_end=FedBlocks())
    view = classifier.front_end.analyse(waveforms(2))
    with pytest.raises(ValueError, match=f"FedBlocks feeds a waveform.*{name}.*`contributions`"):
        METHODS[name](classifier).attribute(view)
