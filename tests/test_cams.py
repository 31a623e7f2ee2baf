"""Class activation maps against grad-cam, formulas in NumPy, and closed forms on small networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from test_gradcam import FreqFirst, TimeFirst, impulse, peak
from torch import nn

import audiointerp as ai
from audiointerp.interpretation import METHODS
from audiointerp.interpretation.base import as_view
from audiointerp.model.heads import build_head
from audiointerp.model.planes import frames_to_plane, tokens_to_plane
from audiointerp.runs.recipe import build_interpreter

CAMS = [name for name, method in METHODS.items() if method.facts.family == "CAM"]
BASE = -3.0
SETTINGS = {"scorecam": {"base": BASE}}
each_cam = pytest.mark.parametrize("name", CAMS)


def build(name, model, layers=None, **options):
    return METHODS[name](model, layers, **(SETTINGS.get(name, {}) | options))


def made(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return a network in double precision with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return network.double().eval()


def clips(count: int = 3, bins: int = 8, frames: int = 12, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, bins, frames, generator=generator, dtype=torch.float64)


def test_all_cams_are_here():
    assert set(CAMS) == {
        *("gradcam", "gradcamplusplus", "hirescam", "xgradcam", "layercam", "eigencam"),
        *("eigengradcam", "finercam", "scorecam", "ablationcam"),
    }
    assert list(METHODS)[:4] == ["saliency", "gradcam", "lime", "shap"]


# --- formulas, by hand, one clip at a time ------------------------------------------------------


def component(values: np.ndarray) -> np.ndarray:
    """Return the projection on the first right singular vector, whose entries sum to 0 or more."""
    matrix = values.reshape(len(values), -1).T
    _, _, right = np.linalg.svd(matrix, full_matrices=False)
    vector = right[0] if right[0].sum() >= 0 else -right[0]
    return (matrix @ vector).reshape(values.shape[1:])


def over(channels: np.ndarray, planes: np.ndarray) -> np.ndarray:
    return np.tensordot(channels, planes, 1)


def resized(plane: np.ndarray, cells: torch.Tensor) -> np.ndarray:
    """Return a plane at the size of cells: linear between cell centres, constant beyond."""
    for axis, size in enumerate(cells.shape[2:]):
        places = (np.arange(size) + 0.5) * plane.shape[axis] / size - 0.5
        known = np.arange(plane.shape[axis])
        plane = np.apply_along_axis(
            lambda line, x, at: np.interp(x, at, line), axis, plane, places, known
        )
    return plane


def plus_plus(gradients: np.ndarray, planes: np.ndarray) -> np.ndarray:
    weights = np.zeros(len(planes))
    for k, (gradient, plane) in enumerate(zip(gradients, planes, strict=True)):
        for g in gradient.flatten():
            if g > 0:
                weights[k] += g * g**2 / (2 * g**2 + max(plane.sum(), 0) * g**3)
    return over(weights, planes)


FORMULAS = {
    "gradcam": lambda g, a: over(g.mean((1, 2)), a),
    "gradcamplusplus": plus_plus,
    "hirescam": lambda g, a: (g * a).sum(0),
    "xgradcam": lambda g, a: over((g * a).sum((1, 2)) / a.sum((1, 2)), a),
    "layercam": lambda g, a: (np.maximum(g, 0) * a).sum(0),
    "eigencam": lambda g, a: component(a),
    "eigengradcam": lambda g, a: component(g * a),
    "finercam": lambda g, a: over(g.mean((1, 2)), a),
}


class Case(NamedTuple):
    """A classifier, its clips, a layer, and how its activation of one clip lies in (C, F, T)."""

    classifier: ai.Classifier
    view: ai.View
    layer: str
    arrange: Callable[[np.ndarray], np.ndarray]


@contextmanager
def hooked(network, layer, hook):
    handle = network.get_submodule(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits_of(case: Case, view: ai.View, cells: torch.Tensor, change=lambda output: output):
    with hooked(case.classifier.network, case.layer, lambda m, i, output: change(output)):
        return case.classifier.logits(cells, view)[0]


def weights_by_hand(name: str, case: Case, view: ai.View, target: int, planes: np.ndarray):
    weights = np.zeros(len(planes))
    with torch.no_grad():
        whole = logits_of(case, view, view.cells)[target].item()
        for k, plane in enumerate(planes):
            if name == "scorecam":
                mask = resized(plane, view.cells)
                mask = (mask - mask.min()) / (np.ptp(mask) or 1)
                cells = BASE + (view.cells - BASE) * torch.from_numpy(mask)
                weights[k] = logits_of(case, view, cells)[target].item()
            else:

                def without(output, k=k):
                    changed = output.clone().numpy()
                    where = case.arrange(np.arange(changed.size).reshape(changed.shape))[k]
                    changed.reshape(-1)[where.flatten()] = 0
                    return torch.from_numpy(changed)

                weights[k] = whole - logits_of(case, view, view.cells, without)[target].item()
    if name == "scorecam":
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
    return weights


def by_hand(name: str, case: Case, view: ai.View, target: int) -> np.ndarray:
    """Return the map of one clip: a view of length 1."""
    seen = []

    def keep(output):
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    with torch.enable_grad():
        logits = logits_of(case, view, view.cells, keep)
        scores = logits.tolist()
        gradients = [
            torch.autograd.grad(logit, seen[0], retain_graph=True)[0].numpy() for logit in logits
        ]
    gradient = gradients[target]
    if name == "finercam":
        others = sorted(set(range(len(scores))) - {target})
        others.sort(key=lambda other: abs(scores[other] - scores[target]))
        share = np.exp([scores[other] for other in others[:3]])
        share /= share.sum()
        for weight, other in zip(share, others[:3], strict=True):
            gradient = gradient - weight * gradients[other]
    planes = case.arrange(seen[0].detach().numpy())
    if name in FORMULAS:
        small = FORMULAS[name](case.arrange(gradient), planes)
    else:
        small = over(weights_by_hand(name, case, view, target, planes), planes)
    return resized(small, view.cells)


class Planes(nn.Module):
    """Convolutions on (batch, 1, freq, time), or the other way around, with pooling between."""

    def __init__(self, classes=5, *, time_first=False, activation=nn.ReLU):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, (3, 5), padding=(1, 2))
        self.layer = activation()
        self.pool = nn.AvgPool2d(2)
        self.deep = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), activation())
        self.head = nn.Linear(4 * 6, classes)
        self.time_first = time_first

    def forward(self, cells):
        cells = cells.transpose(2, 3) if self.time_first else cells
        hidden = self.deep(self.pool(self.layer(self.conv1(cells))))
        return self.head(nn.functional.max_pool2d(hidden, 2).flatten(1))


class Waveform(nn.Module):
    """One-dimensional convolutions on (batch, samples)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 5, 16, stride=8)
        self.layer = nn.ReLU()
        self.conv2 = nn.Conv1d(5, 4, 8, stride=4)
        self.head = nn.Linear(4, 3)

    def forward(self, waveform):
        hidden = self.layer(10 * self.conv1(waveform[:, None]))
        return self.head(self.conv2(hidden).tanh().amax(2))


