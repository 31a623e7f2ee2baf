"""Definition of a check, its result, and the sounds it runs on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from audiointerp.dataset.audio import prepare_waveform
from audiointerp.dataset.recipes import RATE
from audiointerp.dataset.synthetic import render
from audiointerp.interpretation.base import evaluating
from audiointerp.interpretation.layers import usable_layers
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.registry import Registry

Status = Literal["ok", "missing", "failed"]

SOUNDS = ("dog", "siren", "sea_waves")
"""Classes of the synthetic set whose sounds are tried; the first is interpreted."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
        What was tried; a name in `CHECKS`, or "classifier" where none could be made.
    status : {"ok", "missing", "failed"}
        "missing" is something that the rest works without, "failed" something required.
    found : str
        What there is, or why it does not work.
    advice : str
        What to do about it; empty where nothing needs doing.
    details : mapping of str to object
        The numbers and names behind it.
    """

    check: str
    status: Status
    found: str
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """Something to try.

    Attributes
    ----------
    run : callable
        Returns the finding; an error that it raises is one.
    required : bool
        Whether interpreting needs it.
    advice : str
        What to do where it raises an error.
    """

    run: Callable[[Bench], Finding]
    required: bool
    advice: str

    def try_on(self, name: str, bench: Bench) -> Finding:
        """Return what it finds."""
        try:
            return self.run(bench)
        except Exception as error:  # of the user's code, which may fail in any way
            status: Status = "failed" if self.required else "missing"
            return Finding(name, status, f"{type(error).__name__}: {one_line(error)}", self.advice)


CHECKS: Registry[Check] = Registry("check")


def add_check(
    name: str, *, advice: str, required: bool = False
) -> Callable[[Callable[[Bench], Finding]], Callable[[Bench], Finding]]:
    """Return a decorator that files a function as a check.

    Parameters
    ----------
    name : str
    advice : str
        What to do where it raises an error.
    required : bool
        Whether interpreting needs it.
    """

    def add(run: Callable[[Bench], Finding]) -> Callable[[Bench], Finding]:
        CHECKS.register(name)(Check(run, required, advice))
        return run

    return add


class Bench:
    """A classifier and the sounds that it is tried on.

    Attributes
    ----------
    classifier : Classifier
    device : device
        Where it is.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        self.classifier = classifier.to(device)
        self.device = device

    @cached_property
    def clips(self) -> Tensor:
        """Sounds as the classifier takes them, (sounds, 1, samples)."""
        return torch.stack([self._sound(category) for category in SOUNDS]).to(self.device)

    @cached_property
    def view(self) -> View:
        """The sounds, analysed."""
        with torch.no_grad():
            return self.classifier.front_end.analyse(self.clips)

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """The layers that Grad-CAM can look at, with the size of their planes."""
        return usable_layers(self.classifier, self.view[:1])

    def logits(self, view: View) -> Tensor:
        """Return the classifier's own logits, without a copy made for speed."""
        with evaluating(self.classifier.network), torch.no_grad():
            return self.classifier.logits(view.cells, view)

    def probabilities(self, view: View) -> Tensor:
        """Return the classifier's own probabilities."""
        return self.classifier.probabilities(self.logits(view))

    def _sound(self, category: str) -> Tensor:
        scene = render(category, 0)
        wave = torch.from_numpy(scene.foreground + scene.background)
        if self.classifier.duration is not None:
            wave = wave.repeat(math.ceil(self.classifier.duration * RATE / len(wave)))
        if self.classifier.longest is not None:
            wave = wave[: int(self.classifier.longest * RATE)]
        rate = self.classifier.front_end.sample_rate
        return prepare_waveform(wave, RATE, rate, self.classifier.duration)[0]


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())
