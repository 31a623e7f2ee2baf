"""Equal masks are scored once; what is scored does not depend on how it was batched."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from audiointerp.masking import MASKS, apply_mask, make_masks
from audiointerp.speed.precision import PRECISIONS, computing
from audiointerp.speed.scoring import Scorer, distinct_masks, score_masks

SHAPE = (1, 4, 5)


class Counting(nn.Module):
    """A linear classifier that counts the rows it is given; copies share the counter."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 3)
        self.counter = _Shared(rows)

    def forward(self, x):
        self.counter.rows.append(len(x))
        return self.linear(x.flatten(1))


class _Shared:
    def __init__(self, rows):
        self.rows = rows

    def __deepcopy__(self, memo):
        return self


@pytest.fixture
def rows():
    return []


@pytest.fixture
def model(rows):
    torch.manual_seed(0)
    return Counting(rows)


def some_masks(batch: int, values: list[list[int]]) -> dict[str, torch.Tensor]:
    """Return masks by name; equal numbers give equal masks."""
    kinds = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    return {f"mask{n}": torch.stack([kinds[v] for v in row]) for n, row in enumerate(values)}


@given(
    st.integers(1, 3).flatmap(
        lambda batch: st.lists(
            st.lists(st.integers(0, 3), min_size=batch, max_size=batch), min_size=1, max_size=6
        )
    )
)
def test_each_clips_different_masks_are_kept_once(values):
    batch = len(values[0])
    masks = some_masks(batch, values)
    found = distinct_masks(masks)
    assert list(found.place) == list(masks)
    for name, mask in masks.items():
        assert torch.equal(found.masks[found.place[name]], mask)
        assert found.clip[found.place[name]].tolist() == list(range(batch))
    for clip in range(batch):
        assert (found.clip == clip).sum() == len({row[clip] for row in values})


def test_masks_that_differ_in_one_cell_are_different():
    mask = torch.zeros(1, *SHAPE)
    other = mask.clone()
    other[0, 0, 3, 4] = 1e-7
    assert len(distinct_masks({"a": mask, "b": other, "c": mask.clone()}).masks) == 2


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_every_mask_is_scored_as_alone_and_equal_ones_once(model, rows, batch_size):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(3, *SHAPE, generator=generator)
    # Few positive cells: several positive masks coincide.
    attribution = torch.randn(3, *SHAPE, generator=generator) - 1
    masks = make_masks(attribution)
    distinct = distinct_masks(masks)
    assert len(distinct.masks) < len(MASKS) * 3
    scorer = Scorer(model, batch_size=batch_size)
    inside, outside = score_masks(
        scorer,
        distinct,
        lambda clip, mask: (torch.cat(apply_mask(features[clip], mask, -5.0)), None),
    )
    assert sum(rows) == 2 * len(distinct.masks)
    assert max(rows) <= batch_size
    for name, mask in masks.items():
        for scored, part in zip((inside, outside), apply_mask(features, mask, -5.0), strict=True):
            with torch.no_grad():
                alone = model(part).double().softmax(1)
            torch.testing.assert_close(scored[distinct.place[name]], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_holds_inside_its_block_only(precision):
    device = torch.device("cpu")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    linear = nn.Linear(3, 2)
    with suppress(RuntimeError), computing(precision, device):
        inside = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        dtype = linear(torch.ones(1, 3)).dtype
        raise RuntimeError("stop")
    assert dtype == (torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if precision != "bfloat16":
        assert inside == (precision == "tf32",) * 2
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert linear(torch.ones(1, 3)).dtype == torch.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'fp16': choose from float32"):
        computing("fp16", torch.device("cpu"))