class Tokens(nn.Module):
    """A transformer on patches of 4 x 4 cells, after a class token that is read in the end."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 4, stride=4)
        self.start = nn.Parameter(torch.zeros(1, 1, 8))
        options = {"dim_feedforward": 12, "batch_first": True, "dropout": 0.0}
        self.block = nn.TransformerEncoderLayer(8, 2, **options)
        self.last = nn.TransformerEncoderLayer(8, 2, **options)
        self.head = nn.Linear(8, 4)

    def forward(self, cells):
        patches = self.embed(cells).flatten(2).mT
        tokens = torch.cat([self.start.expand(len(cells), -1, -1), patches], 1)
        return self.head(self.last(self.block(tokens))[:, 0])


class Frames(nn.Module):
    """Cuts each clip into three pieces in the batch axis, which keep (time, freq)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4 * 4 * 8, 3)

    def forward(self, cells):
        pieces = cells.unflatten(3, (3, 4)).permute(0, 3, 1, 4, 2).flatten(0, 1)
        return self.head(self.layer(pieces).flatten(1)).unflatten(0, (-1, 3)).amax(1)


class FrameMajor(Frames):
    """The same, but all first pieces lie before all second ones."""

    def forward(self, cells):
        pieces = cells.unflatten(3, (3, 4)).permute(3, 0, 1, 4, 2).flatten(0, 1)
        return self.head(self.layer(pieces).flatten(1)).unflatten(0, (3, -1)).amax(0)


