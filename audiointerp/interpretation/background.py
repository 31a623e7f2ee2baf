"""Background clips for methods that compare a clip with others."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from audiointerp.interpretation.base import as_view, check_features
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View


def read_background(background: Tensor | View, classifier: Classifier, name: str) -> View:
    """Return background clips as a view whose tensors can take part in a backward pass.

    Parameters
    ----------
    background : Tensor, shape (count, 1, freq, time), or View
    classifier : Classifier
        What they are for.
    name : str
        The argument's name, for messages.

    Raises
    ------
    TypeError
        If it is neither a Tensor nor a View.
    ValueError
        If shape or values do not fit, or a waveform network is given cells alone.
    """
    if not isinstance(background, Tensor | View):
        raise TypeError(
            f"{name} must be a Tensor of features or a View, got {type(background).__name__}"
        )
    view = as_view(background)
    check_features(view.cells, name)
    if classifier.needs_view and view.waveform is None:
        raise ValueError(
            f"the {name} of a waveform network must be a View of sound, as "
            "front_end.analyse(waveform) returns it"
        )
    with torch.inference_mode(False):
        cells = view.cells.detach().clone()
        if not classifier.needs_view:
            return View(cells)
        return View(cells, view.waveform.detach().clone(), view.context.detach().clone())


def check_background(background: View, view: View, classifier: Classifier, name: str) -> None:
    """Raise a ValueError unless background clips are as long as the clips to explain."""
    shape, expected = view.cells.shape[1:], background.cells.shape[1:]
    if shape != expected:
        raise ValueError(
            f"features have the shape {tuple(shape)} (1, freq, time), the "
            f"{name} {tuple(expected)}: do both come from the same "
            "processor and have the same length?"
        )
    if classifier.needs_view:
        samples, wanted = (each.waveform.shape[-1] for each in (view, background))
        if samples != wanted:
            raise ValueError(
                f"the sound has {samples} samples, the {name} {wanted}: cut or pad both to "
                "the same length"
            )


def describe_background(background: View) -> dict[str, Any]:
    """Return the number of background clips and the SHA-256 of their cells, ready for JSON."""
    values = background.cells.cpu().contiguous().view(torch.uint8).numpy()
    return {
        "background_clips": len(background),
        "background_sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }
