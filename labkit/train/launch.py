"""Several processes from a notebook."""

import contextlib
import io
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from labkit.checkpoint import RunFolder, read_metrics
from labkit.config import TrainConfig
from labkit.devices import best_device
from labkit.signals import Stopped, handlers_restored
from labkit.train.loop import fit
from labkit.train.run import Position, TrainResult, last_good
from labkit.utils import UserError

SECONDS_BETWEEN_LOOKS = 2


def launch(
    config: TrainConfig,
    num_processes: int = 1,
    *,
    after_epoch: Callable[[Path, list[dict]], None] | None = None,
) -> TrainResult:
    """Train as `fit` does, in one process or, from a notebook, in several.

    On GPUs there is one process per GPU, on the CPU they share the cores. What is trained does
    not depend on the number: the batch, the steps and the schedule stay as they are. Losses and
    networks from notebook cells can be used. `after_epoch` is called in the notebook's process.

    Raises UserError, also when the notebook has used a GPU before (processes cannot share one
    that is in use: restart the kernel and go straight to training), and what `fit` raises.
    """
    if num_processes < 1:
        raise UserError(f"num_processes must be 1 or more, not {num_processes}")
    if num_processes == 1:
        return fit(config, after_epoch=after_epoch)
    if config.batch_size % num_processes:
        raise UserError(
            f"the batch size {config.batch_size} cannot be shared equally by "
            f"{num_processes} processes"
        )
    if torch.cuda.is_initialized():
        raise UserError(
            "this notebook has used a GPU already, which its processes cannot share: restart the "
            "kernel and run the training cell before others that compute on the GPU"
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = RunFolder(config.run_dir)
    with (
        tempfile.TemporaryDirectory() as scratch,
        _epochs_watched(folder, after_epoch),
        handlers_restored(),
    ):
        told = Path(scratch) / "told.txt"
        try:
            # What it prints itself names devices that may not be the ones used.
            cell = sys.stdout
            with contextlib.redirect_stdout(io.StringIO()):
                arguments = (config, cell, str(told))
                notebook_launcher(_one_process, arguments, num_processes, use_port=_port())
        except (ChildFailedError, SignalException) as error:
            kind, _, text = told.read_text().partition("\n") if told.exists() else ("", "", "")
            if not text and isinstance(error, SignalException):
                raise Stopped(f"stopped by a signal; {last_good(folder)}") from None
            if not text:
                raise UserError(
                    f"training in {num_processes} processes failed: what they printed says why"
                ) from error
            raise {"Stopped": Stopped}.get(kind, UserError)(text) from None
    return Position(**folder.load_state()["position"]).result(folder)


@contextmanager
def _epochs_watched(folder: RunFolder, after_epoch: Callable | None) -> Iterator[None]:
    """Inside the block, a thread calls `after_epoch` for each epoch that others have finished."""
    if after_epoch is None:
        yield
        return
    done = threading.Event()

    def rows() -> list[dict]:
        return read_metrics(folder.metrics_file) if folder.metrics_file.exists() else []

    def watch(seen: int) -> None:
        finished = False
        while not finished:
            finished = done.wait(SECONDS_BETWEEN_LOOKS)
            there = rows()
            for count in range(seen + 1, len(there) + 1):
                after_epoch(folder.path, there[:count])
            seen = len(there)

    thread = threading.Thread(target=watch, args=(len(rows()),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _one_process(config: TrainConfig, cell: TextIO, told: str) -> None:
    """What each process does; a message for people is left for the notebook's own process."""
    sys.stdout = cell
    if best_device(config.device).type == "cpu":
        # One thread each: OpenMP's pool of the notebook's process does not survive the fork.
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        config = replace(config, device="cpu")
    try:
        fit(config)
    except UserError as error:
        with contextlib.suppress(OSError), open(told, "x", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}\n{error}")
        raise SystemExit(2) from None


def _port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