class TimeMajor(nn.Module):
    """Keeps (time, batch, channel), as recurrent networks do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, cells):
        return self.head(self.layer(cells[:, 0].permute(2, 0, 1))).tanh().sum(0)


class Around(nn.Module):
    """A residual connection around the layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.layer = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, cells):
        hidden = self.conv1(cells)
        return self.head((hidden + self.layer(hidden)).tanh().amax((2, 3)))


class Beside(Around):
    """What goes around the layer is concatenated with what comes out of it."""

    def forward(self, cells):
        hidden = self.conv1(cells)
        joined = torch.cat([hidden[:, :2], self.layer(hidden)[:, 2:]], 1)
        return self.head(joined.tanh().amax((2, 3)))


class Counts(Around):
    """Counts the rows that come out of the layer."""

    def forward(self, cells):
        hidden = self.conv1(cells)
        changed = self.layer(hidden)
        return self.head(len(hidden) / len(changed) * changed.tanh().amax((2, 3)))


def wave_view(front_end) -> ai.View:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3, 1, 800, generator=generator, dtype=torch.float64)
    return front_end.analyse(0.1 * noise)


def planes_case(head="softmax", **options) -> Case:
    network = made(Planes(1 if head == "binary" else 5, **options))
    axes = ("time", "freq") if network.time_first else None
    order = (0, 2, 1) if network.time_first else (0, 1, 2)
    classifier = ai.Classifier(network, head=build_head(head), activation_axes=axes)
    return Case(classifier, as_view(clips()), "layer", lambda a: a[0].transpose(order))


def waveform_case() -> Case:
    front_end = ai.WaveformFrontEnd(sample_rate=8000, n_fft=64, hop_length=16)
    classifier = ai.Classifier(made(Waveform()), front_end, activation_axes=("channel", "time"))
    return Case(classifier, wave_view(front_end), "layer", lambda a: a[0][:, None])


CASES = {
    "planes": planes_case,
    "tanh": lambda: planes_case(activation=nn.Tanh),
    "time first": lambda: planes_case(time_first=True),
    "sigmoid": lambda: planes_case("sigmoid"),
    "binary": lambda: planes_case("binary"),
    "waveform": waveform_case,
    "tokens": lambda: Case(
        ai.Classifier(made(Tokens()), activation_axes=tokens_to_plane(2, 3, prefix=1)),
        as_view(clips()),
        "block",
        lambda a: a[0, 1:].T.reshape(8, 2, 3),
    ),
    "frames": lambda: Case(
        ai.Classifier(
            made(Frames()), activation_axes=frames_to_plane(3, axes=("channel", "time", "freq"))
        ),
        as_view(clips()),
        "layer",
        lambda a: a.transpose(1, 3, 0, 2).reshape(4, 8, 12),
    ),
    "frame major": lambda: Case(
        ai.Classifier(
            made(FrameMajor()),
            activation_axes=lambda name, a: (
                a.unflatten(0, (3, -1)).permute(1, 2, 4, 0, 3).flatten(3)
            ),
        ),
        as_view(clips()),
        "layer",
        lambda a: a.transpose(1, 3, 0, 2).reshape(4, 8, 12),
    ),
    "time major": lambda: Case(
        ai.Classifier(
            made(TimeMajor()), activation_axes=lambda name, a: a.permute(1, 2, 0)[:, :, None]
        ),
        as_view(clips()),
        "layer",
        lambda a: a[:, 0].T[:, None],
    ),
    "residual": lambda: Case(
        ai.Classifier(made(Around())), as_view(clips()), "layer", lambda a: a[0]
    ),
    "beside": lambda: Case(
        ai.Classifier(made(Beside())), as_view(clips()), "layer", lambda a: a[0]
    ),
    "counts": lambda: Case(
        ai.Classifier(made(Counts())), as_view(clips()), "layer", lambda a: a[0]
    ),
}


