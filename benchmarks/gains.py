"""What each change gains: every stage without one of them, in turn with the whole.

    python benchmarks/gains.py

Results go to ``benchmarks/results/gains_<device>_<width>.json``; `table.py` draws them. The last
row is what torch.compile would gain beyond that.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from machine import describe
from sides import WITHOUT, Worker

from audiointerp.device import resolve_device

RESULTS = Path(__file__).parent / "results"
CLIPS = {"saliency": 8, "gradcam": 8, "shap": 2, "scoring": 4}
# What changes nothing in a stage is not measured there.
ONLY_SCORING = ("fused ReLU", "equal masks once", "one sort")


def gains(whole: Worker, part: Worker, change: str, repeats: int) -> dict[str, Any]:
    """Return how many times as long each stage takes without a change."""
    row: dict[str, Any] = {"without": change}
    for stage, clips in CLIPS.items():
        if stage != "scoring" and change in ONLY_SCORING:
            continue
        part.seconds(stage, clips)
        pairs = [(part.seconds(stage, clips), whole.seconds(stage, clips)) for _ in range(repeats)]
        without, with_all = (statistics.median(times) for times in zip(*pairs, strict=True))
        row[stage] = {"without_s": without, "with_s": with_all, "times": without / with_all}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, action="append", help="of Cnn14; 1 and 0.25")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = resolve_device(options.device)
    for width in options.width or (1.0, 0.25):
        setting = (width, "LogMelSTFTSpectrogram", options.device)
        rows = []
        with Worker("ours", *setting) as whole:
            for stage, clips in CLIPS.items():
                whole.seconds(stage, clips)
            for change in WITHOUT:
                with Worker("ours", *setting, without=change) as part:
                    rows.append(gains(whole, part, change, options.repeats))
                print(json.dumps(rows[-1]), flush=True)
            compiled = whole.ask("compiled", size=16)
        print(json.dumps(compiled), flush=True)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"gains_{device.type}_{width:g}.json"
        result = {"machine": describe(device), "width": width, "rows": rows, "compiled": compiled}
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
