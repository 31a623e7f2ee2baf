"""DeepLIFT by the rescale rule, against one reference of each clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.interpretation.additivity import (
    ROUNDING,
    RewritingInterpreter,
    Scores,
    sum_residual,
)
from audiointerp.interpretation.base import METHODS, Explanation, choose_target, pick
from audiointerp.interpretation.baseline import Base, base_cells, check_base, describe
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.rescale import RescaleRule
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View


@METHODS.register("deeplift")
class DeepLIFTInterpreter(RewritingInterpreter):
    """DeepLIFT against a clip in which every cell holds nothing, by the rescale rule.

    φ is m(x, b)·(x - b), where m is the gradient with every nonlinearity's derivative replaced by
    Δout/Δin between the clip x and the reference b. So Σφ = f_c(x) - f_c(b). The reference is the
    masking base in every cell; a base such as "minimum" or "quiet" gives each clip its own. SHAP
    here is the same rule over background clips.

    For a network that takes a waveform, b is the sound that the base cells stand for, with the
    clip's phase. x - b is the difference of the two sounds, which is spread over the cells by
    their complex STFTs, see `WaveformFrontEnd`; the sum is the same.

    The diagnostic of `explain` is ``"residual"``, by how much the sum is missed (see
    `audiointerp.interpretation.additivity.sum_residual`); above 1 % there is an
    `AdditivityWarning`, or an error if a part of the network is to blame. The networks that it
    takes are those of SHAP; see `audiointerp.interpretation.rewrite`.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    base : float or callable, default -100.0
        The masking base in the features' unit: the processor's ``floor``, or a function of the
        features (batch, 1, freq, time) that returns a Tensor which broadcasts to them.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If the base is not finite; in `attribute`, if the front end of a waveform network does not
        say how contributions are spread over cells.
    UnsupportedLayerError, AdditivityError
        In `attribute`, if the network has an operation without a rule.

    References
    ----------
    A. Shrikumar, P. Greenside, A. Kundaje, "Learning Important Features Through Propagating
    Activation Differences", ICML 2017, section 3.5.1.
    """

    name = "deeplift"
    facts = Facts(
        family="relevance",
        passes="2 forward, 1 backward",
        source="Shrikumar et al., ICML 2017",
        fails="Explains the difference to a clip that is at the base everywhere, which the network "
        "has never seen; a cell at the base counts for nothing",
        sums_to="f_c(x) less f_c of the masking base in every cell",
    )
    requires = frozenset({"base"})
    rule = "DeepLIFT's rescale rule"
    values = "DeepLIFT values"
    sum_ = "f(x) - f(base)"

    def __init__(
        self,
        model: nn.Module,
        *,
        base: Base = -100.0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.base = check_base(base)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and its base, ready for JSON."""
        return super().settings() | {"base": describe(self.base)}

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        rewritten = self._rewrite(model.network, view[:1])
        own = self._own_logits(model, rewritten, view)
        with RescaleRule(Scores(model.with_network(rewritten.network))) as rule:
            parts = [self._compare(rule, model, part) for part in self._in_batches(view, target)]
        attribution, logits, reference, target = (
            torch.cat(each) for each in zip(*parts, strict=True)
        )
        self._check_same(own, logits, rewritten)
        here, there = (to_double(pick(each, target)) for each in (logits, reference))
        total = to_double(attribution).sum((1, 2, 3))
        residual = sum_residual(total, here, there[None])
        far = (total - here + there).abs() > ROUNDING * (here.abs() + there.abs())
        self._check_sum(residual, far, view.cells.device)
        return Explanation(attribution, target, {"residual": residual})

    def _compare(
        self, rule: RescaleRule, model: Classifier, part: tuple[View, Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a batch's maps, its logits, those of its references, and the classes."""
        view, target = part
        reference = self._reference(view)
        recording = rule.record(model.network_input(reference.cells, reference))
        given = model.network_input(view.cells, view).detach().requires_grad_()
        logits = rule.forward(given, recording)
        target = choose_target(logits, target, len(view))
        multipliers = rule.multipliers(pick(logits, target).sum(), given, None)
        attribution = model.contributions(multipliers, view, reference)
        return attribution, logits.detach(), recording.logits, target

    def _reference(self, view: View) -> View:
        """Return the clips in which every cell holds the base."""
        cells = base_cells(self.base, view.cells)
        if not self.classifier.needs_view:
            return View(cells)
        front_end = self.classifier.front_end
        with torch.no_grad():
            return front_end.analyse(front_end.synthesise(view, cells))
