"""Masks against a slow implementation, one cell at a time; masking against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from audiointerp.masking import (
    BASES,
    DOMAINS,
    MASKS,
    apply_mask,
    base_level,
    find_degenerate,
    ideal_binary_mask,
    make_masks,
    map_facts,
)
from audiointerp.processing import LogSTFTSpectrogram
from audiointerp.registry import UnknownNameError

NAMES = [
    "bin",
    "minmax",
    "sigmoid",
    "topK_5",
    "topK_30",
    "topK_50",
    "minmax_pos",
    "sigmoid_pos",
    "pos_thresh_25",
    "pos_thresh_50",
    "pos_thresh_75",
    "topK_5_pos",
    "topK_30_pos",
    "topK_50_pos",
]
TOP = [name for name in NAMES if name.startswith("topK")]


def clip(values) -> torch.Tensor:
    """Return one clip's map (1, 1, bins, frames) in float32."""
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    return torch.from_numpy(values)[None, None]


def maps(low: float = -1e6, high: float = 1e6):
    """Draw maps of some cells, many of them equal."""
    value = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]), st.floats(low, high, width=32))
    shape = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
    return arrays.arrays(np.float32, shape, elements=value).map(clip)


def slow_mask(name: str, cells: list[float]) -> list[float]:
    """Return a mask by its definition, with Python's numbers alone."""
    kind, _, tail = name.partition("_")
    values = [max(value, 0.0) for value in cells] if name.endswith("_pos") else list(cells)
    if kind == "bin":
        return [1.0 if value > 0 else 0.0 for value in cells]
    if name in ("minmax", "minmax_pos"):
        low = 0.0 if name == "minmax_pos" else min(values)
        high = max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]
    if kind == "sigmoid":
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        if min(values) == max(values):
            return [0.5] * len(values)
        return [1 / (1 + math.exp(-min(max(v / deviation, -700), 700))) for v in values]
    if kind == "pos":
        threshold, peak = int(tail.split("_")[1]), max(max(cells), 0.0)
        return [1.0 if value > 0 and value * 100 >= threshold * peak else 0.0 for value in cells]
    percent = int(tail.split("_")[0])
    keep = (percent * len(cells) + 99) // 100
    mask = [0.0] * len(cells)
    for _ in range(keep):
        best = None
        for place, value in enumerate(cells):
            if mask[place] == 0.0 and (best is None or value > cells[best]):
                best = place
        mask[best] = 1.0
    if name.endswith("_pos"):
        mask = [kept if value > 0 else 0.0 for kept, value in zip(mask, cells, strict=True)]
    return mask


# Masks.


