"""Handle Ctrl-C and SIGTERM: clean up and print how to resume."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

GO_ON = {
    "audit": "the same command goes on with the recordings that are missing",
    "experiment": "the same command goes on with what is missing",
    "train": "the same command with --resume goes on after the last finished epoch",
    "train-interpreter": "the same command with --resume goes on after the last finished epoch",
    "data": "run the same command again; a download goes on where it was",
}
"""How to go on with the commands that keep what was finished; the others begin again."""
_AGAIN = "run the same command again; files that were written are whole"


class Stopped(BaseException):
    """The process was asked to end. No library takes it for the KeyboardInterrupt it handles."""


@contextmanager
def ending_in_order(arguments: Sequence[str]) -> Iterator[None]:
    """Let Ctrl-C and a request to terminate end the block as an exception would.

    What is being written is finished or removed. One line on standard error says how to go on, and
    the exit status is 128 plus the signal's number: 130 after Ctrl-C, 143 after a request. A
    signal that the process was started to ignore stays ignored.

    Parameters
    ----------
    arguments : sequence of str
        Of the command line, the first of which is the command.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        raise Stopped

    numbers = (signal.SIGINT, signal.SIGTERM)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    except BaseException:
        # Whatever a library made of it: torch turns what interrupts its import into other errors.
        if not received:
            raise
        command = arguments[0] if arguments else ""
        print(f"interrupted: {GO_ON.get(command, _AGAIN)}", file=sys.stderr)
        sys.exit(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
