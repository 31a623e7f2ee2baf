"""Interpret individual audio files: every model and method, as pictures, sounds and tables.

The command line calls these functions and adds nothing to them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from audiointerp.arguments import several
from audiointerp.dataset import AudioError
from audiointerp.dataset.audio import samples_in
from audiointerp.dataset.channels import CHANNELS, MID
from audiointerp.dataset.failures import Failures, each_alone
from audiointerp.device import resolve_device
from audiointerp.model.classifier import Classifier
from audiointerp.runs.clip import Batch, check_length, job_metrics
from audiointerp.runs.comparison import Comparison
from audiointerp.runs.job import Job
from audiointerp.runs.names import has_several_labels, result_name, with_channel
from audiointerp.runs.opening import Opened, open_files
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
from audiointerp.runs.result import RECORDING, SUMMARY, Interpretation, check_replaceable
from audiointerp.runs.store import EXPLAINED
from audiointerp.runs.targets import Target, check_target
from audiointerp.runs.timeline import Timeline
from audiointerp.runs.windows import Coverage, Section, Windowing
from audiointerp.sound import SOUND_FORMATS
from audiointerp.speed.scoring import Scorer
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import check_writable, claim, write_atomically
from audiointerp.text import printable

SUMMARY_TABLE = "summary.csv"
"""File of all metrics, in the folder of the results."""
_FILES = {SUMMARY_TABLE: "the table of all results", "report.html": "their page"}
_RESULTS = {name: "a file that says what a folder is" for name in (SUMMARY, RECORDING)}


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
        Why a file could not be interpreted: by its name, by ``<model>/<name>`` where that is so
        for a model, or by ``<model>/<method>/<name>`` for a method.
    recordings : dict of (str, str) to Coverage
        What was analysed and interpreted, and what was not, of the files that are more than one
        clip or of which a part was asked for, by model and clip.
    written : list of Path
        Folders of the saved interpretations, to make a page of; see `audiointerp.report`.
    degenerate : dict of str to dict of str to str
        What is degenerate about maps and masks, by ``<model>/<method>/<clip>``; see
        `audiointerp.runs.result.Interpretation.degenerate`.
    """

    folder: Path
    table: pd.DataFrame
    failures: dict[str, str] = field(default_factory=dict)
    recordings: dict[tuple[str, str], Coverage] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    degenerate: dict[str, dict[str, str]] = field(default_factory=dict)


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
        WAV, OGG, FLAC or MP3. One that something goes wrong with is reported and skipped; see
        `audiointerp.dataset.failures`.
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
        If a method, mask, class, format, window or weight file is unusable by one of the models,
        or two files have one name; before anything is written.
    ClaimedError
        If another run is writing to the folder.
    OSError
        If a folder cannot be written or holds something other than an earlier result, before
        anything is written; or if the disk is full.
    """
    CHANNELS[channel]
    stems = by_stem("sound file", files, taken=_RESULTS)
    names = {with_channel(name, channel): file for name, file in stems.items()}
    recipe = make_recipe(recipe, options)
    check_target(recipe.target, None)
    if has_several_labels(recipe.target):
        _check_label_names(names)
    masks = None if masks is None else several(masks)
    check_names((), masks or ())
    work = _FilesWork(Path(out), masks, sound, recipe.target, windowing or Windowing(), channel)
    check_writable(work.out, folder=True)
    check_writable(work.out / SUMMARY_TABLE)
    models = load_models(weights, resolve_device(device), taken=_FILES)
    for classifier in models.values():
        SOUND_FORMATS[sound].check_rate(classifier.front_end.sample_rate)
    jobs = make_jobs(models, recipe, background, work.windowing)
    _check_masks(masks, jobs)
    for name in models:
        for method in jobs[name]:
            _check_folders(work.out / name / method, names, recipe.target)
    total = sum(map(len, jobs.values())) * len(names)
    with (
        claim(work.out / SUMMARY_TABLE),
        tqdm(total=total, unit="clip", disable=not recipe.progress) as bar,
    ):
        try:
            for name in models:
                bar.set_description(printable(name))
                _ModelWork(work, name, jobs[name], bar).run(names)
        finally:  # an error that ends the work leaves what is done, and a table of it
            table = _write_table(work)
    return FilesResult(
        work.out, table, work.failures, work.recordings, work.written, work.degenerate
    )


def _write_table(work: _FilesWork) -> pd.DataFrame:
    """Write the metrics of all that is interpreted, and return them."""
    columns = ["model", "method", "clip"]
    if any("start" in row for row in work.rows):
        columns += ["start", "end"]
    columns += ["label", "probability"] + ([] if work.target is None else [EXPLAINED])
    table = pd.DataFrame(work.rows, columns=[*columns, "mask", *job_metrics()])
    if work.rows:
        write_atomically(work.out / SUMMARY_TABLE, to_csv(table, index=False))
    return table


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
    windowing = windowing or Windowing()
    models = load_models([weights], resolve_device(device))
    (classifier,) = models.values()
    recording = open_recording(file, classifier, windowing, channel=channel)
    (jobs,) = make_jobs(models, recipe, background, windowing, subset=subset).values()
    scorer = Scorer(classifier, batch_size=recipe.batch_size)
    first = next(iter(jobs.values()))
    coverage = recording.coverage()
    if recording.is_clip:
        waveforms, names = recording.clip()[None], [recording.section]
        batch = Batch.of(first, scorer, waveforms, names, recipe.target)
        _check_one_label(file, len(batch.chosen[0]))
        explained = {method: batch.explain(job) for method, job in jobs.items()}
    else:
        heard = hear(recording, first, scorer, target=recipe.target, most=1)
        _check_one_label(file, sum(map(len, heard.explained)))
        coverage = heard.coverage
        explained = {method: [] for method in jobs}
        for method, result in interpret_windows(recording, heard, jobs, scorer):
            explained[method].append(result)
    return Comparison({method: result for method, (result,) in explained.items()}, coverage)


def _check_one_label(file: str | os.PathLike[str], count: int) -> None:
    if count != 1:
        raise ValueError(f"{count} labels of {file} were asked for: compare methods on one label")


def make_jobs(
    models: Mapping[str, Classifier],
    recipe: Recipe,
    background: str | os.PathLike[str],
    windowing: Windowing,
    **source: Any,
) -> dict[str, dict[str, Job]]:
    """Return the jobs of every model, by model and method; all is checked that they depend on."""
    jobs = {}
    methods = recipe.methods_for("sound files", has_parts=False)
    for name, classifier in models.items():
        if windowing.window is not None:
            rate = classifier.front_end.sample_rate
            check_length(classifier, samples_in(windowing.window, rate))
        of = source | windowing.of_background()
        found = recipe.background(background, classifier, **of)
        jobs[name] = recipe.jobs(classifier, found, methods=methods)
    return jobs


def _check_masks(masks: Sequence[str] | None, jobs: Mapping[str, Mapping[str, Job]]) -> None:
    """Check that the masks to draw are among those that every job makes."""
    for job in itertools.chain(*(of_model.values() for of_model in jobs.values())):
        for mask in masks or ():
            if mask not in job.masks:
                raise ValueError(
                    f"mask {mask!r} is to be drawn and is not made by {job.method}: choose from "
                    f"{', '.join(job.masks)}"
                )


def _check_folders(folder: Path, names: Collection[str], target: Target) -> None:
    """Check that the results of some files can be written into a method's folder."""
    check_writable(folder, folder=True)
    if not folder.is_dir():
        return
    labelled = tuple(f"{name}@" for name in names) if has_several_labels(target) else ()
    for there in folder.iterdir():
        if there.name in names or there.name.startswith(labelled):
            check_replaceable(there)


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
    unread: Failures = field(default_factory=Failures)
    failures: dict[str, str] = field(default_factory=dict)
    recordings: dict[tuple[str, str], Coverage] = field(default_factory=dict)
    degenerate: dict[str, dict[str, str]] = field(default_factory=dict)


