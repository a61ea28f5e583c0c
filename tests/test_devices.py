"""Memory of the process that trains."""

import resource
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


def faults_of_using_memory(times: int = 4) -> int:
    """Pages that the system had to provide while a large block is used again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(MEGABYTES << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@linux
def test_freed_memory_is_used_again_inside_the_block_and_given_back_after_it():
    pages = (MEGABYTES << 20) // resource.getpagesize()
    assert faults_of_using_memory() > 3 * pages
    with memory_kept(CPU):
        faults_of_using_memory()
        with memory_kept(CPU):
            assert faults_of_using_memory() < pages
        assert faults_of_using_memory() < pages
    assert faults_of_using_memory() > 3 * pages


def test_other_devices_and_tuned_systems_are_left_alone(monkeypatch):
    class NoLibrary:
        def mallopt(self, *_):
            raise AssertionError("changed")

    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: NoLibrary())
    with memory_kept(torch.device("cuda")):
        pass
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    with memory_kept(CPU):
        pass


def test_a_c_library_without_the_calls_is_no_problem(monkeypatch):
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: object())
    with memory_kept(CPU):
        torch.ones(10)
