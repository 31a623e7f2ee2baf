"""Silero VAD, a detector of speech on the waveform, as a classifier of clips.

References
----------
Silero Team, "Silero VAD", https://github.com/snakers4/silero-vad (MIT).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from audiointerp.dataset.audio import check_duration
from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.families.extras import needs
from audiointerp.processing import WaveformFrontEnd

LICENCE = "MIT (Silero VAD)"

SAMPLE_RATE = 16000
CHUNK = 512
"""Samples of what the detector hears at a time."""


class Speech(nn.Module):
    """The mean probability of speech over the chunks of a clip.

    The detector carries a state from chunk to chunk. It starts afresh with every call, so that a
    clip's result depends on nothing heard before.

    Parameters
    ----------
    detector : Module
        Silero's TorchScript network: (batch, 512) and the sample rate to (batch, 1).
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.over_time = nn.Identity()

    @property
    def target_layer(self) -> nn.Module:
        """The probability of each chunk, which Grad-CAM looks at: TorchScript shows no more."""
        return self.over_time

    def forward(self, waveform: Tensor) -> Tensor:
        """Return probabilities (batch, 1) of waveforms (batch, samples)."""
        self.detector.reset_states()
        chunks = waveform.unfold(-1, CHUNK, CHUNK).unbind(1)
        chances = torch.cat([self.detector(chunk, SAMPLE_RATE) for chunk in chunks], dim=1)
        return self.over_time(chances[:, None]).mean(2)


def from_silero_vad(
    *, duration: float = 3.0, n_fft: int = 512, hop_length: int = 128
) -> Classifier:
    """Return Silero VAD as a classifier: whether there is speech in a clip at 16 kHz.

    The probability is the mean over chunks of 32 ms: about the share of the clip that is spoken.
    What is left of a clip after its last whole chunk is not heard. Digital silence has no gradient
    in the detector: methods of gradients need faint noise there.

    Parameters
    ----------
    duration : float
        Seconds of a clip.
    n_fft, hop_length : int
        Of the cells of the maps, samples; see `WaveformFrontEnd`.

    Returns
    -------
    Classifier
        Of "no speech" and "speech", with a binary head; its network is a `Speech`.

    Raises
    ------
    ImportError
        If silero-vad is not installed.
    ValueError
        If the duration is not positive, or below one chunk.

    Examples
    --------
    >>> speech = from_silero_vad()  # doctest: +SKIP
    >>> predict = Predict(speech, SaliencyInterpreter(speech))  # doctest: +SKIP
    >>> predict.predict("call.wav", target="speech")  # doctest: +SKIP
    """
    check_duration(duration)
    if duration * SAMPLE_RATE < CHUNK:
        raise ValueError(
            f"duration is {duration} s: expected at least {CHUNK / SAMPLE_RATE} s, one chunk"
        )
    silero = needs("silero_vad", package="silero-vad", extra="speech")
    with warnings.catch_warnings():
        # TorchScript is deprecated; what silero-vad has to offer does not depend on the user.
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        detector = silero.load_silero_vad()
    return classifier(
        Speech(detector),
        front_end=WaveformFrontEnd(sample_rate=SAMPLE_RATE, n_fft=n_fft, hop_length=hop_length),
        classes=["no speech", "speech"],
        head="binary",
        outputs="probabilities",
        duration=duration,
        licence=LICENCE,
        activation_axes=("channel", "time"),
    )
