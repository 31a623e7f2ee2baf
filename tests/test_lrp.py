"""LRP against rules written by hand, zennit, captum and what each rule conserves."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import zennit.composites as zc
import zennit.rules as zr
from captum import attr as captum
from networks import sounds as clips_of_noise
from networks import wrap as wrap_cells
from test_waveform import Convolutions, Linear, sounds, wrap
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.core import Stabilizer
from zennit.types import Activation as ZennitActivation
from zennit.types import AvgPool, BatchNorm, Convolution
from zennit.types import Linear as AnyLinear

import audiointerp as ai
from audiointerp.dataset import load_audio
from audiointerp.interpretation import (
    METHODS,
    AttnLRPInterpreter,
    EpsilonLRPInterpreter,
    FlatLRPInterpreter,
    GammaLRPInterpreter,
    LRPInterpreter,
    SHAPInterpreter,
    UnsupportedLayerError,
    WSquareLRPInterpreter,
    ZPlusLRPInterpreter,
)
from audiointerp.interpretation.relevance import Composite, Epsilon, Flat, Gamma, WSquare, ZPlus
from audiointerp.model import build_model
from audiointerp.model.layers import MaxOverTime
from audiointerp.model.resnet import ResidualBlock

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("lrp", "lrp_epsilon", "lrp_gamma", "lrp_zplus", "lrp_wsquare", "lrp_flat", "attnlrp")
EXACT = tuple(name for name in VARIANTS if METHODS[name].facts.sums_to)
WITH_BASE = tuple(name for name in VARIANTS if "base" in METHODS[name].requires)
PLAIN = Epsilon(1e-12)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().double()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.5, 0.5)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                nn.init.uniform_(layer.weight, -1.5, 1.5)  # of both signs
                nn.init.uniform_(layer.bias, -0.5, 0.5)
    return model.eval()


def one(name: str, model: nn.Module, base: float = 0.0, **options) -> object:
    return METHODS[name](model, **({"base": base} if name in WITH_BASE else {}), **options)


# --- one layer, by hand -------------------------------------------------------------------------


def by_hand(rule: object, weight, bias, x, reference, relevance):
    """One dense layer of one clip, input by input: R_i of R_j; weight (out, in)."""
    change = x - reference
    own = bias + weight @ reference
    found = torch.zeros_like(x)
    for j in range(len(weight)):
        terms = [(weight[j, i] * change[i]).item() for i in range(len(x))]
        b = own[j].item()
        if isinstance(rule, Epsilon):
            z = sum(terms) + b
            shares = [term / (z + math.copysign(rule.epsilon, z)) for term in terms]
        elif isinstance(rule, Gamma):
            z = sum(terms) + b
            grown = [t * (1 + rule.gamma) if t * z > 0 else t for t in terms]
            b = b * (1 + rule.gamma) if b * z > 0 else b
            total = sum(grown) + b
            size = sum(abs(t) for t in grown)
            spread = [b * abs(t) / size if rule.conserves else 0.0 for t in grown]
            shares = [(t + s) / total for t, s in zip(grown, spread, strict=True)]
        elif isinstance(rule, ZPlus):
            positive = [max(0.0, term) for term in terms]
            if sum(positive) == 0:
                positive = [1.0] * len(x)
            shares = [term / sum(positive) for term in positive]
        elif isinstance(rule, WSquare):
            squares = weight[j].square()
            shares = (squares / squares.sum()).tolist()
        else:
            shares = [1 / len(x)] * len(x)
        for i, share in enumerate(shares):
            found[i] += share * relevance[j]
    return found


RULES = [
    Epsilon(),
    Epsilon(0.3),
    Gamma(),
    Gamma(2.0),
    Gamma(0),
    Gamma(0, conserves=True),
    Gamma(0.5, conserves=True),
    ZPlus(),
    WSquare(),
    Flat(),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("base", [0.0, -1.5])
def test_one_layer_by_hand(rule, base):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    x = randn(2, 1, 3, 4, seed=1)
    found = LRPInterpreter(model, base=base, composite=Composite(rule, rule, rule)).attribute(x, 2)
    for clip, attribution in zip(x, found, strict=True):
        flat = clip.flatten()
        weight, bias = model[1].weight.detach()[2:], model[1].bias.detach()[2:]
        logit = weight @ flat + bias
        expected = by_hand(rule, weight, bias, flat, torch.full_like(flat, base), logit)
        torch.testing.assert_close(attribution.flatten(), expected)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_two_layers_by_hand(rule):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    x, base = randn(1, 1, 2, 3, seed=1), -0.7
    found = LRPInterpreter(model, base=base, composite=Composite(rule, rule)).attribute(x, 1)
    first, second = ([layer.weight.detach(), layer.bias.detach()] for layer in (model[1], model[3]))
    flat = x.flatten()
    hidden = (first[0] @ flat + first[1]).clamp(min=0)
    logit = second[0][1:] @ hidden + second[1][1:]
    between = by_hand(rule, second[0][1:], second[1][1:], hidden, torch.zeros(5).double(), logit)
    expected = by_hand(rule, *first, flat, torch.full_like(flat, base), between)
    torch.testing.assert_close(found.flatten(), expected)


@pytest.mark.parametrize("name", ["lrp_epsilon", "attnlrp"])
def test_of_a_linear_network_the_map_is_weight_times_distance_from_the_base(name):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    x = randn(2, 1, 3, 4)
    explanation = one(name, model, -2.0, epsilon=1e-12).explain(x, 1)
    weight = model[1].weight.detach()[1].reshape(1, 1, 3, 4)
    torch.testing.assert_close(explanation.attribution, weight * (x + 2))
    logit = model(x).detach()[:, 1]
    at_base = model(torch.full_like(x, -2)).detach()[:, 1]
    torch.testing.assert_close(explanation.diagnostics["absorbed"], at_base / logit)


# --- zennit and captum --------------------------------------------------------------------------


class Net(nn.Module):
    """Layers in the order in which they run, as zennit's canonizer expects."""

    def __init__(self, pad=1, inplace=False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=pad)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU(inplace)
        self.pool2 = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(8 * 2 * 4, 10)
        self.relu3 = nn.ReLU(inplace)
        self.fc2 = nn.Linear(10, 3)

    def forward(self, x):
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        return self.fc2(self.relu3(self.fc1(self.flatten(x))))


