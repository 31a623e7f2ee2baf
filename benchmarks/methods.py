"""Time each method next to the public library that has it, on the same clips, in one process.

    python benchmarks/methods.py                               # all pairs, Cnn14 at width 1/4, mel
    python benchmarks/methods.py --pair fullgrad --clips 4 --device cuda

Library and package take turns, after an untimed call of each; a ratio is that of their medians, of
seconds and of the peak memory of one call (above what was held before it). The library's loop is
the obvious one: a clip at a time, its defaults but for what the package's defaults say. Where both
compute the same, their largest difference is printed, as a share of the largest value.

A new pair is one entry of `PAIRS`, in the module of its family.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cam_pairs  # noqa: F401
import gradient_pairs  # noqa: F401
import perturbation_pairs  # noqa: F401
import relevance_pairs  # noqa: F401
import torch
from machine import describe
from pairs import PAIRS
from sides import Side, seconds

from audiointerp.device import resolve_device
from audiointerp.processing import FRONT_ENDS


def peak_of(call: Callable[[], Any], device: torch.device) -> float | None:
    """Return the memory that a call takes at most beyond what was held, MiB; None if unknown."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        # What earlier calls have freed would serve this one without being counted.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far
        before = _resident("VmRSS")
        call()
        return (_resident("VmHWM") - before) / 1024
    except (OSError, AttributeError):  # another system, another C library
        return None


def _resident(kind: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1])
    raise OSError(f"no {kind} in /proc/self/status")


def measure(name: str, side: Side, clips: int, repeats: int) -> dict[str, Any]:
    """Time a pair, library and package in turn."""
    pair, given = PAIRS[name], side.features[:clips]
    calls = {
        "theirs": partial(pair.theirs(side), given),
        "ours": partial(pair.ours(name, side), given),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = {who: call() for who, call in calls.items()}
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(repeats):
            for who, call in calls.items():
                times[who].append(seconds(call, side.device) / clips)
        peaks = {who: peak_of(call, side.device) for who, call in calls.items()}
    row = {"pair": name, "library": pair.library, "clips": clips, "repeats": repeats}
    row |= {f"{who}_s": statistics.median(each) for who, each in times.items()}
    row["ratio"] = row["theirs_s"] / row["ours_s"]
    row |= {f"{who}_mib": peak for who, peak in peaks.items()}
    if peaks["ours"]:
        row["memory_ratio"] = peaks["theirs"] / peaks["ours"]
    if pair.same:
        change = (maps["ours"] - maps["theirs"]).abs().max() / maps["theirs"].abs().max()
        row["difference"] = change.item()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pair", action="append", choices=PAIRS, help="all by default")
    parser.add_argument("--width", type=float, default=0.25, help="of Cnn14")
    parser.add_argument("--front-end", default="LogMelSTFTSpectrogram", choices=FRONT_ENDS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = resolve_device(options.device)
    side = Side(options.width, options.front_end, device)
    print(f"{describe(device)}, Cnn14 at width {options.width:g}", flush=True)
    for name in options.pair or PAIRS:
        print(json.dumps(measure(name, side, options.clips, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
