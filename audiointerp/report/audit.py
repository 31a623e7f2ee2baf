"""Audit of a folder: detections grouped by where their evidence lies → a table, and one page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from audiointerp.dataset.channels import MID
from audiointerp.dataset.failures import describe
from audiointerp.device import resolve_device
from audiointerp.evaluation.placement import similarity
from audiointerp.evaluation.suspicion import (
    NO_EVIDENCE,
    Indicators,
    measure_suspicion,
    place_in_words,
)
from audiointerp.model.classifier import Classifier
from audiointerp.model.weights import load
from audiointerp.plots import Picture, plot_evidence, plot_frequency_profiles
from audiointerp.report.media import Form, check_form, choose_form, embed_sound
from audiointerp.report.page import fill_plain_page
from audiointerp.runs.audit import (
    BASE,
    MASK,
    METHOD,
    Auditor,
    Detection,
    FolderAudit,
    audit_folder,
    evidence_of,
)
from audiointerp.runs.result import Interpretation
from audiointerp.runs.windows import Windowing, in_seconds, span
from audiointerp.sound import data_uri
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import check_writable, claim, write_atomically
from audiointerp.text import printable

PAGE = "audit.html"
"""Name of the page in the folder of an audit."""
SHOWN = 3
"""Detections of each group that the page shows and plays."""
SHOWN_GROUPS = 12
"""Groups that the page shows detections of, the most suspicious ones."""
_NO_DETECTION = (
    "no detection in {files} recordings: no class reaches a probability of {threshold:g}"
)


@dataclass(frozen=True)
class Audit:
    """The detections in the recordings of a folder; see `audit`.

    Attributes
    ----------
    folder : Path
    auditor : Auditor
        What found them.
    found : FolderAudit
    """

    folder: Path
    auditor: Auditor
    found: FolderAudit

    @property
    def failures(self) -> dict[str, str]:
        """Why files could not be used, by their paths below the folder."""
        return self.found.failures

    @property
    def threshold(self) -> float:
        """The probability that a detection reaches."""
        return self.auditor.job.target.probability

    @cached_property
    def _places(self) -> list[tuple[str, str, int]]:
        return [
            (one.label, *place_in_words(one.peak_hz, one.steadiness, one.at_start, one.at_end))
            for one in self.found.detections
        ]

    @cached_property
    def indicators(self) -> Indicators:
        """The indicators of a shortcut, in the order of ``found.detections``."""
        found = self.found.detections
        bins = self.auditor.job.front_end.num_bins
        return measure_suspicion(
            self._places,
            [one.file for one in found],
            np.array([one.profile for one in found], dtype=np.float64).reshape(len(found), bins),
            np.array([one.bandwidth for one in found]),
            np.array([one.at_start + one.at_end for one in found]),
            np.array([one.edge_energy for one in found]),
            np.array([one.silence for one in found]),
        )

    @cached_property
    def _members(self) -> dict[str, list[int]]:
        """Positions of the detections of each group by its name, the most suspicious first."""
        # What rounding tells apart is equal, so that the order of the files decides nothing.
        suspicion = np.nan_to_num(self.indicators.suspicion).round(9)
        found = self.found.detections
        members: dict[tuple[str, str, int], list[int]] = {}
        for position, place in enumerate(self._places):
            members.setdefault(place, []).append(position)
        order = sorted(
            members,
            key=lambda place: (
                -suspicion[members[place]].mean().round(9),
                -len(members[place]),
                place,
            ),
        )
        named = {}
        for place in order:
            ranked = sorted(members[place], key=lambda n: (-suspicion[n], found[n].key))
            named[self._name(place, ranked, named)] = ranked
        return named

    def _name(
        self, place: tuple[str, str, int], members: Sequence[int], taken: Mapping[str, Any]
    ) -> str:
        label, course, octave = place
        if course == NO_EVIDENCE:
            return f"{label}: {course}"
        found = self.found.detections
        low, high = (
            float(np.median([getattr(found[n], edge) for n in members]))
            for edge in ("low_hz", "high_hz")
        )
        name = f"{label}: {course}, {band_in_words(low, high)}"
        if name in taken:  # two octaves whose bands read alike
            peak = float(np.median([found[n].peak_hz for n in members]))
            name += f", peak at {hertz_in_words(peak)}"
        return name if name not in taken else f"{name} ({octave})"

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per detection, group by group, the most suspicious first.

        ``group``, ``suspicion``, the ``reason`` in words, what the suspicion is the largest of
        (``suspicion_same_narrow_band``, ``suspicion_edge``, ``suspicion_silence``), ``sameness``,
        and the attributes of `audiointerp.runs.audit.Detection` but for the profiles.
        """
        order = [n for members in self._members.values() for n in members]
        groups = [name for name, members in self._members.items() for _ in members]
        found = self.found.detections
        of = self.indicators
        columns = ("same_narrow_band", "edge", "silence", "sameness")
        about = pd.DataFrame({"group": groups, "suspicion": of.suspicion[order]})
        parts = pd.DataFrame(
            {
                f"suspicion_{name}" if name != "sameness" else name: getattr(of, name)[order]
                for name in columns
            }
        )
        rows = [
            {name: value for name, value in vars(found[n]).items() if name not in _PROFILES}
            for n in order
        ]
        names = [name for name in Detection.__dataclass_fields__ if name not in _PROFILES]
        table = pd.concat([about, parts, pd.DataFrame(rows, columns=names)], axis=1)
        table.insert(2, "reason", [self._reason(n) for n in order])
        return table

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row per group, the most suspicious first.

        Returns
        -------
        DataFrame
            By ``group``: ``suspicion``, the mean of its detections'; how many ``detections`` in how
            many ``recordings``; the medians of ``probability``, ``p_evidence``, ``p_rest``,
            ``p_without_band``, ``low_hz``, ``high_hz``, ``band_energy``, ``steadiness``; and
            ``loud_and_quiet``, the correlation of the mean profiles of the louder and the quieter
            half, NaN of fewer than four detections.
        """
        table, rows = self.table, []
        for name, members in self._members.items():
            own = table[table["group"] == name]
            medians = own[list(_MEDIANS)].median()
            rows.append(
                {
                    "group": name,
                    "suspicion": own["suspicion"].fillna(0).mean(),
                    "detections": len(own),
                    "recordings": own["file"].nunique(),
                    **medians.to_dict(),
                    "loud_and_quiet": self._loud_and_quiet(members),
                }
            )
        columns = ["suspicion", "detections", "recordings", *_MEDIANS, "loud_and_quiet"]
        return pd.DataFrame(rows, columns=["group", *columns]).set_index("group")

    def _loud_and_quiet(self, members: Sequence[int]) -> float:
        if len(members) < 4:
            return float("nan")
        found = self.found.detections
        by_level = sorted(members, key=lambda n: (found[n].level_db, found[n].key))
        half = len(by_level) // 2
        means = [
            torch.from_numpy(np.mean([found[n].profile for n in part], axis=0)[None])
            for part in (by_level[:half], by_level[-half:])
        ]
        return float(similarity(*means)[0])

    def _reason(self, position: int) -> str:
        """Return in words where the evidence of a detection lies."""
        one = self.found.detections[position]
        if np.isnan(one.peak_hz):
            return "no cell speaks for the class"
        largest = self.indicators.largest[position]
        if largest == "edge":
            return (
                f"{percent(one.at_start + one.at_end)} of the evidence lies at the window's edges, "
                f"with {percent(one.edge_energy)} of the sound's energy"
            )
        if largest == "silence":
            return f"{percent(one.silence)} of the evidence lies where nothing sounds"
        text = (
            f"half of the evidence lies at {band_in_words(one.low_hz, one.high_hz)}, which holds "
            f"{percent(one.band_energy)} of the sound's energy, over "
            f"{percent(one.steadiness)} of the time"
        )
        same = self.indicators.sameness[position]
        if np.isnan(same):
            return f"{text}; no other recording is in its group"
        return f"{text}; correlation with the group's other recordings {same:.2f}"

    def save(
        self,
        page: str | os.PathLike[str],
        *,
        shown: int = SHOWN,
        sound: Form = "auto",
    ) -> list[Path]:
        """Write the page, and the tables beside it.

        The detections that the page plays are explained once more, from their files.

        Parameters
        ----------
        page : path
            ``NAME.html``; ``NAME.csv`` beside it is `table`, ``NAME_groups.csv`` is `groups`.
        shown : int
            Detections of each of the 12 most suspicious groups to show, the most suspicious ones.
        sound : {"auto", "wav", "mp3"}
            See `audiointerp.report.write_report`.

        Returns
        -------
        list of Path
            The files, the page first.

        Raises
        ------
        ValueError
            If there is no detection, or an option is unusable; nothing is written.
        OSError
            If the files cannot be written.
        """
        check_form(sound)
        if isinstance(shown, bool) or not isinstance(shown, int) or shown < 0:
            raise ValueError(
                f"shown is {shown!r}: expected how many detections of a group, 0 or more"
            )
        if not self.found.detections:
            raise ValueError(self.no_detection)
        page = Path(page)
        if page.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"{page}: the name of the page must end in .html")
        files = [page, page.with_suffix(".csv"), page.with_name(f"{page.stem}_groups.csv")]
        for file in files:
            check_writable(file)
        with claim(*files):
            content = _Page(self, shown, sound, files[1].name).content()
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(files[1], to_csv(self.table, index=False))
            write_atomically(files[2], to_csv(self.groups))
            write_atomically(page, content)
        return files

    @property
    def no_detection(self) -> str:
        """One line that says that there is nothing to show."""
        text = _NO_DETECTION.format(files=len(self.found.files), threshold=self.threshold)
        return f"{text}; {len(self.failures)} could not be read" if self.failures else text


_PROFILES = ("profile", "energy")
_MEDIANS = (
    *("probability", "p_evidence", "p_rest", "p_without_band"),
    *("low_hz", "high_hz", "band_energy", "steadiness"),
)


def audit(
    folder: str | os.PathLike[str],
    model: Classifier | nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    threshold: float = 0.5,
    method: str = METHOD,
    mask: str = MASK,
    base: str = BASE,
    windowing: Windowing | None = None,
    channel: str = MID,
    background: str | os.PathLike[str] = "synthetic",
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> Audit:
    """Find every detection in a folder's recordings, and where its evidence lies.

    Parameters
    ----------
    folder : path
        Sound files at any depth, of any length.
    model : Classifier or path
        The classifier, or its weight file.
    out : path, optional
        Folder in which finished recordings are noted: the same call goes on there after it was
        stopped. By default nothing is written before `Audit.save`.
    threshold : float
        A class is detected where it reaches this probability. Adjacent windows of a recording in
        which it does are one detection, and the best of them is explained.
    method : str
        Attribution method, a name in ``METHODS``.
    mask : str
        What is played as the evidence.
    base : {"quiet", "floor", "minimum"}
        What a removed cell becomes.
    windowing : Windowing, optional
        The part of each file to analyse, and the windows.
    channel, background, seed
        See `audiointerp.runs.files.interpret_files`.
    device : str
        For a weight file.
    overwrite : bool
        Take no notice of what `out` holds.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        If the folder has no sound file, a setting is unusable, or `out` holds an audit with other
        settings.

    Examples
    --------
    >>> import audiointerp as ai
    >>> found = ai.audit("night", "weights/shortcut_logmel.safetensors")  # doctest: +SKIP
    >>> found.groups  # doctest: +SKIP
    >>> found.save("audit.html")  # doctest: +SKIP
    """
    if isinstance(model, str | os.PathLike):
        model = load(model, device=resolve_device(device))
    if not isinstance(model, Classifier):
        raise TypeError(
            f"model is a {type(model).__name__}: expected a Classifier, as audiointerp.load and "
            "audiointerp.classifier return it, or a weight file"
        )
    auditor = Auditor(
        model,
        threshold=threshold,
        method=method,
        mask=mask,
        base=base,
        windowing=windowing,
        channel=channel,
        background=background,
        seed=seed,
    )
    found = audit_folder(folder, auditor, out, overwrite=overwrite, progress=progress)
    return Audit(Path(folder), auditor, found)


def hertz_in_words(hertz: float) -> str:
    """Return a frequency with two or three digits: 85 Hz, 1.25 kHz.

    Examples
    --------
    >>> hertz_in_words(84.6), hertz_in_words(1253), hertz_in_words(12530)
    ('85 Hz', '1.25 kHz', '12.5 kHz')
    """
    return f"{hertz:.0f} Hz" if round(hertz) < 1000 else f"{_kilohertz(hertz, 3)} kHz"


def band_in_words(low: float, high: float) -> str:
    """Return a band, with two digits, or three where it is narrower than a quarter octave.

    Examples
    --------
    >>> band_in_words(85, 230), band_in_words(1960, 2040), band_in_words(821, 1253)
    ('85–230 Hz', '1.96–2.04 kHz', '0.82–1.3 kHz')
    """
    digits = 3 if high < low * 2**0.25 else 2
    if round(high) < 1000:
        return f"{low:.0f}–{high:.0f} Hz"
    return f"{_kilohertz(low, digits)}–{_kilohertz(high, digits)} kHz"


def _kilohertz(hertz: float, digits: int) -> str:
    return f"{float(f'{hertz / 1000:.{digits}g}'):g}"


def percent(share: float) -> str:
    """Return a share in percent, of 1 % and more without decimals."""
    if np.isnan(share):
        return "an unknown share"
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else f"{100 * share:.1g} %"


class _Page:
    """The page of an audit while it is made."""

    def __init__(self, audit: Audit, shown: int, sound: Form, csv: str) -> None:
        self._audit = audit
        self._csv = csv
        members = list(audit._members.values())[:SHOWN_GROUPS]
        self._shown = [own[:shown] for own in members]
        found = audit.found.detections
        chosen = [found[n] for own in self._shown for n in own]
        self._keys = frozenset(one.key for one in chosen)
        rate = audit.auditor.job.front_end.sample_rate
        lengths = [round((one.window_end - one.window_start) * rate) for one in chosen]
        self._form = choose_form(sound, [n for n in lengths for _ in range(3)])
        self._media: dict[Any, str] = {}
        self._missing: dict[str, str] = {}

    def content(self) -> str:
        audit = self._audit
        wanted = {file for file, _, _ in self._keys}
        files = {name: path for name, path in audit.found.files.items() if name in wanted}
        for _ in audit.auditor.detect(
            files, only=self._keys, failed=self._note_missing, see=self._draw
        ):
            pass
        title = f"Audit of {audit.folder.resolve().name}: what triggered the detections"
        sections = [self._introduction(), self._overview()]
        for number, (name, own) in enumerate(audit._members.items()):
            if number < SHOWN_GROUPS:
                sections.append(self._group(number, name, own))
        style = _template("audit.css")
        return fill_plain_page(title, "".join(sections), style, sounds=True)

    def _note_missing(self, name: str, error: Exception) -> None:
        self._missing[name] = describe(error)

    def _draw(self, one: Detection, result: Interpretation) -> None:
        mask = next(iter(result.masks))
        rate = result.processor.sample_rate
        players = []
        for part, title, sound in (
            ("original", f"recording, p = {one.probability:.2f}", result.audio()),
            ("in", f"evidence, p = {one.p_evidence:.2f}", result.audio(mask, "in")),
            ("out", f"rest, p = {one.p_rest:.2f}", result.audio(mask, "out")),
        ):
            embedded = embed_sound(sound.waveform, rate, self._form)
            down = embedded["turned_down"]
            note = f", turned down by {down:.0f} dB" if down >= 0.5 else ""
            players.append(
                f'<div class="{part}"><span>{escape(title + note)}</span><audio controls '
                f'preload="none" aria-label="{escape(f"{title}, {one.file}", quote=True)}" '
                f'src="{embedded["source"]}"></audio></div>'
            )
        band = None if np.isnan(one.low_hz) else (one.low_hz, one.high_hz)
        picture = plot_evidence(result.view.cells, evidence_of(result), result.processor, band=band)
        about = f"spectrogram and evidence of {one.file}"
        self._media[one.key] = (
            f'{_image(picture, about)}<div class="players">{"".join(players)}</div>'
        )

    def _introduction(self) -> str:
        audit = self._audit
        found, job = audit.found, audit.auditor.job
        failed = "".join(
            f"<li>{_text(name)}: {_text(why)}</li>" for name, why in audit.failures.items()
        )
        summary = f"<summary>{len(audit.failures)} could not be used</summary>"
        return Template(_template("audit.html")).substitute(
            detections=_count(len(found.detections), "detection"),
            threshold=f"{audit.threshold:g}",
            heard=len({one.file for one in found.detections}),
            recordings=_count(len(found.files), "recording"),
            method=escape(job.method),
            mask=escape(job.masks[0]),
            base=escape(job.base),
            csv=escape(self._csv),
            skipped=f"<details>{summary}<ul>{failed}</ul></details>" if failed else "",
        )

    def _overview(self) -> str:
        rows = []
        for number, (name, own) in enumerate(self._audit.groups.iterrows()):
            link = (
                f'<a href="#g{number}">{_text(name)}</a>' if number < SHOWN_GROUPS else _text(name)
            )
            numbers = "".join(
                f"<td>{_probability(own[column])}</td>"
                for column in ("probability", "p_evidence", "p_rest", "p_without_band")
            )
            rows.append(
                f'<tr><th scope="row">{link}</th><td>{_score(own["suspicion"])}</td>'
                f"<td>{own['detections']:.0f}</td><td>{own['recordings']:.0f}</td>{numbers}"
                f"<td>{percent(own['band_energy'])}</td></tr>"
            )
        heads = "".join(
            f'<th scope="col">{head}</th>'
            for head in (
                *("group", "suspicion", "detections", "recordings", "p"),
                *("p of evidence", "p of rest", "p without band", "energy in band"),
            )
        )
        more = len(self._audit.groups) - SHOWN_GROUPS
        left = f" The {SHOWN_GROUPS} most suspicious follow below." if more > 0 else ""
        return (
            f'<section class="card"><h2>{_count(len(rows), "group")}</h2><p class="quiet">Mean '
            f"suspicion, medians of the probabilities.{left}</p>"
            '<div class="scroll" tabindex="0" role="region" aria-label="Groups">'
            f'<table class="audit-groups"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div></section>"
        )

    def _group(self, number: int, name: str, members: Sequence[int]) -> str:
        audit = self._audit
        found = audit.found.detections
        own = audit.groups.loc[name]
        shown = self._shown[number]
        facts = _facts(
            {
                "detections": f"{own['detections']:.0f}",
                "recordings": f"{own['recordings']:.0f}",
                "probability": _probability(own["probability"]),
                "of the evidence alone": _probability(own["p_evidence"]),
                "of the rest": _probability(own["p_rest"]),
                "without the band": _probability(own["p_without_band"]),
                "energy in the band": percent(own["band_energy"]),
                "louder and quieter half": _correlation(own["loud_and_quiet"]),
            }
        )
        parts = [
            f'<section class="card" id="g{number}">',
            f"<h2>{_text(name)} {_score(own['suspicion'])}</h2>",
            facts,
        ]
        known = [n for n in members if not np.isnan(found[n].peak_hz)]
        if known:
            parts.append(f'<div class="profile">{self._profile(known, own)}</div>')
        if len(shown) < len(members):
            parts.append(
                f'<p class="quiet">The {len(shown)} most suspicious of {len(members)} are shown; '
                f"all are in {escape(self._csv)}.</p>"
            )
        parts += [self._detection(n) for n in shown]
        return "".join(parts) + "</section>"

    def _profile(self, members: Sequence[int], own: pd.Series) -> str:
        found = self._audit.found.detections
        profiles = {
            name: torch.tensor(np.mean([getattr(found[n], of) for n in members], axis=0))[:, None]
            for name, of in (("evidence", "profile"), ("sound's energy", "energy"))
        }
        profiles = {name: each for name, each in profiles.items() if not each.isnan().any()}
        picture = plot_frequency_profiles(
            profiles,
            self._audit.auditor.job.front_end,
            bands=[(own["low_hz"], own["high_hz"])],
        )
        picture.axes[0].set_ylabel("share, %")
        picture.screen_dpi = 90
        return _image(picture, "mean share of the evidence and of the energy at each frequency")

    def _detection(self, position: int) -> str:
        audit = self._audit
        one = audit.found.detections[position]
        suspicion = audit.indicators.suspicion[position]
        where = span(one.window_start, one.window_end)
        if one.windows > 1:
            where += f" of {span(one.start, one.end)}, {one.windows} windows"
        media = self._media.get(one.key)
        if media is None:
            why = self._missing.get(one.file, "the file has changed")
            media = f'<p class="warning">Cannot be shown: {_text(why)}.</p>'
        facts = _facts(
            {
                "evidence lies at": f"{in_seconds(one.evidence_start)}–"
                f"{in_seconds(one.evidence_end)} s",
                "without the band": _probability(one.p_without_band),
                "at the edges": percent(one.at_start + one.at_end),
                "in silence": percent(one.silence),
                "level": f"{one.level_db:.0f} dB",
            }
        )
        return (
            f'<div class="shown"><h3>{_text(one.file)} <span class="quiet">{escape(where)}</span> '
            f'{_score(suspicion)}</h3><p class="quiet">{_text(audit._reason(position))}.</p>'
            f"{media}{facts}</div>"
        )


def _template(name: str) -> str:
    return (resources.files("audiointerp.report") / "templates" / name).read_text("utf-8")


def _text(text: str) -> str:
    return escape(printable(text))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _probability(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _correlation(value: float) -> str:
    return "–" if np.isnan(value) else f"correlation {value:.2f}"


def _score(value: float) -> str:
    if np.isnan(value):
        return '<span class="score">–</span>'
    tenth = int(np.clip(round(10 * value), 0, 10))
    return f'<span class="score s{tenth}" title="suspicion of a shortcut">{value:.2f}</span>'


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="audit-numbers">{rows}</dl>'


def _image(picture: Picture, about: str) -> str:
    source = data_uri("image/png", picture._repr_png_())
    return f'<img alt="{escape(printable(about), quote=True)}" src="{source}">'
