"""Page of an experiment's runs: settings, means by mask, every clip, sounds.

The numbers are those of the runs' tables; means are made in the page, over the clips that its
reader asks for. `audiointerp.report.listen` adds what there is to look at and listen to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audiointerp.evaluation import SCORED_FAMILIES, metric_columns
from audiointerp.masking import MAP_FACTS, is_remarkable
from audiointerp.processing import STFTSpectrogram, build_processor
from audiointerp.reading import (
    FOLDS,
    NUMBER,
    OBJECT,
    TEXT,
    TEXTS,
    WHOLE,
    YES_OR_NO,
    FileError,
    check_fields,
    mapping_to,
    without_stray,
)
from audiointerp.report.page import PLACES, describe_metric, fill_page, numbers
from audiointerp.runs.store import TABLES, read_run
from audiointerp.tables import SAME, SCORE, SCORE_FLOOR
from audiointerp.tables.load import (
    EXPLAINED,
    complete_metrics,
    load_diagnostics,
    read_rows,
    row_key,
    run_name,
    true_classes,
)
from audiointerp.tables.notes import Note, Source, find_notes
from audiointerp.tables.order import sorting_key
from audiointerp.tables.score import SCORE_DECIMALS, describe_score, score_range

Table = Mapping[str, pd.DataFrame]
_TOLD = ("settings", "leakage")
"""Kinds of notes that stand above a run's means."""

_SETTINGS = dict.fromkeys(("model_hash", "method", "base", "domain"), TEXT) | dict.fromkeys(
    ("model", "processor", "interpreter", "dataset"), OBJECT
)
_DATASET = {
    "name": TEXT,
    "classes": TEXTS,
    "folds": FOLDS,
    "clips": WHOLE,
    "sample_rate": WHOLE,
    "duration": NUMBER,
    "normalize": YES_OR_NO,
}
_NOISE = {"noise_file": TEXT, "noise_sha256": TEXT, "alpha": NUMBER, "snr_db": NUMBER}
_MOST_SAMPLES = 2**40


