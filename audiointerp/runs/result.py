"""Interpretation of one clip: prediction, map, masks, sounds and metrics."""

from __future__ import annotations

import csv
import fnmatch
import html
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from torch import Tensor

from audiointerp.arguments import several
from audiointerp.masking import MASKS, find_degenerate
from audiointerp.plots import Picture, plot_interpretation, plot_masks, share_in_words
from audiointerp.processing import FrontEnd, View
from audiointerp.runs.windows import Section
from audiointerp.sound import SLOWED, SOUND_FORMATS, Sound
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import replacing, replacing_folder, write_atomically

Part = Literal["in", "out"]

SUMMARY, RECORDING = "summary.json", "recording.json"
"""What says what a folder is: an interpretation, or one of a recording."""

_WINDOW = re.compile(r"\d+\.\d{3}s(@|$)")
"""Name of the folder of a recording's window."""
_ENDINGS = ("", "_audio")
"""What the names of tables have for what was measured: features or sound."""
_FORMS = tuple(SOUND_FORMATS)

_PLAYED = ("topK_5", "topK_30", "minmax_pos")
_FEW_LABELS = 4
"""Labels that a heading names, of those decided for."""


@dataclass(frozen=True)
class Interpretation:
    """What `Predict.predict` returns: everything known about one clip and one method.

    Attributes
    ----------
    clip : str
        Name of the clip.
    method : str
        Name of the attribution method.
    processor : FrontEnd
        The front end.
    view : View
        Of this one clip: its cells, its waveform and what resynthesis needs.
    classes : tuple of str
    probabilities : ndarray, shape (classes,)
        Of the clip as it is.
    decisions : ndarray of bool, shape (classes,)
        Which classes the head decides for: one of several, or any number of labels.
    target : int
        Index of the explained class.
    attribution : Tensor, shape (1, 1, bins, frames)
        Signed.
    diagnostics : dict of str to float
        What the method says of its own map, such as SHAP's additivity residual.
    masks : dict of str to Tensor, shape (1, 1, bins, frames)
    masked : dict of str to (Tensor, Tensor)
        Masked-in and masked-out features of every mask.
    metrics_on : dict of str to DataFrame
        Metrics measured on "features" and on "audio", as far as asked for: one row per mask.
    class_probabilities_on : dict of str to DataFrame
        Likewise every class's probability: one row per mask and part, "in" or "out", one column
        per class.
    section : Section, optional
        The part of a recording that the clip is, where it is one.
    """

    clip: str
    method: str
    processor: FrontEnd
    view: View
    classes: tuple[str, ...]
    probabilities: np.ndarray
    decisions: np.ndarray
    target: int
    attribution: Tensor
    diagnostics: dict[str, float]
    masks: dict[str, Tensor]
    masked: dict[str, tuple[Tensor, Tensor]]
    metrics_on: dict[str, pd.DataFrame]
    class_probabilities_on: dict[str, pd.DataFrame]
    section: Section | None = None

    @cached_property
    def degenerate(self) -> dict[str, str]:
        """What is degenerate about the map ("map") and the masks, in words; empty if all is well.

        See `audiointerp.masking.find_degenerate`: the metrics of such a mask say nothing of the
        clip, however good they are.
        """
        return find_degenerate(self.attribution, self.masks)

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics, one row per mask: on masked features, unless only on sound."""
        return next(iter(self.metrics_on.values()))

    @property
    def probabilities_on(self) -> dict[str, pd.DataFrame]:
        """The explained class's probability, masked "in" and masked "out": one row per mask."""
        return {
            place: pd.DataFrame(
                {p: table.xs(p, level="part").iloc[:, self.target] for p in ("in", "out")}
            )
            for place, table in self.class_probabilities_on.items()
        }

    @property
    def label(self) -> str:
        """The class of the highest probability."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """Its probability."""
        return float(self.probabilities.max())

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes that the model decides for, the most probable first; none is possible."""
        order = np.argsort(-self.probabilities, kind="stable")
        return tuple(self.classes[index] for index in order if self.decisions[index])

    @property
    def target_label(self) -> str:
        """The class that is explained: the predicted one unless another was asked for."""
        return self.classes[self.target]

    def audio(self, mask: str | None = None, part: Part = "in") -> Sound:
        """Return what a mask keeps of the clip, or what it leaves, as sound.

        Parameters
        ----------
        mask : str, optional
            Name of one of `masks`; without it, the whole clip.
        part : {"in", "out"}
            What the mask keeps, or what remains when that is removed.

        Returns
        -------
        Sound
            At the front end's rate and the clip's length. The gain of every cell is the one that
            the metrics were measured with.
        """
        if mask is None:
            waveform = self.view.waveform
        else:
            masked = self._masked(mask)[check_part(part)]
            waveform = self.processor.synthesise(self.view, masked)
        return Sound(waveform[0, 0].detach().cpu().float().numpy(), self.processor.sample_rate)

    def plot(self, mask: str | None = None) -> Picture:
        """Draw the clip and what a mask keeps and removes; without a mask, all masks.

        Parameters
        ----------
        mask : str, optional
            Name of one of `masks`.

        Returns
        -------
        Picture
        """
        if mask is None:
            return plot_masks(self.masks, self.processor, heading=self.heading())
        masked_in, masked_out = self._masked(mask)
        score = next(iter(self.probabilities_on.values())).loc[mask]
        return plot_interpretation(
            self.view.cells,
            self.attribution,
            self.masks[mask],
            masked_in,
            masked_out,
            self.processor,
            titles={
                "attribution": f"{self.method} attribution",
                "mask": f"mask {mask}: {share_in_words(float(self.masks[mask].mean()))} kept",
                "masked_in": f"kept by the mask: {self._score(score['in'])}",
                "masked_out": f"mask removed: {self._score(score['out'])}",
            },
            heading=self.heading(),
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        masks: Iterable[str] | None = None,
        *,
        sound: str = "wav",
    ) -> Path:
        """Write pictures, sounds and tables into a folder, all of them or none.

        Parameters
        ----------
        folder : path
            Is made; the files of an earlier result in it are replaced, others stay.
        masks : iterable of str, optional
            Masks to draw and to make audible; all by default. The tables always have all.
        sound : {"wav", "flac", "mp3"}
            What masked sounds are written as: 32-bit float WAV keeps every value, FLAC has 24 bits
            and half the size, MP3 a tenth of it. The clip itself is never MP3 but FLAC, so that
            its spectrogram can be made again.

        Returns
        -------
        Path
            The folder, with ``original.wav``, ``masks.png``, ``metrics.csv``, ``summary.json``,
            ``probabilities.csv``, ``attribution.npy`` and per mask ``MASK.png``, ``MASK_in.wav``
            and ``MASK_out.wav``. What was measured on sound is in ``metrics_audio.csv`` and
            ``probabilities_audio.csv``. Sounds beyond full scale are turned down where they are
            not WAV; ``summary.json`` says by how much. `audiointerp.report.write_report` makes a
            page of the folder. Beside ultrasound, at a rate above 192 kHz, there is each sound to
            listen to as well, slowed down: ``MASK_in_10_times_slower.wav``.

        Raises
        ------
        FileExistsError
            If the folder holds something other than an earlier result.
        ValueError
            If there is no such mask or format, or the format does not have the clip's rate.
        """
        folder = Path(folder)
        chosen = list(self.masks if masks is None else several(masks))
        for mask in chosen:
            self.check_mask(mask)
        SOUND_FORMATS[sound].check_rate(self.processor.sample_rate)
        check_replaceable(folder)
        with replacing_folder(folder, written_files) as partial:
            self._write(partial, chosen, sound)
        return folder

    def summary(self) -> dict[str, object]:
        """Return what the model said, as plain values for JSON."""
        section = {} if self.section is None else self.section._asdict()
        return {
            "clip": self.clip,
            **section,
            "method": self.method,
            "label": self.label,
            "probability": self.probability,
            "explained_class": self.target_label,
            "labels": list(self.labels),
            "diagnostics": self.diagnostics,
            "degenerate": self.degenerate,
            "front_end": self.processor.settings(),
            "probabilities": dict(zip(self.classes, self.probabilities.tolist(), strict=True)),
        }

    def _write(self, folder: Path, masks: list[str], form: str) -> None:
        files = {f"original.{'wav' if form == 'wav' else 'flac'}": self.audio()}
        for mask in masks:
            files |= {f"{mask}_{part}.{form}": self.audio(mask, part) for part in ("in", "out")}
            self.plot(mask).save_screen(folder / f"{mask}.png")
        for name, sound in files.items():
            sound.save(folder / name)
            heard = sound.audible()
            if heard is not sound:
                write_atomically(folder / _slower(name, heard.slowed), heard.encode("wav"))
        self.plot().save_screen(folder / "masks.png")
        for place, metrics in self.metrics_on.items():
            ending = "" if place == "features" else f"_{place}"
            write_atomically(folder / f"metrics{ending}.csv", to_csv(metrics))
            chances = to_csv(self.class_probabilities_on[place])
            write_atomically(folder / f"probabilities{ending}.csv", chances)
        with replacing(folder / "attribution.npy") as partial:
            np.save(partial, self.attribution[0, 0].cpu().numpy())
        turned_down = {
            name: sound.excess_db
            for name, sound in files.items()
            if sound.excess_db > 0 and not name.endswith(".wav")
        }
        summary = self.summary() | {"turned_down_db": turned_down}
        write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def _repr_html_(self) -> str:
        """Show label, players and metrics; few masks have players, to keep notebooks small."""
        shown = [mask for mask in _PLAYED if mask in self.masks] or list(self.masks)[:3]
        rows = "".join(
            f"<tr><th>{html.escape(mask)}</th><td>{self.audio(mask, 'in').player()}</td>"
            f"<td>{self.audio(mask, 'out').player()}</td></tr>"
            for mask in shown
        )
        degenerate = "".join(
            f"<p>Degenerate {html.escape(name)}: {html.escape(words)}.</p>"
            for name, words in self.degenerate.items()
            if name in ("map", *shown)
        )
        return (
            f"<h4>{html.escape(self.heading())}</h4>{degenerate}{self.audio().player()}"
            f"<table><tr><th></th><th>kept by the mask</th><th>mask removed</th></tr>{rows}</table>"
            f"{self.metrics.round(3).to_html()}"
        )

    def verdict(self) -> str:
        """Return what the model decides for, with probabilities: a class, or the first labels."""
        top = f"{self.label}, p = {self.probability:.3f}"
        if not self.labels:
            return f"no label is decided for; the most probable is {top}"
        if len(self.labels) == 1:
            return top
        chances = dict(zip(self.classes, self.probabilities, strict=True))
        shown = ", ".join(f"{name} {chances[name]:.3f}" for name in self.labels[:_FEW_LABELS])
        more = len(self.labels) - _FEW_LABELS
        return f"{shown} and {more} more" if more > 0 else shown

    def heading(self) -> str:
        """Return clip and verdict, and the explained class if it is not the most probable one."""
        text = f"{self.clip}: {self.verdict()}"
        if self.target_label == self.label:
            return text
        return f"{text}; explained: {self._score(self.probabilities[self.target])}"

    def _score(self, probability: float) -> str:
        return f"p({self.target_label}) = {probability:.3f}"

    def check_mask(self, name: str) -> None:
        """Raise a ValueError if there is no such mask, or it was not made."""
        if name not in self.masks:
            MASKS[name]  # a name that no mask has is told so
            raise ValueError(f"mask {name!r} was not made: choose from {', '.join(self.masks)}")

    def _masked(self, name: str) -> tuple[Tensor, Tensor]:
        self.check_mask(name)
        return self.masked[name]


