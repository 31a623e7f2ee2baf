"""One page to look at and listen to: saved interpretations → a single HTML file.

The page holds everything it shows, pictures, sounds and numbers, so that it works from a disk
and without a network; its content security policy lets the browser load nothing else. It is made
from the folders that `Interpretation.save` writes, without the model: spectrograms and masks are
computed again from the saved sound and attribution map, numbers are copied.
"""

from __future__ import annotations

import base64
import hashlib
import html
import inspect
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Literal

import numpy as np
import pandas as pd
import soundfile
import torch
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from PIL import Image

from audiointerp.dataset.audio import write_atomically
from audiointerp.interpretation import METHODS
from audiointerp.masking import make_masks
from audiointerp.metrics import METRICS
from audiointerp.plots import DYNAMIC_RANGE, frequency_ticks, in_db
from audiointerp.processing import STFTSpectrogram, build_processor
from audiointerp.results import READ_EXACTLY

PAGE = "report.html"
"""Name of the page, in the folder that it is made from."""
PLACES = {"features": "masked features", "audio": "masked sounds"}
LOSSLESS_LIMIT = 12e6
"""Bytes of lossless sound that a page holds at most before it takes MP3 instead."""

SoundFormat = Literal["auto", "wav", "mp3"]

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SOFT_LEVELS = 31
"""Shades of a soft mask less one: finer ones are not seen, and double the file."""


def write_report(
    folder: str | os.PathLike[str],
    *,
    results: Iterable[str | os.PathLike[str]] | None = None,
    out: str | os.PathLike[str] | None = None,
    sound: SoundFormat = "auto",
) -> Path:
    """Write a page of the interpretations in a folder.

    Parameters
    ----------
    folder : path
        What ``audiointerp interpret`` wrote, or any folder above or of a saved `Interpretation`.
    results : iterable of path, optional
        Only these results in it; all by default.
    out : path, optional
        The page; ``<folder>/report.html`` by default. An earlier one is replaced.
    sound : {"auto", "wav", "mp3"}
        WAV, 16 bit, is lossless. MP3 of the highest variable rate is a fraction of it. "auto"
        takes WAV for a page with less than 12 MB of sound. A rate that MP3 does not have stays
        WAV.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        If there is no result, one is unreadable or of another version, two of one name are of
        different sounds, or the format is unknown; nothing is written.
    """
    folder = Path(folder)
    if sound not in ("auto", "wav", "mp3"):
        raise ValueError(f"unknown sound format {sound!r}: choose from auto, wav, mp3")
    found = _find(folder) if results is None else [Path(result) for result in results]
    if not found:
        raise ValueError(
            f"{folder}: no result of `audiointerp interpret` in it; the folder of an experiment "
            "holds numbers only, which `audiointerp tables` shows"
        )
    order = list(METHODS)
    saved = [_Saved(path, *_names(folder, path)) for path in sorted(found)]
    saved.sort(key=lambda one: order.index(one.method) if one.method in order else len(order))
    saved.sort(key=lambda one: (one.model, one.clip))
    scenes = _scenes(saved)
    audible = _Sounds(saved, sound)
    content = _page(
        folder.resolve().name,
        {
            "metrics": [_metric(name) for name in saved[0].metric_names],
            "places": PLACES,
            "footer": audible.note,
            "scenes": [_scene(group, audible) for group in scenes],
        },
    )
    target = folder / PAGE if out is None else Path(out)
    write_atomically(target, content.encode())
    return target


