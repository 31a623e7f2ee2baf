"""Interpret sets: model, then batch, then methods, so that a clip is read and classified once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import read_ahead
from audiointerp.dataset.failures import Failures, each_alone
from audiointerp.device import device_of
from audiointerp.evaluation import (
    Truth,
    event_frames,
    families_on_request,
    metric_columns,
    sounding_frames,
)
from audiointerp.evaluation.statistics import population_counts
from audiointerp.model.classifier import Classifier
from audiointerp.model.provenance import remark_overlap
from audiointerp.processing import View
from audiointerp.registry import check_different
from audiointerp.runs.clip import (
    Scores,
    analyse,
    check_length,
    classify,
    interpret_batch,
    job_metrics,
)
from audiointerp.runs.job import Job, Place
from audiointerp.runs.store import (
    EXPLAINED,
    RunFolder,
    attribution_name,
    list_metrics,
    run_file,
)
from audiointerp.runs.targets import TrueLabels, choose_targets
from audiointerp.speed.scoring import Scorer
from audiointerp.storage import check_writable, claim
from audiointerp.version import code_version


@dataclass(frozen=True)
class SetResult:
    """What the interpretation of a set did.

    Attributes
    ----------
    folder : Path
        Where the results are.
    tables : dict of (place, mask) to DataFrame
        One row per explained label of every clip of the set. The folder may hold others, from a
        request for more clips.
    failures : dict of str to str
        Clips that could not be interpreted, and why.
    interpreted : int
        Clips interpreted this time; the others' results were there.
    remarks : tuple of str
        Why the clips are not independent of the model's training, in words.
    """

    folder: Path
    tables: dict[tuple[str, str], pd.DataFrame]
    failures: dict[str, str]
    interpreted: int
    remarks: tuple[str, ...] = ()

    @property
    def clips(self) -> int:
        """How many clips of the set have results."""
        return next(iter(self.tables.values()))["clip"].nunique()

    @property
    def accuracy(self) -> float:
        """Share of the clips whose most probable label is right."""
        table = next(iter(self.tables.values())).drop_duplicates("clip")
        return float(table["is_correct"].astype(bool).mean())

    def mean_metrics(self, on: Place = "features") -> pd.DataFrame:
        """Return the mean of every metric over the rows, one row per mask.

        What the means are over is added where it is not every clip once; see
        `audiointerp.evaluation.statistics.population_counts`.
        """
        tables = {mask: table for (place, mask), table in self.tables.items() if place == on}
        if not tables:
            return pd.DataFrame().rename_axis("mask")
        names = metric_columns(next(iter(tables.values())))
        means = {mask: table[names].astype(float).mean() for mask, table in tables.items()}
        rows = pd.concat(tables, names=["mask"])
        partial = [name for name in names if rows[name].isna().any()]
        counts = population_counts(rows.groupby("mask", sort=False), partial)
        return pd.DataFrame(means).T.rename_axis("mask").assign(**counts)


def interpret_set(
    jobs: Mapping[str | os.PathLike[str], Job],
    dataset: ClipDataset,
    *,
    clips_per_batch: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    remarks: Mapping[str | os.PathLike[str], Sequence[str]] | None = None,
) -> dict[Path, SetResult]:
    """Interpret every clip of a set by several methods and file the results.

    A batch of clips is read, analysed and classified once, then explained by every method. What
    the folders already hold is not done again, whether the earlier set had fewer clips of these
    folds or more. A clip that something goes wrong with is reported and skipped; see
    `audiointerp.dataset.failures`.

    Parameters
    ----------
    jobs : mapping of path to Job
        By the folder of their results; of one classifier.
    dataset : ClipDataset
        At the front end's sample rate, with classes that the model knows.
    clips_per_batch : int, optional
        Clips interpreted together; results do not depend on it.
    overwrite : bool
        Remove earlier runs in the folders first.
    progress : bool
        Show a progress bar.
    remarks : mapping of path to sequence of str, optional
        What a reader of a run must know, by folder; it is written into ``run.json`` beside what is
        found out here: that the model was trained on clips of the set.

    Returns
    -------
    dict of Path to SetResult
        By folder.

    Warns
    -----
    LeakageWarning
        If the model was trained on clips of the set, by its card.

    Raises
    ------
    ValueError
        If the set does not fit the model, the jobs are of several classifiers, or a folder holds
        a run with other settings; before anything is written.
    ClaimedError
        If another run is writing to one of the folders.
    OSError
        If a folder cannot be written, or the disk is full.
    """
    return interpret_sets(
        [(jobs, dataset)],
        clips_per_batch=clips_per_batch,
        overwrite=overwrite,
        progress=progress,
        remarks=remarks,
    )


def interpret_sets(
    requests: Iterable[tuple[Mapping[str | os.PathLike[str], Job], ClipDataset]],
    *,
    clips_per_batch: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    remarks: Mapping[str | os.PathLike[str], Sequence[str]] | None = None,
) -> dict[Path, SetResult]:
    """Interpret several sets, one after the other; all are checked before the first.

    Parameters
    ----------
    requests : iterable of (mapping of path to Job, ClipDataset)
        What `interpret_set` takes, for each set.
    clips_per_batch, overwrite, progress, remarks
        See `interpret_set`, also for what is raised.

    Returns
    -------
    dict of Path to SetResult
        By folder.
    """
    requests = list(requests)
    folders = [folder for jobs, _ in requests for folder in jobs]
    check_different("results folder", folders, name=os.path.abspath)
    with claim(*map(run_file, folders)):
        works = [
            _SetWork(jobs, dataset, overwrite=overwrite, remarks=remarks or {})
            for jobs, dataset in requests
        ]
        requests.clear()
        return _run(works, clips_per_batch, progress)


def _run(
    works: list[_SetWork], clips_per_batch: int | None, progress: bool
) -> dict[Path, SetResult]:
    done: dict[Path, SetResult] = {}
    while works:
        work = works.pop(0)  # and with it, in the end, the clips in memory
        size = clips_per_batch
        if size is None:
            # Enough clips that a GPU waits for none of them.
            size = 8 if device_of(work.classifier.network).type == "cpu" else 64
        work.run(size, progress)
        done |= work.results()
    return done


class _SetWork:
    """The runs of several jobs over one set."""

    def __init__(
        self,
        jobs: Mapping[str | os.PathLike[str], Job],
        dataset: ClipDataset,
        *,
        overwrite: bool,
        remarks: Mapping[str | os.PathLike[str], Sequence[str]],
    ) -> None:
        self.jobs = {
            Path(folder): job if overwrite else _with_extra(job, Path(folder))
            for folder, job in jobs.items()
        }
        self.classifier = _only_classifier(self.jobs.values())
        self.dataset = dataset
        self.code = code_version()
        self.class_of = match_classes(self.classifier, dataset)
        # From the parts it is also known when the foreground sounds.
        known = {"parts": dataset.has_parts, "events": dataset.has_parts or dataset.has_events}
        metrics = {
            folder: job_metrics(**known, extra=job.extra) for folder, job in self.jobs.items()
        }
        _check_parts(self.jobs.values(), dataset)
        described = dataset.settings()
        self.runs = {
            folder: RunFolder(
                folder,
                job.settings() | {"dataset": described},
                clips=dataset.clip_ids,
                masks=job.masks,
                metrics=list(metrics[folder]),
                on=job.on,
                explained=job.target is not None,
                overwrite=overwrite,
            )
            for folder, job in self.jobs.items()
        }
        overlap = remark_overlap(self.classifier, dataset)
        own = {Path(folder): list(said) for folder, said in remarks.items()}
        self.remarks = {folder: (*overlap, *own.get(folder, ())) for folder in self.jobs}
        self.todo = {folder: set(run.todo) for folder, run in self.runs.items()}
        if any(self.todo.values()):
            check_length(self.classifier, dataset.num_samples)
        for folder, run in self.runs.items():
            if not run.is_finished:
                check_writable(folder, folder=True)
        self.unread = Failures()
        self.failures = {
            folder: Failures(differ=bool(run.done)) for folder, run in self.runs.items()
        }
        self.unlabelled: dict[Path, dict[str, str]] = {folder: {} for folder in self.jobs}

    def run(self, size: int, progress: bool) -> None:
        """Interpret what is left to do, in batches of so many clips."""
        unfinished = [folder for folder, run in self.runs.items() if not run.is_finished]
        for folder in unfinished:
            self.runs[folder].begin()
        wanted = set().union(*self.todo.values())
        places = [place for place, clip in enumerate(self.dataset.clip_ids) if clip in wanted]
        scorers = {
            job.batch_size: Scorer(self.classifier, batch_size=job.batch_size)
            for job in self.jobs.values()
            if places
        }
        seconds = dict.fromkeys(self.jobs, 0.0)
        title = ", ".join(folder.name for folder in self.jobs)
        silent = not (progress and places)
        with (
            tqdm(total=len(places), desc=title, unit="clip", disable=silent) as bar,
            ThreadPoolExecutor(max_workers=1) as writer,
        ):
            # One batch is read, one interpreted and one written at the same time.
            writing = writer.submit(lambda: None)
            for clips in read_ahead(self.dataset, places, size, self.unread):
                batch = _Batch(self, clips)
                for folder, job in self.jobs.items():
                    started = time.perf_counter()
                    for done in self._interpret(batch, folder, job, scorers[job.batch_size]):
                        writing.result()
                        writing = writer.submit(_write, self.runs[folder], *done)
                    seconds[folder] += time.perf_counter() - started
                bar.update(len(clips))
            writing.result()
        for failures in self.failures.values():
            failures.finish()
        for folder in unfinished:
            self.runs[folder].finish(self._report(folder, seconds[folder]))

    def _interpret(
        self, batch: _Batch, folder: Path, job: Job, scorer: Scorer
    ) -> list[tuple[dict[str, np.ndarray], list[dict[str, Any]], _Rows]]:
        """Return what a run misses of a batch, in parts where some clip fails."""
        missing = [clip for clip in batch.clips if clip.clip_id in self.todo[folder]]
        if not missing:
            return []
        failures = self.failures[folder]

        def interpret(clips: Sequence[Clip]) -> Any:
            part = batch if clips is missing else _Batch(self, list(clips))
            done = part.interpret(folder, job, scorer)
            failures.succeed()
            return done

        found = each_alone(
            missing, interpret, lambda clip, error: failures.add(clip.clip_id, error)
        )
        return [done for done in found if done is not None]

    def results(self) -> dict[Path, SetResult]:
        """Return what was done, by folder."""
        return {
            folder: SetResult(
                folder,
                {(on, mask): run.table(on, mask) for on in job.on for mask in job.masks},
                self._failures(folder),
                len(self.todo[folder]) - len(self._failures(folder)),
                self.remarks[folder],
            )
            for (folder, job), run in zip(self.jobs.items(), self.runs.values(), strict=True)
        }

    def _failures(self, folder: Path) -> dict[str, str]:
        failures = self.unread.reasons | self.failures[folder].reasons | self.unlabelled[folder]
        return {clip: why for clip, why in failures.items() if clip in self.todo[folder]}

    def _report(self, folder: Path, seconds: float) -> dict[str, Any]:
        failures = self._failures(folder)
        return {
            "clips": len(self.runs[folder].done),
            "failures": failures,
            "seconds": round(seconds, 1),
            "clips_this_time": len(self.todo[folder]) - len(failures),
            "code": self.code,
            **({"remarks": list(self.remarks[folder])} if self.remarks[folder] else {}),
        }


_Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""Rows of every table, by what was measured on and mask."""


