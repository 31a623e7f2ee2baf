"""Shapley values of a clip's parts: weighted regression or sampled permutations."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from audiointerp.interpretation.additivity import sum_residual
from audiointerp.interpretation.base import METHODS, check_whole
from audiointerp.interpretation.baseline import Base
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.game import Output
from audiointerp.interpretation.hidden import Filling
from audiointerp.interpretation.perturbation import Estimate, Estimator, SegmentInterpreter
from audiointerp.interpretation.segmentation import ClipSegmentation, Segmentation

_ALL, _NONE = 0, 1
"""Rows of a design that keep all parts and none."""


class ShapleyEstimator(Estimator):
    """An estimator whose values sum to the change from no part to all parts.

    Its design keeps all parts in the first row and none in the second one.
    """

    def estimate(self, kept: Sequence[Tensor], values: Sequence[Tensor]) -> Estimate:
        """Return the Shapley values, with ``"residual"`` and ``"samples"``.

        The residual is by how much they miss v(all) - v(none), relative to it; see
        `audiointerp.interpretation.additivity.sum_residual`.
        """
        found, missed = [], []
        for design, value in zip(kept, values, strict=True):
            phi = self.shapley_values(design, value)
            found.append(phi)
            missed.append(
                sum_residual(phi.sum()[None], value[_ALL][None], value[_NONE][None, None])
            )
        samples = torch.tensor([len(value) for value in values])
        return Estimate(found, {"residual": torch.cat(missed), "samples": samples})

    @abstractmethod
    def shapley_values(self, kept: Tensor, values: Tensor) -> Tensor:
        """Return the Shapley values (parts,) of one clip's design and values."""


@dataclass(frozen=True)
class KernelSHAP(ShapleyEstimator):
    """The weighted least squares whose solution is the Shapley values.

    If all 2^S choices of parts fit into the number of samples, the values are exact. Otherwise all
    choices of the sizes 1 and S - 1 are taken, then of 2 and S - 2 and so on, as far as they would
    be expected among so many samples, and the others are drawn, each with its complement.

    Parameters
    ----------
    num_samples : int, default 1000
        Most versions of a clip.
    seed : int, default 0

    References
    ----------
    See `KernelSHAPInterpreter`.
    """

    num_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_whole("num_samples", 4)
        self._check_whole("seed", 0)

    def design(self, parts: int, number: int = 0) -> Tensor:
        """Return which parts the versions keep."""
        return self._plan(parts)[0]

    def shapley_values(self, kept: Tensor, values: Tensor) -> Tensor:
        """Return the values that fit best among those that sum to v(all) - v(none)."""
        count = kept.shape[1]
        weights = self._plan(count)[1].to(values).sqrt()[:, None]
        change = values[_ALL] - values[_NONE]
        # With φ = change/S + u, where u sums to 0: rows that sum to 0 leave u so.
        design = kept.to(values)
        centred = design - design.mean(1, keepdim=True)
        response = values - values[_NONE] - design.mean(1) * change
        # On the CPU, whose solver takes designs of any rank: few samples give the smallest u.
        solved = torch.linalg.lstsq(
            (weights * centred).cpu(), (weights * response[:, None]).cpu(), driver="gelsd"
        )
        return solved.solution[:, 0].to(values) + change / count

    def _plan(self, parts: int) -> tuple[Tensor, Tensor]:
        """Return the versions (versions, parts), all and none first, and their weights."""
        ends = torch.tensor([[True], [False]]).expand(2, parts)
        if parts <= math.log2(self.num_samples):
            codes = torch.arange(1, 2**parts - 1)
            middle = (codes[:, None] >> torch.arange(parts)) & 1
            sizes = middle.sum(1)
            mass = _kernel(parts)[sizes] / _choices(parts)[sizes]
            return torch.cat([ends, middle.bool()]), torch.cat([torch.zeros(2), mass])
        kernel, choices = _kernel(parts), _choices(parts)
        left, rows, weights = self.num_samples - 2, [ends], [torch.zeros(2)]
        mass, size = 1.0, 1
        while 2 * size <= parts:
            pair = {size, parts - size}
            share = float(sum(kernel[each] for each in pair))
            wanted = float(sum(choices[each] for each in pair))
            if left * share / mass < wanted:
                break
            for each in sorted(pair):
                found = _subsets(parts, each)
                rows.append(found)
                weights.append(torch.full((len(found),), float(kernel[each] / choices[each])))
            left, mass, size = left - int(wanted), mass - share, size + 1
        pairs = left // 2
        if pairs and 2 * size <= parts:
            drawn = self._pairs(kernel[size : parts - size + 1], size, pairs, parts)
            rows.append(drawn)
            weights.append(torch.full((len(drawn),), mass / len(drawn)))
        return torch.cat(rows), torch.cat(weights).double()

    def _pairs(self, kernel: Tensor, least: int, pairs: int, parts: int) -> Tensor:
        """Draw choices with their complements, sizes by the kernel from the least one on."""
        generator = torch.Generator().manual_seed(self.seed)
        sizes = torch.multinomial(kernel, pairs, replacement=True, generator=generator) + least
        order = torch.rand(pairs, parts, generator=generator).argsort(1).argsort(1)
        drawn = order < sizes[:, None]
        return torch.stack([drawn, ~drawn], 1).flatten(0, 1)


