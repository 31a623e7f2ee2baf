"""PANNs of the package panns-inference, with the log-mel front end taken out.

Written against https://github.com/qiuqiangkong/panns_inference. `audiointerp.load_panns` reads the
published weights without the package.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from audiointerp.model.classes import ClassNames
from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.families.base import (
    AUDIOSET_SECONDS,
    FAMILIES,
    check_extractor,
    check_module,
    labels,
)
from audiointerp.model.heads import Head
from audiointerp.model.planes import to_plane
from audiointerp.processing import LogMelSTFTSpectrogram

_SETTINGS = {
    1024: {"sample_rate": 32000, "hop_length": 320, "f_max": 14000.0},
    512: {"sample_rate": 16000, "hop_length": 160, "f_max": 8000.0},
    256: {"sample_rate": 8000, "hop_length": 80, "f_max": 4000.0},
}
"""Front ends that PANNs were published with, by the length of their FFT."""


class PannsNetwork(nn.Module):
    """A network of panns-inference on cells (batch, 1, bands, frames) instead of the waveform.

    Its layers are those of the model, which stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        tagger = copy.copy(model)
        tagger._modules = dict(model._modules)
        tagger.spectrogram_extractor = nn.Identity()
        tagger.logmel_extractor = nn.Identity()
        self.tagger = tagger

    @property
    def target_layer(self) -> nn.Module | None:
        """The last convolution block."""
        blocks = [name for name, _ in self.tagger.named_children() if name.startswith("conv_block")]
        return getattr(self.tagger, blocks[-1]) if blocks else None

    def settings(self) -> dict[str, Any]:
        """Return the network's name, ready for JSON."""
        return {"name": type(self.tagger).__name__}

    def forward(self, cells: Tensor) -> dict[str, Tensor]:
        """Return the model's dictionary, with ``clipwise_output`` (batch, classes)."""
        return self.tagger(cells.transpose(2, 3))

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return a layer's activation (batch, channels, time, freq) as (…, freq, time).

        The channels of the first batch norm are the bands, (batch, freq, time, 1).
        """
        if layer == "tagger.bn0":
            return activation.permute(0, 3, 1, 2)
        axes = ("channel", "time", "freq") if activation.ndim == 4 else ("channel", "time")
        return to_plane(activation, axes, layer=layer, module=self.get_submodule(layer))


@FAMILIES.register("panns")
def panns(
    model: Any,
    *,
    classes: ClassNames | None = None,
    head: str | Head = "sigmoid",
    duration: float = AUDIOSET_SECONDS,
    licence: str | None = None,
) -> Classifier:
    """Make a classifier of a model of panns-inference.

    Parameters
    ----------
    model : AudioTagging, SoundEventDetection or Module
        What the package's constructors return, or its ``model``. Of sound event detection the
        clip's scores are explained, the largest over time.
    classes, head, duration, licence
        See `audiointerp.model.families.from_package`.
    """
    if not isinstance(model, nn.Module):
        model = getattr(model, "model", model)
    if isinstance(model, nn.DataParallel):
        model = model.module
    parts = ("spectrogram_extractor", "logmel_extractor", "fc_audioset")
    model = check_module("panns", model, *parts)
    length = model.spectrogram_extractor.stft.n_fft
    if length not in _SETTINGS:
        known = ", ".join(map(str, _SETTINGS))
        raise ValueError(f"the model's FFT has {length} samples: expected one of {known}")
    front_end = LogMelSTFTSpectrogram(n_fft=length, **_SETTINGS[length])
    extractor = nn.Sequential(model.spectrogram_extractor, model.logmel_extractor)
    check_extractor("panns", extractor, front_end, lambda cells: cells.transpose(2, 3))
    return classifier(
        PannsNetwork(model),
        front_end=front_end,
        classes=labels(classes, model.fc_audioset.out_features),
        head=head,
        duration=duration,
        licence=licence,
        outputs="probabilities",
        output="clipwise_output",
    )