@dataclass(frozen=True)
class Run:
    """One run, read from its folder.

    Attributes
    ----------
    folder : Path
    model, method, experiment : str
        Of its folder, ``<model>/<method>_<experiment>``.
    settings, report : mapping
        Of its ``run.json``; the report is empty if the run was stopped.
    tables : mapping of str to mapping of str to DataFrame
        By what was measured on and mask: one row per clip, indexed by clip, the same clips in all.
        Where several classes of a clip are explained, one row for each, indexed by clip and class.
        The same columns in all; NaN where a metric has no value.
    diagnostics : DataFrame
        What the method says of each map, indexed alike.
    unfinished : int
        Rows that some tables have and some lack; they are in none of `tables`.
    """

    folder: Path
    model: str
    method: str
    experiment: str
    settings: Mapping[str, Any]
    report: Mapping[str, Any]
    tables: Mapping[str, Table]
    diagnostics: pd.DataFrame
    unfinished: int

    @property
    def rows(self) -> pd.DataFrame:
        """One of the tables: all name the same clips, classes and predictions."""
        return next(iter(next(iter(self.tables.values())).values()))

    @property
    def clips(self) -> list[str]:
        """The clip of every row."""
        return self.rows.index.get_level_values("clip").tolist()

    @property
    def explained(self) -> list[str] | None:
        """The explained class of every row, None where it is the predicted one."""
        index = self.rows.index
        return index.get_level_values(EXPLAINED).tolist() if EXPLAINED in index.names else None

    @cached_property
    def labels(self) -> list[list[str]]:
        """The true classes of every row; several are written with a | between them."""
        known = set(self.dataset["classes"])
        return [true_classes(target, known) for target in self.rows["target"]]

    @property
    def metrics(self) -> list[str]:
        """The metrics, in the order of ``METRICS``."""
        return metric_columns(self.rows)

    @property
    def masks(self) -> list[str]:
        """Masks that were scored."""
        return list(dict.fromkeys(mask for table in self.tables.values() for mask in table))

    @property
    def dataset(self) -> Mapping[str, Any]:
        """What the clips depend on."""
        return self.settings["dataset"]

    @cached_property
    def processor(self) -> STFTSpectrogram:
        """The front end."""
        return build_processor(self.settings["processor"])

    @property
    def samples(self) -> int:
        """Samples of every clip."""
        return round(self.dataset["duration"] * self.dataset["sample_rate"])

    @property
    def shape(self) -> tuple[int, int]:
        """Bins and frames of a mask."""
        return self.processor.num_bins, self.processor.num_frames(self.samples)


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of runs in a folder, or itself."""
    return [path.parent for path in without_stray(folder.rglob("run.json"), folder)]


def read_runs(root: Path, folders: list[Path]) -> list[Run]:
    """Return runs in their usual order: by model, the clean clips first, methods as they are known.

    Raises
    ------
    ValueError
        If one is damaged or has no clips, or two have one name.
    """
    contents = {folder: _read_content(folder) for folder in folders}
    tables = {folder: _read_tables(folder, contents[folder]["settings"]) for folder in folders}
    names = complete_metrics(
        *(
            [
                (run_name(folder.resolve()), rows)
                for folder, places in tables.items()
                for rows in places.get(place, {}).values()
            ]
            for place in TABLES
        )
    )
    runs = [
        _make_run(folder, _model_name(root, folder), contents[folder], tables[folder], names)
        for folder in folders
    ]
    experiment, method = sorting_key("experiment"), sorting_key("method")
    runs.sort(key=lambda run: (run.model, experiment(run.experiment), method(run.method)))
    for one, other in itertools.pairwise(runs):
        if all(getattr(one, n) == getattr(other, n) for n in ("model", "method", "experiment")):
            raise ValueError(
                f"{one.folder} and {other.folder} are called the same, {one.method} on "
                f"{one.experiment}: rename one, or report them apart"
            )
    return runs


def page_of_runs(title: str, runs: list[Run], heard: Mapping[str, Any]) -> str:
    """Return a page of runs.

    Parameters
    ----------
    title : str
    runs : list of Run
    heard : mapping
        As `audiointerp.report.listen.listen` returns it.
    """
    groups = group_runs(runs)
    number = {id(run): place for place, group in enumerate(groups) for run in group}
    metrics = runs[0].metrics
    values = {
        id(run): {
            place: {mask: rows[metrics].to_numpy(float) for mask, rows in table.items()}
            for place, table in run.tables.items()
        }
        for run in runs
    }
    rows, known = _count_known(values.values())
    # A score is made of the metrics that all runs have under every mask.
    everywhere = [name for name, there in zip(metrics, (known > 0).all(0), strict=True) if there]
    scored = metric_columns(everywhere, SCORED_FAMILIES)
    partial = ((known > 0) & (known < rows)).any(0).tolist()
    notes = find_notes([_source(run) for run in runs])
    content = {
        "metrics": [
            describe_metric(name) | {"partial": some}
            for name, some in zip(metrics, partial, strict=True)
        ],
        "places": PLACES,
        "score": _describe_score(scored),
        "mask": heard["mask"],
        "heard": heard["about"],
        "footer": heard["footer"],
        "runs": [
            _content(run, values[id(run)], scored, _notes_of(run, notes))
            | {"group": number[id(run)], "silent": silent}
            for run, silent in zip(runs, heard["silent"], strict=True)
        ],
        "scenes": heard["scenes"],
    }
    return fill_page("runs", title, content)


def _source(run: Run) -> Source:
    """Return a run as `find_notes` takes it."""
    table = next(iter(run.tables.values()))
    return Source(
        run.model,
        run.method,
        run.experiment,
        {mask: rows.reset_index() for mask, rows in table.items()},
        {"settings": run.settings, "report": run.report},
        run.diagnostics,
    )


def _notes_of(run: Run, notes: Iterable[Note]) -> list[Note]:
    names = {"model": run.model, "experiment": run.experiment, "method": run.method}
    return [note for note in notes if note.concerns(names)]


Values = Mapping[str, Mapping[str, NDArray]]
"""The metrics of a run by what was measured on and mask, shape (rows, metrics)."""


def _count_known(values: Iterable[Values]) -> tuple[NDArray, NDArray]:
    """Return how many rows every table has, (tables, 1), and how many values, (tables, metrics)."""
    tables = [table for places in values for masks in places.values() for table in masks.values()]
    known = np.array([(~np.isnan(table)).sum(axis=0) for table in tables])
    return np.array([[len(table)] for table in tables]), known


def _describe_score(scored: list[str]) -> dict[str, Any] | None:
    """Return what the page says of the score and how it is made, None where there is none."""
    if not scored:
        return None
    return {
        "name": SCORE,
        "about": describe_score(scored),
        "better": "higher",
        "digits": SCORE_DECIMALS,
        "same": SAME,
        "floor": SCORE_FLOOR,
    }


def group_runs(runs: list[Run]) -> list[list[Run]]:
    """Return runs together that are of the same clips, model and front end, methods apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = (run.model, run.experiment, run.settings["model_hash"], run.settings["processor"])
        asked = {name: value for name, value in run.dataset.items() if name != "clips"}
        groups.setdefault(repr((same, asked)), []).append(run)
    return list(groups.values())


