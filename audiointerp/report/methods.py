"""Measure every method on a set: the matrix of methods with numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from math import nan

import pandas as pd

from audiointerp.device import resolve_device
from audiointerp.masking import IDENTITY
from audiointerp.runs.benchmark import LEVEL_MASK, run_benchmark
from audiointerp.runs.experiment import TEST_FOLD
from audiointerp.runs.methods import check_methods
from audiointerp.runs.recipe import ALL, TRAIN_FOLDS, Recipe, load_models, open_set
from audiointerp.runs.store import run_path
from audiointerp.runs.targets import TrueLabels
from audiointerp.tables.leaderboard import load_benchmark, make_leaderboard
from audiointerp.tables.load import load_diagnostics

SHOWN = ("AUPRC", "SI_SDRi", "FF", "FidIn", "AI", "AD", "AG", "SPS", "COMP")
"""The metrics that are measured under noise."""


def measure_methods(
    weights: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    *,
    noises: Mapping[str, str | os.PathLike[str]],
    methods: str | Sequence[str] = ALL,
    mask: str = LEVEL_MASK,
    subset: str | None = None,
    fold: int | str = TEST_FOLD,
    clips: int | None = 10,
    checked_clips: int = 4,
    train_folds: Sequence[int | str] = TRAIN_FOLDS,
    results: str | os.PathLike[str] = "results/methods",
    cache_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    base: str = "floor",
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Return a row for every model and method: truth, dependence and time.

    Parameters
    ----------
    weights, data, noises, subset, fold, train_folds, results, cache_dir, device
        See `audiointerp.runs.benchmark.run_benchmark`, which interprets the clips; `results` keeps
        them, and what it holds is not done again.
    methods : str or sequence of str
        Names in ``METHODS``; "all" by default.
    mask : str
        The mask that fidelity, simplicity and the sound are of.
    clips : int, optional
        Clips under every noise, class by class; None for all.
    checked_clips : int
        Clips without noise that `audiointerp.runs.methods.check_methods` is given; 0 leaves these
        checks out.
    base, seed, progress
        See `audiointerp.runs.recipe.Recipe`.

    Returns
    -------
    DataFrame
        ``model``, ``method`` and ``mask``; the metrics of `SHOWN`, each the mean over the clips
        that are classified correctly, with its 95 % bootstrap interval in ``…_low`` and
        ``…_high``; ``residual``, by how much a map misses what the method promises that it adds up
        to, the largest of all clips, NaN where it promises nothing; and what `check_methods`
        returns, NaN where a method needs the parts of the clips. Methods that return a mask have a
        second row, of this mask itself: "identity".

    Raises
    ------
    ValueError
        If no clip is classified correctly, or as `run_benchmark`.
    """
    recipe = Recipe(
        methods,
        masks=(mask, IDENTITY),
        base=base,
        seed=seed,
        progress=progress,
        target=TrueLabels(),
    )
    models = load_models(weights, resolve_device(device))
    run_benchmark(
        weights,
        data,
        noises=noises,
        snr_db=(),
        subset=subset,
        fold=fold,
        clips=clips,
        train_folds=train_folds,
        results=results,
        cache_dir=cache_dir,
        device=device,
        recipe=recipe,
    )
    board = load_benchmark(results, models=list(models))
    board = board[board["method"].isin(recipe.methods)]
    shown = [f"{name}{end}" for name in SHOWN for end in ("", "_low", "_high")]
    found = pd.concat(
        [
            make_leaderboard(board, mask=name, seed=seed)
            .frames["leaderboard"][["model", "method", *shown]]
            .assign(mask=name)
            for name in (mask, IDENTITY)
            if (board["mask"] == name).any()
        ]
    )
    found.insert(2, "mask", found.pop("mask"))
    found["residual"] = [
        _largest_residual(results, model, method, noises)
        for model, method in zip(found["model"], found["method"], strict=True)
    ]
    if not checked_clips:
        return found
    checked = []
    for name, classifier in models.items():
        clean = {"folds": fold, "clips": checked_clips, "subset": subset, "cache_dir": cache_dir}
        chosen = open_set(data, classifier, **clean)
        background = recipe.background(data, classifier, folds=train_folds, subset=subset)
        table = check_methods(classifier, recipe, chosen, background=background)
        checked.append(table.reset_index().assign(model=name))
    return found.merge(pd.concat(checked), on=["model", "method"], how="left", validate="m:1")


def _largest_residual(
    results: str | os.PathLike[str], model: str, method: str, noises: Iterable[str]
) -> float:
    tables = [load_diagnostics(run_path(results, model, method, noise)) for noise in noises]
    return max((table["residual"].max() for table in tables if "residual" in table), default=nan)
