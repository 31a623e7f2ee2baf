"""Tables and pages of runs in which several classes of a clip are explained."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_runs import CLIPS, KNOWN, shifted, write
from pages import read_data

from audiointerp.report import write_report
from audiointerp.tables import compare, estimate, load_results
from audiointerp.tables.paper import make_tables


def of_classes(columns, classes, count=4):
    """Return the columns for several explained classes of the first clips."""
    clips = [clip for clip in CLIPS[:count] for _ in classes]
    repeated = {name: [*values][: len(clips)] for name, values in columns.items()}
    correct = [number % 2 == 0 for number in range(count) for _ in classes]
    return repeated, {
        "clips": clips,
        "explained": [*classes] * count,
        "target": "dog|rain",
        "predicted": ["dog" if right else "cat" for right in correct],
        "is_correct": correct,
    }


@pytest.fixture
def several(tmp_path):
    """Return results in which two classes of each clip are explained."""
    for method, by in (("gradcam", 0.1), ("saliency", 0.0)):
        columns, more = of_classes(shifted(KNOWN, "FF", by), ("dog", "rain"))
        write(tmp_path, f"{method}_clean", columns, **more)
    return tmp_path / "results"


def test_a_row_is_an_explained_class_of_a_clip(several):
    results = load_results(several)
    assert len(results) == 2 * 2 * 8
    found = estimate(results, resamples=50).iloc[0]
    assert (found["clips"], found["rows"]) == (4, 8)
    assert found["FF"] == pytest.approx(np.mean(results["FF"][:8]))
    tables = make_tables(results, resamples=20)
    caption = tables.select("methods_by_mask").tables[0].caption
    assert caption.endswith("(8 explained classes of 4 clips)")
    assert tables.frames["accuracy"]["accuracy"].tolist() == [50.0]


def test_the_pair_of_clip_and_class_may_not_repeat(several):
    path = several / "mel" / "gradcam_clean" / "csvs" / "bin.csv"
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text, text[-1]]) + "\n")
    with pytest.raises(ValueError, match=r"bin\.csv: has clip clip3 of rain twice"):
        load_results(several)
    with pytest.raises(ValueError, match="twice"):
        write_report(several)


def test_intervals_are_over_clips_not_rows(several):
    """Equal rows of a clip are no further evidence: the interval is that of one row of each."""
    for path in several.glob("*/*/csvs/*.csv"):
        frame = pd.read_csv(path)
        frame[list(KNOWN)] = frame.groupby("clip")[list(KNOWN)].transform("first")
        frame.to_csv(path, index=False)
    whole = estimate(load_results(several), resamples=300)
    results = load_results(several)
    one = estimate(results[results["explained"] == "dog"], resamples=300)
    for column in ("FF", "FF_low", "FF_high", "score", "score_low", "score_high"):
        np.testing.assert_allclose(whole[column], one[column])


def test_a_clip_counts_once_in_a_test(several):
    results = load_results(several)
    found = compare(results, "method", within=["model", "experiment", "mask"])
    test = found[(found["metric"] == "FF")].iloc[0]
    assert test["clips"] == 4
    assert abs(test["difference"]) == pytest.approx(0.1)
    assert test["p"] == pytest.approx(2 / 2**4)  # the least of four clips, not of eight rows


def test_the_page_shows_explained_classes(several, browser):
    page = write_report(several)
    (run, _) = read_data(page)["runs"]
    assert run["explained"] == ["dog", "rain"] * 4
    assert run["clips"] == [clip for clip in CLIPS[:4] for _ in range(2)]
    assert run["classes"] == ["dog", "rain"]
    assert dict(run["about"])["Explained class"].startswith("8 classes of 4 clips")
    assert "chosen classes" in run["silent"]
    browser.open(page, 1400, 900)
    browser.until("byId('clips').tBodies[0].rows.length === 8")
    cells = "[...byId('clips').tBodies[0].rows[1].cells].map((cell) => cell.textContent)"
    assert browser.run(cells)[:3] == ["clip0", "rain", "dog|rain"]
    # A clip counts once in the accuracy, whatever is explained of it.
    assert "2 of 4 clips" in browser.run("byId('accuracy').textContent")
    assert "rain: 2 of 4 right" in browser.run("byId('class').textContent")
    assert "8 explained classes" in browser.run("byId('about-masks').textContent")
    browser.run("byId('class').value = 'rain'; byId('class').dispatchEvent(new Event('change'))")
    assert browser.run("byId('clips').tBodies[0].rows.length") == 8
    assert browser.complaints() == []
