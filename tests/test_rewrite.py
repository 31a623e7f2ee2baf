"""SHAP of networks as users write them: functions, reused layers, operations without a rule."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from audiointerp.interpretation import AdditivityError, SHAPInterpreter, UnsupportedLayerError
from audiointerp.interpretation.rewrite import MaxOver, rewrite
from audiointerp.model import build_model
from audiointerp.speed.inference import fast_copy


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residual(model, size=(9, 11)):
    """Return the largest residual of SHAP values of two clips."""
    features, background = 3 * randn(2, 1, *size), 3 * randn(3, 1, *size, seed=1)
    return SHAPInterpreter(model, background).explain(features, 0).diagnostics["residual"].max()


class Functional(nn.Module):
    """A convolution, a function, a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.LazyLinear(3)

    def forward(self, x):
        return self.last(self.function(self.conv(x)).flatten(1))


def made(network, size=(9, 11)):
    torch.manual_seed(0)
    network = network().double()
    network(randn(1, 1, *size))
    return network.eval()


ACTIVATIONS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.gelu": lambda x: F.gelu(x, approximate="tanh"),
    "torch.sigmoid": torch.sigmoid,
    "x.tanh": lambda x: x.tanh(),
    "F.softplus": F.softplus,
    "F.elu": lambda x: F.elu(x, alpha=0.5),
    "F.silu": F.silu,
    "F.hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "F.relu6": F.relu6,
    "clamp": lambda x: x.clamp(min=0.1, max=2),
    "torch.clamp": lambda x: torch.clamp(x, -1, 1),
    "abs": torch.abs,
    "power": lambda x: x**2,
    "log of power": lambda x: torch.log1p(x**2),
    "square root": lambda x: (x**2 + 0.1).sqrt(),
    "arithmetic": lambda x: (1 - F.relu(x) / 3) * 2 + F.relu(-x).mean(1, keepdim=True),
    "branches": lambda x: torch.cat([F.relu(x), torch.sigmoid(x)], 1)[:, 1:6],
}
MAXIMA = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 2),
    "F.max_pool2d stride": lambda x: F.max_pool2d(x, kernel_size=3, stride=2, padding=1),
    "F.adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (2, 3)),
    "F.max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3),
    "amax over time": lambda x: x.amax(-1),
    "amax over frequency": lambda x: torch.amax(x, dim=2, keepdim=True),
    "amax over both": lambda x: x.amax((2, 3)),
    "torch.max": lambda x: torch.max(x, dim=3)[0],
    "x.max.values": lambda x: x.max(2, keepdim=True).values,
    "PANNs": lambda x: torch.max(x.mean(3), dim=2)[0] + torch.mean(x.mean(3), dim=2),
}


@pytest.mark.parametrize("function", [*ACTIVATIONS, *MAXIMA])
def test_functions_add_up(function):
    network = made(lambda: Functional((ACTIVATIONS | MAXIMA)[function]))
    assert residual(network) < 1e-6


@pytest.mark.parametrize("function", [*ACTIVATIONS, *MAXIMA])
def test_the_rewritten_network_computes_the_same(function):
    network = made(lambda: Functional((ACTIVATIONS | MAXIMA)[function]))
    x = randn(2, 1, 9, 11, seed=2)
    rewritten = rewrite(network)
    assert not rewritten.unseen
    torch.testing.assert_close(rewritten.network(x), network(x))
    assert [name for name, _ in network.named_modules()] == ["", "conv", "last"]


