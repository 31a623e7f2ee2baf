"""Base class of methods whose masks come from a trained decoder."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import Explanation, Interpreter, choose_target
from audiointerp.interpretation.layers import find_layers
from audiointerp.interpretation.trained.base import Decoder, Observation, observe
from audiointerp.interpretation.trained.files import has_weights, read_decoder, weights_path
from audiointerp.model.classifier import Classifier
from audiointerp.model.weights import model_hash
from audiointerp.processing import View


class TrainedInterpreter(Interpreter):
    """A method that makes masks by a decoder that was trained for the classifier.

    A subclass gives `decoder_type` and `_masks`. The map is the mask itself, in [0, 1].

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    weights : path or Decoder, optional
        The decoder's weight file, which must be of this very classifier; by default the file
        ``<classifier's file>_<method>.safetensors`` beside the classifier's own. Or a decoder,
        which is taken as it is, without looking at what classifier it was trained for.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Attributes
    ----------
    decoder : Decoder

    Raises
    ------
    WeightsError
        If there is no such file, it is damaged, or of another method, classifier or front end.
    ValueError
        If the network has no layers of the names that the decoder reads.
    """

    kind = "mask"
    requires = frozenset({"weights"})
    decoder_type: ClassVar[type[Decoder]]

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: str | os.PathLike[str] | Decoder | None = None,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        if isinstance(weights, Decoder):
            if not isinstance(weights, self.decoder_type):
                raise ValueError(
                    f"a decoder of {weights.method} cannot make the masks of {self.name}: expected "
                    f"a {self.decoder_type.__name__}"
                )
            self.decoder = weights
        else:
            path = weights_path(self.classifier, self.name) if weights is None else Path(weights)
            self.decoder = read_decoder(path, self.classifier, self.name).decoder
        self.layers = tuple(find_layers(self.classifier.network, self.decoder.layers))

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say that no decoder was trained for a classifier; see `Interpreter`."""
        if has_weights(classifier, cls.name):
            return ""
        of = "the classifier" if classifier.file is None else classifier.file.stem
        return f"not trained for {of}; audiointerp train-interpreter does that"

    def settings(self) -> dict[str, Any]:
        """Return the method's name, its decoder's settings and a hash of its weights, for JSON."""
        return super().settings() | {
            "decoder": self.decoder.settings(),
            "decoder_hash": model_hash(self.decoder),
        }

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier(keep=self.layers)
        # A copy in the cells' precision, so that the decoder is left as it is.
        decoder = copy.deepcopy(self.decoder).to(view.cells).eval().requires_grad_(False)
        parts = [self._masks(model, decoder, *part) for part in self._in_batches(view, target)]
        masks, targets, diagnostics = zip(*parts, strict=True)
        joined = {name: torch.cat([each[name] for each in diagnostics]) for name in diagnostics[0]}
        mask = torch.cat(masks).to(view.cells).clamp(0, 1)
        return Explanation(mask, torch.cat(targets), joined)

    @abstractmethod
    def _masks(
        self, model: Classifier, decoder: Decoder, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the masks of a batch, the classes explained, and diagnostics (batch,) by name."""

    def _observe(
        self, model: Classifier, view: View, target: Tensor | None, *, gradient: bool = False
    ) -> Observation:
        """Return what the decoder's layers did, for the classes wanted or the predicted ones."""
        return observe(
            model,
            self.classifier,
            self.layers,
            view,
            lambda logits: choose_target(logits, target, len(view)),
            gradient=gradient,
        )
