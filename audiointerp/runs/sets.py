"""Interpret sets: model, then batch, then methods, so that a clip is read and classified once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import read_ahead
from audiointerp.dataset.failures import Failures, each_alone
from audiointerp.device import device_of
from audiointerp.evaluation import families_on_request, metric_columns
from audiointerp.evaluation.statistics import population_counts
from audiointerp.model.classifier import Classifier
from audiointerp.model.provenance import remark_overlap
from audiointerp.registry import check_different
from audiointerp.runs.clip import check_length, job_metrics
from audiointerp.runs.job import Job, Place
from audiointerp.runs.labelled import Explained, LabelledBatch, match_classes
from audiointerp.runs.store import RunFolder, list_metrics, run_file
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
        known = {
            "parts": dataset.has_parts,
            "events": dataset.has_parts or dataset.has_events,
            "boxes": dataset.has_boxes,
        }
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
                batch = LabelledBatch(self.classifier, self.dataset, self.class_of, clips)
                for folder, job in self.jobs.items():
                    started = time.perf_counter()
                    for done in self._interpret(batch, folder, job, scorers[job.batch_size]):
                        writing.result()
                        writing = writer.submit(_write, self.runs[folder], done)
                    seconds[folder] += time.perf_counter() - started
                bar.update(len(clips))
            writing.result()
        for failures in self.failures.values():
            failures.finish()
        for folder in unfinished:
            self.runs[folder].finish(self._report(folder, seconds[folder]))

    def _interpret(
        self, batch: LabelledBatch, folder: Path, job: Job, scorer: Scorer
    ) -> list[Explained]:
        """Return what a run misses of a batch, in parts where some clip fails."""
        todo = self.todo[folder]
        missing = [clip for clip in batch.clips if clip.clip_id in todo]
        if not missing:
            return []
        failures = self.failures[folder]

        def interpret(clips: Sequence[Clip]) -> Explained:
            part = batch if clips is missing else batch.part(clips)
            done = part.interpret(job, scorer, self.runs[folder], todo)
            failures.succeed()
            return done

        found = each_alone(
            missing, interpret, lambda clip, error: failures.add(clip.clip_id, error)
        )
        for done in found:
            self.unlabelled[folder] |= done.unlabelled
        return [done for done in found if done.rows]

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


def _only_classifier(jobs: Any) -> Classifier:
    jobs = list(jobs)
    if not jobs:
        raise ValueError("there is no job: give at least one method")
    first = jobs[0].classifier
    if any(job.classifier.network is not first.network for job in jobs):
        raise ValueError("the jobs are of several classifiers: run a set for each of them")
    return first


def _write(run: RunFolder, done: Explained) -> None:
    """File a batch: the maps first, so that no row is without its map."""
    run.save_attributions(done.maps, done.diagnostics)
    run.append(done.rows)
