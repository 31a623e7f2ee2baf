"""Notes on results: missing clips, differing settings, degenerate maps, leakage.

A mean of four clips next to one of ten, a mask that keeps everything, clips that the model was
trained on: none of these shows in the number. `find_notes` finds them in the rows of some runs and
in what ``run.json`` and ``diagnostics.csv`` say; tables and the report print them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from audiointerp.evaluation import METRICS, TRUTH_FACTS, metric_columns, why_no_truth
from audiointerp.masking import BY_POSITION, TIED
from audiointerp.runs.store import EXPLAINED, differing_settings

_NAMED = 3
"""Clips that a note names; `Note.names` has all."""
_OF_THE_SET = ("name", "classes", "folds", "seed", "multi_label", "clips_sha256", "window_hop")
"""Settings of a set that say which clips it has; two models may take them at different rates."""


class IncompleteWarning(UserWarning):
    """Means that stand next to each other are not of the same clips."""


class Note(NamedTuple):
    """Something about a run that its means do not show.

    Attributes
    ----------
    kind : {"clips", "settings", "leakage", "degenerate", "truth"}
        Clips are missing; runs were made with different settings; the clips are not independent
        of the training; maps or masks do not depend on the clip; what metrics with ground truth
        are by chance, and why some have no value.
    model, experiment, method : str
        Of the run; an empty experiment or method stands for all of them.
    masks : tuple of str
        The masks concerned; none stands for all of them.
    text : str
        As a phrase.
    count, of : int
        How many clips (of "degenerate", rows) the note counts, out of how many.
    names : tuple of str
        The missing clips, as far as their names are known.
    metrics : tuple of str
        The metrics concerned; none stands for all of them.
    """

    kind: str
    model: str
    experiment: str
    method: str
    masks: tuple[str, ...]
    text: str
    count: int = 0
    of: int = 0
    names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        """What the note is about, as a path."""
        run = "_".join(filter(None, (self.method, self.experiment)))
        return f"{self.model}/{run}" if run else self.model

    @property
    def line(self) -> str:
        """The note as a line."""
        return ", ".join([self.run, *self.masks]) + f": {self.text}"

    def concerns(self, names: Mapping[str, str]) -> bool:
        """Return whether the note is about rows of these names; a missing name stands for all."""
        own = {"model": self.model, "experiment": self.experiment, "method": self.method}
        if any(own[key] and own[key] != names[key] for key in own.keys() & names.keys()):
            return False
        return not self.masks or "mask" not in names or names["mask"] in self.masks


@dataclass(frozen=True)
class Source:
    """The rows of a run and what is said about it.

    Attributes
    ----------
    model, method, experiment : str
    tables : mapping of str to DataFrame
        By mask: one row per clip, or explained class of a clip, with ``clip`` and the metrics.
    content : mapping
        Of ``run.json``; empty where it is not known.
    diagnostics : DataFrame
        Of ``diagnostics.csv``; empty where there is none.
    """

    model: str
    method: str
    experiment: str
    tables: Mapping[str, pd.DataFrame]
    content: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the run."""
        return self.content.get("settings") or {}

    @property
    def report(self) -> Mapping[str, Any]:
        """What the run said when it was finished; empty if it was not."""
        return self.content.get("report") or {}

    @property
    def clips(self) -> set[str]:
        """The clips that some table has."""
        return set().union(*(table["clip"] for table in self.tables.values()))

    @property
    def population(self) -> str:
        """Runs with the same value are to have the same clips."""
        dataset = self.settings.get("dataset") or {}
        if "name" not in dataset:
            return self.model
        return repr([dataset.get(name) for name in _OF_THE_SET])

    @property
    def wanted(self) -> int:
        """How many clips ``run.json`` says there are, with those that failed; 0 if it does not."""
        if self.report:
            return self.report.get("clips", 0) + len(self.failures)
        return (self.settings.get("dataset") or {}).get("clips", 0)

    @property
    def failures(self) -> Mapping[str, str]:
        """Why clips could not be interpreted."""
        return self.report.get("failures") or {}

    def note(self, kind: str, text: str, masks: tuple[str, ...] = (), **facts: Any) -> Note:
        """Return a note about this run."""
        return Note(kind, self.model, self.experiment, self.method, masks, text, **facts)


