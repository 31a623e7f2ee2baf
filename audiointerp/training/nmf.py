"""Non-negative matrix factorisation, by hierarchical alternating least squares.

References
----------
A. Cichocki, A.-H. Phan, "Fast local algorithms for large scale nonnegative matrix and tensor
factorizations", IEICE Transactions 92-A, 2009.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audiointerp.interpretation.base import check_whole


@torch.no_grad()
def factorise(
    values: Tensor, components: int, *, iterations: int = 200, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return W and H, not negative, so that W·H is near a matrix in the least-squares sense.

    Parameters
    ----------
    values : Tensor, shape (rows, columns)
        Not negative.
    components : int
    iterations : int
        Updates of all of W and H.
    seed : int
        Draws where they start.

    Returns
    -------
    dictionary : Tensor, shape (rows, components)
        The largest value of every column is 1, or 0 where the component is not used.
    activations : Tensor, shape (components, columns)

    Raises
    ------
    ValueError
        If a value is negative or a number below 1.
    """
    if values.ndim != 2 or values.numel() == 0 or not (values >= 0).all():
        raise ValueError(
            f"values of shape {tuple(values.shape)}: expected a matrix without negative values"
        )
    components = check_whole("components", components, 1)
    iterations = check_whole("iterations", iterations, 1)
    generator = torch.Generator().manual_seed(seed)
    size = (values.mean() / components).sqrt()
    rows, columns = values.shape
    dictionary = size * torch.rand((rows, components), generator=generator).to(values)
    activations = size * torch.rand((components, columns), generator=generator).to(values)
    for _ in range(iterations):
        _update(activations, dictionary.mT @ values, dictionary.mT @ dictionary)
        _update(dictionary.mT, (values @ activations.mT).mT, activations @ activations.mT)
    largest = dictionary.amax(0)
    divisor = torch.where(largest > 0, largest, torch.ones_like(largest))
    return dictionary / divisor, activations * divisor[:, None]


def _update(factor: Tensor, target: Tensor, gram: Tensor) -> None:
    """Set each row of a factor to its best value, the others given, in place."""
    for row in range(len(factor)):
        curvature = gram[row, row]
        if curvature > 0:
            step = (target[row] - gram[row] @ factor) / curvature
            factor[row] = (factor[row] + step).clamp(min=0)
