"""Sound files, or parts of them, that any table lists."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiointerp.dataset.audio import check_duration
from audiointerp.dataset.base import Fold, parse_fold
from audiointerp.dataset.cells import Row, Table, TableError
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.files import (
    ClipOptions,
    FileClip,
    FileDataset,
    check_num_folds,
    clip_name,
    hashed_fold,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LONGEST_NUMBER = 18
"""Digits of a class that is a number."""

FOLD_COLUMNS = ("fold", "split")
"""Columns that hold the folds where no other is named."""


class TableDataset(FileDataset):
    """Clips that a CSV, TSV or Parquet table lists: one row per clip.

    A clip is a file or, with `start` and `end`, a part of one; several rows may share a file. Its
    id is made of path and part, as ``night__1.wav@3.00-4.50``.

    Parameters
    ----------
    table : path-like
        A file that ends in .csv, .tsv or .parquet; its first line names the columns.
    folds : int, str or iterable of these, optional
        Folds (3) or splits ("test") to take; all by default.
    audio : path-like, optional
        Folder that the paths in the table start in; the table's own by default. A relative one
        starts in the table's folder too. All sound files must be below it: a table with absolute
        paths, or with ``..`` in them, needs the folder that holds them all. Links in the folder
        are followed.
    path : str
        Column of the sound files. An ending that can be read may be missing.
    label : str, optional
        Column of the class, by its name; "label" by default. Each clip has one.
    labels : str, optional
        Column of the classes instead, for a multi-label set: names between separators, or a list
        in a Parquet table. An empty cell is a clip of no class.
    separator : str, optional
        The character between the names in `labels`. A name in double quotes may hold it.
    fold : str, optional
        Column of the folds or splits: numbers or names. By default that called fold or split; if
        there is neither, the fold is drawn by a hash of the path, as in `FolderDataset`.
    start, end : str, optional
        Columns with the seconds of the file that a clip begins and ends at. Without them a clip
        is a whole file. Without `end` a clip is the `duration` seconds from its start on; an empty
        cell is the file's beginning or end.
    classes : sequence of str, optional
        Names of the classes in the order of the labels. By default those in the table, whatever
        the folds, in the order of the alphabet, or of the numbers if all are numbers.
    num_folds : int
        How many folds to make where no column has them.
    delimiter : str, optional
        What separates the cells of a text, if it is not what its ending says.
    **options
        sample_rate, duration, normalize, contamination, cache_dir, clips, window_hop,
        channel: see `audiointerp.dataset.FileDataset`.

    Attributes
    ----------
    table : Path
    root : Path
        The folder that paths start in.

    Raises
    ------
    FileNotFoundError
        If the table, the folder or all sound files are missing.
    TableError
        A `ValueError`: the table has no such column, or a cell cannot be used. The message names
        the table, the row and the column.
    ImportError
        If the table is Parquet and pyarrow is not installed.

    Examples
    --------
    >>> data = TableDataset(  # doctest: +SKIP
    ...     "meta.csv", "test", audio="clips", path="file", labels="tags", separator=";"
    ... )
    >>> data[0].label.shape, data.label_sets[0]  # doctest: +SKIP
    (torch.Size([12]), (0, 7))
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        folds: Fold | Iterable[Fold] | None = None,
        *,
        audio: str | os.PathLike[str] | None = None,
        path: str = "path",
        label: str | None = None,
        labels: str | None = None,
        separator: str | None = None,
        fold: str | None = None,
        start: str | None = None,
        end: str | None = None,
        classes: Sequence[str] | None = None,
        num_folds: int = 5,
        delimiter: str | None = None,
        **options: Unpack[ClipOptions],
    ) -> None:
        if label is not None and labels is not None:
            raise ValueError(
                f"label={label!r} is for one class per clip, labels={labels!r} for any number: "
                "name one of the two"
            )
        if labels is None and label is None:
            label = "label"
        _check_separator(separator, labels)
        self.table = Path(table)
        self.root = _find_root(self.table, audio)
        named = {"path": path, "label": label, "labels": labels, "fold": fold}
        named |= {"start": start, "end": end}
        wanted = [name for name in named.values() if name is not None]
        read = Table(self.table, [*wanted, *FOLD_COLUMNS], delimiter=delimiter)
        for role, name in named.items():
            if name is not None:
                read.check(name, role)
        self.columns = {role: name for role, name in named.items() if name is not None}
        self._choose_fold_column(read)

        found = [self._labels(row, separator) for row in read.rows]
        names = _order_classes(found) if classes is None else _check_classes(classes)
        if not names:
            raise TableError(f"{self.table}: no row has a label: say which classes=… there are")
        numbers = {name: number for number, name in enumerate(names)}
        num_folds = check_num_folds(num_folds)
        length = check_duration(options.get("duration", 5.0))
        rows = [
            self._clip(row, _number(row, self._label_column, has, numbers), num_folds, length)
            for row, has in zip(read.rows, found, strict=True)
        ]
        _check_different(read.rows, rows)
        super().__init__(
            rows,
            classes=names,
            source=str(self.table),
            folds=folds,
            available_folds=None if "fold" in self.columns else range(1, num_folds + 1),
            multi_label=labels is not None,
            **options,
        )

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        return super().settings() | {"clips_sha256": self._fingerprint}

    @property
    def _label_column(self) -> str:
        return self.columns.get("label") or self.columns["labels"]

    def _choose_fold_column(self, table: Table) -> None:
        if "fold" in self.columns:
            return
        there = [name for name in FOLD_COLUMNS if name in table.columns]
        if len(there) > 1:
            raise TableError(
                f"{table.path}: has a column fold and a column split: say which holds the folds, "
                "fold='fold' or fold='split'"
            )
        if there:
            self.columns["fold"] = there[0]

    def _labels(self, row: Row, separator: str | None) -> list[str]:
        if "label" in self.columns:
            return [row.needed(self.columns["label"])]
        return row.parts(self.columns["labels"], separator)

    def _clip(self, row: Row, labels: tuple[int, ...], num_folds: int, duration: float) -> FileClip:
        short = self._path_below(row)
        start, end = self._part(row, duration)
        if "fold" in self.columns:
            fold = parse_fold(row.needed(self.columns["fold"]))
        else:
            fold = hashed_fold(short, num_folds)
        file = _with_ending(self.root / short)
        return FileClip(clip_name(short, start, end), file, labels, fold, start, end)

    def _path_below(self, row: Row) -> str:
        """Return the path below the folder of the audio, the same however it is written."""
        try:
            return row.path_below(self.root, self.columns["path"])
        except TableError as error:
            raise TableError(
                f"{error}, which the sound files start in: if it is meant, name the folder that "
                "holds all of them, audio=…; audio='/' allows any"
            ) from None

    def _part(self, row: Row, duration: float) -> tuple[float, float | None]:
        start_column, end_column = self.columns.get("start"), self.columns.get("end")
        start = (row.seconds(start_column) if start_column else None) or 0.0
        if end_column is None:
            return start, None if start_column is None else start + duration
        end = row.seconds(end_column)
        if end is not None and end <= start:
            raise row.error(end_column, f"{end:g} s is not after the start, {start:g} s")
        return start, end


