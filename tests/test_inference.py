"""The inference copy: the same numbers and gradients as the model, fewer layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiointerp.model import MODELS, build_model
from audiointerp.model.inference import batch_size_for, inference_copy, rows_that_fit


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def panns(name: str) -> nn.Module:
    shape = {"name": name, "num_classes": 3, "num_bins": 64}
    model = build_model(shape | ({"width": 0.125} if name == "Cnn14" else {}), seed=0)
    with torch.no_grad():
        model(10 * randn(3, 1, 64, 64).float() - 40)  # moves the batch norms' statistics
    return model.double().eval()


def trained(model: nn.Module, *shape: int) -> nn.Module:
    """Give a model's batch norms statistics and weights that are not those they start with."""
    for module in model.double().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            module.weight.data = 1 + 0.3 * randn(module.num_features, seed=1)
            module.bias.data = randn(module.num_features, seed=2)
    model(3 * randn(*shape, seed=3) + 1)
    return model.eval()


def gradient(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    features = features.clone().requires_grad_()
    return torch.autograd.grad(model(features).flatten(1)[:, 0].sum(), features)[0]


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"ResNet38"}))  # as ResNet22, but slower
def test_every_models_copy_has_its_logits_and_gradients(name):
    model = panns(name)
    features = 10 * randn(2, 1, 64, 70) - 40
    copy = inference_copy(model)
    torch.testing.assert_close(copy(features), model(features), rtol=1e-9, atol=1e-9)
    expected = gradient(model, features)
    difference = (gradient(copy, features) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-9
    assert count(model, nn.BatchNorm2d) > 0
    assert count(copy, nn.BatchNorm2d) == 0


def test_cnn14_folds_all_its_convolutions():
    copy = inference_copy(panns("Cnn14"))
    for block in range(1, 7):
        for layer in (1, 2):
            assert isinstance(copy.get_submodule(f"base.conv_block{block}.bn{layer}"), nn.Identity)
    assert type(copy.target_layer) is nn.ReLU


def test_the_model_is_left_as_it_is():
    model = panns("Cnn14").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = inference_copy(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in own for parameter in copy.parameters())


class Branches(nn.Module):
    """The convolution's output is used beside the batch norm too: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class SharedNorm(nn.Module):
    """One batch norm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv2(self.bn(self.conv1(x))))


class SharedConvolution(nn.Module):
    """One convolution, known by two names, before two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(1, 1, 3)
        self.first = nn.Sequential(conv, nn.BatchNorm2d(1))
        self.second = nn.Sequential(conv, nn.BatchNorm2d(1))

    def forward(self, x):
        return self.second(self.first(x))


class ChecksValues(nn.Module):
    """Control flow that depends on values cannot be traced; its child can."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.outer, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        return self.bn(self.outer(self.block(x))) if x.sum() > -1e9 else x


class NoStatistics(nn.Module):
    """A batch norm that uses the batch's own statistics in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.bn(self.conv(x))


class OneDimension(nn.Module):
    """Conv1d with BatchNorm1d, and a BatchNorm1d of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4)
        self.fc, self.last = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.last(self.fc(self.bn(self.conv(x[:, 0])).mean(2)))


@pytest.mark.parametrize(
    ("kind", "folded"),
    [
        (Branches, 0),
        (SharedNorm, 0),
        (SharedConvolution, 0),
        (ChecksValues, 1),
        (NoStatistics, 0),
        (OneDimension, 1),
    ],
)
def test_only_what_is_safe_is_folded_and_the_numbers_stay(kind, folded):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = trained(kind(), 6, 1, 8, 10)
    features = randn(3, 1, 8, 10, seed=5)
    copy = inference_copy(model)
    torch.testing.assert_close(copy(features), model(features))
    torch.testing.assert_close(gradient(copy, features), gradient(model, features))
    assert count(copy, nn.Identity) == folded


def test_a_layer_with_a_hook_is_not_folded():
    model = trained(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), 6, 1, 8, 10)
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    features = randn(3, 1, 8, 10, seed=5)
    torch.testing.assert_close(inference_copy(model)(features), model(features))


@pytest.mark.parametrize("gradient", [False, True])
def test_as_many_rows_as_fit_in_half_of_the_free_memory(gradient):
    cells = 64 * 501
    assert rows_that_fit(0, cells, gradient=gradient) == 1
    assert rows_that_fit(2**50, cells, gradient=gradient) == 128
    some = rows_that_fit(2**31, cells, gradient=gradient)
    assert some == (2**30) // (cells * 256 * (12 if gradient else 4))
    assert rows_that_fit(2**32, cells, gradient=gradient) in (2 * some, 2 * some + 1)
    assert rows_that_fit(2**32, 2 * cells, gradient=gradient) == some


def test_a_cpu_takes_a_few_rows_at_a_time():
    assert batch_size_for(torch.zeros(1, 1, 64, 501)) == 8
