"""Benchmark methods against the ground truth: every model, method, noise and level."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiointerp.arguments import several
from audiointerp.dataset import Contamination
from audiointerp.dataset.contamination import share_of_clip
from audiointerp.registry import check_different
from audiointerp.runs.experiment import TEST_FOLD, run_conditions
from audiointerp.runs.names import condition_name
from audiointerp.runs.recipe import ALL, TRAIN_FOLDS, Recipe, make_recipe
from audiointerp.runs.sets import SetResult
from audiointerp.runs.targets import TrueLabels

LEVELS = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
"""Levels of the clips over the noise at which the benchmark follows the metrics, dB."""
LEVEL_MASK = "topK_30"
"""The one mask that is scored at them."""


def run_benchmark(
    weights: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    *,
    noises: Mapping[str, str | os.PathLike[str]],
    alpha: float | None = None,
    snr_db: Sequence[float] = LEVELS,
    level_methods: str | Sequence[str] | None = None,
    level_mask: str = LEVEL_MASK,
    subset: str | None = None,
    fold: int | str = TEST_FOLD,
    clips: int | None = None,
    train_folds: Sequence[int | str] = TRAIN_FOLDS,
    results: str | os.PathLike[str] = "results/benchmark",
    cache_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    recipe: Recipe | None = None,
    **options: Any,
) -> dict[Path, SetResult]:
    """Interpret a test fold under every noise and level by every method, and measure the truth.

    The label that a clip truly has is explained, and the clip is compared with its parts, which
    contamination keeps. What `results` already holds is not done again. Read the results with
    `audiointerp.tables.leaderboard.load_benchmark`, or write everything with
    `audiointerp.report.benchmark.write_benchmark`.

    Parameters
    ----------
    weights : sequence of path
        Weight files; the name of each names its results.
    data : "synthetic" or path
        The set; see `audiointerp.dataset.open_dataset`.
    noises : mapping of str to path
        Noise file of each noise, by its name. At the main level its experiment has this name, at
        others ``<name>_<level>dB``.
    alpha : float, optional
        Share of the clip at the main level; 0.6 by default, which is 3.52 dB.
    snr_db : sequence of float
        Further levels of the clip over the noise, dB; none for an empty sequence.
    level_methods : str or sequence of str, optional
        Methods to run at these levels; those of the main level by default. Leave out slow ones.
    level_mask : str
        The one mask that is scored at these levels.
    subset, fold, clips, train_folds, results, cache_dir, device, overwrite
        See `audiointerp.runs.experiment.run_experiment`.
    recipe : Recipe, optional
        Methods, masks, base and seed; by default all methods, references among them, and all masks.
        Its target must be `TrueLabels`.
    **options
        Attributes of the recipe by name, instead of it.

    Returns
    -------
    dict of Path to SetResult
        Every run's, by its folder.

    Raises
    ------
    ValueError
        If there is no noise, a level is given twice, the recipe explains other labels, or as
        `run_experiment`; before anything is written.
    ClaimedError
        If another run is writing to one of the folders.
    OSError
        If a folder cannot be written, or the disk is full.

    Warns
    -----
    LeakageWarning
        If a model was trained on clips of the fold, or the background is drawn from it.
    """
    if not noises:
        raise ValueError("no noise given: a benchmark needs clips of which the parts are known")
    if recipe is None:
        options = {"methods": ALL, "target": TrueLabels()} | options
    recipe = make_recipe(recipe, options)
    if not isinstance(recipe.target, TrueLabels):
        raise ValueError(
            f"target={recipe.target!r}: a benchmark explains the labels that clips truly have, "
            "TrueLabels(); experiments explain others"
        )
    levels = [float(level) for level in snr_db]
    for level in levels:
        share_of_clip(snr_db=level)
    check_different("level", levels)
    methods = recipe.methods if level_methods is None else several(level_methods)
    common = {
        "subset": subset,
        "fold": fold,
        "clips": clips,
        "train_folds": train_folds,
        "results": results,
        "cache_dir": cache_dir,
        "device": device,
        "overwrite": overwrite,
    }
    main = {name: Contamination(file, alpha) for name, file in noises.items()}
    plans = [(recipe, main)]
    if levels:
        at_levels = {
            condition_name(name, level): Contamination(file, snr_db=level)
            for name, file in noises.items()
            for level in levels
        }
        plans.append((replace(recipe, methods=methods, masks=level_mask), at_levels))
    return run_conditions(weights, data, plans, **common)
