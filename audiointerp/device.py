"""Device selection, the device of a model, and where double precision is available."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


def resolve_device(device: str) -> torch.device:
    """Return the device that a user names.

    Parameters
    ----------
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    ValueError
        If it is no device, one that the package does not offer, or not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    offered = "choose auto, cpu, cuda, cuda:<number> or mps"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: {offered}") from error
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if resolved.type not in counts:
        raise ValueError(
            f"the device {device!r} is not offered, as nothing was tested on it: {offered}"
        )
    if (resolved.index or 0) >= counts[resolved.type]:
        there = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(
            f"the device {device!r} is not there: this machine has, for this installation of "
            f"PyTorch, {there}; choose 'auto' for what there is, or 'cpu'"
        )
    return resolved


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@cache
def has_double(device: torch.device) -> bool:
    """Return whether a device computes in double precision, which Apple's GPUs do not."""
    if device.type in ("cpu", "cuda"):
        return True
    try:
        torch.ones(1, dtype=torch.float64, device=device).sum()
    except (RuntimeError, TypeError):
        return False
    return True


def double_device(device: torch.device) -> torch.device:
    """Return where what belongs to a device is computed in double precision: there, or on the CPU.

    Probabilities, LIME's regression, sums over maps and masks and the metrics are in double
    precision on every machine. Of a device without it they are computed, and returned, on the CPU.
    Cells, networks, maps and masks stay on the device, in single precision.
    """
    return device if has_double(device) else torch.device("cpu")


def to_double(values: Tensor) -> Tensor:
    """Return values in double precision, on their `double_device`."""
    # Moved first: a device without double precision cannot convert.
    return values.to(double_device(values.device)).double()
