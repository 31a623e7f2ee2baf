"""Soft components of a clip, to which a cell belongs in part, and their sounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audiointerp.interpretation.base import check_positive, check_whole
from audiointerp.interpretation.segmentation.base import (
    SEGMENTATIONS,
    Clip,
    ClipSegmentation,
    Segmentation,
    as_segmentation,
    clip_of,
    segment_clip,
)
from audiointerp.processing import FrontEnd, View


@SEGMENTATIONS.register("harmonic_percussive")
@dataclass(frozen=True)
class HarmonicPercussive(ClipSegmentation):
    """Two soft components: what lasts in time and what spreads over frequency.

    Parameters
    ----------
    kernel_size : int, default 31
        Cells of the median filters along time and along frequency.
    power : float, default 2.0
        Of the soft masks.

    References
    ----------
    D. FitzGerald, "Harmonic/Percussive Separation using Median Filtering", DAFx 2010.
    """

    kernel_size: int = 31
    power: float = 2.0

    def __post_init__(self) -> None:
        check_whole("kernel_size", self.kernel_size, 1)
        check_positive("power", self.power)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return the weights of the harmonic and of the percussive component."""
        import librosa

        harmonic, _ = librosa.decompose.hpss(
            clip.magnitudes(), kernel_size=self.kernel_size, power=self.power, mask=True
        )
        return np.stack([harmonic, 1 - harmonic])


@SEGMENTATIONS.register("nmf")
@dataclass(frozen=True)
class NMF(ClipSegmentation):
    """Soft components by non-negative matrix factorisation: spectra with their levels over time.

    The magnitudes are factorised by scikit-learn's multiplicative updates for the Kullback-Leibler
    divergence. A component's weight in a cell is its share of the model there.

    Parameters
    ----------
    components : int, default 8
    iterations : int, default 100
    seed : int, default 0
        For the values that the updates start from.

    References
    ----------
    D. Lee, S. Seung, "Algorithms for Non-negative Matrix Factorization", NeurIPS 2000. For
    components of a sound as what is hidden: V. Haunschmid, E. Manilow, G. Widmer, "audioLIME:
    Listenable Explanations Using Source Separation", MML 2020.
    """

    components: int = 8
    iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("components", self.components, 1)
        check_whole("iterations", self.iterations, 1)
        check_whole("seed", self.seed, 0)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return the weights of the components."""
        from sklearn.decomposition import non_negative_factorization

        spectra, levels, _ = non_negative_factorization(
            clip.magnitudes(),
            n_components=self.components,
            init="random",
            solver="mu",
            beta_loss="kullback-leibler",
            max_iter=self.iterations,
            tol=0,  # all iterations
            random_state=self.seed,
        )
        parts = spectra.T[:, :, None] * levels[:, None]
        model = parts.sum(0)
        shares = parts / np.where(model > 0, model, 1)
        return np.where(model > 0, shares, 1 / self.components)


def component_sounds(
    front_end: FrontEnd, view: View, segmentation: str | Segmentation | ClipSegmentation
) -> Tensor:
    """Return the sounds of a clip's segments or components, which sum to the clip.

    Each cell's amplitude is multiplied by the component's weight, with the clip's phase. What the
    front end's interpolation between bins leaves of the clip is shared equally among the sounds.

    Parameters
    ----------
    front_end : FrontEnd
    view : View
        Of one clip, with its sound.
    segmentation : str or callable

    Returns
    -------
    Tensor, shape (components, 1, samples)

    Raises
    ------
    ValueError
        If the view is not of one clip with sound, or see `segment_clip`.

    References
    ----------
    S. Wisdom et al., "Differentiable Consistency Constraints for Improved Deep Speech
    Enhancement", ICASSP 2019 (mixture consistency).
    """
    if len(view) != 1 or view.waveform is None:
        raise ValueError(
            f"expected the view of one clip with its sound, got {len(view)} clips"
            + (" without sound" if view.waveform is None else "")
        )
    parts = segment_clip(as_segmentation(segmentation), clip_of(view, front_end))
    if parts.ndim == 2:
        parts = np.arange(parts.max() + 1)[:, None, None] == parts
    weights = torch.as_tensor(parts).to(view.cells)[:, None]
    cells = view.cells + 20 * weights.log10() if front_end.log else view.cells * weights.square()
    same = view[torch.zeros(len(weights), dtype=torch.int64, device=view.cells.device)]
    with torch.no_grad():
        sounds = front_end.synthesise(same, cells)
        return sounds + (view.waveform - sounds.sum(0)) / len(sounds)
