"""UrbanSound8K."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiointerp.dataset.base import Fold
from audiointerp.dataset.cells import Row, Table, TableError
from audiointerp.dataset.files import ClipOptions, FileClip, FileDataset

if TYPE_CHECKING:
    from typing_extensions import Unpack

TABLE = Path("metadata", "UrbanSound8K.csv")
_COLUMNS = ("slice_file_name", "fold", "classID", "class")


class UrbanSound8KDataset(FileDataset):
    """The clips of UrbanSound8K: 8732 of at most 4 s, 10 classes, 10 folds.

    The folds are those of the table; results are comparable to others' only over these. The
    columns start and end are those of the recording that a clip was cut from, and are not used.

    Parameters
    ----------
    root : path-like
        The folder that holds ``metadata/UrbanSound8K.csv`` and ``audio/fold1/`` and so on.
    folds : int or iterable of int, optional
        Which folds to take, 1 to 10. None takes all.
    **options
        sample_rate, duration (4 s by default), normalize, contamination, cache_dir, clips,
        window_hop, channel: see `audiointerp.dataset.FileDataset`.

    Attributes
    ----------
    classes : tuple of str
        In the order of the column classID.
    root : Path

    Raises
    ------
    FileNotFoundError
        If the folder is not laid out like UrbanSound8K.
    ValueError
        If the table is not UrbanSound8K's, or a fold does not exist.

    References
    ----------
    J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research",
    ACM Multimedia 2014.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        folds: Fold | Iterable[Fold] | None = None,
        **options: Unpack[ClipOptions],
    ) -> None:
        self.root = Path(root)
        table = Table(self.root / TABLE)
        table.require(_COLUMNS, "UrbanSound8K")
        names = _read_classes(table)
        numbers = sorted(names)
        super().__init__(
            [self._clip(row, numbers) for row in table.rows],
            classes=[names[number] for number in numbers],
            source=str(self.root),
            folds=folds,
            **({"duration": 4.0} | options),
        )

    @property
    def recordings(self) -> list[str]:
        """The recording that each clip is from, which its name begins with."""
        return [name.partition("-")[0] for name in super().recordings]

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        return super().settings() | {"clips_sha256": self._fingerprint}

    def _clip(self, row: Row, numbers: list[int]) -> FileClip:
        fold = row.whole("fold")
        folder = self.root / "audio" / f"fold{fold}"
        name = row.path_below(folder, "slice_file_name")
        path = folder / name
        return FileClip(Path(name).stem, path, (numbers.index(row.whole("classID")),), fold)


def _read_classes(table: Table) -> dict[int, str]:
    names: dict[int, str] = {}
    for row in table.rows:
        number, name = row.whole("classID"), row.needed("class")
        if names.setdefault(number, name) != name:
            raise row.error("class", f"class {number} is {name!r} here, {names[number]!r} before")
    if len(set(names.values())) < len(names):
        raise TableError(f"{table.path}: a class has two numbers (class, classID)")
    return names
