"""Fidelity and simplicity of an interpretation: pure functions of tensors, one value per clip.

Fidelity compares the class probabilities of a clip, p(x), with those of its masked-in and
masked-out versions, for the explained class c, which is argmax p(x) unless another is given.
Simplicity looks at the mask alone. The seven columns of every results table:

=========  =======================================================  ==========  ========
column     meaning                                                  unit        better
=========  =======================================================  ==========  ========
``FF``     faithfulness: what removing the mask costs               [-1, 1]     higher
``AI``     average increase: does the mask alone score higher       0 or 100 %  higher
``AD``     average drop: share of the probability lost              0 to 100 %  lower
``AG``     average gain: share of the missing probability gained    0 to 100 %  higher
``FidIn``  input fidelity: does the mask alone keep the class       0 or 1      higher
``SPS``    sparseness: Gini index of the mask                       [0, 1)      higher
``COMP``   complexity: entropy of the mask                          [0, ln N]   lower
=========  =======================================================  ==========  ========

Pass probabilities in double precision: a confident model's 1 - p(x) vanishes in single.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from audiointerp.registry import Registry

AI_MARGIN = 1e-6
"""An increase smaller than this is rounding, not an increase."""


def faithfulness(original: Tensor, masked_out: Tensor, target: Tensor | None = None) -> Tensor:
    """FF = p_c(x) - p_c(out): what removing the mask takes from the class.

    Parameters
    ----------
    original, masked_out : Tensor, shape (batch, classes)
        Class probabilities of the clip and of the clip with the mask removed.
    target : Tensor of int, shape (batch,), optional
        The explained class c; argmax p(x) by default.

    Returns
    -------
    Tensor, shape (batch,)
        In [-1, 1], higher is better.

    Raises
    ------
    ValueError
        If the two do not agree in shape or are not probabilities, or a target is no class.

    References
    ----------
    J. Parekh et al., "Listen to interpret: post-hoc interpretability for audio networks with
    NMF", NeurIPS 2022.
    """
    before, after = _class_probabilities(original, masked_out, target)
    return before - after


def average_increase(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AI = 100·[p_c(in) > p_c(x) + 1e-6]: 100 where the mask alone scores higher, else 0.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    A. Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    before, after = _class_probabilities(original, masked_in, target)
    return 100 * (after > before + AI_MARGIN).to(before)


def average_drop(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AD = 100·max(0, p_c(x) - p_c(in)) / p_c(x): percent of the probability lost.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    A. Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    before, after = _class_probabilities(original, masked_in, target)
    return 100 * (before - after).clamp(min=0) / before.clamp(min=_tiny(before))


def average_gain(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """AG = 100·max(0, p_c(in) - p_c(x)) / (1 - p_c(x)): percent of the missing part gained.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    H. Zhang et al., "Opti-CAM: optimizing saliency maps for interpretability", CVIU 2024.
    """
    before, after = _class_probabilities(original, masked_in, target)
    return 100 * (after - before).clamp(min=0) / (1 - before).clamp(min=_tiny(before))


def input_fidelity(original: Tensor, masked_in: Tensor, target: Tensor | None = None) -> Tensor:
    """FidIn = [argmax p(in) = c]: 1 where the mask alone is given the explained class, else 0.

    Parameters and errors as `faithfulness`, with the probabilities of the mask alone.

    References
    ----------
    F. Paissan et al., "Listenable maps for audio classifiers", ICML 2024.
    """
    _class_probabilities(original, masked_in, target)
    chosen = _explained(original, target)
    return (masked_in.argmax(1) == chosen).to(original)


class MaskCells:
    """A batch of masks, flattened, with what sparseness and complexity share computed once.

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
    parts = values.clamp(min=_tiny(values)).log_().mul_(values)
    return total.log() - parts.sum(1, dtype=torch.float64) / total


