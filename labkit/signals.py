"""Requests to stop, noted and left to the work at hand."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from labkit.utils import Stopped  # noqa: F401


class StopAsked(BaseException):
    """A signal to stop came inside `stop_at_once`; no `except Exception` takes it for a fault."""


@contextmanager
def handlers_restored() -> Iterator[None]:
    """After the block, signals do again what they did before it, whoever has set something else."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def _asked_to_stop(handler: Callable) -> Iterator[None]:
    """Inside the block SIGTERM and SIGINT go to `handler`; not outside the main thread, where
    signals cannot be caught."""
    with handlers_restored():
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, handler)
        yield


@contextmanager
def stop_at_once(came: list[str]) -> Iterator[None]:
    """Inside the block SIGTERM and SIGINT are noted in `came`, and the first raises StopAsked.

    For work that can be thrown away.
    """
    raised = False

    def stop(number, frame) -> None:
        nonlocal raised
        came.append(signal.Signals(number).name)
        if not raised:  # a second one would come in the middle of the way out
            raised = True
            raise StopAsked

    with _asked_to_stop(stop):
        yield


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """A list that gets the name of each SIGTERM or SIGINT (Ctrl-C, a kernel's interrupt).

    Inside the block these signals do nothing else, so that the loop can finish its step and save.
    Outside the main thread the list stays empty.
    """
    came: list[str] = []
    with _asked_to_stop(lambda number, frame: came.append(signal.Signals(number).name)):
        yield came
