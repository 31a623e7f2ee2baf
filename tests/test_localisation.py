"""Localisation against scikit-learn, Quantus and sets of cells and frames written out by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from audiointerp.evaluation import (
    METRICS,
    Evidence,
    Ranking,
    Truth,
    auprc,
    auroc,
    best_iou,
    evaluate_evidence,
    event_frames,
    f1_of,
    mean_iou,
    pointing_game,
    relevance_mass,
    relevance_rank,
    sounding_frames,
    time_ranking,
    truth_facts,
    why_no_truth,
)
from audiointerp.processing import View

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

MEASURES = [auprc, auroc, relevance_mass, relevance_rank, pointing_game]
BY_CELLS = [name for name, metric in METRICS.items() if metric.family == "localisation"]
BY_FRAMES = [name for name, metric in METRICS.items() if metric.family == "localisation in time"]


def maps(*shape: int, seed: int = 0, levels: int | None = None) -> torch.Tensor:
    """Return random maps, of a few equal levels if asked for."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values if levels is None else (values * levels / 3).round()


def where(*shape: int, share: float, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


# Cells.


@pytest.mark.parametrize("levels", [None, 5, 1])
@pytest.mark.parametrize("counted", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_areas_are_those_of_scikit_learn(levels, counted, dtype):
    shape = (6, 1, 16, 25)
    values = maps(*shape, levels=levels).to(dtype)
    true, seen = where(*shape, share=0.3), where(*shape, share=counted, seed=2)
    ranking = Ranking(values, true, seen)
    for clip in range(len(values)):
        labels, scores = (each[clip][seen[clip]].numpy() for each in (true, values))
        assert auprc(ranking)[clip].item() == pytest.approx(
            average_precision_score(labels, scores), abs=1e-12
        )
        assert auroc(ranking)[clip].item() == pytest.approx(
            roc_auc_score(labels, scores), abs=1e-12
        )


def quantus_score(metric: type, values: torch.Tensor, true: torch.Tensor, **options) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scorer = metric(abs=False, normalise=False, disable_warnings=True, **options)
        given = (each.numpy().reshape(len(values), 1, 16, 25) for each in (values, true.int()))
        a, s = given
        return np.asarray(
            scorer(model=None, x_batch=a, y_batch=np.zeros(len(a), int), a_batch=a, s_batch=s)
        )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (relevance_mass, quantus.RelevanceMassAccuracy),
        (relevance_rank, quantus.RelevanceRankAccuracy),
        (pointing_game, quantus.PointingGame),
        (auroc, quantus.AUC),
    ],
)
def test_localisation_is_that_of_quantus(ours, theirs):
    shape = (20, 1, 16, 25)
    values = maps(*shape).double().abs()  # Quantus has no positive part
    true = where(*shape, share=0.3)
    found = ours(Ranking(values, true))
    np.testing.assert_allclose(found, quantus_score(theirs, values, true), rtol=0, atol=1e-6)


def test_localisation_by_hand():
    values = torch.tensor([[9.0, 7, 7, 5, -1, -2, 100]])
    true = torch.tensor([[True, True, False, False, True, False, True]])
    counted = torch.tensor([[True] * 6 + [False]])
    ranking = Ranking(values, true, counted)
    # Levels: 9 (1 of 1 true), 7 (1 of 2), 5 (0 of 1), -1 (1 of 1), -2 (0 of 1).
    assert auprc(ranking).item() == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    # Of 9 pairs: 9 beats 3; 7 beats two and ties with one; -1 beats one.
    assert auroc(ranking).item() == pytest.approx((3 + 2.5 + 1) / 9)
    assert relevance_mass(ranking).item() == pytest.approx((9 + 7) / (9 + 7 + 7 + 5))
    assert relevance_rank(ranking).item() == pytest.approx(2 / 3)
    assert pointing_game(ranking).item() == 1
    two = Ranking(values, true, counted & (values < 9))  # the highest are the two of level 7
    assert pointing_game(two).item() == 0.5
    assert relevance_rank(two).item() == pytest.approx(1 / 2)