@dataclass(frozen=True)
class _Batch:
    """A batch of clips, analysed once, and classified once for every precision."""

    work: _SetWork
    clips: list[Clip]
    probabilities: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def view(self) -> View:
        """The clips' cells."""
        return self._analyse([clip.waveform for clip in self.clips])

    @cached_property
    def truth(self) -> Truth | None:
        """What is known of all clips of the batch, whatever is explained."""
        dataset = self.work.dataset
        if not dataset.has_parts:
            return Truth(labels=self.labels) if dataset.has_events else None
        front_end = self.work.classifier.front_end
        parts = [dataset.true_parts(dataset.index(clip.clip_id)) for clip in self.clips]
        foreground, background = (
            self._analyse(part).without_context() for part in zip(*parts, strict=True)
        )
        told = [dataset.foreground_labels(dataset.index(clip.clip_id)) for clip in self.clips]
        active = sounding_frames(foreground.waveform, self._times, front_end.sample_rate)
        return Truth(foreground, background, front_end.log, active, self._outputs(told))

    @cached_property
    def _times(self) -> Tensor:
        """The centre of each frame, seconds, on the CPU."""
        return self.work.classifier.front_end.times(self.view.cells.shape[3]).cpu()

    def truth_of(self, clip: Tensor, target: Tensor) -> Truth | None:
        """Return what is known for each explanation: the set's events are of the explained class.

        Parameters
        ----------
        clip, target : Tensor, shape (explanations,)
            Position in the batch and explained class.
        """
        if self.truth is None:
            return None
        truth = self.truth if self._is_all(clip) else self.truth[clip]
        if not self.work.dataset.has_events:
            return truth
        rows = zip(clip.tolist(), target.tolist(), strict=True)
        return truth.with_active(torch.stack([self._active(*row) for row in rows]))

    def _active(self, place: int, target: int) -> Tensor:
        """Return the frames of a clip in which the set says that a class of the model sounds."""
        dataset, class_of = self.work.dataset, self.work.class_of
        events = dataset.true_events(dataset.index(self.clips[place].clip_id))
        own = [
            (event.onset, event.offset)
            for event in events
            if class_of.get(dataset.classes.index(event.label)) == target
        ]
        return event_frames(own, self._times)

    def _is_all(self, clip: Tensor) -> bool:
        """Return whether every clip of the batch is explained once, in order."""
        return torch.equal(clip, torch.arange(len(self.clips), device=clip.device))

    @cached_property
    def labels(self) -> Tensor:
        """The model's classes that each clip has, bool (clips, classes), on the CPU."""
        return self._outputs(map(true_labels, self.clips))

    def _outputs(self, label_sets: Iterable[Iterable[int]]) -> Tensor:
        """Return the model's outputs that are some labels, bool (clips, classes), on the CPU."""
        outputs = next(iter(self.probabilities.values())).shape[1]
        has = torch.zeros(len(self.clips), outputs, dtype=torch.bool)
        for row, label_set in enumerate(label_sets):
            labels = [self.work.class_of[label] for label in label_set]
            if any(label >= outputs for label in labels):
                raise ValueError(
                    f"the set has a class number {max(labels)}, the model {outputs} outputs: is "
                    "it a model of another set?"
                )
            has[row, labels] = True
        return has

    def _analyse(self, waveforms: Sequence[Tensor]) -> View:
        return analyse(self.work.classifier, torch.stack(list(waveforms)))

    def interpret(
        self, folder: Path, job: Job, scorer: Scorer
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]], _Rows] | None:
        """Return maps, diagnostics and rows of the clips that a run misses, None if none."""
        places = [n for n, clip in enumerate(self.clips) if clip.clip_id in self.work.todo[folder]]
        if not places:
            return None
        if job.precision not in self.probabilities:
            self.probabilities[job.precision] = classify(job, scorer, self.view)
        probabilities = self.probabilities[job.precision]
        names = self.work.classifier.class_names(probabilities.shape[1])
        wanted = torch.tensor(places, device=probabilities.device)
        true = self.labels[places] if isinstance(job.target, TrueLabels) else None
        row, target = choose_targets(job.target, probabilities[wanted], names, true=true)
        clip = wanted[row]
        self._note_unlabelled(folder, job, places, clip)
        if not len(clip):
            return None
        view, truth = self.view, self.truth_of(clip, target)
        if not self._is_all(clip):
            view, probabilities = view[clip], probabilities[clip]
        rows = [self.clips[place] for place in clip.tolist()]
        labels = [None] * len(rows) if job.target is None else target.tolist()
        maps = [attribution_name(c.clip_id, label) for c, label in zip(rows, labels, strict=True)]
        run = self.work.runs[folder]
        saved = [run.load_attribution(name, tuple(view.cells.shape[2:])) for name in maps]
        attribution = None
        if all(kept is not None for kept in saved):
            attribution = torch.from_numpy(np.stack(saved))[:, None].to(view.cells)
        scores = interpret_batch(
            job, scorer, view, probabilities, target, attribution=attribution, truth=truth
        )
        about = self._about(rows, probabilities, target if job.target is not None else None, names)
        found: dict[str, np.ndarray] = {}
        said = scores.facts
        if attribution is None:
            found = dict(zip(maps, scores.attribution[:, 0].cpu().numpy(), strict=True))
            said = scores.diagnostics | scores.facts
        diagnostics = _diagnostics(said, about, run.keys)
        return found, diagnostics, _rows(scores, about)

    def _note_unlabelled(self, folder: Path, job: Job, places: list[int], clip: Tensor) -> None:
        explained = set(clip.tolist())
        for place in places:
            if place not in explained:
                clip_id = self.clips[place].clip_id
                own = isinstance(job.target, TrueLabels)
                why = "the set gives it no label" if own else f"no label reaches {job.target}"
                self.work.unlabelled[folder][clip_id] = why

    def _about(
        self,
        clips: Sequence[Clip],
        probabilities: Tensor,
        explained: Tensor | None,
        names: tuple[str, ...],
    ) -> list[dict[str, Any]]:
        """Return the columns of every row that name its clip and labels."""
        classes, class_of = self.work.dataset.classes, self.work.class_of
        predicted = probabilities.argmax(1).tolist()
        rows = []
        for place, clip in enumerate(clips):
            true = true_labels(clip)
            row = {
                "clip": clip.clip_id,
                "target": "|".join(classes[label] for label in true),
                "predicted": names[predicted[place]],
                "is_correct": predicted[place] in [class_of[label] for label in true],
            }
            if explained is not None:
                row[EXPLAINED] = names[int(explained[place])]
            rows.append(row)
        return rows


