"""A batch of clips as cells that can be attributed, masked and turned back into sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Axes(NamedTuple):
    """What the cells of a view are of.

    Attributes
    ----------
    frequencies : Tensor, shape (bins,)
        Centre of every frequency bin, Hz.
    times : Tensor, shape (frames,)
        Centre of every frame, seconds.
    """

    frequencies: Tensor
    times: Tensor


@dataclass(frozen=True)
class View:
    """A batch of clips in a form that can be resynthesised.

    Attributes
    ----------
    cells : Tensor, shape (batch, 1, bins, frames)
        What is attributed and masked, in the front end's unit.
    waveform : Tensor, shape (batch, 1, samples), optional
        The clips. None for cells that come without their sound, which spectrogram networks can
        be explained on, but which cannot be made audible.
    context : object, optional
        What the front end keeps to resynthesise, such as the STFT with its phase. Indexable by
        clip like a tensor.
    """

    cells: Tensor
    waveform: Tensor | None = None
    context: Any = None

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.cells)

    def __getitem__(self, clips: slice | Tensor) -> View:
        """Return the view of some clips of the batch, by a slice or a tensor of positions."""
        waveform = None if self.waveform is None else self.waveform[clips]
        context = None if self.context is None else self.context[clips]
        return View(self.cells[clips], waveform, context)

    def without_context(self) -> View:
        """Return the view without its context, which takes most of its memory."""
        return View(self.cells, self.waveform)

    def to(self, like: Tensor) -> View:
        """Return the view on a tensor's device, its cells and sound of the tensor's dtype."""
        waveform = None if self.waveform is None else self.waveform.to(like)
        context = self.context
        if isinstance(context, Tensor):
            kind = like.dtype.to_complex() if context.is_complex() else like.dtype
            context = context.to(like.device, kind)
        return View(self.cells.to(like), waveform, context)
