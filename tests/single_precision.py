"""A device without float64, pretended on the CPU: what Apple's GPUs refuse, this one refuses.

Inside `pretended` the device "mps" is there. Its tensors compute on the CPU and say that they are
on "mps:0". An operation there that takes or makes float64 or complex128 raises what PyTorch raises
for Apple's GPUs, and so does one that PyTorch has no kernel for there, or that takes tensors of the
CPU too. On the CPU, float64 is as good as ever: ``tensor.cpu().double()`` works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchgen
import yaml
from lightning.fabric.accelerators.mps import MPSAccelerator as FabricMPSAccelerator
from lightning.pytorch.accelerators.mps import MPSAccelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

MPS = torch.device("mps", 0)
_IN_CPP = torch.device("meta")
_DOUBLE = (torch.float64, torch.complex128)
# They read tensors of another device: copies by nature, and positions to index with.
_MIXING = ("copy_", "_to_copy", "index", "index_put_", "_index_put_impl_")


class MPSTensor(torch.Tensor):
    """A tensor that says it is on Apple's GPU.

    To PyTorch's C++ it is on the device "meta", so that moving it to the CPU is an operation, and
    a backward pass needs no device's own stream.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> MPSTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_IN_CPP,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    device = property(lambda self: MPS)
    is_mps = property(lambda self: True)
    is_meta = property(lambda self: False)

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: MPSTensor) -> None:
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.cpu().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.cpu(), spec)

    def numpy(self, **options: Any) -> Any:
        raise TypeError(
            "can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        return self.numpy()


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Makes operations of what C++ does below them, and knows the device by another name there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = _in_cpp(kwargs["device"])
        if func is torch.Tensor.to:
            args = tuple(map(_in_cpp, args))
        elif func is torch.Tensor.new_tensor:
            func, args, kwargs["device"] = torch.tensor, args[1:], kwargs.get("device", _IN_CPP)
        elif func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], tree_map(_index, args[1], is_leaf=_is_list), *args[2:])
            if isinstance(args[-1], bool | int | float) and len(args) == 3:
                args = (*args[:2], torch.full((), args[2], dtype=args[0].dtype).to(args[0].device))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == _IN_CPP:
            grad = kwargs.pop("requires_grad", False)
            return func(*args, **kwargs | {"device": "cpu"}).to(_IN_CPP).requires_grad_(grad)
        return func(*args, **kwargs)


def _in_cpp(value: Any) -> Any:
    named = isinstance(value, str | torch.device) and torch.device(value).type == "mps"
    return _IN_CPP if named else value


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _index(value: Any) -> Any:
    return torch.tensor(value) if _is_list(value) else value


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Pretend that there is a device without float64; return it."""
    there = staticmethod(lambda: True)
    with (
        patch.object(torch.backends.mps, "is_available", there),
        patch.object(torch.backends.mps, "is_macos_or_newer", lambda *version: True),
        patch.object(torch.mps, "recommended_max_memory", lambda: 2**33),
        patch.object(torch.mps, "driver_allocated_memory", lambda: 2**32),
        patch.object(torch.mps, "get_rng_state", lambda: torch.zeros(1, dtype=torch.uint8)),
        patch.object(torch.mps, "set_rng_state", lambda state: None),
        patch.object(MPSAccelerator, "is_available", there),
        patch.object(FabricMPSAccelerator, "is_available", there),
        _Calls(),
        _Operations(),
    ):
        yield MPS


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, as the device would have it."""
    if torch.is_inference_mode_enabled():
        # Only there do operations that are made of others come as one.
        with _Operations():
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
    given = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    here = [each for each in given if isinstance(each, MPSTensor)]
    if any(each.is_meta for each in given):
        raise AssertionError(f"a tensor of {func} was filled where nobody could see it")
    wanted = kwargs.get("device")
    # Where C++ asks a tensor for its device: x.to(y).
    on_device = bool(here) if wanted is None else torch.device(wanted).type in ("mps", "meta")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if not here and not on_device:
        return func(*args, **kwargs)
    name = func._schema.name.removeprefix("aten::")
    if here:
        _check_operation(func, name, given)
    if on_device:
        _check_type(kwargs.get("dtype"))
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name.endswith("_") or "out" in kwargs:
        return args[0] if name.endswith("_") else kwargs["out"]
    return tree_map(_on_device, out) if on_device else out


def _check_operation(func: Any, name: str, given: list[torch.Tensor]) -> None:
    if func.namespace == "aten" and str(func).removeprefix("aten.") in _without_kernel():
        raise NotImplementedError(
            f"The operator '{func._schema.name}' is not currently implemented for the MPS device."
        )
    strange = [each for each in given if not isinstance(each, MPSTensor) and each.ndim]
    if strange and name not in _MIXING:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, mps:0 "
            f"and cpu! (in {func})"
        )


def _check_type(kind: Any) -> None:
    if kind in _DOUBLE:
        raise TypeError(
            f"Cannot convert a MPS Tensor to {str(kind).removeprefix('torch.')} dtype as the MPS "
            f"framework doesn't support {str(kind).removeprefix('torch.')}. "
            "Please use float32 instead."
        )


def _held(value: Any) -> Any:
    return value.held if isinstance(value, MPSTensor) else value


def _on_device(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or isinstance(value, MPSTensor):
        return value
    _check_type(value.dtype)
    return MPSTensor(value)


@cache
def _without_kernel() -> frozenset[str]:
    """Return the operations of this PyTorch that have no kernel for Apple's GPUs."""
    table = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = {}
    for entry in yaml.load(table.read_text(encoding="utf-8"), loader):
        name = entry["func"].partition("(")[0]
        entries[name if "." in name else f"{name}.default"] = entry

    def has(name: str) -> bool:
        entry = entries[name if "." in name else f"{name}.default"]
        if "structured_delegate" in entry:
            return has(entry["structured_delegate"])
        keys = {key.strip() for each in entry.get("dispatch", {}) for key in each.split(",")}
        return not keys or any(key == "MPS" or key.startswith("Composite") for key in keys)

    return frozenset(name for name in entries if not has(name))
