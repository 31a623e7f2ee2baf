"""Frequency profiles of attribution: maps summed over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist

from audiointerp.plots.cells import frequency_ticks
from audiointerp.plots.picture import PRINT_WIDTH, Picture
from audiointerp.plots.words import as_written, write_legend

if TYPE_CHECKING:
    from torch import Tensor

    from audiointerp.processing import STFTSpectrogram

_STYLES = ("-", "--", ":")


def plot_frequency_profiles(
    attributions: Mapping[str, Tensor],
    processor: STFTSpectrogram,
    *,
    bands: Sequence[tuple[float, float]] = (),
    heading: str = "",
) -> Picture:
    """Draw which share of its positive attribution each method has at every frequency.

    A steady sound that a network should not listen to, such as a hum or the noise of a device,
    stands out here and hardly in a map. Of several clips, the mean share is drawn.

    Parameters
    ----------
    attributions : mapping of str to Tensor, shape (..., bins, frames)
        Maps of one clip or of several, by the name of the method.
    processor : STFTSpectrogram
        The front end that the maps belong to.
    bands : sequence of (float, float)
        From and to what Hz to shade the picture, such as where a sound is known to be.
    heading : str
        Above the picture.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there is no method, or the bins are not the front end's.
    """
    if not attributions:
        raise ValueError("there are no attribution maps to draw")
    figure = Picture(figsize=(PRINT_WIDTH, 2.8))
    figure.screen_dpi = 160
    # Fixed margins: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.08, right=0.78, top=0.9, bottom=0.16)
    axes = figure.add_subplot()
    hertz = processor.frequencies.cpu().numpy()
    for low, high in bands:
        axes.axvspan(*np.interp((low, high), hertz, np.arange(len(hertz))), color="0.88", lw=0)
    lines: dict[str, Artist] = {}
    for place, (name, maps) in enumerate(attributions.items()):
        style = _STYLES[place // 10 % len(_STYLES)]  # there are ten colours
        shares = 100 * frequency_shares(maps, processor)
        (lines[name],) = axes.plot(shares, linestyle=style, linewidth=1.3)
    ticks = frequency_ticks(processor)
    names = [f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:g}" for hz in ticks]
    axes.set_xticks(list(ticks.values()), names)
    axes.set_xlim(0, len(hertz) - 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frequency, Hz")
    axes.set_ylabel("share of attribution, %")
    axes.grid(alpha=0.3)
    write_legend(axes, lines, inches=1.2, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7)
    as_written(axes.set_title(heading, fontsize=9), inches=0.7 * PRINT_WIDTH)
    return figure


def frequency_shares(attribution: Tensor, processor: STFTSpectrogram) -> np.ndarray:
    """Return the share of the positive attribution that lies in each bin, a mean over clips.

    Parameters
    ----------
    attribution : Tensor, shape (..., bins, frames)
    processor : STFTSpectrogram
        The front end that the maps belong to.

    Returns
    -------
    ndarray, shape (bins,)
        Adds up to 1; NaN if no map has positive attribution. Maps without are left out.

    Raises
    ------
    ValueError
        If the bins are not the front end's.
    """
    bins = len(processor.frequencies)
    if attribution.ndim < 2 or attribution.shape[-2] != bins:
        raise ValueError(
            f"maps of shape {tuple(attribution.shape)}: expected (..., {bins}, frames), the bins "
            "of the front end"
        )
    maps = attribution.detach().cpu().reshape(-1, *attribution.shape[-2:])
    sums = maps.clamp(min=0).sum(-1).double().numpy()
    sums = sums[sums.sum(1) > 0]
    if not len(sums):
        return np.full(bins, np.nan)
    return (sums / sums.sum(1, keepdims=True)).mean(0)
