"""Whole runs over sets: every model × method × condition, from weight files to results.

The command line calls these functions and adds nothing to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from audiointerp.arguments import several
from audiointerp.dataset import ClipDataset, Contamination
from audiointerp.device import resolve_device
from audiointerp.evaluation.statistics import share_interval
from audiointerp.processing import FrontEnd
from audiointerp.runs.classification import SetPredictions, classify_set
from audiointerp.runs.job import Place
from audiointerp.runs.recipe import (
    SHOWN_MASKS,
    TRAIN_FOLDS,
    Recipe,
    load_models,
    make_recipe,
    open_set,
)
from audiointerp.runs.sets import SetResult, interpret_set
from audiointerp.runs.store import run_path

CLEAN = "clean"
TEST_FOLD = 5


def run_experiment(
    weights: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    *,
    subset: str | None = None,
    fold: int | str = TEST_FOLD,
    clips: int | None = None,
    train_folds: Sequence[int | str] = TRAIN_FOLDS,
    noises: Mapping[str, str | os.PathLike[str]] | None = None,
    clean: bool = True,
    alpha: float | None = None,
    snr_db: float | None = None,
    results: str | os.PathLike[str] = "results",
    cache_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    recipe: Recipe | None = None,
    **options: Any,
) -> dict[Path, SetResult]:
    """Interpret a test fold with every model and method, clean and under every noise.

    What `results` already holds is not done again: a stopped run goes on where it was, and one of
    some clips goes on when more of them are asked for.

    Parameters
    ----------
    weights : sequence of path
        Weight files; the name of each names its results.
    data : "synthetic" or path
        The set; see `audiointerp.dataset.open_dataset`.
    subset : {"esc10"}, optional
        Of a folder's clips.
    fold : int or str
        The fold to interpret.
    clips : int, optional
        Interpret at most this many of its clips, the same number of every class; all by default.
    train_folds : sequence of int or str
        Folds that SHAP's background is drawn from, two clips of each class.
    noises : mapping of str to path, optional
        Noise file of each noisy condition, by the experiment's name.
    clean : bool
        Also interpret the clips as they are.
    alpha, snr_db : float, optional
        Level of the clips over the noise; see `audiointerp.dataset.Contamination`.
    results : path
        Runs are written to ``<results>/<model>/<method>_<experiment>/``.
    cache_dir : path, optional
        Where to keep decoded clips; None keeps them in memory.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    overwrite : bool
        Do runs again that are already there.
    recipe : Recipe, optional
        Methods, masks, base, precision, labels to explain, seed; see `audiointerp.runs.recipe`.
    **options
        Attributes of the recipe by name, instead of it.

    Returns
    -------
    dict of Path to SetResult
        Every run's, by its folder.

    Raises
    ------
    ValueError
        If a name, file or setting is unusable; before anything is written.
    """
    recipe = make_recipe(recipe, options)
    conditions: dict[str, Contamination | None] = {CLEAN: None} if clean else {}
    for name, file in (noises or {}).items():
        conditions[name] = Contamination(file, alpha, snr_db=snr_db)
    if not conditions:
        raise ValueError("nothing to do: neither the clean clips nor a noise was asked for")
    done: dict[Path, SetResult] = {}
    for model_name, classifier in load_models(weights, resolve_device(device)).items():
        source = {"subset": subset, "cache_dir": cache_dir}
        sets = {
            name: open_set(data, classifier, folds=fold, clips=clips, contamination=noise, **source)
            for name, noise in conditions.items()
        }
        jobs = recipe.jobs(
            classifier, recipe.background(data, classifier, folds=train_folds, **source)
        )
        for name, dataset in sets.items():
            folders = {run_path(results, model_name, m, name): job for m, job in jobs.items()}
            done |= interpret_set(folders, dataset, overwrite=overwrite, progress=recipe.progress)
    return done


def list_runs(done: Mapping[Path, SetResult]) -> pd.DataFrame:
    """Return one row per run: its folder, how many clips it has and what was done this time.

    Parameters
    ----------
    done : mapping of Path to SetResult
        As `run_experiment` returns it.

    Returns
    -------
    DataFrame
        Indexed by folder: ``clips`` that were asked for and have results, those of them that were
        ``interpreted now`` and that were ``already there``, those that ``failed``, and the model's
        ``accuracy``, percent.
    """
    rows = {}
    for folder, result in done.items():
        clips = len(next(iter(result.tables.values())))
        rows[folder.as_posix()] = {
            "clips": clips,
            "interpreted now": result.interpreted,
            "already there": clips - result.interpreted,
            "failed": len(result.failures),
            "accuracy": 100 * result.accuracy,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("folder")


def mean_metrics(
    done: Mapping[Path, SetResult], masks: Sequence[str] = SHOWN_MASKS, *, on: Place = "features"
) -> pd.DataFrame:
    """Return the mean of every metric over the clips, for some masks of every run.

    Parameters
    ----------
    done : mapping of Path to SetResult
        As `run_experiment` returns it.
    masks : sequence of str
        Which masks to show.
    on : {"features", "audio"}
        What the metrics were measured on.

    Returns
    -------
    DataFrame
        Indexed by mask, model, experiment and method: the methods that compete lie together.

    Raises
    ------
    ValueError
        If a mask was not scored, or not on what is asked for.
    """
    rows = {}
    for mask in several(masks):
        for folder, result in done.items():
            means = result.mean_metrics(on)
            if mask not in means.index:
                raise ValueError(
                    f"{folder}: mask {mask!r} was not scored on {on}: "
                    f"choose from {', '.join(means.index) or 'nothing, it was not measured'}"
                )
            method, experiment = folder.name.split("_", 1)
            rows[mask, folder.parent.name, experiment, method] = means.loc[mask]
    names = ["mask", "model", "experiment", "method"]
    return pd.DataFrame(rows).T.rename_axis(names)


def measure_accuracy(
    model: nn.Module,
    processor: FrontEnd,
    sets: Mapping[str, ClipDataset],
    *,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Return a model's accuracy on some sets, each with its 95 % bootstrap interval over clips.

    Of a model whose labels are independent (sigmoid head), the mean average precision instead.

    Parameters
    ----------
    model, processor
        A classifier and its front end.
    sets : mapping of str to ClipDataset
        By the experiment's name, such as "clean" and "horse".
    seed : int
        Of the bootstrap.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        Indexed by experiment: ``clips`` and, in percent, ``accuracy``, ``accuracy_low`` and
        ``accuracy_high``; with a sigmoid head ``mAP``, ``mAP_low`` and ``mAP_high``, over the
        labels that some clip has.

    Raises
    ------
    ValueError
        If a set does not fit the model.
    """
    found = {
        experiment: classify_set(model, processor, dataset, progress=progress)
        for experiment, dataset in sets.items()
    }
    if not all(each.head.exclusive for each in found.values()):
        rows = {experiment: _map_row(each, seed) for experiment, each in found.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("experiment")
    rows = {
        experiment: (len(each.clip_ids), *share_interval(each.labels["is_correct"], seed=seed))
        for experiment, each in sorted(found.items(), key=lambda one: (one[0] != CLEAN, one[0]))
    }
    names = ["clips", "accuracy", "accuracy_low", "accuracy_high"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    return table.rename_axis("experiment")


def _map_row(predictions: SetPredictions, seed: int) -> dict[str, float]:
    """Return the mAP of a set with its interval, in percent."""
    low, high = predictions.map_interval(seed=seed)
    value = predictions.mean_average_precision
    shares = {"mAP": value, "mAP_low": low, "mAP_high": high}
    clips = {"clips": len(predictions.clip_ids)}
    return clips | {name: 100 * share for name, share in shares.items()}


def parse_noise(text: str) -> tuple[str, str]:
    """Split ``NAME=FILE`` or ``FILE`` into an experiment's name and its noise file.

    Raises
    ------
    ValueError
        If the name could not be part of a folder's.
    """
    name, _, file = text.partition("=") if "=" in text else (Path(text).stem, "", text)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not file:
        raise ValueError(f"noise {text!r}: expected FILE, or NAME=FILE with a plain name")
    return name, file
