"""Classifiers of models of Hugging Face's transformers, with front ends checked against their own.

A new family is an entry of `FAMILIES`: which models have which feature extractor, and the function
that makes front end and network of the two.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.arguments import several
from audiointerp.model.classes import ClassNames, check_class_names
from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.heads import Head
from audiointerp.model.huggingface_networks import (
    PretrainedNetwork,
    WaveformTransformer,
    make_clap,
    make_kaldi,
    make_whisper,
)
from audiointerp.processing import FrontEnd, WaveformFrontEnd

_INSTALL = "pip install audiointerp[transformers]"
_TOLERANCE = 1e-3
"""Of the check of the front end, as a share of the largest value of what the extractor gives."""
_PROBE_SECONDS = 1.0
_HEADS = {
    None: "softmax",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}
"""Heads by ``config.problem_type``, as transformers' own pipeline applies them."""
_UNNAMED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class Family:
    """Models that are fed alike.

    Attributes
    ----------
    extractor : str
        Class of their feature extractor.
    make : callable
        ``make(extractor, model)`` returns front end and network; of zero-shot models
        ``make(extractor, model, texts)``, with the embeddings of the texts.
    """

    extractor: str
    make: Callable[..., tuple[FrontEnd, PretrainedNetwork]]


def _make_waveform(extractor: Any, model: nn.Module) -> tuple[FrontEnd, PretrainedNetwork]:
    front_end = WaveformFrontEnd(sample_rate=extractor.sampling_rate)
    return front_end, WaveformTransformer(model, normalise=extractor.do_normalize)


_OF_WAVEFORMS = Family("Wav2Vec2FeatureExtractor", _make_waveform)

FAMILIES: dict[str, Family] = {
    "audio-spectrogram-transformer": Family("ASTFeatureExtractor", make_kaldi),
    "whisper": Family("WhisperFeatureExtractor", make_whisper),
    "clap": Family("ClapFeatureExtractor", make_clap),
    "wav2vec2": _OF_WAVEFORMS,
    "hubert": _OF_WAVEFORMS,
    "wavlm": _OF_WAVEFORMS,
    "data2vec-audio": _OF_WAVEFORMS,
    "sew": _OF_WAVEFORMS,
}
"""By ``config.model_type``."""


