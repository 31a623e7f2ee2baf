"""Activations of any layer as planes over frequency and time, for Grad-CAM and its like."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Axes = tuple[str, ...]

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
        plane = axes(layer, activation)
        if plane.ndim != 4 or len(plane) != len(activation):
            raise ValueError(
                f"activation_axes returned {tuple(plane.shape)} for the layer {layer!r}: expected "
                f"({len(activation)}, channels, freq, time)"
            )
        return plane
    names = _names(activation, axes, layer, module)
    # A missing axis has size 1.
    order = [names.index(axis) + 1 for axis in ("channel", "freq", "time") if axis in names]
    plane = activation.permute(0, *order)
    for place, axis in enumerate(("channel", "freq", "time"), start=1):
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
    known = {"channel", "freq", "time"}
    if axes is not None and len(axes) == count and len(set(axes)) == count and set(axes) <= known:
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
