"""Identity-balanced batches: which images meet in a training step, and their pixels.

Everything random here is a function of the seed, the epoch and the place in it, so that a run
can be resumed in the middle of an epoch and be read by any number of workers or processes
without a change in what is trained on.
"""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from labkit.data.folders import FaceFolder
from labkit.data.images import centre_crop, decode_image, decode_pixels, random_resized_crop
from labkit.errors import UserError

MISSING_GREY = 128
SECONDS_TO_SAVE = 20  # a loader process outlives SIGTERM by as much


class Item(NamedTuple):
    """One identity in one batch: its label, its images, and the seed of their augmentation."""

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
    numbers: torch.Tensor = torch.empty(0, 0, dtype=torch.int64)


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
        if usable < batch_size:
            enough = "" if images_per_class == 1 else f" with {images_per_class} images or more"
            raise UserError(
                f"a batch of {batch_size} identities needs as many in {folder.root}, "
                f"which has {usable}{enough}: set batch_size to {max(usable, 1)} or less"
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


class TrainingImages(Dataset):
    """Decodes and augments the images of a batch: uint8 until the network's device.

    Each is cropped by `random_resized_crop` and, with `mirror`, flipped every other time.
    """

    def __init__(self, folder: FaceFolder, *, image_size: int, mirror: bool = False):
        self.folder, self.image_size, self.mirror = folder, image_size, mirror

    def __getitems__(self, items: list[Item]) -> TrainingBatch:
        size, per_class = self.image_size, len(items[0].images)
        pixels = np.empty((len(items), per_class, size, size, 3), dtype=np.uint8)
        unreadable: list[str] = []
        for place, item in enumerate(items):
            rng = np.random.default_rng(item.seed)
            for j, index in enumerate(item.images):
                pixels[place, j] = self._augmented(index, item.label, rng, unreadable)
        labels = torch.tensor([item.label for item in items])
        numbers = torch.tensor([item.images for item in items])
        images = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
        return TrainingBatch(images, labels, unreadable, numbers)

    def _augmented(self, index: int, label: int, rng, unreadable: list[str]) -> np.ndarray:
        image = self._decode(index, label, unreadable)
        if image is None:
            return np.full((self.image_size, self.image_size, 3), MISSING_GREY, np.uint8)
        pixels = random_resized_crop(image, self.image_size, rng)
        return pixels[:, ::-1] if self.mirror and rng.random() < 0.5 else pixels

    def _decode(self, index: int, label: int, unreadable: list[str]) -> np.ndarray | None:
        """The image, or the next one of the identity that can be read; None when none can."""
        own = self.folder.indices_of(label)
        for turn in range(len(own)):
            candidate = own[(index - own.start + turn) % len(own)]
            try:
                return decode_pixels(self.folder.path(candidate), min_size=self.image_size)
            except UserError:
                unreadable.append(self.folder.name(candidate))
        return None

    def plain(self, index: int) -> np.ndarray:
        """Image `index` without augmentation, uint8 (size, size, 3)."""
        image = decode_image(self.folder.path(index), min_size=self.image_size)
        return np.asarray(centre_crop(image, self.image_size))


def train_loader(
    folder: FaceFolder,
    images: Dataset,
    *,
    batch_size: int,
    images_per_class: int = 1,
    max_images_per_class: int = 100,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    processes: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """A loader of what `images` makes of the sampler's items, such as the `TrainingBatch`es of
    `TrainingImages`; `loader.batch_sampler.set_epoch` chooses the epoch.
    """
    sampler = IdentityBatchSampler(
        folder,
        batch_size=batch_size,
        images_per_class=images_per_class,
        max_images_per_class=max_images_per_class,
        seed=seed,
        rank=rank,
        processes=processes,
    )
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals,
        # Else each epoch would draw from PyTorch's global generator, which the losses use.
        generator=torch.Generator(),
    )


def _leave_signals(worker: int) -> None:
    """A signal to all processes of a job is for the one that trains, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_TO_SAVE))


def _as_is(batch: TrainingBatch) -> TrainingBatch:
    return batch
