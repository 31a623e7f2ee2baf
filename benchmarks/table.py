"""Put what the benchmarks measured into ``benchmarks/README.md``: tables, and a picture.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
START, END = "<!-- measured -->\n", "<!-- end -->"
NAMES = {
    "saliency": "Saliency (Captum)",
    "gradcam": "Grad-CAM (grad-cam)",
    "lime": "LIME, 1000 versions (lime)",
    "shap": "SHAP, 20 background clips (shap)",
    "scoring": "14 masks, 7 metrics (model, Quantus)",
    "simplicity": "SPS + COMP, batch of 64 (Quantus)",
}


def compare_table(result: dict[str, Any]) -> str:
    """Return a run of `compare.py` as a Markdown table under a heading."""
    bins, frames = result["features"]
    raw = min(result["raw_s"].values())
    lines = [
        f"### Cnn14 at width {result['width']:g}, {bins} × {frames}, float32",
        "",
        f"{result['machine']}; torch {result['torch']}. The network's best: {_ms(raw)} a clip "
        f"(as it is {_ms(result['raw_s']['model'])}, its inference copy "
        f"{_ms(result['raw_s']['copy'])}). Peak memory of loop and package together: "
        f"{result['peak_memory_mib']:.0f} MiB.",
        "",
        "| Stage (library of the loop) | loop, a clip | ours, a clip | ratio | forwards needed "
        "| of the network's best |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        known = row["forwards"] == row["forwards"]
        lines.append(
            f"| {NAMES[row['stage']]} | {_ms(row['loop_s'])} | {_ms(row['ours_s'])} "
            f"| **{row['ratio']:.1f} ×** | {format(row['forwards'], 'g') if known else ''} "
            f"| {format(row['of_raw'], '.0%') if known else ''} |"
        )
    total = _total(result["rows"])
    if total:
        lines.append(
            f"| all four methods, each with its scoring | {_ms(total[0])} | {_ms(total[1])} "
            f"| **{total[0] / total[1]:.1f} ×** | | |"
        )
    return "\n".join(lines)


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


def draw(results: list[dict[str, Any]]) -> Figure:
    """Draw how many times as fast each stage is, one panel for each run of `compare.py`."""
    figure = Figure(figsize=(5 * len(results), 3), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        rows = result["rows"][::-1]
        bars = axes.barh(
            [NAMES[row["stage"]].split(" (")[0] for row in rows], [row["ratio"] for row in rows]
        )
        axes.bar_label(bars, [f"{row['ratio']:.1f} ×" for row in rows], padding=3)
        axes.axvline(1, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.set_xlim(0.8, 3 * max(row["ratio"] for row in rows))
        axes.set_xlabel("times as fast as the loop")
        axes.set_title(f"Cnn14, width {result['width']:g}", fontsize=10)
    return figure


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def main() -> None:
    def read(pattern: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in (FOLDER / "results").glob(pattern)]

    compared = sorted(read("compare_*.json"), key=lambda result: -result["width"])
    parts = ["![How many times as fast as the loop](results/speed.png)", ""] if compared else []
    parts += [compare_table(result) + "\n" for result in compared]
    grown = read("growth_*.json")
    if grown:
        parts += ["### From 10 to 1000 clips", ""] + [growth_table(each) + "\n" for each in grown]
    page = FOLDER / "README.md"
    before, rest = page.read_text().split(START)
    after = rest.split(END)[1]
    page.write_text(before + START + "\n" + "\n".join(parts) + "\n" + END + after)
    if compared:
        draw(compared).savefig(FOLDER / "results" / "speed.png", dpi=110)
    print("\n".join(parts))


if __name__ == "__main__":
    main()
