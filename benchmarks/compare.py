"""Time every stage against the obvious loop over the public libraries, in one run.

    python benchmarks/compare.py                      # all stages, Cnn14 at width 1 and 1/4, mel
    python benchmarks/compare.py --stage scoring --width 0.25 --device cuda

Loop and package take turns on the same clips, each in a process of its own (`sides.py`); a ratio
is that of their medians. Beside them is the network's own best throughput: the fastest of the model
and its inference copy over batch sizes, measured again before every turn. Results go to
``benchmarks/results/compare_<device>_<front end>_<width>.json``; `table.py` draws them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from machine import describe
from sides import STAGES, Worker

from audiointerp.device import resolve_device
from audiointerp.processing import FRONT_ENDS

RESULTS = Path(__file__).parent / "results"
MEASURED_BY_FORWARDS = ("lime", "scoring")


def measure(loop: Worker, ours: Worker, stage: str, repeats: int, clips: int) -> dict[str, Any]:
    """Time a stage, loop and package in turn, after an untimed call of each."""
    if stage != "lime":  # it is long and does nothing but what the network did before
        loop.seconds(stage, 1)
        ours.seconds(stage, clips)
    times: dict[str, list[float]] = {"loop": [], "ours": [], "raw": []}
    for _ in range(repeats):
        times["loop"].append(loop.seconds(stage, clips))
        if stage in MEASURED_BY_FORWARDS:
            times["raw"].append(ours.ask("raw now"))
        times["ours"].append(ours.seconds(stage, clips))
    row = {"stage": stage, "clips": clips, "repeats": repeats}
    row |= {f"{name}_s": statistics.median(each) for name, each in times.items() if each}
    row["ratio"] = row["loop_s"] / row["ours_s"]
    if stage in MEASURED_BY_FORWARDS:
        row["forwards"] = ours.ask("forwards", stage=stage, clips=clips)
        row["of_raw"] = row["raw_s"] * row["forwards"] / row["ours_s"]
    return row | {f"all_{name}_s": each for name, each in times.items()}


def compare(width: float, stages: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure the stages with a network of one width."""
    setting = (width, options.front_end, options.device)
    with Worker("loop", *setting) as loop, Worker("ours", *setting) as ours:
        raw = ours.ask("raw")
        print(json.dumps(raw), flush=True)
        rows = []
        for stage in stages:
            # A minute and more for every clip at full width.
            once = stage == "lime" and width > 0.5
            repeats, clips = (1, 1) if once else (options.repeats, STAGES[stage])
            rows.append(measure(loop, ours, stage, repeats, clips))
            print(json.dumps(rows[-1]), flush=True)
        memory = {"loop": loop.ask("memory"), "ours": ours.ask("memory")}
    return {"width": width, "raw_s": raw, "peak_memory_mib": memory, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, action="append", help="of Cnn14; 1 and 0.25")
    parser.add_argument("--stage", action="append", choices=STAGES, help="all by default")
    parser.add_argument("--front-end", default="LogMelSTFTSpectrogram", choices=FRONT_ENDS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = resolve_device(options.device)
    frames = FRONT_ENDS[options.front_end]()
    for width in options.width or (1.0, 0.25):
        result = {
            "machine": describe(device),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "front_end": options.front_end,
            "features": [frames.num_bins, frames.num_frames(5 * frames.sample_rate)],
            **compare(width, options.stage or list(STAGES), options),
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"compare_{device.type}_{options.front_end}_{width:g}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
