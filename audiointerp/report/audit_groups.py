"""Detections of an audit as tables: grouped by where their evidence lies, ordered by suspicion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from audiointerp.evaluation.placement import similarity
from audiointerp.evaluation.suspicion import (
    NO_EVIDENCE,
    Indicators,
    measure_suspicion,
    place_in_words,
)
from audiointerp.report.quantities import band_in_words, hertz_in_words, percent
from audiointerp.runs.audit import FolderAudit
from audiointerp.runs.detections import Auditor, Detection

_NO_DETECTION = (
    "no detection in {files} recordings: no class reaches a probability of {threshold:g}"
)


@dataclass(frozen=True)
class Groups:
    """Detections in the recordings of a folder, grouped by where their evidence lies.

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
        and the attributes of `audiointerp.runs.detections.Detection` but for the profiles.
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
