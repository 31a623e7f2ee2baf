"""A faster copy of a model: folded batch norm, ReLUs in place, weights laid out for speed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from audiointerp.model.memory import keep_freed_memory

M = TypeVar("M", bound=nn.Module)

_NORM_AFTER = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
# What these return they neither keep nor return again: it may be overwritten.
_OVERWRITABLE = (*_NORM_AFTER, *_NORM_AFTER.values(), nn.Linear)


def fast_copy(model: nn.Module, *, keep: Iterable[str] = ()) -> nn.Module:
    """Return the model's `inference_copy`, made once and again whenever the model has changed.

    Whoever asks for a model's copy gets the same one: take hooks off again that you put on it.
    Changed means any value of a parameter or buffer, any layer, any setting of a layer or any hook;
    all are looked at in every call, which takes 10 ms for 80 million parameters on a CPU.

    Parameters
    ----------
    model : Module
        It, not this function, keeps the copy alive.
    keep : iterable of str
        See `inference_copy`.

    Returns
    -------
    Module
    """
    kept = frozenset(keep)
    state = _state(model)
    copies = _COPIES.setdefault(model, {})
    if kept not in copies or copies[kept][0] != state:
        copies[kept] = (state, inference_copy(model, keep=kept))
    return copies[kept][1]


_COPIES: WeakKeyDictionary[nn.Module, dict[frozenset[str], tuple[tuple, nn.Module]]]
_COPIES = WeakKeyDictionary()


@torch.no_grad()
def inference_copy(model: M, *, keep: Iterable[str] = ()) -> M:
    """Return an evaluation-mode copy that computes the same logits faster, to float rounding.

    Every batch norm that directly follows a convolution is folded into its weights and replaced by
    an identity, every other one by the scale and shift that it amounts to. A ReLU overwrites its
    input where nothing else reads it. Parameters are frozen, weights laid out as their convolution
    is fastest. Names, submodules and the settings stay; the state dict does not. The copy does not
    follow later changes of the model; see `fast_copy`.

    Where the order of operations cannot be proved (control flow that depends on values, shared
    modules, hooks on the layers), the layers stay as they are.

    Parameters
    ----------
    model : Module
        Left as it is.
    keep : iterable of str
        Dotted names of layers whose outputs are wanted as the model has them: no batch norm is
        folded into these and no ReLU overwrites what they return.

    Returns
    -------
    Module
        Of the model's class, in evaluation mode.
    """
    if _device(model).type == "cpu":
        keep_freed_memory()
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    uses = Counter(id(module) for _, module in twin.named_modules(remove_duplicate=False))
    kept = set(keep)
    for name, reader_name in list(_read_by_one(twin)):
        layer, reader = twin.get_submodule(name), twin.get_submodule(reader_name)
        if name in kept or not uses[id(layer)] == uses[id(reader)] == 1:
            continue
        if not (_plain(layer) and _plain(reader)):
            continue
        if _foldable(layer, reader):
            _replace(twin, name, fuse_conv_bn_eval(layer, reader).requires_grad_(False))
            _replace(twin, reader_name, nn.Identity())
        elif type(reader) is nn.ReLU and isinstance(layer, _OVERWRITABLE):
            reader.inplace = True
    for name, norm in list(twin.named_modules()):
        # Not only for speed: torch's batch norm on the CPU returns wrong input gradients for some
        # channels-last layouts with an axis of size 1 (seen with torch 2.11 in PANNs' bn0).
        if type(norm) in _NORM_AFTER.values() and norm.running_mean is not None and _plain(norm):
            _replace(twin, name, _ScaleAndShift(norm))
    return _lay_out(twin.eval())


def _lay_out(model: nn.Module) -> nn.Module:
    """Lay weights out channels-last; on a CPU a convolution chooses by the plane that it meets."""
    model = model.to(memory_format=torch.channels_last)
    if _device(model).type == "cpu":
        for name, layer in list(model.named_modules()):
            if type(layer) is nn.Conv2d and layer.groups == 1 and _plain(layer):
                _replace(model, name, _ConvolutionByPlane.of(layer))
    return model


class _ConvolutionByPlane(nn.Conv2d):
    """A convolution that computes contiguously on planes of a few cells, else channels-last.

    So oneDNN 3.10 is fastest. Cnn14 at full width takes 90 ms a clip all channels-last, 79 all
    contiguous, 70 so: its last blocks have wide layers on 31×4 and 15×2 cells.
    """

    few_cells = 128

    @classmethod
    def of(cls, conv: nn.Conv2d) -> _ConvolutionByPlane:
        twin = cls.__new__(cls)
        twin.__dict__.update(conv.__dict__)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        few = x.shape[-2] * x.shape[-1] < self.few_cells
        layout = torch.contiguous_format if few else torch.channels_last
        if not self.weight.is_contiguous(memory_format=layout):
            # Once for a model and a clip length. A weight made in inference mode would have no
            # gradient ever after.
            with torch.inference_mode(False):
                self.weight.data = self.weight.detach().contiguous(memory_format=layout)
        return super().forward(x.contiguous(memory_format=layout))


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


def _read_by_one(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted names of layers and of the layer that alone reads their output."""
    if not any(module.children()):
        return
    try:
        graph = fx.Tracer().trace(module)
    except Exception:
        # Tracing runs the model's own Python on placeholders, which may fail in any way (a check
        # of shapes is enough). Then nothing is known at this level, but maybe of its children.
        for name, child in module.named_children():
            yield from _read_by_one(child, f"{prefix}{name}.")
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or len(node.users) != 1 or calls[node.target] != 1:
            continue
        (reader,) = node.users
        if reader.op == "call_module" and calls[reader.target] == 1:
            yield f"{prefix}{node.target}", f"{prefix}{reader.target}"


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return type(norm) is _NORM_AFTER.get(type(conv)) and norm.running_mean is not None


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


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _state(model: nn.Module) -> tuple:
    """Return what the copy of a model depends on, to be compared with that of another time."""
    layers = tuple(
        (
            name,
            id(layer),
            tuple(tuple(vars(layer).get(kind, ())) for kind in _HOOKS),
            tuple(
                (key, value if isinstance(value, int | float | str) else id(value))
                for key, value in vars(layer).items()
                if key != "training" and not key.startswith("_")
            ),
        )
        for name, layer in model.named_modules(remove_duplicate=False)
    )
    named = [*model.named_parameters(), *model.named_buffers()]
    where = tuple(
        (name, tensor._version, tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape)
        for name, tensor in named
    )
    return layers, where, _checksums([tensor for _, tensor in named])


@torch.no_grad()
def _checksums(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Return a number for each tensor that changes with any of its values and with their order.

    ``parameter.data.mul_(2)`` leaves torch's own count of changes as it was.
    """
    sums = [_checksum(tensor) for tensor in tensors]
    return tuple(torch.stack([each.cpu() for each in sums]).tolist()) if sums else ()


def _checksum(tensor: Tensor) -> Tensor:
    values = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = values[: len(values) // 8 * 8].view(torch.int64)
    rows = words[: len(words) // 512 * 512].view(-1, 512).sum(1)
    # Sums of whole numbers wrap around instead of losing digits.
    place = torch.arange(1, len(rows) + 1, device=rows.device)
    rest = words[len(rows) * 512 :].sum() + values[len(words) * 8 :].sum()
    return (rows * place).sum() + rest
