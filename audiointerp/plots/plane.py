"""The fidelity-simplicity plane with its Pareto front."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle, pairwise

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from audiointerp.evaluation import METRICS, metric_columns
from audiointerp.interpretation import is_reference, method_label
from audiointerp.plots.labels import place_labels
from audiointerp.plots.picture import PRINT_WIDTH, Picture
from audiointerp.plots.words import as_written, inches_across, write_legend


def plot_plane(
    plane: pd.DataFrame, *, heading: str = "", metrics: Sequence[str] | None = None
) -> Picture:
    """Draw methods and masks in the fidelity-simplicity plane, with the Pareto front.

    Parameters
    ----------
    plane : DataFrame
        As `audiointerp.tables.fidelity_simplicity` returns it, of one model and experiment: one
        row per method and mask with ``fidelity``, ``simplicity`` and ``front``.
    heading : str
        Above the picture.
    metrics : sequence of str
        What fidelity and simplicity are made of; all metrics of these families by default.

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
    draw_plane(figure.add_subplot(), plane, title=heading, metrics=metrics)
    return figure


def draw_plane(
    axes: Axes, plane: pd.DataFrame, *, title: str = "", metrics: Sequence[str] | None = None
) -> None:
    """Draw methods and masks in the fidelity-simplicity plane into axes.

    Parameters
    ----------
    axes : Axes
        Where to draw; its place in the figure must be final.
    plane : DataFrame
        As `plot_plane` takes it.
    title : str
        Above the axes.
    metrics : sequence of str
        As `plot_plane` takes them.

    Raises
    ------
    ValueError
        As `plot_plane`.
    """
    if plane.duplicated(["method", "mask"]).any() or plane.empty:
        raise ValueError("expected the plane of one model and experiment, one row per mask")
    front = plane[plane["front"]].sort_values(["simplicity", "fidelity"])
    steps = _corners(front[["simplicity", "fidelity"]].to_numpy())
    shown: dict[str, Artist] = {"front": axes.plot(*steps.T, color="0.6", zorder=1)[0]}
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
        if is_reference(method):
            # Grey and hollow: they are on no front.
            drawn.set(facecolor="none", edgecolor="0.35", linewidth=0.7, alpha=0.8)
            shown[method_label(method)] = drawn
            continue
        best = points[points["front"]]
        shown[method] = axes.scatter(
            best["simplicity"],
            best["fidelity"],
            marker=marker,
            s=28,
            color=drawn.get_facecolor()[0, :3],
            edgecolor="black",
            linewidth=0.7,
            zorder=3,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    as_written(axes.set_title(title, fontsize=9), inches=inches_across(axes))
    as_written(axes.set_xlabel(_label("simplicity", metrics), fontsize=8), lines=True)
    as_written(axes.set_ylabel(_label("fidelity", metrics), fontsize=8), lines=True)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    legend = write_legend(axes, shown, inches=2.0, fontsize=7, loc="upper right")
    # Equal masks share a point, hence a name.
    named = front.groupby(["simplicity", "fidelity"])["mask"].unique().map(", ".join)
    place_labels(
        axes,
        [*named.index],
        named.tolist(),
        keep_free=[legend.get_window_extent()],
        avoid=[*plane.loc[~plane["front"], ["simplicity", "fidelity"]].to_numpy(), *_along(steps)],
    )


def _label(family: str, metrics: Sequence[str] | None) -> str:
    """Say what an axis shows: each metric scaled to 0–1, 1 the best."""
    names = metric_columns(METRICS if metrics is None else metrics, family)
    terms = [name if METRICS[name].better > 0 else f"1 − {name}" for name in names]
    return textwrap.fill(f"{family}: geometric mean of {', '.join(terms)}", 60)


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
