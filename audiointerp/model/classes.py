"""Class names from a list, a mapping or a file."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audiointerp.dataset.cells import Table
from audiointerp.reading import listed, parse_whole, read_json, read_text

NAME_COLUMNS = ("display_name", "name", "class", "label")
"""Columns of a CSV that class names are read from, the first that is there."""

ClassNames = Sequence[str] | Mapping[Any, str] | str | os.PathLike[str]


def read_classes(classes: ClassNames) -> tuple[str, ...]:
    """Return class names in the order of a network's outputs.

    Parameters
    ----------
    classes : sequence of str, mapping or path
        The names in order; a mapping of index to name such as the ``id2label`` of a transformers
        configuration; or a file: one name a line (``.txt``), a CSV with one of the columns
        ``display_name``, ``name``, ``class``, ``label`` and optionally ``index``, or JSON of a
        list or a mapping.

    Returns
    -------
    tuple of str

    Raises
    ------
    TypeError
        If they are neither a sequence, a mapping nor a path.
    ValueError
        If there are none, two are equal, indices are not 0 to n - 1, or a file cannot be read.
    """
    if isinstance(classes, Mapping):
        names = _from_mapping(classes, "the class names")
    elif isinstance(classes, str | os.PathLike):
        names = _from_file(Path(classes))
    elif isinstance(classes, Iterable):
        names = list(classes)
    else:
        raise TypeError(
            f"classes is {classes!r}: expected a list of names, a mapping of index to name, or "
            "the path of a file with them"
        )
    return check_class_names(names)


def check_class_names(names: Sequence[Any]) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises
    ------
    ValueError
        If there are none, one is no text or blank, or two are equal.
    """
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise ValueError(f"class names must be text, got {wrong[0]!r}")
    if not names:
        raise ValueError("there are no class names: expected one for every output")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"two classes have the same name: {', '.join(twice[:5])}")
    return tuple(names)


def _from_mapping(mapping: Mapping[Any, Any], source: str) -> list[Any]:
    try:
        by_index = {_index(key): name for key, name in mapping.items()}
    except (TypeError, ValueError):
        raise ValueError(
            f"{source} map {next(iter(mapping))!r} to {next(iter(mapping.values()))!r}: expected "
            "an index to a name, as id2label does; is this label2id?"
        ) from None
    if sorted(by_index) != list(range(len(mapping))):
        raise ValueError(
            f"{source} have the indices {sorted(by_index)[:5]} …: expected 0 to {len(mapping) - 1}"
        )
    return [by_index[index] for index in range(len(mapping))]


def _index(key: Any) -> int:
    return operator.index(parse_whole(key) if isinstance(key, str) else key)


def _from_file(path: Path) -> list[Any]:
    if not os.path.lexists(path):
        raise ValueError(f"{path}: no such file of class names; to give names write them as a list")
    if path.suffix.lower() == ".json":
        return _from_json(path, read_json(path))
    if path.suffix.lower() in (".csv", ".tsv"):
        return _from_table(Table(path))
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _from_json(path: Path, content: Any) -> list[Any]:
    if isinstance(content, Mapping):
        return _from_mapping(content, str(path))
    if isinstance(content, list):
        return content
    raise ValueError(
        f"{path}: holds {type(content).__name__}, expected a list of class names or a mapping of "
        "index to name"
    )


def _from_table(table: Table) -> list[str]:
    column = next((name for name in NAME_COLUMNS if name in table.columns), None)
    if column is None:
        raise ValueError(
            f"{table.path}: has the columns {listed(table.columns)}; expected one of "
            f"{', '.join(NAME_COLUMNS)} for the class names"
        )
    names = [row.needed(column) for row in table.rows]
    if "index" not in table.columns:
        return names
    by_index = dict(zip([row.whole("index") for row in table.rows], names, strict=True))
    if len(by_index) < len(names):
        raise ValueError(f"{table.path}: an index is there twice; expected one row for every class")
    return _from_mapping(by_index, str(table.path))
