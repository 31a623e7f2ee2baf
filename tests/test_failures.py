"""What is one clip's failure and what ends a run; checks before a long work."""

from __future__ import annotations

import errno
import io
import os
import weakref

import numpy as np
import pytest
import torch
from tones import Tones

from audiointerp.dataset import AudioError, FolderDataset
from audiointerp.dataset.batches import check_clips, read_ahead
from audiointerp.dataset.failures import ALIKE, Failures, describe, each_alone
from audiointerp.dataset.files import hashed_fold
from audiointerp.report import write_report
from audiointerp.storage import check_writable
from audiointerp.tables.files import write_tables


def failing(kind=RuntimeError, message="broken"):
    """Return an error that was raised here."""
    try:
        raise kind(message)
    except kind as error:
        return error


class Some(Tones):
    """Tones, some of which cannot be taken."""

    def __init__(self, clips, broken, kind=AudioError):
        super().__init__(clips)
        self.broken = {f"tone{number}" for number in broken}
        self.kind = kind

    def _decode(self, index):
        if self.clip_ids[index] in self.broken:
            raise self.kind(f"{self.clip_ids[index]}.wav is broken")
        return super()._decode(index)


class TestAlike:
    def test_the_first_error_ends_a_run_that_fails_alike_from_the_start(self):
        failures = Failures()
        errors = [failing() for _ in range(ALIKE)]
        for number, error in enumerate(errors[:-1]):
            failures.add(f"clip{number}", error)
        with pytest.raises(RuntimeError, match="broken") as raised:
            failures.add("last", errors[-1])
        assert raised.value is errors[0]

    def test_a_short_run_ends_with_it_too(self):
        failures = Failures()
        failures.add("clip", error := failing())
        with pytest.raises(RuntimeError) as raised:
            failures.finish()
        assert raised.value is error

    @pytest.mark.parametrize(
        "others",
        [
            lambda failures: failures.succeed(),
            lambda failures: failures.add("x", failing(KeyError)),
            lambda failures: failures.add("x", AudioError("x.wav: empty")),
        ],
        ids=["a success", "another error", "a broken file"],
    )
    def test_not_one_whose_clips_differ(self, others):
        failures = Failures()
        failures.add("clip", failing())
        others(failures)
        for number in range(2 * ALIKE):
            failures.add(f"clip{number}", failing())
        failures.finish()
        assert {f"clip{number}" for number in range(2 * ALIKE)} <= set(failures.reasons)

    def test_nor_one_that_had_clips_before(self):
        failures = Failures(differ=True)
        failures.add("clip", failing())
        failures.finish()

    def test_broken_files_are_always_their_own(self):
        failures = Failures()
        for number in range(3 * ALIKE):
            failures.add(f"clip{number}", failing(AudioError, "empty"))
        failures.finish()
        assert len(failures.reasons) == 3 * ALIKE


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=str,
)
def test_what_would_be_the_failure_of_every_clip_ends_the_run(error):
    failures = Failures(differ=True)
    with pytest.raises(type(error)) as raised:
        failures.add("clip", error)
    assert raised.value is error
    assert failures.reasons == {}
    with pytest.raises(type(error)):
        each_alone([1, 2], lambda items: (_ for _ in ()).throw(error), failures.add)


def test_a_reason_says_what_an_error_is_unless_it_is_of_the_package():
    assert describe(AudioError("x.wav: empty")) == "x.wav: empty"
    assert describe(KeyError("gain")) == "KeyError: 'gain'"
    assert describe(AudioError(os.fsdecode(b"caf\xe9.wav"))) == r"caf\udce9.wav"


