"""Checks of the methods."""

from __future__ import annotations

import math
import warnings

from torch import nn

from audiointerp.interpretation import AdditivityWarning
from audiointerp.interpretation.base import no_gradient
from audiointerp.runs.check.bench import (
    CHECKS,
    SOUNDS,
    Bench,
    Finding,
    add_check,
)
from audiointerp.runs.clip import interpret_clips
from audiointerp.runs.job import Job, choose_masks
from audiointerp.runs.recipe import build_interpreter

_ADDS_UP = 0.01
_LIME_SAMPLES = 16
_LISTED_LAYERS = 6


@add_check(
    "gradient",
    required=True,
    advice="the module must be differentiable: no detach(), no_grad() or rounding on the way",
)
def _gradient(bench: Bench) -> Finding:
    if not bench.classifier.differentiable:
        return _closed("gradient", bench)
    method = build_interpreter("saliency", bench.classifier)
    gradient = method.attribute(bench.view)
    share = float((gradient != 0).float().mean())
    largest = float(gradient.abs().max())
    if not largest > 0:
        return Finding(
            "gradient",
            "failed",
            "the gradient is zero in every cell",
            "is part of the way from the cells to the scores detached, or are the outputs "
            "probabilities that round to 1?",
        )
    return Finding(
        "gradient",
        "ok",
        f"finite, not zero in {100 * share:.0f} % of the cells",
        details={"share": share},
    )


@add_check("grad-cam", advice="name a layer of the module: GradCAMInterpreter(model, 'layer')")
def _gradcam(bench: Bench) -> Finding:
    if not bench.classifier.differentiable:
        return _closed("grad-cam", bench)
    default = bench.classifier.target_layer
    by_size = {size: name for name, size in bench.layers.items()}  # the last one of every size
    nearest = list(reversed([(name, size) for size, name in by_size.items()]))
    listed = ", ".join(f"{name} {f}×{t}" for name, (f, t) in nearest[:_LISTED_LAYERS])
    details = {"layers": bench.layers}
    swapped = _swapped(bench.view.cells.shape[2:], nearest)
    if not nearest:
        return Finding(
            "grad-cam",
            "missing",
            "no layer's activations are known to lie over frequency or time",
            "declare activation_axes=…; see audiointerp.model.planes for patches and frames",
            details,
        )
    if swapped:
        return Finding(
            "grad-cam",
            "missing",
            f"frequency and time look swapped in {swapped} (frequency×time): {listed}",
            "declare activation_axes=('channel', 'time', 'freq') if they are",
            details,
        )
    if default is None:
        return Finding(
            "grad-cam",
            "missing",
            f"no default layer; layers by frequency×time: {listed}",
            f"name one: GradCAMInterpreter(model, {_last_that_counts(bench)!r})",
            details,
        )
    method = build_interpreter("gradcam", bench.classifier)
    method.attribute(bench.view[:1])
    (name,) = method.target_layers
    bins, frames = bench.layers.get(name, (1, 1))
    return Finding(
        "grad-cam",
        "ok",
        f"default layer {name}, {bins}×{frames}; layers by frequency×time: {listed}",
        details=details | {"default": name},
    )


@add_check("lime", required=True, advice="the module must take changed cells as well as the clip's")
def _lime(bench: Bench) -> Finding:
    method = build_interpreter("lime", bench.classifier, num_samples=_LIME_SAMPLES)
    explanation = method.explain(bench.view[:1])
    segments = int(explanation.diagnostics["segments"])
    return Finding(
        "lime",
        "ok",
        f"{_LIME_SAMPLES} versions of {segments} segments",
        details={"segments": segments},
    )


@add_check("shap", advice="use the other methods, or activations and poolings that are modules")
def _shap(bench: Bench) -> Finding:
    if not bench.classifier.differentiable:
        return _closed("shap", bench)
    method = build_interpreter("shap", bench.classifier, background=bench.view[1:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AdditivityWarning)
        residual = float(method.explain(bench.view[:1]).diagnostics["residual"])
    details = {"residual": residual}
    if residual < _ADDS_UP:
        found = f"adds up to {100 * residual:.2g} % of the logit's change"
        return Finding("shap", "ok", found, details=details)
    reasons = [str(each.message) for each in caught if each.category is AdditivityWarning]
    reason = reasons[0].partition("Probable cause: ")[2].rstrip(".") if reasons else "unknown"
    return Finding(
        "shap",
        "missing",
        f"misses the logit's change by {100 * residual:.3g} %: {reason}",
        CHECKS["shap"].advice,
        details,
    )


@add_check("interpretation", required=True, advice="see the checks above")
def _interpretation(bench: Bench) -> Finding:
    if not bench.classifier.differentiable:
        method = build_interpreter("lime", bench.classifier, num_samples=_LIME_SAMPLES)
    else:
        named = isinstance(bench.classifier.target_layer, nn.Module)
        method = build_interpreter("gradcam" if named else "saliency", bench.classifier)
    job = Job(bench.classifier, method, masks=choose_masks(None, method), on=("features", "audio"))
    (result,) = interpret_clips(job, bench.clips[:1], [SOUNDS[0]])
    for place, table in result.metrics_on.items():
        if table.isna().any(axis=None):
            return Finding(
                "interpretation",
                "failed",
                f"metrics measured on {place} are NaN",
                "are the module's scores finite for masked clips?",
            )
    kept = result.probabilities_on["features"].loc["topK_30", "in"]
    return Finding(
        "interpretation",
        "ok",
        f"{job.method} of a synthetic {SOUNDS[0]}: {result.label} at {result.probability:.3f}, "
        f"{kept:.3f} with 30 % of the cells; {len(job.masks)} masks, on features and sound",
        details={"label": result.label, "probability": result.probability},
    )


def _last_that_counts(bench: Bench) -> str:
    """Return the last layer that Grad-CAM can explain; a whole block or a norm before its parts.

    Behind the last attention of a transformer only a class token may count, which has no plane.
    """
    names = list(reversed(bench.layers))
    network = bench.classifier.network
    for name in sorted(names, key=lambda each: isinstance(network.get_submodule(each), nn.Linear)):
        try:
            build_interpreter("gradcam", bench.classifier, target_layers=name).attribute(
                bench.view[:1]
            )
        except ValueError:
            continue
        return name
    return names[0]


def _closed(check: str, bench: Bench) -> Finding:
    """Return that a method has nothing to take of a network without gradients, and which have."""
    why, _, working = no_gradient(bench.classifier).partition(": ")
    return Finding(check, "missing", why, working)


def _swapped(cells: tuple[int, int], layers: list[tuple[str, tuple[int, int]]]) -> str:
    """Return the name of a layer whose plane fits the cells better on its side, "" if none."""
    wanted = math.log(cells[0] / cells[1])
    for name, (rows, columns) in layers:
        if min(rows, columns) < 2:
            continue
        shape = math.log(rows / columns)
        if abs(-shape - wanted) + 1 < abs(shape - wanted):
            return name
    return ""
