"""Ports of YAMNet to PyTorch.

Written against https://github.com/w-hc/torch_audioset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.dataset.audio import samples_in
from audiointerp.model.classes import ClassNames
from audiointerp.model.classifier import Classifier, Outputs, classifier
from audiointerp.model.families.base import FAMILIES, check_extractor, check_module
from audiointerp.model.heads import Head
from audiointerp.model.planes import frames_to_plane
from audiointerp.processing import YamnetLogMel

_PATCH = 96
"""Frames of a patch, 0.96 s."""


class YamnetNetwork(nn.Module):
    """YAMNet on the patches of a clip: cells in dB → mean score over the patches.

    Patches of 0.96 s lie side by side, as in the port; what is left at the end is not heard.

    Parameters
    ----------
    network : Module
        Patches (patches, 1, 96, bands) to scores (patches, classes).
    frames : int
        Of a clip.
    offset : float
        What is added to a band's magnitude before the logarithm.
    """

    def __init__(self, network: nn.Module, frames: int, offset: float) -> None:
        super().__init__()
        if frames < _PATCH:
            raise ValueError(
                f"a clip has {frames} frames, a patch of YAMNet {_PATCH}: take a duration of 0.96 "
                "s or more"
            )
        self.network = network
        self.patches = frames // _PATCH
        self.offset = offset
        self._join = frames_to_plane(self.patches, axes=("channel", "time", "freq"))

    @property
    def target_layer(self) -> nn.Module | None:
        """The last of the layers that the network numbers."""
        names = getattr(self.network, "layer_names", None)
        return getattr(self.network, names[-1]) if names else None

    def scale(self, cells: Tensor) -> Tensor:
        """Return ln(x + offset) of magnitudes x in dB."""
        return torch.log(torch.exp(cells * (math.log(10) / 20)) + self.offset)

    def settings(self) -> dict[str, Any]:
        """Return the network's name and the offset, ready for JSON."""
        return {"name": type(self.network).__name__, "offset": self.offset}

    def forward(self, cells: Tensor) -> Tensor:
        """Return the scores (batch, classes) of cells (batch, 1, bands, frames)."""
        heard = self.scale(cells)[..., : self.patches * _PATCH]
        patches = heard.unflatten(3, (self.patches, _PATCH)).permute(0, 3, 1, 4, 2).flatten(0, 1)
        return self.network(patches).unflatten(0, (-1, self.patches)).mean(1)

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return a layer's activations of the patches, (…, time, freq) each, joined along time."""
        return self._join(layer, activation)


@FAMILIES.register("yamnet")
def yamnet(
    model: nn.Module,
    *,
    classes: ClassNames | Sequence[Mapping[str, Any]],
    extractor: Callable[[Tensor], Tensor] | None = None,
    offset: float = 0.001,
    outputs: Outputs = "probabilities",
    head: str | Head = "sigmoid",
    duration: float = 9.6,
    licence: str | None = None,
) -> Classifier:
    """Make a classifier of a port of YAMNet.

    The score of a clip is the mean over its patches of 0.96 s.

    Parameters
    ----------
    model : Module
        What ``torch_audioset.yamnet.model.yamnet`` returns: patches (patches, 1, 96, 64) to
        probabilities (patches, 521).
    extractor : callable, optional
        The port's log-mel spectrogram, waveforms (batch, samples) to (batch, bands, frames), to
        compare the front end with: ``WaveformToInput().mel_trans_ope``.
    offset : float
        What is added to magnitudes before the logarithm: 0.001 as YAMNet was trained. Some ports
        add VGGish's 0.01, of which the extractor tells.
    outputs : {"probabilities", "logits"}
        What the model returns.
    classes, head, duration, licence
        See `audiointerp.model.families.from_package`. Classes may be what the port's
        ``yamnet_category_metadata`` returns, or the file ``yamnet_class_map.csv``.
    """
    model = check_module("yamnet", model)
    front_end = YamnetLogMel()
    frames = front_end.num_frames(samples_in(duration, front_end.sample_rate))
    network = YamnetNetwork(model, frames, offset)
    if extractor is not None:
        check_extractor("yamnet", extractor, front_end, lambda c: network.scale(c).squeeze(1))
    if isinstance(classes, Sequence) and classes and isinstance(classes[0], Mapping):
        classes = [entry["name"] for entry in classes]
    return classifier(
        network,
        front_end=front_end,
        classes=classes,
        head=head,
        duration=duration,
        licence=licence,
        outputs=outputs,
    )
