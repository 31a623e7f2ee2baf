"""The audit of a folder: detections, groups, suspicion, the page; going on, and what fails."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from networks import RATE, stft
from pandas.testing import assert_frame_equal
from repository import REPOSITORY
from torch import nn
from typer.testing import CliRunner

import audiointerp as ai
from audiointerp.cli.commands import app
from audiointerp.dataset import ShortcutDataset
from audiointerp.report.audit import Audit
from audiointerp.report.quantities import band_in_words, hertz_in_words
from audiointerp.runs.audit import RECORDINGS
from audiointerp.runs.detections import find_peaks
from audiointerp.runs.opening import Opened

TONE, CLICK = 16, 48
"""Bins of 62.5 Hz: 1 and 3 kHz."""


class Listener(nn.Module):
    """Says "<tone>" by the mean level at 1 kHz, and "click" by the highest one at 3 kHz."""

    def forward(self, cells):
        tone, click = cells[:, 0, TONE].mean(1), cells[:, 0, CLICK].amax(1)
        return torch.stack([tone, click], 1) / 4


def tone(hertz, start, end, seconds=1.0, level=0.3, seed=0):
    """Return faint noise with a tone from one second to another."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = 0.003 * np.random.default_rng(seed).standard_normal(len(time))
    sounds = (start <= time) & (time < end)
    return noise + level * sounds * np.sin(2 * np.pi * hertz * time)


