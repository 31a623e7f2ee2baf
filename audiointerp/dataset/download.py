"""Fetch ESC-50, and copy the published sample clips out of it."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audiointerp.arguments import several
from audiointerp.dataset.audio import (
    AudioError,
    fix_length,
    load_audio,
    save_audio,
)
from audiointerp.dataset.esc50 import check_root, find_audio, locate_audio, read_meta
from audiointerp.registry import Registry
from audiointerp.storage import claim, naming, write_atomically

# One commit, not the branch: GitHub packs a branch anew whenever any file of it changes, which
# is how the checksums other projects hold for "master.zip" stopped being right.
ESC50_COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
ESC50_URL = f"https://github.com/karolpiczak/ESC-50/archive/{ESC50_COMMIT}.zip"
ESC50_CHECKSUM = "sha256:661183a6f53ef04f12c9bd618fed0ddc1713280d6c94a5a5431e844ba6f6a21f"

# What a lost connection loses at most: a chunk counts once it is whole.
_CHUNK = 1 << 14
_CLIP_SECONDS = 5.0
# What a transfer that may go on ends with.
_INTERRUPTED = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class Sample(NamedTuple):
    """One of the published sample clips.

    Attributes
    ----------
    stem : str
        Name of the clip in ESC-50, without the ending.
    levels : tuple of int
        RMS of each of its ten half seconds in steps of 16 bits, to know the clip by.
    """

    stem: str
    levels: tuple[int, ...]


SAMPLES: Registry[Sample] = Registry("sample")
"""The clips in the published project's ``samples/``, from its README's table."""
SAMPLES.update(
    car_horn=Sample(
        "2-100648-A-43", (2718, 2802, 24469, 10670, 2610, 3209, 3575, 2868, 2922, 3058)
    ),
    cat=Sample("5-177614-A-5", (6383, 5496, 470, 1229, 593, 0, 0, 0, 0, 0)),
    clapping=Sample("2-76408-D-22", (2920, 2713, 2893, 3075, 2864, 2497, 3524, 2886, 4086, 4412)),
    crow=Sample("1-56234-A-9", (1927, 1790, 1253, 1464, 1940, 1781, 333, 74, 0, 0)),
    dog=Sample("3-157695-A-0", (3645, 4142, 1547, 1919, 3331, 3867, 800, 4066, 4833, 1959)),
    sea_waves=Sample("4-182613-A-11", (4859, 5281, 6437, 6781, 6930, 5794, 6348, 5161, 3836, 3738)),
)


class ResumingDownloader:
    """A downloader for pooch that goes on where an interrupted transfer stopped.

    What has arrived is kept in a file of its own, and the rest is asked for by an HTTP range
    request (RFC 9110, section 14). A server that does not know ranges sends everything again.

    Parameters
    ----------
    part : path-like
        Where to keep an unfinished transfer.
    attempts : int
        How often to connect before giving up.
    pause : float
        Seconds to wait before connecting again.
    timeout : float
        Seconds without a byte after which the connection counts as lost.
    """

    def __init__(
        self,
        part: str | os.PathLike[str],
        *,
        attempts: int = 5,
        pause: float = 2.0,
        timeout: float = 30.0,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts={attempts}: a download needs at least one")
        self.part = Path(part)
        self.attempts = attempts
        self.pause = pause
        self.timeout = timeout

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url` to `output_file`, as pooch calls it.

        Raises
        ------
        ConnectionError
            If the transfer did not finish; what arrived is kept for the next call.
        requests.HTTPError
            If the server refuses, for example because there is no such file.
        """
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause)
            try:
                self._fetch(url)
            except _INTERRUPTED as error:
                problem: Exception = error
            else:
                os.replace(self.part, output_file)
                return
        raise ConnectionError(
            f"{url}: not finished after {self.attempts} attempts ({problem}); the "
            f"{self._size()} bytes that arrived are kept in {self.part}, run it again to go on"
        ) from problem

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch(self, url: str) -> None:
        """Transfer what is missing from the part file."""
        have = self._size()
        # Unpacked on the way, a stream would not match the byte counts.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if have and response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return  # all of it was here
                self.part.unlink()
                raise requests.ConnectionError("the kept part does not fit the file on the server")
            response.raise_for_status()
            start = self._start(response, have)
            length = response.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            self._write(response, start, total)
        if total is not None and self._size() < total:
            raise requests.ConnectionError(
                f"the connection closed after {self._size()} of {total} bytes"
            )

    def _start(self, response: requests.Response, have: int) -> int:
        """Return where in the file the answer's first byte belongs."""
        if response.status_code != requests.codes.partial_content:
            return 0
        span = response.headers.get("Content-Range", "")
        if not span.startswith(f"bytes {have}-"):
            self.part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"the server sent the range {span!r}, asked for {have}-")
        return have

    def _write(self, response: requests.Response, start: int, total: int | None) -> None:
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=f"download {self.part.stem}"
        )
        with bar, self.part.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                with naming(self.part):
                    file.write(chunk)
                bar.update(len(chunk))


