"""The inference copy: the same numbers and gradients as the model, fewer layers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from audiointerp.model import MODELS, build_model
from audiointerp.speed.inference import fast_copy, inference_copy
from audiointerp.speed.memory import batch_size_for, rows_that_fit


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


class ThreeDimensions(nn.Module):
    """Conv3d with BatchNorm3d, whose weights have no channels-last layout of 4 axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4)

    def forward(self, x):
        return self.bn(self.conv(x.unfold(3, 4, 2).movedim(4, 2)))


class CachesAShape(nn.Module):
    """What it stores in its first pass must not be what tracing puts through it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.place, self.seen = None, []

    def forward(self, x):
        y = self.bn(self.conv(x))
        if self.place is None:
            self.place = torch.zeros_like(y[:1]) + 1
            self.seen.append(y)
        return y + self.place + len(self.seen)


class OwnForward(nn.Module):
    """A convolution whose weights its own forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv.forward = lambda x: x[:, :, 2:, 2:].repeat(1, 4, 1, 1)

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
        (ThreeDimensions, 1),
        (OwnForward, 0),
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


def test_tracing_leaves_nothing_in_the_copy():
    model = CachesAShape().double().eval()
    copy, features = inference_copy(model), randn(3, 1, 8, 10)
    assert count(copy, nn.Identity) == 1
    torch.testing.assert_close(copy(features), model(features))
    assert isinstance(copy.place, torch.Tensor)
    assert len(copy.seen) == 1


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("padding", [(1, 0), "same", 1])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("plane", [(15, 2), (31, 4), (6, 15), (9, 9)])
@pytest.mark.parametrize("backward", [False, True])
def test_convolutions_of_narrow_planes_are_the_models(plane, mode, padding, backward):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 8, (3, 2), padding=padding, padding_mode=mode, dilation=(2, 1))
    model = nn.Sequential(model.double()).eval()
    features, copy = randn(4, 3, *plane), inference_copy(model, backward=backward)
    for _ in range(2):  # wide planes lay the weights out in another way
        torch.testing.assert_close(copy(features), model(features))
        torch.testing.assert_close(gradient(copy, features), gradient(model, features))
        wide = randn(1, 3, 9, 20)
        torch.testing.assert_close(copy(wide), model(wide))


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


@pytest.mark.parametrize(
    ("bins", "frames", "rows", "with_gradient"),
    [(64, 501, 32, 8), (257, 313, 13, 3), (2000, 2000, 1, 1)],
)
def test_a_cpu_takes_some_rows_at_a_time(bins, frames, rows, with_gradient):
    features = torch.zeros(1, 1, 1, 1).expand(1, 1, bins, frames)
    assert batch_size_for(features) == rows
    assert batch_size_for(features, gradient=True) == with_gradient


def small_cnn14() -> nn.Module:
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 64, "width": 0.125}
    return build_model(settings, seed=0).eval()


def spectrograms(frames: int = 101) -> torch.Tensor:
    return (10 * randn(2, 1, 64, frames) - 40).float()


def test_an_unchanged_model_is_copied_once():
    model = small_cnn14()
    assert fast_copy(model) is fast_copy(model)
    assert fast_copy(model, backward=True) is fast_copy(model, backward=True)
    assert fast_copy(model, backward=True) is not fast_copy(model)
    assert fast_copy(model.train()) is fast_copy(model.eval())  # the copy evaluates anyway
    assert fast_copy(model, keep=["base.conv_block6.relu2"]) is fast_copy(model)  # keeps it anyway
    assert fast_copy(model, keep=["base.conv_block1.conv1"]) is not fast_copy(model)


def test_a_copy_made_in_inference_mode_still_has_a_gradient():
    model, features = small_cnn14(), spectrograms()
    with torch.inference_mode():
        fast_copy(model)(features)
    copied = fast_copy(model)
    found, expected = gradient(copied, features), gradient(model, features)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


