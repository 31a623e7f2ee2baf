"""Whole runs over sets: every model × method × condition, from weight files to results.

The command line calls these functions and adds nothing to them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from audiointerp.arguments import several
from audiointerp.dataset import ClipDataset, Contamination
from audiointerp.device import resolve_device
from audiointerp.evaluation.statistics import share_interval
from audiointerp.model.provenance import LeakageWarning
from audiointerp.processing import FrontEnd
from audiointerp.registry import check_different
from audiointerp.runs.classification import SetPredictions, check_set, classify_set
from audiointerp.runs.job import Place
from audiointerp.runs.names import split_run_name
from audiointerp.runs.recipe import (
    SHOWN_MASKS,
    TRAIN_FOLDS,
    Recipe,
    load_models,
    make_recipe,
    open_set,
)
from audiointerp.runs.sets import SetResult, interpret_sets
from audiointerp.runs.store import run_path

CLEAN = "clean"
TEST_FOLD = 5
_TAKEN = {CLEAN: "the experiment of the clips as they are"}


def run_experiment(
    weights: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    *,
    subset: str | None = None,
    fold: int | str = TEST_FOLD,
    clips: int | None = None,
    train_folds: Sequence[int | str] = TRAIN_FOLDS,
    background: str | os.PathLike[str] | None = None,
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
    background : "synthetic" or path, optional
        The set that SHAP's background is drawn from; `data` by default.
    noises : mapping of str to path, optional
        Noise file of each noisy condition, by the experiment's name. None can be called "clean":
        that is the experiment of the clips as they are.
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
        If a name, file or setting is unusable, of any model or condition, or two names collide;
        before anything is written.
    ClaimedError
        If another run is writing to one of the folders.
    OSError
        If a folder cannot be written, or the disk is full.

    Warns
    -----
    LeakageWarning
        If a model was trained on clips of the fold, or the background is drawn from it.
    """
    recipe = make_recipe(recipe, options)
    noises = noises or {}
    check_different("noise", noises, name=str, taken=_TAKEN)
    check_different("training fold", train_folds)
    conditions: dict[str, Contamination | None] = {CLEAN: None} if clean else {}
    for name, file in noises.items():
        conditions[name] = Contamination(file, alpha, snr_db=snr_db)
    if not conditions:
        raise ValueError("nothing to do: neither the clean clips nor a noise was asked for")
    return run_conditions(
        weights,
        data,
        [(recipe, conditions)],
        subset=subset,
        fold=fold,
        clips=clips,
        train_folds=train_folds,
        background=background,
        results=results,
        cache_dir=cache_dir,
        device=device,
        overwrite=overwrite,
    )


def run_conditions(
    weights: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    plans: Sequence[tuple[Recipe, Mapping[str, Contamination | None]]],
    *,
    subset: str | None,
    fold: int | str,
    clips: int | None,
    train_folds: Sequence[int | str],
    background: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None,
    device: str,
    overwrite: bool,
) -> dict[Path, SetResult]:
    """Interpret a test fold with every model under some conditions, by one recipe or several.

    Parameters
    ----------
    weights, data, subset, fold, clips, train_folds, background, results, cache_dir, device, \
overwrite
        See `run_experiment`, also for what is raised.
    plans : sequence of (Recipe, mapping of str to Contamination or None)
        What to do under which conditions, these by the experiment's name.

    Returns
    -------
    dict of Path to SetResult
        Every run's, by its folder.
    """
    requests = []
    remarks: dict[Path, list[str]] = {}
    source = {"subset": subset, "cache_dir": cache_dir}
    drawn_from, of = data, source
    if background is not None:
        drawn_from, of = background, {"cache_dir": cache_dir}
    for model_name, classifier in load_models(weights, resolve_device(device)).items():
        for recipe, conditions in plans:
            sets = {
                name: open_set(
                    data, classifier, folds=fold, clips=clips, contamination=noise, **source
                )
                for name, noise in conditions.items()
            }
            view = recipe.background(drawn_from, classifier, folds=train_folds, **of)
            jobs = recipe.jobs(classifier, view)
            for name, dataset in sets.items():
                what = f"the {CLEAN} clips (clean=False leaves them out)" if name == CLEAN else name
                fitting = recipe.methods_for(what, has_parts=dataset.has_parts)
                folders = {
                    run_path(results, model_name, m, name): jobs[m] for m in fitting if m in jobs
                }
                requests.append((folders, dataset))
                remarks |= {
                    folder: _remark_background(fold, train_folds)
                    for folder, job in folders.items()
                    if "background" in job.interpreter.requires
                }
    progress = plans[0][0].progress
    return interpret_sets(requests, overwrite=overwrite, progress=progress, remarks=remarks)


