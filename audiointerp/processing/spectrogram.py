"""Waveform to spectrogram and back: power or decibel, linear or mel frequency axis.

Every front end is a `FrontEnd`: `forward` returns the features a model sees, `analyse` the same
features with the phase and length they came with, and `synthesise` the waveform of changed
features.

References
----------
Q. Kong et al., "PANNs: Large-scale pretrained audio neural networks for audio pattern
recognition", IEEE/ACM TASLP 28, 2020 (the mel front end and its defaults).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiointerp.processing.front_end import FRONT_ENDS, FrontEnd
from audiointerp.processing.view import View

POWER_FLOOR = 1e-10
"""The power below which a decibel front end hears nothing: -100 dB."""


LONGEST_FFT = 2**17
"""Samples, more than half a second at any rate: longer ones come from damaged settings."""
MOST_WEIGHTS = 2**25
"""Of mel filters, FFT bins times bands; the default has 32,832."""


@FRONT_ENDS.register("STFTSpectrogram")
class STFTSpectrogram(FrontEnd):
    """Power spectrogram: squared magnitude of the centred, reflect-padded Hann STFT.

    Parameters
    ----------
    sample_rate : int
        Of the waveforms, Hz.
    n_fft : int
        FFT and window length, samples; even.
    hop_length : int
        Samples between frames.

    Raises
    ------
    ValueError
        If a size is not positive, `n_fft` is odd or the windows do not overlap by half or more,
        without which a masked spectrogram cannot be turned back into sound.
    """

    unit = "power"

    def __init__(
        self, *, sample_rate: int = 16000, n_fft: int = 512, hop_length: int = 256
    ) -> None:
        super().__init__()
        for name, value in (
            ("sample_rate", sample_rate),
            ("n_fft", n_fft),
            ("hop_length", hop_length),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: expected a positive whole number")
        if n_fft > LONGEST_FFT:
            raise ValueError(f"n_fft is {n_fft}: expected at most {LONGEST_FFT}")
        if n_fft % 2:
            raise ValueError(f"n_fft is {n_fft}: expected an even number, such as {n_fft + 1}")
        if hop_length > n_fft // 2:
            raise ValueError(
                f"hop_length {hop_length} is more than half of n_fft {n_fft}: "
                "frames that overlap less cannot be inverted"
            )
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)

    @property
    def num_bins(self) -> int:
        """Number of frequency bins of the features."""
        return self.n_fft // 2 + 1

    @property
    def frequencies(self) -> Tensor:
        """Centre frequency of every bin, Hz, shape (bins,)."""
        return torch.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1)

    @property
    def floor(self) -> float:
        """The lowest value a feature can take: 0 for power, -100 dB in decibels."""
        return -100.0 if self.log else 0.0

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of a waveform of `samples` samples."""
        return samples // self.hop_length + 1

    def times(self, frames: int) -> Tensor:
        """Return the centre of each of `frames` frames, seconds, shape (frames,)."""
        return torch.arange(frames) * (self.hop_length / self.sample_rate)

    def settings(self) -> dict[str, str | int | float]:
        """Return what :func:`build_processor` needs to make this front end again."""
        return {
            "name": type(self).__name__,
            "sample_rate": self.sample_rate,
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
        }

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the features of a batch of waveforms.

        Parameters
        ----------
        waveform : Tensor, shape (batch, 1, samples)
            At `sample_rate`, floating point.

        Returns
        -------
        Tensor, shape (batch, 1, bins, frames)
            Power, or dB re 1 for the ``Log`` front ends. Differentiable.

        Raises
        ------
        ValueError
            If the shape or type is not as above, the waveform is too short for one window, or a
            sample is NaN or infinite.
        """
        return self._features(self._stft(waveform))

    def analyse(self, waveform: Tensor) -> View:
        """Return the features with the phase and the length they came with; see `forward`.

        The view's context is the complex STFT (batch, fft_bins, frames + 1). Its last frame lies
        past the end of the waveform: no feature is made of it, but without it the last samples
        could not be put together again.
        """
        stft = self._stft(waveform)
        return View(self._features(stft), waveform, stft)

    def gain_db(self, features: Tensor, masked: Tensor) -> Tensor:
        """Return the gain, dB, that takes each cell from `features` to `masked`.

        Power features may be masked to nothing: their gain is then minus infinity. A cell that
        is empty to begin with has a gain of 0 dB.
        """
        if self.log:
            return masked - features
        ratio = torch.where(features > 0, masked / features, torch.ones_like(features))
        return 10 * torch.log10(ratio)

    def synthesise(self, view: View, cells: Tensor) -> Tensor:
        """Return the waveform of changed features, with the original phase and length.

        Each cell's gain is the one that takes its feature from the view's to the changed one, see
        `gain_db`. The *change* is inverted and added to the waveform, x + ISTFT((g - 1)·STFT(x)),
        which is ISTFT(g·STFT(x)) but for rounding: where nothing is changed, not a sample is. What
        lies past the last frame's centre takes the last frame's gain.

        Parameters
        ----------
        view : View
            As `analyse` returns it.
        cells : Tensor, shape (batch, 1, bins, frames)
            The changed features.

        Returns
        -------
        Tensor, shape (batch, 1, samples)

        Raises
        ------
        ValueError
            If the cells are not of the view's shape, or the view has no sound.
        """
        if cells.shape != view.cells.shape:
            raise ValueError(
                f"the changed cells have shape {tuple(cells.shape)}, the view's "
                f"{tuple(view.cells.shape)}: one value per cell is needed"
            )
        if view.waveform is None or view.context is None:
            raise ValueError(
                "the view has cells only, without sound to change: make it by analyse(waveform)"
            )
        gain_db = self.gain_db(view.cells, cells)
        gain = torch.pow(10.0, gain_db.to(view.cells).squeeze(1) / 10)
        amplitude = self._bin_power_gain(gain.index_select(-1, self._cell_frames(view))).sqrt()
        change = self._istft((amplitude - 1) * view.context, view.waveform.shape[-1])
        return view.waveform + change.unsqueeze(1)

    def _cell_frames(self, view: View) -> Tensor:
        """Return which frame of the cells each frame of the context goes with."""
        frames = view.cells.shape[-1]
        return torch.arange(frames + 1, device=view.cells.device).clamp(max=frames - 1)

    def _features(self, stft: Tensor) -> Tensor:
        seen = stft[..., :-1]
        power = self._bands(seen.real.square() + seen.imag.square()).unsqueeze(1)
        return 10 * torch.log10(power.clamp(min=POWER_FLOOR)) if self.log else power

    def _bands(self, power: Tensor) -> Tensor:
        """Gather FFT bins (batch, fft_bins, frames) into the features' bins: here, one to one."""
        return power

    def _bin_power_gain(self, gain: Tensor) -> Tensor:
        """Spread a power gain (batch, bins, frames) over the FFT bins: here, one to one."""
        return gain

    def _gather_bins(self, shares: Tensor) -> Tensor:
        """Add shares of FFT bins (batch, fft_bins, frames) up in the bins: here, one to one."""
        return shares

    def _extend(self, waveform: Tensor) -> Tensor:
        """Return the sound that frames are cut from: here, the waveform."""
        return waveform

    def _stft(self, waveform: Tensor) -> Tensor:
        """Return the centred STFT with one frame more than the features have.

        Half a window past the last frame's centre its window has all but vanished; where no other
        frame reaches, the inverse would divide by it and blow masked sounds up.
        """
        check_waveform(waveform, self.n_fft // 2)
        half = self.n_fft // 2
        sound = self._extend(waveform)
        padded = nn.functional.pad(sound, (half, half), mode="reflect").squeeze(1)
        missing = self.n_fft + self.num_frames(waveform.shape[-1]) * self.hop_length
        return torch.stft(
            nn.functional.pad(padded, (0, missing - padded.shape[-1])),
            self.n_fft,
            self.hop_length,
            window=self.window.to(waveform),
            center=False,
            return_complex=True,
        )

    def _istft(self, stft: Tensor, samples: int) -> Tensor:
        """Return the sound of least squares: windowed frames added up, over the windows' energy.

        What `torch.istft` computes. Frames are added in as many steps as they overlap, which takes
        fewer passes over the memory.
        """
        window = self.window.to(stft.real)
        sound = self._add_up(torch.fft.irfft(stft.mT, self.n_fft) * window)
        energy = self._add_up(window.square().expand(1, stft.shape[-1], -1))
        part = slice(self._lead, self._lead + samples)
        return sound[:, part] / energy[:, part]

    @property
    def _lead(self) -> int:
        """Samples from the first frame's start to that of the sound."""
        return self.n_fft // 2

    def _add_up(self, frames: Tensor) -> Tensor:
        """Add frames (batch, frames, n_fft) up, each a hop after the one before."""
        hops = math.ceil(self.n_fft / self.hop_length)
        padded = nn.functional.pad(frames, (0, hops * self.hop_length - self.n_fft))
        pieces = padded.unflatten(2, (hops, self.hop_length))
        count = frames.shape[1]
        total = frames.new_zeros(len(frames), count + hops - 1, self.hop_length)
        for number in range(hops):
            total[:, number : number + count] += pieces[:, :, number]
        return total.flatten(1)


@FRONT_ENDS.register("LogSTFTSpectrogram")
class LogSTFTSpectrogram(STFTSpectrogram):
    """Power spectrogram in decibels, 10·log10(max(x, 1e-10)), with no upper range limit."""

    unit = "dB"


@FRONT_ENDS.register("BandLogSTFTSpectrogram")
class BandLogSTFTSpectrogram(LogSTFTSpectrogram):
    """Decibel spectrogram of the FFT bins in a range of frequencies, for networks that see no more.

    What lies outside has no cells: the gain of the nearest bin is applied there.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        As :class:`STFTSpectrogram`.
    f_min, f_max : float
        The lowest and highest frequency, Hz; both are included. By default all.

    Raises
    ------
    ValueError
        If the frequencies do not lie in order within 0 Hz and half the sample rate, or no bin lies
        between them.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int = 512,
        hop_length: int = 256,
        f_min: float = 0.0,
        f_max: float | None = None,
    ) -> None:
        super().__init__(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length)
        self.f_min = float(f_min)
        self.f_max = sample_rate / 2 if f_max is None else float(f_max)
        if not 0 <= self.f_min < self.f_max <= sample_rate / 2:
            raise ValueError(
                f"the band runs from {f_min} to {f_max} Hz: expected 0 <= f_min < f_max <= "
                f"{sample_rate / 2} Hz, half the sample rate"
            )
        spacing = sample_rate / n_fft
        # A bin at the edge is inside, however its frequency is rounded.
        self._first = math.ceil(self.f_min / spacing - 1e-6)
        self._past = math.floor(self.f_max / spacing + 1e-6) + 1
        if self._first >= self._past:
            raise ValueError(
                f"no FFT bin lies between {f_min} and {f_max} Hz, they are {spacing:g} Hz apart: "
                "take a wider band or a longer n_fft"
            )

    @property
    def num_bins(self) -> int:
        """Number of FFT bins in the band."""
        return self._past - self._first

    @property
    def frequencies(self) -> Tensor:
        """Centre frequency of every bin of the band, Hz, shape (bins,)."""
        return super().frequencies[self._first : self._past]

    def settings(self) -> dict[str, str | int | float]:
        """Return what :func:`build_processor` needs to make this front end again."""
        return super().settings() | {"f_min": self.f_min, "f_max": self.f_max}

    def _bands(self, power: Tensor) -> Tensor:
        return power[:, self._first : self._past]

    def _bin_power_gain(self, gain: Tensor) -> Tensor:
        bins = torch.arange(self.n_fft // 2 + 1, device=gain.device) - self._first
        return gain[:, bins.clamp(0, self.num_bins - 1)]


@FRONT_ENDS.register("MelSTFTSpectrogram")
class MelSTFTSpectrogram(STFTSpectrogram):
    """Power spectrogram on Slaney's mel scale, area-normalised, as PANNs were trained on.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        As :class:`STFTSpectrogram`.
    n_mels : int
        Number of mel bands.
    f_min, f_max : float
        Edges of the lowest and highest band, Hz.

    Raises
    ------
    ValueError
        If the band edges do not lie in order within 0 Hz and half the sample rate, or a band is
        so narrow that no FFT bin falls into it.
    """

    has_empty_bands = False
    """Whether bands that hold no FFT bin are allowed; they are always at the floor."""

    def __init__(
        self,
        *,
        sample_rate: int = 32000,
        n_fft: int = 1024,
        hop_length: int = 320,
        n_mels: int = 64,
        f_min: float = 50.0,
        f_max: float = 14000.0,
    ) -> None:
        super().__init__(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length)
        if not 0 <= f_min < f_max <= sample_rate / 2:
            raise ValueError(
                f"the bands run from {f_min} to {f_max} Hz: expected "
                f"0 <= f_min < f_max <= {sample_rate / 2} Hz, half the sample rate"
            )
        if not isinstance(n_mels, int) or not 1 <= n_mels <= n_fft // 2 + 1:
            raise ValueError(
                f"n_mels is {n_mels!r}: expected a whole number from 1 to {n_fft // 2 + 1}, the "
                f"FFT bins of n_fft {n_fft}"
            )
        if n_mels * (n_fft // 2 + 1) > MOST_WEIGHTS:
            raise ValueError(
                f"{n_mels} bands of {n_fft // 2 + 1} FFT bins have more than {MOST_WEIGHTS} "
                "weights: take fewer bands or a shorter n_fft"
            )
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        filters = self._filters()
        empty = int((filters.sum(0) == 0).sum())
        if empty and not self.has_empty_bands:
            raise ValueError(
                f"{empty} of {n_mels} mel bands hold no FFT bin: take fewer bands or a longer n_fft"
            )
        self.register_buffer("filters", filters.float(), persistent=False)
        below, above, weight = self._neighbours()
        self.register_buffer("band_below", below, persistent=False)
        self.register_buffer("band_above", above, persistent=False)
        self.register_buffer("above_weight", weight.float(), persistent=False)

    @property
    def num_bins(self) -> int:
        """Number of mel bands."""
        return self.n_mels

    @property
    def frequencies(self) -> Tensor:
        """Centre frequency of every mel band, Hz, shape (bands,)."""
        return self._edges()[1:-1].float()

    def settings(self) -> dict[str, str | int | float]:
        """Return what :func:`build_processor` needs to make this front end again."""
        mel = {"n_mels": self.n_mels, "f_min": self.f_min, "f_max": self.f_max}
        return super().settings() | mel

    def _bands(self, power: Tensor) -> Tensor:
        return torch.einsum("kb,nkt->nbt", self.filters.to(power), power)

    def _bin_power_gain(self, gain: Tensor) -> Tensor:
        """Interpolate the power gain between band centres, in Hz; beyond them it stays level.

        That is the mean of the bands' gains weighted by the height of their triangles, which sum
        to 1 between the outer centres; a bin that no band covers takes the nearest band's gain.
        `lerp` makes it exact where neighbours agree.
        """
        weight = self.above_weight.to(gain)[:, None]
        return torch.lerp(gain[:, self.band_below], gain[:, self.band_above], weight)

    def _gather_bins(self, shares: Tensor) -> Tensor:
        """Add shares of FFT bins up in the bands, by the weights that spread the bands' gain."""
        weight = self.above_weight.to(shares)[:, None]
        bands = shares.new_zeros(len(shares), self.n_mels, shares.shape[2])
        bands.index_add_(1, self.band_below, shares * (1 - weight))
        return bands.index_add_(1, self.band_above, shares * weight)

    def _neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return, per FFT bin, the bands centred below and above it and the weight of the latter.

        Bins beyond the outer centres have the outer band twice.
        """
        centres, bins = self._edges()[1:-1], self._bins()
        above = torch.searchsorted(centres, bins).clamp(max=self.n_mels - 1)
        below = (torch.searchsorted(centres, bins) - 1).clamp(min=0)
        gap = centres[above] - centres[below]
        weight = torch.where(gap > 0, (bins - centres[below]) / gap, 0.0)
        return below, above, weight

    def _bins(self) -> Tensor:
        return torch.arange(self.n_fft // 2 + 1, dtype=torch.float64) * (
            self.sample_rate / self.n_fft
        )

    def _edges(self) -> Tensor:
        """Lower edge, centres and upper edge of the bands, Hz, evenly spaced in mel, float64."""
        ends = self._hz_to_mel(self.f_min), self._hz_to_mel(self.f_max)
        return self._mel_to_hz(torch.linspace(*ends, self.n_mels + 2, dtype=torch.float64))

    def _hz_to_mel(self, hz: float) -> float:
        """Slaney's Auditory Toolbox scale: linear below 1 kHz, logarithmic above."""
        if hz < 1000:
            return hz * 3 / 200
        return 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    def _mel_to_hz(self, mel: Tensor) -> Tensor:
        above = 1000 * torch.exp((mel - 15) * math.log(6.4) / 27)
        return torch.where(mel < 15, mel * 200 / 3, above)

    def _filters(self) -> Tensor:
        """Weights (fft_bins, bands): triangles over Hz, each of area 1, in double precision."""
        low, centre, high = self._edges().unfold(0, 3, 1).unbind(1)
        bins = self._bins()[:, None]
        rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
        return torch.minimum(rise, fall).clamp(min=0) * (2 / (high - low))


@FRONT_ENDS.register("LogMelSTFTSpectrogram")
class LogMelSTFTSpectrogram(MelSTFTSpectrogram):
    """Mel power spectrogram in decibels, 10·log10(max(x, 1e-10)): the PANNs front end."""

    unit = "dB"


def check_waveform(waveform: Tensor, least: int) -> None:
    """Raise a ValueError unless a waveform is (batch, 1, more than `least` samples) and finite."""
    if waveform.ndim != 3 or waveform.shape[1] != 1:
        raise ValueError(
            f"the waveform has shape {tuple(waveform.shape)}: expected (batch, 1, samples); "
            "for one mono clip write waveform[None, None]"
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"the waveform is {waveform.dtype}: expected floating point samples in [-1, 1]; "
            "divide 16-bit samples by 32768"
        )
    if waveform.shape[-1] <= least:
        raise ValueError(
            f"the waveform has {waveform.shape[-1]} samples: expected more than {least}, "
            "for one frame; are samples on the last axis?"
        )
    if not torch.isfinite(waveform).all():
        raise ValueError("the waveform has NaN or infinite samples: is the recording damaged?")