def test_the_fourteen_masks_are_there_by_their_published_names():
    assert sorted(MASKS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(attribution=maps())
def test_every_mask_is_its_slow_definition(name, attribution):
    mask = make_masks(attribution, name)[name]
    slow = slow_mask(name, attribution.double().flatten().tolist())
    if "sigmoid" in name or "minmax" in name:
        np.testing.assert_allclose(mask.flatten(), slow, rtol=0, atol=2e-5)
    else:
        assert mask.flatten().tolist() == slow


@pytest.mark.parametrize("name", NAMES)
def test_every_mask_is_its_slow_definition_on_a_large_map(name):
    generator = torch.Generator().manual_seed(0)
    # A tenth of the cells at 0, as after a ReLU, and the tails of a real attribution map.
    attribution = torch.randn(1, 1, 20, 31, generator=generator) ** 3
    attribution *= torch.rand(attribution.shape, generator=generator) > 0.1
    slow = slow_mask(name, attribution.double().flatten().tolist())
    mask = make_masks(attribution)[name]
    np.testing.assert_allclose(mask.flatten(), slow, rtol=0, atol=1e-6)


def test_masks_by_hand():
    masks = make_masks(clip([[4.0, -2.0], [1.0, 0.0]]))
    expected = {
        "bin": [1, 0, 1, 0],
        "minmax": [1, 0, 1 / 2, 1 / 3],
        "minmax_pos": [1, 0, 1 / 4, 0],
        "topK_5": [1, 0, 0, 0],
        "topK_30": [1, 0, 1, 0],
        "topK_50": [1, 0, 1, 0],
        "topK_50_pos": [1, 0, 1, 0],
        "pos_thresh_25": [1, 0, 1, 0],
        "pos_thresh_50": [1, 0, 0, 0],
        "pos_thresh_75": [1, 0, 0, 0],
        # mean 3/4, variance (3.25² + 2.75² + .25² + .75²)/4 = 4.6875
        "sigmoid": [1 / (1 + math.exp(-v / math.sqrt(4.6875))) for v in (4, -2, 1, 0)],
        # of A⁺: mean 5/4, variance (2.75² + 1.25² + .25² + 1.25²)/4 = 2.6875
        "sigmoid_pos": [1 / (1 + math.exp(-v / math.sqrt(2.6875))) for v in (4, 0, 1, 0)],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(masks[name].flatten(), values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", TOP)
@settings(max_examples=40, deadline=None)
@given(attribution=maps())
def test_top_k_keeps_exactly_its_count_whatever_the_ties(name, attribution):
    kept = int(make_masks(attribution, name)[name].sum())
    percent = int(name.split("_")[1])
    count = math.ceil(percent * attribution.numel() / 100 - 1e-9)
    if name.endswith("_pos"):
        assert kept == min(count, int((attribution > 0).sum()))
    else:
        assert kept == count


def test_ties_no_longer_make_top_k_keep_everything():
    """The published rule, A >= quantile, keeps every cell of a map that is mostly 0."""
    attribution = torch.zeros(1, 1, 10, 10)
    attribution[..., 3, 4] = 1.0
    published = (attribution >= attribution.quantile(1 - 0.3)).float()
    assert published.mean() == 1
    assert make_masks(attribution, "topK_30")["topK_30"].sum() == 30
    assert make_masks(attribution, "topK_30_pos")["topK_30_pos"].sum() == 1


def test_equal_cells_are_taken_by_position():
    for name, count in (("topK_5", 1), ("topK_30", 3), ("topK_50", 5)):
        mask = make_masks(torch.zeros(1, 1, 2, 5), name)[name].flatten()
        assert mask.tolist() == [1] * count + [0] * (10 - count)
    signed_zeros = clip([[-0.0, 0.0, -0.0, 0.0]])
    assert make_masks(signed_zeros, "topK_50")["topK_50"].flatten().tolist() == [1, 1, 0, 0]


def test_shares_of_cells_are_counted_in_whole_numbers():
    """0.05·20, 0.3·10 and 0.29·100 are not whole in floating point; the counts are."""
    assert int(0.29 * 100) == 28
    for cells in (10, 20, 100, 1000, 32064):
        masks = make_masks(torch.randn(1, 1, 1, cells))
        for percent in (5, 30, 50):
            assert masks[f"topK_{percent}"].sum() == -(-percent * cells // 100)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(attribution=maps(), power=st.integers(-60, 60))
def test_no_mask_depends_on_the_scale(name, attribution, power):
    kept = attribution.abs() > 1e-12  # no cell that scaling could push below the smallest number
    attribution = torch.where(kept, attribution, torch.zeros(()))
    scaled = make_masks(attribution * 2.0**power, name)[name]
    assert torch.equal(scaled, make_masks(attribution, name)[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e30, 3e38])
def test_tiny_and_huge_gradients_have_the_masks_of_ordinary_ones(name, scale):
    generator = torch.Generator().manual_seed(0)
    attribution = torch.empty(2, 1, 7, 9).uniform_(-1, 1, generator=generator)
    attribution[..., 0, 0] = 0
    expected = make_masks(attribution, name)[name]
    found = make_masks(attribution * scale, name)[name]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(attribution=maps(-3.4028234663852886e38, 3.4028234663852886e38))
def test_masks_lie_between_0_and_1_for_any_map(name, attribution):
    mask = make_masks(attribution, name)[name]
    assert mask.shape == attribution.shape
    assert mask.min() >= 0
    assert mask.max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clip_in_a_batch_has_the_mask_it_has_alone(name, dtype):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 1, 13, 17, generator=generator, dtype=dtype)
    batch[1] *= 1e-20
    batch[2] = 0.25  # constant: must not change what the others get
    batch[3] = -batch[3].abs()
    together = make_masks(batch, name)[name]
    assert together.dtype == dtype
    # The vectorised exponential may round the last bit otherwise than the scalar one.
    rounding = 4 * torch.finfo(dtype).eps if "sigmoid" in name else 0
    for index in range(4):
        alone = make_masks(batch[index : index + 1], name)[name]
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=rounding)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5, 1e-30])
def test_a_constant_map(value):
    masks = make_masks(torch.full((1, 1, 4, 5), value))
    count = {name: float(mask.sum()) for name, mask in masks.items()}
    positive = 20 if value > 0 else 0
    assert count["minmax"] == 0
    assert count["sigmoid"] == count["sigmoid_pos"] == 10  # 0.5 in every cell
    assert count["bin"] == count["minmax_pos"] == count["pos_thresh_75"] == positive
    assert (count["topK_5"], count["topK_30"], count["topK_50"]) == (1, 6, 10)
    assert count["topK_50_pos"] == min(10, positive)


