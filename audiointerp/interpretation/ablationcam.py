"""Ablation-CAM: activations of a layer, weighted by the drop in score without each channel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiointerp.interpretation.base import METHODS, pick
from audiointerp.interpretation.facts import Facts
from audiointerp.interpretation.layers import ForwardCAM, Layers, Run
from audiointerp.model.classifier import Classifier
from audiointerp.speed.memory import batch_size_for

_CHANNELS_OF_CELLS = 64
"""Values for each cell that `batch_size_for` takes a network's largest layer to have."""
_MOST_VERSIONS = 256
"""Most versions at once from the layer on, whose later layers may be larger than it is."""


@METHODS.register("ablationcam")
class AblationCAMInterpreter(ForwardCAM):
    """Ablation-CAM, Σ_k w_k·A_k with w_k the class's logit less its value with A_k set to 0.

    The loss is not divided by the logit, as in the fraction of the score that is lost: this scales
    all weights of a clip alike, and where the logit is negative, as those of most classes are, it
    turns the map's sign around. The grad-cam library divides. It also replaces a channel by the
    minimum less 10⁷ instead of 0 where the layer's minimum is not exactly 0, as without a ReLU.

    Every channel is weighed. Those that are 0 in the whole clip have no part in the map and are not
    run. The network runs from the layer on only: its first layers see a clip alone, and what the
    layer returns is repeated for up to 256 channels at once. Where the rest of the network does not
    take the repeated rows, as where it concatenates them with what goes around the layer, it runs
    as a whole for every channel. Both ways give the same map; which one it is, is tried out on one
    clip first.

    A channel is what `Classifier.to_plane` makes of one. What it leaves out, such as a class token,
    stays as it is.

    Parameters
    ----------
    model, target_layers
        See `ClassActivationMap`.
    batch_size : int, optional
        Clips per forward pass; from the layer on, as many versions as take as much memory. By
        default what suits the device.
    fold_batch_norm : bool, default True
        See `Interpreter`.
    progress : bool, default False
        Show a bar over the channels.

    Raises
    ------
    ValueError
        As `ClassActivationMap` does; or (in `attribute`) if the planes of ``activation_axes`` are
        not a rearrangement of the layer's values.

    References
    ----------
    S. Desai, H. Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via
    Gradient-free Localization", WACV 2020 (without the ReLU around the sum).
    """

    name = "ablationcam"
    facts = Facts(
        family="CAM",
        passes="1 forward, and 1 from the layer on for each of its channels",
        source="Desai and Ramaswamy, WACV 2020",
        fails="A weight grows with its channel's activation, which then counts twice; channels "
        "that can replace each other all seem to count for nothing",
    )

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers = None,
        *,
        batch_size: int | None = None,
        fold_batch_norm: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model, target_layers, batch_size=batch_size, fold_batch_norm=fold_batch_norm
        )
        self.progress = bool(progress)

    def _weigh(self, run: Run, layer: str, planes: Tensor) -> Tensor:
        versions = planes.flatten(2).any(2).nonzero()
        if not len(versions):
            return torch.zeros_like(planes[:, :1])
        ablation = _Ablation(self.classifier, run, layer)
        rows = self.batch_size or batch_size_for(run.view.cells)
        from_layer_on = ablation.runs_from_layer_on()
        parts = [versions]
        if from_layer_on:
            values = _CHANNELS_OF_CELLS * run.view.cells[0].numel() // planes[0].numel()
            rows = max(rows, min(rows * values, _MOST_VERSIONS))
            parts = versions.split(versions[:, 0].unique(return_counts=True)[1].tolist())
        batches = [batch for part in parts for batch in part.split(rows)]
        weights = planes.new_zeros(planes.shape[:2])
        with tqdm(
            total=len(versions), desc=layer, unit="channel", leave=False, disable=not self.progress
        ) as bar:
            for batch in batches:
                clips, channels = batch.unbind(1)
                logits = ablation.logits(clips, channels, from_layer_on=from_layer_on)
                lost = run.scores[clips] - pick(logits, run.target[clips])
                weights[clips, channels] = lost.to(weights)
                bar.update(len(batch))
        return (weights[:, :, None, None] * planes).sum(1, keepdim=True)


