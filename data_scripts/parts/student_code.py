"""A student's code, run in a process of its own that may do little and is told only inputs.

What it returns comes back as JSON and is judged here: no right answer is where the code is.

Three processes: this one, a guard, and the guard's child, which runs the code. On Linux, where
users may make namespaces, the child has no network, sees every file read-only and private folders
as empty, and nothing that it starts outlives it.
"""

import json
import os
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver, get_all_start_methods, get_context
from pathlib import Path

import psutil

from labkit.exercises import EXERCISES
from labkit.exercises.core import judged
from labkit.utils import UserError, printable
from parts import confine
from parts.answer import Code, answer

MAX_ANSWER = 8_000_000  # bytes
START_SECONDS = 60  # on a busy machine
MAX_FILES = 4096  # open in the process that all are forked from: far fewer
MAX_PROCESSES = 16  # that an answer may have at a time
GIB = 2**30
FORM = "What it returned has another form than the exercise asks for."
ENDED = "Your code ended the process that it runs in."
# What the script imports: a new process runs its first lines again.
PRELOAD = "parts.student_code parts.exercises parts.job parts.review_page parts.tables".split()


def start_server() -> None:
    """Start the process that the others are forked from, with all that they need in it."""
    if "forkserver" not in get_all_start_methods():
        raise UserError("answers are run apart on Linux and macOS alone: on Windows, use WSL")
    get_context("forkserver").set_forkserver_preload(PRELOAD)
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


class Process:
    """The process of an answer, for use in a `with` block; what it says, line by line.

    limits: `seconds` for all, `memory` in GiB, `hidden` folders.
    """

    def __init__(self, number: str, code: Code, cases: list[dict], limits: dict):
        self.limits, self._said = limits, bytearray()
        self._work = (number, code, cases)

    def __enter__(self) -> "Process":
        context = get_context("forkserver")
        self._folder = tempfile.TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True)
        self._ear, mouth = context.Pipe(duplex=False)
        work = (mouth, self._folder.name, self.limits, *self._work)
        self._guard = context.Process(target=_guarded, args=work, daemon=True)
        self._guard.start()
        mouth.close()
        return self

    def __exit__(self, *_) -> None:
        self._guard.terminate()  # it ends its child and all that this has started
        self._guard.join(10)
        self._guard.kill()
        self._guard.join()
        self._ear.close()
        self._folder.cleanup()

    def allow(self, seconds: float) -> "Process":
        """Give the process so long from now."""
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        return self

    def hear(self) -> dict:
        """Return the next line; `Failed` when there is none in time, or the limits are passed."""
        while b"\n" not in self._said:
            if self._ear.poll(0.2):
                block = os.read(self._ear.fileno(), 1 << 16)
                if not block:
                    raise Failed(ENDED)
                self._said += block
            else:
                self._check_size()
            if time.monotonic() > self._deadline:
                raise Failed(f"Your code took longer than {self._seconds:g} seconds.")
            if len(self._said) > MAX_ANSWER:
                raise Failed(f"Your code returned more than {MAX_ANSWER / 1e6:g} MB.")
        line, _, self._said = self._said.partition(b"\n")
        try:
            return dict(json.loads(line, parse_constant=_refuse))
        except (ValueError, TypeError, RecursionError):
            raise Failed("Your code returned something that cannot be read.") from None

    def _check_size(self) -> None:
        try:
            family = psutil.Process(self._guard.pid).children(recursive=True)
            memory = sum(one.memory_info().rss for one in family)
        except psutil.Error:  # one has just ended
            return
        if len(family) > MAX_PROCESSES:
            raise Failed(f"Your code started more than {MAX_PROCESSES} processes.")
        if memory > (self.limits["memory"] + 1) * GIB:  # with what Python and PyTorch take
            raise Failed(f"Your code took more than {self.limits['memory']:g} GiB of memory.")


def run_answer(number: str, code: Code, cases: list[dict], limits: dict) -> tuple:
    """Return None for a right answer, "" for a gap, or what is wrong; and {"apart", "kit"}.

    apart: whether the process was cut off from the system; kit: what of labkit the answer uses.
    The notebook's other cells are left out when the process does not survive them.
    """
    about: dict = {}
    for attempt in (code, replace(code, alone=True)):
        with Process(number, attempt, cases, limits) as process:
            try:
                about = process.allow(START_SECONDS).hear()
                process.allow(max(5, limits["seconds"] / 4)).hear()  # the other cells
            except Failed as error:
                wrong = str(error)
                continue
            return _judge(number, process.allow(limits["seconds"]), cases), about
    return wrong, about


def _judge(number: str, process: Process, cases: list[dict]) -> str | None:
    for case in cases:
        try:
            wrong = judged(EXERCISES[number], case, process.hear())
        except Failed as error:
            wrong = str(error)
        except Exception:  # only what nobody's honest code returns
            wrong = FORM
        if wrong is not None:
            return printable(wrong, 600)
    return None


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number")


def _guarded(mouth, folder: str, limits: dict, number: str, code: Code, cases: list[dict]) -> None:
    """Fork the process of the code, wait for its end, and end all that is left of it."""
    mapped = psutil.Process().memory_info().vms
    apart = confine.leave_system(limits["hidden"])
    child = os.fork()
    if not child:
        try:
            for first, last in ((3, mouth.fileno()), (mouth.fileno() + 1, MAX_FILES)):
                os.closerange(first, last)  # the server's own among them
            confine.bound(folder, limits, mapped)
            answer(mouth, apart, number, code, cases)
        finally:
            os._exit(0)
    mouth.close()

    def end(*_):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(2 * int(limits["seconds"]) + START_SECONDS)  # also when nobody is left to ask
    os.waitpid(child, 0)
    while family := psutil.Process().children(recursive=True):  # orphans come to the guard
        for one in family:
            with suppress(psutil.Error):
                one.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
