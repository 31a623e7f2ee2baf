"""A recording of several windows: probabilities over time, spectrogram, joined attribution map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from audiointerp.plots.cells import (
    SIGNED_MAP,
    label_frequency,
    level_look,
    signed_look,
    write_title,
)
from audiointerp.plots.picture import Picture
from audiointerp.plots.words import as_written, write_legend

if TYPE_CHECKING:
    from audiointerp.processing import FrontEnd

_UNKNOWN = "0.85"
_CURVES = 8
"""Curves at most; more cannot be told apart by colour."""


def plot_recording(
    chances: Mapping[str, NDArray[np.float64]],
    windows: Sequence[tuple[float, float]],
    interpreted: Sequence[tuple[float, float]],
    overview: NDArray[np.float32],
    attribution: NDArray[np.float32],
    processor: FrontEnd,
    *,
    map_title: str = "attribution",
    heading: str = "",
) -> Picture:
    """Draw what a model says over a recording, its spectrogram and the attribution map.

    Parameters
    ----------
    chances : mapping of str to ndarray, shape (windows,)
        Probabilities of every window by class; at most eight are drawn, those with the highest
        peaks.
    windows : sequence of (float, float)
        Start and end of every window, seconds. A probability is drawn at the window's middle.
    interpreted : sequence of (float, float)
        The windows that are interpreted, which are marked.
    overview : ndarray, shape (bins, columns)
        Levels in dB from the start of the first window to the end of the last; NaN where nothing
        was analysed.
    attribution : ndarray, shape (bins, columns)
        Likewise the joined attribution map; NaN, drawn grey, where no window was interpreted.
    processor : FrontEnd
        The front end.
    map_title, heading : str
        Above the map, and above all.

    Returns
    -------
    Picture
    """
    start, end = windows[0][0], windows[-1][1]
    figure = Picture(figsize=(11, 6.6))
    as_written(figure.suptitle(heading, fontsize=11), inches=10.8)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.1, 1, 1))
    # Fixed margins: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.07, right=0.86, top=0.92, bottom=0.08, hspace=0.25)
    _draw_chances(top, chances, windows, interpreted)
    edges = (start, end, -0.5, len(overview) - 0.5)
    peak = float(np.nanmax(overview))
    level = _draw_map(middle, overview, edges, processor, level_look(peak))
    gaps = "; grey: not analysed" if np.isnan(overview).any() else ""
    middle.set_title(f"spectrogram{gaps}", fontsize=10)
    known = attribution[np.isfinite(attribution)]
    look = signed_look(torch.from_numpy(known if known.size else np.zeros(1, np.float32)))
    effect = _draw_map(bottom, attribution, edges, processor, look)
    write_title(bottom, map_title)
    bottom.set(xlabel="time, s", xlim=(start, end))
    for axes, image, label in (
        (middle, level, "level, dB"),
        (bottom, effect, "against (blue), for (red)"),
    ):
        box = axes.get_position()
        bar = figure.add_axes((0.875, box.y0, 0.012, box.height))
        figure.colorbar(image, cax=bar, label=label, format="%.3g")
    return figure


def _draw_chances(
    axes: Axes,
    chances: Mapping[str, NDArray[np.float64]],
    windows: Sequence[tuple[float, float]],
    interpreted: Sequence[tuple[float, float]],
) -> None:
    middles = [(start + end) / 2 for start, end in windows]
    for start, end in interpreted:
        axes.axvspan(start, end, ymax=0.03, color="0.3", lw=0)
        axes.axvspan(start, end, color="0.5", alpha=0.12, lw=0)
    drawn = sorted(chances, key=lambda name: -chances[name].max())[:_CURVES]
    marker = "o" if len(windows) <= 60 else ""
    lines = {
        name: axes.plot(middles, chances[name], marker=marker, ms=3, lw=1.5)[0] for name in drawn
    }
    axes.set(ylim=(-0.02, 1.02), ylabel="probability")
    axes.set_title("probability of each window, at its middle; grey: interpreted", fontsize=10)
    axes.grid(alpha=0.3)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "fontsize": 8, "frameon": False}
    write_legend(axes, lines, inches=1.0, **beside)


def _draw_map(
    axes: Axes,
    values: NDArray[np.float32],
    edges: tuple[float, float, float, float],
    processor: FrontEnd,
    look: dict,
) -> AxesImage:
    """Draw cells over seconds; those that are not known are grey."""
    look = look | {"cmap": colormaps[look.get("cmap", SIGNED_MAP)].with_extremes(bad=_UNKNOWN)}
    known = np.ma.masked_invalid(values)
    image = axes.imshow(known, origin="lower", aspect="auto", extent=edges, **look)
    label_frequency(axes, processor)
    return image
