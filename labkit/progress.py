"""One progress bar for the terminal, JupyterLab and batch runs."""

import os
import sys
import time
from collections.abc import Iterable

from tqdm.std import tqdm as terminal_bar

SECONDS_BETWEEN_LINES = 15


class _PlainLines(terminal_bar):
    """A progress bar that prints a whole line now and then, for logs and executed notebooks."""

    def __init__(self, iterable=None, **settings):
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        self._started = time.monotonic()
        super().__init__(iterable, file=sys.stdout, mininterval=1, **settings)

    def display(self, msg=None, pos=None):
        now = time.monotonic()
        if self.disable or now < self._next_line:
            return True
        self._next_line = now + SECONDS_BETWEEN_LINES
        print(self._line(now), flush=True)
        return True

    def close(self):
        if not self.disable and self.leave and time.monotonic() - self._started >= 1:
            print(self._line(time.monotonic()), flush=True)
        self.disable = True

    def _line(self, now: float) -> str:
        rate = self.n / max(now - self._started, 1e-9)
        parts = [f"{self.desc}: " if self.desc else "", f"{self.n:,}"]
        if self.total:
            parts.append(f"/{self.total:,} {self.unit}, {rate:.1f} {self.unit}/s")
            if self.n < self.total and rate > 0:
                parts.append(f", {_clock((self.total - self.n) / rate)} left")
        else:
            parts.append(f" {self.unit}, {rate:.1f} {self.unit}/s")
        if self.postfix:
            parts.append(f" ({self.postfix})")
        return "".join(parts).replace(": :", ":")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def in_live_notebook() -> bool:
    """Whether a person looks at this kernel: JupyterLab and VS Code, not papermill."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns


def progress(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
    leave: bool = True,
    quiet: bool = False,
) -> terminal_bar:
    """A tqdm bar with a rate and the time left; plain lines where no person watches.

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
    return _PlainLines(iterable, **settings)
