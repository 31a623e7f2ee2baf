"""Front ends of AudioSet taggers: that of PaSST and EfficientAT, and that of YAMNet's ports.

Cells are in decibels, so that masks, bases and gains keep their meaning; the scale that a network
was trained on belongs to the network.

References
----------
K. Koutini et al., "Efficient training of audio transformers with patchout", Interspeech 2022;
F. Schmid, K. Koutini, G. Widmer, "Efficient large-scale audio tagging via transformer-to-CNN
knowledge distillation", ICASSP 2023; S. Hershey et al., "CNN architectures for large-scale audio
classification", ICASSP 2017.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.processing.bands import HTKBands, KaldiBands
from audiointerp.processing.front_end import FRONT_ENDS
from audiointerp.processing.spectrogram import LogMelSTFTSpectrogram
from audiointerp.processing.view import View

_PREEMPHASIS = 0.97
_LEAST_POWER = 1e-10
_LEAST_MAGNITUDE = 1e-7
_LEAST_SQUARE = 1e-30
"""Nothing to a band, but a square root has a slope there."""


class _ShortWindow(LogMelSTFTSpectrogram):
    """A log-mel spectrogram whose window is shorter than its FFT, padded with zeros on both sides.

    Parameters
    ----------
    win_length : int, optional
        Of the window, samples; 25/32 of `n_fft` by default.
    periodic : bool
        Whether the Hann window is periodic; symmetric otherwise.
    **sizes
        See `MelSTFTSpectrogram`.
    """

    def __init__(self, *, win_length: int | None, periodic: bool, **sizes: Any) -> None:
        super().__init__(**sizes)
        window = self.n_fft * 25 // 32 if win_length is None else win_length
        if type(window) is not int or not 1 < window <= self.n_fft:
            raise ValueError(f"win_length is {win_length!r}: expected 2 to n_fft {self.n_fft}")
        if 3 * self.hop_length > 2 * window:
            raise ValueError(
                f"hop_length {self.hop_length} is more than two thirds of win_length {window}: "
                "frames that overlap less cannot be inverted"
            )
        self.win_length = window
        hann = torch.hann_window(window, periodic=periodic, dtype=torch.float64)
        before = (self.n_fft - window) // 2
        padded = nn.functional.pad(hann, (before, self.n_fft - window - before))
        self.register_buffer("window", padded.float(), persistent=False)

    def settings(self) -> dict[str, Any]:
        """Return what `build_processor` needs to make this front end again, ready for JSON."""
        return super().settings() | {"win_length": self.win_length}


@FRONT_ENDS.register("PasstLogMel")
class PasstLogMel(KaldiBands, _ShortWindow):
    """The spectrogram of PaSST and EfficientAT in decibels, as their ``AugmentMelSTFT`` makes it.

    Of the sound's differences y(n) = x(n + 1) - 0.97·x(n) the power of the centred STFT with a
    symmetric Hann window; Kaldi's bands, triangles over mel of height 1; 10·log10(max(x, 1e-10)),
    where the original takes ln(x + 1e-5). The default settings are those in evaluation mode.

    **Resynthesis.** Pre-emphasis multiplies each frequency by the same factor before and after a
    change: the gain of a cell is therefore applied to the clip's own STFT, with its phase.

    Parameters
    ----------
    sample_rate, n_fft, hop_length, n_mels, f_min, f_max
        See `MelSTFTSpectrogram`.
    win_length : int, optional
        Of the window, samples; 25/32 of `n_fft` by default.

    Raises
    ------
    ValueError
        As `MelSTFTSpectrogram`, or if the window is longer than the FFT or the windows do not
        overlap by a third.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 32000,
        n_fft: int = 1024,
        hop_length: int = 320,
        win_length: int | None = None,
        n_mels: int = 128,
        f_min: float = 0.0,
        f_max: float = 15000.0,
    ) -> None:
        super().__init__(
            win_length=win_length,
            periodic=False,
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_min=f_min,
            f_max=f_max,
        )

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of a waveform of `samples` samples, which loses one."""
        return (samples - 1) // self.hop_length + 1

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the cells (batch, 1, bands, frames) of a batch of waveforms; see `analyse`."""
        return self.analyse(waveform).cells

    def analyse(self, waveform: Tensor) -> View:
        """Return the cells, with the STFT of the sound itself as the context.

        Raises
        ------
        ValueError
            As `STFTSpectrogram.forward`.
        """
        stft = self._stft(waveform)
        least = self.n_fft // 2 + 2
        if waveform.shape[-1] < least:
            raise ValueError(f"the waveform has {waveform.shape[-1]} samples: expected {least}")
        differences = (waveform[..., 1:] - _PREEMPHASIS * waveform[..., :-1]).squeeze(1)
        emphasised = torch.stft(
            differences,
            self.n_fft,
            self.hop_length,
            window=self.window.to(waveform),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = self._bands(emphasised.real.square() + emphasised.imag.square()).unsqueeze(1)
        return View(10 * torch.log10(power.clamp(min=_LEAST_POWER)), waveform, stft)


@FRONT_ENDS.register("YamnetLogMel")
class YamnetLogMel(HTKBands, _ShortWindow):
    """The spectrogram of YAMNet and VGGish in decibels, as the port torch_audioset makes it.

    Bands of the magnitude, not of the power, of the centred STFT with a periodic Hann window of
    25 ms: triangles over Hz of height 1 with centres evenly spaced on HTK's scale. Cells are
    20·log10(max(x, 1e-7)), where the original takes ln(x + 0.001).

    Parameters
    ----------
    sample_rate, n_fft, hop_length, n_mels, f_min, f_max
        See `MelSTFTSpectrogram`.
    win_length : int, optional
        Of the window, samples; 25/32 of `n_fft` by default.

    Raises
    ------
    ValueError
        As `PasstLogMel`.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int = 512,
        hop_length: int = 160,
        win_length: int | None = None,
        n_mels: int = 64,
        f_min: float = 125.0,
        f_max: float = 7500.0,
    ) -> None:
        super().__init__(
            win_length=win_length,
            periodic=True,
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_min=f_min,
            f_max=f_max,
        )

    @property
    def floor(self) -> float:
        """The lowest value of a cell, -140 dB: far below the 0.001 that the original adds."""
        return -140.0

    def _features(self, stft: Tensor) -> Tensor:
        seen = stft[..., :-1]
        power = seen.real.square() + seen.imag.square()
        bands = self._bands(power.clamp(min=_LEAST_SQUARE).sqrt()).unsqueeze(1)
        cells = 20 * torch.log10(bands.clamp(min=_LEAST_MAGNITUDE))
        return cells.clamp(min=self.floor)  # of a rounded logarithm