class _ModelWork:
    """The interpretation of files by one model: file, then batch, then method."""

    def __init__(self, work: _FilesWork, name: str, jobs: Mapping[str, Job], bar: tqdm) -> None:
        self._work = work
        self._name = name
        self._jobs = jobs
        self._bar = bar
        self._first = next(iter(jobs.values()))
        self._scorer = Scorer(self._first.classifier, batch_size=self._first.batch_size)
        self._failures = Failures()
        self._of_method = {method: Failures() for method in jobs}
        self._rows: list[dict[str, Any]] = []

    def run(self, files: Mapping[str, Path]) -> None:
        """Interpret files; note those that something goes wrong with."""
        try:
            self._interpret(files)
        finally:
            place = {name: number for number, name in enumerate(files)}
            method = {name: number for number, name in enumerate(self._jobs)}
            self._rows.sort(key=lambda row: (method[row["method"]], place[row["clip"]]))
            self._work.rows.extend(self._rows)

    def _interpret(self, files: Mapping[str, Path]) -> None:
        batches = open_files(
            files,
            self._first.classifier,
            self._work.windowing,
            channel=self._work.channel,
            opened=self._note_opened,
            failed=self._note_unread,
        )
        for batch in batches:
            if batch[0].waveform is None:
                self._interpret_recording(batch[0].recording)
            else:
                self._interpret_clips(batch)
        for failures in (self._work.unread, self._failures, *self._of_method.values()):
            failures.finish()
            self._work.failures.update(failures.reasons)

    def _note_opened(self, opened: Opened) -> None:
        if opened.waveform is not None:
            self._work.unread.succeed()
            if isinstance(opened.recording.section, Section):
                coverage = opened.recording.coverage()
                self._work.recordings[self._name, opened.name] = coverage

    def _note_unread(self, name: str, error: Exception) -> None:
        self._work.unread.add(name, error)
        self._bar.total -= len(self._jobs)

    def _interpret_clips(self, clips: Sequence[Opened]) -> None:
        """Interpret clips of one length together, those that fail apart."""
        classified = each_alone(
            clips,
            lambda some: (some, self._classify(some)),
            lambda clip, error: self._failures.add(f"{self._name}/{clip.name}", error),
        )
        for some, batch in classified:
            self._failures.succeed()
            explained = set(batch.chosen[0].tolist())
            for place, clip in enumerate(some):
                if place not in explained:
                    self._note_unlabelled(clip.name)
            for method in self._jobs:
                self._bar.set_description(printable(f"{self._name} {method}"))
                self._explain(method, some, batch)
                self._bar.update(len(some))

    def _classify(self, clips: Sequence[Opened]) -> Batch:
        waveforms = torch.stack([clip.waveform for clip in clips])
        names = [clip.recording.section for clip in clips]
        return Batch.of(self._first, self._scorer, waveforms, names, self._work.target)

    def _explain(self, method: str, clips: Sequence[Opened], batch: Batch) -> None:
        """Save the interpretations of a batch by one method."""
        failures, job = self._of_method[method], self._jobs[method]
        found = each_alone(
            clips,
            lambda some: (batch if some is clips else self._classify(some)).explain(job),
            lambda clip, error: failures.add(f"{self._name}/{method}/{clip.name}", error),
        )
        for result in itertools.chain(*found):
            folder = self._folder(method, result)
            try:
                result.save(folder, self._work.masks, sound=self._work.sound)
            except Exception as error:
                failures.add(f"{self._name}/{method}/{folder.name}", error)
                continue
            failures.succeed()
            self._rows += _rows(self._name, result, self._work.target)
            self._work.written.append(folder)
            self._note_degenerate(result)

    def _interpret_recording(self, recording: Recording) -> None:
        """Interpret the windows of a recording; what was interpreted is saved and let go."""
        work, name = self._work, recording.name
        self._bar.set_description(printable(f"{self._name} {name}"))
        most = work.windowing.windows
        try:
            heard = hear(recording, self._first, self._scorer, target=work.target, most=most)
        except AudioError as error:  # its end is only read here
            work.unread.add(name, error)
            self._bar.total -= len(self._jobs)
            return
        except Exception as error:
            self._failures.add(f"{self._name}/{name}", error)
            self._bar.total -= len(self._jobs)
            return
        work.unread.succeed()
        self._failures.succeed()
        work.recordings[self._name, name] = heard.coverage
        if not heard.coverage.interpreted:
            self._note_unlabelled(name)
        each_alone(
            list(self._jobs),
            lambda methods: self._explain_windows(recording, heard, methods),
            lambda method, error: self._of_method[method].add(
                f"{self._name}/{method}/{name}", error
            ),
        )
        self._bar.update(len(self._jobs))

    def _explain_windows(
        self, recording: Recording, heard: Timeline, methods: Sequence[str]
    ) -> None:
        """Save the interpretations of a recording by some methods, all of them or none."""
        work = self._work
        folders = {method: work.out / self._name / method / recording.name for method in methods}
        rows: list[dict[str, Any]] = []
        windows: list[Path] = []
        jobs = {method: self._jobs[method] for method in methods}
        with ExitStack() as stack:
            saved = {
                method: stack.enter_context(
                    saving_recording(folder, heard, method, work.masks, sound=work.sound)
                )
                for method, folder in folders.items()
            }
            for method, result in interpret_windows(recording, heard, jobs, self._scorer):
                saved[method].add(result)
                rows += _rows(self._name, result, work.target)
                self._note_degenerate(result)
                windows.append(folders[method] / window_name(heard, result))
        self._rows += rows
        work.written.extend(windows)
        for method in methods:
            self._of_method[method].succeed()

    def _folder(self, method: str, result: Interpretation) -> Path:
        clip = result.section.recording if result.section else result.clip
        name = result_name(clip, self._work.target, result.target_label, result.target)
        return self._work.out / self._name / method / name

    def _note_degenerate(self, result: Interpretation) -> None:
        if result.degenerate:
            label = "" if self._work.target is None else f" ({result.target_label})"
            key = f"{self._name}/{result.method}/{result.clip}{label}"
            self._work.degenerate[key] = result.degenerate

    def _note_unlabelled(self, clip: str) -> None:
        self._work.failures[f"{self._name}/{clip}"] = f"no label reaches {self._work.target}"


def _check_label_names(names: Mapping[str, Path]) -> None:
    """Raise a ValueError if a file is called as the result for a label of another would be."""
    for name, path in names.items():
        before = name.split("@")[:-1]
        for end in range(1, len(before) + 1):
            other = names.get("@".join(before[:end]))
            if other is not None:
                raise ValueError(
                    f"the sound files {str(other)!r} and {str(path)!r}: results for the labels of "
                    f"{other.stem} are filed as {other.stem}@LABEL, rename one"
                )


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
