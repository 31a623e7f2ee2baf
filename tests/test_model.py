"""The PANNs models against slow re-implementations that read the state dict directly."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from functools import cache

import pytest
import torch
from slow_panns import slow_embedding
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from audiointerp.model import MODELS, TransferModel, build_model
from audiointerp.model.classifier import Classifier
from audiointerp.model.cnn14 import TransferCnn14
from audiointerp.model.layers import MaxOverTime, scale_channels
from audiointerp.model.resnet import ResidualBlock

SHRINK = {"Cnn6": 16, "Cnn10": 16}
all_models = pytest.mark.parametrize("name", list(MODELS))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors are quicker on one thread, above all where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings_of(name, num_bins=64):
    width = {"width": 1 / 8} if name == "Cnn14" else {}
    return {"name": name, "num_classes": 5, "num_bins": num_bins} | width


@cache
def random_model(name) -> TransferModel:
    """A model with every weight and batch-norm statistic random, in eval mode; do not change it."""
    model = build_model(settings_of(name), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return model.requires_grad_(False)


def random_features(batch=2, bins=64, frames=101, seed=0):
    return 3 * torch.randn(batch, 1, bins, frames, generator=torch.Generator().manual_seed(seed))


def slow_logits(name, model, features):
    state = model.state_dict()
    base = {key.removeprefix("base."): value for key, value in state.items()}
    x = slow_embedding(name, features, base)
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@all_models
def test_forward_equals_the_slow_reimplementation(name):
    features = random_features(frames=77)
    expected = slow_logits(name, random_model(name), features)
    assert expected.std() > 0.01
    torch.testing.assert_close(random_model(name)(features), expected, rtol=1e-5, atol=1e-5)


@all_models
def test_one_clip_alone_scores_as_in_a_batch(name):
    features = random_features(batch=3, frames=40)
    together = random_model(name)(features)
    alone = torch.cat([random_model(name)(clip[None]) for clip in features])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


# Trainable parameters with AudioSet's 527 classes and 64 bins: table XII of the PANNs paper.
PUBLISHED_PARAMETERS = {
    "Cnn14": 80_753_615,
    "Cnn10": 5_219_279,
    "Cnn6": 4_837_455,
    "ResNet22": 63_675_087,
    "ResNet38": 73_783_247,
    "MobileNetV1": 4_796_303,
    "MobileNetV2": 4_075_343,
}


@all_models
def test_trainable_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        model = MODELS[name](527, 64)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == PUBLISHED_PARAMETERS[name]


class CountOps(TorchDispatchMode):
    """Counts the nonlinear tensor operations that really run."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@all_models
def test_every_nonlinearity_and_pooling_is_a_module_of_its_own_used_once(name):
    model = random_model(name)
    kinds = (nn.ReLU, nn.ReLU6, nn.AvgPool2d, MaxOverTime)
    modules = [module for module in model.modules() if isinstance(module, kinds)]
    calls = Counter()
    handles = [module.register_forward_hook(lambda m, *_: calls.update([m])) for module in modules]
    try:
        with CountOps() as ops:
            model(random_features(batch=1))
    finally:
        for handle in handles:
            handle.remove()
    assert all(calls[module] == 1 for module in modules)

    def count(kind):
        return sum(isinstance(module, kind) for module in modules)

    # As many operations as modules: nothing is called past them, nothing works in place.
    assert not any(getattr(module, "inplace", False) for module in modules)
    assert ops.counts["relu"] == count(nn.ReLU)
    assert ops.counts["hardtanh"] == count(nn.ReLU6)
    assert ops.counts["avg_pool2d"] == count(nn.AvgPool2d)
    assert ops.counts["amax"] == count(MaxOverTime) == 1
    assert not {"relu_", "hardtanh_", "clamp", "clamp_min", "max", "max_pool2d"} & ops.counts.keys()


