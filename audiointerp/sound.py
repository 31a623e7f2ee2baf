"""Sounds: players for notebooks and pages, files on disk; the only place that encodes audio.

A player in a notebook holds its sound. As 16-bit WAV that is 430 kB for 5 s at 32 kHz, 10 MB for
four methods and three masks; so players are MP3 unless WAV is asked for. What MP3 of the highest
variable rate changes, measured on four clips of `samples/` under all masks of two methods and three
of the bundled models, 672 sounds: a median SNR of 29 dB, above 17 dB for 95 % of them; of the mel
cells within 60 dB of the loudest, half change by less than 0.3 dB and 95 % by less than 1 dB;
nothing is left above 15.3 kHz (7.2 kHz at a rate of 16 kHz); length and timing are kept to the
sample. Sounds below -50 dB, which are hardly heard, may be worse. That is near enough to hear what
was scored, not to score it again: for that take `Interpretation.audio`.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from audiointerp.dataset.audio import save_audio
from audiointerp.registry import Registry
from audiointerp.storage import write_atomically

HIGHEST_RATE = 192_000
"""Hz, of sounds that are played as they are: browsers and sound cards take no more."""

SLOWED = 10
"""How much slower ultrasound is played: time expansion, as is the custom with bats."""

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@dataclass(frozen=True)
class SoundFormat:
    """How sounds are encoded.

    Attributes
    ----------
    media_type : str
        What a browser calls it.
    about : str
        What a listener should know of it.
    options : mapping
        Arguments of ``soundfile.write``.
    rates : tuple of int
        Sampling rates that it has, Hz; none given means all.
    """

    media_type: str
    about: str
    options: Mapping[str, object]
    rates: tuple[int, ...] = ()

    def has_rate(self, sample_rate: int) -> bool:
        """Return whether sounds of a rate can be encoded."""
        return not self.rates or sample_rate in self.rates

    def check_rate(self, sample_rate: int) -> None:
        """Raise a ValueError if sounds of a rate cannot be encoded."""
        if not self.has_rate(sample_rate):
            raise ValueError(
                f"{self.options['format']} has no sampling rate of {sample_rate} Hz, only "
                f"{', '.join(map(str, self.rates))}: take wav"
            )


SOUND_FORMATS: Registry[SoundFormat] = Registry("sound format")
SOUND_FORMATS["wav"] = SoundFormat(
    "audio/wav", "lossless, 16 bit (WAV)", {"format": "WAV", "subtype": "PCM_16"}
)
SOUND_FORMATS["flac"] = SoundFormat(
    "audio/flac", "lossless, 24 bit (FLAC)", {"format": "FLAC", "subtype": "PCM_24"}
)
SOUND_FORMATS["mp3"] = SoundFormat(
    "audio/mpeg",
    "compressed (MP3, highest variable rate)",
    {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.0},
    _MP3_RATES,
)


class Html(str):
    """Markup that a notebook shows as what it means; elsewhere a string."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        # A notebook keeps this beside the markup: with the sounds in it, it would hold them twice.
        return f"<{len(self)} characters of HTML>"


