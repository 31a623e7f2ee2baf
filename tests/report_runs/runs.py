"""Runs of a small experiment, and how to read them."""

import csv

import numpy as np
import soundfile

import audiointerp as ai
from audiointerp.dataset import Contamination, ESC50Dataset

RATE = 8000
CLASSES = ("dog", "</script><b>rain", 'sea "waves" & $data')
CLIPS = 8
METHODS = {name: ai.METHODS[name] for name in ai.METHODS if name in ("saliency", "gradcam")}
EXPERIMENTS = ("clean", "horse")
HEARD = ["topK_30", "minmax"]


def write_set(root, *, seed=0, classes=CLASSES, clips=CLIPS):
    """Write a set laid out like ESC-50: noise that comes and goes."""
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    generator = np.random.default_rng(seed)
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category"])
        for number in range(clips):
            name = f"5-{number} <i>&-A-{number % len(classes)}"
            table.writerow(
                [f"{name}.wav", 5, number % len(classes), classes[number % len(classes)]]
            )
            wave = generator.standard_normal(RATE) * np.linspace(1, 0.01 * number, RATE)
            wave = np.convolve(wave, np.ones(1 + number % 4), mode="same")
            soundfile.write(root / "audio" / f"{name}.wav", 0.1 * wave, RATE, subtype="FLOAT")
    return root


def open_set(root, experiment):
    noise = None if experiment == "clean" else Contamination(root / "horse.wav", 0.7)
    return ESC50Dataset(root / "set", folds=5, sample_rate=RATE, duration=1.0, contamination=noise)


def read_rows(folder, mask, place="csvs"):
    with (folder / place / f"{mask}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def folder_of(run, workshop):
    return workshop / "results" / run["model"] / f"{run['method']}_{run['experiment']}"
