"""Results → means with intervals, comparisons, marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audiointerp.arguments import several
from audiointerp.evaluation import METRICS, SCORED_FAMILIES, metric_columns
from audiointerp.evaluation.statistics import (
    bootstrap_means,
    holm,
    interval,
    pareto_front,
    population_counts,
    signed_rank_test,
)
from audiointerp.interpretation import is_reference
from audiointerp.tables.load import EXPLAINED, RUN_COLUMNS, row_key
from audiointerp.tables.order import in_order, sorting_key
from audiointerp.tables.score import (
    SCORE,
    check_bounds,
    combine,
    scale,
    score,
    scored_metrics,
)

ALPHA = 0.05
"""Level below which a corrected probability counts as a difference."""
SAME = 1e-6
"""Differences up to this, as a share of a metric's unit, are rounding."""

Kind = Literal["method", "mask"]
Mark = Literal["", "best", "better", "worst", "worse"]


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of every metric over the clips, one row per run and mask.

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.

    Returns
    -------
    DataFrame
        Indexed by model, method, experiment and mask, with the number of clips. Where a metric has
        no value for some clips, its mean is over the others, as many as ``<metric>_n`` says.
    """
    names = metric_columns(results)
    groups = results.groupby(list(RUN_COLUMNS), sort=False)
    counts = {f"{name}_n": groups[name].count() for name in partial_metrics(results)}
    return groups[names].mean().assign(clips=groups["clip"].nunique(), **counts)


def partial_metrics(results: pd.DataFrame) -> list[str]:
    """Return the metrics that have no value in some rows."""
    names = metric_columns(results)
    return results[names].columns[results[names].isna().any()].tolist()


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
        Means over the rows, rounded for reading, with what
        `audiointerp.evaluation.statistics.population_counts` adds.
    """
    shown = table[table["mask"].isin(several(masks))]
    groups = shown.groupby(["model", "method", "mask"], sort=False)
    means = groups[metric_columns(table)].mean().round(3)
    return means.assign(**population_counts(groups, partial_metrics(shown)))


