"""The two ways of doing every stage, on the same network and clips: the loop's and the package's.

Each side runs in a process of its own, as a user of either would have it: the package's keeps the
memory that is freed, as the command line does, and the loop's does not. `python
benchmarks/sides.py` is such a process; `Worker` talks to it. ``--without CHANGE`` leaves out one
thing that makes the package fast.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import loop
import numpy as np
import shap
import torch
from machine import peak_memory
from torch import Tensor, nn

import audiointerp.dataset.batches
import audiointerp.interpretation.base
import audiointerp.interpretation.segmentation.base
import audiointerp.interpretation.shap
import audiointerp.runs.clip
import audiointerp.runs.sets
import audiointerp.speed.scoring
from audiointerp import SyntheticDataset
from audiointerp.device import resolve_device
from audiointerp.masking import MASKS, make_masks
from audiointerp.metrics import METRICS, Evidence, MaskCells, complexity, sparseness
from audiointerp.model import build_model
from audiointerp.predict import Predict
from audiointerp.processing import FRONT_ENDS
from audiointerp.runs.clip import job_metrics
from audiointerp.runs.recipe import background_features, build_interpreter
from audiointerp.speed import keep_freed_memory
from audiointerp.speed.inference import _PlaneConvolution, fast_copy, inference_copy
from audiointerp.speed.precision import PRECISIONS, computing
from audiointerp.speed.scoring import DistinctMasks, Scorer

CLASSES = 10
STAGES = {
    "saliency": 8,
    "gradcam": 8,
    "lime": 2,
    "shap": 4,
    "scoring": 8,
    "simplicity": 64,
}
"""How many clips (masks, for simplicity) one call of a stage does."""

WITHOUT = {
    "kept memory": "every block above 32 MB is mapped anew for every layer, glibc's way",
    "full batches": "one input at a time goes through the network",
    "one copy": "the network's inference copy is made in every call",
    "inference copy": "the network as it is: batch norms, contiguous weights",
    "narrow planes": "planes of few columns are convolved as they lie",
    "equal masks once": "all fourteen masks of every clip are scored",
    "one sort": "sparseness and complexity are Quantus'",
    "background once": "SHAP's background goes through the network in every call",
    "segments ahead": "LIME segments a clip when the network has done with the one before",
    "beside the network": "a batch is read, interpreted and written one after the other",
}
"""What makes the package fast, and what is done where it is left out."""


class Side:
    """A network, clips, and what both ways need."""

    def __init__(self, width: float, front_end: str, device: torch.device) -> None:
        self.device = device
        self.processor = FRONT_ENDS[front_end]().to(device)
        settings = {"name": "Cnn14", "num_classes": CLASSES, "num_bins": self.processor.num_bins}
        self.model = build_model(settings | {"width": width}, seed=0).eval().to(device)
        test = SyntheticDataset(5, sample_rate=self.processor.sample_rate)
        waveforms = torch.stack([test[index].waveform for index in range(8)]).to(device)
        with torch.no_grad():
            self.view = self.processor.analyse(waveforms)
        self.features = self.view.cells

    @cached_property
    def background(self) -> Tensor:
        train = SyntheticDataset((1, 2, 3), sample_rate=self.processor.sample_rate)
        return background_features(train, self.processor)

    @cached_property
    def maps(self) -> Tensor:
        return loop.saliency(self.model, self.features)

    @cached_property
    def masks(self) -> Tensor:
        """A batch of 64, all kinds alike often."""
        masks = torch.cat(list(make_masks(self.maps).values()))
        return masks[torch.linspace(0, len(masks) - 1, 64).long().to(masks.device)]


class Loop(Side):
    """Every stage over the public libraries."""

    @cached_property
    def explainer(self) -> shap.DeepExplainer:
        return shap.DeepExplainer(self.model, self.background)

    def run(self, stage: str, clips: int) -> Any:
        """Do a stage for the first clips."""
        x = self.features[:clips]
        if stage == "shap":
            return loop.deep_shap(self.explainer, x)
        if stage == "scoring":
            return loop.scoring(self.model, x, self.maps[:clips])
        if stage == "simplicity":
            return loop.simplicity(self.masks[:clips])
        return {"saliency": loop.saliency, "gradcam": loop.gradcam, "lime": loop.lime}[stage](
            self.model, x
        )


class Ours(Side):
    """Every stage by the package."""

    batch_size: int | None = None

    def __init__(self, *setting: Any) -> None:
        super().__init__(*setting)
        self.interpreters: dict[str, Any] = {}

    def run(self, stage: str, clips: int) -> Any:
        """Do a stage for the first clips."""
        if stage == "scoring":
            waveform = self.view.waveform[:clips]
            return _table(self.predict.interpret(waveform, attribution=self.maps[:clips]))
        if stage == "set":
            dataset = SyntheticDataset(5, sample_rate=self.processor.sample_rate, clips=clips)
            with tempfile.TemporaryDirectory() as folder:
                return self.predict.predict_set(dataset, Path(folder) / "run", progress=False)
        if stage == "simplicity":
            cells = MaskCells(self.masks[:clips])
            return sparseness(cells).cpu().numpy(), complexity(cells).cpu().numpy()
        return self.interpreter(stage).attribute(self.features[:clips])

    @cached_property
    def predict(self) -> Predict:
        saliency = self.interpreter("saliency")
        return Predict(self.model, self.processor, saliency, batch_size=self.batch_size)

    def interpreter(self, method: str) -> Any:
        """Return the same one in every call, as a user keeps it for all clips."""
        if method not in self.interpreters:
            background = self.background if method == "shap" else None
            made = build_interpreter(method, self.model, self.processor, background=background)
            made.batch_size = self.batch_size or made.batch_size
            self.interpreters[method] = made
        return self.interpreters[method]

    def forwards(self, stage: str, clips: int) -> float:
        """Return the network's forward passes that a clip needs: none can be left out."""
        if stage == "lime":
            return 1001
        scorer, rows = Scorer(self.model), []
        network = scorer.classifier.network
        call = network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        self.predict.interpret(
            self.view.waveform[:clips], attribution=self.maps[:clips], scorer=scorer
        )
        call.remove()
        return sum(rows) / clips

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The model and its inference copy."""
        return {"model": self.model, "copy": fast_copy(self.model)}

    @cached_property
    def raw(self) -> dict[str, dict[int, float]]:
        """Seconds a clip takes, of the model and its copy, by batch size."""
        return {
            name: {size: self.raw_of(network, size) for size in (1, 2, 4, 8, 16, 32)}
            for name, network in self.networks.items()
        }

    def raw_now(self) -> float:
        """Measure the best of all of these again."""
        name, size = min(
            ((name, size) for name in self.raw for size in self.raw[name]),
            key=lambda which: self.raw[which[0]][which[1]],
        )
        return self.raw_of(self.networks[name], size)

    def compiled(self, size: int) -> dict[str, float]:
        """Return the seconds that torch.compile takes, and a clip with and without it."""
        import torch._inductor.config

        network = fast_copy(self.model)
        plain = inference_copy(self.model)
        for module in plain.modules():  # layouts are the compiler's matter
            if type(module) is _PlaneConvolution:
                module.__class__ = nn.Conv2d
        with torch.no_grad(), torch._inductor.config.patch(freezing=True):
            compiled = torch.compile(plain)
            clips = self.features.repeat(-(-size // 8), 1, 1, 1)[:size]
            first = seconds(partial(compiled, clips), self.device)
            return {
                "compile_s": first,
                "compiled_s": self.raw_of(compiled, size),
                "copy_s": self.raw_of(network, size),
            }

    def precisions(self, size: int) -> dict[str, float]:
        """Return the seconds that a clip takes through the inference copy in every precision."""
        network, times = fast_copy(self.model), {}
        # TF32 is float32 on a CPU.
        left = {"tf32"} if self.device.type == "cpu" else set()
        for name in [each for each in PRECISIONS if each not in left]:
            with computing(name, self.device):
                times[name] = self.raw_of(network, size)
        return times

    def raw_of(self, network: nn.Module, size: int) -> float:
        clips = self.features.repeat(-(-size // 8), 1, 1, 1)[:size]
        with torch.no_grad():
            network(clips)
            times = [seconds(partial(network, clips), self.device) for _ in range(3)]
        return statistics.median(times) / size


@contextmanager
def left_out(*changes: str) -> Iterator[None]:
    """Make the package do without some of `WITHOUT`; kept memory is the process's matter."""
    copies = {
        "one copy": inference_copy,
        "inference copy": lambda model, **_: model,
    }
    with ExitStack() as stack:
        for change in changes:
            if change in copies:
                for module in (audiointerp.speed.scoring, audiointerp.interpretation.base):
                    stack.enter_context(patch.object(module, "fast_copy", copies[change]))
            elif change == "full batches":
                stack.enter_context(patch.object(Ours, "batch_size", 1))
            elif change == "narrow planes":
                stack.enter_context(patch.object(_PlaneConvolution, "narrow", 0))
            elif change == "equal masks once":
                masks = patch.object(audiointerp.runs.clip, "distinct_masks", _all_masks)
                stack.enter_context(masks)
            elif change == "one sort":
                by_quantus = {
                    name: replace(METRICS[name], compute=partial(_by_quantus, place))
                    for place, name in enumerate(("SPS", "COMP"))
                }
                stack.enter_context(patch.dict(METRICS, by_quantus))
            elif change == "background once":
                stack.enter_context(
                    patch.object(audiointerp.interpretation.shap, "bytes_to_keep", lambda device: 0)
                )
            elif change in ("segments ahead", "beside the network"):
                modules = {
                    "segments ahead": [audiointerp.interpretation.segmentation.base],
                    "beside the network": [audiointerp.dataset.batches, audiointerp.runs.sets],
                }[change]
                for module in modules:
                    stack.enter_context(patch.object(module, "ThreadPoolExecutor", _Later))
        yield