class _Ablation:
    """Versions of a batch of clips with channels of a layer set to 0.

    Parameters
    ----------
    described : Classifier
        Which knows the axes of the layer.
    run : Run
    layer : str
        Dotted name.
    """

    def __init__(self, described: Classifier, run: Run, layer: str) -> None:
        self.described = described
        self.run = run
        self.layer = layer
        self._positions: dict[torch.Size, Tensor] = {}

    def runs_from_layer_on(self) -> bool:
        """Return whether the network takes a clip's rows repeated, and gives its logit for them."""
        clips = torch.zeros(2, dtype=torch.int64, device=self.run.target.device)
        try:
            found = self.logits(clips, None, from_layer_on=True)
        except Exception:
            # What follows the layer is anybody's Python, which may fail in any way on rows that it
            # did not expect.
            return False
        off = (pick(found, self.run.target[clips]) - self.run.scores[clips]).abs()
        return bool((off <= 1e-3 * found.abs().amax()).all())

    def logits(self, clips: Tensor, channels: Tensor | None, *, from_layer_on: bool) -> Tensor:
        """Return the logits (versions, classes) of clips, each without one channel.

        Parameters
        ----------
        clips : Tensor of int64, shape (versions,)
            Positions in the batch.
        channels : Tensor of int64, shape (versions,), or None
            None to leave the clips whole.
        from_layer_on : bool
            Run up to the layer once. The versions must be of one clip: whatever goes around the
            layer then is that clip's, and serves all of them.
        """
        model, view = self.run.model, self.run.view[clips[:1] if from_layer_on else clips]
        with self._changing(len(clips) if from_layer_on else 1, channels):
            returned = model.network(model.network_input(view.cells, view))
        return model.read_logits(returned, len(clips))

    @contextmanager
    def _changing(self, times: int, channels: Tensor | None) -> Iterator[None]:
        """Repeat what the layer returns and set channels of it to 0."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            first, *rest = output if isinstance(output, tuple) else (output,)
            changed = first if times == 1 else self._repeat(first, times)
            if channels is not None:
                changed = self._without(changed, channels)
            return (changed, *rest) if isinstance(output, tuple) else changed

        handle = self.run.model.network.get_submodule(self.layer).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _repeat(self, activation: Tensor, times: int) -> Tensor:
        """Return the activation of a clip so many times, one after the other."""
        repeated = activation.repeat(times, *[1] * (activation.ndim - 1))
        positions = self._positions_of(repeated).flatten(1)
        first = activation.numel() * torch.arange(len(positions), device=positions.device)
        within = (positions.amin(1) >= first) & (positions.amax(1) < first + activation.numel())
        if len(positions) != times or not within.all():
            raise ValueError(f"the layer {self.layer!r} does not keep the rows of a clip together")
        return repeated

    def _without(self, activation: Tensor, channels: Tensor) -> Tensor:
        """Return an activation whose clips each miss a channel."""
        positions = self._positions_of(activation)
        which = torch.arange(len(channels), device=channels.device)
        changed = activation.flatten().clone()
        changed[positions[which, channels].flatten().long()] = 0
        return changed.view(activation.shape)

    def _positions_of(self, activation: Tensor) -> Tensor:
        """Return the position in the flat activation of every value of its planes."""
        shape = activation.shape
        if shape in self._positions:
            return self._positions[shape]
        kind = torch.int32 if activation.numel() < 2**31 else torch.int64
        numbers = torch.arange(activation.numel(), dtype=kind, device=activation.device)
        try:
            positions = self.described.to_plane(self.layer, numbers.reshape(shape))
            if not self._positions:
                planes = self.described.to_plane(self.layer, activation)
                if not torch.equal(activation.flatten()[positions.long()], planes):
                    raise ValueError("other values")
        except Exception as error:  # a function of the user's, which may be made for floats only
            raise ValueError(
                f"the planes of the layer {self.layer!r} are not its values in another order, so "
                "that it is not known what a channel of it is: let activation_axes only rearrange "
                "values, or take another class activation map"
            ) from error
        self._positions = {shape: positions}  # of the last shape only: they are large
        return positions
