"""Saliency: the gradient of the class's logit with respect to the cells."""

from __future__ import annotations

import torch
from torch import Tensor

from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    class_gradient,
)
from audiointerp.interpretation.facts import Facts
from audiointerp.processing import View


@METHODS.register("saliency")
class SaliencyInterpreter(Interpreter):
    """Signed gradient ∂logit_c/∂X: how much the logit moves per unit (per dB) of each cell.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks: Visualising Image
    Classification Models and Saliency Maps", ICLR workshop 2014, section 3. They show the absolute
    value; the sign is kept here because masks need it.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
    >>> SaliencyInterpreter(model).attribute(torch.zeros(3, 1, 2, 3), target=1).shape
    torch.Size([3, 1, 2, 3])
    """

    name = "saliency"
    facts = Facts(
        family="gradient",
        passes="1 forward, 1 backward",
        source="Simonyan et al., ICLR workshop 2014",
        fails="A derivative at one point: noisy, and near 0 where the class is certain whatever a "
        "single cell does",
    )

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        parts = [class_gradient(model, *part) for part in self._in_batches(view, target)]
        gradients, targets = zip(*parts, strict=True)
        return Explanation(torch.cat(gradients), torch.cat(targets))
