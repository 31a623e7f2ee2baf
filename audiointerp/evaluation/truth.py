"""Ground truth of a batch of clips: their parts, events and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps

import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.evaluation.arithmetic import si_sdr, smallest
from audiointerp.processing import View

COUNTED_DB = 60.0
"""Cells in which both parts lie further below the clip's loudest cell are not counted."""

ACTIVE_DB = 30.0
"""Frames in which the foreground lies further below its strongest frame are without the event."""

FRAME_SECONDS = 0.02
"""What the level of a frame is taken over, or the time between two frames where that is longer."""


def _once(compute: Callable[[Truth], Tensor]) -> cached_property[Tensor]:
    """Make a property that is computed once: for some clips of a batch, with the whole batch."""

    @wraps(compute)
    def get(truth: Truth) -> Tensor:
        if truth.origin is None:
            return compute(truth)
        whole, clips = truth.origin
        return _of_clips(getattr(whole, compute.__name__), clips)

    return cached_property(get)


_UNKNOWN_PARTS = "the parts of the clips are not known: is the set without them?"


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
    boxes : Tensor of bool, shape (batch, 1, bins, frames), optional
        Cells in which the event sounds, as annotated by boxes in time and frequency; they are what
        a map is compared with, whatever the parts are.
    origin : (Truth, slice or Tensor), optional
        The batch that these clips are of, and their positions: what is computed of the parts is
        taken from there.

    Raises
    ------
    ValueError
        If only one part is given, the two differ in shape, or the boxes are no cells of bool.
    """

    foreground: View | None = None
    background: View | None = None
    log: bool = True
    active: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    origin: tuple[Truth, slice | Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.foreground is None) != (self.background is None):
            raise ValueError("only one part of the clips is given: expected both or none")
        if self.has_parts and self.foreground.cells.shape != self.background.cells.shape:
            raise ValueError(
                f"the foreground has cells of shape {tuple(self.foreground.cells.shape)}, the "
                f"background {tuple(self.background.cells.shape)}: expected the two parts of the "
                "same clips"
            )
        boxes = self.boxes
        if boxes is not None and (boxes.dtype != torch.bool or boxes.ndim != 4):
            raise ValueError(
                f"the boxes are {boxes.dtype} of shape {tuple(boxes.shape)}: expected bool "
                "(batch, 1, bins, frames); event_cells makes them"
            )

    @property
    def has_parts(self) -> bool:
        """Whether foreground and background are known."""
        return self.foreground is not None

    @property
    def has_cells(self) -> bool:
        """Whether it is known in which cells the event sounds: from its parts or from boxes."""
        return self.has_parts or self.boxes is not None

    @_once
    def advantage_db(self) -> Tensor:
        """Return how far each cell's foreground is above its background, dB.

        Shape (batch, 1, bins, frames).
        """
        foreground, background = self._levels()
        return foreground - background

    @_once
    def binary(self) -> Tensor:
        """Return the ideal binary mask: where the foreground is louder, or the boxes; bool.

        Shape (batch, 1, bins, frames).

        References
        ----------
        D. Wang, "On ideal binary mask as the computational goal of auditory scene analysis", 2005.
        """
        return self.advantage_db > 0 if self.boxes is None else self.boxes

    @_once
    def ratio(self) -> Tensor:
        """Return the ideal ratio mask: the foreground's share of each cell's power, in [0, 1].

        Shape (batch, 1, bins, frames).

        References
        ----------
        S. Srinivasan et al., "Binary and ratio time-frequency masks for robust speech
        recognition", Speech Communication 48, 2006.
        """
        return (self.advantage_db * (math.log(10) / 10)).sigmoid()

    @_once
    def counted(self) -> Tensor:
        """Return the cells that localisation is measured on, bool (batch, 1, bins, frames).

        Those in which foreground or background is within 60 dB of the clip's loudest cell of
        either: quieter ones are inaudible, and which part is the louder there is chance. Where
        boxes are given, all.
        """
        if self.boxes is not None:
            return torch.ones_like(self.boxes)
        louder = torch.maximum(*self._levels())
        return louder >= louder.amax(dim=(1, 2, 3), keepdim=True) - COUNTED_DB

    @_once
    def mixture_sdr(self) -> Tensor:
        """Return the SI-SDR of the clips as they are, dB, float64 (batch,); see `si_sdr`."""
        if self.foreground is None or self.background is None:
            raise ValueError(_UNKNOWN_PARTS)
        foreground, background = self.foreground.waveform, self.background.waveform
        return si_sdr(foreground + background, foreground)

    def is_of(self, target: Tensor) -> Tensor:
        """Return whether each clip has the class that is explained.

        Parameters
        ----------
        target : Tensor of int64, shape (batch,)

        Returns
        -------
        Tensor of bool, shape (batch,)
            True throughout where the clips' labels are not known.
        """
        if self.labels is None:
            return torch.ones_like(target, dtype=torch.bool)
        return self.labels.to(target.device).gather(1, target[:, None])[:, 0]

    def _levels(self) -> tuple[Tensor, Tensor]:
        """Return the cells of both parts in dB.

        Raises
        ------
        ValueError
            If the parts are not known.
        """
        if self.foreground is None or self.background is None:
            raise ValueError(_UNKNOWN_PARTS)
        cells = self.foreground.cells, self.background.cells
        if self.log:
            return cells
        # Cells without power are the smallest number instead of -∞, which has no differences.
        return tuple(10 * power.clamp(min=smallest(power)).log10() for power in cells)

    def __getitem__(self, clips: slice | Tensor) -> Truth:
        """Return the truth of some clips of the batch, by a slice or a tensor of positions."""
        if isinstance(clips, slice) and clips == slice(None):
            return self
        parts = self.foreground, self.background, self.active, self.labels, self.boxes
        front, back, active, labels, boxes = (
            None if part is None else _of_clips(part, clips) for part in parts
        )
        return Truth(front, back, self.log, active, labels, boxes, (self, clips))

    def with_active(self, active: Tensor, boxes: Tensor | None = None) -> Truth:
        """Return the truth with other frames and cells in which the events sound.

        Parameters
        ----------
        active : Tensor of bool, shape (batch, frames)
        boxes : Tensor of bool, shape (batch, 1, bins, frames), optional
            By default those that there are.
        """
        if boxes is None:
            return replace(self, active=active, origin=(self, slice(None)))
        # What is computed of the parts differs from here on.
        return replace(self, active=active, boxes=boxes, origin=None)


def _of_clips(values: Tensor | View, clips: slice | Tensor) -> Tensor | View:
    """Return some clips' entries; what is on the CPU has its positions there."""
    if isinstance(values, Tensor) and isinstance(clips, Tensor):
        return values[clips.to(values.device)]
    return values[clips]


