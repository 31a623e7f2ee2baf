"""Several methods on one clip, side by side: a paper's figure, players, tables."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from audiointerp.arguments import several
from audiointerp.plots import Picture, plot_attributions, plot_comparison, plot_probabilities
from audiointerp.plots.methods import check_columns
from audiointerp.runs.result import Interpretation, Part, check_part
from audiointerp.runs.windows import Coverage
from audiointerp.sound import Html
from audiointerp.storage import check_writable

_WORDS = {"in": "kept", "out": "removed"}
_MEASURED = {"features": "of masked features", "audio": "of masked sounds"}
_SHOWN = {"in": "what each mask keeps", "out": "the clip without what each mask keeps"}


@dataclass(frozen=True)
class Comparison:
    """Interpretations of one clip, by the names of the methods.

    Attributes
    ----------
    results : mapping of str to Interpretation
        Of the same clip, model and class; every one with the same masks.
    coverage : Coverage, optional
        Which part of the recording the clip is, where it came from a file.

    Raises
    ------
    ValueError
        If there are none, or they are not of the same clip, class and masks.

    Examples
    --------
    >>> comparison = Comparison({"gradcam": gradcam, "shap": shap})  # doctest: +SKIP
    >>> comparison.plot(["topK_5", "topK_30"]).save_print("figure")  # doctest: +SKIP
    """

    results: Mapping[str, Interpretation]
    coverage: Coverage | None = None

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("there are no interpretations to compare")
        first = self._first
        for name, result in self.results.items():
            for what, same in {
                "front end": result.processor.settings() == first.processor.settings(),
                "model": np.allclose(result.probabilities, first.probabilities, atol=1e-4),
                "clip": _same(result.view.waveform, first.view.waveform),
                "class": (result.classes, result.target) == (first.classes, first.target),
                "masks": list(result.masks) == list(first.masks),
                "places": list(result.metrics_on) == list(first.metrics_on),
            }.items():
                if not same:
                    raise ValueError(
                        f"{name} has another {what} than {next(iter(self.results))}: compare "
                        "interpretations of one clip, made with the same settings"
                    )

    def plot(self, masks: Sequence[str], part: Part = "in") -> Picture:
        """Draw the paper's figure: the clip, every attribution map, and what masks keep of it.

        Parameters
        ----------
        masks : sequence of str
            The columns; six at most.
        part : {"in", "out"}
            What masks keep, or what remains of the clip without that.

        Returns
        -------
        Picture
            Above every masked spectrogram is the probability of the explained class. See
            `audiointerp.plots.plot_comparison`, and `Picture.save_print` for a file to print.
        """
        names = self._masks(masks)
        place = check_part(part)
        first = self._first
        return plot_comparison(
            first.view.cells,
            {name: result.attribution for name, result in self.results.items()},
            {
                name: {mask: result.masked[mask][place] for mask in names}
                for name, result in self.results.items()
            },
            first.processor,
            captions={
                name: {mask: f"p = {self._probability(result, mask, part):.2f}" for mask in names}
                for name, result in self.results.items()
            },
            heading=f"{first.heading()}; {_SHOWN[part]}, and its p({first.target_label})",
        )

    def plot_attributions(self) -> Picture:
        """Draw the clip and every method's attribution map in one row."""
        first = self._first
        maps = {name: result.attribution for name, result in self.results.items()}
        return plot_attributions(first.view.cells, maps, first.processor, heading=first.heading())

    def plot_probabilities(
        self, masks: Sequence[str] | None = None, on: str | None = None
    ) -> Picture:
        """Draw what the model says of the clip and of all that masks keep and remove.

        Parameters
        ----------
        masks, on
            See `class_probabilities`.
        """
        place = self._place(on)
        return plot_probabilities(
            self.class_probabilities(masks, place),
            heading=f"{self._first.clip}: class probabilities {_MEASURED[place]}",
        )

    def players(self, masks: Sequence[str] | None = None, form: str | None = None) -> Html:
        """Return a table of players: what every mask of every method keeps and what it removes.

        Parameters
        ----------
        masks : sequence of str, optional
            The columns; all masks by default.
        form : {"mp3", "wav", "flac"}, optional
            See `audiointerp.sound.Sound.player`; MP3 by default, 20 to 60 kB for 5 s.

        Returns
        -------
        Html
            Above each player is the probability of the explained class, for the sound itself where
            metrics were measured on sound, else for the masked features.
        """
        names = self._masks(masks)
        first = self._first
        original = first.audio().player(form, name="the whole clip")
        head = "".join(f"<th>{html.escape(mask)}</th>" for mask in names)
        rows = "".join(
            self._row(name, part, names, form) for name in self.results for part in _WORDS
        )
        return Html(
            f"<p>{html.escape(first.heading())}<br>{original}</p>"
            f"<table><tr><th></th><th></th>{head}</tr>{rows}</table>"
        )

    def metrics(self, masks: Sequence[str] | None = None, on: str | None = None) -> pd.DataFrame:
        """Return the metrics, one row per method and mask.

        Parameters
        ----------
        masks : sequence of str, optional
            All masks by default.
        on : {"features", "audio"}, optional
            What they were measured on; masked features by default, unless only on sound.
        """
        names = self._masks(masks)
        tables = {
            name: result.metrics_on[self._place(on)].loc[names]
            for name, result in self.results.items()
        }
        return pd.concat(tables, names=["method"])

    def class_probabilities(
        self, masks: Sequence[str] | None = None, on: str | None = None
    ) -> pd.DataFrame:
        """Return every class's probability: of the clip, and of all that masks keep and remove.

        Parameters
        ----------
        masks, on
            See `metrics`.

        Returns
        -------
        DataFrame
            One column per class; the first row is the clip as it is, the others are by method,
            mask and part.
        """
        names = self._masks(masks)
        place = self._place(on)
        clip = pd.DataFrame(
            [self._first.probabilities],
            pd.MultiIndex.from_tuples([("", "", "whole clip")], names=["method", "mask", "part"]),
            list(self._first.classes),
        )
        tables = {
            name: result.class_probabilities_on[place].loc[names].rename(_WORDS, level="part")
            for name, result in self.results.items()
        }
        return pd.concat([clip, pd.concat(tables, names=["method"])])

    def _row(self, name: str, part: str, masks: list[str], form: str | None) -> str:
        result = self.results[name]
        cells = []
        for mask in masks:
            spoken = f"{name}, {mask}: {_WORDS[part]}"
            probability = self._probability(result, mask, part, heard=True)
            cells.append(
                f"<td>p({html.escape(result.target_label)}) = {probability:.2f}<br>"
                f"{result.audio(mask, part).player(form, name=spoken, width='19em')}</td>"
            )
        method = f'<th rowspan="2">{html.escape(name)}</th>' if part == "in" else ""
        return f"<tr>{method}<th>{_WORDS[part]}</th>{''.join(cells)}</tr>"

    def _probability(
        self, result: Interpretation, mask: str, part: str, *, heard: bool = False
    ) -> float:
        places = result.probabilities_on
        place = "audio" if heard and "audio" in places else self._place(None)
        return float(places[place].loc[mask, part])

    def _masks(self, masks: Sequence[str] | None) -> list[str]:
        if masks is None:
            return list(self._first.masks)
        chosen = list(several(masks))
        for mask in chosen:
            self._first.check_mask(mask)
        return chosen

    def _place(self, on: str | None) -> str:
        measured = list(self._first.metrics_on)
        if on is None:
            return measured[0]
        if on not in measured:
            raise ValueError(f"nothing was measured on {on!r}, only on {', '.join(measured)}")
        return on

    @property
    def _first(self) -> Interpretation:
        return next(iter(self.results.values()))


def check_figure(masks: Sequence[str], part: str, stem: str | os.PathLike[str]) -> None:
    """Check, before a clip is interpreted, that its figure can be drawn and written.

    Parameters
    ----------
    masks, part
        As `Comparison.plot` takes them.
    stem : path
        As `Picture.save_print` takes it.

    Raises
    ------
    ValueError
        If there are more masks than columns, or no such part.
    OSError
        If the files cannot be written.
    """
    check_columns(masks)
    check_part(part)
    for ending in ("pdf", "png"):
        check_writable(f"{os.fspath(stem)}.{ending}")


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.device), other)
