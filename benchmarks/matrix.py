"""Measure all methods on the bundled networks and put the matrix into ``docs/methods.md``.

    python benchmarks/matrix.py --synthetic --esc10 ESC50_ROOT --noises FOLDER

``FOLDER`` holds the paper's recordings of horse, room and white noise. What ``results/methods``
holds already is not done again; the tables that the page is made of are kept there as CSV files.
Without arguments the page is made anew of these, and nothing is measured. ``--picture`` draws one
clip through all methods, into ``docs/figures/methods.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

import audiointerp as ai
from audiointerp.plots import plot_attributions
from audiointerp.report.methods import measure_methods
from audiointerp.runs.recipe import Recipe, open_set
from audiointerp.spreadsheet import to_csv
from audiointerp.tables.methods import methods_markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "methods"
PAGE = ROOT / "docs" / "methods.md"
PICTURE = ROOT / "docs" / "figures" / "methods.png"
START, END = "<!-- matrix -->\n", "<!-- end -->"
KINDS = ("logmel_robust", "logstft_robust")
TITLES = {
    "synthetic": "Measured on the synthetic set",
    "esc10": "Measured on ESC-10",
}


def measure(name: str, weights: list[Path], data: str, noises: dict[str, Path], **options) -> None:
    """Measure the methods on a set and write the table."""
    results = RESULTS / "runs" / name
    found = measure_methods(weights, data, noises=noises, results=results, **options)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.csv").write_text(to_csv(found, index=False), encoding="utf-8")


def with_matrix(page: str) -> str:
    """Return the page with the matrix of what is measured now."""
    measured = {
        title: pd.read_csv(RESULTS / f"{name}.csv")
        for name, title in TITLES.items()
        if (RESULTS / f"{name}.csv").is_file()
    }
    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{methods_markdown(measured)}\n{END}{after}"


def draw() -> None:
    """Draw one clip of the synthetic set and the map of its class by every method."""
    classifier = ai.load(ROOT / "weights" / "synthetic_logmel_robust.safetensors")
    clips = open_set("synthetic", classifier, folds=5)
    place = next(n for n, name in enumerate(clips.clip_ids) if name.startswith("5-dog"))
    view = classifier.front_end.analyse(clips[place].waveform[None])
    recipe = Recipe("all", progress=False)
    background = recipe.background("synthetic", classifier)
    names = recipe.methods_for("the picture's clip", has_parts=False)
    jobs = recipe.jobs(classifier, background, methods=names)
    target = torch.tensor([classifier.classes.index("dog")])
    maps = {name: job.interpreter.attribute(view, target) for name, job in jobs.items()}
    heading = f"{clips.clip_ids[place]}: every method, class dog"
    picture = plot_attributions(view.cells, maps, classifier.front_end, heading=heading)
    picture.savefig(PICTURE, dpi=200)
    print(PICTURE)


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", action="store_true", help="measure on the synthetic set")
    parser.add_argument("--esc10", help="ESC-50's folder: measure on ESC-10")
    parser.add_argument("--noises", type=Path, help="folder of the paper's three noises")
    parser.add_argument("--clips", type=int, default=10, help="clips under every noise")
    parser.add_argument("--checked", type=int, default=4, help="clips without noise; 0 for none")
    parser.add_argument("--kind", action="append", choices=KINDS, help="networks; both by default")
    parser.add_argument("--picture", action="store_true", help="draw one clip by all methods")
    arguments = parser.parse_args()
    if arguments.picture:
        draw()
    kinds = arguments.kind or KINDS
    if arguments.synthetic:
        weights = [ROOT / "weights" / f"synthetic_{kind}.safetensors" for kind in kinds]
        noises = {path.stem: path for path in sorted((ROOT / "noises").glob("*.wav"))}
        measure(
            "synthetic",
            weights,
            "synthetic",
            noises,
            clips=arguments.clips,
            checked_clips=arguments.checked,
        )
    if arguments.esc10:
        weights = [ROOT / "weights" / f"esc10_{kind}.safetensors" for kind in kinds]
        noises = {
            name: next(arguments.noises.glob(f"*{name}*.wav"))
            for name in ("horse", "room", "white")
        }
        options = {
            "subset": "esc10",
            "clips": arguments.clips,
            "checked_clips": arguments.checked,
        }
        measure("esc10", weights, arguments.esc10, noises, **options)
    PAGE.write_text(with_matrix(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
