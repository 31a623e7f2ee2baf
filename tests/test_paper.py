"""Intervals, scores, marks and files of hand-made results, worked out by hand."""

from __future__ import annotations

import itertools
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pypdf
import pytest
from typer.testing import CliRunner

from audiointerp.cli.commands import app
from audiointerp.interpretation import METHODS
from audiointerp.plots import plot_plane
from audiointerp.runs.clip import job_metrics
from audiointerp.tables import (
    best_masks,
    compare,
    estimate,
    fidelity_simplicity,
    load_results,
    mark,
    normalise,
    score,
)
from audiointerp.tables.cells import Cell, Column, Row
from audiointerp.tables.files import to_latex, write_csv, write_tables
from audiointerp.tables.paper import make_tables
from audiointerp.tables.pdf import write_pdf
from audiointerp.tables.table import TITLES, Table
from audiointerp.tables.tex import escape

CELLS = math.e**10
ORDER = [name for name in METHODS if name in ("saliency", "gradcam")]
SETTINGS = {
    "model": {"name": "a network of one's own"},
    "processor": {"name": "LogMelSTFTSpectrogram", "sample_rate": 32000, "hop_length": 320},
    "dataset": {"duration": 5.0},
}


def rows(method: str, mask: str, metrics: dict[str, list[float]], experiment: str = "clean"):
    clips = len(next(iter(metrics.values())))
    base = {name: [0.5] * clips for name in ("FF", "FidIn", "SPS")}
    base |= {name: [50.0] * clips for name in ("AI", "AD", "AG")} | {"COMP": [5.0] * clips}
    frame = pd.DataFrame(base | metrics)
    return frame.assign(
        model="mel",
        method=method,
        experiment=experiment,
        mask=mask,
        clip=[f"c{i}" for i in range(clips)],
        is_correct=[i % 4 != 0 for i in range(clips)],
        cells=CELLS,
    )


def test_normalised_by_hand():
    shares = normalise([0.25, 30, 20, 10, 0.9, 0.6, 4], CELLS)
    assert shares == pytest.approx([0.25, 0.3, 0.8, 0.1, 0.9, 0.6, 0.6])
    assert normalise([-0.5, 0, 100, 0, 0, 0, 10], CELLS) == pytest.approx([0] * 7)
    assert normalise([1, 100, 0, 100, 1, 1, 0], CELLS) == pytest.approx([1] * 7)


def test_score_by_hand():
    product = 0.25 * 0.3 * 0.8 * 0.1 * 0.9 * 0.6 * 0.6
    assert score([0.25, 30, 20, 10, 0.9, 0.6, 4], CELLS) == pytest.approx(product ** (1 / 7))
    # AI is 0: it counts for 0.01, and the others still say which is better.
    assert score([1, 0, 0, 100, 1, 1, 0], CELLS) == pytest.approx(0.01 ** (1 / 7))
    assert score([0.5, 0, 0, 100, 1, 1, 0], CELLS) < score([1, 0, 0, 100, 1, 1, 0], CELLS)
    assert score([1, 100, 0, 100, 1, 0.4, 6], CELLS, of=["SPS", "COMP"]) == pytest.approx(0.4)


@pytest.mark.parametrize(("place", "value", "name"), [(1, 101, "AI"), (6, 10.1, "COMP")])
def test_what_no_metric_can_be_is_refused(place, value, name):
    means = [0.5, 50, 50, 50, 0.5, 0.5, 5]
    means[place] = value
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        score(means, CELLS)


