"""Identity-balanced batches: which images meet in a training step, and what the step gets.

Everything random here is a function of the seed, the epoch and the place in it, so that a run
can be resumed in the middle of an epoch and be read by any number of workers or processes
without a change in what is trained on.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from labkit.data.folders import FaceFolder
from labkit.utils import UserError


class Item(NamedTuple):
    """One identity in one batch: its label, its images, and the seed of their augmentation.

    seed: the run's seed, the epoch, the step, and the place in the batch of all processes.
    """

    label: int
    images: tuple[int, ...]
    seed: tuple[int, ...]


class TrainingBatch(NamedTuple):
    """What the training loop gets.

    images: uint8 (batch, images_per_class, 3, size, size), in channels-last memory order.
    labels: int64 (batch,).
    unreadable: names of the images that could not be decoded, each replaced by another image of
        its identity.
    numbers: int64 (batch, images_per_class), which images they are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    unreadable: list[str]
    numbers: torch.Tensor


class IdentityBatchSampler(Sampler[list[Item]]):
    """Batches of `batch_size` different identities with `images_per_class` images of each.

    In an epoch each identity gives at most `max_images_per_class` images, drawn anew, and every
    batch is full. The steps of an epoch depend on the folder and the sizes alone. Sampling is
    linear in the number of images. With several processes each gets its own part of the same
    global batch.

    Raises UserError when there are fewer identities (with enough images) than `batch_size`.
    """

    def __init__(
        self,
        folder: FaceFolder,
        *,
        batch_size: int,
        images_per_class: int = 1,
        max_images_per_class: int = 100,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ):
        self.folder = folder
        self.batch_size = batch_size
        self.images_per_class = images_per_class
        self.seed = seed
        self.rank, self.processes = rank, processes
        if batch_size % processes:
            raise UserError(
                f"the batch size {batch_size} cannot be shared equally by {processes} processes"
            )
        self._groups = np.minimum(folder.counts(), max_images_per_class) // images_per_class
        usable = int((self._groups > 0).sum())
        if usable == 0:
            most = min(max_images_per_class, int(folder.counts().max()))
            raise UserError(
                f"nobody in {folder.root} has {images_per_class} images for a batch: set "
                f"images_per_class (nPerClass) to {most} or less"
            )
        if usable < batch_size:
            enough = "" if images_per_class == 1 else f" with {images_per_class} images or more"
            raise UserError(
                f"a batch of {batch_size} identities needs as many in {folder.root}, "
                f"which has {usable}{enough}: set batch_size to {usable} or less"
            )
        self.steps = self._count_steps()
        self.set_epoch(0)

    def _count_steps(self) -> int:
        """The most batches that can be filled when an identity comes once in each at most."""
        low, high = 1, max(1, int(self._groups.sum()) // self.batch_size)
        while low < high:
            middle = (low + high + 1) // 2
            if np.minimum(self._groups, middle).sum() >= middle * self.batch_size:
                low = middle
            else:
                high = middle - 1
        return low

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch to draw next, and the step to begin at."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[list[Item]]:
        labels, images = self._draw()
        share = self.batch_size // self.processes
        mine = range(self.rank * share, (self.rank + 1) * share)
        for step in range(self.first_step, self.steps):
            yield [
                Item(
                    int(labels[step, place]),
                    tuple(int(i) for i in images[step, place]),
                    (self.seed, self.epoch, step, place),
                )
                for place in mine
            ]

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels (steps, batch) and image numbers (steps, batch, images_per_class)."""
        rng = np.random.default_rng([self.seed, self.epoch])
        per_group = self.images_per_class
        counts = np.minimum(self._groups, self.steps)
        shuffled = _shuffle_within(self.folder.labels, rng)
        order = rng.permutation(len(counts))
        owner = np.repeat(order, counts[order])
        firsts = np.cumsum(counts[order]) - counts[order]
        within = np.arange(len(owner)) - np.repeat(firsts, counts[order])
        kept = np.sort(rng.permutation(len(owner))[: self.steps * self.batch_size])
        owner, within = owner[kept], within[kept]
        first_image = self.folder.starts[owner] + within * per_group
        images = shuffled[first_image[:, None] + np.arange(per_group)]
        batch_of = _deal(owner, self.steps, rng)
        place = np.argsort(batch_of, kind="stable").reshape(self.steps, self.batch_size)
        return owner[place], images[place]


def _shuffle_within(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Image numbers in random order within each identity; identities stay in their places."""
    mixed = rng.permutation(len(labels))
    return mixed[np.argsort(labels[mixed], kind="stable")]


def _deal(owner: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """A batch for each group of images, so that no batch gets two groups of one owner.

    `owner` (steps * batch_size,) has the groups of an owner side by side, at most `steps` of
    them. They are dealt like cards in rounds, each round one card to every batch in a new random
    order. An owner whose cards run over the end of a round has its remaining cards, at the start
    of the next one, kept from the batches that it was dealt to.
    """
    batch_of = np.empty(len(owner), dtype=np.int64)
    for start in range(0, len(owner), steps):
        turn = rng.permutation(steps)
        if start and owner[start] == owner[start - 1]:
            last_round = slice(start - steps, start)
            has_one = np.zeros(steps, dtype=bool)
            has_one[batch_of[last_round][owner[last_round] == owner[start]]] = True
            over = int((owner[start : start + steps] == owner[start]).sum())
            free, taken = turn[~has_one[turn]], turn[has_one[turn]]
            turn = np.concatenate([free[:over], rng.permutation(np.r_[free[over:], taken])])
        batch_of[start : start + steps] = turn
    return batch_of
