"""What a training keeps in its folder: checkpoints and history, and how it is resumed from them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from audiointerp.storage import write_atomically

BEST, LAST, HISTORY = "best.ckpt", "last.ckpt", "history.csv"


def best_epoch(history: Sequence[dict[str, float]]) -> int:
    """Return the epoch of the highest validation score, of several that of the lowest loss.

    Parameters
    ----------
    history : sequence of dict
        As `Training.history`. The score is ``val_map`` where it is there, else ``val_accuracy``.
    """
    best = max(history, key=lambda row: (row[score_name(row)], -row["val_loss"], -row["epoch"]))
    return int(best["epoch"])


def score_name(columns: Container[str]) -> str:
    """Return which column of a history the best epoch is chosen by."""
    return "val_map" if "val_map" in columns else "val_accuracy"


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
    """Read a checkpoint of `fit`; tensors and plain values only, no code is run."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable checkpoint ({error}); was it cut short?"
        ) from error
    if not isinstance(checkpoint, dict) or "training" not in checkpoint:
        raise ValueError(f"{path}: not a checkpoint that audiointerp.fit wrote")
    return checkpoint


def best_state(path: Path) -> dict[str, Tensor]:
    """Return the network's weights in a checkpoint of `fit`."""
    prefix = "model."
    state = read_checkpoint(path)["state_dict"]
    return {
        name.removeprefix(prefix): value.contiguous()
        for name, value in state.items()
        if name.startswith(prefix)
    }


def is_finished(history: list[dict[str, float]], epochs: int, patience: int | None) -> bool:
    """Return whether a training has had all its epochs, or has waited long enough."""
    waited = len(history) - best_epoch(history)
    return len(history) >= epochs or (patience is not None and waited >= patience)


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """Write one row per epoch as CSV."""
    write_atomically(path, pd.DataFrame(history).to_csv(index=False))