def check_replaceable(folder: Path) -> None:
    """Raise a FileExistsError if a folder holds files but no earlier result.

    Hidden files do not count: file managers make them.
    """
    results = (SUMMARY, RECORDING)
    if not folder.exists() or any((folder / name).is_file() for name in results):
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FileExistsError(
            f"{folder}: holds files that are no earlier result; choose an empty folder"
        )


def written_files(folder: Path) -> set[str]:
    """Return which files of a folder an earlier result wrote, whatever its version.

    Parameters
    ----------
    folder : Path
        Of an `Interpretation`, or of a recording with its windows' folders.

    Returns
    -------
    set of str
        Paths below the folder. All other files are the user's.
    """
    masks = {*MASKS, *_scored_masks(folder)}
    known = {
        *(SUMMARY, "original.wav", "original.flac", "masks.png", "attribution.npy"),
        *(f"{kind}{place}.csv" for kind in ("metrics", "probabilities") for place in _ENDINGS),
        *(f"{mask}.png" for mask in masks),
        *(f"{mask}_{part}.{form}" for mask in masks for part in ("in", "out") for form in _FORMS),
        _slower("original.wav", SLOWED),
        *(_slower(f"{mask}_{part}.wav", SLOWED) for mask in masks for part in ("in", "out")),
        *(RECORDING, "recording.png", "timeline.csv", "probabilities.npy", "overview.npy"),
        "report.html",  # a page of the earlier result would be of other numbers
    }
    names = {path.name for path in folder.iterdir()}
    found = (names & known) | set(fnmatch.filter(names, "attribution@*.npz"))
    for name in names:
        if _WINDOW.match(name) and (folder / name / SUMMARY).is_file():
            found |= {f"{name}/{inner}" for inner in written_files(folder / name)}
    return found


def _slower(name: str, times: int) -> str:
    """Return the name of a slowed copy of a sound file."""
    return f"{Path(name).stem}_{times}_times_slower.wav"


def _scored_masks(folder: Path) -> set[str]:
    """Return the masks that a result has rows for, those of the user's own included."""
    masks = set()
    for ending in _ENDINGS:
        path = folder / f"metrics{ending}.csv"
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                masks |= {row[0] for row in csv.reader(file) if row}
    return masks


def check_part(part: str) -> int:
    """Return the place of a part in `Interpretation.masked`: 0 kept, 1 removed."""
    if part not in ("in", "out"):
        raise ValueError(f"part {part!r}: choose 'in', what the mask keeps, or 'out', the rest")
    return 0 if part == "in" else 1
