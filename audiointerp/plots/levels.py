"""A metric over the level of the sound above the noise, and two metrics against each other."""

from __future__ import annotations

from collections.abc import Collection
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from audiointerp.evaluation import METRICS
from audiointerp.plots.labels import place_labels
from audiointerp.plots.words import as_written, inches_across, write_legend

_MARKERS = "osD^vP*X<>"


def draw_levels(
    axes: Axes,
    levels: pd.DataFrame,
    metric: str,
    *,
    title: str = "",
    references: Collection[str] = (),
) -> None:
    """Draw the mean of a metric over the level of the sound above the noise, a line per method.

    Parameters
    ----------
    axes : Axes
        Where to draw; its place in the figure must be final.
    levels : DataFrame
        One row per method and level: ``method``, ``snr_db``, the metric and its ``<metric>_low``
        and ``<metric>_high``, which are drawn as a band.
    metric : str
        A name in ``METRICS``.
    title : str
        Above the axes.
    references : collection of str
        Methods that are drawn in grey, dashed: floor, baselines and ceiling.

    Raises
    ------
    ValueError
        If a method has two rows of one level.
    """
    if levels.duplicated(["method", "snr_db"]).any():
        raise ValueError("expected one row per method and level: those of one model and noise")
    shown: dict[str, Artist] = {}
    greys = cycle(np.linspace(0.25, 0.75, max(2, len(references))))
    for (method, rows), marker in zip(
        levels.groupby("method", sort=False), cycle(_MARKERS), strict=False
    ):
        rows = rows.sort_values("snr_db")
        is_reference = method in references
        look = {"color": f"{next(greys):.2f}", "linestyle": "--"} if is_reference else {}
        (line,) = axes.plot(
            rows["snr_db"], rows[metric], marker=marker, markersize=4, linewidth=1.2, **look
        )
        axes.fill_between(
            rows["snr_db"],
            rows[f"{metric}_low"],
            rows[f"{metric}_high"],
            color=line.get_color(),
            alpha=0.12,
            linewidth=0,
        )
        shown[str(method)] = line
    axes.set_xticks(sorted(levels["snr_db"].unique()))
    as_written(axes.set_title(title, fontsize=9), inches=inches_across(axes))
    axes.set_xlabel("level of the sound over the noise, dB", fontsize=8)
    as_written(axes.set_ylabel(_heading(metric), fontsize=8))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    write_legend(axes, shown, inches=1.5, fontsize=7, loc="best", framealpha=0.7)


def draw_agreement(
    axes: Axes,
    means: pd.DataFrame,
    x: str,
    y: str,
    *,
    title: str = "",
    references: Collection[str] = (),
) -> None:
    """Draw the methods' means of one metric over those of another, with their intervals.

    Parameters
    ----------
    axes : Axes
        Where to draw; its place in the figure must be final.
    means : DataFrame
        One row per method: ``method``, both metrics and their ``_low`` and ``_high``.
    x, y : str
        Names in ``METRICS``.
    title : str
        Above the axes.
    references : collection of str
        Methods that are drawn in grey.
    """
    for row in means.to_dict("records"):
        color = "0.55" if row["method"] in references else "C0"
        spread = [
            [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]] for name in (x, y)
        ]
        axes.errorbar(
            row[x],
            row[y],
            xerr=np.nan_to_num(spread[0]),
            yerr=np.nan_to_num(spread[1]),
            fmt="o",
            markersize=4,
            linewidth=0.8,
            color=color,
        )
    as_written(axes.set_title(title, fontsize=9), inches=inches_across(axes))
    as_written(axes.set_xlabel(_heading(x), fontsize=8))
    as_written(axes.set_ylabel(_heading(y), fontsize=8))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    known = means.dropna(subset=[x, y])
    place_labels(axes, known[[x, y]].to_numpy(), known["method"].tolist())


def _heading(name: str) -> str:
    metric = METRICS[name]
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.title}, {name}{unit} {'↑' if metric.better > 0 else '↓'}"