def sounding_frames(waveform: Tensor, times: Tensor, sample_rate: int) -> Tensor:
    """Return the frames in which a sound is there: within 30 dB of its strongest frame.

    The level of a frame is the RMS of the 20 ms around its centre, or of the time from one frame
    to the next where that is longer; the frames of the synthetic set's levels are alike.

    Parameters
    ----------
    waveform : Tensor, shape (batch, 1, samples)
        Such as the foreground of clips.
    times : Tensor, shape (frames,)
        Centre of each frame, seconds.
    sample_rate : int
        Of the waveform, Hz.

    Returns
    -------
    Tensor of bool, shape (batch, frames)
        None of a silent sound.
    """
    energy = to_double(waveform).flatten(1).square()
    total = nn.functional.pad(energy.cumsum(1), (1, 0))
    half = max(FRAME_SECONDS, _step(times)) / 2
    ends = ((times + side).mul(sample_rate).round().long() for side in (-half, half))
    first, last = (each.clamp(0, energy.shape[1]).to(total.device) for each in ends)
    power = (total[:, last] - total[:, first]) / (last - first).clamp(min=1)
    strongest = power.amax(1, keepdim=True)
    return (power >= 10 ** (-ACTIVE_DB / 10) * strongest) & (strongest > 0)


def event_frames(events: Iterable[tuple[float, float]], times: Tensor) -> Tensor:
    """Return the frames that some events overlap.

    A frame lasts half the time to the next one on either side of its centre.

    Parameters
    ----------
    events : iterable of (float, float)
        Onset and offset of each, seconds.
    times : Tensor, shape (frames,)
        Centre of each frame, seconds.

    Returns
    -------
    Tensor of bool, shape (frames,)
    """
    half = _step(times) / 2
    active = torch.zeros_like(times, dtype=torch.bool)
    for onset, offset in events:
        active |= (times - half < offset) & (times + half > onset)
    return active


