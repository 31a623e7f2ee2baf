"""A batch of labelled clips, with ground truth where known, explained for a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiointerp.dataset.base import Clip, ClipDataset, Event
from audiointerp.evaluation import Truth, event_cells, event_frames, sounding_frames
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.runs.clip import Scores, analyse, classify, interpret_batch
from audiointerp.runs.job import Job
from audiointerp.runs.store import EXPLAINED, RunFolder, attribution_name
from audiointerp.runs.targets import TrueLabels, choose_targets
from audiointerp.speed.scoring import Scorer

Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""Rows of every table, by what was measured on and mask."""


class Explained(NamedTuple):
    """What comes of a batch for one run.

    Attributes
    ----------
    maps : dict of str to ndarray, shape (bins, frames)
        By the name that each is filed under; none that was there already.
    diagnostics : list of dict
        What is said of each map, with the columns that name its row.
    rows : dict of (place, mask) to list of dict
        Of every table; none if no label was explained.
    unlabelled : dict of str to str
        Clips without a label to explain, and why.
    """

    maps: dict[str, NDArray]
    diagnostics: list[dict[str, Any]]
    rows: Rows
    unlabelled: dict[str, str]


@dataclass(frozen=True)
class LabelledBatch:
    """A batch of a set's clips, analysed once, and classified once for every precision.

    Attributes
    ----------
    classifier : Classifier
    dataset : ClipDataset
        That the clips are of.
    class_of : dict of int to int
        The classifier's index of every label of the set; see `match_classes`.
    clips : list of Clip
    probabilities : dict of str to Tensor, shape (clips, classes)
        By precision, filled as it is asked for.
    """

    classifier: Classifier
    dataset: ClipDataset
    class_of: dict[int, int]
    clips: list[Clip]
    probabilities: dict[str, Tensor] = field(default_factory=dict)

    def part(self, clips: Sequence[Clip]) -> LabelledBatch:
        """Return a batch of some of the clips."""
        return LabelledBatch(self.classifier, self.dataset, self.class_of, list(clips))

    @cached_property
    def view(self) -> View:
        """The clips' cells."""
        return self._analyse([clip.waveform for clip in self.clips])

    @cached_property
    def truth(self) -> Truth | None:
        """What is known of all clips of the batch, whatever is explained."""
        dataset = self.dataset
        if not dataset.has_parts:
            return Truth(labels=self.labels) if dataset.has_events else None
        front_end = self.classifier.front_end
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
        return self.classifier.front_end.times(self.view.cells.shape[3]).cpu()

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
        if not self.dataset.has_events:
            return truth
        rows = zip(clip.tolist(), target.tolist(), strict=True)
        events = [self._events(*row) for row in rows]
        spans = [[(event.onset, event.offset) for event in own] for own in events]
        active = torch.stack([event_frames(own, self._times) for own in spans])
        return truth.with_active(active, self._boxes(events))

    def _events(self, place: int, target: int) -> list[Event]:
        """Return the events of a clip of which the set says that they are of a class."""
        dataset, class_of = self.dataset, self.class_of
        events = dataset.true_events(dataset.index(self.clips[place].clip_id))
        return [
            event for event in events if class_of.get(dataset.classes.index(event.label)) == target
        ]

    def _boxes(self, events: Sequence[Sequence[Event]]) -> Tensor | None:
        """Return the cells of each row's events, None where no frequencies are known."""
        if not self.dataset.has_boxes:
            return None
        frequencies = self.classifier.front_end.frequencies.cpu()
        boxes = [[(e.onset, e.offset, e.low, e.high) for e in own] for own in events]
        return torch.stack([event_cells(own, frequencies, self._times) for own in boxes])[:, None]

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
            labels = [self.class_of[label] for label in label_set]
            if any(label >= outputs for label in labels):
                raise ValueError(
                    f"the set has a class number {max(labels)}, the model {outputs} outputs: is "
                    "it a model of another set?"
                )
            has[row, labels] = True
        return has

    def _analyse(self, waveforms: Sequence[Tensor]) -> View:
        return analyse(self.classifier, torch.stack(list(waveforms)))

    def interpret(
        self, job: Job, scorer: Scorer, run: RunFolder, wanted: Collection[str]
    ) -> Explained:
        """Explain what a run wants of the batch, with the maps that the run has already.

        Parameters
        ----------
        job : Job
        scorer : Scorer
            Of the job's classifier.
        run : RunFolder
            Whose saved maps are scored instead of computed, where a batch has all of them.
        wanted : collection of str
            Names of clips, one of them in the batch at least.

        Returns
        -------
        Explained

        Raises
        ------
        ValueError
            If the set has a class number beyond the model's outputs.
        """
        places = [place for place, clip in enumerate(self.clips) if clip.clip_id in wanted]
        if job.precision not in self.probabilities:
            self.probabilities[job.precision] = classify(job, scorer, self.view)
        probabilities = self.probabilities[job.precision]
        names = self.classifier.class_names(probabilities.shape[1])
        place = torch.tensor(places, device=probabilities.device)
        true = self.labels[places] if isinstance(job.target, TrueLabels) else None
        row, target = choose_targets(job.target, probabilities[place], names, true=true)
        clip = place[row]
        unlabelled = self._unlabelled(job, places, clip)
        if not len(clip):
            return Explained({}, [], {}, unlabelled)
        view, truth = self.view, self.truth_of(clip, target)
        if not self._is_all(clip):
            view, probabilities = view[clip], probabilities[clip]
        clips = [self.clips[each] for each in clip.tolist()]
        labels = [None] * len(clips) if job.target is None else target.tolist()
        maps = [attribution_name(c.clip_id, label) for c, label in zip(clips, labels, strict=True)]
        saved = [run.load_attribution(name, tuple(view.cells.shape[2:])) for name in maps]
        attribution = None
        if all(kept is not None for kept in saved):
            attribution = torch.from_numpy(np.stack(saved))[:, None].to(view.cells)
        scores = interpret_batch(
            job, scorer, view, probabilities, target, attribution=attribution, truth=truth
        )
        about = self._about(clips, probabilities, target if job.target is not None else None, names)
        found: dict[str, NDArray] = {}
        said = scores.facts
        if attribution is None:
            found = dict(zip(maps, scores.attribution[:, 0].cpu().numpy(), strict=True))
            said = scores.diagnostics | scores.facts
        diagnostics = _diagnostics(said, about, run.keys)
        return Explained(found, diagnostics, _rows(scores, about), unlabelled)

    def _unlabelled(self, job: Job, places: Sequence[int], clip: Tensor) -> dict[str, str]:
        """Return the clips of some places of which no label is explained, and why."""
        own = isinstance(job.target, TrueLabels)
        why = "the set gives it no label" if own else f"no label reaches {job.target}"
        explained = set(clip.tolist())
        return {self.clips[place].clip_id: why for place in places if place not in explained}

    def _about(
        self,
        clips: Sequence[Clip],
        probabilities: Tensor,
        explained: Tensor | None,
        names: tuple[str, ...],
    ) -> list[dict[str, Any]]:
        """Return the columns of every row that name its clip and labels."""
        classes, class_of = self.dataset.classes, self.class_of
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


def _diagnostics(
    said: Mapping[str, Tensor], about: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what is said of each map, with the columns that name its row."""
    lists = {name: values.tolist() for name, values in said.items()}
    return [
        {key: row[key] for key in keys} | {name: values[place] for name, values in lists.items()}
        for place, row in enumerate(about)
    ]


def _rows(scores: Scores, about: Sequence[Mapping[str, Any]]) -> Rows:
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
