"""Number of processors a process may use, and how its threads wait.

Imports no torch: OpenMP reads its settings when torch loads it.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_SPINS = "3000"
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_ROOT = Path("/")


def share_processors() -> bool:
    """Let this process's threads get on with other programs; say whether it was in time.

    Sets two environment variables, which OpenMP reads once, when torch loads it, and which
    processes started later inherit:

    - ``GOMP_SPINCOUNT=3000``. By default a thread of GNU OpenMP that has finished its part spins,
      for milliseconds, until the others have: next to another busy program it then occupies the
      very processor that they wait for. SHAP on a quarter-width Cnn14 with two threads on two cores
      took several times as long next to one busy process. With a short spin it sleeps instead;
      see ``benchmarks/README.md``.
    - ``OMP_NUM_THREADS``, where `usable_processors` are fewer than the cores that torch sees. It
      does not see a container's CPU quota, under which surplus threads are stopped in turn.

    What the user has set stays: neither is set where the environment has it, or another variable
    for the same (``OMP_WAIT_POLICY``, ``KMP_BLOCKTIME``, ``KMP_LIBRARY``; ``MKL_NUM_THREADS``).

    This concerns the whole process, so nothing in the library calls it but the command line. A
    script calls it before its first import of torch; importing `audiointerp` loads none.

    Returns
    -------
    bool
        False, with a warning and nothing changed, where torch is loaded already.

    Examples
    --------
    >>> from audiointerp.speed import share_processors
    >>> share_processors()                                               # doctest: +SKIP
    True
    >>> import audiointerp as ai                                         # doctest: +SKIP
    """
    if "torch" in sys.modules:
        warnings.warn(
            "torch is loaded already and has read how its threads wait and how many they are: call "
            "share_processors() before the first import of torch, or set GOMP_SPINCOUNT=3000 in "
            "the environment",
            stacklevel=2,
        )
        return False
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    usable = usable_processors()
    if not any(name in os.environ for name in _COUNTS) and usable < _cores(_ROOT):
        os.environ["OMP_NUM_THREADS"] = str(usable)
    return True


def usable_processors() -> int:
    """Return how many processors this process may keep busy, at least 1.

    The least of the processors that it may run on (its affinity, and Python's ``-X cpu_count``
    from 3.13 on) and of the whole processors in the CPU quota of its control groups, version 1 or
    2, whichever of them is the strictest: 1 of a quota of 1.5.
    """
    told = getattr(os, "process_cpu_count", os.cpu_count)()
    return max(1, int(min([len(_affinity()), *([told] if told else []), *_quotas(_ROOT)])))


def _affinity() -> set[int]:
    """Return the numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cores(root: Path) -> int:
    """Return on how many cores this process may run: processors that share one count once."""
    siblings = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({_read(root / siblings.format(cpu)) or cpu for cpu in _affinity()})


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in processors, of every control group around this process."""
    for folder in _groups(root):
        for text in (_read(folder / "cpu.max"), _version_1(folder)):
            quota, _, period = text.partition(" ")
            # "max" and -1 stand for none.
            if quota.isdecimal() and period.isdecimal() and int(period):
                yield int(quota) / int(period)


def _version_1(folder: Path) -> str:
    return f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process, from its own upwards."""
    groups = _own_groups(_read(root / "proc/self/cgroup"))
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        controllers = options.split(",") if kind == "cgroup" else [""]
        if kind not in ("cgroup", "cgroup2") or not groups.keys() & set(controllers):
            continue
        top, mount = (PurePosixPath(_unescape(field)) for field in before.split(" ")[3:5])
        own = next(groups[name] for name in controllers if name in groups)
        # A container may see no more than its own group, as the root of the mount.
        seen = own.is_relative_to(top) and ".." not in own.parts
        inside = own.relative_to(top) if seen else PurePosixPath()
        place = root / str(mount).lstrip("/")
        for part in (inside, *inside.parents):
            yield place / part


def _own_groups(text: str) -> dict[str, PurePosixPath]:
    """Return this process's group of the controller "cpu", and of version 2, which is named ""."""
    fields = [line.split(":", 2) for line in text.splitlines()]
    return {
        name: PurePosixPath(path)
        for _, names, path in fields
        for name in names.split(",")
        if name in ("", "cpu")
    }


def _unescape(field: str) -> str:
    """Return a field of mountinfo as it is: blanks are written as octal numbers there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(path: Path) -> str:
    """Return a file's text without blanks around it; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
