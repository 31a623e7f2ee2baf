"""Open sound files in turn: clips of one length in batches, longer recordings one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from audiointerp.dataset.channels import MID
from audiointerp.model.classifier import Classifier
from audiointerp.runs.passes import Recording, open_recording
from audiointerp.runs.windows import Windowing

CLIPS_PER_BATCH = 8
"""Clips that are interpreted together; results do not depend on it."""


class Opened(NamedTuple):
    """A sound file that was opened.

    Attributes
    ----------
    name : str
        What it is called.
    recording : Recording
    waveform : Tensor, shape (1, samples), or None
        Its only window; None of a recording of several windows, which is read in blocks.
    """

    name: str
    recording: Recording
    waveform: Tensor | None


def open_files(
    files: Mapping[str, Path],
    classifier: Classifier,
    windowing: Windowing,
    *,
    channel: str = MID,
    opened: Callable[[Opened], None],
    failed: Callable[[str, Exception], None],
) -> Iterator[list[Opened]]:
    """Open sound files for a classifier.

    Parameters
    ----------
    files : mapping of str to Path
        By what they are called.
    classifier, windowing, channel
        See `audiointerp.runs.passes.open_recording`.
    opened : callable
        Is given each file that could be opened, in the order of the files.
    failed : callable
        Is given the name of each other file and the error.

    Yields
    ------
    list of Opened
        A recording of several windows alone, as soon as it is opened; clips of one length
        together, 8 at most. A waveform is held until its batch is yielded.
    """
    waiting: dict[int, list[Opened]] = {}
    for name, file in files.items():
        try:
            recording = open_recording(file, classifier, windowing, channel=channel)
            waveform = recording.clip() if recording.is_clip else None
        except Exception as error:
            failed(name, error)
            continue
        found = Opened(name, recording, waveform)
        opened(found)
        if waveform is None:
            yield [found]
            continue
        batch = waiting.setdefault(waveform.shape[-1], [])
        batch.append(found)
        if len(batch) == CLIPS_PER_BATCH:
            yield waiting.pop(waveform.shape[-1])
    yield from waiting.values()
