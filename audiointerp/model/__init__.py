"""PANNs classifiers and their checkpoints: features (B, 1, F, T) to logits (B, C)."""

from __future__ import annotations

from audiointerp.model.base import MODELS, TransferModel, build_model
from audiointerp.model.cnn14 import TransferCnn14

for _model in (TransferCnn14,):
    MODELS.register(_model.name)(_model)

__all__ = ["MODELS", "TransferCnn14", "TransferModel", "build_model"]
