from __future__ import annotations

import hashlib
import http.server
import shutil
import threading
import zipfile

import numpy as np
import pytest
import requests
import soundfile

from audiointerp.dataset import AudioError, ESC50Dataset, load_audio
from audiointerp.dataset.download import (
    ESC50_CHECKSUM,
    ESC50_COMMIT,
    ESC50_URL,
    SAMPLES,
    ResumingDownloader,
    Sample,
    copy_samples,
    download_esc50,
)
from audiointerp.registry import UnknownNameError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file with HTTP ranges, and hangs up where the test says so."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if self.path != "/set.zip":
            self.send_error(404)
            return
        content, start = server.content, 0
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + server.shift
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tell_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = server.hang_up_at.pop(0) if server.hang_up_at else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(archive):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.asked, server.hang_up_at = archive, [], []
    server.ranges, server.tell_length, server.shift = True, True, 0
    server.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    server.checksum = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def archive(tiny_esc50, tmp_path):
    """Return a ZIP file of the tiny set in the folder a GitHub archive has."""
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(tiny_esc50.rglob("*")):
            packed.write(file, f"ESC-50-{ESC50_COMMIT}/{file.relative_to(tiny_esc50)}")
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def fetch(server, folder, attempts=1, **options):
    downloader = ResumingDownloader(folder / "ESC-50.zip.part", attempts=attempts, pause=0)
    options = {"url": server.url, "checksum": server.checksum, **options}
    return download_esc50(folder / "ESC-50", downloader=downloader, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class TestDownload:
    def test_the_set_is_there_and_nothing_else(self, server, folder):
        root = fetch(server, folder)
        assert root == folder / "ESC-50"
        assert len(ESC50Dataset(root, sample_rate=8000)) == 15
        assert names(folder) == ["ESC-50"]
        assert names(root) == ["audio", "meta"]

    def test_without_a_downloader_of_ones_own(self, server, folder):
        root = download_esc50(folder / "ESC-50", url=server.url, checksum=server.checksum)
        assert len(ESC50Dataset(root, sample_rate=8000)) == 15

    def test_a_whole_set_is_left_alone(self, server, folder):
        fetch(server, folder)
        asked = len(server.asked)
        marker = folder / "ESC-50" / "notes.txt"
        marker.touch()
        assert fetch(server, folder) == folder / "ESC-50"
        assert len(server.asked) == asked
        assert marker.exists()

    def test_an_interrupted_transfer_goes_on_at_the_next_call(self, server, folder, archive):
        server.hang_up_at = [49152]
        with pytest.raises(ConnectionError, match="49152 bytes that arrived are kept"):
            fetch(server, folder)
        assert names(folder) == ["ESC-50.zip.part"]
        assert (folder / "ESC-50.zip.part").read_bytes() == archive[:49152]
        fetch(server, folder)
        assert server.asked == [None, "bytes=49152-"]
        assert names(folder) == ["ESC-50"]

    def test_an_interrupted_transfer_goes_on_by_itself(self, server, folder):
        server.hang_up_at = [49152, 98304]
        fetch(server, folder, attempts=3)
        assert server.asked == [None, "bytes=49152-", "bytes=98304-"]

    def test_what_arrived_of_a_broken_chunk_is_asked_for_again(self, server, folder):
        server.hang_up_at = [60000]
        fetch(server, folder, attempts=2)
        assert server.asked == [None, "bytes=49152-"]

    def test_a_server_without_ranges_sends_all_of_it_again(self, server, folder):
        server.ranges = False
        server.hang_up_at = [49152]
        fetch(server, folder, attempts=2)
        assert server.asked == [None, "bytes=49152-"]
        assert len(ESC50Dataset(folder / "ESC-50", sample_rate=8000)) == 15

    def test_a_server_that_does_not_tell_the_length(self, server, folder):
        server.tell_length = False
        fetch(server, folder)
        assert names(folder) == ["ESC-50"]

    def test_a_server_that_answers_with_another_range(self, server, folder):
        server.shift = 7
        server.hang_up_at = [49152]
        with pytest.raises(ConnectionError, match="asked for 49152-"):
            fetch(server, folder, attempts=2)
        assert names(folder) == []

    def test_a_part_that_is_all_of_it(self, server, folder, archive):
        folder.mkdir()
        (folder / "ESC-50.zip.part").write_bytes(archive)
        fetch(server, folder)
        assert server.asked == [f"bytes={len(archive)}-"]
        assert names(folder) == ["ESC-50"]

    def test_a_part_longer_than_the_file(self, server, folder, archive):
        folder.mkdir()
        (folder / "ESC-50.zip.part").write_bytes(archive + b"more")
        fetch(server, folder, attempts=2)
        assert server.asked == [f"bytes={len(archive) + 4}-", None]

    def test_a_part_of_another_version_is_dropped(self, server, folder):
        folder.mkdir()
        (folder / "ESC-50.zip.part").write_bytes(b"older version" * 100)
        fetch(server, folder)
        assert server.asked == ["bytes=1300-", None]
        assert names(folder) == ["ESC-50"]

    def test_a_wrong_checksum_leaves_nothing(self, server, folder):
        with pytest.raises(ValueError, match="not the archive expected") as caught:
            fetch(server, folder, checksum="md5:" + "0" * 32)
        assert server.url in str(caught.value)
        assert names(folder) == []

    def test_no_such_file_on_the_server(self, server, folder):
        with pytest.raises(requests.HTTPError, match="404"):
            fetch(server, folder, url=server.url.replace("set", "no"), attempts=3)
        assert len(server.asked) == 1
        assert names(folder) == []

    def test_no_server(self, server, folder):
        server.shutdown()
        server.server_close()
        with pytest.raises(ConnectionError, match="after 2 attempts"):
            fetch(server, folder, attempts=2)

    def test_a_folder_with_something_else_is_not_touched(self, server, folder):
        (folder / "ESC-50").mkdir(parents=True)
        (folder / "ESC-50" / "thesis.txt").write_text("mine")
        with pytest.raises(FileExistsError, match="not a whole ESC-50"):
            fetch(server, folder)
        assert names(folder / "ESC-50") == ["thesis.txt"]
        assert server.asked == []

    def test_an_empty_folder_is_filled(self, server, folder):
        (folder / "ESC-50").mkdir(parents=True)
        fetch(server, folder)
        assert names(folder / "ESC-50") == ["audio", "meta"]

    def test_an_interrupted_unpacking_begins_again(self, server, folder, monkeypatch):
        extract = zipfile.ZipFile.extract

        def stop(self, member, *rest):
            if member.filename.endswith(".csv"):
                raise KeyboardInterrupt
            return extract(self, member, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipFile, "extract", stop)
            with pytest.raises(KeyboardInterrupt):
                fetch(server, folder)
        assert names(folder) == ["ESC-50.zip"]
        fetch(server, folder)
        assert server.asked == [None]
        assert names(folder) == ["ESC-50"]

    @pytest.mark.parametrize("lacking", ["esc50.csv", "1-1000-A-10.wav", "everything"])
    def test_an_archive_that_is_not_a_whole_set(self, server, folder, tmp_path, lacking):
        if lacking == "everything":
            server.content = b"not a zip file"
        else:
            with (
                zipfile.ZipFile(tmp_path / "b.zip", "w") as less,
                zipfile.ZipFile(_saved(tmp_path, server.content)) as whole,
            ):
                for member in whole.infolist():
                    if not member.filename.endswith(lacking):
                        less.writestr(member, whole.read(member))
            server.content = (tmp_path / "b.zip").read_bytes()
        checksum = hashlib.sha256(server.content).hexdigest()
        with pytest.raises(ValueError, match="is not an archive of ESC-50"):
            fetch(server, folder, checksum=f"sha256:{checksum}")
        assert not (folder / "ESC-50").exists()

    def test_no_attempts(self, folder):
        with pytest.raises(ValueError, match="attempts=0"):
            ResumingDownloader(folder, attempts=0)

    def test_the_default_is_one_commit_by_sha256(self):
        assert ESC50_COMMIT in ESC50_URL
        assert ESC50_URL.startswith("https://")
        assert len(ESC50_CHECKSUM.removeprefix("sha256:")) == 64


def _saved(folder, content):
    path = folder / "whole.zip"
    path.write_bytes(content)
    return path


def levels(path):
    """Measure half-second levels in 16-bit steps by numpy, apart from the code under test."""
    wave, rate = soundfile.read(path, dtype="int16")
    padded = np.zeros(5 * rate)
    padded[: len(wave)] = wave[: 5 * rate]
    return tuple(np.sqrt((padded.reshape(10, -1) ** 2).mean(axis=1)).round().astype(int).tolist())


class TestSamples:
    @pytest.fixture
    def samples(self, tiny_esc50):
        stems = {"dog": "2-2001-A-0", "cat": "3-3002-A-5"}
        return {
            name: Sample(stem, levels(tiny_esc50 / "audio" / f"{stem}.wav"))
            for name, stem in stems.items()
        }

    def test_wav_files_are_copied_byte_for_byte(self, tiny_esc50, tmp_path, samples):
        written = copy_samples(tiny_esc50, tmp_path / "samples", samples=samples)
        assert names(tmp_path / "samples") == ["cat.wav", "dog.wav"]
        for name, path in written.items():
            source = tiny_esc50 / "audio" / f"{samples[name].stem}.wav"
            assert path.read_bytes() == source.read_bytes()

    @pytest.mark.parametrize("kind", ["ogg", "flac"])
    def test_other_kinds_become_wav(self, tiny_esc50, tmp_path, samples, kind):
        for path in (tiny_esc50 / "audio").iterdir():
            wave, rate = soundfile.read(path)
            soundfile.write(path.with_suffix(f".{kind}"), wave, rate)
            path.unlink()
        if kind == "ogg":  # lossy: at 8 kHz the level of a sine moves by more than is allowed
            samples = {
                name: Sample(s.stem, levels(tiny_esc50 / "audio" / f"{s.stem}.ogg"))
                for name, s in samples.items()
            }
        written = copy_samples(tiny_esc50, tmp_path / "samples", samples=samples)
        for path in written.values():
            assert soundfile.info(path).subtype == "PCM_16"
            assert soundfile.info(path).frames == 40000

    def test_only_the_names_asked_for(self, tiny_esc50, tmp_path, samples):
        assert list(copy_samples(tiny_esc50, tmp_path / "s", ["cat"], samples=samples)) == ["cat"]
        assert names(tmp_path / "s") == ["cat.wav"]

    def test_unknown_name(self, tiny_esc50, tmp_path):
        with pytest.raises(UnknownNameError, match="choose from car_horn, cat, clapping"):
            copy_samples(tiny_esc50, tmp_path / "s", ["horse"])

    def test_absent_clips_are_all_named_and_nothing_is_written(self, tiny_esc50, tmp_path, samples):
        for sample in samples.values():
            (tiny_esc50 / "audio" / f"{sample.stem}.wav").unlink()
        with pytest.raises(FileNotFoundError, match=r"dog \(2-2001-A-0\.wav\), cat \(3-3002"):
            copy_samples(tiny_esc50, tmp_path / "s", samples=samples)
        assert not (tmp_path / "s").exists()

    def test_another_clip_under_the_name_is_refused(self, tiny_esc50, tmp_path, samples):
        audio = tiny_esc50 / "audio"
        wave, rate = soundfile.read(audio / "3-3002-A-5.wav")
        soundfile.write(audio / "3-3002-A-5.wav", 0.9 * wave, rate)
        with pytest.raises(AudioError, match="does not sound like ESC-50's 3-3002-A-5"):
            copy_samples(tiny_esc50, tmp_path / "s", samples=samples)
        assert not (tmp_path / "s").exists()

    def test_files_are_replaced_only_when_asked(self, tiny_esc50, tmp_path, samples):
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "dog.wav").write_text("mine")
        with pytest.raises(FileExistsError, match=r"dog\.wav; pass overwrite=True"):
            copy_samples(tiny_esc50, tmp_path / "s", samples=samples)
        assert names(tmp_path / "s") == ["dog.wav"]
        copy_samples(tiny_esc50, tmp_path / "s", samples=samples, overwrite=True)
        assert load_audio(tmp_path / "s" / "dog.wav")[1] == 8000

    def test_not_an_esc50(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="not the root of an ESC-50"):
            copy_samples(tmp_path, tmp_path / "s")


