"""Pictures: spectrograms in Hz and seconds, masks, interpretations, learning curves.

Every function returns a picture that shows itself in a notebook and saves itself with ``savefig``.
Those of sounds take tensors and a front end, which knows the axes.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.spatial import cKDTree

from audiointerp.labels import place_labels

if TYPE_CHECKING:
    from torch import Tensor

    from audiointerp.processing import STFTSpectrogram

_LEVEL, _SIGNED, _SHARE = "magma", "RdBu_r", "gray"
"""The colour maps of levels in dB, of attribution, and of masks; letters are grey too."""

DYNAMIC_RANGE = 80.0
"""dB shown below the loudest cell; what lies lower is drawn as the darkest colour."""

PRINT_WIDTH = 7.0
"""Inches that figures for print are wide: both columns of a page."""
PRINT_DPI = 300

_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)


class Picture(Figure):
    """A figure that needs no global plotting state and shows itself in a notebook.

    Attributes
    ----------
    screen_dpi : int
        Pixels per inch in a notebook.
    colour_maps : tuple of str
        The colour maps that it is drawn with, where there are no other colours: pictures for a
        screen then have only 256 colours, evenly from these maps, and a third of the size.
    """

    screen_dpi = 90
    colour_maps: tuple[str, ...] = ()

    def save_print(self, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write the picture for print, as PDF and as PNG.

        Parameters
        ----------
        stem : path
            Of both files, without ending; the folder is made.

        Returns
        -------
        pdf, png : Path
            Text in the PDF is text, in embedded TrueType fonts; cells have sharp edges, whatever
            the viewer. The PNG has 300 dpi. The same picture always gives the same bytes.
        """
        pdf, png = (Path(f"{os.fspath(stem)}.{ending}") for ending in ("pdf", "png"))
        pdf.parent.mkdir(parents=True, exist_ok=True)
        # Cells are drawn at twice the resolution: at 300 dpi a small panel has fewer pixels than
        # frames and would drop some of them. The PNG takes the mean of every two by two pixels.
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=2 * PRINT_DPI, pil_kwargs={"compress_level": 1})
        # One picture per panel: together, with what lies between them, they are twice as large.
        with rc_context({"pdf.fonttype": 42, "image.composite_image": False}):
            self.savefig(pdf, dpi=2 * PRINT_DPI, metadata={"CreationDate": None})
        small = Image.open(buffer).convert("RGB").reduce(2)
        small.save(png, dpi=(PRINT_DPI, PRINT_DPI), optimize=True)
        return pdf, png

    def save_screen(self, path: str | os.PathLike[str], dpi: int = 80) -> Path:
        """Write the picture as a small PNG to look at on a screen."""
        Path(path).write_bytes(self._screen_png(dpi))
        return Path(path)

    def _screen_png(self, dpi: int) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi)
        if not self.colour_maps:
            return buffer.getvalue()
        small = io.BytesIO()
        _reduce(Image.open(buffer).convert("RGB"), self.colour_maps).save(small, "png")
        return small.getvalue()

    def _repr_png_(self) -> bytes:
        return self._screen_png(self.screen_dpi)


