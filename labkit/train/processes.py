"""What the processes of one run tell each other between two steps."""

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator

from labkit.errors import AgreedError
from labkit.utils import UserError

LONGEST_WAIT = timedelta(days=1)  # for the main process, which lists files and validates alone


class Processes:
    """All processes of a run; with a single one, every method answers at once.

    Decisions that depend on a clock or a signal differ from process to process, and one that
    saves while another trains would wait for it for ever: they are made together.

    A context manager: when all leave the block together, they also part in order as they end.
    """

    _part_at_exit = False

    def __init__(self, accelerator: Accelerator):
        self.many = accelerator.num_processes > 1
        self.main = accelerator.is_main_process
        # Over the processors, also when gradients go over GPUs: no step waits for the device.
        self._group = (
            torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT) if self.many else None
        )

    def __enter__(self) -> "Processes":
        Processes._part_at_exit = False
        return self

    def __exit__(self, kind, error, trace) -> None:
        together = error is None or isinstance(error, AgreedError)
        if together and self.many:  # none leaves while another still reads what it has sent
            torch.distributed.barrier(self._group)
        Processes._part_at_exit = together

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

    def by_main(self, work: Callable[[], Any], *, share: bool = True) -> Any:
        """What `work` returns in the main process, which alone calls it, in every process.

        Without `share` the others get None. A UserError of `work` is raised in all processes, so
        that none waits for one that has ended.
        """
        answer = failure = None
        if self.main:
            try:
                answer = work()
            except UserError as error:
                failure = error
        if self.many:
            told = [answer if share else None, failure and str(failure)]
            torch.distributed.broadcast_object_list(told, src=0, group=self._group)
            answer = answer if self.main else told[0]
            failure = told[1] and AgreedError(told[1])
        if failure:
            raise failure
        return answer

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A UserError inside the block, in any process, is raised in all at its end and told once.

        Nothing inside may wait for the other processes.
        """
        failure = None
        try:
            yield
        except UserError as error:
            failure = error
        if self.many:
            told = next(filter(None, self.everyones(failure and str(failure))), None)
            failure = told and AgreedError(told)
        if failure:
            raise failure

    def everyones(self, value: Any) -> list:
        """The values of all processes, in their order."""
        if not self.many:
            return [value]
        values: list = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(values, value, self._group)
        return values


@atexit.register
def _part() -> None:
    """End the threads that connect the processes, which crash an interpreter that ends first.

    Not after an error of one process alone, for which it would wait.
    """
    if Processes._part_at_exit and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


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
