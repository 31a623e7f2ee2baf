"""Simplicity: how few cells an interpretation needs, computed from the mask alone."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from audiointerp.device import double_device
from audiointerp.evaluation.arithmetic import smallest
from audiointerp.evaluation.record import METRICS, Evidence, Metric


class MaskCells:
    """A batch of masks, flattened, with what sparseness and complexity share computed once.

    On the masks' device, or on the CPU where that has no double precision.

    Parameters
    ----------
    mask : Tensor, shape (batch, ...)
        Any non-negative map; signs are dropped.

    Attributes
    ----------
    dtype : torch.dtype
        In which the metrics are returned: the mask's, or float64 for whole numbers.
    top : Tensor, shape (batch, 1)
        The largest cell of each mask.

    Raises
    ------
    ValueError
        If the mask has no cells or has NaN or infinite ones.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim < 2 or mask[0:1].numel() == 0:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)}: expected (batch, ...) with cells to "
                "measure"
            )
        self.dtype = mask.dtype if mask.is_floating_point() else torch.float64
        mask = mask.to(double_device(mask.device))
        # Single precision stays, which sorts twice as fast; sums are made in double.
        exact = mask.dtype in (torch.float32, torch.float64)
        cells = (mask if exact else mask.double()).flatten(1)
        if (cells.amin(1) < 0).any():
            cells = cells.abs()
        self.top = cells.amax(1, keepdim=True)
        # The largest is not finite if any cell is not; the smallest is NaN if any is, so that
        # signs are looked at then.
        if not torch.isfinite(self.top).all():
            raise ValueError("the mask has NaN or infinite cells")
        self._cells = cells

    @cached_property
    def scaled(self) -> Tensor:
        """The cells divided by the largest, shape (batch, cells); all zero stays so."""
        return self._cells / torch.where(self.top > 0, self.top, torch.ones_like(self.top))

    @cached_property
    def kept_alike(self) -> Tensor:
        """How many cells hold all of a mask in equal parts, (batch,); NaN where they differ.

        All of them where the mask is zero throughout: it selects nothing, as any constant mask.
        """
        # a·(1 - a) is zero for a = 0 and a = 1 only.
        alike = ((1 - self.scaled).mul_(self.scaled)).amax(1) == 0
        count = self.scaled.shape[1]
        # Single precision counts to 2^24 exactly.
        kept = self.scaled.sum(1, dtype=None if count <= 2**24 else torch.float64).double()
        kept = torch.where(alike, kept, torch.nan)
        return torch.where(self.top[:, 0] == 0, float(count), kept)

    @cached_property
    def uneven(self) -> Tensor:
        """The scaled cells of the masks whose cells differ, shape (those, cells)."""
        return self.scaled[self.kept_alike.isnan()]

    @cached_property
    def uneven_total(self) -> Tensor:
        """Their sum for each of those masks, float64, shape (those,)."""
        return self.uneven.sum(1, dtype=torch.float64)


def sparseness(mask: Tensor | MaskCells) -> Tensor:
    """SPS: Gini index of |M|; 0 for a constant mask, near 1 where few cells hold everything.

    Parameters
    ----------
    mask : Tensor, shape (batch, ...), or MaskCells
        Any non-negative map; signs are dropped. `MaskCells` where `complexity` is wanted too.

    Returns
    -------
    Tensor, shape (batch,)
        In [0, 1), higher is simpler.

    Raises
    ------
    ValueError
        If the mask has no cells or has NaN or infinite ones.

    References
    ----------
    P. Chalasani et al., "Concise explanations of neural networks using adversarial training",
    ICML 2020.
    """
    cells = mask if isinstance(mask, MaskCells) else MaskCells(mask)
    # k equal cells among n zeros: 1 - k/n. No sort is needed for these, which most masks are.
    gini = 1 - cells.kept_alike / cells.scaled.shape[1]
    gini[gini.isnan()] = _gini(cells.uneven, cells.uneven_total)
    return gini.to(cells.dtype)


def _gini(values: Tensor, total: Tensor) -> Tensor:
    """Return the Gini index of rows that add up to `total`, which is not zero."""
    count = values.shape[1]
    # Σ (2i - n - 1)·a_i, i = 1 … n, is the mean difference of all pairs times n².
    rank = torch.arange(1 - count, count, 2, device=values.device, dtype=torch.float64)
    return _ascending(values).double() @ rank / (count * total)


def _ascending(rows: Tensor) -> Tensor:
    """Return the rows sorted; on a CPU by NumPy, as torch carries the positions along."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.sort(rows.detach().numpy(), axis=1))
    return rows.sort(dim=1).values


def complexity(mask: Tensor | MaskCells) -> Tensor:
    """COMP = -Σ q ln q, q = |M| / Σ|M|: entropy of the mask, nats.

    An all-zero mask, like any constant one, has the highest value, ln N: it selects nothing.

    Parameters
    ----------
    mask : Tensor, shape (batch, ...), or MaskCells
        Any non-negative map; signs are dropped. `MaskCells` where `sparseness` is wanted too.

    Returns
    -------
    Tensor, shape (batch,)
        In [0, ln N], lower is simpler.

    Raises
    ------
    ValueError
        If the mask has no cells or has NaN or infinite ones.

    References
    ----------
    U. Bhatt et al., "Evaluating and aggregating feature-based model explanations", IJCAI 2020.
    """
    cells = mask if isinstance(mask, MaskCells) else MaskCells(mask)
    entropy = cells.kept_alike.log()  # of k equal cells
    entropy[entropy.isnan()] = _entropy(cells.uneven, cells.uneven_total)
    return entropy.to(cells.dtype)


def _entropy(values: Tensor, total: Tensor) -> Tensor:
    """Return the entropy of rows that add up to `total`, which is not zero."""
    # ln S - Σ a ln a / S with S = Σ a; 0 ln 0 is 0 times a finite number here.
    parts = values.clamp(min=smallest(values)).log_().mul_(values)
    return total.log() - parts.sum(1, dtype=torch.float64) / total


FAMILY = "simplicity"


def _cells(evidence: Evidence) -> MaskCells:
    return evidence.once("mask cells", lambda: MaskCells(evidence.mask))


METRICS["SPS"] = Metric(
    "SPS",
    title="sparseness",
    meaning="Gini index of the mask: near 1 where few cells hold everything",
    unit="",
    decimals=3,
    clip_decimals=3,
    better=1,
    bounds=lambda cells: (0.0, 1.0),
    family=FAMILY,
    level="mask",
    needs=frozenset({"mask"}),
    compute=lambda evidence: sparseness(_cells(evidence)),
)
METRICS["COMP"] = Metric(
    "COMP",
    title="complexity",
    meaning="entropy of the mask, at most the logarithm of the number of cells",
    unit="nats",
    decimals=2,
    clip_decimals=3,
    better=-1,
    bounds=lambda cells: (0.0, math.log(cells) or 1.0),
    family=FAMILY,
    level="mask",
    needs=frozenset({"mask"}),
    compute=lambda evidence: complexity(_cells(evidence)),
)