def from_transformers(
    name_or_model: str | os.PathLike[str] | nn.Module,
    feature_extractor: Any = None,
    *,
    texts: Sequence[str] | None = None,
    classes: ClassNames | None = None,
    head: str | Head | None = None,
    licence: str | None = None,
    **loading: Any,
) -> Classifier:
    """Make a classifier of an audio classification model of transformers.

    AST, wav2vec 2.0, HuBERT, WavLM, data2vec-audio, SEW and Whisper with their classification
    heads, and CLAP, whose classes are texts. The feature extractor is replaced by a front end of
    this package, through which gradients pass and whose cells can be made audible. Both are run on
    a made-up sound, and it is an error if they differ.

    Clips shorter than the model's input stay as they are: what the feature extractor appends to
    them is no cell and is neither attributed nor masked. Longer recordings are cut into windows.

    Parameters
    ----------
    name_or_model : str, path or Module
        A folder that ``save_pretrained`` wrote, a name on the Hugging Face Hub, or the model. The
        first two are read by transformers' own ``from_pretrained``.
    feature_extractor : object, optional
        The model's own feature extractor. By default it is read from where the model is; a model
        that is given needs one. Of CLAP the processor, which has the tokenizer too.
    texts : sequence of str, optional
        Of CLAP: what sounds are compared with, such as "a dog barks". They are embedded once.
    classes : sequence of str, mapping of index to str, or path, optional
        Names of the classes. By default ``config.id2label``, or the texts.
    head : {"softmax", "sigmoid", "binary"} or Head, optional
        By default sigmoid if ``config.problem_type`` is "multi_label_classification", else softmax,
        as in transformers' pipeline. Models of AudioSet were trained with sigmoid, whether their
        configuration says so or not. CLAP was trained with softmax over texts: the sigmoid of its
        scaled cosines is no calibrated probability.
    licence : str, optional
        Of the weights; by default that of the model card where the model is, if there is one.
    **loading
        For ``from_pretrained``, such as ``revision="main"`` or ``local_files_only=True``.

    Returns
    -------
    Classifier

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If the model is not one of those, its checkpoint has no classification head, it names no
        classes, its feature extractor is another model's or does something that the front end does
        not do, or nothing can be read.

    References
    ----------
    T. Wolf et al., "Transformers: State-of-the-art natural language processing", EMNLP 2020
    (system demonstrations).

    Examples
    --------
    >>> import audiointerp as ai
    >>> tagger = ai.from_transformers(
    ...     "MIT/ast-finetuned-audioset-10-10-0.4593", head="sigmoid"
    ... )  # doctest: +SKIP
    >>> ai.Predict(tagger, ai.GradCAMInterpreter(tagger)).predict("dog.wav")  # doctest: +SKIP
    """
    transformers = _import_transformers()
    if isinstance(name_or_model, nn.Module):
        if loading:
            raise ValueError(
                f"{', '.join(loading)} are for reading a model, and a model was given: leave them "
                "out"
            )
        if feature_extractor is None:
            raise ValueError(
                "a model that is given needs its feature_extractor=…, which says how its input was "
                "made; by a name or a folder both are read"
            )
        model, where = name_or_model, type(name_or_model).__name__
    else:
        where = os.fspath(name_or_model)
        model = _read_model(transformers, where, loading)
        if feature_extractor is None:
            feature_extractor = _read_extractor(transformers, where, model, loading)
        if licence is None:
            licence = _read_licence(transformers, where, loading)
    family = _family_of(model, where)
    zero_shot = _model_type(model) == "clap"
    extractor = getattr(feature_extractor, "feature_extractor", feature_extractor)
    _check_extractor(extractor, family, where)
    if zero_shot:
        texts = _check_texts(texts, where)
        classes = texts if classes is None else classes
        embedded = _embed(model, getattr(feature_extractor, "tokenizer", None), texts)
        front_end, network = family.make(extractor, model, embedded)
    else:
        if texts is not None:
            raise ValueError(f"texts are for CLAP, {where} has classes of its own: leave them out")
        classes = _class_names(model, where) if classes is None else classes
        front_end, network = family.make(extractor, model)
    _check_front_end(extractor, front_end, network)
    return classifier(
        network,
        front_end=front_end,
        classes=classes,
        head="softmax" if head is None and zero_shot else _head_of(model, where, head),
        licence=licence,
        outputs="logits",
    )


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"from_transformers needs the package transformers: {_INSTALL}"
        ) from error
    return transformers


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def _family_of(model: nn.Module, where: str) -> Family:
    kind = _model_type(model)
    if kind not in FAMILIES:
        raise ValueError(
            f"{where} is a model of type {kind or type(model).__name__!r}: expected an audio "
            f"classification model of transformers, one of {', '.join(FAMILIES)}; others are "
            "wrapped by audiointerp.classifier"
        )
    complete = hasattr(model, "text_projection" if kind == "clap" else "classifier")
    if not complete:
        wanted = "a ClapModel" if kind == "clap" else "one with a classifier"
        raise ValueError(
            f"{where} is a {type(model).__name__}, which classifies no clips: expected {wanted}, "
            "such as transformers.AutoModelForAudioClassification reads"
        )
    return FAMILIES[kind]


def _read_model(transformers: Any, where: str, loading: dict[str, Any]) -> nn.Module:
    config = _from_pretrained(transformers.AutoConfig, where, loading)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{where} is a model of type {config.model_type!r}: expected an audio classification "
            f"model, one of {', '.join(FAMILIES)}; others are wrapped by audiointerp.classifier"
        )
    reader = transformers.AutoModelForAudioClassification
    if config.model_type == "clap":
        reader = transformers.ClapModel
    model, found = _from_pretrained(reader, where, loading, output_loading_info=True)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{where} holds no values for {len(missing)} weights of {type(model).__name__}, such "
            f"as {missing[0]}: they would be random. Is it a model without a classification head?"
        )
    return model


def _read_extractor(
    transformers: Any, where: str, model: nn.Module, loading: dict[str, Any]
) -> Any:
    reader = transformers.AutoFeatureExtractor
    if _model_type(model) == "clap":
        reader = transformers.AutoProcessor
    return _from_pretrained(reader, where, loading)


