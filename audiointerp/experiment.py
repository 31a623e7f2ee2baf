"""Whole runs over files and sets: every model × method × condition, from weight files to results.

The command line calls these functions and adds nothing to them.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiointerp.comparison import Comparison
from audiointerp.dataset import AudioError, ClipDataset, Contamination, load_audio, open_dataset
from audiointerp.device import resolve_device
from audiointerp.interpretation import METHODS, Interpreter, select_background
from audiointerp.masking import MASKS, base_level
from audiointerp.metrics import METRICS
from audiointerp.model import TransferModel
from audiointerp.predict import Place, Predict, SetResult
from audiointerp.processing import STFTSpectrogram
from audiointerp.report import write_report
from audiointerp.result import Interpretation
from audiointerp.results import run_path
from audiointerp.sound import SOUND_FORMATS
from audiointerp.tables.paper import accuracy_intervals
from audiointerp.weights import load

CLEAN = "clean"
TRAIN_FOLDS = (1, 2, 3)
TEST_FOLD = 5
SHOWN_MASKS = ("topK_5", "topK_30")
"""The masks that `interpret_files` draws and makes audible unless told otherwise."""
CLIPS_PER_BATCH = 8
"""Clips that `interpret_files` interprets together; results do not depend on it."""


def build_interpreter(
    method: str,
    model: nn.Module,
    processor: STFTSpectrogram,
    *,
    background: Tensor | None = None,
    base: str = "floor",
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Interpreter:
    """Make an attribution method, giving its constructor what it asks for by name.

    Parameters
    ----------
    method : str
        A name in ``METHODS``.
    model : Module
    processor : STFTSpectrogram
    background : Tensor, shape (clips, 1, bins, frames), optional
        Features of clips that methods with a background compare with.
    base : {"floor", "minimum", "quiet"}
        What methods that hide parts of a clip put there: give what the masks will.
    seed : int
        For methods that draw at random.
    progress : bool
        For methods that take long: show a bar over one call's work.
    **options
        Further arguments of the method's constructor.

    Returns
    -------
    Interpreter

    Raises
    ------
    UnknownNameError
        If there is no such method.
    ValueError
        If it needs a background and none is given.
    """
    interpreter = METHODS[method]
    offered = {
        "background": background,
        "base": partial(base_level, kind=base, floor=processor.floor),
        "seed": seed,
        "progress": progress,
    }
    wanted = inspect.signature(interpreter).parameters
    if "background" in wanted and background is None:
        raise ValueError(f"{method} compares with background clips: give their features")
    return interpreter(
        model, **{name: value for name, value in offered.items() if name in wanted}, **options
    )


def open_set(
    data: str | os.PathLike[str], model: nn.Module, processor: STFTSpectrogram, **options: Any
) -> ClipDataset:
    """Open a set as a model takes it: at its front end's rate and cut to its duration.

    Parameters
    ----------
    data : "synthetic" or path
        The set.
    model, processor
        As `audiointerp.load` returns them. A model that names no duration takes 5 s.
    **options
        See `audiointerp.dataset.open_dataset`: subset, folds, clips, contamination, cache_dir.

    Returns
    -------
    ClipDataset
    """
    duration = getattr(model, "duration", None) or 5.0
    return open_dataset(data, sample_rate=processor.sample_rate, duration=duration, **options)


def background_features(
    dataset: ClipDataset, processor: STFTSpectrogram, *, per_class: int = 2, seed: int = 0
) -> Tensor:
    """Return the features of some clips of every class, as SHAP's background.

    Parameters
    ----------
    dataset : ClipDataset
        Of the folds that the model was trained on.
    processor : STFTSpectrogram
    per_class : int
        Clips of each class.
    seed : int
        Chooses them.

    Returns
    -------
    Tensor, shape (per_class·classes, 1, bins, frames)
        On the processor's device.
    """
    chosen = select_background(dataset.labels, per_class=per_class, seed=seed)
    waveforms = torch.stack([dataset[int(index)].waveform for index in chosen])
    with torch.no_grad():
        return processor(waveforms.to(processor.window.device))


@dataclass(frozen=True)
class FilesResult:
    """What `interpret_files` did.

    Attributes
    ----------
    folder : Path
        Holds ``<model>/<method>/<clip>/`` folders and ``summary.csv``.
    table : DataFrame
        One row per model, method, clip and mask, with the seven metrics.
    failures : dict of str to str
        Files that could not be interpreted, and why.
    report : Path or None
        The page to look at and listen to, where one was asked for.
    """

    folder: Path
    table: pd.DataFrame
    failures: dict[str, str] = field(default_factory=dict)
    report: Path | None = None


def interpret_files(
    files: Sequence[str | os.PathLike[str]],
    weights: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    methods: Iterable[str] | None = None,
    masks: Sequence[str] | None = SHOWN_MASKS,
    sound: str = "wav",
    target: str | None = None,
    background: str | os.PathLike[str] = "synthetic",
    base: str = "floor",
    on: Place | Sequence[Place] = "features",
    seed: int = 0,
    device: str = "auto",
    report: bool = False,
    progress: bool = True,
) -> FilesResult:
    """Interpret sound files with every model and method; write pictures, sounds and tables.

    Parameters
    ----------
    files : sequence of path
        WAV, OGG or FLAC. One that cannot be read is reported and skipped.
    weights : sequence of path
        Weight files; see `audiointerp.weights`.
    out : path
        Folder for the results, ``<out>/<model>/<method>/<clip>/``.
    methods : iterable of str, optional
        Names in ``METHODS``; all by default.
    masks : sequence of str, optional
        Masks to draw and to make audible, None for all; the tables always have all fourteen.
    sound : {"wav", "flac", "mp3"}
        What masked sounds are written as; see `audiointerp.result.Interpretation.save`.
    target : str, optional
        Class to explain; the predicted one by default.
    background : "synthetic" or path
        Set whose training folds SHAP compares with.
    base : {"floor", "minimum", "quiet"}
        What a removed cell becomes.
    on : {"features", "audio"} or both
        What the metrics are measured on.
    seed : int
        For methods that draw at random.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    report : bool
        Also write ``<out>/report.html``, a page of these results; see `audiointerp.report`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FilesResult

    Raises
    ------
    ValueError
        If a method, mask, class, format or weight file is unusable, or two files have one name;
        before anything is written.
    """
    names = _names(files)
    methods = list(METHODS if methods is None else methods)
    _check_names(methods, masks or ())
    models = _load_all(weights, resolve_device(device))
    for _, processor in models.values():
        SOUND_FORMATS[sound].check_rate(processor.sample_rate)
    failures: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    written: list[Path] = []
    total = len(models) * len(methods) * len(names)
    with tqdm(total=total, unit="clip", disable=not progress) as bar:
        for model_name, (model, processor) in models.items():
            clips = _read_clips(names, processor, model.duration, failures)
            bar.total -= len(methods) * (len(names) - len(clips))
            compared = _background_of(background, methods, model, processor, seed=seed)
            for method in methods:
                bar.set_description(f"{model_name} {method}")
                interpreter = build_interpreter(
                    method,
                    model,
                    processor,
                    background=compared,
                    base=base,
                    seed=seed,
                    progress=progress,
                )
                predict = Predict(model, processor, interpreter, base=base, on=on)
                for batch in _batches(clips):
                    waveforms = torch.stack(list(batch.values()))
                    for result in predict.predict_batch(waveforms, list(batch), target=target):
                        folder = Path(out) / model_name / method / result.clip
                        result.save(folder, masks, sound=sound)
                        written.append(folder)
                        rows += _rows(model_name, result)
                        bar.update()
    columns = ["model", "method", "clip", "label", "probability", "mask", *METRICS]
    table = pd.DataFrame(rows, columns=columns)
    if rows:
        table.to_csv(Path(out) / "summary.csv", index=False)
    page = write_report(out, results=written) if report and written else None
    return FilesResult(Path(out), table, failures, page)


def compare_methods(
    file: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    *,
    methods: Iterable[str] | None = None,
    masks: Sequence[str] | None = None,
    target: str | None = None,
    background: str | os.PathLike[str] = "synthetic",
    subset: str | None = None,
    base: str = "floor",
    on: Place | Sequence[Place] = "features",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Comparison:
    """Interpret one sound file with several methods, to be looked at side by side.

    Parameters
    ----------
    file : path
        WAV, OGG or FLAC.
    weights : path
        Weight file of the model; see `audiointerp.weights`.
    methods : iterable of str, optional
        Names in ``METHODS``; all by default.
    masks : sequence of str, optional
        Masks to make; all by default.
    target : str, optional
        Class to explain; the predicted one by default.
    background, subset
        Set, and part of it, whose training folds SHAP compares with.
    base, on, seed, device, progress
        See `interpret_files`.

    Returns
    -------
    Comparison
        The paper's figure, players and tables; writes nothing.

    Raises
    ------
    ValueError
        If a name, file or setting is unusable.
    """
    methods = list(METHODS if methods is None else methods)
    _check_names(methods, masks or ())
    ((_, (model, processor)),) = _load_all([weights], resolve_device(device)).items()
    waveform = load_audio(file, processor.sample_rate, model.duration)[0]
    compared = _background_of(background, methods, model, processor, subset=subset, seed=seed)
    results = {}
    for method in methods:
        interpreter = build_interpreter(
            method, model, processor, background=compared, base=base, seed=seed, progress=progress
        )
        predict = Predict(model, processor, interpreter, masks=masks, base=base, on=on)
        (results[method],) = predict.predict_batch(waveform[None], [Path(file).stem], target=target)
    return Comparison(results)


def run_experiment(
    weights: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    *,
    subset: str | None = None,
    fold: int = TEST_FOLD,
    clips: int | None = None,
    train_folds: Sequence[int] = TRAIN_FOLDS,
    methods: Iterable[str] | None = None,
    noises: Mapping[str, str | os.PathLike[str]] | None = None,
    clean: bool = True,
    alpha: float | None = None,
    snr_db: float | None = None,
    masks: Sequence[str] | None = None,
    base: str = "floor",
    on: Place | Sequence[Place] = "features",
    precision: str = "float32",
    results: str | os.PathLike[str] = "results",
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[Path, SetResult]:
    """Interpret a test fold with every model and method, clean and under every noise.

    What `results` already holds is not done again: a stopped run goes on where it was, and one of
    some clips goes on when more of them are asked for.

    Parameters
    ----------
    weights : sequence of path
        Weight files; the name of each names its results.
    data : "synthetic" or path
        The set; see `audiointerp.dataset.open_dataset`.
    subset : {"esc10"}, optional
        Of a folder's clips.
    fold : int
        The fold to interpret.
    clips : int, optional
        Interpret at most this many of its clips, the same number of every class; all by default.
    train_folds : sequence of int
        Folds that SHAP's background is drawn from, two clips of each class.
    methods : iterable of str, optional
        Names in ``METHODS``; all by default.
    noises : mapping of str to path, optional
        Noise file of each noisy condition, by the experiment's name.
    clean : bool
        Also interpret the clips as they are.
    alpha, snr_db : float, optional
        Level of the clips over the noise; see `audiointerp.dataset.Contamination`.
    masks : sequence of str, optional
        Masks to score; all by default.
    base, on, precision
        See `audiointerp.predict.Predict`.
    results : path
        Runs are written to ``<results>/<model>/<method>_<experiment>/``.
    cache_dir : path, optional
        Where to keep decoded clips; None keeps them in memory.
    seed : int
        For methods that draw at random.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    overwrite : bool
        Do runs again that are already there.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict of Path to SetResult
        Every run's, by its folder.

    Raises
    ------
    ValueError
        If a name, file or setting is unusable; before anything is written.
    """
    methods = list(METHODS if methods is None else methods)
    _check_names(methods, masks or ())
    conditions: dict[str, Contamination | None] = {CLEAN: None} if clean else {}
    for name, file in (noises or {}).items():
        conditions[name] = Contamination(file, alpha, snr_db=snr_db)
    if not conditions:
        raise ValueError("nothing to do: neither the clean clips nor a noise was asked for")
    models = _load_all(weights, resolve_device(device))
    done: dict[Path, SetResult] = {}
    for model_name, (model, processor) in models.items():
        source = {"subset": subset, "cache_dir": cache_dir}
        open_fold = partial(open_set, data, model, processor, **source)
        sets = {
            name: open_fold(folds=fold, clips=clips, contamination=noise)
            for name, noise in conditions.items()
        }
        compared = _background_of(
            data, methods, model, processor, folds=train_folds, seed=seed, **source
        )
        for method in methods:
            interpreter = build_interpreter(
                method,
                model,
                processor,
                background=compared,
                base=base,
                seed=seed,
                progress=progress,
            )
            predict = Predict(
                model, processor, interpreter, masks=masks, base=base, on=on, precision=precision
            )
            for name, dataset in sets.items():
                folder = run_path(results, model_name, method, name)
                done[folder] = predict.predict_set(
                    dataset, folder, overwrite=overwrite, progress=progress
                )
    return done


def list_runs(done: Mapping[Path, SetResult]) -> pd.DataFrame:
    """Return one row per run: its folder, how many clips it has and what was done this time.

    Parameters
    ----------
    done : mapping of Path to SetResult
        As `run_experiment` returns it.

    Returns
    -------
    DataFrame
        Indexed by folder: ``clips`` that were asked for and have results, those of them that were
        ``interpreted now`` and that were ``already there``, those that ``failed``, and the model's
        ``accuracy``, percent.
    """
    rows = {}
    for folder, result in done.items():
        clips = len(next(iter(result.tables.values())))
        rows[folder.as_posix()] = {
            "clips": clips,
            "interpreted now": result.interpreted,
            "already there": clips - result.interpreted,
            "failed": len(result.failures),
            "accuracy": 100 * result.accuracy,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("folder")


def mean_metrics(
    done: Mapping[Path, SetResult], masks: Sequence[str] = SHOWN_MASKS, *, on: Place = "features"
) -> pd.DataFrame:
    """Return the mean of every metric over the clips, for some masks of every run.

    Parameters
    ----------
    done : mapping of Path to SetResult
        As `run_experiment` returns it.
    masks : sequence of str
        Which masks to show.
    on : {"features", "audio"}
        What the metrics were measured on.

    Returns
    -------
    DataFrame
        Indexed by mask, model, experiment and method: the methods that compete lie together.

    Raises
    ------
    ValueError
        If a mask was not scored, or not on what is asked for.
    """
    rows = {}
    for mask in masks:
        for folder, result in done.items():
            means = result.mean_metrics(on)
            if mask not in means.index:
                raise ValueError(
                    f"{folder}: mask {mask!r} was not scored on {on}: "
                    f"choose from {', '.join(means.index) or 'nothing, it was not measured'}"
                )
            method, experiment = folder.name.split("_", 1)
            rows[mask, folder.parent.name, experiment, method] = means.loc[mask]
    names = ["mask", "model", "experiment", "method"]
    return pd.DataFrame(rows).T.rename_axis(names)


def measure_accuracy(
    model: TransferModel,
    processor: STFTSpectrogram,
    sets: Mapping[str, ClipDataset],
    *,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Return a model's accuracy on some sets, each with its 95 % bootstrap interval over clips.

    Parameters
    ----------
    model, processor
        A classifier and its front end.
    sets : mapping of str to ClipDataset
        By the experiment's name, such as "clean" and "horse".
    seed : int
        Of the bootstrap.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        Indexed by experiment: ``clips`` and, in percent, ``accuracy``, ``accuracy_low`` and
        ``accuracy_high``.

    Raises
    ------
    ValueError
        If a set does not fit the model.
    """
    from audiointerp.fit import predict_labels  # here, as Lightning takes seconds to import

    labels = [
        predict_labels(model, processor, dataset, progress=progress).assign(
            model="", experiment=experiment
        )
        for experiment, dataset in sets.items()
    ]
    table = accuracy_intervals(pd.concat(labels), seed=seed)
    return table.drop(columns="model").set_index("experiment")


