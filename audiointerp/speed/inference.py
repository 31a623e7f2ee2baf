"""Faster inference copy of a model: folded batch norm, in-place ReLUs, optimised weight layout."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from audiointerp.arguments import several
from audiointerp.device import device_of

M = TypeVar("M", bound=nn.Module)

_LOG = logging.getLogger(__name__)

_NORM_AFTER = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# What these return they neither keep nor return again: it may be overwritten.
_OVERWRITABLE = (*_NORM_AFTER, *_NORM_AFTER.values(), nn.Linear)


def fast_copy(model: nn.Module, *, keep: Iterable[str] = (), backward: bool = False) -> nn.Module:
    """Return the model's `inference_copy`, made once and again whenever the model has changed.

    Whoever asks for a model's copy gets the same one: take hooks off again that you put on it.
    Changed means any value of a parameter, a buffer or another tensor of a layer, any layer, any
    setting of a layer or any hook; all are looked at in every call, which takes 10 ms for 80
    million parameters on a CPU.

    A model that cannot be copied (one that stores activations, uses the hook-based ``weight_norm``
    or holds a lock or an open file) is returned itself, and the log says so once: run what this
    function returns inside `evaluation_mode` of the model, which is right for both.

    Parameters
    ----------
    model : Module
        Its copy lives as long as it does.
    keep, backward
        See `inference_copy`.

    Returns
    -------
    Module
    """
    if model in _NOT_COPYABLE or isinstance(model, torch.jit.ScriptModule):
        return model  # TorchScript has an order of operations of its own, that nobody may change
    # Of other layers the output stays anyway.
    kept = frozenset(
        name for name in several(keep) if isinstance(model.get_submodule(name), _OVERWRITABLE)
    )
    state = _state(model)
    copies = _COPIES.setdefault(model, {})
    wanted = (kept, backward)
    if wanted not in copies or copies[wanted][0] != state:
        try:
            with torch.inference_mode(False):  # its weights would have no gradient ever after
                copies[wanted] = (state, inference_copy(model, keep=kept, backward=backward))
        except NotCopyableError as error:
            # For good: what stands in the way may come and go with every forward pass.
            _NOT_COPYABLE.add(model)
            _LOG.warning("%s; it runs as it is, which may take twice as long", error)
            return model
    return copies[wanted][1]


class NotCopyableError(ValueError):
    """A model that `copy.deepcopy` does not copy."""


_COPIES: WeakKeyDictionary[nn.Module, dict[tuple, tuple[tuple, nn.Module]]]
_COPIES = WeakKeyDictionary()
_NOT_COPYABLE: WeakSet[nn.Module] = WeakSet()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode with frozen parameters; put all back after.

    Frozen parameters take no `.grad`, and convolutions keep no inputs for a weight gradient that
    nobody wants.
    """
    training = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


@torch.no_grad()
def inference_copy(model: M, *, keep: Iterable[str] = (), backward: bool = False) -> M:
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
    backward : bool, default False
        Lay weights out for many backward passes after each forward pass, as SHAP does them.

    Returns
    -------
    Module
        Of the model's class, in evaluation mode.

    Raises
    ------
    NotCopyableError
        If the model cannot be copied, naming the layer and the attribute that stand in the way.
    """
    twin = deep_copy(model).eval().requires_grad_(False)
    folded: set[str] = set()
    kept = set(several(keep))
    for name, reader_name in list(_read_by_one(twin)):
        layer, reader = twin.get_submodule(name), twin.get_submodule(reader_name)
        if name in kept or not (_plain(layer) and _plain(reader)):
            continue
        if _foldable(layer, reader):
            _replace(twin, name, fuse_conv_bn_eval(layer, reader).requires_grad_(False))
            _replace(twin, reader_name, nn.Identity())
            folded.add(reader_name)
        elif type(reader) is nn.ReLU and (name in folded or isinstance(layer, _OVERWRITABLE)):
            reader.inplace = True
    for name, norm in list(twin.named_modules()):
        # Not only for speed: torch's batch norm on the CPU returns wrong input gradients for some
        # channels-last layouts with an axis of size 1 (seen with torch 2.11 in PANNs' bn0).
        if type(norm) in _NORM_AFTER.values() and norm.running_mean is not None and _plain(norm):
            _replace(twin, name, _ScaleAndShift(norm))
    _lay_out(twin, backward)
    return twin.eval()


def deep_copy(model: M) -> M:
    """Return `copy.deepcopy` of a model.

    Raises
    ------
    NotCopyableError
        Naming the layer and the attribute that stand in the way.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # attributes may be anything, and copying them may fail in any way
        raise NotCopyableError(
            f"{type(model).__name__} cannot be copied because of {_obstacle(model)} ({error})"
        ) from error