EXACTLY = Stabilizer(1e-300, clip=True)


def folded(model: Net) -> Net:
    """The network without batch norm, by torch's own function."""
    model = copy.deepcopy(model)
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        fused = fuse_conv_bn_eval(getattr(model, conv), getattr(model, norm))
        setattr(model, conv, fused)
        setattr(model, norm, nn.Identity())
    return model


def zennit_map(model, x, target, convolution, dense, first=None):
    """zennit's own composite on the model, clip by clip."""
    layers = [
        (ZennitActivation, zr.Pass()),
        (AvgPool, zr.Norm(stabilizer=EXACTLY)),
        (BatchNorm, zr.Pass()),
        (Convolution, convolution),
        (nn.Linear, dense),
    ]
    canonizers = [SequentialMergeBatchNorm()]
    if first is None:
        composite = zc.LayerMapComposite(layers, canonizers=canonizers)
    else:
        composite = zc.SpecialFirstLayerMapComposite(
            layers, [(AnyLinear, first)], canonizers=canonizers
        )
    maps = []
    with Gradient(model, composite) as attributor:
        for clip in x:
            logits = model(clip[None])
            one_hot = torch.zeros_like(logits)
            one_hot[:, target] = logits[:, target].detach()
            maps.append(attributor(clip[None].clone().requires_grad_(), one_hot)[1].detach())
    return torch.cat(maps)


EPSILON = 1e-9
"""That of the package; zennit's own is 1e-6."""
no_bias = {"zero_params": "bias", "stabilizer": EXACTLY}
ZENNIT = {
    "lrp_epsilon": (zr.Epsilon(epsilon=EPSILON), zr.Epsilon(epsilon=EPSILON), None),
    "lrp_gamma": (zr.Gamma(stabilizer=EXACTLY), zr.Epsilon(epsilon=EPSILON), None),
    "flat": (zr.ZPlus(**no_bias), zr.Epsilon(epsilon=EPSILON), zr.Flat(stabilizer=EXACTLY)),
    "wsquare": (zr.ZPlus(**no_bias), zr.Epsilon(epsilon=EPSILON), zr.WSquare(**no_bias)),
    "zplus": (zr.ZPlus(**no_bias), zr.ZPlus(**no_bias), None),
}
OURS = {
    "flat": Composite(Epsilon(), ZPlus(), Flat()),
    "wsquare": Composite(Epsilon(), ZPlus(), WSquare()),
    "zplus": Composite(ZPlus(), ZPlus()),
}


def ours(name, model, base=0.0, **options):
    if name in OURS:
        return LRPInterpreter(model, base=base, composite=OURS[name], **options)
    return one(name, model, base, **options)


