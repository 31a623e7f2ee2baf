"""What perturbation methods hide: segmentations of a clip, by name in `SEGMENTATIONS`.

A segmentation is a function of the clip's cells (freq, time), a NumPy array. One that needs more of
the clip, such as its times in seconds, is a `ClipSegmentation`, a function of the `Clip`. Both
return hard segments, integer labels (freq, time), or soft components, weights (components, freq,
time) that sum to 1 in every cell. A new one is a frozen dataclass under ``SEGMENTATIONS.register``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from audiointerp.interpretation.base import check_whole
from audiointerp.processing import FrontEnd, View
from audiointerp.registry import Registry
from audiointerp.speed.threads import usable_processors

FRAMES_PER_SECOND = 100.0
"""Assumed by `Onsets` where the network has no front end that says it."""
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Clip:
    """One clip as a segmentation sees it.

    Attributes
    ----------
    cells : ndarray, shape (freq, time)
        In the front end's unit.
    unit : str, optional
        "dB" or "power"; None for a bare network, which has no front end.
    frequencies : ndarray, shape (freq,), optional
        Centre of every bin, Hz; None for a bare network.
    times : ndarray, shape (time,), optional
        Centre of every frame, seconds; None for a bare network.
    waveform : ndarray, shape (samples,), optional
        The sound, where the view has it.
    """

    cells: np.ndarray
    unit: str | None = None
    frequencies: np.ndarray | None = None
    times: np.ndarray | None = None
    waveform: np.ndarray | None = None

    @property
    def frames_per_second(self) -> float | None:
        """Frames in a second, where that is known."""
        if self.times is None or len(self.times) < 2:
            return None
        return (len(self.times) - 1) / float(self.times[-1] - self.times[0])

    def levels(self) -> np.ndarray:
        """Return the cells on a logarithmic scale, float64: dB where the unit is known."""
        cells = self.cells.astype(np.float64)
        return 10 * np.log10(np.maximum(cells, 1e-10)) if self.unit == "power" else cells

    def magnitudes(self) -> np.ndarray:
        """Return the cells as magnitudes of any scale, float64, at least 0.

        Those of a bare network, whose unit is not known, count from their minimum.
        """
        cells = self.cells.astype(np.float64)
        if self.unit == "dB":
            return 10 ** ((cells - cells.max()) / 20)
        if self.unit == "power":
            return np.sqrt(np.maximum(cells, 0))
        return cells - cells.min()


Segmentation = Callable[[np.ndarray], np.ndarray]
"""A function of the cells (freq, time) that returns labels or weights."""


class ClipSegmentation(ABC):
    """A segmentation that needs more of the clip than its cells."""

    @abstractmethod
    def __call__(self, clip: Clip) -> np.ndarray:
        """Return labels (freq, time) or weights (components, freq, time)."""


SEGMENTATIONS: Registry[Callable[[], Segmentation | ClipSegmentation]] = Registry("segmentation")


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


@SEGMENTATIONS.register("grid")
@dataclass(frozen=True)
class Grid(ClipSegmentation):
    """Rectangles of time and frequency.

    An axis is divided into a number of parts as equal as can be, or into parts of a given size,
    of which the last one may be smaller.

    Parameters
    ----------
    rows, columns : int, default 8 and 12
        Parts of the frequency and of the time axis, at most as many as there are cells.
    bins, frames : int, optional
        Size of the parts in cells, instead of their number.
    hertz, seconds : float, optional
        Size of the parts in physical units, instead of their number; needs a front end.
    """

    rows: int = 8
    columns: int = 12
    bins: int | None = None
    frames: int | None = None
    hertz: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            check_whole(name, getattr(self, name), 1)
        for cells, unit in (("bins", "hertz"), ("frames", "seconds")):
            sizes = getattr(self, cells), getattr(self, unit)
            if None not in sizes:
                raise ValueError(f"{cells} and {unit} are two sizes of one axis: give one of them")
            if sizes[0] is not None:
                check_whole(cells, sizes[0], 1)
            if sizes[1] is not None:
                _check_positive(unit, sizes[1])

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        bins, frames = clip.cells.shape
        row = _along(bins, self.rows, self.bins, self.hertz, clip.frequencies, "hertz")
        column = _along(frames, self.columns, self.frames, self.seconds, clip.times, "seconds")
        return row[:, None] * (column.max() + 1) + column


@SEGMENTATIONS.register("time")
@dataclass(frozen=True)
class Time(ClipSegmentation):
    """Segments of equal duration, over all frequencies.

    Parameters
    ----------
    seconds : float, default 0.1
        Duration of a segment.
    frames : int, default 10
        Its frames where the network has no front end, so that seconds are not known.
    """

    seconds: float = 0.1
    frames: int = 10

    def __post_init__(self) -> None:
        _check_positive("seconds", self.seconds)
        check_whole("frames", self.frames, 1)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        seconds = None if clip.times is None else self.seconds
        column = _along(clip.cells.shape[1], 1, self.frames, seconds, clip.times, "seconds")
        return np.broadcast_to(column, clip.cells.shape)


@SEGMENTATIONS.register("frequency")
@dataclass(frozen=True)
class Frequency(ClipSegmentation):
    """Frequency bands, over all frames.

    Parameters
    ----------
    bands : int, default 16
        Their number; each has as many bins as the others, as near as can be.
    edges : tuple of float, optional
        Hz, increasing: where one band ends and the next one begins, instead of the number; needs
        a front end.
    """

    bands: int = 16
    edges: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_whole("bands", self.bands, 1)
        if self.edges is not None and (
            not len(self.edges) or (np.diff(self.edges, prepend=0) <= 0).any()
        ):
            raise ValueError(f"edges must be increasing frequencies above 0 Hz, got {self.edges}")

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        if self.edges is None:
            row = _parts(clip.cells.shape[0], self.bands)
        else:
            row = np.searchsorted(self.edges, _known(clip.frequencies, "edges"), side="right")
        return np.broadcast_to(row[:, None], clip.cells.shape)


@SEGMENTATIONS.register("onsets")
@dataclass(frozen=True)
class Onsets(ClipSegmentation):
    """Segments from one onset to the next one.

    Onsets are the peaks of the mean rise of the level from frame to frame, moved back to the
    minimum before them. What lies before the first one is a segment too.

    Parameters
    ----------
    bands : int, default 1
        Parts of the frequency axis that are segments of their own.
    delta : float, default 0.07
        How far a peak rises above the mean around it, as a share of the highest peak.

    Notes
    -----
    Peaks are picked by librosa, whose windows are in seconds; for a bare network,
    `FRAMES_PER_SECOND` is assumed.
    """

    bands: int = 1
    delta: float = 0.07

    def __post_init__(self) -> None:
        check_whole("bands", self.bands, 1)

    def __call__(self, clip: Clip) -> np.ndarray:
        """Return one segment label per cell."""
        import librosa

        bins, frames = clip.cells.shape
        rise = np.maximum(np.diff(clip.levels(), axis=1, prepend=clip.levels()[:, :1]), 0).mean(0)
        starts = np.zeros(frames, dtype=np.int64)
        if rise.any():
            found = librosa.onset.onset_detect(
                onset_envelope=rise,
                sr=clip.frames_per_second or FRAMES_PER_SECOND,
                hop_length=1,
                backtrack=True,
                delta=self.delta,
            )
            starts[found[found > 0]] = 1
        column = np.cumsum(starts)
        return _parts(bins, self.bands)[:, None] * (column[-1] + 1) + column


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
        _check_positive("power", self.power)

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

    The magnitudes are factorised by multiplicative updates for the Kullback-Leibler divergence. A
    component's weight in a cell is its share of the model there.

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
        magnitudes = clip.magnitudes()
        spectra, levels = self.start(magnitudes)
        for _ in range(self.iterations):
            ratio = magnitudes / np.maximum(spectra @ levels, _TINY)
            spectra = spectra * (ratio @ levels.T) / np.maximum(levels.sum(1), _TINY)
            ratio = magnitudes / np.maximum(spectra @ levels, _TINY)
            levels = levels * (spectra.T @ ratio) / np.maximum(spectra.sum(0), _TINY)[:, None]
        parts = spectra.T[:, :, None] * levels[:, None]
        model = parts.sum(0)
        shares = parts / np.where(model > 0, model, 1)
        return np.where(model > 0, shares, 1 / self.components)

    def start(self, magnitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the spectra (freq, components) and levels (components, time) to start from."""
        random = np.random.default_rng(self.seed)
        bins, frames = magnitudes.shape
        scale = math.sqrt(magnitudes.mean() / self.components)
        spectra = scale * random.uniform(0.1, 1, (bins, self.components))
        return spectra, scale * random.uniform(0.1, 1, (self.components, frames))


