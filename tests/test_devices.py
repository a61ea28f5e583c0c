"""Memory of the process that trains, and the GPUs of several."""

import json
import resource
import subprocess
import sys

import pytest
import torch

from labkit import devices
from labkit.devices import memory_kept
from labkit.utils import UserError

CPU = torch.device("cpu")
SIZE = 100 << 20  # bytes: above what the C library ever keeps by itself
linux = pytest.mark.skipif(
    devices._tunable_c_library() is None or not sys.platform.startswith("linux"),
    reason="another C library, or tuned by the environment",
)


# In a process of its own: what other tests have left in the heap would be used first. For the
# same reason the last blocks are larger than any hole that the ones before them have left.
USED_FOUR_TIMES = f"""
import ctypes, json, resource
import torch
from labkit.devices import memory_kept

def pages_provided(size={SIZE}, times=4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(size, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def pages_held():
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[1])

PR_SET_THP_DISABLE = 41  # pages of one size, whatever the system is set to
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
seen, cpu = {{}}, torch.device("cpu")
pages_provided()
seen["before"] = pages_provided()
with memory_kept(cpu):
    pages_provided()
    with memory_kept(cpu):
        seen["nested"] = pages_provided()
    seen["inside"] = pages_provided()
    seen["held inside"] = pages_held()
seen["held after"] = pages_held()
seen["after"] = pages_provided({4 * SIZE})
print(json.dumps(seen))
"""


@linux
def test_freed_memory_is_used_again_inside_the_block_and_given_back_after_it():
    """Counted in pages: those that the system provides while a block is used four times."""
    pages = SIZE // resource.getpagesize()
    done = subprocess.run([sys.executable, "-c", USED_FOUR_TIMES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["before"] > 3 * pages, seen
    assert seen["nested"] < pages and seen["inside"] < pages, seen
    assert seen["held inside"] - seen["held after"] > 0.9 * pages, seen
    assert seen["after"] > 3 * 4 * pages, seen


def test_other_devices_and_tuned_systems_are_left_alone(monkeypatch):
    class Watched:
        calls = []

        def mallopt(self, *_):
            self.calls.append("mallopt")

        malloc_trim = mallopt

    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Watched())
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    with memory_kept(torch.device("cuda")):
        assert not Watched.calls
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        with memory_kept(CPU):
            pass
        assert Watched.calls  # else the next lines could not fail
        Watched.calls.clear()
        with monkeypatch.context() as tuned:
            tuned.setenv(name, "0")
            with memory_kept(CPU):
                assert not Watched.calls


def test_a_c_library_without_the_calls_is_no_problem(monkeypatch):
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: object())
    with memory_kept(CPU):
        torch.ones(10)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("cuda", "4 processes need as many GPUs, found 2"), ("cuda:1", "cannot share cuda:1")],
)
def test_processes_without_a_gpu_each_are_one_clear_line(monkeypatch, name, complaint):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match=complaint):
        devices.make_accelerator(name, mixed=False)
