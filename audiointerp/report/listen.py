"""Selected clips of runs to see and hear, recreated from the set and the saved maps.

A run keeps numbers and attribution maps. Its settings say which clips it was of; with the set at
hand, every sound that was scored can be made again, by the same gains. What can be checked is:
clips and classes against the set, the noise against its fingerprint, every map against the SPS and
COMP of the masks it makes, and with the model, what it says of the sounds against the tables.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiointerp.dataset import ClipDataset, Contamination, open_dataset
from audiointerp.dataset.channels import MID
from audiointerp.dataset.choose import made_by_package
from audiointerp.interpretation import SaliencyInterpreter
from audiointerp.masking import MASKS, apply_mask, base_level, make_masks
from audiointerp.metrics import METRICS, complexity, sparseness
from audiointerp.model.weights import load, model_hash
from audiointerp.predict import Predict
from audiointerp.processing import View
from audiointerp.reading import advising, without_stray
from audiointerp.registry import check_different
from audiointerp.report.media import (
    Form,
    about_slowed,
    choose_form,
    draw_mask,
    draw_waveform,
    embed_sound,
)
from audiointerp.report.runs import Run, group_runs
from audiointerp.runs.clip import Scores
from audiointerp.runs.store import read_map
from audiointerp.sound import SOUND_FORMATS

CLIPS = 6
"""How many clips are to be heard unless told otherwise, half of them the best."""
BY = "FF"
"""What they are the best by."""
HEARD_MASKS = ("topK_5", "topK_30")
"""Masks that are made audible unless told otherwise, of those that the runs have."""

_SAME_MASK = 1e-3
"""SPS and COMP of a mask made again differ by rounding only."""
_SAME_PROBABILITY = {"bfloat16": 0.05}
_SAME_IN_SINGLE = 0.01
"""Another machine moves probabilities by less; so does a run's reduced precision."""


@dataclass(frozen=True)
class Listening:
    """What of the runs is to be heard; see `audiointerp.report.write_report`."""

    data: str | Path | None = None
    weights: Sequence[str | Path] = ()
    noises: Sequence[str | Path] = ()
    masks: Sequence[str] | None = None
    clips: int | Sequence[str] = CLIPS
    by: str = BY


def listen(runs: list[Run], options: Listening, sound: Form) -> dict[str, Any]:
    """Return the part of a page of runs that is looked at and listened to.

    Parameters
    ----------
    runs : list of Run
    options : Listening
    sound : {"auto", "wav", "mp3"}

    Returns
    -------
    dict
        ``scenes``, for every chosen clip of every group of runs; ``silent``, for every run why it
        has none, "" where it has; ``mask``, the one to show first; ``about``, which clips these
        are, and ``footer``.

    Raises
    ------
    ValueError
        If an option is given twice or fits no run, or set, noise, map or model is not the one that
        the runs were made with.
    """
    for kind, given in (
        ("weight file", options.weights),
        ("noise", options.noises),
        ("mask", options.masks or ()),
        ("clip", () if isinstance(options.clips, int) else options.clips),
    ):
        check_different(kind, map(str, given))
    models = _load_models(runs, options.weights)
    noises = _read_noises(runs, options.noises)
    silent = [_why_silent(run, options.data, noises) for run in runs]
    heard = [run for run, why in zip(runs, silent, strict=True) if not why]
    masks = _choose_masks(heard or runs, options.masks)
    if options.data is None:
        if models or noises:
            raise ValueError("weights and noises are of use with the set only: name it (--data)")
        return {
            "scenes": [],
            "silent": silent,
            "mask": next(iter(masks), ""),
            "about": "",
            "footer": "Made by audiointerp.",
        }
    if not heard:
        raise ValueError(silent[0])
    if not masks:
        raise ValueError("these runs have no mask in common: listen to one of them")
    chosen = _choose_clips(heard, options.clips, masks[0], options.by)
    groups = group_runs(heard)
    counts = [len(_of_group(group, chosen)) * (1 + 2 * len(masks) * len(group)) for group in groups]
    form = choose_form(
        sound, (n for group, n in zip(groups, counts, strict=True) for n in [group[0].samples] * n)
    )
    sets: dict[str, ClipDataset] = {}
    everything = group_runs(runs)
    scenes = []
    datasets = [_open(group[0], options.data, noises, sets) for group in groups]
    for group, dataset in zip(groups, datasets, strict=True):
        model = models.get(group[0].settings["model_hash"])
        place = next(n for n, others in enumerate(everything) if group[0] in others)
        clips = _of_group(group, chosen)
        for clip, why in tqdm(clips.items(), "page", unit="clip", disable=None):
            waveform = dataset[dataset.index(clip)].waveform
            scene = _scene(group, clip, waveform, masks, model, form)
            scenes.append(scene | {"group": place, "why": why})
    return {
        "scenes": scenes,
        "silent": silent,
        "mask": masks[0],
        "about": _about(chosen, masks, options),
        "footer": _footer(form, models) + about_slowed(run.processor.sample_rate for run in heard),
    }


