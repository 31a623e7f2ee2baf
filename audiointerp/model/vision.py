"""Image networks, such as those of torchvision and timm, as classifiers of spectrograms.

`SpectrogramImage` says how cells become an image, `from_vision` puts it before a network. The image
is made by differentiable operations, and the planes of layers are turned back: class activation
maps lie on the cells as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from audiointerp.dataset.audio import samples_in
from audiointerp.model.classes import ClassNames
from audiointerp.model.classifier import Classifier, Outputs, classifier
from audiointerp.model.heads import Head
from audiointerp.processing import FrontEnd

Pair = tuple[int, int]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
_LARGEST_SIDE = 8192
_SAME_IMAGE = 0.05
"""Root mean square of two images' difference, over their spread, up to which they are the same."""
_ALIKE = 0.9
"""Correlation from which two images are of one spectrogram."""
_LOST = 0.06
"""Share of a plane's rows that convolutions without padding take away."""

TARGETS = (
    ("layer4", "resnet"),
    ("trunk_output", "regnet"),
    ("Mixed_7c", "inception"),
    ("inception5b", "googlenet"),
    ("conv5", "shufflenet"),
    ("features", "vgg, densenet, mobilenet, efficientnet, convnext, squeezenet, swin"),
    ("layers", "mnasnet"),
    ("blocks", "maxvit"),
)
"""Attributes that hold the last stage of torchvision's families, the first that is there."""


