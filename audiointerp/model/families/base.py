"""What families of taggers share: their registry, their labels, the check of their extractor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.dataset.audioset import audioset_classes
from audiointerp.device import device_of
from audiointerp.model.classes import ClassNames
from audiointerp.model.classifier import Classifier
from audiointerp.processing import FrontEnd
from audiointerp.registry import Registry

FAMILIES: Registry[Callable[..., Classifier]] = Registry("family")

AUDIOSET_SECONDS = 10.0
"""Length of AudioSet's clips."""
_SAME_FEATURES = 1e-3
"""Largest difference of features, over their spread, that is rounding."""
_PROBE_SECONDS = 1.0


def check_module(family: str, model: Any, *attributes: str) -> nn.Module:
    """Return a model that is a module with some attributes.

    Raises
    ------
    ValueError
        If it is something else, naming what the family expects.
    """
    missing = [name for name in attributes if not hasattr(model, name)]
    if isinstance(model, nn.Module) and not missing:
        return model
    found = f"without {', '.join(missing)}" if isinstance(model, nn.Module) else "which is none"
    expected = f" with {', '.join(attributes)}" if attributes else ""
    raise ValueError(
        f"the family {family!r} expects a module{expected}, got {type(model).__name__}, {found}"
    )


def labels(classes: ClassNames | None, outputs: int | None) -> ClassNames:
    """Return class names: those given, or AudioSet's in the order of PANNs for 527 outputs.

    Raises
    ------
    ValueError
        If none are given and the number of outputs is another, or not known.
    """
    if classes is not None:
        return classes
    names = audioset_classes()
    if outputs not in (None, len(names)):
        raise ValueError(
            f"the model has {outputs} outputs and not AudioSet's {len(names)}: give classes=…, in "
            "their order"
        )
    return names


def check_extractor(
    family: str,
    extractor: Callable[[Tensor], Tensor],
    front_end: FrontEnd,
    features: Callable[[Tensor], Tensor],
) -> None:
    """Raise unless a model's own feature extractor computes what the front end leads to.

    Parameters
    ----------
    family : str
    extractor : callable
        Waveforms (batch, samples) to features. A module is run in evaluation mode.
    front_end : FrontEnd
    features : callable
        Cells to the same features.

    Raises
    ------
    ValueError
        If their shapes differ, or their values by more than rounding; or the extractor fails.
    """
    samples = int(_PROBE_SECONDS * front_end.sample_rate)
    noise = torch.rand(2, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # From quiet to loud, so that scale and offset both show.
    sounds = 0.5 * noise * torch.linspace(0, 1, samples) ** torch.tensor([[1.0], [3.0]])
    module = extractor if isinstance(extractor, nn.Module) else nn.Identity()
    buffer = next(module.buffers(), None)
    device = device_of(module) if buffer is None else buffer.device
    name = type(extractor).__name__
    training = [(layer, layer.training) for layer in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            expected = extractor(sounds.to(device)).cpu()
    except Exception as error:  # of the package's code, which may fail in any way
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the feature extractor {name} of the family {family!r} fails on "
            f"{tuple(sounds.shape)}: {reason}"
        ) from error
    finally:
        for layer, mode in training:
            layer.training = mode
    with torch.no_grad():
        cells = front_end.to(device).analyse(sounds[:, None].to(device)).cells
        found = features(cells).cpu()
    settings = front_end.settings()
    if found.shape != expected.shape:
        raise ValueError(
            f"the feature extractor {name} returns {tuple(expected.shape)} for 1 s, the front end "
            f"{settings} leads to {tuple(found.shape)}: is the model one of the family {family!r}?"
        )
    error = float((found - expected).abs().max() / expected.std())
    if not error <= _SAME_FEATURES or not math.isfinite(error):
        raise ValueError(
            f"the feature extractor {name} computes other numbers than the front end {settings}, "
            f"by up to {100 * error:.2g} % of their spread: is the model one of the family "
            f"{family!r}?"
        )
