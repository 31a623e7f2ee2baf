"""Sound files instead of sets: every model and method, as pictures, sounds and tables.

The command line calls these functions and adds nothing to them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.arguments import several
from audiointerp.dataset import AudioError
from audiointerp.dataset.channels import CHANNELS, MID
from audiointerp.device import resolve_device
from audiointerp.metrics import METRICS
from audiointerp.runs.clip import Batch
from audiointerp.runs.comparison import Comparison
from audiointerp.runs.job import Job
from audiointerp.runs.names import result_name, with_channel
from audiointerp.runs.passes import Recording, hear, interpret_windows, open_recording
from audiointerp.runs.recipe import (
    SHOWN_MASKS,
    Recipe,
    by_stem,
    check_names,
    load_models,
    make_recipe,
)
from audiointerp.runs.recording import saving_recording, window_name
from audiointerp.runs.result import Interpretation
from audiointerp.runs.store import EXPLAINED
from audiointerp.runs.targets import Target
from audiointerp.runs.windows import Coverage, Section, Windowing
from audiointerp.sound import SOUND_FORMATS
from audiointerp.speed.scoring import Scorer
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import write_atomically
from audiointerp.text import printable

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
        One row per model, method, clip and mask, with the metrics. Windows of recordings have the
        recording's name in ``clip``, and ``start`` and ``end`` in seconds. Where labels to explain
        were asked for, ``explained`` names them: one row for each.
    failures : dict of str to str
        Files that could not be interpreted, and why.
    recordings : dict of (str, str) to Coverage
        What was analysed and interpreted, and what was not, of the files that are more than one
        clip or of which a part was asked for, by model and clip.
    written : list of Path
        Folders of the saved interpretations, to make a page of; see `audiointerp.report`.
    """

    folder: Path
    table: pd.DataFrame
    failures: dict[str, str] = field(default_factory=dict)
    recordings: dict[tuple[str, str], Coverage] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)


