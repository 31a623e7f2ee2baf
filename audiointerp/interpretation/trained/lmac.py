"""L-MAC: a decoder trained to produce masks that keep, or remove, the evidence for a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from audiointerp.interpretation.base import METHODS, check_whole
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.trained.base import Decoder, Observation
from audiointerp.interpretation.trained.interpreter import TrainedInterpreter
from audiointerp.masking import BASES
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View

TEMPERATURE = 0.2
"""What the decoder's last layer is divided by: masks are near 0 or 1 rather than in between."""


class LMACDecoder(Decoder):
    """From the activations of several layers to the mask's logit in every cell.

    From the last layer to the first, as in a U-Net: the coarse planes are resized bilinearly to
    those of the layer before, joined with its activations and convolved. The last layer comes
    twice: as it is, and times the gradient of the class's logit, which tells the decoder what class
    to explain. Every clip is normalised on its own, so that its
    mask does not depend on its neighbours, in training neither.

    Parameters
    ----------
    layers : sequence of str
        Names of the layers, in the order in which they run.
    channels : sequence of int
        Of their planes.
    width : int, default 16
        Channels at the resolution of the first layer; twice as many at the others.
    base : str, default "floor"
        The masking base that it is trained with.

    Raises
    ------
    ValueError
        If numbers or names are out of range.
    """

    method = "lmac"

    def __init__(
        self, layers: Sequence[str], channels: Sequence[int], width: int = 16, base: str = "floor"
    ) -> None:
        super().__init__()
        if not layers or len(layers) != len(channels):
            raise ValueError(
                f"{len(layers)} layers and {len(channels)} numbers of channels: expected one for "
                "each, and at least one"
            )
        BASES[base]
        self.layers = tuple(layers)
        self.channels = tuple(check_whole("channels", count, 1) for count in channels)
        self.width = check_whole("width", width, 1)
        self.base = base
        sizes = [self.width] + [2 * self.width] * (len(channels) - 1)
        before = [*sizes[1:], sizes[-1]]
        given = [*self.channels[:-1], 2 * self.channels[-1]]
        self.lateral = nn.ModuleList(
            nn.Conv2d(count, size, 1) for count, size in zip(given, before, strict=True)
        )
        self.normalise = nn.ModuleList(nn.GroupNorm(1, size) for size in before)
        self.convolve = nn.ModuleList(
            nn.Conv2d(size, after, 3, padding=1) for size, after in zip(before, sizes, strict=True)
        )
        self.even_out = nn.ModuleList(nn.GroupNorm(1, size) for size in sizes)
        self.head = nn.Conv2d(self.width, 1, 3, padding=1)
        nn.init.zeros_(self.head.bias)

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for JSON."""
        return {
            "layers": list(self.layers),
            "channels": list(self.channels),
            "width": self.width,
            "base": self.base,
        }

    def forward(self, seen: Observation, size: Sequence[int]) -> Tensor:
        """Return the logit of the mask.

        Parameters
        ----------
        seen : Observation
            With the gradient.
        size : sequence of int
            Bins and frames of the mask.

        Returns
        -------
        Tensor, shape (batch, 1, freq, time)
        """
        last = torch.cat([seen.planes[-1], _evidence(seen.planes[-1], seen.gradient)], 1)
        planes = [*seen.planes[:-1], last]
        hidden = None
        for place in reversed(range(len(planes))):
            joined = self.normalise[place](self.lateral[place](planes[place]))
            if hidden is not None:
                joined = joined + _resize(hidden, joined.shape[2:])
            hidden = relu(self.even_out[place](self.convolve[place](relu(joined))))
        return self.head(_resize(hidden, size)) / TEMPERATURE


def _evidence(plane: Tensor, gradient: Tensor) -> Tensor:
    """Return activations times their gradient, which is scaled to a mean square of 1.

    The scale says how steep the logit is, not where the class is.
    """
    scale = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.where(scale > 0, gradient / scale, torch.zeros_like(gradient)) * plane


def _resize(planes: Tensor, size: Sequence[int]) -> Tensor:
    if planes.shape[2:] == tuple(size):
        return planes
    return interpolate(planes, size=tuple(size), mode="bilinear", align_corners=False)


@METHODS.register("lmac")
class LMACInterpreter(TrainedInterpreter):
    """L-MAC: the mask that a decoder makes, which keeps what the class needs and little else.

    The decoder takes the activations of the frozen network and is trained on many clips so that
    the network is sure of the class on what the mask keeps, and not on what it leaves; see
    `audiointerp.training.interpreter`. The mask says what the decoder has learned of such clips:
    it is no derivative of the network, and a mask may please the network by its shape.

    Unlike the paper's decoder, which explains the predicted class only, this one is told the class
    by the gradient of its logit with respect to the last layer. So every class has a mask of its
    own, without parameters for each class, and a mask follows the layers after the last one that
    the decoder reads.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    weights, batch_size, fold_batch_norm
        See `TrainedInterpreter`.

    References
    ----------
    F. Paissan, M. Ravanelli, C. Subakan, "Listenable Maps for Audio Classifiers", ICML 2024.
    """

    name = "lmac"
    facts = Facts(
        family="trained",
        passes="1 forward, 1 backward from the last layer on; and a training",
        source="Paissan et al., ICML 2024",
        fails="Knows the sounds it was trained on; a mask can please the network by its shape, "
        "most on networks that do not tolerate holes",
        signed=False,
    )
    decoder_type = LMACDecoder

    @property
    def base(self) -> float | None:
        """The level that hidden cells had in the training, where that is the front end's floor.

        `audiointerp.runs.job.Job` compares it with what the metrics will hide cells by.
        """
        front_end = self.classifier.front_end
        return front_end.floor if self.decoder.base == "floor" and front_end is not None else None

    def _masks(
        self, model: Classifier, decoder: Decoder, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        seen = self._observe(model, view, target, gradient=True)
        mask = decoder(seen, view.cells.shape[2:]).to(view.cells).sigmoid()
        return mask, seen.target, {}
