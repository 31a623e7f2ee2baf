"""The examples of docs/truth.md run, and its tables name the metrics and columns there are."""

from __future__ import annotations

import re
import shutil

from repository import REPOSITORY

from audiointerp.dataset.events import COLUMNS
from audiointerp.evaluation import METRICS, TRUTH_FACTS

PAGE = (REPOSITORY / "docs" / "truth.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run(monkeypatch, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    name = "synthetic_logmel.safetensors"
    shutil.copy(REPOSITORY / "weights" / name, weights / name)
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in EXAMPLES:
        exec(example, names)
    assert names["best"].item() == 1
    assert 0 < names["chance"].item() < 1
    assert 0 < names["found"].item() < 1
    ((onset, offset, label, *_),) = names["listed"].true_events(0)
    assert (onset, offset, label) == (0.5, 1.25, "dog")
    assert names["calls"].true_events(0) == [(0.25, 0.5, "dog", 800.0, 2400.0)]


def test_every_metric_and_column_is_described():
    for name, metric in METRICS.items():
        if metric.needs & {"truth", "parts", "events"}:
            assert f"`{name}`" in PAGE
    for name in (*TRUTH_FACTS, *(column for columns in COLUMNS.values() for column in columns)):
        assert f"`{name}`" in PAGE
