"""AudioSet: class names, and the clips of its tables whose sound files are present.

The names of the classes come from AudioSet's ontology, Google, CC BY 4.0.
"""

from __future__ import annotations

import csv
import functools
import os
import warnings
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiointerp.dataset.base import Fold, choose_folds
from audiointerp.dataset.cells import TableError, table_lines
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.files import ClipOptions, FileClip, FileDataset, walk_files
from audiointerp.reading import describe_stray, parse_number, shown

if TYPE_CHECKING:
    from typing_extensions import Unpack

TABLES = {
    "balanced_train": "balanced_train_segments.csv",
    "unbalanced_train": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
"""The tables of AudioSet by the names of their splits."""

FOLDERS = ("", "metadata", "meta", "csv")
"""Where in the root the tables are looked for."""


class Segment(NamedTuple):
    """One line of a table of AudioSet: ten seconds of a video, and what sounds in it."""

    youtube_id: str
    start: float
    labels: tuple[int, ...]
    split: str

    @property
    def clip_id(self) -> str:
        """Video and second it begins at, as ``--PJHxphWEs_30``."""
        return f"{self.youtube_id}_{self.start:g}"


class AudioSetDataset(FileDataset):
    """The clips of AudioSet that are there: 10 s each, 527 classes, any number of them per clip.

    AudioSet comes as tables of videos; which of them could be had differs from copy to copy. The
    set has the clips whose sound files are found, and a warning says how many are missing. The
    files are clips already: they are not cut by the tables' times.

    Parameters
    ----------
    root : path-like
        The folder that holds AudioSet's tables (``balanced_train_segments.csv``,
        ``unbalanced_train_segments.csv``, ``eval_segments.csv``, one of them or more), itself or
        in metadata/, and at any depth sound files that are called by the video, as ``ID.wav``,
        ``YID.wav`` (PANNs) or ``ID_30.wav``, ``ID_30.000.wav``, ``ID_30000.wav`` with the second
        or millisecond that the clip begins at.
    folds : str or iterable of str, optional
        Splits to take: "balanced_train", "unbalanced_train", "eval". None takes those there are.
    **options
        sample_rate, duration (10 s by default), normalize, contamination, cache_dir, clips,
        window_hop, channel: see `audiointerp.dataset.FileDataset`.

    Attributes
    ----------
    classes : tuple of str
        As `audioset_classes`.
    root : Path
    missing : int
        How many clips of the tables have no sound file.

    Raises
    ------
    FileNotFoundError
        If there is no table, or no sound file of one of their clips.
    ValueError
        If a table is not AudioSet's, two files are the same clip, or a split does not exist.

    References
    ----------
    J. F. Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events",
    ICASSP 2017.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        folds: Fold | Iterable[Fold] | None = None,
        **options: Unpack[ClipOptions],
    ) -> None:
        self.root = Path(root)
        tables = find_tables(self.root)
        if not tables:
            raise FileNotFoundError(
                f"{self.root}: has no table of AudioSet: {', '.join(TABLES.values())}"
            )
        splits = choose_folds(folds, tables)
        segments = [segment for split in splits for segment in read_segments(tables[split], split)]
        found = _find_sounds(self.root)
        rows = [
            FileClip(segment.clip_id, path, segment.labels, segment.split)
            for segment in segments
            if (path := _sound_of(segment, found)) is not None
        ]
        self.missing = len(segments) - len(rows)
        if not rows:
            raise FileNotFoundError(
                f"{self.root}: none of the {len(segments)} clips of {', '.join(splits)} has a "
                f"sound file there, as {segments[0].youtube_id}.wav{describe_stray(self.root)}"
            )
        if self.missing:
            warnings.warn(
                f"{self.root}: {self.missing} of the {len(segments)} clips of {', '.join(splits)} "
                "have no sound file there and are left out",
                stacklevel=2,
            )
        super().__init__(
            rows,
            classes=audioset_classes(),
            source=str(self.root),
            multi_label=True,
            **({"duration": 10.0} | options),
        )

    def sound_names(self, index: int) -> tuple[str, ...]:
        """Return the names of the file, and that in AudioSet-strong: video and millisecond."""
        video, _, second = self.clip_ids[index].partition("@")[0].rpartition("_")
        path, *others = super().sound_names(index)
        return (path, f"{video}_{round(1000 * float(second))}", *others)

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        return super().settings() | {"clips_sha256": self._fingerprint}


@functools.cache
def audioset_classes() -> tuple[str, ...]:
    """Return the names of AudioSet's 527 classes, in the order of PANNs' outputs.

    Source: AudioSet ontology, Google, CC BY 4.0.

    Examples
    --------
    >>> audioset_classes()[:2], len(audioset_classes())
    (('Speech', 'Male speech, man speaking'), 527)
    """
    return tuple(name for _, name in _labels())


@functools.cache
def audioset_numbers() -> dict[str, int]:
    """Return the place in `audioset_classes` of each of AudioSet's machine ids.

    Examples
    --------
    >>> audioset_numbers()["/m/09x0r"]
    0
    """
    return {mid: number for number, (mid, _) in enumerate(_labels())}


def find_tables(root: Path) -> dict[str, Path]:
    """Return the tables of AudioSet in a folder, by split."""
    return {
        split: path
        for split, name in TABLES.items()
        for path in [next(filter(Path.is_file, (root / folder / name for folder in FOLDERS)), None)]
        if path is not None
    }


def read_segments(path: Path, split: str) -> list[Segment]:
    """Read a table of AudioSet: lines ``YTID, start_seconds, end_seconds, "mid,mid"`` and comments.

    Parameters
    ----------
    path : Path
    split : str
        What to call its split.

    Raises
    ------
    TableError
        If a line is not like that or names an unknown class.
    """
    segments: dict[str, Segment] = {}
    for line, cells in table_lines(path):
        if cells[0].startswith("#"):
            continue
        segment = _segment(cells, split, f"{path}, line {line}")
        if segment.clip_id in segments:
            raise TableError(f"{path}, line {line}: lists the clip {segment.clip_id} again")
        segments[segment.clip_id] = segment
    if not segments:
        raise TableError(f"{path}: lists no clips")
    return list(segments.values())


def _labels() -> Iterator[tuple[str, str]]:
    """Yield machine id and name of each class."""
    text = resources.files(__package__).joinpath("audioset_labels.csv").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for row in csv.DictReader(lines):
        yield row["mid"], row["display_name"]


def _segment(cells: list[str], split: str, where: str) -> Segment:
    youtube_id, start, _, mids = cells if len(cells) == 4 else ("", "", "", "")
    seconds = parse_number(start)
    if not youtube_id or not seconds >= 0:
        raise TableError(
            f'{where}: expected YTID, start_seconds, end_seconds, "labels", not {shown(cells)}'
        )
    numbers = audioset_numbers()
    names = [mid.strip() for mid in mids.split(",")]
    unknown = [mid for mid in names if mid not in numbers]
    if unknown:
        raise TableError(
            f"{where}, positive_labels: {shown(', '.join(unknown))} is none of AudioSet's "
            f"{len(numbers)} classes"
        )
    labels = tuple(sorted({numbers[mid] for mid in names}))
    return Segment(youtube_id, seconds, labels, split)


def _find_sounds(root: Path) -> dict[str, list[Path]]:
    """Return the sound files under a folder by their names without ending."""
    found: dict[str, list[Path]] = {}
    for path in walk_files(root):
        if path.suffix.lower() in EXTENSIONS:
            found.setdefault(path.stem, []).append(path)
    return found


def _sound_of(segment: Segment, found: dict[str, list[Path]]) -> Path | None:
    start = segment.start
    times = {f"{start:g}", f"{start:.1f}", f"{start:.3f}", f"{round(1000 * start)}"}
    stems = [segment.youtube_id, *(f"{segment.youtube_id}_{time}" for time in sorted(times))]
    paths = [path for stem in stems for name in (stem, f"Y{stem}") for path in found.get(name, ())]
    if len(paths) > 1:
        raise ValueError(
            f"{paths[0]} and {paths[1]} are both the clip {segment.clip_id}: keep one of them"
        )
    return paths[0] if paths else None
