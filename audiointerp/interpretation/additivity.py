"""Additive maps: how far their sum misses the explained value, and how to report it."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.interpretation.base import Interpreter
from audiointerp.interpretation.rewrite import Rewritten, rewrite
from audiointerp.model.classifier import Classifier
from audiointerp.processing import FrontEnd, View
from audiointerp.speed.memory import batch_size_for

TOLERANCE = 0.01
"""Residual above which a sum is not what it should be."""
ROUNDING = 1e-3
"""Share of the logits by which a sum may be off in single precision."""


class AdditivityWarning(UserWarning):
    """Attributions that do not sum to what they explain, by rounding."""


class AdditivityError(ValueError):
    """Attributions that do not sum to what they explain, because a part has no rule."""


def sum_residual(total: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Return how far attributions are from adding up, relative to what they explain.

    |Σφ - Δ| / max(|Δ|, 0.001·s) with Δ = here - mean there and s = |here| + mean |there|; the
    second term keeps a clip whose logit is the reference's from dividing by zero.

    Parameters
    ----------
    total : Tensor, shape (batch,)
        Σφ.
    here : Tensor, shape (batch,)
        The logit of each clip.
    there : Tensor, shape (references, batch) or (references, 1)
        The logits that it is compared with.

    Returns
    -------
    Tensor of float64, shape (batch,)
        0.01 is 1 %.
    """
    total, here, there = to_double(total), to_double(here), to_double(there)
    change = here - there.mean(0)
    scale = here.abs() + there.abs().mean(0)
    least = (1e-3 * scale).clamp(min=torch.finfo(torch.float64).tiny)
    return (total - change).abs() / change.abs().maximum(least)


class RewritingInterpreter(Interpreter):
    """A method that needs to see every nonlinearity of a network, as a layer.

    Its maps add up, so that a part of the network that it has not understood shows in the sum. A
    subclass sets `rule` and calls `_rewrite`, `_check_same` and `_check_sum`.

    Attributes
    ----------
    rule : str
        What the network is rewritten for, as it reads in an error.
    values, sum_ : str
        What the method's values are called and what they should sum to, as it reads in an error.
    advice : str
        What to do about a network whose values do not.
    """

    rule: ClassVar[str] = "the rescale rule"
    values: ClassVar[str]
    sum_: ClassVar[str]
    advice: ClassVar[str] = (
        "A nonlinearity must be a layer (nn.ReLU instead of F.relu) where torch.fx cannot trace "
        "the network, and a clip's rows must stay together in the batch"
    )

    def __init__(
        self, model: nn.Module, *, batch_size: int | None = None, fold_batch_norm: bool = True
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self._rewritten: tuple[nn.Module, Rewritten] | None = None

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say which operation of a classifier's network has no rule; see `Interpreter`."""
        return cls._refusal(classifier)

    def _check_view(self, view: View) -> None:
        super()._check_view(view)
        front_end = self.classifier.front_end
        if self.classifier.needs_view and type(front_end).contributions is FrontEnd.contributions:
            raise ValueError(
                f"the front end {type(front_end).__name__} feeds a waveform and does not say how "
                "a contribution of the waveform is spread over cells, which the method "
                f"{self.name} needs: give it a method `contributions`, as WaveformFrontEnd has"
            )

    def _rows(self, view: View) -> int:
        """Return how many clips go through the network at once."""
        return self.batch_size or batch_size_for(view.cells, gradient=True)

    def _logits(self, model: Classifier, view: View) -> Tensor:
        """Return the logits of a view by a model, which may overwrite what it is given."""
        rows = self._rows(view)
        parts = (view[start : start + rows] for start in range(0, len(view), rows))
        return torch.cat([model.logits(part.cells.clone(), part) for part in parts])

    def _rewrite(self, network: nn.Module, clip: View) -> Rewritten:
        """Return the network with a layer for every nonlinearity; a copy never changes."""
        is_copy = network is not self.classifier.network
        if is_copy and self._rewritten is not None and self._rewritten[0] is network:
            return self._rewritten[1]
        if self.classifier.outputs is None:
            with torch.no_grad():  # outputs that are no logits are told first
                self.classifier.logits(clip.cells, clip)
        self._rewritten = (network, rewrite(network, self.rule))
        return self._rewritten[1]

    @torch.no_grad()
    def _own_logits(self, model: Classifier, rewritten: Rewritten, view: View) -> Tensor | None:
        """Return the logits outside the rule, None where nothing was rewritten.

        Tracing can miss what a network does in place, and cannot see some parts at all.
        """
        if rewritten.network is model.network and not rewritten.unseen:
            return None
        return self._logits(model, view)

    def _check_same(self, own: Tensor | None, logits: Tensor, rewritten: Rewritten) -> None:
        """Refuse a network that the rule does not run as it is."""
        if own is None:
            return
        off = (own - logits).abs().amax(1) > ROUNDING * own.abs().amax(1)
        if off.any() and not is_coarse(own.device, self.classifier):
            parts = ""
            if rewritten.unseen:
                parts = f" Parts that could not be looked into: {'; '.join(rewritten.unseen)}."
            raise AdditivityError(
                f"{self.rule} does not compute the logits of clips "
                f"{off.nonzero()[:, 0].tolist()} of this batch as the network does: does it "
                f"overwrite an activation in place that it reads again?{parts} Take another method"
            )

    def _check_sum(
        self,
        residual: Tensor,
        far: Tensor,
        device: torch.device,
        cause: str | None = None,
    ) -> None:
        """Refuse a sum that is off by more than rounding; warn of one that is off by rounding.

        Parameters
        ----------
        residual : Tensor, shape (batch,)
            See `sum_residual`.
        far : Tensor of bool, shape (batch,)
            Whether the sum is off by more than single precision rounds its terms.
        device : torch.device
            That the network ran on.
        cause : str, optional
            What is to blame where that is known; then there is a warning only.
        """
        wrong = residual > TOLERANCE
        if not wrong.any():
            return
        found = (
            f"{self.values} of clips {wrong.nonzero()[:, 0].tolist()} of this batch miss "
            f"{self.sum_} by up to {100 * residual.max().item():.1f} %"
        )
        if cause is None and (wrong & far).any() and not is_coarse(device, self.classifier):
            unseen = () if self._rewritten is None else self._rewritten[1].unseen
            parts = (
                f"parts that could not be looked into are {'; '.join(unseen)}. " if unseen else ""
            )
            raise AdditivityError(
                f"{found}, so they do not explain it: {parts}{self.advice}. Or take another method"
            )
        cause = cause or "rounding, in a reduced precision or of two logits that are nearly equal"
        warnings.warn(f"{found}. Probable cause: {cause}.", AdditivityWarning, stacklevel=5)


class Scores(nn.Module):
    """A classifier from the network's input on: to logits."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Tensor) -> Tensor:
        """Return the logits of what the network takes."""
        return self.model.read_logits(self.model.network(given), len(given))


def is_coarse(device: torch.device, model: Classifier) -> bool:
    """Return whether a network computes with fewer bits than single precision."""
    kind = model.weight_type
    half = kind is not None and kind[1] in (torch.float16, torch.bfloat16)
    return half or torch.is_autocast_enabled(device.type)
