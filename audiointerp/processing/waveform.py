"""Front end of waveform networks: the sound is modified through its STFT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from audiointerp.processing.front_end import FRONT_ENDS
from audiointerp.processing.spectrogram import LogSTFTSpectrogram
from audiointerp.processing.view import View


class SoundInput:
    """Of a front end whose network takes the sound that the cells stand for.

    To be inherited before a `LogSTFTSpectrogram` or one of its kind.

    Attributes
    ----------
    channel_axis : bool
        Whether the network takes (batch, 1, samples) instead of (batch, samples).
    """

    feeds_waveform = True
    channel_axis = False

    def network_input(self, view: View | None, cells: Tensor) -> Tensor:
        """Return the sound that the cells stand for.

        Parameters
        ----------
        view : View
        cells : Tensor, shape (batch, 1, bins, frames)

        Returns
        -------
        Tensor, shape (batch, samples), or (batch, 1, samples) with a `channel_axis`

        Raises
        ------
        ValueError
            If there is no view: cells alone have no phase.
        """
        if view is None:
            raise ValueError(
                "a waveform network needs the sound that the cells are of: pass the View that "
                "front_end.analyse(waveform) returns, not its cells"
            )
        waveform = self.synthesise(view, cells)
        return waveform if self.channel_axis else waveform.squeeze(1)

    def contributions(self, multipliers: Tensor, view: View, reference: View) -> Tensor:
        """Spread multipliers of the samples over the cells; see `FrontEnd.contributions`.

        What lies past the last frame's centre counts for the last frame.
        """
        change = view.context - reference.context
        with torch.enable_grad():
            stft = torch.zeros_like(change).requires_grad_()
            waveform = self._istft(stft, view.waveform.shape[-1])
            score = (waveform * multipliers.reshape(waveform.shape).detach()).sum()
            (adjoint,) = torch.autograd.grad(score, stft)
        shares = adjoint.real * change.real + adjoint.imag * change.imag
        shares[..., -2] += shares[..., -1]
        return self._gather_bins(shares[..., :-1]).unsqueeze(1)


@FRONT_ENDS.register("WaveformFrontEnd")
class WaveformFrontEnd(SoundInput, LogSTFTSpectrogram):
    """Decibel STFT cells whose resynthesised sound is what the network takes.

    The cells are the log power spectrogram of the clip. A network is run on the sound that they
    stand for, with the clip's own phase, so that attributions of a waveform network live on time
    and frequency. Unchanged cells give the network the waveform bit for bit.

    A reference clip enters methods such as SHAP by its complex STFT. The inverse STFT is linear, so
    the difference of two waveforms is the sum over the cells of the inverse STFT of each cell's
    complex difference. A cell's contribution is the inner product of its part of that sum with
    the network's multipliers, and the contributions add up to what they do in the waveform, phase
    included. For a linear network it is by how much the output falls when the cell's complex value
    is replaced by the reference's; against a silent reference, when the cell is removed.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        Of the cells; see `STFTSpectrogram`. The network sees none of them but the sample rate.
    channel_axis : bool, default False
        Whether the network takes (batch, 1, samples) instead of (batch, samples).

    References
    ----------
    J. Vielhaben et al., "Explainable AI for time series via virtual inspection layers", Pattern
    Recognition 150, 2024 (the inverse transform as the first layer of the network).
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int = 512,
        hop_length: int = 128,
        channel_axis: bool = False,
    ) -> None:
        super().__init__(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length)
        self.channel_axis = bool(channel_axis)

    def settings(self) -> dict[str, Any]:
        """Return what `build_processor` needs to make this front end again, ready for JSON."""
        return super().settings() | {"channel_axis": self.channel_axis}
