"""A run's folder: what is written, and how a run is taken up again after it was cut off."""

from __future__ import annotations

import contextlib
import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest

from audiointerp.interpretation import METHODS
from audiointerp.runs.names import split_run_name
from audiointerp.runs.store import RunFolder, differing_settings, read_run, run_path

SETTINGS = {"model": {"name": "Cnn14"}, "masks": ["bin", "topK_5"], "base": "floor"}
COLUMNS = ["clip", "target", "predicted", "is_correct", "FF", "AD"]
# Numbers with all their digits, as metrics have: a shortened one is a number too.
VALUES = {
    "1-0001-A-0": (0.1234567890123456, 33.33333333333333),
    "1-0002-A-3": (1e-17, 0.0),
    "2-0003-B-3": (-0.7000000000000001, 100.0),
    "2-0004-A-0": (2 / 3, 12.300000000000001),
}
CLIPS = list(VALUES)


def make(path, begin=True, **changes) -> RunFolder:
    arguments = {"clips": CLIPS, "masks": ["bin", "topK_5"], "metrics": ["FF", "AD"]} | changes
    run = RunFolder(path, arguments.pop("settings", SETTINGS), **arguments)
    if begin:
        run.begin()
    return run


def row(clip: str, shift: float = 0.0) -> dict[str, object]:
    ff, ad = VALUES[clip]
    about = {"clip": clip, "target": "dog", "predicted": "cat", "is_correct": False}
    return about | {"FF": ff + shift, "AD": ad}


def rows(*clips: str, on=("features",)) -> dict:
    return {
        (place, mask): [row(clip, shift) for clip in clips]
        for place in on
        for mask, shift in (("bin", 0.0), ("topK_5", 0.25))
    }


