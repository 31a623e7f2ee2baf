"""BEATs, fine-tuned, with its own filterbank: a network of the waveform.

Written against https://github.com/microsoft/unilm/tree/master/beats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from audiointerp.dataset.audioset import audioset_classes, audioset_numbers
from audiointerp.model.classes import ClassNames
from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.families.base import AUDIOSET_SECONDS, FAMILIES, check_module
from audiointerp.model.heads import Head
from audiointerp.processing import WaveformFrontEnd

_BANDS = 128


class BeatsNetwork(nn.Module):
    """BEATs on waveforms (batch, samples); its Kaldi filterbank is differentiable."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def target_layer(self) -> nn.Module:
        """The encoder, whose tokens are classified and averaged."""
        return self.network.encoder

    def settings(self) -> dict[str, Any]:
        """Return the network's name, ready for JSON."""
        return {"name": type(self.network).__name__}

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the probabilities (batch, classes)."""
        return self.network.extract_features(waveform)[0]

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return the patches' activations as planes; they run along frequency first.

        In the layers of the encoder the batch is the second axis.
        """
        bands = _BANDS // self.network.input_patch_size
        if activation.ndim == 4:  # batch, channels, time, freq
            return activation.transpose(2, 3)
        if layer.startswith("network.encoder.layers."):
            activation = activation.transpose(0, 1)
        if activation.ndim != 3 or activation.shape[1] % bands:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}: expected "
                f"{bands} tokens for each column of patches"
            )
        return activation.unflatten(1, (-1, bands)).permute(0, 3, 2, 1)


@FAMILIES.register("beats")
def beats(
    model: nn.Module,
    *,
    classes: ClassNames,
    head: str | Head = "sigmoid",
    duration: float = AUDIOSET_SECONDS,
    licence: str | None = None,
) -> Classifier:
    """Make a classifier of BEATs, fine-tuned on AudioSet or another set.

    The model computes its features itself, so that none can be wrong. The cells are the log STFT of
    the sound, 257 bins by 10 ms at 16 kHz, and the model is run on the sound that they stand for.

    Parameters
    ----------
    model : Module
        What ``BEATs(cfg)`` is, with the weights of a fine-tuned checkpoint.
    classes : names, or mapping of index to machine id
        In the order of the outputs, which is not that of PANNs: the checkpoint's ``label_dict``,
        whose machine ids are turned into AudioSet's names.
    head, duration, licence
        See `audiointerp.model.families.from_package`.
    """
    model = check_module("beats", model, "extract_features", "encoder", "patch_embedding")
    if getattr(model, "predictor", None) is None:
        raise ValueError(
            "the model has no predictor: BEATs that was not fine-tuned tells no classes apart"
        )
    return classifier(
        BeatsNetwork(model),
        front_end=WaveformFrontEnd(sample_rate=16000, n_fft=512, hop_length=160),
        classes=_named(classes),
        head=head,
        duration=duration,
        licence=licence,
        outputs="probabilities",
    )


def _named(classes: ClassNames) -> ClassNames:
    """Return a mapping of index to machine id with AudioSet's names; others as they are."""
    numbers = audioset_numbers()
    if not isinstance(classes, Mapping) or not all(mid in numbers for mid in classes.values()):
        return classes
    names = audioset_classes()
    return {index: names[numbers[mid]] for index, mid in classes.items()}
