"""Writing: whole files or none, folders exchanged safely, claims that keep two runs apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from system import full_disk, holding

from audiointerp import storage
from audiointerp.plots import Picture
from audiointerp.runs.store import RunFolder
from audiointerp.sound import Sound
from audiointerp.storage import (
    ClaimedError,
    append,
    claim,
    ignores_case,
    replacing,
    replacing_folder,
    write_atomically,
)

LOCK = ".table.csv.lock"


def contents(folder):
    """Return the text of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestClaim:
    def test_another_process_is_told_who_holds_it(self, tmp_path):
        path = tmp_path / "made" / "table.csv"
        with holding(path) as other:
            with pytest.raises(ClaimedError) as refused, claim(path):
                pass
            said = str(refused.value)
            for words in (str(path), f"process {other.pid} on {os.uname().nodename}", "since 20"):
                assert words in said
            assert f"-c {path}" in said
        assert (path.parent / LOCK).is_file()  # killed, it left its file behind
        with claim(path):
            assert f"process {os.getpid()} " in (path.parent / LOCK).read_text()
        assert not list(tmp_path.glob("made/*"))

    def test_a_command_with_names_that_are_no_utf_8_holds_it_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sys.argv", ["audiointerp", "interpret", os.fsdecode(b"caf\xe9.wav")])
        with claim(tmp_path / "table.csv"):
            assert r"caf\udce9.wav" in (tmp_path / LOCK).read_text(encoding="utf-8")

    def test_it_ends_with_its_holder(self, tmp_path):
        with holding(tmp_path / "table.csv") as other:
            other.communicate("go\n")
            with claim(tmp_path / "table.csv"):
                pass
        assert not list(tmp_path.iterdir())

    def test_a_run_can_wait_for_another_and_says_so(self, tmp_path, capsys):
        path = tmp_path / "table.csv"
        with holding(path) as other:
            end = threading.Timer(0.5, other.kill)
            end.start()
            with claim(path, wait=True):
                end.join()
                assert other.wait() != 0
        said = capsys.readouterr().err
        assert said.count("waiting: ") == 1
        assert f"process {other.pid} " in said

    def test_two_claims_of_one_process_exclude_each_other(self, tmp_path):
        with (
            claim(tmp_path / "table.csv"),
            pytest.raises(ClaimedError, match=f"process {os.getpid()} "),
            claim(tmp_path / "other.csv", tmp_path / "table.csv"),
        ):
            pass
        with claim(tmp_path / "table.csv", tmp_path / "other.csv"):
            pass

    def test_a_file_is_one_however_it_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        monkeypatch.chdir(tmp_path / "real")
        for name in ("table.csv", "../real/./table.csv", tmp_path / "link" / "table.csv"):
            with claim(tmp_path / "real" / "table.csv"), pytest.raises(ClaimedError), claim(name):
                pass

    def test_folders_are_made_and_go_again_if_they_stay_empty(self, tmp_path):
        with claim(tmp_path / "a" / "b" / "table.csv"):
            assert (tmp_path / "a" / "b" / LOCK).is_file()
        assert not list(tmp_path.iterdir())
        with claim(tmp_path / "a" / "b" / "table.csv"):
            (tmp_path / "a" / "kept").touch()
        assert contents(tmp_path) == {"a/kept": ""}
        assert not (tmp_path / "a" / "b").exists()

    def test_a_lock_that_its_last_holder_removed_meanwhile_is_none(self, tmp_path, monkeypatch):
        lock, last = storage._lock, [tmp_path / LOCK]

        def lock_what_is_removed(file):
            while last:
                last.pop().unlink()
            lock(file)

        monkeypatch.setattr(storage, "_lock", lock_what_is_removed)
        with claim(tmp_path / "table.csv"):
            assert (tmp_path / LOCK).is_file()
            with pytest.raises(ClaimedError), claim(tmp_path / "table.csv"):
                pass

    def test_where_nothing_can_be_written_nothing_is_claimed(self, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(storage.Path, "open", refuse)
        with claim(tmp_path / "table.csv"), claim(tmp_path / "table.csv"):
            pass

    def test_where_no_folder_can_be_made_it_gives_up(self, tmp_path, monkeypatch):
        def vanish(*_, **__):
            raise FileNotFoundError(2, "No such file or directory", "/proc/here")

        monkeypatch.setattr(storage.Path, "mkdir", vanish)
        with pytest.raises(FileNotFoundError, match="/proc/here"), claim(tmp_path / "table.csv"):
            pass

    def test_a_file_system_without_locks_is_warned_of(self, tmp_path, monkeypatch):
        def refuse(file):
            raise OSError(storage.ENOLCK, "No locks available")

        monkeypatch.setattr(storage, "_lock", refuse)
        with pytest.warns(UserWarning, match="has no locks"), claim(tmp_path / "table.csv"):
            assert not list(tmp_path.iterdir())


KILLED = """
import json, os, sys
from pathlib import Path
from audiointerp.storage import replacing_folder

class Kill:
    left = 0

def hook(event, arguments):
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") and Kill.left:
        Kill.left -= 1
        if not Kill.left:
            os._exit(9)

WRITTEN = {"summary.json", "old.png", "win/old.png", "win/new.png"}

def exchange(folder):
    with replacing_folder(folder, lambda there: WRITTEN) as new:
        (new / "summary.json").write_text("new")
        (new / "win").mkdir()
        (new / "win" / "new.png").write_text("new")

root, step = Path(sys.argv[1]), 0
sys.addaudithook(hook)
while True:
    step += 1
    folder = root / str(step) / "clip"
    (folder / "win").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("summary.json", "old.png", "notes.txt", "win/old.png", "win/mine.txt"):
        (folder / name).write_text("old" if "old" in name or "json" in name else "mine")
        os.utime(folder / name, (1e9, 1e9))
    child = os.fork()
    if not child:
        Kill.left = step
        exchange(folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not status:
        break
    def below(top):
        return {p.relative_to(top).as_posix(): p.read_text() for p in top.rglob("*") if p.is_file()}
    left = {top.name: below(top) for top in folder.parent.iterdir() if top.is_dir()}
    exchange(folder)
    print(json.dumps([left, below(folder), sorted(p.name for p in folder.parent.iterdir()),
                      (folder / "notes.txt").stat().st_mtime, (folder / "empty").is_dir()]))
"""
OLD = {"summary.json": "old", "old.png": "old", "win/old.png": "old"}
NEW = {"summary.json": "new", "win/new.png": "new"}
MINE = {"notes.txt": "mine", "win/mine.txt": "mine"}


class TestReplacingFolder:
    def test_wherever_it_is_killed_one_of_the_two_is_whole_and_other_files_stay(self, tmp_path):
        run = [sys.executable, "-c", KILLED, str(tmp_path)]
        lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
        assert len(lines) > 10
        for line in lines:
            left, after, names, time_of_notes, has_empty = json.loads(line)
            wholes = [
                name
                for name, files in left.items()
                if OLD.items() <= files.items() or NEW.items() <= files.items()
            ]
            assert wholes
            if "clip" in left:
                assert "clip" in wholes
            everything = {name: text for files in left.values() for name, text in files.items()}
            assert MINE.items() <= everything.items()
            # The next run cleans up and finds them again.
            assert after == NEW | MINE
            assert names == ["clip"]
            assert time_of_notes == 1e9
            assert has_empty

    def test_an_error_leaves_the_earlier_folder_as_it_was(self, tmp_path):
        folder = tmp_path / "clip"
        folder.mkdir()
        (folder / "summary.json").write_text("old")

        def fail():
            with replacing_folder(folder, os.listdir) as new:
                (new / "summary.json").write_text("new")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert contents(tmp_path) == {"clip/summary.json": "old"}

    def test_an_exchange_that_fails_halfway_is_undone(self, tmp_path, monkeypatch):
        rename = storage.Path.rename

        def refuse(source, target):
            if source.name == ".clip.new":
                raise PermissionError(13, "Permission denied")
            return rename(source, target)

        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "summary.json").write_text("old")
        monkeypatch.setattr(storage.Path, "rename", refuse)
        with (
            pytest.raises(PermissionError),
            replacing_folder(tmp_path / "clip", os.listdir) as new,
        ):
            (new / "summary.json").write_text("new")
        assert contents(tmp_path) == {"clip/summary.json": "old"}

    def test_a_file_that_would_be_replaced_and_is_not_of_the_result_is_refused(self, tmp_path):
        folder = tmp_path / "clip"
        folder.mkdir()
        (folder / "masks.png").write_text("mine")
        with (
            pytest.raises(FileExistsError, match=r"clip/masks\.png: is not of"),
            replacing_folder(folder) as new,
        ):
            (new / "masks.png").write_text("new")
        assert contents(tmp_path) == {"clip/masks.png": "mine"}

    def test_a_linked_folder_stays_linked(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "notes.txt").write_text("mine")
        (tmp_path / "clip").symlink_to(tmp_path / "disk")
        with replacing_folder(tmp_path / "clip") as new:
            (new / "summary.json").write_text("new")
        assert (tmp_path / "clip").is_symlink()
        assert contents(tmp_path / "disk") == {"notes.txt": "mine", "summary.json": "new"}

    def test_it_is_claimed(self, tmp_path):
        with (
            replacing_folder(tmp_path / "clip"),
            pytest.raises(ClaimedError, match="clip: another run is writing it"),
            replacing_folder(tmp_path / "clip"),
        ):
            pass


