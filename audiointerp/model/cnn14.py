"""PANNs Cnn14: six blocks of two 3x3 convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from audiointerp.model.base import PannsBase, TransferModel
from audiointerp.model.layers import ConvBlock, scale_channels


class TransferCnn14(TransferModel):
    """PANNs Cnn14 with a classifier of its own (80.75 M parameters for 527 classes, 64 bins).

    Parameters
    ----------
    num_classes : int
        Number of classes.
    num_bins : int
        Frequency bins of the features, at least 32.
    width : float, default 1.0
        Multiplies every channel count, 64 to 2048, and the embedding's size; each is then rounded
        to the nearest multiple of 8 and is at least 8. Parameters go with its square: 5 M at 1/4,
        0.3 M at 1/16. Only 1.0 fits the published AudioSet weights.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    name = "Cnn14"

    def __init__(self, num_classes: int, num_bins: int, width: float = 1.0) -> None:
        sizes = [1] + [scale_channels(64 * 2**block, width) for block in range(6)]
        blocks = {
            f"conv_block{number}": ConvBlock(before, after, pool=1 if number == 6 else 2)
            for number, (before, after) in enumerate(pairwise(sizes), start=1)
        }
        base = PannsBase(
            num_bins, blocks, target="conv_block6.relu2", channels=sizes[-1], embedding=sizes[-1]
        )
        super().__init__(base, num_classes, num_bins)
        self.width = width

    def settings(self) -> dict[str, Any]:
        """Return what `build_model` needs to build the same network, ready for JSON."""
        return super().settings() | {"width": self.width}
