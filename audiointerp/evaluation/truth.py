"""What is known to be true of a batch of clips: their parts, their events and their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from audiointerp.evaluation.arithmetic import smallest
from audiointerp.processing import View

COUNTED_DB = 60.0
"""Cells in which both parts lie further below the clip's loudest cell are not counted."""

_DERIVED = ("advantage_db", "binary", "ratio", "counted")
"""What is computed of the parts, one entry per clip."""


@dataclass(frozen=True)
class Truth:
    """What is known of a batch of clips, one entry per clip; None where it is not known.

    Attributes
    ----------
    foreground, background : View, optional
        Each part of the clips analysed alone, both or none. Their waveforms sum to the clips.
    log : bool
        Whether their cells are in dB; otherwise in power.
    active : Tensor of bool, shape (batch, frames), optional
        Frames in which the event sounds.
    labels : Tensor of bool, shape (batch, classes), optional
        The classes of the classifier that each clip truly has.

    Raises
    ------
    ValueError
        If only one part is given, or the two differ in shape.
    """

    foreground: View | None = None
    background: View | None = None
    log: bool = True
    active: Tensor | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.foreground is None) != (self.background is None):
            raise ValueError("only one part of the clips is given: expected both or none")
        if self.has_parts and self.foreground.cells.shape != self.background.cells.shape:
            raise ValueError(
                f"the foreground has cells of shape {tuple(self.foreground.cells.shape)}, the "
                f"background {tuple(self.background.cells.shape)}: expected the two parts of the "
                "same clips"
            )

    @property
    def has_parts(self) -> bool:
        """Whether foreground and background are known."""
        return self.foreground is not None

    @cached_property
    def advantage_db(self) -> Tensor:
        """How far each cell's foreground is above its background, dB: (batch, 1, bins, frames)."""
        foreground, background = self._levels()
        return foreground - background

    @cached_property
    def binary(self) -> Tensor:
        """The ideal binary mask, bool (batch, 1, bins, frames): where the foreground is louder.

        References
        ----------
        D. Wang, "On ideal binary mask as the computational goal of auditory scene analysis", 2005.
        """
        return self.advantage_db > 0

    @cached_property
    def ratio(self) -> Tensor:
        """The ideal ratio mask: the foreground's share of both parts' power in each cell, [0, 1].

        Shape (batch, 1, bins, frames).

        References
        ----------
        S. Srinivasan et al., "Binary and ratio time-frequency masks for robust speech
        recognition", Speech Communication 48, 2006.
        """
        return (self.advantage_db * (math.log(10) / 10)).sigmoid()

    @cached_property
    def counted(self) -> Tensor:
        """The cells that localisation is measured on, bool (batch, 1, bins, frames).

        Those in which foreground or background is within 60 dB of the clip's loudest cell of
        either: quieter ones are inaudible, and which part is the louder there is chance.
        """
        louder = torch.maximum(*self._levels())
        return louder >= louder.amax(dim=(1, 2, 3), keepdim=True) - COUNTED_DB

    def _levels(self) -> tuple[Tensor, Tensor]:
        """Return the cells of both parts in dB.

        Raises
        ------
        ValueError
            If the parts are not known.
        """
        if self.foreground is None or self.background is None:
            raise ValueError("the parts of the clips are not known: is the set without them?")
        cells = self.foreground.cells, self.background.cells
        if self.log:
            return cells
        # Cells without power are the smallest number instead of -∞, which has no differences.
        return tuple(10 * power.clamp(min=smallest(power)).log10() for power in cells)

    def __getitem__(self, clips: slice | Tensor) -> Truth:
        """Return the truth of some clips of the batch, by a slice or a tensor of positions."""
        if isinstance(clips, slice) and clips == slice(None):
            return self
        parts = self.foreground, self.background, self.active, self.labels
        front, back, active, labels = (None if part is None else part[clips] for part in parts)
        some = Truth(front, back, self.log, active, labels)
        # What is computed already is not computed again.
        there = {name: self.__dict__[name] for name in _DERIVED if name in self.__dict__}
        some.__dict__.update({name: values[clips] for name, values in there.items()})
        return some
