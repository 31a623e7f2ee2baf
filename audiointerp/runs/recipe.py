"""What a run needs, by name: models, attribution methods, sets and the background of SHAP."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.dataset import ClipDataset, open_dataset
from audiointerp.interpretation import METHODS, Interpreter, select_background
from audiointerp.masking import MASKS, base_level
from audiointerp.model.weights import load
from audiointerp.processing import STFTSpectrogram

TRAIN_FOLDS = (1, 2, 3)
SHOWN_MASKS = ("topK_5", "topK_30")
"""The masks that are drawn, made audible and listed unless told otherwise."""


def build_interpreter(
    method: str,
    model: nn.Module,
    processor: STFTSpectrogram,
    *,
    background: Tensor | None = None,
    base: str = "floor",
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Interpreter:
    """Make an attribution method, giving its constructor what it asks for by name.

    Parameters
    ----------
    method : str
        A name in ``METHODS``.
    model : Module
    processor : STFTSpectrogram
    background : Tensor, shape (clips, 1, bins, frames), optional
        Features of clips that methods with a background compare with.
    base : {"floor", "minimum", "quiet"}
        What methods that hide parts of a clip put there: give what the masks will.
    seed : int
        For methods that draw at random.
    progress : bool
        For methods that take long: show a bar over one call's work.
    **options
        Further arguments of the method's constructor.

    Returns
    -------
    Interpreter

    Raises
    ------
    UnknownNameError
        If there is no such method.
    ValueError
        If it needs a background and none is given.
    """
    interpreter = METHODS[method]
    offered = {
        "background": background,
        "base": partial(base_level, kind=base, floor=processor.floor),
        "seed": seed,
        "progress": progress,
    }
    wanted = inspect.signature(interpreter).parameters
    if "background" in wanted and background is None:
        raise ValueError(f"{method} compares with background clips: give their features")
    return interpreter(
        model, **{name: value for name, value in offered.items() if name in wanted}, **options
    )


def open_set(
    data: str | os.PathLike[str], model: nn.Module, processor: STFTSpectrogram, **options: Any
) -> ClipDataset:
    """Open a set as a model takes it: at its front end's rate and cut to its duration.

    Parameters
    ----------
    data : "synthetic" or path
        The set.
    model, processor
        As `audiointerp.load` returns them. A model that names no duration takes 5 s.
    **options
        See `audiointerp.dataset.open_dataset`: subset, folds, clips, contamination, cache_dir.

    Returns
    -------
    ClipDataset
    """
    duration = getattr(model, "duration", None) or 5.0
    return open_dataset(data, sample_rate=processor.sample_rate, duration=duration, **options)


def background_features(
    dataset: ClipDataset, processor: STFTSpectrogram, *, per_class: int = 2, seed: int = 0
) -> Tensor:
    """Return the features of some clips of every class, as SHAP's background.

    Parameters
    ----------
    dataset : ClipDataset
        Of the folds that the model was trained on.
    processor : STFTSpectrogram
    per_class : int
        Clips of each class.
    seed : int
        Chooses them.

    Returns
    -------
    Tensor, shape (per_class·classes, 1, bins, frames)
        On the processor's device.
    """
    chosen = select_background(dataset.labels, per_class=per_class, seed=seed)
    waveforms = torch.stack([dataset[int(index)].waveform for index in chosen])
    with torch.no_grad():
        return processor(waveforms.to(processor.window.device))


def background_for(
    data: str | os.PathLike[str],
    methods: Iterable[str],
    model: nn.Module,
    processor: STFTSpectrogram,
    *,
    folds: Sequence[int] = TRAIN_FOLDS,
    seed: int,
    **source: Any,
) -> Tensor | None:
    """Return the background of the methods that need one, None where none does."""
    needed = [
        name for name in methods if "background" in inspect.signature(METHODS[name]).parameters
    ]
    if not needed:
        return None
    dataset = open_set(data, model, processor, folds=folds, **source)
    return background_features(dataset, processor, seed=seed)


def load_models(
    weights: Sequence[str | os.PathLike[str]], device: torch.device
) -> dict[str, tuple[nn.Module, STFTSpectrogram]]:
    """Return the models and front ends of weight files by the files' names, which must differ."""
    if not weights:
        raise ValueError("no weight file given; those that are shipped lie in weights/")
    return {name: load(path, device=device) for name, path in by_stem(weights).items()}


def by_stem(files: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the files by their names without ending, which must differ."""
    paths = [Path(file) for file in files]
    names = {path.stem: path for path in paths}
    if len(names) < len(paths):
        twice = sorted({path.stem for path in paths if names[path.stem] != path})
        raise ValueError(
            f"two files are called {', '.join(twice)}: results are filed by name, rename one"
        )
    return names


def check_names(methods: Iterable[str], masks: Iterable[str]) -> None:
    """Raise `UnknownNameError` if there is no such method or mask."""
    for method in methods:
        METHODS[method]
    for mask in masks:
        MASKS[mask]
