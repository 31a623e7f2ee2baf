"""Tables of hand-made results, with means computed by hand."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from audiointerp.tables import accuracy, load_results, summarise, summarise_files
from audiointerp.tables.files import write_tables

HEADER = "clip,target,predicted,is_correct,FF,AI,AD,AG,FidIn,SPS,COMP"
BIN = [
    "001,dog,dog,True,0.5,0,20,0,1,0.2,6",
    "002,cat,dog,False,0.1,100,0,40,0,0.4,4",
]
TOP = [
    "001,dog,dog,True,0.9,0,10,0,1,0.9,2",
    "002,cat,dog,False,0.1,0,30,0,1,0.9,2",
]
WHITE = [
    "001,dog,cat,False,0.2,0,60,0,0,0.2,6",
    "002,cat,cat,True,0.4,0,80,0,0,0.4,4",
]


def write(root, run: str, mask: str, lines: list[str], folder: str = "csvs") -> None:
    path = root / run / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{mask}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    content = {"settings": {}, "report": {"clips": len(lines)}}
    (root / run / "run.json").write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    write(tmp_path, "mel/gradcam_clean", "bin", BIN)
    write(tmp_path, "mel/gradcam_clean", "topK_5", TOP)
    write(tmp_path, "mel/gradcam_white_noise", "bin", WHITE)
    write(tmp_path, "stft/shap_clean", "bin", TOP)
    write(tmp_path, "mel/gradcam_clean", "bin", WHITE, folder="csvs_audio")
    return tmp_path


def test_every_row_knows_its_run(results):
    table = load_results(results)
    assert len(table) == 8
    runs = table[["model", "method", "experiment", "mask"]].drop_duplicates().to_numpy().tolist()
    assert runs == [
        ["mel", "gradcam", "clean", "bin"],
        ["mel", "gradcam", "clean", "topK_5"],
        ["mel", "gradcam", "white_noise", "bin"],
        ["stft", "shap", "clean", "bin"],
    ]
    assert table["clip"].tolist() == ["001", "002"] * 4


def test_measured_on_audio_is_a_table_of_its_own(results):
    table = load_results(results, on="audio")
    assert table["FF"].tolist() == [0.2, 0.4]
    with pytest.raises(ValueError, match="choose from features, audio"):
        load_results(results, on="sound")


def test_means_over_the_clips(results):
    summary = summarise(load_results(results))
    row = summary.loc["mel", "gradcam", "clean", "bin"]
    expected = {"FF": 0.3, "AI": 50, "AD": 10, "AG": 20, "FidIn": 0.5, "SPS": 0.3, "COMP": 5}
    assert row[list(expected)].to_dict() == pytest.approx(expected)
    assert row["clips"] == 2
    assert summary.loc["mel", "gradcam", "white_noise", "bin"]["AD"] == 70
    assert len(summary) == 4


def test_accuracy_counts_every_clip_once(results):
    write(results, "mel/lime_clean", "bin", BIN)  # the same clips by another method
    share = accuracy(load_results(results))
    assert share.to_dict() == {
        ("mel", "clean"): 50.0,
        ("mel", "white_noise"): 50.0,
        ("stft", "clean"): 50.0,
    }
    write(results, "stft/shap_clean", "bin", [TOP[0]])
    assert accuracy(load_results(results))["stft", "clean"] == 100


def test_files_are_summed_up_for_some_masks(results):
    table = load_results(results)
    table = table[table["experiment"] == "clean"]
    short = summarise_files(table, ["bin"])
    assert short.index.tolist() == [("mel", "gradcam", "bin"), ("stft", "shap", "bin")]
    assert short.loc["mel", "gradcam", "bin"]["FF"] == 0.3


def test_results_that_are_none_are_told(tmp_path, results):
    with pytest.raises(ValueError, match="no results measured on features"):
        load_results(tmp_path / "nowhere")
    (results / "mel" / "gradcam_clean" / "csvs" / "bin.csv").write_text("clip,FF\n1,0.5\n")
    with pytest.raises(ValueError, match=r"bin.csv: lacks the columns is_correct, predicted"):
        load_results(results)


def test_an_unfinished_run_is_told_and_its_cut_line_left_out(results):
    run = results / "stft" / "shap_clean"
    (run / "run.json").write_text(json.dumps({"settings": {}, "report": {}}))
    table = run / "csvs" / "bin.csv"
    table.write_text(table.read_text()[:-2])
    with pytest.warns(UserWarning, match="not finished"):
        found = load_results(results)
    assert found[found["model"] == "stft"]["clip"].tolist() == ["001"]


def test_a_class_may_be_called_none(results):
    write(results, "other/lime_clean", "bin", ["a,None,NA,False,0.5,0,20,0,1,0.2,6"])
    row = load_results(results).set_index("method").loc["lime"]
    assert (row["target"], row["predicted"]) == ("None", "NA")


def test_a_damaged_run_is_no_source_of_numbers(results):
    (results / "stft" / "shap_clean" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_results(results)


@pytest.mark.parametrize(
    "stray",
    [
        "._bin.csv",
        "bin.csv~",
        "#bin.csv#",
        "~$bin.csv",
        ".~lock.bin.csv#",
        "../../._x_y/csvs/b.csv",
    ],
)
def test_stray_files_next_to_tables_are_no_results(results, stray):
    expected = load_results(results)
    file = results / "mel" / "gradcam_clean" / "csvs" / stray
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\x00\x05\x16\x07")
    pd.testing.assert_frame_equal(load_results(results), expected)


def test_results_of_nothing_but_stray_files_say_so(tmp_path):
    file = tmp_path / "mel" / "gradcam_clean" / "csvs" / "._bin.csv"
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(ValueError, match=r"no results .*1 hidden files.* such as '._bin.csv'"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",0.5,", ",10,", "column FF has the value 10, which lies out of -1 to 1"),
        (",0.5,", ",0_5,", "column FF has values that are no finite numbers: '0_5'"),
        (",6", ",60", "column COMP has the value 60"),
        ("True", "Tru", "is_correct has values other than True and False"),
        ("dog,dog,True", "dog,dog,False", "class 'dog' predicted as 'dog' with is_correct False"),
        ("dog,dog,True", "fox,dog,True", "'fox', which is no class of the run's set"),
        (",6", "", "line 2: is damaged: has 10 cells, not 11"),
        ("001,", "00\0,", "line 2 has a NUL byte"),
    ],
)
def test_a_damaged_table_is_named(results, old, new, words):
    table = results / "mel" / "gradcam_clean" / "csvs" / "bin.csv"
    settings = {"settings": {"dataset": {"classes": ["dog", "cat"]}}, "report": {"clips": 2}}
    (table.parents[1] / "run.json").write_text(json.dumps(settings))
    load_results(results)
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load_results(results)
    assert str(table) in str(caught.value)


def test_names_that_look_like_numbers_stay_as_they_are_written(results):
    table = results / "mel" / "gradcam_clean" / "csvs" / "bin.csv"
    table.write_text(table.read_text().replace("dog", "007").replace("cat", "1e3"))
    rows = load_results(results)
    assert set(rows.loc[(rows["method"] == "gradcam"), "target"]) >= {"007", "1e3"}


@pytest.mark.parametrize("name", ["tables.csv", "paper.PDF", "a.tex"])
def test_a_file_is_no_folder_of_tables(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}: the tables are several files in a folder"):
        write_tables(tmp_path, tmp_path / name)
    assert not (tmp_path / name).exists()
