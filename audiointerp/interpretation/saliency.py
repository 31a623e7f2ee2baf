"""Saliency: the gradient of the class's logit with respect to the cells."""

from __future__ import annotations

import torch
from torch import Tensor

from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    choose_target,
    pick,
)
from audiointerp.model.classifier import Classifier
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

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        parts = [_gradient(model, *part) for part in self._in_batches(view, target)]
        gradients, targets = zip(*parts, strict=True)
        return Explanation(torch.cat(gradients), torch.cat(targets))


def _gradient(model: Classifier, view: View, target: Tensor | None) -> tuple[Tensor, Tensor]:
    cells = view.cells.detach().requires_grad_()
    logits = model.logits(cells, view)
    target = choose_target(logits, target, len(cells))
    # Clips do not depend on each other, so the gradient of the sum holds each clip's own.
    (gradient,) = torch.autograd.grad(pick(logits, target).sum(), cells)
    return gradient, target
