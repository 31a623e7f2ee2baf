"""FullGrad: its terms add up, captum's and grad-cam's parts of it, closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient
from networks import HEADS, Network, sounds, wrap
from pytorch_grad_cam import FullGrad
from test_waveform import Convolutions
from test_waveform import sounds as waveforms
from test_waveform import wrap as wrap_waveform
from torch import nn

from audiointerp.interpretation import METHODS, AdditivityError, UnsupportedLayerError
from audiointerp.interpretation.fullgrad import spread
from audiointerp.interpretation.rescale import ELEMENTWISE, Elementwise
from audiointerp.model import MODELS, build_model
from audiointerp.model.outputs import Logit, LogProbability

TARGET = torch.tensor([0, 2, 1])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Net(nn.Module):
    """Planes of the cells' size, so that nothing is resized; a batch norm with statistics."""

    def __init__(self, activation=nn.ReLU, pool=False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1, self.bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
            self.last = nn.Linear(5, 3)
            for tensor in (self.bn.running_mean, self.bn.bias):
                nn.init.uniform_(tensor, -0.5, 0.5)
            for tensor in (self.bn.running_var, self.bn.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
        self.act1, self.act2 = activation(), activation()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x):
        x = self.pool(self.act1(self.bn(self.conv1(x))))
        return self.last(self.act2(self.conv2(x)).mean((2, 3)))


def terms_by_hand(model: Net, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The map by autograd alone: biases as maps of their own that a gradient is taken for."""
    maps = []

    def biased(module, bias):
        def hook(_, inputs, output):
            own = bias[:, None, None].expand(output.shape).clone().requires_grad_()
            maps.append(own)
            return output - bias[:, None, None] + own

        return module.register_forward_hook(hook)

    norm = model.bn
    shift = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
    handles = [
        biased(model.conv1, model.conv1.bias.detach()),
        biased(model.bn, shift.detach()),
        biased(model.conv2, model.conv2.bias.detach()),
    ]
    x = x.clone().requires_grad_()
    logits = model(x)
    for handle in handles:
        handle.remove()
    score = logits.gather(1, label[:, None]).sum()
    gradients = torch.autograd.grad(score, [x, *maps])
    found = [(g * v).sum(1, keepdim=True) for g, v in zip(gradients, [x, *maps], strict=True)]
    return torch.stack(found).sum(0).detach()


@pytest.mark.parametrize("fold", [True, False])
def test_the_map_is_the_sum_of_the_input_and_bias_terms(fold):
    model, x = Net().double().eval(), randn(3, 1, 8, 10)
    explanation = METHODS["fullgrad"](model, fold_batch_norm=fold).explain(x, TARGET)
    torch.testing.assert_close(explanation.attribution, terms_by_hand(model, x, TARGET))
    torch.testing.assert_close(
        explanation.diagnostics["unplaced"], model.last.bias[TARGET].detach()
    )


# With arguments, or for probabilities: tried in tests of their own.
ELSEWHERE = {nn.Threshold, Elementwise, Logit, LogProbability}


@pytest.mark.parametrize(
    "activation", [nn.ReLU, *sorted(ELEMENTWISE - ELSEWHERE, key=lambda kind: kind.__name__)]
)
@pytest.mark.parametrize("fold", [True, False])
def test_all_terms_together_are_the_logit(activation, fold):
    model, x = Net(activation, pool=True).double().eval(), 2 * randn(3, 1, 9, 11)
    explanation = METHODS["fullgrad"](model, fold_batch_norm=fold).explain(x, TARGET)
    total = explanation.attribution.sum((1, 2, 3)) + explanation.diagnostics["unplaced"]
    with torch.no_grad():
        logits = model(x)[torch.arange(3), TARGET]
    torch.testing.assert_close(total, logits, rtol=1e-9, atol=1e-9)
    assert (explanation.diagnostics["residual"] < 1e-9).all()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_all_terms_of_every_model_together_are_the_logit(name):
    shape = {"name": name, "num_classes": 4, "num_bins": 64}
    model = build_model(shape | ({"width": 0.125} if name == "Cnn14" else {}), seed=0).double()
    cells = 10 * randn(2, 1, 64, 70) - 40
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():
        model(cells)
        explanation = METHODS["fullgrad"](model.eval()).explain(cells, 1)
        total = explanation.attribution.sum((1, 2, 3)) + explanation.diagnostics["unplaced"]
        torch.testing.assert_close(total, model(cells)[:, 1], rtol=1e-8, atol=1e-8)


def test_the_first_batch_norms_terms_lie_at_the_cells_that_it_normalises():
    """Of Cnn14 with no other bias, the map is the normalised cells times their gradient."""
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 64, "width": 1 / 16}
    model = build_model(settings, seed=0)
    cells = 10 * randn(2, 1, 64, 96) - 40
    cells *= torch.linspace(0.5, 1.5, 64, dtype=torch.float64)[:, None]
    model.double()
    with torch.no_grad():
        model(cells)
        model.eval()
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name != "base.bn0":
                nn.init.zeros_(module.running_mean)
    found = METHODS["fullgrad"](model).attribute(cells, 1)
    norm = model.base.bn0
    normalised = (cells - norm.running_mean[:, None]) / (norm.running_var + norm.eps).sqrt()[
        :, None
    ]
    gradient = METHODS["saliency"](model).attribute(cells, 1)
    scale = (norm.running_var + norm.eps).rsqrt()[:, None]
    torch.testing.assert_close(found, normalised * gradient / scale)


def test_grad_cam_has_the_same_input_and_bias_gradients():
    model, x = Net().double().eval(), randn(1, 1, 8, 10)
    method = FullGrad(model, [])
    seen = {}

    def watched(input_tensor, target_category, eigen_smooth):
        seen["input"] = input_tensor.grad * input_tensor.detach()
        seen["biases"] = [
            torch.as_tensor(bias)[None, :, None, None] * gradient
            for bias, gradient in zip(
                method.bias_data, method.activations_and_grads.gradients, strict=True
            )
        ]
        raise StopIteration

    method.compute_cam_per_layer = watched
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with pytest.raises(StopIteration):
        method(input_tensor=x.clone(), targets=[ClassifierOutputTarget(2)])
    method.activations_and_grads.release()
    # grad-cam takes absolute values next, and rescales each layer: what it has before is compared.
    assert len(seen["biases"]) == 3
    expected = seen["input"] + sum(each.sum(1, keepdim=True) for each in seen["biases"])
    found = METHODS["fullgrad"](model).attribute(x, 2)
    torch.testing.assert_close(found, expected)


def test_without_biases_it_is_input_times_gradient():
    model, x = Net().double().eval(), randn(3, 1, 8, 10)
    with torch.no_grad():
        for layer in (model.conv1, model.bn, model.conv2, model.last):
            layer.bias.zero_()
        model.bn.running_mean.zero_()
    expected = InputXGradient(model).attribute(x.clone().requires_grad_(), target=TARGET)
    explanation = METHODS["fullgrad"](model).explain(x, TARGET)
    torch.testing.assert_close(explanation.attribution, expected.detach())
    assert (explanation.diagnostics["unplaced"] == 0).all()


@pytest.mark.parametrize("size", [(8, 10), (9, 7), (16, 31), (3, 4), (1, 2), (4, 25)])
def test_a_plane_is_spread_with_its_sum_to_where_it_was(size):
    plane = torch.rand(2, 1, 4, 5, dtype=torch.float64)
    found = spread(plane, size)
    assert found.shape == (2, 1, *size)
    torch.testing.assert_close(found.sum((2, 3)), plane.sum((2, 3)))
    assert (found >= 0).all()
    mean = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in size]
    before = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (4, 5)]
    point = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    point[0, 0, 2, 1] = 1
    spot = spread(point, size)[0, 0]
    for axis, place in ((0, 2), (1, 1)):
        centre = (spot.sum(1 - axis) * mean[axis]).sum()
        assert abs(centre - before[axis][place]) < 0.5 / min(size[axis], 4 + axis)


def test_same_size_planes_are_left_as_they_are():
    plane = randn(2, 1, 4, 5)
    torch.testing.assert_close(spread(plane, (4, 5)), plane)


def test_constants_of_functions_are_refused_by_the_sum():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net().double()

        def forward(self, x):
            return self.net((x + 4) / 2)

    with pytest.raises(AdditivityError, match=r"FullGrad terms.*added by a layer"):
        METHODS["fullgrad"](Shifted()).attribute(randn(2, 1, 8, 10))


def test_functions_are_seen():
    class Functional(Net):
        def forward(self, x):
            x = torch.sigmoid(self.bn(self.conv1(x)))
            x = F.max_pool2d(F.relu(self.conv2(x), inplace=True), 2)
            return self.last(F.softplus(x).mean((2, 3)))

    model, x = Functional().double().eval(), randn(3, 1, 8, 10)
    explanation = METHODS["fullgrad"](model).explain(x, TARGET)
    assert (explanation.diagnostics["residual"] < 1e-9).all()


def test_what_has_no_bias_to_speak_of_is_named():
    class Softmax(nn.Module):
        def forward(self, x):
            return x.softmax(3).flatten(1)

    with pytest.raises(UnsupportedLayerError, match="FullGrad has no rule for softmax"):
        METHODS["fullgrad"](Softmax()).attribute(randn(1, 1, 2, 3))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_terms_of_a_waveform_network_are_its_logit(activation):
    network = Convolutions(activation=activation).double()
    classifier = wrap_waveform(network, activation_axes=("channel", "time"))
    view = classifier.front_end.analyse(waveforms(2, dtype=torch.float64))
    explanation = METHODS["fullgrad"](classifier).explain(view, 1)
    total = explanation.attribution.sum((1, 2, 3)) + explanation.diagnostics["unplaced"]
    with torch.no_grad():
        torch.testing.assert_close(total, network.eval()(view.waveform[:, 0])[:, 1])


class Centred(Network):
    """Without a constant outside of its layers."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.norm.running_mean.fill_(-50.0)
        self.norm.running_var.fill_(2500.0)

    def forward(self, cells):
        hidden = self.pool(self.relu(self.conv(self.norm(cells))))
        return self.after(self.scale * self.linear(self.flatten(hidden)))


@pytest.mark.parametrize("head", ["sigmoid", "binary"])
def test_probabilities_of_other_heads_are_turned_into_logits_first(head):
    outputs, _ = HEADS[head]

    plain = wrap(Centred(outputs), head=head)
    chances = wrap(Centred(outputs, nn.Sigmoid()), head=head, outputs="probabilities")
    view = plain.front_end.analyse(sounds())
    maps = [METHODS["fullgrad"](each).explain(view, 1) for each in (plain, chances)]
    torch.testing.assert_close(
        maps[0].attribution,
        maps[1].attribution,
        rtol=1e-2,
        atol=1e-2 * float(maps[0].attribution.abs().max()),
    )
    assert all(each.diagnostics["residual"].max() < 1e-2 for each in maps)
