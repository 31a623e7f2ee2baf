"""A synthetic stand-in for ESC-50 whose foregrounds and backgrounds are known.

Ten of ESC-50's classes, each clip an event of its class in the foreground over a background at a
known level. Because both are known apart, so is the ideal binary mask of every clip: the cells of
its spectrogram where the foreground is stronger than the background.

Every clip is a pure function of the seed, its class and its number: the order in which clips are
taken, the folds chosen and the sampling rate change nothing. All sounds are computed (see
:mod:`audiointerp.dataset.recipes`); no recording is involved.
"""

from __future__ import annotations

import csv
import io
import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor
from tqdm import tqdm

from audiointerp.dataset.audio import (
    fix_length,
    load_audio,
    normalize_named,
    resample,
)
from audiointerp.dataset.base import ClipDataset, choose_clips, choose_folds
from audiointerp.dataset.contamination import Contamination
from audiointerp.dataset.recipes import (
    BACKGROUNDS,
    RATE,
    RECIPES,
    SAMPLES,
    TARGETS,
    horse,
)
from audiointerp.storage import replacing_folder, write_atomically

FOLDS = 5
SNR_DB = (5.0, 20.0)
"""Lowest and highest level of a clip's foreground over its background, dB."""

SAMPLES_SHIPPED = {"car_horn": 0, "cat": 3, "clapping": 2, "crow": 3, "dog": 5, "sea_waves": 1}
"""Classes of the sounds that :func:`write_samples` makes, each with the draw that is shipped."""

VERSION = 1
"""Version of the sounds: raise it when a recipe changes, so that no cache serves the old ones."""

_ESC10 = frozenset({"dog", "sea_waves", "clock_tick", "helicopter"})
_FRAME = 882  # samples; 20 ms
_PEAK = 0.9

# What a generator of random numbers is for: sounds of different use never share one.
_SET, _SAMPLE, _NOISE, SHORTCUT = range(4)
_EVENT, _ROOM, _BACKGROUND, _LEVEL = range(4)


class Scene(NamedTuple):
    """One synthetic clip in its parts, five seconds at 44.1 kHz.

    Attributes
    ----------
    foreground, background : ndarray
        Shape ``(220500,)``, float64; the clip is their sum. None of the three exceeds 0.9.
    snr_db : float
        Level of the foreground over the background in dB, see :func:`level_difference`.
    background_kind : str
        Name in :data:`audiointerp.dataset.recipes.BACKGROUNDS`.
    """

    foreground: NDArray[np.float64]
    background: NDArray[np.float64]
    snr_db: float
    background_kind: str