@dataclass(frozen=True)
class _Saved:
    """One saved interpretation, read from its folder."""

    folder: Path
    model: str
    clip: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read: {error}") from error
        if "front_end" not in summary:
            raise ValueError(
                f"{self.folder}: written by a version that kept too little for a page; "
                "interpret the clip again"
            )
        return summary

    @property
    def method(self) -> str:
        return self.summary["method"]

    @cached_property
    def processor(self) -> STFTSpectrogram:
        return build_processor(self.summary["front_end"])

    @cached_property
    def tables(self) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
        """Metrics and class probabilities, by what they were measured on."""
        tables = {}
        for place in PLACES:
            ending = "" if place == "features" else f"_{place}"
            path = self.folder / f"metrics{ending}.csv"
            if path.is_file():
                metrics = pd.read_csv(
                    path, index_col=0, keep_default_na=False, float_precision="round_trip"
                )
                chances = self.folder / f"probabilities{ending}.csv"
                tables[place] = (
                    metrics,
                    pd.read_csv(chances, index_col=[0, 1], **READ_EXACTLY),
                )
        if not tables:
            raise ValueError(f"{self.folder}: has no metrics.csv; interpret the clip again")
        return tables

    @property
    def metric_names(self) -> list[str]:
        return list(next(iter(self.tables.values()))[0].columns)

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Every scored mask, shape (bins, frames), made again from the attribution map."""
        names = next(iter(self.tables.values()))[0].index
        attribution = torch.from_numpy(np.load(self.folder / "attribution.npy"))
        made = make_masks(attribution[None, None], list(names))
        return {name: mask[0, 0].numpy() for name, mask in made.items()}

    @property
    def audible(self) -> list[str]:
        """The masks that were made audible."""
        names = next(iter(self.tables.values()))[0].index
        return [name for name in names if (self.folder / f"{name}_in.wav").is_file()]

    def sound_file(self, mask: str, part: str) -> Path:
        return self.folder / f"{mask}_{part}.wav"


def _find(folder: Path) -> list[Path]:
    """Return the folders of saved interpretations; hidden ones are being written."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return [
        path.parent
        for path in folder.rglob("summary.json")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _names(root: Path, folder: Path) -> tuple[str, str]:
    """Return the model's name, "" where the folders do not say, and the clip's.

    Results lie in ``<model>/<method>/<clip>``, or anywhere a user has saved one.
    """
    method = _Saved(folder, "", "").method
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


def _same_scene(first: _Saved, other: _Saved) -> bool:
    if first is other:
        return True
    one, two = first.summary["probabilities"], other.summary["probabilities"]
    return (
        first.summary["front_end"] == other.summary["front_end"]
        and list(one) == list(two)
        # Batches of other sizes round differently.
        and np.allclose(list(one.values()), list(two.values()), atol=1e-4)
        and np.array_equal(*(_read(each.folder / "original.wav")[0] for each in (first, other)))
    )


def _scene(group: list[_Saved], audible: _Sounds) -> dict[str, Any]:
    first = group[0]
    waveform, rate = _read(first.folder / "original.wav")
    processor = first.processor
    with torch.no_grad():
        features = processor(torch.from_numpy(waveform)[None, None])
    level = in_db(features, processor)[0, 0].numpy()
    bins, frames = level.shape
    step = processor.hop_length / processor.sample_rate
    duration = len(waveform) / rate
    seconds = [t for t in MaxNLocator(5).tick_values(0, duration) if 0 <= t <= duration + 1e-9]
    summary = first.summary
    return {
        "model": first.model,
        "clip": first.clip,
        "duration": duration,
        "step": step,
        "frames": frames,
        "times": [[f"{t:g}", (t / step + 0.5) / frames] for t in seconds],
        "frequencies": [
            [f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:g}", (place + 0.5) / bins]
            for hz, place in frequency_ticks(processor).items()
        ],
        "spectrogram": _spectrogram_picture(level),
        "sound": audible.embed(first.folder / "original.wav"),
        "label": summary["label"],
        "classes": list(summary["probabilities"]),
        "probabilities": list(summary["probabilities"].values()),
        "methods": {one.method: _method(one, audible) for one in group},
    }


def _method(one: _Saved, audible: _Sounds) -> dict[str, Any]:
    return {
        "explained": one.summary["explained_class"],
        "masks": {name: _mask_picture(mask) for name, mask in one.masks.items()},
        "kept": {name: float(mask.mean(dtype=np.float64)) for name, mask in one.masks.items()},
        "sounds": {
            mask: {part: audible.embed(one.sound_file(mask, part)) for part in ("in", "out")}
            for mask in one.audible
        },
        "tables": {
            place: {
                mask: {
                    "metrics": row.tolist(),
                    "in": chances.loc[(mask, "in")].tolist(),
                    "out": chances.loc[(mask, "out")].tolist(),
                }
                for mask, row in metrics.iterrows()
            }
            for place, (metrics, chances) in one.tables.items()
        },
    }


