"""Surrogate models: linear or random-forest regression on which time segments are kept."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d

from audiointerp.interpretation.base import METHODS
from audiointerp.interpretation.baseline import Base
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.game import Output
from audiointerp.interpretation.hidden import Filling
from audiointerp.interpretation.perturbation import Estimate, Estimator, SegmentInterpreter
from audiointerp.interpretation.segmentation import ClipSegmentation, Segmentation

_STEP = 2.0**-24
"""What forests round values to: sums of such values are exact, so that equal splits stay equal."""


@dataclass(frozen=True)
class Surrogate(Estimator):
    """Runs of parts are hidden at random and a model is fitted to the values.

    Each version hides a number of parts that is uniform from 1 to ``hidden_share`` of them, in
    runs of neighbouring parts; the first version keeps all.

    Parameters
    ----------
    num_samples : int, default 1000
        Versions, the whole clip included.
    hidden_share : float, default 0.5
        Largest share of the parts that a version hides, in (0, 1].
    run : int, default 3
        Parts in a row that are hidden together; runs may overlap, and the last one may be cut off.
    seed : int, default 0
    """

    num_samples: int = 1000
    hidden_share: float = 0.5
    run: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_whole("num_samples", 4)
        self._check_whole("run", 1)
        self._check_whole("seed", 0)
        if not 0 < self.hidden_share <= 1:
            raise ValueError(
                f"hidden_share must be a share above 0 and at most 1, got {self.hidden_share!r}"
            )

    def samples(self) -> int:
        """Return the number of versions of a clip."""
        return self.num_samples

    def design(self, parts: int, number: int = 0) -> Tensor:
        """Return which parts the versions keep."""
        generator = torch.Generator().manual_seed(self.seed)
        most = max(1, math.floor(self.hidden_share * parts))
        hidden = torch.randint(1, most + 1, (self.num_samples, 1), generator=generator)
        # Runs begin at any part, and before the first one, in a random order: a part is hidden by
        # the first run that covers it.
        begins = torch.rand(self.num_samples, parts + self.run - 1, generator=generator)
        order = begins.argsort(1).argsort(1)
        first = -max_pool1d(-order[:, None].double(), self.run, stride=1)[:, 0]
        place = (first * parts + torch.arange(parts)).argsort(1).argsort(1)
        kept = place >= hidden
        kept[0] = True
        return kept

    def estimate(self, kept: Sequence[Tensor], values: Sequence[Tensor]) -> Estimate:
        """Return what the surrogate says of each part, and its R² as ``"local_fit"``."""
        fits = [self.fit(*each) for each in zip(kept, values, strict=True)]
        return Estimate(
            [found for found, _ in fits],
            {
                "samples": torch.tensor([len(value) for value in values]),
                "local_fit": torch.tensor([r2 for _, r2 in fits], dtype=torch.float64),
            },
        )

    @abstractmethod
    def fit(self, kept: Tensor, values: Tensor) -> tuple[Tensor, float]:
        """Return each part's value (parts,) and R², 0 for values that do not vary."""


@dataclass(frozen=True)
class LinearSurrogate(Surrogate):
    """Least squares with an intercept; a part's value is its coefficient.

    Parameters
    ----------
    num_samples, hidden_share, run, seed
        See `Surrogate`.
    """

    def fit(self, kept: Tensor, values: Tensor) -> tuple[Tensor, float]:
        """Return the coefficients, the smallest ones where several fit, and R²."""
        design = kept.to(values)
        centred = (design - design.mean(0)).cpu()
        # From the first value, so that values that do not vary give exactly 0.
        change = values - values[0]
        change = (change - change.mean()).cpu()
        solved = torch.linalg.lstsq(centred, change[:, None], driver="gelsd").solution
        total = change.square().sum()
        left = (change - (centred @ solved)[:, 0]).square().sum()
        return solved[:, 0].to(values), float(1 - left / total) if total > 0 else 0.0


