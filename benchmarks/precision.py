"""What a precision does to the numbers: every metric beside that of float32, on the same clips.

    python benchmarks/precision.py synthetic -w weights/synthetic_logmel.safetensors
    python benchmarks/precision.py ESC50_ROOT --subset esc10 -w weights/esc10_logmel.safetensors

bfloat16 is what ``precision="bfloat16"`` computes here. TF32 exists on NVIDIA GPUs only; on a CPU
it is imitated: what goes into a convolution or a matrix product, forward and backward, is rounded
to TF32's 10 bits of mantissa, sums are made in float32 as there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import describe
from same_numbers import RANGES
from sides import left_out
from torch import Tensor, nn

from audiointerp.device import resolve_device
from audiointerp.interpretation import DEFAULT_METHODS, METHODS
from audiointerp.model.weights import load
from audiointerp.predict import Predict
from audiointerp.runs.recipe import background_features, build_interpreter, open_set
from audiointerp.speed.scoring import Scores

RESULTS = Path(__file__).parent / "results"


def to_tf32(values: Tensor) -> Tensor:
    """Round to 10 bits of mantissa."""
    return ((values.detach().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class _RoundForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return to_tf32(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _RoundBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return to_tf32(gradient)


@contextmanager
def imitated_tf32() -> Iterator[None]:
    """Round what goes into convolutions and matrix products, in both directions."""
    convolve, multiply = nn.Conv2d._conv_forward, nn.functional.linear

    def rounded_convolution(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        return _RoundBackward.apply(convolve(self, _RoundForward.apply(x), to_tf32(weight), bias))

    def rounded_product(self: nn.Linear, x: Tensor) -> Tensor:
        y = multiply(_RoundForward.apply(x), to_tf32(self.weight), self.bias)
        return _RoundBackward.apply(y)

    with ExitStack() as stack:
        stack.enter_context(left_out("narrow planes"))
        stack.enter_context(patch.object(nn.Conv2d, "_conv_forward", rounded_convolution))
        stack.enter_context(patch.object(nn.Linear, "forward", rounded_product))
        yield


STEPS = ("AI", "FidIn")
"""Metrics of one clip that are all or nothing: near the step, any change of a bit decides."""


def change(found: Scores, exact: Scores) -> float:
    """Return the largest change of a mean over the clips, in units of the metric's range."""
    largest = 0.0
    for key, metrics in exact.metrics.items():
        for name in sorted(set(RANGES) - set(STEPS)):
            mean = (found.metrics[key][name] - metrics[name]).mean().abs().item()
            largest = max(largest, mean / RANGES[name])
    return largest


def flips(found: Scores, exact: Scores) -> float:
    """Return the share of the clips, masks and metrics of `STEPS` that have the other value."""
    pairs = [
        found.metrics[key][name] != metrics[name]
        for key, metrics in exact.metrics.items()
        for name in STEPS
    ]
    return torch.cat(pairs).double().mean().item()


def median_change(found: Scores, exact: Scores) -> float:
    """Return the median over clips and masks of the change of FF."""
    return (
        torch.cat(
            [found.metrics[key]["FF"] - metrics["FF"] for key, metrics in exact.metrics.items()]
        )
        .abs()
        .median()
        .item()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--subset")
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--method", action="append", choices=METHODS, help="four by default")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = resolve_device(options.device)
    model, processor = load(options.weights, device=device)
    source = {"subset": options.subset}
    test = open_set(options.data, model, processor, folds=5, clips=options.clips, **source)
    train = open_set(options.data, model, processor, folds=(1, 2, 3), **source)
    background = background_features(train, processor)
    waveforms = torch.stack([test[index].waveform for index in range(len(test))]).to(device)
    rows = []
    for method in options.method or DEFAULT_METHODS:
        interpreter = build_interpreter(method, model, processor, background=background)
        exact = Predict(model, processor, interpreter).interpret(waveforms)
        for name in ("tf32", "bfloat16"):
            predict = Predict(model, processor, interpreter, precision=name)
            imitated = name == "tf32" and device.type == "cpu"
            with imitated_tf32() if imitated else ExitStack():
                scored = predict.interpret(waveforms, exact.target, attribution=exact.attribution)
                whole = predict.interpret(waveforms)
            rows.append(
                {
                    "precision": name,
                    "imitated": imitated,
                    "method": method,
                    "clips": len(waveforms),
                    "other_class": int((whole.target != exact.target).sum()),
                    "scoring_only": change(scored, exact),
                    "all": change(whole, exact),
                    "flips_scoring_only": flips(scored, exact),
                    "flips": flips(whole, exact),
                    "median_ff_scoring_only": median_change(scored, exact),
                    "median_ff": median_change(whole, exact),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    stem = Path(options.weights).stem
    result = {"machine": describe(device), "weights": stem, "rows": rows}
    path = RESULTS / f"precision_{device.type}_{stem}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
