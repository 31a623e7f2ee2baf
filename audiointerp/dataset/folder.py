"""Sound files in one folder per class."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiointerp.dataset.base import Fold
from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.files import (
    ClipOptions,
    FileClip,
    FileDataset,
    check_num_folds,
    clip_name,
    hashed_fold,
    walk_files,
)
from audiointerp.reading import describe_stray, is_stray

if TYPE_CHECKING:
    from typing_extensions import Unpack

OTHER_AUDIO = (
    *(".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".mkv", ".amr", ".ape", ".wv", ".ac3"),
    *(".mp2", ".3gp", ".mov", ".avi"),
)
"""Endings of files with sound that libsndfile does not read."""

_SPLIT = re.compile(
    r"train(ing)?|test(ing)?|val(id(ation)?)?|dev(elopment)?|eval(uation)?|fold[ _-]?\d+",
    re.IGNORECASE,
)


class FolderDataset(FileDataset):
    """Sound files in one folder per class, ``root/<class>/**/*.wav``, or per split and class.

    Without splits, a file's fold is drawn by a hash of its path under `root`, so that it is the
    same on every machine and whatever else is added. Recordings that belong together (takes of one
    source) may then fall into different folds: where they have to stay together, use folders of
    splits or a table with a column of folds.

    A clip's id is its path under `root`, as ``dog__1.wav``; see
    `audiointerp.dataset.files.clip_name`.

    Parameters
    ----------
    root : path-like
        The folder of the classes' folders. Files at any depth below them count, with any ending
        that can be read (`audiointerp.dataset.decode.EXTENSIONS`). Hidden ones do not, nor does
        what is in a backup of a folder (``dog.bak``, ``dog~``), of which a warning says so.
    folds : int, str or iterable of these, optional
        Folds (1 to `num_folds`) or splits ("test") to take; all by default.
    splits : bool, optional
        Whether the folders in `root` are splits with the classes' folders inside,
        ``root/test/<class>/*.wav``. By default they are if all have names of splits (train, test,
        validation, fold1, … and the like) and no sound files directly inside. A split is called
        as its folder is; ``fold3`` is fold 3.
    num_folds : int
        How many folds to make where there are no splits.
    **options
        sample_rate, duration, normalize, contamination, cache_dir, clips, window_hop,
        channel: see `audiointerp.dataset.FileDataset`.

    Attributes
    ----------
    classes : tuple of str
        Names of the folders, in alphabetical order, of all splits whatever the folds.
    root : Path

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no sound file in a class's folder.
    ValueError
        If only some of the folders look like splits and `splits` does not say, or a fold does not
        exist.

    Examples
    --------
    >>> data = FolderDataset("sounds", folds=[1, 2, 3])  # doctest: +SKIP
    >>> data.classes, data.clip_ids[0]  # doctest: +SKIP
    (('cat', 'dog'), 'cat__kitten.wav')
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        folds: Fold | Iterable[Fold] | None = None,
        *,
        splits: bool | None = None,
        num_folds: int = 5,
        **options: Unpack[ClipOptions],
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; expected one folder per class")
        self.num_folds = check_num_folds(num_folds)
        files = [path.relative_to(self.root) for path in walk_files(self.root)]
        sounds = [path for path in files if path.suffix.lower() in EXTENSIONS]
        backups = [path for path in sounds if any(map(is_stray, path.parts[:-1]))]
        sounds = [path for path in sounds if path not in set(backups)]
        self.splits = _has_splits(self.root, sounds) if splits is None else bool(splits)
        depth = 3 if self.splits else 2  # of the path of a sound file that has a class
        kept = [path for path in sounds if len(path.parts) >= depth]
        if not kept:
            expected = "<split>/<class>/" if self.splits else "<class>/"
            raise FileNotFoundError(
                f"{self.root}: no sound files in folders of classes; expected "
                f"{self.root}/{expected} with files that end in {', '.join(EXTENSIONS)}"
                f"{describe_stray(self.root)}"
            )
        _warn_left_out(self.root, files, len(sounds) - len(kept), backups)
        classes = sorted({path.parts[depth - 2] for path in kept})
        numbers = {name: number for number, name in enumerate(classes)}
        super().__init__(
            [self._row(path, (numbers[path.parts[depth - 2]],)) for path in kept],
            classes=classes,
            source=str(self.root),
            folds=folds,
            available_folds=None if self.splits else range(1, self.num_folds + 1),
            **options,
        )

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        return super().settings() | {"clips_sha256": self._fingerprint}

    def _row(self, path: Path, labels: tuple[int, ...]) -> FileClip:
        name = path.as_posix()
        fold = _split_name(path.parts[0]) if self.splits else hashed_fold(name, self.num_folds)
        return FileClip(clip_name(name), self.root / path, labels, fold)


def looks_like_folders(root: Path) -> bool:
    """Return whether a folder has sound files in folders, as `FolderDataset` takes them."""
    return any(
        path.suffix.lower() in EXTENSIONS and path.parent != root for path in walk_files(root)
    )


def _has_splits(root: Path, sounds: Sequence[Path]) -> bool:
    """Return whether the top folders are splits; sounds directly in a folder make it a class."""
    shallowest: dict[str, int] = defaultdict(lambda: 99)
    for path in sounds:
        if len(path.parts) > 1:
            top = path.parts[0]
            shallowest[top] = min(shallowest[top], len(path.parts))
    splits = [name for name, depth in shallowest.items() if depth > 2 and _SPLIT.fullmatch(name)]
    others = sorted(shallowest.keys() - set(splits))
    if splits and others:
        raise ValueError(
            f"{root}: {', '.join(splits)} may be splits with folders of classes inside, but "
            f"{', '.join(others[:5])} cannot: say splits=False if all are classes, splits=True if "
            "all are splits"
        )
    return bool(splits)


def _split_name(folder: str) -> Fold:
    number = re.fullmatch(r"(?:fold[ _-]?)?(\d+)", folder, re.IGNORECASE)
    return int(number[1]) if number else folder


def _warn_left_out(
    root: Path, files: Sequence[Path], without_class: int, backups: Sequence[Path]
) -> None:
    """Warn of sounds that are not in the set: no class, a backup, or a kind that is not read."""
    unread = Counter(end for path in files if (end := path.suffix.lower()) in OTHER_AUDIO)
    left_out = [f"{unread[end]} that end in {end}, which is not read" for end in sorted(unread)]
    if without_class:
        left_out.append(f"{without_class} that are in no folder of a class")
    if backups:
        folders = sorted({next(filter(is_stray, path.parts)) for path in backups})
        left_out.append(f"{len(backups)} in backups of folders ({', '.join(folders)})")
    if left_out:
        warnings.warn(f"{root}: files left out: {'; '.join(left_out)}", stacklevel=3)
