"""PANNs Cnn6: four blocks of one 5x5 convolution."""

from __future__ import annotations

from itertools import pairwise

from audiointerp.model.base import PannsBase, TransferModel
from audiointerp.model.layers import ConvBlock


class TransferCnn6(TransferModel):
    """PANNs Cnn6 with a classifier of its own (4.84 M parameters for 527 classes, 64 bins).

    Parameters
    ----------
    num_classes : int
        Number of classes.
    num_bins : int
        Frequency bins of the features, at least 16.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    name = "Cnn6"

    def __init__(self, num_classes: int, num_bins: int) -> None:
        blocks = {
            f"conv_block{number}": ConvBlock(before, after, kernel=5, convolutions=1)
            for number, (before, after) in enumerate(pairwise((1, 64, 128, 256, 512)), start=1)
        }
        base = PannsBase(
            num_bins, blocks, target="conv_block4.relu1", channels=512, embedding=512, shrink=16
        )
        super().__init__(base, num_classes, num_bins)
