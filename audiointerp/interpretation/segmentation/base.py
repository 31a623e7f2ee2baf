"""Interface of segmentations, and segmentation of clips ahead of the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from audiointerp.processing import FrontEnd, View
from audiointerp.registry import Registry
from audiointerp.speed.threads import usable_processors

_SUM_TOLERANCE = 1e-6
"""By how much the weights of a cell may miss 1."""


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
