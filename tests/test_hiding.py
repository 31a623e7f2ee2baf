"""Ways to hide cells, against grad-cam's imputation (ROAD)."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from audiointerp.hiding import HIDINGS, NOISE, impute


def clips(count=3, bins=12, frames=17):
    return 20 * torch.randn(count, 1, bins, frames, generator=torch.Generator().manual_seed(0))


def some(share, shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


LEVEL = torch.tensor([-100.0, -90.0, -80.0])[:, None, None, None]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 1.0])
def test_imputation_is_that_of_grad_cam(share):
    features = clips()
    keep = some(share, features.shape)
    keep[:, 0, 5, 5] = True
    keep[2, 0, :6] = False  # a large hole at the edge
    found = impute(features, keep, LEVEL)
    imputer = NoisyLinearImputer(noise=0)
    for clip, own, kept in zip(found, features, keep, strict=True):
        np.testing.assert_allclose(clip, imputer(own, kept[0].float()), rtol=1e-5, atol=1e-5)
    assert torch.equal(found[keep], features[keep])


def test_a_hidden_cell_is_the_weighted_mean_of_its_neighbours():
    features = torch.zeros(1, 1, 3, 3)
    features[0, 0, 0, 1], features[0, 0, 0, 0] = 6, 12
    keep = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    keep[0, 0, 1, 1] = False
    assert impute(features, keep, LEVEL[:1])[0, 0, 1, 1] == pytest.approx(6 / 6 + 12 / 12)


def test_a_clip_does_not_depend_on_its_neighbours_and_nothing_kept_is_the_level():
    features = clips()
    keep = some(0.4, features.shape)
    keep[1] = False
    together = HIDINGS["road"](features, keep, LEVEL)
    parts = zip(features.split(1), keep.split(1), LEVEL.split(1), strict=True)
    alone = torch.cat([HIDINGS["road"](*part) for part in parts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[1] == -90).all()


def test_imputed_cells_have_noise_that_follows_the_clips_spread():
    features = clips(2, 60, 60)
    features[1] *= 3
    keep = some(0.5, features.shape)
    exact, noisy = impute(features, keep, LEVEL[:2]), HIDINGS["road"](features, keep, LEVEL[:2])
    for clip in range(2):
        noise = (noisy - exact)[clip][~keep[clip]]
        assert noise.std() / features[clip].std() == pytest.approx(NOISE, rel=0.1)
    assert torch.equal(noisy[keep], features[keep])


def test_the_base_stands_where_nothing_is_kept():
    features = clips()
    keep = some(0.5, features.shape)
    found = HIDINGS["base"](features, keep, LEVEL)
    assert torch.equal(found[keep], features[keep])
    assert torch.equal(found[~keep], LEVEL.expand_as(features)[~keep])


@pytest.mark.parametrize("way", HIDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cells_keep_their_dtype(way, dtype):
    features = clips().to(dtype)
    found = HIDINGS[way](features, some(0.5, features.shape), LEVEL)
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_a_system_that_is_not_solved_to_the_tolerance_is_reported():
    features = torch.randn(1, 1, 24, 40, generator=torch.Generator().manual_seed(3))
    keep = torch.zeros(features.shape, dtype=torch.bool)
    keep[..., 0, 0] = True  # far from most of the cells that are solved for
    with pytest.warns(UserWarning, match="by more than the tolerance 0: the iterations were not"):
        impute(features, keep, torch.zeros(1, 1, 1, 1), tolerance=0.0)