@dataclass(frozen=True)
class SpectrogramImage:
    """How cells become the image that a network was trained on.

    In this order: cells are limited and scaled, turned, coloured, resized, normalised.

    Attributes
    ----------
    value_range : (float, float), "clip" or None
        Cells, in the front end's unit, that become 0 and 1; what lies outside is limited to them.
        "clip": the least and the largest cell of each clip. None: the cells as they are.
    top_db : float, optional
        Raise cells to at least this much below the largest cell of their clip first, as
        ``librosa.power_to_db`` does.
    origin : {"upper", "lower"}
        Where the lowest frequency is: in the upper row, as in the tensors of torchaudio and
        librosa, or in the lower row, as in pictures. The words are matplotlib's.
    colormap : str, optional
        Of matplotlib, such as "viridis", interpolated between its colours. By default grey, the
        same in all channels.
    size : int, (int, int), "cells" or None
        Rows and columns. "cells": as many as the cells have. None: the size that the network is
        made for, where it says one, as vision transformers and networks of timm do; else "cells".
    interpolation : {"bilinear", "bicubic", "nearest"} or None
        How it is resized. None: what timm has for the network, else "bilinear".
    antialias : bool
        Whether an image is smoothed before it is made smaller, as Pillow and torchvision do it.
    mean, std : float, sequence of float or None
        What is subtracted from the channels, and then divided by. None: for three channels of a
        scaled image what timm has for the network, else ImageNet's; otherwise 0 and 1.
    channels : int, optional
        Of the image; by default as many as the network's first convolution takes.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.
    """

    value_range: tuple[float, float] | Literal["clip"] | None
    top_db: float | None = None
    origin: Literal["upper", "lower"] = "upper"
    colormap: str | None = None
    size: int | Pair | Literal["cells"] | None = None
    interpolation: str | None = None
    antialias: bool = True
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.value_range not in ("clip", None):
            object.__setattr__(self, "value_range", _check_range(self.value_range))
        if self.top_db is not None and not 0 < self.top_db < math.inf:
            raise ValueError(f"top_db is {self.top_db}: expected decibels above 0, such as 80")
        if self.origin not in ("upper", "lower"):
            raise ValueError(
                f"origin is {self.origin!r}: choose 'upper' for the lowest frequency in the upper "
                "row, or 'lower'"
            )
        if self.colormap is not None:
            if self.value_range is None:
                raise ValueError("a colormap needs a value_range, which becomes its ends")
            _colors(self.colormap)
        if self.size not in ("cells", None):
            object.__setattr__(self, "size", _check_size(self.size))
        if self.interpolation not in (*INTERPOLATIONS, None):
            raise ValueError(
                f"interpolation is {self.interpolation!r}: choose from {', '.join(INTERPOLATIONS)}"
            )
        for name in ("mean", "std"):
            object.__setattr__(self, name, _check_numbers(name, getattr(self, name)))

    def made_for(self, network: nn.Module) -> SpectrogramImage:
        """Return these settings with what is None taken from a network.

        Raises
        ------
        ValueError
            If the number of channels is neither given nor that of a convolution.
        """
        known = _facts_of(network)
        channels = self.channels or known["channels"]
        if channels is None:
            raise ValueError(
                f"{type(network).__name__} has no convolution that tells how many channels the "
                "image has: give SpectrogramImage(channels=…)"
            )
        if self.colormap is not None and channels != 3:
            raise ValueError(f"a colormap has 3 channels, the network takes {channels}")
        plain = channels != 3 or self.value_range is None
        mean, std = ((0.0,), (1.0,)) if plain else (known["mean"], known["std"])
        return replace(
            self,
            channels=channels,
            size=known["size"] if self.size is None else self.size,
            interpolation=self.interpolation or known["interpolation"],
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
        )

    def settings(self) -> dict[str, Any]:
        """Return all settings, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


class ImageOfCells(nn.Module):
    """Cells → image, by settings that are complete; see `SpectrogramImage.made_for`."""

    def __init__(self, settings: SpectrogramImage) -> None:
        super().__init__()
        self.settings = settings
        # A module, for which methods with a rule for every nonlinearity have one.
        self.limit = nn.Hardtanh(0.0, 1.0)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(settings, name), dtype=torch.float64)
            if len(values) not in (1, settings.channels):
                raise ValueError(
                    f"{name} has {len(values)} numbers for {settings.channels} channels: give one, "
                    "or one for each"
                )
            self.register_buffer(name, values[:, None, None].float(), persistent=False)
        colors = None if settings.colormap is None else _colors(settings.colormap)
        self.register_buffer("colors", colors, persistent=False)

    def forward(self, cells: Tensor) -> Tensor:
        """Return images (batch, channels, rows, columns) of cells (batch, 1, bins, frames)."""
        image = self._scaled(cells)
        if self.settings.origin == "lower":
            image = image.flip(2)
        if self.colors is not None:
            image = _colored(image, self.colors)
        else:
            image = image.expand(-1, self.settings.channels, -1, -1)
        if self.settings.size != "cells":
            image = self._resized(image)
        return (image - self.mean) / self.std

    def _scaled(self, cells: Tensor) -> Tensor:
        if self.settings.top_db is not None:
            least = cells.amax((2, 3), keepdim=True) - self.settings.top_db
            cells = torch.maximum(cells, least)
        if self.settings.value_range is None:
            return cells
        if self.settings.value_range == "clip":
            low, high = cells.amin((2, 3), keepdim=True), cells.amax((2, 3), keepdim=True)
            span = high - low
            return (cells - low) / torch.where(span > 0, span, torch.ones_like(span))
        low, high = self.settings.value_range
        return self.limit((cells - low) / (high - low))

    def _resized(self, image: Tensor) -> Tensor:
        size, mode = self.settings.size, self.settings.interpolation
        if mode == "nearest":
            return interpolate(image, size, mode=mode)
        # Not every device smooths in half precision.
        wide = image.to(torch.promote_types(image.dtype, torch.float32))
        smooth = self.settings.antialias
        small = interpolate(wide, size, mode=mode, align_corners=False, antialias=smooth)
        return small.to(image.dtype)


class VisionNetwork(nn.Module):
    """An image network behind the image that it takes: cells → what the network returns.

    Parameters
    ----------
    network : Module
        Images (batch, channels, rows, columns) to scores.
    image : SpectrogramImage
    cells : (int, int), optional
        Bins and frames of the cells, where the network takes one length only.

    Attributes
    ----------
    image : ImageOfCells
        Call it to see what the network sees.
    """

    def __init__(
        self, network: nn.Module, image: SpectrogramImage, *, cells: Pair | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.image = ImageOfCells(image.made_for(network))
        weight = next((p for p in network.parameters() if p.is_floating_point()), None)
        if weight is not None:
            self.image.to(weight)
        size = self.image.settings.size
        self.size: Pair | None = cells if size == "cells" else size
        # A name, not the module: a second reference would appear twice in the state dict.
        self._target = _last_stage(network)

    @property
    def differentiable(self) -> bool:
        """Whether the network has gradients and layers."""
        return bool(getattr(self.network, "differentiable", True))

    @property
    def target_layer(self) -> nn.Module | None:
        """The network's last stage, or the first layer norm of its last block of attention."""
        return None if self._target is None else self.network.get_submodule(self._target)

    def forward(self, cells: Tensor) -> Any:
        """Return what the network returns for the image of cells (batch, 1, bins, frames)."""
        return self.network(self.image(cells))

    def settings(self) -> dict[str, Any]:
        """Return the network's name and how its image is made, ready for JSON."""
        own = getattr(self.network, "settings", None)
        described = own() if callable(own) else {"name": type(self.network).__name__}
        return described | {"image": self.image.settings.settings()}

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return a layer's activation as planes (batch, channels, freq, time), turned back.

        See `audiointerp.model.planes.to_plane`.

        Raises
        ------
        ValueError
            If the activation is no plane of the image.
        """
        if activation.ndim == 4:
            plane = self._of_planes(layer, activation)
        elif activation.ndim == 3:
            plane = self._of_tokens(layer, activation)
        else:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}, which are no "
                "planes of the image: choose a convolution block or a block of attention"
            )
        return plane.flip(2) if self.image.settings.origin == "lower" else plane

    def _of_planes(self, layer: str, activation: Tensor) -> Tensor:
        """Return (batch, channels, rows, columns) of that, or of (batch, rows, columns, channels).

        Which it is shows in the numbers of rows and columns. Where both could be, layers that work
        on the last axis, and networks that say so, have the channels there.
        """
        module = self.get_submodule(layer)
        on_last_axis = type(module) in (nn.Linear, nn.LayerNorm) or (
            getattr(self.network, "output_fmt", None) == "NHWC"
            and not isinstance(module, nn.Conv2d)
        )
        first, last = activation.shape[2:], activation.shape[1:3]
        if self.size is None:
            return activation.movedim(3, 1) if on_last_axis else activation
        fitting = [_is_plane(shape, self.size) for shape in (first, last)]
        if not any(fitting):
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}, which are no "
                f"planes of an image of {self.size} rows and columns: choose another layer"
            )
        return (
            activation.movedim(3, 1)
            if fitting[1] and (on_last_axis or not fitting[0])
            else activation
        )

    def _of_tokens(self, layer: str, activation: Tensor) -> Tensor:
        """Lay tokens (batch, tokens, channels) out, without those that are no patch."""
        tokens = activation.shape[1]
        grid = None if hasattr(self.network, "unroll") else self._grid(tokens)
        if grid is None:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}, and it is not "
                f"known how its {tokens} tokens lie on an image of {self.size} rows and columns: "
                "give activation_axes=…, see audiointerp.model.planes.tokens_to_plane"
            )
        prefix, (rows, columns) = grid
        return activation[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))

    def _grid(self, tokens: int) -> tuple[int, Pair] | None:
        """Return how many tokens come before the patches, and the rows and columns of these."""
        if self.size is None:
            return None
        for prefix in sorted({_prefix_tokens(self.network), 0}, reverse=True):
            for grid in _grids(self.size):
                if grid[0] * grid[1] == tokens - prefix:
                    return prefix, grid
        return None


def from_vision(
    network: nn.Module,
    image: SpectrogramImage,
    *,
    front_end: FrontEnd,
    classes: ClassNames,
    example: tuple[Tensor, Tensor] | None = None,
    head: str | Head | None = None,
    duration: float | None = None,
    licence: str | None = None,
    normalize: bool = False,
    outputs: Outputs | None = None,
    output: str | int | Callable[[Any], Tensor] | None = None,
    activation_axes: Callable[[str, Tensor], Tensor] | None = None,
) -> Classifier:
    """Make a classifier of an image network that was trained on spectrograms.

    Parameters
    ----------
    network : Module
        Of torchvision, timm or any other: images (batch, channels, rows, columns) to scores.
    image : SpectrogramImage
        How cells become the image that it was trained on.
    front_end : FrontEnd
        What turns a waveform into the cells.
    example : (Tensor, Tensor), optional
        A waveform (samples,) at the front end's rate and the image (channels, rows, columns) that
        the network was given for it in training. That made here is compared with it.
    classes, head, duration, licence, normalize, outputs, output, activation_axes
        See `audiointerp.model.classifier.classifier`. Axes of torchvision's and timm's layers are
        known.

    Returns
    -------
    Classifier
        Its layers are those of the network with ``network.`` before their names; the image of
        cells is ``classifier.network.image(cells)``.

    Raises
    ------
    TypeError
        If the image is no `SpectrogramImage`.
    ValueError
        If the network does not take such images, the example has another one, or as
        `audiointerp.model.classifier.classifier`.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> birds = from_vision(
    ...     resnet18(num_classes=2),
    ...     SpectrogramImage((-80, 20), size=224, origin="lower"),
    ...     front_end=LogMelSTFTSpectrogram(),
    ...     classes=["owl", "wren"],
    ...     duration=5.0,
    ... )  # doctest: +SKIP
    """
    if not isinstance(image, SpectrogramImage):
        raise TypeError(
            f"image is {type(image).__name__}: expected how cells become one, such as "
            "audiointerp.SpectrogramImage((-80, 0), size=224)"
        )
    cells = None
    if duration is not None:
        frames = front_end.num_frames(samples_in(duration, front_end.sample_rate))
        cells = (front_end.num_bins, frames)
    made = classifier(
        VisionNetwork(network, image, cells=cells),
        front_end=front_end,
        classes=classes,
        head=head,
        duration=duration,
        licence=licence,
        normalize=normalize,
        outputs=outputs,
        output=output,
        activation_axes=activation_axes,
    )
    if example is not None:
        _check_example(made, *example)
    return made


def _check_example(made: Classifier, waveform: Tensor, expected: Tensor) -> None:
    """Raise a ValueError unless a waveform's image is the expected one, with the likely reason."""
    vision = made.network
    with torch.no_grad():
        view = made.front_end.analyse(torch.as_tensor(waveform).reshape(1, 1, -1))
        found = vision.image(made.network_input(view.cells, view))[0].double()
    expected = torch.as_tensor(expected).to(found)
    if found.shape != expected.shape:
        raise ValueError(
            f"the image has the shape {tuple(found.shape)}, that of the example "
            f"{tuple(expected.shape)}: is the size, the duration or the front end another?"
        )
    spread = expected.std().clamp(min=1e-12)
    error = float((found - expected).square().mean().sqrt() / spread)
    if error <= _SAME_IMAGE:
        return
    upright, turned = _correlation(found, expected), _correlation(found.flip(1), expected)
    if turned > max(upright, _ALIKE):
        other = "upper" if vision.image.settings.origin == "lower" else "lower"
        reason = f"it is upside down: SpectrogramImage(origin={other!r})"
    elif upright > _ALIKE:
        reason = (
            f"its values run from {found.min():.3g} to {found.max():.3g}, the example's from "
            f"{expected.min():.3g} to {expected.max():.3g}: value_range, mean or std differ"
        )
    else:
        reason = f"the two correlate by {upright:.2f}: is this the front end of the example?"
    raise ValueError(
        f"the image of the example's waveform is not the example's, by {100 * error:.0f} % of its "
        f"spread: {reason}"
    )


