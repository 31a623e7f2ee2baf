"""Class activation maps that need a single pass: gradient-based, or from activations alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from audiointerp.device import to_double
from audiointerp.interpretation.base import METHODS, check_positive, check_whole, pick
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.gradcam import weigh_by_mean
from audiointerp.interpretation.layers import (
    ClassActivationMap,
    ForwardCAM,
    GradientCAM,
    Layers,
    Run,
)


@METHODS.register("gradcamplusplus")
class GradCAMPlusPlusInterpreter(GradientCAM):
    """Grad-CAM++, Σ_k w_k·A_k with w_k = Σ_ij α_ij·ReLU(g_ij), g the gradient ∂logit_c/∂A_k.

    α_ij = g_ij² / (2·g_ij² + g_ij³·S_k) = 1 / (2 + g_ij·S_k), S_k = Σ_ab A_k,ab: the paper's
    equation 19, which takes the score as an exponential of the logit. The factor that this gives
    all weights of a clip is left out. The weights are never negative.

    The paper has activations that are not negative. Elsewhere α has a pole, at g_ij·S_k = -2: where
    S_k is negative it is taken as 0, so that α stays within its range of 0 to 1/2.

    The grad-cam library adds 10⁻⁶ to the denominator, which drowns squared gradients that are
    smaller, as those of a mean over a plane are: its α is then g²·10⁶ instead of about 1/2.
    Reduced to 1 / (2 + g·S), α needs no such term.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    A. Chattopadhay, A. Sarkar, P. Howlader, V. Balasubramanian, "Grad-CAM++: Generalized
    Gradient-Based Visual Explanations for Deep Convolutional Networks", WACV 2018, equation 19
    (without the ReLU around the sum); M. Lerma, M. Lucas, "Grad-CAM++ is Equivalent to Grad-CAM
    With Positive Gradients", 2022.
    """

    name = "gradcamplusplus"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Chattopadhay et al., WACV 2018",
        fails="Hides evidence against the class, and is close to Grad-CAM by positive gradients "
        "alone: a channel that speaks for the class in one place counts in all",
        signed=False,
    )

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        total = planes.sum((2, 3), keepdim=True).clamp(min=0)
        positive = gradients.clamp(min=0)
        weights = (positive / (2 + positive * total)).sum((2, 3), keepdim=True)
        return (weights * planes).sum(1, keepdim=True)


@METHODS.register("hirescam")
class HiResCAMInterpreter(GradientCAM):
    """HiResCAM, Σ_k g_k∘A_k: gradient times activation in every cell of the plane.

    Where the network ends with one linear layer after the layer looked at, the map adds up to the
    logit without its bias. Where a mean over the plane comes before that layer, it is Grad-CAM.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    R. Draelos, L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks", 2020, arXiv 2011.08891.
    """

    name = "hirescam"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Draelos and Carin, 2020",
        fails="Exact only where the rest of the network is linear; noisy in early layers, whose "
        "gradients differ from cell to cell",
    )

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        return (gradients * planes).sum(1, keepdim=True)


@METHODS.register("xgradcam")
class XGradCAMInterpreter(GradientCAM):
    """XGrad-CAM, Σ_k w_k·A_k with w_k = Σ_ij g_k,ij·A_k,ij / Σ_ij A_k,ij.

    The mean gradient of a channel, weighted by its activation. The map adds up to
    Σ_k Σ_ij g_k,ij·A_k,ij, as that of HiResCAM does. A channel whose activations cancel to
    rounding, of which the formula has no value, has the weight 0.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    R. Fu, Q. Hu, X. Dong, Y. Guo, Y. Gao, B. Li, "Axiom-based Grad-CAM: Towards Accurate
    Visualization and Explanation of CNNs", BMVC 2020.
    """

    name = "xgradcam"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Fu et al., BMVC 2020",
        fails="Made for layers after a ReLU: elsewhere a channel whose activations nearly cancel "
        "has an enormous weight",
    )

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        total = planes.sum((2, 3), keepdim=True)
        rounding = torch.finfo(planes.dtype).eps * planes.abs().sum((2, 3), keepdim=True)
        evidence = (gradients * planes).sum((2, 3), keepdim=True)
        weights = torch.where(total.abs() > rounding, evidence / total, torch.zeros_like(total))
        return (weights * planes).sum(1, keepdim=True)


@METHODS.register("layercam")
class LayerCAMInterpreter(GradientCAM):
    """LayerCAM, Σ_k ReLU(g_k)∘A_k: every cell of the plane weighted by its own positive gradient.

    The paper multiplies maps of early layers by a gain and takes the largest of several layers in
    each cell; here several layers are joined as in all class activation maps.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    P.-T. Jiang, C.-B. Zhang, Q. Hou, M.-M. Cheng, Y. Wei, "LayerCAM: Exploring Hierarchical Class
    Activation Maps for Localization", IEEE Transactions on Image Processing 30, 2021 (without
    the ReLU around the sum).
    """

    name = "layercam"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Jiang et al., IEEE TIP 2021",
        fails="Hides evidence against the class: a cell with as much against it as for it looks "
        "like one that is for it",
        signed=False,
    )

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        return (gradients.clamp(min=0) * planes).sum(1, keepdim=True)


class PrincipalComponentMap(ClassActivationMap):
    """A map that is a first principal component, which can be taken of centred values.

    Parameters
    ----------
    model, target_layers, batch_size, fold_batch_norm
        See `ClassActivationMap`.
    centred : bool, default False
        Subtract each channel's mean over the plane first.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = None,
        *,
        centred: bool = False,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(
            model, target_layers, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )
        self.centred = bool(centred)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {"centred": self.centred}