_TINY = 1e-12


def as_segmentation(
    segmentation: str | Segmentation | ClipSegmentation,
) -> Segmentation | ClipSegmentation:
    """Return a segmentation: the one of a name, or the function given.

    Raises
    ------
    UnknownNameError
        If there is no such name.
    ValueError
        If it is neither a name nor a function.
    """
    if isinstance(segmentation, str):
        return SEGMENTATIONS[segmentation]()
    if not callable(segmentation):
        raise ValueError(
            f"segmentation must be one of {', '.join(SEGMENTATIONS)} or a function, "
            f"got {segmentation!r}"
        )
    return segmentation


def segment_clip(segmentation: Segmentation | ClipSegmentation, clip: Clip) -> np.ndarray:
    """Return the checked parts of a clip.

    Returns
    -------
    ndarray
        Labels, int64 of shape (freq, time), numbered from 0 without gaps; or weights, float64 of
        shape (components, freq, time).

    Raises
    ------
    ValueError
        If the segmentation returns something else, or weights that do not sum to 1.
    """
    given = clip if isinstance(segmentation, ClipSegmentation) else clip.cells
    parts = np.asarray(segmentation(given))
    shape = clip.cells.shape
    if parts.shape == shape and np.issubdtype(parts.dtype, np.integer):
        _, labels = np.unique(parts, return_inverse=True)
        return labels.reshape(shape).astype(np.int64)
    if parts.ndim != 3 or parts.shape[1:] != shape or not np.issubdtype(parts.dtype, np.floating):
        raise ValueError(
            f"the segmentation must return integer labels of shape {shape}, or weights of shape "
            f"(components, {shape[0]}, {shape[1]}), got {parts.dtype} of shape {parts.shape}"
        )
    weights = parts.astype(np.float64)
    off = np.abs(weights.sum(0) - 1).max() if len(weights) else 1.0
    if not (off <= _SUM_TOLERANCE and weights.min() >= 0):
        raise ValueError(
            "the weights of the components must be at least 0 and sum to 1 in every cell, they "
            f"miss 1 by up to {off:g}, and the least is {weights.min(initial=0):g}"
        )
    return weights


