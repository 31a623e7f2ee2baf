"""Time every stage against the obvious loop over the public libraries, in one run.

    python benchmarks/compare.py                      # all stages, Cnn14 at width 1 and 1/4, mel
    python benchmarks/compare.py --stage scoring --width 0.25 --device cuda

Loop and package take turns on the same clips; a ratio is that of their medians. Beside them is the
network's own best throughput: the fastest of the model and its inference copy over batch sizes.
Results go to ``benchmarks/results/compare_<device>_<width>.json``; `table.py` draws them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import loop
import numpy as np
import torch
from machine import describe, keep_freed_memory, peak_memory
from torch import Tensor, nn

from audiointerp import SyntheticDataset
from audiointerp.device import resolve_device
from audiointerp.experiment import background_features, build_interpreter
from audiointerp.masking import MASKS, make_masks
from audiointerp.metrics import METRICS, complexity, sparseness
from audiointerp.model import build_model
from audiointerp.model.inference import inference_copy
from audiointerp.predict import Predict
from audiointerp.processing import FRONT_ENDS
from audiointerp.scoring import Scorer

RESULTS = Path(__file__).parent / "results"
STAGES = ("saliency", "gradcam", "lime", "shap", "scoring", "simplicity")
CLASSES = 10


class Bench:
    """A network, clips and the two ways of doing each stage."""

    def __init__(self, width: float, front_end: str, device: torch.device, clips: int) -> None:
        self.device = device
        self.processor = FRONT_ENDS[front_end]().to(device)
        settings = {"name": "Cnn14", "num_classes": CLASSES, "num_bins": self.processor.num_bins}
        self.model = build_model(settings | {"width": width}, seed=0).eval().to(device)
        test = SyntheticDataset(5, sample_rate=self.processor.sample_rate)
        waveforms = torch.stack([test[index].waveform for index in range(clips)]).to(device)
        with torch.no_grad():
            self.analysis = self.processor.analyse(waveforms)
        self.features = self.analysis.features
        train = SyntheticDataset((1, 2, 3), sample_rate=self.processor.sample_rate)
        self.background = background_features(train, self.processor)

    def interpreter(self, method: str):
        return build_interpreter(method, self.model, self.processor, background=self.background)

    def stage(self, name: str) -> tuple[Callable[[], Any], Callable[[], Any], int]:
        """Return the loop, ours, and how many clips each of their calls does."""
        x = self.features
        if name in ("saliency", "gradcam"):
            method = self.interpreter(name)
            theirs = {"saliency": loop.saliency, "gradcam": loop.gradcam}[name]
            return lambda: theirs(self.model, x), lambda: method.attribute(x), len(x)
        if name == "lime":
            method, few = self.interpreter(name), x[:2]
            return lambda: loop.lime(self.model, few), lambda: method.attribute(few), len(few)
        if name == "shap":
            method, few = self.interpreter(name), x[:4]
            return (
                lambda: loop.deep_shap(self.model, few, self.background),
                lambda: method.attribute(few),
                len(few),
            )
        maps = self.interpreter("saliency").attribute(x)
        if name == "scoring":
            predict = Predict(self.model, self.processor, self.interpreter("saliency"))
            waveform = self.analysis.waveform
            return (
                lambda: loop.scoring(self.model, x, maps),
                lambda: _table(predict.interpret(waveform, attribution=maps)),
                len(x),
            )
        masks = torch.cat(list(make_masks(maps).values()))
        masks = masks.repeat(-(-64 // len(masks)), 1, 1, 1)[:64]
        return (
            lambda: loop.simplicity(masks),
            lambda: (sparseness(masks).cpu().numpy(), complexity(masks).cpu().numpy()),
            len(masks),
        )

    def forwards(self, name: str) -> float:
        """Return the network's forward passes that a clip needs: none can be left out."""
        if name == "lime":
            return 1001
        if name != "scoring":
            return float("nan")
        scorer, rows = Scorer(self.model), 0
        predict = Predict(self.model, self.processor, self.interpreter("saliency"))
        call = scorer.model.register_forward_pre_hook(_counter(counted := []))
        predict.interpret(self.analysis.waveform, scorer=scorer)
        call.remove()
        rows = sum(counted)
        return rows / len(self.features)

    def best_throughput(self) -> dict[str, float]:
        """Return the seconds a clip takes at the best batch size, of the model and its copy."""
        best = {}
        with torch.inference_mode():
            for name, network in (("model", self.model), ("copy", inference_copy(self.model))):
                best[name] = min(
                    _median(partial(network, self._clips(size)), 3, self.device) / size
                    for size in (1, 2, 4, 8, 16, 32)
                )
        return best

    def _clips(self, count: int) -> Tensor:
        return self.features.repeat(-(-count // len(self.features)), 1, 1, 1)[:count]


def _counter(rows: list[int]) -> Callable[[nn.Module, tuple], None]:
    def count(module: nn.Module, inputs: tuple) -> None:
        rows.append(len(inputs[0]))

    return count


def _table(scores) -> np.ndarray:
    """Return (clips, masks, metrics)."""
    return np.stack(
        [
            np.stack([scores.metrics["features", mask][name].cpu() for name in METRICS], -1)
            for mask in MASKS
        ],
        axis=1,
    )


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _median(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    call()
    return statistics.median(_seconds(call, device) for _ in range(repeats))


def measure(bench: Bench, name: str, repeats: int) -> dict[str, Any]:
    """Time a stage, loop and ours in turn, after one untimed call of ours."""
    theirs, ours, clips = bench.stage(name)
    if name != "lime":  # it is long and does nothing but what the network did before
        ours()
    pairs = [(_seconds(theirs, bench.device), _seconds(ours, bench.device)) for _ in range(repeats)]
    loop_time, our_time = (statistics.median(times) / clips for times in zip(*pairs, strict=True))
    return {
        "stage": name,
        "clips": clips,
        "loop_s": loop_time,
        "ours_s": our_time,
        "ratio": loop_time / our_time,
        "forwards": bench.forwards(name),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, action="append", help="of Cnn14; 1 and 0.25")
    parser.add_argument("--stage", action="append", choices=STAGES, help="all by default")
    parser.add_argument("--front-end", default="LogMelSTFTSpectrogram")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(options.device)
    for width in options.width or (1.0, 0.25):
        bench = Bench(width, options.front_end, device, options.clips)
        raw = bench.best_throughput()
        rows = []
        for name in options.stage or STAGES:
            repeats = 1 if name == "lime" and width == 1 else options.repeats
            row = measure(bench, name, repeats)
            row["of_raw"] = min(raw.values()) * row["forwards"] / row["ours_s"]
            rows.append(row)
            print(json.dumps(row), flush=True)
        result = {
            "machine": describe(device),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "front_end": options.front_end,
            "features": list(bench.features.shape[2:]),
            "width": width,
            "raw_s": raw,
            "peak_memory_mib": peak_memory(device),
            "rows": rows,
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"compare_{device.type}_{options.front_end}_{width:g}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
