"""Runs → means with intervals, scores, comparisons, marks."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from audiointerp.runs.store import TABLES, read_run, read_table
from audiointerp.tables.statistics import bootstrap_means, holm, pareto_front, signed_rank_test

HIGHER_IS_BETTER = {
    "FF": True,
    "AI": True,
    "AD": False,
    "AG": True,
    "FidIn": True,
    "SPS": True,
    "COMP": False,
}
"""The metrics, in the order of the columns, and which way each points."""
METRIC_COLUMNS = tuple(HIGHER_IS_BETTER)
FIDELITY_COLUMNS = METRIC_COLUMNS[:5]
SIMPLICITY_COLUMNS = METRIC_COLUMNS[5:]
SCORE = "score"
"""Column of the geometric mean of the normalised metrics."""
RUN_COLUMNS = ("model", "method", "experiment", "mask")
METHOD_ORDER = ("saliency", "gradcam", "lime", "shap")
MASK_ORDER = (
    "bin",
    "minmax",
    "sigmoid",
    "topK_5",
    "topK_30",
    "topK_50",
    "minmax_pos",
    "sigmoid_pos",
    "pos_thresh_25",
    "pos_thresh_50",
    "pos_thresh_75",
    "topK_5_pos",
    "topK_30_pos",
    "topK_50_pos",
)
CONFIDENCE = 0.95
ALPHA = 0.05
"""Level below which a corrected probability counts as a difference."""
SCORE_FLOOR = 0.01
"""What a normalised metric counts for at least in the score."""
SAME = 1e-6
"""Differences up to this, as a share of a metric's unit, are rounding."""
_UNITS = {"FF": 1, "AI": 100, "AD": 100, "AG": 100, "FidIn": 1, "SPS": 1, "COMP": 1, SCORE: 1}

Kind = Literal["method", "mask"]
Mark = Literal["", "best", "better", "worst", "worse"]


