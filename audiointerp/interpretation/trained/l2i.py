"""L2I: which components of a factorised spectrogram support a class, as a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, relu

from audiointerp.interpretation.base import METHODS, check_whole
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.trained.base import Decoder, Observation
from audiointerp.interpretation.trained.interpreter import TrainedInterpreter
from audiointerp.model.classifier import Classifier
from audiointerp.model.heads import Head
from audiointerp.processing import View

ROWS = 4
"""Rows that planes are averaged to over frequency before a decoder reads them."""
_LEAST = 1e-3
"""What is added to the sum of all components, as a share of the spectrograms' root mean square: a
cell in which they are all near 0 is kept by none."""


class L2IDecoder(Decoder):
    """From the activations of several layers to those of the components of a dictionary.

    The planes are averaged to a few rows over frequency, which become channels, resized to the
    frames and joined; two convolutions over time give the activation H of every component in every
    frame, not negative. W·H stands for the clip's log(1 + magnitude). An attention over time, of
    each frame's activations, takes a mean z of H, and a linear layer without bias makes outputs of
    it like the classifier's.

    Parameters
    ----------
    layers : sequence of str
        Names of the layers, in the order in which they run.
    channels : sequence of int
        Of their planes.
    rows : sequence of int
        Rows that their planes are averaged to.
    bins : int
        Of the spectrogram.
    outputs : int
        Of the classifier, before its head.
    components : int, default 48
    width : int, default 32
        Channels of the decoder.
    threshold : float, default 0.2
        Relevance above which a component is kept; that of SpeechBrain's recipe.
    log : bool, default True
        Whether the cells are in dB rather than power.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    method = "l2i"

    def __init__(
        self,
        layers: Sequence[str],
        channels: Sequence[int],
        rows: Sequence[int],
        bins: int,
        outputs: int,
        components: int = 48,
        width: int = 32,
        threshold: float = 0.2,
        log: bool = True,
    ) -> None:
        super().__init__()
        if not layers or not len(layers) == len(channels) == len(rows):
            raise ValueError(
                f"{len(layers)} layers, {len(channels)} numbers of channels and {len(rows)} of "
                "rows: expected one for each, and at least one"
            )
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold!r}: expected a share below 1")
        self.layers = tuple(layers)
        self.channels = tuple(check_whole("channels", count, 1) for count in channels)
        self.rows = tuple(check_whole("rows", count, 1) for count in rows)
        self.bins = check_whole("bins", bins, 1)
        self.outputs = check_whole("outputs", outputs, 1)
        self.components = check_whole("components", components, 1)
        self.width = check_whole("width", width, 1)
        self.threshold, self.log = float(threshold), bool(log)
        self.reduce = nn.ModuleList(
            nn.Conv1d(count * row, self.width, 1)
            for count, row in zip(self.channels, self.rows, strict=True)
        )
        self.normalise = nn.ModuleList(nn.GroupNorm(1, self.width) for _ in self.layers)
        joined = self.width * len(self.layers)
        self.mix = nn.Conv1d(joined, 2 * self.width, 3, padding=1)
        self.activate = nn.Conv1d(2 * self.width, self.components, 3, padding=1)
        self.attend = nn.Linear(self.components, 1, bias=False)
        self.classify = nn.Linear(self.components, self.outputs, bias=False)
        self.register_buffer("dictionary", torch.ones(self.bins, self.components))
        self.register_buffer("scale", torch.ones(()))

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for JSON."""
        return {
            "layers": list(self.layers),
            "channels": list(self.channels),
            "rows": list(self.rows),
            "bins": self.bins,
            "outputs": self.outputs,
            "components": self.components,
            "width": self.width,
            "threshold": self.threshold,
            "log": self.log,
        }

    def forward(self, seen: Observation, frames: int) -> Tensor:
        """Return the activations of the components, shape (batch, components, frames)."""
        parts = []
        for place, plane in enumerate(seen.planes):
            pooled = adaptive_avg_pool2d(plane, (self.rows[place], plane.shape[3]))
            reduced = self.normalise[place](self.reduce[place](pooled.flatten(1, 2)))
            parts.append(interpolate(reduced, size=frames, mode="linear", align_corners=False))
        return relu(self.activate(relu(self.mix(torch.cat(parts, 1)))))

    def spectrogram(self, cells: Tensor) -> Tensor:
        """Return what W·H stands for, (batch, bins, frames): log(1 + magnitude), scaled."""
        return log_magnitude(cells, log=self.log)[:, 0] / self.scale

    def reconstruct(self, activations: Tensor) -> Tensor:
        """Return W·H, shape (batch, bins, frames)."""
        return torch.einsum("fk,bkt->bft", self.dictionary, activations)

    def pool(self, activations: Tensor) -> Tensor:
        """Return z, the mean of the activations over time by attention, (batch, components)."""
        attention = self.attend(activations.mT).softmax(1)
        return (activations * attention.mT).sum(2)

    def relevance(self, pooled: Tensor, head: Head, target: Tensor) -> Tensor:
        """Return how much each component speaks for the class, (batch, components), at most 1.

        What it gives to the class's logit, as a share of the largest absolute one. Of classes that
        exclude each other it is what it gives beyond the mean of all classes: a weight that is the
        same for all changes no probability.
        """
        weights = head.logits(self.classify.weight.mT)
        if head.exclusive:
            weights = weights - weights.mean(1, keepdim=True)
        given = pooled * weights[:, target].mT
        largest = given.abs().amax(1, keepdim=True)
        return torch.where(largest > 0, given / largest, torch.zeros_like(given))

    def mask(self, activations: Tensor, kept: Tensor) -> Tensor:
        """Return the share of some components in all, shape (batch, 1, bins, frames)."""
        chosen = self.reconstruct(activations * kept[:, :, None])
        return (chosen / (self.reconstruct(activations) + _LEAST))[:, None]


def log_magnitude(cells: Tensor, *, log: bool) -> Tensor:
    """Return log(1 + magnitude) of cells in dB, or of power where they are not logarithmic."""
    if log:
        return torch.exp(cells * (math.log(10) / 20)).log1p()
    return cells.clamp(min=torch.finfo(cells.dtype).tiny).sqrt().log1p()


@METHODS.register("l2i")
class L2IInterpreter(TrainedInterpreter):
    """Listen to Interpret: the components of a clip that speak for a class, over all components.

    A dictionary of spectra is learned from the training clips by non-negative matrix
    factorisation of log(1 + magnitude). A decoder makes the components' activations of the frozen
    network's, so that they rebuild the clip, are few, and are enough for a linear layer to give
    what the classifier gives. The mask keeps, of every cell, the share of the components whose
    relevance for the class is above the decoder's threshold; one that lies near it can be kept in
    one numeric precision and not in another.

    Classes are told apart by the decoder's own linear layer, which imitates the classifier: layers
    of the classifier after those that the decoder reads are not looked at. The diagnostics of
    `explain` are ``"components"``, the number of those kept, and ``"agrees"``, 1 where the linear
    layer's highest class is the classifier's.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    weights, batch_size, fold_batch_norm
        See `TrainedInterpreter`.

    References
    ----------
    J. Parekh, S. Parekh, P. Mozharovskyi, F. d'Alché-Buc, G. Richard, "Listen to Interpret:
    Post-hoc Interpretability for Audio Networks with NMF", NeurIPS 2022. Unlike there, clips may
    have any length, and relevance is counted from the mean of the classes; see
    `L2IDecoder.relevance`.
    """

    name = "l2i"
    facts = Facts(
        family="trained",
        passes="1 forward; and a training",
        source="Parekh et al., NeurIPS 2022",
        fails="Explains a linear layer that imitates the network (`agrees`); keeps or removes a "
        "component as a whole, so sounds of like spectra are not told apart, nor their times",
        signed=False,
    )
    decoder_type = L2IDecoder

    def _masks(
        self, model: Classifier, decoder: Decoder, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        bins = view.cells.shape[2]
        if bins != decoder.bins:
            raise ValueError(
                f"the clips have {bins} bins, the decoder was trained on {decoder.bins}: are they "
                "of the same front end?"
            )
        seen = self._observe(model, view, target)
        # In full precision, whichever the network computes in: a threshold decides.
        with torch.autocast(view.cells.device.type, enabled=False):
            activations = decoder(seen, view.cells.shape[3])
            pooled = decoder.pool(activations)
            relevance = decoder.relevance(pooled, model.head, seen.target)
            kept = relevance > decoder.threshold
            imitated = model.head.logits(decoder.classify(pooled))
            mask = decoder.mask(activations, kept)
        agrees = imitated.argmax(1) == seen.logits.argmax(1)
        diagnostics = {"components": kept.sum(1).to(view.cells), "agrees": agrees.to(view.cells)}
        return mask, seen.target, diagnostics
