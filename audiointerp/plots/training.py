"""Plots of a training: learning curves, confusion matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.ticker import MaxNLocator

from audiointerp.plots.picture import Picture
from audiointerp.plots.words import as_written, label_ticks, write_legend


def plot_confusion(counts: pd.DataFrame, *, heading: str = "") -> Picture:
    """Draw what the clips of every class were taken for.

    Parameters
    ----------
    counts : DataFrame
        As `audiointerp.runs.classification.confusion` returns it: a row for what clips are, a
        column for what they were taken for. The number is written into each cell that has clips;
        its colour is the number's share of the row, and the share that is right stands at the
        row's end.
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
    title = figure.suptitle(heading, x=(left + side / 2) / width, y=1 - 0.15 / height, va="top")
    as_written(title, inches=side + 2 * right)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for row, column in np.argwhere(values):
        color = "white" if shares[row, column] > 0.5 else "black"
        place = {"ha": "center", "va": "center", "fontsize": font, "color": color}
        axes.text(column, row, f"{values[row, column]}", **place)
    label_ticks(axes.xaxis, range(size), counts.columns, inches=1.2, rotation=90, fontsize=font)
    label_ticks(axes.yaxis, range(size), counts.index, inches=1.1, fontsize=font)
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
    label_ticks(ends.yaxis, range(size), recalls, fontsize=font)
    ends.set_ylabel("share that is right")
    return figure


QUANTITIES = {"loss": "loss", "accuracy": "accuracy", "map": "mAP"}
"""What learning curves are of, by the endings of a history's columns."""


def plot_learning_curves(history: pd.DataFrame, *, best_epoch: int | None = None) -> Picture:
    """Draw loss and scores over the epochs of a training, a panel for each that there is.

    Parameters
    ----------
    history : DataFrame
        One row per epoch: ``epoch`` and columns ending in ``_loss``, ``_accuracy`` or ``_map``.
    best_epoch : int, optional
        Marked with a line: the epoch whose weights were kept.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there is no such column.
    """
    panels = {
        title: columns
        for ending, title in QUANTITIES.items()
        if (columns := [name for name in history.columns if name.endswith(f"_{ending}")])
    }
    if not panels:
        raise ValueError(
            f"the history has the columns {', '.join(history.columns)}: expected some that end in "
            f"{', '.join(f'_{ending}' for ending in QUANTITIES)}"
        )
    figure = Picture(figsize=(5 * len(panels), 3.2), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (quantity, columns) in zip(every, panels.items(), strict=True):
        lines: dict[str, Artist] = {}
        for column in columns:
            label = {"val": "validation"}.get(column.split("_")[0], column.split("_")[0])
            (lines[label],) = axes.plot(history["epoch"], history[column])
        if best_epoch is not None:
            lines[f"kept: {best_epoch}"] = axes.axvline(best_epoch, color="gray", linestyle=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        write_legend(axes, lines)
    return figure
