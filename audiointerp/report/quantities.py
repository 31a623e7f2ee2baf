"""Frequencies, bands and shares in words."""

from __future__ import annotations

import math


def hertz_in_words(hertz: float) -> str:
    """Return a frequency with two or three digits: 85 Hz, 1.25 kHz.

    Examples
    --------
    >>> hertz_in_words(84.6), hertz_in_words(1253), hertz_in_words(12530)
    ('85 Hz', '1.25 kHz', '12.5 kHz')
    """
    return f"{hertz:.0f} Hz" if round(hertz) < 1000 else f"{_kilohertz(hertz, 3)} kHz"


def band_in_words(low: float, high: float) -> str:
    """Return a band, with two digits, or three where it is narrower than a quarter octave.

    Examples
    --------
    >>> band_in_words(85, 230), band_in_words(1960, 2040), band_in_words(821, 1253)
    ('85–230 Hz', '1.96–2.04 kHz', '0.82–1.3 kHz')
    """
    digits = 3 if high < low * 2**0.25 else 2
    if round(high) < 1000:
        return f"{low:.0f}–{high:.0f} Hz"
    return f"{_kilohertz(low, digits)}–{_kilohertz(high, digits)} kHz"


def _kilohertz(hertz: float, digits: int) -> str:
    return f"{float(f'{hertz / 1000:.{digits}g}'):g}"


def percent(share: float) -> str:
    """Return a share in percent, of 1 % and more without decimals."""
    if math.isnan(share):
        return "an unknown share"
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else f"{100 * share:.1g} %"
