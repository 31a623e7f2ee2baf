"""Time each class activation map next to the grad-cam library's, on the same clips, in one process.

    python benchmarks/cams.py                                # all, Cnn14 at width 1/16, mel
    python benchmarks/cams.py --method scorecam --width 0.25 --clips 1 --device cuda

Library and package take turns, after an untimed call of each; a ratio is that of their medians, of
seconds and of the peak memory of one call (above what was held before it). The library's loop is
the obvious one: a clip at a time, with its defaults. Its planes are not turned to (freq, time), so
that its maps are others; that both have the same formulas is tested in ``tests/test_cams.py``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_grad_cam as library
import torch
from machine import describe
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sides import Side, seconds
from torch import Tensor

from audiointerp.device import resolve_device
from audiointerp.interpretation import METHODS
from audiointerp.processing import FRONT_ENDS

TARGET = 0
"""The class that is explained, of every clip."""
THEIRS = {
    "gradcam": library.GradCAM,
    "gradcamplusplus": library.GradCAMPlusPlus,
    "hirescam": library.HiResCAM,
    "xgradcam": library.XGradCAM,
    "layercam": library.LayerCAM,
    "eigencam": library.EigenCAM,
    "eigengradcam": library.EigenGradCAM,
    "finercam": library.FinerCAM,
    "scorecam": library.ScoreCAM,
    "ablationcam": library.AblationCAM,
}
"""The library's class for each method."""


def ours(name: str, side: Side, clips: Tensor) -> Tensor:
    """Explain clips with the package."""
    return METHODS[name](side.model).attribute(clips, TARGET)


def theirs(name: str, side: Side, clips: Tensor) -> Tensor:
    """Explain clips with the library."""
    wanted = [ClassifierOutputTarget(TARGET)]
    # Of a list of targets Finer-CAM compares none with other classes.
    given = {"target_idx": TARGET} if name == "finercam" else {"targets": wanted}
    maps = []
    with THEIRS[name](model=side.model, target_layers=[side.model.target_layer]) as cam:
        for clip in clips.split(1):
            with redirect_stderr(StringIO()):  # its progress bar
                maps.append(cam(input_tensor=clip, **given))
    return torch.as_tensor(np.stack(maps))


def peak_of(call: Callable[[], Any], device: torch.device) -> float | None:
    """Return the memory that a call takes at most beyond what was held, MiB; None if unknown."""
    gc.collect()
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - held) / 2**20
    try:
        # Otherwise memory that earlier calls freed would serve this one and not be counted.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        held = _status("VmRSS")
        call()
        return (_status("VmHWM") - held) / 1024
    except (OSError, AttributeError):  # another system, another C library
        return None


def _status(entry: str) -> int:
    """Return an entry of the process's status, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == entry:
            return int(value.split()[0])
    raise OSError(f"no {entry} in /proc/self/status")


def measure(name: str, side: Side, clips: int, repeats: int) -> dict[str, Any]:
    """Time a method, library and package in turn."""
    given = side.features[:clips]
    calls = {
        "theirs": partial(theirs, name, side, given),
        "ours": partial(ours, name, side, given),
    }
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(repeats):
        for who, call in calls.items():
            times[who].append(seconds(call, side.device) / clips)
    peaks = {who: peak_of(call, side.device) for who, call in calls.items()}
    row = {"method": name, "library": "grad-cam", "clips": clips, "repeats": repeats}
    row |= {f"{who}_s": statistics.median(each) for who, each in times.items()}
    row["ratio"] = row["theirs_s"] / row["ours_s"]
    row |= {f"{who}_mib": peak for who, peak in peaks.items()}
    if peaks["ours"]:
        row["memory_ratio"] = peaks["theirs"] / peaks["ours"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", action="append", choices=THEIRS, help="all by default")
    parser.add_argument("--width", type=float, default=0.0625, help="of Cnn14")
    parser.add_argument("--front-end", default="LogMelSTFTSpectrogram", choices=FRONT_ENDS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = resolve_device(options.device)
    side = Side(options.width, options.front_end, device)
    print(f"{describe(device)}, Cnn14 at width {options.width:g}", flush=True)
    for name in options.method or THEIRS:
        print(json.dumps(measure(name, side, options.clips, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