def _why_silent(run: Run, data: object, noises: Mapping[str, Path]) -> str:
    """Return why nothing of a run can be heard, "" if it can."""
    if run.explained is not None:
        return (
            f"{run.folder.name} explains chosen classes of a clip, one or more: sounds and "
            "pictures are made of runs that explain the predicted one. `audiointerp interpret` "
            "makes them of a file"
        )
    noise = run.dataset["contamination"]
    needs = f" --noise {noise['noise_file']}" if noise else ""
    command = f"audiointerp report RUN --data FOLDER{needs} --weights FILE"
    if not _maps(run):
        return (
            f"{run.folder.name} has no attribution maps (attributions/), which sounds and pictures "
            "are made from: they stay where the run was made. There, or after running the "
            f"experiment again: {command}"
        )
    if data is None:
        return (
            "This page was made without the clips. To look at some and listen to them, name the "
            "set that the run was made with, a folder or synthetic; and for class probabilities "
            f"the weights: {command}"
        )
    if noise and noise["noise_sha256"] not in noises:
        return (
            f"{run.folder.name} has the background noise {noise['noise_file']} (SHA-256 "
            f"{noise['noise_sha256'][:12]}…). To hear the clips as they were, give that file: "
            f"{command}"
        )
    return ""


def _load_models(runs: list[Run], weights: Iterable[str | Path]) -> dict[str, nn.Module]:
    """Return the models of weight files by their fingerprints, which runs must have."""
    models: dict[str, nn.Module] = {}
    wanted = {run.settings["model_hash"]: run for run in runs}
    for path in weights:
        model, processor = load(path)
        found = model_hash(model)
        if found not in wanted:
            raise ValueError(
                f"{path}: weights {found}, of another model than these runs: they are of "
                f"{', '.join(wanted)}"
            )
        if processor.settings() != wanted[found].processor.settings():
            raise ValueError(f"{path}: has another front end than {wanted[found].folder}")
        models[found] = model
    return models


def _read_noises(runs: list[Run], files: Iterable[str | Path]) -> dict[str, Path]:
    """Return noise files by their fingerprints, which runs must have."""
    used = [run.dataset["contamination"] for run in runs]
    wanted = {noise["noise_sha256"]: noise["noise_file"] for noise in used if noise}
    noises = {}
    for path in files:
        found = Contamination(path).settings()["noise_sha256"]
        if found not in wanted:
            named = ", ".join(f"{name} ({sha[:12]}…)" for sha, name in wanted.items()) or "none"
            raise ValueError(
                f"{path}: SHA-256 {found[:12]}…, not the noise of any of these runs: {named}"
            )
        noises[found] = Path(path)
    return noises


def _choose_masks(runs: list[Run], wanted: Sequence[str] | None) -> list[str]:
    """Return the masks to hear, which every run must have."""
    common = [mask for mask in runs[0].masks if all(mask in run.masks for run in runs)]
    if wanted is None:
        return [mask for mask in HEARD_MASKS if mask in common] or common[:1]
    for mask in wanted:
        MASKS[mask]
        if mask not in common:
            raise ValueError(f"mask {mask!r} is not in every run: choose from {', '.join(common)}")
    if not wanted:
        raise ValueError(f"no mask given: choose from {', '.join(common)}")
    return list(wanted)