@each_cam
@pytest.mark.parametrize("case", CASES)
def test_the_map_is_the_one_made_by_hand(name, case):
    case = CASES[case]()
    targets = torch.tensor([1, 0, 1])
    found = build(name, case.classifier, case.layer).attribute(case.view, targets)
    for index, target in enumerate(targets.tolist()):
        expected = by_hand(name, case, case.view[index : index + 1], target)
        error = np.abs(found[index, 0].numpy() - expected).max()
        assert error <= 1e-9 * np.abs(expected).max()


@each_cam
@pytest.mark.parametrize("case", CASES)
def test_alone_and_in_small_batches_the_maps_are_the_same(name, case):
    case = CASES[case]()
    whole = build(name, case.classifier, case.layer).attribute(case.view, 1)
    small = build(name, case.classifier, case.layer, batch_size=1).attribute(case.view, 1)
    alone = build(name, case.classifier, case.layer).attribute(case.view[1:2], 1)
    torch.testing.assert_close(small, whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-9, atol=1e-12)


# --- closed forms -------------------------------------------------------------------------------


class Mean(nn.Module):
    """A linear head on the mean over the plane of non-negative channels: `CAM` is exact."""

    def __init__(self, classes=4, channels=6):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.layer = nn.ReLU()
        self.head = nn.Linear(channels, classes)

    @property
    def target_layer(self):
        return self.layer

    def forward(self, cells):
        return self.head(self.layer(self.conv(cells)).mean((2, 3)))


CLOSED = {
    # w: the head's weights of the class (K,), m: the channels' means (K,), n: cells of the plane
    "gradcam": lambda w, m, n: w / n,
    "hirescam": lambda w, m, n: w / n,
    "xgradcam": lambda w, m, n: w / n,
    "layercam": lambda w, m, n: w.clamp(min=0) / n,
    "gradcamplusplus": lambda w, m, n: w.clamp(min=0) / (2 + w.clamp(min=0) * m),
    "ablationcam": lambda w, m, n: w * m,
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_with_a_linear_head_on_the_mean_the_weights_are_known(name, scale):
    # The smaller head has gradients whose squares are far below any constant that is added to them.
    network, cells = made(Mean()), clips()
    with torch.no_grad():
        network.head.weight.mul_(scale)
        planes = network.layer(network.conv(cells))
    for target in range(4):
        channel = CLOSED[name](network.head.weight[target], planes.mean((2, 3)), 8 * 12)
        expected = (channel.expand(3, -1)[:, :, None, None] * planes).sum(1, keepdim=True)
        found = build(name, network).attribute(cells, target)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-15)


def test_the_hirescam_map_of_a_linear_rest_adds_up_to_the_logit():
    network = made(
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(288, 2))
    )
    cells = clips()
    for name in ("hirescam", "xgradcam"):
        total = build(name, network, "1").attribute(cells, 1).sum((1, 2, 3))
        torch.testing.assert_close(total, network(cells)[:, 1].detach() - network[3].bias[1])
    assert not np.allclose(build("gradcam", network, "1").attribute(cells, 1).sum((1, 2, 3)), total)


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_finercam_is_gradcam_of_a_difference(gamma):
    network, cells = made(Mean(classes=6)), clips()
    maps = torch.stack([build("gradcam", network).attribute(cells, c) for c in range(6)], 1)
    logits = network(cells).detach()
    found = build("finercam", network, num_similar=2, gamma=gamma).attribute(cells, 4)
    for index in range(3):
        distance = {c: abs(logits[index, c] - logits[index, 4]).item() for c in range(6) if c != 4}
        first, second = sorted(distance, key=distance.get)[:2]
        chance = (logits[index, [first, second]]).softmax(0)
        similar = chance[0] * maps[index, first] + chance[1] * maps[index, second]
        torch.testing.assert_close(found[index], maps[index, 4] - gamma * similar)


