"""Numeric precision contexts."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

import torch

from audiointerp.registry import Registry

_CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})

PRECISIONS: Registry[Callable[[torch.device], AbstractContextManager[None]]] = Registry("precision")


def computing(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which networks on a device compute in a precision.

    Parameters
    ----------
    precision : {"float32", "tf32", "bfloat16"}
        ``"float32"`` is full single precision everywhere; torch by itself lets an NVIDIA GPU
        round the factors of convolutions to TF32. ``"tf32"`` allows that for matrix products
        too: 10 bits of mantissa, several times as fast. ``"bfloat16"`` computes convolutions and
        matrix products with 7 bits: less than a third of float32's time for Cnn14 on a CPU with
        AMX, several times as long on one without bfloat16 instructions (seen with oneDNN held to
        AVX-512 without them, and to AVX2). On a CPU ``"tf32"`` changes nothing. See
        `check_precision`.

        What they do to the metrics (ESC-10's mel model, 20 clips; ``benchmarks/README.md``): maps
        of float32 scored in TF32 move no mean by more than 0.001 of its metric's range, in bfloat16
        by no more than 0.007; maps made in it too, 0.012 and 0.039. No clip got another class.
        In bfloat16 SHAP's maps of some models miss their sum by more than 1 %: it warns then.
    device : torch.device

    Raises
    ------
    UnknownNameError
        If there is no such precision.
    """
    return PRECISIONS[precision](device)


def check_precision(precision: str, device: torch.device, *, stacklevel: int = 2) -> None:
    """Raise or warn where a precision is not what its name says on a device.

    Parameters
    ----------
    precision : str
        A name in `PRECISIONS`.
    device : device
    stacklevel : int
        Of the warnings; see `warnings.warn`.

    Raises
    ------
    ValueError
        If the device does not compute in it at all.

    Warns
    -----
    UserWarning
        If it is "tf32" and changes nothing on the device, or "bfloat16" and slower than float32,
        because the device has no instructions for it.
    """
    if precision == "tf32" and not _has_tf32(device):
        warnings.warn(
            f"precision 'tf32' changes nothing on {device}: it is for NVIDIA GPUs from Ampere on, "
            "and networks compute in float32 here",
            stacklevel=stacklevel + 1,
        )
    if precision == "bfloat16":
        check_bfloat16(device, precision, stacklevel=stacklevel + 1)


def check_bfloat16(device: torch.device, precision: str, *, stacklevel: int = 2) -> None:
    """Raise a ValueError or warn as `check_precision` does; `precision` is the user's name for it.

    Without this, torch would turn to float32 on a Mac before macOS 14.
    """
    if device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise ValueError(
            f"precision {precision!r} needs macOS 14 on {device}, this is {platform.mac_ver()[0]}: "
            "keep the default precision"
        )
    if has_bfloat16(device) is False:
        warnings.warn(
            f"precision {precision!r} is imitated on {device}, which has no bfloat16 instructions: "
            "it takes longer than the default precision",
            stacklevel=stacklevel + 1,
        )


def has_bfloat16(device: torch.device) -> bool | None:
    """Return whether a device has instructions for bfloat16, None where that is not known."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = _cpu_flags()
        return bool(flags & _CPU_FLAGS) if flags else None
    return None


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _cpu_flags() -> frozenset[str]:
    """Return the names of the processor's features, none where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    listed = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(listed[0].split()) if listed else frozenset()


@PRECISIONS.register("float32")
def _float32(device: torch.device) -> AbstractContextManager[None]:
    return _allowing_tf32(False)


@PRECISIONS.register("tf32")
def _tf32(device: torch.device) -> AbstractContextManager[None]:
    return _allowing_tf32(True)


@PRECISIONS.register("bfloat16")
def _bfloat16(device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def _allowing_tf32(allowed: bool) -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
