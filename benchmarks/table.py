"""Put what the benchmarks measured into ``benchmarks/README.md``: tables, and a picture.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sides import WITHOUT

FOLDER = Path(__file__).parent
START, END = "<!-- measured -->\n", "<!-- end -->"
NAMES = {
    "saliency": "Saliency (Captum)",
    "gradcam": "Grad-CAM (grad-cam)",
    "lime": "LIME, 1000 versions (lime)",
    "shap": "SHAP, 20 background clips (shap)",
    "scoring": "14 masks, 7 metrics (model, Quantus)",
    "simplicity": "SPS + COMP, batch of 64 (Quantus)",
    "set": "40 clips to results/",
}

GAINS = """How many times as long a stage takes where one change is left out, in turn with the whole
on the same clips."""
BUSY = """What SHAP takes for a clip, alone and while an endless loop runs in another process, by
how the threads of OpenMP wait for each other; the settings in turn on the same clips."""
TRUTH = """What scoring takes with and without the truth, in turn: the analysis of the clips' parts,
localisation in cells and in time, and SI-SDR of what every mask keeps, which is made audible for
it. No network takes part in that, so what it adds, some 60 ms a clip by the rows of the small
networks, is the same at every width. At width 1 the turns scatter by more than this: there the
cost, the median of the turns' ratios, is uncertain by about ten points."""
PRECISION = """How many clips get another class than in float32; the largest change of a mean of FF,
AD, AG or SPS over the clips, of all masks, in units of the metric's range; how many of all values
of AI and FidIn, which are all or nothing for a clip, flip. First with the maps of float32 scored in
that precision, then with the maps made in it too."""
SAME = """Runs on clips of ESC-10's fold 5 by the package, and by the package without all of the
above: the largest change of a mean over the clips, in units of the metric's range, how many means
change by more than 1e-4, and the median change of a clip's row. The last columns compare both with
the tables in `results/`, made before and on another processor: what both differ by is its rounding,
which makes cells near a threshold tip over."""


