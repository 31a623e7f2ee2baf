"""Threads beside other programs: how they wait, and how many the container allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from audiointerp.speed import share_processors, threads, usable_processors

OWN = {
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "KMP_LIBRARY",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
}
V2 = "25 21 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 {} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a maker of a machine: its files by path, its processors and its Python's limit."""

    def make(files, processors=8, python=None):
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(threads, "_ROOT", tmp_path)
        monkeypatch.setattr(threads, "_affinity", lambda: set(range(processors)))
        monkeypatch.setattr(os, "process_cpu_count", lambda: python, raising=False)

    return make


def version_2(group, **quotas):
    """Return the files of control groups of version 2, given the quota of each by its folder."""
    files = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2 + "\n"}
    return files | {f"sys/fs/cgroup/{path}cpu.max": text for path, text in quotas.items()}


def version_1(group, root="/", **quotas):
    """Return the files of control groups of version 1, their quota and period by folder."""
    files = {
        "proc/self/cgroup": f"9:memory:/\n4:cpu,cpuacct:{group}\n0::/elsewhere\n",
        "proc/self/mountinfo": f"{V1.format(root)}\n{V2}\n",
    }
    for path, (quota, period) in quotas.items():
        folder = f"sys/fs/cgroup/cpu,cpuacct/{path}"
        files |= {f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": period}
    return files


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        (version_2("/", **{"": "max 100000\n"}), 8),
        (version_2("/", **{"": "400000 100000\n"}), 4),
        (version_2("/", **{"": "150000 100000\n"}), 1),
        (version_2("/", **{"": "50000 100000\n"}), 1),
        (version_2("/", **{"": "9000000 100000\n"}), 8),
        # The strictest of the groups around the process; others do not matter.
        (version_2("/a/b", **{"a/": "300000 100000", "a/b/": "max 100000", "c/": "1 1"}), 3),
        (version_2("/a/b", **{"a/": "max 100000", "a/b/": "25000 10000"}), 2),
        # Outside of what the container sees: its own group is the root of the mount.
        (version_2("/../../host", **{"": "200000 100000"}), 2),
        (version_1("/", **{"": ("-1\n", "100000\n")}), 8),
        (version_1("/", **{"": ("250000\n", "100000\n")}), 2),
        (version_1("/a/b", **{"a/": ("300000", "100000"), "a/b/": ("-1", "100000")}), 3),
        (version_1("/docker/1", "/docker/1", **{"": ("600000", "100000")}), 6),
        (version_1("/docker/1", "/docker/1", **{"docker/1/": ("100000", "100000")}), 8),
        (version_1("/x", "/docker/1", **{"": ("600000", "100000")}), 6),
        # Damaged or strange files are no quota.
        (version_2("/", **{"": ""}), 8),
        (version_2("/", **{"": "many 100000"}), 8),
        (version_1("/", **{"": ("100000", "0")}), 8),
        ({"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "\n"}, 8),
    ],
)
def test_the_quota_of_the_control_groups_is_respected(files, expected, machine):
    machine(files)
    assert usable_processors() == expected


def test_a_mount_point_with_a_blank_is_found(machine):
    files = version_2("/", **{"": "400000 100000"})
    files["proc/self/mountinfo"] = V2.replace("fs/cgroup", r"fs/c\040group")
    files["sys/fs/c group/cpu.max"] = "200000 100000"
    machine(files)
    assert usable_processors() == 2


def test_affinity_and_pythons_own_limit_are_respected(machine):
    machine({}, processors=3)
    assert usable_processors() == 3
    machine({}, processors=3, python=2)
    assert usable_processors() == 2
    machine(version_2("/", **{"": "100000 100000"}), processors=3, python=2)
    assert usable_processors() == 1


@pytest.fixture
def fresh(monkeypatch):
    """Return an environment without settings of threads, in a process that has no torch."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.delitem(sys.modules, "torch")
    return environment


def shared(environment):
    """Return what sharing the processors sets."""
    before = dict(environment)
    assert share_processors() is True
    return {name: value for name, value in environment.items() if value != before.get(name)}


def test_threads_spin_for_a_short_time_and_keep_their_number(machine, fresh):
    machine({})
    assert shared(fresh) == {"GOMP_SPINCOUNT": "3000"}


@pytest.mark.parametrize(
    "name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY"]
)
def test_how_threads_wait_is_left_to_a_user_who_says_so(name, machine, fresh):
    machine({})
    fresh[name] = "passive"
    assert shared(fresh) == {}


@pytest.mark.parametrize(
    ("quota", "siblings", "expected"),
    [
        ("300000", 1, "3"),
        ("800000", 1, None),
        # Eight processors on four cores: torch takes four threads by itself.
        ("600000", 2, None),
        ("300000", 2, "3"),
    ],
)
def test_threads_are_no_more_than_the_quota_allows(quota, siblings, expected, machine, fresh):
    topology = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": str(cpu // siblings)
        for cpu in range(8)
    }
    machine(topology | version_2("/", **{"": f"{quota} 100000"}))
    assert shared(fresh).get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_number_of_threads_is_left_to_a_user_who_says_it(name, machine, fresh):
    machine(version_2("/", **{"": "100000 100000"}))
    fresh[name] = "4"
    assert shared(fresh) == {"GOMP_SPINCOUNT": "3000"}


def test_it_is_too_late_once_torch_is_loaded():
    before = dict(os.environ)
    with pytest.warns(UserWarning, match="torch is loaded already.* before the first import") as on:
        assert share_processors() is False
    assert on[0].filename == __file__
    assert dict(os.environ) == before


FIRST = """
import json, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
            print(json.dumps({each: os.environ.get(each) for each in names}))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Watch())
"""
STARTS = {
    "console script": "from audiointerp.cli import main; main()",
    "python -m": "import runpy; runpy.run_module('audiointerp', run_name='__main__')",
}


def seen_by_torch(start, **variables):
    """Return the variables that are set when the command line first imports torch."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    code = f"{FIRST}\nsys.argv = ['audiointerp', 'check', 'nothing.safetensors']\n{STARTS[start]}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("start", STARTS)
def test_the_command_line_says_how_threads_wait_before_torch_is_loaded(start):
    assert seen_by_torch(start)["GOMP_SPINCOUNT"] == "3000"
    own = seen_by_torch(start, OMP_WAIT_POLICY="active", OMP_NUM_THREADS="3")
    assert own == {"GOMP_SPINCOUNT": None, "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active"}


def test_a_script_can_share_processors_before_it_imports_the_library():
    code = (
        "import sys, audiointerp, audiointerp.cli\n"
        "from audiointerp.speed import share_processors, usable_processors\n"
        "print('torch' in sys.modules, share_processors())\n"
        "import audiointerp as ai\n"
        "print(ai.load.__name__, 'torch' in sys.modules, ai.metrics.__name__, 'METHODS' in dir(ai))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False True", "load True audiointerp.metrics True"]