DROPOUTS = {
    "Cnn14": [0.2] * 6 + [0.5, 0.5],
    "Cnn10": [0.2] * 4 + [0.5, 0.5],
    "Cnn6": [0.2] * 4 + [0.5, 0.5],
    "ResNet22": [0.2] + [0.1] * 8 + [0.2, 0.2, 0.5, 0.5],
    "ResNet38": [0.2] + [0.1] * 16 + [0.2, 0.2, 0.5, 0.5],
    "MobileNetV1": [0.5, 0.5],
    "MobileNetV2": [0.0, 0.5],
}


@all_models
def test_dropouts_are_those_of_panns(name):
    found = [module.p for module in random_model(name).modules() if isinstance(module, nn.Dropout)]
    assert found == DROPOUTS[name]


@all_models
def test_target_layer_is_the_last_convolutional_activation_over_time_and_frequency(name):
    model = random_model(name)
    outputs = []
    handle = model.target_layer.register_forward_hook(lambda *args: outputs.append(args[2]))
    try:
        model(random_features(batch=2, frames=160))
    finally:
        handle.remove()
    activations = [m for m in model.base.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    assert model.target_layer is activations[-2]  # the very last one follows fc1
    shrink = {"Cnn6": 8, "Cnn10": 8}.get(name, 32)
    assert outputs[0].shape[2:] == (160 // shrink, 64 // shrink)
    layer = next(name for name, each in model.named_modules() if each is model.target_layer)
    assert torch.equal(model.activation_axes(layer, outputs[0]), outputs[0].mT)
    assert outputs[0].min() == 0


def test_the_plane_of_the_first_batch_norm_has_its_channels_as_frequencies():
    model = random_model("Cnn14")
    outputs = []
    handle = model.base.bn0.register_forward_hook(lambda *args: outputs.append(args[2]))
    features = random_features(batch=2, frames=96)
    model(features)
    handle.remove()
    plane = Classifier(model).to_plane("base.bn0", outputs[0])
    norm = model.base.bn0
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = (features - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]
    torch.testing.assert_close(plane, expected)


@all_models
def test_gradients_reach_every_parameter(name):
    model = random_model(name).requires_grad_(True)
    try:
        model(random_features(batch=1, frames=32)).sum().backward()
        silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
    assert silent == []


@all_models
def test_state_dict_has_base_and_classifier_and_nothing_else(name):
    keys = random_model(name).state_dict().keys()
    assert {key for key in keys if not key.startswith("base.")} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert {"base.bn0.running_mean", "base.fc1.weight"} <= set(keys)


@all_models
def test_settings_survive_json_and_build_the_same_network(name):
    settings = settings_of(name, num_bins=257)
    with torch.device("meta"):
        model = build_model(settings)
        again = build_model(json.loads(json.dumps(model.settings())))
    assert model.settings() == settings
    assert type(again) is type(model) is MODELS[name]
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [
        (k, v.shape) for k, v in model.state_dict().items()
    ]
    assert (model.num_classes, model.num_bins) == (5, 257)
    assert model.classes is None
    assert model.duration is None


@pytest.mark.parametrize("name", ["Cnn6", "MobileNetV2"])
def test_fresh_weights_are_xavier_uniform_with_zero_biases(name):
    model = build_model(settings_of(name), seed=0).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            field = math.prod(module.weight.shape[2:])
            bound = math.sqrt(6 / (field * (module.weight.shape[0] + module.weight.shape[1])))
            spread = 1 / math.sqrt(module.weight.numel())
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=2 * spread)
            assert module.bias is None or not module.bias.any()


def test_a_fresh_residual_block_passes_its_shortcut_on():
    x = torch.rand(2, 8, 6, 4)
    assert torch.equal(ResidualBlock(8, 8, shrink=1)(x), x)


def test_seed_fixes_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_model(settings_of("Cnn14"), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.base.fc1.weight, again.base.fc1.weight)
    assert not torch.equal(first.base.fc1.weight, other.base.fc1.weight)


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (1 / 16, [8, 8, 16, 32, 64, 128]),
        (1 / 8, [8, 16, 32, 64, 128, 256]),
        (3 / 16, [16, 24, 48, 96, 192, 384]),
        (1 / 4, [16, 32, 64, 128, 256, 512]),
        (1, [64, 128, 256, 512, 1024, 2048]),
    ],
)
def test_width_scales_every_channel_count(width, channels):
    with torch.device("meta"):
        model = TransferCnn14(10, 64, width=width)
    blocks = [model.base.get_submodule(f"conv_block{n}") for n in range(1, 7)]
    assert [block.conv1.out_channels for block in blocks] == channels
    assert [block.conv2.out_channels for block in blocks] == channels
    assert (model.base.fc1.in_features, model.base.fc1.out_features) == (channels[-1],) * 2
    assert all(scale_channels(64 * 2**n, width) == c for n, c in enumerate(channels))


