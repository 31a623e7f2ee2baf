"""The page of runs in a browser: what it shows, sorts, chooses and plays."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from pages import read_data
from PIL import Image
from runs import CLASSES, CLIPS, HEARD, METHODS, folder_of, read_rows

from audiointerp.evaluation import SCORED_FAMILIES, metric_columns
from audiointerp.masking import MASKS
from audiointerp.metrics import METRICS
from audiointerp.report import write_report
from audiointerp.runs.clip import job_metrics
from audiointerp.tables import score


def load_page(browser, page, width=1440, height=1000, **options):
    browser.open(page, width, height, **options)
    browser.until("byId('masks').tBodies[0].rows.length > 2")


SHOWN = list(job_metrics(parts=True, events=True))
"""The columns of the pages: some of the runs are under noise."""


def without_counts(table, cells):
    """Return a script for the cells of a row that are no counts of values."""
    heading = f"byId('{table}').tHead.rows[0].cells[c.cellIndex].innerText.trim()"
    return f"{cells}.filter(c => {heading} !== 'n')"


def titles(table, column=None):
    cells = "[...r.cells].slice(1)" if column is None else f"[r.cells[{column}]]"
    cell = without_counts(table, cells)
    return f"[...byId('{table}').tBodies[0].rows].map(r => {cell}.map(c => Number(c.title)))"


def names(table):
    return f"[...byId('{table}').tBodies[0].rows].map(r => r.cells[0].innerText)"


def expected_means(rows, cells):
    """Return the means of what is known, 0 for an empty cell, and the score."""
    values = [[float(row[name]) for row in rows if row.get(name)] for name in SHOWN]
    means = [math.fsum(column) / len(column) if column else 0.0 for column in values]
    scored = metric_columns(SHOWN, SCORED_FAMILIES)
    return [*means, float(score([means[SHOWN.index(n)] for n in scored], cells, names=scored))]


def test_diagnostics_belong_to_their_clips(copy, browser):
    folder = copy / "gradcam_clean"
    clips = [row["clip"] for row in read_rows(folder, "bin")]
    values = {clip: place / 7e4 for place, clip in enumerate(clips[:-1])}
    table = pd.DataFrame({"clip": values.keys(), "residual": values.values()})
    table.sample(frac=1, random_state=0).to_csv(folder / "diagnostics.csv", index=False)
    page = write_report(folder)
    (run,) = read_data(page)["runs"]
    assert run["diagnostics"]["residual"] == [*values.values(), None]
    load_page(browser, page)
    shown = browser.run(
        "[...byId('clips').tBodies[0].rows].map(r => [...r.cells].at(-1).innerText)"
    )
    assert [float(text) for text in shown[:-1]] == pytest.approx([*values.values()], rel=5e-3)
    assert shown[-1] == "–"


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, True), (1600, 1000, False)])
@pytest.mark.parametrize("which", ["page", "bare"])
def test_the_page_fits_and_loads_nothing(browser, request, tmp_path, which, width, height, dark):
    page = request.getfixturevalue(which)
    load_page(browser, page, width, height, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    shot = np.asarray(Image.open(browser.picture(tmp_path / "shot.png")).convert("RGB"))
    assert shot.shape == (height, width, 3)
    assert (shot[2, 2].mean() < 60) == dark
    assert browser.run("byId('viewer').hidden") == (which == "bare")
    nameless = browser.run(
        """[...document.querySelectorAll("button, select, input")].filter((e) => e.offsetParent
        && !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim())
        || e.tabIndex < 0).map((e) => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("answer", ["all", "right", "wrong"])
def test_means_are_over_the_clips_asked_for(browser, page, workshop, answer):
    folder = workshop / "results" / "tiny" / "gradcam_horse"
    load_page(browser, page)
    press = "byId('{}').querySelector('[value={}]').click()"
    for choice in (("experiments", "horse"), ("methods", "gradcam"), ("answers", answer)):
        browser.run(press.format(*choice))
    wanted = {"all": ("True", "False"), "right": ("True",), "wrong": ("False",)}[answer]
    masks = browser.run(names("masks"))
    assert sorted(masks) == sorted(MASKS)
    for mask, found in zip(masks, browser.run(titles("masks")), strict=True):
        rows = [row for row in read_rows(folder, mask) if row["is_correct"] in wanted]
        assert rows, "the runs of this test have right and wrong clips"
        assert found == pytest.approx(expected_means(rows, 32 * 101), rel=1e-9, abs=1e-9)
    assert len(browser.run(names("clips"))) == len(rows)


def test_a_class_narrows_clips_and_means(browser, page, workshop, data):
    folder = folder_of(data["runs"][0], workshop)
    load_page(browser, page)
    browser.run(
        f"byId('class').value = {json.dumps(CLASSES[1])};"
        "byId('class').dispatchEvent(new Event('change'))"
    )
    rows = [row for row in read_rows(folder, HEARD[0]) if row["target"] == CLASSES[1]]
    assert browser.run("[...byId('clips').tBodies[0].rows].map(r => r.cells[1].innerText)") == [
        CLASSES[1]
    ] * len(rows)
    masks = browser.run(names("masks"))
    found = browser.run(titles("masks"))[masks.index(HEARD[0])]
    assert found == pytest.approx(expected_means(rows, 32 * 101), rel=1e-9)


def test_the_accuracy_is_that_of_all_clips(browser, page, workshop):
    load_page(browser, page)
    rows = read_rows(workshop / "results" / "tiny" / "saliency_clean", "bin")
    right = sum(row["is_correct"] == "True" for row in rows)
    said = f"{100 * right / CLIPS:.2f} % classified correctly, {right} of {CLIPS} clips"
    assert browser.run("byId('accuracy').innerText") == said
    assert browser.run(titles("runs", 1))[0] == [pytest.approx(100 * right / CLIPS)]


def test_the_best_of_every_column_is_marked(browser, page):
    load_page(browser, page)
    values = np.array(browser.run(titles("masks")))
    marked = np.array(
        browser.run(
            "[...byId('masks').tBodies[0].rows].map(r => "
            + without_counts("masks", "[...r.cells].slice(1)")
            + ".map(c => c.className === 'best' && c.innerText.includes('the best')))"
        )
    )
    for column, name in enumerate([*SHOWN, "score"]):
        sign, unit = (1, 1) if name == "score" else (METRICS[name].better, METRICS[name].scale)
        best = values[:, column] * sign
        expected = best.max() - best <= 1e-6 * unit
        if np.ptp(best) <= 1e-6 * unit:
            expected[:] = False
        assert marked[:, column].tolist() == expected.tolist(), name


def test_headings_sort_numbers_and_words(browser, page):
    load_page(browser, page)
    plain = browser.run(titles("masks", 1))
    press = "byId('{}').tHead.rows[0].cells[{}].querySelector('button').click()"
    for direction, order in (("descending", True), ("ascending", False)):
        browser.run(press.format("masks", 1))
        assert browser.run(titles("masks", 1)) == sorted(plain, reverse=order)
        heading = "byId('masks').tHead.rows[0].cells[1].getAttribute('aria-sort')"
        assert browser.run(heading) == direction
    browser.run(press.format("clips", 0))
    assert browser.run(names("clips")) == sorted(browser.run(names("clips")))


def test_a_row_chooses_the_mask_of_everything(browser, page, workshop, data):
    load_page(browser, page)
    browser.run(
        "[...byId('masks').querySelectorAll('tbody button')]"
        ".find(b => b.textContent === 'sigmoid').click()"
    )
    rows = read_rows(folder_of(data["runs"][0], workshop), "sigmoid")
    assert browser.run(titles("clips", 3)) == [[float(row["FF"])] for row in rows]
    assert browser.run("byId('mask').value") == "sigmoid"
    assert browser.run("players.in.button.disabled")
    assert "topK_30, minmax" in browser.run("players.in.note.textContent")
    assert browser.run("byId('probabilities').tBodies[0].rows[0].cells[2].textContent") == "–"


def test_the_keyboard_goes_from_a_clip_to_its_sound(browser, page, data):
    load_page(browser, page)
    clip = data["scenes"][2]["clip"]
    browser.run("byId('only-heard').click()")
    heard = {scene["clip"] for scene in data["scenes"]}
    assert set(browser.run(names("clips"))) == heard
    browser.run(
        f"[...byId('clips').querySelectorAll('tbody button')]"
        f".find(b => b.textContent === {json.dumps(clip)}).focus()"
    )
    browser.press("Enter", "Enter", 13, "\r")
    browser.until(f"shown.scene.clip === {json.dumps(clip)}")
    assert browser.run("byId('verdict').textContent").startswith(f"{clip}: heard as ")
    assert browser.run("document.activeElement === players.original.button")
    browser.press(" ", "Space", 32, " ")
    browser.until("players.original.playing()")
    browser.until("parseFloat(byId('cursor').style.left) > 20")
    assert browser.run("byId('listen').getBoundingClientRect().top") < 1000


def test_another_experiment_is_heard_with_its_noise(browser, page, data):
    load_page(browser, page)
    browser.run("byId('experiments').querySelector('[value=horse]').click()")
    noisy = next(run["group"] for run in data["runs"] if run["experiment"] == "horse")
    scene = next(scene for scene in data["scenes"] if scene["group"] == noisy)
    assert browser.run("players.original.source") == scene["sound"]["source"]
    assert browser.run("byId('run-title').textContent") == f"{next(iter(METHODS))} · horse"


def test_a_page_without_sounds_says_how_to_get_them(browser, bare):
    load_page(browser, bare)
    assert "--data FOLDER" in browser.run("byId('about-listen').innerText")
    assert browser.run("byId('chances').hidden && byId('clips-to-hear').hidden")
    assert browser.run("byId('clips').querySelectorAll('tbody button').length") == 0
    browser.press("1", "Digit1", 49, "1")
    assert browser.complaints() == []
