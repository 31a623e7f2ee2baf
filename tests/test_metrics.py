"""Metrics against hand computation, Quantus, SciPy and the definitions written out in full."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from audiointerp.masking import make_masks
from audiointerp.metrics import (
    average_drop,
    average_gain,
    average_increase,
    complexity,
    evaluate,
    faithfulness,
    input_fidelity,
    sparseness,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

FIDELITY = [faithfulness, average_increase, average_drop, average_gain, input_fidelity]
QUANTUS_SHIFT = 1e-7
"""What Quantus adds to every cell before it takes the Gini index."""


def probabilities(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Fidelity.


def test_fidelity_by_hand():
    original = probabilities([0.8, 0.15, 0.05], [0.3, 0.5, 0.2], [0.6, 0.3, 0.1])
    masked_in = probabilities([0.9, 0.06, 0.04], [0.7, 0.2, 0.1], [0.6, 0.2, 0.2])
    masked_out = probabilities([0.1, 0.3, 0.6], [0.25, 0.65, 0.1], [0.6, 0.3, 0.1])
    expected = {
        faithfulness: [0.7, -0.15, 0.0],
        average_increase: [100, 0, 0],
        average_drop: [0, 60, 0],  # (.5 - .2) / .5
        average_gain: [50, 0, 0],  # (.9 - .8) / (1 - .8)
        input_fidelity: [1, 0, 1],
    }
    for metric, values in expected.items():
        masked = masked_out if metric is faithfulness else masked_in
        np.testing.assert_allclose(metric(original, masked), values, atol=1e-9)


def test_fidelity_of_a_chosen_class_by_hand():
    original = probabilities([0.8, 0.15, 0.05])
    masked = probabilities([0.1, 0.3, 0.6])
    for target, expected in (
        (1, {faithfulness: -0.15, average_increase: 100, average_drop: 0, input_fidelity: 0}),
        (2, {faithfulness: -0.55, average_increase: 100, average_drop: 0, input_fidelity: 1}),
        (0, {faithfulness: 0.7, average_increase: 0, average_drop: 87.5, input_fidelity: 0}),
    ):
        for metric, value in expected.items():
            found = metric(original, masked, torch.tensor([target])).item()
            assert found == pytest.approx(value)
    gain = average_gain(original, masked, torch.tensor([1])).item()
    assert gain == pytest.approx(100 * 0.15 / 0.85)


def test_an_increase_is_more_than_rounding():
    original = probabilities([0.7, 0.3])
    for change, increase in ((0, 0), (5e-7, 0), (-5e-7, 0), (2e-6, 100), (0.1, 100)):
        masked = probabilities([0.7 + change, 0.3 - change])
        assert average_increase(original, masked).item() == increase


def softmax(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits).double().softmax(1)


LOGITS = arrays.arrays(np.float64, (4, 3), elements=st.floats(-60, 60))


@settings(max_examples=100, deadline=None)
@given(before=LOGITS, after=LOGITS)
def test_fidelity_is_its_definition_clip_by_clip(before, after):
    original, masked = softmax(before), softmax(after)
    for i in range(4):
        row, other = original[i].tolist(), masked[i].tolist()
        c = row.index(max(row))
        p, q = row[c], other[c]
        slow = {
            faithfulness: p - q,
            average_increase: 100.0 if q > p + 1e-6 else 0.0,
            average_drop: 100 * max(0.0, p - q) / p,
            average_gain: 100 * max(0.0, q - p) / (1 - p) if p < 1 else 0.0,
            input_fidelity: 1.0 if other.index(max(other)) == c else 0.0,
        }
        for metric, value in slow.items():
            found = metric(original[i : i + 1], masked[i : i + 1]).item()
            assert found == pytest.approx(value, rel=1e-12, abs=1e-12)
            assert metric(original, masked)[i].item() == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_value_is_finite_and_in_range_where_the_model_is_certain(dtype):
    certain = torch.tensor([[1.0, 0.0]], dtype=dtype)
    above = torch.tensor([[1 + 5e-6, 0.0]], dtype=dtype)  # as a softmax in single may round
    half = torch.tensor([[0.5, 0.5]], dtype=dtype)
    for original in (certain, above, half):
        for masked in (certain, above, half, certain.flip(1)):
            for target in (0, 1):
                chosen = torch.tensor([target])
                values = {m: m(original, masked, chosen).item() for m in FIDELITY}
                assert -1 <= values[faithfulness] <= 1
                assert values[average_increase] in (0, 100)
                assert 0 <= values[average_drop] <= 100
                assert 0 <= values[average_gain] <= 100
                assert values[input_fidelity] in (0, 1)
    # A class that had no probability cannot lose any, one that had it all cannot gain.
    assert average_drop(certain, half, torch.tensor([1])).item() == 0
    assert average_gain(certain, certain).item() == 0
    assert average_drop(certain, certain.flip(1)).item() == 100
    assert average_gain(certain, certain.flip(1), torch.tensor([1])).item() == 100


def test_keeping_everything_changes_nothing():
    original = softmax(np.random.default_rng(0).normal(size=(20, 5)))
    for metric in (faithfulness, average_increase, average_drop, average_gain):
        assert (metric(original, original.clone()) == 0).all()
    assert (input_fidelity(original, original) == 1).all()


@pytest.mark.parametrize("metric", FIDELITY)
def test_fidelity_of_bad_input_is_refused(metric):
    good = probabilities([0.8, 0.2], [0.4, 0.6])
    with pytest.raises(ValueError, match=r"did you pass logits\? take their softmax"):
        metric(probabilities([3.0, -1.0], [0.2, 0.8]), good)
    with pytest.raises(ValueError, match="did you pass logits"):
        metric(good, probabilities([0.5, 0.5], [1.2, -0.2]))
    with pytest.raises(ValueError, match="nan"):
        metric(good, good * math.nan)
    with pytest.raises(ValueError, match=r"shapes \(2, 2\) and \(1, 2\)"):
        metric(good, good[:1])
    with pytest.raises(ValueError, match=r"expected \(batch, classes\)"):
        metric(good[0], good[0])
    with pytest.raises(ValueError, match="expected floating point"):
        metric(torch.tensor([[1, 0]]), torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match="outside 0 … 1"):
        metric(good, good, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="outside 0 … 1"):
        metric(good, good, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="one class per clip"):
        metric(good, good, torch.tensor([0]))
    with pytest.raises(ValueError, match="expected whole numbers"):
        metric(good, good, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("metric", FIDELITY)
def test_targets_of_any_whole_type_and_no_clips_at_all(metric):
    good = probabilities([0.8, 0.2], [0.4, 0.6])
    wanted = metric(good, good.flip(0), torch.tensor([1, 0]))
    found = metric(good, good.flip(0), torch.tensor([1, 0], dtype=torch.int32))
    assert torch.equal(found, wanted)
    assert metric(good[:0], good[:0]).shape == (0,)


# Simplicity.


def gini(values: np.ndarray) -> float:
    """Return the Gini index by its definition: mean difference of all pairs over twice the mean."""
    pairs = np.abs(values[:, None] - values[None, :])
    return pairs.mean() / (2 * values.mean())


MAPS = arrays.arrays(
    np.float64, (1, 1, 5, 7), elements=st.floats(0, 1).map(lambda v: v if v > 1e-100 else 0.0)
)


@settings(max_examples=100, deadline=None)
@given(values=MAPS)
def test_sparseness_is_the_mean_difference_of_all_pairs(values):
    found = sparseness(torch.from_numpy(values)).item()
    expected = gini(values.ravel()) if values.any() else 0.0
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0 <= found < 1


@settings(max_examples=100, deadline=None)
@given(values=MAPS)
def test_complexity_is_scipys_entropy(values):
    found = complexity(torch.from_numpy(values)).item()
    expected = scipy.stats.entropy(values.ravel()) if values.any() else math.log(35)
    assert found == pytest.approx(expected, abs=1e-9)
    assert -1e-12 <= found <= math.log(35) + 1e-12


def test_simplicity_by_hand():
    mask = torch.tensor([[0.0, 1.0, 0.0, 3.0]], dtype=torch.float64)
    # Sorted 0 0 1 3, ranks -3 -1 1 3: (1 + 9) / (4 · 4).
    assert sparseness(mask).item() == pytest.approx(10 / 16)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert complexity(mask).item() == pytest.approx(entropy)
    # A binary mask of k in N cells: Gini 1 - k/N, entropy ln k.
    binary = (torch.arange(200) < 30).double()[None]
    assert sparseness(binary).item() == pytest.approx(1 - 30 / 200)
    assert complexity(binary).item() == pytest.approx(math.log(30))
    # Signs are dropped.
    assert torch.equal(sparseness(-mask), sparseness(mask))
    assert torch.equal(complexity(-mask), complexity(mask))


def real_masks() -> dict[str, torch.Tensor]:
    """Return the fourteen masks of attribution maps with a shape and tails like real ones."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 1, 64, 101, generator=generator, dtype=torch.float64) ** 3
    return make_masks(maps * (torch.rand(maps.shape, generator=generator) > 0.2))


