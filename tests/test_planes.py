"""Activations of any layer as planes over frequency and time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Network, sounds, wrap
from torch import nn

import audiointerp as ai
from audiointerp.model.planes import frames_to_plane, tokens_to_plane


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    names=st.permutations(["channel", "freq", "time"]),
)
@settings(max_examples=60, deadline=None)
def test_declared_axes_bring_every_value_to_its_place(shape, names):
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    classifier = ai.Classifier(nn.ModuleDict({"layer": nn.Identity()}), activation_axes=names)
    plane = classifier.to_plane("layer", activation)
    letters = {"channel": "c", "freq": "f", "time": "t"}
    source = "".join(letters[name] for name in names)
    np.testing.assert_array_equal(
        plane.numpy(), np.einsum(f"b{source}->bcft", activation.numpy(), optimize=False)
    )


@pytest.mark.parametrize("time_first", [False, True])
def test_tokens_lie_where_their_patches_are(time_first):
    # Cells of two patch rows and three patch columns, each patch of one value.
    patches = torch.arange(6.0).reshape(2, 3)
    tokens = (patches.T if time_first else patches).reshape(1, 6, 1)
    tokens = torch.cat([torch.full((1, 1, 1), -1.0), tokens], dim=1)
    plane = tokens_to_plane(2, 3, prefix=1, time_first=time_first)("block", tokens)
    assert torch.equal(plane[0, 0], patches)
    with pytest.raises(ValueError, match=r"with 1 \+ 2·3 = 7 tokens"):
        tokens_to_plane(2, 3, prefix=1)("block", tokens[:, 1:])


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (("time", "channel"), (1, 6)),
        (("channel", "time"), (1, 6)),
        (("time",), (1, 6)),
        (("channel", "freq"), (6, 1)),
    ],
)
def test_values_of_tokens_lie_along_their_axis(axes, shape):
    values = torch.arange(12.0).reshape(2, 6)
    classifier = ai.Classifier(nn.ModuleDict({"layer": nn.Identity()}), activation_axes=axes)
    plane = classifier.token_plane("layer", values)
    assert torch.equal(plane, values.reshape(2, 1, *shape))


def test_values_of_tokens_of_patches_lie_where_these_are():
    values = torch.arange(14.0).reshape(2, 7)
    network = nn.ModuleDict({"layer": nn.Identity()})
    network.activation_axes = tokens_to_plane(2, 3, prefix=1)
    plane = ai.Classifier(network).token_plane("layer", values)
    assert torch.equal(plane, values[:, 1:].reshape(2, 1, 2, 3))
    with pytest.raises(ValueError, match=r"the layer 'layer' gives .* with 1 \+ 2·3 = 7 tokens"):
        ai.Classifier(network).token_plane("layer", values[:, 1:])


@pytest.mark.parametrize("axes", [None, ("channel", "freq", "time"), ("channel",)])
def test_tokens_without_a_place_are_refused(axes):
    classifier = ai.Classifier(nn.ModuleDict({"layer": nn.Identity()}), activation_axes=axes)
    with pytest.raises(ValueError, match=r"'layer' has 6 tokens, and activation_axes=.*say where"):
        classifier.token_plane("layer", torch.zeros(2, 6))
    classifier = ai.Classifier(nn.Identity(), activation_axes=lambda layer, activation: activation)
    with pytest.raises(ValueError, match=r"activation_axes returned \(2, 6, 1\)"):
        classifier.token_plane("", torch.zeros(2, 6))


def test_frames_are_joined_along_time():
    clips = torch.randn(2, 5, 3, 12)  # batch, channel, freq, time
    frames = clips.unflatten(3, (4, 3)).permute(0, 3, 4, 2, 1).flatten(0, 1)
    join = frames_to_plane(4, axes=("time", "freq", "channel"))
    assert torch.equal(join("layer", frames), clips)
    with pytest.raises(ValueError, match=r"a multiple of 4 frames"):
        join("layer", frames[:-1])
    with pytest.raises(ValueError, match="'channel' must be one of them"):
        frames_to_plane(4, axes=("time", "freq"))


@pytest.mark.parametrize(
    "axes", [("channels", "time"), ("time", "time"), (), "channel", ("channel", "time", "batch")]
)
def test_axes_that_do_not_exist_are_refused_at_once(axes):
    with pytest.raises(ValueError, match=r"activation_axes is .*expected a tuple"):
        wrap(Network(), activation_axes=axes)


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        (("time", "freq"), None),
        (("channel", "time"), r"gives activations .*, which activation_axes=.* do not describe"),
        (lambda layer, activation: activation[:, 0], r"activation_axes returned \(3, \d+, \d+\)"),
        (lambda layer, activation: None, "activation_axes returned NoneType"),
        (lambda layer, activation: activation[:2], r"planes for 2 clips instead of 3"),
    ],
)
def test_axes_that_do_not_fit_a_layer_are_named(axes, match):
    classifier = wrap(Network(), activation_axes=axes)
    method = ai.GradCAMInterpreter(classifier, "relu")
    view = classifier.front_end.analyse(sounds())
    if match is None:
        turned = ai.GradCAMInterpreter(wrap(Network()), "relu").attribute(view)
        assert method.attribute(view).shape == turned.shape
        return
    with pytest.raises(ValueError, match=match):
        method.attribute(view)


class OneBand(nn.Module):
    """A network whose only score is the level of one band at one time, seen (time, freq)."""

    activation_axes = ("time", "freq")

    def __init__(self, frequency: int, time: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.relu = nn.ReLU()
        self.frequency, self.time = frequency, time

    def forward(self, cells):
        hidden = self.relu(self.pool((cells / 100 + 1).transpose(2, 3)))
        score = hidden[:, 0, self.time, self.frequency]
        return torch.stack([-score, score], dim=1)


def test_gradcam_of_layers_with_time_first_is_upright():
    network = OneBand(frequency=6, time=2)
    cells = torch.full((1, 1, 65, 126), -100.0)
    cells[..., 48:56, 16:24] = 0
    attribution = ai.GradCAMInterpreter(network, "relu").attribute(cells, 1)
    frequency, time = np.unravel_index(int(attribution.argmax()), (65, 126))
    assert (frequency // 8, time // 8) == (6, 2)
