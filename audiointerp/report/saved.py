"""Page of saved interpretations, made from folders written by `Interpretation.save`.

The model is not needed: spectrograms and masks are computed again from the saved sound and
attribution map, numbers are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from audiointerp.dataset.decode import AudioError, SoundReader
from audiointerp.evaluation import metric_columns
from audiointerp.masking import MASKS, find_degenerate, make_masks
from audiointerp.processing import STFTSpectrogram, build_processor
from audiointerp.reading import (
    NUMBER,
    OBJECT,
    SHARE,
    TEXT,
    TEXTS,
    FileError,
    Kind,
    advising,
    check_fields,
    listed,
    mapping_to,
    read_object,
    shown,
    without_stray,
)
from audiointerp.report.media import (
    Form,
    about_slowed,
    choose_form,
    draw_mask,
    draw_waveform,
    embed_sound,
)
from audiointerp.report.page import PLACES, describe_metric, fill_page, numbers
from audiointerp.report.recordings import SavedRecording, recording_of
from audiointerp.runs.result import SUMMARY
from audiointerp.runs.store import read_frame, read_map, read_metric, read_numbers
from audiointerp.runs.windows import Section
from audiointerp.sound import SOUND_FORMATS, data_uri
from audiointerp.tables.load import complete_metrics
from audiointerp.tables.order import sorting_key

_LOUDEST = 1e6
"""Larger samples, 120 dB beyond full scale, come from damage."""

_SUMMARY = dict.fromkeys(("method", "label", "explained_class"), TEXT) | {
    "front_end": OBJECT,
    "probabilities": mapping_to(SHARE),
}
_OPTIONAL = {
    "start": NUMBER,
    "end": NUMBER,
    "labels": TEXTS,
    "turned_down_db": mapping_to(
        Kind(
            "a number of dB from 0 to 1000", lambda value: NUMBER.fits(value) and 0 <= value <= 1000
        )
    ),
}


def find_saved(folder: Path) -> list[Path]:
    """Return the folders of saved interpretations; hidden ones are being written."""
    return [path.parent for path in without_stray(folder.rglob(SUMMARY), folder)]


@advising("interpret the clip or recording again")
def page_of_saved(folder: Path, found: Sequence[Path], sound: Form) -> str:
    """Return a page of saved interpretations, named after the folder above them."""
    saved = [_read_saved(folder, path) for path in sorted(found)]
    method = sorting_key("method")
    saved.sort(
        key=lambda one: (one.model, one.recording or one.clip, one.order, method(one.method))
    )
    metrics = complete_metrics(
        *(
            [(str(one.folder), one.tables[place][0]) for one in saved if place in one.tables]
            for place in PLACES
        )
    )
    scenes = _scenes(saved)
    recordings = _recordings(scenes)
    sounds = _sounds(scenes)
    form = choose_form(sound, (len(one.sound(name)[0]) for one, name in sounds))
    content = {
        "metrics": [describe_metric(name) for name in metrics],
        "places": PLACES,
        "footer": _footer(form, sounds),
        "recordings": [one.home.content(one.recording) for one in recordings.values()],
        "scenes": [
            _scene(group, metrics, form) | _place(group[0], list(recordings))
            for group in tqdm(scenes, "page", unit="clip", disable=None)
        ],
    }
    return fill_page("saved", folder.resolve().name, content)


@dataclass(frozen=True)
class _Saved:
    """One saved interpretation, read from its folder.

    Of a window of a recording, `recording` is the recording's name and `clip` has the times too.
    """

    folder: Path
    model: str
    clip: str
    recording: str = ""

    @cached_property
    def home(self) -> SavedRecording | None:
        """The recording that it is a window of, None if it is of none."""
        return recording_of(self.folder)

    @property
    def order(self) -> str:
        """What windows of a recording are sorted by: their folders' names begin with the time."""
        return self.folder.resolve().name if self.recording else ""

    @property
    def start(self) -> float:
        """What second of the recording the first sample is, 0 for a whole clip."""
        return self.summary.get("start") or 0.0

    @cached_property
    def summary(self) -> dict[str, Any]:
        path = self.folder / SUMMARY
        summary = read_object(path)
        if "front_end" not in summary:
            raise FileError(f"{self.folder}: written by a version that kept too little for a page")
        times = {} if self.home is None else {"start": NUMBER, "end": NUMBER}
        check_fields(summary, _SUMMARY | times, str(path), _OPTIONAL)
        chances = summary["probabilities"]
        named = {summary["label"], summary["explained_class"], *(summary.get("labels") or ())}
        if not chances or named - chances.keys():
            raise FileError(f"{path}: is damaged: names a class that has no probability")
        if chances[summary["label"]] < max(chances.values()):
            raise FileError(
                f"{path}: is damaged: {shown(summary['label'])} is not the most probable class"
            )
        return summary

    @property
    def method(self) -> str:
        return self.summary["method"]

    @cached_property
    def processor(self) -> STFTSpectrogram:
        try:
            return build_processor(self.summary["front_end"])
        except ValueError as error:
            raise FileError(f"{self.folder / SUMMARY}, front_end: {error}") from error

    @cached_property
    def tables(self) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
        """Metrics and class probabilities, by what they were measured on."""
        tables = {}
        for place in PLACES:
            ending = "" if place == "features" else f"_{place}"
            path = self.folder / f"metrics{ending}.csv"
            if path.is_file():
                metrics = self._metrics(path)
                tables[place] = (
                    metrics,
                    self._chances(self.folder / f"probabilities{ending}.csv", metrics.index),
                )
        if not tables:
            raise FileError(f"{self.folder}: has no metrics.csv")
        return tables

    def _metrics(self, path: Path) -> pd.DataFrame:
        """Return the metrics of every mask."""
        table = read_frame(path, index=1)
        unknown = [name for name in table.index if name not in MASKS]
        if unknown or table.index.has_duplicates or not len(table):
            raise FileError(f"{path}: is damaged: does not name each mask once: {listed(unknown)}")
        for name in metric_columns(table.columns):
            table[name] = read_metric(name, table[name], f"{path}: column {name}")
        return table

    def _chances(self, path: Path, masks: pd.Index) -> pd.DataFrame:
        """Return every class's probability after masking, by mask and part."""
        table = read_frame(path, index=2)
        rows = [(mask, part) for mask in masks for part in ("in", "out")]
        classes = list(self.summary["probabilities"])
        if table.columns.tolist() != classes or sorted(table.index) != sorted(rows):
            raise FileError(
                f"{path}: is damaged: has not the summary's classes for each mask of the metrics"
            )
        values = [read_numbers(table[name], f"{path}: column {name}", (0, 1)) for name in classes]
        chances = pd.DataFrame(dict(zip(classes, values, strict=True)), index=table.index)
        if chances.isna().any(axis=None):
            raise FileError(f"{path}: is damaged: lacks probabilities")
        return chances

    @cached_property
    def attribution(self) -> torch.Tensor:
        """The attribution map, shape (1, 1, bins, frames)."""
        frames = self.processor.num_frames(len(self.sound("original")[0]))
        shape = (self.processor.num_bins, frames)
        return torch.from_numpy(read_map(self.folder / "attribution.npy", shape))[None, None]

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Every scored mask, shape (bins, frames), made again from the attribution map."""
        names = next(iter(self.tables.values()))[0].index
        made = make_masks(self.attribution, list(names))
        return {name: mask[0, 0].numpy() for name, mask in made.items()}

    @property
    def degenerate(self) -> dict[str, str]:
        """What is degenerate about the map and the masks, in words."""
        masks = {name: torch.from_numpy(mask)[None, None] for name, mask in self.masks.items()}
        return find_degenerate(self.attribution, masks)

    @property
    def audible(self) -> list[str]:
        """The masks that were made audible."""
        names = next(iter(self.tables.values()))[0].index
        return [name for name in names if self.sound_file(f"{name}_in").is_file()]

    def sound_file(self, name: str) -> Path:
        """Return where a sound is, whatever it was saved as."""
        files = [self.folder / f"{name}.{form}" for form in SOUND_FORMATS]
        return next((file for file in files if file.is_file()), files[0])

    def turned_down(self, file: Path) -> float:
        """By how many dB a sound was turned down when it was saved."""
        return (self.summary.get("turned_down_db") or {}).get(file.name, 0.0)

    def sound(self, name: str) -> tuple[np.ndarray, int]:
        """Return a sound as it was before it was saved, and its rate."""
        file = self.sound_file(name)
        try:
            with SoundReader(file) as reader:
                waveform, rate = np.concatenate(list(reader.blocks())), reader.rate
        except AudioError as error:
            raise FileError(f"{file}: cannot be read: {error}") from error
        if rate != self.processor.sample_rate:
            raise FileError(
                f"{file}: is at {rate} Hz, the front end at {self.processor.sample_rate}"
            )
        if np.abs(waveform).max() > _LOUDEST:
            raise FileError(f"{file}: is damaged: has samples beyond {_LOUDEST:g}")
        return waveform * np.float32(10 ** (self.turned_down(file) / 20)), rate

    def embedded(self, name: str, form: Literal["wav", "mp3"]) -> dict[str, Any]:
        """Return a sound for the page; what was saved as MP3 is not compressed once more."""
        file = self.sound_file(name)
        if file.suffix != ".mp3":
            return embed_sound(*self.sound(name), form)
        source = data_uri(SOUND_FORMATS["mp3"].media_type, file.read_bytes())
        return {"source": source, "turned_down": self.turned_down(file), "slowed": 1}


def _read_saved(root: Path, folder: Path) -> _Saved:
    """Return a saved interpretation with its names."""
    one = _Saved(folder, "", "")
    if one.home is None:
        return _Saved(folder, *_names(root, folder, one.method))
    model, recording = _names(root, one.home.folder, one.method)
    clip = Section(recording, one.summary["start"], one.summary["end"]).name
    if "@" in folder.name:
        clip += f", {one.summary['explained_class']}"
    return _Saved(folder, model, clip, recording)


def _names(root: Path, folder: Path, method: str) -> tuple[str, str]:
    """Return the model's name, "" where the folders do not say, and the clip's.

    Results lie in ``<model>/<method>/<clip>``, or anywhere a user has saved one.
    """
    full = folder.resolve()
    if full.parent.name != method:
        above = full.parent
        inside = above != root.resolve() and full != root.resolve()
        return (above.relative_to(root.resolve()).as_posix() if inside else ""), full.name
    above = full.parent.parent
    inside = root.resolve() in above.parents
    return (above.relative_to(root.resolve()).as_posix() if inside else above.name), full.name


def _scenes(saved: list[_Saved]) -> list[list[_Saved]]:
    """Group results of one clip and model, which share the sound, its picture and the verdict."""
    groups: dict[tuple[str, str], dict[str, _Saved]] = {}
    for one in saved:
        group = groups.setdefault((one.model, one.clip), {})
        first = next(iter(group.values()), one)
        if one.method in group or not _same_scene(first, one):
            raise ValueError(
                f"{first.folder} and {one.folder} are called the same and are not of the same "
                "clip and model: interpret both again, or report them apart"
            )
        group[one.method] = one
    return [list(group.values()) for group in groups.values()]


def _recordings(scenes: list[list[_Saved]]) -> dict[tuple[str, str], _Saved]:
    """Return a window of each recording, by model and recording."""
    found: dict[tuple[str, str], _Saved] = {}
    for one in (one for group in scenes for one in group if one.recording):
        first = found.setdefault((one.model, one.recording), one)
        if not first.home.is_same(one.home):
            raise ValueError(
                f"{first.home.folder} and {one.home.folder} are called the same and are not of the "
                "same windows: interpret both again, or report them apart"
            )
    return found


def _place(one: _Saved, recordings: list[tuple[str, str]]) -> dict[str, Any]:
    """Return which recording a scene is of and when, nothing for a clip of its own."""
    if not one.recording:
        return {}
    return {
        "why": one.recording,  # the heading that the clip is offered under
        "recording": recordings.index((one.model, one.recording)),
        "start": one.summary["start"],
        "end": one.summary["end"],
    }


def _same_scene(first: _Saved, other: _Saved) -> bool:
    if first is other:
        return True
    one, two = first.summary["probabilities"], other.summary["probabilities"]
    heard, also = first.sound("original")[0], other.sound("original")[0]
    return (
        first.summary["front_end"] == other.summary["front_end"]
        and list(one) == list(two)
        # Batches of other sizes round differently, and so do WAV and FLAC.
        and np.allclose(list(one.values()), list(two.values()), atol=1e-4)
        and heard.shape == also.shape
        and np.allclose(heard, also, atol=1e-6)
    )


def _sounds(scenes: list[list[_Saved]]) -> list[tuple[_Saved, str]]:
    """Return every sound that the page embeds: whose it is and its name."""
    originals = [(group[0], "original") for group in scenes]
    masked = [
        (one, f"{mask}_{part}")
        for group in scenes
        for one in group
        for mask in one.audible
        for part in ("in", "out")
    ]
    return originals + masked


def _footer(form: str, sounds: list[tuple[_Saved, str]]) -> str:
    said = f"Made by audiointerp. Sounds in this page are {SOUND_FORMATS[form].about}"
    if form == "mp3":
        said += "; the folder's WAV and FLAC files are exact"
    elif any(one.sound_file(name).suffix == ".mp3" for one, name in sounds):
        said += "; what was saved as MP3 is as it was saved"
    return f"{said}.{about_slowed(one.processor.sample_rate for one, _ in sounds)}"


def _scene(group: list[_Saved], metrics: list[str], form: Literal["wav", "mp3"]) -> dict[str, Any]:
    first = group[0]
    waveform, _ = first.sound("original")
    summary = first.summary
    return draw_waveform(waveform, first.processor, first.start) | {
        "model": first.model,
        "clip": first.clip,
        "sound": first.embedded("original", form),
        "label": summary["label"],
        "labels": summary.get("labels", [summary["label"]]),
        "classes": list(summary["probabilities"]),
        "probabilities": list(summary["probabilities"].values()),
        "methods": {one.method: _method(one, metrics, form) for one in group},
    }


def _method(one: _Saved, metrics: list[str], form: Literal["wav", "mp3"]) -> dict[str, Any]:
    return {
        "explained": one.summary["explained_class"],
        "degenerate": one.degenerate,
        "masks": {name: draw_mask(mask) for name, mask in one.masks.items()},
        "kept": {name: float(mask.mean(dtype=np.float64)) for name, mask in one.masks.items()},
        "sounds": {
            mask: {part: one.embedded(f"{mask}_{part}", form) for part in ("in", "out")}
            for mask in one.audible
        },
        "tables": {
            place: {
                mask: {
                    "metrics": values,
                    "in": chances.loc[(mask, "in")].tolist(),
                    "out": chances.loc[(mask, "out")].tolist(),
                }
                for mask, values in zip(
                    table.index, numbers(table.reindex(columns=metrics).to_numpy()), strict=True
                )
            }
            for place, (table, chances) in one.tables.items()
        },
    }