def test_intervals_are_those_of_all_resamples_drawn_together():
    values = {"FF": [0.1, 0.2, 0.8, 0.9], "AI": [0.0, 100, 100, 100]}
    row = estimate(rows("shap", "bin", values), resamples=100_000).iloc[0]
    assert (row["clips"], row["FF"], row["AI"]) == (4, pytest.approx(0.5), 75)
    means = [
        [np.mean([values[name][i] for i in chosen]) for name in ("FF", "AI")]
        for chosen in itertools.product(range(4), repeat=4)
    ]
    scores = [(ff * max(ai / 100, 0.01) * 0.5**5) ** (1 / 7) for ff, ai in means]
    for name, drawn in (("FF", [m[0] for m in means]), ("score", scores)):
        expected = np.quantile(drawn, [0.025, 0.975])
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(expected, abs=0.01)
    assert row["SPS_low"] == row["SPS_high"] == pytest.approx(0.5)


def test_one_clip_has_a_mean_and_no_interval():
    row = estimate(rows("shap", "bin", {"FF": [0.3]})).iloc[0]
    assert row["FF"] == 0.3
    assert math.isnan(row["FF_low"])


def marks_of(results):
    within = ["model", "experiment", "mask"]
    found = mark(estimate(results, resamples=50), compare(results, "method", within=within),
                 "method", within=within)  # fmt: skip
    return found.set_index("method")


def test_better_than_every_other_only_where_the_test_says_so():
    steps = np.arange(12) / 100
    strong = rows("gradcam", "bin", {"FF": list(0.8 + steps), "AD": list(10 + steps)})
    weak = rows("shap", "bin", {"FF": list(0.2 - 2 * steps), "AD": list(90 + 2 * steps)})
    middle = rows("lime", "bin", {"FF": list(0.5 + steps / 2)})
    marks = marks_of(pd.concat([strong, weak, middle]))
    assert marks["FF_mark"].to_dict() == {"gradcam": "better", "shap": "worse", "lime": ""}
    assert marks["AD_mark"].to_dict() == {"gradcam": "better", "shap": "worse", "lime": ""}
    assert set(marks["AI_mark"]) == {""}  # all equal
    assert marks["score_mark"].to_dict() == {"gradcam": "best", "shap": "worst", "lime": ""}
    few = marks_of(pd.concat([strong[:4], weak[:4], middle[:4]]))  # p is 1/8 at the least
    assert few["FF_mark"].to_dict() == {"gradcam": "best", "shap": "worst", "lime": ""}


def test_ranks_against_the_mean_make_nothing_better():
    # Lower in 18 of 20 clips, higher on average through two of them.
    other = rows("shap", "bin", {"FF": [0.5 + i / 1000 for i in range(20)]})
    spread = rows("lime", "bin", {"FF": [0.49] * 18 + [1.0, 1.0]})
    table = compare(pd.concat([other, spread]), "method", within=["model", "experiment", "mask"])
    test = table.set_index("metric").loc["FF"]
    assert (test["first"], test["second"], test["better"]) == ("lime", "shap", "shap")
    assert test["difference"] > 0
    assert test["p_holm"] < 0.05
    assert marks_of(pd.concat([other, spread]))["FF_mark"].to_dict() == {
        "shap": "worst",
        "lime": "best",
    }


def test_equal_best_are_both_best_and_rounding_is_no_difference():
    ff = [0.5 + i / 100 for i in range(12)]
    same = rows("saliency", "bin", {"FF": ff})
    near = rows("lime", "bin", {"FF": [value + 1e-9 for value in ff]})
    low = rows("shap", "bin", {"FF": [0.1] * 12})
    marks = marks_of(pd.concat([same, near, low]))
    assert marks["FF_mark"].to_dict() == {"saliency": "best", "lime": "best", "shap": "worse"}


def test_only_clips_that_both_have_are_compared():
    long = rows("lime", "bin", {"FF": [0.9, 0.8, 0.1]})
    short = rows("shap", "bin", {"FF": [0.5, 0.5]})
    table = compare(pd.concat([long, short]), "method", within=["model", "experiment", "mask"])
    test = table.set_index("metric").loc["FF"]
    assert test["clips"] == 2
    assert test["difference"] == pytest.approx(0.35)
    with pytest.raises(ValueError, match="comes twice"):
        compare(pd.concat([long, long]), "method", within=["model"])


