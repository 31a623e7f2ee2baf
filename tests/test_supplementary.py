"""The tables in supplementary/ are those that the results in the repository give."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from repository import REPOSITORY
from scipy.stats import wilcoxon

from audiointerp.interpretation import METHODS
from audiointerp.masking import MASKS
from audiointerp.metrics import METRICS
from audiointerp.tables import load_results
from audiointerp.tables.paper import make_tables

FOLDERS = [REPOSITORY / "supplementary" / name for name in ("tables_esc10", "tables_synthetic")]
ESC10 = FOLDERS[0]
RESULTS = REPOSITORY / "results"
SCORED = ("FF", "AI", "AD", "AG", "FidIn", "SPS", "COMP")
"""The metrics that these tables were made with."""
RUN = ["model", "experiment", "method", "mask"]


def read(folder, kind: str) -> pd.DataFrame:
    return pd.read_csv(folder / "csv" / f"{kind}.csv", keep_default_na=False, na_values=[""])


def rows_of(model: str, experiment: str, method: str, mask: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / model / f"{method}_{experiment}" / "csvs" / f"{mask}.csv")


def test_there_is_a_row_for_every_run_and_mask():
    runs = {
        (path.parts[-4], *reversed(path.parts[-3].split("_", 1)), path.stem)
        for model in ("esc10_logmel", "esc10_logstft")
        for path in RESULTS.glob(f"{model}/*_*/csvs/*.csv")
    }
    for kind in ("masks_by_method", "methods_by_mask", "plane"):
        assert set(read(ESC10, kind)[RUN].itertuples(index=False, name=None)) == runs


@pytest.mark.parametrize("kind", ["masks_by_method", "methods_by_mask"])
def test_means_are_those_of_the_results(kind):
    table = read(ESC10, kind).set_index(RUN)
    for key in table.index[::37]:
        rows = rows_of(*key)
        assert table.loc[key, "clips"] == len(rows)
        means = rows[list(SCORED)].mean().to_numpy()
        assert table.loc[key, list(SCORED)].to_numpy(float) == pytest.approx(means, rel=1e-8)


def test_accuracies_are_those_of_the_results():
    for row in read(ESC10, "accuracy").itertuples():
        rows = rows_of(row.model, row.experiment, "lime", "bin")
        assert row.accuracy == 100 * (rows["target"] == rows["predicted"]).mean()


def test_right_and_wrong_answers_are_those_of_the_results():
    table = read(ESC10, "correct_and_wrong").set_index([*RUN, "label"])
    for *key, label in table.index[::97]:
        rows = rows_of(*key)
        rows = rows[rows["is_correct"] == (label == "correct")]
        assert table.loc[(*key, label), "clips"] == len(rows)
        assert table.loc[(*key, label), "AD"] == pytest.approx(rows["AD"].mean(), rel=1e-8)


def test_experiments_side_by_side_are_those_of_the_results():
    table = read(ESC10, "experiments")
    for row in table[table["metric"] == "FidIn"][::19].to_dict("records"):
        for experiment in ("clean", "horse", "room", "white"):
            rows = rows_of(row["model"], experiment, row["method"], row["mask"])
            assert row[experiment] == pytest.approx(rows["FidIn"].mean(), rel=1e-8)


def test_tests_are_those_of_the_results():
    table = read(ESC10, "comparisons")
    table = table[(table["metric"] == "FF") & (table["mask"] != "best of each")]
    found = 0
    for row in table[::23].itertuples():
        first, second = (
            rows_of(row.model, row.experiment, method, row.mask)["FF"]
            for method in (row.first, row.second)
        )
        difference = first - second
        if difference.abs().min() > 1e-6 and difference.abs().is_unique:
            expected = wilcoxon(difference, method="approx", correction=False).pvalue
            assert row.p == pytest.approx(expected, rel=1e-6)
            found += 1
    assert found >= 5


def test_everything_of_one_experiment_is_made_again_alike():
    model, experiment = "esc10_logmel", "clean"
    results = load_results(RESULTS, models=[model], experiments=[experiment])
    some = results[results["mask"].isin(["bin", "topK_5", "minmax_pos"])]
    made = make_tables(some).frames["methods_by_mask"]
    kept = read(ESC10, "methods_by_mask")
    kept = kept[
        (kept["model"] == model)
        & (kept["experiment"] == experiment)
        & kept["mask"].isin(some["mask"])
    ]
    marks = [column for column in made if column.endswith("_mark")]
    kept[marks] = kept[marks].fillna("")
    made, kept = (frame.sort_values(RUN, ignore_index=True) for frame in (made, kept))
    pd.testing.assert_frame_equal(made, kept, rtol=1e-8, check_dtype=False)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_kinds_of_tables_agree(folder):
    by_method, by_mask = read(folder, "masks_by_method"), read(folder, "methods_by_mask")
    numbers = [column for column in by_method if not column.endswith("_mark")]
    pd.testing.assert_frame_equal(
        by_method.sort_values(RUN, ignore_index=True)[numbers],
        by_mask.sort_values(RUN, ignore_index=True)[numbers],
    )
    assert set(by_method["mask"]) == set(MASKS)
    assert set(by_method["method"]) <= set(METHODS)
    best = by_method.loc[by_method.groupby(RUN[:3])["score"].idxmax()]
    summary = read(folder, "summary").merge(best, on=RUN[:3], suffixes=("", "_best"))
    assert len(summary) == len(best)
    assert summary["score"].to_numpy() == pytest.approx(summary["score_best"].to_numpy(), abs=1e-6)
    plane = read(folder, "plane").merge(by_method, on=RUN)
    product = plane["fidelity"] ** 5 * plane["simplicity"] ** 2
    assert plane["score"].to_numpy() == pytest.approx(product.to_numpy() ** (1 / 7), rel=1e-6)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_means_lie_in_their_intervals_and_marks_on_the_extremes(folder):
    table = read(folder, "methods_by_mask")
    for metric in SCORED:
        values = table[metric]
        assert (table[f"{metric}_low"] <= values + 1e-9).all()
        assert (values <= table[f"{metric}_high"] + 1e-9).all()
        signed = values if METRICS[metric].better > 0 else -values
        groups = signed.groupby([table["model"], table["experiment"], table["mask"]])
        above = groups.transform("max") - signed
        marked = table[f"{metric}_mark"].isin(["best", "better"])
        assert (above[marked] <= 1e-4).all()
        assert np.isfinite(values).all()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_document_has_all_its_parts(folder):
    document = (folder / "latex" / "tables.tex").read_text()
    parts = re.findall(r"\\(?:input|includegraphics\[.*?\]){(.*?)}", document)
    assert len(parts) > 6
    for part in parts:
        assert (folder / "latex" / part).is_file()
    assert (folder / "tables.pdf").read_bytes().startswith(b"%PDF")