def compare_table(result: dict[str, Any]) -> str:
    """Return a run of `compare.py` as a Markdown table under a heading."""
    bins, frames = result["features"]
    memory = result["peak_memory_mib"]
    raw = {name: _fastest(times) for name, times in result["raw_s"].items()}
    lines = [
        f"### Cnn14 at width {result['width']:g}, {bins} × {frames}, float32",
        "",
        f"{result['machine']}; torch {result['torch']}. The network's best: its inference copy "
        f"{raw['copy']}; the model as it is {raw['model']}. Peak memory: the loop "
        f"{memory['loop']:.0f} MiB, the package {memory['ours']:.0f} MiB.",
        "",
        "| Stage (library of the loop) | loop, a clip | ours, a clip | ratio | forwards needed "
        "| of the network's best |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        forwards = format(row["forwards"], "g") if "forwards" in row else ""
        of_raw = format(row["of_raw"], ".0%") if "of_raw" in row else ""
        lines.append(
            f"| {NAMES[row['stage']]} | {_ms(row['loop_s'])} | {_ms(row['ours_s'])} "
            f"| **{row['ratio']:.1f} ×** | {forwards} | {of_raw} |"
        )
    total = _total(result["rows"])
    if total:
        lines.append(
            f"| all four methods, each with its scoring | {_ms(total[0])} | {_ms(total[1])} "
            f"| **{total[0] / total[1]:.1f} ×** | | |"
        )
    return "\n".join(lines)


def _fastest(times: dict[str, float]) -> str:
    size = min(times, key=times.get)
    return f"{_ms(times[size])} a clip in batches of {size}"


def _total(rows: Iterable[dict[str, Any]]) -> tuple[float, float] | None:
    """Return the seconds of a clip's four methods and their scoring, loop and ours."""
    by_stage = {row["stage"]: row for row in rows}
    methods = ("saliency", "gradcam", "lime", "shap")
    if not {*methods, "scoring"} <= by_stage.keys():
        return None
    return tuple(
        sum(by_stage[name][key] for name in methods) + 4 * by_stage["scoring"][key]
        for key in ("loop_s", "ours_s")
    )


def growth_table(result: dict[str, Any]) -> str:
    """Return a run of `growth.py` as a Markdown table."""
    lines = [
        f"{result['machine']}:",
        "",
        "| clips | seconds | a clip | peak memory |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['clips']} | {row['seconds']:.1f} | {_ms(row['seconds'] / row['clips'])} "
        f"| {row['peak_memory_mib']:.0f} MiB |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def gains_table(result: dict[str, Any]) -> str:
    """Return a run of `gains.py` as a Markdown table."""
    stages = [stage for stage in NAMES if any(stage in row for row in result["rows"])]
    titles = [NAMES[stage].split(" (")[0].split(",")[0] for stage in stages]
    lines = [
        f"Cnn14 at width {result['width']:g}, {result['machine']}:",
        "",
        f"| without | so that | {' | '.join(titles)} |",
        f"| --- | --- | {' | '.join(['---:'] * len(stages))} |",
    ]
    for row in result["rows"]:
        times = [f"{row[stage]['times']:.2f} ×" if stage in row else "" for stage in stages]
        lines.append(f"| {row['without']} | {WITHOUT[row['without']]} | {' | '.join(times)} |")
    compiled, precisions = result["compiled"], result["precisions"]
    others = [f"{_ms(precisions[name])} in {name}" for name in precisions if name != "float32"]
    lines += [
        "",
        f"torch.compile (frozen weights) takes {compiled['compile_s']:.0f} s once, and then "
        f"{_ms(compiled['compiled_s'])} a clip where the inference copy takes "
        f"{_ms(compiled['copy_s'])}. In float32 that copy takes {_ms(precisions['float32'])}, "
        f"{', '.join(others)}.",
    ]
    return "\n".join(lines)


def busy_table(result: dict[str, Any]) -> str:
    """Return a run of `busy.py` as a Markdown table."""
    first = result["rows"][0]
    others = ""
    if result["load"] >= 0.5:
        others = (
            f" Other programs ran on the machine too, {result['load']:g} at a time when it began: "
            "what is called alone was not, and only the ratios count."
        )
    lines = [
        f"Cnn14 at width {result['width']:g}, {result['machine']}.{others}",
        "",
        "| threads wait by | alone | next to a busy process | times as fast as the default, alone "
        "| next to it |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        alone, busy = (first[key] / row[key] for key in ("alone_s", "busy_s"))
        lines.append(
            f"| {row['setting']} | {_ms(row['alone_s'])} | {_ms(row['busy_s'])} "
            f"| {alone:.1f} × | **{busy:.1f} ×** |"
        )
    return "\n".join(lines)


def truth_table(result: dict[str, Any]) -> str:
    """Return a run of `truth.py` as a Markdown table."""
    lines = [
        f"{result['machine']}:",
        "",
        "| width of Cnn14 | fourteen masks, seven metrics, a clip | with all metrics of the truth "
        "| cost |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['width']:g}, {row['model']} | {_ms(row['without_s'])} | {_ms(row['with_s'])} "
        f"| **{100 * row['cost']:.0f} %** |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def precision_table(result: dict[str, Any]) -> str:
    """Return a run of `precision.py` as a Markdown table."""
    lines = [
        f"`{result['weights']}`, {result['rows'][0]['clips']} clips of its test fold, "
        f"{result['machine']}:",
        "",
        "| precision | method | another class | mean | mean, maps too | flips | flips, maps too |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        name = row["precision"] + (" (imitated)" if row["imitated"] else "")
        lines.append(
            f"| {name} | {row['method']} | {row['other_class']} "
            f"| {row['scoring_only']:.4f} | {row['all']:.4f} "
            f"| {row['flips_scoring_only']:.1%} | {row['flips']:.1%} |"
        )
    return "\n".join(lines)


def same_table(result: dict[str, Any]) -> str:
    """Return a run of `same_numbers.py` as a Markdown table."""
    lines = [
        f"{result['machine']}:",
        "",
        "| run | largest change of a mean | means above 1e-4 | median of a row "
        "| `results/` | `results/`, without |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        kept = [
            f"{row[name]['largest_of_means']:.1e}" if name in row else ""
            for name in ("kept", "kept_slow")
        ]
        lines.append(
            f"| {row['run']} | {row['largest_of_means']:.1e} ({row['where']}) "
            f"| {row['means_above_1e-4']} of {row['means']} | {row['median_of_rows']:.1e} "
            f"| {' | '.join(kept)} |"
        )
    return "\n".join(lines)


def draw(results: list[dict[str, Any]]) -> Figure:
    """Draw how many times as fast each stage is, one panel for each run of `compare.py`."""
    figure = Figure(figsize=(2 + 2.6 * len(results), 3), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, result in zip(panels, results, strict=True):
        rows = result["rows"][::-1]
        bars = axes.barh(
            [NAMES[row["stage"]].split(" (")[0] for row in rows], [row["ratio"] for row in rows]
        )
        axes.bar_label(bars, [f"{row['ratio']:.1f} ×" for row in rows], padding=3)
        axes.axvline(1, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.8, 6 * max(row["ratio"] for row in rows))
        axes.set_xlabel("times as fast as the loop")
        bins, frames = result["features"]
        axes.set_title(f"Cnn14, width {result['width']:g}, {bins} × {frames}", fontsize=10)
    return figure


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def main() -> None:
    def read(pattern: str) -> list[dict[str, Any]]:
        paths = sorted((FOLDER / "results").glob(pattern))
        return [json.loads(path.read_text()) for path in paths]

    def by_width(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(results, key=lambda result: -result["width"])

    compared = by_width(read("compare_*.json"))
    sections = {
        "": [compare_table(each) for each in compared],
        "### From 10 to 1000 clips": [growth_table(each) for each in read("growth_*.json")],
        "### What each change gains": [GAINS, *map(gains_table, by_width(read("gains_*.json")))],
        "### Next to a busy process": [BUSY, *map(busy_table, by_width(read("busy_*.json")))],
        "### What the truth costs": [TRUTH, *map(truth_table, read("truth_*.json"))],
        "### What a precision changes": [
            PRECISION,
            *map(precision_table, read("precision_*.json")),
        ],
        "### The numbers stay": [SAME, *map(same_table, read("same_numbers_*.json"))],
    }
    parts = ["![How many times as fast as the loop](results/speed.png)"]
    for title, texts in sections.items():
        parts += [*([title] if title else []), *texts]
    page = FOLDER / "README.md"
    before, rest = page.read_text().split(START)
    after = rest.split(END)[1]
    text = "\n\n".join(parts)
    page.write_text(f"{before}{START}\n{text}\n\n{END}{after}")
    draw(compared).savefig(FOLDER / "results" / "speed.png", dpi=110)
    print(text)


if __name__ == "__main__":
    main()