def describe_run(run: Run) -> list[tuple[str, str]]:
    """Return what was run, in words."""
    settings, clips = run.settings, run.dataset
    network = ", ".join(_words(settings["model"]))
    folds = ", ".join(map(str, clips["folds"]))
    level = "" if clips["normalize"] else ", not normalised"
    if "channel" in clips:
        level += f", channel {clips['channel']}"
    unit = {"power": "power", "log1p": "log(1 + magnitude)"}.get(settings["domain"], "dB")
    unit = unit if run.processor.log else "power"
    floor = f"{run.processor.floor:g} {'dB' if run.processor.log else 'power'}"
    base = {
        "floor": f"the front end's floor, {floor}",
        "minimum": "the clip's lowest cell",
        "quiet": "the clip's quiet level in their band",
    }.get(settings["base"], settings["base"])
    options = {k: v for k, v in settings["interpreter"].items() if k != "method"}
    about = [
        ("Model", f"{network}; weights {settings['model_hash']}"),
        ("Front end", _describe_front_end(run.processor)),
        (
            "Clips",
            f"{clips['name']}, fold{'s' * (len(clips['folds']) > 1)} {folds}: "
            f"{len(set(run.clips))} clips of {len(set(itertools.chain(*run.labels)))} classes, "
            f"{clips['duration']:g} s{level}",
        ),
        ("Background noise", _describe_noise(clips["contamination"])),
        ("Method", "; ".join([settings["method"], *_words(options)])),
        ("Explained class", _describe_explained(run)),
        ("Masking", f"in {unit}; a removed cell takes {base}"),
    ]
    code = run.report.get("code", {})
    made = [f"{name} {str(version)[:12]}" for name, version in code.items() if version]
    if made:
        about.append(("Made with", ", ".join(made)))
    return about


def _describe_explained(run: Run) -> str:
    if run.explained is None:
        return "the predicted one"
    asked = " ".join(_words({"asked for": run.settings.get("target")}))
    count = f"{len(run.rows)} classes of {len(set(run.clips))} clips, named in the list of clips"
    return f"{count}; {asked}" if asked else count


