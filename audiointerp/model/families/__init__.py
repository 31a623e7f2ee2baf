"""Taggers that come as packages or repositories of their own, each as a classifier.

A new family is one function under ``@FAMILIES.register("name")`` in a module here, and its import.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from audiointerp.arguments import build
from audiointerp.model.classifier import Classifier
from audiointerp.model.families.base import FAMILIES

from audiointerp.model.families import (  # isort: skip (imported for the families, in this order)
    beats as beats,
    cpjku as cpjku,
    panns as panns,
    yamnet as yamnet,
)

__all__ = ["FAMILIES", "from_package"]


def from_package(family: str, model: Any, **options: Any) -> Classifier:
    """Make a classifier of a model of a known package.

    The front end is that of the family. Where the model brings its own feature extractor, or one is
    given, the two are compared on a made-up sound, and a difference is an error. BEATs computes its
    features itself: its cells are the log STFT of the sound.

    Parameters
    ----------
    family : {"beats", "efficientat", "passt", "panns", "yamnet"}
        A name in `FAMILIES`.
    model : object
        What the package returns, with its weights; see the family's function for what it takes.
    **options
        Of the family's function. All take:

        classes : names, optional where the model has AudioSet's 527 classes
        head : default "sigmoid"
        duration : float, seconds; what the family was trained on by default
        licence : str, of the weights

    Returns
    -------
    Classifier

    Raises
    ------
    UnknownNameError
        If there is no such family.
    ValueError
        If an option is not one of the family's, the model has not its interface, or its feature
        extractor computes something else than the front end.

    Examples
    --------
    >>> from hear21passt.base import get_basic_model  # doctest: +SKIP
    >>> tagger = from_package("passt", get_basic_model(mode="logits"))  # doctest: +SKIP
    """
    return build(partial(FAMILIES[family], model), f"the family {family!r}", options)