def test_holm_counts_all_pairs_of_a_column():
    frames = [
        rows(name, "bin", {"FF": [0.1 * k + i * k / 100 for i in range(6)]})
        for k, name in enumerate(("saliency", "gradcam", "lime", "shap"), start=1)
    ]
    table = compare(pd.concat(frames), "method", within=["model", "experiment", "mask"])
    tests = table[table["metric"] == "FF"]
    assert tests["p"].tolist() == [2 / 64] * 6
    assert tests["p_holm"].tolist() == pytest.approx([12 / 64] * 6)


def test_best_mask_and_front():
    results = pd.concat(
        [
            rows("shap", "topK_5", {"FF": [0.2] * 3, "SPS": [0.9] * 3}),
            rows("shap", "bin", {"FF": [0.6] * 3}),
            rows("shap", "minmax", {"FF": [0.3] * 3, "SPS": [0.4] * 3}),
        ]
    )
    assert best_masks(estimate(results, resamples=10))["mask"].tolist() == ["bin"]
    plane = fidelity_simplicity(results).set_index("mask")
    assert plane.loc["bin", "fidelity"] == pytest.approx((0.6 * 0.5**4) ** (1 / 5))
    assert plane.loc["topK_5", "simplicity"] == pytest.approx(math.sqrt(0.9 * 0.5))
    assert plane["front"].to_dict() == {"bin": True, "minmax": False, "topK_5": True}


def write_run(root, name: str, ff: list[float], masks=("bin", "topK_5"), comp=5.0):
    folder = root / "mel_a" / name
    (folder / "csvs").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"settings": SETTINGS, "report": {"clips": 9}}))
    head = "clip,target,predicted,is_correct," + ",".join(job_metrics())
    for mask in masks:
        lines = [
            f"c{i},dog,{'dog' if i else 'cat'},{bool(i)},{value},0,{i},5,1,0.5,{comp}"
            for i, value in enumerate(ff)
        ]
        (folder / "csvs" / f"{mask}.csv").write_text("\n".join([head, *lines]) + "\n")


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results"
    for experiment in ("clean", "horse"):
        write_run(root, f"gradcam_{experiment}", [0.7 + i / 100 for i in range(9)])
        write_run(root, f"saliency_{experiment}", [0.1 + i / 200 for i in range(9)])
    return root


def test_cells_come_from_the_settings_or_the_largest_complexity(results):
    assert set(load_results(results)["cells"]) == {64 * 501.0}
    for run in (results / "mel_a").iterdir():
        (run / "run.json").write_text(json.dumps({"settings": {}, "report": {"clips": 9}}))
    assert load_results(results)["cells"].tolist() == pytest.approx([math.e**5] * 72)


def test_some_models_and_experiments(results):
    assert set(load_results(results, experiments=["horse"])["experiment"]) == {"horse"}
    with pytest.raises(ValueError, match=r"experiment 'hrose': choose from clean, horse"):
        load_results(results, experiments=["hrose"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c1,dog,dog,True,nan,0,0,0,1,0,5", "column FF has values that are no finite"),
        ("c1,dog,dog,maybe,0,0,0,0,1,0,5", "is_correct"),
        ("c0,dog,dog,True,0,0,0,0,1,0,5", "c0 twice"),
    ],
)
def test_damaged_tables_are_refused(results, line, message):
    path = results / "mel_a" / "gradcam_clean" / "csvs" / "bin.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:2], line]) + "\n")
    with pytest.raises(ValueError, match=message):
        load_results(results)