class TestRealSamples:
    def test_each_published_clip_is_told_from_the_others(self, real_data, tmp_path):
        published = real_data / "published" / "samples"
        assert {path.stem for path in published.iterdir()} == set(SAMPLES)
        for name, sample in SAMPLES.items():
            assert sample.levels == levels(published / f"{name}.wav")
            root = tmp_path / name
            self.make_root(root, {sample.stem: published / f"{name}.wav"})
            (path,) = copy_samples(root, tmp_path / "out", [name]).values()
            assert path.read_bytes() == (published / f"{name}.wav").read_bytes()
            other = next(other for other in SAMPLES if other != name)
            shutil.copyfile(published / f"{other}.wav", root / "audio" / f"{sample.stem}.wav")
            with pytest.raises(AudioError, match="does not sound like"):
                copy_samples(root, tmp_path / "wrong", [name])

    def test_esc10_gives_the_two_it_has(self, real_data, tmp_path):
        written = copy_samples(real_data / "esc10", tmp_path / "s", ["dog", "sea_waves"])
        for name, path in written.items():
            got = soundfile.read(path, dtype="int16")[0].astype(int)
            published = real_data / "published" / "samples" / f"{name}.wav"
            want = soundfile.read(published, dtype="int16")[0].astype(int)
            assert np.abs(got - want).max() <= 1

    def test_esc10_lacks_the_others_and_says_so(self, real_data, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"car_horn.*cat.*clapping.*crow.*ESC-10"):
            copy_samples(real_data / "esc10", tmp_path / "s")
        assert not (tmp_path / "s").exists()

    @staticmethod
    def make_root(root, files):
        (root / "meta").mkdir(parents=True)
        (root / "audio").mkdir()
        rows = [f"{stem}.wav,1,{n},class{n}" for n, stem in enumerate(files)]
        table = "\n".join(["filename,fold,target,category", *rows])
        (root / "meta" / "esc50.csv").write_text(table)
        for stem, path in files.items():
            shutil.copyfile(path, root / "audio" / f"{stem}.wav")
