"""The whole paper's work on one device: how long it takes, and how near that is to the limit.

    python benchmarks/paper.py --device cuda --precision tf32 --peak-tflops 494

2000 clip-conditions as published: 400 clips under four conditions on the mel front end, 400 clean
ones on the STFT front end, each with four methods and fourteen masks, by a full-width Cnn14 with
random weights for 50 classes. The limit is the arithmetic of the forward and backward passes that
this needs, at the peak that is given. ``--clips`` makes it smaller.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from growth import Noises
from machine import describe, peak_memory

from audiointerp.device import resolve_device
from audiointerp.interpretation import DEFAULT_METHODS
from audiointerp.model import build_model
from audiointerp.predict import Predict
from audiointerp.processing import FRONT_ENDS
from audiointerp.runs.recipe import build_interpreter
from audiointerp.speed import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
CONDITIONS = {"LogMelSTFTSpectrogram": 4, "LogSTFTSpectrogram": 1}
FORWARD_GFLOP = {"LogMelSTFTSpectrogram": 19.9, "LogSTFTSpectrogram": 49.3}
CLASSES = 50
BACKGROUND = 2 * CLASSES
# Forward passes that one clip needs, a backward pass to the input counted as one more. Scoring:
# the clip and two for each of fourteen masks. SHAP: a forward, and a backward for every baseline.
# Grad-CAM's backward pass ends at the last block.
PASSES = {"saliency": 2, "gradcam": 1, "lime": 1001, "shap": 1 + BACKGROUND}
SCORING = 29


def run(
    front_end: str, method: str, clips: int, device: torch.device, precision: str, width: float
) -> dict[str, float]:
    """Interpret the clips of every condition of a front end with one method."""
    processor = FRONT_ENDS[front_end]().to(device)
    settings = {"name": "Cnn14", "num_classes": CLASSES, "num_bins": processor.num_bins}
    model = build_model(settings | {"width": width}, seed=0).eval().to(device)
    names = tuple(map(str, range(CLASSES)))
    count = clips * CONDITIONS[front_end]
    dataset = Noises(count, names, processor.sample_rate)
    with torch.no_grad():
        waveforms = torch.stack([dataset[i % count].waveform for i in range(BACKGROUND)])
        background = processor(waveforms.to(device))
    interpreter = build_interpreter(method, model, processor, background=background)
    predict = Predict(model, processor, interpreter, precision=precision, classes=names)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        predict.predict_set(dataset, Path(folder) / "run")
        seconds = time.perf_counter() - started
    tera = FORWARD_GFLOP[front_end] * (PASSES[method] + SCORING) * count / 1000
    row = {"front_end": front_end, "method": method, "clips": count, "seconds": seconds}
    return row | {"tera_operations": tera}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="tf32")
    parser.add_argument("--clips", type=int, default=400, help="of each condition")
    parser.add_argument("--width", type=float, default=1.0, help="for a trial run")
    parser.add_argument("--method", action="append", help="four by default")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision")
    options = parser.parse_args()
    device = resolve_device(options.device)
    keep_freed_memory()  # as the command line does
    rows = []
    for front_end in CONDITIONS:
        for method in options.method or DEFAULT_METHODS:
            rows.append(
                run(front_end, method, options.clips, device, options.precision, options.width)
            )
            print(json.dumps(rows[-1]), flush=True)
    seconds = sum(row["seconds"] for row in rows)
    tera = sum(row["tera_operations"] for row in rows) * options.width**2
    result = {
        "machine": describe(device),
        "torch": torch.__version__,
        "precision": options.precision,
        "width": options.width,
        "seconds": seconds,
        "tera_operations": tera,
        "tera_operations_per_second": tera / seconds,
        "peak_memory_mib": peak_memory(device),
        "rows": rows,
    }
    if options.peak_tflops:
        result["limit_s"] = tera / options.peak_tflops
        result["utilisation"] = result["limit_s"] / seconds
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"paper_{device.type}_{options.precision}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
