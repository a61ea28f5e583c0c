"""Work shared by processes, each with one thread, that survives an image which kills its process.

Detectors and decoders are C++ code that reads what strangers made. When a process dies, the tasks
that were in work are tried again one at a time; the one that kills again is given up by name.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process

from labkit.utils import UserError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
TASKS_PER_WORKER = 4
"""Tasks handed out ahead to each process; bounds the memory for images read but not looked at."""
MOST_DEATHS = 10
"""Tasks in a row that may kill their process before it is taken for the machine's fault."""


class Died(Exception):
    """The process that worked on a task died, twice."""


def share(
    work: Callable, tasks: Iterable[tuple[object, tuple]], workers: int
) -> Iterator[tuple[object, object | Died]]:
    """Call `work(*arguments)` in `workers` processes, for tasks of (label, arguments).

    Gives (label, result) as they are ready. `tasks` is read only as fast as it is worked on; labels
    stay in this process. The result is `Died` for a task whose process died; any other exception of
    `work` is raised here, and the rest is not begun. UserError when every process dies. Use it with
    `contextlib.closing`: closing waits for what is in work, so that nothing is written afterwards.
    """
    deaths: list[tuple[object, Died]] = []
    with closing(_results(work, tasks, workers)) as results:
        for label, result in results:
            if not isinstance(result, Died):
                yield from deaths
                deaths.clear()
                yield label, result
                continue
            deaths.append((label, result))
            if len(deaths) > MOST_DEATHS:
                raise UserError(
                    "one process after the other dies: the memory is full, or a package is broken; "
                    "try again with --workers 1"
                )
    yield from deaths


def _results(work: Callable, tasks: Iterable[tuple], workers: int) -> Iterator[tuple]:
    tasks = iter(tasks)
    more = True
    waiting: dict[Future, tuple] = {}
    with _one_thread_each():
        pool = _Pool(workers)
        try:
            while more or waiting:
                while more and len(waiting) < TASKS_PER_WORKER * workers:
                    task = next(tasks, None)
                    if task is None:
                        more = False
                        break
                    waiting[pool.submit(work, task[1])] = task
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                broken = []
                for future in ready:
                    task = waiting.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        broken.append(task)
                        continue
                    yield task[0], result
                if broken:
                    yield from _one_by_one(work, broken + list(waiting.values()), pool)
                    waiting.clear()
        finally:
            pool.close()


def _one_by_one(work: Callable, tasks: list[tuple], pool: "_Pool") -> Iterator[tuple]:
    pool.renew()
    for label, arguments in tasks:
        try:
            result = pool.submit(work, arguments).result()
        except BrokenProcessPool:
            result = Died()
            pool.renew()
        yield label, result


class _Pool:
    """A process pool that can be had anew; on closing, what is in work is finished first."""

    def __init__(self, workers: int):
        self._workers = workers
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Spawned, not forked: the parent has threads (a progress bar's), and a fork copies locks.
        return ProcessPoolExecutor(
            self._workers, mp_context=get_context("spawn"), initializer=_follow_parent
        )

    def submit(self, work: Callable, arguments: tuple) -> Future:
        try:
            return self._pool.submit(work, *arguments)
        except BrokenProcessPool as error:
            future: Future = Future()
            future.set_exception(error)
            return future

    def renew(self) -> None:
        self._pool.shutdown(wait=True)
        self._pool = self._new()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside see libraries with one thread each; libraries read this at load."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
