"""Layer-wise relevance propagation: the logit is propagated back, layer by layer, to the cells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    choose_target,
    pick,
)
from audiointerp.interpretation.baseline import Base, base_cells, check_base, describe
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.relevance import (
    VALUE_FREE,
    AttentionPropagation,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Propagation,
    WSquare,
    ZPlus,
)
from audiointerp.interpretation.rescale import UnsupportedLayerError
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View

_PASSES = "2 forward, 1 backward"
_SOURCE = "Bach et al., PLoS ONE 2015"
_OVERVIEW = "Montavon et al., 2019"
_ROUNDING = 1e-3
"""Share of the logits by which those of the rules may be off."""
_LEAST = 1e-3
"""Share of a clip's largest logit below which its explained logit is not divided by."""


class _RelevanceInterpreter(Interpreter):
    """What the variants of LRP share.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    composite : Composite
        Which rule each layer has.
    base : float, callable or None
        What the network's input is where a cell holds nothing; None for rules that do not look at
        the input.
    batch_size, fold_batch_norm
        See `Interpreter`.
    """

    propagation: ClassVar[type[Propagation]] = Propagation
    of_size: ClassVar[bool] = False
    """Whether the size of the logit is handed back, whatever its sign."""

    def __init__(
        self,
        model: nn.Module,
        composite: Composite,
        base: Base | None,
        *,
        batch_size: int | None,
        fold_batch_norm: bool,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.composite = composite
        self.base = None if base is None else check_base(base)
        if self.classifier.needs_view and isinstance(composite.input, VALUE_FREE):
            raise ValueError(
                f"{self.name} spreads relevance over the samples of a waveform whatever they are, "
                "and what is not of a sound cannot be transported to cells of its STFT: take lrp, "
                "lrp_epsilon or lrp_gamma for a network that takes a waveform"
            )
        if self.classifier.outputs == "probabilities":
            raise ValueError(
                f"{self.name} explains logits, and the network returns probabilities: declare a "
                "network that ends before its softmax or sigmoid"
            )

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say which operation of a classifier's network has no rule; see `Interpreter`."""
        return cls._refusal(classifier)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        settings = super().settings() | {
            "rules": {
                place: {"name": type(rule).__name__.lower(), **asdict(rule)}
                for place, rule in vars(self.composite).items()
                if rule is not None
            }
        }
        if self.base is None or self.classifier.needs_view:  # which is compared with silence
            return settings
        return settings | {"base": describe(self.base)}

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier(backward=True)
        attributions, targets, missed = [], [], []
        own = self._own_logits(model, view[:1])
        for part, wanted in self._in_batches(view, target):
            attribution, logits, chosen = self._propagate(model, part, wanted)
            if own is not None:
                self._check_same(own, logits[:1])
                own = None
            attributions.append(attribution)
            targets.append(chosen)
            missed.append(self._missed(attribution, logits, chosen))
        share = torch.cat(missed)
        promised = {"residual": share.abs()} if self.facts.sums_to else {"absorbed": share}
        return Explanation(torch.cat(attributions), torch.cat(targets), promised)

    def _missed(self, attribution: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Return what of each clip's logit is not in its map, as a share of the logit, float64."""
        logits = to_double(logits)
        explained = pick(logits, target.to(logits.device))
        explained = explained.abs() if self.of_size else explained
        least = (_LEAST * logits.abs().amax(1)).clamp(min=torch.finfo(torch.float64).tiny)
        size = torch.copysign(explained.abs().maximum(least), explained)
        return (explained - to_double(attribution).sum((1, 2, 3))) / size

    def _propagate(
        self, model: Classifier, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch's maps, its logits and the classes explained."""
        x = model.network_input(view.cells, view).detach().clone().requires_grad_()
        if model.needs_view or self.base is None:
            reference = torch.zeros_like(x)  # silence
        else:
            reference = base_cells(self.base, view.cells).to(x)
        rules = self.propagation(model.network, self.composite)
        with rules:
            returned = model.network(rules.watch(x, reference))
        logits = model.read_logits(returned, len(view)).detach()
        target = choose_target(logits, target, len(view))
        scores = model.pick_scores(returned, len(view))
        # Of scores that the head makes logits of, such as one score for two classes.
        leaf = scores.detach().to(logits).requires_grad_()
        explained = pick(model.head.logits(leaf), target)
        (derived,) = torch.autograd.grad(explained.sum(), leaf)
        of_scores = leaf.detach() * derived
        if self.of_size:
            of_scores = of_scores * explained.detach().sign()[:, None]
        found = rules.relevance(scores, of_scores.to(scores), x)
        if not model.needs_view:
            return found.to(view.cells), logits, target
        x = x.detach()
        multipliers = torch.where(x == 0, 0, found / torch.where(x == 0, 1, x))
        silence = model.front_end.analyse(torch.zeros_like(view.waveform[:1]))
        return model.contributions(multipliers, view, silence), logits, target

    @torch.no_grad()
    def _own_logits(self, model: Classifier, view: View) -> Tensor | None:
        """Return a clip's logits without rules; None where the network computes with few bits."""
        kind = self.classifier.weight_type
        half = kind is not None and kind[1] in (torch.float16, torch.bfloat16)
        if half or torch.is_autocast_enabled(view.cells.device.type):
            return None
        return model.logits(view.cells.clone(), view)

    def _check_same(self, own: Tensor, logits: Tensor) -> None:
        if ((own - logits).abs() > _ROUNDING * own.abs().amax()).any():
            raise UnsupportedLayerError(
                f"the rules of {self.name} do not compute the logits as the network does: does it "
                "overwrite an activation in place that it reads again? Take another method"
            )


@METHODS.register("lrp")
class LRPInterpreter(_RelevanceInterpreter):
    """LRP with a rule for each kind of layer: LRP-0 for dense layers, z⁺ for convolutions.

    The relevance of a class, at first its logit, is handed back from layer to layer. Each layer
    shares out what its outputs have among its inputs: in dense layers in proportion to all
    contributions w·x, so that evidence against the class keeps its sign (LRP-0); in convolutions
    in proportion to the positive ones, which are stable in deep stacks of noisy weights (z⁺ rule).
    Other composites are given by `composite`, or have names of their own: ``lrp_epsilon``,
    ``lrp_gamma``, ``lrp_zplus``, ``lrp_wsquare`` and ``lrp_flat``.

    **What a cell's value means.** Rules that look at inputs hold x = 0 to be nothing, but a cell of
    0 dB is loud and one of -100 dB is nothing. The input is therefore counted from the masking
    base: a cell's contribution to the first layers is w·(X - base), and w·base is part of their
    bias.
    Above the floor such inputs are never negative, as rectified activations are, for which the z⁺
    rule was derived (deep Taylor decomposition). Operations before the first layer that act on
    every cell on its own, such as the batch norm over bins that PANNs begin with, are counted
    into the first layer: what it sees as nothing is what they make of the base. A waveform network
    is explained against silence and takes no base; its samples' relevance is spread over the cells
    by their complex STFTs, see `WaveformFrontEnd`, and the sum is the same.

    **What is conserved.** The map adds up to the logit: no relevance stays with biases. Those of
    convolutions take no part, those of dense layers are shared out by the size of the contributions
    that they are added to, and where nothing contributes relevance is spread evenly; see
    `audiointerp.interpretation.relevance.Gamma`. The diagnostic ``"residual"`` of `explain` is
    |Σφ - f_c(x)| / |f_c(x)|, which divides by no less than 0.001 of the clip's largest logit.
    Constants that a network adds or joins outside of its layers take their share with them, as do
    the biases of other composites' ε and γ rules: the residual says how much.

    **Other operations.** Relevance passes activations that are 0 at 0, such as ReLU and GELU,
    unchanged. Of a maximum (pooling, `MaxOverTime`) the largest term takes all; of a mean, and of
    the sum at the end of a residual block, the terms share in proportion to their values. Batch
    norm is merged with the convolution or dense layer before it, whether the fast copy has folded
    it or not; elsewhere relevance passes it. Functions count as layers do. What has no rule, such
    as products of activations, softmax, sigmoid and recurrent layers, is refused by name.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`. It returns logits.
    base : float or callable, default -100.0
        What a cell is where there is nothing, in the cells' unit: the front end's ``floor``, or a
        function of the cells; see `audiointerp.interpretation.baseline.Base`.
    composite : Composite, optional
        Other rules, of `audiointerp.interpretation.relevance`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If the base is neither a function nor finite, or the network returns probabilities.
    UnsupportedLayerError
        In `attribute`, if the network has an operation without a rule.

    References
    ----------
    S. Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation", PLoS ONE 10, 2015; G. Montavon et al., "Explaining nonlinear
    classification decisions with deep Taylor decomposition", Pattern Recognition 65, 2017;
    M. Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions with LRP",
    IJCNN 2020 (rules by kind of layer).

    Examples
    --------
    >>> from audiointerp.interpretation.relevance import Composite, Epsilon, Flat, Gamma
    >>> rules = Composite(dense=Epsilon(), convolution=Gamma(0.1), input=Flat())
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
    >>> LRPInterpreter(model, composite=rules).attribute(torch.zeros(3, 1, 2, 3), target=1).shape
    torch.Size([3, 1, 2, 3])
    """

    name = "lrp"
    facts = Facts(
        family="relevance",
        passes=_PASSES,
        source=_SOURCE,
        fails="Evidence against the class is seen by dense layers only: within the convolutions, "
        "maps of different classes look alike",
        sums_to="f_c(x)",
    )
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        base: Base = -100.0,
        composite: Composite | None = None,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        if composite is None:
            composite = Composite(Gamma(0, conserves=True), ZPlus())
        super().__init__(
            model, composite, base, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )


@METHODS.register("lrp_epsilon")
class EpsilonLRPInterpreter(_RelevanceInterpreter):
    """LRP with the ε rule in every layer: in rectifier networks about gradient·(X - base).

    Biases keep their share in every layer, and what lies in the base is a bias of the first one.
    So the map does not add up to the logit: ``"absorbed"`` says what is missing, and may be
    many times the logit where the base is far from all clips. It is (f_c(x) - Σφ) / f_c(x),
    negative where biases speak against the class. See `LRPInterpreter` for the base and
    for operations without weights.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    base : float or callable, default -100.0
        See `LRPInterpreter`.
    epsilon : float, default 1e-9
        What outputs near 0 are moved by before they are divided by. Larger values absorb the
        relevance of weak outputs, which is less noisy.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `LRPInterpreter`; or if epsilon is not above 0.

    References
    ----------
    S. Bach et al., PLoS ONE 10, 2015, equation 58.
    """

    name = "lrp_epsilon"
    facts = Facts(
        family="relevance",
        passes=_PASSES,
        source=_SOURCE,
        fails="As noisy as the gradient; biases absorb what the base puts out, so the map can add "
        "up to many times the logit",
    )
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        base: Base = -100.0,
        epsilon: float = 1e-9,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        rule = Epsilon(epsilon)
        super().__init__(
            model,
            Composite(rule, rule),
            base,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
        )


@METHODS.register("lrp_gamma")
class GammaLRPInterpreter(_RelevanceInterpreter):
    """LRP with the γ rule in convolutions, the first one included, and ε in dense layers.

    Between ε (γ → 0) and z⁺ (γ → ∞): contributions of both signs count, positive ones for more.
    Biases keep their share; ``"absorbed"`` says how much. See `LRPInterpreter` for the base and
    for operations without weights.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    base : float or callable, default -100.0
        See `LRPInterpreter`.
    gamma : float, default 0.25
        By which share of itself a positive weight is enlarged.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `LRPInterpreter`; or if gamma is negative or not finite.

    References
    ----------
    G. Montavon et al., "Layer-Wise Relevance Propagation: An Overview", Explainable AI, LNCS 11700,
    2019; L. Andéol et al., "Learning Domain Invariant Representations by Joint Wasserstein Distance
    Minimization", 2021 (inputs of both signs).
    """

    name = "lrp_gamma"
    facts = Facts(
        family="relevance",
        passes="4 forward, 2 backward",
        source=_OVERVIEW,
        fails="Biases absorb what the base puts out, so the map adds up to another number than the "
        "logit",
    )
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        base: Base = -100.0,
        gamma: float = 0.25,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        rule = Gamma(gamma)
        super().__init__(
            model,
            Composite(Epsilon(), rule),
            base,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
        )


@METHODS.register("lrp_zplus")
class ZPlusLRPInterpreter(_RelevanceInterpreter):
    """LRP with the z⁺ rule in every layer: deep Taylor decomposition.

    No cell is negative: what speaks against the class is left out, of means and of the sums of
    residual blocks too. What is handed back is the size of the logit, |f_c(x)|, whose sign says
    nothing of where the evidence for the class lies. Biases take no share, and where nothing
    contributes positively an output's relevance is spread evenly, so the map adds up to it exactly;
    the diagnostic ``"residual"`` is by how much it does not. See `LRPInterpreter` for the base.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    base : float or callable, default -100.0
        See `LRPInterpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `LRPInterpreter`.

    References
    ----------
    G. Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
    decomposition", Pattern Recognition 65, 2017.
    """

    name = "lrp_zplus"
    facts = Facts(
        family="relevance",
        passes=_PASSES,
        source="Montavon et al., Pattern Recognition 2017",
        fails="Only evidence for the class is shown, and maps of different classes look alike "
        "(Sixt et al., ICML 2020)",
        sums_to="|f_c(x)|",
        signed=False,
    )
    of_size = True
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        *,
        base: Base = -100.0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        rule = ZPlus()
        super().__init__(
            model,
            Composite(rule, rule),
            base,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
        )


class _ValueFreeInterpreter(_RelevanceInterpreter):
    """`LRPInterpreter` whose first layers do not look at the cells."""

    rule: ClassVar[WSquare | Flat]

    def __init__(
        self, model: nn.Module, *, batch_size: int | None = None, fold_batch_norm: bool = True
    ) -> None:
        super().__init__(
            model,
            Composite(Gamma(0, conserves=True), ZPlus(), self.rule),
            None,
            batch_size=batch_size,
            fold_batch_norm=fold_batch_norm,
        )


@METHODS.register("lrp_wsquare")
class WSquareLRPInterpreter(_ValueFreeInterpreter):
    """`LRPInterpreter` with the w² rule in the first layers: by the weights, not by the cells.

    No base is needed, for the level of a cell does not enter; that of an activation does. Waveform
    networks are refused. ``"residual"`` is as in `LRPInterpreter`.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If the network takes a waveform, or returns probabilities.

    References
    ----------
    G. Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
    decomposition", Pattern Recognition 65, 2017 (inputs without bounds).
    """

    name = "lrp_wsquare"
    rule = WSquare()
    facts = Facts(
        family="relevance",
        passes=_PASSES,
        source="Montavon et al., Pattern Recognition 2017",
        fails="A silent cell counts as much as a loud one next to it, within the first kernel",
        sums_to="f_c(x)",
    )


@METHODS.register("lrp_flat")
class FlatLRPInterpreter(_ValueFreeInterpreter):
    """`LRPInterpreter` with the flat rule in the first layers: evenly over all cells they see.

    As zennit's ``EpsilonPlusFlat``, but no bias takes a share. No base is needed, for the level of
    a cell does not enter; that of an activation does. Waveform networks are refused.
    ``"residual"`` is as in `LRPInterpreter`.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        If the network takes a waveform, or returns probabilities.

    References
    ----------
    S. Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines really
    learn", Nature Communications 10, 2019.
    """

    name = "lrp_flat"
    rule = Flat()
    facts = Facts(
        family="relevance",
        passes=_PASSES,
        source="Lapuschkin et al., Nature Communications 2019",
        fails="A silent cell counts as much as a loud one next to it, within the first kernel",
        sums_to="f_c(x)",
    )


@METHODS.register("attnlrp")
class AttnLRPInterpreter(EpsilonLRPInterpreter):
    """AttnLRP: the ε rule in every layer, and rules for attention and normalisation.

    For transformers of `nn.MultiheadAttention`, of ``scaled_dot_product_attention`` or of products
    and softmax, with layer or group norm. Both factors of a product of activations take half of
    its relevance, in proportion to its terms; softmax s of x has R_i = x_i·(R_i - s_i·ΣR), its
    Taylor expansion at x; layer norm is linear with its standard deviation held fixed.

    Softmax is not homogeneous: what it hands back need not be what it got, and its constant part
    takes the rest as biases do. ``"absorbed"`` says how much of the logit is missing. A network
    without attention has the map of ``lrp_epsilon``. See `LRPInterpreter` for the base and for
    other operations.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    base : float or callable, default -100.0
        See `LRPInterpreter`.
    epsilon : float, default 1e-9
        See `EpsilonLRPInterpreter`.
    batch_size, fold_batch_norm
        See `Interpreter`.

    Raises
    ------
    ValueError
        As `EpsilonLRPInterpreter`.

    References
    ----------
    R. Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
    Transformers", ICML 2024, propositions 3.1 to 3.4.
    """

    name = "attnlrp"
    propagation = AttentionPropagation
    facts = Facts(
        family="relevance",
        passes=_PASSES,
        source="Achtibat et al., ICML 2024",
        fails="Biases and softmax absorb relevance or add to it, so the map can add up to many "
        "times the logit",
    )