class Reused(nn.Module):
    """One ReLU, one function and one batch norm in several places."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.convs = nn.ModuleList(nn.Conv2d(1 if n == 0 else 3, 3, 3, padding=1) for n in range(9))
        self.norm, self.last = nn.BatchNorm2d(3), nn.LazyLinear(2)

    def forward(self, x):
        for number, step in enumerate(self.steps):
            y = self.convs[number](x)
            if step == "layer":
                x = self.relu(self.norm(y))
            elif step == "function":
                x = F.relu(y)
            elif step == "residual":
                x = torch.tanh(y) + y
            elif step == "pool":
                x = self.pool(y)
            else:
                x = F.max_pool2d(torch.sigmoid(y), 2)
        return self.last(x.flatten(1))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(["layer", "function", "residual", "pool", "both"]), min_size=1, max_size=4
    ).filter(lambda steps: sum(step in ("pool", "both") for step in steps) < 3)
)
def test_any_mixture_of_layers_and_functions_adds_up(steps):
    network = made(lambda: Reused(steps), size=(12, 12))
    assert residual(network, size=(12, 12)) < 1e-4


def test_a_part_that_cannot_be_traced_does_not_hide_the_others():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Functional(F.relu)

        def forward(self, x):
            if x.shape[1] != 1 or x.abs().max() > 1e6:
                raise ValueError("unusual input")
            return self.inner(x)

    network = made(Picky)
    assert residual(network) < 1e-9
    assert rewrite(network).unseen[0].startswith("Picky (")
    assert isinstance(network.inner, Functional)  # the user's network stays as it was


def test_a_function_where_nothing_can_be_traced_is_refused_and_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.LazyLinear(3)

        def forward(self, x):
            y = self.conv(x)
            y = F.relu(y) if float(y.detach().sum()) < 1e9 else y
            return self.last(y.flatten(1))

    with pytest.raises(AdditivityError, match=r"could not be looked into are Hidden \("):
        residual(made(Hidden))


class Gate(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.GRU(11, 4, batch_first=True)

    def forward(self, x):
        return self.mix(x.mean(1))[0]


REFUSED = {
    "gate": (Gate, "the product of two activations in 0: Gate"),
    "square": (lambda: Functional(lambda x: x * x), "the product of two activations in 0: Func"),
    "softmax": (lambda: nn.Softmax(3), r"the layer '0' \(Softmax\)"),
    "F.softmax": (lambda: Functional(lambda x: F.softmax(x, 1)), r"softmax\(\) in 0: Functional"),
    "layer norm": (lambda: nn.LayerNorm(11), r"the layer '0' \(LayerNorm\)"),
    "group norm": (lambda: nn.GroupNorm(1, 1), r"the layer '0' \(GroupNorm\)"),
    "recurrent": (Recurrent, r"the layer '0.mix' \(GRU\)"),
    "batch statistics": (
        lambda: nn.BatchNorm2d(1, track_running_stats=False),
        "BatchNorm2d '0', which normalises by the batch itself",
    ),
    "division": (lambda: Functional(lambda x: 1 / (x**2 + 1)), r"truediv\(\) in 0: Functional"),
    "maximum of two": (
        lambda: Functional(lambda x: torch.maximum(x, -x)),
        r"maximum\(\) in 0: Functional",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_operations_without_a_rule_are_refused_by_name(case):
    make, message = REFUSED[case]
    network = made(lambda: nn.Sequential(make(), nn.Flatten(), nn.LazyLinear(3)))
    background = randn(2, 1, 9, 11)
    with pytest.raises(UnsupportedLayerError, match=message):
        SHAPInterpreter(network, background).attribute(randn(1, 1, 9, 11, seed=1), 0)


def test_all_of_them_are_named_at_once():
    network = nn.Sequential(Gate(), nn.LayerNorm(11), nn.Flatten()).double().eval()
    with pytest.raises(UnsupportedLayerError, match=r"Gate.*; the layer '1' \(LayerNorm\)"):
        rewrite(network)


@pytest.mark.parametrize("axes", [(1,), (-1,), (2, 3), (1, 3), (1, 2, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_maximum_over_axes_is_torchs(axes, keepdim):
    x = randn(2, 3, 4, 5)
    assert torch.equal(MaxOver(axes, keepdim)(x), x.amax(axes, keepdim=keepdim))


@pytest.mark.parametrize("name", ["Cnn14", "ResNet22", "MobileNetV1", "MobileNetV2"])
def test_networks_of_this_package_are_taken_as_they_are(name):
    settings = {"name": name, "num_classes": 3, "num_bins": 64}
    network = build_model(settings | ({"width": 1 / 16} if name == "Cnn14" else {})).eval()
    copied = fast_copy(network)
    assert rewrite(copied).network is copied


class OneChannel(nn.Module):
    """A torchvision network on spectrograms."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1"])
def test_torchvision_networks_add_up(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = OneChannel(getattr(models, name)(num_classes=4)).eval().double()
    assert residual(network, size=(64, 96)) < 1e-4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v3_small", "the product of two activations in .*SqueezeExcitation"),
        ("efficientnet_b0", "the product of two activations in .*SqueezeExcitation"),
    ],
)
def test_torchvision_networks_with_gates_are_refused(name, message):
    models = pytest.importorskip("torchvision.models")
    network = OneChannel(getattr(models, name)(num_classes=4)).eval()
    with pytest.raises(UnsupportedLayerError, match=message):
        rewrite(network)


def test_a_transformer_is_refused():
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoder(layer, 1), nn.Flatten()).eval()
    with pytest.raises(UnsupportedLayerError, match="LayerNorm"):
        rewrite(network)


