"""Requests to stop, noted and left to the work at hand."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """A list that gets the name of each SIGTERM or SIGINT (Ctrl-C, a kernel's interrupt).

    Inside the block these signals do nothing else, so that the loop can finish its step and save.
    Outside the main thread, where signals cannot be caught, the list stays empty.
    """
    came: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    earlier = {
        number: signal.signal(number, lambda which, _: came.append(signal.Signals(which).name))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield came
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