def _obstacle(model: nn.Module) -> str:
    """Say which attribute of which layer cannot be copied."""
    for name, layer in model.named_modules():
        for key, value in vars(layer).items():
            if key in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                where = f"{name!r}, a {type(layer).__name__}," if name else "the model"
                return f"the attribute {key!r} of {where}"
    return "its own __deepcopy__ or a parameter"


def _lay_out(model: nn.Module, backward: bool) -> None:
    """Lay the weights of two-dimensional convolutions out channels-last."""
    kind = _SmallPlaneConvolution if backward else _PlaneConvolution
    on_cpu = device_of(model).type == "cpu"
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Conv2d and _plain(layer):
            layer.to(memory_format=torch.channels_last)
            if on_cpu and layer.groups == 1:
                _replace(model, name, kind.of(layer))


class _PlaneConvolution(nn.Conv2d):
    """A convolution that is computed channels-last, narrow planes with their axes exchanged.

    oneDNN computes several columns of a row at once; planes of at most 4 columns, where PANNs'
    blocks end with their (time, freq), leave most of that unused. Exchanging rows and columns makes
    a batch through Cnn14 on 64×501 an eighth faster at full width (AMD EPYC, AVX-512).
    """

    narrow = 4

    @classmethod
    def of(cls, conv: nn.Conv2d) -> _PlaneConvolution:
        twin = cls.__new__(cls)
        twin.__dict__.update(conv.__dict__)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        exchange = columns <= self.narrow and columns < rows and self.kernel_size[1] > 1
        # A pair of zeros has no use for another padding mode, and only pairs can be exchanged.
        if not exchange or self.padding_mode != "zeros" or isinstance(self.padding, str):
            self._lay_out_weight(exchanged=False)
            return super().forward(x.contiguous(memory_format=torch.channels_last))
        self._lay_out_weight(exchanged=True)
        y = functional.conv2d(
            x.mT.contiguous(memory_format=torch.channels_last),
            self.weight.mT,
            self.bias,
            self.stride[::-1],
            self.padding[::-1],
            self.dilation[::-1],
            self.groups,
        )
        return y.mT.contiguous(memory_format=torch.channels_last)

    def _lay_out_weight(self, *, exchanged: bool) -> None:
        """Store the weight as this plane needs it: once for a model and a clip length."""
        weight = self.weight.mT if exchanged else self.weight
        if not weight.is_contiguous(memory_format=torch.channels_last):
            with torch.inference_mode(False):
                weight = weight.detach().contiguous(memory_format=torch.channels_last)
                self.weight.data = weight.mT if exchanged else weight


class _SmallPlaneConvolution(nn.Conv2d):
    """A convolution that is computed channels-last, and contiguously on planes of a few cells.

    A backward pass is faster so than with narrow planes exchanged: SHAP on a full-width Cnn14 takes
    9 % less time.
    """

    few_cells = 128

    @classmethod
    def of(cls, conv: nn.Conv2d) -> _SmallPlaneConvolution:
        twin = cls.__new__(cls)
        twin.__dict__.update(conv.__dict__)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        few = x.shape[-2] * x.shape[-1] < self.few_cells
        layout = torch.contiguous_format if few else torch.channels_last
        if not self.weight.is_contiguous(memory_format=layout):
            # Once for a model and a clip length.
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


class _Tracer(fx.Tracer):
    """Looks into no module without children, whoever wrote it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children())


def _read_by_one(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the dotted names of layers and of the layer that alone reads their output.

    In the order in which they run. Layers with several names or several uses are left out.
    """
    names = Counter(id(layer) for _, layer in model.named_modules(remove_duplicate=False))
    for pair in _read_by_one_in(model, ""):
        if all(names[id(model.get_submodule(name))] == 1 for name in pair):
            yield pair