@dataclass(frozen=True)
class Sound:
    """A mono waveform that plays in a notebook.

    Attributes
    ----------
    waveform : ndarray, shape (samples,), float32
    sample_rate : int
        Hz.
    slowed : int
        How many times slower than in truth it is at that rate: 10 for ultrasound to listen to.
    """

    waveform: np.ndarray
    sample_rate: int
    slowed: int = 1

    def slow_down(self, times: int) -> Sound:
        """Return the same samples at a lower rate: all frequencies are divided by `times`.

        Parameters
        ----------
        times : int
            1 or more. Rates are whole numbers of Hz, the nearest one is taken.

        Raises
        ------
        ValueError
            If `times` is below 1, or leaves no rate.
        """
        if times < 1 or round(self.sample_rate / times) < 1:
            raise ValueError(
                f"a sound at {self.sample_rate} Hz cannot be slowed down {times} times: expected "
                "a whole number from 1 on, such as 10"
            )
        return Sound(self.waveform, round(self.sample_rate / times), self.slowed * times)

    def audible(self) -> Sound:
        """Return the sound as it can be played: ultrasound 10 times slower, others as they are.

        Ultrasound are sounds whose rate is above 192 kHz.
        """
        return self.slow_down(SLOWED) if self.sample_rate > HIGHEST_RATE else self

    @property
    def excess_db(self) -> float:
        """By how much the sound goes beyond full scale, dB; 0 where it does not.

        A player would clip it there, and so would every format but 32-bit float: players and
        such files are turned down by this much. A quiet sound is left quiet.
        """
        return 20 * float(np.log10(max(1.0, np.abs(self.waveform).max(initial=0))))

    def encode(self, form: str) -> bytes:
        """Return the sound as a file's content, turned down by `excess_db`.

        Parameters
        ----------
        form : {"wav", "flac", "mp3"}
            WAV of 16 bits and FLAC of 24 keep every sample but for rounding. MP3 is a fifth of
            the WAV or less; what it changes is said at the top of `audiointerp.sound`.

        Raises
        ------
        ValueError
            If the format is unknown or does not have the sound's rate.
        """
        encoding = SOUND_FORMATS[form]
        encoding.check_rate(self.sample_rate)
        playable = self.waveform / 10 ** (self.excess_db / 20)
        buffer = io.BytesIO()
        soundfile.write(buffer, playable, self.sample_rate, **encoding.options)
        return buffer.getvalue()

    def player(self, form: str | None = None, *, name: str = "", width: str = "") -> Html:
        """Return a player that holds the sound, `audible`; if slowed down, a note says so.

        Parameters
        ----------
        form : {"mp3", "wav", "flac"}, optional
            See `encode`. By default MP3, or WAV where MP3 does not have the rate. Browsers cannot
            seek in a short FLAC sound.
        name : str
            What a screen reader says.
        width : str
            As CSS has it, such as "19em"; by default the browser's own, often 300 pixels.

        Returns
        -------
        Html
            Shows itself in a notebook; needs no network.
        """
        played = self.audible()
        if form is None:
            form = "mp3" if SOUND_FORMATS["mp3"].has_rate(played.sample_rate) else "wav"
        source = data_uri(SOUND_FORMATS[form].media_type, played.encode(form))
        slow = f"played {played.slowed} times slower" if played.slowed > 1 else ""
        spoken = ", ".join(filter(None, (name, slow)))
        label = f' aria-label="{html.escape(spoken)}"' if spoken else ""
        style = f' style="width: {html.escape(width)}"' if width else ""
        note = f"<br><small>{slow}</small>" if slow else ""
        return Html(f'<audio controls{label}{style} src="{source}"></audio>{note}')

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file, whole or not at all.

        Parameters
        ----------
        path : path
            ``.wav`` is 32-bit float, which keeps every value; ``.flac`` and ``.mp3`` are as
            `encode` makes them. An existing file is replaced.

        Raises
        ------
        ValueError
            If the name ends otherwise, or the format does not have the sound's rate.
        FileNotFoundError
            If the folder does not exist.
        """
        path = Path(path)
        form = path.suffix.lower().removeprefix(".")
        if form not in SOUND_FORMATS:
            raise ValueError(f"{path}: the name must end in .{', .'.join(SOUND_FORMATS)}")
        if form == "wav":
            return save_audio(path, self.waveform, self.sample_rate)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
        return write_atomically(path, self.encode(form))

    def _repr_html_(self) -> str:
        return self.player()


def players(sounds: Mapping[str, Sound], form: str | None = None) -> Html:
    """Return players side by side, each under its name; they break into rows as a page has room.

    Parameters
    ----------
    sounds : mapping of str to Sound
        By name.
    form : {"mp3", "wav", "flac"}, optional
        See `Sound.player`.
    """
    cells = "".join(
        f"<div>{html.escape(name)}<br>{sound.player(form, name=name)}</div>"
        for name, sound in sounds.items()
    )
    return Html(f'<div style="display: flex; flex-wrap: wrap; gap: 0.7em 1.5em">{cells}</div>')


def data_uri(media_type: str, content: bytes) -> str:
    """Return an address that holds what it leads to."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