@dataclass(frozen=True)
class TopK:
    """Stop for a clip as soon as its highest parts are settled.

    After each pair of walks, every one of the `k` parts with the highest mean is compared with
    every other part by a one-sided t-test over the pairs of walks. The clip is settled if all
    comparisons hold, at a confidence that is shared out among the comparisons and the looks
    (Bonferroni).

    Parameters
    ----------
    k : int, default 3
        Parts to settle; their order among themselves is not.
    confidence : float, default 0.95
        In (0, 1).
    """

    k: int = 3
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check_whole("k", self.k, 1)
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence!r}")

    def is_settled(self, samples: Tensor, looks: int) -> bool:
        """Say whether the highest parts are settled by samples (samples, parts) of their values.

        Parameters
        ----------
        samples : Tensor, shape (samples, parts)
            Independent estimates of each part's value.
        looks : int
            How often this is asked at most.
        """
        count, parts = samples.shape
        if parts <= self.k:
            return True
        if count < 2:
            return False
        order = samples.mean(0).argsort(descending=True, stable=True)
        high, low = order[: self.k], order[self.k :]
        change = samples[:, high][:, :, None] - samples[:, low][:, None]
        error = change.std(0) / math.sqrt(count)
        error_rate = (1 - self.confidence) / (change[0].numel() * looks)
        return bool((change.mean(0) > student.isf(error_rate, count - 1) * error).all())


@dataclass(frozen=True)
class PermutationSHAP(ShapleyEstimator):
    """Mean change when a part is added, over walks from no part to all parts in random order.

    Each order is walked forward and backward. Every walk adds up to v(all) - v(none).

    Parameters
    ----------
    num_permutations : int, default 5
        Orders, each of which takes 2 (S - 1) versions of a clip of S parts.
    stop : TopK, optional
        When fewer orders are enough for a clip; None takes all of them.
    seed : int, default 0

    References
    ----------
    See `PermutationSHAPInterpreter`.
    """

    num_permutations: int = 5
    stop: TopK | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_whole("num_permutations", 1)
        self._check_whole("seed", 0)
        if self.stop is not None and not isinstance(self.stop, TopK):
            raise ValueError(f"stop must be None or a TopK, got {self.stop!r}")

    @property
    def rounds(self) -> int:
        """Orders are asked for one by one where a clip may need fewer of them."""
        return 1 if self.stop is None else self.num_permutations

    def design(self, parts: int, number: int = 0) -> Tensor:
        """Return the versions of all walks, or of a round's; before them, at first, both ends."""
        orders = self._orders(parts)
        if self.stop is not None:
            orders = orders[number : number + 1]
        walks = torch.stack([orders, orders.flip(1)], 1).flatten(0, 1)
        # A part is kept in step n of a walk if it is among the first n.
        place = walks.argsort(1)
        steps = torch.arange(1, parts)
        versions = (place[:, None] < steps[:, None]).flatten(0, 1)
        ends = torch.tensor([[True], [False]]).expand(2, parts)
        return torch.cat([ends, versions]) if number == 0 else versions

    def shapley_values(self, kept: Tensor, values: Tensor) -> Tensor:
        """Return the mean over the walks."""
        return self._pairs(kept.shape[1], values).mean(0)

    def is_settled(self, kept: Tensor, values: Tensor) -> bool:
        """Say whether the highest parts are settled."""
        if self.stop is None:
            return True
        return self.stop.is_settled(self._pairs(kept.shape[1], values), self.num_permutations)

    def _orders(self, parts: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.num_permutations, parts, generator=generator).argsort(1)

    def _pairs(self, parts: int, values: Tensor) -> Tensor:
        """Return what every part adds, (orders, parts), the mean of both directions."""
        middle = values[2:].reshape(-1, 2, parts - 1) if parts > 1 else values.new_zeros(1, 2, 0)
        ends = values[[_NONE, _ALL]][:, None, None].expand(2, len(middle), 2)
        steps = torch.cat([ends[0][..., None], middle, ends[1][..., None]], 2).diff(dim=2)
        orders = self._orders(parts)[: len(middle)].to(values.device)
        walks = torch.stack([orders, orders.flip(1)], 1)
        return torch.zeros_like(steps).scatter(2, walks, steps).mean(1)


def _kernel(parts: int) -> Tensor:
    """Return the share of the Shapley kernel of each size, (parts + 1,); 0 for none and all."""
    kernel = torch.zeros(parts + 1, dtype=torch.float64)
    sizes = torch.arange(1, parts)
    kernel[1:parts] = 1 / (sizes * (parts - sizes))
    return kernel / kernel.sum().clamp(min=torch.finfo(torch.float64).tiny)