class _Later(ThreadPoolExecutor):
    """Does nothing before its result is asked for, and then in the thread that asks."""

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Any:
        return SimpleNamespace(result=cache(partial(function, *arguments, **options)))

    def map(self, function: Any, *iterables: Iterable[Any], **options: Any) -> Any:
        return map(function, *iterables)


def _all_masks(masks: dict[str, Tensor]) -> DistinctMasks:
    stacked = torch.cat(list(masks.values()))
    place = torch.arange(len(stacked), device=stacked.device).split(len(stacked) // len(masks))
    clip = place[0].repeat(len(masks))
    return DistinctMasks(stacked, clip, dict(zip(masks, place, strict=True)))


def _by_quantus(place: int, evidence: Evidence) -> Tensor:
    cells = evidence.once("mask cells", lambda: MaskCells(evidence.mask))
    return torch.as_tensor(loop.simplicity(cells.scaled)[place])


def _table(scores: Any) -> np.ndarray:
    """Return (clips, masks, metrics)."""
    return np.stack(
        [
            np.stack([scores.metrics["features", mask][name].cpu() for name in job_metrics()], -1)
            for mask in MASKS
        ],
        axis=1,
    )


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Time a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class Worker:
    """A side in a process of its own, where the environment says no more of threads than given."""

    def __init__(
        self,
        side: str,
        width: float,
        front_end: str,
        device: str,
        *,
        without: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, __file__, side, "--width", str(width)]
        command += ["--front-end", front_end, "--device", device]
        if without is not None:
            command += ["--without", without]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GOMP_", "KMP_", "OMP_"))
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | dict(variables or {}),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def ask(self, what: str, **details: Any) -> Any:
        """Have the side do something and return its answer; see `_answer`."""
        self._process.stdin.write(json.dumps({"what": what, **details}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process for {what} {details} ended: {self._process.wait()}")
        return json.loads(line)

    def seconds(self, stage: str, clips: int) -> float:
        """Time a stage for so many clips; return the seconds of one."""
        return self.ask("run", stage=stage, clips=clips) / clips


def _answer(side: Loop | Ours, what: str, details: dict[str, Any]) -> Any:
    if what == "run":
        return seconds(partial(side.run, **details), side.device)
    if what == "memory":
        return peak_memory(side.device)
    if what == "forwards":
        return side.forwards(**details)
    if what == "compiled":
        return side.compiled(**details)
    if what == "precisions":
        return side.precisions(**details)
    if what == "raw":
        return side.raw
    if what == "raw now":
        return side.raw_now()
    raise ValueError(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=("loop", "ours"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--front-end", default="LogMelSTFTSpectrogram")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--without", choices=WITHOUT)
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    kind = {"loop": Loop, "ours": Ours}[options.side]
    if options.side == "ours" and options.without != "kept memory":
        keep_freed_memory()
    with left_out(*([options.without] if options.without else [])):
        side = kind(options.width, options.front_end, resolve_device(options.device))
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(_answer(side, request.pop("what"), request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
