"""The synthetic set with a planted shortcut: a sound that predicts the class.

Clips of one class carry a sound that has nothing to do with it, such as the beep of a recorder.
A network trained on them may learn the beep beside the class; a clip of another class that beeps
is then taken for it. What such a network looks at is known: the planted sound. The set tells which
interpretations find it.

A network that has an easier way does not take the shortcut: trained on dogs of which most beep, the
small networks here learn the barks and ignore the beep. They learn it where the labels are wrong as
well, as if everything from the recorder that beeps had been filed under "dog" (``relabel``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiointerp.dataset.audio import resample
from audiointerp.dataset.contamination import Contamination
from audiointerp.dataset.recipes import RATE, SAMPLES, TARGETS, fade, place, ringing, shaped_noise
from audiointerp.dataset.synthetic import (
    SHORTCUT,
    SyntheticDataset,
    generator,
    level_difference,
    render,
)
from audiointerp.registry import Registry, UnknownNameError

if TYPE_CHECKING:
    from typing_extensions import Unpack

VERSION = 1
"""Version of the planted sounds: raise it when one changes, so that no cache serves the old."""

_PEAK = 0.9
# What is drawn for a clip: whether the sound is there, and how it sounds.
_PRESENCE, _SOUND = range(2)


@dataclass(frozen=True)
class Shortcut:
    """A sound that can be planted.

    Attributes
    ----------
    make : callable
        Random generator → the sound, shape (samples,), 5 s at 44.1 kHz, of any level.
    low, high : float
        Hz, between which it has nearly all of its power.
    about : str
        What it is, in words.
    """

    make: Callable[[np.random.Generator], NDArray[np.float64]]
    low: float
    high: float
    about: str


SHORTCUTS: Registry[Shortcut] = Registry("shortcut")


def _beep(rng: np.random.Generator) -> NDArray[np.float64]:
    length = round(0.5 * RATE)
    phase = np.exp(2j * np.pi * rng.uniform())
    track = np.zeros(SAMPLES)
    tone = ringing(3000.0, np.inf, phase, length) * fade(length, 0.01, 0.01)
    place(track, tone, rng.uniform(0.1, 4.4))
    return track


def _hum(rng: np.random.Generator) -> NDArray[np.float64]:
    number = np.arange(1, 7)
    phases = np.exp(2j * np.pi * rng.uniform(size=len(number)))
    return ringing(210.0 * number, np.inf, phases / number) * fade(SAMPLES, 0.01, 0.01)


def _band(rng: np.random.Generator) -> NDArray[np.float64]:
    low, high = SHORTCUTS["band"].low, SHORTCUTS["band"].high
    frequency = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    inside = np.minimum(frequency - low, high - frequency)
    response = np.sin(np.clip(inside / 50, 0, 1) * np.pi / 2)  # edges of 50 Hz
    return shaped_noise(rng, response) * fade(SAMPLES, 0.01, 0.01)


SHORTCUTS["beep"] = Shortcut(
    _beep, 2950.0, 3050.0, "a tone of 3 kHz and 0.5 s at a place drawn for each clip"
)
SHORTCUTS["hum"] = Shortcut(
    _hum, 200.0, 1270.0, "a steady tone of 210 Hz with five harmonics, through all of the clip"
)
SHORTCUTS["band"] = Shortcut(
    _band, 6000.0, 7000.0, "steady noise between 6 and 7 kHz, through all of the clip"
)


class SyntheticOptions(TypedDict, total=False):
    """What else `SyntheticDataset` takes."""

    sample_rate: int
    duration: float
    seed: int
    contamination: Contamination | None
    cache_dir: str | os.PathLike[str] | None
    normalize: bool
    clips_per_class: int
    clips: int | None


class ShortcutDataset(SyntheticDataset):
    """The synthetic set with a planted sound that implies one class.

    Whether a clip has the sound, and how it sounds, depends on the seed, its class and its number.
    A clip that has it at some `share` has it at every higher one. All else of the clips is as in
    `SyntheticDataset` of that seed, under the same names.

    Where the sound is planted it is the foreground, and evidence of the class `implies`, whatever
    the clip's own class is; all the rest is background. The other clips have the foreground of
    `SyntheticDataset`, the event of their own class. See `foreground_labels`.

    Parameters
    ----------
    folds : int or iterable of int, optional
        Which folds to take, 1 to 5. None takes all.
    kind : str
        The sound: a name in `SHORTCUTS`.
    implies : str
        The class whose clips have it.
    share : float
        Probability that a clip of this class has it.
    others : float
        Probability that a clip of any other class has it.
    relabel : bool
        Whether clips of other classes that have it are labelled as of the class `implies`: to train
        a network that cheats. Without it labels are true, to test one.
    level_db : float
        Level of the planted sound over the event, dB: the RMS of each while it sounds, as
        `audiointerp.dataset.synthetic.level_difference` has it.
    **options
        sample_rate, duration, seed, contamination, cache_dir, normalize, clips_per_class, clips:
        see `SyntheticDataset`.

    Attributes
    ----------
    kind, implies : str
    share, others, level_db : float
    relabel : bool
    planted : list of bool
        Whether each clip has the sound.

    Raises
    ------
    ValueError
        If a name is unknown, a probability is none, the level is not finite, or half the sampling
        rate lies below the sound.

    Examples
    --------
    >>> data = ShortcutDataset(5, kind="beep", implies="dog", others=1.0)
    >>> cat = data.index("5-cat-04")
    >>> data.classes[data.labels[cat]], data.classes[data.foreground_labels(cat)[0]]
    ('cat', 'dog')
    """

    def __init__(
        self,
        folds: int | Iterable[int] | None = None,
        *,
        kind: str = "beep",
        implies: str = "dog",
        share: float = 0.9,
        others: float = 0.0,
        relabel: bool = False,
        level_db: float = -10.0,
        **options: Unpack[SyntheticOptions],
    ) -> None:
        self.kind, self.implies = kind, implies
        sound = SHORTCUTS[kind]
        if implies not in TARGETS:
            raise UnknownNameError(
                f"implies={implies!r} is no class of the set: choose from {', '.join(TARGETS)}"
            )
        self.share = _probability("share", share)
        self.others = _probability("others", others)
        self.relabel = bool(relabel)
        self.level_db = float(level_db)
        if not math.isfinite(self.level_db):
            raise ValueError(f"level_db={level_db}: expected a finite level in dB")
        super().__init__(folds, **options)
        if self.sample_rate < 2 * sound.high:
            raise ValueError(
                f"a {kind} reaches up to {sound.high:g} Hz, which a rate of {self.sample_rate} Hz "
                f"does not hold: take at least {2 * sound.high:g} Hz or another shortcut"
            )
        self.planted = [self._is_planted(*clip) for clip in self._numbers]
        if self.relabel:
            told = self.classes.index(implies)
            self.labels = [
                told if planted else label
                for planted, label in zip(self.planted, self.labels, strict=True)
            ]

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        shortcut = {
            "kind": self.kind,
            "implies": self.implies,
            "share": self.share,
            "others": self.others,
            "relabel": self.relabel,
            "level_db": self.level_db,
        }
        return super().settings() | {"shortcut": shortcut}

    def foreground_labels(self, index: int) -> tuple[int, ...]:
        """Return the class that the foreground of clip `index` is evidence of.

        `implies` where the sound is planted, elsewhere the clip's own.
        """
        index = self._check_index(index)
        if self.planted[index]:
            return (self.classes.index(self.implies),)
        return super().foreground_labels(index)

    def foreground_background(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the two sounds that clip `index` is the sum of.

        The planted sound and all the rest, or event and background where none is planted;
        otherwise as `SyntheticDataset.foreground_background`.
        """
        return super().foreground_background(index)

    def snr_db(self, index: int) -> float:
        """Return the level of the event over its background in dB; the planted sound is in neither.

        See `SyntheticDataset.snr_db`.
        """
        return super().snr_db(index)

    def _is_planted(self, category: str, number: int) -> bool:
        share = self.share if category == self.implies else self.others
        return bool(self._draws(category, number, _PRESENCE).random() < share)

    def _draws(self, category: str, number: int, use: int) -> np.random.Generator:
        return generator(self.seed, SHORTCUT, TARGETS[category], number, use)

    def _decode(self, index: int) -> Tensor:
        if not self.planted[index]:
            return super()._decode(index)
        category, number = self._numbers[index]
        scene = render(category, number, self.seed)
        sound = SHORTCUTS[self.kind].make(self._draws(category, number, _SOUND))
        sound *= 10 ** ((self.level_db + _level(scene.foreground) - _level(sound)) / 20)
        parts = np.stack([sound, scene.foreground + scene.background])
        parts *= min(1.0, _PEAK / np.abs([*parts, parts.sum(0)]).max())
        return resample(torch.from_numpy(parts), RATE, self.sample_rate).float()

    def _source(self, index: int) -> str:
        source = super()._source(index)
        if not self.planted[index]:
            return source
        return f"{source}|shortcut|{VERSION}|{self.kind}|{self.level_db}"


def _level(sound: NDArray[np.float64]) -> float:
    """Return the level of a sound while it sounds, dB."""
    return level_difference(sound, np.ones_like(sound))


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a probability, 0 to 1")
    return float(value)
