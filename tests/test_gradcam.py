"""Grad-CAM against hand-made models, pytorch-grad-cam and OpenCV's resize."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from audiointerp.interpretation import GradCAMInterpreter
from audiointerp.model import build_model


class TimeFirst(nn.Module):
    """Pools the power over (time, freq) patches of 4 x 4, as a PANNs network lays them out.

    Class 0's logit is the sum of the pooled map, class 1's its negative.
    """

    activation_axes = ("time", "freq")

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    @property
    def target_layer(self) -> nn.Module:
        return self.pool

    def forward(self, x):
        total = self.pool(x.transpose(2, 3)).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


class FreqFirst(TimeFirst):
    activation_axes = ("freq", "time")

    def forward(self, x):
        total = self.pool(x).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


def cnn14(classes: int) -> nn.Module:
    settings = {"name": "Cnn14", "num_classes": classes, "num_bins": 64, "width": 0.125}
    return build_model(settings, seed=0).eval()


def impulse(bin_: int, frame: int) -> torch.Tensor:
    features = torch.zeros(1, 1, 32, 96)
    features[0, 0, bin_, frame] = 1
    return features


def peak(attribution: torch.Tensor) -> tuple[int, int]:
    return divmod(int(attribution[0, 0].argmax()), attribution.shape[3])


@pytest.mark.parametrize("model", [TimeFirst(), FreqFirst()])
@pytest.mark.parametrize(("bin_", "frame"), [(5, 9), (26, 10), (6, 85), (29, 62)])
def test_an_off_centre_impulse_is_found_at_its_frequency_and_time(model, bin_, frame):
    found = peak(GradCAMInterpreter(model).attribute(impulse(bin_, frame), 0))
    assert abs(found[0] - bin_) <= 4
    assert abs(found[1] - frame) <= 4


def test_a_transposed_layout_would_miss_the_impulse():
    model = TimeFirst()
    model.activation_axes = ("freq", "time")
    found = peak(GradCAMInterpreter(model).attribute(impulse(5, 62), 0))
    assert abs(found[0] - 5) > 4
    assert abs(found[1] - 62) > 4


def test_an_off_centre_impulse_is_found_by_cnn14():
    # Positive weights only: more energy anywhere can only raise every activation there.
    model = cnn14(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    features = torch.zeros(1, 1, 64, 256)
    features[0, 0, 44:52, 36:44] = 30
    attribution = GradCAMInterpreter(model, "base.conv_block2").attribute(features, 0)
    found = peak(attribution)
    assert 40 <= found[0] < 56
    assert 32 <= found[1] < 48


def test_the_map_is_the_hand_computed_one():
    # One channel A = x, logit_c = w_c · sum(x): every gradient is w_c, so the map is w_c · x.
    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            total = self.layer(x).sum((1, 2, 3))
            return torch.stack([3 * total, -2 * total], 1)

    features = torch.tensor([[[[1.0, -2.0, 0.0], [0.5, 4.0, -1.0]]]])
    interpreter = GradCAMInterpreter(Identity(), "layer")
    assert torch.equal(interpreter.attribute(features, 0), 3 * features)
    assert torch.equal(interpreter.attribute(features, 1), -2 * features)


def test_weights_are_the_mean_gradient_of_each_channel():
    class TwoChannels(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 1, bias=False)
            self.layer.weight.data = torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1)

        def forward(self, x):
            a = self.layer(x)
            # Channel 0 counts in one cell of four only, with slope 8; channel 1 everywhere, -1.
            return (8 * a[:, 0, 0, 0] - a[:, 1].sum((1, 2)))[:, None]

    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = (8 / 4) * features - 10 * features
    attribution = GradCAMInterpreter(TwoChannels(), "layer").attribute(features, 0)
    torch.testing.assert_close(attribution, expected)


def raw_map(model, layer, features, target):
    """pytorch-grad-cam's own signed, un-resized map."""
    with GradCAM(model=model, target_layers=[layer]) as cam:
        targets = [ClassifierOutputTarget(target)] * len(features)
        cam(input_tensor=features, targets=targets)
        seen = cam.activations_and_grads
        return cam.get_cam_image(
            features, layer, targets, seen.activations[0].numpy(), seen.gradients[0].numpy()
        )