def _with_extra(job: Job, folder: Path) -> Job:
    """Return a job that goes on with the metrics on request that its folder has."""
    there = families_on_request(list_metrics(folder))
    families = tuple(dict.fromkeys((*job.extra, *there)))
    return job if families == job.extra else replace(job, extra=families)


def _check_parts(jobs: Iterable[Job], dataset: ClipDataset) -> None:
    needing = [job.method for job in jobs if "truth" in job.interpreter.requires]
    if needing and not dataset.has_parts:
        raise ValueError(
            f"{', '.join(needing)}: needs the foreground and the background of the clips, which "
            "are not known of this set; contaminate it, or choose other methods"
        )


def match_classes(classifier: Classifier, dataset: ClipDataset) -> dict[int, int]:
    """Return the model's index of every label of a set.

    Raises
    ------
    ValueError
        If the set is at another rate, or has classes that the model does not know.
    """
    rate = classifier.front_end.sample_rate
    if dataset.sample_rate != rate:
        raise ValueError(
            f"the set is at {dataset.sample_rate} Hz, the front end at {rate}: make the set with "
            f"sample_rate={rate}"
        )
    if classifier.classes is None:
        return {label: label for label in range(len(dataset.classes))}
    index = {name: position for position, name in enumerate(classifier.classes)}
    told = map(dataset.foreground_labels, range(len(dataset)))
    labels = sorted({label for labels in (*dataset.label_sets, *told) for label in labels})
    used = {label: dataset.classes[label] for label in labels}
    unknown = [name for name in used.values() if name not in index]
    if unknown:
        known = list(classifier.classes)
        listed = ", ".join(known[:20]) + (f", … ({len(known)})" if len(known) > 20 else "")
        raise ValueError(
            f"the set has classes that the model does not know: {', '.join(unknown)}; it "
            f"knows {listed}"
        )
    return {label: index[name] for label, name in used.items()}


