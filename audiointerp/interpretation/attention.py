"""Explanations by attention: what tokens of a transformer read, followed through all layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.interpretation.base import (
    METHODS,
    Explanation,
    Interpreter,
    check_whole,
    choose_target,
    pick,
)
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.relevance.observing import (
    Attention,
    AttentionObserver,
    check_attention,
)
from audiointerp.interpretation.rescale import UnsupportedLayerError
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.speed.memory import batch_size_for, bytes_to_keep

Read = int | Sequence[int] | None
"""Positions of the tokens that the scores are read from; None for those that they depend on."""

_COPIES = 6
"""How often the weights of attention are held at once: scores, softmax, gradients of both, maps."""


class AttentionInterpreter(Interpreter):
    """A method that multiplies matrices over tokens, one for each layer of attention.

    The weights A (heads, queries, keys) of all layers are seen whatever computes them: torch's
    `torch.nn.MultiheadAttention` and ``scaled_dot_product_attention``, which libraries such as timm
    and transformers call, or a softmax that multiplies activations; see `AttentionObserver`. A
    subclass makes of each layer's weights the step from its queries back to its keys.

    **Where the result is read.** A classifier makes its scores of a class token, of several, or of
    the mean over tokens. Which tokens these are follows from the network: those whose last
    attention the scores depend on, which are exactly those with a gradient. The relevance of a
    token is the mean over them of what they read from it. `read` names others, by position.

    **Where tokens lie.** `Classifier.token_plane` lays them out over frequency and time, by the
    classifier's ``activation_axes``: ("time", "channel") for frames,
    `audiointerp.model.planes.tokens_to_plane` for patches, which leaves out tokens before them,
    such as a class token. `Classifier.to_cells` brings the plane to the cells.

    Parameters
    ----------
    model : Classifier or Module
        See `Interpreter`. Its attention leads from all tokens of a clip to the same tokens.
    read : int or sequence of int, optional
        Positions of the tokens that the scores are read from; by default those that they depend on.
    batch_size : int, optional
        Most clips that go through the model at once; by default what fits. The first clip of a call
        goes alone.
    fold_batch_norm : bool, default True
        See `Interpreter`.

    Raises
    ------
    ValueError
        If a position is no whole number of at least 0, or none is given.
    UnsupportedLayerError
        In `attribute`, if the network has no attention, or cross attention, attention within
        windows or between tokens that are merged from layer to layer, or layers side by side.
    """

    requires = frozenset({"attention"})

    def __init__(
        self,
        model: nn.Module,
        *,
        read: Read = None,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
    ) -> None:
        super().__init__(model, batch_size=batch_size, fold_batch_norm=fold_batch_norm)
        self.read = None if read is None else _check_positions(read)

    @classmethod
    def _unsuited(cls, classifier: Classifier) -> str:
        """Say why a classifier has no attention that can be followed; see `Interpreter`."""
        return cls._refusal(classifier)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and where it is read, ready for JSON."""
        settings = super().settings()
        return settings if self.read is None else settings | {"read": list(self.read)}

    def _explain(self, view: View, target: Tensor | None) -> Explanation:
        model = self._fast_classifier()
        maps, targets = [], []
        start, rows = 0, 1  # what fits, and how heads are arranged, is known after one clip
        while start < len(view):
            part = slice(start, start + rows)
            wanted = None if target is None else target[part]
            found, chosen, fitting = self._maps(model, view[part], wanted)
            maps.append(found)
            targets.append(chosen)
            rows = fitting if start == 0 else rows
            start += len(found)
        return Explanation(torch.cat(maps), torch.cat(targets))

    def _rows(self, seen: Sequence[Attention], cells: Tensor) -> int:
        """Return how many clips to run at once, given the weights of one."""
        if any(len(each.weights) > 1 for each in seen):
            # Heads share the batch axis: of several clips nobody knows which lies where.
            return 1
        if self.batch_size is not None:
            return self.batch_size
        size = _COPIES * sum(each.weights.nbytes for each in seen)
        fitting = max(1, bytes_to_keep(cells.device) // size)
        return min(fitting, batch_size_for(cells, gradient=True))

    def _maps(
        self, model: Classifier, view: View, target: Tensor | None
    ) -> tuple[Tensor, Tensor, int]:
        """Return a batch's maps, the classes explained and how many such batches fit at once."""
        x = model.network_input(view.cells, view).detach().clone().requires_grad_()
        observer = AttentionObserver(model.network)
        with observer:
            returned = model.network(x)
        seen = observer.seen
        scores = model.pick_scores(returned, len(view))
        logits = model.read_logits(returned, len(view))
        target = choose_target(logits, target, len(view))
        check_attention(seen, len(view))
        read = self._read(scores, seen[-1], len(view)).to(view.cells)
        steps = self._steps(seen, pick(logits, target), len(view))
        relevance = self._follow(read[:, None], [each.to(view.cells) for each in steps])[:, 0]
        # By the classifier itself, whose network names its layers and axes.
        plane = self.classifier.token_plane(seen[-1].layer, relevance.detach())
        maps = self.classifier.to_cells(seen[-1].layer, plane, view)
        return maps, target, self._rows(seen, view.cells)

    def _read(self, scores: Tensor, last: Attention, clips: int) -> Tensor:
        """Return how much each token counts for the scores, (batch, tokens), summing to 1."""
        if self.read is not None:
            if max(self.read) >= last.queries:
                raise ValueError(
                    f"read is {list(self.read)}, and there are tokens 0 to {last.queries - 1}"
                )
            counts = scores.new_zeros(clips, last.queries)
            counts[:, list(self.read)] = 1
            return counts / len(self.read)
        # Different weights, so that the scores do not cancel, as probabilities would; as large as
        # there are tokens to average, so that nothing underflows in half precision.
        weights = last.queries * torch.linspace(1, 2, scores.shape[1]).to(scores)
        (gradient,) = torch.autograd.grad(
            (scores * weights).sum(), [last.weights], retain_graph=True, materialize_grads=True
        )
        counts = (last.matrices(gradient, clips) != 0).any(3).any(1).to(scores)
        if not counts.any(1).all():
            raise UnsupportedLayerError(
                f"the scores do not depend on the attention of {last.layer!r}, the last one, or "
                "are probabilities that round to 0 or 1: say which tokens they are read from, such "
                "as read=0 for a class token"
            )
        return counts / counts.sum(1, keepdim=True)

    @abstractmethod
    def _steps(self, seen: Sequence[Attention], scores: Tensor, clips: int) -> list[Tensor]:
        """Return a matrix (batch, queries, keys) for each layer.

        Parameters
        ----------
        seen : sequence of Attention
            In the order of the layers.
        scores : Tensor, shape (batch,)
            Logits of the classes to explain.
        clips : int
            In the batch.
        """

    @abstractmethod
    def _follow(self, read: Tensor, steps: Sequence[Tensor]) -> Tensor:
        """Return the relevance (batch, 1, tokens) of tokens for what `read` counts, (batch, 1, .).

        A row times the matrices, from the last layer to the first, which are as many products as
        layers instead of products of matrices.
        """


@METHODS.register("attention_rollout")
class AttentionRolloutInterpreter(AttentionInterpreter):
    """Attention rollout: the product over all layers of (A + I)/2, A the mean over the heads.

    Half of what a token is after a layer is taken to be what it was before, by the residual
    connection, and half what it read, in proportion to the weights. So a token's relevance is the
    share of the output that flows back to it, if values and all that is between the layers are
    disregarded. The map is the same for every class. See `AttentionInterpreter` for where the
    result is read and how it becomes a map.

    Parameters
    ----------
    model, read, batch_size, fold_batch_norm
        See `AttentionInterpreter`.

    Raises
    ------
    ValueError, UnsupportedLayerError
        See `AttentionInterpreter`.

    References
    ----------
    S. Abnar and W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, equation 1 and
    section 3.
    """

    name = "attention_rollout"
    facts = Facts(
        family="attention",
        passes="1 forward, 1 backward to the last attention",
        source="Abnar and Zuidema, ACL 2020",
        fails="Shows where the network looks, not what for: the same map for every class; values, "
        "and what lies between the layers of attention, are disregarded",
        class_sensitive=False,
        signed=False,
    )

    @torch.no_grad()
    def _steps(self, seen: Sequence[Attention], scores: Tensor, clips: int) -> list[Tensor]:
        return [each.matrices(each.weights, clips).mean(1) for each in seen]

    def _follow(self, read: Tensor, steps: Sequence[Tensor]) -> Tensor:
        for step in reversed(steps):
            read = (read + read @ step) / 2
        return read


@METHODS.register("gradient_attention")
class GradientAttentionInterpreter(AttentionInterpreter):
    """Attention weighted by its gradient: R ← R + E_h[(∇A ⊙ A)⁺]·R over the layers, from R = I.

    ∇A is the gradient of the class's logit, so that heads and places count by what they are for the
    class; what speaks against it is left out. Known as generic attention explainability, or
    transformer-MM-explainability, for networks of self-attention. The identity that R begins with
    is left out of the map: it lies on the class token itself, or on all tokens alike. See
    `AttentionInterpreter` for where the result is read and how it becomes a map.

    Parameters
    ----------
    model, read, batch_size, fold_batch_norm
        See `AttentionInterpreter`.

    Raises
    ------
    ValueError, UnsupportedLayerError
        See `AttentionInterpreter`.

    References
    ----------
    H. Chefer, S. Gur and L. Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal
    and Encoder-Decoder Transformers", ICCV 2021, equations 5 and 6.
    """

    name = "gradient_attention"
    facts = Facts(
        family="attention",
        passes="1 forward, 1 backward to the first attention",
        source="Chefer et al., ICCV 2021",
        fails="Only evidence for the class is shown, and only what attention moves: what a token "
        "keeps by its residual connection is not seen",
        signed=False,
    )

    def _steps(self, seen: Sequence[Attention], scores: Tensor, clips: int) -> list[Tensor]:
        # Clips do not depend on each other, so the gradient of the sum holds each clip's own.
        gradients = torch.autograd.grad(
            scores.sum(), [each.weights for each in seen], materialize_grads=True
        )
        with torch.no_grad():
            return [
                each.matrices(gradient * each.weights, clips).clamp(min=0).mean(1)
                for each, gradient in zip(seen, gradients, strict=True)
            ]

    def _follow(self, read: Tensor, steps: Sequence[Tensor]) -> Tensor:
        moved = torch.zeros_like(read)
        for step in reversed(steps):
            moved = moved + (read + moved) @ step
        return moved


def _check_positions(read: int | Sequence[int]) -> tuple[int, ...]:
    """Return positions of tokens, each once."""
    given = read if isinstance(read, Sequence) and not isinstance(read, str) else [read]
    positions = tuple(check_whole("read", each, 0) for each in given)
    if not positions:
        raise ValueError("read is empty: give positions of tokens, or None for the default")
    return tuple(dict.fromkeys(positions))
