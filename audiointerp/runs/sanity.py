"""Sanity checks of methods on a classifier and some clips, as one table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.arguments import several
from audiointerp.dataset import ClipDataset
from audiointerp.device import resolve_device
from audiointerp.evaluation.sanity import (
    SIMILARITIES,
    completeness,
    gaussian_noise,
    infidelity,
    stability,
    uniform_noise,
)
from audiointerp.interpretation import METHODS, AdditivityWarning, Interpreter
from audiointerp.masking import base_level
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.model.randomise import list_layers, randomised
from audiointerp.model.weights import load
from audiointerp.plots import plot_sanity
from audiointerp.processing import View
from audiointerp.registry import Registry, check_different
from audiointerp.runs.clip import analyse
from audiointerp.runs.recipe import TRAIN_FOLDS, Recipe, build_interpreter, open_set
from audiointerp.speed.inference import evaluation_mode, fast_copy
from audiointerp.speed.memory import batch_size_for
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import check_writable, claim, write_atomically

COLUMNS = ("method", "clip", "target", "check", "layer", "measure", "value")

_Rows = Iterator[tuple[str, str, Tensor]]
"""Layer, measure and a value per clip."""


def check_sanity(
    classifier: Classifier,
    methods: str | Sequence[str] | None,
    clips: ClipDataset | Tensor,
    *,
    background: View | Tensor | None = None,
    checks: str | Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    similarities: str | Sequence[str] = ("spearman", "absolute"),
    radius: float = 0.1,
    draws: int = 10,
    base: str = "floor",
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Check whether methods depend on the network, the class, and not on faint noise.

    Each clip's predicted class is explained, by the randomised networks too. The classifier is
    left as it was found.

    Parameters
    ----------
    classifier : Classifier
        With a front end.
    methods : str or sequence of str, optional
        Names in ``METHODS``; the published four by default, "all" for all that need no truth.
    clips : ClipDataset, or Tensor of shape (clips, 1, samples)
        All of them are held in memory: some ten say enough.
    background : View or Tensor, optional
        Clips that methods with a background compare with.
    checks : str or sequence of str, optional
        Names in ``CHECKS``; all by default.
    layers : sequence of str, optional
        Layers to randomise, in this order; by default all, from the output to the input. See
        `audiointerp.model.randomise`.
    similarities : str or sequence of {"spearman", "absolute", "ssim"}
        Of maps before and after; see `audiointerp.evaluation.sanity`.
    radius : float
        Of perturbations, as a share of the standard deviation of the clip's cells.
    draws : int
        How often a clip is perturbed.
    base : str
        Masking base, which completeness compares with, and of methods that hide cells.
    seed : int
        Of new parameters, of perturbations and of methods that draw at random.
    options : mapping of str to mapping, optional
        Further arguments of a method's constructor, by the method's name:
        ``{"lime": {"num_samples": 200}}``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per ``method``, ``clip``, ``check``, ``layer`` and ``measure`` with its ``value``,
        and the explained class, ``target``. The layer is empty where none is randomised. NaN where
        there is no evidence, such as of a map that is constant.

    Raises
    ------
    UnknownNameError
        If there is no such method, check, similarity or base.
    ValueError
        If a method needs a background or the clips' parts and they are not given, or there is no
        such layer.

    Examples
    --------
    >>> found = check_sanity(model, ["saliency", "edge"], clips)  # doctest: +SKIP
    >>> summarise_sanity(found)  # doctest: +SKIP
    """
    classifier = as_classifier(classifier)
    recipe = Recipe(methods, base=base, seed=seed)
    names = recipe.methods_for("clips that are checked", has_parts=False)
    names = recipe.suited_for(classifier, names)
    chosen = tuple(CHECKS) if checks is None else several(checks)
    kinds = several(similarities)
    for registry, given in ((CHECKS, chosen), (SIMILARITIES, kinds)):
        for name in given:
            registry[name]
        check_different(registry.kind, given)
    if draws < 1 or not radius > 0:
        raise ValueError(f"a radius of {radius:g} and draws={draws}: expected positive ones")
    waveforms, clip_names = stack_waveforms(clips)
    if classifier.front_end is None:
        raise ValueError("the classifier has no front end: pass what audiointerp.load returns")
    view = analyse(classifier, waveforms)
    with evaluation_mode(classifier.network):
        found_layers = list_layers(classifier, view[:1]) if layers is None else several(layers)
    if not found_layers:
        chosen = _without_layers(chosen, named=checks is not None)
    logits = _logits(classifier, view)
    labels = classifier.class_names(logits.shape[1])
    make = {
        name: partial(
            build_interpreter,
            name,
            background=background,
            base=base,
            seed=seed,
            **(options or {}).get(name, {}),
        )
        for name in names
    }
    frames = []
    with tqdm(total=len(names) * len(chosen), desc="sanity", disable=not progress) as bar:
        for name in names:
            interpreter = make[name](classifier)
            if "weights" in interpreter.requires:
                # The same decoder on the randomised networks, for which none was trained.
                make[name] = partial(make[name], weights=interpreter.decoder)
            bench = _Bench(
                classifier=classifier,
                make=make[name],
                interpreter=interpreter,
                view=view,
                logits=logits,
                target=logits.argmax(1),
                background=background,
                layers=tuple(found_layers),
                similarities=kinds,
                radius=radius,
                draws=draws,
                base=base,
                seed=seed,
            )
            for check in chosen:
                for layer, measure, values in CHECKS[check](bench):
                    rows = {
                        "method": name,
                        "clip": clip_names,
                        "target": [labels[label] for label in bench.target.tolist()],
                        "check": check,
                        "layer": layer,
                        "measure": measure,
                        "value": values.cpu().numpy(),
                    }
                    frames.append(pd.DataFrame(rows))
                bar.update()
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)]