def _choose_clips(
    runs: list[Run], wanted: int | Sequence[str], mask: str, by: str
) -> dict[str, str]:
    """Return the clips to hear and why each was chosen.

    The same for all runs, so that methods and noises can be compared: those with the highest and
    the lowest mean over the runs. A clip without a map in one of the runs cannot be chosen.
    """
    if by not in runs[0].metrics:
        raise ValueError(f"these runs have no {by}: choose from {', '.join(runs[0].metrics)}")
    values = pd.concat([next(iter(run.tables.values()))[mask][by] for run in runs])
    for run in runs:
        values = values.drop(set(run.rows.index) - _maps(run), errors="ignore")
    means = values.groupby(level=0, sort=False).mean()
    if not isinstance(wanted, int):
        for clip in wanted:
            if clip not in means.index:
                close = difflib.get_close_matches(clip, means.index, n=3)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise ValueError(f"clip {clip!r}: these runs have no map of it{hint}")
        return dict.fromkeys(wanted, "chosen")
    if wanted < 1:
        raise ValueError(f"{wanted} clips to listen to: expected 1 or more")
    if means.empty:
        raise ValueError(f"{runs[0].folder}: no clip has a map in every run; listen to one run")
    means = means.dropna()
    if means.empty:
        raise ValueError(f"no clip has a {by} to be the best by; choose another metric")
    ranked = means.sort_values(ascending=not METRICS[by].better > 0, kind="stable").index
    half = -(-min(wanted, len(ranked)) // 2)
    worst = min(wanted, len(ranked)) - half
    return dict.fromkeys(ranked[:half], f"best by {by}") | dict.fromkeys(
        ranked[len(ranked) - worst :][::-1], f"worst by {by}"
    )


def _of_group(group: list[Run], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the chosen clips that a group's runs have."""
    clips = set.intersection(*(set(run.rows.index) for run in group))
    return {clip: why for clip, why in chosen.items() if clip in clips}


def _open(
    run: Run, data: str | Path, noises: Mapping[str, Path], opened: dict[str, ClipDataset]
) -> ClipDataset:
    """Return the set that a run was made with, opened once."""
    about = run.dataset
    key = json.dumps({name: value for name, value in about.items() if name != "clips"})
    if key not in opened:
        noise = about["contamination"]
        options = {name: about[name] for name in ("folds", "sample_rate", "duration", "normalize")}
        if made_by_package(data) and "seed" in about:
            options["seed"] = about["seed"]
        if noise:
            file = noises[noise["noise_sha256"]]
            channel = noise.get("channel", MID)
            options["contamination"] = Contamination(file, noise["alpha"], channel=channel)
        opened[key] = open_dataset(data, **options)
    dataset = opened[key]
    channel, wanted = (each.get("channel", MID) for each in (dataset.settings(), about))
    if channel != wanted:
        raise ValueError(
            f"{data}: would be read with channel={channel}, {run.folder} was made with "
            f"channel={wanted}: name the set as {str(data).partition('?')[0]}?channel={wanted}"
        )
    if dataset.settings().get("shortcut") != about.get("shortcut"):
        raise ValueError(
            f"{data}: has the shortcut {dataset.settings().get('shortcut')}, {run.folder} was made "
            f"with {about.get('shortcut')}: name the same kind, class, share and level"
        )
    there = {
        clip: "|".join(dataset.classes[label] for label in labels)
        for clip, labels in zip(dataset.clip_ids, dataset.label_sets, strict=True)
    }
    for clip, target in run.rows["target"].items():
        if there.get(clip) != target:
            what = f"has clip {clip} as {there[clip]}" if clip in there else f"has no clip {clip}"
            raise ValueError(
                f"{data}: {what}, which {run.folder} has as {target}; name the set that the run "
                f"was made with, {about['name']}"
            )
    return dataset


def _scene(
    group: list[Run],
    clip: str,
    waveform: Tensor,
    masks: list[str],
    model: nn.Module | None,
    form: str,
) -> dict[str, Any]:
    """Return one clip as the viewer shows it, under every method of a group of runs."""
    first = group[0]
    with torch.no_grad():
        view = first.processor.analyse(waveform[None])
    methods, probabilities = {}, None
    for run in group:
        attribution = _load_map(run, clip)
        made = make_masks(attribution, run.masks)
        _check_masks(run, clip, made)
        methods[run.method] = _method(run, clip, view, made, masks, form)
        if model is not None:
            scores = _score(run, clip, model, waveform, attribution, masks)
            probabilities = scores.probabilities[0].tolist()
            methods[run.method]["tables"] = _chances(scores)
    row = first.rows.loc[clip]
    return draw_waveform(waveform[0].numpy(), first.processor) | {
        "clip": clip,
        "sound": embed_sound(waveform[0].numpy(), first.processor.sample_rate, form),
        "label": row["predicted"],
        "truth": row["target"],
        "classes": list(getattr(model, "classes", None) or ()),
        "probabilities": probabilities,
        "methods": methods,
    }


def _method(
    run: Run,
    clip: str,
    view: View,
    made: Mapping[str, Tensor],
    heard: list[str],
    form: str,
) -> dict[str, Any]:
    rate = run.processor.sample_rate
    return {
        "explained": run.rows.loc[clip, "predicted"],
        "masks": {name: draw_mask(mask[0, 0].numpy()) for name, mask in made.items()},
        "kept": {name: float(mask.double().mean()) for name, mask in made.items()},
        "sounds": {
            name: {
                part: embed_sound(waveform[0, 0].numpy(), rate, form)
                for part, waveform in masked_sounds(run, view, made[name]).items()
            }
            for name in heard
        },
        "tables": {},
    }


def masked_sounds(run: Run, view: View, mask: Tensor) -> dict[str, Tensor]:
    """Return what a mask keeps of a clip and what it leaves, "in" and "out": what was scored.

    Parameters
    ----------
    run : Run
    view : View
        Of one clip.
    mask : Tensor, shape (1, 1, bins, frames)

    Returns
    -------
    dict of str to Tensor, shape (1, 1, samples)
    """
    processor, features = run.processor, view.cells
    level = base_level(features, run.settings["base"], floor=processor.floor)
    masked = apply_mask(features, mask, level, domain=run.settings["domain"])
    return {
        part: processor.synthesise(view, cells)
        for part, cells in zip(("in", "out"), masked, strict=True)
    }


def _maps(run: Run) -> set[str]:
    """Return the names of the maps that a run has."""
    files = (run.folder / "attributions").glob("*.npy")
    return {path.stem for path in without_stray(files, run.folder)}


def _load_map(run: Run, clip: str) -> Tensor:
    path = run.folder / "attributions" / f"{clip}.npy"
    with advising("run the experiment again"):
        return torch.from_numpy(read_map(path, run.shape))[None, None]


def _check_masks(run: Run, clip: str, masks: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if the masks are not those that the tables are of."""
    for table in run.tables.values():
        for name, rows in table.items():
            for metric, function in (("SPS", sparseness), ("COMP", complexity)):
                if metric not in rows:
                    continue
                found, written = float(function(masks[name])), rows.loc[clip, metric]
                if abs(found - written) > _SAME_MASK:
                    raise ValueError(
                        f"{run.folder}: the map of {clip} gives the mask {name} a {metric} of "
                        f"{found:.4f}, its table says {written:.4f}: map and table are not of one "
                        "run; run the experiment again"
                    )


def _score(
    run: Run, clip: str, model: nn.Module, waveform: Tensor, attribution: Tensor, masks: list[str]
) -> Scores:
    """Return what the model says of the masked clip, which must be what the tables say."""
    predict = Predict(
        model,
        run.processor,
        SaliencyInterpreter(model),  # not asked: the map is there
        masks=masks,
        base=run.settings["base"],
        domain=run.settings["domain"],
        on=list(run.tables),
    )
    scores = predict.interpret(waveform[None], attribution=attribution)
    said = predict.classifier.classes[int(scores.target[0])]
    if said != run.rows.loc[clip, "predicted"]:
        raise ValueError(
            f"{run.folder}: the model hears {clip} as {said}, the run as "
            f"{run.rows.loc[clip, 'predicted']}: is the set the one that the run was made with?"
        )
    same = _SAME_PROBABILITY.get(run.settings.get("precision"), _SAME_IN_SINGLE)
    for (place, mask), metrics in scores.metrics.items():
        if "FF" not in run.metrics:
            continue
        found, written = float(metrics["FF"][0]), run.tables[place][mask].loc[clip, "FF"]
        if abs(found - written) > same:
            raise ValueError(
                f"{run.folder}: {clip} under {mask} has an FF of {found:.3f} and not the "
                f"{written:.3f} of its table: is the set the one that the run was made with?"
            )
    return scores


def _chances(scores: Scores) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return the class probabilities after masking, by place, mask and part."""
    tables: dict[str, dict[str, dict[str, list[float]]]] = {}
    for (place, mask), parts in scores.masked_probabilities.items():
        tables.setdefault(place, {})[mask] = {
            part: values[0].tolist() for part, values in zip(("in", "out"), parts, strict=True)
        }
    return tables


def _about(chosen: Mapping[str, str], masks: list[str], options: Listening) -> str:
    if "chosen" in chosen.values():
        which = f"{len(chosen)} chosen clips"
    else:
        best = sum(why.startswith("best") for why in chosen.values())
        worst = len(chosen) - best
        which = (
            f"The {best} best and the {worst} worst clips by {options.by} under {masks[0]}"
            if worst
            else f"The best clip by {options.by} under {masks[0]}"
        )
    return f"{which}; sounds of {', '.join(masks)}."


def _footer(form: str, models: Mapping[str, nn.Module]) -> str:
    exact = "" if form == "wav" else "; --sound wav keeps every sample"
    checked = "and checked with the model" if models else "and not checked with the model"
    return (
        f"Made by audiointerp. Sounds in this page were made again from the clips and the saved "
        f"maps {checked}; they are {SOUND_FORMATS[form].about}{exact}."
    )
