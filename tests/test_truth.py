"""What is known of the parts of clips: ideal masks, counted cells, one entry per clip."""

from __future__ import annotations

import pytest
import torch

from audiointerp.evaluation.truth import Truth
from audiointerp.processing import View

FRONT = torch.tensor([[-10.0, -80.0, 0.0, -100.0], [-30.0, -30.0, -90.0, -20.0]])[:, None, None]
BACK = torch.tensor([[-20.0, -61.0, -100.0, -59.0], [-30.0, -100.0, -85.0, -40.0]])[:, None, None]


def decibels() -> Truth:
    return Truth(View(FRONT), View(BACK))


def power() -> Truth:
    parts = (View(10 ** (part.double() / 10)) for part in (FRONT, BACK))
    return Truth(*parts, log=False)


@pytest.mark.parametrize("truth", [decibels(), power()], ids=["dB", "power"])
def test_the_truth_of_two_parts_by_hand(truth):
    expected = torch.tensor([[10.0, -19, 100, -41], [0, 70, -5, 20]])
    found = truth.advantage_db[:, 0, 0]
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-5)
    assert truth.binary.tolist() == [[[[True, False, True, False]]], [[[False, True, False, True]]]]
    # Within 60 dB of 0 and of -20: -61 is not, -59 is; -80 is the limit of the second clip.
    assert truth.counted.tolist() == [[[[True, False, True, True]]], [[[True, True, False, True]]]]
    front, back = 10 ** (FRONT.double() / 10), 10 ** (BACK.double() / 10)
    torch.testing.assert_close(truth.ratio.double(), front / (front + back), rtol=0, atol=1e-6)


def test_cells_without_power_have_finite_levels():
    cells = torch.tensor([[[[0.0, 1.0]]]])
    truth = Truth(View(cells), View(torch.zeros_like(cells)), log=False)
    assert torch.isfinite(truth.advantage_db).all()
    assert truth.binary.tolist() == [[[[False, True]]]]
    assert truth.counted.tolist() == [[[[False, True]]]]
    assert truth.ratio.tolist() == [[[[0.5, 1.0]]]]


@pytest.mark.parametrize("computed_before", [True, False])
@pytest.mark.parametrize("clips", [torch.tensor([1, 1, 0]), slice(1, 2)])
def test_the_truth_of_some_clips_is_that_of_each(clips, computed_before):
    active = torch.tensor([[True, False, True, False], [False, False, True, True]])
    labels = torch.tensor([[True, False], [False, True]])
    truth = Truth(View(FRONT), View(BACK), active=active, labels=labels)
    names = ("advantage_db", "binary", "ratio", "counted", "active", "labels")
    if computed_before:
        before = {name: getattr(truth, name) for name in names}
        assert truth.binary is before["binary"]  # computed once
    some = truth[clips]
    for name in names:
        assert torch.equal(getattr(some, name), getattr(truth, name)[clips])
    assert torch.equal(some.foreground.cells, FRONT[clips])
    assert truth[:] is truth


def test_what_is_not_known_is_named():
    assert not Truth().has_parts
    with pytest.raises(ValueError, match="parts of the clips are not known"):
        _ = Truth().binary
    with pytest.raises(ValueError, match="expected both or none"):
        Truth(View(FRONT))
    with pytest.raises(ValueError, match=r"shape \(2, 1, 1, 4\).*\(1, 1, 1, 4\)"):
        Truth(View(FRONT), View(BACK[:1]))