def event_cells(
    events: Iterable[tuple[float, float, float, float]], frequencies: Tensor, times: Tensor
) -> Tensor:
    """Return the cells that some boxes in time and frequency overlap.

    A frame lasts, and a bin reaches, half the way to the next one on either side of its centre.

    Parameters
    ----------
    events : iterable of (float, float, float, float)
        Onset and offset, seconds, and lowest and highest frequency, Hz, of each.
    frequencies : Tensor, shape (bins,)
        Centre of each bin, Hz, ascending.
    times : Tensor, shape (frames,)
        Centre of each frame, seconds.

    Returns
    -------
    Tensor of bool, shape (bins, frames)
    """
    between = (frequencies[1:] + frequencies[:-1]) / 2
    below = torch.cat([frequencies[:1] * 2 - between[:1], between])
    above = torch.cat([between, frequencies[-1:] * 2 - between[-1:]])
    cells = torch.zeros(len(frequencies), len(times), dtype=torch.bool)
    for onset, offset, low, high in events:
        bins = (below < high) & (above > low)
        cells |= bins.cpu()[:, None] & event_frames([(onset, offset)], times).cpu()
    return cells


def _step(times: Tensor) -> float:
    """Return the seconds from one frame to the next."""
    return float(times[1] - times[0]) if len(times) > 1 else 0.0


def truth_facts(truth: Truth, target: Tensor) -> dict[str, Tensor]:
    """Return what there is to find in each clip, and whether its class is the one explained.

    Parameters
    ----------
    truth : Truth
    target : Tensor of int64, shape (batch,)
        The explained classes.

    Returns
    -------
    dict of str to Tensor of float64, shape (batch,), on the CPU
        ``true_class``: 1 where the clip has the explained class, else 0. ``foreground_share``:
        the share of the counted cells that are of the foreground, which is what AUPRC, relevance
        mass, relevance rank and the pointing game are by chance. ``event_share``: the share of the
        frames in which the event sounds. What is not known is left out.
    """
    facts = {"true_class": truth.is_of(target).cpu().double()}
    if truth.has_cells:
        counted = truth.counted.flatten(1).sum(1)
        found = (truth.binary & truth.counted).flatten(1).sum(1)
        facts["foreground_share"] = found.cpu().double() / counted.cpu()
    if truth.active is not None:
        facts["event_share"] = truth.active.sum(1).cpu().double() / truth.active.shape[1]
    return facts


TRUTH_FACTS = ("true_class", "foreground_share", "event_share")
"""Names of the facts of the truth, as `truth_facts` returns them."""


def why_no_truth(facts: Mapping[str, float]) -> dict[str, str]:
    """Say why one clip's metrics with ground truth have no value.

    Parameters
    ----------
    facts : mapping of str to float
        As `truth_facts` returns them, of one clip.

    Returns
    -------
    dict of str to str
        By what the metrics need, "truth" or "events", a phrase. Empty if all is well.
    """
    if facts.get("true_class") == 0:
        return dict.fromkeys(("truth", "events"), "explains a class that the clip does not have")
    reasons = {
        ("foreground_share", 0.0): ("truth", "no cell is of the foreground"),
        ("foreground_share", 1.0): ("truth", "every cell is of the foreground"),
        ("event_share", 0.0): ("events", "the event sounds in no frame"),
        ("event_share", 1.0): ("events", "the event sounds in every frame"),
    }
    return {need: why for (name, value), (need, why) in reasons.items() if facts.get(name) == value}