def test_every_kind_of_table_is_there(results, tmp_path):
    tables = make_tables(load_results(results), resamples=50)
    assert [k for k, _ in itertools.groupby(t.kind for t in tables.tables)] == [
        "accuracy",
        "summary",
        "masks_by_method",
        "methods_by_mask",
        "correct_and_wrong",
        "experiments",
    ]
    assert tables.frames["accuracy"]["accuracy"].tolist() == pytest.approx([800 / 9] * 2)
    parts = tables.frames["correct_and_wrong"].set_index(["experiment", "method", "mask", "label"])
    assert parts.loc["clean", "gradcam", "bin", "wrong"]["FF"] == 0.7
    assert parts.loc["clean", "gradcam", "bin", "correct"]["FF"] == pytest.approx(0.745)
    side = tables.frames["experiments"].query("metric == 'FF' and mask == 'bin'")
    means = {"saliency": pytest.approx(0.12), "gradcam": pytest.approx(0.74)}
    assert side[["method", "clean", "horse"]].to_numpy().tolist() == [
        [name, means[name], means[name]] for name in ORDER
    ]
    by_mask = next(t for t in tables.tables if t.kind == "methods_by_mask")
    shown = {"saliency": ("0.120", "worse"), "gradcam": ("0.740", "better")}
    assert [(r.group, r.label, r.cells[0].text, r.cells[0].mark) for r in by_mask.rows[:2]] == [
        ("bin", name, *shown[name]) for name in ORDER
    ]
    files = {path.name: pd.read_csv(path) for path in write_csv(tables, tmp_path)}
    assert files["summary.csv"]["FF"].tolist() == [means[name] for name in ORDER] * 2


def test_latex_is_escaped_and_marked():
    cells = (Cell(-0.5, -0.75, -0.25, 2, "worse"), Cell(0.5, 0.25, 0.75, 2, "better"))
    rows = (Row("a_b", "x & y", cells), Row("a_b", "z", (cells[1]._replace(mark="best"),) * 2))
    columns = (Column("AI", "%", 1), Column("COMP", "", -1))
    latex = to_latex(Table("summary", "100 % of_it", ("group", "mask"), columns, rows))
    assert r"\caption{100 \% of\_it}" in latex
    assert (
        r"group & mask & \multicolumn{2}{l}{AI (\%) $\uparrow$} & "
        r"\multicolumn{2}{l}{COMP $\downarrow$} \\"
    ) in latex
    assert (
        r"a\_b & x \& y & \underline{$-$0.50}\rlap{$^{\ast}$} & {\tiny [$-$0.75, $-$0.25]} & "
        r"\textbf{0.50}\rlap{$^{\ast}$} & {\tiny [0.25, 0.75]} \\"
    ) in latex
    assert "\n & z & " in latex  # the group's name stands once
    assert latex.count("{") == latex.count("}")
    assert escape("a\\b~^") == r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}"


def test_html_is_escaped_and_marked_with_and_without_styles():
    cells = (Cell(-0.5, -0.75, -0.25, 2, "worse"), Cell(0.5, 0.25, 0.75, 2, "better"))
    plain = Cell(math.nan, math.nan, math.nan, 2)
    rows = (
        Row("<b>", "x & y", cells),
        Row("<b>", "z", (cells[1]._replace(mark="best"), plain)),
        Row("c", "w", (cells[0]._replace(mark="worst"), plain)),
    )
    columns = (Column("AI", "%", 1), Column("COMP", "", -1))
    table = Table("summary", "a < b", ("group", "mask"), columns, rows)
    html = table._repr_html_()
    page = ElementTree.fromstring(html)  # well-formed, nothing of the names taken for a tag
    assert page.find(".//caption").text == "a < b"
    heads = ["".join(head.itertext()) for head in page.iterfind(".//thead//th")]
    assert heads == ["group", "mask", "AI, % ↑", "COMP ↓"]
    groups = [
        [["".join(cell.itertext()) for cell in row] for row in body.iterfind("tr")]
        for body in page.iterfind(".//tbody")
    ]
    assert groups == [
        [
            ["<b>", "x & y", "−0.50* [−0.75, −0.25]", "0.50* [0.25, 0.75]"],
            ["z", "0.50 [0.25, 0.75]", "–"],
        ],
        [["c", "w", "−0.50 [−0.75, −0.25]", "–"]],
    ]
    assert page.find(".//th[@scope='rowgroup']").get("rowspan") == "2"
    marked = [(cell.get("class"), cell[0].tag) for cell in page.iterfind(".//td[@class]")]
    assert marked == [("worst", "u"), ("best", "strong"), ("best", "strong"), ("worst", "u")]
    # Letters have the colour of the page around, light or dark.
    colours = re.findall(r"(?<![-\w])color: *([^;}]*)", page.find("style").text)
    assert set(colours) == {"inherit"}