@dataclass(frozen=True)
class ForestSurrogate(Surrogate):
    """A random forest; a part's value is by how much its splits reduce the variance, summing to 1.

    Parameters
    ----------
    num_samples, hidden_share, run, seed
        See `Surrogate`.
    trees : int, default 100
        At least 50, so that every version is new to some of them.
    """

    trees: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_whole("trees", 50)

    def fit(self, kept: Tensor, values: Tensor) -> tuple[Tensor, float]:
        """Return the importances and R² of the versions that a tree has not seen."""
        from sklearn.ensemble import RandomForestRegressor

        design = kept.cpu().numpy()
        response = (values / _STEP).round().mul(_STEP).cpu().numpy()
        forest = RandomForestRegressor(
            n_estimators=self.trees, oob_score=True, random_state=self.seed
        ).fit(design, response)
        fit = float(forest.oob_score_) if response.std() > 0 else 0.0
        return torch.from_numpy(forest.feature_importances_).to(values), fit


@METHODS.register("linear_surrogate")
class LinearSurrogateInterpreter(SegmentInterpreter):
    """A linear model of the class's probability by which time segments are kept.

    A segment's value is its coefficient in a regression by least squares, without weights, over
    versions in which runs of segments are hidden; see `Surrogate`. By default the map is the same
    in all bins of a frame.

    The diagnostics of `explain` are ``"segments"``, ``"samples"``, the number of versions, and
    ``"local_fit"``, R²: near 0 the map explains little.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    num_samples : int, default 1000
        Versions of each clip, the whole one included.
    hidden_share : float, default 0.5
        Largest share of the segments that a version hides.
    run : int, default 3
        Segments in a row that are hidden together.
    segmentation : str or callable, default "time"
        A name in `audiointerp.interpretation.segmentation.SEGMENTATIONS`, or a function; see there.
    hide : {"base", "mean", "road"} or Filling, default "base"
        What hidden segments become; see `audiointerp.interpretation.hidden`.
    base : float or callable, default -100.0
        The masking base in the features' unit; see `audiointerp.interpretation.baseline.Base`.
    output : {"probability", "logit"}, default "probability"
        What is fitted.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    seed : int, default 0
        For the choice of hidden segments.
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
    C. Bolaños et al., "Benchmarking Time-localized Explanations for Audio Classification Models",
    Interspeech 2025, arXiv 2506.04391, who hide the same share in every version and fit the
    log-odds.
    """

    name = "linear_surrogate"
    facts = Facts(
        family="perturbation",
        passes="1001 forward",
        source="Bolaños et al., Interspeech 2025",
        fails="Tells frames apart, not bins, and says little where the fit is poor (`local_fit` "
        "near 0)",
        draws=True,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        num_samples: int = 1000,
        hidden_share: float = 0.5,
        run: int = 3,
        segmentation: str | Segmentation | ClipSegmentation = "time",
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
            LinearSurrogate(num_samples, hidden_share, run, seed),
            segmentation=segmentation,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )


@METHODS.register("forest_surrogate")
class ForestSurrogateInterpreter(SegmentInterpreter):
    """A random forest of the class's probability by which time segments are kept.

    A segment's value is its importance: by how much the splits on it reduce the variance. The
    values are not negative and sum to 1. By default the map is the same in all bins of a frame.

    The diagnostics of `explain` are ``"segments"``, ``"samples"``, the number of versions, and
    ``"local_fit"``, R² on the versions that a tree was not grown on.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    trees : int, default 100
        At least 50.
    num_samples, hidden_share, run, segmentation, hide, base, output
        See `LinearSurrogateInterpreter`.
    batch_size, fold_batch_norm, progress
        See `LinearSurrogateInterpreter`.
    seed : int, default 0
        For the choice of hidden segments and for the trees.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or a segmentation returns something else.

    References
    ----------
    C. Bolaños et al., "Benchmarking Time-localized Explanations for Audio Classification Models",
    Interspeech 2025, arXiv 2506.04391, who hide the same share in every version and fit the
    log-odds; L. Breiman, "Random Forests", Machine Learning 45, 2001.
    """

    name = "forest_surrogate"
    facts = Facts(
        family="perturbation",
        passes="1001 forward",
        source="Bolaños et al., Interspeech 2025",
        fails="Tells frames apart, not bins, and does not tell what speaks for the class from what "
        "speaks against it",
        draws=True,
        signed=False,
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        trees: int = 100,
        num_samples: int = 1000,
        hidden_share: float = 0.5,
        run: int = 3,
        segmentation: str | Segmentation | ClipSegmentation = "time",
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
            ForestSurrogate(num_samples, hidden_share, run, seed, trees),
            segmentation=segmentation,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
