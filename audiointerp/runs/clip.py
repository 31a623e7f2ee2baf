"""Interpret a batch of clips: a pure function of job, clips and seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audiointerp.dataset.failures import ends_all
from audiointerp.device import device_of
from audiointerp.evaluation import (
    METRICS,
    Evidence,
    Metric,
    Truth,
    available_metrics,
    evaluate_evidence,
    truth_facts,
)
from audiointerp.interpretation import Explanation
from audiointerp.masking import map_facts
from audiointerp.model.classifier import Classifier
from audiointerp.model.provenance import warn_untrained
from audiointerp.processing import View
from audiointerp.runs.job import Job, Place
from audiointerp.runs.result import Interpretation
from audiointerp.runs.targets import Target, check_target, choose_targets
from audiointerp.runs.windows import Section
from audiointerp.speed.inference import evaluation_mode
from audiointerp.speed.precision import computing
from audiointerp.speed.scoring import DistinctMasks, Scorer, distinct_masks, score_masks

MEASURED = frozenset(
    (
        *("inside", "outside", "mask", "sound", "attribution", "view", "classifier"),
        *("level", "score"),
    )
)
"""What is known of every clip that is interpreted."""


@dataclass(frozen=True)
class Scores:
    """Explanations of a batch of clips, masked and measured; one row per explanation.

    Attributes
    ----------
    view : View
        Cells and sound, one row per explanation.
    probabilities : Tensor, shape (rows, classes), float64
        Of the clips as they are.
    target : Tensor, shape (rows,)
        The explained classes.
    attribution : Tensor, shape (rows, 1, bins, frames)
    diagnostics : dict of str to Tensor of shape (rows,)
        What the method says of its own maps, such as SHAP's additivity residual.
    facts : dict of str to Tensor of shape (rows,)
        What makes maps and masks degenerate, see `audiointerp.masking.map_facts`, and what there is
        to find in the clips, see `audiointerp.evaluation.truth_facts`.
    masks : dict of str to Tensor, shape (rows, 1, bins, frames)
    metrics : dict
        ``metrics[place, mask][name]`` of shape (rows,), place "features" or "audio".
    masked_probabilities : dict
        ``masked_probabilities[place, mask]`` = (p_in, p_out) of every class, (rows, classes).
    """

    view: View
    probabilities: Tensor
    target: Tensor
    attribution: Tensor
    diagnostics: dict[str, Tensor]
    facts: dict[str, Tensor]
    masks: dict[str, Tensor]
    metrics: dict[tuple[str, str], dict[str, Tensor]]
    masked_probabilities: dict[tuple[str, str], tuple[Tensor, Tensor]]

    def metrics_of(self, row: int, on: str) -> pd.DataFrame:
        """Return one explanation's metrics, a row for each mask, measured on features or sound."""
        rows = {
            mask: {name: float(value[row]) for name, value in values.items()}
            for (place, mask), values in self.metrics.items()
            if place == on
        }
        return pd.DataFrame(rows).T.rename_axis("mask")

    def probabilities_of(self, row: int, on: str, classes: Sequence[str]) -> pd.DataFrame:
        """Return what one clip's masked parts are taken for, a row for each mask and part."""
        rows = {
            (mask, part): values[row].cpu().numpy()
            for (place, mask), masked in self.masked_probabilities.items()
            for part, values in zip(("in", "out"), masked, strict=True)
            if place == on
        }
        index = pd.MultiIndex.from_tuples(rows, names=["mask", "part"])
        return pd.DataFrame(np.stack(list(rows.values())), index, list(classes))


def job_metrics(
    *,
    parts: bool = False,
    events: bool = False,
    boxes: bool = False,
    extra: Collection[str] = (),
) -> dict[str, Metric]:
    """Return the metrics that interpreted clips have.

    Parameters
    ----------
    parts, events, boxes : bool
        Whether the clips' parts are known, the frames in which their events sound, and the cells.
    extra : collection of str
        Families of metrics on request that are wanted.
    """
    told = {"truth": parts or boxes, "parts": parts, "events": events}
    truth = {name for name, known in told.items() if known}
    return available_metrics(MEASURED | truth, extra)


def classify(job: Job, scorer: Scorer, view: View) -> Tensor:
    """Return the probabilities (batch, classes), float64, of a batch of clips as they are."""
    with computing(job.precision, view.cells.device):
        return scorer(view.cells, view)