def test_sixteenth_width_is_small_enough_to_ship():
    model = TransferCnn14(10, 64, width=1 / 16)
    assert 0.25e6 < sum(p.numel() for p in model.parameters()) < 0.35e6


@all_models
def test_shortest_clip_passes_and_a_shorter_one_is_refused(name):
    shrink = SHRINK.get(name, 32)
    assert random_model(name)(random_features(batch=1, frames=shrink)).isfinite().all()
    with pytest.raises(ValueError, match=f"{shrink - 1} frames.*too short"):
        random_model(name)(random_features(batch=1, frames=shrink - 1))


@all_models
def test_too_few_bins_for_the_pooling_are_refused(name):
    shrink = SHRINK.get(name, 32)
    with torch.device("meta"):
        MODELS[name](2, shrink)
        with pytest.raises(ValueError, match=f"at least {shrink}, got {shrink - 1}"):
            MODELS[name](2, shrink - 1)


@pytest.mark.parametrize("shape", [(64, 101), (1, 64, 101), (2, 2, 64, 101), (2, 1, 32000)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(batch, 1, 64, time\)"):
        random_model("Cnn14")(torch.zeros(shape))


def test_features_of_another_front_end_are_refused():
    with pytest.raises(ValueError, match="257 bins, the model was built for 64: is this the proc"):
        random_model("Cnn14")(torch.zeros(1, 1, 257, 101))


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf, 1e308, True])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match="width must be a positive number"):
        TransferCnn14(10, 64, width=width)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        TransferCnn14(0, 64, width=1 / 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 2, "num_bins": 64}, "need a 'name'"),
        ({"name": "Cnn15", "num_classes": 2, "num_bins": 64}, "unknown model 'Cnn15'.*Cnn14"),
        (
            {"name": "Cnn6", "num_classes": 2, "num_bins": 64, "width": 0.5},
            "Cnn6 has no setting width: it takes num_classes, num_bins",
        ),
        ({"name": ["Cnn14"], "num_classes": 2, "num_bins": 64}, "unknown model"),
        ({"name": "Cnn14", "num_classes": 2, "num_bins": 64, "width": "1"}, "do not fit Cnn14"),
        ({"name": "Cnn6", "num_classes": 10**30, "num_bins": 64}, "do not fit Cnn6"),
    ],
)
def test_settings_that_fit_no_model_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(settings)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_do_not_depend_on_the_memory_format(name, training):
    """A permuted batch norm before channels-last convolutions has wrong gradients in torch 2.11."""
    model = build_model({"name": name, "num_classes": 3, "num_bins": 64}, seed=0).double()
    model.base.bn0.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train(training)
    features = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        twin = copy.deepcopy(model).to(memory_format=memory_format)
        inputs = features.clone().requires_grad_()
        twin(inputs)[:, 0].sum().backward()
        found.append((inputs.grad, twin.base.bn0.weight.grad))
    for plain, channels_last in zip(*found, strict=True):
        assert torch.allclose(plain, channels_last, rtol=1e-6, atol=1e-9 * plain.abs().max())