def test_with_two_classes_finercam_compares_with_the_other():
    case = CASES["binary"]()
    plain = build("gradcam", case.classifier, "layer").attribute(case.view, 1)
    for gamma in (1.0, 0.5):
        finer = build("finercam", case.classifier, "layer", gamma=gamma)
        torch.testing.assert_close(finer.attribute(case.view, 1), (1 + gamma) * plain)


def test_finercam_needs_a_second_class():
    network = made(Planes(1))
    classifier = ai.Classifier(network, head=build_head("sigmoid"))
    with pytest.raises(ValueError, match="compares the class with others"):
        build("finercam", classifier, "layer").attribute(clips(), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "gamma must be a number of at least 0, got -1.0"),
        ({"gamma": float("nan")}, "gamma must be a number"),
        ({"num_similar": 0}, "num_similar must be a whole number of at least 1, got 0"),
    ],
)
def test_finercam_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        METHODS["finercam"](made(Mean()), **options)


# --- Eigen-CAM ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "centred"), [("eigencam", False), ("eigencam", True)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_component_correlates_with_the_activations(name, centred, sign):
    network, cells = made(Mean()), clips()
    network.layer = nn.Softplus()
    network.head = nn.Identity()
    planes = network.layer(network.conv(cells)).detach()
    # A layer of negative activations has the negative map.
    network.layer = nn.Sequential(nn.Softplus(), Times(sign))
    found = build(name, network, "layer", centred=centred).attribute(cells, 0)
    total = sign * planes.sum(1, keepdim=True)
    centre = total.mean((2, 3), keepdim=True) if centred else 0
    assert (((total - centre) * found).sum((1, 2, 3)) > 0).all()
    if not centred:
        assert (sign * found > 0).all()


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_on_a_mean_the_eigengradcam_map_has_one_sign():
    # Stated in its facts: evidence in different channels adds up, whatever its sign.
    network, cells = made(Mean()), clips()
    maps = torch.cat([build("eigengradcam", network).attribute(cells, c) for c in range(4)])
    assert (((maps >= -1e-12).flatten(1).all(1)) | ((maps <= 1e-12).flatten(1).all(1))).all()


def test_a_map_of_nothing_is_zero():
    class Silent(Mean):
        def forward(self, cells):
            return self.head(self.layer(self.conv(cells) * 0 - 1).mean((2, 3)))

    for name in CAMS:
        attribution = build(name, made(Silent()), "layer").attribute(clips(), 0)
        assert (attribution == 0).all(), name


def test_gradients_that_overflow_are_an_error_not_a_map():
    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, cells):
            return self.layer(cells).abs().sqrt().sum((2, 3)).repeat(1, 2)

    cells = torch.ones(2, 1, 2, 3)
    cells[1, 0, 0, 0] = 0
    for name in ("hirescam", "eigengradcam"):
        with pytest.raises(ValueError, match=r"clips \[1\].*not finite"):
            build(name, Overflows(), "layer").attribute(cells, 0)


# --- the library --------------------------------------------------------------------------------


class Whole(nn.Module):
    """Planes of the cells' own size, so that nothing is resized."""

    def __init__(self, activation):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.layer = activation()
        self.deep = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 8 * 12, 5)

    def forward(self, cells):
        return self.head(self.deep(self.layer(self.conv(cells))))


def raw(cam_class, network, cells, targets):
    """Return the library's map before its ReLU and its scaling to [0, 1]."""
    wanted = [ClassifierOutputTarget(target) for target in targets]
    with cam_class(model=network, target_layers=[network.layer]) as cam:
        cam(cells, wanted)
        seen = cam.activations_and_grads
        gradients = seen.gradients[0].numpy() if seen.gradients else None
        activations = seen.activations[0].numpy()
        found = cam.get_cam_image(cells, network.layer, wanted, activations, gradients, False)
    return torch.as_tensor(found)[:, None]


