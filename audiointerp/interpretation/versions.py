"""Gradients at many versions of each clip: points on a path, noisy copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.interpretation.base import Interpreter, choose_target, class_gradient, pick
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.speed.memory import batch_size_for


class Version(NamedTuple):
    """A version of a clip.

    Attributes
    ----------
    cells : Tensor, shape (1, freq, time)
    factor : Tensor, shape (1, freq, time), or float
        What its gradient counts for.
    """

    cells: Tensor
    factor: Tensor | float = 1.0


class VersionsInterpreter(Interpreter):
    """A method that takes the gradient at many versions of every clip.

    A batch holds as many versions as go through a backward pass at once; it may end one clip and
    begin the next. The versions of a clip are made when they are needed.

    Attributes
    ----------
    progress : bool
        Whether to show a bar over the versions.
    """

    progress: bool = False

    def _logits_of(
        self, model: Classifier, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return each clip's logit of its class and the classes."""
        rows = self.batch_size or batch_size_for(view.cells)
        with torch.no_grad():
            parts = (view[start : start + rows] for start in range(0, len(view), rows))
            logits = torch.cat([model.logits(part.cells, part) for part in parts])
        target = choose_target(logits, target, len(view))
        return pick(logits, target), target

    def _logits_at(
        self,
        model: Classifier,
        view: View,
        target: Tensor,
        versions: Callable[[int], Iterable[Tensor]],
    ) -> Tensor:
        """Return the logits of the clips' classes at some versions, (versions, batch).

        `versions` returns the cells of those of the clip in a place of the view, as many for each.
        """
        found: list[Tensor] = []
        rows = self.batch_size or batch_size_for(view.cells)
        pairs = ((clip, Version(cells)) for clip in range(len(view)) for cells in versions(clip))
        with torch.no_grad():
            for clips, batch in _batches(pairs, rows):
                cells, part, wanted = self._stack(view, target, clips, batch)
                found.append(pick(model.logits(cells, part), wanted))
        return torch.cat(found).reshape(len(view), -1).T

    def _gradients_at(
        self,
        model: Classifier,
        view: View,
        target: Tensor,
        versions: Callable[[int], Iterable[Version]],
        count: int,
    ) -> Iterator[tuple[int, Tensor, list[Version]]]:
        """Yield the gradients at successive versions of a clip, clip after clip.

        Parameters
        ----------
        model : Classifier
        view : View
        target : Tensor, shape (batch,)
        versions : callable
            Returns the versions of the clip in a place of the view.
        count : int
            How many there are of each clip, for the progress bar.

        Yields
        ------
        clip : int
        gradients : Tensor, shape (some, 1, freq, time)
            In single precision or better.
        versions : list of Version
        """
        rows = self.batch_size or batch_size_for(view.cells, gradient=True)
        pairs = ((clip, each) for clip in range(len(view)) for each in versions(clip))
        with tqdm(
            total=len(view) * count,
            desc=self.name,
            unit="version",
            leave=False,
            disable=not self.progress,
        ) as bar:
            for clips, batch in _batches(pairs, rows):
                cells, part, wanted = self._stack(view, target, clips, batch)
                gradients, _ = class_gradient(model, part, wanted, cells)
                gradients = gradients.to(accumulated(gradients.dtype))
                start = 0
                for clip in dict.fromkeys(clips):
                    stop = start + clips.count(clip)
                    yield clip, gradients[start:stop], batch[start:stop]
                    start = stop
                bar.update(len(batch))

    def _stack(
        self, view: View, target: Tensor, clips: list[int], batch: list[Version]
    ) -> tuple[Tensor, View, Tensor]:
        """Return the cells of versions, the view of their clips and their classes."""
        cells = torch.stack([each.cells for each in batch]).to(view.cells.dtype)
        places = torch.tensor(clips, device=cells.device)
        part = view[places] if self.classifier.needs_view else View(cells)
        return cells, part, target[places]


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that sums over versions are taken in: single or better."""
    return torch.promote_types(dtype, torch.float32)


def weighted_sum(found: Iterable[tuple[int, Tensor, list[Version]]], cells: Tensor) -> Tensor:
    """Return Σ factor·gradient over each clip's versions, in single precision or better.

    Parameters
    ----------
    found : iterable
        What `VersionsInterpreter._gradients_at` yields.
    cells : Tensor, shape (batch, 1, freq, time)
        Of the clips.
    """
    total = torch.zeros_like(cells, dtype=accumulated(cells.dtype))
    for clip, gradients, versions in found:
        for gradient, version in zip(gradients, versions, strict=True):
            total[clip] += version.factor * gradient
    return total


def _batches(
    pairs: Iterable[tuple[int, Version]], rows: int
) -> Iterator[tuple[list[int], list[Version]]]:
    """Yield clips and versions, `rows` at a time."""
    clips: list[int] = []
    batch: list[Version] = []
    for clip, version in pairs:
        clips.append(clip)
        batch.append(version)
        if len(batch) == rows:
            yield clips, batch
            clips, batch = [], []
    if batch:
        yield clips, batch
