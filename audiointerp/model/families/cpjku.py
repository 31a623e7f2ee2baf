"""PaSST and EfficientAT, which share their mel spectrogram.

Written against https://github.com/kkoutini/passt_hear21 (the package hear21passt) and
https://github.com/fschmid56/EfficientAT.
"""

from __future__ import annotations

import math
from typing import Any

import torch
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
from audiointerp.processing import PasstLogMel

_OFFSET = 1e-5
_MEL_SETTINGS = {
    "sr": "sample_rate",
    "n_fft": "n_fft",
    "hopsize": "hop_length",
    "win_length": "win_length",
    "n_mels": "n_mels",
    "fmin": "f_min",
    "fmax": "f_max",
}
"""Attributes of their ``AugmentMelSTFT``, and what they are called here."""


class CpjkuNetwork(nn.Module):
    """A network behind the scale of its mel spectrogram: cells in dB → what the network returns.

    Parameters
    ----------
    network : Module
        (batch, 1, bands, frames) to logits, or a tuple that starts with them.
    target : str, optional
        Dotted name of the layer that class activation maps look at by default.
    """

    def __init__(self, network: nn.Module, target: str | None = None) -> None:
        super().__init__()
        self.network = network
        self._target = target

    @property
    def target_layer(self) -> nn.Module | None:
        """The last stage of a convolutional network, the last attention's input of PaSST."""
        return None if self._target is None else self.network.get_submodule(self._target)

    def scale(self, cells: Tensor) -> Tensor:
        """Return (ln(x + 1e-5) + 4.5) / 5 of powers x in dB."""
        power = torch.exp(cells * (math.log(10) / 10))
        return (torch.log(power + _OFFSET) + 4.5) / 5

    def settings(self) -> dict[str, Any]:
        """Return the network's name, ready for JSON."""
        return {"name": type(self.network).__name__}

    def forward(self, cells: Tensor) -> Tensor:
        """Return the logits of cells (batch, 1, bands, frames)."""
        returned = self.network(self.scale(cells))
        return returned[0] if isinstance(returned, tuple) else returned

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return planes (batch, channels, freq, time) of convolutions, or of PaSST's tokens."""
        if activation.ndim == 4:
            return activation
        patches = getattr(self.network, "freq_new_pos_embed", None)
        if patches is None or activation.ndim != 3:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}: choose a "
                "convolution, or a block of PaSST"
            )
        bands = patches.shape[2]  # rows of patches
        prefix = self.network.num_tokens
        if (activation.shape[1] - prefix) % bands:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}: expected "
                f"{prefix} tokens and {bands} for each column of patches"
            )
        return activation[:, prefix:].transpose(1, 2).unflatten(2, (bands, -1))


@FAMILIES.register("efficientat")
def efficientat(
    model: nn.Module,
    *,
    mel: nn.Module | None = None,
    classes: ClassNames | None = None,
    head: str | Head = "sigmoid",
    duration: float = AUDIOSET_SECONDS,
    licence: str | None = None,
) -> Classifier:
    """Make a classifier of an EfficientAT network: MN, DyMN or an ensemble of them.

    Parameters
    ----------
    model : Module
        What ``models.mn.model.get_model``, ``models.dymn.model.get_model`` or
        ``get_ensemble_model`` returns.
    mel : Module, optional
        Its ``AugmentMelSTFT``, of which the front end's settings are read; by default those of
        ``mn10_as``. Give it for models with other hops or numbers of bands.
    classes, head, duration, licence
        See `audiointerp.model.families.from_package`.
    """
    model = check_module("efficientat", model)
    stages = ("features", "out_c")  # of MN, of DyMN
    target = next(
        (name for name in stages if isinstance(getattr(model, name, None), nn.Module)), None
    )
    return _make("efficientat", CpjkuNetwork(model, target), mel, classes, head, duration, licence)


@FAMILIES.register("passt")
def passt(
    model: nn.Module,
    *,
    mel: nn.Module | None = None,
    classes: ClassNames | None = None,
    head: str | Head = "sigmoid",
    duration: float = AUDIOSET_SECONDS,
    licence: str | None = None,
) -> Classifier:
    """Make a classifier of PaSST.

    Parameters
    ----------
    model : Module
        What ``hear21passt.base.get_basic_model`` or ``load_model`` returns, in any mode, or its
        ``net`` alone.
    mel : Module, optional
        Its ``AugmentMelSTFT``; by default the model's ``mel``, or the settings of the first paper.
    classes, head, duration, licence
        See `audiointerp.model.families.from_package`. PaSST has places for 10 s.
    """
    network = getattr(model, "net", model)
    network = check_module("passt", network, "patch_embed", "blocks", "freq_new_pos_embed")
    target = f"blocks.{len(network.blocks) - 1}.norm1"
    mel = getattr(model, "mel", None) if mel is None else mel
    return _make("passt", CpjkuNetwork(network, target), mel, classes, head, duration, licence)


def _make(
    family: str,
    network: CpjkuNetwork,
    mel: nn.Module | None,
    classes: ClassNames | None,
    head: str | Head,
    duration: float,
    licence: str | None,
) -> Classifier:
    front_end = PasstLogMel()
    if mel is not None:
        check_module(family, mel, *_MEL_SETTINGS)
        settings = {here: getattr(mel, there) for there, here in _MEL_SETTINGS.items()}
        settings |= {name: float(settings[name]) for name in ("f_min", "f_max")}
        front_end = PasstLogMel(**settings)
        check_extractor(family, mel, front_end, lambda cells: network.scale(cells).squeeze(1))
    return classifier(
        network,
        front_end=front_end,
        classes=labels(classes, _outputs(network)),
        head=head,
        duration=duration,
        licence=licence,
        outputs="logits",
    )


def _outputs(network: nn.Module) -> int | None:
    """Return how many outputs the last linear layer has."""
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return linear[-1].out_features if linear else None