def _read_by_one_in(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    if not any(module.children()):
        return
    try:
        with attributes_kept(module):
            graph = _Tracer().trace(module)
    except Exception:
        # Tracing runs the model's own Python on placeholders, which may fail in any way (a check
        # of shapes is enough). Then nothing is known at this level, but maybe of its children.
        for name, child in module.named_children():
            yield from _read_by_one_in(child, f"{prefix}{name}.")
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or len(node.users) != 1 or calls[node.target] != 1:
            continue
        (reader,) = node.users
        if reader.op == "call_module" and calls[reader.target] == 1:
            yield f"{prefix}{node.target}", f"{prefix}{reader.target}"


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Undo what a block does to the layers' attributes: tracing may store its placeholders there.

    Dicts and lists get their items back, other objects are not looked into.
    """
    attributes = [vars(layer) for layer in model.modules()]
    held = [value for each in attributes for value in each.values() if type(value) in (dict, list)]
    before = [(each, each.copy()) for each in (*attributes, *held)]
    try:
        yield
    finally:
        for each, items in before:
            each.clear()
            each.update(items) if isinstance(each, dict) else each.extend(items)


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return type(norm) is _NORM_AFTER.get(type(conv)) and norm.running_mean is not None


def _plain(module: nn.Module) -> bool:
    """Say whether a layer has no hook, parametrisation or forward that folding would lose."""
    hooked = any(getattr(module, kind) for kind in _HOOKS)
    return not (hooked or hasattr(module, "parametrizations") or "forward" in vars(module))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _state(model: nn.Module) -> tuple:
    """Return what the copy of a model depends on, to be compared with that of another time."""
    tensors = [*model.parameters(), *model.buffers()]
    layers = tuple(
        (
            name,
            id(layer),
            type(layer),
            tuple(tuple(vars(layer).get(kind, ())) for kind in _HOOKS),
            tuple(
                (key, _value(value, tensors))
                for key, value in vars(layer).items()
                if key not in _OF_EVERY_MODULE
            ),
        )
        for name, layer in model.named_modules(remove_duplicate=False)
    )
    kinds = tuple((each.device, each.dtype, each.shape) for each in tensors)
    return layers, kinds, _checksums(tensors)


def _value(value: object, tensors: list[Tensor]) -> object:
    """Return what can be compared with an attribute of another time; put its tensors aside."""
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
        tensors.append(value)
        return Tensor
    if isinstance(value, list | tuple):
        return type(value), tuple(_value(each, tensors) for each in value)
    if isinstance(value, dict):
        return tuple((key, _value(each, tensors)) for key, each in value.items())
    return value if isinstance(value, int | float | str) else id(value)


@torch.no_grad()
def _checksums(tensors: list[Tensor]) -> tuple[int, ...]:
    """Return numbers that change with any value in the tensors and with the values' order.

    ``parameter.data.mul_(2)`` leaves torch's own count of changes as it was.
    """
    dense = [each.detach().resolve_conj().resolve_neg().contiguous() for each in tensors]
    values = [each.flatten().view(torch.uint8) for each in dense]
    # A hundred small tensors take longer one by one than together.
    small: dict[torch.device, list[Tensor]] = {}
    for each in values:
        if len(each) <= 2**18:
            small.setdefault(each.device, []).append(each)
    whole = [each for each in values if len(each) > 2**18] + [*map(torch.cat, small.values())]
    return tuple(sum_.item() for sum_ in [_checksum(each) for each in whole])


def _checksum(values: Tensor) -> Tensor:
    words = values[: len(values) // 8 * 8].view(torch.int64)
    rows = words[: len(words) // 512 * 512].view(-1, 512).sum(1)
    # Sums of whole numbers wrap around instead of losing digits.
    place = torch.arange(1, len(rows) + 1, device=rows.device)
    rest = words[len(rows) * 512 :].sum() + values[len(words) * 8 :].sum()
    return (rows * place).sum() + rest