def true_labels(clip: Clip) -> tuple[int, ...]:
    """Return the indices of a clip's labels: one, or those of a multi-hot row."""
    if isinstance(clip.label, Tensor):
        return tuple(clip.label.nonzero()[:, 0].tolist())
    return (int(clip.label),)


def _only_classifier(jobs: Any) -> Classifier:
    jobs = list(jobs)
    if not jobs:
        raise ValueError("there is no job: give at least one method")
    first = jobs[0].classifier
    if any(job.classifier.network is not first.network for job in jobs):
        raise ValueError("the jobs are of several classifiers: run a set for each of them")
    return first


def _diagnostics(
    said: Mapping[str, Tensor], about: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what is said of each map, with the columns that name its row."""
    lists = {name: values.tolist() for name, values in said.items()}
    return [
        {key: row[key] for key in keys} | {name: values[place] for name, values in lists.items()}
        for place, row in enumerate(about)
    ]


def _rows(scores: Scores, about: Sequence[Mapping[str, Any]]) -> _Rows:
    """Return a batch's rows of every table."""
    return {
        key: [
            row | dict(zip(values, metrics, strict=True))
            for row, metrics in zip(
                about, zip(*(v.tolist() for v in values.values()), strict=True), strict=True
            )
        ]
        for key, values in scores.metrics.items()
    }


def _write(
    run: RunFolder,
    maps: dict[str, np.ndarray],
    diagnostics: list[dict[str, Any]],
    rows: _Rows,
) -> None:
    """File a batch: the maps first, so that no row is without its map."""
    run.save_attributions(maps, diagnostics)
    run.append(rows)
