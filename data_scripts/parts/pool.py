"""Work shared by processes, which survives an image that crashes the process that reads it."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process

CRASHED = "the process that worked on it crashed"
TASKS_PER_WORKER = 4  # handed out ahead to each process; bounds the memory for images read
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Workers:
    """Processes, each with one thread, for use in a `with` block.

    Leaving the block waits for what is in work, so that nothing is written afterwards.
    """

    def __init__(self, count: int):
        self.count = count

    def __enter__(self) -> "Workers":
        self._set = [name for name in _THREADS if name not in os.environ]
        os.environ.update(dict.fromkeys(self._set, "1"))  # libraries read it when they are loaded
        self._pool = self._new_pool()
        return self

    def __exit__(self, *error) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for name in self._set:
            os.environ.pop(name, None)

    def map(
        self, work: Callable, tasks: Iterable[tuple[object, tuple]]
    ) -> Iterator[tuple[object, object]]:
        """Yield (label, work(*arguments)) in order for tasks of (label, arguments).

        `tasks` is read only as fast as it is worked on. The result is `CRASHED` for a task that
        crashes its process (a decoder is C++ code that reads what strangers made); an exception
        of `work` is raised here.
        """
        tasks = iter(tasks)
        waiting: deque[tuple[object, tuple, Future]] = deque()
        while True:
            for label, arguments in islice(tasks, TASKS_PER_WORKER * self.count - len(waiting)):
                waiting.append((label, arguments, self._submit(work, arguments)))
            if not waiting:
                return
            try:
                result = waiting[0][2].result()
            except BrokenProcessPool:
                yield from self._one_by_one(work, waiting)
                waiting.clear()
            else:
                yield waiting.popleft()[0], result

    def _one_by_one(self, work: Callable, tasks: Iterable[tuple]) -> Iterator[tuple]:
        """One of the tasks has crashed its process: each is tried alone to find it."""
        self._renew()
        for label, arguments, _ in tasks:
            try:
                result = self._submit(work, arguments).result()
            except BrokenProcessPool:
                result = CRASHED
                self._renew()
            yield label, result

    def _new_pool(self) -> ProcessPoolExecutor:
        # Spawned, not forked: the parent has threads (a progress bar's), and a fork copies locks.
        return ProcessPoolExecutor(self.count, get_context("spawn"), _follow_parent)

    def _renew(self) -> None:
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool()

    def _submit(self, work: Callable, arguments: tuple) -> Future:
        try:
            return self._pool.submit(work, *arguments)
        except BrokenProcessPool as error:
            future: Future = Future()
            future.set_exception(error)
            return future


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
