"""Memory of the process that trains, and the GPUs of several."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from labkit import devices
from labkit.lab import leave_cores_to_others
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


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_wait_without_spinning_for_long_unless_the_user_says_otherwise(own):
    """For all that begins with the kit: the command line, kernels, scripts, their workers."""
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
    code = f"import labkit, os, sys; print('torch' in sys.modules, *map(os.getenv, {names}))"
    environment = {name: value for name, value in os.environ.items() if name not in names} | own
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()
    expected = (
        {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"} if "OMP_WAIT_POLICY" not in own else {}
    )
    assert told == ["False", *[str((expected | own).get(name)) for name in names]]


def test_notebooks_leave_busy_cores_to_others(monkeypatch, capsys):
    threads = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    for cores, busy, expected in ((8, 0, []), (8, 50, [4]), (8, 100, [2]), (2, 100, [])):
        monkeypatch.setattr("labkit.lab.cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr("psutil.cpu_percent", lambda interval, busy=busy: busy)
        threads.clear()
        leave_cores_to_others()
        assert threads == expected
    assert "others are at work on these 8 cores: this notebook takes 2" in capsys.readouterr().out
