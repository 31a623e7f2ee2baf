"""Model cards of weight files: training data, licence, scores and errors."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from audiointerp.dataset.base import ClipDataset, Fold
from audiointerp.dataset.choose import made_by_package
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.interpretation.trained.base import Decoder
from audiointerp.model import TransferModel
from audiointerp.model.classifier import Classifier
from audiointerp.model.weights import model_hash
from audiointerp.processing import STFTSpectrogram
from audiointerp.runs.classification import SetPredictions
from audiointerp.training.loop import Training
from audiointerp.version import __version__

_OF_PACKAGE = "weights and data: MIT, as the package"
_LICENCES = {
    "synthetic": ("the synthetic set that audiointerp makes itself", _OF_PACKAGE),
    "shortcut": (
        "the synthetic set with a planted shortcut: the network is meant to cheat",
        _OF_PACKAGE,
    ),
    "esc10": (
        "ESC-10, 400 clips (K. J. Piczak, 2015)",
        "weights: MIT, as the package; data, not included: CC BY 3.0, credits in its own LICENSE",
    ),
    None: (
        "ESC-50, 2000 clips (K. J. Piczak, 2015), or a set in its layout",
        "weights: yours to choose; data, not included: ESC-50 is CC BY-NC 3.0",
    ),
}


def source_and_licence(
    data: str | os.PathLike[str], subset: str | None, train: ClipDataset
) -> tuple[str, str]:
    """Return what the card says of the data and of the licence."""
    made = made_by_package(data)
    if made is not None:
        return _LICENCES[made]
    if isinstance(train, ESC50Dataset):
        return _LICENCES[subset]
    return (
        f"a set of the user's, read as {type(train).__name__}",
        "weights: yours to choose, as far as the data's licence lets you; data: not included",
    )


def make_card(
    source: tuple[str, str],
    training: Training,
    test: SetPredictions | None,
    folds: tuple[tuple[Fold, ...], ...],
    command: str,
) -> dict[str, Any]:
    """Return what travels in the weight file and is written on the card."""
    data, licence = source
    scores = {"validation_accuracy": float(training.kept["val_accuracy"])}
    if test is not None:
        scores["test_accuracy"] = test.accuracy
    if "val_map" in training.kept:
        scores["validation_map"] = float(training.kept["val_map"])
        if test is not None:
            scores["test_map"] = test.mean_average_precision
    return {
        "data": data,
        "folds": "; ".join(
            f"{use} {', '.join(map(str, fold))}"
            for use, fold in zip(("training", "validation", "test"), folds, strict=True)
        ),
        "licence": licence,
        **{name: round(score, 4) for name, score in scores.items()},
        "best_epoch": training.best_epoch,
        "kept_epoch": training.kept_epoch,
        "command": command,
        "versions": _versions(),
    }


def card_page(
    name: str,
    model: TransferModel,
    processor: STFTSpectrogram,
    train: ClipDataset,
    card: dict[str, Any],
    test: SetPredictions | None,
) -> str:
    """Return the card as a page of Markdown.

    Parameters
    ----------
    name : str
        Of the weight file.
    model : TransferModel
    processor : STFTSpectrogram
    train : ClipDataset
    card : dict
        What `make_card` returned.
    test : SetPredictions, optional
        None before the test.
    """
    parameters = sum(value.numel() for value in model.parameters())
    head = ", ".join(filter(None, (model.head.name, _listed(model.head.settings()))))
    lines = [
        f"# {name}",
        "",
        f"{len(train.classes)} classes: {', '.join(train.classes)}.",
        "",
        f"- Model: {model.name}, {_listed(model.settings())}; {parameters:,} parameters",
        *([] if head == "softmax" else [f"- Head: {head}"]),
        f"- Front end: {type(processor).__name__}, {_listed(processor.settings())}",
        f"- Clips: {train.duration:g} s at {train.sample_rate} Hz, peak-normalised",
        f"- Data: {card['data']}; folds: {card['folds']}",
        *_untrained(train),
        f"- Licence: {card['licence']}",
        *([f"- Started from: {card['start']}"] if "start" in card else []),
        *_scores(card, test),
        f"- Versions: {card['versions']}",
        "",
        "Made by",
        "",
        f"    {card['command']}",
        "",
        *_of_test(test),
    ]
    return "\n".join(lines)


def decoder_card(
    source: tuple[str, str],
    classifier: Classifier,
    settings: Mapping[str, Any],
    best: pd.Series,
    folds: tuple[tuple[Fold, ...], ...],
    command: str,
) -> dict[str, Any]:
    """Return the card of a trained interpreter.

    Parameters
    ----------
    source : (str, str)
        What `source_and_licence` returned.
    classifier : Classifier
    settings : mapping
        Of the objective.
    best : Series
        The history's row of the best epoch.
    folds : tuple of tuple of int or str
        Of the training and of the validation.
    command : str
    """
    data, licence = source
    return {
        "method": settings["method"],
        "classifier": "" if classifier.file is None else classifier.file.stem,
        "classifier_hash": model_hash(classifier.network),
        "data": data,
        "folds": "; ".join(
            f"{use} {', '.join(map(str, fold))}"
            for use, fold in zip(("training", "validation"), folds, strict=True)
        ),
        "licence": licence,
        "settings": {name: value for name, value in settings.items() if name != "method"},
        "best_epoch": int(best["epoch"]),
        "losses": {
            name: round(float(value), 5)
            for name, value in best.items()
            if name not in ("epoch", "learning_rate")
        },
        "command": command,
        "versions": _versions(),
    }


def decoder_page(name: str, decoder: Decoder, card: Mapping[str, Any], clips: int) -> str:
    """Return a trained interpreter's card as a page of Markdown.

    Parameters
    ----------
    name : str
        Of the weight file.
    decoder : Decoder
    card : mapping
        What `decoder_card` returned.
    clips : int
        How many it was trained on.
    """
    parameters = sum(value.numel() for value in decoder.state_dict().values())
    lines = [
        f"# {name}",
        "",
        f"A decoder of the method `{card['method']}` for the classifier {card['classifier']} "
        f"(hash {card['classifier_hash']}) and for no other.",
        "",
        f"- Decoder: {_listed(decoder.settings())}; {parameters:,} numbers",
        f"- Data: {card['data']}, {clips} clips; folds: {card['folds']}; no labels are used",
        f"- Licence: {card['licence']}",
        f"- Training: {_listed(card['settings'])}",
        f"- Best epoch: {card['best_epoch']}, by the loss on the validation fold; "
        + _listed(card["losses"]),
        f"- Versions: {card['versions']}",
        "",
        "Made by",
        "",
        f"    {card['command']}",
        "",
    ]
    return "\n".join(lines)


def _versions() -> str:
    return ", ".join(
        (
            f"Python {platform.python_version()}",
            f"torch {torch.__version__}",
            f"lightning {version('lightning')}",
            f"audiointerp {__version__}",
        )
    )


def _untrained(train: ClipDataset) -> list[str]:
    """Return the line of the classes that the network never saw, none where it saw all."""
    absent = train.absent_classes
    return [f"- Classes without a training clip: {', '.join(absent)}"] if absent else []


def _scores(card: dict[str, Any], test: SetPredictions | None) -> list[str]:
    """Return the lines of the scores: first the one that chose the epoch."""
    kept = card["kept_epoch"]
    chosen = "on the validation fold, " + (
        f"which chose the epoch ({kept})"
        if kept == card["best_epoch"]
        else f"in the last epoch ({kept}), which was kept"
    )
    if test is None:
        lines = [f"- Accuracy: {card['validation_accuracy']:.2%} {chosen}; not tested yet"]
        if "validation_map" in card:
            lines.insert(0, f"- Mean average precision: {card['validation_map']:.4f} {chosen}")
        return lines
    on_test = f"on the test fold ({len(test.clip_ids)} clips)"
    validation, tested = card["validation_accuracy"], card["test_accuracy"]
    if test.head.exclusive:
        return [f"- Accuracy: {validation:.2%} {chosen}; {tested:.2%} {on_test}"]
    there = int(test.average_precisions.notna().sum())
    left_out = len(test.classes) - there
    without = f", over the {there} labels that a clip has" if left_out else ""
    return [
        f"- Mean average precision: {card['validation_map']:.4f} {chosen}; "
        f"{card['test_map']:.4f} {on_test}{without}",
        f"- Accuracy of the decisions, one for every clip and label: {validation:.2%} on the "
        f"validation fold; {tested:.2%} on the test fold",
    ]


def _of_test(test: SetPredictions | None) -> list[str]:
    """Return the table of the test: mistakes, or what was found of every label."""
    if test is None:
        return []
    return _mistakes(test.labels) if test.head.exclusive else _label_table(test)


def _mistakes(labels: pd.DataFrame) -> list[str]:
    """Return the table of what was taken for what, nothing where all is right."""
    wrong = labels[~labels["is_correct"]]
    if wrong.empty:
        return []
    mistakes = wrong.groupby(["target", "predicted"]).size().sort_values(ascending=False)
    return [
        "Mistakes on the test fold:",
        "",
        "| clip is | taken for | clips |",
        "| --- | --- | ---: |",
        *(f"| {is_} | {taken} | {count} |" for (is_, taken), count in mistakes.items()),
        "",
    ]


def _label_table(test: SetPredictions) -> list[str]:
    """Return the table of every label's clips and average precision."""
    return [
        "Labels of the test fold: clips that have it, clips it was decided for, both, and its "
        "average precision (none for labels that no clip has):",
        "",
        "| label | clips | decided | right | AP |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {label} | {clips} | {decided} | {right} | {f'{ap:.3f}' if clips else '–'} |"
            for label, clips, decided, right, ap in test.label_counts().itertuples()
        ),
        "",
    ]


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "name")
