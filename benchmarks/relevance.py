"""LRP over a batch beside zennit's own loop, one clip at a time.

    python benchmarks/relevance.py --width 0.25

Both explain the same clips by a flat first layer, z⁺ in convolutions and a signed rule in dense
layers (zennit's ``EpsilonPlusFlat``, ``lrp_flat`` here), in turn in one process. Peak memory is
that of a process for each. The maps are not the same: zennit leaves what is no layer, such as the
mean over time, to the derivative. Results go to ``benchmarks/results/relevance_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe, peak_memory
from torch import Tensor
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat

from audiointerp.dataset import SyntheticDataset
from audiointerp.device import resolve_device
from audiointerp.interpretation import METHODS
from audiointerp.model import TransferCnn14
from audiointerp.processing import LogMelSTFTSpectrogram

RESULTS = Path(__file__).parent / "results"


class Work:
    """Clips of the synthetic set and a Cnn14 with fresh weights.

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
        data = SyntheticDataset(5, sample_rate=front_end.sample_rate, clips=clips)
        self.model = TransferCnn14(len(data.classes), front_end.num_bins, width=width).eval()
        self.model.to(device)
        waveforms = torch.stack([data[place].waveform for place in range(clips)])
        self.cells = front_end.analyse(waveforms).cells.to(device)
        self.interpreter = METHODS["lrp_flat"](self.model)
        self.device = device

    def package(self) -> Tensor:
        """Return the package's maps of class 0."""
        return self.interpreter.attribute(self.cells, 0)

    def zennit(self) -> Tensor:
        """Return zennit's maps of class 0."""
        composite = EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
        maps = []
        with Gradient(self.model, composite) as attributor:
            for clip in self.cells:
                given = clip[None].clone().requires_grad_()
                _, relevance = attributor(given, lambda logits: logits * (logits == logits[:, :1]))
                maps.append(relevance.detach())
        return torch.cat(maps)

    def seconds(self, side: Callable[[], Tensor]) -> float:
        """Return how long one side takes for each clip."""
        started = time.perf_counter()
        side()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / len(self.cells)


def memory_of(side: str) -> float:
    """Return the peak memory of a process that does one side's work, MiB."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=1.0, help="of Cnn14")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=("package", "zennit"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = resolve_device(options.device)
    # First: a process counts what its parent held when it was started.
    memory = {} if options.side else {name: memory_of(name) for name in ("package", "zennit")}
    work = Work(options.width, options.clips, device)
    sides = {"package": work.package, "zennit": work.zennit}
    if options.side:
        sides[options.side]()
        print(peak_memory(device))
        return
    for side in sides.values():
        side()  # the first call makes the copy, and warms the caches
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            times[name].append(work.seconds(side))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    found = {
        "machine": describe(device),
        "torch": torch.__version__,
        "width": options.width,
        "clips": options.clips,
        "seconds_per_clip": seconds,
        "times_as_fast": seconds["zennit"] / seconds["package"],
        "peak_mib": memory,
        "memory_ratio": memory["zennit"] / memory["package"],
    }
    print(json.dumps(found, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"relevance_{device.type}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
