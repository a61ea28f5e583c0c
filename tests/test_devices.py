"""Memory of the process that trains."""

import resource
import subprocess
import sys

import pytest
import torch

from labkit import devices
from labkit.devices import memory_kept

CPU = torch.device("cpu")
MEGABYTES = 50
linux = pytest.mark.skipif(
    devices._tunable_c_library() is None or not sys.platform.startswith("linux"),
    reason="another C library, or tuned by the environment",
)


# In a process of its own: what other tests have left in the heap would be used first.
FAULTS = f"""
import resource
import torch
from labkit.devices import memory_kept

def pages_provided(times=4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones({MEGABYTES} << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

cpu = torch.device("cpu")
pages_provided()
print(pages_provided())
with memory_kept(cpu):
    pages_provided()
    with memory_kept(cpu):
        print(pages_provided())
    print(pages_provided())
print(pages_provided())
"""


@linux
def test_freed_memory_is_used_again_inside_the_block_and_given_back_after_it():
    """Counted in pages that the system provides while a large block is used four times."""
    pages = (MEGABYTES << 20) // resource.getpagesize()
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, nested, inside, after = map(int, done.stdout.split())
    assert before > 3 * pages and after > 3 * pages
    assert nested < pages and inside < pages


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
