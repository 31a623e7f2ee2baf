"""Layers shared by PANNs models; every activation and pooling is a module that methods can see."""

from __future__ import annotations

import math

from torch import Tensor, nn


class MaxOverTime(nn.Module):
    """Maximum over the last axis, as a module so that DeepLIFT can give it a rule."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum over time.

        Parameters
        ----------
        x : Tensor, shape (batch, channels, time)

        Returns
        -------
        Tensor, shape (batch, channels)
        """
        return x.amax(dim=-1)


class ConvBlock(nn.Module):
    """Two convolutions with batch norm and ReLU, then average pooling and dropout.

    The state-dict keys are those of PANNs' ``ConvBlock`` and ``ConvBlock5x5``. Theirs can pool by
    ``"max"``, ``"avg"`` or ``"avg+max"``, but every published model here calls it with ``"avg"``.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel : int, default 3
        Width of the square kernels; odd, so that the padding keeps the size.
    convolutions : int, default 2
        1 (as in Cnn6) or 2.
    pool : int, default 2
        Both time and frequency shrink by this factor; 1 keeps them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        convolutions: int = 2,
        pool: int = 2,
    ) -> None:
        super().__init__()
        self.convolutions = convolutions
        for number in range(1, convolutions + 1):
            conv = nn.Conv2d(
                in_channels if number == 1 else out_channels,
                out_channels,
                kernel,
                padding=kernel // 2,
                bias=False,
            )
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(out_channels))
            self.add_module(f"relu{number}", nn.ReLU())
        self.pool = average_pool(pool)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, time, freq) to (batch, out_channels, time/pool, freq/pool)."""
        for number in range(1, self.convolutions + 1):
            for kind in ("conv", "bn", "relu"):
                x = getattr(self, f"{kind}{number}")(x)
        return self.dropout(self.pool(x))


def average_pool(factor: int) -> nn.Module:
    """Return average pooling by `factor` in time and frequency; an `nn.Identity` for 1."""
    return nn.AvgPool2d(factor) if factor > 1 else nn.Identity()


def scale_channels(channels: int, width: float) -> int:
    """Return `channels` times `width`, to the nearest multiple of 8 and at least 8.

    Multiples of 8 keep the CPU's and GPU's fast convolution kernels usable. Halves round up.

    Raises
    ------
    ValueError
        If `width` is not a positive, finite number.

    Examples
    --------
    >>> [scale_channels(c, 3 / 16) for c in (64, 128, 256)]
    [16, 24, 48]
    """
    if isinstance(width, bool) or not (math.isfinite(channels * width) and width > 0):
        raise ValueError(
            f"width must be a positive number (1.0 is the published size), got {width}"
        )
    return max(8, 8 * math.floor(channels * width / 8 + 0.5))


def initialise(module: nn.Module) -> None:
    """Initialise one layer as PANNs do: Xavier-uniform weights, zero biases; for `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
