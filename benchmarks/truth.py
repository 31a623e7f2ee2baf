"""What all metrics with ground truth cost beside scoring fourteen masks.

    python benchmarks/truth.py

Clips of the synthetic set, whose parts are known, are scored with and without their truth in turn,
in one process. The difference is the analysis of the parts, all metrics of localisation in cells
and in time, and SI-SDR, for which what every mask keeps is made audible. Results go to
``benchmarks/results/truth_<device>.json``; `table.py` draws them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe

from audiointerp.dataset import SyntheticDataset
from audiointerp.device import resolve_device
from audiointerp.evaluation import Truth, sounding_frames
from audiointerp.interpretation import SaliencyInterpreter
from audiointerp.model import TransferCnn14
from audiointerp.model.classifier import Classifier
from audiointerp.processing import LogMelSTFTSpectrogram
from audiointerp.runs.clip import analyse, classify, interpret_batch
from audiointerp.runs.job import Job, choose_masks
from audiointerp.speed import keep_freed_memory
from audiointerp.speed.scoring import Scorer

RESULTS = Path(__file__).parent / "results"
WIDTHS = {1.0: "the paper's", 0.125: "the bundled ESC-10 models'", 0.0625: "the synthetic ones'"}


class Work:
    """The scoring of some clips by a model of one width.

    Parameters
    ----------
    width : float
        Of Cnn14.
    clips : int
    device : torch.device
    """

    def __init__(self, width: float, clips: int, device: torch.device) -> None:
        torch.manual_seed(0)
        front_end = LogMelSTFTSpectrogram()
        self.data = SyntheticDataset(5, sample_rate=front_end.sample_rate, clips=clips)
        model = TransferCnn14(len(self.data.classes), front_end.num_bins, width=width).eval()
        classifier = Classifier(model, front_end, classes=self.data.classes).to(device)
        interpreter = SaliencyInterpreter(classifier)
        self.job = Job(classifier, interpreter, masks=choose_masks(None, interpreter))
        self.scorer = Scorer(classifier)
        self.device = device
        self.view = analyse(classifier, torch.stack([clip.waveform for clip in self.data]))
        self.probabilities = classify(self.job, self.scorer, self.view)
        self.target = torch.tensor(self.data.labels, device=self.probabilities.device)
        self.parts = [
            torch.stack(part)
            for part in zip(*(self.data.true_parts(n) for n in range(clips)), strict=True)
        ]
        self.maps = interpreter.explain(self.view, self.target).attribution

    def truth(self) -> Truth:
        """Analyse the clips' parts."""
        classifier = self.job.classifier
        front_end = classifier.front_end
        views = [analyse(classifier, part).without_context() for part in self.parts]
        times = front_end.times(views[0].cells.shape[3])
        active = sounding_frames(views[0].waveform, times, front_end.sample_rate)
        labels = torch.zeros(len(self.target), len(self.data.classes), dtype=torch.bool)
        labels[torch.arange(len(labels)), self.target.cpu()] = True
        return Truth(*views, front_end.log, active, labels)

    def seconds(self, *, truth: bool) -> float:
        """Score the clips' fourteen masks; return the seconds of a clip."""
        self._wait()
        started = time.perf_counter()
        interpret_batch(
            self.job,
            self.scorer,
            self.view,
            self.probabilities,
            self.target,
            attribution=self.maps,
            truth=self.truth() if truth else None,
        )
        self._wait()
        return (time.perf_counter() - started) / len(self.target)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(width: float, clips: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Return the seconds of a clip without and with truth, and the ratio of each turn."""
    work = Work(width, clips, device)
    for truth in (False, True):
        work.seconds(truth=truth)
    turns = [(work.seconds(truth=False), work.seconds(truth=True)) for _ in range(repeats)]
    without, with_truth = (statistics.median(times) for times in zip(*turns, strict=True))
    cost = statistics.median(b / a - 1 for a, b in turns)
    row = {"width": width, "model": WIDTHS.get(width, ""), "clips": clips}
    return row | {"without_s": without, "with_s": with_truth, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, action="append", help="of Cnn14; 1, 1/8 and 1/16")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    keep_freed_memory()  # as the command line does
    rows = []
    for width in options.width or WIDTHS:
        rows.append(measure(width, options.clips, options.repeats, device))
        print(json.dumps(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"truth_{device.type}.json"
    path.write_text(json.dumps({"machine": describe(device), "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
