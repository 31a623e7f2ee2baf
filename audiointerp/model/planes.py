"""Activations of any layer as planes over frequency and time, for Grad-CAM and similar methods."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Axes = tuple[str, ...]

_AXES = ("channel", "freq", "time")

CHANNELS_FIRST = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.GroupNorm,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
"""Layers whose activations (batch, channels, time) need no declaration."""


def to_plane(
    activation: Tensor,
    axes: Axes | Callable[[str, Tensor], Tensor] | None,
    *,
    layer: str,
    module: nn.Module,
) -> Tensor:
    """Return an activation as (batch, channels, freq, time).

    Parameters
    ----------
    activation : Tensor
        Of a layer, batch axis first.
    axes : tuple of str, callable or None
        Names of the axes after the batch axis: "channel", "freq", "time"; or a function of the
        layer's name and the activation. ("freq", "time") and ("time", "freq") are short for those
        after the channel axis. None: (channel, freq, time) for four axes; (channel, time) for
        three, if the layer is one of `CHANNELS_FIRST`.
    layer : str
        Name of the layer, for messages.
    module : Module
        The layer.

    Returns
    -------
    Tensor, shape (batch, channels, freq, time)
        With freq or time 1 where there is no such axis.

    Raises
    ------
    ValueError
        If the axes are unknown or do not fit the activation.
    """
    if callable(axes):
        return _laid_out(axes, layer, activation)
    check_axes(axes)
    return _arrange(activation, _names(activation, axes, layer, module))


def token_plane(
    values: Tensor, axes: Axes | Callable[[str, Tensor], Tensor] | None, *, layer: str
) -> Tensor:
    """Return one value for each token as planes over frequency and time.

    Parameters
    ----------
    values : Tensor, shape (batch, tokens)
    axes : tuple of str, callable or None
        As in `to_plane`. A tuple says where tokens lie if it has one of "freq" and "time". A
        function is given (batch, tokens, 1), as an activation of one channel.
    layer : str
        Name of the layer, for messages and the function.

    Returns
    -------
    Tensor, shape (batch, 1, freq, time)

    Raises
    ------
    ValueError
        If the axes are unknown, or do not fit.
    """
    if callable(axes):
        return _laid_out(axes, layer, values[:, :, None])
    check_axes(axes)
    places = [] if axes is None else [axis for axis in axes if axis != "channel"]
    if len(places) != 1:
        raise ValueError(
            f"the layer {layer!r} has {values.shape[1]} tokens, and activation_axes={axes} do not "
            "say where they lie: declare ('time', 'channel') for frames, or a function for "
            "patches, see audiointerp.model.planes.tokens_to_plane"
        )
    return _arrange(values[:, None], ("channel", *places))


def _laid_out(lay_out: Callable[[str, Tensor], Tensor], layer: str, activation: Tensor) -> Tensor:
    """Return the planes that a function makes of an activation."""
    plane = lay_out(layer, activation)
    if not isinstance(plane, Tensor) or plane.ndim != 4:
        got = tuple(plane.shape) if isinstance(plane, Tensor) else type(plane).__name__
        raise ValueError(
            f"activation_axes returned {got} for the layer {layer!r}: expected a tensor "
            "(batch, channels, freq, time)"
        )
    return plane


def check_axes(axes: Axes | Callable[[str, Tensor], Tensor] | None) -> None:
    """Raise a ValueError unless axes are as `to_plane` takes them."""
    if axes is None or callable(axes):
        return
    named = () if isinstance(axes, str) else tuple(axes)
    if not named or len(set(named)) < len(named) or not set(named) <= set(_AXES):
        raise ValueError(
            f"activation_axes is {axes!r}: expected a tuple of 'channel', 'freq' and 'time', each "
            "at most once, in the order of the axes after the batch; or a function"
        )


def _arrange(activation: Tensor, names: Axes) -> Tensor:
    """Return (batch, channels, freq, time) of an activation whose axes have these names."""
    order = [names.index(axis) + 1 for axis in _AXES if axis in names]
    plane = activation.permute(0, *order)
    for place, axis in enumerate(_AXES, start=1):
        if axis not in names:
            plane = plane.unsqueeze(place)
    return plane


def _names(activation: Tensor, axes: Axes | None, layer: str, module: nn.Module) -> tuple[str, ...]:
    count = activation.ndim - 1
    if axes is not None and "channel" not in axes and count == len(axes) + 1:
        axes = ("channel", *axes)
    if axes is None and count == 3:
        axes = ("channel", "freq", "time")
    if axes is None and count == 2 and isinstance(module, CHANNELS_FIRST):
        axes = ("channel", "time")
    if axes is not None and len(axes) == count and "channel" in axes:
        return tuple(axes)
    shape = tuple(activation.shape)
    if axes is None and count == 2:
        raise ValueError(
            f"the layer {layer!r} ({type(module).__name__}) gives activations {shape}: say which "
            "axis is which by activation_axes=('channel', 'time'), ('time', 'channel'), or a "
            "function for tokens of patches, see audiointerp.model.planes.tokens_to_plane"
        )
    raise ValueError(
        f"the layer {layer!r} gives activations {shape}, which activation_axes={axes} do not "
        "describe: name every axis after the batch, 'channel', 'freq' and 'time', or choose a "
        "convolution block or its activation"
    )


def tokens_to_plane(
    freq: int, time: int, *, prefix: int = 0, time_first: bool = False
) -> Callable[[str, Tensor], Tensor]:
    """Return a function that lays tokens of patches (batch, tokens, channels) out as a plane.

    Parameters
    ----------
    freq, time : int
        Number of patches along each axis.
    prefix : int, default 0
        Tokens before those of the patches, such as a class token, which are left out.
    time_first : bool, default False
        Whether the tokens run along frequency first, for each time, instead of along time first
        for each frequency.

    Returns
    -------
    callable
        For ``activation_axes`` of `audiointerp.model.classifier.classifier`.

    Examples
    --------
    >>> lay_out = tokens_to_plane(2, 3, prefix=1)
    >>> lay_out("block", torch.zeros(4, 7, 5)).shape
    torch.Size([4, 5, 2, 3])
    """

    def lay_out(layer: str, activation: Tensor) -> Tensor:
        shape = tuple(activation.shape)
        if activation.ndim != 3 or shape[1] != prefix + freq * time:
            raise ValueError(
                f"the layer {layer!r} gives activations {shape}: expected (batch, tokens, "
                f"channels) with {prefix} + {freq}·{time} = {prefix + freq * time} tokens"
            )
        patches = activation[:, prefix:].transpose(1, 2)
        if time_first:
            return patches.unflatten(2, (time, freq)).transpose(2, 3)
        return patches.unflatten(2, (freq, time))

    return lay_out


def frames_to_plane(
    frames: int, *, axes: Axes = ("channel", "time")
) -> Callable[[str, Tensor], Tensor]:
    """Return a function that joins the activations of a clip's frames along time.

    For networks that cut each clip into frames and put these into the batch axis, clip by clip:
    (batch·frames, …). The frames must be adjacent: those that overlap would each be given more
    time than they add.

    Parameters
    ----------
    frames : int
        Frames of each clip.
    axes : tuple of str
        Names of the axes of one frame's activation, such as ("channel", "freq", "time").

    Returns
    -------
    callable
        For ``activation_axes`` of `audiointerp.model.classifier.classifier`.

    Raises
    ------
    ValueError
        If the axes are not as `to_plane` takes them, or have no channel.

    Examples
    --------
    >>> join = frames_to_plane(3)
    >>> join("conv", torch.zeros(6, 5, 4)).shape
    torch.Size([2, 5, 1, 12])
    """
    check_axes(axes)
    if "channel" not in axes:
        raise ValueError(f"axes is {axes!r}: 'channel' must be one of them")

    def join(layer: str, activation: Tensor) -> Tensor:
        shape = tuple(activation.shape)
        if len(shape) != len(axes) + 1 or shape[0] % frames:
            raise ValueError(
                f"the layer {layer!r} gives activations {shape}: expected a multiple of {frames} "
                f"frames, each with the axes {axes}"
            )
        planes = _arrange(activation, axes).unflatten(0, (-1, frames))
        return planes.permute(0, 2, 3, 1, 4).flatten(3)

    return join


def resize_plane(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return planes at other places, linear between their cells and level beyond the outer ones.

    Parameters
    ----------
    planes : Tensor, shape (batch, channels, freq, time)
    rows, columns : Tensor, shapes (rows,) and (columns,)
        Places along frequency and time, counted in the planes' cells: 0.5 lies halfway between the
        centres of the first two.

    Returns
    -------
    Tensor, shape (batch, channels, rows, columns)

    Examples
    --------
    >>> resize_plane(torch.tensor([[[[1.0, 3.0]]]]), torch.zeros(1), torch.tensor([-1, 0.5, 1]))
    tensor([[[[1., 2., 3.]]]])
    """
    return _at(_at(planes, rows, 2), columns, 3)


def _at(planes: Tensor, places: Tensor, axis: int) -> Tensor:
    places = places.to(planes.device, torch.float32).clamp(0, planes.shape[axis] - 1)
    before = places.floor()
    after = (before + 1).clamp(max=planes.shape[axis] - 1)
    ends = [planes.index_select(axis, each.long()) for each in (before, after)]
    weight = (places - before).to(planes)
    return torch.lerp(*ends, weight if axis == 3 else weight[:, None])
