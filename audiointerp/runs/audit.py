"""Audit of a folder: the detections in all its recordings, noted file by file to be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from audiointerp.dataset.decode import EXTENSIONS
from audiointerp.dataset.failures import Failures
from audiointerp.dataset.files import escape_bytes, walk_files
from audiointerp.reading import FileError, describe_stray, read_object
from audiointerp.runs.detections import Auditor, Detection
from audiointerp.runs.opening import Opened
from audiointerp.runs.store import differing_settings
from audiointerp.storage import append, check_writable, claim, write_atomically
from audiointerp.text import printable

SETTINGS, RECORDINGS = "audit.json", "recordings.jsonl"
"""Files of an audit's folder: what it depends on, and a line for each finished recording."""


def list_recordings(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the sound files below a folder by their paths below it, sorted folder by folder.

    Raises
    ------
    ValueError
        If there is no such folder, or no sound file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; an audit is of a folder of recordings")
    found = [path for path in walk_files(root) if path.suffix.lower() in EXTENSIONS]
    if not found:
        raise ValueError(
            f"{root}: no sound files in it that end in {', '.join(EXTENSIONS)}"
            f"{describe_stray(root)}"
        )
    return {escape_bytes(path.relative_to(root).as_posix()): path for path in found}


@dataclass(frozen=True)
class FolderAudit:
    """What `audit_folder` found.

    Attributes
    ----------
    files : dict of str to Path
        All sound files of the folder.
    detections : list of Detection
        In the order of the files, then of time, then of classes.
    failures : dict of str to str
        Why a file could not be used.
    """

    files: dict[str, Path]
    detections: list[Detection]
    failures: dict[str, str]


def audit_folder(
    folder: str | os.PathLike[str],
    auditor: Auditor,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> FolderAudit:
    """Find every detection in the recordings of a folder.

    Memory depends on the number of detections only: about 2 kB each for 64 bins.

    Parameters
    ----------
    folder : path
        Sound files at any depth.
    auditor : Auditor
    out : path, optional
        Folder to note finished recordings in: an audit that is stopped goes on there, and one that
        is repeated takes up files that are new or changed. By default nothing is written.
    overwrite : bool
        Begin anew.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FolderAudit

    Raises
    ------
    ValueError
        If there is no sound file, or `out` holds an audit with other settings; before anything is
        written.
    ClaimedError
        If another run is writing to `out`.
    OSError
        If `out` cannot be written, or the disk is full.
    """
    files = list_recordings(folder)
    if out is None:
        return _audit(files, auditor, None, {}, progress)
    out = Path(out)
    check_writable(out, folder=True)
    with claim(out / SETTINGS):
        done = {} if overwrite else _read_done(out, auditor.settings())
        done = {name: found for name, found in done.items() if name in files}
        done = {
            name: detections
            for name, (stamp, detections) in done.items()
            if stamp == _stamp(files[name])
        }
        out.mkdir(parents=True, exist_ok=True)
        # Anew, so that a line that was cut off and files that are gone are left out.
        lines = [_line(name, _stamp(files[name]), done[name]) for name in files if name in done]
        write_atomically(out / RECORDINGS, "".join(lines))
        write_atomically(out / SETTINGS, json.dumps(auditor.settings(), indent=2) + "\n")
        return _audit(files, auditor, out / RECORDINGS, done, progress)


def _audit(
    files: Mapping[str, Path],
    auditor: Auditor,
    journal: Path | None,
    done: Mapping[str, list[Detection]],
    progress: bool,
) -> FolderAudit:
    failures = Failures(differ=bool(done))
    found = dict(done)
    todo = {name: path for name, path in files.items() if name not in done}
    stamps: dict[str, Any] = {}

    def failed(name: str, error: Exception) -> None:
        failures.add(name, error)
        bar.update()

    def note(file: Opened) -> None:
        stamps[file.name] = _stamp(todo[file.name])  # before its end is read

    with tqdm(
        total=len(files), initial=len(done), desc="audit", unit="file", disable=not progress
    ) as bar:
        for name, detections in auditor.detect(todo, opened=note, failed=failed):
            failures.succeed()
            found[name] = detections
            if journal is not None:
                append(journal, _line(name, stamps.pop(name), found[name]))
            bar.set_postfix_str(printable(name)[-30:], refresh=False)
            bar.update()
    failures.finish()
    ordered = [detection for name in files for detection in found.get(name, ())]
    return FolderAudit(dict(files), ordered, failures.reasons)


def _stamp(path: Path) -> list[int]:
    """Return what changes with a file: its size and its time; nothing of one that is gone."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _line(name: str, stamp: list[int], detections: Sequence[Detection]) -> str:
    content = {"file": name, "stamp": stamp, "detections": list(map(asdict, detections))}
    return json.dumps(content, separators=(",", ":")) + "\n"


def _read_done(
    out: Path, settings: Mapping[str, Any]
) -> dict[str, tuple[list[int], list[Detection]]]:
    """Return what an earlier audit of the same settings has finished, with the files' stamps."""
    path, journal = out / SETTINGS, out / RECORDINGS
    if not path.is_file():
        if journal.exists():
            raise ValueError(
                f"{out}: has {RECORDINGS} but no {SETTINGS} to say how it was made; choose another "
                "folder, or overwrite=True"
            )
        return {}
    differing = differing_settings(read_object(path), settings)
    if differing:
        raise ValueError(
            f"{out}: holds an audit with other settings ({', '.join(differing)}); choose another "
            "folder, or overwrite=True"
        )
    done = {}
    if journal.is_file():
        with journal.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):  # was cut off when the process was killed
                    continue
                try:
                    content = json.loads(line)
                    found = [_detection(each) for each in content["detections"]]
                    done[content["file"]] = (content["stamp"], found)
                except (ValueError, KeyError, TypeError) as error:
                    raise FileError(
                        f"{journal}: line {number} is damaged ({error}); remove the file to begin "
                        "anew"
                    ) from None
    return done


def _detection(content: Mapping[str, Any]) -> Detection:
    names = {field.name for field in fields(Detection)}
    if set(content) != names:
        raise ValueError(f"a detection has {sorted(content)}")
    tuples = {name: tuple(content[name]) for name in ("profile", "energy")}
    return Detection(**(dict(content) | tuples))
