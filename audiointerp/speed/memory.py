"""Memory of activations: a heap that keeps freed blocks, and batch sizes that fit.

Importing it loads no torch, so that `audiointerp.speed.share_processors` is still in time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CPU_CELLS, _CPU_CELLS_WITH_GRADIENT = 2**20, 2**18
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that one layer frees for the next one; say whether it does.

    By default glibc maps every block above 32 MB anew from the system and gives it back at once:
    each page of each layer's activations is then zeroed and mapped in again. Afterwards blocks of
    every size, of all threads, come from one heap that does not shrink. The process so keeps its
    peak until it ends, and no more.

    This changes how the whole process gets its memory, so nothing in the library calls it but the
    command line. A script or notebook that runs networks on a CPU under Linux may call it once, at
    its beginning: without it, interpreting clips with Cnn14 takes 1.2 to 1.6 times as long, and up
    to twice as long for SHAP.

    Returns
    -------
    bool
        False where nothing is changed: on another C library than glibc, or where the environment
        says how malloc shall work (``MALLOC_…`` or ``GLIBC_TUNABLES``).

    Examples
    --------
    >>> from audiointerp.speed import keep_freed_memory
    >>> keep_freed_memory()                                               # doctest: +SKIP
    True
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "malloc" in os.environ.get("GLIBC_TUNABLES", "") or sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    settings = {
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: 64 * 2**20,
        _M_ARENA_MAX: 1,  # another thread's heap holds blocks up to 64 MB only
    }
    return all([library.mallopt(name, value) for name, value in settings.items()])


def bytes_to_keep(device: torch.device) -> int:
    """Return how much memory activations may hold on to from call to call."""
    return _free_memory(device) // 4 if device.type == "cuda" else 2**31


def batch_size_for(features: Tensor, *, gradient: bool = False) -> int:
    """Return how many spectrograms to run at once: some on a CPU, what fits on a GPU.

    On a CPU a larger batch reads a layer's weights less often for each clip. Cnn14 at full width
    on 64×501 takes 118 ms a clip alone, 80 in batches of 4, 76 of 8, 73 of 16 and 71 of 32, which
    is where this stops: 2^20 cells, a quarter of them where all activations are kept.

    Parameters
    ----------
    features : Tensor, shape (batch, 1, bins, frames)
        Of the size and on the device that the model will run on.
    gradient : bool
        Whether every layer's activations are kept for a backward pass.
    """
    cells = features.shape[-2] * features.shape[-1]
    if features.device.type == "cpu":
        return max(1, (_CPU_CELLS_WITH_GRADIENT if gradient else _CPU_CELLS) // cells)
    return rows_that_fit(_free_memory(features.device), cells, gradient=gradient)


def _free_memory(device: torch.device) -> int:
    """Return how many bytes a GPU has left: 8 GiB where it does not say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        # Shared with the processor; beyond what Metal recommends it swaps.
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 2**33


def rows_that_fit(free: int, cells: int, *, gradient: bool) -> int:
    """Return how many spectrograms of so many cells fit in half of so many free bytes, 1 to 128.

    Counted for Cnn14 at full width, whose first layers hold 64 single-precision channels of every
    cell: about 4 such layers at once in a forward pass, 12 kept for a backward pass.
    """
    layers = 12 if gradient else 4
    return int(min(128, max(1, free // 2 // (cells * 64 * 4 * layers))))
