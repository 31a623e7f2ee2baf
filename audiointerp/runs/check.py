"""Find out what works on a classifier: every capability is tried on sample sounds.

A new check is one function registered in `CHECKS`.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from audiointerp.dataset.audio import prepare_waveform
from audiointerp.dataset.recipes import RATE
from audiointerp.dataset.synthetic import render
from audiointerp.device import resolve_device
from audiointerp.interpretation import AdditivityWarning
from audiointerp.interpretation.base import evaluating
from audiointerp.interpretation.gradcam import usable_layers
from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.weights import load
from audiointerp.processing import View
from audiointerp.registry import Registry
from audiointerp.runs.clip import interpret_clips
from audiointerp.runs.job import Job, choose_masks
from audiointerp.runs.recipe import build_interpreter
from audiointerp.speed.inference import fast_copy
from audiointerp.speed.precision import computing
from audiointerp.speed.scoring import Scorer

Status = Literal["ok", "missing", "failed"]

SOUNDS = ("dog", "siren", "sea_waves")
"""Classes of the synthetic set whose sounds are tried; the first is interpreted."""

_REMOVED_DB = -60.0
_SAME_PROBABILITY = 1e-4
_SAME_LOGIT = 1e-3
_ADDS_UP = 0.01
_LIME_SAMPLES = 16
_LISTED_LAYERS = 6


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
        What was tried; a name in `CHECKS`, or "classifier" where none could be made.
    status : {"ok", "missing", "failed"}
        "missing" is something that the rest works without, "failed" something required.
    found : str
        What there is, or why it does not work.
    advice : str
        What to do about it; empty where nothing needs doing.
    details : mapping of str to object
        The numbers and names behind it.
    """

    check: str
    status: Status
    found: str
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """Something to try.

    Attributes
    ----------
    run : callable
        Returns the finding; an error that it raises is one.
    required : bool
        Whether interpreting needs it.
    advice : str
        What to do where it raises an error.
    """

    run: Callable[[Bench], Finding]
    required: bool
    advice: str

    def try_on(self, name: str, bench: Bench) -> Finding:
        """Return what it finds."""
        try:
            return self.run(bench)
        except Exception as error:  # of the user's code, which may fail in any way
            status: Status = "failed" if self.required else "missing"
            return Finding(name, status, f"{type(error).__name__}: {_one_line(error)}", self.advice)


CHECKS: Registry[Check] = Registry("check")


def _check(
    name: str, *, advice: str, required: bool = False
) -> Callable[[Callable[[Bench], Finding]], Callable[[Bench], Finding]]:
    def add(run: Callable[[Bench], Finding]) -> Callable[[Bench], Finding]:
        CHECKS.register(name)(Check(run, required, advice))
        return run

    return add


class Bench:
    """A classifier and the sounds that it is tried on.

    Attributes
    ----------
    classifier : Classifier
    device : device
        Where it is.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self.classifier = classifier.to(device)
        self.device = device

    @cached_property
    def clips(self) -> Tensor:
        """Sounds as the classifier takes them, (sounds, 1, samples)."""
        return torch.stack([self._sound(category) for category in SOUNDS]).to(self.device)

    @cached_property
    def view(self) -> View:
        """The sounds, analysed."""
        with torch.no_grad():
            return self.classifier.front_end.analyse(self.clips)

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """The layers that Grad-CAM can look at, with the size of their planes."""
        return usable_layers(self.classifier, self.view[:1])

    def logits(self, view: View) -> Tensor:
        """Return the classifier's own logits, without a copy made for speed."""
        with evaluating(self.classifier.network), torch.no_grad():
            return self.classifier.logits(view.cells, view)

    def probabilities(self, view: View) -> Tensor:
        """Return the classifier's own probabilities."""
        return self.classifier.probabilities(self.logits(view))

    def _sound(self, category: str) -> Tensor:
        scene = render(category, 0)
        wave = torch.from_numpy(scene.foreground + scene.background)
        if self.classifier.duration is not None:
            wave = wave.repeat(math.ceil(self.classifier.duration * RATE / len(wave)))
        rate = self.classifier.front_end.sample_rate
        return prepare_waveform(wave, RATE, rate, self.classifier.duration)[0]