def test_a_map_without_positive_cells_has_empty_positive_masks():
    masks = make_masks(-torch.rand(1, 1, 6, 7) - 0.1)
    for name in NAMES:
        if name == "sigmoid_pos":
            assert (masks[name] == 0.5).all()
        elif "pos" in name or name == "bin":
            assert masks[name].sum() == 0
        else:
            assert masks[name].sum() > 0


@pytest.mark.parametrize("value", [-3.0, 0.0, 1e-40, 3.0])
def test_a_map_of_one_cell(value):
    masks = {name: mask.item() for name, mask in make_masks(clip([[value]])).items()}
    assert masks["bin"] == masks["minmax_pos"] == masks["topK_5_pos"] == float(value > 0)
    assert masks["minmax"] == 0
    assert masks["sigmoid"] == masks["sigmoid_pos"] == 0.5
    assert masks["topK_5"] == masks["topK_30"] == masks["topK_50"] == 1


def test_the_sigmoid_uses_its_range():
    """σ of an unscaled gradient is 0.5 everywhere; σ(A/s) is not, at any scale."""
    saliency = 1e-4 * torch.randn(1, 1, 64, 501, generator=torch.Generator().manual_seed(0))
    published = saliency.sigmoid()
    assert published.max() - published.min() < 0.001
    mask = make_masks(saliency, "sigmoid")["sigmoid"]
    assert mask.min() < 0.05
    assert mask.max() > 0.95
    # A standard normal's σ has a standard deviation of 0.2083.
    assert mask.std() == pytest.approx(0.2083, abs=2e-3)


def test_only_the_masks_asked_for_are_made():
    attribution = torch.randn(1, 1, 3, 3)
    assert list(make_masks(attribution, ["topK_5", "bin"])) == ["topK_5", "bin"]
    assert list(make_masks(attribution, "bin")) == ["bin"]
    assert sorted(make_masks(attribution)) == sorted(NAMES)


def test_the_map_is_left_as_it_was():
    attribution = torch.randn(2, 1, 5, 6)
    before = attribution.clone()
    for mask in make_masks(attribution).values():
        mask.zero_()
    assert torch.equal(attribution, before)


@pytest.mark.parametrize(
    ("attribution", "message"),
    [
        (torch.zeros(4, 5), r"\(4, 5\): expected \(batch, 1, bins, frames\)"),
        (torch.zeros(1, 2, 4, 5), "expected"),
        (torch.zeros(1, 1, 0, 5), "expected"),
        (torch.zeros(1, 1, 4, 5, dtype=torch.int64), "int64: expected floating"),
        (torch.full((1, 1, 4, 5), torch.nan), "NaN or infinite"),
        (torch.full((1, 1, 4, 5), torch.inf), "NaN or infinite"),
    ],
)
def test_maps_that_no_mask_can_be_made_of_are_refused(attribution, message):
    with pytest.raises(ValueError, match=message):
        make_masks(attribution)


def test_an_unknown_mask_is_told_the_choices():
    with pytest.raises(UnknownNameError, match=r"topk_30.*Did you mean 'topK_30'"):
        make_masks(torch.zeros(1, 1, 2, 2), ["topk_30"])


# Masking.

DECIBELS = st.floats(-100, 60, width=32)
SHARES = st.floats(0, 1, width=32)


def cells(elements, shape=(3, 4)):
    return arrays.arrays(np.float32, shape, elements=elements).map(clip)


