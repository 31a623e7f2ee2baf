"""Front ends of transformers' feature extractors: Kaldi's filterbank, Whisper's and CLAP's log-mel.

Cells are in decibels, so that masks, bases and gains keep their meaning; the scale that a network
was trained on, and what follows a clip's end in its input, belong to the network.

References
----------
D. Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011; Y. Gong et al., "AST: Audio
Spectrogram Transformer", Interspeech 2021; A. Radford et al., "Robust speech recognition via
large-scale weak supervision", ICML 2023; Y. Wu et al., "Large-scale contrastive language-audio
pretraining with feature fusion and keyword-to-caption augmentation", ICASSP 2023.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiointerp.processing.bands import KaldiBands, htk_to_hz, hz_to_htk, of_height_one
from audiointerp.processing.front_end import FRONT_ENDS
from audiointerp.processing.spectrogram import LogMelSTFTSpectrogram, check_waveform
from audiointerp.processing.view import View
from audiointerp.processing.waveform import SoundInput

_WINDOW_SECONDS, _SHIFT_SECONDS = 0.025, 0.01
_PREEMPHASIS = 0.97
_LEAST_POWER = float(torch.finfo(torch.float32).eps)
_LONGEST_SECONDS = 3600.0


@FRONT_ENDS.register("KaldiFilterbank")
class KaldiFilterbank(KaldiBands, LogMelSTFTSpectrogram):
    """Kaldi's log mel filterbank in decibels, as `ASTFeatureExtractor` computes it.

    Frames of 25 ms lie 10 ms apart, begin with the first sample and lie within the clip. Of each
    frame the mean is taken off, it is pre-emphasised (0.97), weighted by a symmetric Hann window
    and padded to a power of two. Triangular bands are evenly spaced and linear in mel from 20 Hz to
    half the sample rate, without normalisation. Cells are 10·log10(max(x, 1.2e-7)), where Kaldi
    takes the natural logarithm. Narrow bands at low frequencies may hold no FFT bin: their cells
    are at the floor always, and changing them changes nothing.

    **Resynthesis.** Pre-emphasis is a filter, which multiplies each frequency by the same factor
    before and after a change: the gain of a cell is therefore applied to the clip's own STFT, with
    its phase, without mean removal and pre-emphasis. What the cells do not see, such as the mean of
    a frame, takes the gain of the nearest band. The STFT has frames over both ends of the mirrored
    clip, which take the gain of the first and of the last cell, as do the up to 10 ms at the end
    that lie in no frame. The floor is 31 dB above that of the other front ends, and pre-emphasis
    brings low frequencies near it: cells at the floor leave up to -40 dB of a sound.

    Parameters
    ----------
    sample_rate : int
        Of the waveforms, Hz.
    n_mels : int
        Number of bands.
    most_frames : int or None
        Frames that the network takes at most; longer sounds are refused. None for any number.

    Raises
    ------
    ValueError
        If a setting is no positive whole number, or there are more bands than FFT bins.
    """

    has_empty_bands = True
    removal_db = -40.0

    def __init__(
        self, *, sample_rate: int = 16000, n_mels: int = 128, most_frames: int | None = 1024
    ) -> None:
        for name, value in (("sample_rate", sample_rate), ("most_frames", most_frames)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}: expected a positive whole number")
        self.most_frames = most_frames
        window = int(sample_rate * _WINDOW_SECONDS)
        super().__init__(
            sample_rate=sample_rate,
            n_fft=1 << max(window - 1, 1).bit_length(),
            hop_length=max(1, int(sample_rate * _SHIFT_SECONDS)),
            n_mels=n_mels,
            f_min=20.0,
            f_max=sample_rate / 2,
        )
        self.window_length = window
        hann = torch.hann_window(window, periodic=False, dtype=torch.float64)
        self.window = nn.functional.pad(hann, (0, self.n_fft - window)).float()

    @property
    def floor(self) -> float:
        """The lowest value of a cell, -69.2 dB: the precision of float32 as a power."""
        return 10 * math.log10(_LEAST_POWER)

    @property
    def longest(self) -> float | None:
        """Seconds of the longest sound that has no more than `most_frames` frames."""
        if self.most_frames is None:
            return None
        samples = self.window_length + self.most_frames * self.hop_length - 1
        return samples / self.sample_rate

    def num_frames(self, samples: int) -> int:
        """Return the number of frames that lie within a waveform of `samples` samples."""
        return 1 + (samples - self.window_length) // self.hop_length

    def times(self, frames: int) -> Tensor:
        """Return the centre of each of `frames` frames, seconds, shape (frames,)."""
        first = self.window_length / 2 / self.sample_rate
        return first + super().times(frames)

    def settings(self) -> dict[str, Any]:
        """Return what `build_processor` needs to make this front end again, ready for JSON."""
        return {
            "name": type(self).__name__,
            "sample_rate": self.sample_rate,
            "n_mels": self.n_mels,
            "most_frames": self.most_frames,
        }

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the cells (batch, 1, bands, frames) of a batch of waveforms, dB; differentiable.

        Raises
        ------
        ValueError
            As `STFTSpectrogram.forward`; or if the sound is longer than the network takes.
        """
        check_waveform(waveform, self.window_length - 1)
        _check_length(self, waveform)
        frames = waveform.squeeze(1).unfold(1, self.window_length, self.hop_length)
        frames = frames - frames.mean(2, keepdim=True)
        # The sample before a frame's first one is taken to be equal to it.
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        emphasised = (frames - _PREEMPHASIS * before) * self._hann.to(waveform)
        spectrum = torch.fft.rfft(emphasised, self.n_fft).mT
        power = self._bands(spectrum.real.square() + spectrum.imag.square()).unsqueeze(1)
        return (10 * torch.log10(power.clamp(min=_LEAST_POWER))).clamp(min=self.floor)

    def analyse(self, waveform: Tensor) -> View:
        """Return the cells with the clip's complex STFT, (batch, fft_bins, frames) in `context`.

        Its frames begin before the clip and end after it; see the class on what gain they take.
        """
        cells = self(waveform)
        frames = self._context_frames(waveform)
        # Mirrored, so that a tone has no click where the clip begins and ends.
        both = (self._lead, self.window_length - 1)
        padded = nn.functional.pad(waveform, both, mode="reflect").squeeze(1)
        padded = nn.functional.pad(padded, (0, self.n_fft - self.window_length + 1))
        cut = padded.unfold(1, self.n_fft, self.hop_length)[:, :frames]
        return View(cells, waveform, torch.fft.rfft(cut * self.window.to(waveform)).mT)

    def _cell_frames(self, view: View) -> Tensor:
        places = torch.arange(self._context_frames(view.waveform), device=view.cells.device)
        return (places - self._leading_frames).clamp(0, view.cells.shape[-1] - 1)

    def _context_frames(self, waveform: Tensor) -> int:
        """Return the number of frames that begin before the end of a waveform."""
        return self._leading_frames + math.ceil(waveform.shape[-1] / self.hop_length)

    @property
    def _hann(self) -> Tensor:
        return self.window[: self.window_length]

    @property
    def _leading_frames(self) -> int:
        """Frames of the context before the clip that reach into it."""
        return math.ceil(self.window_length / self.hop_length) - 1

    @property
    def _lead(self) -> int:
        return self._leading_frames * self.hop_length