def download_esc50(
    root: str | os.PathLike[str],
    *,
    url: str = ESC50_URL,
    checksum: str = ESC50_CHECKSUM,
    downloader: ResumingDownloader | None = None,
) -> Path:
    """Download ESC-50 (646 MB) and unpack it.

    An interrupted download goes on at the next call, an interrupted unpacking begins again from
    the archive. `root` appears only when all of it is there; the archive is removed then. ESC-50
    is licensed CC BY-NC 3.0, its subset ESC-10 CC BY 3.0. Where another run is fetching it to the
    same folder, this one says so and waits for it.

    Parameters
    ----------
    root : path-like
        The folder to make, which will hold ``meta/`` and ``audio/``. If it holds a whole ESC-50
        already, nothing is done.
    url : str
        A ZIP archive of ESC-50.
    checksum : str
        The archive's checksum as pooch writes it, ``"sha256:…"`` or ``"md5:…"``.
    downloader : ResumingDownloader, optional
        In place of the one this function makes.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    FileExistsError
        If `root` holds something else.
    ValueError
        If the archive is not the one expected, or not an ESC-50; nothing is left unpacked.
    ConnectionError
        If the transfer did not finish.
    """
    root = Path(os.path.abspath(root))
    archive = root.with_name(f"{root.name}.zip")
    with claim(root, wait=True):
        if _is_whole(root):
            return root
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise FileExistsError(
                f"{root}: exists and is not a whole ESC-50; move it away or name another folder"
            )
        archive.parent.mkdir(parents=True, exist_ok=True)
        downloader = downloader or ResumingDownloader(archive.with_name(f"{archive.name}.part"))
        _retrieve(url, checksum, archive, downloader)
        _unpack(archive, root)
        archive.unlink()
    return root


def _retrieve(url: str, checksum: str, archive: Path, downloader: ResumingDownloader) -> None:
    resumed = downloader.part.exists()
    try:
        pooch.retrieve(
            url, checksum, fname=archive.name, path=archive.parent, downloader=downloader
        )
    except ValueError as error:
        if resumed:  # the two halves may be of two versions: once more, from the start
            _retrieve(url, checksum, archive, downloader)
            return
        raise ValueError(
            f"{url}: what arrived is not the archive expected ({error}). If the file on the "
            "server was replaced on purpose, pass its new checksum"
        ) from error


def _is_whole(root: Path) -> bool:
    """Tell whether `root` is an ESC-50 with every sound its table names."""
    if not (root / "meta" / "esc50.csv").is_file() or not (root / "audio").is_dir():
        return False
    return not _missing(root)


def _missing(root: Path) -> list[Path]:
    paths = find_audio(root, [row.filename for row in read_meta(root)])
    return [path for path in paths if not path.is_file()]


