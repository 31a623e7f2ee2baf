"""Masked clips → class probabilities: distinct inputs only, in full batches.

Several of the fourteen masks often coincide (``topK_5`` and ``topK_5_pos``, say, wherever 5 % of
the cells are positive). Equal masks are scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audiointerp.model.classifier import as_classifier
from audiointerp.processing import View
from audiointerp.speed.inference import evaluation_mode, fast_copy
from audiointerp.speed.memory import batch_size_for


class Scorer:
    """Class probabilities of cells, from a copy of the model made for speed.

    Parameters
    ----------
    model : Classifier or Module
        A module maps cells (batch, 1, bins, frames) to softmax logits (batch, classes). Later
        changes of it are not followed: make another scorer.
    batch_size : int, optional
        Most inputs that go through the model at once; by default what suits the device.
    """

    def __init__(self, model: nn.Module, *, batch_size: int | None = None) -> None:
        classifier = as_classifier(model)
        self._original = classifier.network
        self.classifier = classifier.with_network(fast_copy(classifier.network))
        self.batch_size = batch_size

    def __call__(self, cells: Tensor, view: View | None = None) -> Tensor:
        """Return the probabilities in double precision, where 1 - p keeps its digits.

        Parameters
        ----------
        cells : Tensor, shape (batch, 1, bins, frames)
        view : View, optional
            Of the same clips, row by row; waveform networks need it.

        Returns
        -------
        Tensor of float64, shape (batch, classes)

        Raises
        ------
        ValueError
            If a probability is not finite: as a metric it would pass for missing evidence.
        """
        # A model that cannot be copied runs as it is, in whatever mode its owner has left it; and a
        # copy may call what it was copied from.
        with evaluation_mode(self._original), torch.no_grad():
            rows = self.rows(cells)
            logits = []
            for start in range(0, len(cells), rows):
                part = slice(start, start + rows)
                sound = view[part] if view is not None and self.classifier.needs_view else None
                logits.append(self.classifier.logits(cells[part], sound))
            probabilities = self.classifier.probabilities(torch.cat(logits))
        if not probabilities.isfinite().all():
            raise ValueError(
                "the model returns NaN or infinite scores: do its weights or activations overflow, "
                "perhaps in a reduced precision?"
            )
        return probabilities

    def rows(self, cells: Tensor) -> int:
        """Return how many of such inputs go through the model at once."""
        return self.batch_size or batch_size_for(cells)


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

    Positions are on the CPU, where they index tensors of every device.
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
    first = torch.tensor(first)
    is_first = first == torch.arange(count)[:, None]
    numbers = (is_first.flatten().cumsum(0) - 1).view(count, batch).gather(0, first)
    which, clip = is_first.nonzero(as_tuple=True)
    return DistinctMasks(stacked[which, clip], clip, dict(zip(masks, numbers, strict=True)))


def score_masks(
    scorer: Scorer,
    masks: DistinctMasks,
    masked: Callable[[Tensor, Tensor], tuple[Tensor, View | None]],
) -> tuple[Tensor, Tensor]:
    """Return the class probabilities of every distinct masked-in and masked-out clip.

    Parameters
    ----------
    scorer : Scorer
    masks : DistinctMasks
    masked : callable
        ``masked(clip, mask)`` takes some clips of the batch (rows,) and their masks (rows, 1,
        bins, frames). It returns the masked-in cells followed by the masked-out ones, (2·rows, 1,
        bins, frames), and the view of their sound where the scorer's classifier needs it.

    Returns
    -------
    inside, outside : Tensor of float64, shape (distinct, classes)
    """
    # Half as many masks as rows go through the model: each makes two.
    size = max(1, scorer.rows(masks.masks) // 2)
    inside, outside = [], []
    with torch.no_grad():
        for clip, mask in zip(masks.clip.split(size), masks.masks.split(size), strict=True):
            both = scorer(*masked(clip, mask))
            inside.append(both[: len(clip)])
            outside.append(both[len(clip) :])
    return torch.cat(inside), torch.cat(outside)