@dataclass(frozen=True)
class Metric:
    """A column of the results.

    Attributes
    ----------
    function : callable
        ``function(original, masked, target)`` for the fidelity metrics, ``function(mask)`` for
        the simplicity ones, with a Tensor or `MaskCells`.
    compares : {"in", "out", "mask"}
        What it looks at: the masked-in or masked-out probabilities, or the mask's `MaskCells`.
    title : str
        Its name in words.
    higher_is_better : bool
        Which way it points.
    """

    function: Callable[..., Tensor]
    compares: Literal["in", "out", "mask"]
    title: str
    higher_is_better: bool


METRICS: Registry[Metric] = Registry("metric")
METRICS["FF"] = Metric(faithfulness, "out", "faithfulness", True)
METRICS["AI"] = Metric(average_increase, "in", "average increase, %", True)
METRICS["AD"] = Metric(average_drop, "in", "average drop, %", False)
METRICS["AG"] = Metric(average_gain, "in", "average gain, %", True)
METRICS["FidIn"] = Metric(input_fidelity, "in", "input fidelity", True)
METRICS["SPS"] = Metric(sparseness, "mask", "sparseness", True)
METRICS["COMP"] = Metric(complexity, "mask", "complexity, nats", False)


def evaluate(
    original: Tensor,
    masked_in: Tensor,
    masked_out: Tensor,
    mask: Tensor,
    target: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return every registered metric of a batch of clips under one mask.

    Parameters
    ----------
    original, masked_in, masked_out : Tensor, shape (batch, classes)
        Class probabilities; double precision is advised.
    mask : Tensor, shape (batch, ...)
    target : Tensor of int, shape (batch,), optional
        The explained class; argmax of `original` by default.

    Returns
    -------
    dict of str to Tensor of shape (batch,)
        By column name, in the order of ``METRICS``.
    """
    masked = {"in": masked_in, "out": masked_out}
    cells = MaskCells(mask)
    return {
        name: metric.function(cells)
        if metric.compares == "mask"
        else metric.function(original, masked[metric.compares], target)
        for name, metric in METRICS.items()
    }


def _class_probabilities(
    original: Tensor, masked: Tensor, target: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check the arguments of a fidelity metric; return p_c before and after masking."""
    if original.ndim != 2 or original.shape != masked.shape:
        raise ValueError(
            f"the probabilities have shapes {tuple(original.shape)} and {tuple(masked.shape)}: "
            "expected (batch, classes) for both"
        )
    if not (original.is_floating_point() and masked.is_floating_point()):
        raise ValueError(
            f"the probabilities are {original.dtype} and {masked.dtype}: expected floating point"
        )
    for values in (original, masked):
        low, high = values.aminmax() if values.numel() else (torch.zeros(()), torch.ones(()))
        if not (low >= 0 and high <= 1 + 1e-5):
            raise ValueError(
                f"the probabilities run from {low:g} to {high:g}: expected [0, 1]; "
                "did you pass logits? take their softmax"
            )
    chosen = _explained(original, target)
    if chosen.shape != original.shape[:1]:
        raise ValueError(
            f"the target has shape {tuple(chosen.shape)}: expected one class per clip, "
            f"({original.shape[0]},)"
        )
    if chosen.numel() and not (chosen.min() >= 0 and chosen.max() < original.shape[1]):
        raise ValueError(
            f"a target lies outside 0 … {original.shape[1] - 1}, the classes of the model"
        )
    index = chosen[:, None]
    # Never above 1, which rounding allows: the rest, 1 - p, must not be negative.
    before, after = original.gather(1, index)[:, 0], masked.gather(1, index)[:, 0]
    return before.clamp(max=1), after.clamp(max=1)


def _explained(original: Tensor, target: Tensor | None) -> Tensor:
    if target is None:
        return original.argmax(1)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"the target is {target.dtype}: expected whole numbers, one per clip")
    return target.to(original.device, torch.long)


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
