"""Sound files of every container: read whole, or refused where something is missing or foreign."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiointerp.dataset import AudioError, AudioStream, load_audio
from audiointerp.dataset.containers import PiecedFile
from audiointerp.dataset.containers.signatures import SIGNATURES, foreign_kind
from audiointerp.dataset.files import part_seconds

RATE = 8000
NOISE = np.random.default_rng(3).uniform(-0.5, 0.5, 4000).astype(np.float32)

FFMPEG, SOX = shutil.which("ffmpeg"), shutil.which("sox")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="needs ffmpeg")
needs_sox = pytest.mark.skipif(SOX is None, reason="needs sox")

# What states no length: a cut cannot be seen. RAW and SD2 are not read.
WITHOUT_LENGTH = ("IRCAM", "PAF", "PVF", "XI")


def encoded(form: str, subtype: str, endian: str = "FILE", sound: np.ndarray = NOISE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format=form, subtype=subtype, endian=endian)
    return buffer.getvalue()


def written() -> dict[str, tuple[str, str, str]]:
    """Return everything that libsndfile writes: format, subtype and byte order."""
    found = {}
    for form in soundfile.available_formats():
        if form in ("RAW", "SD2"):
            continue
        for subtype in soundfile.available_subtypes(form):
            for endian in ("FILE", "LITTLE", "BIG"):
                try:
                    content = encoded(form, subtype, endian)
                except (soundfile.LibsndfileError, ValueError):
                    continue
                if content not in found.values():
                    found[form, subtype, endian] = content
    return {"-".join(kind): kind for kind in found}


WRITTEN = written()


def read(path: Path) -> np.ndarray:
    return load_audio(path, normalize=False)[0][0].numpy()


def refused(path: Path, *words: str) -> str:
    """Check that a file is refused at once, by name; return the message."""
    with pytest.raises(AudioError) as caught:
        part_seconds(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    return str(caught.value)


@pytest.fixture
def put(tmp_path) -> Callable[[bytes], Path]:
    """Return a writer of files without an ending that says what they are."""

    def write(content: bytes, name: str = "a.sound") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


class TestEveryFormat:
    @pytest.mark.parametrize("kind", WRITTEN)
    def test_is_read_as_libsndfile_decodes_it_at_once(self, put, kind):
        content = encoded(*WRITTEN[kind])
        got = read(put(content))
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if "DWVW" in kind:  # which soundfile alone cannot read
                expected = NOISE
                np.testing.assert_allclose(got, expected, atol=1e-3)
            else:
                expected = file.read(file.frames, dtype="float32")
                np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("kind", [k for k in WRITTEN if not k.startswith(WITHOUT_LENGTH)])
    def test_is_refused_when_it_is_cut(self, put, kind):
        content = encoded(*WRITTEN[kind])
        for kept in (0.03, 0.3, 0.5, 0.8, 0.99):
            with pytest.raises(AudioError, match=r"a\.sound: "):
                read(put(content[: int(len(content) * kept)]))

    @pytest.mark.parametrize("form", WITHOUT_LENGTH)
    def test_without_a_length_is_read_as_far_as_it_goes(self, put, form):
        # A format that learns to be checked leaves this list, and the one in docs/data.md.
        content = encoded(form, soundfile.default_subtype(form) or "DPCM_16")
        assert 0 < len(read(put(content[: len(content) * 3 // 4]))) < len(NOISE)


def with_sizes(content: bytes, sizes: dict[int, int], number: str) -> bytes:
    changed = bytearray(content)
    for place, size in sizes.items():
        struct.pack_into(number, changed, place, size)
    return bytes(changed)


def streamed(form: str, size: int, subtype: str = "PCM_16", endian: str = "FILE") -> bytes:
    """Return a file whose header states a size that its writer did not know."""
    content = encoded(form, subtype, endian)
    if form in ("WAV", "WAVEX"):
        number = ">I" if content[:4] == b"RIFX" else "<I"
        return with_sizes(content, {4: size, content.index(b"data") + 4: size}, number)
    if form == "RF64":
        return with_sizes(content, {20: size, 28: size, 36: size}, "<Q")
    if form == "W64":
        return with_sizes(content, {16: size, content.index(b"data") + 16: size}, "<Q")
    if form == "AU":
        return with_sizes(content, {8: size}, "<I" if content[:4] == b"dns." else ">I")
    if form == "CAF":
        return with_sizes(content, {content.index(b"data") + 4: size}, ">q")
    assert form == "AIFF"
    sound = content.index(b"SSND") + 4
    frames = content.index(b"COMM") + 10
    return with_sizes(content, {4: size, sound: size, frames: size // 2}, ">I")


STREAMED = [
    *(("WAV", size) for size in (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(("WAVEX", size) for size in (0, 0xFFFFFFFF)),
    *(("RF64", size) for size in (0, 2**64 - 1)),
    *(("W64", size) for size in (0, 2**63 - 1, 2**64 - 1)),
    *(("AIFF", size) for size in (0, 0x7F000008, 0xFFFFFFFF)),
    *(("AU", size) for size in (0, 0xFFFFFFFF)),
    *(("CAF", size) for size in (0, -1)),
]


class TestWrittenToAPipe:
    @pytest.mark.parametrize(("form", "size"), STREAMED)
    def test_is_read_to_its_end(self, put, form, size):
        path = put(streamed(form, size))
        expected = soundfile.read(io.BytesIO(encoded("WAV", "PCM_16")), dtype="float32")[0]
        np.testing.assert_array_equal(read(path), expected)
        assert part_seconds(path) == 0.5

    @pytest.mark.parametrize(("form", "size"), STREAMED)
    def test_part_of_a_frame_at_the_end_is_no_frame(self, put, form, size):
        assert len(read(put(streamed(form, size)[:-1]))) == len(NOISE) - 1

    @pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "ULAW", "PCM_U8"])
    def test_sizes_are_rounded_down_to_whole_frames(self, put, subtype):
        width = {"PCM_24": 3, "FLOAT": 4}.get(subtype, 1)
        path = put(streamed("WAV", 0x7FFFF000 // width * width, subtype))
        expected = soundfile.read(io.BytesIO(encoded("WAV", subtype)), dtype="float32")[0]
        np.testing.assert_array_equal(read(path), expected)

    @pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
    @pytest.mark.parametrize("form", ["WAV", "AU"])
    def test_either_byte_order(self, put, form, endian):
        assert len(read(put(streamed(form, 0xFFFFFFFF, endian=endian)))) == len(NOISE)

    @pytest.mark.parametrize("size", [8002, 16000, 0x7FFFF002, 0x7FFFFFD4, 0xFFFFFFF0])
    def test_any_other_size_is_a_promise(self, put, size):
        refused(put(streamed("WAV", size)), "truncated", str(size), "8000 are there")

    def test_no_samples_and_another_chunk_are_no_sound(self, put):
        content = encoded("WAV", "PCM_16", sound=NOISE[:0])
        place = content.index(b"data") + 8
        listed = b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0"
        refused(put(content[:place] + listed), "no samples (0 frames)")

    def test_a_header_that_comes_twice_is_no_sound(self, put):
        content = streamed("CAF", 4)
        refused(put(content[: content.index(b"data") + 16] + content), "header comes twice")

    @pytest.mark.parametrize("form", ["wav", "aiff", "au", "caf", "w64", "rf64"])
    @needs_ffmpeg
    def test_by_ffmpeg(self, tmp_path, put, form):
        source = put(encoded("WAV", "PCM_16"), "source.wav")
        options = ["-f", "wav", "-rf64", "always"] if form == "rf64" else ["-f", form]
        content = piped([FFMPEG, "-v", "error", "-i", source, *options, "-"])
        np.testing.assert_array_equal(read(put(content)), read(source))

    @pytest.mark.parametrize("form", ["wav", "aiff", "au"])
    @pytest.mark.parametrize("options", [[], ["-b", "24"], ["-b", "24", "-c", "3"]])
    @needs_sox
    def test_by_sox(self, put, form, options):
        source = put(encoded("WAV", "PCM_16"), "source.wav")
        command = [SOX, "--ignore-length", "-t", "wav", "-", *options, "-t", form, "-"]
        content = piped(command, source.read_bytes())
        np.testing.assert_array_equal(read(put(content)), read(source))


def piped(command: list, content: bytes = b"") -> bytes:
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


class TestLengthsThatAreTooSmall:
    @pytest.mark.parametrize("form", ["WAV", "W64", "AU", "CAF", "RF64"])
    def test_samples_behind_the_sound_are_noticed(self, put, form):
        half = {"W64": 24 + 4000, "CAF": 4 + 4000}.get(form, 4000)
        refused(put(streamed(form, half)), "joined from several files", "4000")

    def test_aiff_whose_two_lengths_differ(self, put):
        content = encoded("AIFF", "PCM_16")
        place = content.index(b"COMM") + 10
        refused(put(with_sizes(content, {place: 2000}, ">I")), "promises 2000 frames")

    def test_sound_behind_a_silence_is_noticed(self, put):
        silence = bytes(200_000)
        refused(put(encoded("WAV", "PCM_16") + silence + b"sound"), "200005 more")
        assert len(read(put(encoded("WAV", "PCM_16") + silence))) == len(NOISE)

    def test_a_silent_stream_is_read(self, put):
        content = encoded("WAV", "PCM_16", sound=0 * NOISE)
        place = content.index(b"data") + 4
        assert len(read(put(with_sizes(content, {place: 0}, "<I")))) == len(NOISE)

    def test_two_files_in_one(self, put):
        content = encoded("WAV", "PCM_16")
        refused(put(content + content), "joined from several files")

    @pytest.mark.parametrize("form", ["WAV", "AIFF"])
    @pytest.mark.parametrize(
        "behind",
        [b"", b"\0" * 3000, b"TAG" + b"\0" * 125, b"LIST\0\0\1\0cut", b"xtra\0\0\0\0"],
    )
    def test_metadata_and_padding_are_no_sound(self, put, form, behind):
        assert len(read(put(encoded(form, "PCM_16") + behind))) == len(NOISE)

    def test_voc_of_two_blocks(self, put):
        content = encoded("VOC", "PCM_16")
        refused(put(content[:-1] + content[26:]), "VOC file of several blocks")


def mp3(seconds: float = 2.0, rate: int = 44100, channels: int = 1) -> bytes:
    """Return a VBR MP3 with a Xing header, loud and quiet in turns."""
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    sound[rate // 4 : rate] *= 1e-3
    buffer = io.BytesIO()
    options = {"compression_level": 0.4, "bitrate_mode": "VARIABLE", "format": "MP3"}
    with soundfile.SoundFile(buffer, "w", rate, channels, **options) as file:
        file.write(sound)
    return buffer.getvalue()


def second_frame(content: bytes) -> int:
    """Return where the sound of an MP3 begins, behind its Xing header."""
    return content.index(content[:2], 2)


class TestMP3:
    @pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (44100, 2), (22050, 1), (8000, 1)])
    def test_without_a_xing_header_is_read_whole(self, put, rate, channels):
        content = mp3(rate=rate, channels=channels)
        whole = read(put(content))
        bare = read(put(content[second_frame(content) :]))
        samples = 1152 if rate == 44100 else 576
        assert len(bare) % samples == 0
        assert len(whole) <= len(bare) <= len(whole) + 3 * samples
        delay = np.correlate(bare[:20_000], whole[5000:9000], "valid").argmax() - 5000
        assert 0 < delay < 3 * samples
        np.testing.assert_allclose(bare[delay:][: len(whole)], whole, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("before", "behind"),
        [
            (b"ID3\x04\0\0\0\0\0\x10" + bytes(16), b""),
            (b"ID3\x04\0\x10\0\0\0\x10" + bytes(16) + b"3DI\x04\0\x10\0\0\0\x10", b""),
            (2 * (b"ID3\x03\0\0\0\0\0\x10" + bytes(16)), b""),
            (b"", b"TAG" + b"x" * 125),
            (b"", b"APETAGEX\xd0\x07\0\0\x20\0\0\0\0\0\0\0\0\0\0\0" + bytes(8) + b"x" * 32),
            (b"", bytes(1000)),
        ],
    )
    def test_tags_are_no_sound(self, put, before, behind):
        content = mp3()
        bare = content[second_frame(content) :]
        np.testing.assert_array_equal(read(put(before + bare + behind)), read(put(bare)))
        np.testing.assert_array_equal(read(put(before + content + behind)), read(put(content)))

    def test_a_header_that_states_too_few_frames_is_corrected(self, put):
        content = mp3()
        place = content.index(b"Xing") + 8
        few = with_sizes(content, {place: 10}, ">I")
        np.testing.assert_array_equal(read(put(few)), read(put(content[second_frame(content) :])))

    def test_a_vbri_header_is_no_sound(self, put):
        content = mp3()
        bare = content[second_frame(content) :]
        frame = bytearray(content[: second_frame(content)])
        frame[4:] = bytes(len(frame) - 4)
        frame[36:40] = b"VBRI"
        frames = len(read(put(bare))) // 1152
        struct.pack_into(">I", frame, 50, frames)
        np.testing.assert_array_equal(read(put(frame + bare)), read(put(bare)))
        struct.pack_into(">I", frame, 50, frames + 1)
        refused(put(frame + bare), "truncated", f"{frames + 1} MP3 frames")

    @pytest.mark.parametrize("frames", [2**32 - 1, 100_000])
    def test_a_header_that_states_too_many_frames_is_refused(self, put, frames):
        content = mp3()
        place = content.index(b"Xing") + 8
        refused(put(with_sizes(content, {place: frames}, ">I")), "truncated", f"{frames} MP3")

    @pytest.mark.parametrize("bare", [True, False])
    @pytest.mark.parametrize("kept", [0.3, 0.7, 0.999])
    def test_a_cut_one_is_refused(self, put, bare, kept):
        content = mp3()
        content = content[second_frame(content) :] if bare else content
        refused(put(content[: int(len(content) * kept)]), "truncated")

    def test_garbage_inside_is_refused(self, put):
        content = mp3()
        bare = content[second_frame(content) :]
        middle = bare.index(bare[:2], len(bare) // 2)
        refused(put(bare[:middle] + b"garbage!" * 9 + bare[middle:]), "no MPEG audio")
        refused(put(bare[:middle] + b"garbage!" * 900), "no MPEG audio")

    def test_another_rate_or_channel_inside_is_refused(self, put):
        first = mp3()
        refused(put(first[second_frame(first) :] + mp3(rate=32000)), "44100 to 32000 Hz")
        refused(put(first[second_frame(first) :] + mp3(channels=2)), "number of channels")

    def test_free_format_is_refused_by_name(self, put):
        frame = b"\xff\xfb\x00\xc0" + bytes(400)
        refused(put(b"ID3\x04\0\0\0\0\0\0" + 9 * frame), "free format")

    @pytest.mark.parametrize("channels", [1, 2])
    def test_in_blocks_it_is_what_it_is_at_once(self, put, channels):
        # Moving to the end of a block, as soundfile does, gave other samples behind it.
        content = mp3(6.0, 44100, channels)
        expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
        expected = expected.mean(axis=1, dtype=np.float64).astype(np.float32)
        assert len(expected) > 3 * 65_536
        np.testing.assert_array_equal(read(put(content)), expected)

    @pytest.mark.parametrize(
        "options",
        [
            ["-q:a", "2", "-write_xing", "0"],
            ["-q:a", "2", "-write_xing", "0", "-id3v2_version", "0", "-write_id3v1", "1"],
            ["-b:a", "64k", "-write_xing", "0"],
            ["-q:a", "5", "-write_xing", "0", "-ar", "22050"],
            ["-c:a", "mp2", "-f", "mp2"],
            ["-c:a", "libmp3lame", "-q:a", "2", "-f", "wav"],
        ],
    )
    @needs_ffmpeg
    def test_ffmpeg_decodes_the_same(self, tmp_path, put, options):
        sound = np.random.default_rng(1).uniform(-0.5, 0.5, 200_000)
        sound[20_000:90_000] *= 1e-3
        soundfile.write(tmp_path / "source.wav", sound, 44100)
        quiet = [FFMPEG, "-v", "error", "-y", "-i"]
        subprocess.run([*quiet, tmp_path / "source.wav", *options, tmp_path / "a.mp3"], check=True)
        decoded = piped([*quiet, tmp_path / "a.mp3", "-f", "f32le", "-"])
        expected = np.frombuffer(decoded, np.float32)
        got = read(tmp_path / "a.mp3")
        assert len(got) == len(expected)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def crc_of_page(page: bytes) -> int:
    """Return the check of an Ogg page (RFC 3533)."""
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    return register


def pages(content: bytes) -> list[bytes]:
    starts = [0]
    while starts[-1] < len(content):
        header = content[starts[-1] :]
        table = header[27 : 27 + header[26]]
        starts.append(starts[-1] + 27 + len(table) + sum(table))
    return [content[a:b] for a, b in pairwise(starts)]


def changed(page: bytes, **fields: int) -> bytes:
    """Return a page with other fields and a right check."""
    places = {"flags": (5, "<B"), "granule": (6, "<q"), "serial": (14, "<I"), "page": (18, "<I")}
    page = bytearray(page)
    for name, value in fields.items():
        struct.pack_into(places[name][1], page, places[name][0], value)
    page[22:26] = bytes(4)
    struct.pack_into("<I", page, 22, crc_of_page(page))
    return bytes(page)


class TestOgg:
    @pytest.fixture(params=["VORBIS", "OPUS"])
    def content(self, request) -> bytes:
        return encoded("OGG", request.param, sound=np.tile(NOISE, 4))

    def test_a_page_of_the_right_check_is_read(self, put, content):
        *first, last = pages(content)
        assert changed(last) == last
        assert len(read(put(b"".join(first) + changed(last)))) == 4 * len(NOISE)

    def test_without_an_end_it_is_said(self, put, content):
        *first, last = pages(content)
        message = refused(put(b"".join(first) + changed(last, flags=0)), "end of the stream")
        assert "-c copy" in message
        assert "truncated" not in message
        refused(put(b"".join(first)), "end of the stream")

    @pytest.mark.parametrize("serial", [None, 77])
    def test_chained(self, put, content, serial):
        second = [
            page if serial is None else changed(page, serial=serial) for page in pages(content)
        ]
        message = refused(put(content + b"".join(second)), "chained Ogg", "ffmpeg")
        assert "truncated" not in message

    def test_multiplexed(self, put, content):
        first, *others = pages(content)
        video = bytes([*b"\x80theora", *range(40)])
        page = b"OggS\0\2" + bytes(8) + b"\7\0\0\0" + bytes(8) + bytes([1, len(video)]) + video
        refused(put(first + changed(page) + b"".join(others)), "several streams", "Theora video")

    @pytest.mark.parametrize(
        ("packet", "kind"),
        [
            (b"Speex   1.2", "Speex in Ogg"),
            (b"\x7fFLAC\1\0\0\4fLaC", "FLAC in Ogg"),
            (b"\x80theora\3\2\1", "Theora video in Ogg"),
            (b"something", "an unknown codec in Ogg"),
        ],
    )
    def test_other_codecs(self, put, packet, kind):
        page = b"OggS\0\6" + bytes(20) + bytes([1, len(packet)]) + packet
        message = refused(put(changed(page)), kind, "ffmpeg")
        assert "truncated" not in message

    def test_missing_pages(self, put, content):
        whole = pages(content)
        assert len(whole) > 3
        refused(put(b"".join([*whole[:2], *whole[3:]])), "missing or double")
        refused(put(b"".join([*whole[:-1], whole[-2], whole[-1]])), "missing or double")

    def test_a_length_that_its_packets_cannot_hold(self, put, content):
        *first, last = pages(content)
        refused(put(b"".join(first) + changed(last, granule=2**60)), "promises", "at most")

    def test_a_length_that_goes_back(self, put, content):
        sound = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000)
        *first, last = pages(encoded("OGG", "VORBIS", sound=sound))
        assert len(first) > 5
        refused(put(b"".join(first) + changed(last, granule=1000)), "before the page in front")


def with_samples(content: bytes, samples: int) -> bytes:
    """Return a FLAC file whose header states another length."""
    packed = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples
    return content[:18] + packed.to_bytes(8, "big") + content[26:]


class TestFLAC:
    @pytest.fixture(params=["PCM_S8", "PCM_16", "PCM_24"])
    def content(self, request) -> bytes:
        return encoded("FLAC", request.param, sound=np.tile(NOISE, 5))

    def test_a_streamed_one_is_read_to_its_end(self, put, content):
        expected = read(put(content))
        for behind in (b"", b"TAG" + bytes(125)):
            np.testing.assert_array_equal(read(put(with_samples(content, 0) + behind)), expected)

    @pytest.mark.parametrize("samples", [1, 4096, 4 * 4096, 19_999])
    def test_too_small_a_length_is_corrected(self, put, content, samples):
        assert len(read(put(with_samples(content, samples)))) == 20_000

    @pytest.mark.parametrize("samples", [20_001, 2**36 - 1])
    def test_too_large_a_length_is_refused(self, put, content, samples):
        path = put(with_samples(content, samples))
        refused(path, "truncated", f"promises {samples} samples and 20000 are there")

    @pytest.mark.parametrize("before", [b"", b"ID3\x04\0\0\0\0\0\x10" + bytes(16)])
    def test_behind_a_tag(self, put, content, before):
        np.testing.assert_array_equal(read(put(before + content)), read(put(content)))

    @needs_ffmpeg
    @pytest.mark.parametrize("options", [[], ["-frame_size", "1000"], ["-compression_level", "12"]])
    def test_by_ffmpeg(self, put, content, options):
        source = put(content, "source.flac")
        content = piped([FFMPEG, "-v", "error", "-i", source, *options, "-f", "flac", "-"])
        assert content[21:26] == bytes([content[21] & 0xF0]) + bytes(4)  # states no length
        np.testing.assert_allclose(read(put(content)), read(source), atol=1e-6)


TEXTS = {
    b"<!DOCTYPE html>\n<html><body>404</body></html>": "an HTML page",
    b"\n  <HTML><head>": "an HTML page",
    b'{"message": "rate limit"}': "JSON",
    b"<?xml version='1.0'?><Error/>": "an XML document",
    "ein Text über nichts".encode(): "text",
    "\ufeffein Text".encode(): "text",
    "ein Text".encode("utf-16"): "text",
}


class TestForeignFiles:
    @pytest.mark.parametrize("signature", SIGNATURES, ids=lambda s: s.kind)
    def test_are_named_with_what_to_do(self, put, signature):
        content = bytes(signature.place) + signature.magic + bytes(range(256))
        if signature.place == 8:
            content = b"RIFF\0\1\0\0" + content[8:]
        message = refused(put(content), signature.kind, signature.remedy)
        assert "truncated" not in message

    @pytest.mark.parametrize("content", TEXTS)
    @pytest.mark.parametrize("name", ["a.wav", "a.au", "a.snd", "a.gsm", "a.vox", "a.mp3"])
    def test_text_is_named_whatever_its_ending(self, put, content, name):
        message = refused(put(content * 20, name), TEXTS[content])
        assert "404" not in message  # no bytes of a file that could be any
        assert "truncated" not in message

    def test_adts(self, put):
        refused(put(b"\xff\xf1\x50\x80\x2e\x7f\xfc" + bytes(500)), "AAC audio (ADTS)", "ffmpeg")

    def test_compressed_nist_sphere(self, put):
        content = encoded("NIST", "PCM_16").replace(b"-s3 pcm\n", b"-s9 pcm,shorten\n", 1)
        refused(put(content), "compressed NIST SPHERE", "ffmpeg")

    def test_bytes_of_no_known_kind_are_no_sound_whatever_their_ending(self, put):
        content = bytes([0x91, 0xFE, 3, 200] * 1000)
        for name in ("a.au", "a.snd", "a.gsm", "a.vox", "a.wav"):
            refused(put(content, name), "not an audio file")

    def test_a_sound_has_no_signature_of_another(self):
        for kind in WRITTEN.values():
            if kind[0] not in ("HTK", "MP3"):
                continue
            assert foreign_kind(encoded(*kind)[:1024]) == ""

    @needs_ffmpeg
    @pytest.mark.parametrize(
        ("name", "options", "kind"),
        [
            ("a.m4a", ["-c:a", "aac"], "an M4A file"),
            ("a.aac", ["-c:a", "aac"], "ADTS"),
            ("a.mp4", ["-c:a", "aac"], "an MPEG-4 file"),
            ("a.3gp", ["-c:a", "aac"], "a 3GP file"),
            ("a.wma", ["-c:a", "wmav2"], "Windows Media"),
            ("a.mka", ["-c:a", "flac"], "Matroska"),
            ("a.ac3", ["-c:a", "ac3"], "AC-3"),
            ("a.wv", ["-c:a", "wavpack"], "WavPack"),
            ("a.tta", ["-c:a", "tta"], "True Audio"),
            ("a.oga", ["-c:a", "flac"], "FLAC in Ogg"),
        ],
    )
    def test_by_ffmpeg(self, tmp_path, put, name, options, kind):
        source = put(encoded("WAV", "PCM_16"), "source.wav")
        command = [FFMPEG, "-v", "error", "-i", source, *options, tmp_path / name]
        subprocess.run(command, check=True)
        assert "truncated" not in refused(tmp_path / name, kind, "ffmpeg -i")


class TestPiecedFile:
    def test_reads_as_one_file(self, put):
        content = bytes(range(100))
        expected = content[10:40] + b"between" + content[:5]
        with put(content).open("rb") as file:
            pieced = PiecedFile(file, [(10, 40), b"between", (0, 5)])
            assert pieced.read(1000) == expected
            assert pieced.read(1) == b""
            assert pieced.seek(0, 2) == len(expected)
            assert pieced.seek(-9, 1) == pieced.tell() == len(expected) - 9
            for start in range(len(expected)):
                for size in (0, 1, 6, 50):
                    pieced.seek(start)
                    assert pieced.read(size) == expected[start : start + size]

    def test_ends_where_the_file_has_become_shorter(self, put):
        with put(b"12345").open("rb") as file:
            assert PiecedFile(file, [(0, 10)]).read(10) == b"12345"


def test_a_recording_of_unknown_length_is_read_in_windows(put):
    path = put(streamed("WAV", 0xFFFFFFFF, "FLOAT"))
    windows = list(AudioStream(path).windows(0.2, normalize=False))
    assert [(w.start, w.end) for w in windows] == [(0.0, 0.2), (0.2, 0.4), (0.3, 0.5)]
    assert np.array_equal(windows[-1].waveform[0].numpy(), NOISE[-1600:])