def _remark_background(fold: int | str, train_folds: Sequence[int | str]) -> list[str]:
    """Say, and warn, if clips that are interpreted may be in the background they are compared with.

    Parameters
    ----------
    fold : int or str
        The fold to interpret.
    train_folds : sequence of int or str
        Those that the background is drawn from.
    """
    if fold not in train_folds:
        return []
    remark = f"the background clips are drawn from fold {fold}, which is interpreted"
    warnings.warn(
        f"{remark}: a clip may be compared with itself; draw them from other folds",
        LeakageWarning,
        stacklevel=3,
    )
    return [remark]


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
        rows[folder.as_posix()] = {
            "clips": result.clips,
            "interpreted now": result.interpreted,
            "already there": result.clips - result.interpreted,
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
        ``clips`` says how many a mean is over, where the runs do not all have the same number.

    Raises
    ------
    ValueError
        If a mask was not scored, or not on what is asked for.
    """
    rows: dict[tuple[str, ...], pd.Series] = {}
    clips: dict[tuple[str, ...], int] = {}
    for mask in several(masks):
        for folder, result in done.items():
            means = result.mean_metrics(on)
            if mask not in means.index:
                raise ValueError(
                    f"{folder}: mask {mask!r} was not scored on {on}: "
                    f"choose from {', '.join(means.index) or 'nothing, it was not measured'}"
                )
            method, experiment = split_run_name(folder.name)
            key = mask, folder.parent.name, experiment, method
            rows[key] = means.loc[mask]
            clips[key] = result.tables[on, mask]["clip"].nunique()
    names = ["mask", "model", "experiment", "method"]
    table = pd.DataFrame(rows).T.rename_axis(names)
    if len(set(clips.values())) > 1:
        table = table.assign(clips=pd.Series(clips))
    return table


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
        labels that some clip has. If a set lacks classes of the model, also ``classes``, how many
        each set has clips of.

    Raises
    ------
    ValueError
        If a set does not fit the model.
    """
    for experiment, dataset in sets.items():
        check_set(model, processor, dataset, f"set {experiment!r}")
    found = {
        experiment: classify_set(model, processor, dataset, progress=progress)
        for experiment, dataset in sets.items()
    }
    if not all(each.head.exclusive for each in found.values()):
        rows = {experiment: _map_row(each, seed) for experiment, each in found.items()}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("experiment")
        return _with_classes(table, sets)
    rows = {
        experiment: (len(each.clip_ids), *share_interval(each.labels["is_correct"], seed=seed))
        for experiment, each in sorted(found.items(), key=lambda one: (one[0] != CLEAN, one[0]))
    }
    names = ["clips", "accuracy", "accuracy_low", "accuracy_high"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    return _with_classes(table.rename_axis("experiment"), sets)


def _with_classes(table: pd.DataFrame, sets: Mapping[str, ClipDataset]) -> pd.DataFrame:
    """Add how many classes each set has clips of, if one lacks some."""
    if not any(dataset.absent_classes for dataset in sets.values()):
        return table
    there = {
        name: len(dataset.classes) - len(dataset.absent_classes) for name, dataset in sets.items()
    }
    return table.assign(classes=pd.Series(there))


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


def parse_noises(texts: Iterable[str]) -> dict[str, str]:
    """Split each of several texts as `parse_noise` does one.

    Returns
    -------
    dict of str to str
        The noise files by their experiments' names.

    Raises
    ------
    ValueError
        If a name could not be part of a folder's, or two of them are one.
    """
    texts = list(texts)
    check_different("noise", texts, name=lambda text: parse_noise(text)[0], taken=_TAKEN)
    return dict(map(parse_noise, texts))