def test_a_constant_map_is_at_chance_and_one_without_positive_cells_has_no_mass():
    true = where(3, 1, 16, 25, share=0.3)
    share = true.flatten(1).double().mean(1)
    for level in (0.0, 2.5, -1.0):
        ranking = Ranking(torch.full(true.shape, level), true)
        for measure in (auprc, relevance_rank, pointing_game):
            torch.testing.assert_close(measure(ranking), share)
        torch.testing.assert_close(auroc(ranking), torch.full_like(share, 0.5))
        mass = relevance_mass(ranking)
        assert torch.allclose(mass, share) if level > 0 else mass.isnan().all()


def test_the_ideal_map_is_best_and_its_negative_is_not():
    true = where(4, 1, 16, 25, share=0.3)
    advantage = torch.where(true, 1.0, -1.0) * (0.1 + torch.rand(true.shape))
    for measure in MEASURES:
        assert (measure(Ranking(advantage, true)) == 1).all()
    against = Ranking(-advantage, true)
    assert (auroc(against) == 0).all()
    assert (relevance_mass(against) == 0).all()
    assert (pointing_game(against) == 0).all()


def test_random_maps_are_at_chance():
    true = where(400, 1, 16, 25, share=0.3)
    ranking = Ranking(maps(400, 1, 16, 25), true)
    for measure, chance in zip(MEASURES, (0.3, 0.5, 0.3, 0.3, 0.3), strict=True):
        assert measure(ranking).mean().item() == pytest.approx(chance, abs=0.06)


VALUES = arrays.arrays(np.float32, (1, 12), elements=st.integers(-4, 4).map(float))


@settings(max_examples=200, deadline=None)
@given(VALUES, arrays.arrays(bool, (1, 12)), arrays.arrays(bool, (1, 12)))
def test_laws_of_localisation(values, true, counted):
    values, true, counted = map(torch.from_numpy, (values, true, counted))
    ranking = Ranking(values, true, counted)
    scaled = Ranking(values * 1024, true, counted)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = Ranking(values[:, order], true[:, order], counted[:, order])
    decided = bool((true & counted).any() and (~true & counted).any())
    for measure in (*MEASURES, best_iou, mean_iou):
        found = measure(ranking)
        for other in (scaled, moved):
            torch.testing.assert_close(measure(other), found, equal_nan=True)
        if not decided:
            assert found.isnan().all()
        elif measure is not relevance_mass:
            assert 0 <= found.item() <= 1
    if decided:
        mirrored = Ranking(-values, true, counted)
        assert auroc(mirrored).item() == pytest.approx(1 - auroc(ranking).item())


@pytest.mark.parametrize("neighbours", [1, 5])
def test_a_clip_does_not_depend_on_its_neighbours(neighbours):
    values, true = maps(6, 1, 16, 25, levels=4), where(6, 1, 16, 25, share=0.3)
    for measure in (*MEASURES, best_iou, mean_iou):
        whole = measure(Ranking(values, true))
        parts = [
            measure(Ranking(values[n : n + neighbours], true[n : n + neighbours]))
            for n in range(0, 6, neighbours)
        ]
        assert torch.equal(whole, torch.cat(parts))


def test_what_cannot_be_ranked_is_refused():
    true = torch.zeros(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"shape \(1, 3\).*\(1, 4\)"):
        Ranking(torch.zeros(1, 3), true)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Ranking(torch.full((1, 4), math.nan), true)
    with pytest.raises(ValueError, match="expected finite floating point"):
        Ranking(torch.zeros(1, 4, dtype=torch.long), true)
    with pytest.raises(ValueError, match="NaN or infinite"):
        time_ranking(torch.full((1, 1, 2, 4), math.inf), true)


# Time.


