"""The pixels of batches: decoded and augmented, here or in loader processes."""

import math
import os
import signal
from multiprocessing.util import Finalize

import numpy as np
import torch
from joblib import cpu_count
from torch.utils.data import DataLoader, Dataset

from labkit.data.batches import IdentityBatchSampler, Item, TrainingBatch
from labkit.data.folders import FaceFolder
from labkit.data.images import (
    CROP_DRAWS,
    centre_crop,
    decode_image,
    decode_pixels,
    random_resized_crop,
)
from labkit.data.slots import SHARED_MEMORY, AskForSlots, IntoSlots, Slots, room_for
from labkit.utils import UserError

MISSING_GREY = 128
BATCHES_AHEAD = 2  # of each loader process
HELD = 2  # batches that a training loop holds at a time: this step's and the one before
MOST_WORKERS = 8
_END = getattr(signal, "SIGUSR1", None)  # ends a loader process; None on Windows


class TrainingImages(Dataset):
    """Decodes and augments the images of a batch: uint8 until the network's device.

    Each is cropped by `random_resized_crop` and, with `mirror`, flipped every other time.
    """

    def __init__(self, folder: FaceFolder, *, image_size: int, mirror: bool = False):
        self.folder, self.image_size, self.mirror = folder, image_size, mirror

    def __getitems__(self, items: list[Item]) -> TrainingBatch:
        size, per_class = self.image_size, len(items[0].images)
        pixels = np.empty((len(items), per_class, size, size, 3), dtype=np.uint8)
        draws = _draws(items, per_class)
        unreadable: list[str] = []
        for place, item in enumerate(items):
            for j, index in enumerate(item.images):
                pixels[place, j] = self._augmented(index, item.label, draws[place, j], unreadable)
        labels = torch.tensor([item.label for item in items])
        numbers = torch.tensor([item.images for item in items])
        images = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
        return TrainingBatch(images, labels, unreadable, numbers)

    def _augmented(
        self, index: int, label: int, draws: np.ndarray, unreadable: list[str]
    ) -> np.ndarray:
        image = self._decode(index, label, unreadable)
        if image is None:
            return np.full((self.image_size, self.image_size, 3), MISSING_GREY, np.uint8)
        pixels = random_resized_crop(image, self.image_size, draws[1:])
        return pixels[:, ::-1] if self.mirror and draws[0] < 0.5 else pixels

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


def _draws(items: list[Item], per_class: int) -> np.ndarray:
    """Numbers in 0 to 1 for each image, float (items, per_class, 1 + CROP_DRAWS).

    All of a step come from one generator, as making one costs more than drawing from it. Those of
    a place in the batch are the same whichever process draws them.
    """
    seed, epoch, step, _ = items[0].seed
    places = [item.seed[3] for item in items]
    # The last word tells this generator from the sampler's.
    rng = np.random.default_rng([seed, epoch, step, 1])
    return rng.random((max(places) + 1, per_class, 1 + CROP_DRAWS))[places]


class ClosableLoader(DataLoader):
    """A DataLoader whose processes end when it is closed, or with this process, and not before.

    They pass over SIGTERM, which a batch system sends to all processes of a job: the one that
    trains may still need their batches to finish its step, save, and close the loader.
    """

    _at_exit: Finalize | None = None

    def __iter__(self):
        batches = super().__iter__()
        if self.num_workers and self._at_exit is None:
            # Before `multiprocessing` sends them SIGTERM and waits.
            self._at_exit = Finalize(None, _end, (batches._workers,), exitpriority=1)
        return batches

    def close(self) -> None:
        """End the processes, also those of an epoch that was left in the middle."""
        batches, self._iterator = self._iterator, None
        if batches is not None:
            batches._shutdown_workers()
        at_exit, self._at_exit = self._at_exit, None
        if at_exit is not None:
            at_exit()


def train_loader(
    folder: FaceFolder,
    images: Dataset,
    *,
    batch_size: int,
    images_per_class: int = 1,
    max_images_per_class: int = 100,
    workers: int | None = 0,
    seed: int = 0,
    rank: int = 0,
    processes: int = 1,
    pin_memory: bool = False,
    image_size: int | None = None,
) -> ClosableLoader:
    """A loader of what `images` makes of the sampler's items, such as the `TrainingBatch`es of
    `TrainingImages`; `loader.batch_sampler.set_epoch` chooses the epoch.

    workers: loader processes; None for as many as this process's share of the cores and of the
        shared memory allows, 8 at most.
    image_size: side of the pixels in the `TrainingBatch`es, which loader processes then leave in
        shared memory; None where `images` makes something else.

    Raises UserError when the shared memory is too small for the batches of so many processes.
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
    side = image_size or 0
    shape = (batch_size // processes, images_per_class, side, side, 3)
    room = room_for(shape) if image_size else None
    if workers is None:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        workers = min(MOST_WORKERS, max(cpu_count() // neighbours, 1))
        if room is not None:
            workers = min(workers, max((room // neighbours - HELD) // BATCHES_AHEAD, 0))
    slots = BATCHES_AHEAD * workers + HELD if workers else 0
    if room is not None and slots > room:
        raise UserError(
            f"{workers} loader processes need {slots * math.prod(shape) / 2**20:,.0f} MiB of "
            f"shared memory ({SHARED_MEMORY}) for their batches, which is more than is free: give "
            "the container more (--shm-size), or lower workers or batch_size"
        )
    if workers and image_size:
        shared = Slots(shape, slots)
        sampler, images = AskForSlots(sampler, shared), IntoSlots(images, shared)
    return ClosableLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD if workers else None,
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
    if _END is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # With exit code 0: at another one, or a signal, PyTorch raises an error.
        signal.signal(_END, lambda *_: os._exit(0))


def _end(workers: list) -> None:
    for worker in workers:
        if worker.is_alive() and _END is not None:
            os.kill(worker.pid, _END)


def _as_is(batch: TrainingBatch) -> TrainingBatch:
    return batch