@pytest.mark.parametrize("name", ZENNIT)
@pytest.mark.parametrize("fold", [True, False])
def test_zennit_gives_the_same_maps(name, fold):
    model = seeded(Net)
    x = 2 * randn(3, 1, 8, 16, seed=1)
    expected = zennit_map(folded(model), x, 1, *ZENNIT[name])
    found = ours(name, model, fold_batch_norm=fold).attribute(x, 1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert expected.abs().max() > 1e-3
    # zennit's canonizer leaves batch norms that divide by sqrt(1 + eps), not by 1.
    canonized = zennit_map(model, x, 1, *ZENNIT[name])
    assert (found - canonized).abs().max() < 1e-4 * canonized.abs().max()


@pytest.mark.parametrize("name", ["lrp_epsilon", "lrp_gamma", "zplus"])
def test_a_base_is_a_shift_that_the_first_bias_takes_up(name):
    """zennit, on X - base and a first layer whose bias has been moved by what the base puts out."""
    base = -3.0
    model, moved = seeded(lambda: Net(pad=0)), seeded(lambda: Net(pad=0))
    with torch.no_grad():
        moved.conv1.bias += base * moved.conv1.weight.sum((1, 2, 3))
    x = 2 * randn(2, 1, 10, 18, seed=1)
    torch.testing.assert_close(moved(x - base), model(x))
    with torch.no_grad():
        moved = folded(moved)
    expected = zennit_map(moved, x - base, 2, *ZENNIT[name])
    found = ours(name, model, base).attribute(x, 2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_captum_gives_the_same_epsilon_maps():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.relu1, self.pool = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)
            self.conv2, self.relu2 = nn.Conv2d(4, 5, 3), nn.ReLU()
            self.linear = nn.Linear(5 * 2 * 4, 3)

        def forward(self, x):
            x = self.pool(self.relu1(self.conv1(x)))
            return self.linear(self.relu2(self.conv2(x)).flatten(1))

    model = seeded(Plain)
    x = randn(2, 1, 10, 14)
    expected = captum.LRP(model).attribute(x.clone().requires_grad_(), target=2).detach()
    found = EpsilonLRPInterpreter(model, base=0.0, epsilon=1e-9).attribute(x, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


# --- batch norm ---------------------------------------------------------------------------------


class Leading(nn.Module):
    """A batch norm over bins before the first convolution, as PANNs have."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(9)
        self.conv = nn.Conv2d(1, 4, (5, 9), padding=(2, 0))
        self.relu, self.linear = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.bn0(x.squeeze(1).unsqueeze(2)).squeeze(2).transpose(1, 2).unsqueeze(1)
        return self.linear(self.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("fold", [True, False])
def test_a_leading_batch_norm_is_counted_into_the_first_layer(name, fold):
    """Against one layer W·s·(X - base) with its own bias; the flat rule sees every cell alike."""
    model, base = seeded(Leading), -2.0
    x = 3 * randn(2, 1, 9, 15, seed=1)
    norm = model.bn0
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    shift = (norm.bias - norm.running_mean * scale).detach()
    silent = torch.full_like(x[:1], base) * scale[:, None] + shift[:, None]

    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, (9, 5), padding=(0, 2), bias=False).double()
            weight = model.conv.weight.detach().mT
            self.conv.weight.data = weight * scale[:, None]
            self.relu, self.linear = nn.ReLU(), model.linear
            own = functional.conv2d(silent, model.conv.weight.mT, model.conv.bias, padding=(0, 2))
            self.own = own.detach()

        def forward(self, x):
            return self.linear(self.relu(self.conv(x) + self.own).mean((2, 3)))

    found = one(name, model, base, fold_batch_norm=fold).attribute(x, 1)
    if name in ("lrp_wsquare", "lrp_flat"):
        # By the weights: relevance passes the norm, whatever the cells are.
        class Rest(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.relu, self.linear = model.conv, model.relu, model.linear

            def forward(self, x):
                return self.linear(self.relu(self.conv(x)).mean((2, 3)))

        after = model.bn0(x.squeeze(1).unsqueeze(2)).squeeze(2).transpose(1, 2).unsqueeze(1)
        expected = METHODS[name](Rest().eval()).attribute(after.detach(), 1)
        torch.testing.assert_close(found, expected.mT)
        return
    # The constant that Merged adds is a bias: conv and sum are one layer by hand.
    merged = Merged().eval()
    torch.testing.assert_close(merged(x - base), model(x))
    rule = one(name, model, base).composite
    hidden = (merged.conv(x - base) + merged.own).clamp(min=0).mean((2, 3)).detach()
    logits = model(x).detach()[:, 1]
    for clip in range(2):
        of_hidden = by_hand(
            rule.dense,
            model.linear.weight.detach()[1:2],
            model.linear.bias.detach()[1:2],
            hidden[clip],
            torch.zeros(4).double(),
            logits[clip : clip + 1].abs() if name == "lrp_zplus" else logits[clip : clip + 1],
        )
        active = (merged.conv(x - base) + merged.own).clamp(min=0)[clip, :, 0].detach()
        units = of_hidden[:, None] * active / active.sum(1, keepdim=True)
        expected = torch.zeros(9, 15).double()
        padded = functional.pad(x[clip, 0] - base, (2, 2))
        weight = merged.conv.weight.detach()[:, 0]
        for frame in range(15):
            window = padded[:, frame : frame + 5].flatten()
            shares = by_hand(
                rule.convolution,
                weight.flatten(1),
                merged.own[0, :, 0, frame],
                window,
                torch.zeros_like(window),
                units[:, frame],
            ).reshape(9, 5)
            for offset in range(5):
                if 0 <= frame + offset - 2 < 15:
                    expected[:, frame + offset - 2] += shares[:, offset]
        torch.testing.assert_close(found[clip, 0], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_batch_norm_is_merged_through_mean_pooling(name):
    """conv → pool → norm, as in MobileNets, is (conv → norm) → pool, folded or not."""
    before = seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 4, 3)),
        )
    )
    after = nn.Sequential(before[0], before[2], before[1], *before[3:]).eval()
    x = randn(2, 1, 12, 14)
    expected = one(name, after).attribute(x, 0)
    for fold in (True, False):
        found = one(name, before, fold_batch_norm=fold).attribute(x, 0)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# --- operations without weights -----------------------------------------------------------------


def hidden_of(model: nn.Module, x: torch.Tensor, dense=PLAIN, convolution=PLAIN) -> torch.Tensor:
    composite = Composite(dense, convolution)
    return LRPInterpreter(model, base=0.0, composite=composite).attribute(x, 0).flatten()


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def cells(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def test_the_terms_of_a_residual_sum_share_in_proportion_to_their_values():
    block = seeded(lambda: ResidualBlock(1, 1, 1))
    nn.init.constant_(block.bn2.weight, 0.7)
    block.double()
    x = randn(1, 1, 4, 5, seed=3)
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(20, 2).double()).eval()
    found = hidden_of(model, x)
    # ε everywhere: gradient x input of a rectifier network, biases of its layers left out.
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(given)[:, 0].sum(), given)
    torch.testing.assert_close(found, (gradient * x).flatten(), rtol=1e-6, atol=1e-9)


def test_of_a_maximum_the_largest_takes_all_and_of_a_mean_each_its_part():
    class Panns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.max = nn.Conv2d(1, 1, 1, bias=False), MaxOverTime()
            self.linear = nn.Linear(1, 1, bias=False)
            for layer in (self.conv, self.linear):
                nn.init.ones_(layer.weight)

        def forward(self, x):
            x = self.conv(x)[:, :, 0]
            return self.linear(self.max(x) + x.mean(2))

    # f = 6 + mean 3: the largest gets its 6 and 6/4 of the mean.
    found = LRPInterpreter(Panns().double(), base=0.0).attribute(cells(1, 6, 2, 3), 0).flatten()
    torch.testing.assert_close(found, torch.tensor([0.25, 6 + 1.5, 0.5, 0.75]).double())


@pytest.mark.parametrize("name", VARIANTS)
def test_functions_count_as_layers(name):
    modules = seeded(lambda: Net(inplace=True))

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = modules

        def forward(self, x):
            net = self.net
            x = functional.conv2d(x, net.conv1.weight, net.conv1.bias, padding=1)
            bn = net.bn1
            x = functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)
            x = functional.max_pool2d(torch.relu_(x), 2)
            x = net.bn2(functional.conv2d(x, net.conv2.weight, padding=1, groups=2))
            x = x.clamp(min=0)
            x = functional.avg_pool2d(x, 2).flatten(1)
            x = functional.relu(net.fc1(functional.dropout(x, training=self.training)))
            return x @ net.fc2.weight.T + net.fc2.bias

    x = 2 * randn(3, 1, 8, 16, seed=1)
    expected = one(name, modules).attribute(x, 1)
    found = one(name, Functional(), fold_batch_norm=False).attribute(x, 1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_layer_may_be_used_twice_and_an_activation_overwritten():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(inplace=True)
            self.linear = nn.Linear(20, 2)

        def forward(self, x):
            x = self.act(self.conv(x))
            y = self.conv(x)
            y += x
            self.act(y)  # what it returns is not used
            return self.linear(y.flatten(1))

    class Once(Twice):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            x = self.conv(x).relu()
            return self.linear((self.again(x) + x).relu().flatten(1))

    twice, once = seeded(Twice), seeded(Once)
    for layer in (once.conv, once.again):
        layer.load_state_dict(twice.conv.state_dict())
    once.linear.load_state_dict(twice.linear.state_dict())
    x = randn(2, 1, 4, 5)
    for name in VARIANTS:
        found, expected = (one(name, each).attribute(x, 1) for each in (twice, once))
        torch.testing.assert_close(found, expected)


def test_what_lies_before_the_first_layer_acts_on_the_base_too():
    """Cells scaled, shifted, cut and moved: the closed form of a linear network stays."""
    linear = seeded(lambda: nn.Linear(6, 1))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return self.linear((1 - x[..., 1:] / 50).transpose(2, 3).flatten(1))

    x = randn(1, 1, 2, 4)
    found = EpsilonLRPInterpreter(Scaled(), base=-9.0, epsilon=1e-12).attribute(x, 0)
    weight = linear.weight.detach().reshape(3, 2).T / -50
    expected = functional.pad(weight * (x[..., 1:] + 9), (1, 0))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "activation", [nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.PReLU]
)
def test_relevance_passes_activations_that_are_0_at_0(name, activation):
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), activation(), nn.Flatten(), nn.Linear(48, 2))
    )
    explanation = one(name, model).explain(randn(2, 1, 5, 6), 0)
    if name in EXACT:
        assert explanation.diagnostics["residual"].max() < 1e-9
    assert explanation.attribution.abs().max() > 0


# --- conservation -------------------------------------------------------------------------------

MADE = {
    "Cnn14": {"width": 1 / 16},
    "MobileNetV1": {},
    "MobileNetV2": {},
}


@pytest.mark.parametrize("architecture", MADE)
@pytest.mark.parametrize("name", ["lrp", "lrp_zplus"])
def test_panns_networks_conserve_relevance(architecture, name):
    settings = {"name": architecture, "num_classes": 4, "num_bins": 32} | MADE[architecture]
    model = seeded(lambda: build_model(settings))
    x = -50 + 20 * randn(1, 1, 32, 33)
    explanation = METHODS[name](model).explain(x, 1)
    assert explanation.diagnostics["residual"].max() < 1e-6
    if not METHODS[name].facts.signed:
        assert (explanation.attribution >= 0).all()


@pytest.mark.parametrize("name", EXACT)
def test_residual_blocks_conserve_relevance(name):
    model = seeded(
        lambda: nn.Sequential(
            *(ResidualBlock(1, 4, 2), ResidualBlock(4, 4, 1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        )
    )
    explanation = METHODS[name](model).explain(-50 + 20 * randn(3, 1, 12, 14), 1)
    assert explanation.diagnostics["residual"].max() < 1e-6
    if not METHODS[name].facts.signed:
        assert (explanation.attribution >= 0).all()


@pytest.mark.parametrize("weights", ["synthetic_logmel_robust", "synthetic_logstft_robust"])
def test_networks_that_come_with_the_package_conserve_relevance(weights):
    classifier = ai.load(ROOT / "weights" / f"{weights}.safetensors")
    front_end = classifier.front_end
    samples = round(front_end.sample_rate * classifier.duration)
    found = []
    for path in sorted((ROOT / "samples").glob("*.wav"))[:1]:
        found.append(load_audio(path, front_end.sample_rate, classifier.duration)[0].flatten())
    noise = torch.rand(samples, generator=torch.Generator().manual_seed(0)) - 0.5
    view = front_end.analyse(torch.stack([*found, noise])[:, None])
    for name in EXACT:
        explanation = METHODS[name](classifier).explain(view)
        assert explanation.diagnostics["residual"].max() < 1e-4, name
        total = explanation.attribution.double().sum((1, 2, 3))
        with torch.no_grad():
            logits = classifier.logits(view.cells)
        explained = logits.gather(1, explanation.target[:, None])[:, 0].double()
        torch.testing.assert_close(
            total, explained.abs() if name == "lrp_zplus" else explained, rtol=1e-4, atol=1e-4
        )


def test_what_nothing_contributes_to_is_spread_evenly():
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 1)))
    model[1].weight.data = -torch.ones(1, 4).double()
    model[1].bias.data[:] = 8.0
    x = cells(1, 2, 0, 1)
    for rule in (ZPlus(),):
        found = hidden_of(model, x, dense=rule)
        torch.testing.assert_close(found, torch.full((4,), 1.0).double())
    conserving = Gamma(0, conserves=True)
    torch.testing.assert_close(
        hidden_of(model, torch.zeros_like(x), dense=conserving), torch.full((4,), 2.0).double()
    )
    # A bias of 8 by the size of -1, -2, 0, -1, and these: (8 - 4)·|x|/4.
    torch.testing.assert_close(
        hidden_of(model, x, dense=conserving), torch.tensor([1.0, 2, 0, 1]).double()
    )


# --- what has no rule ---------------------------------------------------------------------------


class Gate(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.inner = Function(function)
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(self.inner(self.conv(x)).mean((2, 3)))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


REFUSED = {
    "sigmoid": (lambda x: x * x.sigmoid(), r"sigmoid\(\) in 'inner', a Function"),
    "product": (lambda x: x * x.relu(), "the product of two activations in 'inner'"),
    "quotient": (lambda x: x / x.abs().mean(), r"abs\(\) in 'inner'"),
    "divisor": (lambda x: 1 / x, "rdiv|reciprocal"),
    "softmax": (lambda x: x.softmax(1), r"softmax\(\) in 'inner'"),
    "softplus": (functional.softplus, r"softplus\(\) in 'inner'"),
    "offset": (lambda x: x.clamp(min=0.5), r"clamp\(\) that is not 0 at 0"),
    "detach": (lambda x: x - x.detach().mean(), r"detach\(\)"),
    "data": (lambda x: x + x.data, r"data\(\)"),
    "norm": (lambda x: functional.instance_norm(x), r"instance_norm\(\)"),
    "layer norm": (lambda x: functional.layer_norm(x, x.shape[1:]), r"layer_norm\(\)"),
    "batch": (
        lambda x: functional.batch_norm(x, None, None, training=True),
        "normalises by the batch itself",
    ),
    "dropout": (lambda x: functional.dropout(x, 0.5), r"dropout\(\) in training mode"),
    "minimum": (lambda x: torch.minimum(x, x.relu()), r"minimum\(\)"),
    "scatter": (lambda x: x.masked_fill(x < 0, 3.0), r"masked_fill\(\)"),
    "own function": (Doubled.apply, "'DoubledBackward'.*TorchScript and custom autograd"),
    "square": (lambda x: x**2, r"pow\(\)"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("name", ["lrp", "lrp_flat"])
def test_operations_without_a_rule_are_refused_by_name(what, name):
    function, message = REFUSED[what]
    with pytest.raises(UnsupportedLayerError, match=message):
        METHODS[name](seeded(lambda: Gate(function))).attribute(randn(2, 1, 6, 7), 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torchscript_is_refused():
    model = torch.jit.script(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 2))
    )
    with pytest.raises(UnsupportedLayerError, match="TorchScript"):
        LRPInterpreter(model).attribute(torch.randn(1, 1, 6, 7), 0)


def test_recurrent_layers_are_refused():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.linear = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(self.rnn(x[:, 0].transpose(1, 2))[0][:, -1])

    with pytest.raises(UnsupportedLayerError, match=r"gru\(\) in 'rnn', a GRU"):
        LRPInterpreter(seeded(Recurrent)).attribute(randn(1, 1, 6, 7), 0)


def test_an_activation_that_is_overwritten_after_a_layer_has_read_it_is_refused():
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.next = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1)
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            x = self.conv(x).relu()
            y = self.next(x)
            x += 1
            return self.linear((x + y).mean((2, 3)))

    with pytest.raises(UnsupportedLayerError, match="overwrites an activation in place"):
        # The copy made for speed gives the layer one of its own.
        LRPInterpreter(seeded(Overwrites), fold_batch_norm=False).attribute(randn(1, 1, 6, 7), 0)


def test_probabilities_are_refused():
    from networks import Network

    model = wrap_cells(Network(after=lambda s: s.softmax(1)), outputs="probabilities")
    with pytest.raises(ValueError, match="lrp explains logits, and the network returns prob"):
        LRPInterpreter(model)


@pytest.mark.parametrize("value", [-0.1, math.inf, "a", True])
def test_settings_of_rules_are_checked(value):
    model = nn.Identity()
    with pytest.raises(ValueError, match=r"epsilon must be a positive number, got"):
        EpsilonLRPInterpreter(model, epsilon=value)
    with pytest.raises(ValueError, match=r"gamma must be a number of at least 0, got"):
        GammaLRPInterpreter(model, gamma=value)


def test_settings_hold_the_rules_of_every_layer():
    rules = Composite(Epsilon(0.1), ZPlus(), Flat())
    settings = LRPInterpreter(nn.Identity(), base=-90.0, composite=rules).settings()
    assert settings == {
        "method": "lrp",
        "rules": {
            "dense": {"name": "epsilon", "epsilon": 0.1},
            "convolution": {"name": "zplus"},
            "input": {"name": "flat"},
        },
        "base": -90.0,
    }
    assert "base" not in FlatLRPInterpreter(nn.Identity()).settings()
    assert "base" not in LRPInterpreter(wrap(Convolutions())).settings()
    assert WSquareLRPInterpreter(nn.Identity()).settings()["rules"]["input"] == {"name": "wsquare"}


# --- heads and waveform networks ----------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_binary_head_has_opposite_maps_and_a_sigmoid_head_its_own(name):
    from networks import Network

    binary = wrap_cells(Network(1), head="binary", outputs="logits")
    view = binary.front_end.analyse(clips_of_noise())
    maps = [METHODS[name](binary).attribute(view, target) for target in (0, 1)]
    sign = -1 if METHODS[name].facts.signed else 1
    torch.testing.assert_close(maps[0], sign * maps[1])
    sigmoid = wrap_cells(Network(3), head="sigmoid", outputs="logits")
    plain = wrap_cells(Network(3), outputs="logits")
    for target in range(3):
        found = METHODS[name](sigmoid).attribute(view, target)
        assert torch.equal(found, METHODS[name](plain).attribute(view, target))


@pytest.mark.parametrize("name", WITH_BASE)
def test_a_waveform_network_conserves_what_its_samples_have(name):
    classifier = wrap(Convolutions().double())
    view = classifier.front_end.analyse(sounds(2, dtype=torch.float64))
    explanation = METHODS[name](classifier).explain(view, 1)
    assert explanation.attribution.shape == view.cells.shape
    # The network itself on its samples, where silence is 0, as on cells of base 0.
    cells = METHODS[name](_OnSamples(classifier.network), base=0.0)
    expected = cells.explain(view.waveform[:, None], 1)
    torch.testing.assert_close(
        explanation.attribution.sum((1, 2, 3)), expected.attribution.sum((1, 2, 3))
    )
    for kind, values in expected.diagnostics.items():
        torch.testing.assert_close(explanation.diagnostics[kind], values, rtol=1e-6, atol=1e-9)


class _OnSamples(nn.Module):
    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x[:, 0, 0])


def test_of_a_linear_waveform_network_a_cell_has_what_its_sound_contributes():
    classifier = wrap(Linear().double())
    front_end = classifier.front_end
    view = front_end.analyse(sounds(2, dtype=torch.float64))
    silence = front_end.analyse(torch.zeros_like(view.waveform[:1]))
    found = EpsilonLRPInterpreter(classifier, epsilon=1e-12).attribute(view, 2)
    expected = SHAPInterpreter(classifier, silence).attribute(view, 2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    # And by removing one cell's sound: its share of the inverse STFT.
    stft = view.context.clone()
    stft[:, 5, 7] = 0
    window = torch.hann_window(64, dtype=torch.float64)
    rest = torch.istft(stft, 64, 16, window=window, center=True, length=view.waveform.shape[-1])
    with torch.no_grad():
        drop = classifier.network(view.waveform[:, 0]) - classifier.network(rest)
    torch.testing.assert_close(found[:, 0, 5, 7], drop[:, 2], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["lrp_flat", "lrp_wsquare"])
def test_rules_that_do_not_see_the_samples_are_refused_for_waveform_networks(name):
    with pytest.raises(ValueError, match=f"{name} spreads relevance over the samples"):
        METHODS[name](wrap(Convolutions()))


# --- attention ----------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A transformer over frames, with attention by one of three interfaces."""

    def __init__(self, attention="layer", norm_first=False, activation="gelu") -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.block = nn.TransformerEncoderLayer(
            8, 2, 12, batch_first=True, norm_first=norm_first, activation=activation
        )
        self.linear = nn.Linear(8, 3)
        self.attention = attention

    def forward(self, x):
        x = self.embed(x[:, 0].transpose(1, 2))
        if self.attention == "layer":
            return self.linear(self.block(x).mean(1))
        block = self.block
        x = block.norm1(x + self.attend(x))
        return self.linear(block.norm2(x + self.feed(x)).mean(1))

    def feed(self, x):
        return self.block.linear2(functional.gelu(self.block.linear1(x)))

    def attend(self, x):
        own = self.block.self_attn
        parts = functional.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in parts)
        if self.attention == "sdpa":
            read = functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-2, -1) / math.sqrt(4)
            read = functional.softmax(scores, dim=-1) @ value
        return own.out_proj(read.transpose(1, 2).flatten(2))


