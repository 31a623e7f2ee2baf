"""Sanity of attribution maps: dependence on network and class, stability, infidelity.

Pure functions of tensors and callables, one value per clip; `audiointerp.runs.sanity` runs them.
Norms are Euclidean over a clip's cells. NaN where there is no evidence: a constant map has no
ranks, and one that is zero throughout no relative change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from audiointerp.device import to_double
from audiointerp.registry import Registry

Explain = Callable[[Tensor], Tensor]
"""Cells (batch, 1, bins, frames) → their maps, of the same shape."""
Score = Callable[[Tensor], Tensor]
"""Cells (batch, 1, bins, frames) → the value that the maps explain, (batch,)."""
Perturb = Callable[[Tensor, int], Tensor]
"""Cells and the number of the draw → perturbed cells."""

SIMILARITIES: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry("similarity")
"""``similarity(first, second)`` of two batches of maps, (batch,) in double precision on the CPU."""


@SIMILARITIES.register("spearman")
def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Return the rank correlation of the cells of two maps.

    Parameters
    ----------
    first, second : Tensor, shape (batch, 1, bins, frames)

    Returns
    -------
    Tensor of float64, shape (batch,), on the CPU
        In [-1, 1]; equal cells share their mean rank. NaN where a map is constant.
    """
    ranks = [rankdata(_flat(maps), axis=1) for maps in (first, second)]
    one, other = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    scale = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    with np.errstate(invalid="ignore"):
        return torch.from_numpy((one * other).sum(1) / scale)


@SIMILARITIES.register("absolute")
def absolute_spearman(first: Tensor, second: Tensor) -> Tensor:
    """Return the rank correlation of the cells' magnitudes; see `spearman`.

    Maps of opposite sign are alike, as they are to the eye.
    """
    return spearman(first.abs(), second.abs())


