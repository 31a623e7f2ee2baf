"""Write files and folders so that no reader ever sees half of one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}")