def check_file(source: str | os.PathLike[str], *, device: str = "auto") -> list[Finding]:
    """Check the classifier of a weight file, or one that a function of a Python file makes.

    Parameters
    ----------
    source : path or str
        A weight file, or ``file.py:function``. The function takes no arguments and returns what
        `audiointerp.classifier` returns, or its module and keyword arguments as a pair. The file
        is run: check only files that you trust.
    device : str
        See `audiointerp.device.resolve_device`.

    Returns
    -------
    list of Finding
        One for each check; one alone where no classifier can be made of the module.

    Raises
    ------
    ValueError
        If the file cannot be read or run, or the function returns something else.
    """
    chosen = resolve_device(device)
    made = _open(source)
    if isinstance(made, Finding):
        return [made]
    return check_classifier(made, device=chosen)


def check_classifier(
    classifier: Classifier, *, device: torch.device | str = "cpu"
) -> list[Finding]:
    """Try everything that this package does on a classifier.

    Parameters
    ----------
    classifier : Classifier
        With a front end. It is moved to the device and otherwise left as it was.
    device : device or str

    Returns
    -------
    list of Finding
        One for each of `CHECKS`.

    Raises
    ------
    ValueError
        If it has no front end.
    """
    if classifier.front_end is None:
        raise ValueError("the classifier has no front end: there is nothing to analyse sound with")
    bench = Bench(classifier, torch.device(device))
    return [check.try_on(name, bench) for name, check in CHECKS.items()]


def works(findings: list[Finding]) -> bool:
    """Return whether everything required works."""
    return all(finding.status != "failed" for finding in findings)


# --- where classifiers come from ----------------------------------------------------------------


def _open(source: str | os.PathLike[str]) -> Classifier | Finding:
    text = os.fspath(source)
    if text.endswith(".py"):
        raise ValueError(f"{text}: name the function that makes the classifier, {text}:FUNCTION")
    path, _, function = text.rpartition(":")
    if not path.endswith(".py"):
        return load(text)
    made = _call(Path(path), function)
    if isinstance(made, Classifier):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
        module, options = made
        try:
            return classifier(module, **options)
        except (TypeError, ValueError) as error:
            return Finding(
                "classifier", "failed", _one_line(error), "see the help of audiointerp.classifier"
            )
    raise ValueError(
        f"{text} returned {type(made).__name__}: expected a Classifier, as audiointerp.classifier "
        "makes it, or (module, {'front_end': …, 'classes': …})"
    )


def _call(path: Path, function: str) -> Any:
    """Run a Python file and return what one of its functions returns."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    # Modules beside the file can be imported by it, as if it were run from there.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        module = _run(path)
        made = getattr(module, function, None)
        if not callable(made):
            there = [name for name, value in vars(module).items() if _is_function(value, module)]
            raise ValueError(
                f"{path} has no function {function!r}; it has {', '.join(there) or 'none'}"
            )
        return made()
    except ValueError:
        raise
    except Exception as error:  # of the user's code, which may fail in any way
        raise ValueError(f"{path}: {type(error).__name__}: {error}{_place(error, path)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"audiointerp_checked_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what their annotations name
    spec.loader.exec_module(module)
    return module


def _is_function(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _place(error: Exception, path: Path) -> str:
    """Return where in a file an error arose."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == path.name
    ]
    return f" (line {lines[-1]})" if lines else ""


# --- what is declared ---------------------------------------------------------------------------


@_check(
    "front end",
    required=True,
    advice="give a front end of audiointerp.processing, or a subclass of FrontEnd",
)
def _front_end(bench: Bench) -> Finding:
    front_end = bench.classifier.front_end
    bins, frames = bench.view.cells.shape[2:]
    fed = "waveform" if front_end.feeds_waveform else "cells"
    return Finding(
        "front end",
        "ok",
        f"{type(front_end).__name__}, {front_end.sample_rate} Hz, {bins}×{frames} cells in "
        f"{front_end.unit}; the network takes the {fed}",
        details={"cells": (bins, frames)},
    )


