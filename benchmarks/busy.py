"""SHAP alone and next to a busy process, by how OpenMP's threads wait for each other.

    python benchmarks/busy.py

The settings take turns on the same clips, each in a process of its own (`sides.py`), and with each
turn the busy process, an endless loop in Python, comes and goes. Results go to
``benchmarks/results/busy_cpu_<width>.json``; `table.py` draws them. Other programs on the machine
slow all of it down, so the load when it began is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import describe
from sides import Worker

RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "OpenMP's default spin": {},
    "a short spin, as the command line sets": {"GOMP_SPINCOUNT": "3000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""What the environment of each process says."""


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """Keep one processor busy, if wanted."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(width: float, repeats: int, clips: int) -> list[dict[str, Any]]:
    """Return the seconds of a clip by setting, alone and next to a busy process."""
    times: dict[str, dict[str, list[float]]] = {
        name: {"alone": [], "busy": []} for name in SETTINGS
    }
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker("ours", width, "LogMelSTFTSpectrogram", "cpu", variables=variables)
            )
            for name, variables in SETTINGS.items()
        }
        for worker in workers.values():
            worker.seconds("shap", clips)
        for _ in range(repeats):
            for where in ("alone", "busy"):
                with busy_process(where == "busy"):
                    for name, worker in workers.items():
                        times[name][where].append(worker.seconds("shap", clips))
    rows = []
    for name, each in times.items():
        medians = {f"{where}_s": statistics.median(taken) for where, taken in each.items()}
        kept = {f"all_{where}_s": taken for where, taken in each.items()}
        rows.append({"setting": name, **medians, **kept})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, default=0.25, help="of Cnn14")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clips", type=int, default=4)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    result = {
        "machine": describe(torch.device("cpu")),
        "torch": torch.__version__,
        "width": options.width,
        "load": round(load, 1),
        "rows": measure(options.width, options.repeats, options.clips),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"busy_cpu_{options.width:g}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
