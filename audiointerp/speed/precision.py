"""In how many bits a network computes: a context for everything that runs inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from audiointerp.registry import Registry

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
        AVX-512 without them, and to AVX2). On a CPU ``"tf32"`` changes nothing.

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
