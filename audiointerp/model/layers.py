"""Small layers that PANNs write as plain tensor calls, made modules so that methods can see them."""

from __future__ import annotations

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
