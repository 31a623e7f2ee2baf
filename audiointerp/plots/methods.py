"""One clip through several methods, side by side: the figure of a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from audiointerp.interpretation import is_reference
from audiointerp.plots.cells import (
    LEVEL_MAP,
    SHARE_MAP,
    SIGNED_MAP,
    frequency_ticks,
    in_db,
    level_look,
    one_clip,
    peak_db,
    signed_look,
    time_ticks,
)
from audiointerp.plots.picture import PRINT_WIDTH, Picture
from audiointerp.plots.words import as_written, label_ticks

if TYPE_CHECKING:
    from torch import Tensor

    from audiointerp.processing import STFTSpectrogram


def plot_comparison(
    features: Tensor,
    attributions: Mapping[str, Tensor],
    masked: Mapping[str, Mapping[str, Tensor]],
    processor: STFTSpectrogram,
    *,
    captions: Mapping[str, Mapping[str, str]] | None = None,
    heading: str = "",
) -> Picture:
    """Draw one clip under several methods and masks, as a paper prints it.

    Rows are methods; columns are the clip, the method's attribution map, and what every mask
    keeps (or removes). Spectrograms share one colour scale; attribution maps, whose units differ
    from method to method, are each drawn relative to their own 99th percentile of the magnitude,
    because a single extreme cell would leave the rest of a map blank.

    Parameters
    ----------
    features : Tensor, shape (..., bins, frames)
        Of one clip.
    attributions : mapping of str to Tensor, shape (..., bins, frames)
        Maps of the clip by the name of the method.
    masked : mapping of str to mapping of str to Tensor, shape (..., bins, frames)
        ``masked[method][mask]``, the masked features; every method with the same masks.
    processor : STFTSpectrogram
        The front end that made the features.
    captions : mapping of str to mapping of str to str, optional
        ``captions[method][mask]``, a few words above a masked spectrogram, such as what the
        model says of it.
    heading : str
        Above all panels.

    Returns
    -------
    Picture
        As wide as a page of two columns; see `Picture.save_print`.

    Raises
    ------
    ValueError
        If there is no method, methods and masks are not the same everywhere, or there are more
        masks than fit.
    """
    columns = list(next(iter(masked.values()), ()))
    check_columns(columns)
    if not attributions or list(masked) != list(attributions):
        raise ValueError(
            f"attribution maps of {', '.join(attributions) or 'no method'}, masked spectrograms "
            f"of {', '.join(masked) or 'no method'}: give both for the same methods, in one order"
        )
    for method, levels in masked.items():
        if list(levels) != columns:
            raise ValueError(
                f"{method} has the masks {', '.join(levels)}, not {', '.join(columns)}: give every "
                "method the same ones, in one order"
            )
    level = level_look(peak_db(features, processor))
    original = _Tile(in_db(features, processor), level)
    rows = []
    for method, attribution in attributions.items():
        tiles = [original, _Tile(attribution, signed_look(attribution))]
        for mask, cells in masked[method].items():
            caption = (captions or {}).get(method, {}).get(mask, "")
            tiles.append(_Tile(in_db(cells, processor), level, caption))
        rows.append((_short(method), tiles))
    return _draw_sheet(rows, ["original", "attribution", *columns], processor, heading)


def check_columns(masks: Sequence[str]) -> None:
    """Raise a ValueError if there are more masks than columns on a page."""
    if len(masks) > _MOST_COLUMNS - 2:
        raise ValueError(
            f"{len(masks)} masks are too many for the width of a page: choose at most "
            f"{_MOST_COLUMNS - 2}"
        )


def plot_attributions(
    features: Tensor,
    attributions: Mapping[str, Tensor],
    processor: STFTSpectrogram,
    *,
    heading: str = "",
) -> Picture:
    """Draw a clip and every method's attribution map of it, in one row as far as they fit.

    Parameters
    ----------
    features : Tensor, shape (..., bins, frames)
        Of one clip.
    attributions : mapping of str to Tensor, shape (..., bins, frames)
        Maps of the clip by the name of the method; drawn as `plot_comparison` draws them.
    processor : STFTSpectrogram
        The front end that made the features.
    heading : str
        Above all panels.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there is no method.
    """
    if not attributions:
        raise ValueError("there are no attribution maps to draw")
    level = level_look(peak_db(features, processor))
    tiles = [_Tile(in_db(features, processor), level, "original")]
    tiles += [
        _Tile(cells, signed_look(cells), _short(name)) for name, cells in attributions.items()
    ]
    columns = -(-len(tiles) // -(-len(tiles) // _MOST_COLUMNS))
    rows = [("", tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return _draw_sheet(rows, [], processor, heading)


def plot_probabilities(chances: pd.DataFrame, *, heading: str = "", most: int = 12) -> Picture:
    """Draw class probabilities as a table of shades, with the numbers in it.

    Parameters
    ----------
    chances : DataFrame
        One row per sound, one column per class; the names of a row's index are written beside it.
    heading : str
        Above the picture.
    most : int
        Classes to show at most: those that are the most probable anywhere.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there are no rows, or values that are no probabilities.
    """
    values = chances.to_numpy(float)
    if not values.size or not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError("expected rows of probabilities, between 0 and 1")
    kept = np.sort(np.argsort(-values.max(0), kind="stable")[:most])
    names = [" ".join(map(str, filter(None, np.atleast_1d(row)))) for row in chances.index]
    rows, columns = len(values), len(kept)
    height = 0.17 * rows + 0.9
    figure = Picture(figsize=(PRINT_WIDTH, height))
    figure.screen_dpi = 120
    figure.colour_maps = ("Blues", SHARE_MAP)
    axes = figure.add_axes((0.24, 0.05 / height, 0.68, 0.17 * rows / height))
    axes.imshow(values[:, kept], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(rows):
        for place, value in enumerate(values[row, kept]):
            shade = "white" if value > 0.6 else "black"
            axes.text(place, row, f"{value:.2f}", c=shade, ha="center", va="center", fontsize=6)
    label_ticks(axes.yaxis, range(rows), names, inches=1.6, fontsize=6)
    slanted = {"fontsize": 7, "rotation": 30, "ha": "left"}
    label_ticks(axes.xaxis, range(columns), chances.columns[kept], inches=0.75, **slanted)
    axes.tick_params(length=0, bottom=False, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    title = figure.suptitle(heading, fontsize=8, y=1 - 0.06 / height, va="top")
    as_written(title, inches=PRINT_WIDTH - 0.2)
    return figure


@dataclass(frozen=True)
class _Tile:
    """One panel of a sheet: its cells, the options of ``imshow`` for them, and what is above."""

    cells: Tensor
    look: dict[str, Any]
    caption: str = ""


_MOST_COLUMNS = 8
_LEFT, _RIGHT, _GAP = 0.62, 0.06, 0.06
_CAPTION, _COLUMN, _HEADING, _BOTTOM = 0.15, 0.16, 0.24, 0.72
"""Inches around and between the panels of a sheet."""
_SMALLEST = 5.0
"""Points that the names of panels may shrink to."""


def _draw_sheet(
    rows: Sequence[tuple[str, Sequence[_Tile]]],
    columns: Sequence[str],
    processor: STFTSpectrogram,
    heading: str,
) -> Picture:
    """Draw named rows of equal panels, with Hz, seconds and names on the outer ones only.

    All panels are in one axes whose unit is an inch, so that letters keep their size in print;
    axes for each would also take five times as long to draw.
    """
    width = (PRINT_WIDTH - _LEFT - _RIGHT + _GAP) / len(rows[0][1]) - _GAP
    height = min(0.75 * width, 1.1)
    captions = any(tile.caption for _, tiles in rows for tile in tiles)
    step = height + _GAP + _CAPTION * captions
    total = _BOTTOM + len(rows) * step + _COLUMN * bool(columns) + _HEADING * bool(heading)
    figure = Picture(figsize=(PRINT_WIDTH, total))
    figure.screen_dpi = 160
    figure.colour_maps = (LEVEL_MAP, SIGNED_MAP, SHARE_MAP)
    axes = figure.add_axes((0, 0, 1, 1))
    for place, (name, tiles) in enumerate(rows):
        bottom = _BOTTOM + (len(rows) - 1 - place) * step
        beside = axes.text(0.03, bottom + height / 2, name, rotation=90, va="center", fontsize=8)
        as_written(beside, inches=height, smallest=_SMALLEST)
        _write_hertz(axes, processor, bottom, height)
        below = rows[place + 1][1] if place + 1 < len(rows) else []
        for column, tile in enumerate(tiles):
            box = (_LEFT + column * (width + _GAP), bottom, width, height)
            _draw_panel(axes, one_clip(tile.cells, processor), box, tile.look)
            top = {"x": box[0] + width / 2, "y": bottom + height + 0.045}
            caption = axes.text(**top, s=tile.caption, ha="center", fontsize=7)
            as_written(caption, inches=width, smallest=_SMALLEST)
            if column >= len(below):
                _write_times(axes, processor, tile.cells.shape[-1], box)
    for column, name in enumerate(columns):
        middle = _LEFT + column * (width + _GAP) + width / 2
        above = axes.text(middle, _BOTTOM + len(rows) * step, name, ha="center", fontsize=8)
        as_written(above, inches=width, smallest=_SMALLEST)
    above = axes.text(PRINT_WIDTH / 2, total - 0.15, heading, ha="center", fontsize=8)
    as_written(above, inches=PRINT_WIDTH - 0.1)
    _draw_scales(axes, rows[0][1][0].look)
    axes.set(xlim=(0, PRINT_WIDTH), ylim=(0, total), aspect="auto")
    axes.set_axis_off()
    return figure


def _short(method: str) -> str:
    """Return a method's name for the side of a panel, marked where it is a reference."""
    return f"{method} (ref.)" if is_reference(method) else method