@FRONT_ENDS.register("WhisperLogMel")
class WhisperLogMel(LogMelSTFTSpectrogram):
    """Whisper's log-mel spectrogram in decibels, of the clip alone.

    Whisper pads each clip with zeros to 30 s before its centred STFT with Slaney's mel bands. Cells
    are those frames that hear something of the clip; what follows them is silence and no cell, so
    that masks do not spend their share of the cells on it. Whisper's limit to 80 dB below the
    loudest cell and its scale belong to the network. Resynthesis is that of
    `LogMelSTFTSpectrogram`.

    Parameters
    ----------
    sample_rate, n_fft, hop_length, n_mels, f_min, f_max
        See `MelSTFTSpectrogram`.
    seconds : int or float
        To which clips are padded; longer ones are refused.

    Raises
    ------
    ValueError
        As `MelSTFTSpectrogram`, or if `seconds` is not positive.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int = 400,
        hop_length: int = 160,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float = 8000.0,
        seconds: float = 30,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_min=f_min,
            f_max=f_max,
        )
        self.longest = _check_seconds("seconds", seconds)

    @property
    def most_frames(self) -> int:
        """Number of frames of a clip of `longest` seconds, which the network takes."""
        return int(self.longest * self.sample_rate) // self.hop_length

    def num_frames(self, samples: int) -> int:
        """Return the number of frames that hear something of a waveform of `samples` samples."""
        return min((samples - 1 + self.n_fft // 2) // self.hop_length + 1, self.most_frames)

    def settings(self) -> dict[str, Any]:
        """Return what `build_processor` needs to make this front end again, ready for JSON."""
        return super().settings() | {"seconds": self.longest}

    def _extend(self, waveform: Tensor) -> Tensor:
        """Return the waveform followed by zeros, as far as a frame of the cells can reach."""
        _check_length(self, waveform)
        missing = int(self.longest * self.sample_rate) - waveform.shape[-1]
        return nn.functional.pad(waveform, (0, max(0, min(missing, self.n_fft))))


@FRONT_ENDS.register("ClapLogMel")
class ClapLogMel(SoundInput, LogMelSTFTSpectrogram):
    """CLAP's log-mel spectrogram of the clip; the network takes the sound that the cells stand for.

    CLAP repeats a short clip before its spectrogram is computed. Each cell of the clip is then in
    many cells of that spectrogram, at other places within a frame. The cells here are those of the
    clip itself, and the network repeats the sound: a mask acts on every repetition alike. For a
    clip of the full length the two spectrograms are the same.

    Parameters
    ----------
    sample_rate, n_fft, hop_length, n_mels, f_min, f_max
        See `MelSTFTSpectrogram`.
    mel_scale : {"htk", "slaney"}
        Triangles over Hz: "htk" with centres evenly spaced on HTK's scale, of height 1, which CLAP
        takes with fusion; "slaney" as `LogMelSTFTSpectrogram`, without.
    longest : int or float
        Seconds that the network takes at most; longer sounds are refused.

    Raises
    ------
    ValueError
        As `MelSTFTSpectrogram`, if the scale is unknown or `longest` is not positive.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 48000,
        n_fft: int = 1024,
        hop_length: int = 480,
        n_mels: int = 64,
        f_min: float = 50.0,
        f_max: float = 14000.0,
        mel_scale: Literal["htk", "slaney"] = "slaney",
        longest: float = 10,
    ) -> None:
        if mel_scale not in ("htk", "slaney"):
            raise ValueError(f"mel_scale is {mel_scale!r}: choose 'htk' or 'slaney'")
        self.mel_scale = mel_scale
        self.longest = _check_seconds("longest", longest)
        super().__init__(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_min=f_min,
            f_max=f_max,
        )

    def settings(self) -> dict[str, Any]:
        """Return what `build_processor` needs to make this front end again, ready for JSON."""
        return super().settings() | {"mel_scale": self.mel_scale, "longest": self.longest}

    def _extend(self, waveform: Tensor) -> Tensor:
        _check_length(self, waveform)
        return waveform

    def _hz_to_mel(self, hz: float) -> float:
        return super()._hz_to_mel(hz) if self.mel_scale == "slaney" else hz_to_htk(hz)

    def _mel_to_hz(self, mel: Tensor) -> Tensor:
        return super()._mel_to_hz(mel) if self.mel_scale == "slaney" else htk_to_hz(mel)

    def _filters(self) -> Tensor:
        filters = super()._filters()
        return filters if self.mel_scale == "slaney" else of_height_one(filters, self._edges())


def _check_seconds(name: str, seconds: float) -> float:
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not known or not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError(f"{name} is {seconds!r}: expected seconds, at most {_LONGEST_SECONDS:g}")
    return seconds


def _check_length(front_end: LogMelSTFTSpectrogram, waveform: Tensor) -> None:
    longest, samples = front_end.longest, waveform.shape[-1]
    if longest is not None and samples > round(longest * front_end.sample_rate):
        raise ValueError(
            f"the sound has {samples / front_end.sample_rate:.6g} s, its network takes at most "
            f"{longest:.6g} s: analyse it in windows of that length"
        )
