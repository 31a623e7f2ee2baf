"""Read annotations of one recording: batdetect2's JSON files and Raven's selection tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from audiointerp.dataset.base import Event
from audiointerp.dataset.cells import Row, TableError, table_lines
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.reading import FileError, listed, parse_number, read_text, shown


class Listed(NamedTuple):
    """What one row of a table of events says.

    Attributes
    ----------
    row : Row
    column : str
        Of the recording.
    recording : str
    event : Event or None
        None: nothing more than that the recording was looked at.
    """

    row: Row
    column: str
    recording: str
    event: Event | None


def read_event(
    row: Row, *, onset: str, offset: str, label: str, low: str | None, high: str | None
) -> Event:
    """Return the event of a row, whose columns are named; without `low` it has all frequencies.

    Raises
    ------
    TableError
        If a cell is empty or is no such number, or the event ends where it begins or before it.
    """
    begin, end = row.seconds(onset), row.seconds(offset)
    if begin is None or end is None:
        raise row.error(onset if begin is None else offset, "is empty")
    if not end > begin:
        raise row.error(offset, f"{end:g} s is not after the onset, {begin:g} s")
    name = row.needed(label)
    if low is None or high is None or not (row.text(low) or row.text(high)):
        return Event(begin, end, name)
    lowest, highest = _hertz(row, low), _hertz(row, high)
    if not highest > lowest:
        raise row.error(high, f"{highest:g} Hz is not above the lowest frequency, {lowest:g} Hz")
    return Event(begin, end, name, lowest, highest)


def _hertz(row: Row, column: str) -> float:
    text = row.needed(column)
    hertz = parse_number(text)
    if not 0 <= hertz < math.inf:
        raise row.error(column, f"{shown(text)} is not a number of Hz from 0 on")
    return hertz


def _read_batdetect(path: Path) -> Iterator[Listed]:
    """Yield the annotations of a file as batdetect2 and its annotation tool write them."""
    try:
        content = json.loads(read_text(path))
    except (FileError, ValueError, RecursionError) as error:
        raise TableError(f"{path}: cannot be read as JSON ({error})") from error
    needed = ("id", "annotation")
    if not isinstance(content, dict) or not all(name in content for name in needed):
        raise TableError(
            f"{path}: is no annotation file of batdetect2: expected an object with "
            f"{' and '.join(needed)}"
        )
    if content.get("time_exp", 1) != 1:
        raise TableError(
            f"{path}: is of a sound expanded {content['time_exp']} times in time: its seconds are "
            "not those of the file; write the recording at its true rate and set time_exp to 1"
        )
    annotations = content["annotation"]
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise TableError(f"{path}: 'annotation' is no list of objects")
    whole = Row(str(path), {"id": content["id"]})
    name = whole.needed("id")
    if not annotations:
        yield Listed(whole, "id", name, None)
    columns = ("start_time", "end_time", "class", "low_freq", "high_freq")
    for number, one in enumerate(annotations, 1):
        row = Row(f"{path}, annotation {number}", dict.fromkeys(columns) | one | {"id": name})
        begin, end, label, low, high = columns
        event = read_event(row, onset=begin, offset=end, label=label, low=low, high=high)
        yield Listed(row, "id", name, event)


_RAVEN = ("Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
_RAVEN_FILES = ("Begin File", "Begin Path")
_RAVEN_OFFSET = "File Offset (s)"
_RAVEN_LABELS = ("annotation", "species", "label", "class", "tag")
"""What the column of the class is called, in this order; it is whatever users add."""
_RAVEN_ENDINGS = (".selections", ".Table.1", ".Table.2")


def _read_raven(path: Path) -> Iterator[Listed]:
    """Yield the selections of a table that Raven Pro or Raven Lite wrote."""
    lines = table_lines(path, "\t")
    _, columns = next(lines, (0, []))
    if not set(_RAVEN) <= set(columns):
        raise TableError(
            f"{path}: is no selection table of Raven: its columns are {listed(columns)}, expected "
            f"{', '.join(_RAVEN)}"
        )
    by_name = {column.lower(): column for column in reversed(columns)}
    label = next((by_name[name] for name in _RAVEN_LABELS if name in by_name), None)
    if label is None:
        raise TableError(
            f"{path}: no column has the class of a selection: expected one that is called "
            f"{', '.join(name.capitalize() for name in _RAVEN_LABELS)}; its columns are "
            f"{listed(columns)}"
        )
    file = next((name for name in _RAVEN_FILES if name in columns), None)
    own = _recording_of(path)
    is_empty = True
    for line, cells in lines:
        is_empty = False
        if len(cells) != len(columns):
            raise TableError(
                f"{path}, line {line}: has {len(cells)} cells, the first line {len(columns)}"
            )
        row = Row(f"{path}, line {line}", dict(zip(columns, cells, strict=True)))
        begin, end, low, high = _RAVEN
        event = read_event(row, onset=begin, offset=end, label=label, low=low, high=high)
        if _RAVEN_OFFSET in columns:
            # Of several files in one window of Raven, the other times run through all of them.
            start = row.seconds(_RAVEN_OFFSET)
            if start is None:
                raise row.error(_RAVEN_OFFSET, "is empty")
            event = event._replace(onset=start, offset=start + event.offset - event.onset)
        name = own if file is None else PurePath(row.needed(file).replace("\\", "/")).name
        yield Listed(row, file or label, name, event)
    if is_empty:
        yield Listed(Row(str(path), {label: ""}), label, own, None)


def _recording_of(path: Path) -> str:
    """Return the recording that a selection table is called by, without its ending."""
    name = path.name.removesuffix(path.suffix)
    for ending in _RAVEN_ENDINGS:
        name = name.removesuffix(ending)
    stem = PurePath(name)
    return stem.stem if stem.suffix.lower() in EXTENSIONS else name


READERS: dict[str, Callable[[Path], Iterator[Listed]]] = {
    ".json": _read_batdetect,
    ".txt": _read_raven,
}
"""What reads annotations of one recording, by the file's ending."""


def annotation_files(path: Path) -> list[Path]:
    """Return the files of annotations that a path stands for: itself, or those in a folder.

    Raises
    ------
    TableError
        If a folder has none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS)
    if not files:
        raise TableError(
            f"{path}: has no annotations: expected files of batdetect2 (.json) or selection "
            "tables of Raven (.txt), one for each recording"
        )
    return files