def test_a_console_that_lacks_the_letters_of_a_name_stops_nothing(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    monkeypatch.setattr("sys.stdout", console)
    Failures().add("\u96e8", AudioError("\u96e8.wav: empty"))
    assert console.buffer.getvalue().split() == [b"skipped", rb"\u96e8:", rb"\u96e8.wav:", b"empty"]


class TestEachAlone:
    def test_the_others_have_their_results_in_order(self):
        failed = {}

        def work(items):
            if 3 in items:
                raise RuntimeError(f"not {items}")
            return items

        assert each_alone([1, 2], work, failed.__setitem__) == [[1, 2]]
        assert each_alone([1, 3, 2], work, failed.__setitem__) == [[1], [2]]
        assert list(failed) == [3]
        assert str(failed[3]) == "not [3]"

    def test_what_the_batch_held_is_gone_when_each_is_tried(self):
        held = []

        def work(items):
            big = np.zeros(10)
            assert not any(one() is not None for one in held)
            held.append(weakref.ref(big))
            if len(items) > 1:
                raise MemoryError
            return items[0]

        assert each_alone([1, 2], work, print) == [1, 2]

    def test_an_interruption_is_nobodys_failure(self):
        def work(items):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            each_alone([1, 2], work, print)


@pytest.mark.parametrize("kind", [AudioError, RuntimeError])
def test_the_clips_beside_a_broken_one_are_read(kind, capsys):
    failures = Failures()
    dataset = Some(7, [2], kind)
    batches = list(read_ahead(dataset, range(7), 3, failures))
    assert [[clip.clip_id for clip in batch] for batch in batches] == [
        ["tone0", "tone1"],
        ["tone3", "tone4", "tone5"],
        ["tone6"],
    ]
    assert list(failures.reasons) == ["tone2"]
    assert capsys.readouterr().out.startswith("skipped tone2: ")


def test_a_set_that_cannot_be_read_at_all_ends_with_its_error():
    with pytest.raises(TypeError, match="broken"):
        list(read_ahead(Some(3, range(3), TypeError), range(3), 2, Failures()))


class TestCheckClips:
    def test_all_broken_clips_of_all_sets_are_named(self):
        sets = {"training": Some(6, [1, 4]), "test": Some(4, [0], RuntimeError), "other": Tones(2)}
        with pytest.raises(AudioError, match="3 of 12 clips cannot be read") as raised:
            check_clips(sets)
        lines = str(raised.value).splitlines()
        assert lines[1:4] == [
            "  tone1 (training): tone1.wav is broken",
            "  tone4 (training): tone4.wav is broken",
            "  tone0 (test): RuntimeError: tone0.wav is broken",
        ]

    def test_what_was_read_is_not_read_again(self):
        dataset = Tones(3)
        check_clips({"training": dataset})
        dataset._decode = None
        assert len([dataset[place] for place in range(3)]) == 3

    def test_a_mistake_in_the_set_is_raised_as_it_is(self):
        with pytest.raises(TypeError, match="broken"):
            check_clips({"training": Some(9, range(9), TypeError)})


class TestNames:
    def test_files_whose_names_are_no_text_are_clips_like_others(self, write_tones, tmp_path):
        root = write_tones("set", ["dog/1.wav", "cat/1.wav"])
        name = os.fsencode(root / "dog") + b"/caf\xe9.wav"
        try:
            os.rename(root / "dog" / "1.wav", name)
        except OSError:
            pytest.skip("this file system has names of text only")
        options = {"sample_rate": 8000, "duration": 1.0, "cache_dir": tmp_path / "cache"}
        data = FolderDataset(root, **options)
        assert data.clip_ids == ["cat__1.wav", "dog__caf%E9.wav"]
        again = FolderDataset(root, **options)  # from the cache
        assert torch.equal(data[1].waveform, again[1].waveform)

    def test_a_fold_is_by_the_bytes_of_a_name(self):
        # Worked out with sha256sum.
        assert hashed_fold(os.fsdecode(b"dog/caf\xe9.wav"), 5) == 5

    def test_classes_that_no_table_can_hold_are_refused(self):
        with pytest.raises(ValueError, match=r"caf\\udce9: the name holds bytes that are no UTF-8"):
            Tones(2, classes=("low", "caf\udce9"))


class TestCheckWritable:
    @pytest.mark.parametrize(
        "write",
        [
            lambda folder, out: write_tables(folder, out),
            lambda folder, out: write_report(folder, out=out / "page.html"),
        ],
        ids=["tables", "a page"],
    )
    def test_tables_and_pages_ask_before_they_read(self, tmp_path, write):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="cannot write"):
            write(tmp_path, tmp_path / "file" / "below")

    def test_a_cache_that_is_a_file_is_no_cache(self, write_tones, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError, match=r"cache_dir .*file is a file"):
            FolderDataset(write_tones("set", ["dog/1.wav"]), cache_dir=tmp_path / "file")

    def test_it_leaves_nothing(self, tmp_path):
        check_writable(tmp_path / "new" / "deep" / "file.txt")
        check_writable(tmp_path / "new", folder=True)
        (tmp_path / "file").write_text("mine")
        check_writable(tmp_path / "file")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize(
        ("path", "folder", "message"),
        [
            ("file/below/x", True, "cannot write into the folder .*file is a file, not a folder"),
            ("file/x.txt", False, "cannot write the file .*file is a file, not a folder"),
            ("file", True, "it is a file, not a folder"),
            ("folder", False, "it is a folder"),
            ("x" * 250, False, "File name too long"),  # with what a temporary name has more
            ("new/" + "x" * 250 + "/y", True, "File name too long"),
        ],
    )
    def test_what_cannot_be_written(self, tmp_path, path, folder, message):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match=message):
            check_writable(tmp_path / path, folder=folder)