def _check_separator(separator: str | None, labels: str | None) -> None:
    if separator is None:
        return
    if labels is None:
        raise ValueError(f"separator={separator!r} separates the names of labels: say labels=…")
    if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
        raise ValueError(
            f"separator={separator!r}: expected one character such as ';', not a double quote, "
            "which is for names that hold the separator"
        )


def _find_root(table: Path, audio: str | os.PathLike[str] | None) -> Path:
    root = table.parent if audio is None else table.parent / audio
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder of sound files (audio); a relative one starts in the folder "
            f"of the table, {table.parent}"
        )
    return root


def _with_ending(path: Path) -> Path:
    """Return the sound file that a path without an ending means."""
    if path.suffix.lower() in EXTENSIONS:
        return path
    longer = (path.with_name(path.name + ending) for ending in EXTENSIONS)
    return path if os.path.isfile(path) else next(filter(os.path.isfile, longer), path)


def _order_classes(found: Iterable[Iterable[str]]) -> list[str]:
    names = {name for labels in found for name in labels}
    if all(name.isdecimal() and len(name) <= _LONGEST_NUMBER for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _check_classes(classes: Sequence[str]) -> list[str]:
    names = list(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes must be a sequence of names, not {classes!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two classes are called {', '.join(map(repr, twice))}")
    return names


def _number(
    row: Row, column: str, labels: Iterable[str], numbers: Mapping[str, int]
) -> tuple[int, ...]:
    for name in labels:
        if name not in numbers:
            close = difflib.get_close_matches(name, numbers, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise row.error(column, f"{name!r} is not one of the {len(numbers)} classes{hint}")
    return tuple(sorted({numbers[name] for name in labels}))


def _check_different(rows: Sequence[Row], clips: Sequence[FileClip]) -> None:
    first: dict[str, Row] = {}
    for row, clip in zip(rows, clips, strict=True):
        if clip.clip_id in first:
            raise TableError(
                f"{row.where}: is the clip {clip.clip_id} again, which {first[clip.clip_id].where} "
                "is: a clip has one row, with all its labels; or name the columns start and end "
                "if the rows are parts of a file"
            )
        first[clip.clip_id] = row