def _draw_panel(
    axes: Axes, values: np.ndarray, box: tuple[float, float, float, float], look: dict[str, Any]
) -> None:
    """Draw cells with a frame into a box: left, bottom, width, height."""
    left, bottom, width, height = box
    edges = (left, left + width, bottom, bottom + height)
    axes.imshow(values, origin="lower", extent=edges, interpolation="nearest", **look)
    axes.add_patch(Rectangle((left, bottom), width, height, fill=False, lw=0.6))


def _write_hertz(axes: Axes, processor: STFTSpectrogram, bottom: float, height: float) -> None:
    """Write the frequencies left of a row."""
    for hz, place in frequency_ticks(processor).items():
        name = f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:g}"
        y = bottom + (place + 0.5) / processor.num_bins * height
        axes.plot((_LEFT - 0.03, _LEFT), (y, y), color="black", lw=0.4)
        axes.text(_LEFT - 0.05, y, name, ha="right", va="center_baseline", fontsize=6)
    middle = bottom + height / 2
    axes.text(0.2, middle, "Hz", rotation=90, va="center", fontsize=6)


def _write_times(
    axes: Axes, processor: STFTSpectrogram, frames: int, box: tuple[float, float, float, float]
) -> None:
    """Write the seconds below a panel."""
    left, bottom, width, _ = box
    ticks = list(time_ticks(processor, frames).items())
    # A digit is 0.055 inch wide; numbers at the ends are half their width nearer to the next.
    needed = 1.5 * 0.055 * max(len(f"{second:g}") for second, _ in ticks) + 0.05
    every = math.ceil(needed * len(ticks) / width)
    for second, place in ticks[::every]:
        x = left + (place + 0.5) / frames * width
        axes.plot((x, x), (bottom - 0.03, bottom), color="black", lw=0.4)
        # At a panel's ends a number stays over it, lest it touch that of the next panel.
        side = "left" if x < left + 0.05 else "right" if x > left + width - 0.05 else "center"
        axes.text(x, bottom - 0.05, f"{second:g}", ha=side, va="top", fontsize=6)
    axes.text(left + width / 2, bottom - 0.16, "time, s", ha="center", va="top", fontsize=6)


def _draw_scales(axes: Axes, level: dict[str, Any]) -> None:
    """Draw the two colour scales below the panels."""
    steps = np.linspace(0, 1, 256)[None]
    span = PRINT_WIDTH - _LEFT - _RIGHT
    ends = [f"{end:.0f}".replace("-", "−") for end in (level["vmin"], level["vmax"])]
    for left, cmap, below, low, high in (
        (_LEFT, level["cmap"], "level, dB", *ends),
        (_LEFT + span / 2, SIGNED_MAP, "attribution, each map by its own scale", "against", "for"),
    ):
        room = 0.42
        box = (left + room, 0.24, span / 2 - 2 * room, 0.08)
        _draw_panel(axes, steps, box, {"cmap": cmap, "vmin": 0, "vmax": 1})
        aside = {"va": "center", "fontsize": 6}
        axes.text(left + room - 0.04, 0.28, low, ha="right", **aside)
        axes.text(left + span / 2 - room + 0.04, 0.28, high, ha="left", **aside)
        axes.text(left + span / 4, 0.19, below, ha="center", va="top", fontsize=6)
