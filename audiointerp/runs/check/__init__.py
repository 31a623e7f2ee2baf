"""Find out what works on a classifier: every capability is tried on sample sounds.

A new check is one function under ``@add_check("name")``, in the module of its subject.
"""

from __future__ import annotations

import os

import torch

from audiointerp.device import resolve_device
from audiointerp.model.classifier import Classifier

from audiointerp.runs.check import (  # isort: skip (imported for the checks, in this order)
    declared as declared,
    network as network,
    methods as methods,
)
from audiointerp.runs.check.bench import CHECKS, Bench, Check, Finding, add_check
from audiointerp.runs.check.source import open_source

__all__ = [
    "CHECKS",
    "Bench",
    "Check",
    "Finding",
    "add_check",
    "check_classifier",
    "check_file",
    "works",
]


def check_file(source: str | os.PathLike[str], *, device: str = "auto") -> list[Finding]:
    """Check the classifier of a weight file, or one that a function of a Python file makes.

    Parameters
    ----------
    source : path or str
        A weight file, or ``file.py:function``. The function takes no arguments and returns what
        `audiointerp.classifier` returns, or its module and keyword arguments as a pair. The file
        is run: check only files that you trust.
    device : str
        See `audiointerp.device.resolve_device`.

    Returns
    -------
    list of Finding
        One for each check; one alone where no classifier can be made of the module.

    Raises
    ------
    ValueError
        If the file cannot be read or run, or the function returns something else.
    """
    chosen = resolve_device(device)
    made = open_source(source)
    if isinstance(made, Finding):
        return [made]
    return check_classifier(made, device=chosen)


def check_classifier(
    classifier: Classifier, *, device: torch.device | str = "cpu"
) -> list[Finding]:
    """Try everything that this package does on a classifier.

    Parameters
    ----------
    classifier : Classifier
        With a front end. It is moved to the device and otherwise left as it was.
    device : device or str

    Returns
    -------
    list of Finding
        One for each of `CHECKS`.

    Raises
    ------
    ValueError
        If it has no front end.
    """
    if classifier.front_end is None:
        raise ValueError("the classifier has no front end: there is nothing to analyse sound with")
    bench = Bench(classifier, torch.device(device))
    return [check.try_on(name, bench) for name, check in CHECKS.items()]


def works(findings: list[Finding]) -> bool:
    """Return whether everything required works."""
    return all(finding.status != "failed" for finding in findings)