def _reduce(image: Image.Image, names: tuple[str, ...]) -> Image.Image:
    """Return an image with the nearest of 256 colours, evenly from some colour maps."""
    steps = np.linspace(0, 1, 256 // len(names))
    palette = np.concatenate([colormaps[name](steps)[:, :3] for name in names])
    palette = (255 * palette).round().astype("u1")
    pixels = np.asarray(image, "u4")
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    found, places = np.unique(packed, return_inverse=True)
    nearest = cKDTree(palette).query(np.stack([found >> 16, found >> 8 & 255, found & 255], 1))[1]
    reduced = Image.fromarray(nearest[places].astype("u1").reshape(packed.shape))
    reduced.putpalette(palette.tobytes())
    return reduced


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
        Above the picture.
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
    values = _one_clip(cells, processor)
    drawn = axes.imshow(values, origin="lower", aspect="auto", interpolation="nearest", **image)
    axes.set_title(title, fontsize=10)
    _label_frequency(axes, processor)
    _label_time(axes, processor, values.shape[1])
    return drawn


def _label_frequency(
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
    image = _draw_level(axes, features, processor, _peak_db(features, processor), title)
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
    figure.colour_maps = (_LEVEL, _SHARE)
    figure.suptitle(heading, y=1 - 0.06 / height, va="top")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    # Fixed margins: a layout engine would draw everything twice.
    top = 1 - (0.7 if heading else 0.4) / height
    edges = {"left": 0.7 / width, "right": 1 - 1.0 / width, "bottom": 0.5 / height, "top": top}
    figure.subplots_adjust(**edges, wspace=0.08, hspace=0.25)
    peak = max(_peak_db(features, processor) for features in spectrograms.values())
    for place, (title, features) in enumerate(spectrograms.items()):
        axes = grid[place]
        image = _draw_level(axes, features, processor, peak, title)
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
    figure.colour_maps = (_LEVEL, _SIGNED, _SHARE)
    figure.suptitle(heading)
    grid = figure.subplots(2, 3)
    # Fixed margins: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.05, right=0.985, top=0.87, bottom=0.09, wspace=0.2, hspace=0.5)
    peak = _peak_db(features, processor)
    limit = float(attribution.abs().max()) or 1.0
    signed = {"cmap": _SIGNED, "vmin": -limit, "vmax": limit}
    share = {"cmap": _SHARE, "vmin": 0, "vmax": 1}
    level = _draw_level(grid[0, 0], features, processor, peak, named["features"])
    effect = draw_cells(grid[0, 1], attribution, processor, title=named["attribution"], **signed)
    kept = draw_cells(grid[1, 1], mask, processor, title=named["mask"], **share)
    _draw_level(grid[0, 2], masked_in, processor, peak, named["masked_in"])
    _draw_level(grid[1, 2], masked_out, processor, peak, named["masked_out"])
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
    tiles = {name: _one_clip(mask, processor) for name, mask in masks.items()}
    bins, frames = next(iter(tiles.values())).shape
    columns = min(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    width, height = 3.2 * columns + 0.8, 2.1 * rows + 0.7
    figure = Picture(figsize=(width, height))
    figure.colour_maps = (_SHARE,)
    figure.suptitle(heading)
    # One panel for all masks: axes for each would take three times as long to draw.
    axes = figure.add_axes((0.75 / width, 0.5 / height, 1 - 0.9 / width, 1 - 1.2 / height))
    across, up = 1.08 * frames, 1.3 * bins
    for place, (name, tile) in enumerate(tiles.items()):
        left, bottom = place % columns * across, (rows - 1 - place // columns) * up
        _draw_tile(axes, tile, f"{name}: {share_in_words(float(tile.mean()))} kept", left, bottom)
        if place + columns >= len(tiles):  # the lowest of its column
            _write_seconds(axes, processor, tile.shape, left, bottom)
    axes.set(xlim=(0, across * columns - 0.08 * frames), ylim=(0, up * rows - 0.3 * bins))
    _label_frequency(axes, processor, offsets=[row * up for row in range(rows)])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return figure


def share_in_words(share: float) -> str:
    """Return a share as whole percent, told apart from none and all."""
    if 0 < share < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _draw_tile(axes: Axes, tile: np.ndarray, title: str, left: float, bottom: float) -> None:
    """Draw a mask in a frame, its title above, with its lower left corner at a place."""
    bins, frames = tile.shape
    edges = (left, left + frames, bottom, bottom + bins)
    shades = {"cmap": _SHARE, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes.imshow(tile, origin="lower", aspect="auto", extent=edges, **shades)
    axes.add_patch(Rectangle((left, bottom), frames, bins, fill=False, lw=0.8, clip_on=False))
    axes.text(left + frames / 2, bottom + 1.04 * bins, title, ha="center", fontsize=10)


def _write_seconds(
    axes: Axes, processor: STFTSpectrogram, shape: tuple[int, int], left: float, bottom: float
) -> None:
    """Write the time below a tile."""
    bins, frames = shape
    below = {"ha": "center", "va": "top", "fontsize": 10}
    for second, place in time_ticks(processor, frames).items():
        axes.text(left + place + 0.5, bottom - 0.04 * bins, f"{second:g}", **below)
    axes.text(left + frames / 2, bottom - 0.14 * bins, "time, s", **below)


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
    if len(columns) > _MOST_COLUMNS - 2:
        raise ValueError(
            f"{len(columns)} masks are too many for the width of a page: choose at most "
            f"{_MOST_COLUMNS - 2}"
        )
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
    level = _level_look(_peak_db(features, processor))
    original = _Tile(in_db(features, processor), level)
    rows = []
    for method, attribution in attributions.items():
        tiles = [original, _Tile(attribution, _signed_look(attribution))]
        for mask, cells in masked[method].items():
            caption = (captions or {}).get(method, {}).get(mask, "")
            tiles.append(_Tile(in_db(cells, processor), level, caption))
        rows.append((method, tiles))
    return _draw_sheet(rows, ["original", "attribution", *columns], processor, heading)


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
    level = _level_look(_peak_db(features, processor))
    tiles = [_Tile(in_db(features, processor), level, "original")]
    tiles += [_Tile(cells, _signed_look(cells), name) for name, cells in attributions.items()]
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
    figure.colour_maps = ("Blues", _SHARE)
    axes = figure.add_axes((0.24, 0.05 / height, 0.68, 0.17 * rows / height))
    axes.imshow(values[:, kept], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(rows):
        for place, value in enumerate(values[row, kept]):
            shade = "white" if value > 0.6 else "black"
            axes.text(place, row, f"{value:.2f}", c=shade, ha="center", va="center", fontsize=6)
    axes.set_yticks(range(rows), names, fontsize=6)
    axes.set_xticks(range(columns), chances.columns[kept], fontsize=7, rotation=30, ha="left")
    axes.tick_params(length=0, bottom=False, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    figure.suptitle(heading, fontsize=8, y=1 - 0.06 / height, va="top")
    return figure


@dataclass(frozen=True)
class _Tile:
    """One panel of a sheet: its cells, the options of ``imshow`` for them, and what is above."""

    cells: Tensor
    look: dict[str, Any]
    caption: str = ""


def _level_look(peak: float) -> dict[str, Any]:
    return {"cmap": _LEVEL, "vmin": peak - DYNAMIC_RANGE, "vmax": peak}


def _signed_look(cells: Tensor) -> dict[str, Any]:
    magnitude = cells.detach().abs().float().cpu().numpy()
    # Where fewer than one cell in a hundred differs from 0, the largest is the scale.
    limit = float(np.percentile(magnitude, 99)) or float(magnitude.max()) or 1.0
    return {"cmap": _SIGNED, "vmin": -limit, "vmax": limit}


_MOST_COLUMNS = 8
_LEFT, _RIGHT, _GAP = 0.62, 0.06, 0.06
_CAPTION, _COLUMN, _HEADING, _BOTTOM = 0.15, 0.16, 0.24, 0.72
"""Inches around and between the panels of a sheet."""


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
    figure.colour_maps = (_LEVEL, _SIGNED, _SHARE)
    axes = figure.add_axes((0, 0, 1, 1))
    for place, (name, tiles) in enumerate(rows):
        bottom = _BOTTOM + (len(rows) - 1 - place) * step
        axes.text(0.03, bottom + height / 2, name, rotation=90, va="center", fontsize=8)
        _write_hertz(axes, processor, bottom, height)
        below = rows[place + 1][1] if place + 1 < len(rows) else []
        for column, tile in enumerate(tiles):
            box = (_LEFT + column * (width + _GAP), bottom, width, height)
            _draw_panel(axes, _one_clip(tile.cells, processor), box, tile.look)
            top = {"x": box[0] + width / 2, "y": bottom + height + 0.045}
            axes.text(**top, s=tile.caption, ha="center", fontsize=7)
            if column >= len(below):
                _write_times(axes, processor, tile.cells.shape[-1], box)
    for column, name in enumerate(columns):
        middle = _LEFT + column * (width + _GAP) + width / 2
        axes.text(middle, _BOTTOM + len(rows) * step, name, ha="center", fontsize=8)
    axes.text(PRINT_WIDTH / 2, total - 0.15, heading, ha="center", fontsize=8)
    _draw_scales(axes, rows[0][1][0].look)
    axes.set(xlim=(0, PRINT_WIDTH), ylim=(0, total), aspect="auto")
    axes.set_axis_off()
    return figure


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
        (_LEFT + span / 2, _SIGNED, "attribution, each map by its own scale", "against", "for"),
    ):
        room = 0.42
        box = (left + room, 0.24, span / 2 - 2 * room, 0.08)
        _draw_panel(axes, steps, box, {"cmap": cmap, "vmin": 0, "vmax": 1})
        aside = {"va": "center", "fontsize": 6}
        axes.text(left + room - 0.04, 0.28, low, ha="right", **aside)
        axes.text(left + span / 2 - room + 0.04, 0.28, high, ha="left", **aside)
        axes.text(left + span / 4, 0.19, below, ha="center", va="top", fontsize=6)


def plot_confusion(counts: pd.DataFrame, *, heading: str = "") -> Picture:
    """Draw what the clips of every class were taken for.

    Parameters
    ----------
    counts : DataFrame
        As `audiointerp.fit.confusion` returns it: a row for what clips are, a column for what they
        were taken for. The number is written into each cell that has clips; its colour is the
        number's share of the row, and the share that is right stands at the row's end.
    heading : str
        Above the picture.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If rows and columns are not the same classes, or there are none.
    """
    if list(counts.index) != list(counts.columns) or counts.empty:
        raise ValueError(
            f"rows {list(counts.index)} and columns {list(counts.columns)}: expected the same "
            "classes in one order"
        )
    values = counts.to_numpy()
    totals = values.sum(axis=1)
    shares = values / np.maximum(totals, 1)[:, None]
    size, cell, font = len(counts), *((0.42, 9) if len(counts) <= 20 else (0.25, 7))
    side, left, right, bottom, top = size * cell, 1.6, 1.0, 1.5, 0.6
    width, height = side + left + right, side + bottom + top
    figure = Picture(figsize=(width, height))
    figure.suptitle(heading, x=(left + side / 2) / width, y=1 - 0.15 / height, va="top")
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for row, column in np.argwhere(values):
        color = "white" if shares[row, column] > 0.5 else "black"
        place = {"ha": "center", "va": "center", "fontsize": font, "color": color}
        axes.text(column, row, f"{values[row, column]}", **place)
    axes.set_xticks(range(size), counts.columns, rotation=90, fontsize=font)
    axes.set_yticks(range(size), counts.index, fontsize=font)
    axes.set_xlabel("taken for")
    axes.set_ylabel("clip is")
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    ends = axes.secondary_yaxis("right")
    recalls = [
        f"{100 * share:.0f} %" if total else "no clip"
        for share, total in zip(shares.diagonal(), totals, strict=True)
    ]
    ends.set_yticks(range(size), recalls, fontsize=font)
    ends.set_ylabel("share that is right")
    return figure


def plot_learning_curves(history: pd.DataFrame, *, best_epoch: int | None = None) -> Picture:
    """Draw loss and accuracy over the epochs of a training.

    Parameters
    ----------
    history : DataFrame
        One row per epoch: ``epoch`` and columns ending in ``loss`` and ``accuracy``.
    best_epoch : int, optional
        Marked with a line: the epoch whose weights were kept.

    Returns
    -------
    Picture
    """
    figure = Picture(figsize=(10, 3.2), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column in (name for name in history.columns if name.endswith(quantity)):
            label = {"val": "validation"}.get(column.split("_")[0], column.split("_")[0])
            axes.plot(history["epoch"], history[column], label=label)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="gray", linestyle=":", label=f"kept: {best_epoch}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def plot_plane(plane: pd.DataFrame, *, heading: str = "") -> Picture:
    """Draw methods and masks in the fidelity-simplicity plane, with the Pareto front.

    Parameters
    ----------
    plane : DataFrame
        As `audiointerp.tables.fidelity_simplicity` returns it, of one model and experiment: one
        row per method and mask with ``fidelity``, ``simplicity`` and ``front``.
    heading : str
        Above the picture.

    Returns
    -------
    Picture
        As wide as a page of two columns. The masks on the front are named.

    Raises
    ------
    ValueError
        If there are no rows, or those of several models or experiments.
    """
    figure = Picture(figsize=(PRINT_WIDTH, 4.6))
    figure.screen_dpi = 120
    # The margins must be final before the names are placed.
    figure.subplots_adjust(left=0.08, right=0.985, top=0.93, bottom=0.1)
    draw_plane(figure.add_subplot(), plane, title=heading)
    return figure


def draw_plane(axes: Axes, plane: pd.DataFrame, *, title: str = "") -> None:
    """Draw methods and masks in the fidelity-simplicity plane into axes.

    Parameters
    ----------
    axes : Axes
        Where to draw; its place in the figure must be final.
    plane : DataFrame
        As `plot_plane` takes it.
    title : str
        Above the axes.

    Raises
    ------
    ValueError
        As `plot_plane`.
    """
    if plane.duplicated(["method", "mask"]).any() or plane.empty:
        raise ValueError("expected the plane of one model and experiment, one row per mask")
    front = plane[plane["front"]].sort_values(["simplicity", "fidelity"])
    steps = _corners(front[["simplicity", "fidelity"]].to_numpy())
    axes.plot(*steps.T, color="0.6", zorder=1, label="front")
    for (method, points), marker in zip(
        plane.groupby("method", sort=False), cycle("osD^vP*X"), strict=False
    ):
        drawn = axes.scatter(
            points["simplicity"],
            points["fidelity"],
            marker=marker,
            s=20,
            alpha=0.4,
            linewidth=0,
            zorder=2,
        )
        best = points[points["front"]]
        axes.scatter(
            best["simplicity"],
            best["fidelity"],
            marker=marker,
            s=28,
            color=drawn.get_facecolor()[0, :3],
            edgecolor="black",
            linewidth=0.7,
            zorder=3,
            label=method,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("simplicity: geometric mean of SPS and 1 − COMP / ln N", fontsize=8)
    axes.set_ylabel("fidelity: geometric mean of FF, AI, 1 − AD, AG, FidIn", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    legend = axes.legend(fontsize=7, loc="upper right")
    # Equal masks share a point, hence a name.
    named = front.groupby(["simplicity", "fidelity"])["mask"].unique().map(", ".join)
    place_labels(
        axes,
        [*named.index],
        named.tolist(),
        keep_free=[legend.get_window_extent()],
        avoid=[*plane.loc[~plane["front"], ["simplicity", "fidelity"]].to_numpy(), *_along(steps)],
    )


def _corners(front: np.ndarray) -> np.ndarray:
    """Return the points of a front, which falls to the right, with the corners between them.

    What is below and to the left of the line is beaten by one of the points.
    """
    corners = np.stack([front[:-1, 0], front[1:, 1]], axis=1)
    return np.concatenate([np.stack([front[:-1], corners], axis=1).reshape(-1, 2), front[-1:]])


def _along(line: np.ndarray) -> np.ndarray:
    """Return points along a line, about a hundredth apart."""
    parts = [
        np.linspace(start, end, 2 + int(100 * np.abs(end - start).max()))
        for start, end in pairwise(line)
    ]
    return np.concatenate([*parts, line[-1:]])


def _draw_level(
    axes: Axes, features: Tensor, processor: STFTSpectrogram, peak: float, title: str
) -> AxesImage:
    level = in_db(features, processor)
    return draw_cells(axes, level, processor, title=title, **_level_look(peak))


def in_db(features: Tensor, processor: STFTSpectrogram) -> Tensor:
    """Return features in dB, which those of a power front end are not."""
    return features if processor.log else 10 * features.clamp(min=1e-10).log10()


def _peak_db(features: Tensor, processor: STFTSpectrogram) -> float:
    return float(in_db(features, processor).max())


def _one_clip(cells: Tensor, processor: STFTSpectrogram) -> np.ndarray:
    shape = tuple(cells.shape)
    if cells.ndim < 2 or cells.numel() != shape[-1] * shape[-2]:
        raise ValueError(f"cells of shape {shape}: expected those of one clip; index the batch")
    if shape[-2] != processor.num_bins:
        raise ValueError(
            f"cells with {shape[-2]} bins for a front end of {processor.num_bins}: "
            "are they another front end's, or transposed?"
        )
    return cells.detach().cpu().float().numpy().reshape(shape[-2:])