def _metric(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    about = (inspect.getdoc(metric.function) or metric.title).splitlines()[0]
    return {
        "name": name,
        "about": f"{metric.title[0].upper()}{metric.title[1:]}. {about.removesuffix('.')}",
        "better": "higher" if metric.higher_is_better else "lower",
        "digits": {"AI": 0, "AD": 1, "AG": 1, "FidIn": 0}.get(name, 3),
    }


class _Sounds:
    """Turns sound files into what the page embeds, in one format for all of them."""

    def __init__(self, saved: list[_Saved], form: SoundFormat) -> None:
        self._made: dict[Path, tuple[bytes, float]] = {}
        files = {(one.model, one.clip): one.folder / "original.wav" for one in saved}
        wanted = list(files.values()) + [
            one.sound_file(mask, part)
            for one in saved
            for mask in one.audible
            for part in ("in", "out")
        ]
        self.form = form
        if form == "auto":
            self.form = "wav"
            total = 0
            for path in wanted:
                total += len(self._encode(path)[0])
                if total > LOSSLESS_LIMIT:
                    self.form = "mp3"
                    self._made.clear()
                    break

    @property
    def note(self) -> str:
        """What the reader should know of the sounds."""
        how = {"wav": "lossless, 16 bit (WAV)", "mp3": "compressed (MP3, highest variable rate)"}
        exact = "" if self.form == "wav" else "; the exact ones are the WAV files in the folder"
        return f"Made by audiointerp. Sounds in this page are {how[self.form]}{exact}."

    def embed(self, path: Path) -> dict[str, Any]:
        """Return a sound for the page, and by how many dB it was turned down."""
        content, turned_down = self._encode(path)
        kind = "audio/wav" if content.startswith(b"RIFF") else "audio/mpeg"
        return {"source": _data_uri(kind, content), "turned_down": turned_down}

    def _encode(self, path: Path) -> tuple[bytes, float]:
        if path not in self._made:
            waveform, rate = _read(path)
            # Players clip beyond full scale: what is louder is turned down, and the page says so.
            peak = max(1.0, float(np.abs(waveform).max()))
            kind = {"format": "WAV", "subtype": "PCM_16"}
            if self.form == "mp3" and rate in _MP3_RATES:
                kind = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.0}
            buffer = io.BytesIO()
            soundfile.write(buffer, waveform / peak, rate, **kind)
            self._made[path] = (buffer.getvalue(), 20 * float(np.log10(peak)))
        return self._made[path]


def _read(path: Path) -> tuple[np.ndarray, int]:
    try:
        return soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError) as error:
        raise ValueError(f"{path}: cannot be read: {error}; interpret the clip again") from error


def _spectrogram_picture(level: np.ndarray) -> str:
    """Return dB cells as a picture with 256 colours, low frequencies at the bottom."""
    shade = (level - level.max()) / DYNAMIC_RANGE + 1
    image = Image.fromarray(_shades(shade, 255)[::-1])
    image.putpalette(_shades(colormaps["magma"](np.arange(256))[:, :3], 255).tobytes())
    return _png(image)


def _mask_picture(mask: np.ndarray) -> str:
    """Return a mask as a grey picture, white where it keeps, low frequencies at the bottom."""
    if np.isin(mask, (0, 1)).all():
        return _png(Image.fromarray(mask[::-1] > 0))
    steps = _shades(mask, _SOFT_LEVELS)[::-1].astype(np.float64)
    return _png(Image.fromarray(_shades(steps / _SOFT_LEVELS, 255)))


def _shades(share: np.ndarray, highest: int) -> np.ndarray:
    return (share.clip(0, 1) * highest).round().astype("u1")


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _page(title: str, data: dict[str, Any]) -> str:
    """Fill the template. The browser runs this script and style only, and loads nothing."""
    files = resources.files("audiointerp") / "templates"
    template, style, script = (
        (files / f"report.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js")
    )
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    # Inside a script element only these could end it or open another.
    plain = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return Template(template).substitute(
        title=html.escape(f"{title}: what the model listened to"),
        policy=policy,
        style=style,
        script=script,
        data=plain,
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