THEIRS = {
    "gradcam": library.GradCAM,
    "gradcamplusplus": library.GradCAMPlusPlus,
    "hirescam": library.HiResCAM,
    "xgradcam": library.XGradCAM,
    "layercam": library.LayerCAM,
    "scorecam": library.ScoreCAM,
    "ablationcam": library.AblationCAM,
    "eigencam": library.EigenCAM,
    "eigengradcam": library.EigenGradCAM,
}
OPTIONS = {
    "scorecam": {"base": 0.0},
    "eigencam": {"centred": True},
    "eigengradcam": {"centred": True},
}


# On negative activations these two differ, as their documentation says.
NEEDS_RELU = ("gradcamplusplus", "ablationcam")


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        *[(name, nn.ReLU) for name in THEIRS],
        *[(name, nn.Tanh) for name in THEIRS if name not in NEEDS_RELU],
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_the_library_gives_the_same_map_before_it_is_cut_and_scaled(name, activation, count):
    network, cells, targets = made(Whole(activation)).float(), clips(count).float(), [3, 0, 1]
    if name == "gradcamplusplus":
        with torch.no_grad():  # so that its 1e-6 adds nothing to squared gradients
            network.head.weight.mul_(1000)
    targets = targets[:count]
    expected = raw(THEIRS[name], network, cells, targets)
    found = build(name, network, "layer", **OPTIONS.get(name, {})).attribute(
        cells, torch.tensor(targets)
    )
    if name == "ablationcam":  # which divides by the logit
        expected = expected * network(cells).detach()[range(count), targets].reshape(-1, 1, 1, 1)
    if name.startswith("eigen"):  # whose sign is arbitrary
        expected = expected * (expected * found).sum((1, 2, 3), keepdim=True).sign()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", THEIRS)
def test_cut_and_scaled_the_map_is_the_librarys(name):
    network, cells = made(Whole(nn.ReLU)).float(), clips().float()
    with torch.no_grad():
        network.head.weight.mul_(1000 if name == "gradcamplusplus" else 1)
        targets = network(cells).argmax(1)
    wanted = [ClassifierOutputTarget(target) for target in targets.tolist()]
    with THEIRS[name](model=network, target_layers=[network.layer]) as cam:
        expected = cam(cells, wanted)
    found = build(name, network, "layer", **OPTIONS.get(name, {})).attribute(cells)[:, 0]
    if name.startswith("eigen"):
        theirs = raw(THEIRS[name], network, cells, targets.tolist())[:, 0]
        found = found * (theirs * found).sum((1, 2), keepdim=True).sign()
    positive = found.clamp(min=0)
    low, high = positive.amin((1, 2), keepdim=True), positive.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(((positive - low) / (high - low)).numpy(), expected, atol=1e-5)


def test_finercam_is_the_librarys_with_one_class_to_compare_with():
    # With several, the gradient of the library goes through the weights too. It adds 1e-9 to their
    # sum, which drowns classes that are far behind.
    network, cells = made(Whole(nn.ReLU)).float(), clips().float()
    with torch.no_grad():
        network.head.weight.mul_(0.02)
    with library.FinerCAM(model=network, target_layers=[network.layer]) as cam:
        expected = cam(cells, alpha=0.7, comparison_categories=[1])
    found = build("finercam", network, "layer", num_similar=1, gamma=0.7).attribute(cells)[:, 0]
    positive = found.clamp(min=0)
    low, high = positive.amin((1, 2), keepdim=True), positive.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(((positive - low) / (high - low)).numpy(), expected, atol=1e-5)


# --- Score-CAM ----------------------------------------------------------------------------------


def test_what_is_masked_out_takes_the_base():
    lowest = []

    class Looks(Mean):
        def forward(self, cells):
            lowest.append((cells.amin().item(), cells.amax().item()))
            return super().forward(cells)

    network = made(Looks())
    cells = clips() - 5
    for base, expected in ((-80.0, -80.0), (lambda x: x.amin((2, 3), keepdim=True), None)):
        lowest.clear()
        METHODS["scorecam"](network, base=base, fold_batch_norm=False).attribute(cells, 0)
        least = min(low for low, _ in lowest)
        assert least == pytest.approx(cells.amin().item() if expected is None else expected)
        assert max(high for _, high in lowest) <= cells.amax().item()


