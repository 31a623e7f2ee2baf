"""Guided backpropagation: only positive gradients pass back through a ReLU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from audiointerp.interpretation.base import METHODS, Explanation, Interpreter, class_gradient
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.gradcam import GradCAMInterpreter
from audiointerp.interpretation.layers import missing_layer
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View

_IN_PLACE = (torch.relu_, Tensor.relu_)
_RELUS = (functional.relu, torch.relu, Tensor.relu, *_IN_PLACE)


class GuidedReLUs(TorchFunctionMode):
    """Inside a ``with`` block, every ReLU passes back positive gradients only.

    Layers (nn.ReLU) and functions (``F.relu``, ``x.relu_()``) alike, in networks that torch.fx
    cannot trace too, and whatever is computed stays the same: the ReLU is replaced where it is
    called, in place where it works in place. TorchScript is not seen.

    Attributes
    ----------
    count : int
        How many ReLUs have been called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one of torch's functions, a ReLU with the guided backward pass."""
        kwargs = kwargs or {}
        if func not in _RELUS:
            return func(*args, **kwargs)
        self.count += 1
        x = args[0] if args else kwargs["input"]
        result = _GuidedReLU.apply(x)
        in_place = func in _IN_PLACE or kwargs.get("inplace") or any(args[1:])
        return x.copy_(result) if in_place else result


class _GuidedReLU(torch.autograd.Function):
    """A ReLU that passes a gradient back where both it and the input are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return gradient.clamp(min=0) * positive


@METHODS.register("guided_backprop")
class GuidedBackpropInterpreter(Interpreter):
    """Guided backpropagation: ∂logit_c/∂X without what speaks against the class on the way.

    In the backward pass every ReLU passes a gradient on where the gradient and the ReLU's input
    are positive. Layers (nn.ReLU) and functions (``F.relu``) are treated alike; other activations
    keep their derivative. Signed: the first layer's weights have both signs.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        In `attribute`, if the network has no ReLU, where this would be plain saliency, or has
        TorchScript in it, whose ReLUs are out of reach.

    References
    ----------
    J. Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop
    2015. On what it fails at: J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
    """

    name = "guided_backprop"
    facts = Facts(
        family="gradient",
        passes="1 forward, 1 backward",
        source="Springenberg et al., ICLR workshop 2015",
        fails="Hardly depends on the class and on the upper layers' weights: it shows the edges of "
        "the spectrogram rather than what the network makes of them",
    )

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say why there is no ReLU of a classifier to change; see `Interpreter`."""
        return cls._refusal(classifier)

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        parts = [guided_gradient(model, *part) for part in self._in_batches(view, target)]
        gradients, targets = zip(*parts, strict=True)
        return Explanation(torch.cat(gradients), torch.cat(targets))


@METHODS.register("guided_gradcam")
class GuidedGradCAMInterpreter(Interpreter):
    """Guided Grad-CAM: guided backpropagation where Grad-CAM is positive, times it.

    The map of `GuidedBackpropInterpreter` times Grad-CAM's, of which the positive part is taken in
    the layer's own size, before it is resized to the cells.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    target_layers : Module, str, or sequence of them, optional
        Of Grad-CAM; see `GradCAMInterpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `GradCAMInterpreter` and `GuidedBackpropInterpreter` do.

    References
    ----------
    R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, section 3.3.
    """

    name = "guided_gradcam"
    facts = Facts(
        family="gradient",
        passes="2 forward, 1 backward, 1 backward from the layer on",
        source="Selvaraju et al., ICCV 2017",
        fails="Where Grad-CAM is positive it is guided backpropagation, so the fine detail hardly "
        "depends on the class",
    )

    def __init__(
        self,
        model: nn.Module,
        target_layers: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.gradcam = _PositiveGradCAM(
            model, target_layers, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say what Grad-CAM or guided backpropagation lacks; see `Interpreter`."""
        return missing_layer(classifier) or cls._refusal(classifier)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and its layers, ready for JSON."""
        return super().settings() | {"target_layers": self.gradcam.settings()["target_layers"]}

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        coarse = self.gradcam.explain(view, target)
        # The copy that Grad-CAM runs, so that there is one.
        model = self._fast_classifier(keep=self.gradcam.target_layers)
        parts = self._in_batches(view, coarse.target)
        fine = torch.cat([guided_gradient(model, *part)[0] for part in parts])
        return Explanation(fine * coarse.attribution, coarse.target)


class _PositiveGradCAM(GradCAMInterpreter):
    """Grad-CAM with the ReLU of its paper."""

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        return super()._weigh(gradients, planes).clamp(min=0)


def guided_gradient(model: Classifier, view: View, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the guided gradient of each clip's class logit and the classes.

    Takes and returns what `class_gradient` does.

    Raises
    ------
    ValueError
        If no ReLU is called, or some cannot be seen.
    """
    for name, layer in model.network.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            what = f"the layer {name!r}" if name else "the network"
            raise ValueError(
                f"{what} is TorchScript, whose ReLUs guided backpropagation cannot change: take "
                "the model that it was made of, or another method"
            )
    with GuidedReLUs() as relus:
        gradient, target = class_gradient(model, view, target)
    if not relus.count:
        raise ValueError(
            f"{type(model.network).__name__} calls no ReLU, which guided backpropagation changes: "
            "it would be plain saliency, take that or another method"
        )
    return gradient, target
