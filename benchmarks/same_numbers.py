"""Do all changes for speed together leave the numbers as they were? Runs an experiment both ways.

    python benchmarks/same_numbers.py ESC50_ROOT --subset esc10 -w weights/esc10_logmel.safetensors

Every run is done twice, on this machine: by the package, and by the package without what makes it
fast (`SLOW`). With ``--results results`` both are compared with the tables of runs that
are there, which were made before and on another processor: what both differ by is the processor's.
Differences are in units of a metric's range.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from sides import left_out

from audiointerp.interpretation import DEFAULT_METHODS, METHODS
from audiointerp.masking import MASKS
from audiointerp.metrics import METRICS
from audiointerp.runs.experiment import run_experiment
from audiointerp.runs.store import read_table

RESULTS = Path(__file__).parent / "results"
# With the copy of the network goes all that is done to it. Not Quantus' simplicity: it adds 1e-7 to
# every cell, which its Gini index shows where few cells are kept.
SLOW = ("inference copy", "equal masks once")
RANGES = {"FF": 1.0, "AI": 100.0, "AD": 100.0, "AG": 100.0, "FidIn": 1.0, "SPS": 1.0}


def differences(one: Path, other: Path, cells: int) -> dict[str, Any]:
    """Return by how much the tables of two folders differ, of the metrics' ranges."""
    means, clips = {}, []
    for mask in MASKS:
        first, second = (
            read_table(folder / "csvs" / f"{mask}.csv").set_index("clip") for folder in (one, other)
        )
        second = second.loc[first.index]
        scale = np.array([(RANGES | {"COMP": math.log(cells)})[name] for name in METRICS])
        change = (first[list(METRICS)] - second[list(METRICS)]).to_numpy(float) / scale
        clips.append(np.abs(change).max(1))
        means |= {
            (mask, name): abs(value) for name, value in zip(METRICS, change.mean(0), strict=True)
        }
    worst = max(means, key=means.get)
    clips = np.concatenate(clips)
    return {
        "largest_of_means": float(means[worst]),
        "where": " ".join(worst),
        "means_above_1e-4": int(sum(value > 1e-4 for value in means.values())),
        "means": len(means),
        "rows_above_1e-4": int((clips > 1e-4).sum()),
        "rows": len(clips),
        "largest_of_rows": float(clips.max()),
        "median_of_rows": float(np.median(clips)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--subset")
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--method", action="append", choices=METHODS, help="four by default")
    parser.add_argument("--clips", type=int, help="of the fold; all by default")
    parser.add_argument("--results", type=Path, help="compare with the runs in this folder too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        asked = {"subset": options.subset, "clips": options.clips, "device": "cpu"}
        for method in options.method or DEFAULT_METHODS:
            asked["methods"] = [method]
            ways = {}
            for way, without in (("fast", ()), ("slow", SLOW)):
                with left_out(*without):
                    results = Path(folder) / way
                    done = run_experiment([options.weights], options.data, results=results, **asked)
                ways[way] = {path.relative_to(results): path for path in done}
            for name, path in ways["fast"].items():
                cells = json.loads((path / "run.json").read_text())["settings"]["processor"]
                count = 64 * 501 if "Mel" in cells["name"] else 257 * 313
                rows.append({"run": str(name), **differences(path, ways["slow"][name], count)})
                if options.results and (options.results / name).is_dir():
                    kept = options.results / name
                    rows[-1]["kept"] = differences(path, kept, count)
                    rows[-1]["kept_slow"] = differences(ways["slow"][name], kept, count)
                print(json.dumps(rows[-1]), flush=True)
    result = {"machine": describe(torch.device("cpu")), "rows": rows}
    path = RESULTS / f"same_numbers_{Path(options.weights).stem}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
