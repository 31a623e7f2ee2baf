"""Classifiers: a front end, a network, a head and class names; PANNs and any other module."""

from __future__ import annotations

from audiointerp.model.base import MODELS, TransferModel, build_model
from audiointerp.model.checkpoint import (
    download_panns,
    find_panns,
    load_panns,
    transfer_panns,
)
from audiointerp.model.classifier import Classifier, as_classifier, classifier
from audiointerp.model.cnn6 import TransferCnn6
from audiointerp.model.cnn10 import TransferCnn10
from audiointerp.model.cnn14 import TransferCnn14
from audiointerp.model.heads import HEADS, Head, build_head
from audiointerp.model.huggingface import from_transformers
from audiointerp.model.mobilenet import TransferMobileNetV1, TransferMobileNetV2
from audiointerp.model.resnet import TransferResNet22, TransferResNet38
from audiointerp.model.state import CheckpointError, load_checkpoint

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
    "HEADS",
    "MODELS",
    "CheckpointError",
    "Classifier",
    "Head",
    "TransferCnn6",
    "TransferCnn10",
    "TransferCnn14",
    "TransferMobileNetV1",
    "TransferMobileNetV2",
    "TransferModel",
    "TransferResNet22",
    "TransferResNet38",
    "as_classifier",
    "build_head",
    "build_model",
    "classifier",
    "download_panns",
    "find_panns",
    "from_transformers",
    "load_checkpoint",
    "load_panns",
    "transfer_panns",
]