def _describe_front_end(processor: STFTSpectrogram) -> str:
    settings = processor.settings()
    bands = f"{processor.num_bins} bins"
    if "n_mels" in settings:
        bands = f"{processor.num_bins} mel bands, {settings['f_min']:g}–{settings['f_max']:g} Hz"
    window, step = (
        f"{1000 * settings[name] / processor.sample_rate:g} ms" for name in ("n_fft", "hop_length")
    )
    return (
        f"{settings['name']}: {bands}{', in dB' if processor.log else ''}; windows of {window} "
        f"every {step}, {processor.sample_rate / 1000:g} kHz"
    )


def _describe_noise(noise: Mapping[str, Any] | None) -> str:
    if noise is None:
        return "none added"
    side = "above" if noise["snr_db"] >= 0 else "below"
    return (
        f"{noise['noise_file']}, the clip {abs(noise['snr_db']):.2f} dB {side} it "
        f"(α = {noise['alpha']:g})"
    )


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words; those that are not set are left out."""
    words = []
    for name, value in settings.items():
        plain = name.removeprefix("num_").replace("_", " ")
        if isinstance(value, Mapping):
            words.append(f"{plain}: {', '.join(_words(value))}")
        elif name == "name":
            words.append(str(value))
        elif name.endswith("sha256"):
            words.append(f"{plain} {str(value)[:12]}…")
        elif name.startswith("num_"):
            words.append(f"{value} {plain}")
        elif value not in (None, []):
            words.append(f"{plain} {_word(value)}")
    return words


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _content(run: Run, values: Values, scored: list[str], notes: Sequence[Note]) -> dict[str, Any]:
    rows, known, metrics = run.rows, run.dataset["classes"], run.metrics
    present = set(itertools.chain(*run.labels))
    cells = math.prod(run.shape)
    same = run.diagnostics.index.names == rows.index.names
    diagnostics = run.diagnostics.reindex(rows.index if same else run.clips)
    return {
        "model": run.model,
        "method": run.method,
        "experiment": run.experiment,
        "about": describe_run(run) + _describe_notes(notes),
        "warning": _warning(run, notes),
        "ranges": [score_range(name, cells) if name in scored else None for name in metrics],
        "classes": [name for name in known if name in present],
        "clips": run.clips,
        "explained": run.explained,
        "target": rows["target"].tolist(),
        "labels": run.labels if any(len(names) > 1 for names in run.labels) else None,
        "predicted": rows["predicted"].tolist(),
        "correct": rows["is_correct"].tolist(),
        "tables": {
            place: {mask: numbers(table) for mask, table in masks.items()}
            for place, masks in values.items()
        },
        "diagnostics": {
            name: [value if math.isfinite(value) else None for value in column]
            for name, column in diagnostics.items()
            if not name.startswith(MAP_FACTS) or is_remarkable(name, column)
        },
    }


def _describe_notes(notes: Iterable[Note]) -> list[tuple[str, str]]:
    """Return what is degenerate, and what there is to find, in words."""
    said: dict[str, list[str]] = {"degenerate": [], "truth": []}
    for note in notes:
        if note.kind in said:
            text = f"{', '.join(note.masks)}{': ' if note.masks else ''}{note.text}"
            said[note.kind].append(text)
    return [(kind.capitalize(), "; ".join(texts)) for kind, texts in said.items() if texts]


def _warning(run: Run, notes: Iterable[Note]) -> str:
    said = [f"{note.text[:1].upper()}{note.text[1:]}." for note in notes if note.kind in _TOLD]
    if not run.report:
        said.append(
            f"This run is not finished: {len(set(run.clips))} of {run.dataset['clips']} clips are "
            "whole."
        )
    elif run.unfinished:
        what = "clips" if run.explained is None else "explained classes"
        said.append(f"{run.unfinished} {what} are left out, which some tables lack.")
    failures = run.report.get("failures", {})
    if failures:
        listed = "; ".join(f"{clip}: {why}" for clip, why in failures.items())
        said.append(f"{len(failures)} clips could not be interpreted: {listed}.")
    if run.report and not run.unfinished:
        said += [
            f"This run has {note.text}."
            for note in notes
            if note.kind == "clips" and not 0 < note.of - note.count == len(failures)
        ]
    return " ".join(said)


def _model_name(root: Path, folder: Path) -> str:
    above, root = folder.resolve().parent, root.resolve()
    return above.relative_to(root).as_posix() if root in above.parents else above.name


def _read_content(folder: Path) -> dict[str, Any]:
    """Return what a run's ``run.json`` says."""
    found = read_run(folder)
    if found is None:
        raise FileError(f"{folder}: has no run.json")
    file, settings = str(folder / "run.json"), found["settings"]
    check_fields(settings, _SETTINGS, file, {"precision": TEXT})
    dataset = settings["dataset"]
    check_fields(dataset, _DATASET, f"{file}, dataset", {"contamination": OBJECT, "seed": WHOLE})
    if not 0 < dataset["duration"] * dataset["sample_rate"] < _MOST_SAMPLES:
        raise FileError(f"{file}: is damaged: clips of {dataset['duration']} s")
    if dataset.get("contamination") is not None:
        check_fields(dataset["contamination"], _NOISE, f"{file}, contamination")
    failures = {"failures": mapping_to(TEXT), "code": OBJECT}
    check_fields(found["report"], {}, f"{file}, report", failures)
    try:
        build_processor(settings["processor"])
    except ValueError as error:
        raise FileError(f"{file}, processor: {error}") from error
    return found