def parse_noise(text: str) -> tuple[str, str]:
    """Split ``NAME=FILE`` or ``FILE`` into an experiment's name and its noise file.

    Raises
    ------
    ValueError
        If the name could not be part of a folder's.
    """
    name, _, file = text.partition("=") if "=" in text else (Path(text).stem, "", text)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not file:
        raise ValueError(f"noise {text!r}: expected FILE, or NAME=FILE with a plain name")
    return name, file


def _read_clips(
    files: Mapping[str, Path],
    processor: STFTSpectrogram,
    duration: float | None,
    failures: dict[str, str],
) -> dict[str, Tensor]:
    """Return the waveforms of files, (1, samples) each; note those that cannot be read, once."""
    clips = {}
    for name, file in files.items():
        if name in failures:
            continue
        try:
            clips[name] = load_audio(file, processor.sample_rate, duration)[0]
        except AudioError as error:
            failures[name] = str(error)
            tqdm.write(f"skipped: {error}")
    return clips


def _batches(clips: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield clips of one length together, a few at a time."""
    by_length: dict[int, list[str]] = {}
    for name, waveform in clips.items():
        by_length.setdefault(waveform.shape[-1], []).append(name)
    for names in by_length.values():
        for start in range(0, len(names), CLIPS_PER_BATCH):
            yield {name: clips[name] for name in names[start : start + CLIPS_PER_BATCH]}


def _rows(model: str, result: Interpretation) -> list[dict[str, Any]]:
    about = {"model": model, "method": result.method, "clip": result.clip}
    about |= {"label": result.label, "probability": result.probability}
    return [
        about | {"mask": mask} | values for mask, values in result.metrics.to_dict("index").items()
    ]


def _background_of(
    data: str | os.PathLike[str],
    methods: Iterable[str],
    model: nn.Module,
    processor: STFTSpectrogram,
    *,
    folds: Sequence[int] = TRAIN_FOLDS,
    seed: int,
    **source: Any,
) -> Tensor | None:
    """Return the background of the methods that need one, None where none does."""
    needed = [
        name for name in methods if "background" in inspect.signature(METHODS[name]).parameters
    ]
    if not needed:
        return None
    dataset = open_set(data, model, processor, folds=folds, **source)
    return background_features(dataset, processor, seed=seed)


def _load_all(
    weights: Sequence[str | os.PathLike[str]], device: torch.device
) -> dict[str, tuple[nn.Module, STFTSpectrogram]]:
    if not weights:
        raise ValueError("no weight file given; those that are shipped lie in weights/")
    return {name: load(path, device=device) for name, path in _names(weights).items()}


def _names(files: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the files by their names without ending, which must differ."""
    paths = [Path(file) for file in files]
    names = {path.stem: path for path in paths}
    if len(names) < len(paths):
        twice = sorted({path.stem for path in paths if names[path.stem] != path})
        raise ValueError(
            f"two files are called {', '.join(twice)}: results are filed by name, rename one"
        )
    return names


def _check_names(methods: Iterable[str], masks: Iterable[str]) -> None:
    for method in methods:
        METHODS[method]
    for mask in masks:
        MASKS[mask]