def interpret_batch(
    job: Job,
    scorer: Scorer,
    view: View,
    probabilities: Tensor,
    target: Tensor,
    *,
    attribution: Tensor | None = None,
    truth: Truth | None = None,
) -> Scores:
    """Explain one label of every clip of a batch, mask the clips and measure the masks.

    Parameters
    ----------
    job : Job
    scorer : Scorer
        Of the job's classifier as it is now.
    view : View
        Of the clips, on the classifier's device.
    probabilities : Tensor, shape (batch, classes)
        As `classify` returns them.
    target : Tensor of int64, shape (batch,)
        The classes to explain.
    attribution : Tensor, shape (batch, 1, bins, frames), optional
        Maps made earlier, to be scored instead of computed.
    truth : Truth, optional
        What is known of the clips' parts, events and labels, for metrics that need it.

    Returns
    -------
    Scores
        No clip's depend on the others in the batch.

    Warns
    -----
    MissingClassWarning
        If the model was trained without a clip of a class that is explained, by its card.
    """
    names = job.classifier.class_names(probabilities.shape[1])
    warn_untrained(job.classifier, {names[label] for label in target.tolist()})
    with computing(job.precision, view.cells.device):
        if attribution is None:
            explanation = job.interpreter.explain(view, target, truth=truth)
        else:
            explanation = Explanation(attribution, target)
        masks = job.make_masks(explanation.attribution)
        work = _Measuring(job, scorer, view, probabilities, target, explanation.attribution, truth)
        metrics, masked = work.measure(masks)
    facts = map_facts(explanation.attribution, masks)
    return Scores(
        view,
        probabilities,
        target,
        explanation.attribution,
        explanation.diagnostics,
        facts if truth is None else facts | truth_facts(truth, target),
        masks,
        metrics,
        masked,
    )


def interpret_clips(
    job: Job, waveforms: Tensor, names: Sequence[str | Section], *, target: Target = None
) -> list[Interpretation]:
    """Interpret clips of one length.

    Parameters
    ----------
    job : Job
    waveforms : Tensor, shape (batch, 1, samples)
        At the front end's rate.
    names : sequence of str or Section
        What to call the clips, or which parts of recordings they are.
    target : str, int, sequence of them, `Top`, `Above`, optional
        Labels to explain; each clip's predicted one by default.

    Returns
    -------
    list of Interpretation
        One for every label of every clip, clip by clip. Under `Above` a clip may have none.

    Raises
    ------
    ValueError
        If there is not one name per clip, or the target is no class.
    """
    if len(names) != len(waveforms):
        raise ValueError(f"{len(names)} names for {len(waveforms)} clips")
    scorer = Scorer(job.classifier, batch_size=job.batch_size)
    return Batch.of(job, scorer, waveforms, names, target).explain(job)


@dataclass(frozen=True)
class Batch:
    """Clips of one length, analysed and classified once for all methods.

    Attributes
    ----------
    scorer : Scorer
        Of the classifier.
    names : sequence of str or Section
        What to call the clips, or which parts of recordings they are.
    view : View
        Of the clips.
    probabilities : Tensor, shape (batch, classes)
        As `classify` returns them.
    chosen : tuple of Tensor, shape (explanations,)
        Which labels of which clips to explain; see `audiointerp.runs.targets.choose_targets`.
    """

    scorer: Scorer
    names: Sequence[str | Section]
    view: View
    probabilities: Tensor
    chosen: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        job: Job,
        scorer: Scorer,
        waveforms: Tensor,
        names: Sequence[str | Section],
        target: Target,
    ) -> Batch:
        """Analyse and classify waveforms (batch, 1, samples), and choose the labels to explain."""
        check_target(target, job.classifier.classes)
        view = analyse(job.classifier, waveforms)
        probabilities = classify(job, scorer, view)
        classes = job.classifier.class_names(probabilities.shape[1])
        chosen = choose_targets(target, probabilities, classes)
        return cls(scorer, names, view, probabilities, chosen)

    def explain(self, job: Job) -> list[Interpretation]:
        """Return the interpretations by one job of the classifier, one for every explanation."""
        clips, labels = self.chosen
        if not len(clips):
            return []
        view, probabilities = self.view, self.probabilities
        if not torch.equal(clips, torch.arange(len(view), device=clips.device)):
            view, probabilities = view[clips], probabilities[clips]
        scores = interpret_batch(job, self.scorer, view, probabilities, labels)
        classes = job.classifier.class_names(probabilities.shape[1])
        return [
            _interpretation(job, scores, row, self.names[clip], classes)
            for row, clip in enumerate(clips.tolist())
        ]


