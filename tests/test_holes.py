"""Random masks for training: how much they remove, and that they depend on the clip alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiointerp.registry import UnknownNameError
from audiointerp.training.holes import HOLES, RandomHoles

FLOOR = -100.0


def draw(seed: int, *, clips: int = 6, size: tuple[int, int] = (16, 50), **options):
    generator = torch.Generator().manual_seed(seed)
    features = 10 * torch.randn(clips, 1, *size, generator=torch.Generator().manual_seed(1))
    return features, RandomHoles(level=FLOOR, **options)(features, generator)


@pytest.mark.parametrize("kind", HOLES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.05, 1.0))
def test_one_kind_of_hole_keeps_no_less_than_its_share_and_changes_nothing_else(kind, seed, keep):
    features, holed = draw(seed, share=1.0, kinds=kind, keep=(keep, keep))
    removed = holed == FLOOR
    assert torch.equal(holed[~removed], features[~removed])
    kept = (~removed).float().mean((1, 2, 3))
    # Two draws keep k^p and k^(1-p): together at least their sum less 1, which is least for equal
    # ones, and at most the smaller of them.
    rounding = 1 / features[0].numel() + 1e-6
    assert (kept >= 2 * math.sqrt(keep) - 1 - rounding).all()
    assert (kept <= math.sqrt(keep) + rounding).all()


@pytest.mark.parametrize("kind", HOLES)
def test_a_kind_removes_about_as_much_as_it_is_told_to(kind):
    _, holed = draw(3, clips=64, size=(64, 200), share=1.0, kinds=kind, keep=(0.5, 0.5))
    kept = (holed != FLOOR).float().mean()
    # 0.5 where the two draws are independent; the same order by loudness keeps more.
    assert 0.45 <= kept <= 0.75


def test_cells_of_two_independent_draws_keep_the_product_of_their_shares():
    _, holed = draw(0, clips=40, size=(64, 200), share=1.0, kinds="cells", keep=(0.3, 0.3))
    kept = (holed != FLOOR).float().mean((1, 2, 3))
    torch.testing.assert_close(kept, torch.full((40,), 0.3), atol=0.02, rtol=0)


def test_the_share_of_clips_with_holes_is_the_one_asked_for():
    features, holed = draw(0, clips=2000, size=(4, 6), share=0.3)
    changed = (holed != features).flatten(1).any(1).float().mean()
    assert 0.25 < changed < 0.33  # a hole of a few cells may round to none


@pytest.mark.parametrize("kind", [kind for kind in HOLES if kind != "borrowed"])
def test_a_clip_does_not_depend_on_its_neighbours(kind):
    features, _ = draw(0)
    others = features.clone()
    others[1:] = others[1:].flip(-1) + 30
    holes = RandomHoles(1.0, kinds=kind, level=FLOOR)
    alone, beside = (
        holes(each, torch.Generator().manual_seed(2))[0] == FLOOR for each in (features, others)
    )
    assert torch.equal(alone, beside)


def loudness_of_holes(cells, holed):
    """Return the mean of removed cells less that of kept ones, of clips with enough of both."""
    removed = holed == FLOOR
    share = removed.float().mean((1, 2, 3))
    return [
        float(clip[gone].mean() - clip[~gone].mean())
        for clip, gone, part in zip(cells, removed, share, strict=True)
        if 0.1 < part < 0.9
    ]


def test_holes_by_loudness_remove_the_quietest_and_never_the_loudest():
    features, holed = draw(8, clips=40, size=(16, 100), share=1.0, kinds="loudness")
    found = loudness_of_holes(features, holed)
    assert len(found) > 10
    assert max(found) < 0


def test_borrowed_holes_have_the_shape_of_another_clip_and_not_of_the_own():
    first, second = torch.full((2, 1, 1, 16, 100), -60.0)
    first[..., :50], second[..., 8:, :] = 0.0, 0.0  # loud in the first half; above the middle
    features = torch.cat([first, second])
    holes = RandomHoles(1.0, kinds="borrowed", level=FLOOR)
    generator = torch.Generator().manual_seed(1)
    signs = set()
    for _ in range(20):
        holed = holes(features, generator)
        own = loudness_of_holes(features, holed)
        others = loudness_of_holes(features.flip(0), holed)
        signs |= {other > 0 for other in others}
        assert all(abs(one) < abs(other) for one, other in zip(own, others, strict=True))
    assert signs == {True, False}  # the loudest of the other clip, or the quietest


def test_a_clip_alone_in_a_batch_borrows_from_itself():
    features, holed = draw(6, clips=1, share=1.0, kinds="borrowed", keep=(0.5, 0.5))
    removed = holed == FLOOR
    assert 0 < removed.float().mean() < 1
    assert torch.equal(holed[~removed], features[~removed])


def test_segments_are_rectangles():
    _, holed = draw(2, clips=1, size=(16, 48), share=1.0, kinds="segments", keep=(0.5, 0.5))
    removed = (holed == FLOOR)[0, 0]
    # Few different rows and columns: a grid of at most 24 by 24 twice, not single cells.
    assert len(removed.unique(dim=0)) < 16
    assert 0 < removed.float().mean() < 1


def test_the_same_generator_gives_the_same_holes_and_evaluation_none():
    features, holed = draw(4)
    assert torch.equal(holed, draw(4)[1])
    assert not torch.equal(holed, draw(5)[1])
    assert RandomHoles(1.0, level=FLOOR).eval()(features) is features


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share=1.5: expected a probability"),
        ({"keep": (0.9, 0.1)}, r"keep=\(0.9, 0.1\): expected two shares"),
        ({"kinds": ["cells", "cells"]}, "'cells' is given twice"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandomHoles(level=FLOOR, **options)


def test_an_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(UnknownNameError, match="cells, blobs, segments, loudness, borrowed"):
        RandomHoles(kinds="dots", level=FLOOR)
