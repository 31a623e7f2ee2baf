"""Masked clips → class probabilities: every distinct input once, in full batches; a batch's scores.

Several of the fourteen masks often coincide (``topK_5`` and ``topK_5_pos``, say, wherever 5 % of
the cells are positive). What is equal is scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from audiointerp.processing import Analysis
from audiointerp.speed.inference import evaluation_mode, fast_copy
from audiointerp.speed.memory import batch_size_for


class Scorer:
    """Class probabilities of features, from a copy of the model made for speed.

    The model itself is run where it cannot be copied, in evaluation mode, and left as it was found.

    Parameters
    ----------
    model : Module
        Features (batch, 1, bins, frames) to logits (batch, classes). Later changes of it are not
        followed: make another scorer.
    batch_size : int, optional
        Most features that go through the model at once; by default what suits the device.
    """

    def __init__(self, model: nn.Module, *, batch_size: int | None = None) -> None:
        self.model = fast_copy(model)
        self._original = model
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Return the probabilities in double precision, where 1 - p keeps its digits.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, bins, frames)

        Returns
        -------
        Tensor of float64, shape (batch, classes)
        """
        # A copy too may call what belongs to the original, from a closure for instance.
        with evaluation_mode(self._original):
            logits = [self.model(chunk) for chunk in features.split(self.rows(features))]
        return torch.cat(logits).double().softmax(1)

    def rows(self, features: Tensor) -> int:
        """Return how many of such features go through the model at once."""
        return self.batch_size or batch_size_for(features)


@dataclass(frozen=True)
class DistinctMasks:
    """The masks of a batch of clips without repetitions.

    Attributes
    ----------
    masks : Tensor, shape (distinct, 1, bins, frames)
        No two of one clip are equal.
    clip : Tensor of int64, shape (distinct,)
        Position in the batch of the clip that each belongs to.
    place : dict of str to Tensor of int64, shape (batch,)
        Where in `masks` the mask of that name is, for each clip.
    """

    masks: Tensor
    clip: Tensor
    place: dict[str, Tensor]


def distinct_masks(masks: Mapping[str, Tensor]) -> DistinctMasks:
    """Find the masks of each clip that are equal, cell by cell.

    Parameters
    ----------
    masks : mapping of str to Tensor, shape (batch, 1, bins, frames)
        As `audiointerp.masking.make_masks` returns them.

    Returns
    -------
    DistinctMasks
    """
    stacked = torch.stack(list(masks.values()))
    flat = stacked.flatten(2)
    count, batch = flat.shape[:2]
    # Equal masks have equal sums: only where these are equal is every cell looked at.
    sums = flat.sum(2)
    first = [[number] * batch for number in range(count)]
    for clip, of_clip in enumerate(sums.T.tolist()):
        for later, earlier in ((b, a) for b in range(count) for a in range(b)):
            alike = first[later][clip] == later and of_clip[earlier] == of_clip[later]
            if alike and torch.equal(flat[earlier, clip], flat[later, clip]):
                first[later][clip] = earlier
    first = torch.tensor(first, device=flat.device)
    is_first = first == torch.arange(count, device=flat.device)[:, None]
    numbers = (is_first.flatten().cumsum(0) - 1).view(count, batch).gather(0, first)
    which, clip = is_first.nonzero(as_tuple=True)
    return DistinctMasks(stacked[which, clip], clip, dict(zip(masks, numbers, strict=True)))


def score_masks(
    scorer: Scorer,
    masks: DistinctMasks,
    masked: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return the class probabilities of every distinct masked-in and masked-out clip.

    Parameters
    ----------
    scorer : Scorer
    masks : DistinctMasks
    masked : callable
        ``masked(clip, mask)`` returns the masked-in and masked-out features, (rows, 1, bins,
        frames), for some clips of the batch (rows,) and their masks (rows, 1, bins, frames).

    Returns
    -------
    inside, outside : Tensor of float64, shape (distinct, classes)
    """
    # Half as many masks as rows go through the model: each makes two.
    size = max(1, scorer.rows(masks.masks) // 2)
    inside, outside = [], []
    with torch.no_grad():
        for clip, mask in zip(masks.clip.split(size), masks.masks.split(size), strict=True):
            both = scorer(torch.cat(masked(clip, mask)))
            inside.append(both[: len(clip)])
            outside.append(both[len(clip) :])
    return torch.cat(inside), torch.cat(outside)


@dataclass(frozen=True)
class Scores:
    """A batch of clips, interpreted.

    Attributes
    ----------
    analysis : Analysis
        Features, STFT and waveforms.
    probabilities : Tensor, shape (batch, classes), float64
    target : Tensor, shape (batch,)
        The explained classes.
    attribution : Tensor, shape (batch, 1, bins, frames)
    diagnostics : dict of str to Tensor of shape (batch,)
        What the method says of its own maps, such as SHAP's additivity residual.
    masks : dict of str to Tensor, shape (batch, 1, bins, frames)
    metrics : dict
        ``metrics[place, mask][name]`` of shape (batch,), place "features" or "audio".
    masked_probabilities : dict
        ``masked_probabilities[place, mask]`` = (p_in, p_out) of every class, (batch, classes).
    """

    analysis: Analysis
    probabilities: Tensor
    target: Tensor
    attribution: Tensor
    diagnostics: dict[str, Tensor]
    masks: dict[str, Tensor]
    metrics: dict[tuple[str, str], dict[str, Tensor]]
    masked_probabilities: dict[tuple[str, str], tuple[Tensor, Tensor]]

    def metrics_of(self, clip: int, on: str) -> pd.DataFrame:
        """Return one clip's metrics, a row for each mask, measured on features or sound."""
        rows = {
            mask: {name: float(value[clip]) for name, value in values.items()}
            for (place, mask), values in self.metrics.items()
            if place == on
        }
        return pd.DataFrame(rows).T.rename_axis("mask")

    def probabilities_of(self, clip: int, on: str, classes: Sequence[str]) -> pd.DataFrame:
        """Return what one clip's masked parts are taken for, a row for each mask and part."""
        rows = {
            (mask, part): values[clip].cpu().numpy()
            for (place, mask), masked in self.masked_probabilities.items()
            for part, values in zip(("in", "out"), masked, strict=True)
            if place == on
        }
        index = pd.MultiIndex.from_tuples(rows, names=["mask", "part"])
        return pd.DataFrame(np.stack(list(rows.values())), index, list(classes))