def test_constant_channels_share_one_run_and_have_a_weight():
    network, cells = made(Mean(channels=5)), clips(2)
    with torch.no_grad():
        network.conv.weight[2:] = 0
        network.conv.bias[2:] = torch.tensor([0.5, 2.0, -1.0])  # the last is 0 after the ReLU
    rows = []
    network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    found = build("scorecam", network, fold_batch_norm=False).attribute(cells, 1)
    assert sum(rows) == 2 + 2 * (2 + 1)
    network._forward_pre_hooks.clear()
    planes = network.layer(network.conv(cells)).detach()
    assert (planes[:, :2].flatten(2).std(2) > 0).all()
    with torch.no_grad():
        low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
        masks = (planes - low) / (high - low).where(high > low, torch.ones_like(high))
        masked = BASE + (cells - BASE) * masks
        scores = torch.stack([network(masked[:, k : k + 1])[:, 1] for k in range(5)], 1)
    expected = (scores.softmax(1)[:, :, None, None] * planes).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected)


def test_the_recipe_gives_scorecam_the_base_of_the_masks():
    front_end = ai.LogSTFTSpectrogram(sample_rate=8000, n_fft=64, hop_length=32)
    classifier = ai.Classifier(made(Mean()), front_end)
    for base in ("floor", "quiet"):
        method = build_interpreter("scorecam", classifier, base=base)
        assert method.settings()["base"] == {
            "name": "base_level",
            "arguments": [],
            "kind": base,
            "floor": front_end.floor,
        }
    with pytest.raises(ValueError, match="base must be a finite number or a function, got inf"):
        METHODS["scorecam"](classifier, base=float("inf"))


# --- Ablation-CAM -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "from_layer_on"),
    [
        ("planes", True),
        ("tokens", True),
        ("frames", True),
        ("waveform", True),
        ("residual", True),
        ("beside", False),
        ("counts", False),
        ("frame major", False),
        ("time major", False),
    ],
)
def test_the_network_runs_from_the_layer_on_where_it_can(case, from_layer_on):
    case = CASES[case]()
    network, rows = case.classifier.network, []
    handle = network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    build("ablationcam", case.classifier, case.layer, fold_batch_norm=False).attribute(case.view, 1)
    handle.remove()
    with torch.no_grad():
        seen = []
        with hooked(network, case.layer, lambda m, i, output: seen.append(output)):
            case.classifier.logits(case.view.cells, case.view)
    planes = case.classifier.to_plane(case.layer, seen[0])
    alive = int((planes != 0).flatten(2).any(2).sum())
    clips_run, trial = 3, 1
    expected = clips_run + trial + (clips_run if from_layer_on else alive)
    assert sum(rows) == expected


def test_dead_channels_are_not_run():
    network, cells = made(Mean(channels=6)), clips(2)
    with torch.no_grad():
        network.conv.bias[:4] = -100
    rows = []
    network.head.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    build("ablationcam", network, fold_batch_norm=False).attribute(cells, 0)
    assert rows == [2, 2, 2, 2]  # the clips; the trial; two channels of each clip


def test_a_negative_logit_does_not_turn_the_map_around():
    network, cells = made(Mean()), clips()
    plain = build("ablationcam", network).attribute(cells, 0)
    with torch.no_grad():
        network.head.bias[0] -= 1000
    torch.testing.assert_close(build("ablationcam", network).attribute(cells, 0), plain)


@pytest.mark.parametrize(
    "axes",
    [
        lambda name, activation: activation.double().unflatten(1, (3, 2)).mean(2),
        lambda name, activation: activation * 2,
    ],
)
def test_planes_that_are_not_the_layers_values_cannot_be_ablated(axes):
    classifier = ai.Classifier(made(Mean()), activation_axes=axes)
    assert build("gradcam", classifier).attribute(clips(), 0).isfinite().all()
    with pytest.raises(ValueError, match="not its values in another order"):
        build("ablationcam", classifier).attribute(clips(), 0)