def analyse(classifier: Classifier, waveforms: Tensor) -> View:
    """Return the view of waveforms (batch, 1, samples), on the classifier's device."""
    with torch.no_grad():
        return classifier.front_end.analyse(waveforms.to(device_of(classifier.network)))


def check_length(classifier: Classifier, samples: int) -> None:
    """Check that a classifier takes sounds of a length, by running it once on noise.

    Parameters
    ----------
    classifier : Classifier
    samples : int
        At the front end's rate.

    Raises
    ------
    ValueError
        If it does not.
    """
    rate = classifier.front_end.sample_rate
    noise = torch.rand(samples, generator=torch.Generator().manual_seed(0)) - 0.5
    try:
        with evaluation_mode(classifier.network), torch.no_grad():
            view = analyse(classifier, noise[None, None])
            classifier.logits(view.cells, view)
    except Exception as error:
        if ends_all(error):
            raise
        raise ValueError(
            f"the model fails on sounds of {samples / rate:g} s, {samples} samples at {rate} Hz "
            f"({error}): does it take longer ones?"
        ) from error


def _interpretation(
    job: Job, scores: Scores, row: int, name: str | Section, classes: tuple[str, ...]
) -> Interpretation:
    """Return one explanation of a batch."""
    part = slice(row, row + 1)
    view = scores.view[part]
    masks = {mask: values[part] for mask, values in scores.masks.items()}
    level = job.level(view.cells)
    section = name if isinstance(name, Section) else None
    return Interpretation(
        clip=name if section is None else section.name,
        method=job.method,
        processor=job.front_end,
        view=view,
        classes=classes,
        probabilities=scores.probabilities[row].cpu().numpy(),
        decisions=job.classifier.head.decisions(scores.probabilities[part])[0].cpu().numpy(),
        target=int(scores.target[row]),
        attribution=scores.attribution[part],
        diagnostics={key: float(value[row]) for key, value in scores.diagnostics.items()},
        masks=masks,
        masked={mask: job.mask(view.cells, values, level) for mask, values in masks.items()},
        metrics_on={on: scores.metrics_of(row, on) for on in job.on},
        class_probabilities_on={on: scores.probabilities_of(row, on, classes) for on in job.on},
        section=section,
    )


def gather_evidence(
    job: Job,
    scorer: Scorer,
    view: View,
    probabilities: Tensor,
    target: Tensor,
    attribution: Tensor,
    on: Place,
    *,
    truth: Truth | None = None,
) -> Evidence:
    """Return what is known of the maps of a batch of clips, for metrics that need no mask.

    Parameters
    ----------
    job, scorer, view, probabilities, target, truth
        See `interpret_batch`.
    attribution : Tensor, shape (batch, 1, bins, frames)
        The maps.
    on : {"features", "audio"}
        Where changed cells are scored.
    """
    work = _Measuring(job, scorer, view, probabilities, target, attribution, truth)
    needs = frozenset({"attribution", "view", "level", "score"})
    return work.evidence(slice(None), needs, on)


