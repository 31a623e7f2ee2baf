"""The matrix of methods: what is stated, what is measured, how it is shown."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from repository import REPOSITORY
from scipy.stats import spearmanr
from typer.testing import CliRunner

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.cli.commands import app
from audiointerp.interpretation import METHODS
from audiointerp.model.randomise import list_layers, randomised
from audiointerp.report.methods import SHOWN, measure_methods
from audiointerp.runs.methods import check_methods
from audiointerp.runs.recipe import Recipe, open_set
from audiointerp.tables.methods import MEASURED, method_table, methods_markdown

WEIGHTS = "weights/synthetic_logmel_robust.safetensors"
NOISE = {"white": "noises/white.wav"}


def test_the_table_has_every_method_with_its_facts():
    table = method_table()
    assert list(table.index) == list(METHODS)
    assert table.loc["shap", "requires"] == "background"
    assert table.loc["ideal", "guarantees"] == "draws nothing; the same map for every class"
    assert not table.loc[table["family"] == "reference", "class_sensitive"].any()


@pytest.mark.parametrize("name", METHODS)
def test_the_page_has_a_row_of_every_method(name):
    rows = [line for line in methods_markdown().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split(" | ")]
    facts = METHODS[name].facts
    assert cells[1] == facts.passes
    assert cells[4] == facts.fails


def test_measured_numbers_are_shown_with_intervals_and_gaps():
    frame = pd.DataFrame(
        {
            "model": "net",
            "method": ["saliency", "ideal"],
            "AUPRC": [0.5, 1.0],
            "AUPRC_low": [0.4, 1.0],
            "AUPRC_high": [0.6, 1.0],
            "SI_SDRi": [-1.234, 8.0],
            "SI_SDRi_low": [-2.0, 7.0],
            "SI_SDRi_high": [0.5, 9.0],
            "weights": [0.123, np.nan],
            "forward_passes": [3.04, np.nan],
        }
    )
    page = methods_markdown({"A set": frame})
    assert "### A set: `net`" in page
    assert "| saliency | 0.500 (0.400 – 0.600) | −1.2 (−2.0 – 0.5) | 0.12 | 3.0 |" in page
    assert "| ideal (reference) | 1.000 (1.000 – 1.000) | 8.0 (7.0 – 9.0) | – | – |" in page


def test_what_maps_depend_on_agrees_with_maps_made_by_hand():
    classifier = ai.load(WEIGHTS)
    clips = open_set("synthetic", classifier, folds=5, clips=3)
    recipe = Recipe(["saliency", "edge", "ideal"], progress=False)
    found = check_methods(classifier, recipe, clips)
    assert list(found.index) == ["saliency", "edge"]
    assert found.loc["edge", ["weights", "classes"]].to_list() == pytest.approx([1, 1])
    assert (found["seconds"] > 0).all()
    ratio = found["seconds"] / found["forward_passes"]
    assert ratio["saliency"] == pytest.approx(ratio["edge"])

    view = classifier.front_end.analyse(torch.stack([clip.waveform for clip in clips]))
    with torch.no_grad():
        logits = classifier.logits(view.cells, view)
    best, worst = logits.argmax(1), logits.argmin(1)
    output = list_layers(classifier, view[:1])[0]
    ((_, network),) = randomised(classifier.network, [output], cascading=True, seed=0)
    other = ai.SaliencyInterpreter(classifier.with_network(network)).attribute(view, best)
    method = ai.SaliencyInterpreter(classifier)
    first, second = method.attribute(view, best), method.attribute(view, worst)
    for column, changed in (("weights", other), ("classes", second)):
        each = [
            spearmanr(a.flatten(), b.flatten()).statistic
            for a, b in zip(first, changed, strict=True)
        ]
        assert found.loc["saliency", column] == pytest.approx(np.mean(each), abs=1e-5)


@pytest.fixture
def few_methods():
    """Leave three methods, and put all back in their order."""
    every = dict(METHODS)
    METHODS.clear()
    METHODS.update({name: every[name] for name in ("lmac", "energy", "ideal")})
    yield
    METHODS.clear()
    METHODS.update(every)


@pytest.mark.usefixtures("few_methods")
def test_of_all_methods_those_without_weights_are_left_out():
    classifier = ai.load("weights/shortcut_logmel.safetensors")
    clips = open_set("synthetic", classifier, folds=5, clips=1)
    with pytest.warns(UserWarning, match="left out of all methods, lmac: not trained for"):
        found = check_methods(classifier, Recipe("all", progress=False), clips)
    assert list(found.index) == ["energy"]
    with pytest.raises(ValueError, match="Train it by"):
        check_methods(classifier, Recipe(["lmac"], progress=False), clips)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    results = tmp_path_factory.mktemp("methods")
    request = {
        "noises": NOISE,
        "methods": ["saliency", "lrp", "random", "ideal"],
        "results": results,
    }
    found = measure_methods(
        [WEIGHTS], "synthetic", **request, clips=3, checked_clips=2, progress=False
    )
    return found, results


def test_truth_is_that_of_the_runs(measured):
    found, results = measured
    assert found["method"].tolist() == ["saliency", "lrp", "random", "ideal"]
    for method, row in found.set_index("method").iterrows():
        folder = results / "synthetic_logmel_robust" / f"{method}_white"
        table = pd.read_csv(folder / "csvs" / "topK_30.csv")
        table = table[table["is_correct"]]
        for name in SHOWN:
            assert row[name] == pytest.approx(table[name].mean())
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    ideal = found.set_index("method").loc["ideal"]
    assert ideal["AUPRC"] == pytest.approx(1)
    residuals = pd.read_csv(results / "synthetic_logmel_robust" / "lrp_white" / "diagnostics.csv")[
        "residual"
    ]
    assert 0 < residuals.max() < 1e-2
    assert found.set_index("method")["residual"].to_dict() == pytest.approx(
        {"saliency": np.nan, "lrp": residuals.max(), "random": np.nan, "ideal": np.nan},
        nan_ok=True,
    )
    assert ideal[["weights", "classes", "seconds", "forward_passes"]].isna().all()


def test_every_column_that_the_page_shows_is_measured(measured):
    assert set(MEASURED) <= set(measured[0])


def command(monkeypatch, *words):
    """Run the command line; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["audiointerp", "methods", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


def test_the_command_shows_all_methods_or_describes_one():
    shown = CliRunner().invoke(app, ["methods"]).output
    assert all(name in shown for name in METHODS)
    described = CliRunner().invoke(app, ["methods", "shap", "lime"]).output
    assert METHODS["shap"].facts.fails in described
    assert METHODS["lime"].facts.source in described


def test_the_command_measures_and_writes_a_table(tmp_path, monkeypatch):
    out = tmp_path / "methods.csv"
    words = ["-w", WEIGHTS, "-d", "synthetic", "--noise", "noises/white.wav", "-m", "energy"]
    words += ["--clips", 2, "--checked", 2, "--results", tmp_path / "runs", "--out", out]
    assert command(monkeypatch, *words) == 0
    table = pd.read_csv(out)
    assert table["method"].tolist() == ["energy"]
    assert table["weights"].to_list() == pytest.approx([1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gradcm"], "unknown method 'gradcm'"),
        (["--data", "synthetic"], "only where methods are measured"),
        (["-w", WEIGHTS], "needs --data and at least one --noise"),
        (["lime", "-w", WEIGHTS], "name the methods to measure by --method"),
    ],
)
def test_a_bad_request_is_named(words, message, monkeypatch, capsys):
    assert command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err


def test_the_page_in_docs_is_that_of_the_facts_and_of_the_kept_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import matrix

    page = matrix.PAGE.read_text(encoding="utf-8")
    assert page == matrix.with_matrix(page), "run python benchmarks/matrix.py"
