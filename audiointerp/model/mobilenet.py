"""PANNs MobileNetV1 and MobileNetV2: depthwise convolutions that shrink by average pooling.

The numbers in the state-dict keys are places in `nn.Sequential`, so stateless layers (pooling,
activations) hold their PANNs places, as `nn.Identity` where they would do nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from audiointerp.model.base import PannsBase, TransferModel
from audiointerp.model.layers import average_pool


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def _pointwise(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _stem(activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(32),
        activation(),
    )


def _separable(in_channels: int, out_channels: int, shrink: int) -> nn.Sequential:
    """Return MobileNetV1's block: depthwise, then pointwise, each with batch norm and ReLU."""
    return nn.Sequential(
        _depthwise(in_channels),
        average_pool(shrink),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        _pointwise(in_channels, out_channels),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class TransferMobileNetV1(TransferModel):
    """PANNs MobileNetV1 with a classifier of its own (4.80 M parameters, 527 classes, 64 bins).

    Parameters
    ----------
    num_classes : int
        Number of classes.
    num_bins : int
        Frequency bins of the features, at least 32.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    name = "MobileNetV1"

    def __init__(self, num_classes: int, num_bins: int) -> None:
        features = nn.Sequential(
            _stem(nn.ReLU),
            _separable(32, 64, 1),
            _separable(64, 128, 2),
            _separable(128, 128, 1),
            _separable(128, 256, 2),
            _separable(256, 256, 1),
            _separable(256, 512, 2),
            *(_separable(512, 512, 1) for _ in range(5)),
            _separable(512, 1024, 2),
            _separable(1024, 1024, 1),
        )
        base = PannsBase(
            num_bins, {"features": features}, target="features.13.6", channels=1024, embedding=1024
        )
        super().__init__(base, num_classes, num_bins)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen by `expand`, depthwise, narrow; a shortcut where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, shrink: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        widen = [_pointwise(in_channels, hidden), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.conv = nn.Sequential(
            *(widen if expand > 1 else []),
            _depthwise(hidden),
            average_pool(shrink),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            _pointwise(hidden, out_channels),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = shrink == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, time, freq) to (batch, out_channels, time', freq')."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


def _inverted_residuals() -> list[InvertedResidual]:
    blocks, channels = [], 32
    for expand, wider, depth, shrink in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 2),
        # ImageNet's MobileNetV2 shrinks here too; PANNs' does not.
        (6, 160, 3, 1),
        (6, 320, 1, 1),
    ):
        for place in range(depth):
            blocks.append(InvertedResidual(channels, wider, shrink if place == 0 else 1, expand))
            channels = wider
    return blocks


class TransferMobileNetV2(TransferModel):
    """PANNs MobileNetV2 with a classifier of its own (4.08 M parameters, 527 classes, 64 bins).

    Parameters
    ----------
    num_classes : int
        Number of classes.
    num_bins : int
        Frequency bins of the features, at least 32.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    name = "MobileNetV2"

    def __init__(self, num_classes: int, num_bins: int) -> None:
        features = nn.Sequential(
            _stem(nn.ReLU6),
            *_inverted_residuals(),
            nn.Sequential(_pointwise(320, 1280), nn.BatchNorm2d(1280), nn.ReLU6()),
        )
        base = PannsBase(
            num_bins,
            {"features": features},
            target="features.18.2",
            channels=1280,
            embedding=1024,
            # Alone among PANNs, MobileNetV2 has no dropout before its fully connected layer.
            dropout=0.0,
        )
        super().__init__(base, num_classes, num_bins)
