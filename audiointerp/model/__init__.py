"""PANNs classifiers and their checkpoints: features (B, 1, F, T) to logits (B, C)."""

from __future__ import annotations

from audiointerp.model.base import MODELS, TransferModel, build_model
from audiointerp.model.checkpoint import (
    CheckpointError,
    download_panns,
    find_panns,
    load_panns,
)
from audiointerp.model.cnn6 import TransferCnn6
from audiointerp.model.cnn10 import TransferCnn10
from audiointerp.model.cnn14 import TransferCnn14
from audiointerp.model.mobilenet import TransferMobileNetV1, TransferMobileNetV2
from audiointerp.model.resnet import TransferResNet22, TransferResNet38

for _model in (
    TransferCnn14,
    TransferCnn10,
    TransferCnn6,
    TransferResNet22,
    TransferResNet38,
    TransferMobileNetV1,
    TransferMobileNetV2,
):
    MODELS.register(_model.name)(_model)

__all__ = [
    "MODELS",
    "CheckpointError",
    "TransferCnn6",
    "TransferCnn10",
    "TransferCnn14",
    "TransferMobileNetV1",
    "TransferMobileNetV2",
    "TransferModel",
    "TransferResNet22",
    "TransferResNet38",
    "build_model",
    "download_panns",
    "find_panns",
    "load_panns",
]
