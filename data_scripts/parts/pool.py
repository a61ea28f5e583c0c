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


def in_processes(
    work: Callable, tasks: Iterable[tuple[object, tuple]], workers: int
) -> Iterator[tuple[object, object]]:
    """Yield (label, work(*arguments)) in order for tasks of (label, arguments).

    `tasks` is read only as fast as it is worked on. The result is `CRASHED` for a task that
    crashes its process (a decoder is C++ code that reads what strangers made); an exception of
    `work` is raised here. Use it with `contextlib.closing`: closing waits for what is in work, so
    that nothing is written afterwards.
    """
    tasks = iter(tasks)
    waiting: deque[tuple[object, tuple, Future]] = deque()
    pool = _new_pool(workers)
    try:
        while True:
            for label, arguments in islice(tasks, TASKS_PER_WORKER * workers - len(waiting)):
                waiting.append((label, arguments, _submit(pool, work, arguments)))
            if not waiting:
                return
            try:
                result = waiting[0][2].result()
                yield waiting.popleft()[0], result
                continue
            except BrokenProcessPool:
                pass
            # One of the waiting tasks has crashed its process: each is tried alone to find it.
            pool = _new_pool(workers, pool)
            for label, arguments, _ in waiting:
                try:
                    result = _submit(pool, work, arguments).result()
                except BrokenProcessPool:
                    result = CRASHED
                    pool = _new_pool(workers, pool)
                yield label, result
            waiting.clear()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _new_pool(workers: int, old: ProcessPoolExecutor | None = None) -> ProcessPoolExecutor:
    if old is not None:
        old.shutdown(wait=True)
    for name in _THREADS:  # libraries read this when they are loaded
        os.environ.setdefault(name, "1")
    # Spawned, not forked: the parent has threads (a progress bar's), and a fork copies locks.
    return ProcessPoolExecutor(workers, get_context("spawn"), _follow_parent)


def _submit(pool: ProcessPoolExecutor, work: Callable, arguments: tuple) -> Future:
    try:
        return pool.submit(work, *arguments)
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