@pytest.mark.parametrize("domain", DOMAINS)
@settings(max_examples=100, deadline=None)
@given(
    features=cells(st.floats(-3.0000000054977558e38, 3.0000000054977558e38, width=32)),
    base=st.floats(-1e6, 1e6, width=32),
)
def test_a_mask_of_ones_or_zeros_is_exact_for_any_float(domain, features, base):
    ones = torch.ones_like(features)
    inside, outside = apply_mask(features, ones, base, domain=domain)
    assert torch.equal(inside, features)
    assert torch.equal(outside, torch.full_like(features, base))
    inside, outside = apply_mask(features, 0 * ones, base, domain=domain)
    assert torch.equal(inside, torch.full_like(features, base))
    assert torch.equal(outside, features)


@pytest.mark.parametrize("domain", DOMAINS)
def test_binary_masks_are_exact_cell_by_cell(domain):
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(2, 1, 64, 101).uniform_(-100, 40, generator=generator)
    mask = (torch.rand(features.shape, generator=generator) > 0.5).float()
    inside, outside = apply_mask(features, mask, -100.0, domain=domain)
    floor = torch.tensor(-100.0)
    assert torch.equal(inside, torch.where(mask == 1, features, floor))
    assert torch.equal(outside, torch.where(mask == 1, floor, features))


def test_the_published_formula_changes_what_it_should_keep():
    """(x + 100)·1 - 100 is not x in float32, so keeping all of a clip looked like an increase."""
    features = torch.empty(1, 1, 64, 501).uniform_(-60, 30, generator=torch.Generator())
    published = (features + 100) * 1 - 100
    assert (published != features).float().mean() > 0.5
    inside, _ = apply_mask(features, torch.ones_like(features), -100.0)
    assert torch.equal(inside, features)


@settings(max_examples=100, deadline=None)
@given(features=cells(DECIBELS), mask=cells(SHARES), base=DECIBELS)
def test_kept_and_removed_sum_to_clip_plus_base(features, mask, base):
    inside, outside = apply_mask(features, mask, base)
    torch.testing.assert_close(inside + outside, features + base, rtol=0, atol=5e-5)
    x, m = features.double(), mask.double()
    torch.testing.assert_close(inside.double(), base + (x - base) * m, rtol=0, atol=3e-5)
    torch.testing.assert_close(outside.double(), base + (x - base) * (1 - m), rtol=0, atol=3e-5)


@settings(max_examples=100, deadline=None)
@given(features=cells(DECIBELS), mask=cells(SHARES), base=DECIBELS)
def test_in_the_power_domain_kept_and_removed_powers_sum_to_clip_plus_base(features, mask, base):
    inside, outside = apply_mask(features.double(), mask.double(), base, domain="power")
    power = {
        name: 10 ** (level / 10)
        for name, level in {"x": features.double(), "in": inside, "out": outside}.items()
    }
    floor = 10 ** (base / 10)
    mixed = mask * power["x"] + (1 - mask.double()) * floor
    torch.testing.assert_close(power["in"], mixed, rtol=1e-9, atol=1e-30)
    total = power["x"] + floor
    torch.testing.assert_close(power["in"] + power["out"], total, rtol=1e-6, atol=1e-30)


def test_half_the_power_is_3_db_down_and_half_the_decibels_is_half_way_down():
    features, half = torch.full((1, 1, 2, 2), 20.0), torch.full((1, 1, 2, 2), 0.5)
    for level in apply_mask(features, half, -100.0, domain="power"):
        np.testing.assert_allclose(level, 20 - 3.0103, atol=1e-4)
    for level in apply_mask(features, half, -100.0):
        assert (level == -40).all()


@pytest.mark.parametrize("domain", DOMAINS)
@settings(max_examples=60, deadline=None)
@given(features=cells(DECIBELS), small=cells(SHARES), large=cells(SHARES), base=DECIBELS)
def test_a_larger_mask_never_keeps_less(domain, features, small, large, base):
    small, large = torch.minimum(small, large), torch.maximum(small, large)
    base = torch.minimum(torch.tensor(base), features.min())
    less, less_out = apply_mask(features, small, base, domain=domain)
    more, more_out = apply_mask(features, large, base, domain=domain)
    rounding = 3e-5
    assert (more >= less - rounding).all()
    assert (more_out <= less_out + rounding).all()
    assert (more <= features + rounding).all()
    assert (less >= base - rounding).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_clip_in_a_batch_is_masked_as_alone(domain):
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(3, 1, 8, 9).uniform_(-80, 20, generator=generator)
    mask = torch.rand(3, 1, 8, 9, generator=generator)
    base = base_level(features, "quiet", floor=-100.0)
    together = apply_mask(features, mask, base, domain=domain)
    for index in range(3):
        one = slice(index, index + 1)
        alone = apply_mask(features[one], mask[one], base[one], domain=domain)
        for part, part_alone in zip(together, alone, strict=True):
            torch.testing.assert_close(part[one], part_alone, rtol=0, atol=1e-5)


