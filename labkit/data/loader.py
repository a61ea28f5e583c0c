"""Identity-balanced batches: which images meet in a training step, and their pixels.

Everything random here is a function of the seed, the epoch and the place in it, so that a run can
be resumed in an epoch and read by any number of workers or processes, and trains on the same.
"""

import atexit
import os
import signal
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from joblib import cpu_count
from torch.utils.data import DataLoader, Dataset, Sampler

from labkit.config import TrainConfig
from labkit.data.folders import FaceFolder
from labkit.data.images import CROP_DRAWS, decode_pixels, random_resized_crop
from labkit.utils import UserError

_loaders = weakref.WeakSet()  # closed before `multiprocessing` sends SIGTERM to workers and waits
atexit.register(lambda: [close_loader(loader) for loader in list(_loaders)])


class TrainingBatch(NamedTuple):
    """The images and labels of one training step.

    images: uint8 (batch, images_per_class, 3, size, size), in channels-last memory order.
    labels: int64 (batch,). unreadable: names of images that another of the identity replaces.
    indices: int64 (batch, images_per_class), of the images in the folder.
    """

    images: torch.Tensor
    labels: torch.Tensor
    unreadable: list[str]
    indices: torch.Tensor


class IdentityBatchSampler(Sampler):
    """Batches of `batch_size` different identities with `images_per_class` images of each.

    In an epoch each identity gives at most `max_images_per_class` images, drawn anew, and every
    batch is full. Of several processes each gets its part of the same batches: the indices of the
    images, int64 (part, images_per_class), the part's place in the batch, and the seed, which is
    that of the run, the epoch and the step. Raises UserError with too few identities for a batch.
    """

    def __init__(self, folder: FaceFolder, config: TrainConfig, rank: int = 0, processes: int = 1):
        self.folder, self.seed = folder, config.seed
        self.batch_size, self.images_per_class = config.batch_size, config.images_per_class
        size, each = self.batch_size, self.images_per_class
        if size % processes:
            raise UserError(f"batch_size {size} cannot be shared by {processes} processes")
        self.part = slice(rank * size // processes, (rank + 1) * size // processes)
        images = np.minimum(folder.counts(), config.max_images_per_class)
        self._groups = images // each
        if (usable := np.count_nonzero(self._groups)) < size:
            most = f"batch_size to {usable}" if usable else f"images_per_class to {images.max()}"
            found = f"{folder.root} has {usable} identities with {each} or more images"
            raise UserError(f"{found} for a batch of {size}: set {most} or less")
        # The most batches that can be filled when an identity comes at most once in each.
        self.steps = int(self._groups.sum()) // size
        while (groups := int(np.minimum(self._groups, self.steps).sum())) < self.steps * size:
            self.steps = groups // size
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch to draw next, and the step to begin at."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, tuple[int, int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        counts = np.minimum(self._groups, self.steps)
        # Indices in random order within each identity; identities stay in their places.
        mixed = rng.permutation(len(self.folder))
        shuffled = mixed[np.argsort(self.folder.labels[mixed], kind="stable")]
        order = rng.permutation(len(counts))
        owner = np.repeat(order, counts[order])
        firsts = np.cumsum(counts[order]) - counts[order]
        within = np.arange(len(owner)) - np.repeat(firsts, counts[order])
        kept = np.sort(rng.permutation(len(owner))[: self.steps * self.batch_size])
        owner, within = owner[kept], within[kept]
        first_image = self.folder.starts[owner] + within * self.images_per_class
        images = shuffled[first_image[:, None] + np.arange(self.images_per_class)]
        batch_of = _deal(owner, self.steps, rng)
        place = np.argsort(batch_of, kind="stable").reshape(self.steps, self.batch_size)
        indices = images[place][:, self.part]
        for step in range(self.first_step, self.steps):
            yield indices[step], self.part.start, (self.seed, self.epoch, step)


def _deal(owner: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Choose a batch for each group of images, so that no batch gets two groups of one owner.

    `owner` (steps * batch_size,) has the groups of an owner side by side, at most `steps`. They are
    dealt like cards in rounds, each one card to every batch in a new random order. The cards of
    an owner that run over into the next round are kept from the batches it was dealt to before.
    """
    batch_of = np.empty(len(owner), dtype=np.int64)
    for start in range(0, len(owner), steps):
        turn = rng.permutation(steps)
        if start and owner[start] == owner[start - 1]:
            last_round = slice(start - steps, start)
            has_one = np.isin(turn, batch_of[last_round][owner[last_round] == owner[start]])
            over = int((owner[start : start + steps] == owner[start]).sum())
            free, taken = turn[~has_one], turn[has_one]
            turn = np.concatenate([free[:over], rng.permutation(np.r_[free[over:], taken])])
        batch_of[start : start + steps] = turn
    return batch_of


class TrainingImages(Dataset):
    """Decodes and crops the images of a batch; with `mirror`, flips each with probability 0.5."""

    def __init__(self, folder: FaceFolder, image_size: int, mirror: bool):
        self.folder, self.image_size, self.mirror = folder, image_size, mirror

    def __getitem__(self, planned: tuple) -> TrainingBatch:
        indices, first, seed = planned
        size, (part, each) = self.image_size, indices.shape
        pixels = np.empty((part, each, size, size, 3), dtype=np.uint8)
        # One generator for all numbers of a step, as making one costs more than drawing from it;
        # those of a place in the batch are the same whichever process draws them.
        rng = np.random.default_rng([*seed, 1])  # the 1: not the sampler's generator
        draws = rng.random((first + part, each, 1 + CROP_DRAWS))[first:]
        unreadable: list[str] = []
        for place in np.ndindex(part, each):
            image = self._decode(int(indices[place]), unreadable)
            crop = random_resized_crop(image, size, draws[place][1:])
            flip = self.mirror and draws[place][0] < 0.5
            pixels[place] = crop[:, ::-1] if flip else crop
        images = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
        labels = torch.from_numpy(self.folder.labels[indices[:, 0]])
        return TrainingBatch(images, labels, unreadable, torch.from_numpy(indices))

    def _decode(self, index: int, unreadable: list[str]) -> np.ndarray:
        """Return the image, or the next readable one of its identity; grey when none is."""
        own = self.folder.indices_of(self.folder.labels[index])
        for candidate in (*range(index, own.stop), *range(own.start, index)):
            try:
                return decode_pixels(self.folder.source(candidate), min_size=self.image_size)
            except UserError:
                unreadable.append(self.folder.name(candidate))
        return np.full((self.image_size, self.image_size, 3), 128, dtype=np.uint8)


def train_loader(
    folder: FaceFolder, config: TrainConfig, *, workers=0, rank=0, processes=1, pin_memory=False
) -> DataLoader:
    """Return a loader of the `TrainingBatch`es of process `rank`, out of `processes`.

    `loader.sampler.set_epoch(epoch, first_step)` chooses what the next pass gives. workers:
    loader processes, which `close_loader` ends; None for as many as this process's share of the
    cores allows, at most 8. Raises UserError when the batches cannot be filled.
    """
    if workers is None:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        workers = min(8, max(cpu_count() // neighbours, 1))
    loader = DataLoader(
        TrainingImages(folder, config.image_size, config.mirror),
        sampler=IdentityBatchSampler(folder, config, rank, processes),
        batch_size=None,  # the sampler gives whole batches
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_signals,
        # Else each epoch would draw from PyTorch's global generator, which the losses use.
        generator=torch.Generator(),
    )
    _loaders.add(loader)
    return loader


def close_loader(loader: DataLoader) -> None:
    """End the loader's worker processes, also in the middle of an epoch."""
    batches, loader._iterator = loader._iterator, None
    if loader.num_workers and batches is not None:
        batches._shutdown_workers()
        for worker in batches._workers:  # one that still reads its last batch
            worker.kill()
            worker.join()


def _ignore_signals(worker: int) -> None:
    """Leave a signal to all processes of a job to the one that trains, which may need batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