def frames(*values: float) -> torch.Tensor:
    """Return a map of three bins whose positive part sums to some values over frequency."""
    curve = torch.tensor(values)
    return torch.stack([curve / 4, -torch.ones_like(curve), curve * 3 / 4])[None, None]


def test_intersection_over_union_by_hand():
    active = torch.tensor([[False, True, True, True, False, False, False, False]])
    attribution = frames(0, 2, 8, 4, 4, 1, 0, 1)
    ranking = time_ranking(attribution, active)
    # Frames above 4 or equal to it: 2, 3, 4, of which 2 and 3 are the event's: 2 of 4. Above 2:
    # 1, 2, 3, 4: 3 of 4.
    assert best_iou(ranking).item() == pytest.approx(3 / 4)
    assert f1_of(best_iou(ranking)).item() == pytest.approx(2 * 3 / (4 + 3))
    # The mean is 2.5: 2, 3, 4.
    assert mean_iou(ranking).item() == pytest.approx(2 / 4)
    assert f1_of(mean_iou(ranking)).item() == pytest.approx(2 * 2 / (3 + 3))
    assert pointing_game(ranking).item() == 1
    late = torch.tensor([[False] * 4 + [True] + [False] * 3])
    assert pointing_game(time_ranking(frames(0, 2, 4, 4, 4, 1, 0, 1), late)).item() == 1 / 3


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.float32, (1, 1, 3, 9), elements=st.integers(-3, 5).map(float)),
    arrays.arrays(bool, (1, 9)),
)
def test_intersection_over_union_is_the_best_of_all_thresholds(attribution, active):
    ranking = time_ranking(torch.from_numpy(attribution), torch.from_numpy(active))
    curve, event = attribution.clip(min=0).sum((0, 1, 2)), active[0]
    if not curve.any() or event.all() or not event.any():
        assert best_iou(ranking).isnan().all()
        assert mean_iou(ranking).isnan().all()
        return

    def overlap(chosen):
        return (chosen & event).sum() / (chosen | event).sum()

    best = max(overlap(curve >= level) for level in curve)
    assert best_iou(ranking).item() == pytest.approx(best)
    assert mean_iou(ranking).item() == pytest.approx(overlap(curve > curve.mean(dtype=float)))
    assert best >= event.mean()


def test_frames_that_only_rounding_tells_apart_are_equal():
    curve = torch.full((1, 1, 7, 501), 0.1)
    curve[..., 250] += 1e-9
    active = torch.zeros(1, 501, dtype=torch.bool)
    active[:, :100] = True
    ranking = time_ranking(curve, active)
    assert pointing_game(ranking).item() == pytest.approx(100 / 501)
    assert mean_iou(ranking).item() == 0


def test_events_are_frames():
    times = torch.arange(6) * 0.1
    found = event_frames([(0.06, 0.14), (0.36, 0.5)], times)
    assert found.tolist() == [False, True, False, False, True, True]
    # Shorter than a frame, and not at its centre.
    assert event_frames([(0.12, 0.13)], times).tolist() == [False, True, *[False] * 4]
    assert not event_frames([], times).any()


def test_a_sound_is_there_within_30_db_of_its_strongest_frame():
    rate, times = 8000, torch.arange(51) * 0.02
    sound = torch.zeros(2, 1, rate)
    sine = torch.sin(2 * math.pi * 400 * torch.arange(rate) / rate)
    sound[0, 0, 2000:4000] = sine[2000:4000]
    sound[0, 0, 6000:7000] = 10 ** (-29 / 20) * sine[6000:7000]
    sound[0, 0, 7000:] = 10 ** (-31 / 20) * sine[7000:]
    active = sounding_frames(sound, times, rate)
    expected = [12 < n <= 25 or 37 < n <= 43 for n in range(51)]
    edges = {12, 13, 25, 37, 38, 43, 44}  # half in it
    assert [n for n in range(51) if active[0, n] != expected[n] and n not in edges] == []
    assert not active[1].any()


# Evidence.


