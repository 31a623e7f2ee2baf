"""What the benchmarks run on, and how much memory they took."""

from __future__ import annotations

import os
import platform
import resource
import sys

import torch


def describe(device: torch.device) -> str:
    """Return the machine in words: processor, cores, and the GPU where one is used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        words = f"{torch.cuda.get_device_name(device)}; {words}"
    return words


def peak_memory(device: torch.device) -> float:
    """Return the most memory that was held at once, MiB: the GPU's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