def _from_pretrained(reader: Any, where: str, loading: dict[str, Any], **options: Any) -> Any:
    try:
        return reader.from_pretrained(where, **loading, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{where}: {reader.__name__} of transformers cannot read it: expected a folder that "
            f"save_pretrained wrote, or a name on the Hugging Face Hub ({reason})"
        ) from error


def _read_licence(transformers: Any, where: str, loading: dict[str, Any]) -> str | None:
    """Return the licence of the model card, None where there is none."""
    from huggingface_hub import ModelCard

    options = {key: loading[key] for key in ("revision", "local_files_only") if key in loading}
    try:
        card = transformers.utils.cached_file(where, "README.md", **options)
    except OSError:  # without a card, or without a connection
        return None
    data = ModelCard(Path(card).read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    return data.get("license_name") or data.get("license")


def _check_extractor(extractor: Any, family: Family, where: str) -> None:
    kinds = [kind.__name__ for kind in type(extractor).__mro__]
    if family.extractor not in kinds:
        raise ValueError(
            f"the feature extractor of {where} is a {type(extractor).__name__}: expected a "
            f"{family.extractor}, whose front end is known"
        )


def _check_texts(texts: Sequence[str] | None, where: str) -> tuple[str, ...]:
    if texts is None:
        raise ValueError(
            f"{where} compares sounds with texts: give them, texts=['a dog barks', 'rain falls']"
        )
    return check_class_names(several(texts))


@torch.no_grad()
def _embed(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return the texts' embeddings of norm 1, (texts, channels)."""
    if tokenizer is None:
        raise ValueError(
            "the texts need CLAP's tokenizer: give its processor as the feature_extractor, "
            "transformers.ClapProcessor(feature_extractor=…, tokenizer=…)"
        )
    training = model.training
    try:
        model.eval()
        words = tokenizer(list(texts), padding=True, return_tensors="pt").to(model.device)
        return model.get_text_features(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).pooler_output
    finally:
        model.train(training)


def _class_names(model: nn.Module, where: str) -> dict[int, str]:
    names = model.config.id2label
    if names and all(_UNNAMED.fullmatch(name) for name in names.values()):
        raise ValueError(
            f"{where} names its {len(names)} classes {names[0]}, …: give classes=[…], in the order "
            "of its outputs"
        )
    return names


def _head_of(model: nn.Module, where: str, head: str | Head | None) -> str | Head:
    if head is not None:
        return head
    problem = model.config.problem_type
    if problem not in _HEADS:
        raise ValueError(
            f"{where} is for problem_type={problem!r}: expected one of "
            f"{', '.join(filter(None, _HEADS))}, or give head=…"
        )
    return _HEADS[problem]


@torch.no_grad()
def _check_front_end(extractor: Any, front_end: FrontEnd, network: PretrainedNetwork) -> None:
    """Compare what the front end gives the model with what its feature extractor gives it."""
    rate = front_end.sample_rate
    seconds = min(_PROBE_SECONDS, front_end.longest or _PROBE_SECONDS)
    place = torch.arange(int(seconds * rate), dtype=torch.float64)
    noise = torch.rand(len(place), generator=torch.Generator().manual_seed(0)).double() - 0.5
    sound = 0.1 * noise * (place / len(place)) ** 2 + 0.3 * torch.sin(2e3 * place / rate) + 0.01
    sound = sound.float()
    made = extractor(sound.numpy(), sampling_rate=rate, return_tensors="pt")
    expected = torch.as_tensor(made[extractor.model_input_names[0]]).double()
    view = front_end.analyse(sound[None, None].double())
    found = network.model_input(front_end.network_input(view, view.cells))
    if found.shape != expected.shape:
        raise ValueError(
            f"the front end gives the model {tuple(found.shape)}, its feature extractor "
            f"{tuple(expected.shape)}: has the {type(extractor).__name__} settings, or code, that "
            "are not known?"
        )
    away = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not away <= _TOLERANCE:
        raise ValueError(
            f"the front end differs from the model's {type(extractor).__name__} by {away:.2g} of "
            "its largest value: has the extractor settings, or code, that are not known?"
        )
