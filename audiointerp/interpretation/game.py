"""The value function of perturbation methods: the model's output for perturbed clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.device import double_device, to_double
from audiointerp.interpretation.base import pick
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View

Output = Literal["probability", "logit"]
OUTPUTS: tuple[Output, ...] = ("probability", "logit")


class Request(NamedTuple):
    """Versions of one clip whose values are wanted.

    Attributes
    ----------
    clip : int
        Position of the clip in the batch.
    count : int
        Number of versions.
    versions : callable
        ``versions(start, stop)`` returns some of them, (stop - start, 1, freq, time).
    """

    clip: int
    count: int
    versions: Callable[[int, int], Tensor]


class Game:
    """The explained class's probability, or logit, of versions of clips.

    Versions go through the model in full batches, which may end one clip and begin the next one,
    and are made when their batch is: memory is bounded by the batch.

    Parameters
    ----------
    model : Classifier
        In evaluation mode.
    view : View
        The clips; a waveform network takes the sound of the versions from it.
    target : Tensor of int64, shape (batch,)
    rows : int
        Versions in a batch.
    output : {"probability", "logit"}
    name : str
        Of the progress bar.
    progress : bool
        Whether there is one.
    """

    def __init__(
        self,
        model: Classifier,
        view: View,
        target: Tensor,
        *,
        rows: int,
        output: Output = "probability",
        name: str = "versions",
        progress: bool = False,
    ) -> None:
        self.model, self.view, self.output = model, view, output
        self.target = target.to(double_device(view.cells.device))
        self.rows, self.name, self.progress = rows, name, progress

    def values(self, requests: Iterable[Request], *, total: int | None = None) -> list[Tensor]:
        """Return the value of every version, a Tensor of float64 (count,) for each request.

        Parameters
        ----------
        requests : iterable of Request
            Taken one after the other, as the model needs them.
        total : int, optional
            Number of versions, for the progress bar.
        """
        counts: list[int] = []
        values: list[Tensor] = []
        with tqdm(
            total=total, desc=self.name, unit="version", leave=False, disable=not self.progress
        ) as bar:
            for cells, clips in self._batches(requests, counts):
                values.append(self._score(cells, clips))
                bar.update(len(cells))
        return list(torch.cat(values).split(counts)) if values else []

    def _batches(
        self, requests: Iterable[Request], counts: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield full batches of versions and their clips' positions; collect the counts."""
        waiting: list[Tensor] = []
        clips: list[Tensor] = []
        room = self.rows
        for request in requests:
            counts.append(request.count)
            start = 0
            while start < request.count:
                stop = min(start + room, request.count)
                waiting.append(request.versions(start, stop))
                clips.append(torch.full((stop - start,), request.clip))
                room -= stop - start
                start = stop
                if room == 0:
                    yield torch.cat(waiting), torch.cat(clips)
                    waiting, clips, room = [], [], self.rows
        if waiting:
            yield torch.cat(waiting), torch.cat(clips)

    def _score(self, cells: Tensor, clips: Tensor) -> Tensor:
        sound = self.view[clips.to(cells.device)] if self.model.needs_view else None
        logits = self.model.logits(cells, sound)
        wanted = self.target[clips.to(self.target.device)]
        if self.output == "logit":
            return pick(to_double(logits), wanted)
        return pick(self.model.probabilities(logits), wanted)