def _read_tables(folder: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, pd.DataFrame]]:
    """Return a run's tables by what was measured on and mask, each as it is in its file."""
    mask = sorting_key("mask")
    tables = {
        place: {
            path.stem: read_rows(path, settings)
            for path in sorted(
                without_stray((folder / name).glob("*.csv"), folder),
                key=lambda path: mask(path.stem),
            )
        }
        for place, name in TABLES.items()
    }
    tables = {place: table for place, table in tables.items() if table}
    if not tables:
        raise ValueError(f"{folder}: has a run.json and no tables; run the experiment again")
    return tables


def _make_run(
    folder: Path,
    model: str,
    content: Mapping[str, Any],
    tables: Mapping[str, Table],
    metrics: list[str],
) -> Run:
    columns = ["target", "predicted", "is_correct", *metrics]
    indexed = {
        place: {
            mask: _with_columns(rows.set_index(row_key(rows)), columns)
            for mask, rows in table.items()
        }
        for place, table in tables.items()
    }
    every = [set(rows.index) for table in indexed.values() for rows in table.values()]
    whole = set.intersection(*every)
    if not whole:
        raise ValueError(f"{folder}: no clip is in all of its tables yet; finish the run first")
    first = next(iter(next(iter(indexed.values())).values()))
    _check_same_labels(folder, first, indexed)
    kept = first.index[[name in whole for name in first.index]]
    method = content["settings"]["method"]
    return Run(
        folder,
        model,
        method,
        folder.resolve().name.removeprefix(f"{method}_"),
        content["settings"],
        content.get("report") or {},
        {
            place: {mask: rows.loc[kept] for mask, rows in table.items()}
            for place, table in indexed.items()
        },
        load_diagnostics(folder),
        len(set.union(*every) - whole),
    )


def _check_same_labels(folder: Path, first: pd.DataFrame, tables: Mapping[str, Table]) -> None:
    """Raise a FileError where the tables of a run name other classes of a clip."""
    names = ["target", "predicted", "is_correct"]
    for place, masks in tables.items():
        for mask, rows in masks.items():
            both = first.index.intersection(rows.index)
            if not first.loc[both, names].equals(rows.loc[both, names]):
                raise FileError(
                    f"{folder / TABLES[place] / mask}.csv: names other classes of its clips than "
                    "the run's first table: one of them is damaged"
                )


def _with_columns(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the rows with these columns, NaN in those that are not there."""
    return rows if rows.columns.tolist() == columns else rows.reindex(columns=columns)
