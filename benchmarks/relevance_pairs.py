"""Relevance propagation next to zennit's."""

from __future__ import annotations

import torch
from pairs import PAIRS, Call, Pair
from sides import Side
from torch import Tensor
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat


def by_zennit(side: Side) -> Call:
    """Return zennit's loop for `EpsilonPlusFlat`, with batch norm merged."""

    def explain(clips: Tensor) -> Tensor:
        composite = EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
        maps = []
        with Gradient(side.model, composite) as attributor:
            for clip in clips.split(1):
                given = clip.clone().requires_grad_()
                _, found = attributor(given, lambda logits: logits * (logits == logits[:, :1]))
                maps.append(found.detach())
        return torch.cat(maps)

    return explain


# zennit has no rule for a maximum over time, and lets biases take a share.
PAIRS["lrp_flat"] = Pair("zennit", by_zennit, same=False)
