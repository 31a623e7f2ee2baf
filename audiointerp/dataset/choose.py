"""Open a data set from the name, folder or table that a user gives."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from audiointerp.dataset.audioset import TABLES, AudioSetDataset, find_tables
from audiointerp.dataset.base import ClipDataset
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.dataset.events import EventTable
from audiointerp.dataset.files import ClipOptions, FileDataset
from audiointerp.dataset.folder import FolderDataset, looks_like_folders
from audiointerp.dataset.shortcut import ShortcutDataset
from audiointerp.dataset.synthetic import SyntheticDataset
from audiointerp.dataset.table import TableDataset
from audiointerp.dataset.urbansound8k import TABLE, UrbanSound8KDataset
from audiointerp.registry import Registry

MADE: Registry[type[ClipDataset]] = Registry("set that the package makes")
"""Sets without files, by the name that stands for them."""
MADE["synthetic"] = SyntheticDataset
MADE["shortcut"] = ShortcutDataset


@dataclass(frozen=True)
class Layout:
    """How the files of a set lie in its folder.

    Attributes
    ----------
    looked_for : str
        What it is recognised by, as an error lists it.
    found : callable
        Path of a folder → whether it is laid out so.
    dataset : type of ClipDataset
        What opens it: its first argument is the folder.
    """

    looked_for: str
    found: Callable[[Path], bool]
    dataset: type[ClipDataset]


LAYOUTS: Registry[Layout] = Registry("layout of a set")
LAYOUTS["esc50"] = Layout(
    "meta/esc50.csv", lambda root: (root / "meta" / "esc50.csv").is_file(), ESC50Dataset
)
LAYOUTS["urbansound8k"] = Layout(
    TABLE.as_posix(), lambda root: (root / TABLE).is_file(), UrbanSound8KDataset
)
LAYOUTS["audioset"] = Layout(
    " or ".join(TABLES.values()), lambda root: bool(find_tables(root)), AudioSetDataset
)
LAYOUTS["folder"] = Layout("sound files in a folder per class", looks_like_folders, FolderDataset)

_FOLDER = "folder"
"""The layout that sounds of any set have: only where no other is recognised."""


def open_dataset(
    data: str | os.PathLike[str],
    *,
    subset: str | None = None,
    layout: str | None = None,
    events: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ClipDataset:
    """Return the set that a name, a folder or a table stands for.

    Parameters
    ----------
    data : "synthetic", "shortcut" or path
        A set that the package makes (see `MADE`); a folder laid out like ESC-50, UrbanSound8K or
        AudioSet, or with a folder per class (see `LAYOUTS`); or a table (see `TableDataset`).
        Options may follow a question mark as in an address,
        ``"meta.csv?path=file&labels=tags&separator=;"``: those of the set's constructor that are
        text, numbers or yes and no, ``layout``, and ``events``, a path that starts in the set's
        folder. In their values ``%26`` stands for ``&`` and ``%2B`` for ``+``.
    subset : {"esc10"}, optional
        Of ESC-50's clips; see `ESC50Dataset`.
    layout : str, optional
        A name in `LAYOUTS`, for a folder that is not recognised or looks like two.
    events : path, optional
        Table of what sounds in the clips, and when; see `audiointerp.dataset.events.EventTable`.
    **options
        What all sets take: folds, clips, sample_rate, duration, normalize, contamination,
        cache_dir; all of files: window_hop, channel; and what the set's own constructor takes.

    Returns
    -------
    ClipDataset

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or the folder is not recognised: the message lists
        what was looked for.
    ValueError
        If a folder looks like two sets, an option is unknown or given twice, or a subset is asked
        for that the set does not have.

    Examples
    --------
    >>> open_dataset("synthetic", folds=5, clips=20)
    SyntheticDataset(20 clips, 10 classes, folds 5, 5 s at 32000 Hz)
    """
    path, query = _split_query(os.fspath(data))
    named = {"layout": layout, "events": events}
    given = options | {name: value for name, value in named.items() if value is not None}
    twice = sorted(query.keys() & given.keys())
    if twice:
        raise ValueError(f"{data}: {', '.join(twice)} is given twice, here and as an argument")
    if path in MADE or Path(path).is_file():
        kind: type[ClipDataset] = MADE.get(path, TableDataset)
        if layout is not None:
            raise ValueError(f"layout={layout!r} is for folders, {path} is none")
    else:
        kind = _recognise(Path(path), query.pop("layout", layout)).dataset
    added = _read_query(query, kind, path)
    if subset is not None:
        if "subset" not in inspect.signature(kind).parameters:
            name = f"the {path} set" if path in MADE else f"{path} ({kind.__name__})"
            raise ValueError(f"{name} has no subset {subset!r}")
        added["subset"] = subset
    if "events" in added:
        events = _folder_of(path) / added.pop("events")
    table = None if events is None else EventTable(events)
    where = () if path in MADE else (path,)
    dataset = kind(*where, **added, **options)
    if table is not None:
        table.add_to(dataset)
    return dataset


def _folder_of(path: str) -> Path:
    """Return the folder that paths behind a set's path start in."""
    if path in MADE:
        return Path()
    return Path(path).parent if Path(path).is_file() else Path(path)


