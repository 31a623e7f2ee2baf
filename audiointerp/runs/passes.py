"""Two passes over a recording: all windows are classified, then the chosen ones interpreted.

Both read the recording in blocks, and keep of the windows only what is asked for, so that memory
does not grow with the recording.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiointerp.dataset.channels import MID
from audiointerp.dataset.decode import TOLERANCE, AudioError
from audiointerp.dataset.stream import AudioStream, SoundStream, WaveformStream, Window
from audiointerp.device import device_of, double_device
from audiointerp.model.classifier import Classifier
from audiointerp.plots import in_db
from audiointerp.runs.clip import Batch, analyse, classify
from audiointerp.runs.job import Job
from audiointerp.runs.names import file_name, with_channel
from audiointerp.runs.result import Interpretation
from audiointerp.runs.targets import Target, check_target, choose_targets
from audiointerp.runs.timeline import Overview, Timeline
from audiointerp.runs.windows import (
    Coverage,
    Section,
    Windowing,
    choose_windows,
    first_frames,
    round_hop,
)
from audiointerp.speed.scoring import Scorer

LONGEST_WHOLE = 300.0
"""Seconds that go through a model at once at most, where it names no duration."""
WINDOWS_PER_BATCH = 8
"""Windows that are interpreted together; results do not depend on it."""

_ROUNDING = 0.02
"""Share of a window that a clip may be longer than it."""


@dataclass(frozen=True)
class Recording:
    """A sound, opened, with the windows that it is cut into.

    Attributes
    ----------
    name : str
    stream : SoundStream
        The part to analyse, at the front end's rate.
    window : float or None
        Seconds of a window; None for all at once.
    hop : float
        Seconds from one window to the next.
    normalize : bool
        Whether it is scaled to a peak of 1, by one gain for all windows.
    pad : bool
        Whether a clip shorter than a window is padded with zeros.
    """

    name: str
    stream: SoundStream
    window: float | None
    hop: float
    normalize: bool
    pad: bool = True

    @property
    def is_clip(self) -> bool:
        """Whether one window holds it all.

        It may be longer by what encoding adds: 2 % of a window, 0.1 s at most.
        """
        if self.window is None:
            return True
        return self.stream.duration <= self.window + min(TOLERANCE, _ROUNDING * self.window)

    @property
    def section(self) -> str | Section:
        """The name, with the times where only a part of the sound is analysed."""
        if self.stream.start == 0 and self.stream.end == self.stream.file_duration:
            return self.name
        return Section(self.name, self.stream.start, self.stream.end)

    def clip(self) -> Tensor:
        """Return the only window, shape (1, samples)."""
        fits = self.window is not None and self.stream.duration <= self.window
        length = None if fits and not self.pad else self.window
        return self.stream.clip(length, normalize=self.normalize)

    def windows(self) -> Iterator[Window]:
        """Yield the windows in the order of time."""
        return self.stream.windows(self.window, self.hop, normalize=self.normalize)

    def coverage(self, interpreted: tuple[int, ...] = (0,)) -> Coverage:
        """Return what is analysed, given which windows are interpreted."""
        if self.is_clip:
            times = [(self.stream.start, self.stream.end)]
        else:
            times = self.stream.times(self.window, self.hop)
        window = self.window or self.stream.duration
        return Coverage(self.stream.file_duration, window, self.hop, tuple(times), interpreted)


def open_recording(
    audio: str | os.PathLike[str] | NDArray[np.floating] | Tensor,
    classifier: Classifier,
    windowing: Windowing,
    *,
    sample_rate: int | None = None,
    duration: float | None = None,
    channel: str = MID,
) -> Recording:
    """Open a sound of any length for a classifier.

    Parameters
    ----------
    audio : path, ndarray or Tensor
        A sound file, or a waveform of shape (samples,) or (channels, samples).
    classifier : Classifier
        With a front end.
    windowing : Windowing
        The part to analyse, and the windows.
    sample_rate : int, optional
        Of a waveform, Hz; a file knows its own.
    duration : float, optional
        Seconds of a window where `windowing` does not say; the classifier's own by default, or the
        most that its front end takes.
    channel : {"mid", "left", "right", "side"}
        See `audiointerp.dataset.load_audio`. The name says which was taken, if it is not "mid".

    Raises
    ------
    AudioError
        If the file cannot be read or has no such part; or if it is longer than 5 minutes and
        neither the classifier nor `windowing` says how long a window is.
    ValueError
        If a waveform comes without its rate.
    """
    rate = classifier.front_end.sample_rate
    part = {"start": windowing.start or 0.0, "end": windowing.end, "channel": channel}
    if isinstance(audio, str | os.PathLike):
        name = with_channel(file_name(audio), channel)
        stream: SoundStream = AudioStream(audio, rate, **part)
    elif sample_rate is None:
        raise ValueError("a waveform needs its sample rate: predict(waveform, 44100)")
    else:
        name = with_channel("waveform", channel)
        stream = WaveformStream(audio, sample_rate, rate, **part)
    window = windowing.window or duration or classifier.duration or classifier.longest
    if window is None and stream.duration > LONGEST_WHOLE:
        raise AudioError(
            f"{stream.source}: {stream.duration:.6g} s are too long to go through the model at "
            "once, and it names no duration: say how long a window is, such as window=10, or "
            f"analyse a part of at most {LONGEST_WHOLE:g} s, start=… and end=…"
        )
    hop = stream.duration
    if window is not None:
        hop = round_hop(windowing.hop or window / 2, classifier.front_end)
    pad = classifier.longest is None
    return Recording(name, stream, window, hop, classifier.normalize, pad)


def hear(
    recording: Recording,
    job: Job,
    scorer: Scorer,
    *,
    target: Target = None,
    most: int | Literal["all"],
) -> Timeline:
    """Classify every window of a recording and choose those to interpret.

    Parameters
    ----------
    recording : Recording
    job : Job
    scorer : Scorer
        Of the job's classifier as it is now.
    target : str, int, sequence of them, Top, Above or None
        Labels to explain; each window's predicted one by default.
    most : int or "all"
        How many windows to interpret; see `audiointerp.runs.windows.choose_windows`.

    Returns
    -------
    Timeline

    Raises
    ------
    AudioError
        If the file turns out to be damaged, or all is silent where it should be normalised.
    ValueError
        If the target is no class of the model; before anything is read, where it names its classes.
    """
    check_target(target, job.classifier.classes)
    times = recording.coverage(()).windows
    places = first_frames(times, job.front_end)
    found: list[Tensor] = []
    silent: list[bool] = []
    overview: Overview | None = None
    frames = 0
    windows = recording.windows()
    size = 8 if device_of(job.classifier.network).type == "cpu" else 64
    while batch := list(itertools.islice(windows, size)):
        waveforms = torch.stack([window.waveform for window in batch])
        view = analyse(job.classifier, waveforms)
        found.append(classify(job, scorer, view).cpu())
        level = in_db(view.cells, job.front_end)[:, 0].float().cpu().numpy()
        if overview is None:
            frames = int(places[-1]) + level.shape[2]
            overview = Overview(level.shape[1], frames)
        for waveform, each in zip(waveforms, level, strict=True):
            overview.add(int(places[len(silent)]), each)
            silent.append(not waveform.any())
    probabilities = torch.cat(found)
    classes = job.classifier.class_names(probabilities.shape[1])
    explained = _choose(target, probabilities, classes, times, np.array(silent), most)
    interpreted = tuple(place for place, labels in enumerate(explained) if labels)
    return Timeline(
        recording=recording.name,
        front_end=job.front_end,
        classes=classes,
        probabilities=probabilities.numpy(),
        decisions=job.classifier.head.decisions(probabilities).numpy(),
        silent=np.array(silent),
        target=target,
        explained=explained,
        first_frames=places,
        overview=overview.picture(),
        frames=frames,
        coverage=recording.coverage(interpreted),
    )


def interpret_windows(
    recording: Recording, timeline: Timeline, jobs: Mapping[str, Job], scorer: Scorer
) -> Iterator[tuple[str, Interpretation]]:
    """Read a recording once more and interpret the chosen windows by several methods.

    Parameters
    ----------
    recording : Recording
    timeline : Timeline
        What `hear` returned.
    jobs : mapping of str to Job
        By name, of the classifier that heard it.
    scorer : Scorer
        Of the classifier.

    Yields
    ------
    name : str
        Of the job.
    result : Interpretation
        Of one label of one window; for each job in the order of time.
    """
    chosen = (
        (place, window)
        for place, window in enumerate(recording.windows())
        if timeline.explained[place]
    )
    count = len(timeline.coverage.interpreted)
    classifier = next(iter(jobs.values())).classifier
    for first in range(0, count, WINDOWS_PER_BATCH):
        # No more than there are: what follows the last of them is not read.
        batch = list(itertools.islice(chosen, min(WINDOWS_PER_BATCH, count - first)))
        places = [place for place, _ in batch]
        view = analyse(classifier, torch.stack([window.waveform for _, window in batch]))
        probabilities = torch.from_numpy(timeline.probabilities[places])
        probabilities = probabilities.to(double_device(view.cells.device))
        pairs = [
            (n, label) for n, place in enumerate(places) for label in timeline.explained[place]
        ]
        clips, labels = torch.tensor(pairs, device=probabilities.device).unbind(1)
        names = [Section(recording.name, window.start, window.end) for _, window in batch]
        heard = Batch(scorer, names, view, probabilities, (clips, labels))
        for name, job in jobs.items():
            for result in heard.explain(job):
                yield name, result


def _choose(
    target: Target,
    probabilities: Tensor,
    classes: tuple[str, ...],
    times: Sequence[tuple[float, float]],
    silent: NDArray[np.bool_],
    most: int | Literal["all"],
) -> tuple[tuple[int, ...], ...]:
    """Return the labels to explain of every window, none of those that are not interpreted."""
    window, label = (each.numpy() for each in choose_targets(target, probabilities, classes))
    chances = probabilities.numpy()[window, label]
    chosen = set(choose_windows(times, window, label, chances, silent, most))
    explained: list[list[int]] = [[] for _ in times]
    for place, each in zip(window.tolist(), label.tolist(), strict=True):
        if place in chosen:
            explained[place].append(each)
    return tuple(map(tuple, explained))
