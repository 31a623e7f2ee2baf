"""Read tables of events: label, onset and offset in each recording, and the band where known."""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from audiointerp.dataset.annotations import READERS, Listed, annotation_files, read_event
from audiointerp.dataset.audioset import audioset_classes, audioset_numbers
from audiointerp.dataset.base import ClipDataset, Event
from audiointerp.dataset.cells import Row, Table, TableError
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.reading import listed

COLUMNS = {
    "AudioSet-strong": ("segment_id", "start_time_seconds", "end_time_seconds", "label"),
    "DESED": ("filename", "onset", "offset", "event_label"),
}
"""The columns of tables of events, by whose they are: recording, onset, offset, class."""

BAND = ("low_freq", "high_freq")
"""Columns of the lowest and highest frequency, Hz, which a table of events may have as well."""

_NAMED = 5
"""Most names that a warning lists."""


class EventWarning(UserWarning):
    """A table of events does not say all of a set's clips, or more than the set has classes for."""


class EventTable:
    """The events that a table, or annotations of each recording, list.

    Parameters
    ----------
    path : path-like
        A CSV, TSV or Parquet table with one row for each event and the columns of AudioSet-strong
        (segment_id, start_time_seconds, end_time_seconds, label) or those of DESED (filename,
        onset, offset, event_label), and low_freq and high_freq (Hz) where frequencies are known.
        Or an annotation file of batdetect2 (.json), a selection table of Raven (.txt), or a folder
        of these. Other columns are passed over. Times are in seconds from the recording's
        beginning. A label is a class's name, or one of AudioSet's machine ids. A row with a
        recording only, or annotations without an event, say that nothing sounds in it.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    TableError
        A `ValueError`: it has other columns, or a row that is no event. The message names the
        table, the row and the column.

    Notes
    -----
    The class of a selection of Raven is in a column that is called Annotation, Species, Label,
    Class or Tag. The recording is in Begin File; where there is no such column, the table is called
    like the recording, such as ``night.Table.1.selections.txt`` for ``night.wav``.

    Examples
    --------
    >>> data = open_dataset("SOUNDS", events="strong.tsv")  # doctest: +SKIP
    >>> data.true_events(0)  # doctest: +SKIP
    [Event(onset=0.8, offset=1.4, label='dog', low=0.0, high=inf)]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        files = annotation_files(self.path)
        self._rows = [row for file in files for row in _read(file)]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        self._sha256 = digest.hexdigest()

    def settings(self) -> dict[str, str]:
        """Return what identifies the table, ready for JSON."""
        return {"file": self.path.name, "sha256": self._sha256}

    def add_to(self, dataset: ClipDataset) -> None:
        """Give a set its clips' events; see `audiointerp.dataset.ClipDataset.true_events`.

        A recording is called by its file, with or without its ending and the folders it is in, or
        by the clip's id. Rows of other recordings are passed over, as a set may be part of what
        the table is of. A clip that is a part of a recording has what lies in it, in its own time.

        Raises
        ------
        TableError
            If none of the set's clips is in the table, no label is one of the set's classes, or
            a name could be several files of the set.

        Warns
        -----
        EventWarning
            If some clips are not in the table, or events have labels that the set does not have.
        """
        sounds: dict[str, set[str]] = {}
        clips: dict[str, list[int]] = {}
        for index in range(len(dataset)):
            names = dataset.sound_names(index)
            clips.setdefault(names[0], []).append(index)
            for name in names:
                sounds.setdefault(name, set()).add(names[0])
        found: list[list[Event]] = [[] for _ in range(len(dataset))]
        named: set[int] = set()
        unknown: dict[str, int] = {}
        total = 0
        for listed_row in self._rows:
            event = listed_row.event
            places = self._places(listed_row, sounds, clips)
            named.update(places)
            if event is None or not places:
                continue
            total += 1
            if event.label not in dataset.classes:
                unknown[event.label] = unknown.get(event.label, 0) + 1
                continue
            for place in places:
                start, end = dataset.part_of_sound(place)
                if event.onset < end and event.offset > start:
                    onset, offset = max(event.onset, start), min(event.offset, end)
                    found[place].append(event._replace(onset=onset - start, offset=offset - start))
        self._report(dataset, named, unknown, total)
        dataset.add_events(found, self.settings())

    def _places(
        self, row: Listed, sounds: dict[str, set[str]], clips: dict[str, list[int]]
    ) -> list[int]:
        """Return the positions of the clips of a row's recording."""
        name = row.recording
        meant = sorted(sounds.get(_without_ending(name), set()) | sounds.get(name, set()))
        if len(meant) > 1:
            raise row.row.error(
                row.column,
                f"{name!r} could be {meant[0]} or {meant[1]}: write the folder before the name",
            )
        return clips[meant[0]] if meant else []

    def _report(
        self, dataset: ClipDataset, named: set[int], unknown: dict[str, int], total: int
    ) -> None:
        if not named:
            raise TableError(
                f"{self.path}: has none of the set's {len(dataset)} clips: it begins with "
                f"{self._rows[0].recording!r}, the set with {dataset.sound_names(0)[-1]!r}; is it "
                "of another set?"
            )
        if unknown:
            known = ", ".join(dataset.classes[:_NAMED])
            text = f"{_some(list(unknown))} {'is' if len(unknown) == 1 else 'are'} not among the "
            text += f"set's {len(dataset.classes)} classes{_hint(unknown, dataset.classes)}"
            count = sum(unknown.values())
            if count == total:
                raise TableError(f"{self.path}: no event has a class of the set: {text} ({known})")
            warnings.warn(
                f"{self.path}: {count} of {total} events are left out: {text}",
                EventWarning,
                stacklevel=5,
            )
        missing = [dataset.clip_ids[place] for place in range(len(dataset)) if place not in named]
        if missing:
            warnings.warn(
                f"{self.path}: has no row of {len(missing)} of the {len(dataset)} clips, so that "
                f"nothing sounds in them: {_some(missing)}",
                EventWarning,
                stacklevel=5,
            )


def _read(path: Path) -> list[Listed]:
    """Return what a file lists, in its order."""
    reader = READERS.get(path.suffix.lower())
    if reader is not None and path.is_file():
        return list(reader(path))
    table = Table(path)
    kinds = [kind for kind, columns in COLUMNS.items() if set(columns) <= set(table.columns)]
    if len(kinds) != 1:
        expected = " or ".join(f"{', '.join(names)} ({of})" for of, names in COLUMNS.items())
        raise TableError(
            f"{path}: is no table of events: its columns are {listed(table.columns)}, "
            f"expected {expected}"
        )
    band = BAND if set(BAND) <= set(table.columns) else (None, None)
    return [_read_row(row, COLUMNS[kinds[0]], band) for row in table.rows]


def _read_row(row: Row, columns: Sequence[str], band: Sequence[str | None]) -> Listed:
    where, onset, offset, label = columns
    name = row.needed(where)
    if not any(row.text(column) for column in (onset, offset, label)):
        return Listed(row, where, name, None)
    event = read_event(row, onset=onset, offset=offset, label=label, low=band[0], high=band[1])
    number = audioset_numbers().get(event.label)
    if number is not None:
        event = event._replace(label=audioset_classes()[number])
    return Listed(row, where, name, event)


def _without_ending(name: str) -> str:
    """Return the name of a recording without the ending of a sound file."""
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in EXTENSIONS else path)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _hint(unknown: dict[str, Any], classes: Sequence[str]) -> str:
    close = [match for name in unknown for match in difflib.get_close_matches(name, classes, n=1)]
    return f"; did you mean {close[0]!r}?" if close else ""
