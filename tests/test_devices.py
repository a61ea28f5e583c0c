"""Memory of the process that trains, and the GPUs of several."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from labkit import devices
from labkit.utils import UserError

SIZE = 100 << 20  # bytes: above what the C library ever keeps by itself
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux") or "MALLOC_MMAP_MAX_" in os.environ,
    reason="another C library, or tuned by the environment",
)


USED_FOUR_TIMES = f"""
import json, resource, sys
import torch
from labkit.devices import keep_freed_memory

def pages_provided():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones({SIZE}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages_provided()
seen = [pages_provided()]
keep_freed_memory(torch.device(sys.argv[1]))
pages_provided()
print(json.dumps([*seen, pages_provided()]))
"""


@linux
@pytest.mark.parametrize(
    ("device", "environment", "kept"),
    [("cpu", {}, True), ("cuda", {}, False), ("cpu", {"MALLOC_MMAP_MAX_": "65536"}, False)],
)
def test_freed_memory_is_used_again_on_a_cpu_unless_the_environment_says_otherwise(
    device, environment, kept
):
    """Counted in pages that the system provides, in a process of its own, with a fresh heap."""
    command = [sys.executable, "-c", USED_FOUR_TIMES, device]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    (before, after), pages = json.loads(done.stdout), SIZE // resource.getpagesize()
    assert before > 3 * pages
    assert after < pages if kept else after > 3 * pages


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