@pytest.mark.parametrize(
    "layer",
    [
        "base.conv_block6.relu2",
        "base.conv_block3",
        "base.conv_block1",
        # A batch norm follows: what the layer gives must not be what the norm makes of it.
        "base.conv_block4.conv2",
        "base.conv_block4.bn1",
    ],
)
def test_pytorch_grad_cam_agrees_on_the_untransposed_map(layer):
    model = cnn14(5)
    features = 10 * torch.randn(3, 1, 64, 96, generator=torch.Generator().manual_seed(1)) - 30
    raw = raw_map(model, model.get_submodule(layer), features, 2)
    # PANNs lay out (time, freq): the library's map is turned, then resized by OpenCV.
    expected = np.stack([cv2.resize(np.ascontiguousarray(each.T), (96, 64)) for each in raw])
    attribution = GradCAMInterpreter(model, layer).attribute(features, 2)[:, 0].numpy()
    assert np.abs(attribution - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("layers", [None, ["base.conv_block2", "base.conv_block6.relu2"]])
@pytest.mark.parametrize("target", [None, torch.tensor([2, 0, 1])])
def test_the_library_is_selectable_and_gives_the_same_maps(layers, target):
    model = cnn14(5)
    features = 10 * torch.randn(3, 1, 64, 96, generator=torch.Generator().manual_seed(1)) - 30
    ours = GradCAMInterpreter(model, layers, batch_size=2)
    theirs = GradCAMInterpreter(model, layers, batch_size=2, backend="grad-cam")
    expected = ours.explain(features, target)
    found = theirs.explain(features, target)
    assert torch.equal(found.target, expected.target)
    error = (found.attribution - expected.attribution).abs().max()
    assert error <= 1e-4 * expected.attribution.abs().max()
    assert theirs.settings() == ours.settings() | {"backend": "grad-cam"}


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="choose from autograd, grad-cam"):
        GradCAMInterpreter(cnn14(5), backend="captum")


def test_pytorch_grad_cams_finished_map_is_ours_without_the_negative_part():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 8, 3)
        )
    features = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    with GradCAM(model=model, target_layers=[model[1]]) as cam:
        expected = cam(features, [ClassifierOutputTarget(1)] * 2)
    positive = GradCAMInterpreter(model, model[1]).attribute(features, 1)[:, 0].clamp(min=0)
    low, high = positive.amin((1, 2), keepdim=True), positive.amax((1, 2), keepdim=True)
    ours = (positive - low) / (high - low)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def two_layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


def test_several_layers_are_averaged_at_equal_size():
    model = two_layers()
    features = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    early, late = (GradCAMInterpreter(model, name).attribute(features, 1) for name in ("1", "4"))
    expected = sum(
        each / each.abs().amax((1, 2, 3), keepdim=True) for each in (early, late)
    ) / 2  # fmt: skip
    both = GradCAMInterpreter(model, ["1", model[4]])
    torch.testing.assert_close(both.attribute(features, 1), expected)
    assert both.settings()["target_layers"] == ["1", "4"]


def test_an_in_place_layer_after_the_target_does_not_change_what_was_seen():
    model = two_layers()
    features = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    in_place = GradCAMInterpreter(model, "3").attribute(features, 0)
    model[4] = nn.ReLU()
    torch.testing.assert_close(GradCAMInterpreter(model, "3").attribute(features, 0), in_place)


def test_a_layer_that_does_not_reach_the_class_gives_zero():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return torch.stack([self.used(x).sum((1, 2, 3)), self.unused(x).sum((1, 2, 3))], 1)

    attribution = GradCAMInterpreter(Split(), ["used", "unused"]).attribute(
        torch.ones(1, 1, 2, 2), 0
    )
    alone = GradCAMInterpreter(Split(), "unused").attribute(torch.ones(1, 1, 2, 2), 0)
    assert attribution.isfinite().all()
    assert (alone == 0).all()


def test_the_hooks_go_when_the_model_raises():
    model = TimeFirst()
    model.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.raises(RuntimeError):
        GradCAMInterpreter(model).attribute(torch.zeros(1, 1, 2, 2))  # smaller than one patch
    assert not model.pool._forward_hooks
    assert len(model._forward_pre_hooks) == 1


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.flat = nn.ReLU(), nn.ReLU(), nn.Flatten()

    def forward(self, x):
        return self.flat(self.twice(self.twice(x)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("twice", "'twice' ran 2 times"),
        ("never", "'never' ran 0 times"),
        ("flat", r"'flat' must give activations over time or frequency.*got \(1, 4\)"),
        ("relu7", "no layer 'relu7'.*twice, never, flat"),
        ([], "target_layers is empty"),
        (nn.ReLU(), "not part of the model"),
        (None, "Odd names no target_layer"),
    ],
)
def test_layers_that_cannot_be_used_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        GradCAMInterpreter(Odd(), layers).attribute(torch.ones(1, 1, 2, 2))


def test_unknown_axes_are_named():
    model = TimeFirst()
    model.activation_axes = ("time", "frequency")
    with pytest.raises(ValueError, match=r"activation_axes is .*'frequency'.*expected a tuple"):
        GradCAMInterpreter(model).attribute(torch.randn(1, 1, 8, 8))