class SyntheticDataset(ClipDataset):
    """The bundled synthetic set: 10 classes of ESC-50, 40 clips each, 5 folds, made on demand.

    Parameters
    ----------
    folds : int or iterable of int, optional
        Which folds to take, 1 to 5. None takes all.
    sample_rate : int
        Rate of the clips in Hz. The sounds are made at 44.1 kHz and resampled.
    duration : float
        Cut or zero-pad to this many seconds. The sounds are 5 s long.
    seed : int
        Another seed makes another set of the same classes.
    contamination : Contamination, optional
        Background noise to mix into every clip, on top of the background it has.
    cache_dir : path-like, optional
        Where to keep the clips' parts on disk; None keeps them in memory, 1.3 MB a clip at 32 kHz.
    normalize : bool
        Scale every clip to a peak of 1.
    clips_per_class : int
        Clips of each class. They take the folds in turn, so a multiple of 5 fills all evenly.
    clips : int, optional
        Take at most this many of these, class by class in turn; see
        `audiointerp.dataset.base.choose_clips`.

    Attributes
    ----------
    classes : tuple of str
        In the order of ESC-50's numbers, as `ESC50Dataset` has them.
    seed : int

    Raises
    ------
    ValueError
        If a fold does not exist or `seed` or `clips_per_class` is out of range.

    Examples
    --------
    >>> data = SyntheticDataset(folds=5)
    >>> len(data), data.clip_ids[0], data.classes[data.labels[0]]
    (80, '5-dog-04', 'dog')
    >>> foreground, background = data.foreground_background(0)
    >>> bool((foreground + background == data[0].waveform).all())
    True
    """

    def __init__(
        self,
        folds: int | Iterable[int] | None = None,
        *,
        sample_rate: int = 32000,
        duration: float = 5.0,
        seed: int = 0,
        contamination: Contamination | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        normalize: bool = True,
        clips_per_class: int = 40,
        clips: int | None = None,
    ) -> None:
        self.seed = _whole_number("seed", seed, least=0)
        count = _whole_number("clips_per_class", clips_per_class, least=1)
        wanted = choose_folds(folds, range(1, min(FOLDS, count) + 1))
        self._numbers = [
            (category, number)
            for fold in wanted
            for category in TARGETS
            for number in range(fold - 1, count, FOLDS)
        ]
        classes = tuple(TARGETS)
        labels = [classes.index(category) for category, _ in self._numbers]
        self._numbers = [self._numbers[place] for place in choose_clips(labels, clips)]
        super().__init__(
            clip_ids=[clip_name(category, number) for category, number in self._numbers],
            labels=[classes.index(category) for category, _ in self._numbers],
            folds=[number % FOLDS + 1 for _, number in self._numbers],
            classes=classes,
            sample_rate=sample_rate,
            duration=duration,
            normalize=normalize,
            contamination=contamination,
            cache_dir=cache_dir,
            asked_folds=wanted,
        )

    @property
    def recordings(self) -> list[str]:
        """The clips by name; those of another seed are others."""
        return [f"{name}#{self.seed}" if self.seed else name for name in self.clip_ids]

    def settings(self) -> dict[str, Any]:
        """Return what the clips depend on and how many there are, ready for JSON."""
        return {"seed": self.seed} | super().settings()

    def foreground_background(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the two sounds that clip `index` is the sum of.

        Parameters
        ----------
        index : int
            Position of the clip; negative counts from the end.

        Returns
        -------
        foreground, background : Tensor
            Shape ``(1, samples)`` each, at the dataset's rate and at the level they have in
            ``parts(index)[0]``, which is their sum: bit for bit in a clean dataset, where it is
            ``dataset[index].waveform`` as well, to float rounding in a contaminated one.
        """
        index = self._check_index(index)
        foreground, background = self._scaled(index)
        if self.contamination is None:
            return foreground, background
        clean = (foreground + background).double()
        mixed = self.parts(index)[0].double()
        gain = ((mixed * clean).sum() / clean.square().sum()).float()
        return foreground * gain, background * gain

    def snr_db(self, index: int) -> float:
        """Return the level of the foreground over the background of clip `index`, dB.

        It is that of the whole 44.1 kHz sound, see :func:`level_difference`: a lower sampling
        rate leaves out the part of both above half of it. Contamination is not counted.
        """
        category, number = self._numbers[self._check_index(index)]
        return _draw_level(_SET, category, number, self.seed)

    def background_kind(self, index: int) -> str:
        """Return the name of the kind of background of clip `index`, such as ``"wind"``."""
        category, number = self._numbers[self._check_index(index)]
        return _draw_background(_SET, category, number, self.seed)[0]

    def _decode(self, index: int) -> Tensor:
        scene = render(*self._numbers[index], self.seed)
        rows = torch.from_numpy(np.stack([scene.foreground, scene.background]))
        return resample(rows, RATE, self.sample_rate).float()

    def _source(self, index: int) -> str:
        category, number = self._numbers[index]
        return f"synthetic|{VERSION}|{self.seed}|{category}|{number}"

    def _scaled(self, index: int) -> tuple[Tensor, Tensor]:
        rows = fix_length(self._cached(index), self.num_samples)
        if self.normalize:
            total = rows.sum(0, keepdim=True)
            normalize_named(total, self._describe(index))  # names the clip if it is silent
            rows = rows / total.abs().amax()
        return rows[:1].clone(), rows[1:].clone()

    @property
    def has_parts(self) -> bool:
        """Whether foreground and background of the clips are known apart: they are."""
        return True

    def true_parts(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the scene's foreground and all the rest, which sum to the clip's waveform."""
        foreground, _ = self.foreground_background(index)
        return foreground, self[index].waveform - foreground

    def _clean_parts(self, index: int) -> tuple[Tensor, Tensor]:
        foreground, background = self._scaled(index)
        return foreground + background, torch.zeros_like(foreground)


def clip_name(category: str, number: int) -> str:
    """Return the id of a clip, ``fold-class-number``: ``3-dog-07``."""
    return f"{number % FOLDS + 1}-{category}-{number:02d}"


def render(category: str, number: int, seed: int = 0) -> Scene:
    """Make one clip of the synthetic set.

    Parameters
    ----------
    category : str
        One of the set's classes.
    number : int
        Which clip of the class, from 0.
    seed : int
        The set's seed.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        If the class is unknown (the message lists those there are) or a number is negative.

    Examples
    --------
    >>> scene = render("dog", 7)
    >>> scene.foreground.shape, round(scene.snr_db, 1)
    ((220500,), 15.6)
    """
    number = _whole_number("number", number, least=0)
    return _render(_SET, category, number, _whole_number("seed", seed, least=0))


def level_difference(foreground: NDArray[np.float64], background: NDArray[np.float64]) -> float:
    """Level of the foreground over the background while the foreground sounds, dB.

    Of the 20 ms frames, those count in which the foreground has at least a thousandth (-30 dB) of
    its power in its strongest frame; the RMS of both is taken over these.

    Parameters
    ----------
    foreground, background : ndarray
        Shape ``(samples,)``, at 44.1 kHz.

    Returns
    -------
    float
    """
    frames = len(foreground) // _FRAME
    front, back = (
        np.square(part[: frames * _FRAME]).reshape(frames, _FRAME).sum(1)
        for part in (foreground, background)
    )
    active = front >= 1e-3 * front.max()
    return float(10 * np.log10(front[active].sum() / back[active].sum()))


def write_synthetic(
    root: str | os.PathLike[str],
    seed: int = 0,
    clips_per_class: int = 40,
    *,
    progress: bool = True,
) -> Path:
    """Write the synthetic set in ESC-50's layout, for `ESC50Dataset` and for other programs.

    ``meta/esc50.csv`` and ``audio/`` are as in ESC-50, with its class numbers. Beside them are
    ``foreground/`` and ``background/``, whose files add up to those in ``audio/`` sample by
    sample, and ``meta/parts.csv`` with each clip's level and kind of background. All sounds are
    16-bit FLAC, 44.1 kHz, mono.

    Parameters
    ----------
    root : path-like
        The folder to make; it must not exist, or be empty.
    seed, clips_per_class : int
        As in `SyntheticDataset`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        `root`. It appears only when all is written.

    Raises
    ------
    FileExistsError
        If `root` is there already with something in it.
    ValueError
        If `seed` or `clips_per_class` is out of range.
    """
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(
            f"{root}: exists and is not an empty folder; remove it or name another, "
            "so that no older clips stay among the new ones"
        )
    data = SyntheticDataset(seed=seed, clips_per_class=clips_per_class, sample_rate=RATE)
    with replacing_folder(root) as unfinished:
        for folder in ("meta", "audio", "foreground", "background"):
            (unfinished / folder).mkdir()
        rows = []
        clips = tqdm(data._numbers, desc="synthetic set", unit="clip", disable=not progress)
        for category, number in clips:
            rows.append(_write_clip(unfinished, category, number, data.seed))
        _write_tables(unfinished / "meta", rows)
    return root


def write_samples(destination: str | os.PathLike[str]) -> list[Path]:
    """Make the sounds shipped in ``samples/``: one of each of six classes.

    They are clips like those of the synthetic set, over a quiet background, but no seed of the set
    makes them: a model trained on it has not heard them.

    Parameters
    ----------
    destination : path-like
        The folder to write to; it is made where missing, files of the same names are replaced.

    Returns
    -------
    list of Path
        ``car_horn.wav``, ``cat.wav``, ``clapping.wav``, ``crow.wav``, ``dog.wav`` and
        ``sea_waves.wav``: 5 s, 44.1 kHz, mono, 16 bit.
    """
    scenes = {category: _sample(category) for category in SAMPLES_SHIPPED}
    return _write_wavs(
        destination,
        {category: scene.foreground + scene.background for category, scene in scenes.items()},
    )


def sample_parts(
    file: str | os.PathLike[str], sample_rate: int = RATE
) -> tuple[Tensor, Tensor] | None:
    """Return the two sounds that a file of `write_samples` is the sum of.

    Parameters
    ----------
    file : path-like
        One of the sounds in ``samples/``, recognised by its name and its content.
    sample_rate : int
        Rate of the parts in Hz.

    Returns
    -------
    foreground, background : Tensor, or None
        Shape ``(1, samples)`` each. Their sum has a peak of 1, as `load_audio` returns the file.
        None of any other sound, such as a recording that took the place of a shipped one.

    Raises
    ------
    AudioError
        If the file cannot be read.
    """
    path = Path(file)
    if path.stem not in SAMPLES_SHIPPED:
        return None
    scene = _sample(path.stem)
    rows = np.stack([scene.foreground, scene.background])
    clip, rate = load_audio(path)
    shipped = torch.from_numpy(rows.sum(0) / np.abs(rows.sum(0)).max())
    # Files have 16 bits, and another processor may round the last one the other way.
    if rate != RATE or clip.shape[-1] != SAMPLES or (clip[0] - shipped).abs().max() > 1e-4:
        return None
    parts = resample(torch.from_numpy(rows), RATE, sample_rate).float()
    parts = parts / parts.sum(0).abs().amax()
    return parts[:1], parts[1:]


def write_noises(destination: str | os.PathLike[str]) -> list[Path]:
    """Make the background noises shipped in ``noises/``.

    Parameters
    ----------
    destination : path-like
        The folder to write to; it is made where missing, files of the same names are replaced.

    Returns
    -------
    list of Path
        ``horse.wav`` (a whinny), ``room.wav`` (room ambience, stereo) and ``white.wav``: 5 s,
        44.1 kHz, 16 bit.
    """
    whinny = _in_room(horse(generator(0, _NOISE, 0)), generator(0, _NOISE, 1))
    middle, side = (_band_limited(BACKGROUNDS["room"](generator(0, _NOISE, key))) for key in (2, 3))
    return _write_wavs(
        destination,
        {
            "horse": whinny,
            "room": np.stack([middle + 0.35 * side, middle - 0.35 * side], axis=1),
            "white": generator(0, _NOISE, 4).standard_normal(SAMPLES),
        },
    )


# --- one clip ----------------------------------------------------------------------------------


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of random numbers of a seed for one use, named by whole numbers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _draw_level(use: int, category: str, number: int, seed: int) -> float:
    lowest, highest = SNR_DB if use == _SET else (16.0, 20.0)
    return float(generator(seed, use, TARGETS[category], number, _LEVEL).uniform(lowest, highest))


def _draw_background(
    use: int, category: str, number: int, seed: int
) -> tuple[str, np.random.Generator]:
    """Draw the kind of background, and return the generator to make it with."""
    rng = generator(seed, use, TARGETS[category], number, _BACKGROUND)
    return str(rng.choice(list(BACKGROUNDS))), rng


def _render(use: int, category: str, number: int, seed: int) -> Scene:
    recipe = RECIPES[category]  # an unknown class is refused here, with the choices
    key = (use, TARGETS[category], number)
    foreground = recipe(generator(seed, *key, _EVENT))
    foreground = _in_room(foreground, generator(seed, *key, _ROOM))
    kind, rng = _draw_background(use, category, number, seed)
    background = _band_limited(BACKGROUNDS[kind](rng))

    snr_db = _draw_level(use, category, number, seed)
    background *= 10 ** ((level_difference(foreground, background) - snr_db) / 20)
    parts = np.stack([foreground, background])
    parts *= _PEAK / np.abs([*parts, parts.sum(0)]).max()
    return Scene(parts[0], parts[1], snr_db, kind)


def _sample(category: str) -> Scene:
    """Make the sound of a class that is shipped."""
    return _render(_SAMPLE, category, SAMPLES_SHIPPED[category], 0)


def _pass_band(samples: int) -> NDArray[np.float64]:
    """Amplitude response from 40 Hz to 18 kHz at the rfft bins of `samples`; 0 at DC."""
    frequency = fft.rfftfreq(samples, 1 / RATE)
    squared = (frequency / 40) ** 2
    return squared / (1 + squared) * np.clip((19000 - frequency) / 2000, 0, 1)


def _fade_ends(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fade 10 ms in and out, in place: clips begin and end without a click."""
    ramp = np.sin(np.linspace(0, np.pi / 2, RATE // 100)) ** 2
    sound[: len(ramp)] *= ramp
    sound[-len(ramp) :] *= ramp[::-1]
    return sound


def _band_limited(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    filtered = fft.irfft(fft.rfft(sound) * _pass_band(len(sound)), len(sound))
    return _fade_ends(filtered)


def _in_room(event: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Record an event: some reverberation, a microphone that leans to bass or treble.

    A third of the recordings are dry. The reverberation is exponentially decaying noise.
    """
    tail = int(rng.uniform(0.1, 0.6) * RATE)
    wet = 0.0 if rng.random() < 1 / 3 else 10 ** (rng.uniform(-26, -10) / 20)
    lean = rng.uniform(-2.5, 2.5)  # dB an octave
    response = rng.standard_normal(tail) * np.exp(-6.9 * np.arange(tail) / tail)
    response *= wet / np.sqrt(np.sum(response**2))
    response[0] += 1.0

    length = fft.next_fast_len(SAMPLES + tail, real=True)
    frequency = np.clip(fft.rfftfreq(length, 1 / RATE), 100, 10000)
    microphone = (frequency / 1000) ** (lean / (20 * np.log10(2)))
    spectrum = fft.rfft(event, length) * fft.rfft(response, length)
    heard = fft.irfft(spectrum * microphone * _pass_band(length), length)
    return _fade_ends(heard[:SAMPLES].copy())


# --- files -------------------------------------------------------------------------------------


def _write_clip(root: Path, category: str, number: int, seed: int) -> dict[str, object]:
    """Write the three files of one clip and return its row of the tables."""
    scene = render(category, number, seed)
    name = f"{clip_name(category, number)}.flac"
    # The parts are rounded, the clip is the sum of the rounded parts: the files add up exactly.
    foreground, background = _to_pcm(scene.foreground), _to_pcm(scene.background)
    sounds = {"foreground": foreground, "background": background, "audio": foreground + background}
    for folder, sound in sounds.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, RATE, subtype="PCM_16", format="FLAC")
        write_atomically(root / folder / name, buffer.getvalue())
    return {
        "filename": name,
        "fold": number % FOLDS + 1,
        "target": TARGETS[category],
        "category": category,
        "esc10": category in _ESC10,
        "src_file": number,
        "take": "A",
        "snr_db": f"{scene.snr_db:.4f}",
        "background": scene.background_kind,
    }


def _write_tables(folder: Path, rows: Sequence[dict[str, object]]) -> None:
    tables = {
        "esc50.csv": ("filename", "fold", "target", "category", "esc10", "src_file", "take"),
        "parts.csv": ("filename", "snr_db", "background"),
    }
    for name, columns in tables.items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(folder / name, text.getvalue())


def _write_wavs(
    destination: str | os.PathLike[str], sounds: dict[str, NDArray[np.float64]]
) -> list[Path]:
    """Write each sound, ``(samples,)`` or ``(samples, channels)``, at a peak of 0.9."""
    folder = Path(destination)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, sound in sounds.items():
        buffer = io.BytesIO()
        scaled = _to_pcm(_PEAK * sound / np.abs(sound).max())
        soundfile.write(buffer, scaled, RATE, subtype="PCM_16", format="WAV")
        paths.append(folder / f"{name}.wav")
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def _to_pcm(sound: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.rint(sound * 32768).astype(np.int16)


def _whole_number(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return number