def _correlation(first: Tensor, second: Tensor) -> float:
    a, b = first - first.mean(), second - second.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-30))


def _facts_of(network: nn.Module) -> dict[str, Any]:
    """Return what a network says of the images that it takes."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    config = getattr(network, "pretrained_cfg", None)
    config = config if isinstance(config, Mapping) else {}  # timm's networks have one
    channels = None if first is None else first.in_channels
    known = config.get("interpolation")
    return {
        "channels": channels,
        "size": _size_of(network, config),
        "interpolation": known if known in INTERPOLATIONS else "bilinear",
        "mean": tuple(config.get("mean", IMAGENET_MEAN)),
        "std": tuple(config.get("std", IMAGENET_STD)),
    }


def _size_of(network: nn.Module, config: Mapping[str, Any]) -> Pair | Literal["cells"]:
    own = getattr(getattr(network, "patch_embed", None), "img_size", None)  # timm
    if own is None:
        own = getattr(network, "image_size", None)  # torchvision's vision transformer
    if own is None and "input_size" in config:
        own = tuple(config["input_size"])[1:]
    return "cells" if own is None else _check_size(own)


def _is_plane(shape: Sequence[int], size: Pair) -> bool:
    """Say whether so many rows and columns can be those of an image of a size, at some stride.

    Convolutions without padding lose some.
    """
    for count, whole in zip(shape, size, strict=True):
        strided = whole / max(1, round(whole / count))
        if abs(count - strided) > 1 + _LOST * strided:
            return False
    return True


def _prefix_tokens(network: nn.Module) -> int:
    """Return how many tokens of a transformer are no patches."""
    known = getattr(network, "num_prefix_tokens", None)  # timm
    if known is None:
        known = int(isinstance(getattr(network, "class_token", None), nn.Parameter))  # torchvision
    return known


def _grids(size: Pair) -> Iterator[Pair]:
    """Yield the rows and columns of patches of every stride, from the finest on."""
    height, width = size
    for stride in range(1, max(size) + 1):
        yield math.ceil(height / stride), math.ceil(width / stride)
        if height // stride and width // stride:
            yield height // stride, width // stride


def _last_stage(network: nn.Module) -> str | None:
    """Return the name of the layer that class activation maps look at by default.

    Of transformers whose class token is classified, patches after the last attention have no
    gradient: the layer is what their last block of attention takes.
    """
    layers = dict(network.named_modules())
    if hasattr(network, "unroll"):  # timm's Hiera, whose tokens are not in the order of rows
        return None
    for blocks, norm in (("blocks", "norm1"), ("encoder.layers", "ln_1")):
        last = [name for name in layers if name.rpartition(".")[0] == blocks][-1:]
        if last and f"{last[0]}.{norm}" in layers:
            return f"{last[0]}.{norm}"
    stages = getattr(network, "feature_info", None)  # timm
    stages = getattr(stages, "info", stages)
    if stages:
        name = stages[-1].get("module")
        return name if name in layers else None
    for name, _ in TARGETS:
        if isinstance(layers.get(name), nn.ModuleList):  # which is never called itself
            return f"{name}.{len(layers[name]) - 1}"
        if name in layers:
            return name
    return None


def _colored(image: Tensor, colors: Tensor) -> Tensor:
    """Return (batch, 3, ., .) of values in [0, 1], linear between the centres of the colours."""
    place = (image[:, 0] * len(colors) - 0.5).clamp(0, len(colors) - 1)
    below = place.detach().floor().long().clamp(max=len(colors) - 2)
    share = (place - below)[..., None]
    return torch.lerp(colors[below], colors[below + 1], share).movedim(3, 1)


def _colors(name: str) -> Tensor:
    """Return the colours of a map of matplotlib, (colours, 3)."""
    from matplotlib import colormaps

    if name not in colormaps:
        raise ValueError(f"matplotlib has no colormap {name!r}: take one such as 'viridis'")
    table = colormaps[name]
    return torch.tensor([table(number)[:3] for number in range(table.N)])


def _check_range(value: Any) -> tuple[float, float]:
    try:
        low, high = (float(each) for each in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range is {value!r}: expected the cells that become 0 and 1, such as (-80, 0), "
            "'clip' or None"
        )
    return low, high


def _check_size(value: Any) -> Pair:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    whole = all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides)
    if len(sides) != 2 or not whole:
        raise ValueError(
            f"size is {value!r}: expected rows and columns from 1 to {_LARGEST_SIDE}, one number "
            "for both, or 'cells'"
        )
    return sides


def _check_numbers(name: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = (value,) if isinstance(value, int | float) else tuple(value)
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} is {value!r}: expected a finite number, or one for each channel")
    if name == "std" and not all(number > 0 for number in numbers):
        raise ValueError(f"std is {value!r}: expected positive numbers")
    return tuple(map(float, numbers))
