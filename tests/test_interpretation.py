"""What every attribution method promises, whatever it computes."""

from __future__ import annotations

import inspect
import json
import re
import warnings

import pytest
import torch
from decoders import weights_for
from torch import nn

from audiointerp.interpretation import METHODS, AdditivityWarning, Interpreter, Quickshift
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.segmentation import Grid, Time
from audiointerp.model.planes import tokens_to_plane
from audiointerp.registry import UnknownNameError
from audiointerp.speed.precision import PRECISIONS, computing

BINS, FRAMES, CLASSES = 12, 20, 3
SETTINGS = {
    "lime": {
        "num_samples": 40,
        "batch_size": 16,
        "base": -4.0,
        "segmentation": Quickshift(kernel_size=1.5, max_dist=4),
    },
    "scorecam": {"base": -4.0},
    "input_gradient": {"base": -4.0},
    "integrated_gradients": {"base": -4.0},
    "deeplift": {"base": -4.0},
    "kernelshap": {"num_samples": 150, "base": -4.0, "segmentation": Grid(6, 10)},
    "permutation_shap": {"num_permutations": 2, "base": -4.0, "segmentation": Grid(6, 10)},
    "occlusion": {"window": (2, 2), "stride": (1, 1), "base": -4.0},
    "rise": {"num_samples": 400, "base": -4.0},
    "freqrise": {"num_samples": 400, "grid": (6, 10), "base": -4.0},
    "sobol": {"num_designs": 8, "segmentation": Grid(6, 10), "base": -4.0},
    "linear_surrogate": {"num_samples": 60, "segmentation": Time(frames=2), "base": -4.0},
    "forest_surrogate": {
        "num_samples": 60,
        "trees": 50,
        "segmentation": Time(frames=2),
        "base": -4.0,
    },
    **{
        name: {"base": -4.0} for name in ("lrp", "lrp_epsilon", "lrp_gamma", "lrp_zplus", "attnlrp")
    },
}


class Net(nn.Module):
    """A small classifier with all that could go wrong: batch norm, dropout, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, CLASSES)

    @property
    def target_layer(self) -> nn.Module:
        return self.relu2

    def forward(self, x):
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.head(self.dropout(x).mean((2, 3)))


class AttendingNet(Net):
    """`Net` whose cells attend to each other before their mean: a transformer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.activation_axes = tokens_to_plane(BINS // 2, FRAMES // 2)

    def forward(self, x):
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x))).flatten(2).mT
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.dropout(x).mean(1))


def needs_attention(name: str) -> bool:
    return "attention" in METHODS[name].requires


