"""Interface of front ends: waveform to cells, changed cells to waveform, axes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from audiointerp.arguments import build
from audiointerp.processing.view import Axes, View
from audiointerp.registry import Registry

FRONT_ENDS: Registry[type[FrontEnd]] = Registry("front end")


class FrontEnd(nn.Module, ABC):
    """Waveform to cells and back, differentiable in both directions.

    A subclass gives the attributes below, `analyse`, `synthesise`, `frequencies`, `num_frames`,
    `times` and `settings`, and is registered in `FRONT_ENDS` under its class name.

    Attributes
    ----------
    sample_rate : int
        Of the waveforms, Hz.
    unit : str
        Of the cells: "dB" or "power".
    floor : float
        The lowest value a cell can have.
    num_bins : int
        Frequency bins of the cells.
    removal_db : float
        What cells that are all at the floor leave of a sound at most, dB relative to it.
    feeds_waveform : bool
        Whether the network takes the sound that the cells stand for instead of the cells.
    longest : float or None
        Seconds of sound that the network takes at most, where shorter clips stay as they are: what
        follows their end in the network's input is no cell. Recordings are cut into windows of this
        length. None: any length.
    """

    sample_rate: int
    unit: str
    floor: float
    num_bins: int
    removal_db: float = -60.0
    feeds_waveform: bool = False
    longest: float | None = None

    @abstractmethod
    def analyse(self, waveform: Tensor) -> View:
        """Return the view of a batch of waveforms (batch, 1, samples) at `sample_rate`."""

    @abstractmethod
    def synthesise(self, view: View, cells: Tensor) -> Tensor:
        """Return the waveforms (batch, 1, samples) that changed cells stand for.

        Unchanged cells return the view's waveform bit for bit.
        """

    @property
    @abstractmethod
    def frequencies(self) -> Tensor:
        """Centre frequency of every bin, Hz, shape (bins,)."""

    @abstractmethod
    def num_frames(self, samples: int) -> int:
        """Return the number of frames of a waveform of `samples` samples."""

    @abstractmethod
    def times(self, frames: int) -> Tensor:
        """Return the centre of each of `frames` frames, seconds, shape (frames,)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what `build_processor` needs to make this front end again, ready for JSON."""

    @property
    def log(self) -> bool:
        """Whether the cells are in decibels."""
        return self.unit == "dB"

    def axes(self, samples: int) -> Axes:
        """Return the frequencies (Hz) and times (seconds) of the cells of so many samples."""
        return Axes(self.frequencies, self.times(self.num_frames(samples)))

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the cells of a batch of waveforms, (batch, 1, bins, frames)."""
        return self.analyse(waveform).cells

    def network_input(self, view: View | None, cells: Tensor) -> Tensor:
        """Return what the network takes for these cells: the cells, unless overridden."""
        del view
        return cells

    def contributions(self, multipliers: Tensor, view: View, reference: View) -> Tensor:
        """Spread multipliers of the network's input over the cells.

        Parameters
        ----------
        multipliers : Tensor
            Change of the network's output for each unit of its input between the clips and the
            reference, shaped like ``network_input``.
        view : View
            Of the clips.
        reference : View
            Of one clip, to compare each of them with.

        Returns
        -------
        Tensor, shape (batch, 1, bins, frames)
            For each clip it sums to Σ multipliers·(input - reference input).
        """
        return multipliers * (view.cells - reference.cells)


def build_processor(settings: dict[str, Any]) -> FrontEnd:
    """Make a front end from its `settings()`.

    Raises
    ------
    UnknownNameError
        If no front end has that name.
    ValueError
        If a setting is not one of that front end's.
    """
    kwargs = dict(settings)
    if "name" not in kwargs:
        raise ValueError(f"front end settings without a 'name': {settings!r}")
    front_end = FRONT_ENDS[str(kwargs.pop("name"))]
    try:
        return build(front_end, front_end.__name__, kwargs)
    except (OverflowError, RuntimeError) as error:
        raise ValueError(f"settings {kwargs} do not fit {front_end.__name__}: {error}") from error
