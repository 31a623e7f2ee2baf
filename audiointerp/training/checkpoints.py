"""Checkpoints and history of a training, and how it resumes."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from audiointerp.model.state import check_tensors, read_content
from audiointerp.storage import write_atomically

_COLUMNS = ("epoch", "train_loss", "val_loss", "learning_rate")

BEST, LAST, HISTORY = "best.ckpt", "last.ckpt", "history.csv"
LOSS = "val_loss"


def best_epoch(history: Sequence[dict[str, float]]) -> int:
    """Return the epoch of the highest validation score, of several that of the lowest loss.

    Parameters
    ----------
    history : sequence of dict
        As `Training.history`. The score is what `score_name` returns; where that is the loss, it
        is the lowest that counts.
    """

    def rank(row: dict[str, float]) -> tuple[float, ...]:
        name = score_name(row)
        score = () if name == LOSS else (row[name],)
        return (*score, -row[LOSS], -row["epoch"])

    return int(max(history, key=rank)["epoch"])


def score_name(columns: Container[str]) -> str:
    """Return which column of a history the best epoch is chosen by.

    ``val_map`` where it is there, else ``val_accuracy``, else ``val_loss``.
    """
    return next((name for name in ("val_map", "val_accuracy") if name in columns), LOSS)


def read_earlier(
    out: Path, settings: dict[str, Any], resume: bool, overwrite: bool
) -> list[dict[str, float]] | None:
    """Return the history of the training in `out`, None if there is none to go on from."""
    last = out / LAST
    if not last.exists() or (overwrite and not resume):
        return None
    if not resume:
        raise ValueError(
            f"{out} holds a training already: pass resume=True to go on with it, overwrite=True to "
            "begin anew, or another folder"
        )
    kept = read_checkpoint(last)["training"]
    differ = [name for name, value in settings.items() if kept["settings"].get(name) != value]
    if differ and overwrite:
        return None
    if differ:
        listed = ", ".join(
            f"{name} {kept['settings'].get(name)!r} then, {settings[name]!r} now" for name in differ
        )
        raise ValueError(f"{last} is from a training with other settings ({listed})")
    return kept["history"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `fit`; tensors and plain values only, no code is run.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or not one that `fit` wrote.
    """
    content = read_content(path)
    kept = content.get("training") if isinstance(content, dict) else None
    if not isinstance(kept, dict):
        raise ValueError(f"{path}: not a checkpoint that audiointerp.fit wrote")
    parts = {
        "settings": isinstance(kept.get("settings"), dict) and _is_plain(kept["settings"]),
        "history": _is_history(kept.get("history")),
        "weights": _is_state(content.get("state_dict")),
        "progress": isinstance(content.get("loops"), dict),
    }
    wrong = [name for name, is_right in parts.items() if not is_right]
    if wrong:
        raise ValueError(
            f"{path}: not as audiointerp.fit wrote it, its {' and '.join(wrong)} missing or of "
            "another kind: was it changed by another program?"
        )
    return content


def load_epoch(model: nn.Module, path: Path, epoch: int) -> None:
    """Load the network's weights in a checkpoint of `fit`, which is of this epoch.

    Raises
    ------
    ValueError
        If the file cannot be read, is of another epoch, or its weights do not fit.
    """
    checkpoint = read_checkpoint(path)
    kept = len(checkpoint["training"]["history"])
    if kept != epoch:
        raise ValueError(
            f"{path} is of epoch {kept}, but {HISTORY} and {LAST} beside it say that epoch {epoch} "
            "is expected: are the files of two trainings mixed?"
        )
    prefix = "model."
    state = {
        name.removeprefix(prefix): value.contiguous()
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    try:
        check_tensors(state, model.state_dict())
    except ValueError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error
    model.load_state_dict(state, strict=True)


def _is_history(history: object) -> bool:
    """Return whether this is one row of numbers for every epoch from the first."""
    if not isinstance(history, list) or not history:
        return False
    return all(
        isinstance(row, dict)
        and all(isinstance(value, int | float) for value in row.values())
        and all(name in row for name in _COLUMNS)
        and row["epoch"] == epoch
        for epoch, row in enumerate(history, start=1)
    )


def _is_plain(value: object) -> bool:
    """Return whether this is of texts, numbers, lists and dictionaries, which can be compared."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_state(state: object) -> bool:
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def is_finished(history: list[dict[str, float]], epochs: int, patience: int | None) -> bool:
    """Return whether a training has had all its epochs, or has waited long enough."""
    waited = len(history) - best_epoch(history)
    return len(history) >= epochs or (patience is not None and waited >= patience)


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """Write one row per epoch as CSV."""
    write_atomically(path, pd.DataFrame(history).to_csv(index=False))
