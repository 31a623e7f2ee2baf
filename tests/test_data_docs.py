"""The examples of docs/data.md run, and say what comes out."""

from __future__ import annotations

import inspect
import re

import pytest
from repository import REPOSITORY

import audiointerp as ai
from audiointerp.dataset import LAYOUTS, ESC50Dataset
from audiointerp.dataset.choose import Layout
from audiointerp.dataset.table import TableDataset

PAGE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.fixture
def examples(write_tones, monkeypatch):
    """Return the names that the examples make, run one after the other in a folder with sounds."""
    sounds = {"SOUNDS/dog/1.wav": 12.13, "SOUNDS/dog/night/2.flac": 1, "SOUNDS/cat/1.mp3": 1}
    root = write_tones("docs", {**sounds, "night.flac": 40, "clips/night/2.wav": 1})
    table = re.search(r"^    (file,tags,set\n(?:    .*\n)+)", PAGE, re.MULTILINE)
    (root / "meta.csv").write_text(re.sub(r"^    ", "", table[1], flags=re.MULTILINE))
    monkeypatch.chdir(root)
    names = {"ai": ai, "LAYOUTS": dict(LAYOUTS), "Layout": Layout, "BirdsDataset": ESC50Dataset}
    kept = []
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)
        kept.append(dict(names))
    return kept


@pytest.mark.filterwarnings("ignore::audiointerp.dataset.TruncationWarning")
def test_they_run(examples):
    folder, table, windows, stream, layout = examples
    assert folder["data"].classes == ("cat", "dog")
    assert set(folder["data"].clip_ids) <= {"cat__1.mp3", "dog__1.wav", "dog__night__2.flac"}
    assert table["data"].clip_ids == ["night__2.wav"]
    assert table["data"].label_sets == [()]
    expected = [f"dog__1.wav@{start}" for start in ("0.00", "2.50", "5.00", "7.13")]
    assert [clip for clip in windows["data"].clip_ids if "@" in clip] == expected
    assert stream["window"].waveform.shape == (1, 160_000)
    assert stream["window"].end == 30.0
    assert "birds" in layout["LAYOUTS"]


def test_every_option_of_a_table_is_listed():
    section = PAGE[PAGE.index("## A table") : PAGE.index("## Several labels")]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"\w+", row)}
    taken = set(inspect.signature(TableDataset).parameters)
    assert listed == taken - {"table", "folds", "classes", "options"} | {"window_hop", "channel"}
