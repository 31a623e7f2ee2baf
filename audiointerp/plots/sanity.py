"""Sanity checks and curves: similarity over randomised layers, probability over masked shares."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from audiointerp.interpretation import is_reference, method_label
from audiointerp.plots.picture import PRINT_WIDTH, Picture
from audiointerp.plots.words import as_written, label_ticks, write_legend

_RANDOMISATIONS = {
    "cascading": "cascading: all layers so far",
    "independent": "one layer at a time",
}
_MEASURES = {
    "spearman": "rank correlation",
    "absolute": "rank correlation of magnitudes",
    "ssim": "structural similarity of magnitudes",
}
_ENDS = {"insertion": "share of the cells kept", "deletion": "share of the cells removed"}


def plot_sanity(found: pd.DataFrame, *, measure: str = "absolute", heading: str = "") -> Picture:
    """Draw how similar maps stay to themselves while the network's layers are randomised.

    Parameters
    ----------
    found : DataFrame
        As `audiointerp.check_sanity` returns it, of the checks "cascading", "independent" or both.
    measure : {"absolute", "spearman", "ssim"}
        Which similarity.
    heading : str
        Above the picture.

    Returns
    -------
    Picture
        A line for each method, the mean over the clips that have a value; references are grey and
        dashed. A method that follows the network falls to about 0.

    Raises
    ------
    ValueError
        If nothing of the kind was measured.
    """
    rows = found[found["check"].isin(_RANDOMISATIONS) & (found["measure"] == measure)]
    if rows.empty:
        there = found.loc[found["check"].isin(_RANDOMISATIONS), "measure"].unique()
        raise ValueError(
            f"no {measure!r} of randomised layers: it has "
            f"{', '.join(there) or 'no randomised layers'}"
        )
    checks = [name for name in _RANDOMISATIONS if (rows["check"] == name).any()]
    figure = Picture(figsize=(PRINT_WIDTH, 3.9))
    figure.screen_dpi = 120
    panels = figure.subplots(1, len(checks), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.08, right=0.985, top=0.86, bottom=0.34, wspace=0.06)
    shown: dict[str, Artist] = {}
    for axes, check in zip(panels, checks, strict=True):
        part = rows[rows["check"] == check]
        layers = list(dict.fromkeys(part["layer"]))
        for method, style in _styles(part):
            values = part[part["method"] == method].groupby("layer", sort=False)["value"].mean()
            shown[method_label(method)] = axes.plot(
                range(len(layers)), values.reindex(layers), markersize=3, **style
            )[0]
        axes.set(ylim=(-0.35, 1.05), xlim=(-0.3, len(layers) - 0.7))
        axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        axes.set_title(_RANDOMISATIONS[check], fontsize=8)
        label_ticks(axes.xaxis, range(len(layers)), layers, inches=1.1, rotation=90, fontsize=6)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel(_MEASURES.get(measure, measure), fontsize=8)
    title = figure.suptitle(heading, fontsize=9, y=0.98, va="top")
    as_written(title, inches=PRINT_WIDTH - 0.2)
    write_legend(panels[0], shown, inches=1.6, fontsize=6, loc="lower left", ncols=2)
    return figure


def plot_curves(found: pd.DataFrame, *, heading: str = "") -> Picture:
    """Draw the probability of the explained class along insertion and deletion.

    Parameters
    ----------
    found : DataFrame
        As `audiointerp.measure_curves` returns it, of one way to hide cells and one place.
    heading : str
        Above the picture.

    Returns
    -------
    Picture
        A panel for each curve and in it a line for each method, the mean over the clips, with the
        area below it in the legend; references are grey and dashed.

    Raises
    ------
    ValueError
        If there are no curves, or those of several ways to hide cells or places.
    """
    if found.empty or len(found[["hide", "on"]].drop_duplicates()) > 1:
        raise ValueError(
            "expected curves of one way to hide cells, measured on one place: choose rows by the "
            "columns hide and on"
        )
    curves = [name for name in _ENDS if (found["curve"] == name).any()]
    figure = Picture(figsize=(PRINT_WIDTH, 2.9))
    figure.screen_dpi = 120
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.08, right=0.985, top=0.82, bottom=0.16, wspace=0.06)
    for axes, curve in zip(panels, curves, strict=True):
        _draw_curve(axes, found[found["curve"] == curve], curve)
    panels[0].set_ylabel("probability of the explained class", fontsize=8)
    title = figure.suptitle(heading, fontsize=9, y=0.98, va="top")
    as_written(title, inches=PRINT_WIDTH - 0.2)
    return figure


def _draw_curve(axes: Axes, rows: pd.DataFrame, curve: str) -> None:
    shown: dict[str, Artist] = {}
    for method, style in _styles(rows):
        line = rows[rows["method"] == method].groupby("share")["probability"].mean()
        steps = line.index.to_series().diff().to_numpy()[1:]
        area = float((steps * (line.to_numpy()[1:] + line.to_numpy()[:-1]) / 2).sum())
        name = f"{method_label(method)}: {area:.2f}"
        shown[name] = axes.plot(line.index, line, markersize=2.5, **style)[0]
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(curve, fontsize=8)
    axes.set_xlabel(_ENDS[curve], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    write_legend(axes, shown, inches=2.0, fontsize=6, loc="best")


def _styles(rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every method with how its line is drawn."""
    markers, greys = cycle("osD^vP*X"), cycle(("0.2", "0.4", "0.55", "0.68"))
    dashes = cycle(("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1))))
    for method in dict.fromkeys(rows["method"]):
        if is_reference(method):
            yield method, {"color": next(greys), "linestyle": next(dashes), "linewidth": 1}
        else:
            yield method, {"marker": next(markers), "linewidth": 1.2}