def estimate(
    results: pd.DataFrame,
    by: Sequence[str] = RUN_COLUMNS,
    *,
    resamples: int = 5_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the mean of every metric over the clips and the score, each with its interval.

    The intervals are 95 % percentile bootstrap intervals over clips: all rows of a clip are drawn
    together. One clip has none (NaN).

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
        One row per group: `by`, ``clips``, ``rows`` where several classes of a clip are explained,
        and ``FF``, ``FF_low``, ``FF_high``, … ``score_high``. A metric that has no value in some
        rows, here or in another group, also has ``<metric>_n``, over how many rows its mean is.
    """
    by, names, scored = several(by), metric_columns(results), scored_metrics(results)
    partial = partial_metrics(results)
    chosen = [names.index(name) for name in scored]
    values = results[names].to_numpy(float)
    cells = results["cells"].to_numpy(float)
    clips, _ = pd.factorize(results["clip"])
    rows = []
    for key, places in _groups(results, by):
        here, clip, size = values[places], clips[places], cells[places[0]]
        known = (~np.isnan(here)).sum(axis=0)
        mean = np.nansum(here, axis=0) / np.where(known > 0, known, np.nan)
        check_bounds(mean, size, names)
        means = [*mean, float(combine(scale(mean[chosen], size, scored)))]
        limits = _limits(here, clip, size, names, scored, resamples=resamples, seed=seed)
        row = dict(zip(by, key, strict=True)) | {"clips": len(np.unique(clip))}
        if EXPLAINED in results:
            row["rows"] = len(here)
        for name, *numbers in zip((*names, SCORE), means, *limits, strict=True):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
            if name in partial:
                row[f"{name}_n"] = int(known[names.index(name)])
        rows.append(row)
    return pd.DataFrame(rows)


def _limits(
    values: NDArray,
    clips: NDArray,
    cells: float,
    names: list[str],
    scored: list[str],
    *,
    resamples: int,
    seed: int,
) -> NDArray:
    """Return the ends of the intervals of the means and of the score, (2, metrics + 1)."""
    limits = np.full((2, len(names) + 1), np.nan)
    if len(np.unique(clips)) < 2:
        return limits
    chosen = [names.index(name) for name in scored]
    drawn = bootstrap_means(values, clusters=clips, resamples=resamples, seed=seed)
    scores = combine(scale(drawn[:, chosen], cells, scored))
    limits = interval(np.column_stack([drawn, scores]))
    if np.isnan(values).any():
        # A mean over one clip is the same in all resamples that have one.
        several = [len(np.unique(clips[~np.isnan(column)])) > 1 for column in values.T]
        several.append(all(several[place] for place in chosen))
        limits[:, ~np.array(several)] = np.nan
    return limits


def compare(
    results: pd.DataFrame,
    of: Kind,
    *,
    within: Sequence[str],
    unit: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Test all pairs of methods, or of masks, against each other over the clips both have.

    Wilcoxon signed-rank test, two-sided; Holm's correction over the pairs of one metric in one
    group: the tests that one column of one table rests on. Where several classes of a clip are
    explained, the clip counts once, with its mean difference: the rows of a clip are not
    independent of each other.

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.
    of : {"method", "mask"}
        What is compared.
    within : sequence of str
        Columns that name a group: what is compared has one row per unit in it.
    unit : sequence of str, optional
        Columns that tell rows apart, "clip" among them; by default the clip, or the explained class
        of a clip. With "experiment" among them the conditions of a clip are compared together.

    Returns
    -------
    DataFrame
        One row per group, metric and pair: `within`, ``metric``, ``first``, ``second``, ``clips``
        (for which both have a value), ``difference`` (mean of first - second over their rows),
        ``better`` (whichever the ranks favour, or empty), ``p`` and ``p_holm`` (NaN where there is
        no such clip). If some pair lacks a clip that another row of its group has, also ``of``,
        how many clips the rows of the group have together.

    Raises
    ------
    ValueError
        If a clip comes twice.
    """
    within, unit = several(within), list(row_key(results) if unit is None else several(unit))
    if results.duplicated([*within, of, *unit]).any():
        raise ValueError(f"a clip comes twice for one {of}: name all that differs in `within`")
    metrics = metric_columns(results)
    tolerance = SAME * np.array([METRICS[name].scale for name in metrics])[:, None, None]
    higher = np.array([METRICS[name].better > 0 for name in metrics])[:, None]
    parts = []
    numbers = results[metrics].to_numpy(float)
    names = sorted(results[of].unique(), key=sorting_key(of))
    rows = pd.Categorical(results[of], categories=names).codes
    units = results.groupby(unit, sort=False).ngroup().to_numpy()
    clip_of, _ = pd.factorize(results["clip"].to_numpy()[np.unique(units, return_index=True)[1]])
    for key, places in _groups(results, within):
        present, row = np.unique(rows[places], return_inverse=True)
        if len(present) < 2:
            continue
        known, column = np.unique(units[places], return_inverse=True)
        values = np.full((len(metrics), len(present), len(known)), np.nan)
        values[:, row, column] = numbers[places].T
        first, second = np.triu_indices(len(present), 1)
        differences = values[:, first] - values[:, second]
        both = np.isfinite(differences)
        # A clip that one of them lacks is no difference, like one that is mere rounding.
        differences[~both] = 0
        counts = both.sum(axis=-1)
        mean = differences.sum(axis=-1) / np.maximum(counts, 1)
        differences, counts = _by_clip(differences, both, clip_of[known])
        differences[np.abs(differences) <= tolerance] = 0
        p, direction = signed_rank_test(differences.reshape(-1, differences.shape[-1]))
        p, direction = p.reshape(counts.shape), direction.reshape(counts.shape)
        p[counts == 0] = np.nan
        labels = np.array(names, dtype=object)[present]
        favoured = np.where((direction > 0) == higher, labels[first], labels[second])
        part = {
            "metric": np.repeat(metrics, len(first)),
            "first": np.tile(labels[first], len(metrics)),
            "second": np.tile(labels[second], len(metrics)),
            "clips": counts.ravel(),
            "of": len(np.unique(clip_of[known])),
            "difference": np.where(counts > 0, mean, np.nan).ravel(),
            "better": np.where(direction == 0, "", favoured).ravel(),
            "p": p.ravel(),
            "p_holm": holm(p).ravel(),
        }
        parts.append(pd.DataFrame(dict(zip(within, key, strict=True)) | part))
    if not parts:
        columns = ("metric", "first", "second", "clips", "difference", "better", "p", "p_holm")
        return pd.DataFrame(columns=[*within, *columns])
    whole = pd.concat(parts, ignore_index=True)
    return whole if (whole["clips"] < whole["of"]).any() else whole.drop(columns="of")


def _groups(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple, NDArray]]:
    """Yield the values that name each group, and the positions of its rows."""
    for key, places in table.groupby(list(by), sort=False).indices.items():
        yield key if isinstance(key, tuple) else (key,), places


def _by_clip(differences: NDArray, both: NDArray, clips: NDArray) -> tuple[NDArray, NDArray]:
    """Return the mean difference of each clip, and how many clips have one.

    Parameters
    ----------
    differences : array, shape (..., rows)
        0 where there is none.
    both : array of bool, shape (..., rows)
        Where there is one.
    clips : array of int, shape (rows,)
        Which clip a row is of.
    """
    codes, count = pd.factorize(clips)[0], len(np.unique(clips))
    if count == len(clips):
        return differences, both.sum(axis=-1)
    member = (codes[:, None] == np.arange(count)).astype(float)
    sizes = both @ member
    return (differences @ member) / np.maximum(sizes, 1), (sizes > 0).sum(axis=-1)