def _choices(parts: int) -> Tensor:
    """Return how many choices of each size there are, (parts + 1,)."""
    return torch.tensor([float(math.comb(parts, size)) for size in range(parts + 1)]).double()


def _subsets(parts: int, size: int) -> Tensor:
    """Return all choices of so many parts, bool (choices, parts)."""
    chosen = torch.tensor(list(itertools.combinations(range(parts), size)))
    return torch.zeros(len(chosen), parts, dtype=torch.bool).scatter(1, chosen, True)


@METHODS.register("kernelshap")
class KernelSHAPInterpreter(SegmentInterpreter):
    """Shapley values of the parts of a clip, by KernelSHAP with paired sampling.

    A part's value is what it adds to v, the class's probability, on average over all orders in
    which parts are put into a clip of which everything is hidden. The values sum to v(all) -
    v(none). They are those of a weighted regression of v on which parts are kept; with few parts
    they are exact, see `KernelSHAP`.

    The diagnostics of `explain` are ``"segments"``, ``"samples"``, the number of versions, and
    ``"residual"``, by how much the sum is missed.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    num_samples : int, default 1000
        Most versions of each clip.
    segmentation : str or callable, default "grid"
        A name in `audiointerp.interpretation.segmentation.SEGMENTATIONS`, or a function; see there.
    hide : {"base", "mean", "road"} or Filling, default "base"
        What hidden parts become; see `audiointerp.interpretation.hidden`.
    base : float or callable, default -100.0
        The masking base in the features' unit; see `audiointerp.interpretation.baseline.Base`.
    output : {"probability", "logit"}, default "probability"
        What v is.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    seed : int, default 0
        For the choice of hidden parts.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the versions.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a segmentation returns something else.

    References
    ----------
    S. Lundberg, S.-I. Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017;
    I. Covert, S.-I. Lee, "Improving KernelSHAP: Practical Shapley Value Estimation via Linear
    Regression", AISTATS 2021 (pairs).
    """

    name = "kernelshap"
    facts = Facts(
        family="perturbation",
        passes="1001 forward",
        source="Lundberg and Lee, NeurIPS 2017",
        fails="Averages over clips with most parts hidden, which the network never saw; with many "
        "parts for the samples it is noisy",
        sums_to="of its segments, each counted once: p_c(x) less p_c with everything hidden",
        draws=True,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        num_samples: int = 1000,
        segmentation: str | Segmentation | ClipSegmentation = "grid",
        hide: str | Filling = "base",
        base: Base = -100.0,
        output: Output = "probability",
        batch_size: int | None = None,
        seed: int = 0,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            KernelSHAP(num_samples, seed),
            segmentation=segmentation,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )


@METHODS.register("permutation_shap")
class PermutationSHAPInterpreter(SegmentInterpreter):
    """Shapley values of the parts of a clip, by sampled orders walked forward and backward.

    A part's value is what it adds to the class's probability, on average over the orders that were
    drawn; see `PermutationSHAP`. The values sum to v(all) - v(none) in every order.

    The diagnostics of `explain` are ``"segments"``, ``"samples"``, the number of versions, and
    ``"residual"``, by how much the sum is missed, which is rounding.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    num_permutations : int, default 5
        Orders; each takes 2 (S - 1) versions of a clip of S parts.
    stop : TopK, optional
        Stop for a clip as soon as its highest parts are settled; by default it takes all orders.
    segmentation : str or callable, default "grid"
        A name in `audiointerp.interpretation.segmentation.SEGMENTATIONS`, or a function; see there.
    hide, base, output, batch_size, seed, fold_batch_norm, progress
        See `KernelSHAPInterpreter`.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a segmentation returns something else.

    References
    ----------
    J. Castro, D. Gómez, J. Tejada, "Polynomial Calculation of the Shapley Value Based on Sampling",
    Computers & Operations Research 36, 2009; R. Mitchell et al., "Sampling Permutations for Shapley
    Value Estimation", JMLR 23, 2022 (antithetic pairs).
    """

    name = "permutation_shap"
    facts = Facts(
        family="perturbation",
        passes="953 forward",
        source="Castro et al., 2009",
        fails="Averages over clips with most parts hidden, which the network never saw; few orders "
        "are noisy",
        sums_to="of its segments, each counted once: p_c(x) less p_c with everything hidden",
        draws=True,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        num_permutations: int = 5,
        stop: TopK | None = None,
        segmentation: str | Segmentation | ClipSegmentation = "grid",
        hide: str | Filling = "base",
        base: Base = -100.0,
        output: Output = "probability",
        batch_size: int | None = None,
        seed: int = 0,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            PermutationSHAP(num_permutations, stop, seed),
            segmentation=segmentation,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
