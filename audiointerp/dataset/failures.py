"""Decide which errors skip one clip and which end a run.

Whatever goes wrong with one clip is that clip's failure: the run goes on with the others and
reports it. A run ends with the error itself where this would say nothing of the clip: if the disk
is full or the GPU has stopped, or if no clip works and the first ones all fail alike, as they do
after a mistake in a model.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from audiointerp.dataset.decode import AudioError
from audiointerp.text import printable

ALIKE = 5
"""So many clips that all fail alike, before any that does not, end a run."""

_OF_ALL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failures:
    """Which clips of a run failed, and why.

    Parameters
    ----------
    differ : bool
        Whether it is known already that not all clips fail alike, as some are done.
    quiet : bool
        Whether to note failures without a word, to report them together later.

    Attributes
    ----------
    reasons : dict of str to str
        Why, by clip.
    """

    def __init__(self, *, differ: bool = False, quiet: bool = False) -> None:
        self.reasons: dict[str, str] = {}
        self._differ = differ
        self._quiet = quiet
        self._first: Exception | None = None
        self._count = 0

    def succeed(self) -> None:
        """Note that some clip works."""
        self._differ = True
        self._first = None

    def add(self, clip: str, error: Exception) -> None:
        """Note the failure of a clip, and say so unless `quiet`.

        Parameters
        ----------
        clip : str
        error : Exception
            What was raised by the work on this clip alone.

        Raises
        ------
        Exception
            The error, if it is not this clip's; or that of the first clip, if no clip works and
            the first `ALIKE` all fail alike. What is wrong with a sound file, an `AudioError`,
            is always its own.
        """
        if ends_all(error):
            raise error
        why = describe(error)
        if not self._quiet and self.reasons.get(clip) != why:
            _say(f"skipped {clip}: {why}")
        self.reasons[clip] = why
        if self._differ:
            return
        if isinstance(error, AudioError) or not _is_like(error, self._first):
            self.succeed()
            return
        if self._first is None:
            traceback.clear_frames(error.__traceback__)  # which hold the clip, and the GPU's memory
            self._first = error
        self._count += 1
        if self._count == ALIKE:
            self.finish()

    def finish(self) -> None:
        """Raise the error that all clips failed with, if they did."""
        if self._first is not None:
            raise self._first


def each_alone(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Result],
    failed: Callable[[Item, Exception], None],
) -> list[Result]:
    """Work on some clips together; if that fails, on each alone.

    So one clip that cannot be worked on costs no other its result.

    Parameters
    ----------
    items : sequence
        The clips, in a batch.
    work : callable
        Takes a sequence of clips.
    failed : callable
        Takes a clip whose work failed and the error, such as `Failures.add`.

    Returns
    -------
    list
        What `work` returned, in order: one result, or one for each clip that it worked for.
    """
    try:
        return [work(items)]
    except Exception as error:
        if ends_all(error):
            raise
        if len(items) == 1:
            failed(items[0], error)
            return []
        _say(f"{len(items)} together failed ({describe(error)}): each is tried alone")
    # Only here the error, and what its frames hold, is gone.
    return [result for item in items for result in each_alone([item], work, failed)]


def ends_all(error: Exception) -> bool:
    """Return whether an error would be that of every other clip as well."""
    if isinstance(error, OSError):
        return error.errno in _OF_ALL
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def describe(error: Exception) -> str:
    """Return what an error says, and what it is where it is not one of this package."""
    kind = type(error)
    own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return printable(str(error) if own else f"{kind.__name__}: {error}")


def _say(text: str) -> None:
    """Print a line above the progress bar, whatever characters the console lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    tqdm.write(printable(text).encode(encoding, errors="backslashreplace").decode(encoding))


def _is_like(error: Exception, other: Exception | None) -> bool:
    """Return whether two errors are of one kind and were raised at one place."""
    return other is None or (type(error), _place(error)) == (type(other), _place(other))


def _place(error: Exception) -> tuple[str, int] | None:
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None