def sources_of(results: pd.DataFrame) -> list[Source]:
    """Return the runs of a long table, of which nothing but the rows is known."""
    runs: dict[tuple[str, str, str], dict[str, pd.DataFrame]] = {}
    keys = ["model", "method", "experiment", "mask"]
    for (*run, mask), rows in results.groupby(keys, sort=False):
        runs.setdefault(tuple(run), {})[mask] = rows
    return [Source(*run, tables) for run, tables in runs.items()]


def find_notes(sources: Sequence[Source]) -> list[Note]:
    """Return the notes on some runs that are shown together.

    Parameters
    ----------
    sources : sequence of Source
        Runs of the same set (or, where their set is not known, of the same model) are expected to
        have the same clips.

    Returns
    -------
    list of Note
        By kind, then in the order of the runs.
    """
    together: dict[str, set[str]] = {}
    for source in sources:
        together.setdefault(source.population, set()).update(source.clips)
    notes = _settings_notes(sources)
    for source in sources:
        notes += _clip_notes(source, together[source.population])
    for source in sources:
        notes += [source.note("leakage", text) for text in source.report.get("remarks", ())]
    for source in sources:
        notes += _degenerate_notes(source)
    truth = [note for source in sources for note in _truth_notes(source)]
    # What there is to find does not depend on the method: it is said once where all runs say it.
    said = Counter(note._replace(method="") for note in truth)
    runs = Counter((source.model, source.experiment) for source in sources)
    for note in truth:
        of_all = note._replace(method="")
        notes.append(of_all if said[of_all] == runs[note.model, note.experiment] else note)
    return list(dict.fromkeys(notes))


def notes_for(notes: Iterable[Note], rows: Iterable[Mapping[str, str]]) -> tuple[Note, ...]:
    """Return the notes that concern some rows, each a mapping of kinds to names."""
    rows = list(rows)
    return tuple(note for note in notes if any(note.concerns(row) for row in rows))


def note_lines(notes: Iterable[Note]) -> list[str]:
    """Return notes for reading: one line for each run and kind, one for runs of equal notes.

    A line names three runs and says how many more there are; `notes_frame` has all.
    """
    of_run: dict[tuple[str, str], dict[str, None]] = {}
    for note in notes:
        masks = f"{', '.join(note.masks)}: " if note.masks else ""
        of_run.setdefault((note.kind, note.run), {})[masks + note.text] = None
    alike: dict[tuple[str, str], list[str]] = {}
    for (kind, run), texts in of_run.items():
        alike.setdefault((kind, "; ".join(texts)), []).append(run)
    return [f"{name_some(runs)}: {text}" for (_, text), runs in alike.items()]


def notes_frame(notes: Sequence[Note]) -> pd.DataFrame:
    """Return notes as a table: one row each, names with a ``|`` between them."""
    lists = ("masks", "names", "metrics")
    rows = [
        note._replace(**{name: "|".join(getattr(note, name)) for name in lists}) for note in notes
    ]
    return pd.DataFrame(rows, columns=list(Note._fields))