@METHODS.register("eigencam")
class EigenCAMInterpreter(PrincipalComponentMap, ForwardCAM):
    """Eigen-CAM: the first principal component of a layer's activations. It knows no class.

    The activations are a matrix A, a row for each cell of the plane and a column for each channel;
    the map is A·v, v the first right singular vector of A.

    **Sign.** A singular vector has an arbitrary sign. Here its entries sum to 0 or more, so that
    the map correlates positively with the sum of the activations over the channels. After a ReLU
    the map is then nowhere negative.

    **Centring.** The grad-cam library subtracts each channel's mean first, because the map was
    negative without. That was the arbitrary sign: the paper does not subtract it, and with the sign
    fixed there is no need to. ``centred=True`` gives the library's map, whose cells sum to 0, up to
    its sign.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    centred : bool, default False
        Subtract each channel's mean over the plane first.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    M. Muhammad, M. Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN
    2020.
    """

    name = "eigencam"
    facts = Facts(
        family="CAM",
        passes="1 forward",
        source="Muhammad and Yeasin, IJCNN 2020",
        fails="The same map for every class: it shows what excites the layer most, whether or not "
        "the network's answer depends on it",
        class_sensitive=False,
        signed=False,
    )

    def _weigh(self, run: Run, layer: str, planes: Tensor) -> Tensor:
        return first_component(planes, centred=self.centred)


@METHODS.register("eigengradcam")
class EigenGradCAMInterpreter(PrincipalComponentMap, GradientCAM):
    """Eigen-CAM of g∘A, the activations times the gradient of the class's logit.

    A method of the grad-cam library, without a paper of its own. The sign of the singular vector is
    fixed as in `EigenCAMInterpreter`, so that the map correlates positively with that of HiResCAM,
    the sum of g∘A over the channels. The cells of one map can still be all of one sign: see
    ``facts.fails``.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    centred : bool, default False
        Subtract each channel's mean over the plane first, as the library does: the map is then
        relative to the average cell, and its sign no longer says what speaks for the class.
    batch_size, fold_batch_norm
        See `Interpreter`.

    References
    ----------
    J. Gildenblat and contributors, grad-cam 1.5, ``EigenGradCAM``; M. Muhammad, M. Yeasin, as in
    `EigenCAMInterpreter`.
    """

    name = "eigengradcam"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Gildenblat et al., grad-cam",
        fails="One component of the evidence: evidence for and against the class in different "
        "channels adds up instead of cancelling, so that often all cells have one sign",
    )

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        return first_component(gradients * planes, centred=self.centred)


