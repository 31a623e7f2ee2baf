"""One value per time-frequency cell, drawn with axes in seconds and Hz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from audiointerp.plots.words import as_written

if TYPE_CHECKING:
    from torch import Tensor

    from audiointerp.processing import STFTSpectrogram

LEVEL_MAP, SIGNED_MAP, SHARE_MAP = "magma", "RdBu_r", "gray"
"""The colour maps of levels in dB, of attribution, and of masks; letters are grey too."""


DYNAMIC_RANGE = 80.0
"""dB shown below the loudest cell; what lies lower is drawn as the darkest colour."""
_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)


def draw_cells(
    axes: Axes,
    cells: Tensor,
    processor: STFTSpectrogram,
    *,
    title: str = "",
    **image: object,
) -> AxesImage:
    """Draw one value per time-frequency cell, with axes in seconds and Hz.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    cells : Tensor, shape (..., bins, frames) with one clip
    processor : STFTSpectrogram
        The front end that the cells belong to.
    title : str
        Above the picture. It is written as it is; where it is too long, its middle is left out.
    **image
        Options of ``Axes.imshow``, such as ``cmap``, ``vmin`` and ``vmax``.

    Returns
    -------
    AxesImage
        For a colour bar.

    Raises
    ------
    ValueError
        If there is more than one clip or the bins are not the front end's.
    """
    values = one_clip(cells, processor)
    drawn = axes.imshow(values, origin="lower", aspect="auto", interpolation="nearest", **image)
    write_title(axes, title)
    label_frequency(axes, processor)
    _label_time(axes, processor, values.shape[1])
    return drawn


def write_title(axes: Axes, title: str) -> None:
    """Write a title above axes, as wide as they are at most."""
    inches = axes.get_position().width * axes.get_figure().get_figwidth()
    as_written(axes.set_title(title, fontsize=10), inches=inches)


def level_look(peak: float) -> dict[str, Any]:
    """Return the options of ``imshow`` for levels in dB, the loudest being `peak`."""
    return {"cmap": LEVEL_MAP, "vmin": peak - DYNAMIC_RANGE, "vmax": peak}


def signed_look(cells: Tensor) -> dict[str, Any]:
    """Return the options of ``imshow`` for an attribution map, 0 in the middle."""
    magnitude = cells.detach().abs().float().cpu().numpy()
    # Where fewer than one cell in a hundred differs from 0, the largest is the scale.
    limit = float(np.percentile(magnitude, 99)) or float(magnitude.max()) or 1.0
    return {"cmap": SIGNED_MAP, "vmin": -limit, "vmax": limit}


def draw_level(
    axes: Axes, features: Tensor, processor: STFTSpectrogram, peak: float, title: str
) -> AxesImage:
    """Draw features as levels, down to `DYNAMIC_RANGE` dB below a peak."""
    level = in_db(features, processor)
    return draw_cells(axes, level, processor, title=title, **level_look(peak))


def label_frequency(
    axes: Axes, processor: STFTSpectrogram, offsets: Sequence[float] | None = None
) -> None:
    """Mark Hz on the vertical axis, of an image or of tiles with their lower edges at offsets."""
    ticks = frequency_ticks(processor)
    # Cells lie around whole numbers in an image of its own, from edge to edge in a tile.
    starts = [0.0] if offsets is None else [offset + 0.5 for offset in offsets]
    names = [f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:g}" for hz in ticks]
    axes.set_yticks(
        [start + place for start in starts for place in ticks.values()], names * len(starts)
    )
    axes.set_ylabel("frequency, Hz")


def _label_time(axes: Axes, processor: STFTSpectrogram, frames: int) -> None:
    ticks = time_ticks(processor, frames)
    axes.set_xticks(list(ticks.values()), [f"{second:g}" for second in ticks])
    axes.set_xlabel("time, s")


def time_ticks(processor: STFTSpectrogram, frames: int) -> dict[float, float]:
    """Return times to mark, seconds, and their places on the axis, frames."""
    times = processor.times(frames).cpu().numpy()
    seconds = MaxNLocator(6).tick_values(0, times[-1])
    seconds = seconds[(seconds >= 0) & (seconds <= times[-1] + 1e-9)]
    places = np.interp(seconds, times, np.arange(len(times)))
    return dict(zip(seconds.tolist(), places.tolist(), strict=True))


def frequency_ticks(processor: STFTSpectrogram) -> dict[float, float]:
    """Return frequencies to mark, Hz, and their places on the axis, bins."""
    frequencies = processor.frequencies.cpu().numpy()
    marks = _TICKS_HZ
    if not _is_warped(processor):
        marks = MaxNLocator(5).tick_values(0, frequencies[-1])
    marks = [float(hz) for hz in marks if frequencies[0] <= hz <= frequencies[-1]]
    places = np.interp(marks, frequencies, np.arange(len(frequencies)))
    ticks: dict[float, float] = {}
    for hz, place in zip(marks[::-1], places[::-1], strict=True):
        # Labels closer than a tenth of the axis would run into each other.
        if all(other - place >= len(frequencies) / 10 for other in ticks.values()):
            ticks[hz] = float(place)
    return ticks


def _is_warped(processor: STFTSpectrogram) -> bool:
    """Return whether the frequency axis is other than evenly spaced."""
    steps = processor.frequencies.diff()
    return bool((steps.max() - steps.min()) > 0.01 * steps.max())


def in_db(features: Tensor, processor: STFTSpectrogram) -> Tensor:
    """Return features in dB, which those of a power front end are not."""
    return features if processor.log else 10 * features.clamp(min=1e-10).log10()


def peak_db(features: Tensor, processor: STFTSpectrogram) -> float:
    """Return the level of the loudest cell, dB."""
    return float(in_db(features, processor).max())


def one_clip(cells: Tensor, processor: STFTSpectrogram) -> np.ndarray:
    """Return one clip's cells (bins, frames), checked against the front end."""
    shape = tuple(cells.shape)
    if cells.ndim < 2 or cells.numel() != shape[-1] * shape[-2]:
        raise ValueError(f"cells of shape {shape}: expected those of one clip; index the batch")
    if shape[-2] != processor.num_bins:
        raise ValueError(
            f"cells with {shape[-2]} bins for a front end of {processor.num_bins}: "
            "are they another front end's, or transposed?"
        )
    return cells.detach().cpu().float().numpy().reshape(shape[-2:])
