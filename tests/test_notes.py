"""What the means do not show is told: missing clips, other settings, degenerate maps, leakage."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pypdf
import pytest
from typer.testing import CliRunner

from audiointerp.cli.commands import app
from audiointerp.tables import compare, estimate, load_results, summarise_files
from audiointerp.tables.files import to_latex, write_csv
from audiointerp.tables.notes import IncompleteWarning, Source, find_notes, note_lines, sources_of
from audiointerp.tables.paper import make_tables

CLIPS = [f"c{number}" for number in range(10)]
METRICS = ("FF", "AI", "AD", "AG", "FidIn", "SPS", "COMP")
DATASET = {"name": "ESC50Dataset", "classes": ["cat", "dog"], "folds": [5], "contamination": None}
MASKS = ("bin", "topK_30")


def values(seed: int, clips: list[str]) -> pd.DataFrame:
    """Return the rows of a table: of a clip, the same whatever other clips there are."""
    rows = []
    for clip in clips:
        draw = np.random.default_rng([seed, CLIPS.index(clip)]).uniform(0.1, 0.9, 7)
        scaled = draw * [1, 100, 100, 100, 1, 1, 5]
        about = {"clip": clip, "target": "dog", "predicted": "dog", "is_correct": True}
        rows.append(about | dict(zip(METRICS, scaled.tolist(), strict=True)))
    return pd.DataFrame(rows, columns=["clip", "target", "predicted", "is_correct", *METRICS])


def write(root, run, clips=CLIPS, *, model="mel", masks=MASKS, report=None, **settings):
    """Write a run and return its folder; the report is that of a run of these clips."""
    folder = root / "results" / model / run
    (folder / "csvs").mkdir(parents=True)
    for number, mask in enumerate(masks):
        seed = 10 * len(run) + number
        values(seed, clips).to_csv(folder / "csvs" / f"{mask}.csv", index=False)
    content = {
        "settings": {"model_hash": "a", "dataset": DATASET | {"clips": len(clips)}} | settings,
        "report": {"clips": len(clips), "failures": {}} if report is None else report,
    }
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def delete_rows(folder, mask, clips) -> None:
    path = folder / "csvs" / f"{mask}.csv"
    table = pd.read_csv(path)
    table[~table["clip"].isin(clips)].to_csv(path, index=False)


def by_hand(folder, mask) -> pd.Series:
    return pd.read_csv(folder / "csvs" / f"{mask}.csv")[list(METRICS)].mean()


@pytest.fixture
def root(tmp_path):
    return tmp_path


@pytest.fixture
def cut(root):
    """Return the folder of a run of which one table lacks six of ten rows, beside a whole run."""
    write(root, "gradcam_clean")
    folder = write(root, "saliency_clean")
    delete_rows(folder, "bin", CLIPS[4:])
    return folder


def load(root, **options) -> tuple[pd.DataFrame, str]:
    """Return results and the one warning that they gave."""
    with pytest.warns(IncompleteWarning) as told:
        results = load_results(root / "results", **options)
    (warning,) = told
    return results, str(warning.message)


def test_whole_runs_have_no_notes(root):
    write(root, "gradcam_clean")
    write(root, "saliency_clean")
    results = load_results(root / "results")
    assert results.attrs["notes"] == []
    tables = make_tables(results, resamples=20)
    assert not tables.notes
    assert not any(table.notes for table in tables.tables)
    assert "clips" not in {column.name for t in tables.tables for column in t.columns}
    assert "of" not in tables.frames["comparisons"]
    assert not any(name.endswith("_clips") for name in tables.frames["experiments"])
    assert "clips" not in tables.frames["plane"]


def test_a_table_that_lacks_rows_is_named_with_its_clips(root, cut):
    results, message = load(root)
    expected = "mel/saliency_clean: bin: 4 of 10 clips; missing c4, c5, c6 and 3 more"
    assert message.splitlines()[1:] == [f"  {expected}"]
    (note,) = results.attrs["notes"]
    assert (note.kind, note.masks, note.count, note.of) == ("clips", ("bin",), 4, 10)
    assert note.names == tuple(CLIPS[4:])
    assert note.line == "mel/saliency_clean, bin: 4 of 10 clips; missing c4, c5, c6 and 3 more"


def test_means_of_fewer_clips_are_right_and_say_how_many(root, cut):
    tables = make_tables(load(root)[0], resamples=20)
    rows = tables.frames["methods_by_mask"].set_index(["method", "mask"])
    for method in ("gradcam", "saliency"):
        for mask in MASKS:
            expected = by_hand(cut.parent / f"{method}_clean", mask)
            found = rows.loc[(method, mask), list(METRICS)].astype(float)
            assert found.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-12)
    assert rows["clips"].to_dict() == {
        ("gradcam", "bin"): 10,
        ("gradcam", "topK_30"): 10,
        ("saliency", "bin"): 4,
        ("saliency", "topK_30"): 10,
    }
    table = tables.select("methods_by_mask").tables[0]
    assert table.columns[0].name == "clips"
    shown = {(row.group, row.label): row.cells[0].text for row in table.rows}
    assert shown == {(mask, method): str(count) for (method, mask), count in rows["clips"].items()}


def test_a_note_stands_below_the_tables_that_it_concerns(root, cut):
    tables = make_tables(load(root)[0], resamples=20)
    line = "mel/saliency_clean: bin: 4 of 10 clips; missing c4, c5, c6 and 3 more"
    noted = [table for table in tables.tables if table.notes]
    assert {table.kind for table in noted} >= {"masks_by_method", "methods_by_mask"}
    assert all(note_lines(table.notes) == [line] for table in noted)
    for table in tables.select("masks_by_method").tables:
        assert bool(table.notes) == (table.about["method"] == "saliency")
    # The accuracy is of the clips that some table has, which are all.
    assert not tables.select("accuracy").tables[0].notes
    assert not tables.select("methods_by_mask", mask="topK_30").tables[0].notes
    table = tables.select("methods_by_mask", mask="bin").tables[0]
    page = ElementTree.fromstring(table._repr_html_())
    assert [note.text for note in page.iterfind(".//p[@class='note']")] == [line]
    latex = to_latex(table)
    assert line.replace("_", r"\_") in latex
    assert latex.index("\\end{tabular}") < latex.index("4 of 10") < latex.index("\\end{table}")


def test_the_command_line_warns_and_writes_notes(root, cut):
    with pytest.warns(IncompleteWarning, match="4 of 10 clips"):
        done = CliRunner().invoke(
            app, ["tables", str(root / "results"), "--out", str(root / "tables")]
        )
    assert done.exit_code == 0
    notes = pd.read_csv(root / "tables" / "csv" / "notes.csv")
    assert notes[["method", "masks", "count", "of"]].to_numpy().tolist() == [
        ["saliency", "bin", 4, 10]
    ]
    assert notes["names"].tolist() == ["|".join(CLIPS[4:])]
    pages = [page.extract_text() for page in pypdf.PdfReader(root / "tables" / "tables.pdf").pages]
    text = re.sub(r"\s+", " ", " ".join(pages))
    assert text.count("4 of 10 clips") >= 4  # below tables, and in the key
    latex = (root / "tables" / "latex" / "methods_by_mask.tex").read_text()
    assert "4 of 10 clips" in latex


def test_notes_of_earlier_tables_do_not_stay(root, cut):
    tables = make_tables(load(root)[0], resamples=20)
    write_csv(tables, root / "csv")
    assert (root / "csv" / "notes.csv").is_file()
    write(root, "gradcam_horse")
    whole = make_tables(load_results(root / "results", experiments=["horse"]), resamples=20)
    write_csv(whole, root / "csv")
    assert not (root / "csv" / "notes.csv").exists()


def test_a_table_of_no_rows_is_named(root, cut):
    delete_rows(cut, "topK_30", CLIPS)
    results, message = load(root)
    assert "saliency_clean: bin: 4 of 10 clips" in message
    assert "topK_30: 0 of 10 clips" in message
    tables = make_tables(results, resamples=20)
    assert any("0 of 10" in line for line in note_lines(tables.notes))


def test_rows_deleted_from_every_table_are_missed_by_run_json(root):
    folder = write(root, "gradcam_clean")
    for mask in MASKS:
        delete_rows(folder, mask, CLIPS[4:])
    _, message = load(root)
    assert "mel/gradcam_clean: 4 of 10 clips" in message
    # A second run knows what the missing ones are called.
    write(root, "saliency_clean")
    _, message = load(root)
    assert "mel/gradcam_clean: 4 of 10 clips; missing c4, c5, c6 and 3 more" in message


def test_more_rows_than_run_json_says_are_told(root):
    write(root, "gradcam_clean", report={"clips": 4, "failures": {}})
    assert "mel/gradcam_clean: 10 clips, where run.json says 4" in load(root)[1]


def test_an_unfinished_run_is_told(root):
    folder = write(root, "gradcam_clean", report={})
    assert "mel/gradcam_clean: the run is not finished" in load(root)[1]
    for mask in MASKS:
        delete_rows(folder, mask, CLIPS[7:])
    assert "mel/gradcam_clean: 7 of 10 clips; the run is not finished" in load(root)[1]


def test_clips_that_failed_are_told(root):
    why = {"c8": "cut off", "c9": "silent"}
    write(root, "gradcam_clean", CLIPS[:8], report={"clips": 8, "failures": why})
    message = load(root)[1]
    assert "8 of 10 clips; missing c8, c9; 2 could not be interpreted" in message


def test_methods_that_failed_on_different_clips_are_told(root):
    write(root, "gradcam_clean", CLIPS[:9])
    write(root, "saliency_clean", CLIPS[1:])
    _, message = load(root)
    assert "mel/gradcam_clean: 9 of 10 clips; missing c9" in message
    assert "mel/saliency_clean: 9 of 10 clips; missing c0" in message


def test_models_are_compared_where_their_set_is_the_same(root):
    write(root, "gradcam_clean")
    write(root, "gradcam_clean", CLIPS[:4], model="stft")
    assert "stft/gradcam_clean: 4 of 10 clips" in load(root)[1]
    other = DATASET | {"name": "SyntheticDataset", "clips": 4}
    (root / "results" / "stft").rename(root / "unused")
    write(root, "gradcam_clean", CLIPS[:4], model="other", dataset=other)
    assert not load_results(root / "results").attrs["notes"]


@pytest.mark.parametrize(
    ("setting", "name", "ways"),
    [
        ({"dataset": DATASET | {"folds": [4], "clips": 10}}, "dataset.folds", ("[5]", "[4]")),
        ({"model_hash": "b"}, "model_hash", ("a", "b")),
        ({"base": "quiet"}, "base", ("None", "quiet")),
    ],
)
def test_runs_of_one_table_with_other_settings_are_told(root, setting, name, ways):
    write(root, "gradcam_clean")
    write(root, "saliency_clean", **setting)
    results, message = load(root)
    said = f"the runs differ in {name}: {ways[0]} in gradcam_clean; {ways[1]} in saliency_clean"
    assert said in message
    tables = make_tables(results, resamples=20)
    assert all(said in " ".join(note_lines(table.notes)) for table in tables.tables)


def test_experiments_may_differ_in_what_makes_them_experiments(root):
    noise = DATASET | {"contamination": {"alpha": 0.6}, "clips": 10}
    write(root, "gradcam_clean")
    write(root, "gradcam_quiet", base="quiet", dataset=noise)
    assert not load_results(root / "results").attrs["notes"]


def test_masks_that_lack_an_explained_class_are_told(root):
    folder = write(root, "gradcam_clean", report={"clips": 10, "failures": {}})
    for mask in MASKS:
        path = folder / "csvs" / f"{mask}.csv"
        rows = pd.read_csv(path).assign(explained="dog")
        pd.concat([rows, rows.assign(explained="cat")]).to_csv(path, index=False)
    assert not load_results(root / "results").attrs["notes"]
    path = folder / "csvs" / "bin.csv"
    pd.read_csv(path).iloc[:-2].to_csv(path, index=False)
    assert "bin: 10 of 10 clips; without c8 (cat), c9 (cat), which other masks" in load(root)[1]


def test_tests_say_how_many_pairs_there_are_of_how_many(root, cut):
    found = compare(load(root)[0], "method", within=["model", "mask"]).query("metric == 'FF'")
    assert found[["mask", "clips", "of"]].to_numpy().tolist() == [
        ["bin", 4, 10],
        ["topK_30", 10, 10],
    ]
    one, other = (
        pd.read_csv(cut.parent / f"{name}_clean" / "csvs" / "bin.csv").set_index("clip")["FF"]
        for name in ("saliency", "gradcam")
    )
    signed = (one - other).dropna().mean()
    row = found.set_index("mask").loc["bin"]
    sign = 1 if row["first"] == "saliency" else -1
    assert row["difference"] == pytest.approx(sign * signed)


def test_experiments_side_by_side_say_how_many_clips(root):
    write(root, "gradcam_clean")
    write(root, "gradcam_horse", CLIPS[:4])
    tables = make_tables(load(root)[0], resamples=20)
    frame = tables.frames["experiments"].query("metric == 'FF'")
    assert frame["clean_clips"].tolist() == [10, 10]
    assert frame["horse_clips"].tolist() == [4, 4]
    table = tables.select("experiments", metric="FF").tables[0]
    assert [column.name for column in table.columns] == ["clean", "clips", "horse", "clips"]
    assert [cell.text for cell in table.rows[0].cells][1::2] == ["10", "4"]
    assert set(tables.frames["plane"]["clips"]) == {4, 10}


def test_frames_of_other_sources_are_looked_at_too():
    rows = [
        values(number, clips).assign(model="m", method=method, experiment="clean", mask="bin")
        for number, (method, clips) in enumerate({"lime": CLIPS, "shap": CLIPS[:4]}.items())
    ]
    results = pd.concat(rows, ignore_index=True).assign(cells=200)
    (note,) = find_notes(sources_of(results))
    assert note.line == "m/shap_clean: 4 of 10 clips; missing c4, c5, c6 and 3 more"
    assert make_tables(results, resamples=20).notes == (note,)


def test_a_missing_value_is_counted(root):
    folder = write(root, "gradcam_clean")
    path = folder / "csvs" / "bin.csv"
    table = pd.read_csv(path)
    table.loc[[2, 5, 6], "FF"] = np.nan
    table.to_csv(path, index=False)
    row = estimate(load_results(root / "results"), resamples=20).set_index("mask").loc["bin"]
    assert (row["FF_n"], row["clips"]) == (7, 10)
    assert row["FF"] == pytest.approx(table["FF"].dropna().mean())


def test_files_say_what_their_means_are_over():
    rows = values(0, CLIPS).assign(model="m", mask="bin")
    table = pd.concat([rows.assign(method="lime"), rows[:4].assign(method="shap")])
    found = summarise_files(table, ["bin"])
    assert found["clips"].tolist() == [10, 4]
    assert found["FF"].tolist() == [round(rows["FF"].mean(), 3), round(rows["FF"][:4].mean(), 3)]
    windows = pd.concat([rows, rows[:3]]).assign(method="lime")
    assert summarise_files(windows, ["bin"])["rows"].tolist() == [13]


def test_shares_of_degenerate_maps_and_masks_are_told(root):
    folder = write(root, "gradcam_clean")
    path = folder / "csvs" / "bin.csv"
    table = pd.read_csv(path)
    table.loc[:2, "SPS"] = 0  # all cells alike
    table.to_csv(path, index=False)
    facts = pd.DataFrame({"clip": CLIPS, "constant_map": [1.0] * 2 + [0.0] * 8})
    facts["tied_topK_30"] = [1.0, 1.0, 0.75, 0.5, *[0.0] * 6]  # half is not most of them
    facts.to_csv(folder / "diagnostics.csv", index=False)
    results = load_results(root / "results")  # without a warning
    assert note_lines(results.attrs["notes"]) == [
        "mel/gradcam_clean: 2 of 10 maps are constant: they say nothing of the clip; "
        "bin: all cells alike, kept or removed, in 3 of 10 masks; "
        "topK_30: most cells chosen by position among equal ones in 3 of 10 masks"
    ]
    tables = make_tables(results, resamples=20)
    assert tables.select("masks_by_method").tables[0].notes == tables.notes
    assert not tables.select("accuracy").tables[0].notes


def test_what_a_run_says_of_leakage_is_below_its_tables(root):
    said = "10 of 10 clips were trained on"
    write(root, "gradcam_clean", report={"clips": 10, "failures": {}, "remarks": [said]})
    tables = make_tables(load_results(root / "results"), resamples=20)
    for table in tables.tables:
        assert said in " ".join(note_lines(table.notes)), table.kind


# What there is to find.


def with_truth(method: str, shares=(0.2, 0.4, 1.0), true=(1, 1, 1)) -> Source:
    clips = [f"clip{n}" for n in range(3)]
    table = pd.DataFrame({"clip": clips, "SPS": 0.5, "AUPRC": 0.5, "AUROC": 0.5, "time_IoU": 0.5})
    facts = {"true_class": true, "foreground_share": shares, "event_share": (0.3, 0.0, 0.5)}
    diagnostics = pd.DataFrame({"clip": clips, **facts})
    return Source("mel", method, "clean", {"bin": table}, diagnostics=diagnostics)


def test_chance_and_missing_truth_are_said_once_for_all_methods():
    notes = [n for n in find_notes([with_truth("lime"), with_truth("shap")]) if n.kind == "truth"]
    assert [(note.method, note.text, note.metrics) for note in notes] == [
        ("", "AUPRC by chance: 0.300", ("AUPRC",)),
        (
            "",
            "1 of 3 rows have no truth: every cell is of the foreground",
            ("AUPRC", "AUROC"),
        ),
        ("", "1 of 3 rows have no truth: the event sounds in no frame", ("time_IoU",)),
    ]
    assert [(note.count, note.of) for note in notes] == [(0, 0), (1, 3), (1, 3)]


def test_what_runs_do_not_agree_in_is_said_of_each():
    sources = [with_truth("lime"), with_truth("shap", true=(0, 1, 1))]
    notes = [note for note in find_notes(sources) if note.kind == "truth"]
    another = "1 of 3 rows have no truth: explains a class that the clip does not have"
    assert {note.method for note in notes if note.text == another} == {"shap"}
    chance = {note.method: note.text for note in notes if note.metrics == ("AUPRC",)}
    assert chance == {"lime": "AUPRC by chance: 0.300", "shap": "AUPRC by chance: 0.400"}


def test_runs_without_truth_have_no_note_of_it():
    source = with_truth("lime")
    plain = source.diagnostics.drop(columns=["true_class", "foreground_share", "event_share"])
    assert find_notes([replace(source, diagnostics=plain)]) == []


def test_runs_with_equal_notes_share_a_line(root):
    noises = ("horse", "rain", "room", "white")
    for name in noises:
        folder = write(root, f"saliency_{name}")
        for mask in MASKS:
            delete_rows(folder, mask, CLIPS[4:])
        write(root, f"gradcam_{name}")
    results, message = load(root)
    (line,) = message.splitlines()[1:]
    start = "mel/saliency_horse, mel/saliency_rain, mel/saliency_room and 1 more: 4 of 10 clips"
    assert line.strip().startswith(start)
    assert {note.run for note in results.attrs["notes"]} == {f"mel/saliency_{n}" for n in noises}
