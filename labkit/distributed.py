"""What the processes of one run tell each other. With one process nothing is sent."""

import atexit
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from labkit.utils import UserError


class Processes:
    """All processes of a run: `count`, this one's `rank`, and whether it is `main`.

    Decisions that depend on a clock or a signal differ from process to process, and one that
    saves while another trains would wait for it for ever: they are made together.
    """

    def __init__(self, accelerator: Accelerator):
        self.count, self.rank = accelerator.num_processes, accelerator.process_index
        self.main, self.device = accelerator.is_main_process, accelerator.device
        # Through the CPU, also where gradients are averaged on GPUs: no step waits for the GPU.
        self._group = dist.new_group(backend="gloo") if self.count > 1 else None

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is true in any process."""
        agreed = torch.tensor([int(bool(flag)) for flag in flags])
        if self.count > 1:
            dist.all_reduce(agreed, dist.ReduceOp.MAX, self._group)
        return [bool(flag) for flag in agreed]

    def mean(self, numbers: torch.Tensor) -> list[float]:
        """Return the mean of a tensor over the processes."""
        values = torch.tensor(self.gather(numbers.tolist()), dtype=torch.float64)
        return values.mean(dim=0).tolist()

    def gather(self, value: Any) -> list:
        """Return the values of all processes, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list = [None] * self.count
        dist.all_gather_object(values, value, self._group)
        return values

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Call `work` in the main process; return its value or raise its UserError in all."""
        value_and_error = [None, None]
        if self.main:
            try:
                value_and_error[0] = work()
            except UserError as error:
                value_and_error[1] = error
        if self.count > 1:
            dist.broadcast_object_list(value_and_error, src=0, group=self._group)
        if value_and_error[1]:
            raise value_and_error[1]
        return value_and_error[0]

    def wrap(self, module: nn.Module, *, find_unused: bool) -> nn.Module:
        """Return the module with gradients averaged over the processes."""
        if self.count == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        where = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, where, find_unused_parameters=find_unused)

    def finish(self) -> None:
        """Wait for all at the end of a run, so that none leaves while another still reads."""
        if self.count > 1:
            dist.barrier(self._group)
            atexit.register(_end_group)


def _end_group() -> None:
    """End the threads that connect the processes; they crash an interpreter that ends first."""
    if dist.is_initialized():
        dist.destroy_process_group()


def over_all_processes(loss: nn.Module) -> Callable:
    """Return a loss that compares the faces of a batch, given those of all processes."""
    return lambda embeddings, labels: loss(gather_rows(embeddings), gather_rows(labels))


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, in the order of their ranks: all-gather with gradient.

    rows: (n, …), n the same everywhere. The gradient goes to the process's own rows. There it is
    multiplied by the number of processes, because DistributedDataParallel divides by it.
    """
    count = dist.get_world_size()
    parts = [torch.empty_like(rows) for _ in range(count)]
    dist.all_gather(parts, rows.detach().contiguous())
    if rows.requires_grad:
        rows.register_hook(lambda gradient: gradient * count)
    parts[dist.get_rank()] = rows
    return torch.cat(parts)
