"""CSV that holds no formula for a spreadsheet and is read back exactly."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest

from audiointerp.runs.store import RunFolder, read_frame, read_table
from audiointerp.spreadsheet import to_csv

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-0RWZT-miFs", "@SUM(A1)", "\tx", "\r=x", "-1"]
PLAIN = ["dog", "'quoted'", "a=b", "1-100032-A-0", "", "雨", "None", "'"]
MARKED = ["'=x", "''-x"]
NAMES = [*FORMULAS, *PLAIN, *MARKED]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_no_text_begins_like_a_formula_and_ordinary_ones_are_as_they_were():
    table = pd.DataFrame({"clip": NAMES, "FF": np.linspace(-1, 1, len(NAMES))})
    written = to_csv(table, index=False)
    names = [row[0] for row in cells(written)[1:]]
    assert not [name for name in names if name.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert names[len(FORMULAS) : -len(MARKED)] == PLAIN
    ordinary = table[table["clip"].isin(PLAIN)]
    assert to_csv(ordinary, index=False) == ordinary.to_csv(index=False)


def test_texts_numbers_and_headings_come_back_exactly(tmp_path):
    headings = [name for name in NAMES if name]
    values = np.random.default_rng(0).normal(size=(len(NAMES), len(headings)))
    table = pd.DataFrame(values, pd.Index(NAMES, name="=mask"), headings)
    path = tmp_path / "table.csv"
    path.write_bytes(to_csv(table).encode())
    read = read_frame(path, index=1)
    assert (read.index.name, read.index.tolist()) == ("=mask", NAMES)
    assert read.columns.tolist() == headings
    assert (read.astype(float).to_numpy() == values).all()
    assert table.columns.tolist() == headings  # what is written is not changed


def test_the_levels_of_an_index_are_texts_too(tmp_path):
    index = pd.MultiIndex.from_product([["=a", "b"], ["in", "out"]], names=["mask", "part"])
    table = pd.DataFrame({"-x": [0.5, -1e-300, 3.0, 4.0]}, index)
    path = tmp_path / "table.csv"
    path.write_text(to_csv(table), encoding="utf-8")
    read = read_frame(path, index=2)
    assert read.index.tolist() == index.tolist()
    assert read["-x"].astype(float).tolist() == table["-x"].tolist()


@pytest.mark.parametrize("clip", ["-0RWZT-miFs", "=x", "'=x", "\r=x", "a\rb"])
def test_a_run_of_such_clips_goes_on_and_older_tables_are_read(tmp_path, clip):
    def open_run() -> RunFolder:
        return RunFolder(tmp_path, {}, clips=[clip], masks=["bin"], metrics=["FF"])

    row = {"clip": clip, "target": "+x", "predicted": "dog", "is_correct": False, "FF": -0.1}
    run = open_run()
    run.begin()
    run.append({("features", "bin"): [row]})
    assert open_run().done == {clip}
    run.finish({})
    assert open_run().done == {clip}
    path = tmp_path / "csvs" / "bin.csv"
    assert read_table(path).loc[0].to_dict() == row
    if clip.isprintable() and not clip.startswith("'"):
        path.write_text(f"clip,target,predicted,is_correct,FF\n{clip},+x,dog,False,-0.1\n")
        assert open_run().done == {clip}
