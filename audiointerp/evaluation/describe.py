"""Descriptions of metrics in words, generated from their records."""

from __future__ import annotations

from collections.abc import Iterable

from audiointerp.arguments import several
from audiointerp.evaluation.record import METRICS, Metric

_CELLS = 10_000
"""Size of a map for which bounds are given that depend on it."""


def metrics_table(names: Iterable[str] | None = None) -> str:
    """Return metrics as a Markdown table: what each measures, its range and its direction.

    Parameters
    ----------
    names : iterable of str
        Names in ``METRICS``; all by default.

    Returns
    -------
    str
        One line per metric, in the order given.
    """
    chosen = METRICS.values() if names is None else [METRICS[name] for name in several(names)]
    lines = [
        "| Metric | Name | Measures | Range | Better | Family | Needs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for metric in chosen:
        fields = (
            f"`{metric.name}`",
            metric.title,
            metric.meaning,
            _range(metric),
            "higher" if metric.better > 0 else "lower",
            f"{metric.family} (on request)" if metric.on_request else metric.family,
            ", ".join(sorted(metric.needs)),
        )
        lines.append(f"| {' | '.join(fields)} |")
    return "\n".join(lines)


def _range(metric: Metric) -> str:
    ends = metric.bounds(_CELLS)
    low, high = (f"{end:.3g}".replace("-", "−").replace("inf", "∞") for end in ends)
    unit = f" {metric.unit}" if metric.unit else ""
    depends = "" if metric.bounds(2) == ends else f" for {_CELLS} cells"
    return f"{low} to {high}{unit}{depends}"