def name_some(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _clip_notes(source: Source, together: set[str]) -> list[Note]:
    """Say which clips the tables of a run lack, equal masks together."""
    named = together | set(source.failures)
    of = max(len(named), source.wanted)
    whole = {frozenset(_units(table)) for table in source.tables.values()}
    units = frozenset().union(*whole)
    found: dict[tuple, list[str]] = {}
    for mask, table in source.tables.items():
        clips = set(table["clip"])
        missing = tuple(sorted(named - clips))
        apart = tuple(sorted(units - _units(table))) if len(clips) == len(named) else ()
        if len(clips) < of or apart:
            found.setdefault((len(clips), missing, apart), []).append(mask)
    notes = []
    for (count, missing, apart), masks in found.items():
        text = f"{count} of {of} clips"
        text += f"; missing {name_some(missing)}" if missing else ""
        text += f"; without {name_some(apart)}, which other masks have" if apart else ""
        failed = [clip for clip in missing if clip in source.failures]
        text += f"; {len(failed)} could not be interpreted" if failed else ""
        text += "; the run is not finished" if _is_unfinished(source) else ""
        some = () if len(masks) == len(source.tables) else tuple(masks)
        notes.append(source.note("clips", text, some, count=count, of=of, names=missing))
    if not notes and _is_unfinished(source):
        text = "the run is not finished"
        notes.append(source.note("clips", text, count=len(source.clips), of=of))
    done = source.report.get("clips")
    if done is not None and len(source.clips) > done + len(source.failures):
        text = f"{len(source.clips)} clips, where run.json says {done}"
        notes.append(source.note("clips", text, count=len(source.clips), of=of))
    return notes


def _units(table: pd.DataFrame) -> set[str]:
    """Return the names of a table's rows."""
    if EXPLAINED not in table:
        return set(table["clip"])
    return {
        f"{clip} ({label})" for clip, label in zip(table["clip"], table[EXPLAINED], strict=True)
    }


def _is_unfinished(source: Source) -> bool:
    return bool(source.content) and not source.report


def _settings_notes(sources: Sequence[Source]) -> list[Note]:
    """Say by which settings runs differ that are compared with each other."""
    notes = []
    for model in dict.fromkeys(source.model for source in sources):
        runs = [source for source in sources if source.model == model and source.settings]
        notes += _differences(runs, model, "", _differs_between_experiments)
        for experiment in dict.fromkeys(run.experiment for run in runs):
            same = [run for run in runs if run.experiment == experiment]
            notes += _differences(same, model, experiment, _differs_between_methods)
    return notes


def _differs_between_experiments(name: str) -> bool:
    return name == "model_hash" or (
        name.startswith("dataset.") and not name.startswith("dataset.contamination")
    )


def _differs_between_methods(name: str) -> bool:
    own = name == "method" or name.startswith("interpreter.")
    return not own and not _differs_between_experiments(name)


def _differences(runs: Sequence[Source], model: str, experiment: str, counts: Any) -> list[Note]:
    if not runs:
        return []
    differing = {
        name for run in runs[1:] for name in differing_settings(runs[0].settings, run.settings)
    }
    notes = []
    for name in sorted(filter(counts, differing)):
        values: dict[str, list[str]] = {}
        for run in runs:
            values.setdefault(_setting(run.settings, name), []).append(_folder(run))
        said = "; ".join(f"{value} in {name_some(where)}" for value, where in values.items())
        text = f"the runs differ in {name}: {said}"
        notes.append(Note("settings", model, experiment, "", (), text))
    return notes


def _folder(run: Source) -> str:
    return f"{run.method}_{run.experiment}"


def _setting(settings: Mapping[str, Any], name: str) -> str:
    group, _, part = name.partition(".")
    value = settings.get(group)
    value = value.get(part) if part and isinstance(value, Mapping) else value
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _degenerate_notes(source: Source) -> list[Note]:
    """Say how many maps are constant, and how many masks constant or chosen by position."""
    notes = []
    rows = source.diagnostics
    if "constant_map" in rows:
        known = rows["constant_map"].dropna()
        count, of = int((known > 0).sum()), len(known)
        if count:
            text = f"{count} of {of} maps are constant: they say nothing of the clip"
            notes.append(source.note("degenerate", text, count=count, of=of))
    for mask, table in source.tables.items():
        if "SPS" in table and (count := int((table["SPS"] == 0).sum())):
            text = f"all cells alike, kept or removed, in {count} of {len(table)} masks"
            notes.append(source.note("degenerate", text, (mask,), count=count, of=len(table)))
        if f"{TIED}{mask}" in rows:
            known = rows[f"{TIED}{mask}"].dropna()
            count, of = int((known > BY_POSITION).sum()), len(known)
            if count:
                text = f"most cells chosen by position among equal ones in {count} of {of} masks"
                notes.append(source.note("degenerate", text, (mask,), count=count, of=of))
    return notes


def _truth_notes(source: Source) -> list[Note]:
    """Say what metrics with ground truth are by chance, and which rows have no truth, and why."""
    rows = source.diagnostics
    facts = rows[[name for name in TRUTH_FACTS if name in rows]].dropna()
    if facts.empty:
        return []
    reasons = [why_no_truth(row) for row in facts.to_dict("records")]
    there = metric_columns(set().union(*(table.columns for table in source.tables.values())))
    notes = []
    for need in ("truth", "events"):
        metrics = tuple(name for name in there if need in METRICS[name].needs)
        if not metrics:
            continue
        has_truth = [need not in why for why in reasons]
        for fact in dict.fromkeys(METRICS[name].chance for name in metrics):
            if fact in facts and any(has_truth):
                named = tuple(name for name in metrics if METRICS[name].chance == fact)
                chance = facts.loc[has_truth, fact].mean()
                text = f"{', '.join(named)} by chance: {chance:.3f}"
                notes.append(source.note("truth", text, metrics=named))
        for why, count in Counter(why[need] for why in reasons if need in why).items():
            text = f"{count} of {len(reasons)} rows have no truth: {why}"
            notes.append(source.note("truth", text, count=count, of=len(reasons), metrics=metrics))
    return notes
