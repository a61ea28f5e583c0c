"""What every part of the kit uses: errors for people, whole files, progress bars, stop signals."""

import csv
import difflib
import errno
import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from tqdm.std import tqdm as terminal_bar

SECONDS_BETWEEN_LINES = 15


class UserError(Exception):
    """Something that the user can mend: a wrong path, value, file or photo.

    The command line prints the message without a traceback, and exits with `exit_code`.
    """

    exit_code = 2

    def _render_traceback_(self) -> list[str]:  # what a notebook shows for it
        return [f"{type(self).__name__}: {self}"]


class Stopped(UserError):
    """A run was asked to stop (SIGTERM, Ctrl-C) and has ended with nothing lost."""

    exit_code = 75  # EX_TEMPFAIL, so that a batch script can tell it from a mistake


def reason(error: OSError) -> str:
    """Return what the operating system said, as a short phrase without numbers or paths."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def read_file(path: str | Path, at_most: int = -1) -> bytes:
    """Return the bytes of a regular file; OSError for others: to open a named pipe never ends."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "Not a file, but a directory, pipe or device")
    with open(path, "rb") as file:
        return file.read(at_most)


def short_reason(error: Exception) -> str:
    """Return the type and first line of an error of another library or of a user's own code."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ": did you mean …?" with the nearest of the known names, or nothing."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f": did you mean {close[0]}?" if close else ""


def printable(value: object, length: int = 40) -> str:
    """Return a value from a file on one line, without control characters, cut to `length`."""
    text = str(value)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= length else text[: length - 1] + "…"


def l2_normalize(rows: np.ndarray) -> np.ndarray:
    """Scale each row of (n, d) to length 1, as float32; a row of zeros stays zeros."""
    rows = np.asarray(rows, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def render_page(template: str | Path, **values) -> str:
    """Fill in a Jinja2 template with autoescape; it may extend `labkit/templates/base.html`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [Path(template).parent, Path(__file__).parent / "templates"]
    pages = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return pages.get_template(Path(template).name).render(**values)


def cache_dir() -> Path:
    """Return the user's folder for files that are built once, or KSTAR_FACELAB_CACHE."""
    named = os.environ.get("KSTAR_FACELAB_CACHE")
    path = Path(named).expanduser() if named else user_cache_path("kstar-facelab", appauthor=False)
    try:
        return make_folder(path)
    except UserError as error:
        raise UserError(f"{error}: set KSTAR_FACELAB_CACHE to a folder of yours") from None


def make_folder(path: str | Path) -> Path:
    """Make a folder and its parents; UserError when it cannot be made."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {reason(error)}") from None
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it onto `path` when the block succeeds.

    A reader sees the old file or the new one, never a part. After an error, or a kill, the old
    file is untouched. Raises UserError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}-{os.urandom(4).hex()}.partial{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):  # also in a library's own error
            why = "no space left on device; free some space and run it again"
        elif getattr(error, "errno", None) in (errno.EDQUOT, errno.EACCES, errno.EROFS):
            why = f"{reason(error)}; choose another folder"
        else:
            raise
        raise UserError(f"cannot write {path}: {why}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder (made when missing).

    The system frees the lock when the process ends, however it ends. Raises UserError when
    another process holds it or the folder cannot be written.
    """
    try:
        held = FileLock(make_folder(folder) / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is writing to {folder}: wait, or choose another") from None
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}; choose another") from None
    with held:
        yield


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; file names that are no UTF-8 keep their bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: str | Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows as CSV, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def sha256(path: str | Path) -> str:
    """Return the file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def map_ahead(executor: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """Yield `function(item)` in order, computing at most `ahead` results before they are used."""
    items = iter(items)
    waiting = deque(executor.submit(function, item) for item in islice(items, ahead))
    while waiting:
        done = waiting.popleft()
        waiting.extend(executor.submit(function, item) for item in islice(items, 1))
        yield done.result()


class StopNow(BaseException):
    """A signal inside `StopSignals(at_once=True)`; no `except Exception` takes it for a fault."""


class StopSignals:
    """Notes SIGTERM and SIGINT (Ctrl-C, a kernel's interrupt) while its block runs.

    A loop asks `if stop:` after each step, so that it can finish the step and save. With
    `at_once` True, for work that can be thrown away, a signal raises StopNow where it comes, and
    Stopped at the end of the block. Outside the main thread it does nothing.
    """

    def __init__(self, *, at_once: bool = False):
        self.at_once, self.name = at_once, ""

    def __bool__(self) -> bool:
        return bool(self.name)

    def __enter__(self) -> "StopSignals":
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
        self._earlier = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number, frame) -> None:
        self.name = signal.Signals(number).name
        if self.at_once:
            self.at_once = False  # a second signal would come in the middle of the way out
            raise StopNow

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        if kind is StopNow:
            raise Stopped(f"stopped by {self.name}; give the same command again") from None


def in_live_notebook() -> bool:
    """Return whether a person looks at this kernel: JupyterLab and VS Code, not papermill."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return False
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns


def progress(iterable=None, *, total=None, desc="", unit="it", leave=True, quiet=False):
    """Return a tqdm bar with a rate and the time left; plain lines where no person watches.

    The environment variable LABKIT_PROGRESS set to `bar`, `plain` or `none` overrides the choice;
    `quiet` shows nothing at all. With `leave` False nothing of the bar stays when it is done.
    """
    settings = dict(total=total, desc=desc, unit=unit, leave=leave, dynamic_ncols=True)
    choice = os.environ.get("LABKIT_PROGRESS", "")
    if quiet or choice == "none":
        return terminal_bar(iterable, disable=True, **settings)
    if choice != "plain" and in_live_notebook():
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar(iterable, **settings)
    if choice == "bar" or (choice != "plain" and sys.stderr.isatty()):
        return terminal_bar(iterable, **settings)
    line = "{desc}: " * bool(desc) + "{n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
    settings |= dict(unit=f" {unit}", bar_format=line + "{postfix}")
    return _PlainLines(iterable, file=sys.stdout, mininterval=1, **settings)


class _PlainLines(terminal_bar):
    """A progress bar that prints a whole line now and then, for logs and executed notebooks."""

    def __init__(self, *args, **settings):
        self._next_line = time.time() + SECONDS_BETWEEN_LINES
        super().__init__(*args, **settings)

    def display(self, msg=None, pos=None):
        if time.time() >= self._next_line:
            self._next_line = time.time() + SECONDS_BETWEEN_LINES
            print(self, flush=True)
        return True

    def close(self):
        if not self.disable and self.leave and time.time() - self.start_t >= 1:
            print(self, flush=True)
        self.disable = True
