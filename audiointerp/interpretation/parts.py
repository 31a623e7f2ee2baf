"""The parts of a clip on its device: hard segments or soft components."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from audiointerp.device import to_double


class Parts(ABC):
    """What is hidden or kept together.

    Attributes
    ----------
    count : int
    soft : bool
        Whether a cell can belong to several parts.
    """

    count: int
    soft: bool

    @abstractmethod
    def keep(self, kept: Tensor) -> Tensor:
        """Return how far each cell is kept.

        Parameters
        ----------
        kept : Tensor, shape (rows, count)
            Of each part: bool, or floating in [0, 1].

        Returns
        -------
        Tensor, shape (rows, 1, freq, time)
            Bool for hard segments that are kept or hidden whole, otherwise floating.
        """

    @abstractmethod
    def lay(self, values: Tensor) -> Tensor:
        """Return each part's value (count,) on its cells, (freq, time); weighted if soft."""

    @abstractmethod
    def means(self, cells: Tensor) -> Tensor:
        """Return cells (1, freq, time) with each part's mean on its cells."""


class Segments(Parts):
    """Hard segments: every cell belongs to one of them.

    Parameters
    ----------
    labels : Tensor of int64, shape (freq, time)
        From 0 to count - 1.
    """

    soft = False

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.count = int(labels.max()) + 1

    def keep(self, kept: Tensor) -> Tensor:
        """Return how far each cell is kept; see `Parts.keep`."""
        shown = kept.index_select(1, self.labels.flatten())
        return shown.reshape(-1, 1, *self.labels.shape)

    def lay(self, values: Tensor) -> Tensor:
        """Return each segment's value on its cells, (freq, time)."""
        return values[self.labels]

    def means(self, cells: Tensor) -> Tensor:
        """Return cells (1, freq, time) with each segment's mean on its cells."""
        values = to_double(cells.flatten())
        flat = self.labels.flatten().to(values.device)
        total = values.new_zeros(self.count).index_add(0, flat, values)
        mean = total / torch.bincount(flat, minlength=self.count)
        return mean[flat].reshape(cells.shape).to(cells)


class Components(Parts):
    """Soft components: every cell belongs to all of them in part.

    Parameters
    ----------
    weights : Tensor, shape (count, freq, time)
        At least 0; the sum over the components is 1.
    """

    soft = True

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.count = len(weights)

    def keep(self, kept: Tensor) -> Tensor:
        """Return how far each cell is kept; see `Parts.keep`."""
        share = kept.to(self.weights) @ self.weights.flatten(1)
        # Exact where all are kept, whatever the rounding of the sum.
        share = torch.where((kept == 1).all(1, keepdim=True), torch.ones_like(share), share)
        return share.clamp(0, 1).reshape(-1, 1, *self.weights.shape[1:])

    def lay(self, values: Tensor) -> Tensor:
        """Return the weighted sum of the components' values in each cell, (freq, time)."""
        return (values.to(self.weights) @ self.weights.flatten(1)).reshape(self.weights.shape[1:])

    def means(self, cells: Tensor) -> Tensor:
        """Return cells (1, freq, time) with the components' weighted means, weighted."""
        weights = to_double(self.weights.flatten(1))
        total = weights.sum(1).clamp(min=torch.finfo(weights.dtype).tiny)
        mean = weights @ to_double(cells.flatten()) / total
        return (mean @ weights).reshape(cells.shape).to(cells)


def as_parts(parts: np.ndarray, cells: Tensor) -> Parts:
    """Return what a segmentation found, see `segmentation.segment_clip`, on the cells' device."""
    if parts.ndim == 2:
        return Segments(torch.from_numpy(parts).to(cells.device))
    return Components(torch.from_numpy(parts).to(cells))
