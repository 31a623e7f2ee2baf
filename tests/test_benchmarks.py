"""What the benchmarks compare is the same work: loop and package give the same numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


import sides


@pytest.fixture(scope="module")
def both():
    setting = (0.0625, "LogMelSTFTSpectrogram", torch.device("cpu"))
    return sides.Loop(*setting), sides.Ours(*setting)


@pytest.mark.parametrize("stage", ["saliency", "scoring", "simplicity"])
def test_both_sides_of_a_stage_give_the_same_numbers(both, stage):
    # The others differ as the published ones do: lime draws other versions, Grad-CAM is resized as
    # (freq, time), shap has no rule for a maximum over time. What they agree in is tested with the
    # methods.
    theirs, ours = (np.asarray(side.run(stage, 2), dtype=float) for side in both)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() < 1e-4 * np.abs(theirs).max()


def test_scoring_needs_the_clip_and_two_passes_for_every_distinct_mask(both):
    forwards = both[1].forwards("scoring", 4)
    assert 1 + 2 <= forwards <= 1 + 2 * 14
    assert both[1].forwards("lime", 1) == 1001


@pytest.mark.parametrize("change", sorted(set(sides.WITHOUT) - {"kept memory"}))
def test_what_is_left_out_changes_no_number(both, change):
    with_all = both[1].run("scoring", 2)
    with sides.left_out(change):
        without = sides.Ours(0.0625, "LogMelSTFTSpectrogram", torch.device("cpu"))
        found = without.run("scoring", 2)
    assert np.abs(found - with_all).max() < 1e-4 * np.abs(with_all).max()
    assert np.array_equal(both[1].run("scoring", 2), with_all)
