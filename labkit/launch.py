"""Several training processes from a notebook."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.utils.distributed import get_free_port

from labkit.checkpoint import RunFolder, TrainingState, TrainResult
from labkit.config import TrainConfig
from labkit.devices import best_device
from labkit.train import fit
from labkit.utils import Stopped, StopSignals, UserError


def launch(
    config: TrainConfig,
    num_processes: int = 1,
    *,
    after_epoch: Callable[[Path, list[dict]], None] | None = None,
) -> TrainResult:
    """Train as `fit` does, in one process or, from a notebook, in several.

    On GPUs there is one process per GPU, on the CPU they share the cores. What is trained does
    not depend on the number: the batch, the steps and the schedule stay as they are. Losses and
    networks from notebook cells can be used. With several, `after_epoch` is called at the end.

    Raises UserError, also when the notebook has used a GPU before, and what `fit` raises.
    """
    if type(num_processes) is not int or num_processes < 1:
        raise UserError(f"num_processes must be a whole number from 1, found {num_processes!r}")
    if num_processes == 1:
        return fit(config, after_epoch=after_epoch)
    if torch.cuda.is_initialized():
        why = "this notebook has used a GPU already, which its processes cannot share"
        raise UserError(f"{why}: restart the kernel and run the training cell before other cells")
    AcceleratorState._reset_state(reset_partial_state=True)
    with tempfile.TemporaryDirectory() as scratch, StopSignals():  # restores the handlers
        message, cell = Path(scratch) / "message.txt", sys.stdout
        try:
            # What the launcher prints itself names devices that may not be the ones used.
            with contextlib.redirect_stdout(io.StringIO()):
                arguments, port = (config, cell, str(message)), str(get_free_port())
                notebook_launcher(_one_process, arguments, num_processes, use_port=port)
        except (ChildFailedError, SignalException) as error:
            kind, _, text = message.read_text().partition("\n") if message.exists() else ("",) * 3
            if isinstance(error, SignalException) or kind == "Stopped":
                raise Stopped(text or f"stopped by a signal; {config.run_dir} goes on") from None
            why = f"training in {num_processes} processes failed: what they printed says why"
            raise UserError(text or why) from (None if text else error)
    folder = RunFolder(config.run_dir)
    result = folder.result(TrainingState(**folder.load_state()["position"]))
    if after_epoch:
        after_epoch(result.run_dir, result.rows)
    return result


def _one_process(config: TrainConfig, cell: TextIO, message: str) -> None:
    """Train in one of the processes, and leave an error message for the notebook's own."""
    sys.stdout = cell
    if best_device(config.device).type == "cpu":
        # One thread each: OpenMP's pool of the notebook's process does not survive the fork.
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        config = replace(config, device="cpu")
    try:
        fit(config)
    except UserError as error:
        with contextlib.suppress(OSError), open(message, "x", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}\n{error}")
        raise SystemExit(2) from None
