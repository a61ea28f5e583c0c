"""What the processes of one run tell each other between two steps."""

import torch
from accelerate import Accelerator


class Processes:
    """All processes of a run; with a single one, every method answers at once.

    Decisions that depend on a clock or a signal differ from process to process, and one that
    saves while another trains would wait for it for ever: they are made together.
    """

    def __init__(self, accelerator: Accelerator):
        self.many = accelerator.num_processes > 1
        self.main = accelerator.is_main_process
        # Over the processors, also when gradients go over GPUs: no step waits for the device.
        self._group = torch.distributed.new_group(backend="gloo") if self.many else None

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is true in any process."""
        if not self.many:
            return [bool(flag) for flag in flags]
        agreed = torch.tensor([int(bool(flag)) for flag in flags])
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, self._group)
        return [bool(flag) for flag in agreed]

    def mean(self, numbers: torch.Tensor) -> torch.Tensor:
        """The mean over the processes, on the CPU."""
        numbers = numbers.cpu()
        if not self.many:
            return numbers
        numbers = numbers.clone()
        torch.distributed.all_reduce(numbers, group=self._group)
        return numbers / torch.distributed.get_world_size(self._group)

    def from_main(self, value: float | None) -> float | None:
        """The main process's value, in every process."""
        if not self.many:
            return value
        told = [value]
        torch.distributed.broadcast_object_list(told, src=0, group=self._group)
        return told[0]

    def together(self, names: list[str]) -> list[str]:
        """The names of all processes, each once, sorted."""
        if not self.many:
            return names
        everyones: list = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(everyones, names, self._group)
        return sorted({name for some in everyones for name in some})


class _RowsOfAll(torch.autograd.Function):
    @staticmethod
    def forward(context, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def rows_of_all(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in their order; with one process, its own.

    rows: (n, …), n the same everywhere. The gradient of a row is the sum of those that it gets in
    all processes.
    """
    if not torch.distributed.is_initialized():
        return rows
    return _RowsOfAll.apply(rows.contiguous())