def load_results(
    results: str | os.PathLike[str],
    *,
    on: str = "features",
    models: Sequence[str] | None = None,
    experiments: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read the runs below a results folder into one long table.

    Parameters
    ----------
    results : path
        Holds ``<model>/<method>_<experiment>/`` folders.
    on : {"features", "audio"}
        Which tables to read: measured on masked features or on masked sounds.
    models, experiments : sequence of str, optional
        Which to read; all by default.

    Returns
    -------
    DataFrame
        One row per model, method, experiment, mask and clip. ``cells`` is the number N of cells of
        a mask, hence ln N the largest COMP: from the run's settings or, where they do not say, from
        the largest COMP among the model's rows. ``on`` is what was asked for.

    Raises
    ------
    ValueError
        If there are no results, none of a wanted name, or a table has missing columns, values that
        are no numbers or a clip twice.
    """
    if on not in TABLES:
        raise ValueError(f"on={on!r}: choose from {', '.join(TABLES)}")
    root = Path(results)
    paths = sorted(root.glob(f"*/*_*/{TABLES[on]}/*.csv"))
    if not paths:
        raise ValueError(
            f"{root}: no results measured on {on}; expected <model>/<method>_<experiment>/"
            f"{TABLES[on]}/<mask>.csv below it"
        )
    paths = _only(paths, "model", models, lambda path: path.parts[-4])
    paths = _only(paths, "experiment", experiments, lambda path: path.parts[-3].split("_", 1)[1])
    table = pd.concat([_read_table(path) for path in paths], ignore_index=True)
    largest = table.groupby("model")["COMP"].transform("max").map(math.exp)
    return table.assign(cells=table["cells"].fillna(largest), on=on)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of every metric over the clips, one row per run and mask.

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.

    Returns
    -------
    DataFrame
        Indexed by model, method, experiment and mask, with the number of clips.
    """
    groups = results.groupby(list(RUN_COLUMNS), sort=False)
    means = groups[list(METRIC_COLUMNS)].mean()
    return means.assign(clips=groups.size())


def accuracy(results: pd.DataFrame) -> pd.Series:
    """Return the share of correctly labelled clips, by model and experiment, percent."""
    once = results.drop_duplicates(["model", "experiment", "clip"])
    shares = once.groupby(["model", "experiment"], sort=False)["is_correct"].mean()
    return (100 * shares).rename("accuracy")


def summarise_files(table: pd.DataFrame, masks: Sequence[str]) -> pd.DataFrame:
    """Return one row per model, method and mask: mean metrics over the files, for some masks.

    Parameters
    ----------
    table : DataFrame
        One row per model, method, clip and mask.
    masks : sequence of str
        Which masks to show.

    Returns
    -------
    DataFrame
        Means over the clips, rounded for reading.
    """
    shown = table[table["mask"].isin(masks)]
    means = shown.groupby(["model", "method", "mask"], sort=False)[list(METRIC_COLUMNS)].mean()
    return means.round(3)


def normalise(means: ArrayLike, cells: float) -> NDArray:
    """Map mean metrics to [0, 1], 1 the best, by what each can be.

    max(FF, 0), AI/100, 1 - AD/100, AG/100, FidIn, SPS and 1 - COMP/ln N. Zero always means a mask
    that is good for nothing: removing it costs nothing, it alone keeps nothing of the class, it
    selects nothing. Hence FF, in [-1, 1], is cut at 0 and not moved to (FF + 1)/2, which would give
    half the marks for nothing. The mean is cut, not the clips: noise about zero stays zero.

    The ranges are those of the definitions, not of the rows compared. From minimum to maximum of
    the rows, the worst row of any metric would get 0 and so lose the whole product, however small
    its distance, and a row's score would change with its company.

    Parameters
    ----------
    means : array, shape (..., 7)
        In the order of ``METRIC_COLUMNS``.
    cells : float
        Cells N of a mask.

    Returns
    -------
    array, shape (..., 7)

    Raises
    ------
    ValueError
        If a value lies outside its metric's range.
    """
    means = np.asarray(means, dtype=float)
    if means.shape[-1:] != (len(METRIC_COLUMNS),):
        raise ValueError(f"means of shape {means.shape}: expected (..., {len(METRIC_COLUMNS)})")
    tops = _tops(cells)
    for column, name in enumerate(METRIC_COLUMNS):
        values, low = means[..., column], -1 if name == "FF" else 0
        # Masks in single precision have an entropy that is a little off.
        slack = 1e-4 * tops[column]
        wrong = ~((values >= low - slack) & (values <= tops[column] + slack))
        if wrong.any():
            raise ValueError(
                f"{name} is {values[wrong].flat[0]:g}: expected {low} to {tops[column]:g} "
                f"for masks of {cells:g} cells"
            )
    return _normalise(means, tops)


def score(means: ArrayLike, cells: float, *, of: Sequence[str] = METRIC_COLUMNS) -> NDArray:
    """Return the geometric mean of the normalised metrics, 1 the best.

    A normalised metric counts for at least 0.01: where a metric is 0 for all (AI often is, if the
    model is sure of its clips), a product would be 0 for all and the others would say nothing. The
    floor is about what one clip in a hundred is worth.

    Parameters
    ----------
    means : array, shape (..., 7)
        In the order of ``METRIC_COLUMNS``.
    cells : float
        Cells N of a mask.
    of : sequence of str
        Metrics to take together; all by default.

    Returns
    -------
    array, shape (...,)
        In [0.01, 1].
    """
    return _score(normalise(means, cells), of)


def estimate(
    results: pd.DataFrame,
    by: Sequence[str] = RUN_COLUMNS,
    *,
    resamples: int = 5_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the mean of every metric over the clips and the score, each with its interval.

    The intervals are 95 % percentile bootstrap intervals over clips. One clip has none (NaN).

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.
    by : sequence of str
        Columns that name a group of rows, "model" among them.
    resamples : int
        How often the clips are drawn anew.
    seed : int
        For the draws; all groups of as many clips are drawn alike.

    Returns
    -------
    DataFrame
        One row per group: `by`, ``clips``, and ``FF``, ``FF_low``, ``FF_high``, … ``score_high``.
    """
    values = results[list(METRIC_COLUMNS)].to_numpy(float)
    cells = results["cells"].to_numpy(float)
    rows = []
    for key, places in results.groupby(list(by), sort=False).indices.items():
        here, size = values[places], cells[places[0]]
        mean = here.mean(axis=0)
        means = [*mean, float(score(mean, size))]
        limits = np.full((2, len(means)), np.nan)
        if len(here) > 1:
            drawn = bootstrap_means(here, resamples=resamples, seed=seed)
            scores = _score(_normalise(drawn, _tops(size)), METRIC_COLUMNS)
            limits = interval(np.column_stack([drawn, scores]))
        row = dict(zip(by, key, strict=True)) | {"clips": len(here)}
        for name, *numbers in zip((*METRIC_COLUMNS, SCORE), means, *limits, strict=True):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def interval(drawn: NDArray) -> NDArray:
    """Return the ends of the 95 % percentile interval of each column, (2, columns)."""
    return np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)


def compare(results: pd.DataFrame, of: Kind, *, within: Sequence[str]) -> pd.DataFrame:
    """Test all pairs of methods, or of masks, against each other over the clips both have.

    Wilcoxon signed-rank test, two-sided; Holm's correction over the pairs of one metric in one
    group: the tests that one column of one table rests on.

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.
    of : {"method", "mask"}
        What is compared.
    within : sequence of str
        Columns that name a group: what is compared has one row per clip in it.

    Returns
    -------
    DataFrame
        One row per group, metric and pair: `within`, ``metric``, ``first``, ``second``, ``clips``,
        ``difference`` (mean of first - second), ``better`` (whichever the ranks favour, or empty),
        ``p`` and ``p_holm``.

    Raises
    ------
    ValueError
        If a clip comes twice.
    """
    if results.duplicated([*within, of, "clip"]).any():
        raise ValueError(f"a clip comes twice for one {of}: name all that differs in `within`")
    metrics = list(METRIC_COLUMNS)
    tolerance = SAME * np.array([_UNITS[name] for name in metrics])[:, None, None]
    higher = np.array([HIGHER_IS_BETTER[name] for name in metrics])[:, None]
    parts = []
    numbers = results[metrics].to_numpy(float)
    names = _names_in_order(of, results[of])
    rows = pd.Categorical(results[of], categories=names).codes
    clip_codes, _ = pd.factorize(results["clip"])
    for key, places in results.groupby(list(within), sort=False).indices.items():
        present, row = np.unique(rows[places], return_inverse=True)
        if len(present) < 2:
            continue
        known, column = np.unique(clip_codes[places], return_inverse=True)
        values = np.full((len(metrics), len(present), len(known)), np.nan)
        values[:, row, column] = numbers[places].T
        first, second = np.triu_indices(len(present), 1)
        differences = values[:, first] - values[:, second]
        both = np.isfinite(differences)
        clips = both.sum(axis=-1)
        # A clip that one of them lacks is no difference, like one that is mere rounding.
        differences[~both] = 0
        mean = differences.sum(axis=-1) / np.maximum(clips, 1)
        differences[np.abs(differences) <= tolerance] = 0
        p, direction = signed_rank_test(differences.reshape(-1, differences.shape[-1]))
        p, direction = p.reshape(clips.shape), direction.reshape(clips.shape)
        labels = np.array(names, dtype=object)[present]
        favoured = np.where((direction > 0) == higher, labels[first], labels[second])
        part = {
            "metric": np.repeat(metrics, len(first)),
            "first": np.tile(labels[first], len(metrics)),
            "second": np.tile(labels[second], len(metrics)),
            "clips": clips.ravel(),
            "difference": np.where(clips > 0, mean, np.nan).ravel(),
            "better": np.where(direction == 0, "", favoured).ravel(),
            "p": p.ravel(),
            "p_holm": holm(p).ravel(),
        }
        parts.append(pd.DataFrame(dict(zip(within, key, strict=True)) | part))
    if not parts:
        columns = ("metric", "first", "second", "clips", "difference", "better", "p", "p_holm")
        return pd.DataFrame(columns=[*within, *columns])
    return pd.concat(parts, ignore_index=True)


def mark(
    estimates: pd.DataFrame, comparisons: pd.DataFrame, of: Kind, *, within: Sequence[str]
) -> pd.DataFrame:
    """Mark the best and the worst mean of every metric in every group.

    "best" and "worst" are the extreme means, all that are equal; "better" is a single best that is
    significantly better (corrected p < 0.05, and the ranks agree with the means) than every other,
    "worse" a single worst that is significantly worse than every other. Where all are equal nothing
    is marked. The score is no mean over clips: it is marked best or worst and never more.

    Parameters
    ----------
    estimates, comparisons : DataFrame
        As `estimate` and `compare` return them, of the same rows.
    of : {"method", "mask"}
        What is compared.
    within : sequence of str
        Columns that name a group.

    Returns
    -------
    DataFrame
        The estimates with ``FF_mark``, … ``score_mark``.
    """
    within = list(within)
    significant = comparisons[(comparisons["p_holm"] < ALPHA) & (comparisons["better"] != "")]
    loser = np.where(
        significant["better"] == significant["first"], significant["second"], significant["first"]
    )
    wins: dict[tuple, set[tuple[str, str]]] = {}
    columns = [significant[name] for name in (*within, "metric")]
    for *where, better, lost in zip(*columns, significant["better"], loser, strict=True):
        wins.setdefault(tuple(where), set()).add((better, lost))
    names = estimates[of].to_numpy()
    groups = estimates.groupby(within, sort=False).indices
    marks = {}
    for metric in (*METRIC_COLUMNS, SCORE):
        values = estimates[metric].to_numpy() * (1 if HIGHER_IS_BETTER.get(metric, True) else -1)
        column = marks[f"{metric}_mark"] = np.full(len(estimates), "", dtype=object)
        for key, places in groups.items():
            group = dict(zip(names[places], values[places], strict=True))
            found = wins.get((*key, metric), set())
            column[places] = list(_mark_column(group, SAME * _UNITS[metric], found).values())
    return estimates.assign(**marks)


def _mark_column(
    values: dict[str, float], tolerance: float, wins: set[tuple[str, str]]
) -> dict[str, Mark]:
    """Mark the rows of one column, higher being better."""
    marks: dict[str, Mark] = dict.fromkeys(values, "")
    top, bottom = max(values.values()), min(values.values())
    if top - bottom <= tolerance:
        return marks
    best = [name for name, value in values.items() if top - value <= tolerance]
    worst = [name for name, value in values.items() if value - bottom <= tolerance]
    marks |= dict.fromkeys(best, "best") | dict.fromkeys(worst, "worst")
    if len(best) == 1 and all((best[0], name) in wins for name in values if name != best[0]):
        marks[best[0]] = "better"
    if len(worst) == 1 and all((name, worst[0]) in wins for name in values if name != worst[0]):
        marks[worst[0]] = "worse"
    return marks


def best_masks(estimates: pd.DataFrame) -> pd.DataFrame:
    """Return, of every model, method and experiment, the row of the mask with the highest score.

    Parameters
    ----------
    estimates : DataFrame
        As `estimate` returns it by model, method, experiment and mask. Of equal scores the mask
        that comes first in ``MASK_ORDER`` is taken.
    """
    ordered = in_order(estimates)
    groups = ordered.groupby(["model", "experiment", "method"], sort=False)[SCORE]
    # Scores that differ by rounding are equal, whichever machine rounded.
    near = ordered[SCORE] >= groups.transform("max") - SAME
    return ordered[near].drop_duplicates(["model", "experiment", "method"])


def fidelity_simplicity(results: pd.DataFrame) -> pd.DataFrame:
    """Return the place of every method and mask in the fidelity-simplicity plane.

    Fidelity is the geometric mean of the five normalised fidelity metrics, simplicity that of the
    two others (see `score`).

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.

    Returns
    -------
    DataFrame
        One row per model, experiment, method and mask with ``fidelity``, ``simplicity`` and
        ``front``: whether no other method and mask of the same model and experiment is at least as
        good in both and better in one.
    """
    groups = results.groupby(list(RUN_COLUMNS), sort=False)
    means = groups[list(METRIC_COLUMNS)].mean()
    cells = groups["cells"].first()
    plane = in_order(
        pd.DataFrame(
            {
                name: [float(score(row, n, of=of)) for row, n in zip(means.to_numpy(), cells)]  # noqa: B905
                for name, of in (
                    ("fidelity", FIDELITY_COLUMNS),
                    ("simplicity", SIMPLICITY_COLUMNS),
                )
            },
            index=means.index,
        ).reset_index()
    )
    front = pd.Series(False, index=plane.index)
    for _, places in plane.groupby(["model", "experiment"], sort=False):
        # Places that differ by rounding are equal, whichever machine rounded.
        front[places.index] = pareto_front(places[["fidelity", "simplicity"]].round(9))
    return plane[["model", "experiment", "method", "mask", "fidelity", "simplicity"]].assign(
        front=front
    )


def _tops(cells: float) -> NDArray:
    """Return the largest value that each metric can have."""
    return np.array([1, 100, 100, 100, 1, 1, math.log(cells) or 1.0])


def _normalise(means: NDArray, tops: NDArray) -> NDArray:
    higher = np.array(list(HIGHER_IS_BETTER.values()))
    shares = means / tops
    return np.clip(np.where(higher, shares, 1 - shares), 0, 1)


def _score(shares: NDArray, of: Sequence[str]) -> NDArray:
    chosen = shares[..., [METRIC_COLUMNS.index(name) for name in of]]
    return np.exp(np.log(np.maximum(chosen, SCORE_FLOOR)).mean(axis=-1))


_ORDERS: dict[str, tuple[str, ...]] = {
    "method": METHOD_ORDER,
    "mask": MASK_ORDER,
    "experiment": ("clean",),
    "label": ("correct", "wrong"),
}


def rank_names(names: pd.Series) -> pd.Series:
    """Return a sorting key: the known names in their order, then others by the alphabet."""
    places = {name: place for place, name in enumerate(_ORDERS.get(str(names.name), ()))}
    return names.map(lambda name: (places.get(name, len(places)), name))


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by model, experiment, method and mask, each in its usual order."""
    keys = [key for key in ("model", "experiment", "method", "mask", "label") if key in frame]
    return frame.sort_values(keys, key=rank_names, kind="stable", ignore_index=True)


def _names_in_order(kind: str, names: pd.Series) -> list[str]:
    return pd.Series(names.unique(), name=kind).sort_values(key=rank_names).tolist()


def _only(
    paths: list[Path],
    kind: str,
    wanted: Sequence[str] | None,
    name_of: Callable[[Path], str],
) -> list[Path]:
    """Return the files of some models or experiments."""
    if wanted is None:
        return paths
    known = {name_of(path) for path in paths}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"no results of the {kind} {', '.join(map(repr, unknown)) or '(none named)'}: "
            f"choose from {', '.join(sorted(known))}"
        )
    return [path for path in paths if name_of(path) in wanted]


def _read_table(path: Path) -> pd.DataFrame:
    folder = path.parent.parent
    method, experiment = folder.name.split("_", 1)
    table = read_table(path)
    missing = {"clip", "is_correct", *METRIC_COLUMNS} - set(table.columns)
    if missing:
        raise ValueError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
    for column in METRIC_COLUMNS:
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(float)
        if not np.isfinite(table[column]).all():
            raise ValueError(f"{path}: column {column} has values that are no finite numbers")
    if table["is_correct"].dtype != bool:
        raise ValueError(f"{path}: column is_correct has values other than True and False")
    twice = table["clip"][table["clip"].duplicated()].tolist()
    if twice:
        raise ValueError(f"{path}: has clip {twice[0]} twice; was it put together from two runs?")
    run = read_run(folder) or {}
    if not run.get("report"):
        warnings.warn(f"{folder}: the run is not finished, its tables lack clips", stacklevel=3)
    names = {"model": folder.parent.name, "method": method, "experiment": experiment}
    return table.assign(**names, mask=path.stem, cells=_cells(run.get("settings", {})))


def _cells(settings: dict[str, Any]) -> float:
    """Return bins times frames of a run's masks, NaN if its settings do not tell."""
    try:
        processor, samples = settings["processor"], settings["dataset"]["duration"]
        samples = max(1, round(samples * processor["sample_rate"]))
        return float(settings["model"]["num_bins"] * (1 + samples // processor["hop_length"]))
    except KeyError:
        return math.nan
