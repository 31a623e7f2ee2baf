"""Segmentations of a spectrogram as a grey-scale image, by scikit-image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audiointerp.interpretation.base import check_whole
from audiointerp.interpretation.segmentation.base import SEGMENTATIONS


@SEGMENTATIONS.register("quickshift")
@dataclass(frozen=True)
class Quickshift:
    """Quickshift segments of a spectrogram seen as a grey image, with lime's own parameters.

    The features are scaled to [0, 1] by their minimum and maximum first: what is a segment then
    does not depend on the recording's level or on the unit.

    Parameters
    ----------
    kernel_size : float, default 4
        Width in cells of the Gaussian that smooths the density; larger means fewer segments.
    max_dist : float, default 200
        Largest distance between cells that are linked; larger means fewer segments.
    ratio : float, default 0.2
        Weight of level against position, in [0, 1].
    seed : int, default 0
        For the tiny noise that breaks ties.

    References
    ----------
    A. Vedaldi, S. Soatto, "Quick Shift and Kernel Methods for Mode Seeking", ECCV 2008.
    """

    kernel_size: float = 4
    max_dist: float = 200
    ratio: float = 0.2
    seed: int = 0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return one segment label per cell for features (freq, time)."""
        from skimage.color import gray2rgb
        from skimage.segmentation import quickshift

        return quickshift(
            gray2rgb(_scaled(features)),
            kernel_size=self.kernel_size,
            max_dist=self.max_dist,
            ratio=self.ratio,
            rng=self.seed,
        )


@SEGMENTATIONS.register("slic")
@dataclass(frozen=True)
class Slic:
    """SLIC superpixels of a spectrogram seen as a grey image scaled to [0, 1].

    Parameters
    ----------
    segments : int, default 100
        About how many.
    compactness : float, default 0.1
        Weight of position against level; larger means squarer segments.

    References
    ----------
    R. Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", IEEE
    TPAMI 34, 2012.
    """

    segments: int = 100
    compactness: float = 0.1

    def __post_init__(self) -> None:
        check_whole("segments", self.segments, 1)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return one segment label per cell for features (freq, time)."""
        from skimage.segmentation import slic

        return slic(
            _scaled(features),
            n_segments=self.segments,
            compactness=self.compactness,
            channel_axis=None,
            start_label=0,
        )


@SEGMENTATIONS.register("felzenszwalb")
@dataclass(frozen=True)
class Felzenszwalb:
    """Felzenszwalb and Huttenlocher's graph segments of a grey image scaled to [0, 1].

    Parameters
    ----------
    scale : float, default 100
        Larger means larger segments.
    sigma : float, default 0.5
        Width in cells of the Gaussian that smooths the image first.
    min_size : int, default 50
        Fewest cells of a segment.

    References
    ----------
    P. Felzenszwalb, D. Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 59, 2004.
    """

    scale: float = 100
    sigma: float = 0.5
    min_size: int = 50

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return one segment label per cell for features (freq, time)."""
        from skimage.segmentation import felzenszwalb

        return felzenszwalb(
            _scaled(features),
            scale=self.scale,
            sigma=self.sigma,
            min_size=self.min_size,
            channel_axis=None,
        )


def _scaled(features: np.ndarray) -> np.ndarray:
    """Return the features from 0 to 1, float64."""
    low, high = float(features.min()), float(features.max())
    return (features.astype(np.float64) - low) / ((high - low) or 1.0)
