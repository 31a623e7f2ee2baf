"""Time and memory of a whole run as the number of clips grows: 10, 100, 1000.

    python benchmarks/growth.py

Each number is interpreted in a process of its own: Saliency, fourteen masks, seven metrics, results
written. Clips are noise, made as they are read, so that no set is held in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import describe, peak_memory
from torch import Tensor

from audiointerp.dataset import ClipDataset
from audiointerp.device import resolve_device
from audiointerp.interpretation import SaliencyInterpreter
from audiointerp.model.weights import load
from audiointerp.predict import Predict
from audiointerp.speed import keep_freed_memory

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


class Noises(ClipDataset):
    """Clips of white noise; nothing of them is kept."""

    def __init__(self, clips: int, classes: tuple[str, ...], sample_rate: int) -> None:
        super().__init__(
            clip_ids=[f"noise{number}" for number in range(clips)],
            labels=[number % len(classes) for number in range(clips)],
            folds=[1] * clips,
            classes=classes,
            sample_rate=sample_rate,
            duration=5.0,
        )

    def _decode(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.rand(1, self.num_samples, generator=generator) * 2 - 1

    def _cached(self, index: int) -> Tensor:
        return self._decode(index)

    def _source(self, index: int) -> str:
        return f"noise {index}"


def interpret(clips: int, device: torch.device) -> dict[str, float]:
    """Interpret so many clips; return seconds and MiB."""
    model, processor = load(ROOT / "weights" / "synthetic_logmel.safetensors", device=device)
    predict = Predict(model, processor, SaliencyInterpreter(model))
    dataset = Noises(clips, model.classes, processor.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        predict.predict_set(dataset, Path(folder) / "run", progress=False)
        seconds = time.perf_counter() - started
    return {"clips": clips, "seconds": seconds, "peak_memory_mib": peak_memory(device)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, action="append", help="10, 100, 1000")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--here", action="store_true", help="one number, in this process")
    options = parser.parse_args()
    device = resolve_device(options.device)
    numbers = options.clips or [10, 100, 1000]
    if options.here:
        keep_freed_memory()  # as the command line does
        print(json.dumps(interpret(numbers[0], device)))
        return
    rows = []
    for number in numbers:
        command = [sys.executable, __file__, "--here", "--clips", str(number)]
        command += ["--device", options.device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"growth_{device.type}.json"
    path.write_text(json.dumps({"machine": describe(device), "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