def quantus_scores(metric: type, mask: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scorer = metric(abs=True, normalise=False, disable_warnings=True)
        batch = np.abs(mask.copy())
        return np.asarray(scorer.evaluate_batch(x_batch=batch, a_batch=batch))


@pytest.mark.parametrize("name", make_masks(torch.zeros(1, 1, 1, 1)))
def test_sparseness_is_that_of_quantus_to_1e_6(name):
    mask = real_masks()[name]
    theirs = quantus_scores(quantus.Sparseness, mask.numpy())
    shifted = sparseness(mask + QUANTUS_SHIFT)
    np.testing.assert_allclose(shifted, theirs, rtol=0, atol=1e-10)
    # Adding e to N cells of sum S scales a Gini index by S / (S + N·e): taken out exactly.
    total = mask.sum(dim=(1, 2, 3))
    exact = theirs * ((total + mask[0].numel() * QUANTUS_SHIFT) / total).numpy()
    np.testing.assert_allclose(sparseness(mask), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", make_masks(torch.zeros(1, 1, 1, 1)))
def test_complexity_is_that_of_quantus_to_1e_6(name):
    mask = real_masks()[name]
    theirs = quantus_scores(quantus.Complexity, mask.numpy())
    np.testing.assert_allclose(complexity(mask), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-300, 0.1, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_mask_is_the_worst_not_the_best(value, dtype):
    """It selects nothing; the published code gave it, and the empty one, a complexity of 0."""
    mask = torch.full((2, 1, 64, 101), value, dtype=dtype)
    assert (sparseness(mask) == 0).all()
    np.testing.assert_allclose(complexity(mask), math.log(64 * 101), rtol=1e-6)
    some = mask.clone()
    some[..., 0] += 0.5
    assert (complexity(some) < complexity(mask)).all()


def test_an_empty_mask_does_not_disturb_the_others_of_its_batch():
    mask = real_masks()["minmax_pos"].clone()
    alone = sparseness(mask[:1]), complexity(mask[:1])
    mask[1] = 0
    mask[2] = 0.3
    assert torch.equal(sparseness(mask)[:1], alone[0])
    assert torch.equal(complexity(mask)[:1], alone[1])
    assert sparseness(mask)[1:].tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(values=MAPS, scale=st.floats(1e-6, 1e6))
def test_simplicity_does_not_depend_on_scale_or_order(values, scale):
    mask = torch.from_numpy(values)
    for metric in (sparseness, complexity):
        wanted = metric(mask).item()
        assert metric(mask * scale).item() == pytest.approx(wanted, abs=1e-9)
        assert metric(mask.flip(2, 3)).item() == pytest.approx(wanted, abs=1e-9)


def test_precision_follows_the_mask_but_sums_are_double():
    mask = torch.rand(2, 1, 64, 501, generator=torch.Generator().manual_seed(0))
    for metric in (sparseness, complexity):
        assert metric(mask).dtype == torch.float32
        assert metric(mask.double()).dtype == torch.float64
        np.testing.assert_allclose(metric(mask), metric(mask.double()), rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_masks_of_whole_numbers_have_fractions_for_scores(dtype):
    mask = torch.tensor([[1, 0, 0, 1, 0]])
    assert sparseness(mask.to(dtype)).item() == pytest.approx(0.6)
    assert complexity(mask.to(dtype)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("metric", [sparseness, complexity])
def test_masks_that_cannot_be_measured_are_refused(metric):
    for mask in (torch.zeros(5), torch.zeros(2, 0), torch.zeros(())):
        with pytest.raises(ValueError, match="with cells to measure"):
            metric(mask)
    with pytest.raises(ValueError, match="NaN or infinite"):
        metric(torch.tensor([[0.0, math.nan]]))


# All of them.


def test_evaluate_gives_every_column_in_order():
    original = probabilities([0.8, 0.2], [0.4, 0.6])
    masked_in = probabilities([0.9, 0.1], [0.7, 0.3])
    masked_out = probabilities([0.3, 0.7], [0.5, 0.5])
    mask = torch.rand(2, 1, 6, 7, dtype=torch.float64)
    found = evaluate(original, masked_in, masked_out, mask)
    assert list(found) == ["FF", "AI", "AD", "AG", "FidIn", "SPS", "COMP"]
    expected = {
        "FF": [0.5, 0.1],
        "AI": [100, 0],
        "AD": [0, 50],
        "AG": [50, 0],
        "FidIn": [1, 0],
        "SPS": [gini(cells.ravel()) for cells in mask.numpy()],
        "COMP": [scipy.stats.entropy(cells.ravel()) for cells in mask.numpy()],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-9, err_msg=name)
    other = evaluate(original, masked_in, masked_out, mask, torch.tensor([1, 0]))
    np.testing.assert_allclose(other["FF"], [0.2 - 0.7, 0.4 - 0.5], atol=1e-12)
    np.testing.assert_allclose(other["FidIn"], [0, 1])