@pytest.fixture(scope="module")
def classifier():
    return ai.classifier(
        Listener(), front_end=stft(), classes=("<tone>", "click"), head="sigmoid", duration=1.0
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of short clips and a recording of several windows."""
    root = tmp_path_factory.mktemp("night")
    files = {
        "a.wav": tone(1000, 0, 1, seed=1),
        "b.wav": tone(1000, 0, 1, level=0.1, seed=2),
        "deep/c.wav": tone(3000, 0.5, 0.54, seed=3),
        "deep/d.wav": tone(3000, 0.2, 0.24, seed=4),
        "deep/quiet.wav": tone(1000, 0, 0, seed=5),
        "long.wav": tone(1000, 2, 4, seconds=6, seed=6),
    }
    for name, waveform in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, waveform, RATE, subtype="FLOAT")
    (root / "notes.txt").write_text("no sound")
    (root / "broken.wav").write_bytes(b"RIFF and nothing else")
    return root


@pytest.fixture(scope="module")
def found(classifier, folder):
    return ai.audit(folder, classifier, progress=False)


@pytest.fixture(scope="module")
def files(found, tmp_path_factory):
    """Return the page of the folder, and the tables beside it."""
    return found.save(tmp_path_factory.mktemp("page") / "audit.html", shown=2)


class TestDetections:
    def test_every_detection_has_a_row(self, found):
        rows = {(row.file, row.label) for row in found.table.itertuples()}
        assert rows == {
            ("a.wav", "<tone>"),
            ("b.wav", "<tone>"),
            ("deep/c.wav", "click"),
            ("deep/d.wav", "click"),
            ("long.wav", "<tone>"),
        }
        assert list(found.failures) == ["broken.wav"]
        assert len(found.found.files) == 7

    def test_evidence_lies_where_the_network_looks(self, found):
        table = found.table.set_index("file")
        steady = table.loc[["a.wav", "b.wav", "long.wav"]]
        assert (steady["peak_hz"] == 62.5 * TONE).all()
        assert (steady["low_hz"] == 62.5 * (TONE - 0.5)).all()
        assert (steady["high_90_hz"] == 62.5 * (TONE + 0.5)).all()
        assert steady["steadiness"].to_numpy() == pytest.approx([1, 1, 1])
        bursts = table.loc[["deep/c.wav", "deep/d.wav"]]
        assert (bursts["peak_hz"] == 62.5 * CLICK).all()
        assert (bursts["steadiness"] < 0.02).all()
        for file, start in (("deep/c.wav", 0.5), ("deep/d.wav", 0.2)):
            assert start - 0.01 <= table.loc[file, "evidence_start"] <= start + 0.05

    def test_without_its_band_the_class_is_gone(self, found):
        table = found.table
        assert (table["probability"] >= 0.5).all()
        assert (table["p_without_band"] < 0.2).all()

    def test_adjacent_windows_are_one_detection_and_the_best_is_explained(self, found):
        row = found.table.set_index("file").loc["long.wav"]
        assert row["windows"] > 1
        assert 2.0 <= row["window_start"] < row["window_end"] <= 4.0  # where the tone is throughout
        assert row["start"] <= row["window_start"]
        assert row["end"] - row["start"] == pytest.approx(0.504 * (row["windows"] - 1) + 1)

    def test_it_is_what_interpret_says(self, classifier, folder, found):
        predict = ai.Predict(
            classifier, ai.SaliencyInterpreter(classifier), masks="topK_5_pos", base="quiet"
        )
        result = predict.predict(folder / "deep" / "c.wav", target="click")
        row = found.table.set_index("file").loc["deep/c.wav"]
        assert row["probability"] == pytest.approx(result.probabilities[1])
        masked = result.probabilities_on["features"].loc["topK_5_pos"]
        assert row["p_evidence"] == pytest.approx(masked["in"])
        assert row["p_rest"] == pytest.approx(masked["out"])

    def test_clips_do_not_depend_on_their_batch(self, classifier, folder, found, monkeypatch):
        monkeypatch.setattr("audiointerp.runs.opening.CLIPS_PER_BATCH", 1)
        alone = ai.audit(folder, classifier, progress=False)
        assert_frame_equal(alone.table, found.table, rtol=1e-6)

    def test_higher_thresholds_detect_less(self, classifier, folder, found):
        lowest = found.table["probability"].min()
        above = ai.audit(folder, classifier, threshold=lowest + 1e-6, progress=False)
        assert len(above.table) == len(found.table) - 1


def test_stretches_end_where_windows_do_not_touch():
    class Coverage:
        windows = ((0, 1), (0.5, 1.5), (1, 2), (4, 5), (4.5, 5.5))

    class Heard:
        coverage = Coverage
        explained = ((0,), (0, 1), (), (0,), (0,))
        probabilities = np.array([[0.6, 0], [0.9, 0.7], [0, 0], [0.8, 0], [0.8, 0]])

    assert find_peaks(Heard) == {
        (1, 0): (0, 1.5, 2),
        (1, 1): (0.5, 1.5, 1),
        (3, 0): (4, 5.5, 2),
    }


class TestGroups:
    def test_they_are_named_in_words(self, found):
        assert sorted(found.groups.index) == [
            "<tone>: steady, 0.969–1.03 kHz",
            "click: bursts, 2.97–3.03 kHz",
        ]

    def test_they_hold_every_detection_the_most_suspicious_first(self, found):
        assert found.groups["detections"].sum() == len(found.table)
        assert found.groups["suspicion"].is_monotonic_decreasing
        for _, own in found.table.groupby("group"):
            assert own["suspicion"].is_monotonic_decreasing

    def test_the_order_of_the_files_does_not_matter(self, found):
        others = replace(found.found, detections=found.found.detections[::-1])
        turned = Audit(found.folder, found.auditor, others)
        assert_frame_equal(turned.groups, found.groups)
        assert_frame_equal(turned.table, found.table)

    def test_a_planted_beep_comes_first(self, tmp_path):
        """The shipped network takes what beeps for a dog; see docs/shortcuts.md."""
        clips = ShortcutDataset(5, share=1.0, others=0.4, clips=12)
        for place, clip in enumerate(clips.clip_ids):
            soundfile.write(
                tmp_path / f"{clip}.wav", clips[place].waveform[0].numpy(), clips.sample_rate
            )
        weights = REPOSITORY / "weights" / "shortcut_logmel.safetensors"
        table = ai.audit(tmp_path, weights, device="cpu", progress=False).table
        planted = {
            f"{clip}.wav"
            for clip, is_there in zip(clips.clip_ids, clips.planted, strict=True)
            if is_there
        }
        is_shortcut = (table["label"] == "dog") & table["file"].isin(planted)
        assert 2 < is_shortcut.sum() < len(table)
        assert table.loc[is_shortcut, "suspicion"].min() > 0.7
        assert table.loc[~is_shortcut, "suspicion"].max() < 0.7
        assert is_shortcut.iloc[0]
        first = table.iloc[0]
        assert 2500 < first["low_hz"] < 3000 < first["high_hz"] < 3500

    def test_two_groups_never_have_one_name(self, found):
        one = found.found.detections[0]
        alike = [replace(one, file=f"{hz}.wav", peak_hz=hz) for hz in (900.0, 1100.0, 2100.0)]
        grown = Audit(found.folder, found.auditor, replace(found.found, detections=alike))
        assert sorted(grown.groups["detections"]) == [1, 1, 1]
        assert grown.groups.index.is_unique

    def test_detections_without_evidence_are_a_group_that_comes_last(self, found, tmp_path):
        one = found.found.detections[0]
        unknown = dict.fromkeys(
            (
                *("peak_hz", "low_hz", "high_hz", "low_90_hz", "high_90_hz", "p_without_band"),
                *("evidence_start", "evidence_end", "bandwidth", "steadiness", "band_energy"),
                *("overlap", "at_start", "at_end", "silence"),
            ),
            math.nan,
        )
        none = replace(one, file="none.wav", profile=(math.nan,) * len(one.profile), **unknown)
        both = replace(found.found, detections=[none, *found.found.detections])
        grown = Audit(found.folder, found.auditor, both)
        assert grown.groups.index[-1] == f"{one.label}: no positive evidence"
        assert grown.table["reason"].iloc[-1] == "no cell speaks for the class"
        assert grown.table["suspicion"].iloc[:-1].tolist() == found.table["suspicion"].tolist()
        assert "no positive evidence" in grown.save(tmp_path / "page.html")[0].read_text("utf-8")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (hertz_in_words(999.6), "1 kHz"),
            (band_in_words(980, 1020), "0.98–1.02 kHz"),
            (band_in_words(0, 62.5), "0–62 Hz"),
        ],
    )
    def test_frequencies_in_words(self, words, expected):
        assert words == expected


class TestGoingOn:
    @pytest.fixture
    def out(self, classifier, folder, tmp_path):
        ai.audit(folder, classifier, tmp_path / "out", progress=False)
        return tmp_path / "out"

    def opened(self, monkeypatch):
        names = []
        monkeypatch.setattr(
            "audiointerp.runs.opening.Opened",
            lambda name, *rest: names.append(name) or Opened(name, *rest),
        )
        return names

    def test_what_is_done_is_not_done_again(self, classifier, folder, found, out, monkeypatch):
        names = self.opened(monkeypatch)
        again = ai.audit(folder, classifier, out, progress=False)
        assert names == []
        assert_frame_equal(again.table, found.table, check_exact=True)
        assert list(again.failures) == ["broken.wav"]

    def test_an_audit_that_was_killed_goes_on(self, classifier, folder, found, out, monkeypatch):
        lines = (out / RECORDINGS).read_text().splitlines(keepends=True)
        (out / RECORDINGS).write_text("".join(lines[:3]) + lines[3][:100])
        names = self.opened(monkeypatch)
        again = ai.audit(folder, classifier, out, progress=False)
        assert len(names) == len(lines) - 3
        assert_frame_equal(again.table, found.table, rtol=1e-6)
        assert len((out / RECORDINGS).read_text().splitlines()) == len(lines)

    def test_new_changed_and_removed_files(self, classifier, folder, out, tmp_path, monkeypatch):
        copy = shutil.copytree(folder, tmp_path / "copy")  # keeps the times
        soundfile.write(copy / "new.wav", tone(1000, 0, 1, seed=9), RATE)
        soundfile.write(copy / "a.wav", tone(1000, 0, 1.5, seconds=1.5), RATE)
        (copy / "b.wav").unlink()
        names = self.opened(monkeypatch)
        again = ai.audit(copy, classifier, out, progress=False)
        assert sorted(names) == ["a.wav", "new.wav"]
        assert {"a.wav", "new.wav"} <= set(again.table["file"])
        assert "b.wav" not in set(again.table["file"])

    def test_other_settings_are_refused_unless_all_is_done_anew(self, classifier, folder, out):
        with pytest.raises(
            ValueError, match=r"other settings \(base, target\.above\); .*overwrite"
        ):
            ai.audit(folder, classifier, out, threshold=0.9, base="floor", progress=False)
        ai.audit(folder, classifier, out, threshold=0.9, overwrite=True, progress=False)
        assert json.loads((out / "audit.json").read_text())["target"] == {"above": 0.9}

    def test_an_audit_of_another_version_is_refused(self, classifier, folder, out):
        settings = json.loads((out / "audit.json").read_text())
        settings["columns"].remove("edge_energy")
        (out / "audit.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=r"other settings \(columns\)"):
            ai.audit(folder, classifier, out, progress=False)

    def test_damage_is_named(self, classifier, folder, out):
        (out / RECORDINGS).write_text('{"file": "a.wav"}\n')
        with pytest.raises(ValueError, match=r"recordings\.jsonl: line 1 is damaged"):
            ai.audit(folder, classifier, out, progress=False)
        (out / "audit.json").unlink()
        with pytest.raises(ValueError, match=r"no audit\.json to say how it was made"):
            ai.audit(folder, classifier, out, progress=False)


class TestBadInput:
    def test_folders(self, classifier, tmp_path):
        with pytest.raises(ValueError, match="no such folder"):
            ai.audit(tmp_path / "missing", classifier)
        (tmp_path / "notes.txt").write_text("none")
        with pytest.raises(ValueError, match=r"no sound files in it that end in \.wav"):
            ai.audit(tmp_path, classifier)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 1.5}, "expected a probability between 0 and 1"),
            ({"method": "salience"}, "salience"),
            ({"method": "all"}, "an audit explains by one of them"),
            ({"mask": "topK"}, "topK"),
            ({"base": "low"}, "low"),
            ({"channel": "centre"}, "centre"),
        ],
    )
    def test_options(self, classifier, folder, options, message):
        with pytest.raises((ValueError, KeyError), match=message):
            ai.audit(folder, classifier, progress=False, **options)

    def test_a_bare_network_is_refused(self, folder):
        with pytest.raises(TypeError, match="Listener: expected a Classifier"):
            ai.audit(folder, Listener())

    def test_pages(self, found, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.html"):
            found.save(tmp_path / "page")
        with pytest.raises(ValueError, match="shown is -1"):
            found.save(tmp_path / "page.html", shown=-1)
        with pytest.raises(ValueError, match="unknown sound format 'ogg'"):
            found.save(tmp_path / "page.html", sound="ogg")
        assert not list(tmp_path.iterdir())

    def test_no_detection(self, classifier, folder, tmp_path):
        none = ai.audit(folder, classifier, threshold=1 - 1e-9, progress=False)
        assert none.table.empty
        assert none.groups.empty
        line = "no detection in 7 recordings: no class reaches a probability of 1; 1 could not be"
        with pytest.raises(ValueError, match=line):
            none.save(tmp_path / "page.html")


class TestPage:
    def test_it_holds_pictures_and_sounds_and_loads_nothing(self, files):
        page = files[0].read_text("utf-8")
        assert page.count("<audio ") == 3 * 4
        assert page.count("<img ") == 2 + 4  # a profile of each group
        assert not re.search(r'(?:src|href)="(?!data:|#)', page)
        assert "media-src data:" in page

    def test_names_are_text(self, files):
        page = files[0].read_text("utf-8")
        assert "&lt;tone&gt;: steady" in page
        assert "<tone>" not in page

    def test_it_says_what_it_leaves_out(self, files):
        page = files[0].read_text("utf-8")
        assert "The 2 most suspicious of 3 are shown; all are in audit.csv." in page
        assert "5 detections with a probability of 0.5 or more, in 5 of 7 recordings." in page
        assert "1 could not be used" in page

    def test_the_tables_lie_beside_it(self, files, found):
        assert [file.name for file in files] == ["audit.html", "audit.csv", "audit_groups.csv"]
        table = pd.read_csv(files[1])
        assert table["file"].tolist() == found.table["file"].tolist()
        assert table["suspicion"].to_numpy() == pytest.approx(found.table["suspicion"].to_numpy())
        assert len(pd.read_csv(files[2])) == len(found.groups)

    def test_what_has_gone_is_listed_without_its_sound(self, classifier, folder, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "copy")
        found = ai.audit(copy, classifier, progress=False)
        (copy / "a.wav").unlink()
        page = found.save(tmp_path / "page.html")[0].read_text("utf-8")
        assert "Cannot be shown: " in page
        assert page.count("<audio ") == 3 * 4

    def test_many_detections_make_no_larger_page(self, found, tmp_path):
        many = [
            replace(one, file=f"{place}/{one.file}")
            for place in range(200)
            for one in found.found.detections
        ]
        grown = Audit(found.folder, found.auditor, replace(found.found, detections=many))
        files = grown.save(tmp_path / "page.html", shown=1)
        assert files[0].stat().st_size < 200_000
        assert "The 1 most suspicious of 600 are shown" in files[0].read_text("utf-8")
        assert len(pd.read_csv(files[1])) == 1000

    def test_it_fits_a_phone_and_nothing_goes_wrong(self, browser, files):
        browser.open(files[0], 390, 900, dark=True)
        assert browser.complaints() == []
        assert browser.run("document.documentElement.scrollWidth") <= 390
        browser.run("document.querySelector('audio').play()")
        browser.until("document.querySelector('audio').currentTime > 0")


def test_the_command_line(tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    shutil.copy(REPOSITORY / "samples" / "dog.wav", sounds)
    weights = REPOSITORY / "weights" / "synthetic_logmel.safetensors"
    command = ["audit", str(sounds), "-w", str(weights), "--device", "cpu", "--out"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "out"), "--above", "0.3"])
    assert done.exit_code == 0, done.output
    assert "audit.html" in done.output
    written = {path.name for path in Path(tmp_path / "out").iterdir()}
    assert written == {
        *("audit.html", "audit.csv", "audit_groups.csv", "audit.json", "recordings.jsonl"),
    }
    done = CliRunner().invoke(app, [*command, str(tmp_path / "none"), "--above", "0.9999999"])
    assert done.exit_code == 0, done.output
    assert "no detection in 1 recordings" in done.output