def test_masks_of_other_types_take_the_features_type():
    features = torch.full((1, 1, 2, 2), 20.0)
    mask = torch.tensor([[True, False], [False, True]])[None, None]
    for kind in (torch.bool, torch.float64, torch.int64):
        inside, _ = apply_mask(features, mask.to(kind), -100.0)
        assert inside.dtype == torch.float32
        assert inside.flatten().tolist() == [20, -100, -100, 20]
    inside, _ = apply_mask(features.double(), mask.float(), -100.0)
    assert inside.dtype == torch.float64


@pytest.mark.parametrize(
    ("mask", "base", "message"),
    [
        (torch.zeros(1, 1, 2, 3), -100.0, "one mask value per cell"),
        (torch.full((1, 1, 2, 2), 1.5), -100.0, "from 1.5 to 1.5: expected values in"),
        (torch.full((1, 1, 2, 2), -0.1), -100.0, "is this an attribution map"),
        (torch.full((1, 1, 2, 2), torch.nan), -100.0, "nan"),
        (torch.ones(1, 1, 2, 2), torch.nan, "base is NaN or infinite"),
        (torch.ones(1, 1, 2, 2), -torch.inf, "base is NaN or infinite"),
    ],
)
def test_masks_that_cannot_be_applied_are_refused(mask, base, message):
    with pytest.raises(ValueError, match=message):
        apply_mask(torch.zeros(1, 1, 2, 2), mask, base)


def test_an_unknown_domain_is_told_the_choices():
    with pytest.raises(UnknownNameError, match="feature, power"):
        apply_mask(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 0.0, domain="amplitude")


# Bases.


def test_bases_of_each_clip():
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(3, 1, 5, 41).uniform_(-90, 20, generator=generator)
    floor = base_level(features, "floor", floor=-100.0)
    assert floor.shape == (3, 1, 1, 1)
    assert (floor == -100).all()
    lowest = base_level(features, "minimum", floor=-100.0)
    assert lowest.flatten().tolist() == [clip.min().item() for clip in features]


@pytest.mark.parametrize("frames", [1, 2, 20, 21, 22, 101])
def test_the_quiet_base_is_the_5th_percentile_of_each_band(frames):
    generator = torch.Generator().manual_seed(frames)
    features = torch.empty(2, 1, 5, frames).uniform_(-90, 20, generator=generator)
    quiet = base_level(features, "quiet", floor=-100.0)
    expected = np.percentile(features.numpy(), 5, axis=3, keepdims=True)
    np.testing.assert_allclose(quiet, expected, rtol=0, atol=2e-5)


def test_the_quiet_base_of_a_very_long_recording():
    """torch.quantile refuses more than 16 million cells: 10 s of 1 kHz-wide bins, tiled."""
    features = torch.linspace(-80, 0, 101).expand(1, 1, 170_000, 101)
    assert base_level(features, "quiet", floor=-100.0).unique().tolist() == pytest.approx([-76])


@pytest.mark.parametrize("kind", BASES)
def test_a_base_keeps_the_precision_and_is_masked_to(kind):
    features = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    base = base_level(features, kind, floor=-100.0)
    assert base.dtype == torch.float64
    inside, _ = apply_mask(features, torch.zeros_like(features), base)
    assert torch.equal(inside, base.expand_as(features))


def test_an_unknown_base_is_told_the_choices():
    with pytest.raises(UnknownNameError, match="floor, minimum, quiet"):
        base_level(torch.zeros(1, 1, 2, 2), "mean", floor=-100.0)


# The ideal binary mask.


def test_the_ideal_binary_mask_is_where_the_foreground_is_louder():
    foreground = clip([[0.0, -10.0, -100.0, 3.0]])
    background = clip([[-10.0, 0.0, -100.0, 0.0]])
    assert ideal_binary_mask(foreground, background).flatten().tolist() == [1, 0, 0, 1]
    strict = ideal_binary_mask(foreground, background, threshold_db=5.0)
    assert strict.flatten().tolist() == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="the two parts of the same clips"):
        ideal_binary_mask(foreground, background[..., :2])


