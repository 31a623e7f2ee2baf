"""Guided backpropagation and guided Grad-CAM: captum, functions as layers, closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop, GuidedGradCam, LayerGradCam
from torch import nn

from audiointerp.interpretation import METHODS
from audiointerp.interpretation.guided import GuidedReLUs
from audiointerp.model import build_model

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
TARGET = torch.tensor([0, 2, 1])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Layers(nn.Module):
    """ReLUs as layers, each used once, as captum needs them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
            self.last = nn.Linear(8, 3)
            nn.init.uniform_(self.bn.running_mean, -0.2, 0.2)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = F.max_pool2d(self.relu1(self.bn(self.conv1(x))), 2)
        return self.last(self.relu2(self.conv2(x)).mean((2, 3)))


class Functions(Layers):
    """The same network with ReLUs as functions, and code that torch.fx cannot trace."""

    relu = staticmethod(F.relu)

    def __init__(self) -> None:
        super().__init__()
        del self.relu1, self.relu2

    def forward(self, x):
        if x.shape[1] != 1 or x.abs().max() > 1e6:
            raise ValueError("unusual input")
        x = F.max_pool2d(self.relu(self.bn(self.conv1(x))), 2)
        return self.last(self.relu(self.conv2(x)).mean((2, 3)))


RELUS = {
    "F.relu": F.relu,
    "by name": lambda x: F.relu(input=x),
    "in place": lambda x: F.relu(x, inplace=True),
    "in place by position": lambda x: F.relu(x, True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
}


@pytest.fixture
def cnn14():
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 64, "width": 1 / 8}
    model = build_model(settings, seed=0)
    cells = 10 * randn(3, 1, 64, 80, seed=1, dtype=torch.float32) - 40
    with torch.no_grad():
        model(cells)
    return model.eval(), cells


def test_captum_agrees_on_cnn14(cnn14):
    model, cells = cnn14
    expected = GuidedBackprop(model).attribute(cells.clone().requires_grad_(), target=TARGET)
    found = METHODS["guided_backprop"](model).attribute(cells, TARGET)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    plain = METHODS["saliency"](model).attribute(cells, TARGET)
    assert (found - plain).abs().max() > 0.1 * expected.abs().max()


def test_captum_agrees_on_guided_gradcam_of_cnn14(cnn14):
    model, cells = cnn14

    class Turned(nn.Module):
        """Takes (time, freq), as the model's planes lie, so that captum resizes them right."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.mT)

    turned = Turned()
    given = cells.mT.clone().requires_grad_()
    layer = model.base.conv_block2
    coarse = LayerGradCam(turned, layer).attribute(given, TARGET)
    coarse = F.interpolate(coarse.clamp(min=0), size=given.shape[2:], mode="bilinear")
    expected = (GuidedBackprop(turned).attribute(given, TARGET) * coarse).mT
    found = METHODS["guided_gradcam"](model, layer).attribute(cells, TARGET)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (found < 0).any()


@pytest.mark.parametrize("layer", ["conv1", "relu1"])
def test_captum_agrees_on_guided_gradcam_where_nothing_is_resized(layer):
    model, x = Layers().double().eval(), randn(3, 1, 8, 10)
    method = GuidedGradCam(model, model.get_submodule(layer))
    expected = method.attribute(x.clone().requires_grad_(), TARGET)
    found = METHODS["guided_gradcam"](model, layer).attribute(x, TARGET)
    torch.testing.assert_close(found, expected.detach())
    assert METHODS["guided_gradcam"](model, layer).settings()["target_layers"] == [layer]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("kind", RELUS)
def test_functions_are_changed_like_layers(kind, fold):
    model, x = Layers().double().eval(), randn(3, 1, 8, 10)
    expected = GuidedBackprop(model).attribute(x.clone().requires_grad_(), TARGET)
    functions = Functions().double().eval()
    functions.relu = RELUS[kind]
    found = METHODS["guided_backprop"](functions, fold_batch_norm=fold).attribute(x, TARGET)
    torch.testing.assert_close(found, expected.detach())


def test_by_hand():
    class Small(nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            hidden = F.relu(torch.stack([x[:, 0], x[:, 1], x[:, 2] - 9, x[:, 3]], 1))
            # Class 0: 2·h0 - 3·h1 + h2 - h3·0.
            return torch.stack([2 * hidden[:, 0] - 3 * hidden[:, 1] + hidden[:, 2], -hidden[:, 0]])

    class Transposed(Small):
        def forward(self, x):
            return super().forward(x).T

    x = torch.ones(1, 1, 2, 2)
    # h1 has a negative gradient, h2 a negative input, h3 no weight: only h0 is passed back.
    found = METHODS["guided_backprop"](Transposed()).attribute(x, 0)
    assert found.flatten().tolist() == [2, 0, 0, 0]
    assert METHODS["guided_backprop"](Transposed()).attribute(x, 1).flatten().tolist() == [0] * 4


@pytest.mark.parametrize("kind", RELUS)
def test_what_is_computed_stays_the_same_even_where_an_input_is_overwritten(kind):
    def branches(x):
        y = x * 2
        z = RELUS[kind](y)
        return y + 10 * z  # of a ReLU in place, y is z

    x = randn(40).requires_grad_()
    expected = branches(x)
    with GuidedReLUs() as relus:
        found = branches(x)
    assert torch.equal(found, expected)
    assert relus.count == 1
    (gradient,) = torch.autograd.grad(found.sum(), x)
    (plain,) = torch.autograd.grad(expected.sum(), x)
    assert torch.equal(gradient, plain)  # all gradients are positive here
    (down,) = torch.autograd.grad(-branches(x).sum(), x)
    assert (down < 0).any()


def test_a_network_without_relus_is_refused():
    class Smooth(nn.Module):
        def forward(self, x):
            return F.gelu(x).flatten(1)

    with pytest.raises(ValueError, match=r"Smooth calls no ReLU.*plain saliency"):
        METHODS["guided_backprop"](Smooth()).attribute(randn(1, 1, 2, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    model = nn.Sequential(
        nn.ReLU(), torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.ones(1, 1, 2, 2))
    )
    with pytest.raises(ValueError, match="the layer '1' is TorchScript"):
        METHODS["guided_backprop"](model).attribute(torch.ones(1, 1, 2, 2))


def test_sigmoid_labels_and_waveforms_are_explained():
    from test_waveform import Convolutions, sounds, wrap

    classifier = wrap(Convolutions(), head="sigmoid")
    view = classifier.front_end.analyse(sounds(2))
    found = METHODS["guided_backprop"](classifier).attribute(view, 1)
    # Through captum: the network on the sound of changed cells.
    cells = view.cells.clone().requires_grad_()

    class OnCells(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = classifier.network.eval()

        def forward(self, cells):
            return self.network(classifier.front_end.network_input(view, cells))

    expected = GuidedBackprop(OnCells()).attribute(cells, target=1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-6)