def test_blocks_that_return_tuples_are_ablated():
    class Block(nn.Module):
        def forward(self, hidden):
            return hidden.relu(), None

    class Unpacks(Mean):
        def __init__(self):
            super().__init__()
            self.layer = Block()

        def forward(self, cells):
            return self.head(self.layer(self.conv(cells))[0].mean((2, 3)))

    found = build("ablationcam", made(Unpacks())).attribute(clips(), 2)
    torch.testing.assert_close(found, build("ablationcam", made(Mean())).attribute(clips(), 2))


@pytest.mark.parametrize("name", ["scorecam", "ablationcam"])
def test_progress_is_shown_on_request(name, capsys):
    build(name, made(Mean()), progress=True).attribute(clips(), 0)
    assert "channel" in capsys.readouterr().err
    build(name, made(Mean())).attribute(clips(), 0)
    assert not capsys.readouterr().err


# --- orientation, layers, settings --------------------------------------------------------------


@each_cam
@pytest.mark.parametrize("model", [TimeFirst(), FreqFirst()])
@pytest.mark.parametrize(("bin_", "frame"), [(5, 9), (26, 10), (6, 85), (29, 62)])
def test_an_off_centre_impulse_is_found_at_its_frequency_and_time(name, model, bin_, frame):
    found = peak(build(name, model).attribute(impulse(bin_, frame), 0))
    assert abs(found[0] - bin_) <= 4
    assert abs(found[1] - frame) <= 4


@each_cam
def test_panns_keep_time_first(name):
    # Positive weights only: more energy anywhere can only raise every activation there.
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 64, "width": 0.0625}
    model = ai.model.build_model(settings, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    features = torch.zeros(1, 1, 64, 128)
    features[0, 0, 44:52, 20:28] = 30
    found = peak(build(name, model, "base.conv_block2").attribute(features, 0))
    assert 40 <= found[0] < 56
    assert 16 <= found[1] < 32


@each_cam
def test_several_layers_are_averaged_at_equal_size(name):
    case = CASES["planes"]()
    one, two = (
        build(name, case.classifier, at).attribute(case.view, 1) for at in ("layer", "deep")
    )
    method = build(name, case.classifier, ["deep", "layer"])
    assert method.settings()["target_layers"] == ["deep", "layer"]
    both = method.attribute(case.view, 1)
    parts = [each / each.abs().amax((1, 2, 3), keepdim=True) for each in (one, two)]
    torch.testing.assert_close(both, sum(parts) / 2)


def test_several_layers_share_one_pass():
    network, calls = made(Planes()), []
    network.head.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    for name in ("gradcam", "gradcamplusplus", "hirescam", "xgradcam", "layercam", "eigencam"):
        calls.clear()
        method = build(name, network, ["layer", "deep"], fold_batch_norm=False)
        method.attribute(clips(), 1)
        assert calls == [3], name


def test_a_channel_whose_activations_cancel_has_no_weight_in_xgradcam():
    class Odd(Mean):
        def forward(self, cells):
            ones = torch.ones_like(cells)
            sign = torch.ones(cells.shape[3], dtype=cells.dtype)
            sign[::2] = -1
            planes = self.layer(torch.cat([0.1 * ones * sign, ones], 1))
            return self.head((planes * torch.rand(8, 12, generator=self.seed())).sum((2, 3)))

        def seed(self):
            return torch.Generator().manual_seed(0)

    network = made(Odd(channels=2))
    network.layer = nn.Identity()
    attribution = build("xgradcam", network, "layer", fold_batch_norm=False).attribute(clips(1), 0)
    assert attribution.std() < 1e-12  # of the second channel alone, which is constant


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layercam", {}),
        ("eigencam", {"centred": False}),
        ("eigengradcam", {"centred": False}),
        ("finercam", {"num_similar": 3, "gamma": 1.0}),
        ("scorecam", {"base": BASE}),
        ("ablationcam", {}),
    ],
)
def test_settings_hold_what_changes_a_map(name, expected):
    own = {"method": name, "target_layers": ["layer"]}
    assert build(name, made(Mean())).settings() == own | expected
