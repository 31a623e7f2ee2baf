"""The one place where a device is chosen, and where a model is."""

from __future__ import annotations

import torch
from torch import nn


def resolve_device(device: str) -> torch.device:
    """Return the device that a user names.

    Parameters
    ----------
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    ValueError
        If it is no device, or not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"unknown device {device!r}: choose auto, cpu, cuda, cuda:<number> or mps"
        ) from error
    there = {
        "cpu": True,
        "cuda": (resolved.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(resolved.type, False):
        raise ValueError(
            f"the device {device!r} is not there: this machine has {torch.cuda.device_count()} "
            "CUDA devices; choose 'auto' for what there is, or 'cpu'"
        )
    return resolved


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
