"""Arguments of torch functions, and modes that replace these functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_SAME_OPERATION = {
    **{"concatenate": "concat", "multiply": "mul", "divide": "div", "truediv": "div"},
    **{"true_divide": "div", "subtract": "sub", "swapdims": "swapaxes", "swish": "silu"},
}


def depends_on_clip(value: Any) -> bool:
    """Return whether a value depends on the clip: nothing else requires a gradient."""
    return isinstance(value, Tensor) and value.requires_grad


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def name_of(func: Callable[..., Any]) -> str:
    """Return a function's name: ``add`` for ``__radd__``, ``mT`` for the property's getter."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        return func.__self__.__name__
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        if name in ("iadd", "isub", "imul", "itruediv", "idiv"):
            name = f"{name[1:]}_"
        elif name in ("radd", "rmul"):
            name = name[1:]
    in_place = name.endswith("_")
    plain = name.removesuffix("_")
    return _SAME_OPERATION.get(plain, plain) + ("_" if in_place else "")


def out_of_place(func: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function that an operation in place is one of."""
    if not getattr(func, "__name__", "").endswith("_"):
        return func
    for module in (functional, torch, Tensor):
        if hasattr(module, name):
            return getattr(module, name)
    return func


def split_input(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function's input, and its other arguments."""
    if args:
        return args[0], (args[1:], kwargs)
    return kwargs["input"], ((), without(kwargs, "input"))


def without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return arguments less those of some names."""
    return {name: value for name, value in kwargs.items() if name not in names}


def running_in(network: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the module of a network that is running, with its dotted name; None outside of it."""
    names = {module: name for name, module in network.named_modules()}
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            return names[owner], owner
        frame = frame.f_back
    return None


def place_in(network: nn.Module) -> str:
    """Return which module of a network is running, for an error."""
    running = running_in(network)
    if running is None:
        return ""
    name, module = running
    where = f"{name!r}, a " if name else ""
    return f" in {where}{type(module).__name__}"