def test_the_ideal_binary_mask_parts_two_tones():
    processor = LogSTFTSpectrogram()
    time = torch.arange(8000) / 16000
    low, high = (torch.sin(2 * torch.pi * hz * time)[None, None] for hz in (500, 3000))
    mask = ideal_binary_mask(processor(low), processor(high))[0, 0, :, 2:-2]
    assert mask[(processor.frequencies - 500).abs() < 40].all()
    assert not mask[(processor.frequencies - 3000).abs() < 40].any()


# Degenerate maps and masks.


def tied_by_hand(values: list[float], percent: int) -> float:
    """Return the share of the kept cells that equal a cell which is not kept."""
    keep = math.ceil(percent * len(values) / 100)
    ordered = sorted(values, reverse=True)
    kept, left = ordered[:keep], ordered[keep:]
    return sum(value == left[0] for value in kept) / keep if left else 0.0


@given(
    arrays.arrays(np.float32, (2, 1, 4, 5), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0]))
)
def test_facts_of_maps_are_those_counted_by_hand(maps):
    facts = map_facts(torch.from_numpy(maps))
    for clip, cells in enumerate(maps.reshape(2, -1).tolist()):
        assert facts["constant_map"][clip] == (min(cells) == max(cells))
        assert facts["positive_cells"][clip] == pytest.approx(sum(c > 0 for c in cells) / 20)
        for percent in (5, 30, 50):
            expected = pytest.approx(tied_by_hand(cells, percent))
            assert facts[f"tied_topK_{percent}"][clip] == expected
            last = sorted(cells, reverse=True)[math.ceil(percent / 5) - 1]
            positive = facts[f"tied_topK_{percent}_pos"][clip]
            assert positive == (expected if last > 0 else 0)


def test_facts_are_of_the_masks_that_are_made():
    facts = map_facts(torch.randn(1, 1, 4, 5), ["bin", "topK_30"])
    assert set(facts) == {"constant_map", "positive_cells", "tied_topK_30"}


@pytest.mark.parametrize("level", [0.0, 2.5, -2.5])
def test_every_mask_of_a_constant_map_is_degenerate(level):
    constant = torch.full((1, 1, 6, 10), level)
    found = find_degenerate(constant, make_masks(constant))
    assert found["map"] == f"constant, {level:g} in every cell"
    assert set(found) == {"map", *MASKS}
    assert found["topK_30"] == "100 % of its cells chosen by position among equal ones"
    assert found["bin"] == ("full, it keeps every cell" if level > 0 else "empty, it keeps nothing")
    assert found["sigmoid"] == "constant, 0.5 in every cell"


def test_nothing_of_a_regular_map_is_degenerate():
    regular = torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert find_degenerate(regular, make_masks(regular)) == {}


def test_positive_masks_of_a_map_without_positive_cells_are_degenerate():
    negative = -torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)) - 0.1
    found = find_degenerate(negative, make_masks(negative))
    assert set(found) == {"bin"} | {name for name in MASKS if "pos" in name}
    assert found["topK_30_pos"] == found["bin"] == "empty, it keeps nothing"


def test_ties_at_the_boundary_of_a_segment_are_no_fault_unless_they_decide_the_mask():
    # Segments of 10, 25 and 65 % of the cells: 30 % take the first and 20 of the second's 25.
    segments = torch.cat([torch.full((10,), 3.0), torch.full((25,), 2.0), torch.full((65,), 1.0)])
    map_ = segments.view(1, 1, 10, 10)
    facts = map_facts(map_)
    assert facts["tied_topK_5"].tolist() == [1.0]  # 5 of the first segment's 10
    assert facts["tied_topK_30"].tolist() == pytest.approx([20 / 30])
    assert facts["tied_topK_50"].tolist() == pytest.approx([15 / 50])
    found = find_degenerate(map_, make_masks(map_))
    assert set(found) == {
        *("bin", "pos_thresh_25"),  # all cells are positive, and above a quarter of the highest
        *("topK_5", "topK_30", "topK_5_pos", "topK_30_pos"),
    }
    assert found["topK_30"] == "67 % of its cells chosen by position among equal ones"
    # The numbers of positive cells are the same here.
    assert found["topK_30_pos"] == found["topK_30"]
