"""Occlusion: how far the class's probability falls when a part of the clip is hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import METHODS, check_whole
from audiointerp.interpretation.baseline import Base
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.game import Game, Output, Request
from audiointerp.interpretation.hidden import Filling
from audiointerp.interpretation.perturbation import PerturbationInterpreter
from audiointerp.processing import View

Size = tuple[int, int]


@METHODS.register("occlusion")
class OcclusionInterpreter(PerturbationInterpreter):
    """A window slides over time and frequency and hides what it covers.

    A cell's attribution is the mean, over the windows that cover it, of p(clip) - p(clip with the
    window hidden): positive where hiding it takes something from the class.

    Windows begin at multiples of the stride, as many as are needed to reach the last cell; the
    last ones are cut off at the edge. The diagnostic of `explain` is ``"samples"``, the number of
    versions, the whole clip included.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    window : tuple of int, optional
        Bins and frames of the window; by default an eighth of the bins and a sixteenth of the
        frames, rounded up.
    stride : tuple of int, optional
        Bins and frames from one window to the next, at most the window's; by default half of the
        window, rounded up.
    hide : {"base", "road"} or Filling, default "base"
        What hidden cells become; see `audiointerp.interpretation.hidden`.
    base : float or callable, default -100.0
        The masking base in the features' unit; see `audiointerp.interpretation.baseline.Base`.
    output : {"probability", "logit"}, default "probability"
        Whose fall is measured.
    batch_size : int, optional
        Versions per forward pass, of one or several clips; by default what suits the device.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the versions.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or the stride is larger than the window, which
        leaves cells out. In `attribute`, if the window is larger than the clip.

    References
    ----------
    M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
    """

    name = "occlusion"
    facts = Facts(
        family="perturbation",
        passes="about 467 forward",
        source="Zeiler and Fergus, ECCV 2014",
        fails="Misses what is there twice: hiding one of two equal sounds changes little",
    )

    def __init__(
        self,
        model: nn.Module,
        *,
        window: Size | None = None,
        stride: Size | None = None,
        hide: str | Filling = "base",
        base: Base = -100.0,
        output: Output = "probability",
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            hide=hide,
            base=base,
            output=output,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
            progress=progress,
        )
        self._check_needs_no_parts()
        self.window = None if window is None else _check_size("window", window)
        self.stride = None if stride is None else _check_size("stride", stride)
        if self.window is not None and self.stride is not None:
            _check_stride(self.window, self.stride)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {
            "window": None if self.window is None else list(self.window),
            "stride": None if self.stride is None else list(self.stride),
        }

    def _maps(self, game: Game, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        rows, columns = self._windows(view.cells)
        count = 1 + len(rows) * len(columns)
        requests = self._requests(view, rows, columns)
        values = torch.stack(game.values(requests, total=count * len(view)))
        fall = (values[:, :1] - values[:, 1:]).reshape(-1, len(rows), len(columns))
        below, beside = rows.to(fall), columns.to(fall)
        sums = torch.einsum("brc,rf,ct->bft", fall, below, beside)
        maps = sums / (below.sum(0)[:, None] * beside.sum(0))
        samples = torch.full((len(view),), count, device=view.cells.device)
        return maps[:, None].to(view.cells), {"samples": samples}

    def _requests(self, view: View, rows: Tensor, columns: Tensor) -> Iterator[Request]:
        """Yield the whole clip and all windows of every clip."""
        mix = self._mixing("cells")

        def keep(start: int, stop: int) -> Tensor:
            """Return what the versions keep: the first one all, then a window is left out."""
            number = torch.arange(start, stop, device=rows.device) - 1
            row = rows[number // len(columns)] & (number >= 0)[:, None]
            return ~(row[:, :, None] & columns[number % len(columns)][:, None, :])[:, None]

        for number, cells in enumerate(view.cells):
            level = self.filling.level(cells, None, self.base)
            yield Request(
                number,
                1 + len(rows) * len(columns),
                lambda start, stop, cells=cells, level=level: self.filling.fill(
                    cells, keep(start, stop), level, mix
                ),
            )

    def _windows(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return which bins and which frames the windows cover, bool (positions, cells)."""
        shape = cells.shape[2:]
        window = self.window or (math.ceil(shape[0] / 8), math.ceil(shape[1] / 16))
        stride = self.stride or tuple(math.ceil(size / 2) for size in window)
        if any(size > cells for size, cells in zip(window, shape, strict=True)):
            raise ValueError(
                f"the window {window} is larger than the clip of {shape[0]} bins and "
                f"{shape[1]} frames"
            )
        _check_stride(window, stride)
        return tuple(
            _covered(*each, cells.device) for each in zip(shape, window, stride, strict=True)
        )


def _covered(cells: int, window: int, stride: int, device: torch.device) -> Tensor:
    """Return which cells of an axis each window covers, bool (positions, cells)."""
    starts = stride * torch.arange(math.ceil((cells - window) / stride) + 1, device=device)
    place = torch.arange(cells, device=device)
    return (place >= starts[:, None]) & (place < starts[:, None] + window)


def _check_size(name: str, size: Any) -> Size:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"{name} must be a pair of bins and frames, got {size!r}")
    return tuple(check_whole(name, each, 1) for each in size)


def _check_stride(window: Size, stride: Size) -> None:
    if any(step > size for step, size in zip(stride, window, strict=True)):
        raise ValueError(
            f"the stride {stride} is larger than the window {window}: cells between the windows "
            "would be left out"
        )