def test_rows_are_filed_as_they_come(tmp_path):
    run = make(tmp_path / "run")
    run.append(rows(*CLIPS[:2]))
    lines = (tmp_path / "run" / "csvs" / "bin.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "1-0001-A-0,dog,cat,False,0.1234567890123456,33.33333333333333"
    assert len(lines) == 3
    assert run.done == set(CLIPS[:2])
    run.append(rows(CLIPS[2]))
    assert run.done == set(CLIPS[:3])
    shifted = pd.read_csv(tmp_path / "run" / "csvs" / "topK_5.csv")
    assert shifted["FF"].tolist() == pytest.approx([VALUES[clip][0] + 0.25 for clip in CLIPS[:3]])


def test_a_run_is_taken_up_where_it_stopped(tmp_path):
    make(tmp_path).append(rows(*CLIPS[:2]))
    again = make(tmp_path)
    assert again.done == set(CLIPS[:2])
    again.append(rows(*CLIPS[2:]))
    again.finish({"clips": 4})
    table = again.table("features", "bin")
    assert table["clip"].tolist() == CLIPS
    assert list(table.columns) == COLUMNS
    for column, place in (("FF", 0), ("AD", 1)):
        expected = [VALUES[clip][place] for clip in CLIPS]
        np.testing.assert_allclose(table[column].astype(float), expected, rtol=1e-15)
    once = make(tmp_path / "once")
    once.append(rows(*CLIPS))
    once.finish({"clips": 4})
    for mask in ("bin", "topK_5"):
        one = (tmp_path / "once" / "csvs" / f"{mask}.csv").read_text()
        assert (tmp_path / "csvs" / f"{mask}.csv").read_text() == one


@pytest.mark.parametrize("lost", range(1, 68, 3))
def test_a_line_cut_short_is_measured_again(tmp_path, lost):
    """Also one cut within its last number, which would read as another number."""
    make(tmp_path).append(rows(*CLIPS))
    file = tmp_path / "csvs" / "bin.csv"
    text = file.read_bytes()
    file.write_bytes(text[:-lost])
    again = make(tmp_path)
    # The last two lines have 57 and 45 characters or so: at most those two clips are lost.
    left = 4 - (1 + text[-lost:-1].count(b"\n"))
    assert again.done == set(CLIPS[:left])
    again.append(rows(*CLIPS[left:]))
    again.finish({})
    assert file.read_bytes() == text


def test_a_clip_is_done_only_if_it_is_in_every_table(tmp_path):
    places = ("features", "audio")
    make(tmp_path, on=places).append(rows(*CLIPS[:3], on=places))
    file = tmp_path / "csvs_audio" / "topK_5.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    again = make(tmp_path, on=places)
    assert again.done == {CLIPS[0]}
    for place in places:
        for mask in ("bin", "topK_5"):
            assert again.table(place, mask)["clip"].tolist() == [CLIPS[0]]
    file.unlink()
    assert make(tmp_path, on=places).done == set()


def test_rows_are_put_in_the_order_of_the_clips(tmp_path):
    run = make(tmp_path)
    run.append(rows(CLIPS[3], CLIPS[0]))
    run.append(rows(CLIPS[2], CLIPS[1]))
    run.finish({})
    for mask, shift in (("bin", 0.0), ("topK_5", 0.25)):
        expected = [VALUES[clip][0] + shift for clip in CLIPS]
        written = pd.read_csv(tmp_path / "csvs" / f"{mask}.csv")
        for table in (run.table("features", mask), written):
            assert table["clip"].tolist() == CLIPS
            np.testing.assert_allclose(table["FF"].astype(float), expected, rtol=1e-15)


def test_a_run_with_other_settings_is_refused_and_left_as_it_was(tmp_path):
    make(tmp_path).append(rows(*CLIPS))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"other settings \(base, model.name\).*overwrite"):
        make(tmp_path, settings=SETTINGS | {"base": "quiet", "model": {"name": "Cnn6"}})
    with pytest.raises(ValueError, match=r"\(seed\)"):
        make(tmp_path, settings=SETTINGS | {"seed": 1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def asked(count: int, **changes) -> dict:
    """Return the arguments of a request for the first clips."""
    dataset = {"folds": [5], "clips": count, "contamination": None} | changes
    return {"clips": CLIPS[:count], "settings": SETTINGS | {"dataset": dataset}}


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_of_some_clips_goes_on_with_more_of_them(tmp_path):
    few = make(tmp_path, **asked(2))
    few.append(rows(*CLIPS[:2]))
    few.finish({"clips": 2})
    more = make(tmp_path, **asked(4))
    assert more.todo == CLIPS[2:]
    more.append(rows(*reversed(CLIPS[2:])))
    more.finish({"clips": 4})
    once = make(tmp_path / "once", **asked(4))
    once.append(rows(*CLIPS))
    once.finish({"clips": 4})
    for path in (tmp_path / "once").rglob("*.*"):
        assert (tmp_path / path.relative_to(tmp_path / "once")).read_bytes() == path.read_bytes()


def test_a_finished_run_of_more_clips_answers_for_fewer_and_is_left_as_it_was(tmp_path):
    whole = make(tmp_path, **asked(4))
    whole.append(rows(*CLIPS))
    whole.finish({"seconds": 917.7})
    before = contents(tmp_path)
    few = make(tmp_path, begin=False, **asked(2))
    assert few.is_finished
    assert few.todo == []
    assert few.table("features", "bin")["clip"].tolist() == CLIPS[:2]
    assert contents(tmp_path) == before


def test_nothing_is_written_before_the_run_begins(tmp_path):
    run = make(tmp_path / "run", begin=False)
    assert not run.is_finished
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_is_not_finished_although_the_clips_wanted_are_there(tmp_path):
    make(tmp_path, **asked(4)).append(rows(*CLIPS[:3]))
    few = make(tmp_path, begin=False, **asked(2))
    assert few.todo == []
    assert not few.is_finished


def test_masks_added_for_fewer_clips_take_no_row_from_the_others(tmp_path):
    only = {key: value for key, value in rows(*CLIPS).items() if key[1] == "bin"}
    first = make(tmp_path, masks=["bin"], **asked(4))
    first.append(only)
    first.finish({"clips": 4})
    more = make(tmp_path, **asked(2))
    assert more.todo == CLIPS[:2]
    more.append(rows(*CLIPS[:2]))
    more.finish({"clips": len(more.done)})
    assert pd.read_csv(tmp_path / "csvs" / "bin.csv")["clip"].tolist() == CLIPS
    assert pd.read_csv(tmp_path / "csvs" / "topK_5.csv")["clip"].tolist() == CLIPS[:2]
    again = make(tmp_path, **asked(4))
    assert again.todo == CLIPS[2:]


@pytest.mark.parametrize("change", [{"folds": [4, 5]}, {"contamination": {"alpha": 0.6}}])
def test_other_clips_than_those_of_the_run_are_refused(tmp_path, change):
    make(tmp_path, **asked(2))
    (name,) = change
    with pytest.raises(ValueError, match=rf"other settings \(dataset.{name}\)"):
        make(tmp_path, **asked(4, **change))


def test_settings_differ_by_their_parts_and_not_by_the_number_of_clips():
    one = {"base": "floor", "dataset": {"clips": 40, "folds": [5], "seed": 0}, "masks": ["bin"]}
    same = {"base": "floor", "dataset": {"clips": 80, "folds": [5], "seed": 0, "x": None}}
    assert differing_settings(one, same | {"masks": ["bin"]}) == []
    assert differing_settings(same, one) == ["masks"]
    other = one | {"dataset": {"clips": 40, "folds": [4], "seed": 1}, "base": "quiet"}
    assert differing_settings(one, other) == ["base", "dataset.folds", "dataset.seed"]


def test_settings_are_compared_as_they_are_written(tmp_path):
    make(tmp_path, settings=SETTINGS | {"classes": ("dog", "cat")}).append(rows(CLIPS[0]))
    again = make(tmp_path, settings=SETTINGS | {"classes": ["dog", "cat"]})
    assert again.done == {CLIPS[0]}


def test_overwriting_removes_the_earlier_run_and_nothing_else(tmp_path):
    run = make(tmp_path)
    run.append(rows(*CLIPS))
    run.save_attributions({CLIPS[0]: np.ones((2, 3))}, [{"clip": CLIPS[0], "residual": 0.5}])
    mine = ["notes.txt", "attributions/notes.txt", "csvs/plot.ipynb"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    other = make(tmp_path, settings=SETTINGS | {"base": "quiet"}, overwrite=True)
    assert other.done == set()
    assert other.load_attribution(CLIPS[0], (2, 3)) is None
    assert not (tmp_path / "diagnostics.csv").exists()
    assert {(tmp_path / name).read_text() for name in mine} == {"mine"}
    assert read_run(tmp_path)["settings"]["base"] == "quiet"


def test_tables_of_other_columns_are_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "csvs" / "bin.csv").write_text("clip,FF\na,1\n")
    with pytest.raises(ValueError, match=r"bin.csv: its columns are 'clip', 'FF', not 'clip', "):
        make(tmp_path)


def test_tables_without_their_settings_are_refused(tmp_path):
    make(tmp_path).append(rows(*CLIPS))
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run.json to say how they were made"):
        make(tmp_path)
    assert not make(tmp_path, overwrite=True).done


def test_attributions_are_kept_by_clip(tmp_path):
    run = make(tmp_path)
    maps = {clip: np.full((2, 3), index, np.float32) for index, clip in enumerate(CLIPS)}
    for clip in reversed(CLIPS):
        run.save_attributions({clip: maps[clip]})
    for clip in CLIPS:
        found = run.load_attribution(clip, (2, 3))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, maps[clip])
    assert run.load_attribution("another", (2, 3)) is None
    assert run.load_attribution(CLIPS[0], (3, 2)) is None
    assert sorted(path.name for path in run.attributions.iterdir()) == [f"{c}.npy" for c in CLIPS]


def test_damaged_and_pickled_attributions_are_made_again(tmp_path):
    run = make(tmp_path)
    run.save_attributions({CLIPS[0]: np.ones((20, 30))})
    file = run.attributions / f"{CLIPS[0]}.npy"
    file.write_bytes(file.read_bytes()[:-100])
    assert run.load_attribution(CLIPS[0], (20, 30)) is None
    file.write_bytes(b"")
    assert run.load_attribution(CLIPS[0], (20, 30)) is None
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    assert run.load_attribution(CLIPS[0], (1,)) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 320, b"cut"])
@pytest.mark.parametrize("explained", [False, True])
def test_a_clip_whose_map_is_damaged_is_interpreted_again(tmp_path, content, explained):
    """As a power cut leaves files that were not flushed: short, or full of zeros."""
    names = {clip: f"{clip}@3" if explained else clip for clip in CLIPS}
    options = {"explained": explained, "begin": True}
    run = make(tmp_path, **options)
    run.save_attributions({name: np.ones((2, 3)) for name in names.values()})
    labelled = {"explained": "dog"} if explained else {}
    all_rows = {
        key: [each | labelled for each in of_clips] for key, of_clips in rows(*CLIPS).items()
    }
    run.append(all_rows)
    run.finish({"clips": 4})
    (run.attributions / f"{names[CLIPS[1]]}.npy").write_bytes(content)
    (run.attributions / f"{names[CLIPS[2]]}.npy").unlink()
    (run.attributions / ".left by a killed run.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match=f"1 of the saved maps are damaged.*{CLIPS[1]}"):
        again = make(tmp_path, explained=explained, begin=False)
    assert again.todo == [CLIPS[1]]
    assert not again.is_finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(tmp_path, clips=CLIPS[2:], explained=explained, begin=False).todo == []


def test_a_run_that_is_killed_as_it_begins_can_be_taken_up(tmp_path, monkeypatch):
    """Wherever it is: after every file that it replaces."""
    before = os.replace
    for writes in range(4):
        folder, left = tmp_path / str(writes), iter(range(writes))

        def kill(source, target, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            before(source, target)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", kill)
            make(folder)
        run = make(folder)
        run.append(rows(*CLIPS))
        assert run.done == set(CLIPS)


def test_diagnostics_outlive_an_interruption(tmp_path):
    run = make(tmp_path)
    run.save_attributions({CLIPS[0]: np.ones((2, 3))}, [{"clip": CLIPS[0], "residual": 0.25}])
    again = make(tmp_path)
    again.save_attributions({CLIPS[1]: np.ones((2, 3))}, [{"clip": CLIPS[1], "residual": 0.5}])
    table = pd.read_csv(tmp_path / "diagnostics.csv")
    assert table.to_dict("list") == {"clip": CLIPS[:2], "residual": [0.25, 0.5]}


def test_diagnostics_are_put_in_the_order_of_the_clips(tmp_path):
    run = make(tmp_path, clips=CLIPS[1:])
    for clip in reversed(CLIPS):
        run.save_attributions({clip: np.ones((2, 3))}, [{"clip": clip, "residual": 0.25}])
    run.append(rows(*CLIPS[1:]))
    run.finish({})
    assert pd.read_csv(tmp_path / "diagnostics.csv")["clip"].tolist() == [*CLIPS[1:], CLIPS[0]]


def test_run_json_holds_settings_and_report(tmp_path):
    run = make(tmp_path)
    assert read_run(tmp_path) == {"settings": SETTINGS, "report": {}}
    run.append(rows(*CLIPS))
    run.finish({"clips": 4, "failures": {}})
    assert read_run(tmp_path) == {"settings": SETTINGS, "report": {"clips": 4, "failures": {}}}
    assert read_run(tmp_path / "nowhere") is None
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"settings": 3})])
def test_a_damaged_run_json_is_refused(tmp_path, text):
    make(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json: .*remove the run's folder"):
        make(tmp_path)


def test_the_name_of_a_run_can_be_read_back(tmp_path):
    path = run_path(tmp_path, "esc10_logmel", "gradcam", "white_noise")
    assert path == tmp_path / "esc10_logmel" / "gradcam_white_noise"
    for names in (
        ("", "shap", "clean"),
        ("model", "shap", ""),
        ("a/b", "shap", "clean"),
        ("model", "shap", "../x"),
        (".hidden", "shap", "clean"),
    ):
        with pytest.raises(ValueError, match="cannot be part of"):
            run_path(tmp_path, *names)
    with pytest.raises(ValueError, match="read as those of 'deep' and 'lift_clean'"):
        run_path(tmp_path, "model", "deep_lift", "clean")
    with pytest.raises(ValueError, match="read as those of 'lrp_gamma' and 'clean'"):
        run_path(tmp_path, "model", "lrp", "gamma_clean")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("experiment", ["clean", "white_noise", "room_-10dB", "_"])
def test_the_run_of_every_method_has_a_folder_that_names_it(tmp_path, method, experiment):
    folder = run_path(tmp_path, "model", method, experiment)
    assert split_run_name(folder.name) == (method, experiment)


@pytest.mark.parametrize("clip", ["../x", "a/b", "..", "", "a\\b"])
def test_a_clip_whose_name_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, clip):
    with pytest.raises(ValueError, match="attribution maps are filed by the clips' names"):
        make(tmp_path / "run", clips=[clip])
    assert not (tmp_path / "run").exists()


