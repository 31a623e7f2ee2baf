"""Annotations of recordings: batdetect2's files, Raven's selection tables, boxes in tables."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from audiointerp.dataset import Event, EventTable, TableError, open_dataset, save_audio
from audiointerp.evaluation import Truth, event_cells, event_frames, truth_facts
from audiointerp.evaluation.localisation import Ranking, auprc, pointing_game, relevance_mass

RATE = 8000
CLIP = {"sample_rate": RATE, "duration": 1.0}
BOX = {"start_time": 0.1, "end_time": 0.5, "low_freq": 1000, "high_freq": 2500, "class": "cat"}
RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)")
RAVEN += ("High Freq (Hz)",)


@pytest.fixture
def root(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, 3 * RATE)
    for name in ("cat/a.wav", "dog/b.wav"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        save_audio(tmp_path / "set" / name, noise, RATE)
    (tmp_path / "anns").mkdir()
    return tmp_path


def batdetect(root, name, *boxes, **more):
    content = {"id": name, "annotation": list(boxes), "time_exp": 1} | more
    path = root / "anns" / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def raven(root, name, columns, *rows):
    path = root / "anns" / name
    path.write_text("\n".join("\t".join(map(str, row)) for row in (columns, *rows)) + "\n")
    return path


def events(root, source):
    data = open_dataset(root / "set", events=source, **CLIP)
    return {clip: data.true_events(n) for n, clip in enumerate(data.clip_ids)}, data


def test_a_folder_of_batdetects_files_has_a_file_for_each_recording(root):
    batdetect(root, "a.wav", BOX, BOX | {"start_time": 0.9, "end_time": 2.0, "high_freq": 3000})
    batdetect(root, "b.wav")
    found, data = events(root, root / "anns")
    assert found == {
        "cat__a.wav": [
            Event(0.1, 0.5, "cat", 1000, 2500),
            Event(0.9, 1.0, "cat", 1000, 3000),  # the clip ends before it does
        ],
        "dog__b.wav": [],
    }
    assert data.has_events
    assert data.has_boxes
    first = data.settings()["events"]
    batdetect(root, "b.wav", BOX | {"class": "dog"})
    assert events(root, root / "anns")[1].settings()["events"] != first


@pytest.mark.parametrize(
    "name",
    ["a.Table.1.selections.txt", "a.wav.Table.1.selections.txt", "a.selections.txt", "a.txt"],
)
@pytest.mark.parametrize("label", ["Annotation", "species", "Tag"])
def test_a_selection_table_is_called_like_its_recording(root, name, label):
    rows = [(1, "Spectrogram 1", 1, 0.1, 0.5, 1000, 2500, "cat")]
    found, _ = events(root, _quietly(root, raven(root, name, (*RAVEN, label), *rows)))
    assert found["cat__a.wav"] == [Event(0.1, 0.5, "cat", 1000, 2500)]


def _quietly(root, table):
    """Give the other recording an empty table, so that no clip is without a row."""
    raven(root, "b.txt", (*RAVEN, "Annotation"))
    return table.parent


def test_a_selection_table_of_several_files_has_their_names_and_offsets(root):
    columns = (*RAVEN, "Begin File", "File Offset (s)", "Annotation")
    rows = [
        (1, "Spectrogram 1", 1, 0.1, 0.5, 1000, 2500, "a.wav", 0.1, "cat"),
        (2, "Spectrogram 1", 1, 3.2, 3.4, 0, 4000, "b.wav", 0.2, "dog"),
    ]
    found, _ = events(root, raven(root, "all.txt", columns, *rows))
    assert found["cat__a.wav"] == [Event(0.1, 0.5, "cat", 1000, 2500)]
    ((onset, offset, *rest),) = found["dog__b.wav"]
    assert (onset, offset) == pytest.approx((0.2, 0.4))
    assert rest == ["dog", 0, 4000]


def test_a_table_may_have_frequencies_of_some_rows(root):
    path = root / "events.csv"
    path.write_text(
        "filename,onset,offset,event_label,low_freq,high_freq\n"
        "a,0.1,0.5,cat,1000,2500\na,0.2,0.4,cat,,\nb,,,,,\n"
    )
    found, data = events(root, path)
    assert found["cat__a.wav"] == [
        Event(0.1, 0.5, "cat", 1000, 2500),
        Event(0.2, 0.4, "cat", 0, math.inf),
    ]
    assert data.has_boxes
    path.write_text("filename,onset,offset,event_label\na,0.1,0.5,cat\nb,,,\n")
    assert not events(root, path)[1].has_boxes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end_time": 0.1}, r"annotation 1, column 'end_time': 0.1 s is not after the onset"),
        ({"high_freq": 900}, r"column 'high_freq': 900 Hz is not above .* 1000 Hz"),
        ({"low_freq": -1}, r"column 'low_freq': '-1' is not a number of Hz"),
        ({"class": ""}, r"column 'class': is empty"),
        ({"start_time": None}, r"column 'start_time': is empty"),
        ({"low_freq": [1]}, r"column 'low_freq': holds a value of the type list"),
    ],
)
def test_a_box_that_is_none_is_named(root, change, message):
    with pytest.raises(TableError, match=message):
        EventTable(batdetect(root, "a.wav", BOX | change))


def test_files_that_are_no_annotations_are_named(root):
    path = root / "anns" / "a.json"
    for content, message in (
        ("[", "cannot be read as JSON"),
        ("[]", "no annotation file of batdetect2: expected an object with id and annotation"),
        ('{"id": "a", "annotation": [1]}', "'annotation' is no list of objects"),
        ('{"id": "", "annotation": []}', "column 'id': is empty"),
        ('{"id": "a", "annotation": [], "time_exp": 10}', "expanded 10 times in time"),
    ):
        path.write_text(content)
        with pytest.raises(TableError, match=message):
            EventTable(path)
    path.unlink()
    with pytest.raises(TableError, match="has no annotations: expected files of batdetect2"):
        EventTable(root / "anns")
    with pytest.raises(TableError, match=r"no selection table of Raven: its columns are 'x'"):
        EventTable(raven(root, "a.txt", ("x", "y")))
    with pytest.raises(TableError, match="called Annotation, Species, Label, Class, Tag"):
        EventTable(raven(root, "a.txt", RAVEN))
    with pytest.raises(TableError, match=r"line 2: has 2 cells, the first line 8"):
        EventTable(raven(root, "a.txt", (*RAVEN, "Tag"), (1, 2)))
    with pytest.raises(FileNotFoundError):
        EventTable(root / "none.txt")


# Boxes as cells.

FREQUENCIES = torch.tensor([0.0, 100.0, 200.0, 400.0])
TIMES = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])


def slow_cells(boxes) -> list[list[bool]]:
    """Overlap of a box with each cell, written out: edges lie half way between centres."""
    edges = [-50, 50, 150, 300, 500]
    return [
        [
            any(
                onset < time + 0.05 and offset > time - 0.05 and low < edges[n + 1] and high > edge
                for onset, offset, low, high in boxes
            )
            for time in TIMES.tolist()
        ]
        for n, edge in enumerate(edges[:-1])
    ]


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(0.12, 0.22, 120, 180)],
        [(0.0, 0.04, 310, 320), (0.36, 9.0, 0.0, math.inf)],
        [(0.16, 0.18, 149, 151)],
        [(0.2, 0.3, 600, 900)],
    ],
)
def test_cells_of_boxes_are_those_that_they_overlap(boxes):
    assert event_cells(boxes, FREQUENCIES, TIMES).tolist() == slow_cells(boxes)
    frames = event_frames([(onset, offset) for onset, offset, *_ in boxes], TIMES)
    everywhere = [(onset, offset, 0, math.inf) for onset, offset, *_ in boxes]
    assert torch.equal(event_cells(everywhere, FREQUENCIES, TIMES).any(0), frames)


def test_boxes_are_what_a_map_is_compared_with():
    boxes = event_cells([(0.12, 0.22, 120, 180)], FREQUENCIES, TIMES)[None, None]
    truth = Truth(boxes=boxes.expand(2, -1, -1, -1))
    assert truth.has_cells
    assert not truth.has_parts
    assert torch.equal(truth.binary[1:], boxes)
    assert truth.counted.all()
    values = torch.stack([boxes[0].float(), 1 - boxes[0].float()])
    ranking = Ranking(values, truth.binary, truth.counted)
    share = float(boxes.float().mean())
    assert auprc(ranking)[0] == 1
    assert relevance_mass(ranking).tolist() == [1, 0]
    assert pointing_game(ranking).tolist() == [1, 0]
    facts = truth_facts(truth, torch.tensor([0, 0]))
    assert facts["foreground_share"].tolist() == pytest.approx([share, share])
    assert torch.equal(truth[1:].binary, boxes)
    other = truth.with_active(torch.ones(2, 5, dtype=torch.bool), ~truth.boxes)
    assert torch.equal(other.binary, ~truth.boxes)


def test_boxes_must_be_cells_of_bool():
    with pytest.raises(ValueError, match=r"boxes are torch.float32 of shape \(4, 5\): expected"):
        Truth(boxes=torch.zeros(4, 5))