def interpret_files(
    files: Sequence[str | os.PathLike[str]],
    weights: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    masks: Sequence[str] | None = SHOWN_MASKS,
    sound: str = "wav",
    background: str | os.PathLike[str] = "synthetic",
    device: str = "auto",
    windowing: Windowing | None = None,
    channel: str = MID,
    recipe: Recipe | None = None,
    **options: Any,
) -> FilesResult:
    """Interpret sound files with every model and method; write pictures, sounds and tables.

    Files of any length are read in blocks. One that is longer than what the model takes is cut
    into windows, which are read and classified once for all methods; the most confident ones are
    interpreted and written one after the other.

    Parameters
    ----------
    files : sequence of path
        WAV, OGG, FLAC or MP3. One that cannot be read is reported and skipped.
    weights : sequence of path
        Weight files; see `audiointerp.model.weights`.
    out : path
        Folder for the results, ``<out>/<model>/<method>/<clip>/``; where several labels of a clip
        are explained, ``<clip>@<label>``. For a recording of several windows see
        `audiointerp.runs.recording.saving_recording`.
    masks : sequence of str, optional
        Masks to draw and to make audible, None for all; the tables have all of the recipe's.
    sound : {"wav", "flac", "mp3"}
        What masked sounds are written as; see `audiointerp.runs.result.Interpretation.save`.
    background : "synthetic" or path
        Set whose training folds SHAP compares with.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    windowing : Windowing, optional
        The part of each file to analyse, the windows, and how many of them to interpret.
    channel : {"mid", "left", "right", "side"}
        See `audiointerp.dataset.load_audio`. The clips' names say which was taken, ``dog (left)``,
        if it is not "mid".
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
    CHANNELS[channel]
    names = {with_channel(name, channel): file for name, file in by_stem(files).items()}
    recipe = make_recipe(recipe, options)
    masks = None if masks is None else several(masks)
    check_names((), masks or ())
    models = load_models(weights, resolve_device(device))
    for classifier in models.values():
        SOUND_FORMATS[sound].check_rate(classifier.front_end.sample_rate)
    work = _FilesWork(Path(out), masks, sound, recipe.target, windowing or Windowing(), channel)
    total = len(models) * len(recipe.methods) * len(names)
    with tqdm(total=total, unit="clip", disable=not recipe.progress) as bar:
        for name, classifier in models.items():
            bar.set_description(printable(name))
            drawn = recipe.background(background, classifier, **work.windowing.of_background())
            jobs = recipe.jobs(classifier, drawn)
            _ModelWork(work, name, jobs, bar).run(names)
    columns = ["model", "method", "clip"]
    if any("start" in row for row in work.rows):
        columns += ["start", "end"]
    columns += ["label", "probability"] + ([] if recipe.target is None else [EXPLAINED])
    table = pd.DataFrame(work.rows, columns=[*columns, "mask", *METRICS])
    if work.rows:
        write_atomically(work.out / "summary.csv", to_csv(table, index=False))
    return FilesResult(work.out, table, work.failures, work.recordings, work.written)


def compare_methods(
    file: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    *,
    background: str | os.PathLike[str] = "synthetic",
    subset: str | None = None,
    device: str = "auto",
    windowing: Windowing | None = None,
    channel: str = MID,
    recipe: Recipe | None = None,
    **options: Any,
) -> Comparison:
    """Interpret one sound file with several methods, to be looked at side by side.

    Of a file that is longer than what the model takes, the most confident window is interpreted:
    that with the highest probability of the label to explain. `Comparison.coverage` says which.

    Parameters
    ----------
    file : path
        WAV, OGG, FLAC or MP3.
    weights : path
        Weight file of the model; see `audiointerp.model.weights`.
    background, subset
        Set, and part of it, whose training folds SHAP compares with.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    windowing : Windowing, optional
        The part of the file to analyse, and the windows to choose from.
    channel : {"mid", "left", "right", "side"}
        See `audiointerp.dataset.load_audio`.
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
    windowing = windowing or Windowing()
    recording = open_recording(file, classifier, windowing, channel=channel)
    source = {"subset": subset} | windowing.of_background()
    jobs = recipe.jobs(classifier, recipe.background(background, classifier, **source))
    scorer = Scorer(classifier, batch_size=recipe.batch_size)
    first = next(iter(jobs.values()))
    coverage = recording.coverage()
    explained: dict[str, list[Interpretation]] = {method: [] for method in jobs}
    if recording.is_clip:
        waveforms, names = recording.clip()[None], [recording.section]
        batch = Batch.of(first, scorer, waveforms, names, recipe.target)
        explained = {method: batch.explain(job) for method, job in jobs.items()}
    else:
        heard = hear(recording, first, scorer, target=recipe.target, most=1)
        coverage = heard.coverage
        for method, result in interpret_windows(recording, heard, jobs, scorer):
            explained[method].append(result)
    count = len(explained[first.method])
    if count != 1:
        raise ValueError(f"{count} labels of {file} were asked for: compare methods on one label")
    return Comparison({method: result for method, (result,) in explained.items()}, coverage)


@dataclass(frozen=True)
class _FilesWork:
    """What is done with files, whatever the model, and what came of it."""

    out: Path
    masks: Sequence[str] | None
    sound: str
    target: Target
    windowing: Windowing
    channel: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    recordings: dict[tuple[str, str], Coverage] = field(default_factory=dict)


