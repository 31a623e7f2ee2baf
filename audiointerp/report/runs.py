"""A page of an experiment's runs: what was run, means by mask, every clip, and what was heard.

The numbers are those of the runs' tables; means are made in the page, over the clips that its
reader asks for. `audiointerp.report.listen` adds what there is to look at and listen to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audiointerp.processing import STFTSpectrogram, build_processor
from audiointerp.report.page import PLACES, describe_metric, fill_page
from audiointerp.runs.store import CLIP_COLUMNS, READ_EXACTLY, TABLES, read_run, read_table
from audiointerp.tables import MASK_ORDER, METHOD_ORDER, METRIC_COLUMNS, SAME, SCORE_FLOOR

Table = Mapping[str, pd.DataFrame]


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
    diagnostics : DataFrame
        What the method says of each map, indexed by clip.
    unfinished : int
        Clips that some tables have and some lack; they are in none of `tables`.
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
    return sorted(
        path.parent
        for path in folder.rglob("run.json")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_runs(root: Path, folders: list[Path]) -> list[Run]:
    """Return runs in their usual order: by model, the clean clips first, methods as they are known.

    Raises
    ------
    ValueError
        If one is damaged or has no clips, or two have one name.
    """
    runs = [_read_run(folder, _model_name(root, folder)) for folder in folders]
    runs.sort(
        key=lambda run: (
            run.model,
            run.experiment != "clean",
            run.experiment,
            _place(run.method, METHOD_ORDER),
        )
    )
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
    content = {
        "metrics": [describe_metric(name) for name in METRIC_COLUMNS],
        "places": PLACES,
        "score": {"floor": SCORE_FLOOR, "same": SAME},
        "mask": heard["mask"],
        "heard": heard["about"],
        "footer": heard["footer"],
        "runs": [
            _content(run) | {"group": number[id(run)], "silent": silent}
            for run, silent in zip(runs, heard["silent"], strict=True)
        ],
        "scenes": heard["scenes"],
    }
    return fill_page("runs", title, content)


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
    unit = "power" if settings["domain"] == "power" or not run.processor.log else "dB"
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
            f"{clips['name']}, fold{'s' * (len(clips['folds']) > 1)} {folds}: {len(run.rows)} "
            f"clips of {run.rows['target'].nunique()} classes, {clips['duration']:g} s{level}",
        ),
        ("Background noise", _describe_noise(clips["contamination"])),
        ("Method", "; ".join([settings["method"], *_words(options)])),
        ("Explained class", "the predicted one"),
        ("Masking", f"in {unit}; a removed cell takes {base}"),
    ]
    code = run.report.get("code", {})
    made = [f"{name} {str(version)[:12]}" for name, version in code.items() if version]
    if made:
        about.append(("Made with", ", ".join(made)))
    return about


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
            words.append(f"{plain} {value[:12]}…")
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


def _content(run: Run) -> dict[str, Any]:
    rows, known = run.rows, run.dataset["classes"]
    present = set(rows["target"])
    tops = [_top(name, run.shape) for name in METRIC_COLUMNS]
    diagnostics = run.diagnostics.reindex(rows.index)
    return {
        "model": run.model,
        "method": run.method,
        "experiment": run.experiment,
        "about": describe_run(run),
        "warning": _warning(run),
        "tops": tops,
        "classes": [name for name in known if name in present],
        "clips": list(rows.index),
        "target": rows["target"].tolist(),
        "predicted": rows["predicted"].tolist(),
        "correct": rows["is_correct"].tolist(),
        "tables": {
            place: {
                mask: rows[list(METRIC_COLUMNS)].to_numpy().tolist() for mask, rows in t.items()
            }
            for place, t in run.tables.items()
        },
        "diagnostics": {
            name: [value if math.isfinite(value) else None for value in column]
            for name, column in diagnostics.items()
        },
    }


def _top(metric: str, shape: tuple[int, int]) -> float:
    """Return the largest value a metric can have, which the score divides by."""
    if metric == "COMP":
        return math.log(math.prod(shape))
    return describe_metric(metric)["unit"]


def _warning(run: Run) -> str:
    said = []
    if not run.report:
        said.append(
            f"This run is not finished: {len(run.rows)} of {run.dataset['clips']} clips are whole."
        )
    elif run.unfinished:
        said.append(f"{run.unfinished} clips are left out, which some tables lack.")
    failures = run.report.get("failures", {})
    if failures:
        listed = "; ".join(f"{clip}: {why}" for clip, why in failures.items())
        said.append(f"{len(failures)} clips could not be interpreted: {listed}.")
    return " ".join(said)


def _model_name(root: Path, folder: Path) -> str:
    above, root = folder.resolve().parent, root.resolve()
    return above.relative_to(root).as_posix() if root in above.parents else above.name


def _read_run(folder: Path, model: str) -> Run:
    found = read_run(folder)
    if found is None:
        raise ValueError(f"{folder}: has no run.json")
    settings = found["settings"]
    missing = {"model", "model_hash", "processor", "method", "interpreter", "base", "domain"}
    missing = (missing | {"dataset"}) - set(settings)
    if missing:
        raise ValueError(
            f"{folder / 'run.json'}: does not say {', '.join(sorted(missing))}; "
            "was it written by another program?"
        )
    tables = {
        place: {
            path.stem: _read_table(path)
            for path in sorted(
                (folder / name).glob("*.csv"), key=lambda path: _place(path.stem, MASK_ORDER)
            )
        }
        for place, name in TABLES.items()
    }
    tables = {place: table for place, table in tables.items() if table}
    if not tables:
        raise ValueError(f"{folder}: has a run.json and no tables; run the experiment again")
    every = [set(rows.index) for table in tables.values() for rows in table.values()]
    whole = set.intersection(*every)
    if not whole:
        raise ValueError(f"{folder}: no clip is in all of its tables yet; finish the run first")
    first = next(iter(next(iter(tables.values())).values()))
    clips = [clip for clip in first.index if clip in whole]
    method = settings["method"]
    return Run(
        folder,
        model,
        method,
        folder.resolve().name.removeprefix(f"{method}_"),
        settings,
        found.get("report") or {},
        {
            place: {mask: rows.loc[clips] for mask, rows in table.items()}
            for place, table in tables.items()
        },
        _read_diagnostics(folder / "diagnostics.csv"),
        len(set.union(*every) - whole),
    )


def _place(name: str, known: Sequence[str]) -> tuple[int, str]:
    """Return a sorting key: the known names in their order, then others by the alphabet."""
    return (known.index(name) if name in known else len(known)), name


def _read_table(path: Path) -> pd.DataFrame:
    rows = read_table(path)
    missing = {*CLIP_COLUMNS, *METRIC_COLUMNS} - set(rows.columns)
    if missing:
        raise ValueError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
    twice = rows["clip"][rows["clip"].duplicated()].tolist()
    if twice:
        raise ValueError(f"{path}: has clip {twice[0]} twice; was it put together from two runs?")
    if len(rows) and rows["is_correct"].dtype != bool:
        raise ValueError(f"{path}: column is_correct has values other than True and False")
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in METRIC_COLUMNS}
    for name, values in numbers.items():
        if not np.isfinite(values.to_numpy(float)).all():
            raise ValueError(f"{path}: column {name} has values that are no finite numbers")
    classes = {name: rows[name].astype(str) for name in ("target", "predicted")}
    return rows.assign(**numbers, **classes).set_index("clip")


def _read_diagnostics(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path, dtype={"clip": str}, **READ_EXACTLY).set_index("clip")
    return table.apply(pd.to_numeric, errors="coerce").astype(float)
