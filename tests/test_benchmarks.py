"""What the benchmarks compare is the same work: loop and package give the same numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


import methods
import perturbation_pairs
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


# What is not there to be left out of scoring is left out of another stage.
ELSEWHERE = {"kept memory", "background once", "segments ahead", "beside the network"}


@pytest.mark.parametrize("change", sorted(set(sides.WITHOUT) - ELSEWHERE))
def test_what_is_left_out_changes_no_number(both, change):
    with_all = both[1].run("scoring", 2)
    with sides.left_out(change):
        without = sides.Ours(0.0625, "LogMelSTFTSpectrogram", torch.device("cpu"))
        found = without.run("scoring", 2)
    assert np.abs(found - with_all).max() < 1e-4 * np.abs(with_all).max()
    assert np.array_equal(both[1].run("scoring", 2), with_all)


def test_reading_and_writing_one_after_the_other_changes_no_row(both):
    with_all = both[1].run("set", 10)
    with sides.left_out("beside the network"):
        without = both[1].run("set", 10)
    for key, table in with_all.tables.items():
        assert table.equals(without.tables[key])


def test_shap_with_its_background_in_every_call_gives_the_same_maps(both):
    setting = (0.0625, "LogMelSTFTSpectrogram", torch.device("cpu"))
    both[1].run("shap", 2)
    with_all = both[1].run("shap", 2)
    with sides.left_out("background once"):
        assert torch.equal(sides.Ours(*setting).run("shap", 2), with_all)


@pytest.mark.parametrize("name", methods.PAIRS)
def test_a_pair_of_methods_is_timed_and_agrees_where_it_should(name, both, monkeypatch):
    clips = both[1].features[..., :64]
    monkeypatch.setattr(both[1], "features", clips)
    monkeypatch.setattr(both[1], "background", clips[:2])
    monkeypatch.setattr(perturbation_pairs, "SAMPLES", 80)
    options = methods.PAIRS[name].options
    for option, few in {"num_samples": 80, "num_permutations": 1}.items():
        if option in options:
            monkeypatch.setitem(options, option, few)
    row = methods.measure(name, both[1], 1, 1)
    assert row["ratio"] > 0
    assert row.get("difference", 0) < 1e-3
