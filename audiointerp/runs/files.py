"""Sound files instead of sets: every model and method, as pictures, sounds and tables.

The command line calls these functions and adds nothing to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.dataset import AudioError, load_audio
from audiointerp.device import resolve_device
from audiointerp.metrics import METRICS
from audiointerp.model.classifier import Classifier
from audiointerp.report import write_report
from audiointerp.runs.clip import interpret_clips
from audiointerp.runs.comparison import Comparison
from audiointerp.runs.names import result_name
from audiointerp.runs.recipe import (
    SHOWN_MASKS,
    Recipe,
    by_stem,
    check_names,
    load_models,
    make_recipe,
)
from audiointerp.runs.result import Interpretation
from audiointerp.runs.store import EXPLAINED
from audiointerp.runs.targets import Target
from audiointerp.sound import SOUND_FORMATS

CLIPS_PER_BATCH = 8
"""Clips that `interpret_files` interprets together; results do not depend on it."""


@dataclass(frozen=True)
class FilesResult:
    """What `interpret_files` did.

    Attributes
    ----------
    folder : Path
        Holds ``<model>/<method>/<clip>/`` folders and ``summary.csv``.
    table : DataFrame
        One row per model, method, clip and mask, with the metrics. Where labels to explain were
        asked for, ``explained`` names them: one row for each.
    failures : dict of str to str
        Files that could not be interpreted, and why.
    report : Path or None
        The page to look at and listen to, where one was asked for.
    """

    folder: Path
    table: pd.DataFrame
    failures: dict[str, str] = field(default_factory=dict)
    report: Path | None = None


def interpret_files(
    files: Sequence[str | os.PathLike[str]],
    weights: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    masks: Sequence[str] | None = SHOWN_MASKS,
    sound: str = "wav",
    background: str | os.PathLike[str] = "synthetic",
    device: str = "auto",
    report: bool = False,
    recipe: Recipe | None = None,
    **options: Any,
) -> FilesResult:
    """Interpret sound files with every model and method; write pictures, sounds and tables.

    Parameters
    ----------
    files : sequence of path
        WAV, OGG or FLAC. One that cannot be read is reported and skipped.
    weights : sequence of path
        Weight files; see `audiointerp.model.weights`.
    out : path
        Folder for the results, ``<out>/<model>/<method>/<clip>/``; where several labels of a clip
        may be explained, ``<clip>@<label>``.
    masks : sequence of str, optional
        Masks to draw and to make audible, None for all; the tables have all of the recipe's.
    sound : {"wav", "flac", "mp3"}
        What masked sounds are written as; see `audiointerp.runs.result.Interpretation.save`.
    background : "synthetic" or path
        Set whose training folds SHAP compares with.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    report : bool
        Also write ``<out>/report.html``, a page of these results; see `audiointerp.report`.
    recipe : Recipe, optional
        Methods, base, precision, labels to explain, seed; see `audiointerp.runs.recipe`.
    **options
        Attributes of the recipe by name, instead of it.

    Returns
    -------
    FilesResult

    Raises
    ------
    ValueError
        If a method, mask, class, format or weight file is unusable, or two files have one name;
        before anything is written.
    """
    names = by_stem(files)
    recipe = make_recipe(recipe, options)
    check_names((), masks or ())
    models = load_models(weights, resolve_device(device))
    for classifier in models.values():
        SOUND_FORMATS[sound].check_rate(classifier.front_end.sample_rate)
    failures: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    written: list[Path] = []
    total = len(models) * len(recipe.methods) * len(names)
    with tqdm(total=total, unit="clip", disable=not recipe.progress) as bar:
        for model_name, classifier in models.items():
            clips = _read_clips(names, classifier, failures)
            bar.total -= len(recipe.methods) * (len(names) - len(clips))
            jobs = recipe.jobs(classifier, recipe.background(background, classifier))
            for method, job in jobs.items():
                bar.set_description(f"{model_name} {method}")
                for batch in _batches(clips):
                    waveforms = torch.stack(list(batch.values()))
                    results = interpret_clips(job, waveforms, list(batch), target=recipe.target)
                    for result in results:
                        folder = Path(out, model_name, method, _folder_name(result, recipe.target))
                        result.save(folder, masks, sound=sound)
                        written.append(folder)
                        rows += _rows(model_name, result, recipe.target)
                    for clip in batch.keys() - {result.clip for result in results}:
                        failures[f"{model_name}/{clip}"] = f"no label reaches {recipe.target}"
                    bar.update(len(batch))
    columns = ["model", "method", "clip", "label", "probability"]
    columns += [] if recipe.target is None else [EXPLAINED]
    columns += ["mask", *METRICS]
    table = pd.DataFrame(rows, columns=columns)
    if rows:
        table.to_csv(Path(out) / "summary.csv", index=False)
    page = write_report(out, results=written) if report and written else None
    return FilesResult(Path(out), table, failures, page)


def compare_methods(
    file: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    *,
    background: str | os.PathLike[str] = "synthetic",
    subset: str | None = None,
    device: str = "auto",
    recipe: Recipe | None = None,
    **options: Any,
) -> Comparison:
    """Interpret one sound file with several methods, to be looked at side by side.

    Parameters
    ----------
    file : path
        WAV, OGG or FLAC.
    weights : path
        Weight file of the model; see `audiointerp.model.weights`.
    background, subset
        Set, and part of it, whose training folds SHAP compares with.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    recipe : Recipe, optional
        Methods, masks, base, the label to explain, seed; see `audiointerp.runs.recipe`.
    **options
        Attributes of the recipe by name, instead of it.

    Returns
    -------
    Comparison
        The paper's figure, players and tables; writes nothing.

    Raises
    ------
    ValueError
        If a name, file or setting is unusable.
    """
    recipe = make_recipe(recipe, options)
    (classifier,) = load_models([weights], resolve_device(device)).values()
    rate, normalize = classifier.front_end.sample_rate, classifier.normalize
    waveform = load_audio(file, rate, classifier.duration, normalize)[0]
    background = recipe.background(background, classifier, subset=subset)
    results = {}
    for method, job in recipe.jobs(classifier, background).items():
        explained = interpret_clips(job, waveform[None], [Path(file).stem], target=recipe.target)
        if len(explained) != 1:
            raise ValueError(
                f"{len(explained)} labels of {file} were asked for: compare methods on one label"
            )
        results[method] = explained[0]
    return Comparison(results)


def _read_clips(
    files: Mapping[str, Path],
    classifier: Classifier,
    failures: dict[str, str],
) -> dict[str, Tensor]:
    """Return the waveforms of files, (1, samples) each; note those that cannot be read, once."""
    clips = {}
    for name, file in files.items():
        if name in failures:
            continue
        try:
            clips[name] = load_audio(
                file, classifier.front_end.sample_rate, classifier.duration, classifier.normalize
            )[0]
        except AudioError as error:
            failures[name] = str(error)
            tqdm.write(f"skipped: {error}")
    return clips


def _batches(clips: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield clips of one length together, a few at a time."""
    by_length: dict[int, list[str]] = {}
    for name, waveform in clips.items():
        by_length.setdefault(waveform.shape[-1], []).append(name)
    for names in by_length.values():
        for start in range(0, len(names), CLIPS_PER_BATCH):
            yield {name: clips[name] for name in names[start : start + CLIPS_PER_BATCH]}


def _folder_name(result: Interpretation, target: Target) -> str:
    """Return the name of a result's folder: ``<clip>``, or ``<clip>@<label>`` of several labels."""
    return result_name(result.clip, target, result.target_label, result.target)


def _rows(model: str, result: Interpretation, target: Target) -> list[dict[str, Any]]:
    about = {"model": model, "method": result.method, "clip": result.clip}
    about |= {"label": result.label, "probability": result.probability}
    if target is not None:
        about[EXPLAINED] = result.target_label
    return [
        about | {"mask": mask} | values for mask, values in result.metrics.to_dict("index").items()
    ]