def gradient_times_input(model: Tokens, x, base, target, *, product=0.5):
    """AttnLRP as a gradient times input of a changed network: the paper's rules, ε = 0.

    Each product hands half of its gradient on; the deviation of layer norm and the gain y/x of the
    activation are constants.
    """

    def halve(y):
        return product * y + (1 - product) * y.detach()

    def norm(layer, x):
        spread = (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / spread * layer.weight + layer.bias

    block, own = model.block, model.block.self_attn
    given = x.clone().requires_grad_()
    h = model.embed(given[:, 0].transpose(1, 2))
    parts = functional.linear(h, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in parts)
    weights = (halve(query @ key.mT) / 2).softmax(-1)
    h = norm(block.norm1, h + own.out_proj(halve(weights @ value).transpose(1, 2).flatten(2)))
    inner = block.linear1(h)
    inner = inner * (functional.gelu(inner) / inner).detach()
    logits = model.linear(norm(block.norm2, h + block.linear2(inner)).mean(1))
    torch.testing.assert_close(logits, model(x))
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), given)
    return (gradient * (x - base)).detach()


@pytest.mark.parametrize("attention", ["layer", "sdpa", "products"])
def test_attnlrp_is_a_gradient_of_a_network_changed_by_its_rules(attention):
    model = seeded(lambda: Tokens(attention))
    x = randn(3, 1, 6, 7, seed=1)
    expected = gradient_times_input(model, x, -2.0, 1)
    found = AttnLRPInterpreter(model, base=-2.0, epsilon=1e-13).attribute(x, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    other = gradient_times_input(model, x, -2.0, 1, product=1.0)
    assert not torch.allclose(found, other, rtol=1e-2)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "attnlrp"])
