"""Which methods find the calls of bats: maps of batdetect2 against annotated boxes.

    python benchmarks/bats.py --data FOLDER

FOLDER has ``audio/`` and ``anns/``, with one annotation file of batdetect2 for each recording, as
the example data in batdetect2's repository (O. Mac Aodha et al., CC BY-NC 4.0). Recordings are cut
into clips side by side. Each species that has a whole box in a clip is explained there, and the
map is compared with all boxes of that species. Results go to ``benchmarks/results/bats.json``; the
table is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import soundfile
import torch
from machine import describe

from audiointerp.dataset import ClipDataset, open_dataset
from audiointerp.dataset.annotations import READERS
from audiointerp.device import resolve_device
from audiointerp.evaluation import (
    METRICS,
    Evidence,
    Truth,
    evaluate_evidence,
    event_cells,
    event_frames,
    truth_facts,
)
from audiointerp.interpretation import METHODS, Interpreter
from audiointerp.masking import quiet_level
from audiointerp.model.classifier import Classifier
from audiointerp.model.families.batdetect import from_batdetect2

RESULTS = Path(__file__).parent / "results"
MEASURED = ("AUPRC", "mass", "pointing", "time_IoU", "time_pointing")
ABOUT = (
    "Recordings and boxes: example data of batdetect2, O. Mac Aodha et al., CC BY-NC 4.0; the "
    "boxes are marked as automatically generated"
)
WINDOW = (20, 12)
"""Bins and frames that occlusion hides at a time: 10 kHz and 6 ms."""

DECODER = "detector.conv_up_4"


def quiet(cells: torch.Tensor) -> torch.Tensor:
    """Return the level that hidden cells take: the one that 5 % of a band's frames stay below."""
    return quiet_level(cells, 0.05)


def interpreters(bats: Classifier, samples: int) -> dict[str, Interpreter]:
    """Return the methods by their names in the table; hidden cells take the band's quiet level."""
    plain = ("random", "energy", "excess", "edge", "saliency", "smoothgrad_squared")
    cams = ("gradcam", "gradcamplusplus", "hirescam", "layercam")
    return {
        **{name: METHODS[name](bats) for name in (*plain, "guided_backprop", *cams)},
        **{
            f"{name}, end of decoder": METHODS[name](bats, DECODER)
            for name in ("gradcam", "layercam")
        },
        **{
            name: METHODS[name](bats, base=quiet)
            for name in ("input_gradient", "integrated_gradients")
        },
        "occlusion": METHODS["occlusion"](bats, window=WINDOW, stride=WINDOW, base=quiet),
        "lime, grid": METHODS["lime"](bats, num_samples=samples, segmentation="grid", base=quiet),
        "rise": METHODS["rise"](bats, num_samples=samples, base=quiet),
    }


def cut(data: Path, duration: float, table: Path) -> None:
    """Write a table of clips side by side, with the species that have a whole box in each."""
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "start", "end", "labels", "fold"])
        for annotations in sorted((data / "anns").glob("*.json")):
            found = list(READERS[".json"](annotations))
            events = [each.event for each in found if each.event is not None]
            name = found[0].recording
            seconds = soundfile.info(data / "audio" / name).duration
            for number in range(math.floor(seconds / duration)):
                start, end = number * duration, (number + 1) * duration
                species = {e.label for e in events if start <= e.onset and e.offset <= end}
                if species:
                    rows.writerow(
                        [name, f"{start:.6f}", f"{end:.6f}", ";".join(sorted(species)), 1]
                    )


def explained(bats: Classifier, clips: ClipDataset) -> Iterable[tuple]:
    """Yield clip, species, view and truth of everything that is explained."""
    for index in range(len(clips)):
        clip = clips[index]
        view = bats.front_end.analyse(clip.waveform[None])
        axes = bats.front_end.axes(clip.waveform.shape[-1])
        for label in clips.label_sets[index]:
            own = [e for e in clips.true_events(index) if e.label == clips.classes[label]]
            boxes = event_cells([(e.onset, e.offset, e.low, e.high) for e in own], *axes)
            active = event_frames([(e.onset, e.offset) for e in own], axes.times)
            yield clip.clip_id, label, view, Truth(active=active[None], boxes=boxes[None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with audio/ and anns/")
    parser.add_argument("--duration", type=float, default=0.0655, help="seconds of a clip")
    parser.add_argument("--samples", type=int, default=100, help="versions that LIME and RISE take")
    options = parser.parse_args()
    bats = from_batdetect2(duration=options.duration)
    metrics = {name: METRICS[name] for name in MEASURED}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "clips.csv"
        cut(options.data, bats.duration, table)
        clips = open_dataset(
            table,
            audio=options.data / "audio",
            labels="labels",
            separator=";",
            start="start",
            end="end",
            classes=bats.classes,
            sample_rate=bats.front_end.sample_rate,
            duration=bats.duration,
            normalize=False,
            events=options.data / "anns",
        )
        work = list(explained(bats, clips))
    rows, chances, facts = [], [], []
    for _, label, view, truth in work:
        with torch.no_grad():
            chances.append(float(bats.probabilities(bats.logits(view.cells, view))[0, label]))
        facts.append({k: float(v) for k, v in truth_facts(truth, torch.tensor([label])).items()})
    for name, method in interpreters(bats, options.samples).items():
        began = time.perf_counter()
        for clip, label, view, truth in work:
            attribution = method.explain(view, label).attribution
            target = torch.tensor([label])
            evidence = Evidence(
                torch.zeros(1, len(bats.classes)), target, attribution=attribution, truth=truth
            )
            values = {
                key: float(value) for key, value in evaluate_evidence(evidence, metrics).items()
            }
            rows.append({"method": name, "clip": clip, "species": bats.classes[label]} | values)
        mean = pd.DataFrame(rows[-len(work) :])[list(MEASURED)].mean().round(3).to_dict()
        print(f"{name}: {time.perf_counter() - began:.0f} s, {mean}", flush=True)
    measured = pd.DataFrame(rows)
    means = measured.groupby("method", sort=False)[list(MEASURED)].mean()
    result = {
        "about": ABOUT,
        "machine": describe(resolve_device("cpu")),
        "duration": bats.duration,
        "samples": options.samples,
        "explained": len(work),
        "clips": len({clip for clip, *_ in work}),
        "probability": sum(chances) / len(chances),
        "chance": pd.DataFrame(facts).mean().to_dict(),
        "methods": means.to_dict("index"),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bats.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
