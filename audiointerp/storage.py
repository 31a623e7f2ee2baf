"""Write files and folders atomically and durably, and lock them against concurrent runs.

Every write of the package goes through here: an error names the file, and what was there before
stays. What is written is flushed to the disk before it takes its name, so that a power cut leaves
the file of before or the new one, never an empty one. `claim` keeps two runs apart.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EISDIR, ENOLCK, ENOSYS, ENOTDIR, ENOTSUP, EOPNOTSUPP, EROFS
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

PathLike = str | os.PathLike[str]

_PAUSE = 0.2
"""Seconds between two attempts to get a claim that is waited for."""
_ATTEMPTS = 100
"""How often a folder is made that other runs remove, before something else must be the reason."""
_LONGEST_COMMAND = 300
_NO_LOCKS = (ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP)
_READ_ONLY = (EACCES, EROFS)
_FAR = 2**30
"""The byte that is locked on Windows, where a locked byte cannot be read."""


class ClaimedError(BlockingIOError):
    """A file that another run is writing; the message says which run, and since when."""


@contextmanager
def claim(*paths: PathLike, wait: bool = False) -> Iterator[None]:
    """Claim files until the end of the block: no other run can claim them meanwhile.

    A claim is a lock on a hidden file beside the claimed one, ``.NAME.lock``, which says who holds
    it. The system drops the lock when the process ends, however it ends, so that the file left by
    a killed process claims nothing. A folder is claimed by claiming the file in it that says what
    the folder is. Where nothing can be written, there is nothing to claim.

    Parameters
    ----------
    *paths : path
        The files, which need not exist. Missing folders are made, and removed at the end if they
        are still empty.
    wait : bool
        Wait for another run to end, and say so, instead of raising.

    Raises
    ------
    ClaimedError
        If another run has claimed one of them; a claim of this process counts as well.

    Warns
    -----
    UserWarning
        If the file system has no locks. Nothing is claimed then.
    """
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_claim_one(Path(os.path.abspath(path)), wait))
        yield


@contextmanager
def _claim_one(path: Path, wait: bool) -> Iterator[None]:
    folder = Path(os.path.realpath(path.parent))
    lock = folder / f".{path.name}.lock"
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    file = None
    try:
        file = _wait_for(lock, path) if wait else _open_locked(lock, path)
        yield
    finally:
        if file is not None:
            _release(file, lock)
        with suppress(OSError):
            for each in made:
                each.rmdir()


def _wait_for(lock: Path, path: Path) -> IO[bytes] | None:
    said = False
    while True:
        try:
            return _open_locked(lock, path)
        except ClaimedError as error:
            if not said:
                tqdm.write(f"waiting: {error}", file=sys.stderr)
            said = True
            time.sleep(_PAUSE)


def _open_locked(lock: Path, path: Path) -> IO[bytes] | None:
    """Return a lock file that this process holds, None where there is none to be had."""
    vanished = 0
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("ab", buffering=0)
        except FileNotFoundError:
            vanished += 1
            if vanished < _ATTEMPTS:
                continue  # the run that had made the folder has just removed it
            raise
        except OSError as error:
            if error.errno in _READ_ONLY and not lock.exists():
                return None
            check_writable(path.parent, folder=True)  # which says what is in the way
            raise
        try:
            _lock(file)
            # Whoever held it before may have removed it after it was opened here.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                with naming(lock):
                    file.truncate(0)
                    file.write(_describe_process().encode(errors="backslashreplace"))
                return file
            file.close()
        except FileNotFoundError:
            file.close()
        except BlockingIOError:
            file.close()
            raise ClaimedError(
                f"{path}: another run is writing it ({_holder(lock)}): wait for it to end, or "
                "write elsewhere"
            ) from None
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            lock.unlink(missing_ok=True)
            warnings.warn(
                f"{lock.parent}: its file system has no locks ({error.strerror}), so that another "
                f"run is not kept from writing {path.name} at the same time",
                stacklevel=6,
            )
            return None


def _release(file: IO[bytes], lock: Path) -> None:
    if os.name == "nt":  # where an open file cannot be removed
        file.close()
        with suppress(OSError):
            lock.unlink()
    else:
        lock.unlink(missing_ok=True)
        file.close()


if os.name == "nt":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _describe_process() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    command = shlex.join(["audiointerp" if program == "__main__.py" else program, *sys.argv[1:]])
    return (
        f"process {os.getpid()} on {socket.gethostname()}, since "
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {command[:_LONGEST_COMMAND]}"
    )


def _holder(lock: Path) -> str:
    try:
        said = lock.read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    return said or "its process is not known"


def write_atomically(path: PathLike, content: bytes | str) -> Path:
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

    Raises
    ------
    OSError
        If it cannot be written, for example because the disk is full; the message names the file.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield the name of a temporary file beside `path`, which takes its place at the end.

    After an error the temporary file is removed and `path` is as it was. The name keeps the
    ending of `path`, which some writers choose the format by.

    Parameters
    ----------
    path : path
        The target; its folder exists.

    Raises
    ------
    OSError
        If it cannot be written; the message names `path`.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with naming(path, temporary):
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}")


def append(path: PathLike, content: str) -> None:
    """Add text to the end of a file: all of it or, after an error, nothing.

    Parameters
    ----------
    path : path
        The file; it is made if missing.
    content : str
        Encoded as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written; the message names the file.
    """
    with naming(path), Path(path).open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        rest = memoryview(content.encode())
        try:
            while rest:  # a disk that becomes full takes a part first
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def flush(path: PathLike) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Parameters
    ----------
    path : path
        A file or a folder. Nothing is done for a folder where the system cannot open one
        (Windows) or its file system does not flush any.
    """
    is_folder = os.path.isdir(path)
    if is_folder and os.name == "nt":
        return
    # Windows flushes only what is open for writing.
    place = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError:
        if not is_folder:
            raise
    finally:
        os.close(place)


