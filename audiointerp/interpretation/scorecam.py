"""Score-CAM: activations of a layer, weighted by the score of the clip masked by each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiointerp.interpretation.base import METHODS, pick
from audiointerp.interpretation.baseline import Base, base_cells, check_base, describe
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.layers import ForwardCAM, Layers, Run
from audiointerp.speed.memory import batch_size_for


@METHODS.register("scorecam")
class ScoreCAMInterpreter(ForwardCAM):
    """Score-CAM, Σ_k w_k·A_k with w = softmax over the channels of the score of H_k.

    H_k is channel k, resized to the cells and scaled to [0, 1] by its own minimum and maximum. Its
    score is the class's logit for the clip masked by H_k. The paper multiplies the input by H_k,
    which makes what is masked out 0: black in a picture, but full scale in decibels. Here the mask
    works as in the metrics, b + (X - b)·H_k with the masking base b; ``base=0.0`` is the paper's.
    The paper subtracts the logit of a baseline from all scores, which cancels in the softmax.

    Every channel is scored. Those that are constant over the plane leave nothing of the clip: they
    have one score, that of the base, and share its run. The weights are never negative.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    base : float or callable, default -100.0
        What masked-out cells become, in their unit: see `Base`.
    batch_size : int, optional
        Masked clips per forward pass, of one or several clips; by default what suits the device.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the masked clips.

    Raises
    ------
    ValueError
        As `ClassActivationMap` does, or if the base is none.

    References
    ----------
    H. Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks", CVPR workshops 2020, algorithm 1 (without the ReLU around the sum).
    """

    name = "scorecam"
    facts = Facts(
        family="CAM",
        passes="1 forward, and 1 for each channel of the layer",
        source="Wang et al., CVPR workshops 2020",
        fails="The softmax of logits lets few channels decide, and hides evidence against the "
        "class; a masked clip is one that the network never met",
        signed=False,
    )
    requires = frozenset({"base"})

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = None,
        *,
        base: Base = -100.0,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model, target_layers, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )
        self.base = check_base(base)
        self.progress = bool(progress)

    def settings(self) -> dict[str, Any]:
        """Return the method's name and all its settings, ready for JSON."""
        return super().settings() | {"base": describe(self.base)}

    def _weigh(self, run: Run, layer: str, planes: Tensor) -> Tensor:
        flat = planes.flatten(2)
        constant = flat.amax(2) == flat.amin(2)
        # The first constant channel of a clip stands for all of them.
        stands = constant & (constant.cumsum(1) == 1)
        scores = self._scores(run, planes, (~constant | stands).nonzero(), layer)
        shared = torch.where(stands, scores, torch.zeros_like(scores)).sum(1, keepdim=True)
        weights = torch.where(constant, shared, scores).softmax(1)
        return (weights[:, :, None, None] * planes).sum(1, keepdim=True)

    def _scores(self, run: Run, planes: Tensor, masks: Tensor, layer: str) -> Tensor:
        """Return the logits (batch, channels) of clips masked by channels; 0 where none is.

        `masks` holds the position of each mask's clip and channel, (masks, 2).
        """
        scores = planes.new_zeros(planes.shape[:2])
        cells, hidden = run.view.cells, base_cells(self.base, run.view.cells)
        rows = self.batch_size or batch_size_for(cells)
        with tqdm(
            total=len(masks), desc=layer, unit="channel", leave=False, disable=not self.progress
        ) as bar:
            for part in masks.split(rows):
                clips, channels = part.unbind(1)
                chosen = planes[clips, channels][:, None]
                mask = _scaled(self.classifier.to_cells(layer, chosen, run.view[clips]))
                masked = torch.lerp(hidden[clips], cells[clips], mask)
                sound = run.view[clips] if run.model.needs_view else None
                logits = run.model.logits(masked, sound)
                scores[clips, channels] = pick(logits, run.target[clips]).to(scores)
                bar.update(len(part))
        return scores


def _scaled(planes: Tensor) -> Tensor:
    """Return planes (count, 1, freq, time) scaled to [0, 1], 0 where one is constant."""
    low, high = planes.amin((2, 3), keepdim=True), planes.amax((2, 3), keepdim=True)
    return (planes - low) / torch.where(high > low, high - low, torch.ones_like(high))