@METHODS.register("finercam")
class FinerCAMInterpreter(GradientCAM):
    """Finer-CAM: Grad-CAM of what sets the class off against the classes most similar to it.

    The gradient is that of y_c - γ·Σ_d ω_d·y_d, where d runs over the `num_similar` other classes
    whose logits y_d are nearest to y_c in this clip, and ω_d = softmax(y_d) among them. Channels
    that speak for the class and for its neighbours alike cancel. Evidence for a neighbour is
    negative.

    The paper compares with one class or with several; that several are weighted by their
    probabilities, and both defaults, are from its authors' code, which is also in the grad-cam
    library. There the weights themselves have a gradient, which is not part of a difference of
    logits: here they are constants. The library also adds 10⁻⁹ to the sum of the probabilities,
    which drowns classes that are far behind.

    Classes are compared by their logits with every head. Of two classes there is one to compare
    with: with a binary head, whose logits are -z and z, the map is (1 + γ) times that of Grad-CAM.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    num_similar : int, default 3
        Classes to compare with; all others where there are fewer.
    gamma : float, default 1.0
        Strength of the comparison; 0 gives Grad-CAM.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `ClassActivationMap` does; if a setting is out of range; or (in `attribute`) if the model
        has a single class.

    References
    ----------
    Z. Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual
    Explanation", CVPR 2025, arXiv 2501.11309.
    """

    name = "finercam"
    facts = Facts(
        family="CAM",
        passes="1 forward, 1 backward from the layer on",
        source="Zhang et al., CVPR 2025",
        fails="Explains a difference of classes: what the class has in common with similar ones "
        "counts for nothing, and which ones are similar changes from clip to clip",
    )

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = None,
        *,
        num_similar: int = 3,
        gamma: float = 1.0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(
            model, target_layers, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )
        self.num_similar = check_whole("num_similar", num_similar, 1)
        self.gamma = check_positive("gamma", gamma, zero=True)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {"num_similar": self.num_similar, "gamma": self.gamma}

    def _score(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape[1] < 2:
            raise ValueError(
                "Finer-CAM compares the class with others, and the model has a single class: take "
                "Grad-CAM"
            )
        own = pick(logits, target)
        known = logits.detach()
        distance = (known - own.detach()[:, None]).abs()
        distance = distance.scatter(1, target[:, None], torch.inf)
        count = min(self.num_similar, logits.shape[1] - 1)
        similar = distance.argsort(dim=1, stable=True)[:, :count]
        share = known.gather(1, similar).softmax(1)
        return own - self.gamma * (share * logits.gather(1, similar)).sum(1)

    def _weigh(self, gradients: Tensor, planes: Tensor) -> Tensor:
        return weigh_by_mean(gradients, planes)


def first_component(values: Tensor, *, centred: bool) -> Tensor:
    """Return the projection of planes on the first right singular vector of their channels.

    Parameters
    ----------
    values : Tensor, shape (batch, channels, freq, time)
    centred : bool
        Subtract each channel's mean over the plane first.

    Returns
    -------
    Tensor, shape (batch, 1, freq, time)
        M·v of the matrix M of a row for each cell and a column for each channel, v with entries
        that sum to 0 or more. NaN for a clip whose values are not all finite.
    """
    matrix = to_double(values).flatten(2)
    finite = matrix.isfinite().flatten(1).all(1)[:, None, None]
    matrix = matrix.where(finite, torch.zeros_like(matrix))
    if centred:
        matrix = matrix - matrix.mean(2, keepdim=True)
    # Eigenvectors of the smaller of the two Gram matrices, in increasing order of their values.
    channels, cells = matrix.shape[1:]
    if channels <= cells:
        vector = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors[..., -1:]
    else:
        over_cells = torch.linalg.eigh(matrix.mT @ matrix).eigenvectors[..., -1:]
        vector = normalize(matrix @ over_cells, dim=1)
    vector = torch.where(vector.sum(1, keepdim=True) < 0, -vector, vector)
    projection = vector.mT @ matrix
    # Of a matrix without a negative entry it has none either (Perron, Frobenius): rounding has.
    nowhere_negative = (matrix >= 0).flatten(1).all(1)[:, None, None]
    projection = torch.where(nowhere_negative, projection.clamp(min=0), projection)
    projection = projection.where(finite, torch.full_like(projection, torch.nan))
    return projection.unflatten(2, values.shape[2:]).to(values)
