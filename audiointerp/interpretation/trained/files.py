"""Weight files of trained interpreters: decoder, layers, and the matching classifier."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiointerp.arguments import build
from audiointerp.interpretation.base import METHODS, Interpreter
from audiointerp.interpretation.trained.base import Decoder
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.model.described import WeightsError, read_described, write_described
from audiointerp.model.signatures import SAFETENSORS, identify
from audiointerp.model.state import check_tensors
from audiointerp.model.weights import model_hash

FORMAT = "audiointerp-interpreter-1"
_FIELDS = {"method": str, "decoder": dict, "classifier": dict, "card": dict}


@dataclass(frozen=True)
class ReadDecoder:
    """What a weight file holds.

    Attributes
    ----------
    decoder : Decoder
        In evaluation mode.
    card : dict
        What a user should know: data, folds, licence, losses, the command that made it.
    """

    decoder: Decoder
    card: dict[str, Any] = field(repr=False)


class NoInterpreterError(WeightsError):
    """A classifier that no interpreter of this method was trained for."""


def save_interpreter(
    path: str | os.PathLike[str],
    decoder: Decoder,
    classifier: Classifier,
    *,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a decoder into one safetensors file, with all it takes to use it again.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``; written whole or not at all.
    decoder : Decoder
    classifier : Classifier
        What it was trained for; its fingerprint is kept.
    card : mapping, optional
        Plain values.

    Raises
    ------
    ValueError
        If the file's ending is another, or a weight is NaN or infinite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weight files end in .safetensors")
    text = {
        "format": FORMAT,
        "method": json.dumps(decoder.method),
        "decoder": json.dumps(decoder.settings()),
        "classifier": json.dumps(_fingerprint(classifier)),
        "card": json.dumps(dict(card or {})),
    }
    return write_described(path, text, decoder.state_dict())


def load_interpreter(
    path: str | os.PathLike[str], classifier: nn.Module, **options: Any
) -> Interpreter:
    """Return the trained interpreter of a weight file, bound to the classifier it was trained for.

    Parameters
    ----------
    path : path
        A file that ``audiointerp train-interpreter`` wrote.
    classifier : Classifier or Module
        What `audiointerp.load` returns.
    **options
        Further arguments of the interpreter's constructor, such as ``batch_size``.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, of another format, or of another classifier.

    Examples
    --------
    >>> import audiointerp as ai
    >>> model = ai.load("weights/synthetic_logmel_robust.safetensors")  # doctest: +SKIP
    >>> method = ai.load_interpreter("mine_lmac.safetensors", model)  # doctest: +SKIP
    """
    read = read_decoder(Path(path), as_classifier(classifier))
    return METHODS[read.decoder.method](classifier, weights=read.decoder, **options)


def read_decoder(path: Path, classifier: Classifier, method: str | None = None) -> ReadDecoder:
    """Read a weight file and check that it is of a classifier.

    Parameters
    ----------
    path : Path
    classifier : Classifier
    method : str, optional
        The method that it must be of.

    Raises
    ------
    WeightsError
        See `load_interpreter`; or if the method is another.
    """
    if not path.exists():
        raise WeightsError(f"{path}: no such file")
    kind = identify(path)
    if kind is not SAFETENSORS:
        raise WeightsError(f"{path}: {kind.description}, not a weight file: {kind.advice}")
    text, tensors = read_described(
        path,
        (FORMAT,),
        "not the weights of a trained interpreter; a classifier's are read by audiointerp.load",
    )
    try:
        said = {name: _read_field(text, name, kind) for name, kind in _FIELDS.items()}
        if method is not None and said["method"] != method:
            raise ValueError(f"it is of the method {said['method']}, not of {method}")
        decoder_type = _decoder_type(said["method"])
        with torch.device("meta"):  # no memory is taken, whatever size the text says
            expected = build(decoder_type, "the decoder", said["decoder"]).state_dict()
        check_tensors(tensors, expected)
        decoder = build(decoder_type, "the decoder", said["decoder"])
    # What the text says can be anything.
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise WeightsError(f"{path}: {error}") from error
    _check_classifier(path, said["method"], said["classifier"], classifier)
    decoder.load_state_dict(tensors, strict=True)
    return ReadDecoder(decoder.eval(), said["card"])


def weights_path(classifier: Classifier, method: str) -> Path:
    """Return the file of a classifier's trained interpreter, beside the classifier's own.

    Raises
    ------
    NoInterpreterError
        If there is none, or the classifier was not read from a file.
    """
    if classifier.file is None:
        raise NoInterpreterError(
            f"{method} is trained for one classifier, and this one was not read by "
            "audiointerp.load, so that its decoder cannot be found: give its file, weights=…"
        )
    path = default_path(classifier.file, method)
    if not path.exists():
        raise NoInterpreterError(
            f"{path}: no such file; {method} is trained for one classifier. Train it by\n    "
            + train_command(classifier.file, method)
        )
    return path


def has_weights(classifier: Classifier, method: str) -> bool:
    """Return whether a trained interpreter's file lies beside the classifier's own."""
    return classifier.file is not None and default_path(classifier.file, method).exists()


def default_path(classifier: Path, method: str) -> Path:
    """Return where the interpreter of a classifier's weight file lies unless it is said."""
    return classifier.with_name(f"{classifier.stem}_{method}.safetensors")


def train_command(classifier: Path, method: str) -> str:
    """Return the command that trains an interpreter of a method for a classifier's weight file."""
    words = ["audiointerp", "train-interpreter", method, "--weights", str(classifier)]
    return shlex.join(words) + " --data …"


def _decoder_type(method: str) -> type[Decoder]:
    decoder_type = getattr(METHODS.get(method), "decoder_type", None)
    if decoder_type is None:
        raise ValueError(f"it is of the method {method!r:.100}, which this version cannot load")
    return decoder_type


def _read_field(text: Mapping[str, str], name: str, kind: type) -> Any:
    if name not in text:
        raise ValueError(f"it does not say its {name}: was it written by another version?")
    value = json.loads(text[name])
    if not isinstance(value, kind):
        raise ValueError(f"its {name} is {value!r:.100}: expected {kind.__name__}")
    return value


def _fingerprint(classifier: Classifier) -> dict[str, Any]:
    """Return what a decoder keeps of the classifier that it was trained for."""
    front_end = classifier.front_end
    return {
        "name": "" if classifier.file is None else classifier.file.stem,
        "hash": model_hash(classifier.network),
        "front_end": None if front_end is None else front_end.settings(),
    }


def _check_classifier(
    path: Path, method: str, wanted: Mapping[str, Any], classifier: Classifier
) -> None:
    """Raise unless a classifier is the one that a decoder was trained for."""
    own = _fingerprint(classifier)
    if wanted.get("hash") != own["hash"]:
        named = f"the classifier {wanted['name']!r:.100}" if wanted.get("name") else "a classifier"
        raise WeightsError(
            f"{path}: trained for {named} of the hash {wanted.get('hash')!r:.40}, this one has "
            f"{own['hash']!r}: a decoder reads the activations of one network, in the precision it "
            f"was trained with. Train {method} for this one: "
            + train_command(classifier.file or Path("CLASSIFIER"), method)
        )
    # A bare network has no front end to compare.
    if own["front_end"] not in (None, wanted.get("front_end")):
        raise WeightsError(
            f"{path}: trained with the front end {wanted.get('front_end')}, the classifier has "
            f"{own['front_end']}"
        )
