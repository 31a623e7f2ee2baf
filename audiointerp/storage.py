"""Write files and folders so that no reader ever sees half of one."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file: it is complete or, after an error, as it was before.

    Parameters
    ----------
    path : path
        The target; its folder exists. An existing file is replaced.
    content : bytes or str
        What the file will hold; text is encoded as UTF-8.

    Returns
    -------
    Path
        The target.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the name of a temporary file beside `path`, which takes its place at the end.

    After an error the temporary file is removed and `path` is as it was. The name keeps the
    ending of `path`, which some writers choose the format by.

    Parameters
    ----------
    path : path
        The target; its folder exists.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes its place at the end.

    An existing folder is moved aside first and removed last, so that one of the two is complete
    at any time. After an error the new folder is removed and the existing one stays.

    Parameters
    ----------
    path : path
        The target; parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rename(earlier)
        try:
            temporary.rename(path)
        except BaseException:
            if earlier.exists():
                earlier.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(earlier, ignore_errors=True)


def check_writable(path: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Check that a file can be written, before the work that it is to hold.

    Nothing is left behind: a temporary file is made, in the folder or in the nearest one above it
    that exists, and removed.

    Parameters
    ----------
    path : path
        The file to write; it and its folder may be missing.
    folder : bool
        Whether `path` is a folder to write files into.

    Raises
    ------
    OSError
        If it cannot be written; the message names `path` and the reason.
    """
    path = Path(path)
    try:
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        missing = [] if path.is_dir() else [path.name]
        there = path if path.is_dir() else path.parent
        while not there.exists() and there != there.parent:
            missing.append(there.name)
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file, not a folder")
        if folder and path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder")
        for name in missing:
            with suppress(FileNotFoundError):
                os.lstat(_beside(there / name))  # temporary names are longer, perhaps too long
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = "into the folder" if folder else "the file"
        raise type(error)(f"cannot write {what} {path}: {error.strerror}") from error


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}")
