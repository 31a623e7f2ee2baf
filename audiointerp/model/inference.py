"""A faster copy of a model for many forward passes: folded batch norm, channels-last weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)

_NORM_AFTER = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


@torch.no_grad()
def inference_copy(model: M, *, keep: Iterable[str] = ()) -> M:
    """Return an evaluation-mode copy that computes the same logits faster, to float rounding.

    Every batch norm that directly follows a convolution is folded into its weights and replaced by
    an identity, every other one by the scale and shift that it amounts to. Parameters are frozen
    and weights laid out channels-last. Names, submodules and
    the settings stay; the state dict does not. The copy does not follow later changes of the model.

    Where the order of operations cannot be proved (control flow that depends on values, shared
    modules, hooks on the layers), the layers stay as they are.

    Parameters
    ----------
    model : Module
        Left as it is.
    keep : iterable of str
        Dotted names of layers whose outputs are wanted as the model has them: no batch norm is
        folded into these.

    Returns
    -------
    Module
        Of the model's class, in evaluation mode.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    uses = Counter(id(module) for _, module in twin.named_modules(remove_duplicate=False))
    kept = set(keep)
    for conv_name, norm_name in list(_conv_norm_pairs(twin)):
        if conv_name in kept:
            continue
        conv, norm = twin.get_submodule(conv_name), twin.get_submodule(norm_name)
        if uses[id(conv)] == uses[id(norm)] == 1 and _plain(conv) and _plain(norm):
            _replace(twin, conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            _replace(twin, norm_name, nn.Identity())
    for name, norm in list(twin.named_modules()):
        # Not only for speed: torch's batch norm on the CPU returns wrong input gradients for some
        # channels-last layouts with an axis of size 1 (seen with torch 2.11 in PANNs' bn0).
        if type(norm) in _NORM_AFTER.values() and norm.running_mean is not None and _plain(norm):
            _replace(twin, name, _ScaleAndShift(norm))
    return twin.eval().to(memory_format=torch.channels_last)


class _ScaleAndShift(nn.Module):
    """A batch norm in evaluation mode: x·scale + shift in each channel, axis 1."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 2)
        return torch.addcmul(self.shift.reshape(shape), x, self.scale.reshape(shape))


def batch_size_for(features: Tensor, *, gradient: bool = False) -> int:
    """Return how many spectrograms to run at once: a few on a CPU, what fits on a GPU.

    A CPU is fastest while a layer's activations fit its caches and its allocator's free list:
    of Cnn14 at 1/16 width on 257×313, batches of 8 took 7.4 ms a clip and batches of 16 11.5 ms.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
        Of the size and on the device that the model will run on.
    gradient : bool
        Whether every layer's activations are kept for a backward pass.
    """
    if features.device.type == "cpu":
        return 8
    free = torch.cuda.mem_get_info(features.device)[0] if features.is_cuda else 2**33
    return rows_that_fit(free, features.shape[-2] * features.shape[-1], gradient=gradient)


def rows_that_fit(free: int, cells: int, *, gradient: bool) -> int:
    """Return how many spectrograms of so many cells fit in half of so many free bytes, 1 to 128.

    Counted for Cnn14 at full width, whose first layers hold 64 single-precision channels of every
    cell: about 4 such layers at once in a forward pass, 12 kept for a backward pass.
    """
    layers = 12 if gradient else 4
    return int(min(128, max(1, free // 2 // (cells * 64 * 4 * layers))))


def _conv_norm_pairs(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted names of convolutions and the batch norm that alone reads their output."""
    if not any(module.children()):
        return
    try:
        graph = fx.Tracer().trace(module)
    except Exception:
        # Tracing runs the model's own Python on placeholders, which may fail in any way (a check
        # of shapes is enough). Then nothing is known at this level, but maybe of its children.
        for name, child in module.named_children():
            yield from _conv_norm_pairs(child, f"{prefix}{name}.")
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or len(node.users) != 1 or calls[node.target] != 1:
            continue
        (reader,) = node.users
        if reader.op != "call_module" or calls[reader.target] != 1:
            continue
        conv, norm = module.get_submodule(node.target), module.get_submodule(reader.target)
        if type(norm) is _NORM_AFTER.get(type(conv)) and norm.running_mean is not None:
            yield f"{prefix}{node.target}", f"{prefix}{reader.target}"


def _plain(module: nn.Module) -> bool:
    """Say whether a layer has neither hooks nor parametrisations that folding would lose."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and not hasattr(module, "parametrizations")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
