"""Self-contained weight files: front end, architecture, classes, licence.

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
from torch import Tensor, nn

from audiointerp.arguments import several
from audiointerp.dataset.audio import check_duration
from audiointerp.model import TransferModel, build_model
from audiointerp.model.checkpoint import load_panns, published_model
from audiointerp.model.classes import check_class_names
from audiointerp.model.classifier import Classifier
from audiointerp.model.described import WeightsError, as_bytes, read_described, write_described
from audiointerp.model.heads import build_head
from audiointerp.model.signatures import SAFETENSORS, identify
from audiointerp.model.state import CheckpointError, check_tensors, read_content
from audiointerp.processing import FrontEnd, STFTSpectrogram, build_processor

FORMAT = "audiointerp-1"
"""Of files with a softmax head and normalised sounds, which say nothing of either."""
FORMAT_WITH_HEAD = "audiointerp-2"
"""Of files that name their head and level, so that earlier versions refuse instead of guessing."""


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
        If the classes, the front end's bins, the duration or the file's ending do not fit, or a
        weight is NaN or infinite.

    Notes
    -----
    Equal arguments give equal files. A checksum of everything in the file is written into it, and
    `load` compares it.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weight files end in .safetensors")
    classes = several(classes)
    _check_classes(classes, model)
    check_fit(model, processor)
    if duration is not None:
        check_duration(duration)
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
    return write_described(path, metadata, model.state_dict())


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Classifier:
    """Return the classifier of a weight file, ready to predict.

    It unpacks as ``model, processor``: the network in evaluation mode, with ``classes``,
    ``duration``, ``head``, ``card`` and ``file`` set, and the front end it was trained with.

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
        If the file is missing, damaged, of another format, or its tensors do not fit or are not
        finite.

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
        model, processor = _build(metadata, tensors)
    # What the text says can be anything, and build_model and build_processor take it as it is.
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: the file does not describe its own tensors: {error}"
        ) from error
    model.file = path.absolute()
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
        digest.update(as_bytes(value.detach().cpu()))
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


def is_weight_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is one that `save_weights` writes, whatever its name says."""
    path = Path(path)
    if not path.exists() or identify(path) is not SAFETENSORS:
        return False
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") in _FORMATS
    except (SafetensorError, OSError):
        return False


_FORMATS = (FORMAT, FORMAT_WITH_HEAD)
_FIELDS = ("model", "processor", "classes", "duration", "card")


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the text and the tensors of a weight file, undamaged as far as it can tell."""
    if not path.exists():
        raise WeightsError(f"{path}: no such file; the shipped models are in weights/")
    kind = identify(path)
    if kind.layout in ("zip", "legacy"):
        raise WeightsError(f"{path}: {_describe_checkpoint(path)}")
    if kind is not SAFETENSORS:
        raise WeightsError(f"{path}: {kind.description}, not a weight file: {kind.advice}")
    return read_described(
        path,
        _FORMATS,
        "a safetensors file without the settings that audiointerp.save_weights writes into it; is "
        "it another program's, or an interpreter's, which audiointerp.load_interpreter reads? "
        + _LOAD_ELSEWHERE,
    )


_LOAD_ELSEWHERE = (
    "To use its weights, build the network, fill it by audiointerp.model.load_checkpoint(network, "
    "path) and pass it to audiointerp.classifier"
)


def _describe_checkpoint(path: Path) -> str:
    """Say what a PyTorch checkpoint is in place of a weight file, and what to do."""
    try:
        content = read_content(path)
    except CheckpointError as error:
        return f"a PyTorch checkpoint, not a weight file of this package, and unreadable: {error}"
    if isinstance(content, Mapping) and "training" in content:
        return (
            "the checkpoint of a training, which holds neither front end nor classes: take the "
            ".safetensors file that the training wrote at its end. If it was cut off, run the "
            "command again with --resume"
        )
    return (
        "a PyTorch checkpoint, not a weight file of this package. "
        "audiointerp.load_panns(name, path=…) reads a tagger of PANNs. " + _LOAD_ELSEWHERE
    )


def _build(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> tuple[TransferModel, STFTSpectrogram]:
    """Make what the text of a file says, and fill the model with its tensors.

    Nothing larger than the file is made: the text is compared with the tensors first.
    """
    settings = {name: json.loads(metadata[name]) for name in _FIELDS}
    head = build_head(_expect("head", json.loads(metadata.get("head", '"softmax"')), str, dict))
    normalize = _expect("normalize", json.loads(metadata.get("normalize", "true")), bool)
    for name, kind in (("model", dict), ("processor", dict), ("classes", list), ("card", dict)):
        _expect(name, settings[name], kind)
    _expect("the card's licence", settings["card"].get("licence"), str, type(None))
    if settings["duration"] is not None:
        check_duration(settings["duration"])
    with torch.device("meta"):  # no memory is taken, whatever size the text says
        expected = build_model(settings["model"]).state_dict()
    check_tensors(tensors, expected)
    model = build_model(settings["model"])
    processor = build_processor(settings["processor"])
    check_fit(model, processor)
    model.head, model.normalize = head, normalize
    _check_classes(settings["classes"], model)
    model.load_state_dict(tensors, strict=True)
    model.classes = tuple(settings["classes"])
    model.duration = settings["duration"]
    model.card = settings["card"]
    return model, processor


def _expect(name: str, value: Any, *kinds: type) -> Any:
    """Return a value of the text, which is of one of the kinds."""
    if not isinstance(value, kinds):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{name} is {value!r:.100}: expected {names}")
    return value
