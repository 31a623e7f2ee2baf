"""A metric is one record: what tables, report and docs make of it, and of runs without it."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pandas as pd
import pypdf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_runs import KNOWN, shifted, write
from pages import read_data
from repository import REPOSITORY

from audiointerp.evaluation import (
    EVIDENCE,
    METRICS,
    SCORED_FAMILIES,
    Evidence,
    Metric,
    Truth,
    evaluate_evidence,
    metric_columns,
    metrics_table,
)
from audiointerp.interpretation import METHODS
from audiointerp.masking import MASKS
from audiointerp.processing import View
from audiointerp.report import write_report
from audiointerp.tables import (
    compare,
    estimate,
    fidelity_simplicity,
    load_results,
    mark,
    normalise,
    score,
    scored_metrics,
    summarise,
)
from audiointerp.tables.files import write_tables
from audiointerp.tables.paper import make_tables

PRECISION = [0.5 + 0.04 * n for n in range(8)]


def hits(evidence: Evidence) -> torch.Tensor:
    """Return the share of the true cells that a map is positive in, NaN where there are none."""
    inside = (evidence.attribution > 0) & evidence.truth.binary
    return inside.flatten(1).sum(1) / evidence.truth.binary.flatten(1).sum(1)


def record(name: str, **changes) -> Metric:
    facts = {
        "title": "area under the curve",
        "meaning": "how well the map finds the cells of the foreground",
        "unit": "",
        "decimals": 4,
        "clip_decimals": 2,
        "better": 1,
        "bounds": lambda cells: (0.0, 1.0),
        "family": "localisation",
        "level": "map",
        "needs": frozenset({"attribution", "truth"}),
        "compute": hits,
    }
    return Metric(name, **(facts | changes))


HITS = record("Hits")
SI_SDR = record(
    "SI-SDR",
    title="signal-to-distortion ratio",
    meaning="how well what the mask keeps is the foreground",
    unit="dB",
    decimals=1,
    bounds=lambda cells: (-math.inf, math.inf),
    level="sound",
)


@pytest.fixture
def register(monkeypatch):
    """Return a function that registers metrics for the time of a test."""
    known = list(METRICS)

    def add(*records: Metric) -> None:
        for each in records:
            monkeypatch.setitem(METRICS, each.name, each)

    yield add
    monkeypatch.undo()
    assert list(METRICS) == known


# The records.


@pytest.mark.parametrize("name", METRICS)
def test_a_record_is_filed_by_its_name_and_says_all_that_tables_need(name):
    metric = METRICS[name]
    assert metric.name == name
    low, high = metric.bounds(1000)
    assert low < high
    assert metric.title
    assert metric.meaning
    assert metric.needs <= EVIDENCE
    assert metric.level in ("map", "mask", "sound")
    assert metric.decimals >= 0 <= metric.clip_decimals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needs": frozenset({"thruth"})}, "needs thruth: expected some of attribution"),
        ({"better": 0}, "better is 0"),
        ({"bounds": lambda cells: (1.0, 0.0)}, "bounds of Hits are 1 and 0"),
        ({"family": "fidelity", "bounds": lambda cells: (0.0, math.inf)}, "Hits .* is unbounded"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        record("Hits", **changes)


@pytest.mark.parametrize("name", ["clip", "mask", "score", "explained"])
def test_a_metric_cannot_take_the_name_of_another_column(name):
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        record(name)


@pytest.mark.parametrize("name", metric_columns(METRICS, SCORED_FAMILIES))
@given(share=st.floats(-0.2, 1.2), cells=st.integers(2, 10**6))
def test_the_scale_runs_from_the_worse_bound_or_zero_to_the_better_one(name, share, cells):
    metric = METRICS[name]
    low, high = metric.bounds(cells)
    worst, best = (low, high) if metric.better > 0 else (high, low)
    if low < 0 < high:
        worst = 0.0
    value = min(max(worst + share * (best - worst), low), high)
    expected = min(max((value - worst) / (best - worst), 0), 1)
    assert normalise([value], cells, [name])[0] == pytest.approx(expected, abs=1e-12)


def test_a_metric_about_zero_where_lower_is_better_is_cut_at_zero_too(register):
    register(record("bias", family="fidelity", better=-1, bounds=lambda cells: (-2.0, 1.0)))
    assert normalise([[-2.0], [-0.5], [0.0], [0.7]], 10, ["bias"]).ravel() == pytest.approx(
        [1, 0.25, 0, 0]
    )


def test_the_docs_have_the_table_of_the_records():
    text = (REPOSITORY / "docs" / "tables.md").read_text()
    block = re.search(r"<!-- metrics -->\n(.*?)\n<!-- /metrics -->", text, re.DOTALL)
    assert block is not None
    expected = metrics_table()
    assert block[1] == expected, f"docs/tables.md is of other records; put into it:\n{expected}"


def test_the_table_of_records_names_units_ranges_and_needs(register):
    register(HITS, SI_SDR)
    lines = metrics_table(["COMP", "Hits", "SI-SDR"]).splitlines()
    assert [line.split(" | ")[3] for line in lines[2:]] == [
        "0 to 9.21 nats for 10000 cells",
        "0 to 1",
        "−∞ to ∞ dB",
    ]
    assert lines[3].endswith("| higher | localisation | attribution, truth |")
    assert len(metrics_table().splitlines()) == 2 + len(METRICS)


# A metric that is new.


def test_a_new_metric_is_computed_where_the_truth_is_known(register):
    register(HITS)
    attribution = torch.tensor([[[[1.0, -1.0], [1.0, 0.0]]]]).expand(2, -1, -1, -1)
    louder = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    truth = Truth(View(louder), View(torch.zeros_like(louder)))
    known = {"before": torch.full((2, 2), 0.5), "target": torch.tensor([0, 1])}
    found = evaluate_evidence(Evidence(**known, attribution=attribution, truth=truth))
    assert list(found) == ["AUPRC", "AUROC", "mass", "rank", "pointing", "Hits"]
    np.testing.assert_array_equal(found["Hits"], [0.5, np.nan])
    assert evaluate_evidence(Evidence(**known, attribution=attribution)) == {}


@pytest.fixture
def located(register, tmp_path):
    """Return the results of two runs with a metric that was registered for the test."""
    register(HITS)
    write(tmp_path, "saliency_clean", KNOWN | {"Hits": PRECISION})
    write(tmp_path, "gradcam_clean", shifted(KNOWN | {"Hits": PRECISION}, "Hits", 0.05))
    return tmp_path / "results"


def test_a_new_metric_is_in_every_kind_of_table(located, tmp_path):
    assert metric_columns(load_results(located)) == [*KNOWN, "Hits"]
    write_tables(located, tmp_path / "out", resamples=50)
    csv, latex = tmp_path / "out" / "csv", tmp_path / "out" / "latex"
    means = pd.read_csv(csv / "methods_by_mask.csv").set_index(["mask", "method"]).loc["bin"]
    mean = np.mean(PRECISION)
    for name, value, sign in (("saliency", mean, "worse"), ("gradcam", mean + 0.05, "better")):
        row = means.loc[name]
        assert row["Hits"] == pytest.approx(value)
        assert row["Hits_low"] < value < row["Hits_high"]
        assert row["Hits_mark"] == sign
    tests = pd.read_csv(csv / "comparisons.csv").query("metric == 'Hits'")
    assert set(tests["better"]) == {"gradcam"}
    for kind in ("summary", "masks_by_method", "methods_by_mask", "correct_and_wrong"):
        text = (latex / f"{kind}.tex").read_text()
        assert r"Hits $\uparrow$" in text
    assert f"{mean:.4f}" in (latex / "methods_by_mask.tex").read_text()  # the record's decimals


def test_a_new_metric_is_in_the_pdf(located, tmp_path):
    write_tables(located, tmp_path / "out", resamples=50)
    pages = pypdf.PdfReader(tmp_path / "out" / "tables.pdf").pages
    text = " ".join(" ".join(page.extract_text().split()) for page in pages)
    assert f"Area under the curve: {HITS.meaning}" in text
    assert "all masks (8 clips); localisation" in text
    assert f"{np.mean(PRECISION) + 0.05:.4f}" in text


def test_a_new_metric_is_in_the_data_of_the_page(located):
    page = read_data(write_report(located))
    assert page["metrics"][-1] == {
        "name": "Hits",
        "about": f"Area under the curve: {HITS.meaning}",
        "better": "higher",
        "digits": 2,
        "mean_digits": 4,
        "same": 1e-6,
        "partial": False,
    }
    shift = {"gradcam": 0.05, "saliency": 0.0}
    for run in page["runs"]:
        values = [row[-1] for row in run["tables"]["features"]["bin"]]
        assert values == [value + shift[run["method"]] for value in PRECISION]
        assert run["ranges"][-1] is None


def test_a_new_metric_is_shown_by_the_page(register, tmp_path, browser):
    register(HITS, SI_SDR)
    values = [3.25, -1.0] * 4
    write(tmp_path, "gradcam_clean", KNOWN | {"Hits": PRECISION, "SI-SDR": values})
    browser.open(write_report(tmp_path / "results"), 1400, 900)
    browser.until("byId('masks').tBodies[0].rows.length === 2")
    heads = browser.run("[...byId('masks').tHead.rows[0].cells].map((cell) => cell.textContent)")
    assert heads[-3:] == ["Hits ↑", "SI-SDR ↑", "score ↑"]
    cells = "[...byId('masks').tBodies[0].rows[0].cells].map((cell) => cell.textContent)"
    assert browser.run(cells)[-3:-1] == [f"{np.mean(PRECISION):.4f}", "1.1"]
    terms = dict(
        browser.run(
            "[...byId('glossary').querySelectorAll('dt')]"
            ".map((term) => [term.textContent, term.nextSibling.textContent])"
        )
    )
    assert terms["SI-SDR"] == f"Signal-to-distortion ratio, dB: {SI_SDR.meaning}; higher is better."
    assert list(terms) == [*KNOWN, "Hits", "SI-SDR", "score"]
    assert browser.complaints() == []


def test_other_families_do_not_enter_the_score(register, tmp_path):
    write(tmp_path, "gradcam_clean", KNOWN | {"Hits": PRECISION, "SI-SDR": [30.0, -40.0] * 4})
    with pytest.warns(UserWarning, match="no registered metric"):
        before = load_results(tmp_path / "results")
    register(HITS, SI_SDR)
    after = load_results(tmp_path / "results")
    assert scored_metrics(after) == scored_metrics(before) == list(KNOWN)
    plain, more = (estimate(results, resamples=60) for results in (before, after))
    pd.testing.assert_frame_equal(more[plain.columns], plain)
    assert more["SI-SDR"].tolist() == [-5.0, -5.0]
    planes = [fidelity_simplicity(results) for results in (before, after)]
    pd.testing.assert_frame_equal(*planes)
    tables = make_tables(after, resamples=20).select("masks_by_method").tables
    assert [table.columns[-1].name for table in tables] == ["score", "SI-SDR"]
    assert [(c.name, c.unit, c.decimals) for c in tables[1].columns] == [
        ("Hits", "", 4),
        ("SI-SDR", "dB", 1),
    ]


def test_more_columns_than_a_page_is_wide_for_go_into_several_tables(register, tmp_path):
    names = [f"L{number}" for number in range(20)]
    register(*map(record, names))
    write(tmp_path, "gradcam_clean", KNOWN | dict.fromkeys(names, PRECISION))
    tables = make_tables(load_results(tmp_path / "results"), resamples=20)
    tables = tables.select("masks_by_method").tables
    shown = [column.name for table in tables for column in table.columns]
    assert shown == [*KNOWN, "score", *names]
    assert max(len(table.columns) for table in tables) <= 9
    assert len({table.caption for table in tables}) == len(tables)


def test_the_pdf_explains_any_number_of_metrics(register, tmp_path):
    names = [f"L{number:02}" for number in range(40)]
    register(*(record(name, meaning=f"meaning of {name}, with Σ") for name in names))
    write(tmp_path, "gradcam_clean", KNOWN | dict.fromkeys(names, PRECISION))
    write(tmp_path, "gradcam_horse", KNOWN | dict.fromkeys(names, PRECISION))
    write_tables(tmp_path / "results", tmp_path / "out", resamples=5)
    pages = pypdf.PdfReader(tmp_path / "out" / "tables.pdf").pages
    texts = [" ".join(page.extract_text().split()) for page in pages]
    for name in names:
        assert sum(f"meaning of {name}, with Σ" in text for text in texts) == 1
    # The contents lead to the page of each metric, whose caption is on it.
    links = [entry.get_object() for page in pages[:2] for entry in page.get("/Annots", ())]
    numbers = {page.indirect_reference.idnum: n for n, page in enumerate(pages)}
    leads = {numbers[link["/Dest"][0].idnum] for link in links}
    assert {n for n, text in enumerate(texts) if "mel, L" in text} <= leads


# Values that are not there.


def test_what_has_no_value_is_left_out_and_the_number_of_the_others_is_shown(register, tmp_path):
    register(HITS)
    some = [math.nan, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, math.nan]
    write(tmp_path, "gradcam_clean", KNOWN | {"Hits": some})
    write(tmp_path, "saliency_clean", KNOWN | {"Hits": [value - 0.1 for value in PRECISION]})
    results = load_results(tmp_path / "results")
    found = estimate(results, resamples=400).set_index(["method", "mask"]).loc[("gradcam", "bin")]
    assert (found["clips"], found["Hits_n"]) == (8, 6)
    assert found["Hits"] == pytest.approx(0.65)
    assert 0.4 < found["Hits_low"] < 0.65 < found["Hits_high"] < 0.9
    assert summarise(results).loc[("mel", "gradcam", "clean", "bin"), "Hits_n"] == 6
    test = compare(results, "method", within=["model", "experiment", "mask"])
    test = test[(test["metric"] == "Hits") & (test["mask"] == "bin")].iloc[0]
    assert test["clips"] == 6
    both = np.array(some[1:7]) - (np.array(PRECISION[1:7]) - 0.1)
    sign = 1 if test["first"] == "gradcam" else -1
    assert sign * test["difference"] == pytest.approx(both.mean())
    table = make_tables(results, resamples=20).select("methods_by_mask").tables[1]
    assert [column.name for column in table.columns] == ["Hits", "n"]
    assert table.caption.endswith("localisation; n: how many have a value")
    shown = {row.label: [cell.text for cell in row.cells] for row in table.rows}
    assert shown["gradcam"] == ["0.6500", "6"]
    assert shown["saliency"] == [f"{np.mean(PRECISION) - 0.1:.4f}", "8"]


def test_a_mean_over_one_clip_has_no_interval(register, tmp_path):
    register(HITS)
    write(tmp_path, "gradcam_clean", KNOWN | {"Hits": [0.5, *[math.nan] * 7]})
    row = estimate(load_results(tmp_path / "results"), resamples=50).iloc[0]
    assert row["Hits"] == 0.5
    assert math.isnan(row["Hits_low"])
    assert row["FF_low"] < row["FF"] < row["FF_high"]
    assert not math.isnan(row["score_low"])


def test_the_page_says_how_many_a_mean_is_over(register, tmp_path, browser):
    register(HITS)
    write(tmp_path, "gradcam_clean", KNOWN | {"Hits": [0.5, 0.7, *[math.nan] * 6]})
    page = write_report(tmp_path / "results")
    assert read_data(page)["metrics"][-1]["partial"]
    browser.open(page, 1400, 900)
    browser.until("byId('masks').tBodies[0].rows.length === 2")
    cells = "[...byId('{}').tBodies[0].rows[{}].cells].map((cell) => cell.textContent)"
    assert browser.run(cells.format("masks", 0))[-3:-1] == ["0.6000", "2"]
    assert browser.run(cells.format("clips", 0))[-1] == "0.50"
    assert browser.run(cells.format("clips", 7))[-1] == "–"
    assert browser.complaints() == []


# Runs of other times.


@pytest.mark.filterwarnings("error")
def test_clean_clips_are_not_said_to_lack_what_needs_noise(tmp_path):
    write(tmp_path, "saliency_clean", KNOWN)
    write(tmp_path, "saliency_horse", KNOWN | {"AUPRC": PRECISION, "AUROC": PRECISION})
    write(tmp_path, "gradcam_horse", KNOWN | {"AUPRC": PRECISION, "AUROC": PRECISION})
    results = load_results(tmp_path / "results")
    of_noise = results["experiment"] == "horse"
    assert results.loc[of_noise, "AUPRC"].notna().all()
    assert results.loc[~of_noise, "AUPRC"].isna().all()


def test_a_run_that_has_some_metrics_of_truth_is_said_to_lack_the_others(tmp_path):
    write(tmp_path, "saliency_horse", KNOWN | {"AUPRC": PRECISION, "AUROC": PRECISION})
    write(tmp_path, "gradcam_horse", KNOWN | {"AUROC": PRECISION})
    with pytest.warns(UserWarning, match=r"others have: AUPRC \(mel/gradcam_horse\)"):
        load_results(tmp_path / "results")


def test_a_run_made_before_a_metric_existed_is_completed(register, tmp_path):
    register(HITS)
    write(tmp_path, "saliency_clean", KNOWN | {"Hits": PRECISION})
    write(tmp_path, "gradcam_clean", KNOWN)
    lacks = r"lack metrics that others have: Hits \(mel/gradcam_clean\); they"
    with pytest.warns(UserWarning, match=lacks) as found:
        results = load_results(tmp_path / "results")
    assert len(found) == 1
    assert results.loc[results["method"] == "gradcam", "Hits"].isna().all()
    tables = make_tables(results, resamples=20)
    table = tables.select("methods_by_mask", mask="bin").tables[1]
    shown = {row.label: [cell.text for cell in row.cells] for row in table.rows}
    assert shown == {"gradcam": ["–"], "saliency": [f"{np.mean(PRECISION):.4f}"]}
    assert {cell.mark for row in table.rows for cell in row.cells} == {""}
    tests = tables.frames["comparisons"].query("metric == 'Hits'")
    assert tests["clips"].tolist() == [0] * len(tests)
    assert tests["p_holm"].isna().all()
    assert not tables.frames["summary"]["score"].isna().any()
    with pytest.warns(UserWarning, match=lacks) as found:
        page = read_data(write_report(tmp_path / "results"))
    assert len(found) == 1
    values = {run["method"]: run["tables"]["features"]["bin"][0][-1] for run in page["runs"]}
    assert values == {"gradcam": None, "saliency": PRECISION[0]}


def test_a_score_is_made_of_the_metrics_that_all_runs_have(register, tmp_path):
    register(record("X", family="fidelity"))
    write(tmp_path, "saliency_clean", KNOWN | {"X": PRECISION})
    write(tmp_path, "gradcam_clean", KNOWN)
    with pytest.warns(UserWarning, match="a score is made of those that all have"):
        results = load_results(tmp_path / "results")
    assert scored_metrics(results) == list(KNOWN)
    row = estimate(results, resamples=20).iloc[0]
    means = [np.mean(values) for values in KNOWN.values()]
    assert row["score"] == pytest.approx(float(score(means, 64 * 101, names=list(KNOWN))))
    alone = results[results["method"] == "saliency"]
    assert scored_metrics(alone) == [*KNOWN, "X"]
    text = make_tables(results, resamples=20)
    assert text.scored == tuple(KNOWN)


def test_a_metric_that_no_run_has_has_no_column_and_no_warning(register, tmp_path):
    register(HITS)
    write(tmp_path, "gradcam_clean", KNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = load_results(tmp_path / "results")
        page = read_data(write_report(tmp_path / "results"))
    assert "Hits" not in results
    tables = make_tables(results, resamples=20)
    assert all(c.name != "Hits" for table in tables.tables for c in table.columns)
    assert [metric["name"] for metric in page["metrics"]] == list(KNOWN)


def test_columns_of_metrics_that_are_not_registered_are_left_out_with_a_warning(tmp_path):
    write(tmp_path, "gradcam_clean", KNOWN | {"Hits": PRECISION, "note": ["x"] * 8})
    write(tmp_path, "saliency_clean", KNOWN | {"Hits": PRECISION})
    which = r"Hits \(mel/gradcam_clean, mel/saliency_clean\); note \(mel/gradcam_clean\)"
    with pytest.warns(UserWarning, match=f"left out: {which}") as found:
        results = load_results(tmp_path / "results")
    assert len(found) == 1
    assert list(results.columns.intersection(["Hits", "note"])) == []
    with pytest.warns(UserWarning, match="left out: Hits") as found:
        page = read_data(write_report(tmp_path / "results"))
    assert len(found) == 1
    assert [metric["name"] for metric in page["metrics"]] == list(KNOWN)


@pytest.mark.parametrize("text", ["inf", "nan", "much"])
def test_only_an_empty_field_is_no_value(register, tmp_path, text):
    register(HITS)
    folder = write(tmp_path, "gradcam_clean", {"Hits": PRECISION})
    path = folder / "csvs" / "bin.csv"
    path.write_text(path.read_text().replace("0.5\n", f"{text}\n", 1))
    with pytest.raises(ValueError, match=r"bin\.csv: column Hits has values that are no finite"):
        load_results(tmp_path / "results")


def test_runs_without_a_metric_in_common_have_no_score(register, tmp_path):
    register(HITS)
    write(tmp_path, "gradcam_clean", {"Hits": PRECISION})
    results = load_results(tmp_path / "results")
    with pytest.raises(ValueError, match="no metric of the families fidelity and simplicity"):
        make_tables(results)
    page = read_data(write_report(tmp_path / "results"))
    assert page["score"] is None


# Names in their order.


def test_names_come_as_they_are_registered_and_others_after_them(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "zebra", next(iter(METHODS.values())))
    monkeypatch.setitem(MASKS, "a_mask", next(iter(MASKS.values())))
    methods = ["aardvark", "zebra", *list(METHODS)[:2]]
    for method in methods:
        write(tmp_path, f"{method}_clean", masks=("zz", "a_mask", "topK_5", "bin"))
    results = load_results(tmp_path / "results")
    found = make_tables(results, resamples=20).frames["masks_by_method"]
    assert list(dict.fromkeys(found["method"])) == [*list(METHODS)[:2], "zebra", "aardvark"]
    assert found["mask"].tolist()[:4] == ["bin", "topK_5", "a_mask", "zz"]
    page = read_data(write_report(tmp_path / "results"))
    assert [run["method"] for run in page["runs"]] == [*list(METHODS)[:2], "zebra", "aardvark"]
    assert list(page["runs"][0]["tables"]["features"]) == ["bin", "topK_5", "a_mask", "zz"]


def test_marks_leave_out_what_has_no_mean():
    frame = pd.DataFrame({"model": "m", "method": ["a", "b", "c"], "FF": [0.5, np.nan, 0.3]})
    frame["score"] = [0.1, 0.2, np.nan]
    pairs = pd.DataFrame(columns=["model", "metric", "first", "second", "better", "p_holm"])
    found = mark(frame, pairs, "method", within=["model"])
    assert found["FF_mark"].tolist() == ["best", "", "worst"]
    assert found["score_mark"].tolist() == ["worst", "best", ""]