class _ModelWork:
    """The interpretation of files by one model: file, then batch, then method."""

    def __init__(self, work: _FilesWork, name: str, jobs: Mapping[str, Job], bar: tqdm) -> None:
        self._work = work
        self._name = name
        self._jobs = jobs
        self._bar = bar
        self._first = next(iter(jobs.values()))
        self._scorer = Scorer(self._first.classifier, batch_size=self._first.batch_size)
        self._rows: list[dict[str, Any]] = []

    def run(self, files: Mapping[str, Path]) -> None:
        """Interpret files; note those that cannot be read."""
        waiting: dict[int, list[tuple[str | Section, Tensor]]] = {}
        for name, file in files.items():
            try:
                recording = open_recording(
                    file,
                    self._first.classifier,
                    self._work.windowing,
                    channel=self._work.channel,
                )
                if not recording.is_clip:
                    self._interpret_recording(recording)
                    continue
                waveform = recording.clip()
            except AudioError as error:
                self._note_failure(name, str(error))
                self._bar.total -= len(self._jobs)
                continue
            if isinstance(recording.section, Section):
                self._work.recordings[self._name, name] = recording.coverage()
            batch = waiting.setdefault(waveform.shape[-1], [])  # clips of one length together
            batch.append((recording.section, waveform))
            if len(batch) == CLIPS_PER_BATCH:
                self._interpret_clips(batch)
                batch.clear()
        for batch in filter(None, waiting.values()):
            self._interpret_clips(batch)
        place = {name: number for number, name in enumerate(files)}
        method = {name: number for number, name in enumerate(self._jobs)}
        self._rows.sort(key=lambda row: (method[row["method"]], place[row["clip"]]))
        self._work.rows.extend(self._rows)

    def _interpret_clips(self, clips: Sequence[tuple[str | Section, Tensor]]) -> None:
        names, waveforms = zip(*clips, strict=True)
        target = self._work.target
        batch = Batch.of(self._first, self._scorer, torch.stack(waveforms), names, target)
        explained = set(batch.chosen[0].tolist())
        for place, name in enumerate(names):
            if place not in explained:
                self._note_unlabelled(name.recording if isinstance(name, Section) else name)
        for method, job in self._jobs.items():
            self._bar.set_description(printable(f"{self._name} {method}"))
            for result in batch.explain(job):
                folder = self._folder(method, result)
                result.save(folder, self._work.masks, sound=self._work.sound)
                self._note(result, folder)
            self._bar.update(len(clips))

    def _interpret_recording(self, recording: Recording) -> None:
        """Interpret the windows of a recording; what was interpreted is saved and let go."""
        work = self._work
        self._bar.set_description(printable(f"{self._name} {recording.name}"))
        most = work.windowing.windows
        heard = hear(recording, self._first, self._scorer, target=work.target, most=most)
        folders = {method: work.out / self._name / method / recording.name for method in self._jobs}
        rows: list[dict[str, Any]] = []
        windows: list[Path] = []
        with ExitStack() as stack:
            saved = {
                method: stack.enter_context(
                    saving_recording(folder, heard, method, work.masks, sound=work.sound)
                )
                for method, folder in folders.items()
            }
            for method, result in interpret_windows(recording, heard, self._jobs, self._scorer):
                saved[method].add(result)
                rows += _rows(self._name, result, work.target)
                windows.append(folders[method] / window_name(heard, result))
        self._rows += rows
        work.written.extend(windows)
        work.recordings[self._name, recording.name] = heard.coverage
        if not windows:
            self._note_unlabelled(recording.name)
        self._bar.update(len(self._jobs))

    def _folder(self, method: str, result: Interpretation) -> Path:
        clip = result.section.recording if result.section else result.clip
        name = result_name(clip, self._work.target, result.target_label, result.target)
        return self._work.out / self._name / method / name

    def _note(self, result: Interpretation, folder: Path) -> None:
        self._rows += _rows(self._name, result, self._work.target)
        self._work.written.append(folder)

    def _note_failure(self, name: str, why: str) -> None:
        """Note why a file cannot be interpreted; say so once where it is so for every model."""
        if self._work.failures.get(name) != why:
            tqdm.write(printable(f"skipped: {why}"))
        self._work.failures[name] = why

    def _note_unlabelled(self, clip: str) -> None:
        self._work.failures[f"{self._name}/{clip}"] = f"no label reaches {self._work.target}"


def _rows(model: str, result: Interpretation, target: Target) -> list[dict[str, Any]]:
    about: dict[str, Any] = {"model": model, "method": result.method, "clip": result.clip}
    if result.section is not None:
        start, end = result.section.start, result.section.end
        about |= {"clip": result.section.recording, "start": start, "end": end}
    about |= {"label": result.label, "probability": result.probability}
    if target is not None:
        about[EXPLAINED] = result.target_label
    return [
        about | {"mask": mask} | values for mask, values in result.metrics.to_dict("index").items()
    ]
