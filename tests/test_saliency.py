"""Saliency against hand-made gradients, finite differences and Captum."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from audiointerp.interpretation import SaliencyInterpreter
from audiointerp.model import build_model


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    bins=st.integers(1, 5),
    frames=st.integers(1, 5),
    classes=st.integers(1, 4),
)
def test_a_linear_models_saliency_is_its_weights(seed, batch, bins, frames, classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(bins * frames, classes))
    features = torch.randn(batch, 1, bins, frames, generator=generator(seed))
    target = torch.randint(classes, (batch,), generator=generator(seed))
    expected = model[1].weight[target].detach().reshape(features.shape)
    assert torch.equal(SaliencyInterpreter(model).attribute(features, target), expected)


def test_it_is_signed_and_of_the_logit_not_the_probability():
    class Square(nn.Module):
        def forward(self, x):
            total = (x**2).sum((1, 2, 3))
            return torch.stack([total, -total], 1)

    features = torch.tensor([[[[1.0, -2.0], [0.5, 0.0]]]])
    assert torch.equal(SaliencyInterpreter(Square()).attribute(features, 0), 2 * features)
    assert torch.equal(SaliencyInterpreter(Square()).attribute(features, 1), -2 * features)


def test_it_is_the_slope_that_finite_differences_find():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 2 * 3, 2))
    model.double()
    features = torch.randn(1, 1, 4, 5, dtype=torch.float64, generator=generator(0))
    attribution = SaliencyInterpreter(model).attribute(features, 1)
    step = 1e-5
    for cell in range(20):
        moved = torch.zeros(20, dtype=torch.float64).index_fill(0, torch.tensor(cell), step)
        moved = moved.reshape(features.shape)
        with torch.no_grad():
            slope = (model(features + moved) - model(features - moved))[0, 1] / (2 * step)
        assert attribution.flatten()[cell].item() == pytest.approx(slope.item(), abs=1e-8)


@pytest.mark.parametrize("target", [0, 4, None])
def test_captum_agrees_on_cnn14(target):
    settings = {"name": "Cnn14", "num_classes": 5, "num_bins": 64, "width": 0.125}
    model = build_model(settings, seed=0).eval()
    features = 10 * torch.randn(3, 1, 64, 96, generator=generator(1)) - 30
    wanted = model(features).argmax(1) if target is None else target
    leaf = features.clone().requires_grad_()
    expected = Saliency(model).attribute(leaf, target=wanted, abs=False)
    attribution = SaliencyInterpreter(model).attribute(features, target)
    torch.testing.assert_close(attribution, expected, rtol=1e-4, atol=1e-7)
    assert (attribution < 0).any()
