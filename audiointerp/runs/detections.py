"""Detections in recordings: where a class reaches a threshold, and where its evidence lies.

The recordings are opened, cut into windows, classified and explained as `audiointerp interpret`
does it. Adjacent windows in which a class reaches the threshold are one detection, of which the
window with the highest probability is explained.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audiointerp.dataset.channels import CHANNELS, MID
from audiointerp.dataset.failures import each_alone
from audiointerp.evaluation.placement import place_evidence
from audiointerp.hiding import HIDINGS
from audiointerp.model.classifier import Classifier
from audiointerp.runs.clip import Batch
from audiointerp.runs.files import make_jobs
from audiointerp.runs.opening import Opened, open_files
from audiointerp.runs.passes import Recording, hear, interpret_windows
from audiointerp.runs.recipe import Recipe
from audiointerp.runs.result import Interpretation
from audiointerp.runs.targets import Above
from audiointerp.runs.timeline import Timeline
from audiointerp.runs.windows import Windowing
from audiointerp.speed.scoring import Scorer

METHOD = "saliency"
"""Method of an audit unless told otherwise; docs/models/audit.ipynb says why."""
MASK = "topK_5_pos"
"""Mask that makes the evidence audible: the highest 5 % of the cells, as far as positive."""
BASE = "quiet"

Key = tuple[str, float, str]
"""What tells a detection from all others: file, start of the explained window, label."""


@dataclass(frozen=True)
class Detection:
    """A class that a recording is taken for, and where the evidence of its best window lies.

    Evidence is the relevance of the cells that the mask keeps; its values are those of
    `audiointerp.evaluation.placement.Placement`, NaN where there is none.

    Attributes
    ----------
    file : str
        Path below the folder.
    label : str
    start, end : float
        Seconds of the recording, from the first to the last of the adjacent windows.
    windows : int
        How many these are.
    probability : float
        In the explained window, the highest of them.
    window_start, window_end : float
        The explained window, seconds of the recording.
    p_evidence, p_rest : float
        The probability of what the mask keeps, and of what it leaves.
    p_without_band : float
        The probability when all cells between `low_hz` and `high_hz`, and of one bin more on each
        side, are imputed from their neighbours (``HIDINGS["road"]``), in all frames.
    peak_hz : float
        Centre of the bin with the most relevance.
    low_hz, high_hz, low_90_hz, high_90_hz : float
        The narrowest band with 50 % of the relevance, and with 90 %.
    evidence_start, evidence_end : float
        The shortest stretch with 50 %, seconds of the recording.
    bandwidth, steadiness, band_energy, overlap, at_start, at_end, edge_energy, silence : float
        Shares.
    level_db : float
        RMS of the explained window as the network has it, dB of full scale.
    profile, energy : tuple of float
        Share of the relevance, and of the window's energy, in each bin.
    """

    file: str
    label: str
    start: float
    end: float
    windows: int
    probability: float
    window_start: float
    window_end: float
    p_evidence: float
    p_rest: float
    p_without_band: float
    peak_hz: float
    low_hz: float
    high_hz: float
    low_90_hz: float
    high_90_hz: float
    evidence_start: float
    evidence_end: float
    bandwidth: float
    steadiness: float
    band_energy: float
    overlap: float
    at_start: float
    at_end: float
    edge_energy: float
    silence: float
    level_db: float
    profile: tuple[float, ...]
    energy: tuple[float, ...]

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.file, self.window_start, self.label


class Peak(NamedTuple):
    """Adjacent windows in which a class reaches the threshold: from, to, and how many."""

    start: float
    end: float
    windows: int


class Auditor:
    """Finds the detections of recordings.

    Parameters
    ----------
    classifier : Classifier
    threshold : float
        Probability that a detection reaches, between 0 and 1.
    method : str
        A name in ``METHODS``.
    mask : str
        Makes the evidence audible.
    base : str
        What a removed cell becomes; see `audiointerp.masking.base_level`.
    windowing : Windowing, optional
        The part of each file to analyse, and the windows; all are explained that are the best of a
        detection.
    channel : {"mid", "left", "right", "side"}
    background : "synthetic" or path
        Set of the methods that compare with clips.
    seed : int

    Raises
    ------
    ValueError
        If a name or setting is unusable.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        threshold: float = 0.5,
        method: str = METHOD,
        mask: str = MASK,
        base: str = BASE,
        windowing: Windowing | None = None,
        channel: str = MID,
        background: str | os.PathLike[str] = "synthetic",
        seed: int = 0,
    ) -> None:
        CHANNELS[channel]
        self.channel = channel
        self.mask = mask
        self.windowing = replace(windowing or Windowing(), windows="all")
        recipe = Recipe(
            method, masks=mask, base=base, seed=seed, target=Above(threshold), progress=False
        )
        if len(recipe.methods) != 1:
            raise ValueError(f"{len(recipe.methods)} methods: an audit explains by one of them")
        jobs = make_jobs({"": classifier}, recipe, background, self.windowing)[""]
        (self.job,) = jobs.values()
        self._scorer = Scorer(classifier, batch_size=self.job.batch_size)

    @property
    def classifier(self) -> Classifier:
        """The classifier."""
        return self.job.classifier

    def settings(self) -> dict[str, Any]:
        """Return everything that a detection depends on beside its file, ready for JSON."""
        windowing = {name: getattr(self.windowing, name) for name in _WINDOWING}
        return json.loads(
            json.dumps(
                self.job.settings()
                | {"mask": self.mask, "channel": self.channel, "windowing": windowing}
                | {"columns": list(Detection.__dataclass_fields__)}  # other versions have others
            )
        )

    def detect(
        self,
        files: Mapping[str, Path],
        *,
        only: frozenset[Key] | None = None,
        opened: Callable[[Opened], None] = lambda file: None,
        failed: Callable[[str, Exception], None],
        see: Callable[[Detection, Interpretation], None] = lambda detection, result: None,
    ) -> Iterator[tuple[str, list[Detection]]]:
        """Yield the detections of each file that nothing goes wrong with.

        Parameters
        ----------
        files : mapping of str to Path
            By their names in the results.
        only : frozenset of (str, float, str), optional
            `Detection.key` of those to explain; all by default.
        opened : callable
            Is given each file that could be opened.
        failed : callable
            Is given the name of a file that something goes wrong with, and the error.
        see : callable
            Is given every detection with its interpretation, which is let go then. Where clips are
            tried again one by one, it may be given one again.

        Yields
        ------
        name : str
        found : list of Detection
            In the order of time.
        """
        batches = open_files(
            files,
            self.classifier,
            self.windowing,
            channel=self.channel,
            opened=opened,
            failed=failed,
        )
        for batch in batches:
            work = self._in_clips if batch[0].waveform is not None else self._in_recording
            results = each_alone(
                batch,
                lambda some, work=work: work(some, only, see),
                lambda file, error: failed(file.name, error),
            )
            for found in results:
                yield from found.items()

    def _in_clips(
        self, clips: Sequence[Opened], only: frozenset[Key] | None, see: Callable
    ) -> dict[str, list[Detection]]:
        waveforms = torch.stack([clip.waveform for clip in clips])
        names = [clip.recording.section for clip in clips]
        batch = Batch.of(self.job, self._scorer, waveforms, names, self.job.target)
        classes = self.classifier.class_names(batch.probabilities.shape[1])
        peaks = [Peak(*clip.recording.coverage().windows[0], 1) for clip in clips]
        pairs = list(zip(*(each.tolist() for each in batch.chosen), strict=True))
        if only is not None:
            wanted = [(clips[n].name, peaks[n].start, classes[label]) in only for n, label in pairs]
            pairs = list(itertools.compress(pairs, wanted))
            mask = torch.tensor(wanted, dtype=torch.bool, device=batch.chosen[0].device)
            batch = replace(batch, chosen=tuple(each[mask] for each in batch.chosen))
        found: dict[str, list[Detection]] = {clip.name: [] for clip in clips}
        for (n, _), result in zip(pairs, batch.explain(self.job), strict=True):
            detection = self._describe(clips[n].name, result, peaks[n], peaks[n].start)
            found[clips[n].name].append(detection)
            see(detection, result)
        return found

    def _in_recording(
        self, files: Sequence[Opened], only: frozenset[Key] | None, see: Callable
    ) -> dict[str, list[Detection]]:
        (file,) = files
        job = self.job
        heard = hear(file.recording, job, self._scorer, target=job.target, most="all")
        times = heard.coverage.windows
        peaks = find_peaks(heard)
        if only is not None:
            peaks = {
                (place, label): peak
                for (place, label), peak in peaks.items()
                if (file.name, times[place][0], heard.classes[label]) in only
            }
        found: list[Detection] = []
        if peaks:
            chosen = only_peaks(file.recording, heard, peaks)
            results = interpret_windows(file.recording, chosen, {"": job}, self._scorer)
            for (place, _), (_, result) in zip(peaks, results, strict=True):
                start = times[place][0]
                detection = self._describe(file.name, result, peaks[place, result.target], start)
                found.append(detection)
                see(detection, result)
        return {file.name: found}

    def _describe(
        self, name: str, result: Interpretation, peak: Peak, window_start: float
    ) -> Detection:
        placed = place_evidence(evidence_of(result), result.view, self.job.front_end)
        section = result.section
        seconds = result.view.waveform.shape[-1] / self.job.front_end.sample_rate
        window_end = section.end if section is not None else window_start + seconds
        chances = next(iter(result.probabilities_on.values())).iloc[0]
        hertz = self.job.front_end.frequencies
        profile = placed.profile[0]
        is_known = not bool(torch.isnan(profile[0]))
        rms = float(result.view.waveform.double().square().mean().sqrt())
        return Detection(
            file=name,
            label=result.target_label,
            start=peak.start,
            end=peak.end,
            windows=peak.windows,
            probability=float(result.probabilities[result.target]),
            window_start=window_start,
            window_end=window_end,
            p_evidence=float(chances["in"]),
            p_rest=float(chances["out"]),
            p_without_band=self._without_band(result, placed.band_bins[0]),
            peak_hz=float(hertz[int(profile.argmax())]) if is_known else math.nan,
            low_hz=float(placed.band[0, 0]),
            high_hz=float(placed.band[0, 1]),
            low_90_hz=float(placed.wide_band[0, 0]),
            high_90_hz=float(placed.wide_band[0, 1]),
            evidence_start=window_start + float(placed.span[0, 0]),
            evidence_end=window_start + float(placed.span[0, 1]),
            bandwidth=float(placed.bandwidth[0]),
            steadiness=float(placed.steadiness[0]),
            band_energy=float(placed.band_energy[0]),
            overlap=float(placed.overlap[0]),
            at_start=float(placed.start[0]),
            at_end=float(placed.end[0]),
            edge_energy=float(placed.edge_energy[0]),
            silence=float(placed.silence[0]),
            level_db=20 * math.log10(rms) if rms > 0 else -math.inf,
            profile=tuple(profile.tolist()),
            energy=tuple(placed.energy[0].tolist()),
        )

    def _without_band(self, result: Interpretation, band: torch.Tensor) -> float:
        """Return the probability without some bins, which are imputed; NaN if there are none."""
        first, last = band.tolist()
        if first == last:
            return math.nan
        cells = result.view.cells
        keep = torch.ones_like(cells, dtype=torch.bool)
        keep[:, :, max(0, first - 1) : last + 1] = False  # a tone leaks into the next bins
        hidden = HIDINGS["road"](cells, keep, self.job.level(cells))
        return float(self._scorer(hidden, result.view)[0, result.target])