def save_array(path):
    with replacing(path) as partial:
        np.save(partial, np.zeros(100_000))


def save_run(path):
    run = RunFolder(path.parent.parent, {}, clips=["a"], masks=[path.stem], metrics=["FF"])
    run.begin()
    rows = [{"clip": "a" * 9_000, "target": "t", "predicted": "p", "is_correct": True, "FF": 0.5}]
    run.append({("features", path.stem): rows})


def save_folder(path):
    with replacing_folder(path.parent) as new:
        write_atomically(new / path.name, bytes(10_000))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.bin", lambda path: write_atomically(path, bytes(10_000))),
        ("x.csv", lambda path: append(path, "a" * 10_000)),
        ("x.npy", save_array),
        ("csvs/bin.csv", save_run),
        ("folder/x.bin", save_folder),
        ("x.wav", lambda path: Sound(np.zeros(9_000, "f4"), 8000).save(path)),
        ("x.flac", lambda path: Sound(np.random.default_rng(0).random(9_000), 8000).save(path)),
        ("x.png", lambda path: Picture().save_screen(path)),
        ("x.pdf", lambda path: Picture(figsize=(1, 1)).save_print(path.with_suffix(""))),
    ],
)
def test_the_error_of_a_full_disk_names_the_file(tmp_path, name, write):
    before, path = tmp_path / "before" / name, tmp_path / "disk" / name
    for folder in (tmp_path / "before", tmp_path / "disk"):
        folder.mkdir()
    write(before)  # what is imported and cached at the first call is no part of the test
    size = 700 if name[-3:] in ("png", "pdf") else 8_000
    with pytest.raises(OSError, match=re.escape(str(path))), full_disk(size):
        write(path)
    left = [
        each
        for each in (tmp_path / "disk").rglob("*")
        if each.is_file() and each.name != "run.json"
    ]
    assert all(each == path for each in left)  # no temporary file


