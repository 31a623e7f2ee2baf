"""Images and sounds as embedded in a page."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from PIL import Image

from audiointerp.plots import DYNAMIC_RANGE, frequency_ticks, in_db
from audiointerp.processing import STFTSpectrogram
from audiointerp.sound import HIGHEST_RATE, SLOWED, SOUND_FORMATS, Sound, data_uri

LOSSLESS_LIMIT = 12e6
"""Bytes of lossless sound that a page holds at most before it takes MP3 instead."""
FORMS = ("auto", "wav", "mp3")

Form = Literal["auto", "wav", "mp3"]

_SOFT_LEVELS = 31
"""Shades of a soft mask less one: finer ones are not seen, and double the file."""


def check_form(form: str) -> None:
    """Raise a ValueError if there is no such format of a page's sounds."""
    if form not in FORMS:
        raise ValueError(f"unknown sound format {form!r}: choose from {', '.join(FORMS)}")


def choose_form(form: Form, lengths: Iterable[int]) -> Literal["wav", "mp3"]:
    """Return the format of a page's sounds, given how many samples each has.

    Raises
    ------
    ValueError
        If the format is unknown.
    """
    check_form(form)
    if form != "auto":
        return form
    return "wav" if sum(2 * samples for samples in lengths) <= LOSSLESS_LIMIT else "mp3"


def embed_sound(waveform: np.ndarray, sample_rate: int, form: Literal["wav", "mp3"]) -> dict:
    """Return a sound for the page, by how many dB it was turned down and how much it is slowed.

    A rate that MP3 does not have stays WAV. Ultrasound is slowed down; see `Sound.audible`.
    """
    sound = Sound(waveform, sample_rate).audible()
    taken = form if SOUND_FORMATS[form].has_rate(sound.sample_rate) else "wav"
    source = data_uri(SOUND_FORMATS[taken].media_type, sound.encode(taken))
    return {"source": source, "turned_down": sound.excess_db, "slowed": sound.slowed}


def about_slowed(rates: Iterable[int]) -> str:
    """Return what a page's footer says of ultrasound among sounds of some rates, "" if nothing."""
    if all(rate <= HIGHEST_RATE for rate in rates):
        return ""
    return f" Ultrasound is played {SLOWED} times slower, so that it can be heard."


def draw_waveform(
    waveform: np.ndarray, processor: STFTSpectrogram, start: float = 0.0
) -> dict[str, Any]:
    """Return the picture of a waveform, its axes and where its frames lie.

    Parameters
    ----------
    waveform : ndarray, shape (samples,)
    processor : STFTSpectrogram
    start : float
        What second its first sample is, on the axis.
    """
    with torch.no_grad():
        features = processor(torch.from_numpy(waveform)[None, None])
    level = in_db(features, processor)[0, 0].numpy()
    bins, frames = level.shape
    step = processor.hop_length / processor.sample_rate
    duration = len(waveform) / processor.sample_rate
    ticks = MaxNLocator(5).tick_values(start, start + duration) - start
    seconds = [t for t in ticks if 0 <= t <= duration + 1e-9]
    return {
        "duration": duration,
        "step": step,
        "frames": frames,
        "times": [[f"{start + t:g}", (t / step + 0.5) / frames] for t in seconds],
        "frequencies": [
            [f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:g}", (place + 0.5) / bins]
            for hz, place in frequency_ticks(processor).items()
        ],
        "spectrogram": draw_level(level),
    }


def draw_level(level: np.ndarray) -> str:
    """Return dB cells as a picture with 256 colours, low frequencies at the bottom.

    What is not known, NaN, is as dark as silence.
    """
    shade = np.nan_to_num((level - np.nanmax(level)) / DYNAMIC_RANGE + 1)
    image = Image.fromarray(_shades(shade, 255)[::-1])
    image.putpalette(_shades(colormaps["magma"](np.arange(256))[:, :3], 255).tobytes())
    return _png(image)


def draw_mask(mask: np.ndarray) -> str:
    """Return a mask as a grey picture, white where it keeps, low frequencies at the bottom."""
    if np.isin(mask, (0, 1)).all():
        return _png(Image.fromarray(mask[::-1] > 0))
    steps = _shades(mask, _SOFT_LEVELS)[::-1].astype(np.float64)
    return _png(Image.fromarray(_shades(steps / _SOFT_LEVELS, 255)))


def _shades(share: np.ndarray, highest: int) -> np.ndarray:
    return (share.clip(0, 1) * highest).round().astype("u1")


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return data_uri("image/png", buffer.getvalue())