@_check(
    "outputs",
    required=True,
    advice="the module must return finite scores (batch, classes) for what the front end makes",
)
def _outputs(bench: Bench) -> Finding:
    logits = bench.logits(bench.view)
    if not logits.isfinite().all():
        return Finding("outputs", "failed", "scores are NaN or infinite", "are the weights loaded?")
    declared = bench.classifier.outputs
    kind = "probabilities, turned into logits" if declared == "probabilities" else "logits"
    about = f"{kind} of {logits.shape[1]} classes"
    if declared is None:
        return Finding(
            "outputs",
            "missing",
            f"{about}, which is not declared",
            "make the classifier by audiointerp.classifier, or declare outputs='logits'",
        )
    if declared == "probabilities":
        return Finding(
            "outputs",
            "ok",
            about,
            "where probabilities round to 1 there is no gradient: return logits if you can",
        )
    return Finding("outputs", "ok", about)


@_check("head", required=True, advice="declare head='softmax', 'sigmoid' or 'binary'")
def _head(bench: Bench) -> Finding:
    head = bench.classifier.head
    chances = bench.probabilities(bench.view)
    low, high = float(chances.min()), float(chances.max())
    if not 0 <= low <= high <= 1 + 1e-6:
        return Finding(
            "head",
            "failed",
            f"{head.name}: probabilities run from {low:g} to {high:g}",
            "Head.probabilities must return values in [0, 1]",
        )
    kind = "one class of several" if head.exclusive else "labels that are independent of each other"
    return Finding("head", "ok", f"{head.name}: {kind}")


@_check("classes", advice="give the class names, in the order of the outputs")
def _classes(bench: Bench) -> Finding:
    names = bench.classifier.classes
    if names is None:
        return Finding(
            "classes",
            "missing",
            "no names: classes are numbers",
            "give classes=…, in the order of the outputs",
        )
    count = bench.logits(bench.view[:1]).shape[1]
    bench.classifier.class_names(count)
    shown = ", ".join(names[:5]) + (", …" if count > 5 else "")
    return Finding("classes", "ok", f"{count}: {shown}")


