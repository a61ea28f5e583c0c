"""Requests to stop, noted and left to the work at hand."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopAsked(Exception):
    """A signal to stop came inside `stop_at_once`."""


@contextmanager
def stop_at_once(came: list[str]) -> Iterator[None]:
    """Inside the block SIGTERM and SIGINT are noted in `came` and raise StopAsked.

    For work that can be thrown away; use it inside `stop_signals`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame) -> None:
        came.append(signal.Signals(number).name)
        raise StopAsked

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


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


@contextmanager
def handlers_restored() -> Iterator[None]:
    """After the block, signals do again what they did before it, whatever a library has set."""
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
