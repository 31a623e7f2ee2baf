"""F-Fidelity: random cells of a mask removed, compared with a loop over the paper's formulas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import HEADS, NAMES, RATE, Network, sounds, stft, wrap

import audiointerp as ai
from audiointerp.evaluation import METRICS, Evidence, evaluate_evidence, faithfulness
from audiointerp.evaluation.robust_fidelity import (
    ALPHA,
    BETA,
    DRAWS,
    draw_removed,
    robust_faithfulness,
    robust_input_fidelity,
)
from audiointerp.processing import View

CLASSES, BINS, FRAMES = 3, 5, 8
CELLS = BINS * FRAMES
LEVEL = -100.0


WEIGHT = torch.randn(
    CELLS, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64
)


def network(cells):
    """Return softmax probabilities that depend on every cell in a way of its own."""
    return (cells.double().flatten(1) @ WEIGHT / 60).softmax(1)


def make_evidence(masks, *, seed=0, keeps=None, calls=None):
    """Return the evidence of random clips, one per mask, whose scores `network` gives."""
    generator = torch.Generator().manual_seed(seed)
    count = len(masks)
    cells = LEVEL + 90 * torch.rand(count, 1, BINS, FRAMES, generator=generator)
    waveform = torch.randn(count, 1, 200, generator=generator)
    before = network(cells)

    def score(masked, rows):
        if calls is not None:
            calls.append((masked, rows))
        return network(masked)

    return Evidence(
        before,
        before.argmax(1),
        mask=masks,
        view=View(cells, waveform),
        keeps=keeps,
        level=torch.full((count, 1, 1, 1), LEVEL),
        score=score,
    )


def part_of(evidence, rows):
    return Evidence(
        evidence.before[rows],
        evidence.target[rows],
        mask=evidence.mask[rows],
        view=evidence.view[rows],
        level=evidence.level[rows],
        score=evidence.score,
    )


def random_masks(count, seed, kind="binary"):
    masks = torch.rand(count, 1, BINS, FRAMES, generator=torch.Generator().manual_seed(seed))
    return (masks > 0.6).float() if kind == "binary" else masks


def slow_expectations(evidence, row, alpha, beta, draws):
    """Return the drops of FFid+ and the unchanged decisions of FFid- as the paper has them.

    FFid+ = E[p_c(x) - p_c(x without a random α⁺ of the explanation)], FFid- the same with what is
    no explanation, both with at most β of the input removed. Its own random numbers.
    """
    rng = np.random.default_rng(99)
    mask, cells = evidence.mask[row].flatten().tolist(), evidence.view.cells[row].flatten().tolist()
    target = int(evidence.target[row])
    found = []
    for is_explanation in (1, 0):
        part = [place for place in range(CELLS) if mask[place] == is_explanation]
        size = min(math.ceil(alpha * len(part)), math.floor(beta * CELLS))
        masked = []
        for _ in range(draws):
            gone = set(rng.choice(part, size, replace=False).tolist())
            masked.append([LEVEL if place in gone else cells[place] for place in range(CELLS)])
        found.append(network(torch.tensor(masked).view(-1, 1, BINS, FRAMES)))
    drops = evidence.before[row, target] - found[0][:, target]
    return drops.numpy(), (found[1].argmax(1) == target).double().numpy()


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.1), (0.5, 0.5), (1.0, 0.3)])
def test_both_are_the_papers_expectations(alpha, beta):
    evidence = make_evidence(random_masks(3, seed=1))
    draws = 1000
    drop = robust_faithfulness(evidence, alpha=alpha, beta=beta, draws=draws)
    kept = robust_input_fidelity(evidence, alpha=alpha, beta=beta, draws=draws)
    for row in range(3):
        drops, decisions = slow_expectations(evidence, row, alpha, beta, draws)
        for found, expected in ((drop[row], drops), (kept[row], decisions)):
            deviation = max(expected.std(), draws**-0.5)
            # Of the difference of two such means.
            assert abs(float(found) - expected.mean()) < 4.5 * deviation * math.sqrt(2 / draws)
    assert drop.dtype == torch.float64
    assert drop.shape == (3,)


def test_expectations_differ_enough_to_be_told_apart():
    """The test above could fail: other shares have other expectations."""
    evidence = make_evidence(random_masks(3, seed=1))
    values = [robust_faithfulness(evidence, beta=beta, draws=300) for beta in (0.05, 0.1, 0.5)]
    assert (values[0] - values[1]).abs().max() > 0.01
    assert (values[1] - values[2]).abs().max() > 0.01


def test_all_of_a_binary_mask_removed_is_ff():
    evidence = make_evidence(random_masks(4, seed=2))
    outside = network(torch.where(evidence.mask == 1, LEVEL, evidence.view.cells))
    inside = network(torch.where(evidence.mask == 1, evidence.view.cells, LEVEL))
    options = {"alpha": 1.0, "beta": 1.0, "draws": 2}
    found = robust_faithfulness(evidence, **options)
    torch.testing.assert_close(found, faithfulness(evidence.before, outside, evidence.target))
    found = robust_input_fidelity(evidence, **options)
    assert found.tolist() == (inside.argmax(1) == evidence.target).double().tolist()


masks = st.lists(st.sampled_from([0.0, 0.25, 0.7, 1.0]), min_size=CELLS, max_size=CELLS) | st.lists(
    st.sampled_from([0.0, 1.0]), min_size=CELLS, max_size=CELLS
)


@settings(max_examples=40, deadline=None)
@given(masks, st.floats(0.01, 1), st.floats(0.01, 1), st.booleans(), st.integers(0, 9))
def test_what_is_removed_lies_in_the_part_and_is_never_more_than_the_limit(
    values, share, most, selected, seed
):
    mask = np.array(values, np.float32)
    options = {"selected": selected, "share": share, "most": most, "draws": 6}
    removed = draw_removed(mask, np.random.default_rng(seed), **options)
    assert removed.shape == (6, CELLS)
    impossible = mask == 0 if selected else mask == 1
    assert not removed[:, impossible].any()
    assert (removed.sum(1) <= most * CELLS + 1e-6).all()
    if ((mask == 0) | (mask == 1)).all():
        size = (~impossible).sum()
        wanted = min(math.ceil(share * size - 1e-9), math.floor(most * CELLS + 1e-9))
        assert (removed.sum(1) == wanted).all()


@settings(max_examples=30, deadline=None)
@given(masks)
def test_laws(values):
    mask = torch.tensor(values).view(1, 1, BINS, FRAMES)
    evidence = make_evidence(mask)
    drop = robust_faithfulness(evidence, draws=4)
    kept = robust_input_fidelity(evidence, draws=4)
    assert -1 <= float(drop[0]) <= 1
    assert float(kept[0]) * 4 == round(float(kept[0]) * 4)
    assert 0 <= float(kept[0]) <= 1
    # What is not selected of a mask is what is selected of the opposite one.
    opposite = make_evidence(1 - mask)
    assert not (mask == 0).all() or float(drop[0]) == 0
    assert not (mask == 1).all() or float(kept[0]) == 1
    assert not (mask == 1).all() or float(robust_faithfulness(opposite)[0]) == 0
    assert torch.equal(drop, robust_faithfulness(evidence, draws=4))


def test_every_cell_of_a_part_is_removed_equally_often():
    mask = random_masks(1, seed=3)[0].flatten().numpy()
    rng = np.random.default_rng(0)
    draws = 4000
    removed = draw_removed(mask, rng, selected=True, share=0.5, most=1.0, draws=draws)
    size = int(mask.sum())
    expected = math.ceil(size / 2) / size
    spread = math.sqrt(expected * (1 - expected) / draws)
    assert np.abs(removed.mean(0)[mask == 1] - expected).max() < 4.5 * spread


def test_a_cell_of_a_soft_mask_is_removed_in_proportion_to_its_value():
    mask = np.repeat([0.2, 0.8], CELLS // 2)
    rng = np.random.default_rng(0)
    removed = draw_removed(mask, rng, selected=True, share=0.5, most=1.0, draws=4000)
    low, high = removed[:, : CELLS // 2].mean(), removed[:, CELLS // 2 :].mean()
    assert high / low == pytest.approx(4, rel=0.05)
    rng = np.random.default_rng(0)
    rest = draw_removed(mask, rng, selected=False, share=1.0, most=1.0, draws=4000)
    rng = np.random.default_rng(0)
    chosen = draw_removed(mask, rng, selected=True, share=1.0, most=1.0, draws=4000)
    assert (rest ^ chosen).all()  # the two parts of the same draw


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_a_clip_does_not_depend_on_its_neighbours_or_its_place(kind):
    evidence = make_evidence(random_masks(4, seed=4, kind=kind))
    whole = evaluate_evidence(evidence, ["F_FF", "F_FidIn"])
    for row in range(4):
        alone = part_of(evidence, slice(row, row + 1))
        for name, value in evaluate_evidence(alone, ["F_FF", "F_FidIn"]).items():
            torch.testing.assert_close(value[0], whole[name][row], rtol=0, atol=1e-12)


def test_draws_of_a_clip_are_the_same_for_all_masks_and_others_for_other_clips():
    calls = []
    mask = random_masks(2, seed=6)
    mask[1] = mask[0]
    evidence = make_evidence(mask, calls=calls)
    robust_faithfulness(evidence, draws=5)
    first, second = ((cells == LEVEL) for cells, _ in calls)
    assert not torch.equal(first, second)  # the same mask, another clip
    calls.clear()
    robust_faithfulness(evidence, draws=5)
    assert torch.equal(calls[0][0] == LEVEL, first)
    calls.clear()
    robust_faithfulness(evidence, draws=5, seed=1)
    assert not torch.equal(calls[0][0] == LEVEL, first)


def test_the_base_and_the_rows_of_each_clip_are_scored():
    calls = []
    evidence = make_evidence(random_masks(2, seed=7), calls=calls)
    evidence.level[1] = -50.0
    robust_faithfulness(evidence, beta=0.2, draws=3)
    assert [rows.tolist() for _, rows in calls] == [[0] * 3, [1] * 3]
    for row, level in enumerate((LEVEL, -50.0)):
        cells, _ = calls[row]
        changed = cells != evidence.view.cells[row]
        size = min(math.ceil(0.5 * float(evidence.mask[row].sum())), math.floor(0.2 * CELLS))
        assert changed.flatten(1).sum(1).tolist() == [size] * 3
        assert (cells[changed] == level).all()


def test_cells_without_a_waveform_are_drawn_by_their_cells():
    evidence = make_evidence(random_masks(2, seed=7))
    silent = dataclasses.replace(evidence, view=View(evidence.view.cells))
    found = robust_faithfulness(silent)
    assert torch.equal(found, robust_faithfulness(silent))
    assert not torch.equal(found, robust_faithfulness(evidence))


def test_the_heads_rule_decides():
    calls = []

    def keeps(before, after, target):
        calls.append((before.shape, target.tolist()))
        return after[:, 0] < 2  # always

    evidence = make_evidence(random_masks(1, seed=8), keeps=keeps)
    assert robust_input_fidelity(evidence, beta=1.0, draws=7).tolist() == [1.0]
    assert calls == [((7, CLASSES), [int(evidence.target[0])] * 7)]


def test_no_rows_give_no_values():
    evidence = make_evidence(random_masks(2, seed=9))
    none = part_of(evidence, slice(0, 0))
    assert robust_faithfulness(none).shape == robust_input_fidelity(none).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha=0: expected a share above 0"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"beta": 30}, "beta=30: expected a share above 0 and at most 1"),
        ({"draws": 0}, "0 draws: expected at least 1"),
    ],
)
def test_shares_out_of_range_are_refused(options, message):
    evidence = make_evidence(random_masks(1, seed=0))
    for metric in (robust_faithfulness, robust_input_fidelity):
        with pytest.raises(ValueError, match=message):
            metric(evidence, **options)


def test_what_is_missing_is_named():
    whole = make_evidence(random_masks(1, seed=0))
    evidence = Evidence(whole.before, whole.target, mask=whole.mask, view=whole.view)
    with pytest.raises(ValueError, match="needs level, score, not given"):
        robust_faithfulness(evidence)


def test_the_records_say_what_the_functions_do():
    assert (ALPHA, BETA, DRAWS) == (0.5, 0.5, 20)  # as the meanings say
    for name in ("F_FF", "F_FidIn"):
        metric = METRICS[name]
        assert metric.on_request
        assert metric.family == "robust fidelity"
        assert "random half" in metric.meaning
    evidence = make_evidence(random_masks(2, seed=3))
    found = evaluate_evidence(evidence, ["F_FF", "F_FidIn"])
    assert torch.equal(found["F_FF"], robust_faithfulness(evidence))
    assert torch.equal(found["F_FidIn"], robust_input_fidelity(evidence))


def waveform_classifier():
    class OnSound(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.front, self.network = stft(), Network()

        def forward(self, waveform):
            return self.network(self.front.analyse(waveform[:, None]).cells)

    front_end = ai.WaveformFrontEnd(sample_rate=RATE)
    return ai.classifier(OnSound(), front_end=front_end, classes=NAMES, duration=1.0)


@pytest.mark.parametrize("on", ["features", "audio"])
@pytest.mark.parametrize("kind", [*HEADS, "waveform"])
def test_a_run_measures_them_on_request(kind, on):
    if kind == "waveform":
        classifier = waveform_classifier()
    else:
        classifier = wrap(Network(HEADS[kind][0]), head=kind)
    front_end = classifier.front_end
    method = ai.SaliencyInterpreter(classifier)
    options = {"masks": ["topK_30", "minmax"], "on": on}
    clip = sounds()[1]
    plain = ai.Predict(classifier, method, **options).predict(clip, RATE)
    assert "F_FF" not in plain.metrics
    one = ai.Predict(classifier, method, extra="robust fidelity", **options).predict(clip, RATE)
    view = one.view
    before = torch.from_numpy(one.probabilities)[None]
    target = torch.tensor([one.target])

    def score(cells, rows):
        assert rows.tolist() == [0] * len(cells)
        many = view[rows]
        if on == "audio":
            many = front_end.analyse(front_end.synthesise(many, cells))
            cells = many.cells
        with torch.no_grad():
            return classifier.probabilities(classifier.logits(cells, many))

    for name, mask in one.masks.items():
        evidence = Evidence(
            before,
            target,
            mask=mask,
            view=view,
            keeps=classifier.head.keeps,
            level=torch.full((1, 1, 1, 1), float(front_end.floor)),
            score=score,
        )
        assert one.metrics.loc[name, "F_FF"] == pytest.approx(
            float(robust_faithfulness(evidence)), abs=1e-4
        )
        assert one.metrics.loc[name, "F_FidIn"] == float(robust_input_fidelity(evidence))