def test_some_tables_and_some_rows_of_them(results):
    tables = make_tables(load_results(results), resamples=20)
    some = tables.select("methods_by_mask", experiment="horse", mask=["topK_5"])
    assert [table.about for table in some.tables] == [{"model": "mel_a", "experiment": "horse"}]
    assert [(row.group, row.label) for row in some.tables[0].rows] == [
        ("topK_5", name) for name in ORDER
    ]
    whole = tables.select("methods_by_mask").frames["methods_by_mask"]
    expected = whole.query("experiment == 'horse' and mask == 'topK_5'").reset_index(drop=True)
    pd.testing.assert_frame_equal(some.frames["methods_by_mask"], expected)
    assert len(tables.select("experiments", metric="AI", method="gradcam").tables) == 1
    assert tables.select(["accuracy", "summary"])._repr_html_().count("<table>") == 2
    alone = make_tables(load_results(results, experiments=["clean"]), resamples=20)
    assert "No tables." in alone.select("experiments", metric="FF")._repr_html_()
    assert tables.select("plane", experiment="clean").frames["plane"]["front"].any()


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("sumary", {}, "'sumary': choose from accuracy, summary"),
        ("summary", {"method": "shap"}, f"no method 'shap': choose from {', '.join(ORDER)}"),
        ("summary", {"metric": "FF"}, "no metric 'FF': the kind is not told apart"),
        ("summary", {"clips": "9"}, "no clips '9'"),
        ("summary", {"mask": []}, r"no mask \(none named\)"),
    ],
)
def test_tables_that_are_not_there_are_refused(results, kind, names, message):
    with pytest.raises(ValueError, match=message):
        make_tables(load_results(results), resamples=20).select(kind, **names)


def test_a_cell_shows_no_negative_zero_and_no_empty_interval():
    assert Cell(-0.0001, math.nan, math.nan, 2).text == "0.00"
    assert Cell(1.0, math.nan, math.nan, 2).interval == ""


def test_everything_is_written(results, tmp_path):
    out = tmp_path / "out"
    written = write_tables(results, out, resamples=50)
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted(written)
    document = (out / "latex" / "tables.tex").read_text()
    for name in re.findall(r"\\input{(.*?)}", document):
        text = (out / "latex" / name).read_text()
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 0
        for line in text.splitlines():
            if r" \\" in line and "multicolumn" not in line:
                columns = line.replace(r"\&", "").count("&")
                assert columns in (3, 5, 16, 17)
    assert (out / "latex" / "plane_mel_a_horse.pdf").read_bytes().startswith(b"%PDF")
    assert "plane_mel_a_horse.pdf" in document


def texts_of(page) -> list[tuple[float, float, str]]:
    found = []
    page.extract_text(
        visitor_text=lambda text, _, matrix, *more: found.append((*matrix[4:], text.strip()))
    )
    return [entry for entry in found if entry[2]]


