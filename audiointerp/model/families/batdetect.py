"""batdetect2, a detector of the calls of 17 bat species, as a classifier of ultrasound.

`from_batdetect2` wraps the network that the package batdetect2 brings with it, or one that was
trained with it. Its front end is a band of a decibel STFT at 256 kHz, which can be masked and
turned back into sound; what batdetect2 makes of a spectrogram before its network sees it is the
module `BatSpectrogram`.

References
----------
O. Mac Aodha et al., "Towards a general approach for bat echolocation detection and classification",
bioRxiv 2022.12.14.520490 (batdetect2).
Y. Wang et al., "Trainable frontend for robust and far-field keyword spotting", ICASSP 2017 (PCEN).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.families.extras import needs
from audiointerp.model.heads import Sigmoid
from audiointerp.processing import BandLogSTFTSpectrogram

LICENCE = "CC BY-NC 4.0 (batdetect2)"

_SKIPPED = 2
"""Frames of a centred STFT before the first one that has a whole window of sound."""
_COARSEST = 64
"""Frames whose number the network halves down to two."""
_BLOCK = 256
"""Frames that the smoothing runs over by one matrix."""

# librosa.pcen as batdetect2 calls it: sr is the rate divided by 10, hop_length its default.
_GAIN, _BIAS, _POWER, _EPS, _TIME_CONSTANT = 0.98, 2.0, 0.5, 1e-6, 0.4
_PCEN_HOP = 512
_FULL_SCALE = 2.0**31


class BatSpectrogram(nn.Module):
    """What batdetect2's network sees of a spectrogram, differentiable.

    Magnitudes are normalised by their past (PCEN), each band loses its mean over time, negative
    values are set to zero, and the result is resized to half the frames.

    Parameters
    ----------
    sample_rate : int
        Of the sound, Hz.
    height : int
        Bands of the result.
    """

    def __init__(self, sample_rate: int, height: int) -> None:
        super().__init__()
        self.height = height
        frames = _TIME_CONSTANT * (sample_rate / 10) / _PCEN_HOP
        self.weight = (math.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2)

    def forward(self, cells: Tensor) -> Tensor:
        """Return the network's input.

        Parameters
        ----------
        cells : Tensor, shape (batch, 1, bins, frames)
            In dB, from the lowest frequency up: a centred STFT, of which the two frames at either
            end are left out.

        Returns
        -------
        Tensor, shape (batch, 1, height, (frames - 4) / 2)
            From the highest frequency down.

        Raises
        ------
        ValueError
            If the frames are not 4 more than a multiple of 64, which the network needs.
        """
        frames = cells.shape[-1] - 2 * _SKIPPED
        if frames < _COARSEST or frames % _COARSEST:
            raise ValueError(
                f"the clip has {cells.shape[-1]} frames: batdetect2's network needs a multiple of "
                f"{_COARSEST} and {2 * _SKIPPED} at the ends; take clips of the classifier's "
                "duration"
            )
        heard = cells[..., _SKIPPED:-_SKIPPED].flip(2)
        magnitude = torch.pow(10.0, heard / 20) * _FULL_SCALE
        smooth = self._smoothed(magnitude)
        level = torch.exp(-_GAIN * (math.log(_EPS) + torch.log1p(smooth / _EPS)))
        pcen = _BIAS**_POWER * torch.expm1(_POWER * torch.log1p(magnitude * level / _BIAS))
        clean = (pcen - pcen.mean(-1, keepdim=True)).clamp(min=0)
        size = self.height, frames // 2
        return functional.interpolate(clean, size=size, mode="bilinear", align_corners=False)

    def _smoothed(self, magnitude: Tensor) -> Tensor:
        """Return s·x(t) + (1 - s)·smoothed(t - 1), from a state of 1; in blocks of frames."""
        keep = 1 - self.weight
        frames = magnitude.shape[-1]
        lag = torch.arange(min(_BLOCK, frames), device=magnitude.device)
        ages = lag[None] - lag[:, None]
        kernel = torch.where(ages >= 0, self.weight * keep ** ages.clamp(min=0).double(), 0.0)
        kernel, decay = kernel.to(magnitude), (keep ** (lag + 1).double()).to(magnitude)
        state = torch.ones_like(magnitude[..., :1])
        blocks = []
        for block in magnitude.split(_BLOCK, -1):
            count = block.shape[-1]
            blocks.append(block @ kernel[:count, :count] + state * decay[:count])
            state = blocks[-1][..., -1:]
        return torch.cat(blocks, -1)


class BatCalls(nn.Module):
    """The log-odds that a clip holds a call of each species.

    batdetect2 gives each place in time and frequency a probability of each species and of none.
    A species' score is the log-odds of its highest probability anywhere in the clip, so that its
    sigmoid is that probability.

    Parameters
    ----------
    detector : Module
        batdetect2's network.
    sample_rate : int
        Of the sound, Hz.
    """

    def __init__(self, detector: nn.Module, sample_rate: int) -> None:
        super().__init__()
        self.spectrogram = BatSpectrogram(sample_rate, detector.ip_height_rs)
        self.detector = detector

    @property
    def target_layer(self) -> nn.Module:
        """The second block of the encoder, which class activation maps look at by default.

        At the end of the decoder, they show where batdetect2 anchors the box of a call: at its
        beginning and lowest frequency.
        """
        return self.detector.conv_dn_1

    def heat(self, cells: Tensor) -> Tensor:
        """Return the log-odds at every place.

        Parameters
        ----------
        cells : Tensor, shape (batch, 1, bins, frames)

        Returns
        -------
        Tensor, shape (batch, species, height, (frames - 4) / 2)
            From the highest frequency down.
        """
        scores = self.detector(self.spectrogram(cells)).pred_class_un_norm
        # log p/(1 - p) of a softmax, without its rounding: score less the others' log-sum-exp.
        total = scores.logsumexp(1, keepdim=True)
        log_p = scores - total
        others = torch.log(-torch.expm1(log_p.clamp(max=-torch.finfo(scores.dtype).eps)))
        return (log_p - others)[:, :-1]

    def forward(self, cells: Tensor) -> Tensor:
        """Return the log-odds (batch, species) of cells (batch, 1, bins, frames)."""
        return self.heat(cells).amax((2, 3))


def from_batdetect2(
    weights: str | os.PathLike[str] | None = None,
    *,
    duration: float | None = None,
    threshold: float = 0.5,
) -> Classifier:
    """Return batdetect2 as a classifier of ultrasound: which species call in a clip.

    Its probabilities are those of batdetect2's heat map: a species has the highest one that
    batdetect2 gives it anywhere in the clip. Cells are those that the network sees, 10 to 120 kHz
    at a sample rate of 256 kHz. Only the strongest call of a species decides, and a map explains
    it: in clips with several, the others are not found.

    Parameters
    ----------
    weights : path, optional
        A ``.pth.tar`` file that batdetect2 wrote. By default the British species that it comes
        with.
    duration : float, optional
        Seconds of a clip; by default 0.2575, the length that batdetect2 is trained on. The network
        takes a multiple of 32 ms and 1.5 ms: other lengths are rounded to the nearest of these.
    threshold : float, default 0.5
        Probability from which a species is decided for.

    Returns
    -------
    Classifier
        With a sigmoid head; its network is a `BatCalls`.

    Raises
    ------
    ImportError
        If batdetect2 is not installed.
    FileNotFoundError
        If there is no such weight file.
    ValueError
        If the weights expect another spectrogram than the one that is made here, or the duration
        is not positive.

    Examples
    --------
    >>> bats = from_batdetect2()  # doctest: +SKIP
    >>> result = Predict(bats, SaliencyInterpreter(bats)).predict("night.wav")  # doctest: +SKIP
    """
    detectors = needs("batdetect2.utils.detector_utils", package="batdetect2", extra="bats")
    path = detectors.DEFAULT_MODEL_PATH if weights is None else os.fspath(weights)
    detector, settings = detectors.load_model(path, device=torch.device("cpu"))
    rate = _check(settings, path)
    detector.requires_grad_(False)
    hop, frames = _hop(rate, settings), settings["spec_train_width"]
    if duration is not None:
        if not duration > 0:
            raise ValueError(f"duration is {duration}: expected a number of seconds above 0")
        frames = _COARSEST * max(1, round((duration * rate / hop - 3) / _COARSEST))
    return classifier(
        BatCalls(detector, rate),
        front_end=BandLogSTFTSpectrogram(
            sample_rate=rate,
            n_fft=4 * hop,
            hop_length=hop,
            # batdetect2 leaves the lowest bin of its range out.
            f_min=settings["min_freq"] + rate / (4 * hop),
            f_max=settings["max_freq"],
        ),
        classes=settings["class_names"],
        head=Sigmoid(threshold),
        outputs="logits",
        duration=(frames + 3) * hop / rate,
        licence=LICENCE,
        activation_axes=_planes(detector.ip_height_rs),
    )


def _hop(rate: int, settings: dict[str, Any]) -> int:
    return int(settings["fft_win_length"] * rate) // 4


def _check(settings: dict[str, Any], path: str) -> int:
    """Return the sample rate, if the spectrogram is one that `BatSpectrogram` makes."""
    wanted = {
        "fft_overlap": 0.75,
        "resize_factor": 0.5,
        "spec_scale": "pcen",
        "denoise_spec_avg": True,
        "max_scale_spec": False,
        "scale_raw_audio": False,
    }
    for name, value in wanted.items():
        if settings[name] != value:
            raise ValueError(
                f"{path}: was trained with {name}={settings[name]!r}, expected {value!r}: "
                "other spectrograms of batdetect2 are not supported"
            )
    return int(settings["target_samp_rate"])


def _planes(height: int) -> Callable[[str, Tensor], Tensor]:
    """Return what makes planes of activations, given the rows of the network's input.

    The network's frequencies run down: planes are turned over. A column of the full resolution is
    two frames wide, and gets one more at either end for the frames that are left out there; those
    of deeper layers are wider than that.
    """

    def to_plane(layer: str, activation: Tensor) -> Tensor:
        if activation.ndim != 4:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}: choose one "
                "whose activations have frequency and time, such as detector.conv_dn_1"
            )
        plane = activation.flip(2)
        if plane.shape[2] != height:
            return plane
        return functional.pad(plane, (1, 1, 0, 0), mode="replicate")

    return to_plane