@SIMILARITIES.register("ssim")
def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity of two maps' magnitudes, each scaled to a maximum of 1.

    Parameters and returns as `spearman`. NaN where a map is zero throughout, or has fewer than
    seven bins or frames, the width of the window.

    References
    ----------
    Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 13, 2004.
    """
    from skimage.metrics import structural_similarity as ssim

    if min(first.shape[2:]) < 7:
        return torch.full((len(first),), torch.nan, dtype=torch.float64)
    values = []
    for pair in zip(first.abs(), second.abs(), strict=True):
        peaks = [float(each.max()) for each in pair]
        if min(peaks) == 0:
            values.append(np.nan)
            continue
        scaled = [
            to_double(each[0] / peak).cpu().numpy() for each, peak in zip(pair, peaks, strict=True)
        ]
        values.append(ssim(*scaled, data_range=1.0))
    return torch.tensor(values, dtype=torch.float64)


def uniform_noise(cells: Tensor, draw: int, *, radius: float, seed: int = 0) -> Tensor:
    """Return cells moved within a cube, in units of the clip's standard deviation.

    Parameters
    ----------
    cells : Tensor, shape (batch, 1, bins, frames)
    draw : int
        Which draw of the seed.
    radius : float
        Half the edge of the cube, as a share of the standard deviation of the clip's cells.
    seed : int
        The noise is drawn on the CPU and is the same for all clips up to its scale, so that none
        depends on its neighbours.
    """
    noise = 2 * torch.rand(cells.shape[1:], generator=_generator(seed, draw)) - 1
    return cells + radius * _spread(cells) * noise.to(cells)


def gaussian_noise(cells: Tensor, draw: int, *, radius: float, seed: int = 0) -> Tensor:
    """Return cells with Gaussian noise; `radius` is its standard deviation. See `uniform_noise`."""
    noise = torch.randn(cells.shape[1:], generator=_generator(seed, draw))
    return cells + radius * _spread(cells) * noise.to(cells)


def stability(
    explain: Explain, cells: Tensor, maps: Tensor, perturb: Perturb, *, draws: int = 10
) -> dict[str, Tensor]:
    """Return how much maps change at most with faintly perturbed cells.

    Parameters
    ----------
    explain : callable
        Of the class that the maps explain, whatever the perturbed cells are taken for.
    cells, maps : Tensor, shape (batch, 1, bins, frames)
    perturb : callable
        ``perturb(cells, draw)``, such as `uniform_noise` with a radius.
    draws : int

    Returns
    -------
    dict of str to Tensor of float64, shape (batch,)
        Over the draws, of x': ``max_sensitivity``, the largest ‖Φ(x') - Φ(x)‖ / ‖Φ(x)‖, and
        ``local_lipschitz``, the largest ‖Φ(x') - Φ(x)‖ / ‖x' - x‖, in the maps' unit by the
        cells'. Lower is steadier; a map that ignores its input has 0.

    References
    ----------
    C.-K. Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019,
    definition 2.2. D. Alvarez-Melis, T. Jaakkola, "On the robustness of interpretability methods",
    WHI 2018.
    """
    own, before = _norm(maps), to_double(maps)
    relative, lipschitz = [], []
    for draw in range(draws):
        moved = perturb(cells, draw)
        change = _norm(to_double(explain(moved)) - before)
        relative.append(torch.where(own > 0, change / own, torch.nan))
        lipschitz.append(change / _norm(to_double(moved) - to_double(cells)))
    return {
        "max_sensitivity": torch.stack(relative).amax(0),
        "local_lipschitz": torch.stack(lipschitz).amax(0),
    }


def infidelity(
    score: Score, cells: Tensor, maps: Tensor, perturb: Perturb, *, draws: int = 10
) -> dict[str, Tensor]:
    """Return how badly a map predicts what perturbations do to the value that it explains.

    With I the perturbation, ``infidelity`` is the mean of (IᵀΦ - (f(x) - f(x - I)))² over the
    draws. It is made for maps whose unit is that of f by that of the cells, as a gradient's.
    ``infidelity_scaled`` multiplies the map by the factor that suits it best and divides by the
    mean of (f(x) - f(x - I))²: the share of the change that the map does not explain, whatever its
    unit.

    Parameters
    ----------
    score : callable
    cells, maps : Tensor, shape (batch, 1, bins, frames)
    perturb : callable
        ``perturb(cells, draw)`` returns x - I.
    draws : int

    Returns
    -------
    dict of str to Tensor of float64, shape (batch,)
        ``infidelity``, in the square of f's unit, and ``infidelity_scaled``, in [0, 1], NaN where
        f does not change at all. Lower is better.

    References
    ----------
    C.-K. Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019,
    definition 2.1; the factor is that of their implementation.
    """
    before, phi = to_double(score(cells)), to_double(maps).flatten(1)
    predicted, found = [], []
    for draw in range(draws):
        moved = perturb(cells, draw)
        removed = (to_double(cells) - to_double(moved)).flatten(1)
        predicted.append((removed * phi).sum(1))
        found.append(before - to_double(score(moved)))
    expected, actual = torch.stack(predicted), torch.stack(found)
    own, both, power = (
        (one * other).mean(0)
        for one, other in ((expected, expected), (expected, actual), (actual, actual))
    )
    factor = torch.where(own > 0, both / own, 0)
    rest = ((factor * expected - actual) ** 2).mean(0)
    return {
        "infidelity": ((expected - actual) ** 2).mean(0),
        "infidelity_scaled": torch.where(power > 0, rest / power, torch.nan),
    }


def completeness(maps: Tensor, gain: Tensor) -> Tensor:
    """Return |ΣA - Δ|: by how much a map misses the difference that it is to spread over cells.

    Parameters
    ----------
    maps : Tensor, shape (batch, 1, bins, frames)
    gain : Tensor, shape (batch,)
        Δ = f(x) - f(base), the value explained against that of what the method compares with.

    Returns
    -------
    Tensor of float64, shape (batch,)
        In f's unit; 0 for methods that are complete, such as SHAP.

    References
    ----------
    M. Sundararajan, A. Taly, Q. Yan, "Axiomatic attribution for deep networks", ICML 2017.
    """
    return (to_double(maps).sum((1, 2, 3)) - to_double(gain)).abs()


def _flat(maps: Tensor) -> np.ndarray:
    return to_double(maps).flatten(1).cpu().numpy()


def _norm(maps: Tensor) -> Tensor:
    return to_double(maps).flatten(1).norm(dim=1)


def _spread(cells: Tensor) -> Tensor:
    return cells.flatten(1).std(1, correction=0)[:, None, None, None]


def _generator(seed: int, draw: int) -> torch.Generator:
    # Draws of neighbouring seeds do not overlap.
    return torch.Generator().manual_seed((seed << 20) + draw)