def truth(seed: int = 0, **changes) -> Truth:
    cells = [-100 + 80 * maps(3, 1, 16, 25, seed=seed + n).abs() / 3 for n in (0, 1)]
    known = {"active": where(3, 25, share=0.4), "labels": torch.eye(3, dtype=torch.bool)}
    return Truth(*map(View, cells), **(known | changes))


def measured(known: Truth, attribution: torch.Tensor, target=(0, 1, 2)) -> dict:
    before = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    return evaluate_evidence(
        Evidence(before, torch.tensor(target), attribution=attribution, truth=known)
    )


def test_columns_are_of_what_is_known():
    known, attribution = truth(), maps(3, 1, 16, 25)
    assert list(measured(known, attribution)) == [*BY_CELLS, *BY_FRAMES]
    assert list(measured(truth(active=None), attribution)) == BY_CELLS
    events = Truth(active=known.active, labels=known.labels)
    assert list(measured(events, attribution)) == BY_FRAMES
    assert measured(Truth(labels=known.labels), attribution) == {}


def test_metrics_are_of_the_counted_cells():
    known, attribution = truth(), maps(3, 1, 16, 25)
    assert 0 < known.counted.float().mean() < 1
    found = measured(known, attribution)["AUPRC"]
    for clip in range(3):
        counted = known.counted[clip]
        expected = average_precision_score(
            known.binary[clip][counted].numpy(), attribution[clip][counted].numpy()
        )
        assert found[clip].item() == pytest.approx(expected, abs=1e-12)


def test_a_map_of_another_class_has_nothing_to_find():
    known = truth()
    found = measured(known, maps(3, 1, 16, 25), target=(0, 2, 2))
    facts = truth_facts(known, torch.tensor([0, 2, 2]))
    assert facts["true_class"].tolist() == [1, 0, 1]
    for values in found.values():
        assert values.isnan().tolist() == [False, True, False]
    why = [why_no_truth({name: float(each[n]) for name, each in facts.items()}) for n in range(3)]
    another = "explains a class that the clip does not have"
    assert why == [{}, {"truth": another, "events": another}, {}]


@pytest.mark.parametrize(
    ("advantage", "why"),
    [(-10.0, "no cell is of the foreground"), (10.0, "every cell is of the foreground")],
)
def test_a_truth_without_both_kinds_of_cells_has_a_reason(advantage, why):
    cells = -50 + maps(3, 1, 16, 25)
    known = Truth(View(cells + advantage), View(cells))
    found = measured(known, maps(3, 1, 16, 25))
    assert all(values.isnan().all() for values in found.values())
    facts = truth_facts(known, torch.tensor([0, 1, 2]))
    share = float(advantage > 0)
    assert facts["foreground_share"].tolist() == [share] * 3
    assert why_no_truth({"true_class": 1.0, "foreground_share": share})["truth"].startswith(why)


@pytest.mark.parametrize(("active", "why"), [(False, "in no frame"), (True, "in every frame")])
def test_an_event_that_lasts_for_ever_or_never_begins_has_a_reason(active, why):
    known = truth(active=torch.full((3, 25), active))
    found = measured(known, maps(3, 1, 16, 25))
    assert all(found[name].isnan().all() for name in BY_FRAMES)
    assert not any(found[name].isnan().any() for name in BY_CELLS)
    facts = {name: float(each[0]) for name, each in truth_facts(known, torch.arange(3)).items()}
    assert why_no_truth(facts) == {"events": f"the event sounds {why}"}


def test_chance_levels_are_the_means_of_random_maps():
    known = truth()
    facts = truth_facts(known, torch.arange(3))
    found = [measured(known, maps(3, 1, 16, 25, seed=seed)) for seed in range(300)]
    for name in (*BY_CELLS, *BY_FRAMES):
        if METRICS[name].chance:
            mean = torch.stack([each[name] for each in found]).mean(0)
            torch.testing.assert_close(mean, facts[METRICS[name].chance], rtol=0, atol=0.1)
