"""Augmentation: hidden stripes, blended clips, shifts in time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiointerp.training.augment import SpecAugment, mixup, time_shift


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    stripes=st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 3), st.integers(0, 8)),
)
def test_spec_augment_hides_whole_stripes_and_no_more_than_asked(seed, stripes):
    time_stripes, time_width, freq_stripes, freq_width = stripes
    features = torch.rand(3, 1, 16, 50) + 1
    before = features.clone()
    augment = SpecAugment(time_stripes, time_width, freq_stripes, freq_width, fill=-7.0)
    result = augment(features, torch.Generator().manual_seed(seed))
    assert torch.equal(features, before)
    hidden = result == -7.0
    assert torch.equal(result[~hidden], features[~hidden])
    for clip in hidden[:, 0]:
        rows, columns = clip.all(1), clip.all(0)
        assert torch.equal(clip, rows[:, None] | columns[None])
        if not clip.all():
            assert int(rows.sum()) <= freq_stripes * freq_width
            assert int(columns.sum()) <= time_stripes * time_width


def test_spec_augment_reaches_every_cell_and_every_width():
    augment = SpecAugment(1, 5, 0, 0, fill=0.0)
    generator = torch.Generator().manual_seed(0)
    result = augment(torch.ones(4000, 1, 1, 12), generator)[:, 0, 0]
    widths = (result == 0).sum(1)
    shares = torch.bincount(widths, minlength=6) / 4000
    torch.testing.assert_close(shares, torch.full((6,), 1 / 6), atol=0.03, rtol=0)
    assert (result == 0).any(0).all()


def test_spec_augment_fills_with_the_clips_own_mean_and_rests_in_evaluation():
    features = torch.stack([torch.randn(1, 8, 40), 100 + torch.randn(1, 8, 40)])
    augment = SpecAugment(1, 30, 1, 6)
    result = augment(features, torch.Generator().manual_seed(1))
    for clip, changed in zip(features, result, strict=True):
        torch.testing.assert_close(
            changed[changed != clip].unique(), clip.mean()[None], rtol=1e-6, atol=1e-6
        )
    assert not torch.equal(result, features)
    assert augment.eval()(features) is features


@pytest.mark.parametrize("name", ["time_stripes", "time_width", "freq_stripes", "freq_width"])
def test_spec_augment_refuses_negative_sizes(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        SpecAugment(**{name: -1})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.05, 5.0), batch=st.integers(1, 8))
def test_mixup_blends_features_and_targets_in_the_same_proportion(seed, alpha, batch):
    features = torch.randn(batch, 1, 4, 6, generator=torch.Generator().manual_seed(seed))
    targets = torch.eye(batch)  # every clip a class of its own, so the targets tell who was mixed
    mixed, soft = mixup(features, targets, alpha, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(soft.sum(1), torch.ones(batch))
    assert (soft.diagonal() >= 0.5).all()
    assert (soft > 0).sum(1).max() <= 2
    torch.testing.assert_close(mixed, torch.einsum("ij,jcft->icft", soft, features))


def test_mixup_without_alpha_changes_nothing():
    features, targets = torch.randn(4, 1, 3, 3), torch.eye(4)
    mixed, soft = mixup(features, targets, 0.0)
    assert torch.equal(mixed, features)
    assert torch.equal(soft, targets)


def test_mixup_shares_are_of_the_beta_distribution():
    targets = torch.eye(2).repeat(2000, 1)
    _, soft = mixup(torch.zeros(4000, 1), targets, 2.0, torch.Generator().manual_seed(0))
    own = soft.amax(1)[soft.amin(1) > 0].double()
    # max(λ, 1 - λ) of Beta(2, 2) has the mean 2 ∫ x · 6x(1 - x) dx over 1/2..1 = 11/16.
    assert float(own.mean()) == pytest.approx(11 / 16, abs=0.01)


def test_time_shift_rolls_each_clip_within_the_limit():
    waveform = torch.zeros(300, 1, 100)
    waveform[..., 50] = torch.arange(1.0, 301.0)[:, None]
    shifted = time_shift(waveform, 0.2, torch.Generator().manual_seed(0))
    places = shifted[:, 0].argmax(1)
    assert torch.equal(shifted.amax((1, 2)), torch.arange(1.0, 301.0))
    assert int(places.min()) == 30
    assert int(places.max()) == 70
    wrapped = time_shift(waveform, 0.5, torch.Generator().manual_seed(0))
    assert int((wrapped != 0).sum()) == 300
    assert time_shift(waveform, 0.0) is waveform