def _flush_tree(folder: Path) -> None:
    """Flush all files of a folder and of those in it, then the folders."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not os.path.islink(os.path.join(place, name)):
                flush(os.path.join(place, name))
        flush(place)


@contextmanager
def naming(path: PathLike, temporary: PathLike | None = None) -> Iterator[None]:
    """Name a file in the `OSError` of writing it: that of a full disk names none.

    Parameters
    ----------
    path : path
        The file that the user knows.
    temporary : path, optional
        A file, or a folder, that stands for it meanwhile and is named by it too.
    """
    try:
        yield
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # as of NumPy
            raise OSError(f"{path}: cannot be written: {error}") from error
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        elif temporary is not None and isinstance(error.filename, str):
            named = Path(error.filename)
            if named == Path(temporary) or Path(temporary) in named.parents:
                inner = named.relative_to(temporary)
                error.filename = os.fspath(Path(path) / inner)
                del error.filename2  # None would be printed
        raise


@contextmanager
def replacing_folder(
    path: PathLike, written: Callable[[Path], Collection[str]] = lambda folder: ()
) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes its place at the end.

    Of an existing folder only the files that an earlier result wrote are replaced; all others move
    to the new one with their names and times. After an error the new folder is removed and the
    existing one stays. If the process is killed, one of the two is complete: beside `path`, as
    ``.NAME.old``, where it was killed at the moment of the exchange. The next call puts it back.

    Parameters
    ----------
    path : path
        The target; parent folders are made.
    written : callable, optional
        Given the existing folder, returns what the earlier result wrote: names of files, those in
        folders as ``folder/file``. By default none.

    Raises
    ------
    ClaimedError
        If another run is writing the folder.
    FileExistsError
        If a file of the new folder has the name of one that must stay.
    """
    path = Path(os.path.realpath(path))
    new, old = (path.with_name(f".{path.name}.{state}") for state in ("new", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with claim(path):
        _settle(path, new, old, written)
        new.mkdir()
        try:
            with naming(path, new):
                yield new
                _flush_tree(new)
            if path.exists():
                _check_free(path, new, written)
                path.rename(old)
            new.rename(path)
            flush(path.parent)
        finally:
            _settle(path, new, old, written)


def _settle(path: Path, new: Path, old: Path, written: Callable[[Path], Collection[str]]) -> None:
    """End an exchange of folders, wherever it was interrupted."""
    if old.exists():
        if path.exists():
            shutil.rmtree(new, ignore_errors=True)
            for name in _others(old, written(old)):
                _move(old / name, path / name)
            old.rename(new)
        else:
            old.rename(path)
    shutil.rmtree(new, ignore_errors=True)


def _check_free(path: Path, new: Path, written: Callable[[Path], Collection[str]]) -> None:
    for name in _others(path, written(path)):
        if os.path.lexists(new / name):
            raise FileExistsError(
                f"{path / name}: is not of the earlier result and would be replaced; move or "
                "rename it"
            )


def check_writable(path: PathLike, *, folder: bool = False) -> None:
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
            raise IsADirectoryError(EISDIR, "it is a folder")
        missing = [] if path.is_dir() else [path.name]
        there = path if path.is_dir() else path.parent
        while not there.exists() and there != there.parent:
            missing.append(there.name)
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(ENOTDIR, f"{there} is a file, not a folder")
        if folder and path.exists() and not path.is_dir():
            raise NotADirectoryError(ENOTDIR, "it is a file, not a folder")
        for name in missing:
            with suppress(FileNotFoundError):
                os.lstat(_beside(there / name))  # temporary names are longer, perhaps too long
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = "into the folder" if folder else "the file"
        raise type(error)(f"cannot write {what} {path}: {error.strerror}") from error


def ignores_case(folder: PathLike) -> bool:
    """Return whether names that differ only in case are one name in a folder, which exists."""
    folder = Path(os.path.abspath(folder))
    other = folder.with_name(folder.name.swapcase())
    return other != folder and other.exists() and other.samefile(folder)


def _others(folder: Path, written: Collection[str]) -> list[str]:
    """Return what is in a folder apart from some files, a folder without any of them as a whole."""
    found = []
    for entry in sorted(folder.iterdir()):
        is_folder = entry.is_dir() and not entry.is_symlink()
        inner = {
            name[len(entry.name) + 1 :] for name in written if name.startswith(f"{entry.name}/")
        }
        if is_folder and inner:
            found += [f"{entry.name}/{name}" for name in _others(entry, inner)]
        elif is_folder or entry.name not in written:
            found.append(entry.name)
    return found


def _move(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(
            f"{source}: was left here by a run that was killed, and {target} exists: remove one of "
            "them"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