def mark(
    estimates: pd.DataFrame, comparisons: pd.DataFrame, of: Kind, *, within: Sequence[str]
) -> pd.DataFrame:
    """Mark the best and the worst mean of every metric in every group.

    "best" and "worst" are the extreme means, all that are equal; "better" is a single best that is
    significantly better (corrected p < 0.05, and the ranks agree with the means) than every other,
    "worse" a single worst that is significantly worse than every other. Where all are equal nothing
    is marked, nor is what has no mean. Of methods, references are not marked, and the others are
    marked as if there were none; the comparisons say whether a method beats them. The score is no
    mean over clips: it is marked best or worst and never more.

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
    within = list(several(within))
    significant = comparisons[(comparisons["p_holm"] < ALPHA) & (comparisons["better"] != "")]
    loser = np.where(
        significant["better"] == significant["first"], significant["second"], significant["first"]
    )
    wins: dict[tuple, set[tuple[str, str]]] = {}
    columns = [significant[name] for name in (*within, "metric")]
    for *where, better, lost in zip(*columns, significant["better"], loser, strict=True):
        wins.setdefault(tuple(where), set()).add((better, lost))
    names = estimates[of].to_numpy()
    competing = np.array([of != "method" or not is_reference(name) for name in names], bool)
    groups = dict(_groups(estimates, within))
    marks = {}
    for metric in (*metric_columns(estimates), SCORE):
        better, unit = (1, 1.0) if metric == SCORE else _direction(metric)
        values = estimates[metric].to_numpy() * better
        column = marks[f"{metric}_mark"] = np.full(len(estimates), "", dtype=object)
        for key, everyone in groups.items():
            places = everyone[competing[everyone]]
            group = dict(zip(names[places], values[places], strict=True))
            found = wins.get((*key, metric), set())
            column[places] = list(_mark_column(group, SAME * unit, found).values())
    return estimates.assign(**marks)


def _direction(metric: str) -> tuple[int, float]:
    return METRICS[metric].better, METRICS[metric].scale


def _mark_column(
    values: dict[str, float], tolerance: float, wins: set[tuple[str, str]]
) -> dict[str, Mark]:
    """Mark the rows of one column, higher being better."""
    marks: dict[str, Mark] = dict.fromkeys(values, "")
    values = {name: value for name, value in values.items() if not np.isnan(value)}
    if not values:
        return marks
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
        that comes first in ``MASKS`` is taken.
    """
    ordered = in_order(estimates)
    groups = ordered.groupby(["model", "experiment", "method"], sort=False)[SCORE]
    # Scores that differ by rounding are equal, whichever machine rounded.
    near = ordered[SCORE] >= groups.transform("max") - SAME
    return ordered[near].drop_duplicates(["model", "experiment", "method"])


def fidelity_simplicity(results: pd.DataFrame) -> pd.DataFrame:
    """Return the place of every method and mask in the fidelity-simplicity plane.

    Fidelity is the geometric mean of the normalised metrics of that family, and so is simplicity
    (see `score`).

    Parameters
    ----------
    results : DataFrame
        As `load_results` returns it.

    Returns
    -------
    DataFrame
        One row per model, experiment, method and mask with ``fidelity``, ``simplicity`` and
        ``front``: whether no other method and mask of the same model and experiment is at least as
        good in both and better in one, references aside; and ``clips`` where not all have equally
        many. No rows if all runs lack the metrics of a family.
    """
    names = scored_metrics(results)
    families = {family: metric_columns(names, [family]) for family in SCORED_FAMILIES}
    groups = results.groupby(list(RUN_COLUMNS), sort=False)
    means, cells = groups[names].mean(), groups["cells"].first()
    clips = groups["clip"].nunique()
    columns = ["model", "experiment", "method", "mask", *families, "front"]
    if not all(families.values()):
        return pd.DataFrame(columns=columns)
    counts = {"clips": clips} if len(clips.unique()) > 1 else {}
    plane = in_order(
        pd.DataFrame(
            {
                family: [
                    float(score(row, n, names=names, of=of))
                    for row, n in zip(means.to_numpy(), cells, strict=True)
                ]
                for family, of in families.items()
            }
            | counts,
            index=means.index,
        ).reset_index()
    )
    front = pd.Series(False, index=plane.index)
    competing = plane[[not is_reference(method) for method in plane["method"]]]
    for _, places in competing.groupby(["model", "experiment"], sort=False):
        # Places that differ by rounding are equal, whichever machine rounded.
        front[places.index] = pareto_front(places[list(families)].round(9))
    return plane.assign(front=front)[[*columns, *counts]]
