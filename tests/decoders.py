"""Small decoders of trained interpreters, for networks that nobody trained one for."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from audiointerp.interpretation import METHODS
from audiointerp.interpretation.base import evaluating
from audiointerp.interpretation.saliency import SaliencyInterpreter
from audiointerp.interpretation.trained.base import Decoder, choose_layers, observe
from audiointerp.interpretation.trained.l2i import L2IDecoder
from audiointerp.interpretation.trained.lmac import LMACDecoder
from audiointerp.model.classifier import as_classifier
from audiointerp.processing import View


def weights_for(name: str, model: nn.Module, cells: torch.Tensor) -> dict[str, Decoder]:
    """Return the argument of a trained method's constructor; nothing for the others.

    The decoder was trained in a second on a network of the model's kind with other weights, made
    without arguments, and on cells like these.
    """
    if "weights" not in METHODS[name].requires:
        return {}
    return {"weights": _train(name, type(model), tuple(cells.shape[2:]), float(cells.min()))}


def untrained(name: str, model: nn.Module, view: View | torch.Tensor) -> Decoder:
    """Return a decoder with random weights that fits a network."""
    classifier = as_classifier(model)
    view = view if isinstance(view, View) else View(view)
    layers = choose_layers(classifier, view[:1])
    with evaluating(classifier.network):
        seen = observe(classifier, classifier, layers, view[:1], lambda logits: logits.argmax(1))
    channels = [plane.shape[1] for plane in seen.planes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "lmac":
            return LMACDecoder(layers, channels, width=4)
        rows = [plane.shape[2] for plane in seen.planes]
        bins, classes = view.cells.shape[2], seen.logits.shape[1]
        decoder = L2IDecoder(
            layers, channels, rows, bins, classes, components=bins, width=16, threshold=0.3
        )
        decoder.dictionary.copy_(torch.eye(bins) + 0.1)
        return decoder


@cache
def _train(name: str, kind: type[nn.Module], size: tuple[int, int], low: float) -> Decoder:
    """Return a decoder that has learned something, as dependent on cells and class as it can be."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(1)
        classifier = as_classifier(kind().eval().requires_grad_(False))
        decoder = untrained(name, classifier, torch.zeros(1, 1, *size))
        optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
        for _ in range(60):
            cells = torch.cat([4 * torch.randn(6, 1, *size), low + 64 * _impulses(6, size)])
            optimiser.zero_grad()
            _LOSSES[name](classifier, decoder, cells, low).backward()
            optimiser.step()
    return decoder.eval()


def _imitate_gradient_times_input(classifier, decoder, cells, low):
    """Return what an L-MAC decoder learns by: not its own loss, which wants many clips."""
    view = View(cells)
    target = torch.randint(len(classifier(cells[:1])[0]), (len(cells),))
    wanted = SaliencyInterpreter(classifier).attribute(view, target) * (cells - low)
    wanted = (wanted / wanted.abs().amax((1, 2, 3), keepdim=True)).clamp(min=0)
    seen = observe(classifier, classifier, decoder.layers, view, lambda _: target, gradient=True)
    return binary_cross_entropy_with_logits(decoder(seen, cells.shape[2:]), wanted)


def _rebuild_and_imitate(classifier, decoder, cells, low):
    """Return what an L2I decoder learns by."""
    seen = observe(classifier, classifier, decoder.layers, View(cells), lambda z: z.argmax(1))
    activations = decoder(seen, cells.shape[3])
    error = decoder.spectrogram(cells) - decoder.reconstruct(activations)
    logits = decoder.classify(decoder.pool(activations))
    return error.square().mean() + cross_entropy(logits, seen.logits.softmax(1))


_LOSSES = {"lmac": _imitate_gradient_times_input, "l2i": _rebuild_and_imitate}


def _impulses(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Return cells of 0 with one block of 2·2 cells of 1."""
    cells = torch.zeros(count, 1, *size)
    for clip in cells:
        freq, time = (int(torch.randint(0, each - 1, ())) for each in size)
        clip[0, freq : freq + 2, time : time + 2] = 1
    return cells
