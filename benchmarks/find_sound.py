"""Search for a map that finds the sound in noise: candidates on one fold, the chosen on another.

    python benchmarks/find_sound.py ESC50_ROOT --subset esc10 --noise horse=… --noise room=…

Clips of folds 4 and 5 are mixed with every noise, their true class is explained, and the AUPRC
against the ideal binary mask is measured on those that the network classifies correctly. What is
best on fold 4 was chosen there; fold 5 reports it, with 95 % bootstrap intervals over clips. The
table goes to ``benchmarks/results/find_sound_<model>.csv``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import audiointerp as ai
from audiointerp.dataset import Contamination
from audiointerp.evaluation.localisation import Ranking, auprc
from audiointerp.evaluation.statistics import bootstrap_means, interval
from audiointerp.evaluation.truth import Truth
from audiointerp.interpretation import METHODS
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.runs.experiment import parse_noises
from audiointerp.runs.labelled import LabelledBatch, match_classes
from audiointerp.runs.recipe import Recipe, build_interpreter, open_set

RESULTS = Path(__file__).parent / "results"
METHODS_TRIED = (
    "saliency",
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
    "gradcam",
    "hirescam",
    "layercam",
    "shap",
    "lrp",
    "lrp_gamma",
    "lrp_zplus",
    "lmac",
)
WIDTHS = ((0.0, 0.0), (0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (2.0, 2.0), (2.0, 4.0))
"""Widths of the Gaussian over the excess, in bins and frames."""
CHOSEN_ON, REPORTED_ON = 4, 5
BATCH = 20


def rank(maps: Tensor) -> Tensor:
    """Return the rank of every cell among those of its clip, in [0, 1]."""
    order = maps.flatten(1).argsort(1).argsort(1)
    return (order / (order.shape[1] - 1)).view_as(maps)


class Candidates:
    """Maps of clips by name: methods, references, and what can be made of two of them.

    Parameters
    ----------
    classifier : Classifier
    data, subset
        What backgrounds are drawn from.
    """

    def __init__(self, classifier: Classifier, data: str, subset: str | None) -> None:
        recipe = Recipe(METHODS_TRIED, progress=False)
        background = recipe.background(data, classifier, subset=subset)
        names = (*METHODS_TRIED, "random", "energy", "excess")
        self.methods = {
            name: build_interpreter(name, classifier, background=background) for name in names
        }
        self.smooth = {
            f"excess, smoothed by {bins:g} bins and {frames:g} frames": METHODS["smooth_excess"](
                classifier, bins=bins, frames=frames
            )
            for bins, frames in WIDTHS[1:]
        }
        self.default = METHODS["smooth_excess"](classifier)

    def maps(self, view: View, target: Tensor) -> Iterator[tuple[str, str, Tensor]]:
        """Yield the name of each candidate, its kind and its maps."""
        smooth = self.default.attribute(view, target)
        for name, method in self.methods.items():
            maps = method.attribute(view, target)
            if method.reference:
                yield name, "sees no network", maps
                continue
            yield name, "method", maps
            positive = maps.clamp(min=0)
            yield f"{name} × smooth excess", "product", positive * smooth.clamp(min=0)
            yield f"√{name} × smooth excess", "product", positive.sqrt() * smooth.clamp(min=0)
            yield f"ranks of {name} and smooth excess", "mean", rank(maps) + rank(smooth)
        for name, method in self.smooth.items():
            yield name, "sees no network", method.attribute(view, target)


def batches(
    classifier: Classifier, data: str, subset: str | None, fold: int, noise: Contamination
) -> Iterator[tuple[list[str], View, Tensor, Truth]]:
    """Yield names, cells, true classes and truth of clips that are classified correctly."""
    clips = open_set(data, classifier, subset=subset, folds=fold, contamination=noise)
    class_of = match_classes(classifier, clips)
    for start in range(0, len(clips), BATCH):
        places = range(start, min(start + BATCH, len(clips)))
        batch = LabelledBatch(classifier, clips, class_of, [clips[place] for place in places])
        with torch.no_grad():
            logits = classifier.logits(batch.view.cells, batch.view)
        batch.probabilities["float32"] = classifier.probabilities(logits)
        target = torch.tensor([class_of[clip.label] for clip in batch.clips])
        kept = (logits.argmax(1) == target).nonzero()[:, 0]
        if len(kept):
            names = [batch.clips[place].clip_id for place in kept]
            yield names, batch.view[kept], target[kept], batch.truth[kept]


def measure(
    classifier: Classifier, data: str, subset: str | None, noises: dict[str, Path]
) -> pd.DataFrame:
    """Return the AUPRC of every candidate, clip, noise and fold."""
    candidates = Candidates(classifier, data, subset)
    rows = []
    for fold, (noise, file) in itertools.product((CHOSEN_ON, REPORTED_ON), noises.items()):
        for names, view, target, truth in batches(
            classifier, data, subset, fold, Contamination(file)
        ):
            for candidate, kind, maps in candidates.maps(view, target):
                found = auprc(Ranking(maps, truth.binary, truth.counted)).tolist()
                rows += [
                    (candidate, kind, fold, noise, clip, value)
                    for clip, value in zip(names, found, strict=True)
                ]
        print(f"fold {fold}, {noise}", flush=True)
    return pd.DataFrame(rows, columns=["candidate", "kind", "fold", "noise", "clip", "AUPRC"])


def summarise(measured: pd.DataFrame) -> pd.DataFrame:
    """Return each candidate's mean on both folds, the best of the first one first."""
    wide = measured.pivot_table(
        index=["fold", "clip", "noise"], columns="candidate", values="AUPRC", sort=False
    )
    kinds = measured.drop_duplicates("candidate").set_index("candidate")["kind"]
    table = pd.DataFrame({"kind": kinds.reindex(wide.columns)})
    for fold, rows in wide.groupby("fold", sort=False):
        drawn = bootstrap_means(rows.to_numpy(), clusters=rows.index.get_level_values("clip"))
        low, high = interval(drawn)
        table[f"fold_{fold}"] = rows.mean()
        table[f"fold_{fold}_low"], table[f"fold_{fold}_high"] = low, high
    return table.sort_values(f"fold_{CHOSEN_ON}", ascending=False).round(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="the set: a folder in ESC-50's layout")
    parser.add_argument("--weights", default="weights/esc10_logmel_robust.safetensors")
    parser.add_argument("--subset")
    parser.add_argument("--noise", action="append", required=True, help="NAME=FILE; several")
    options = parser.parse_args()
    classifier = ai.load(options.weights)
    measured = measure(classifier, options.data, options.subset, parse_noises(options.noise))
    table = summarise(measured)
    table.to_csv(RESULTS / f"find_sound_{Path(options.weights).stem}.csv")
    print(table.to_string())


if __name__ == "__main__":
    main()
