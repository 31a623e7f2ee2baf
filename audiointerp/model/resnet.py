"""PANNs ResNet22 and ResNet38: residual blocks that shrink by average pooling."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from audiointerp.model.base import PannsBase, TransferModel
from audiointerp.model.layers import ConvBlock, average_pool


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; halves time and frequency if `shrink` is 2.

    The second batch norm starts at zero, so a fresh block passes its shortcut on unchanged.
    """

    def __init__(self, in_channels: int, out_channels: int, shrink: int) -> None:
        super().__init__()
        self.pool = average_pool(shrink)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.dropout = nn.Dropout(0.1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.bn2.weight)
        self.downsample = _shortcut(in_channels, out_channels, shrink)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, time, freq) to (batch, out_channels, time', freq')."""
        y = self.dropout(self.relu1(self.bn1(self.conv1(self.pool(x)))))
        return self.relu2(self.bn2(self.conv2(y)) + self.downsample(x))


def _shortcut(in_channels: int, out_channels: int, shrink: int) -> nn.Module:
    if shrink == 1:  # then the channel counts agree too
        return nn.Identity()
    return nn.Sequential(
        nn.AvgPool2d(shrink),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _residual_layers(depths: tuple[int, ...]) -> nn.Sequential:
    """Return ``layer1`` to ``layer4``; all but the first halve time and frequency."""
    layers = nn.Sequential()
    channels = 64
    for number, depth in enumerate(depths, start=1):
        wider = 64 * 2 ** (number - 1)
        layer = nn.Sequential(ResidualBlock(channels, wider, shrink=1 if number == 1 else 2))
        layer.extend(ResidualBlock(wider, wider, shrink=1) for _ in range(depth - 1))
        layers.add_module(f"layer{number}", layer)
        channels = wider
    return layers


class _TransferResNet(TransferModel):
    depths: ClassVar[tuple[int, ...]]

    def __init__(self, num_classes: int, num_bins: int) -> None:
        blocks = {
            "conv_block1": ConvBlock(1, 64),
            "resnet": _residual_layers(self.depths),
            "pool": nn.AvgPool2d(2),
            "dropout": nn.Dropout(0.2),
            "conv_block_after1": ConvBlock(512, 2048, pool=1),
        }
        base = PannsBase(
            num_bins, blocks, target="conv_block_after1.relu2", channels=2048, embedding=2048
        )
        super().__init__(base, num_classes, num_bins)


class TransferResNet22(_TransferResNet):
    """PANNs ResNet22 with a classifier of its own (63.7 M parameters for 527 classes, 64 bins).

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

    name = "ResNet22"
    depths = (2, 2, 2, 2)


class TransferResNet38(_TransferResNet):
    """PANNs ResNet38 with a classifier of its own (73.78 M parameters for 527 classes, 64 bins).

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

    name = "ResNet38"
    depths = (3, 4, 6, 3)
