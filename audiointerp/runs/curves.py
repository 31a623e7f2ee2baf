"""Full insertion and deletion curves of a few clips, for inspection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pandas as pd
from torch import Tensor

from audiointerp.arguments import several
from audiointerp.dataset import ClipDataset
from audiointerp.evaluation.curves import STEPS, masking_curves
from audiointerp.hiding import HIDINGS
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.registry import check_different
from audiointerp.runs.clip import Batch, gather_evidence
from audiointerp.runs.recipe import Recipe
from audiointerp.runs.sanity import stack_waveforms
from audiointerp.speed.scoring import Scorer

COLUMNS = ("method", "clip", "target", "curve", "hide", "on", "share", "probability")


def measure_curves(
    classifier: Classifier,
    clips: ClipDataset | Tensor,
    *,
    background: View | None = None,
    hide: str | Sequence[str] = "base",
    steps: int = STEPS,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """Return the probability of the explained class along insertion and deletion.

    The areas below the curves are the metrics ``insertion`` and ``deletion``; see
    `audiointerp.evaluation.curves`.

    Parameters
    ----------
    classifier : Classifier
        With a front end.
    clips : ClipDataset, or Tensor of shape (clips, 1, samples)
        All of them are held in memory.
    background : View, optional
        Clips that methods with a background compare with.
    hide : str or sequence of {"base", "road"}
        What hidden cells become: the recipe's base, or what their neighbours suggest.
    steps : int
        Of a curve.
    recipe : Recipe, optional
        Methods, base, what is measured on, the labels to explain.

    Returns
    -------
    DataFrame
        One row per ``method``, ``clip``, ``target``, ``curve``, way to ``hide`` cells, place that
        was measured ``on``, and ``share`` of the cells with the ``probability``.

    Raises
    ------
    UnknownNameError
        If there is no such way to hide cells.
    ValueError
        If a method needs the parts of the clips, or a background that is not given.
    """
    recipe = Recipe() if recipe is None else recipe
    ways = several(hide)
    for name in ways:
        HIDINGS[name]
    check_different(HIDINGS.kind, ways)
    methods = recipe.methods_for("clips whose curves are measured", has_parts=False)
    jobs = recipe.jobs(classifier, background, methods=methods)
    scorer = Scorer(classifier, batch_size=recipe.batch_size)
    waveforms, names = stack_waveforms(clips)
    frames = []
    for method, job in jobs.items():
        batch = Batch.of(job, scorer, waveforms, names, recipe.target)
        clip, target = batch.chosen
        view, probabilities = batch.view[clip], batch.probabilities[clip]
        maps = job.interpreter.explain(view, target).attribution
        labels = job.classifier.class_names(probabilities.shape[1])
        for place, way in product(job.on, ways):
            evidence = gather_evidence(job, scorer, view, probabilities, target, maps, place)
            shares, curves = masking_curves(evidence, hide=way, steps=steps)
            for curve, values in curves.items():
                for row, (number, label) in enumerate(
                    zip(clip.tolist(), target.tolist(), strict=True)
                ):
                    rows = {
                        "method": method,
                        "clip": names[number],
                        "target": labels[label],
                        "curve": curve,
                        "hide": way,
                        "on": place,
                        "share": shares.numpy(),
                        "probability": values[row].cpu().numpy(),
                    }
                    frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)]
