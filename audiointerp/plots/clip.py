"""One clip: its spectrogram, its interpretation, its masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from audiointerp.plots.cells import (
    LEVEL_MAP,
    SHARE_MAP,
    SIGNED_MAP,
    draw_cells,
    draw_level,
    label_frequency,
    one_clip,
    peak_db,
    time_ticks,
)
from audiointerp.plots.picture import Picture, share_in_words
from audiointerp.plots.words import as_written

if TYPE_CHECKING:
    from torch import Tensor

    from audiointerp.processing import STFTSpectrogram


def plot_spectrogram(features: Tensor, processor: STFTSpectrogram, *, title: str = "") -> Picture:
    """Draw one clip's features.

    Parameters
    ----------
    features : Tensor, shape (..., bins, frames) with one clip
        dB or power, as the front end makes them; power is drawn in dB.
    processor : STFTSpectrogram
        The front end that made them.
    title : str
        Above the picture.

    Returns
    -------
    Picture
    """
    figure = Picture(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    image = draw_level(axes, features, processor, peak_db(features, processor), title)
    figure.colorbar(image, ax=axes, label="level, dB")
    return figure


def plot_spectrograms(
    spectrograms: dict[str, Tensor], processor: STFTSpectrogram, *, heading: str = ""
) -> Picture:
    """Draw the features of several clips side by side, on one colour scale.

    Parameters
    ----------
    spectrograms : dict of str to Tensor, shape (..., bins, frames) with one clip
        By the title of each panel, dB or power; at most five panels stand in a row.
    processor : STFTSpectrogram
        The front end that made them.
    heading : str
        Above all panels.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there are no spectrograms.
    """
    if not spectrograms:
        raise ValueError("there are no spectrograms to draw")
    columns = min(len(spectrograms), 5)
    rows = -(-len(spectrograms) // columns)
    width, height = 2.5 * columns + 1.7, 1.9 * rows + 0.9
    figure = Picture(figsize=(width, height))
    figure.colour_maps = (LEVEL_MAP, SHARE_MAP)
    as_written(figure.suptitle(heading, y=1 - 0.06 / height, va="top"), inches=width - 0.2)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    # Fixed margins: a layout engine would draw everything twice.
    top = 1 - (0.7 if heading else 0.4) / height
    edges = {"left": 0.7 / width, "right": 1 - 1.0 / width, "bottom": 0.5 / height, "top": top}
    figure.subplots_adjust(**edges, wspace=0.08, hspace=0.25)
    peak = max(peak_db(features, processor) for features in spectrograms.values())
    for place, (title, features) in enumerate(spectrograms.items()):
        axes = grid[place]
        image = draw_level(axes, features, processor, peak, title)
        image.set_interpolation("antialiased")  # a panel has fewer pixels than an STFT has cells
        if place % columns:
            axes.set(yticklabels=[], ylabel="")
        if place + columns < len(spectrograms):  # another panel stands below
            axes.set(xticklabels=[], xlabel="")
    for axes in grid[len(spectrograms) :]:
        axes.set_visible(False)
    bar = figure.add_axes((1 - 0.85 / width, edges["bottom"], 0.14 / width, top - edges["bottom"]))
    figure.colorbar(image, cax=bar, label="level, dB")
    return figure


def plot_interpretation(
    features: Tensor,
    attribution: Tensor,
    mask: Tensor,
    masked_in: Tensor,
    masked_out: Tensor,
    processor: STFTSpectrogram,
    *,
    titles: dict[str, str] | None = None,
    heading: str = "",
) -> Picture:
    """Draw a clip, its attribution map and mask, and what the mask keeps and removes.

    Parameters
    ----------
    features, attribution, mask, masked_in, masked_out : Tensor, shape (..., bins, frames)
        Of one clip. The three spectrograms share one colour scale.
    processor : STFTSpectrogram
        The front end that made the features.
    titles : dict, optional
        Title of each panel, by the argument names above.
    heading : str
        Above all panels.

    Returns
    -------
    Picture
    """
    named = {
        "features": "original",
        "attribution": "attribution",
        "mask": "mask",
        "masked_in": "kept by the mask",
        "masked_out": "removed from the clip",
    } | (titles or {})
    figure = Picture(figsize=(13, 5.6))
    figure.colour_maps = (LEVEL_MAP, SIGNED_MAP, SHARE_MAP)
    as_written(figure.suptitle(heading), inches=12.8)
    grid = figure.subplots(2, 3)
    # Fixed margins: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.05, right=0.985, top=0.87, bottom=0.09, wspace=0.2, hspace=0.5)
    peak = peak_db(features, processor)
    limit = float(attribution.abs().max()) or 1.0
    signed = {"cmap": SIGNED_MAP, "vmin": -limit, "vmax": limit}
    share = {"cmap": SHARE_MAP, "vmin": 0, "vmax": 1}
    level = draw_level(grid[0, 0], features, processor, peak, named["features"])
    effect = draw_cells(grid[0, 1], attribution, processor, title=named["attribution"], **signed)
    kept = draw_cells(grid[1, 1], mask, processor, title=named["mask"], **share)
    draw_level(grid[0, 2], masked_in, processor, peak, named["masked_in"])
    draw_level(grid[1, 2], masked_out, processor, peak, named["masked_out"])
    _draw_legend(
        grid[1, 0],
        {
            "level, dB": level,
            "attribution: against the class (blue), for it (red)": effect,
            "share that the mask keeps": kept,
        },
    )
    return figure


def _draw_legend(axes: Axes, scales: dict[str, AxesImage]) -> None:
    """Fill a panel with one horizontal colour bar per scale."""
    axes.set_axis_off()
    for place, (label, image) in enumerate(scales.items()):
        bar = axes.inset_axes((0.05, 0.85 - 0.38 * place, 0.9, 0.1))
        ends = image.get_clim()
        # Few ticks in full: matplotlib would put the power of ten of small ones over the label.
        ticks = {"ticks": [ends[0], sum(ends) / 2, ends[1]], "format": "%.3g"}
        axes.figure.colorbar(image, cax=bar, orientation="horizontal", label=label, **ticks)


def plot_masks(
    masks: dict[str, Tensor], processor: STFTSpectrogram, *, heading: str = ""
) -> Picture:
    """Draw one clip's masks side by side.

    Parameters
    ----------
    masks : dict of str to Tensor, shape (..., bins, frames)
        By name, as `audiointerp.masking.make_masks` returns them for one clip.
    processor : STFTSpectrogram
        The front end that the masks belong to.
    heading : str
        Above all panels.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there are no masks.
    """
    if not masks:
        raise ValueError("there are no masks to draw")
    tiles = {name: one_clip(mask, processor) for name, mask in masks.items()}
    bins, frames = next(iter(tiles.values())).shape
    columns = min(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    width, height = 3.2 * columns + 0.8, 2.1 * rows + 0.7
    figure = Picture(figsize=(width, height))
    figure.colour_maps = (SHARE_MAP,)
    as_written(figure.suptitle(heading), inches=width - 0.2)
    # One panel for all masks: axes for each would take three times as long to draw.
    axes = figure.add_axes((0.75 / width, 0.5 / height, 1 - 0.9 / width, 1 - 1.2 / height))
    across, up = 1.08 * frames, 1.3 * bins
    for place, (name, tile) in enumerate(tiles.items()):
        left, bottom = place % columns * across, (rows - 1 - place // columns) * up
        _draw_tile(axes, tile, f"{name}: {share_in_words(float(tile.mean()))} kept", left, bottom)
        if place + columns >= len(tiles):  # the lowest of its column
            _write_seconds(axes, processor, tile.shape, left, bottom)
    axes.set(xlim=(0, across * columns - 0.08 * frames), ylim=(0, up * rows - 0.3 * bins))
    label_frequency(axes, processor, offsets=[row * up for row in range(rows)])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return figure


def _draw_tile(axes: Axes, tile: np.ndarray, title: str, left: float, bottom: float) -> None:
    """Draw a mask in a frame, its title above, with its lower left corner at a place."""
    bins, frames = tile.shape
    edges = (left, left + frames, bottom, bottom + bins)
    shades = {"cmap": SHARE_MAP, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes.imshow(tile, origin="lower", aspect="auto", extent=edges, **shades)
    axes.add_patch(Rectangle((left, bottom), frames, bins, fill=False, lw=0.8, clip_on=False))
    above = axes.text(left + frames / 2, bottom + 1.04 * bins, title, ha="center", fontsize=10)
    as_written(above, inches=3.0)


def _write_seconds(
    axes: Axes, processor: STFTSpectrogram, shape: tuple[int, int], left: float, bottom: float
) -> None:
    """Write the time below a tile."""
    bins, frames = shape
    below = {"ha": "center", "va": "top", "fontsize": 10}
    for second, place in time_ticks(processor, frames).items():
        axes.text(left + place + 0.5, bottom - 0.04 * bins, f"{second:g}", **below)
    axes.text(left + frames / 2, bottom - 0.14 * bins, "time, s", **below)
