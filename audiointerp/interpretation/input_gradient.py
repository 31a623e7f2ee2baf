"""Input×Gradient: the level of each cell above the base times the gradient of the class logit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import METHODS, Explanation, Interpreter, class_gradient
from audiointerp.interpretation.baseline import Base, base_cells, check_base, describe
from audiointerp.interpretation.facts import Facts
from audiointerp.processing import View


@METHODS.register("input_gradient")
class InputGradientInterpreter(Interpreter):
    """Input×Gradient, (X - base)·∂logit_c/∂X: a first-order guess at what each cell adds.

    The original multiplies by X itself, which asks what a cell adds to one whose value is 0. In
    decibels 0 is full scale and not "nothing", and the quietest cells would count most. What holds
    nothing is therefore the masking base here; ``base=0.0`` gives the original, which suits cells
    of power.

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
        If the base is not finite.

    References
    ----------
    A. Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating
    Activation Differences", arXiv 1605.01713, 2016.
    """

    name = "input_gradient"
    facts = Facts(
        family="gradient",
        passes="1 forward, 1 backward",
        source="Shrikumar et al., arXiv 1605.01713, 2016",
        fails="A derivative at one point, noisy and near 0 where the class is certain; loud cells "
        "count more whatever the network makes of them",
    )
    requires = frozenset({"base"})

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
        maps, targets = [], []
        for part, wanted in self._in_batches(view, target):
            gradient, chosen = class_gradient(model, part, wanted)
            maps.append((part.cells - base_cells(self.base, part.cells)) * gradient)
            targets.append(chosen)
        return Explanation(torch.cat(maps), torch.cat(targets))