def _unpack(archive: Path, root: Path) -> None:
    """Unpack beside `root` and move it there when it is whole."""
    space = root.with_name(f".{root.name}.unpacking")
    shutil.rmtree(space, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in tqdm(packed.infolist(), desc="unpack", unit="file"):
                with naming(space / member.filename):
                    packed.extract(member, space)
        inner = [path.parent.parent for path in space.glob("*/meta/esc50.csv")]
        unpacked = check_root(inner[0] if len(inner) == 1 else space)
        missing = _missing(unpacked)
        if missing:
            raise ValueError(f"{len(missing)} sounds of its table are not in it")
        if root.exists():
            root.rmdir()
        os.replace(unpacked, root)
    except (zipfile.BadZipFile, FileNotFoundError, ValueError) as error:
        raise ValueError(f"{archive}: is not an archive of ESC-50: {error}") from error
    finally:
        shutil.rmtree(space, ignore_errors=True)


def copy_samples(
    esc50_root: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    names: Iterable[str] | None = None,
    *,
    overwrite: bool = False,
    samples: Mapping[str, Sample] = SAMPLES,
) -> dict[str, Path]:
    """Copy the published sample clips out of a local ESC-50.

    Every clip is checked to be the one meant, by its level over time, before any is written. WAV
    files are copied byte for byte; OGG and FLAC ones are written as 16-bit WAV of 5 s.

    Parameters
    ----------
    esc50_root : path-like
        The root of an ESC-50. ESC-10 has only ``dog`` and ``sea_waves``.
    destination : path-like
        The folder to copy into, made if need be; the files are ``<name>.wav``.
    names : iterable of str, optional
        Which samples; all of them for None.
    overwrite : bool
        Replace files that are there.
    samples : mapping of str to Sample
        What the names mean.

    Returns
    -------
    dict
        The file written for each name.

    Raises
    ------
    ValueError
        If a name is unknown, or a clip is not the one meant (`AudioError`).
    FileNotFoundError
        If `esc50_root` is not an ESC-50 or lacks some of the clips; all are listed.
    FileExistsError
        If a file is there and `overwrite` is False.
    """
    root, destination = check_root(esc50_root), Path(destination)
    chosen = {name: samples[name] for name in (samples if names is None else several(names))}
    sources = _find_samples(root, chosen)
    targets = {name: destination / f"{name}.wav" for name in chosen}
    there = [str(path) for path in targets.values() if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"would replace {', '.join(there)}; pass overwrite=True to do so")
    decoded = {name: _read_sample(sources[name], chosen[name]) for name in chosen}
    with claim(*targets.values()):
        destination.mkdir(parents=True, exist_ok=True)
        for name, target in targets.items():
            if sources[name].suffix.lower() == ".wav":
                write_atomically(target, sources[name].read_bytes())
            else:
                save_audio(target, *decoded[name], subtype="PCM_16")
    return targets


def _find_samples(root: Path, chosen: Mapping[str, Sample]) -> dict[str, Path]:
    listed = {Path(row.filename).stem: row.filename for row in read_meta(root)}
    files = [listed.get(sample.stem, f"{sample.stem}.wav") for sample in chosen.values()]
    paths = dict(zip(chosen, locate_audio(root, files), strict=True))
    absent = [f"{name} ({path.name})" for name, path in paths.items() if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{root}: has no {', '.join(absent)}. Is it ESC-10, or a part of ESC-50? "
            "Name the samples you want, or use the whole set"
        )
    return paths


def half_second_levels(waveform: Tensor) -> Tensor:
    """Return the RMS of ten equal parts of a clip in steps of 16 bits.

    Parameters
    ----------
    waveform : Tensor
        Shape ``(1, samples)`` in [-1, 1], 5 s.

    Returns
    -------
    Tensor
        Shape ``(10,)``.
    """
    parts = waveform[0, : waveform.shape[-1] // 10 * 10].reshape(10, -1)
    return 32768 * parts.square().mean(dim=-1).sqrt()


def _read_sample(path: Path, sample: Sample) -> tuple[Tensor, int]:
    """Decode a clip and raise unless it is the one meant."""
    waveform, rate = load_audio(path, normalize=False)
    waveform = fix_length(waveform, round(_CLIP_SECONDS * rate))
    wanted = torch.tensor(sample.levels, dtype=torch.float32)
    # A lossy copy differs by less than one step; two clips of a class by far more.
    if not torch.allclose(half_second_levels(waveform), wanted, rtol=0.02, atol=2):
        raise AudioError(
            f"{path}: does not sound like ESC-50's {sample.stem}: its level over time is another. "
            "Was it edited, normalised, or another clip given this name?"
        )
    return waveform, rate