def test_the_pdf_leads_to_every_table(results, tmp_path):
    tables = make_tables(load_results(results), resamples=20)
    pdf = pypdf.PdfReader(write_pdf(tables, tmp_path / "tables.pdf"), strict=True)
    texts = [page.extract_text() for page in pdf.pages]
    number_of = {page.indirect_reference.idnum: n for n, page in enumerate(pdf.pages)}
    for table in tables.tables:
        assert sum(table.caption in text.splitlines() for text in texts) == 1
    # The contents: every link leads to the page whose number it covers.
    numbers = texts_of(pdf.pages[0])
    links = [entry.get_object() for entry in pdf.pages[0]["/Annots"]]
    assert len(links) == len(tables.tables) + len(tables.frames["plane"].groupby("experiment"))
    for link in links:
        left, bottom, right, top = map(float, link["/Rect"])
        (text,) = (t for x, y, t in numbers if left <= x <= right and bottom <= y <= top)
        assert number_of[link["/Dest"][0].idnum] == int(text) - 1
    back = pdf.pages[3]["/Annots"][0].get_object()
    assert number_of[back["/Dest"][0].idnum] == 0
    # Bookmarks: kinds and, folded below them, what is of each.
    kinds = [entry for entry in pdf.outline if not isinstance(entry, list)]
    titles = [title for kind, title in TITLES.items() if kind in tables.frames]
    assert len(titles) == len(tables.frames) - 1  # comparisons are no table
    assert [entry.title for entry in kinds] == ["Contents", *titles]
    below = [entry.title for entry in pdf.outline[pdf.outline.index(kinds[4]) + 1]]
    assert below[:2] == [f"mel_a, clean, {name}" for name in ORDER]
    for kind in kinds[1:]:
        assert kind.title in texts[pdf.get_destination_page_number(kind)]


def test_long_tables_go_on_where_the_page_ends_and_nothing_is_lost(tmp_path):
    masks = [f"mask_{number:02}" for number in range(40)]
    results = pd.concat(
        rows(method, mask, {"FF": [0.4, 0.5]}) for method in ("lime", "shap") for mask in masks
    )
    tables = make_tables(results, resamples=20)
    pdf = pypdf.PdfReader(write_pdf(tables, tmp_path / "tables.pdf"))
    pages = [page.extract_text().splitlines() for page in pdf.pages]
    caption = "mel, clean: all methods under each mask (2 clips)"
    starts = next(n for n, lines in enumerate(pages) if caption in lines)
    assert f"{caption}, continued" in pages[starts + 1]
    shown = [line.split()[0] for lines in pages[starts : starts + 2] for line in lines]
    assert [name for name in shown if name in masks] == masks
    for page in pdf.pages[starts : starts + 2]:
        heights = [y for _, y, _ in texts_of(page)]
        assert min(heights) >= 72 * 0.29  # the footer
        assert max(heights) <= float(page.mediabox.height) - 72 * 0.4


def test_the_pdf_takes_any_letters(tmp_path):
    results = rows("метод", "bin", {"FF": [0.5, 0.6]})
    path = write_pdf(make_tables(results, resamples=20), tmp_path / "a" / "tables.pdf")
    assert path.read_bytes().startswith(b"%PDF")


def test_command_line(results, tmp_path):
    runner = CliRunner()
    options = ["tables", str(results), "--out", str(tmp_path / "t"), "--experiment", "clean"]
    done = runner.invoke(app, options)
    assert done.exit_code == 0
    assert "tables.pdf" in done.output
    assert set(pd.read_csv(tmp_path / "t" / "csv" / "summary.csv")["experiment"]) == {"clean"}
    wrong = runner.invoke(app, ["tables", str(results), "--out", str(tmp_path / "no"), "--on", "x"])
    assert isinstance(wrong.exception, ValueError)
    assert not (tmp_path / "no").exists()


def test_the_plane_shows_every_method(results):
    plane = fidelity_simplicity(load_results(results, experiments=["clean"]))
    axes = plot_plane(plane).axes[0]
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["front", *ORDER]
    # Both masks of gradcam are equal: one point, one name.
    assert [text.get_text() for text in axes.texts] == ["bin, topK_5"]
    with pytest.raises(ValueError, match="one model and experiment"):
        plot_plane(pd.concat([plane, plane]))
