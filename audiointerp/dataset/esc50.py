"""ESC-50, or any set of sounds laid out like it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from audiointerp.dataset import cells
from audiointerp.dataset.cells import Table, TableError
from audiointerp.dataset.channels import MID
from audiointerp.dataset.contamination import Contamination
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.files import FileClip, FileDataset
from audiointerp.reading import describe_stray

SUBSETS = ("esc10",)
_COLUMNS = ("filename", "fold", "target", "category")
_RECORDING = re.compile(r"^\d+-(\d+)-[A-Z]+-\d+$")


class Row(NamedTuple):
    """One line of ``meta/esc50.csv``."""

    filename: str
    fold: int
    target: int
    category: str
    esc10: bool


class ESC50Dataset(FileDataset):
    """The clips of ESC-50 (2000 clips, 50 classes, 5 folds) or of its subset ESC-10.

    Parameters
    ----------
    root : path-like
        The folder that holds ``meta/esc50.csv`` and ``audio/``. The audio may be WAV, OGG, FLAC
        or another kind of file, whichever of these the table names.
    folds : int or iterable of int, optional
        Which folds to take, 1 to 5. None takes all.
    subset : {"esc10"}, optional
        Take the clips marked as ESC-10 in the table. None takes every clip.
    sample_rate : int
        Resample to this rate in Hz.
    duration : float
        Cut or zero-pad to this many seconds. A warning says so when files are longer.
    normalize : bool
        Scale every clip to a peak of 1.
    contamination : Contamination, optional
        Background noise to mix into every clip.
    cache_dir : path-like, optional
        Where to keep decoded clips on disk; None keeps them in memory.
    clips : int, optional
        Take at most this many clips, class by class in turn; see
        `audiointerp.dataset.base.choose_clips`.
    window_hop : float, optional
        Make several clips of a longer one, one every so many seconds; see `FileDataset`.
    channel : {"mid", "left", "right", "side"}
        What becomes of the channels of a file; see `audiointerp.dataset.load_audio`.

    Attributes
    ----------
    classes : tuple of str
        Categories in the order of ESC-50's numbers, of the whole table or subset whatever the
        folds; labels are indices into it.
    paths : list of Path
        The sound file of each clip.

    Raises
    ------
    FileNotFoundError
        If the folder is not laid out like ESC-50.
    ValueError
        If the table is not ESC-50's, or the fold or subset does not exist. A clip whose file is
        missing or broken raises `AudioError` when it is taken, so the others stay usable.

    References
    ----------
    K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.

    Examples
    --------
    >>> train = ESC50Dataset("ESC-50", folds=[1, 2, 3], subset="esc10")  # doctest: +SKIP
    >>> waveform, label, clip_id = train[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        folds: int | Iterable[int] | None = None,
        *,
        subset: str | None = None,
        sample_rate: int = 32000,
        duration: float = 5.0,
        normalize: bool = True,
        contamination: Contamination | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        clips: int | None = None,
        window_hop: float | None = None,
        channel: str = MID,
    ) -> None:
        if subset is not None and subset not in SUBSETS:
            raise ValueError(f"unknown subset {subset!r}: choose from {', '.join(SUBSETS)} or None")
        self.root = check_root(root)
        self.subset = subset
        rows = read_meta(self.root, subset)
        names = {row.target: row.category for row in rows}
        numbers = sorted(names)
        paths = find_audio(self.root, [row.filename for row in rows])
        super().__init__(
            [
                FileClip(Path(row.filename).stem, path, (numbers.index(row.target),), row.fold)
                for row, path in zip(rows, paths, strict=True)
            ],
            classes=[names[number] for number in numbers],
            source=str(self.root),
            folds=folds,
            clips=clips,
            window_hop=window_hop,
            channel=channel,
            sample_rate=sample_rate,
            duration=duration,
            normalize=normalize,
            contamination=contamination,
            cache_dir=cache_dir,
        )

    @property
    def recordings(self) -> list[str]:
        """The recording that each clip is from: ESC-50 names it, ``fold-recording-take-target``."""
        return [_RECORDING.sub(r"\1", name) for name in super().recordings]


def check_root(root: str | os.PathLike[str]) -> Path:
    """Return the folder of an ESC-50, or say which folder was probably meant.

    Raises
    ------
    FileNotFoundError
        If it has no ``meta/esc50.csv`` or no ``audio/``.
    """
    root = Path(root)
    table = Path("meta", "esc50.csv")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the root of an ESC-50")
    if not (root / table).is_file():
        near = [root.resolve().parent, *sorted(path for path in root.iterdir() if path.is_dir())]
        meant = [path for path in near if (path / table).is_file()]
        hint = f"did you mean {meant[0]}?" if meant else "`audiointerp data` downloads one"
        raise FileNotFoundError(
            f"{root}: has no {table}, so it is not the root of an ESC-50; {hint}"
        )
    if not (root / "audio").is_dir():
        raise FileNotFoundError(
            f"{root}: has no folder audio/ beside {table}; was it unpacked whole?"
        )
    return root


def read_meta(root: Path, subset: str | None = None) -> list[Row]:
    """Read ``meta/esc50.csv``.

    Parameters
    ----------
    root : Path
        The root of an ESC-50.
    subset : {"esc10"}, optional
        Keep only the rows of this subset.

    Raises
    ------
    TableError
        A `ValueError`: columns are missing, a line cannot be read, or no row is left.
    """
    path = Path(root) / "meta" / "esc50.csv"
    columns = (*_COLUMNS, "esc10") if subset else _COLUMNS
    table = Table(path)
    table.require(columns, "ESC-50")
    rows = [_read_row(row, Path(root) / "audio") for row in table.rows]
    if subset:
        rows = [row for row in rows if row.esc10]
    if not rows:
        raise TableError(f"{path}: lists no clips of {subset}")
    _check_classes(rows, path)
    return rows


def locate_audio(root: Path, filenames: Iterable[str]) -> list[Path]:
    """Return where the sound file of each name is, or should be.

    The table of the WAV release and the files of the OGG release, or the other way round, go
    together: where the named file is not there, one of the same stem with another ending is.
    """
    folder = Path(root) / "audio"
    there = {path.name for path in folder.iterdir()}
    paths = []
    for name in filenames:
        stem = Path(name).stem
        near = (other for other in (name, *(stem + end for end in EXTENSIONS)) if other in there)
        paths.append(folder / next(near, name))
    return paths


def find_audio(root: Path, filenames: Iterable[str]) -> list[Path]:
    """Return `locate_audio` of the names in a table, of which some must be there.

    Raises
    ------
    FileNotFoundError
        If not one of the files is there.
    """
    paths = locate_audio(root, filenames)
    if not any(map(os.path.isfile, paths)):
        raise FileNotFoundError(
            f"{root}: audio/ holds none of the {len(paths)} sound files the table names; "
            f"was the archive unpacked whole?{describe_stray(Path(root) / 'audio')}"
        )
    return paths


def _read_row(row: cells.Row, audio: Path) -> Row:
    marked = row.text("esc10").lower() if "esc10" in row.cells else ""
    return Row(
        row.path_below(audio, "filename"),
        row.whole("fold"),
        row.whole("target"),
        row.needed("category"),
        marked in ("true", "1"),
    )


def _check_classes(rows: list[Row], path: Path) -> None:
    """Raise unless every target has one category and every category one target."""
    pairs = {(row.target, row.category) for row in rows}
    if len({target for target, _ in pairs}) != len(pairs) or len(
        {category for _, category in pairs}
    ) != len(pairs):
        raise TableError(f"{path}: a target number with two categories, or a category with two")