@_check("duration", advice="declare duration=…, the seconds of sound that the module takes")
def _duration(bench: Bench) -> Finding:
    duration = bench.classifier.duration
    if duration is not None:
        return Finding("duration", "ok", f"{duration:g} s; longer recordings are cut into windows")
    half = bench.classifier.front_end.analyse(bench.clips[:1, :, : bench.clips.shape[-1] // 2])
    bench.logits(half)
    return Finding("duration", "ok", "any; a recording is one window")


@_check("licence", advice="")
def _licence(bench: Bench) -> Finding:
    licence = bench.classifier.licence
    if licence:
        return Finding("licence", "ok", licence)
    return Finding(
        "licence", "missing", "not stated", "give licence=…, to have it named in results"
    )


# --- sound and network --------------------------------------------------------------------------


@_check(
    "round trip",
    required=True,
    advice="FrontEnd.synthesise must take the view that analyse returns and cells of its shape",
)
def _round_trip(bench: Bench) -> Finding:
    view, front_end = bench.view, bench.classifier.front_end
    with torch.no_grad():
        again = front_end.synthesise(view, view.cells)
    if again.shape == view.waveform.shape and torch.equal(again, view.waveform):
        return Finding("round trip", "ok", "unchanged cells give the waveform bit for bit")
    found = f"shape {tuple(again.shape)} instead of {tuple(view.waveform.shape)}"
    if again.shape == view.waveform.shape:
        found = f"samples differ by up to {float((again - view.waveform).abs().max()):.2g}"
    return Finding(
        "round trip",
        "failed",
        f"unchanged cells do not give the waveform: {found}",
        "synthesise the change only and add it to view.waveform",
    )


@_check("removal", required=True, advice="FrontEnd.synthesise must take cells at the floor")
def _removal(bench: Bench) -> Finding:
    view, front_end = bench.view, bench.classifier.front_end
    with torch.no_grad():
        left = front_end.synthesise(view, torch.full_like(view.cells, front_end.floor))
    energy = float(left.square().sum() / view.waveform.square().sum())
    level = 10 * math.log10(max(energy, 1e-30))
    if level <= _REMOVED_DB:
        return Finding(
            "removal",
            "ok",
            f"cells at the floor leave {level:.0f} dB of the sound",
            details={"level_db": level},
        )
    return Finding(
        "removal",
        "failed",
        f"cells at the floor leave {level:.0f} dB of the sound, expected {_REMOVED_DB:.0f} or less",
        "is the front end's floor the level of an empty cell?",
        {"level_db": level},
    )


@_check("determinism", required=True, advice="")
def _determinism(bench: Bench) -> Finding:
    first, second = (bench.probabilities(bench.view) for _ in range(2))
    change = float((first - second).abs().max())
    if change <= _SAME_PROBABILITY:
        return Finding("determinism", "ok", "the same clip has the same probabilities again")
    return Finding(
        "determinism",
        "failed",
        f"probabilities of the same clip differ by up to {change:.2g} from call to call",
        "is a dropout called as a function, or is a state kept between calls?",
        {"change": change},
    )


@_check("batch", required=True, advice="the module must take one clip as well as several")
def _batch(bench: Bench) -> Finding:
    together = bench.probabilities(bench.view)
    alone = torch.cat([bench.probabilities(bench.view[n : n + 1]) for n in range(len(SOUNDS))])
    change = float((together - alone).abs().max())
    if change <= _SAME_PROBABILITY:
        return Finding("batch", "ok", "a clip alone is the clip in a batch")
    return Finding(
        "batch",
        "failed",
        f"probabilities of a clip differ by up to {change:.2g} with others in its batch",
        "is something computed over the batch, such as statistics of a batch norm without memory?",
        {"change": change},
    )


@_check("copy", advice="methods run on the module itself")
def _copy(bench: Bench) -> Finding:
    with torch.no_grad():  # in which the copied parameters have no history
        twin = bench.classifier.with_network(copy.deepcopy(bench.classifier.network))
    with evaluating(twin.network), torch.no_grad():
        same = torch.equal(twin.logits(bench.view.cells, bench.view), bench.logits(bench.view))
    if same:
        return Finding("copy", "ok", "a deep copy computes the same")
    return Finding(
        "copy",
        "missing",
        "a deep copy computes something else",
        "does the module keep something outside of its parameters, buffers and attributes?",
    )


@_check("fast copy", required=True, advice="methods take fold_batch_norm=False, to run without it")
def _fast_copy(bench: Bench) -> Finding:
    network = bench.classifier.network
    twin = fast_copy(network)
    if twin is network:
        return Finding("fast copy", "missing", "none can be made: the module itself is run")
    with torch.no_grad():
        logits = bench.classifier.with_network(twin).logits(bench.view.cells, bench.view)
    own = bench.logits(bench.view)
    change = float((logits - own).abs().max() / own.abs().max().clamp(min=1e-6))
    if change <= _SAME_LOGIT:
        found = "the copy made for speed computes the same"
        return Finding("fast copy", "ok", found, details={"change": change})
    return Finding(
        "fast copy",
        "failed",
        f"logits of the copy made for speed differ by {100 * change:.1f} %",
        "give methods fold_batch_norm=False, and tell the authors of audiointerp",
        {"change": change},
    )


@_check("bfloat16", advice="keep precision='float32'")
def _bfloat16(bench: Bench) -> Finding:
    own = bench.probabilities(bench.view)
    with computing("bfloat16", bench.device):
        rough = Scorer(bench.classifier)(bench.view.cells, bench.view)
    change = float((rough - own).abs().max())
    if not math.isfinite(change):
        return Finding("bfloat16", "missing", "probabilities are NaN", "keep precision='float32'")
    return Finding(
        "bfloat16",
        "ok",
        f"precision='bfloat16' changes probabilities by up to {change:.2g}",
        details={"change": change},
    )


# --- methods ------------------------------------------------------------------------------------


@_check(
    "gradient",
    required=True,
    advice="the module must be differentiable: no detach(), no_grad() or rounding on the way",
)
def _gradient(bench: Bench) -> Finding:
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


@_check("grad-cam", advice="name a layer of the module: GradCAMInterpreter(model, 'layer')")
def _gradcam(bench: Bench) -> Finding:
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
            f"name one: GradCAMInterpreter(model, {nearest[0][0]!r})",
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


@_check("lime", required=True, advice="the module must take changed cells as well as the clip's")
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


@_check("shap", advice="use the other methods, or activations and poolings that are modules")
def _shap(bench: Bench) -> Finding:
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


@_check("interpretation", required=True, advice="see the checks above")
def _interpretation(bench: Bench) -> Finding:
    named = isinstance(bench.classifier.target_layer, torch.nn.Module)
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
