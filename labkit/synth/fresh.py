"""Rendered people for training without a folder: each epoch shows new photographs of them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from labkit.synth.draws import stream
from labkit.synth.render import draw

_ORDER = 3


class FreshFaces(IterableDataset):
    """Batches of photographs that are rendered when asked for and never come again.

    population: World(seed), KStars(seed) or the like; identities: how many people, from number
    `first_identity` on. A batch holds `batch_size` different people with `images_per_class`
    photographs of each; an epoch shows everyone `images_per_epoch` times.

    Yields (images, labels): uint8 (batch, images_per_class, 3, size, size) on `device` and int64
    (batch,), labels counted from 0. `set_epoch` chooses the epoch; an epoch can be repeated.
    """

    def __init__(
        self,
        population,
        identities: int,
        *,
        batch_size: int,
        images_per_class: int = 1,
        images_per_epoch: int = 20,
        size: int = 112,
        device: str = "cpu",
        first_identity: int = 0,
    ):
        if not 1 <= batch_size <= identities:
            raise ValueError(f"batch_size must be 1 to {identities} (identities), got {batch_size}")
        if images_per_epoch % images_per_class:
            raise ValueError("images_per_epoch must be a multiple of images_per_class")
        self.population, self.identities = population, identities
        self.batch_size, self.images_per_class = batch_size, images_per_class
        self.images_per_epoch, self.size, self.device = images_per_epoch, size, device
        self.first_identity, self.epoch = first_identity, 0

    def set_epoch(self, epoch: int) -> None:
        """The photographs of this epoch come next."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        """Batches in an epoch; people who do not fill a batch wait for the next round."""
        rounds = self.images_per_epoch // self.images_per_class
        return self.identities // self.batch_size * rounds

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = stream(self.population.seed, _ORDER, self.epoch)
        first = self.epoch * self.images_per_epoch
        for shown in range(0, self.images_per_epoch, self.images_per_class):
            order = rng.permutation(self.identities)
            for start in range(0, self.identities // self.batch_size * self.batch_size,
                               self.batch_size):  # fmt: skip
                labels = order[start : start + self.batch_size]
                yield self._batch(labels.tolist(), first + shown), torch.from_numpy(labels)

    def _batch(self, labels: list[int], first: int) -> Tensor:
        persons, shots = [], []
        for label in labels:
            person = self.population.person(self.first_identity + label)
            for number in range(first, first + self.images_per_class):
                persons.append(person)
                shots.append(self.population.photo(person.number, number, person))
        pictures = draw(persons, shots, self.size, self.device)
        return pictures.reshape(len(labels), self.images_per_class, *pictures.shape[1:])