@dataclass(frozen=True)
class _Measuring:
    """The measurement of one batch."""

    job: Job
    scorer: Scorer
    view: View
    probabilities: Tensor
    target: Tensor
    attribution: Tensor
    truth: Truth | None

    def measure(
        self, masks: dict[str, Tensor]
    ) -> tuple[dict[tuple[str, str], dict[str, Tensor]], dict[tuple[str, str], tuple]]:
        """Return metrics and masked probabilities, by what is measured on and mask."""
        distinct = distinct_masks(masks)
        level = self.job.level(self.view.cells)
        truth = self.truth or Truth()
        chosen = job_metrics(
            parts=truth.has_parts,
            events=truth.active is not None,
            boxes=truth.boxes is not None,
            extra=self.job.extra,
        )
        of_map, of_mask, of_sound = (
            {name: metric for name, metric in chosen.items() if metric.level == judged}
            for judged in ("map", "mask", "sound")
        )
        scored = {name: metric for name, metric in of_map.items() if "score" in metric.needs}
        unscored = {name: metric for name, metric in of_map.items() if name not in scored}
        everywhere = slice(None)
        of_any_place = evaluate_evidence(self.evidence(everywhere, _needs(unscored)), unscored)
        heard: list[dict[str, Tensor]] = []

        def listen(clip: Tensor, mask: Tensor, sound: Tensor) -> None:
            # The sounds of all masks take much memory: each is let go once it is measured.
            evidence = self.evidence(clip, _needs(of_sound), mask=mask, sound=sound)
            heard.append(evaluate_evidence(evidence, of_sound))

        # Where the masked clips become sound anyway, none is made for the metrics of the sound.
        listens_on = ("audio" if "audio" in self.job.on else self.job.on[0]) if of_sound else None
        probabilities = {
            on: self._masked_probabilities(
                distinct, level, on, listen if on == listens_on else None
            )
            for on in self.job.on
        }
        about_sounds = {name: torch.cat([part[name] for part in heard]) for name in of_sound}
        metrics, masked = {}, {}
        for on, (inside, outside) in probabilities.items():
            evidence = self.evidence(
                distinct.clip,
                _needs(of_mask),
                on,
                inside=inside,
                outside=outside,
                mask=distinct.masks,
            )
            found = evaluate_evidence(evidence, of_mask) | about_sounds
            evidence = self.evidence(everywhere, _needs(scored), on)
            about_maps = of_any_place | evaluate_evidence(evidence, scored)
            for name, rows in distinct.place.items():
                values = {metric: each[rows] for metric, each in found.items()} | about_maps
                metrics[on, name] = {
                    metric: values[metric] for metric in METRICS if metric in values
                }
                masked[on, name] = (inside[rows], outside[rows])
        return metrics, masked

    def evidence(
        self,
        clip: slice | Tensor,
        needs: frozenset[str],
        on: str | None = None,
        **known: Tensor,
    ) -> Evidence:
        """Return what is needed of what is known.

        Parameters
        ----------
        clip : slice or Tensor
            Positions in the batch of the clips of each row.
        needs : frozenset of str
            Names in ``EVIDENCE``.
        on : str, optional
            What is measured on; without it nothing else can be scored.
        **known
            Further attributes of the evidence, with these rows.
        """
        return Evidence(
            self.probabilities[clip],
            self.target[clip],
            attribution=self.attribution[clip] if "attribution" in needs else None,
            view=self.view[clip] if "view" in needs else None,
            truth=self.truth[clip] if needs & {"truth", "parts", "events"} else None,
            classifier=self.job.classifier,
            keeps=self.job.classifier.head.keeps,
            level=self.job.level(self.view.cells)[clip] if "level" in needs else None,
            score=self._score(on, clip) if on and "score" in needs else None,
            **known,
        )

    def _score(self, on: str, clip: slice | Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the scoring of changed cells, given which clip each row of the evidence is of."""
        clip = torch.arange(len(self.view))[clip]

        def score(cells: Tensor, rows: Tensor) -> Tensor:
            clips = clip[rows.cpu()]
            size = self.scorer.rows(cells)
            with torch.no_grad():
                parts = zip(cells.split(size), clips.split(size), strict=True)
                return torch.cat([self.scorer(*self._presented(*part, on)) for part in parts])

        return score

    def _presented(self, cells: Tensor, clip: Tensor, on: str) -> tuple[Tensor, View | None]:
        """Return what the model is given for changed cells of some clips: they, or their sound."""
        if on == "features":
            return cells, self.view[clip] if self.job.classifier.needs_view else None
        heard = self.job.front_end.analyse(self.job.front_end.synthesise(self.view[clip], cells))
        return heard.cells, heard

    def _masked_probabilities(
        self,
        masks: DistinctMasks,
        level: Tensor,
        on: str,
        listen: Callable[[Tensor, Tensor, Tensor], None] | None,
    ) -> tuple[Tensor, Tensor]:
        """Score all masks; `listen` gets what some of them keep as sound, in their order."""
        front_end = self.job.front_end

        def masked(clip: Tensor, mask: Tensor) -> tuple[Tensor, View | None]:
            both = torch.cat(self.job.mask(self.view.cells[clip], mask, level[clip]))
            twice = clip.repeat(2)
            if on == "features":
                if listen is not None:
                    kept = both[: len(clip)]
                    listen(clip, mask, front_end.synthesise(self.view[clip], kept))
                return self._presented(both, twice, on)
            sound = front_end.synthesise(self.view[twice], both)
            if listen is not None:
                listen(clip, mask, sound[: len(clip)])
            heard = front_end.analyse(sound)
            return heard.cells, heard

        return score_masks(self.scorer, masks, masked)


def _needs(metrics: dict[str, Metric]) -> frozenset[str]:
    """Return what some metrics need to be known."""
    return frozenset().union(*(metric.needs for metric in metrics.values()))