def clip_of(view: View, front_end: FrontEnd | None, index: int = 0) -> Clip:
    """Return one clip of a view as a segmentation sees it."""
    cells = _numpy(view.cells[index, 0])
    waveform = None if view.waveform is None else _numpy(view.waveform[index, 0])
    if front_end is None:
        return Clip(cells, waveform=waveform)
    return Clip(
        cells,
        unit=front_end.unit,
        frequencies=_numpy(front_end.frequencies),
        times=_numpy(front_end.times(cells.shape[1])),
        waveform=waveform,
    )


def segment_ahead(
    segmentation: Segmentation | ClipSegmentation, view: View, front_end: FrontEnd | None
) -> Iterator[np.ndarray]:
    """Yield the parts of the clips in order; other threads segment ahead of who takes them.

    Raises
    ------
    ValueError
        See `segment_clip`.
    """
    # A network on the CPU needs its cores itself.
    cores = 1 if view.cells.device.type == "cpu" else usable_processors()
    pool = ThreadPoolExecutor(max_workers=cores)
    try:
        yield from pool.map(partial(_segment, segmentation, view, front_end), range(len(view)))
    finally:
        pool.shutdown(cancel_futures=True)


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


def _segment(
    segmentation: Segmentation | ClipSegmentation,
    view: View,
    front_end: FrontEnd | None,
    index: int,
) -> np.ndarray:
    return segment_clip(segmentation, clip_of(view, front_end, index))


def _numpy(values: Tensor) -> np.ndarray:
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    return (values.float() if values.dtype is torch.bfloat16 else values).numpy()


def _scaled(features: np.ndarray) -> np.ndarray:
    """Return the features from 0 to 1, float64."""
    low, high = float(features.min()), float(features.max())
    return (features.astype(np.float64) - low) / ((high - low) or 1.0)


def _parts(cells: int, count: int) -> np.ndarray:
    """Return the number of the part that each cell of an axis is in, of equal parts."""
    count = min(count, cells)
    return np.arange(cells) * count // cells


def _along(
    cells: int,
    count: int,
    size: int | None,
    extent: float | None,
    axis: np.ndarray | None,
    name: str,
) -> np.ndarray:
    """Return the part of each cell of an axis: by an extent, a size in cells, or a number."""
    if extent is not None:
        axis = _known(axis, name)
        # A hundredth of a cell, so that rounding moves no cell over an edge.
        slack = 0.01 * abs(float(axis[-1] - axis[0])) / max(len(axis) - 1, 1)
        place = np.floor((axis - axis[0] + slack) / extent).astype(np.int64)
        return np.unique(place, return_inverse=True)[1]
    return _parts(cells, count) if size is None else np.arange(cells) // size


def _known(axis: np.ndarray | None, name: str) -> np.ndarray:
    if axis is None:
        raise ValueError(
            f"{name} needs the network's front end, which says what its cells are in Hz and "
            "seconds: wrap the network by audiointerp.classifier, or give a size in cells"
        )
    return axis.astype(np.float64)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