class Frames(nn.Module):
    """Scores the frames of a clip on their own, as rows of the batch, and averages them."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.first, self.relu, self.last = nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        frames = x.squeeze(1).transpose(1, 2)  # (batch, frames, bins)
        if self.order == "frames first":
            frames = frames.transpose(0, 1)
        scores = self.last(torch.tanh(self.relu(self.first(frames.reshape(-1, 9)))))
        scores = scores.reshape(frames.shape[0], frames.shape[1], 3)
        return scores.mean(0 if self.order == "frames first" else 1)


def test_frames_in_the_batch_axis_add_up():
    assert residual(made(lambda: Frames("clips first"))) < 1e-9


def test_frames_of_several_clips_mixed_in_the_batch_axis_are_refused():
    with pytest.raises(AdditivityError, match="rows must stay together"):
        residual(made(lambda: Frames("frames first")))


def test_tracing_leaves_nothing_in_the_network():
    class Stores(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.seen = nn.Linear(99, 3), None

        def forward(self, x):
            y = F.relu(x).flatten(1)
            if self.seen is None:
                self.seen = [y]
            return self.last(y)

    network = Stores().double().eval()
    rewrite(network)
    assert network.seen is None


class ReluInPlace(nn.Module):
    """A layer in place whose input is read again."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.last = (
            nn.Conv2d(1, 4, 3),
            nn.ReLU(inplace=True),
            nn.LazyLinear(3),
        )

    def forward(self, x):
        y = self.conv(x)
        return self.last((self.relu(y) + y).flatten(1))


def first_channels(x):
    x[:, :2].relu_()
    return x


def through_a_view(x):
    return F.relu_(x.flatten(1)) + x.flatten(1)


def as_a_statement(x):
    x.clamp_(min=0)
    return x


OVERWRITING = {
    "layer": (ReluInPlace, r"the layer 'relu' \(ReLU\), which overwrites"),
    "function": (
        lambda: Functional(lambda x: F.relu(x, inplace=True) + x),
        r"relu\(\) in Functional.*overwrites a tensor that is read again",
    ),
    "method": (lambda: Functional(lambda x: x.relu_() + x), r"relu_\(\) in Functional.*overwrites"),
    "part": (lambda: Functional(first_channels), r"relu_\(\) in Functional.*overwrites"),
    "view": (lambda: Functional(through_a_view), r"relu_\(\) in Functional.*overwrites"),
    "statement": (lambda: Functional(as_a_statement), r"clamp_\(\) in Functional.*overwrites"),
}


@pytest.mark.parametrize("case", OVERWRITING)
def test_an_operation_that_overwrites_what_is_read_again_is_refused(case):
    make, message = OVERWRITING[case]
    with pytest.raises(UnsupportedLayerError, match=message):
        residual(made(make))


IN_PLACE = {
    "last reader": lambda x: x.relu_() * 2,
    "through a view": lambda x: x.flatten(1).relu_(),
    "after another": lambda x: F.relu(x.sigmoid_().sub(0.6), inplace=True),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_an_operation_in_place_that_reads_last_explains_the_networks_own_logits(case):
    network = made(lambda: Functional(IN_PLACE[case]))
    features, background = 3 * randn(2, 1, 9, 11), 3 * randn(3, 1, 9, 11, seed=1)
    values = SHAPInterpreter(network, background).attribute(features.clone(), 0)
    with torch.no_grad():
        change = network(features)[:, 0] - network(background)[:, 0].mean()
    torch.testing.assert_close(values.sum((1, 2, 3)), change)


def test_an_untraceable_network_that_overwrites_what_it_reads_again_is_refused():
    class Hidden(ReluInPlace):
        def forward(self, x):
            if float(x.detach().sum()) > 1e9:
                return x
            return super().forward(x)

    with pytest.raises(AdditivityError, match="as the network does: does it overwrite"):
        residual(made(Hidden))


def test_constants_of_a_traced_network_stay():
    network = made(lambda: Functional(lambda x: F.relu(x * torch.tensor([2.0]).double()) + 1))
    assert residual(network) < 1e-9
    assert not [name for name in vars(network) if "constant" in name]


def test_an_addition_in_place_that_tracing_misses_is_refused():
    def add_to_a_part(x):
        part = x[:, :2]
        part += 1
        return F.relu(x)

    with pytest.raises(AdditivityError, match="as the network does: does it overwrite"):
        residual(made(lambda: Functional(add_to_a_part)))


def test_an_activation_that_is_overwritten_before_its_rule_needs_it_is_refused():
    def overwrite(x):
        top = F.max_pool2d(x, 3, 1, 1)
        return x.mul_(2) + top

    with pytest.raises(UnsupportedLayerError, match="overwrites an activation in place"):
        residual(made(lambda: Functional(overwrite)))