@pytest.fixture
def model(request):
    """Return the classifier, with attention for a method that explains by it."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = AttendingNet() if name in METHODS and needs_attention(name) else Net()
        net(4 * torch.randn(32, 1, BINS, FRAMES))  # moves the batch norms' statistics
    return net.eval()


@pytest.fixture
def features():
    return 4 * torch.randn(4, 1, BINS, FRAMES, generator=torch.Generator().manual_seed(2))


def build(name: str, model: nn.Module, **options: object) -> Interpreter:
    settings = SETTINGS.get(name, {}) | options
    if "background" in METHODS[name].requires:
        weight = next(model.parameters())
        generator = torch.Generator().manual_seed(3)
        background = torch.randn(3, 1, BINS, FRAMES, generator=generator)
        settings["background"] = background.to(weight)
    settings = weights_for(name, model, torch.full((1, 1, BINS, FRAMES), -4.0)) | settings
    return METHODS[name](model, **settings)


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    )


OWN_HEAD = {"l2i"}
"""Methods that put a trained layer in place of those after the last one they look at."""
pytestmark = pytest.mark.filterwarnings("error::UserWarning")
WITHOUT_TRUTH = [name for name in METHODS if "truth" not in METHODS[name].requires]
each_method = pytest.mark.parametrize("name", sorted(WITHOUT_TRUTH))
FOLLOWING = sorted(name for name in METHODS if not METHODS[name].reference)
follows_network = pytest.mark.parametrize("name", FOLLOWING)


def test_the_four_methods_are_registered():
    assert set(METHODS) >= {"saliency", "gradcam", "lime", "shap"}
    assert all(METHODS[name].name == name for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_facts_of_a_method_are_stated(name):
    method = METHODS[name]
    assert isinstance(method.facts, Facts)
    assert (method.facts.family == "reference") == method.reference
    assert method.facts.fails[0].isupper()
    assert not method.facts.fails.endswith(".")
    if method.facts.draws:
        assert "seed" in inspect.signature(method).parameters


VERSIONS = re.compile(r"(?:about )?(\d+) forward(?:, (\d+) backward)?")
COUNTED = sorted(
    name
    for name, method in METHODS.items()
    # Rules of relevance run parts of the network again in the backward pass.
    if VERSIONS.fullmatch(method.facts.passes) and method.facts.family != "relevance"
)


@pytest.mark.parametrize("name", COUNTED)
def test_the_passes_are_those_that_are_stated(name, model):
    """With the default settings, on cells enough for their grids."""
    cells = 4 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    rows = {"forward": 0, "backward": 0}

    def count_backward(gradient):
        rows["backward"] += len(gradient)

    def count(module, inputs, output):
        rows["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(count_backward)

    model.conv1.register_forward_hook(count)
    METHODS[name](model, fold_batch_norm=False).attribute(cells, 0)
    forward, backward = VERSIONS.fullmatch(METHODS[name].facts.passes).groups(default="0")
    assert rows == {"forward": int(forward), "backward": int(backward)}


@each_method
def test_a_map_adds_up_to_what_the_method_promises(name, model, features):
    explanation = build(name, model.double()).explain(features.double(), 1)
    promised = bool(METHODS[name].facts.sums_to)
    assert ("residual" in explanation.diagnostics) == promised
    if promised:
        assert (explanation.diagnostics["residual"] < METHODS[name].facts.sums_within).all()


def test_an_unknown_method_lists_the_choices():
    with pytest.raises(UnknownNameError, match=r"saliency.*gradcam.*lime.*shap"):
        METHODS["gradcm"]


@follows_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_map_has_the_features_shape_dtype_and_device_and_both_signs(
    name, dtype, model, features
):
    interpreter = build(name, model.to(dtype))
    maps = [interpreter.attribute(features.to(dtype), target) for target in range(CLASSES)]
    for attribution in maps:
        assert attribution.shape == features.shape
        assert attribution.dtype == dtype
        assert attribution.device == features.device
        assert not attribution.requires_grad
        assert attribution.isfinite().all()
    assert (torch.cat(maps) > 0).any()
    assert (torch.cat(maps) < 0).any() == METHODS[name].facts.signed


@each_method
@pytest.mark.parametrize("precision", PRECISIONS)
def test_in_a_lower_precision_the_map_is_about_the_same_in_the_features_dtype(
    name, precision, model, features
):
    interpreter = build(name, model)
    exact = interpreter.attribute(features, 0)
    with computing(precision, features.device), warnings.catch_warnings():
        warnings.simplefilter("ignore", AdditivityWarning)
        found = interpreter.attribute(features, 0)
    assert found.dtype == features.dtype
    same = precision != "bfloat16" or METHODS[name].reference
    assert torch.equal(found, exact) == same
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.95


@follows_network
def test_a_model_that_has_changed_is_explained_as_it_is_now(name, model, features):
    interpreter = build(name, model)
    before = interpreter.attribute(features, 0)
    model.conv2.weight.data.mul_(-1.5)
    after = interpreter.attribute(features, 0)
    assert not torch.allclose(after, before)
    assert torch.equal(after, build(name, model).attribute(features, 0))


@each_method
def test_a_clip_alone_gives_the_map_it_gives_in_a_batch(name, model, features):
    interpreter = build(name, model)
    together = interpreter.attribute(features)
    for index in range(len(features)):
        alone = interpreter.attribute(features[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-6)


@each_method
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 4}])
def test_the_batch_size_and_the_copy_made_for_speed_change_nothing(name, options, model, features):
    plain = build(name, model.double(), batch_size=100, fold_batch_norm=False)
    for target in (None, torch.tensor([0, 1, 2, 1])):
        expected = plain.attribute(features.double(), target)
        found = build(name, model, **options).attribute(features.double(), target)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@each_method
def test_a_batch_size_below_one_is_refused(name, model):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        build(name, model, batch_size=0)


@each_method
def test_neighbours_and_their_order_do_not_matter(name, model, features):
    interpreter = build(name, model)
    target = torch.tensor([0, 1, 2, 1])
    order = torch.tensor([2, 0, 3, 1])
    straight = interpreter.attribute(features, target)
    shuffled = interpreter.attribute(features[order], target[order])
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-4, atol=1e-6)


@each_method
def test_the_default_target_is_the_predicted_class(name, model, features):
    interpreter = build(name, model)
    predicted = model(features).argmax(1)
    explanation = interpreter.explain(features)
    assert torch.equal(explanation.target, predicted)
    torch.testing.assert_close(
        explanation.attribution, interpreter.attribute(features, predicted), rtol=0, atol=0
    )


@follows_network
def test_one_class_for_all_equals_that_class_for_each(name, model, features):
    interpreter = build(name, model)
    one = interpreter.attribute(features, 2)
    each = interpreter.attribute(features, torch.full((4,), 2, dtype=torch.int32))
    other = interpreter.attribute(features, 0)
    assert torch.equal(one, each)
    assert torch.allclose(one, other) != METHODS[name].facts.class_sensitive


@each_method
def test_two_calls_give_the_same_bits(name, model, features):
    interpreter = build(name, model.train())
    assert torch.equal(interpreter.attribute(features), interpreter.attribute(features))


@each_method
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_found(name, fails, model, features):
    interpreter = build(name, model)
    model.train()
    model.bn2.eval()
    model.conv2.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    grads = {key: parameter.grad for key, parameter in model.named_parameters()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {m: set(vars(m)) for m in model.modules()}
    modes = [m.training for m in model.modules()]
    if fails:
        with pytest.raises(ValueError, match="out of range"):
            interpreter.attribute(features, CLASSES)
    else:
        interpreter.attribute(features, 1)
    assert [m.training for m in model.modules()] == modes
    assert {m: set(vars(m)) for m in model.modules()} == attributes
    assert hooks_of(model) == 0
    assert model.relu1.inplace
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for key, parameter in model.named_parameters():
        assert parameter.grad is grads[key]
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
        assert parameter.requires_grad == (key != "conv2.weight")


@each_method
def test_a_model_that_raises_is_left_as_it_was_found(name, model, features):
    class Breaks(nn.Module):
        broken = False

        def forward(self, x):
            if self.broken:
                raise RuntimeError("broken on purpose")
            return x

    model.dropout = Breaks()
    interpreter = build(name, model.train())
    model.dropout.broken = True
    with pytest.raises(RuntimeError, match="broken on purpose"):
        interpreter.attribute(features)
    assert hooks_of(model) == 0
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all("forward" not in vars(module) for module in model.modules())


@each_method
def test_the_features_are_not_changed(name, model, features):
    before = features.clone()
    build(name, model).attribute(features)
    assert torch.equal(features, before)
    assert not features.requires_grad


@each_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(name, mode, model, features):
    expected = build(name, model).attribute(features, 1)
    with mode():
        got = build(name, model).attribute(features.clone(), torch.ones(4, dtype=torch.int64))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_methods_that_share_a_model_do_not_disturb_each_other(model, features):
    names = [name for name in WITHOUT_TRUTH if not needs_attention(name)]
    interpreters = {name: build(name, model) for name in names}
    fresh = {name: each.attribute(features) for name, each in interpreters.items()}
    for name in reversed(names):
        assert torch.equal(interpreters[name].attribute(features), fresh[name])


@follows_network
def test_later_training_is_seen(name, model, features):
    interpreter = build(name, model)
    before = interpreter.attribute(features, 0)
    with torch.no_grad():
        model.head.weight.mul_(-2)
    after = interpreter.attribute(features, 0)
    # What tells no classes apart, or has a head of its own, takes no notice of the head.
    sees_head = METHODS[name].facts.class_sensitive and name not in OWN_HEAD
    assert torch.allclose(before, after) != sees_head


@each_method
def test_settings_are_json_and_name_the_method(name, model):
    settings = build(name, model).settings()
    assert settings["method"] == name
    assert json.loads(json.dumps(settings)) == settings


@each_method
def test_diagnostics_hold_one_number_per_clip(name, model, features):
    for value in build(name, model).explain(features).diagnostics.values():
        assert value.shape == (len(features),)
        assert value.isfinite().all()


@each_method
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[:, 0], ValueError, r"\(batch, 1, freq, time\).*\(4, 12, 20\)"),
        (lambda x: x.repeat(1, 2, 1, 1), ValueError, r"\(4, 2, 12, 20\)"),
        (lambda x: x[:0], ValueError, r"none of them 0"),
        (lambda x: x.long(), TypeError, "floating point, got torch.int64"),
        (lambda x: x.numpy(), TypeError, "a Tensor or a View, got ndarray"),
        (lambda x: x.index_fill(0, torch.tensor([2]), float("nan")), ValueError, r"\[2\].*NaN"),
    ],
)
def test_bad_features_are_named(name, change, error, message, model, features):
    with pytest.raises(error, match=message):
        build(name, model).attribute(change(features))


@each_method
@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (3, ValueError, "target 3 is out of range: the model has 3 classes, 0 to 2"),
        (-1, ValueError, "target -1 is out of range"),
        (torch.tensor([0, 1, 7, 0]), ValueError, "target 7 is out of range"),
        (torch.tensor([0, 1]), ValueError, r"one class per clip, shape \(4,\), got \(2,\)"),
        (torch.tensor([0.0, 1, 2, 0]), TypeError, "integers, got torch.float32"),
        (True, TypeError, "class index, got True"),
        ("dog", TypeError, "got str"),
        (1.0, TypeError, "got float"),
    ],
)
def test_bad_targets_are_named(name, target, error, message, model, features):
    with pytest.raises(error, match=message):
        build(name, model).attribute(features, target)


@each_method
def test_a_model_without_one_row_of_logits_per_clip_is_named(name, model, features):
    interpreter = build(name, model)
    model.head = nn.Sequential(nn.Linear(8, CLASSES), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"logits of shape \(\d, classes\).*got \(\d+,\)"):
        interpreter.attribute(features)


def test_a_model_and_processor_pair_is_not_a_model():
    with pytest.raises(TypeError, match=r"must be a Classifier or a torch\.nn\.Module, got tuple"):
        METHODS["saliency"]((nn.Identity(), nn.Identity()))


def test_a_gradient_that_overflows_is_an_error_not_a_map():
    class Overflows(nn.Module):
        def forward(self, x):
            return x.abs().sqrt().flatten(1)  # the derivative at 0 is not finite

    with pytest.raises(ValueError, match=r"clips \[1\].*not finite"):
        METHODS["saliency"](Overflows()).attribute(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))


class Loudness(nn.Module):
    """Class 0 is how far cells lie above 0 with their neighbours, summed; class 1 its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        nn.init.constant_(self.conv.weight, 1 / 9)
        nn.init.zeros_(self.conv.bias)
        self.relu = nn.ReLU()
        self.head = nn.Linear(1, 2)
        self.head.weight.data = torch.tensor([[1.0], [-1.0]])
        nn.init.zeros_(self.head.bias)

    @property
    def target_layer(self) -> nn.Module:
        return self.relu

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).sum((2, 3)))