@pytest.fixture
def disk(monkeypatch):
    """The order in which files are flushed and take their names."""
    order: list[tuple[str, str]] = []
    flushing, replacing_ = os.fsync, os.replace

    def fsync(number):
        order.append(("flush", Path(os.readlink(f"/proc/self/fd/{number}")).name))
        flushing(number)

    def replace(source, target):
        order.append(("name", Path(target).name))
        replacing_(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return order


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux for open files' names")
class TestAPowerCut:
    """Leaves what was flushed: content goes to the disk before the name, then the folder."""

    def test_finds_a_replaced_file_whole(self, tmp_path, disk):
        write_atomically(tmp_path / "file", "content")
        (first, temporary), *rest = disk
        assert first == "flush"
        assert temporary.startswith(".file.")
        assert rest == [("name", "file"), ("flush", tmp_path.name)]

    def test_finds_rows_that_were_appended(self, tmp_path, disk):
        append(tmp_path / "rows.csv", "a,b\n")
        assert disk == [("flush", "rows.csv")]

    def test_finds_a_replaced_folder_whole(self, tmp_path, disk):
        with replacing_folder(tmp_path / "result") as new:
            (new / "inner").mkdir()
            for name in ("one", "inner/two"):
                (new / name).write_text("content")
        assert {name for _, name in disk[:-1]} == {"one", "two", "inner", ".result.new"}
        assert disk[-1] == ("flush", tmp_path.name)


def test_rows_that_a_full_disk_takes_only_half_of_are_taken_back(tmp_path):
    table = tmp_path / "csvs" / "bin.csv"
    with pytest.raises(OSError, match=r"csvs/bin\.csv"), full_disk(8_000):
        save_run(table)
    assert table.read_text() == "clip,target,predicted,is_correct,FF\n"
    assert RunFolder(tmp_path, {}, clips=["a"], masks=["bin"], metrics=["FF"]).todo == ["a"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        write_atomically(tmp_path / "no" / "x.txt", "x")
    assert missing.value.filename == str(tmp_path / "no" / "x.txt")
    (tmp_path / "x").mkdir()
    with pytest.raises(IsADirectoryError) as taken:
        write_atomically(tmp_path / "x", "x")
    assert str(taken.value).endswith(f"Is a directory: '{tmp_path / 'x'}'")


def test_a_file_system_that_ignores_case_is_known_by_its_answers(tmp_path, monkeypatch):
    folder = tmp_path / "Run_clean"
    folder.mkdir()
    assert ignores_case(folder) == (tmp_path / "rUN_CLEAN").exists()
    (tmp_path / "rUN_CLEAN").symlink_to(folder)
    assert ignores_case(folder)
    with pytest.raises(ValueError, match=r"'dog' and 'Dog' are called.*one name"):
        RunFolder(folder, {}, clips=["dog", "Dog"], masks=["bin"], metrics=["FF"])