def evidence_of(result: Interpretation) -> torch.Tensor:
    """Return the map where the mask keeps cells, shape (1, 1, bins, frames).

    What is described as evidence is what is heard, not what many faint cells add up to.
    """
    (mask,) = result.masks.values()
    return result.attribution * mask


_WINDOWING = ("start", "end", "window", "hop")


def find_peaks(heard: Timeline) -> dict[tuple[int, int], Peak]:
    """Return the best window of every stretch of windows that are to be explained for a class.

    Windows belong to one stretch if each begins no later than the one before it ends. Of equally
    probable ones the first is the best.

    Parameters
    ----------
    heard : Timeline

    Returns
    -------
    dict of (int, int) to Peak
        By window and class, in the order of time.
    """
    times = heard.coverage.windows
    runs: dict[int, list[list[int]]] = {}
    for place, labels in enumerate(heard.explained):
        for label in labels:
            of_label = runs.setdefault(label, [])
            last = of_label[-1][-1] if of_label else None
            if last == place - 1 and times[place][0] <= times[last][1] + 1e-3:
                of_label[-1].append(place)
            else:
                of_label.append([place])
    peaks = {}
    for label, of_label in runs.items():
        for run in of_label:
            best = max(run, key=lambda place: (heard.probabilities[place, label], -place))
            peaks[best, label] = Peak(times[run[0]][0], times[run[-1]][1], len(run))
    return dict(sorted(peaks.items()))


def only_peaks(
    recording: Recording, heard: Timeline, peaks: Mapping[tuple[int, int], Peak]
) -> Timeline:
    """Return a timeline in which these windows and classes only are to be explained."""
    explained: list[list[int]] = [[] for _ in heard.explained]
    for place, label in peaks:
        explained[place].append(label)
    interpreted = tuple(place for place, labels in enumerate(explained) if labels)
    return replace(
        heard,
        explained=tuple(map(tuple, explained)),
        coverage=recording.coverage(interpreted),
    )