class AttendingLoudness(Loudness):
    """`Loudness` whose cells all attend to the loud ones, and add what they read."""

    activation_axes = staticmethod(tokens_to_plane(BINS, FRAMES))

    def forward(self, x):
        x = self.relu(self.conv(x)).flatten(2).mT
        weights = (x.mT.expand(-1, x.shape[1], -1) / 10).softmax(-1)
        return self.head((x + weights @ x).sum(1))


ONLY_IN_TIME: set[str] = {"forest_surrogate", "linear_surrogate"}
"""Methods that by default tell frames apart, not bins."""

ONLY_WHERE_THE_SLOPE_CHANGES = {"vargrad"}
"""Methods whose map is 0 where the logit is linear in a cell, as it is inside of an impulse."""


@pytest.mark.parametrize(
    "name", sorted(name for name in FOLLOWING if name not in ONLY_WHERE_THE_SLOPE_CHANGES)
)
@pytest.mark.parametrize(("freq", "time"), [(3, 14), (9, 5)])
def test_an_impulse_is_found_where_it_is(name, freq, time):
    """Neither transposed nor mirrored nor shifted by more than the kernel reaches."""
    model = AttendingLoudness() if needs_attention(name) else Loudness()
    cells = torch.full((1, 1, BINS, FRAMES), -4.0)
    cells[..., freq : freq + 2, time : time + 2] = 60
    background = {}
    if "background" in METHODS[name].requires:
        background["background"] = torch.full((2, 1, BINS, FRAMES), -4.0)
    settings = SETTINGS.get(name, {}) | background | weights_for(name, model, cells)
    found = METHODS[name](model, **settings).attribute(cells, 0)[0, 0]
    row, column = divmod(int(found.argmax()), FRAMES)
    if name not in ONLY_IN_TIME:
        assert freq - 1 <= row <= freq + 2
    assert time - 1 <= column <= time + 2
    assert found.max() > 2 * found.median()
