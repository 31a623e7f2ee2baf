"""Weight files that carry all it takes to use them: front end, architecture, classes, licence.

A file is in the safetensors format, which holds tensors and text and cannot run code. The text
says how to build the processor and the model; a file whose tensors do not fit it is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from audiointerp.arguments import several
from audiointerp.model import TransferModel, build_model
from audiointerp.model.checkpoint import load_panns, published_model
from audiointerp.model.classes import check_class_names
from audiointerp.model.classifier import Classifier
from audiointerp.model.heads import build_head
from audiointerp.processing import FrontEnd, STFTSpectrogram, build_processor
from audiointerp.storage import write_atomically

FORMAT = "audiointerp-1"
"""Of files with a softmax head and normalised sounds, which say nothing of either."""
FORMAT_WITH_HEAD = "audiointerp-2"
"""Of files that name their head and level, so that earlier versions refuse instead of guessing."""


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file and the likely mistake."""


def save_weights(
    path: str | os.PathLike[str],
    model: TransferModel,
    processor: STFTSpectrogram,
    *,
    classes: Sequence[str],
    duration: float | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model with its front end, classes and card into one safetensors file.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``; written whole or not at all.
    model : TransferModel
        On any device; its state-dict values are stored as they are.
    processor : STFTSpectrogram
        The front end it was trained with.
    classes : sequence of str
        Name of every class.
    duration : float, optional
        Clip length it was trained on, seconds; None if it takes any.
    card : mapping, optional
        What a user should know: data, licence, accuracy, the command that made it; under
        ``trained_on`` what `audiointerp.model.provenance.describe_training` returns. Plain values.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the classes, the front end's bins or the file's ending do not fit.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weight files end in .safetensors")
    classes = several(classes)
    _check_classes(classes, model)
    check_fit(model, processor)
    usual = model.head.name == "softmax" and model.normalize
    metadata = {
        "format": FORMAT if usual else FORMAT_WITH_HEAD,
        "model": json.dumps(model.settings()),
        "processor": json.dumps(processor.settings()),
        "classes": json.dumps(list(classes)),
        "duration": json.dumps(duration),
        "card": json.dumps(dict(card or {})),
    }
    if not usual:
        metadata |= {
            "head": json.dumps(model.head.settings()),
            "normalize": json.dumps(model.normalize),
        }
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not save_file, whose files only their owner can read.
    return write_atomically(path, save(tensors, metadata))


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Classifier:
    """Return the classifier of a weight file, ready to predict.

    It unpacks as ``model, processor``: the network in evaluation mode, with ``classes``,
    ``duration``, ``head`` and ``card`` set, and the front end it was trained with.

    Parameters
    ----------
    path : path
        A file written by `save_weights`, such as those in ``weights/``; or a checkpoint published
        with PANNs under its own name, which is read by `audiointerp.load_panns`.
    device : str or torch.device
        Where to put both.

    Returns
    -------
    Classifier

    Raises
    ------
    WeightsError
        If the file is missing, damaged, of another format, or its tensors do not fit.

    Examples
    --------
    >>> import audiointerp as ai
    >>> model, processor = ai.load("weights/esc10_logmel.safetensors")  # doctest: +SKIP
    >>> model.classes[0], processor.sample_rate  # doctest: +SKIP
    ('dog', 32000)
    """
    path = Path(path)
    published = published_model(path)
    if published is not None:
        return load_panns(published, path=path, device=device)
    metadata, tensors = _read(path)
    try:
        settings = {name: json.loads(metadata[name]) for name in _FIELDS}
        head = build_head(json.loads(metadata.get("head", '"softmax"')))
        normalize = bool(json.loads(metadata.get("normalize", "true")))
        model = build_model(settings["model"])
        processor = build_processor(settings["processor"])
        check_fit(model, processor)
        model.head, model.normalize = head, normalize
        _check_classes(settings["classes"], model)
        model.load_state_dict(tensors, strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: the file does not describe its own tensors: {error}"
        ) from error
    model.classes = tuple(settings["classes"])
    model.duration = settings["duration"]
    model.card = settings["card"]
    model.eval().to(device)
    return Classifier(
        model,
        processor.to(device),
        head=model.head,
        classes=model.classes,
        duration=model.duration,
        licence=model.card.get("licence"),
        normalize=model.normalize,
        outputs="logits",
    )


def model_hash(model: nn.Module) -> str:
    """Return a fingerprint of a model's weights: 16 hexadecimal digits of a SHA-256.

    The same for the same names, shapes and values, wherever the model lives.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        kind = str(value.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {tuple(value.shape)}".encode())
        # As bytes: NumPy has no bfloat16.
        whole = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(whole.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_fit(model: nn.Module, processor: FrontEnd) -> None:
    """Raise a ValueError if the model was built for other features than the processor makes."""
    expected = getattr(model, "num_bins", processor.num_bins)
    if expected != processor.num_bins:
        raise ValueError(
            f"{type(processor).__name__} makes {processor.num_bins} frequency bins, the model "
            f"expects {expected}: is this the front end it was trained with?"
        )


def _check_classes(classes: Sequence[str], model: TransferModel) -> None:
    names = [classes] if isinstance(classes, str) else list(classes)
    count = model.head.num_classes(model.num_classes)
    if len(names) != count:
        raise ValueError(f"{len(names)} class names for a model of {count} classes")
    check_class_names(names)


_FIELDS = ("model", "processor", "classes", "duration", "card")


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; the shipped models are in weights/")
    if path.suffix in {".pth", ".pt", ".ckpt"}:
        raise WeightsError(
            f"{path}: a PyTorch checkpoint, not a weight file of this package; "
            "audiointerp.load_panns(model, path=…) reads those published with PANNs"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); was the copy cut short?"
        ) from error
    if metadata.get("format") not in (FORMAT, FORMAT_WITH_HEAD):
        raise WeightsError(
            f"{path}: a safetensors file without the settings that audiointerp.save_weights "
            "writes into it; is it another program's?"
        )
    return metadata, tensors
