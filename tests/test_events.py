"""Tables of events: AudioSet-strong, DESED and plain ones, matched with the clips of sets."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from audiointerp.dataset import (
    Event,
    EventTable,
    EventWarning,
    TableError,
    open_dataset,
    save_audio,
)

RATE = 8000
STRONG = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
DESED = ("filename", "onset", "offset", "event_label")
CLIP = {"sample_rate": RATE, "duration": 1.0}


@pytest.fixture
def root(tmp_path):
    """A folder per class, with sounds of three seconds."""
    noise = np.random.default_rng(0).uniform(-1, 1, 3 * RATE)
    for name in ("cat/a.wav", "dog/b.wav", "dog/c.wav"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        save_audio(tmp_path / "set" / name, noise, RATE)
    return tmp_path / "set"


def write(path, columns, *rows, delimiter=","):
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in (columns, *rows)) + "\n")
    return path


ALL = [("a.wav", 0.1, 0.5, "cat"), ("b.wav", 0.2, 0.4, "dog"), ("c.wav", 0.0, 3, "dog")]


@pytest.mark.parametrize("columns", [STRONG, DESED])
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_the_columns_of_both_kinds_are_read(root, columns, ending, delimiter):
    more = [*columns, "source"]
    rows = [(*row, "x") for row in ALL]
    table = write(root / f"events.{ending}", more, *rows, delimiter=delimiter)
    data = open_dataset(root, events=table, **CLIP)
    assert data.has_events
    found = {clip: data.true_events(n) for n, clip in enumerate(data.clip_ids)}
    assert found == {
        "cat__a.wav": [Event(0.1, 0.5, "cat")],
        "dog__b.wav": [Event(0.2, 0.4, "dog")],
        "dog__c.wav": [Event(0.0, 1.0, "dog")],  # as long as the clip
    }
    assert data.true_events(-1) == data.true_events(2)


def test_the_table_is_named_behind_the_path_of_the_set(root, monkeypatch):
    write(root / "events.csv", DESED, *ALL)
    data = open_dataset(f"{root}?events=events.csv", **CLIP)
    assert data.true_events(0) == [Event(0.1, 0.5, "cat")]
    with pytest.raises(ValueError, match="events is given twice"):
        open_dataset(f"{root}?events=events.csv", events=root / "events.csv", **CLIP)
    (root / "meta.csv").write_text("path,label\ncat/a.wav,cat\n")
    data = open_dataset(f"{root / 'meta.csv'}?events=events.csv", **CLIP)
    assert data.true_events(0) == [Event(0.1, 0.5, "cat")]
    monkeypatch.chdir(root)
    write(root / "synthetic.csv", DESED, ("5-dog-04", 1, 2, "dog"))
    data = open_dataset("synthetic?events=synthetic.csv", folds=5, clips=1, **CLIP)
    assert data.true_events(0) == []  # it begins where the clip ends


def test_a_set_without_a_table_has_no_events(root):
    data = open_dataset(root, **CLIP)
    assert not data.has_events
    assert "events" not in data.settings()
    with pytest.raises(ValueError, match=r"no events are known of this set: .*events='FILE'"):
        data.true_events(0)
    with pytest.raises(ValueError, match="events of 1 clips for a set of 3"):
        data.add_events([[]], {})


def test_what_the_events_depend_on_is_a_setting(root):
    table = write(root / "events.csv", DESED, *ALL)
    first = open_dataset(root, events=table, **CLIP).settings()["events"]
    write(root / "events.csv", DESED, *ALL[:2], ("c.wav", 0.5, 1, "dog"))
    second = open_dataset(root, events=table, **CLIP).settings()["events"]
    assert first["file"] == second["file"] == "events.csv"
    assert first["sha256"] != second["sha256"]


def test_windows_and_parts_have_what_lies_in_them(root):
    rows = [("c", 0.5, 1.2, "dog"), ("c", 2.9, 3.5, "dog"), ("c", 1.1, 1.3, "cat")]
    table = write(root / "events.csv", DESED, ("a", "", "", ""), ("b", "", "", ""), *rows)
    data = open_dataset(root, events=table, window_hop=1.0, **CLIP)
    found = {clip: data.true_events(n) for n, clip in enumerate(data.clip_ids)}
    assert found["dog__c.wav@0.00"] == [Event(0.5, 1.0, "dog")]
    one = found["dog__c.wav@1.00"]
    assert [event.label for event in one] == ["dog", "cat"]
    assert one[0][:2] == pytest.approx((0, 0.2))
    assert one[1][:2] == pytest.approx((0.1, 0.3))
    (two,) = found["dog__c.wav@2.00"]
    assert two[:2] == pytest.approx((0.9, 1.0))
    meta = root / "meta.csv"
    meta.write_text("path,label,start,end\ndog/c.wav,dog,1.0,1.25\ncat/a.wav,cat,0,1\n")
    data = open_dataset(f"{meta}?start=start&end=end", events=table, **CLIP)
    (first, second) = data.true_events(0)
    assert first[:2] == pytest.approx((0, 0.2))
    assert second[:2] == pytest.approx((0.1, 0.25))  # the part ends before the clip does


def test_recordings_are_called_by_file_folder_or_clip(root):
    names = ("cat/a.wav", "dog__b.wav", str(root / "dog" / "c"))
    rows = [(name, *row[1:]) for name, row in zip(names, ALL, strict=True)]
    table = write(root / "events.csv", DESED, *rows)
    data = open_dataset(root, events=table, **CLIP)
    assert [len(data.true_events(n)) for n in range(3)] == [1, 1, 1]


def test_a_name_of_two_files_needs_its_folder(root):
    save_audio(root / "dog" / "a.wav", np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
    table = write(root / "events.csv", DESED, *ALL)
    with pytest.raises(
        TableError, match=r"line 2, column 'filename': 'a.wav' could be .*a or .*a: wr"
    ):
        open_dataset(root, events=table, **CLIP)
    rows = [("cat/a.wav", *ALL[0][1:]), ("dog/a.wav", 0.3, 0.4, "dog"), *ALL[1:]]
    data = open_dataset(root, events=write(table, DESED, *rows), **CLIP)
    assert data.true_events(data.index("dog__a.wav")) == [Event(0.3, 0.4, "dog")]


def test_audioset_is_called_by_video_and_millisecond(tmp_path):
    (tmp_path / "eval_segments.csv").write_text(
        '# c\n--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"\nabc_DEF-123, 30.000, 40.000, '
        '"/m/0bt9lr"\n'
    )
    noise = np.random.default_rng(0).uniform(-1, 1, RATE)
    for name in ("Y--4gqARaEJE.wav", "abc_DEF-123.wav"):
        save_audio(tmp_path / name, noise, RATE)
    table = write(
        tmp_path / "strong.tsv",
        STRONG,
        ("--4gqARaEJE_0", 0.2, 0.4, "/m/068hy"),
        ("abc_DEF-123_30000", 0.5, 0.75, "/m/0bt9lr"),
        ("other_id_45_30000", 0.5, 0.75, "/m/0bt9lr"),
        ("abc_DEF-123_30000", 0.1, 0.2, "/t/dd00142"),
        delimiter="\t",
    )
    with pytest.warns(EventWarning, match=r"1 of 3 events are left out: '/t/dd00142' is not among"):
        data = open_dataset(tmp_path, events=table, sample_rate=RATE)
    found = [data.true_events(n) for n in range(2)]
    assert found == [
        [Event(0.2, 0.4, "Domestic animals, pets")],
        [Event(0.5, 0.75, "Dog")],
    ]


def test_what_the_table_does_not_say_is_counted(root):
    table = write(root / "events.csv", DESED, *ALL[:1], ("b.wav", 0.2, 0.4, "dgo"))
    with pytest.warns(EventWarning) as found:
        data = open_dataset(root, events=table, **CLIP)
    unknown, missing = (str(warning.message) for warning in found)
    assert re.search(
        r"1 of 2 events are left out: 'dgo' is not among .* did you mean 'dog'", unknown
    )
    assert re.search(r"no row of 1 of the 3 clips, so that nothing sounds in .*dog__c", missing)
    assert [data.true_events(n) for n in range(3)] == [[Event(0.1, 0.5, "cat")], [], []]


def test_a_row_with_a_recording_only_says_that_nothing_sounds_in_it(root):
    table = write(root / "events.csv", DESED, ("a.wav", "", "", ""), *ALL[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_dataset(root, events=table, **CLIP)
    assert data.true_events(0) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.wav", 0.5, 0.2, "cat"), r"line 2, column 'offset': 0.2 s is not after the onset, 0.5"),
        (("a.wav", 0.5, 0.5, "cat"), "is not after the onset"),
        (("a.wav", "nan", 0.5, "cat"), r"column 'onset': .*nan.* is not a number of seconds"),
        (("a.wav", -1, 0.5, "cat"), "is not a number of seconds from 0 on"),
        (("a.wav", "", 0.5, "cat"), "column 'onset': is empty"),
        (("a.wav", 0.1, "", "cat"), "column 'offset': is empty"),
        (("a.wav", 0.1, 0.5, ""), "column 'event_label': is empty"),
        (("", 0.1, 0.5, "cat"), "column 'filename': is empty"),
    ],
)
def test_a_row_that_is_no_event_is_named(root, row, message):
    table = write(root / "events.csv", DESED, row)
    with pytest.raises(TableError, match=message):
        EventTable(table)


def test_a_table_of_something_else_is_refused(root):
    table = write(root / "other.csv", ("filename", "start"), ("a.wav", 1))
    with pytest.raises(
        TableError, match=r"no table of events: its columns are 'filename', 'start'"
    ):
        EventTable(table)
    with pytest.raises(FileNotFoundError, match="no such table"):
        open_dataset(root, events=root / "missing.csv", **CLIP)
    table = write(root / "events.csv", DESED, ("x.wav", 0.1, 0.2, "dog"))
    with pytest.raises(
        TableError, match=r"has none of the set's 3 clips: it begins with 'x.wav', the"
    ):
        open_dataset(root, events=table, **CLIP)
    table = write(root / "events.csv", DESED, ("a.wav", 0.1, 0.2, "Dog"), *ALL[1:2])
    write(root / "none.csv", DESED, ("a.wav", 0.1, 0.2, "Cat"))
    with pytest.raises(TableError, match=r"no event has a class of the set: 'Cat' is not among"):
        open_dataset(root, events=root / "none.csv", **CLIP)