def test_a_class_that_looks_like_a_number_is_kept_when_a_run_is_taken_up(tmp_path):
    named = {key: [r | {"target": "007"} for r in some] for key, some in rows(*CLIPS[:2]).items()}
    make(tmp_path).append(named)
    again = make(tmp_path)
    again.append(rows(*CLIPS[2:]))
    again.finish({})
    written = pd.read_csv(tmp_path / "csvs" / "bin.csv", dtype=str)
    assert written["target"].tolist() == ["007", "007", "dog", "dog"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_made_again(tmp_path, value):
    run = make(tmp_path)
    run.save_attributions({CLIPS[0]: np.full((2, 3), value)})
    assert run.load_attribution(CLIPS[0], (2, 3)) is None


def test_diagnostics_of_a_map_are_added_to_what_is_known_of_it(tmp_path):
    run = make(tmp_path)
    run.save_attributions({}, [{"clip": CLIPS[0], "residual": 0.5}])
    make(tmp_path).save_attributions({}, [{"clip": CLIPS[0], "constant_map": 1.0}])
    found = pd.read_csv(tmp_path / "diagnostics.csv")
    assert found.to_dict("records") == [{"clip": CLIPS[0], "residual": 0.5, "constant_map": 1.0}]


def test_a_clip_with_two_different_rows_is_measured_again(tmp_path):
    make(tmp_path).append(rows(*CLIPS))
    path = tmp_path / "csvs" / "bin.csv"
    lines = path.read_text().splitlines()
    other = lines[1].replace("0.1234567890123456", "0.9")
    path.write_text("\n".join([*lines, other, lines[2]]) + "\n")
    again = make(tmp_path)
    # The second clip stands there twice with the same numbers.
    assert again.todo == [CLIPS[0]]
