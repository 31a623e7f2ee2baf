"""Base class of the PANNs models: input check, bn0, pooling head, classifier, settings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiointerp.arguments import build
from audiointerp.model.heads import Head, Softmax
from audiointerp.model.layers import MaxOverTime, initialise
from audiointerp.model.planes import to_plane
from audiointerp.registry import Registry

MODELS: Registry[type[TransferModel]] = Registry("model")


class PannsBase(nn.Module):
    """A PANNs network without its front end and its AudioSet layer: features to an embedding.

    Parameters
    ----------
    num_bins : int
        Frequency bins F of the features.
    blocks : mapping of str to Module
        The convolutions under their PANNs names, applied in this order to (batch, 1, time, freq).
    target : str
        Dotted name of the last block's final activation.
    channels, embedding : int
        Sizes of what goes into and comes out of the fully connected layer.
    shrink : int, default 32
        Factor by which the blocks shrink time and frequency, so also the least size of both.
    dropout : float, default 0.5
        Dropout before the fully connected layer.
    """

    def __init__(
        self,
        num_bins: int,
        blocks: Mapping[str, nn.Module],
        *,
        target: str,
        channels: int,
        embedding: int,
        shrink: int = 32,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.shrink = shrink
        self.bn0 = nn.BatchNorm2d(num_bins)
        for name, block in blocks.items():
            self.add_module(name, block)
        self.max_over_time = MaxOverTime()
        self.dropout1 = nn.Dropout(dropout)
        self.fc1 = nn.Linear(channels, embedding)
        self.relu = nn.ReLU()
        self.dropout2 = nn.Dropout(0.5)
        self._block_names = tuple(blocks)
        # A name, not the module: a second reference would appear twice in the state dict.
        self._target = target

    @property
    def target_layer(self) -> nn.Module:
        """The last block's final activation."""
        return self.get_submodule(self._target)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (batch, 1, freq, time) to embeddings (batch, embedding)."""
        # bn0 has one channel per frequency bin; PANNs then convolve over (time, freq).
        # One axis less in between: before channels-last convolutions, torch 2.11 on a CPU returns
        # wrong gradients for a batch norm whose (batch, freq, 1, time) is permuted in one step.
        x = self.bn0(features.squeeze(1).unsqueeze(2)).squeeze(2).transpose(1, 2).unsqueeze(1)
        for name in self._block_names:
            x = self.get_submodule(name)(x)
        x = x.mean(dim=3)
        x = self.max_over_time(x) + x.mean(dim=2)
        return self.dropout2(self.relu(self.fc1(self.dropout1(x))))


class TransferModel(nn.Module):
    """A PANNs network with a classifier of its own: features (B, 1, F, T) to logits (B, C).

    State-dict keys are ``base.<PANNs name>`` and ``classifier.{weight,bias}``.

    Parameters
    ----------
    base : PannsBase
    num_classes : int
        Number of outputs C: one per class, or 1 for a binary head's two classes.
    num_bins : int
        Frequency bins F of the features, e.g. 64 (mel) or 257 (STFT): the processor's `num_bins`.

    Attributes
    ----------
    classes : tuple of str or None
        Class names, where known.
    duration : float or None
        Clip length in seconds that the model was trained on, where known.
    head : Head
        What the outputs mean; softmax unless changed.
    normalize : bool
        Whether sounds are scaled to a peak of 1 before they are analysed; they are unless changed.
    file : Path or None
        The weight file that it was read from.

    Raises
    ------
    ValueError
        If `num_classes` is below 1 or `num_bins` too small for the network's pooling.

    References
    ----------
    Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
    Recognition", IEEE/ACM TASLP 28, 2020.
    """

    name: ClassVar[str]
    is_described: ClassVar[bool] = True

    def __init__(self, base: PannsBase, num_classes: int, num_bins: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if num_bins < base.shrink:
            raise ValueError(
                f"num_bins must be at least {base.shrink}, got {num_bins}: {self.name} pools "
                f"frequency by {base.shrink}"
            )
        self.num_classes = num_classes
        self.num_bins = num_bins
        self.classes: tuple[str, ...] | None = None
        self.duration: float | None = None
        self.head: Head = Softmax()
        self.normalize = True
        self.file: Path | None = None
        self.base = base
        self.classifier = nn.Linear(base.fc1.out_features, num_classes)
        self.apply(initialise)

    @property
    def target_layer(self) -> nn.Module:
        """The last convolution block's final activation, before pooling: Grad-CAM's default."""
        return self.base.target_layer

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return a layer's activation (B, channels, time, freq) as (B, channels, freq, time).

        See `audiointerp.model.planes.to_plane`. The channels of the first batch norm are the
        frequencies: its activation (B, freq, 1, time) becomes (B, 1, freq, time).
        """
        if layer == "base.bn0":
            return activation.transpose(1, 2)
        return to_plane(activation, ("time", "freq"), layer=layer, module=self.get_submodule(layer))

    def settings(self) -> dict[str, Any]:
        """Return what `build_model` needs to build the same network, ready for JSON."""
        return {"name": self.name, "num_classes": self.num_classes, "num_bins": self.num_bins}

    def forward(self, features: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, num_bins, time)

        Returns
        -------
        Tensor, shape (batch, num_classes)

        Raises
        ------
        ValueError
            If the features have another shape, another number of bins or too few frames.
        """
        self._check(features)
        return self.classifier(self.base(features))

    def _check(self, features: Tensor) -> None:
        shape = tuple(features.shape)
        if len(shape) != 4 or shape[1] != 1:
            raise ValueError(
                f"features must have the shape (batch, 1, {self.num_bins}, time), got {shape}: "
                "did you pass a waveform, or leave out the batch or channel axis?"
            )
        if shape[2] != self.num_bins:
            raise ValueError(
                f"features have {shape[2]} bins, the model was built for {self.num_bins}: "
                "is this the processor it was trained with?"
            )
        if shape[3] < self.base.shrink:
            raise ValueError(
                f"features have {shape[3]} frames, {self.name} needs at least {self.base.shrink} "
                "because it pools time by that factor: is the clip too short?"
            )


def build_model(settings: Mapping[str, Any], *, seed: int | None = None) -> TransferModel:
    """Build a model from its settings.

    Parameters
    ----------
    settings : mapping
        The constructor's arguments and ``"name"``, a name in `MODELS`: what `settings()` returns.
    seed : int, optional
        Makes the initial weights reproducible; the global random state stays as it was.

    Returns
    -------
    TransferModel
        With fresh weights, in training mode.

    Raises
    ------
    ValueError
        If the name is missing or unknown, or the other settings are not that model's.

    Examples
    --------
    >>> build_model({"name": "Cnn14", "num_classes": 10, "num_bins": 64, "width": 0.25}, seed=0)
    ... # doctest: +SKIP
    """
    arguments = dict(settings)
    if "name" not in arguments:
        raise ValueError(
            f"model settings need a 'name' ({', '.join(MODELS)}), got only {[*arguments]}"
        )
    model_class = MODELS[str(arguments.pop("name"))]
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        try:
            return build(model_class, model_class.name, arguments)
        except (OverflowError, RuntimeError) as error:  # the last of impossible sizes
            raise ValueError(
                f"settings {arguments} do not fit {model_class.name}: {error}"
            ) from error