def run_sanity(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    subset: str | None = None,
    fold: int | str = 5,
    clips: int | None = 10,
    train_folds: Sequence[int | str] = TRAIN_FOLDS,
    methods: str | Sequence[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> tuple[pd.DataFrame, list[Path]]:
    """Check methods on a weight file and some clips of a set; write the table and its picture.

    Parameters
    ----------
    weights : path
    data : "synthetic" or path
        The set; see `audiointerp.dataset.open_dataset`.
    out : path
        Folder for ``sanity.csv`` and, where layers are randomised, ``sanity.pdf`` and
        ``sanity.png``.
    subset, fold, clips, train_folds
        See `audiointerp.runs.experiment.run_experiment`.
    methods, seed, **options
        See `check_sanity`.
    device : str
        "auto", "cpu", "cuda", …

    Returns
    -------
    found : DataFrame
        As `check_sanity` returns it.
    files : list of Path

    Raises
    ------
    OSError
        If the folder cannot be written; before anything is computed.
    ClaimedError
        If another run is writing to it.
    """
    folder = Path(out)
    check_writable(folder, folder=True)
    with claim(folder / "sanity.csv"):
        classifier = load(weights, device=resolve_device(device))
        recipe = Recipe(methods, seed=seed)
        background = recipe.background(data, classifier, folds=train_folds, subset=subset)
        chosen = open_set(data, classifier, folds=fold, clips=clips, subset=subset)
        found = check_sanity(
            classifier,
            methods,
            chosen,
            background=background,
            seed=seed,
            progress=True,
            **options,
        )
        folder.mkdir(parents=True, exist_ok=True)
        table = write_atomically(folder / "sanity.csv", to_csv(found, index=False))
        files = [table]
        if found["layer"].any():
            heading = f"{Path(weights).stem}, {found['clip'].nunique()} clips"
            files += plot_sanity(found, heading=heading).save_print(folder / "sanity")
    return found, files


def summarise_sanity(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method: the means over the clips of what `check_sanity` found.

    Parameters
    ----------
    found : DataFrame

    Returns
    -------
    DataFrame
        Indexed by method, with ``reference`` and one column per check and measure. Of cascading
        randomisation it has the last step, where every layer is random; of independent
        randomisation the mean over the layers.
    """
    last = found[found["check"] == "cascading"]["layer"]
    kept = found[(found["check"] != "cascading") | (found["layer"] == last.iloc[-1:].max())]
    names = kept["check"] + ": " + kept["measure"]
    names = names.where(kept["check"].isin(["cascading", "independent", "class"]), kept["measure"])
    means = kept.assign(column=names).pivot_table(
        index="method", columns="column", values="value", sort=False, dropna=False
    )
    means.columns.name = None
    means = means.reindex(list(dict.fromkeys(found["method"])))
    means.insert(0, "reference", [METHODS[name].reference for name in means.index])
    return means


@dataclass(frozen=True)
class _Bench:
    """One method and what is checked of it."""

    classifier: Classifier
    make: Callable[[Classifier], Interpreter]
    interpreter: Interpreter
    view: View
    logits: Tensor
    target: Tensor
    background: View | Tensor | None
    layers: tuple[str, ...]
    similarities: tuple[str, ...]
    radius: float
    draws: int
    base: str
    seed: int

    @property
    def maps(self) -> Tensor:
        """The maps of the clips as they are."""
        return self.explain(self.interpreter, self.view)

    def explain(self, interpreter: Interpreter, view: View, target: Tensor | None = None) -> Tensor:
        """Return maps of the explained classes, or of others."""
        with warnings.catch_warnings():
            # Of a random network, or of noise: the check itself says what is wrong with a map.
            warnings.simplefilter("ignore", AdditivityWarning)
            return interpreter.attribute(view, self.target if target is None else target)

    def at(self, cells: Tensor) -> View:
        """Return the view of changed cells: of a waveform network that of their sound."""
        if not self.classifier.needs_view:
            return View(cells)
        with torch.no_grad():
            sound = self.classifier.front_end.synthesise(self.view, cells)
            return self.classifier.front_end.analyse(sound)

    def values(self, cells: Tensor) -> Tensor:
        """Return the explained class's logit of changed cells."""
        return self.of_class(_logits(self.classifier, self.at(cells)))

    def of_class(self, logits: Tensor) -> Tensor:
        """Return the logits of the explained classes."""
        return logits.gather(1, self.target[:, None])[:, 0]

    def compare(self, first: Tensor, second: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Yield every similarity of two batches of maps."""
        for name in self.similarities:
            yield name, SIMILARITIES[name](first, second)


CHECKS: Registry[Callable[[_Bench], _Rows]] = Registry("sanity check")
RANDOMISING = ("cascading", "independent")
"""Checks that draw the parameters of layers anew."""


@CHECKS.register("cascading")
def _cascading(bench: _Bench) -> _Rows:
    yield from _randomisation(bench, cascading=True)


@CHECKS.register("independent")
def _independent(bench: _Bench) -> _Rows:
    yield from _randomisation(bench, cascading=False)


def _randomisation(bench: _Bench, *, cascading: bool) -> _Rows:
    before = bench.maps
    network = bench.classifier.network
    for layer, changed in randomised(network, bench.layers, cascading=cascading, seed=bench.seed):
        interpreter = bench.make(bench.classifier.with_network(changed))
        after = bench.explain(interpreter, bench.view)
        for measure, values in bench.compare(before, after):
            yield layer, measure, values


@CHECKS.register("class")
def _class(bench: _Bench) -> _Rows:
    other = bench.explain(bench.interpreter, bench.view, bench.logits.argmin(1))
    for measure, values in bench.compare(bench.maps, other):
        yield "", measure, values


@CHECKS.register("stability")
def _stability(bench: _Bench) -> _Rows:
    found = stability(
        lambda cells: bench.explain(bench.interpreter, bench.at(cells)),
        bench.view.cells,
        bench.maps,
        partial(uniform_noise, radius=bench.radius, seed=bench.seed),
        draws=bench.draws,
    )
    for measure, values in found.items():
        yield "", measure, values


@CHECKS.register("infidelity")
def _infidelity(bench: _Bench) -> _Rows:
    found = infidelity(
        bench.values,
        bench.view.cells,
        bench.maps,
        partial(gaussian_noise, radius=bench.radius, seed=bench.seed),
        draws=bench.draws,
    )
    for measure, values in found.items():
        yield "", measure, values


@CHECKS.register("completeness")
def _completeness(bench: _Bench) -> _Rows:
    before = bench.of_class(bench.logits)
    if "background" in bench.interpreter.requires:
        background = bench.background
        background = background if isinstance(background, View) else View(background)
        compared = _logits(bench.classifier, background).mean(0)[bench.target]
    else:
        cells = bench.view.cells
        level = base_level(cells, bench.base, floor=bench.classifier.front_end.floor)
        compared = bench.values(level.expand_as(cells).contiguous())
    yield "", "completeness", completeness(bench.maps, before - compared)


def _without_layers(checks: tuple[str, ...], *, named: bool) -> tuple[str, ...]:
    """Return the checks of a network that has no layer to randomise."""
    randomising = [name for name in checks if name in RANDOMISING]
    reason = f"{', '.join(randomising)}: the network has no parameters to draw anew"
    if randomising and named:
        raise ValueError(f"{reason}; choose other checks")
    if randomising:
        warnings.warn(f"left out of all checks, {reason}", stacklevel=3)
    return tuple(name for name in checks if name not in randomising)


def stack_waveforms(clips: ClipDataset | Tensor) -> tuple[Tensor, list[str]]:
    """Return the waveforms of clips, (clips, 1, samples), and their names."""
    if isinstance(clips, Tensor):
        if clips.ndim != 3 or not len(clips):
            raise ValueError(
                f"the clips have shape {tuple(clips.shape)}: expected (clips, 1, samples)"
            )
        return clips, [str(number) for number in range(len(clips))]
    return torch.stack([clip.waveform for clip in clips]), list(clips.clip_ids)


@torch.no_grad()
def _logits(classifier: Classifier, view: View) -> Tensor:
    """Return the logits of a view, in batches."""
    fast = classifier.with_network(fast_copy(classifier.network))
    size = batch_size_for(view.cells)
    with evaluation_mode(classifier.network):
        parts = (view[start : start + size] for start in range(0, len(view), size))
        return torch.cat([fast.logits(part.cells, part) for part in parts])