def made_by_package(data: str | os.PathLike[str]) -> str | None:
    """Return the name in `MADE` that `data` begins with, None for a set of files.

    Examples
    --------
    >>> made_by_package("shortcut?kind=hum")
    'shortcut'
    """
    path, _ = _split_query(os.fspath(data))
    return path if path in MADE else None


def _split_query(data: str) -> tuple[str, dict[str, str]]:
    """Return the path and the options behind its question mark."""
    path, mark, query = data.partition("?")
    if not mark or Path(data).exists():
        return data, {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, separator="&")
    except ValueError as error:
        raise ValueError(
            f"{data}: options are written path?name=value&name=value ({error})"
        ) from error
    options: dict[str, str] = {}
    for name, value in pairs:
        if name in options:
            raise ValueError(
                f"{data}: the option {name!r} is given twice, as {options[name]!r} and as {value!r}"
            )
        options[name] = value
    return path, options


def _recognise(root: Path, layout: str | None) -> Layout:
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder or table (in {Path.cwd()}), and not "
            f"{' or '.join(map(repr, MADE))}"
        )
    if layout is not None:
        return LAYOUTS[layout]
    known = _known(root)
    if len(known) > 1:
        raise ValueError(
            f"{root}: could be {' or '.join(known)}, it has "
            f"{' and '.join(LAYOUTS[name].looked_for for name in known)}: say which, layout="
            f"{known[0]!r}"
        )
    if known:
        return LAYOUTS[known[0]]
    near = [root.resolve().parent, *sorted(path for path in root.iterdir() if path.is_dir())]
    meant = [path for path in near if _known(path)]
    if not meant and LAYOUTS[_FOLDER].found(root):
        return LAYOUTS[_FOLDER]
    looked_for = "; ".join(f"{name}: {each.looked_for}" for name, each in LAYOUTS.items())
    hint = (
        f"did you mean {meant[0]}, or layout={_FOLDER!r}?" if meant else "a table is named itself."
    )
    raise FileNotFoundError(
        f"{root}: no set is recognised in this folder; {hint} Looked for {looked_for}"
    )


def _known(root: Path) -> list[str]:
    return [name for name, each in LAYOUTS.items() if name != _FOLDER and each.found(root)]


def _yes_or_no(text: str) -> bool:
    words = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    return words[text.lower()]


PATH_OPTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("audio", "path", "label", "labels", "separator", "fold", "start", "end"), str),
    "delimiter": str,
    "splits": _yes_or_no,
    "num_folds": int,
    "window_hop": float,
    "channel": str,
    "layout": str,
    "kind": str,
    "implies": str,
    **dict.fromkeys(("share", "others", "level_db"), float),
    "relabel": _yes_or_no,
    "events": str,
}
"""Options that can be written behind a path, and how they are read."""


def _read_query(query: dict[str, str], kind: type[ClipDataset], path: str) -> dict[str, Any]:
    """Return the options behind a path as the set's constructor takes them."""
    taken = {"events", *inspect.signature(kind).parameters}
    if issubclass(kind, FileDataset):
        taken |= ClipOptions.__annotations__.keys()
    valid = [name for name in PATH_OPTIONS if name in taken]
    options = {}
    for name, text in query.items():
        if name not in valid:
            choice = valid if path in MADE or kind is TableDataset else ["layout", *valid]
            raise ValueError(
                f"{path}?{name}={text}: unknown option {name!r}; choose from {', '.join(choice)}"
            )
        try:
            options[name] = PATH_OPTIONS[name](text)
        except (ValueError, KeyError) as error:
            expected = "yes or no" if PATH_OPTIONS[name] is _yes_or_no else "a number"
            raise ValueError(f"{path}?{name}={text}: expected {expected}") from error
    return options
