"""A student's code, run in a process of its own that may do little and is told only inputs.

What it returns comes back as JSON and is judged here: no right answer is where the code is.
"""

import ctypes
import dataclasses
import json
import linecache
import math
import os
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import forkserver, get_all_start_methods, get_context
from pathlib import Path

import psutil

from labkit.exercises import EXERCISES
from labkit.exercises.core import judged, outcome, own_line

MAX_ANSWER = 20_000_000  # bytes
METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
CONTEXT = get_context(METHOD)
# What the script imports: a new process runs its first lines again.
PRELOAD = "parts.student_code parts.exercises parts.job parts.review_page parts.tables".split()


def start_server() -> None:
    """Start the process that the others are forked from, with all that they need in it."""
    if METHOD != "forkserver":
        return
    CONTEXT.set_forkserver_preload(PRELOAD)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), before])
    )
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ.update({} if before is None else {"PYTHONPATH": before})


class Failed(Exception):
    """The process gave no answer; the text says why, for the student."""


def run_answer(
    number: str, names: list[str], code: str, earlier: list[str], cases: list[dict], limits: dict
) -> tuple[str | None, bool]:
    """Return None for a right answer, "" for a gap, or what is wrong, and whether a network was.

    earlier: the cells before it in the notebook, whose helpers it may use; left out when the
    process does not survive them. limits: `seconds` for all, `memory` in GiB.
    """
    try:
        return _converse(number, names, [*earlier, code], cases, limits)
    except Failed as error:
        if not earlier:
            return str(error), True
    return run_answer(number, names, code, [], cases, limits)


def _converse(number, names, cells, cases, limits) -> tuple[str | None, bool]:
    about, (here, there) = EXERCISES[number], CONTEXT.Pipe()
    process = CONTEXT.Process(
        target=_child, args=(there, number, names, cells, limits), daemon=True
    )
    process.start()
    there.close()
    deadline = time.monotonic() + limits["seconds"] + 10 * (METHOD == "spawn")
    try:
        ready = _receive(here, deadline, limits)
        network = bool(ready.get("network", True))
        if "mistake" in ready or "gap" in ready:
            return judged(about, {}, ready), network
        for case in cases:
            here.send(case)
            message = judged(about, case, _receive(here, deadline, limits))
            if message is not None:
                return message[:600], network
        return None, network
    except (BrokenPipeError, EOFError, ConnectionError):
        raise Failed("Your code ended the process that it runs in.") from None
    finally:
        here.close()
        _end(process)


def _receive(pipe, deadline: float, limits: dict) -> dict:
    if not pipe.poll(max(0, deadline - time.monotonic())):
        raise Failed(f"Your code took longer than {limits['seconds']:g} seconds.")
    try:
        value = json.loads(pipe.recv_bytes(MAX_ANSWER))
    except (EOFError, ConnectionError):
        raise Failed("Your code ended the process that it runs in.") from None
    except (OSError, ValueError, RecursionError):
        raise Failed("Your code returned something that cannot be read.") from None
    return value if isinstance(value, dict) else {}


def _end(process) -> None:
    """End a process with all that it has started."""
    with suppress(psutil.Error):
        for one in [*psutil.Process(process.pid).children(recursive=True)]:
            with suppress(psutil.Error):
                one.kill()
    process.kill()
    process.join()


def _child(pipe, number: str, names: list[str], cells: list[str], limits: dict) -> None:
    """Run the cells, then the answers on each case that comes through the pipe."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        network = _confine(limits)
        import numpy as np
        import torch
        import torch.nn.functional as F
        from torch import nn

        from labkit import metrics
        from labkit.registry import LOSSES, MODELS

        torch.set_num_threads(1)
        scope = dict(np=np, torch=torch, F=F, nn=nn, metrics=metrics, MODELS=MODELS, LOSSES=LOSSES)
        scope |= dict(dataclasses=dataclasses, math=math, __name__="__main__")
        ready: dict = dict(network=network)
        for place, code in enumerate(cells):
            file = f"<cell {place}>"
            linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
            try:
                exec(compile(code, file, "exec"), scope)
            except NotImplementedError:
                ready |= dict(gap=True) if code is cells[-1] else {}
            except Exception as error:
                ready |= dict(mistake=own_line(error)) if code is cells[-1] else {}
        missing = [name for name in names if name not in scope]
        if missing and "mistake" not in ready and "gap" not in ready:
            ready["mistake"] = f"Your cell does not define {', '.join(missing)}."
        pipe.send_bytes(json.dumps(ready).encode())
        with suppress(EOFError):
            while True:
                answers = tuple(scope[name] for name in names)
                result = outcome(EXERCISES[number], answers, pipe.recv())
                pipe.send_bytes(json.dumps(result, default=str).encode())


def _confine(limits: dict) -> bool:
    """Bound this process's time, memory, files and processes; return whether a network is left."""
    if sys.platform == "win32":
        return True
    import resource

    os.setsid()
    seconds, gib = int(limits["seconds"]) + 1, 2**30
    mapped = psutil.Process().memory_info().vms
    for what, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, mapped + int(limits["memory"] * gib)),
        (resource.RLIMIT_FSIZE, 50_000_000),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))
    if hasattr(resource, "RLIMIT_NPROC"):  # no more than there are of this user now; not for root
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        new_network, new_user = 0x40000000, 0x10000000  # of Linux's sched.h
        return bool(libc.unshare(new_network) and libc.unshare(new_network | new_user))
    except (OSError, AttributeError):
        return True
