"""Damaged results: values that are finite and in bounds, or an error that names the file."""

from __future__ import annotations

import json
import random
import shutil
import traceback
import warnings

import numpy as np
import pytest
import soundfile
import torch
from mutants import mutants
from pages import read_data
from torch import nn

import audiointerp as ai
from audiointerp.dataset import FolderDataset
from audiointerp.metrics import METRICS
from audiointerp.plots import Picture
from audiointerp.report import write_report
from audiointerp.runs.store import RunFolder, read_run
from audiointerp.tables import load_results

RATE, SECONDS, CLASSES = 8000, 0.25, ("low", "high")
COUNT = 20
"""Damaged copies of each kind of file."""
MASKS = ("bin", "topK_30")


class Bands(nn.Module):
    """Score the lower and the upper half of the bins by their level."""

    def forward(self, cells):
        low, high = (half.mean((1, 2, 3)) for half in cells.chunk(2, 2))
        return torch.stack([low, high], 1) / 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a set, runs/, a saved clip/ and a saved recording/."""
    root = tmp_path_factory.mktemp("made")
    noise = np.random.default_rng(0).standard_normal(RATE)
    for number, name in enumerate(CLASSES):
        (root / "set" / name).mkdir(parents=True)
        for take in range(3):
            wave = 0.1 * np.convolve(noise, [1, 1 - 2 * number], mode="same")[: RATE // 4]
            soundfile.write(root / "set" / name / f"{take}.wav", wave * (1 + take) / 3, RATE)
    soundfile.write(root / "night.wav", 0.1 * noise, RATE)
    front_end = ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=64, hop_length=32)
    classifier = ai.classifier(
        Bands(), front_end=front_end, classes=CLASSES, duration=SECONDS, normalize=True
    )
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=MASKS)
    data = FolderDataset(root / "set", sample_rate=RATE, duration=SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("result.plot_masks", "result.plot_interpretation", "recording.plot_recording"):
            patch.setattr(f"audiointerp.runs.{name}", lambda *_, **__: Picture(figsize=(1, 1)))
        folder = root / "runs" / "bands" / "saliency_clean"
        predict.predict_set(data, folder, progress=False)
        predict.predict(root / "set" / "low" / "0.wav").save(root / "clip" / "one", ["bin"])
        night = predict.predict(root / "night.wav", windows=2)
        night.save(root / "recording" / "night", ["bin"])
    table = "clip,residual\n" + "".join(f"{clip},0.25\n" for clip in data.clip_ids)
    (folder / "diagnostics.csv").write_text(table, encoding="utf-8")
    return root


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def load_tables(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of runs without all rows or metrics
        table = load_results(root / "runs")
    assert len(table)
    for name in set(METRICS) & set(table):
        values = table[name].dropna()
        assert np.isfinite(values).all()
        low, high = METRICS[name].bounds(2**40)
        slack = 1e-3 * (high - low)
        assert ((values >= low - slack) & (values <= high + slack)).all()


def report(folder, *, data=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        page = write_report(folder, data=data, masks=None if data is None else ["bin"])
    assert read_data(page)


def take_up(root):
    """Ask for the run again, as an experiment that is resumed does."""
    folder = root / "runs" / "bands" / "saliency_clean"
    settings = json.loads((root / "settings.json").read_text(encoding="utf-8"))
    clips = ["low__0.wav", "high__0.wav"]
    metrics = ["FF", "AI", "AD", "AG", "FidIn", "SPS", "COMP"]
    run = RunFolder(folder, settings, clips=clips, masks=MASKS, metrics=metrics)
    for clip in clips:
        kept = run.load_attribution(clip, (33, 63))
        assert kept is None or np.isfinite(kept).all()
    assert run.done <= {f"{name}__{take}.wav" for name in CLASSES for take in range(3)}


RUN = "runs/bands/saliency_clean"
READERS = {
    "tables of run.json": (f"{RUN}/run.json", load_tables),
    "tables of a mask": (f"{RUN}/csvs/bin.csv", load_tables),
    "report of run.json": (f"{RUN}/run.json", lambda root: report(root / "runs")),
    "report of a mask": (f"{RUN}/csvs/bin.csv", lambda root: report(root / "runs")),
    "report of diagnostics": (f"{RUN}/diagnostics.csv", lambda root: report(root / "runs")),
    "report of a map": (
        f"{RUN}/attributions/low__0.wav.npy",
        lambda root: report(root / "runs", data=root / "set"),
    ),
    "run.json": (f"{RUN}/run.json", lambda root: read_run(root / RUN)),
    "a run's map": (f"{RUN}/attributions/low__0.wav.npy", take_up),
    "a run's table": (f"{RUN}/csvs/bin.csv", take_up),
    **{
        f"a clip's {name}": (f"clip/one/{name}", lambda root: report(root / "clip"))
        for name in (
            *("summary.json", "metrics.csv", "probabilities.csv", "attribution.npy"),
            *("original.wav", "bin_in.wav"),
        )
    },
    **{
        f"a recording's {name}": (f"recording/night/{name}", lambda r: report(r / "recording"))
        for name in ("recording.json", "timeline.csv", "probabilities.npy", "overview.npy")
    },
}


VALUES = (
    *(None, True, -1, 0, 3, 10**400, 0.5, 1e308, 1e-320, float("nan"), float("-inf")),
    *("", "x", "1", "../../x", "\ud800", [], {}, ["x"], [[]], {"x": 1}, [None]),
)
"""What fields of a JSON file are replaced by."""
CELLS = ("", "x", "nan", "1e999", "-1", "10", "1_0", "True", "../../x", "9" * 5000, "y" * 200_000)
"""What cells of a CSV file are replaced by."""


def fields(content):
    """Yield every object or list of a JSON file with each of its keys or places."""
    if isinstance(content, (dict, list)):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from fields(content[key])


def changed_json(content, *, count, seed):
    """Yield copies of a JSON file with one field of another value, or without it."""
    draw = random.Random(seed)
    for _ in range(count):
        copy = json.loads(content)
        inside, key = draw.choice(list(fields(copy)))
        if draw.random() < 0.1:
            del inside[key]
        else:
            inside[key] = draw.choice(VALUES)
        yield json.dumps(copy).encode()


def changed_csv(content, *, count, seed):
    """Yield copies of a CSV file with one cell of another value, or a line or column twice."""
    draw = random.Random(seed)
    for _ in range(count):
        lines = [line.split(",") for line in content.decode().splitlines()]
        line = draw.choice(lines)
        if draw.random() < 0.9:
            line[draw.randrange(len(line))] = draw.choice(CELLS)
        else:
            lines.insert(draw.randrange(len(lines)), line)
        yield "\n".join(",".join(line) for line in [*lines, ""]).encode()


def failures(root, file, read, damaged):
    """Return what is wrong with how damaged copies of a file are read."""
    wrong = []
    for content in damaged:
        file.write_bytes(content)
        try:
            read(root)
        except ValueError as error:
            if str(root) not in str(error) or len(str(error)) > 3000:
                wrong.append(f"unclear: {error!r}")
        except Exception as error:
            wrong.append("".join(traceback.format_exception(error)[-3:]))
    return wrong


@pytest.mark.filterwarnings("ignore:.*of the saved maps are damaged:UserWarning")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_result_gives_values_in_bounds_or_an_error_that_names_it(
    name, copy, limited_memory
):
    path, read = READERS[name]
    shutil.copy(copy / RUN / "run.json", copy / "settings.json")
    settings = read_run(copy / RUN)["settings"]
    (copy / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    file = copy / path
    content = file.read_bytes()
    read(copy)
    with limited_memory(2**29):
        for make in (mutants, {".json": changed_json, ".csv": changed_csv}.get(file.suffix)):
            if make is not None:
                damaged = make(content, count=COUNT, seed=len(name))
                assert failures(copy, file, read, damaged) == []
