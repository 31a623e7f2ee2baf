"""Arithmetic that several metrics share."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(values: Tensor) -> float:
    """Return the smallest positive normal number of the values' dtype, to divide by."""
    return torch.finfo(values.dtype).tiny
