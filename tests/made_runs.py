"""Results folders written by hand, without a network."""

from __future__ import annotations

import json

import pandas as pd

SETTINGS = {
    "model": {"name": "Cnn14", "num_classes": 2, "num_bins": 64},
    "model_hash": "0123",
    "processor": {
        "name": "LogMelSTFTSpectrogram",
        "sample_rate": 8000,
        "n_fft": 256,
        "hop_length": 80,
        "n_mels": 64,
        "f_min": 50.0,
        "f_max": 4000.0,
    },
    "base": "floor",
    "domain": "feature",
    "dataset": {
        "name": "Made",
        "classes": ["dog", "cat", "rain"],
        "folds": [5],
        "clips": 8,
        "sample_rate": 8000,
        "duration": 1.0,
        "normalize": True,
        "contamination": None,
    },
}
CLIPS = [f"clip{number}" for number in range(8)]
KNOWN = {
    "FF": [0.1 + 0.05 * n for n in range(8)],
    "AI": [0, 100] * 4,
    "AD": [10.0 * n for n in range(8)],
    "AG": [5] * 8,
    "FidIn": [1, 1, 0, 1] * 2,
    "SPS": [0.7] * 8,
    "COMP": [5 + 0.1 * n for n in range(8)],
}


def write(root, run, columns=KNOWN, *, masks=("bin", "topK_30"), clips=CLIPS, **more):
    """Write the tables of a run; `more` are further columns, or replace those there are."""
    folder = root / "results" / "mel" / run
    (folder / "csvs").mkdir(parents=True)
    settings = SETTINGS | {"method": run.split("_")[0], "interpreter": {}}
    report = {"clips": len(set(clips)), "failures": {}}
    (folder / "run.json").write_text(json.dumps({"settings": settings, "report": report}))
    names = {"clip": clips, "target": "dog", "predicted": ["dog", "cat"] * (len(clips) // 2)}
    frame = pd.DataFrame(names | {"is_correct": [True, False] * (len(clips) // 2)})
    frame = frame.assign(**more, **columns)
    for mask in masks:
        frame.to_csv(folder / "csvs" / f"{mask}.csv", index=False)
    return folder


def shifted(columns, name, by):
    return columns | {name: [value + by for value in columns[name]]}
