"""SHAP values by DeepLIFT's rescale rule, averaged over background clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audiointerp.device import to_double
from audiointerp.interpretation.additivity import (
    ROUNDING,
    AdditivityError,
    AdditivityWarning,
    RewritingInterpreter,
    Scores,
    sum_residual,
)
from audiointerp.interpretation.background import (
    check_background,
    describe_background,
    read_background,
)
from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    as_view,
    check_target,
    check_whole,
    choose_target,
    evaluating,
    pick,
)
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.rescale import Recording, RescaleRule
from audiointerp.model.classifier import Classifier
from audiointerp.model.layers import MaxOverTime
from audiointerp.processing import View
from audiointerp.speed.inference import deep_copy
from audiointerp.speed.memory import bytes_to_keep

__all__ = ["AdditivityError", "AdditivityWarning", "SHAPInterpreter", "select_background"]

_BACKENDS = ("rescale", "shap")


@METHODS.register("shap")
class SHAPInterpreter(RewritingInterpreter):
    """Approximate SHAP values of the class's logit, by the DeepLIFT rescale rule.

    φ is the mean over the background clips b of m(x, b)·(x - b), where m is the gradient with every
    nonlinearity's derivative replaced by Δout/Δin between x and b. So Σφ = f_c(x) - mean f_c(b).
    For a network that takes a waveform, x - b is the difference of the two sounds, sample by
    sample; it is spread over the cells by their complex STFTs, see `WaveformFrontEnd`, and the
    sum is the same.
    The diagnostic of `explain` is ``"residual"``, by how much that is missed (see `residual`);
    above 1 % there is an `AdditivityWarning`, or an error if a part of the network is to blame.

    Nonlinearities may be layers (nn.ReLU, nn.MaxPool2d, `MaxOverTime`, see `rescale`), used once
    or several times, or functions such as ``F.relu`` where torch.fx can trace the network; see
    `audiointerp.interpretation.rewrite`. Operations without a rule (products of two activations,
    softmax, layer norm, recurrent layers) are refused by name.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`.
    background : Tensor, shape (count, 1, freq, time), or View
        Clips that stand for "nothing in particular", in the front end's unit; see
        `select_background`. A waveform network needs the `View` of their sound.
        The activations of their forward pass are kept from call to call where they take no more
        than 2 GiB, or a quarter of a GPU's free memory.
    backend : {"rescale", "shap"}, default "rescale"
        The rule's own implementation here, or ``shap.DeepExplainer``, which is slower.
    batch_size : int, default 16
        Clips, and background clips, held in memory at once.
    fold_batch_norm : bool, default True
        See `Interpreter`.

    Raises
    ------
    ValueError
        If the background has another shape or is not finite, or a setting is unknown.
    UnsupportedLayerError, AdditivityError
        In `attribute`, if the network has an operation without a rule.

    References
    ----------
    S. Lundberg, S.-I. Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017
    (Deep SHAP, section 4.2); A. Shrikumar, P. Greenside, A. Kundaje, "Learning Important Features
    Through Propagating Activation Differences", ICML 2017, section 3.5.2.
    """

    name = "shap"
    facts = Facts(
        family="relevance",
        passes="1 forward, 1 backward for each background clip",
        source="Lundberg and Lee, NeurIPS 2017",
        fails="Explains the difference to the background: a cell that is as loud there counts for "
        "nothing",
        sums_to="f_c(x) less its mean over the background",
    )
    requires = frozenset({"background"})
    rule = "SHAP's rescale rule"
    values = "SHAP values"
    sum_ = "f(x) - mean f(background)"

    def __init__(
        self,
        model: nn.Module,
        background: Tensor | View,
        *,
        backend: str = "rescale",
        batch_size: int = 16,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.background = read_background(background, self.classifier, "background")
        if backend not in _BACKENDS:
            raise ValueError(
                f"unknown SHAP backend {backend!r}: choose from {', '.join(_BACKENDS)}"
            )
        if backend == "shap" and self.classifier.needs_view:
            raise ValueError("backend='shap' is for networks that take cells, not a waveform")
        self.backend = backend
        self._recorded: tuple[tuple, list[tuple[int, Recording]]] | None = None

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON.

        The background is given by its number of clips and the SHA-256 of its values.
        """
        return super().settings() | {
            "backend": self.backend,
            **describe_background(self.background),
        }

    def residual(
        self, features: Tensor | View, attribution: Tensor, target: int | Tensor | None = None
    ) -> Tensor:
        """Return how far an attribution is from adding up, relative to what it explains.

        See `audiointerp.interpretation.additivity.sum_residual`.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, freq, time), or View
        attribution : Tensor, shape (batch, 1, freq, time)
        target : int or Tensor, shape (batch,), optional
            The class that the attribution explains; by default the predicted one.

        Returns
        -------
        Tensor of float64, shape (batch,)
            0.01 is 1 %.

        Raises
        ------
        ValueError
            If shapes, values or classes do not fit.
        """
        view = as_view(features)
        self._check_view(view)
        wanted = check_target(target, view.cells)
        if attribution.shape != view.cells.shape:
            raise ValueError(
                f"attribution and features must have one shape, got {tuple(attribution.shape)} "
                f"and {tuple(view.cells.shape)}"
            )
        with evaluating(self.classifier.network), torch.no_grad():
            background = self.background.to(view.cells)
            logits = self._logits(self.classifier, view)
            reference = self._logits(self.classifier, background)
            wanted = choose_target(logits, wanted, len(view))
            return _residual(attribution, logits, reference, wanted)

    def _check_view(self, view: View) -> None:
        super()._check_view(view)
        check_background(self.background, view, self.classifier, "background")

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        background = self.background.to(view.cells)
        if self.backend == "shap":
            explained = self._explain_by_library(view, background, target)
        else:
            explained = self._explain_by_rule(view, background, target)
        attribution, logits, reference, target = explained
        residual = _residual(attribution, logits, reference, target)
        here, there = _target_logits(logits, reference, target)
        error = (to_double(attribution).sum((1, 2, 3)) - here + there.mean(0)).abs()
        far = error > ROUNDING * (here.abs() + there.abs().mean(0))
        cause = None
        if self.backend == "shap":
            cause = "shap.DeepExplainer has no rule for a part of the network"
        self._check_sum(residual, far, view.cells.device, cause)
        return Explanation(attribution, target, {"residual": residual})

    def _explain_by_rule(
        self, view: View, background: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        model = self._fast_classifier(backward=True)
        attribution = torch.zeros_like(view.cells)
        logits, reference = [], []
        rewritten = self._rewrite(model.network, background[:1])
        own = self._own_logits(model, rewritten, view)
        with RescaleRule(Scores(model.with_network(rewritten.network))) as rule:
            for first, recording in self._recordings(rule, model, background):
                reference.append(recording.logits)
                logits.clear()
                references = background[first : first + len(recording.baselines)]
                for start in range(0, len(view), self.batch_size):
                    part = slice(start, start + self.batch_size)
                    wanted = target if target is None else target[part]
                    found = _add_contributions(
                        rule, model, view[part], recording, references, wanted, attribution[part]
                    )
                    logits.append(found)
        logits = torch.cat(logits)
        self._check_same(own, logits, rewritten)
        target = choose_target(logits, target, len(view))
        return attribution.div_(len(background)), logits, torch.cat(reference), target

    def _recordings(
        self, rule: RescaleRule, model: Classifier, background: View
    ) -> Iterator[tuple[int, Recording]]:
        """Yield the background's activations, part by part: made once, where they can be kept.

        With the position of the first clip of each part.
        """
        cells = self.background.cells
        device = background.cells.device
        given = (cells.data_ptr(), cells._version, background.cells.dtype)
        key = (model.network, device, *given, *_arithmetic(device))
        if self._recorded is not None and self._recorded[0] == key:
            yield from self._recorded[1]
            return
        self._recorded = None
        left, recordings = bytes_to_keep(device), []
        for start in range(0, len(background), self.batch_size):
            part = background[start : start + self.batch_size]
            recording = rule.record(model.network_input(part.cells, part))
            left -= recording.nbytes
            recordings = [*recordings, (start, recording)] if left >= 0 else []
            yield start, recording
        # A network that is no copy may have changed by the next call.
        if left >= 0 and model.network is not self.classifier.network:
            self._recorded = (key, recordings)

    def _explain_by_library(
        self, view: View, background: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        import shap

        logits = self._logits(self.classifier, view)
        reference = self._logits(self.classifier, background)
        target = choose_target(logits, target, len(view))
        attribution = torch.empty_like(view.cells)
        for wanted in target.unique().tolist():
            # On a copy: DeepExplainer leaves tensors behind in the modules it has hooked.
            copied = self.classifier.with_network(deep_copy(self.classifier.network))
            model = _OneClass(_understood_by_shap(copied), wanted)
            explainer = shap.DeepExplainer(model, background.cells)
            rows = (target == wanted).nonzero()[:, 0]
            values = explainer.shap_values(view.cells[rows], check_additivity=False)
            attribution[rows] = torch.as_tensor(values[..., 0]).to(view.cells)
        return attribution, logits, reference, target


def select_background(labels: Sequence[int], per_class: int = 2, *, seed: int = 0) -> list[int]:
    """Choose background clips evenly over the classes.

    Parameters
    ----------
    labels : sequence of int
        The class of each clip of the training folds.
    per_class : int, default 2
        Clips of each class.
    seed : int, default 0
        A class's clips depend on it and on that class's own clips only.

    Returns
    -------
    list of int
        Positions in `labels`, in increasing order.

    Raises
    ------
    ValueError
        If there are no labels, or a class has too few clips.
    """
    per_class = check_whole("per_class", per_class, 1)
    seed = check_whole("seed", seed, 0)
    classes = np.asarray(labels)
    if classes.ndim != 1 or not len(classes) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"labels must be a non-empty sequence of ints, got {classes.dtype} of shape "
            f"{classes.shape}"
        )
    chosen: list[int] = []
    for label in np.unique(classes):
        clips = np.flatnonzero(classes == label)
        if len(clips) < per_class:
            raise ValueError(
                f"class {label} has {len(clips)} clips, {per_class} are wanted for the background"
            )
        random = np.random.default_rng([seed, abs(int(label))])
        chosen += random.choice(clips, per_class, replace=False).tolist()
    return sorted(chosen)


def _add_contributions(
    rule: RescaleRule,
    model: Classifier,
    view: View,
    recording: Recording,
    references: View,
    target: Tensor | None,
    attribution: Tensor,
) -> Tensor:
    """Add m(x, b)·(x - b) for every recorded baseline to `attribution`; return the logits."""
    given = model.network_input(view.cells, view).detach().requires_grad_()
    logits = rule.forward(given, recording)
    score = pick(logits, choose_target(logits, target, len(view))).sum()
    count = len(recording.baselines)
    for index in range(count):
        multipliers = rule.multipliers(score, given, index, keep=index < count - 1)
        with torch.no_grad():
            reference = references[index : index + 1]
            attribution.add_(model.contributions(multipliers, view, reference))
    return logits.detach()


def _arithmetic(device: torch.device) -> tuple:
    """Return what decides in how many bits networks compute on a device."""
    return (
        torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )


def _target_logits(logits: Tensor, reference: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the explained class's logits in double precision, (batch,) and (baselines, batch)."""
    return to_double(pick(logits, target)), to_double(reference.index_select(1, target))


def _residual(attribution: Tensor, logits: Tensor, reference: Tensor, target: Tensor) -> Tensor:
    here, there = _target_logits(logits, reference, target)
    return sum_residual(to_double(attribution).sum((1, 2, 3)), here, there)


class _OneClass(nn.Module):
    """A model's logit of one class, shape (batch, 1)."""

    def __init__(self, model: nn.Module, target: int) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, features: Tensor) -> Tensor:
        return self.model(features)[:, self.target : self.target + 1]


class _PooledMax(nn.Module):
    """`MaxOverTime` by nn.MaxPool1d, which shap has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(1)

    def forward(self, x: Tensor) -> Tensor:
        self.pool.kernel_size = self.pool.stride = x.shape[-1]
        return self.pool(x)[..., 0]


class _TwoReLU(nn.Module):
    """ReLU6 by two ReLUs, relu(x) - relu(x - 6): the same rescale multiplier, which shap knows."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.ReLU()
        self.upper = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.lower(x) - self.upper(x - 6)


def _understood_by_shap(model: nn.Module) -> nn.Module:
    """Replace the layers that shap has no rule for by equal ones made of layers that it knows."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is MaxOverTime:
                setattr(module, name, _PooledMax())
            elif type(child) is nn.ReLU6:
                setattr(module, name, _TwoReLU())
            elif type(child) is nn.ReLU and child.inplace:
                setattr(module, name, nn.ReLU())
    return model.eval()
