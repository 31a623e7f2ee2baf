"""The matrix of methods: cost, requirements, guarantees, known failures, measurements."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from audiointerp.evaluation import METRICS
from audiointerp.interpretation import METHODS, Interpreter, method_label
from audiointerp.masking import IDENTITY

_FAMILIES = {
    "gradient": "Gradients of the class's logit",
    "CAM": "Class activation maps",
    "relevance": "Relevance that is passed back layer by layer",
    "attention": "Attention of transformers, followed through all layers",
    "perturbation": "Parts of the clip are hidden",
    "trained": "Trained interpreters",
    "reference": "References, which see no network",
}
_HEADS = ["Method", "Passes for a clip", "Requires", "Guarantees", "Known failures", "Source"]
MEASURED = {
    "AUPRC": "AUPRC",
    "SI_SDRi": "SI_SDRi",
    "FF": "FF",
    "FidIn": "FidIn",
    "AI": "AI",
    "AD": "AD",
    "AG": "AG",
    "SPS": "SPS",
    "COMP": "COMP",
    "residual": "residual",
    "weights": "other weights",
    "classes": "other class",
    "forward_passes": "time",
}
"""What `audiointerp.report.methods.measure_methods` measures, as the page heads it."""
WITH_INTERVALS = ("AUPRC", "SI_SDRi")
"""What the page shows with its interval."""


def method_table() -> pd.DataFrame:
    """Return what is known of every method before it runs.

    Returns
    -------
    DataFrame
        Indexed by ``method``, in the order of the registry: ``family``, ``kind``, ``passes``,
        ``requires``, ``guarantees`` in words, ``sums_to`` (what a map adds up to), ``draws`` (at
        random, by a seed), ``class_sensitive``, ``signed``, ``fails`` and ``source``; see
        `audiointerp.interpretation.facts.Facts`.

    Examples
    --------
    >>> method_table().loc["shap", "requires"]
    'background'
    """
    rows = {name: _facts(method) for name, method in METHODS.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _facts(method: type[Interpreter]) -> dict[str, object]:
    facts = method.facts
    return {
        "family": facts.family,
        "kind": method.kind,
        "passes": facts.passes,
        "requires": ", ".join(sorted(method.requires)),
        "guarantees": _guarantees(method),
        "sums_to": facts.sums_to,
        "draws": facts.draws,
        "class_sensitive": facts.class_sensitive,
        "signed": facts.signed,
        "fails": facts.fails,
        "source": facts.source,
    }


def methods_markdown(measured: Mapping[str, pd.DataFrame] | None = None) -> str:
    """Return the matrix of methods as Markdown, family by family.

    Parameters
    ----------
    measured : mapping of str to DataFrame, optional
        What `audiointerp.report.methods.measure_methods` found, by the name of the set.

    Returns
    -------
    str
    """
    table = method_table()
    parts = []
    for family, title in _FAMILIES.items():
        rows = table[table["family"] == family]
        if rows.empty:
            continue
        lines = [
            [
                f"`{name}`",
                row["passes"],
                row["requires"],
                row["guarantees"],
                row["fails"],
                row["source"],
            ]
            for name, row in rows.iterrows()
        ]
        parts.append(f"### {title}\n\n{_markdown(_HEADS, lines)}")
    for title, frame in (measured or {}).items():
        for model, rows in frame.groupby("model", sort=False):
            parts.append(f"### {title}: `{model}`\n\n{_measured_markdown(rows)}")
    return "\n\n".join(parts) + "\n"


def _guarantees(method: type[Interpreter]) -> str:
    facts = method.facts
    said = [f"sums to {facts.sums_to}"] if facts.sums_to else []
    said.append("the same map for the same seed" if facts.draws else "draws nothing")
    if not facts.class_sensitive:
        said.append("the same map for every class")
    if method.kind == "mask":
        said.append("a mask")
    elif not facts.signed:
        said.append("never negative")
    return "; ".join(said)


def _measured_markdown(rows: pd.DataFrame) -> str:
    columns = [name for name in MEASURED if name in rows and rows[name].notna().any()]
    heads = ["Method", *(MEASURED[name] for name in columns)]
    lines = [[_label(row), *(_value(row, name) for name in columns)] for _, row in rows.iterrows()]
    return _markdown(heads, lines, numbers=True)


def _label(row: pd.Series) -> str:
    """Return the name of a row: its method, and that the mask is the method's own."""
    own = "its own mask" if row.get("mask") == IDENTITY else ""
    return ", ".join(filter(None, [method_label(row["method"]), own]))


def _value(row: pd.Series, name: str) -> str:
    value = row[name]
    if pd.isna(value):
        return "–"
    if name == "forward_passes":
        return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"
    if name == "residual":
        return f"{value:.0e}".replace("e-0", "e-") if value else "0"
    decimals = METRICS[name].decimals if name in METRICS else 2
    text = f"{value:.{decimals}f}"
    if name in WITH_INTERVALS:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        text += f" ({low:.{decimals}f} – {high:.{decimals}f})"
    return text.replace("-", "−")


def _markdown(heads: list[str], rows: list[list[str]], *, numbers: bool = False) -> str:
    rules = ["---", *(["---:" if numbers else "---"] * (len(heads) - 1))]
    lines = [heads, rules, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
