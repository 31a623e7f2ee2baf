"""What each change gains: every stage without one of them, in turn with the whole.

    python benchmarks/gains.py

Results go to ``benchmarks/results/gains_<device>_<width>.json``; `table.py` draws them. What
torch.compile and a precision of fewer bits would gain beyond that comes last.
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
CLIPS = {"saliency": 8, "gradcam": 8, "lime": 2, "shap": 2, "scoring": 4, "set": 40}
EVERY = ("saliency", "gradcam", "lime", "shap", "scoring")
# What changes nothing in a stage is not measured there.
CONCERNS = {
    "one copy": ("saliency", "gradcam", "shap", "scoring"),
    "equal masks once": ("scoring",),
    "one sort": ("scoring",),
    "background once": ("shap",),
    "segments ahead": ("lime",),
    "beside the network": ("set",),
}


def gains(
    whole: Worker, part: Worker, change: str, stages: list[str], repeats: int
) -> dict[str, Any]:
    """Return how many times as long each stage takes without a change."""
    row: dict[str, Any] = {"without": change}
    for stage in stages:
        clips = CLIPS[stage]
        if stage != "lime":  # long enough to be its own warming up
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
    parser.add_argument("--change", action="append", choices=WITHOUT, help="all by default")
    options = parser.parse_args()
    device = resolve_device(options.device)
    for width in options.width or (1.0, 0.25):
        setting = (width, "LogMelSTFTSpectrogram", options.device)
        # LIME at full width takes minutes for a clip, all of them in the network.
        left = {"lime"} if width > 0.5 else set()
        rows = []
        with Worker("ours", *setting) as whole:
            for stage in {*CLIPS} - left - {"lime"}:
                whole.seconds(stage, CLIPS[stage])
            for change in options.change or WITHOUT:
                stages = [each for each in CONCERNS.get(change, EVERY) if each not in left]
                if not stages:
                    continue
                with Worker("ours", *setting, without=change) as part:
                    rows.append(gains(whole, part, change, stages, options.repeats))
                print(json.dumps(rows[-1]), flush=True)
            beyond = {what: whole.ask(what, size=16) for what in ("compiled", "precisions")}
        print(json.dumps(beyond), flush=True)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"gains_{device.type}_{width:g}.json"
        if options.change and path.exists():
            kept = json.loads(path.read_text())["rows"]
            rows = [row for row in kept if row["without"] not in options.change] + rows
        result = {"machine": describe(device), "width": width, "rows": rows, **beyond}
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
