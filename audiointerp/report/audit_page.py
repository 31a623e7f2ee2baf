"""The page of an audit: groups of detections, with pictures and sounds of the most suspicious."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import torch

from audiointerp.dataset.failures import describe
from audiointerp.plots import Picture, plot_evidence, plot_frequency_profiles
from audiointerp.report.audit_groups import Groups
from audiointerp.report.media import Form, choose_form, embed_sound
from audiointerp.report.page import fill_plain_page
from audiointerp.report.quantities import percent
from audiointerp.runs.detections import Detection, evidence_of
from audiointerp.runs.result import Interpretation
from audiointerp.runs.windows import in_seconds, span
from audiointerp.sound import data_uri
from audiointerp.text import printable

SHOWN_GROUPS = 12
"""Groups that the page shows detections of, the most suspicious ones."""


def audit_page(audit: Groups, shown: int, sound: Form, csv: str) -> str:
    """Return the page of an audit.

    Parameters
    ----------
    audit : Groups
    shown : int
        Detections of each group to show.
    sound : {"auto", "wav", "mp3"}
    csv : str
        Name of the file with all detections.
    """
    return _Page(audit, shown, sound, csv).content()


class _Page:
    """The page of an audit while it is made."""

    def __init__(self, audit: Groups, shown: int, sound: Form, csv: str) -> None:
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
