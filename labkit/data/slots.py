"""Memory that loader processes write their batches into and the training process reads.

Sending a batch from process to process costs more than the copy of its pixels: each tensor gets
new shared memory, whose pages the system clears, and a connection to hand it over. Here the
memory is made once and used again, and only its number is sent.
"""

import itertools
import math
import os
import weakref
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from labkit.data.batches import TrainingBatch

SHARED_MEMORY = "/dev/shm"

_numbers = itertools.count()
_in_use: weakref.WeakValueDictionary[int, "Slots"] = weakref.WeakValueDictionary()


class Slots:
    """Shared memory for `slots` batches of uint8 (batch, images_per_class, size, size, 3).

    A slot is taken when a batch is asked for and free again when the last tensor over it is gone,
    so a batch stays what it is for as long as anybody holds it.
    """

    def __init__(self, shape: tuple[int, int, int, int, int], slots: int):
        self.number = next(_numbers)
        self.memory = torch.empty((slots, *shape), dtype=torch.uint8).share_memory_()
        self._free = deque(range(slots))
        _in_use[self.number] = self

    def take(self) -> int | None:
        """The number of a free slot, or None when all are in use."""
        return self._free.popleft() if self._free else None

    def open(self, slot: int) -> torch.Tensor:
        """The images in a slot, uint8 (batch, images_per_class, 3, size, size)."""
        pixels = self.memory[slot].numpy()
        # All views of the tensor share its storage, which keeps this one array until the last.
        weakref.finalize(pixels, self._free.append, slot)
        return torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)


class Asked(NamedTuple):
    """A batch to make: what of, and the slot for its pixels (None: send them)."""

    slot: int | None
    items: list


class AskForSlots(Sampler[Asked]):
    """The batches of another sampler, each with a slot."""

    def __init__(self, batches: Sampler, slots: Slots):
        self.batches, self.slots = batches, slots

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Asked]:
        return (Asked(self.slots.take(), items) for items in self.batches)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch to draw next, and the step to begin at."""
        self.batches.set_epoch(epoch, first_step)


class IntoSlots(Dataset):
    """The batches of another data set, left in shared memory; for loader processes."""

    def __init__(self, images: Dataset, slots: Slots):
        self.images, self.number, self.memory = images, slots.number, slots.memory

    def __getitems__(self, asked: Asked) -> "TrainingBatch | BatchInSlot":
        batch = self.images.__getitems__(asked.items)
        if asked.slot is None:
            return batch
        self.memory[asked.slot].copy_(batch.images.permute(0, 1, 3, 4, 2))
        return BatchInSlot(self.number, asked.slot, batch)


class BatchInSlot:
    """A batch on its way: it leaves without its pixels and arrives as a `TrainingBatch`."""

    def __init__(self, number: int, slot: int, batch: TrainingBatch):
        self.number, self.slot, self.batch = number, slot, batch

    def __reduce__(self):
        _, labels, unreadable, numbers = self.batch
        return _arrived, (self.number, self.slot, labels.numpy(), unreadable, numbers.numpy())


def _arrived(
    number: int, slot: int, labels: np.ndarray, unreadable: list[str], numbers: np.ndarray
) -> TrainingBatch:
    images = _in_use[number].open(slot)
    return TrainingBatch(images, torch.from_numpy(labels), unreadable, torch.from_numpy(numbers))


def room_for(shape: tuple[int, int, int, int, int]) -> int | None:
    """How many batches of that shape fit into the shared memory that is free.

    None where the system has no fixed share for it. Containers often get 64 MiB.
    """
    try:
        there = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return there.f_bavail * there.f_frsize // math.prod(shape)
