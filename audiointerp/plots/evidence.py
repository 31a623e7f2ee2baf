"""One detection: the clip, and where its evidence lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiointerp.plots.cells import LEVEL_MAP, draw_cells, draw_level, peak_db
from audiointerp.plots.picture import Picture
from audiointerp.plots.words import as_written

if TYPE_CHECKING:
    from torch import Tensor

    from audiointerp.processing import STFTSpectrogram


def plot_evidence(
    features: Tensor,
    attribution: Tensor,
    processor: STFTSpectrogram,
    *,
    band: tuple[float, float] | None = None,
    heading: str = "",
) -> Picture:
    """Draw a clip beside the positive part of its attribution map.

    Parameters
    ----------
    features, attribution : Tensor, shape (..., bins, frames)
        Of one clip. The map is drawn up to the 99.5th percentile of its positive cells.
    processor : STFTSpectrogram
        The front end that made the features.
    band : (float, float), optional
        From and to what Hz to draw lines.
    heading : str
        Above both.

    Returns
    -------
    Picture
    """
    figure = Picture(figsize=(7.4, 2.3))
    figure.colour_maps = (LEVEL_MAP, "gray")
    # Fixed margins: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.075, right=0.995, top=0.82, bottom=0.2, wspace=0.06)
    left, right = figure.subplots(1, 2)
    draw_level(left, features, processor, peak_db(features, processor), "sound")
    positive = attribution.detach().clamp(min=0)
    some = positive[positive > 0].float().cpu().numpy()
    most = float(np.percentile(some, 99.5)) if len(some) else 1.0
    draw_cells(right, positive, processor, title="evidence", cmap=LEVEL_MAP, vmin=0, vmax=most)
    right.set(yticklabels=[], ylabel="")
    hertz = processor.frequencies.cpu().numpy()
    for axes in (left, right):
        for edge in band or ():
            place = float(np.interp(edge, hertz, np.arange(len(hertz))))
            axes.axhline(place, color="white", lw=0.8, ls="--")
    as_written(figure.suptitle(heading, y=0.985, va="top", fontsize=9), inches=7.2)
    return figure
