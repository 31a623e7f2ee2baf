"""Check every method on a few clips: what its maps depend on, and its cost."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch

from audiointerp.dataset import ClipDataset
from audiointerp.interpretation import METHODS, AdditivityWarning
from audiointerp.model.classifier import Classifier
from audiointerp.model.randomise import list_layers
from audiointerp.processing import View
from audiointerp.runs.clip import analyse
from audiointerp.runs.recipe import Recipe, build_interpreter
from audiointerp.runs.sanity import check_sanity, stack_waveforms, summarise_sanity
from audiointerp.speed.inference import evaluation_mode, fast_copy

_KEPT = {"cascading: spearman": "weights", "class: spearman": "classes"}
"""Columns of `summarise_sanity` and what they are called here."""
_SHORT = 2.0
"""Seconds below which a call is timed three times, of which the median counts."""


def check_methods(
    classifier: Classifier,
    recipe: Recipe,
    clips: ClipDataset,
    *,
    background: View | None = None,
) -> pd.DataFrame:
    """Return what the maps of methods depend on, and what they cost.

    Methods that need the parts of the clips are left out; of all methods, those too that cannot
    explain the classifier, see `Recipe.suited_for`.

    Parameters
    ----------
    classifier : Classifier
        With a front end.
    recipe : Recipe
        Methods, base and seed.
    clips : ClipDataset
        All are held in memory: a few say enough.
    background : View, optional
        Clips that methods with a background compare with.

    Returns
    -------
    DataFrame
        Indexed by ``method``. ``weights``: the rank correlation of a clip's map with that of a
        network whose output layer is random, NaN where it has no parameters; ``classes``: with that
        of the least probable class; means over the clips, 1 where a map depends on neither.
        ``seconds`` for a clip, and ``forward_passes``, the same in units of a forward pass of the
        network.
    """
    fitting = [name for name in recipe.methods if "truth" not in METHODS[name].requires]
    names = recipe.suited_for(classifier, fitting)
    waveforms, _ = stack_waveforms(clips)
    view = analyse(classifier, waveforms)
    with evaluation_mode(classifier.network):
        output = list_layers(classifier, view[:1])[:1]
    found = check_sanity(
        classifier,
        names,
        clips,
        background=background,
        checks=("cascading", "class") if output else ("class",),
        layers=output,
        similarities="spearman",
        base=recipe.base,
        seed=recipe.seed,
        progress=recipe.progress,
    )
    table = summarise_sanity(found).reindex(columns=list(_KEPT)).rename(columns=_KEPT)
    fast = classifier.with_network(fast_copy(classifier.network))
    with evaluation_mode(classifier.network), torch.no_grad():
        forward = _seconds(lambda: fast.logits(view.cells, view), view)
    for name in names:
        interpreter = build_interpreter(
            name, classifier, background=background, base=recipe.base, seed=recipe.seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AdditivityWarning)  # the interpretation says it
            table.loc[name, "seconds"] = _seconds(partial(interpreter.explain, view), view)
    return table.assign(forward_passes=table["seconds"] / forward).rename_axis("method")


def _seconds(work: Callable[[], Any], view: View) -> float:
    """Return the seconds that some work takes for each clip of a view."""
    taken: list[float] = []
    while not taken or (len(taken) < 3 and taken[0] < _SHORT):
        start = time.perf_counter()
        work()
        if view.cells.device.type == "cuda":
            torch.cuda.synchronize(view.cells.device)
        taken.append((time.perf_counter() - start) / len(view))
    return statistics.median(taken)