@pytest.mark.parametrize("attention", ["layer", "sdpa", "products"])
def test_attention_is_refused_by_other_methods(name, attention):
    with pytest.raises(UnsupportedLayerError, match=r"no rule for (multi_head|scaled_dot|matmul)"):
        one(name, seeded(lambda: Tokens(attention))).attribute(randn(1, 1, 6, 7), 0)


def test_softmax_and_products_by_hand():
    """R_i = x_i·(R_i - s_i·ΣR), and of s·v half for each factor."""

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)
            self.linear.weight.data = torch.eye(3)

        def forward(self, x):
            x = self.linear(x[:, 0])
            return (x.softmax(-1) @ x.mT).flatten(1)

    x = cells(0.5, -1.0, 2.0)
    found = AttnLRPInterpreter(Read().double(), base=0.0, epsilon=1e-13).attribute(x, 0).flatten()
    values = x.flatten()
    weights = values.exp() / values.exp().sum()
    half = weights * values / 2
    torch.testing.assert_close(found, half + values * (half - weights * half.sum()))


def test_masks_of_attention_and_group_norm_have_rules():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(6, 8, 3), nn.GroupNorm(2, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.linear = nn.Linear(8, 2)

        def forward(self, x):
            x = functional.gelu(self.norm(self.conv(x[:, 0]))).transpose(1, 2)
            length = x.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool).triu(1)
            x = x + self.attention(x, x, x, attn_mask=mask)[0]
            return self.linear(x[:, 0])

    model = seeded(Masked)
    x = randn(2, 1, 6, 9)
    found = AttnLRPInterpreter(model, base=0.0).attribute(x, 0)
    # The first token attends to itself only, and sees what the kernel and the norm see.
    assert found.isfinite().all()
    assert found[..., :3].abs().max() > 0


def test_zplus_has_no_negative_cells_whatever_the_sign_of_the_logit():
    model = seeded(Net)
    x = 2 * randn(4, 1, 8, 16, seed=1)
    logits = model(x).detach()
    assert (logits > 0).any()
    assert (logits < 0).any()
    for target in range(3):
        found = ZPlusLRPInterpreter(model, base=0.0).attribute(x, target)
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum((1, 2, 3)), logits[:, target].abs())