class Slope(nn.ReLU):
    """Settings of all kinds: a tensor that is no buffer, a list with a tensor, a private one."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.factors, self._power = torch.tensor(2.0), [1.0, torch.tensor(2.0)], 1

    def forward(self, x):
        return (super().forward(x) * self.slope * self.factors[1]) ** self._power


def _shuffle(model: nn.Module) -> None:
    weight = model.base.conv_block5.conv2.weight.data
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
    weight.copy_(weight.flatten()[order].view_as(weight))


CHANGES = {
    "data in place": lambda model: model.base.conv_block1.conv1.weight.data.mul_(1.5),
    "one value": lambda model: model.classifier.bias.data[1:2].add_(1e-6),
    "shuffled": _shuffle,
    "statistics": lambda model: model.base.bn0.running_mean.add_(1),
    "setting": lambda model: setattr(model.base.conv_block2.bn1, "eps", 0.5),
    "layer": lambda model: setattr(model, "classifier", nn.Linear(256, 3)),
    "tensor in place": lambda model: model.base.relu.slope.mul_(3),
    "list": lambda model: model.base.relu.__setattr__("factors", [1.0, torch.tensor(4.0)]),
    "private setting": lambda model: setattr(model.base.relu, "_power", 2),
    "hook": lambda model: model.base.relu.register_forward_hook(lambda _, x, y: 2 * y),
    "forward": lambda model: setattr(model.base.relu, "forward", torch.tanh),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_copied_again(change):
    model, features = small_cnn14(), spectrograms()
    model.base.relu = Slope()
    before = fast_copy(model)
    CHANGES[change](model)
    after = fast_copy(model)
    assert after is not before
    torch.testing.assert_close(after(features), model(features), rtol=1e-4, atol=1e-5)


def test_a_trained_model_is_copied_again():
    model, features = small_cnn14(), spectrograms()
    before = fast_copy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(features).sum().backward()
    optimiser.step()
    assert fast_copy(model) is not before
    torch.testing.assert_close(fast_copy(model)(features), model(features), rtol=1e-4, atol=1e-4)


def test_the_copies_go_with_the_model():
    model = small_cnn14()
    copied = weakref.ref(fast_copy(model))
    assert copied() is not None
    del model
    gc.collect()
    assert copied() is None


@pytest.mark.parametrize("layer", ["base.conv_block2.conv1", "base.conv_block2.bn1"])
def test_the_output_of_a_layer_to_keep_is_the_models_after_the_whole_pass(layer):
    model, features = small_cnn14(), spectrograms()
    seen = {}
    for name, network in (("model", model), ("copy", inference_copy(model, keep=[layer]))):
        network.get_submodule(layer).register_forward_hook(
            lambda module, given, output, name=name: seen.update({name: output})
        )
        with torch.no_grad():
            network(features)
    assert (seen["model"] < 0).any()
    torch.testing.assert_close(seen["copy"], seen["model"], rtol=1e-4, atol=1e-4)


def test_planes_of_any_size_after_each_other_and_a_gradient_after_inference_mode():
    model = small_cnn14()
    copied = fast_copy(model)
    for frames in (501, 64, 200, 501):
        features = spectrograms(frames)
        with torch.inference_mode():
            torch.testing.assert_close(copied(features), model(features), rtol=1e-4, atol=1e-5)
        expected = gradient(model, features)
        difference = (gradient(copied, features) - expected).abs().max()
        assert difference < 1e-4 * expected.abs().max()


ALLOCATOR = """
import ctypes

asked = []


class Spy(ctypes.CDLL):
    def __getattr__(self, name):
        asked.append(name)
        return super().__getattr__(name)


ctypes.CDLL = Spy
import audiointerp, torch
from audiointerp.interpretation import SaliencyInterpreter
from audiointerp.model import build_model
from audiointerp.speed.scoring import Scorer

model = build_model({"name": "Cnn14", "num_classes": 3, "num_bins": 64, "width": 0.0625}, seed=0)
features = torch.zeros(2, 1, 64, 101)
Scorer(model)(features), SaliencyInterpreter(model).attribute(features)
print("mallopt" in asked)
audiointerp.speed.keep_freed_memory()
print("mallopt" in asked)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc only")
def test_only_who_asks_for_it_changes_the_allocator():
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    environment.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", ALLOCATOR]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


FAULTS = """
import resource, torch
from audiointerp.speed.memory import keep_freed_memory
print(int(keep_freed_memory()))
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc only")
@pytest.mark.parametrize("told", [False, True])
def test_a_block_of_64_mb_is_not_mapped_anew_unless_the_environment_decides(told):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment.pop("GLIBC_TUNABLES", None)
    environment |= {"MALLOC_TOP_PAD_": "131072"} if told else {}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, *faults = map(int, done.stdout.split())
    if not (told or kept):
        pytest.skip("another C library")
    assert kept == (not told)
    # 16384 pages of 4 kB; large pages would be fewer. The least of all times, since the block has
    # to find another place now and then, when a small one that stays was put behind it.
    assert (min(faults) > 20) == told
