"""Rendered people to train on without a folder: each epoch shows new photographs of them.

labkit train --train_path synth:world,identities=2000 --save_path runs/fresh …
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from labkit.data.batches import Item, TrainingBatch
from labkit.synth.dataset import find_population
from labkit.synth.render import CROP, draw
from labkit.utils import UserError

SCHEME = "synth:"
_SETTINGS = ("identities", "seed", "first_identity")
_LEAST_AREA = 0.8


class RenderedPeople:
    """A face folder that is not on disk: `identities` people, `images` photographs each in an
    epoch, counted as `FaceFolder` counts its files, so that the same sampler makes the batches.

    population: World(seed), KStars(seed) or another object with `person` and `photo`.
    first_identity: the number of the first person.
    """

    def __init__(self, population, identities: int, images: int, *, first_identity: int = 0):
        for name, value, least in (
            ("identities", identities, 2),
            ("images", images, 1),
            ("first_identity", first_identity, 0),
        ):
            if value < least:
                raise UserError(f"{name} of rendered people must be {least} or more, got {value}")
        self.population, self.images = population, images
        self.first_identity = first_identity
        self.root = f"{SCHEME}{getattr(population, 'name', type(population).__name__)}"
        self.identities = range(first_identity, first_identity + identities)
        self.starts = np.arange(identities + 1, dtype=np.int64) * images
        self.labels = np.repeat(np.arange(identities, dtype=np.int64), images)

    @classmethod
    def parse(cls, text: str, images: int) -> "RenderedPeople":
        """From `synth:POPULATION,identities=N,seed=S,first_identity=K`; all but the population
        may be left out (500 people from number 0, seed 0). Raises UserError when it is not so."""
        name, *settings = text.removeprefix(SCHEME).split(",")
        values = {"identities": 500, "seed": 0, "first_identity": 0}
        for setting in settings:
            key, _, value = setting.partition("=")
            if key.strip() not in _SETTINGS or not value.strip().isdecimal():
                raise UserError(
                    f"{text}: '{setting}' is not one of "
                    + ", ".join(f"{key}=NUMBER" for key in _SETTINGS)
                )
            values[key.strip()] = int(value)
        population = find_population(name.strip(), values.pop("seed"))
        return cls(population, values.pop("identities"), images, **values)

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> np.ndarray:
        """Photographs of each person in an epoch, int64 (identities,)."""
        return np.diff(self.starts)

    def digest(self) -> str:
        """What tells these people from others of the same population."""
        return f"{self.root}, people {self.identities}, photographs {self.images}"

    def name(self, image: int) -> str:
        """What to call photograph number `image` of an epoch."""
        person, photo = divmod(int(image), self.images)
        return f"{self.root}/{self.identities[person]}/{photo}"


class Shots(NamedTuple):
    """The photographs of a batch, decided but not drawn yet, person by person."""

    persons: list
    photos: list
    mirrored: np.ndarray
    labels: torch.Tensor
    numbers: torch.Tensor


class FreshFaces(Dataset):
    """Draws the photographs of a batch; none of them comes again in a later epoch.

    Items are `IdentityBatchSampler`'s over `people`. As with files, a photograph shows a random
    part of 0.8 to 1 of the usual square's area, and with `mirror` every other one is flipped.

    device: draws on it here and now and gives `TrainingBatch`es (uint8). None decides the
    photographs only, as `Shots`; `develop` draws them where there is a GPU.
    """

    def __init__(self, people: RenderedPeople, *, image_size: int, mirror: bool, device=None):
        self.people, self.image_size, self.mirror = people, image_size, mirror
        self.device = device

    def __getitems__(self, items: list[Item]) -> TrainingBatch | Shots:
        people = self.people
        persons, photos, mirrored = [], [], []
        for item in items:
            rng = np.random.default_rng(item.seed)
            person = people.population.person(people.identities[item.label])
            epoch = item.seed[1]
            for image in item.images:
                number = epoch * people.images + image % people.images
                photo = people.population.photo(person.number, number, person)
                persons.append(person)
                photos.append(_closer(photo, rng))
                mirrored.append(self.mirror and rng.random() < 0.5)
        labels = torch.tensor([item.label for item in items])
        numbers = torch.tensor([item.images for item in items])
        shots = Shots(persons, photos, np.array(mirrored), labels, numbers)
        return shots if self.device is None else self.develop(shots, self.device)

    def develop(self, shots: Shots, device) -> TrainingBatch:
        """Draw decided photographs on `device`."""
        pictures = draw(shots.persons, shots.photos, self.image_size, str(device))
        mirrored = torch.from_numpy(shots.mirrored).to(pictures.device)
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
        images = pictures.reshape(len(shots.labels), -1, *pictures.shape[1:])
        return TrainingBatch(images, shots.labels, [], shots.numbers)


def _closer(photo, rng: np.random.Generator):
    """The photograph with a random part of its square cut out, by pointing the camera."""
    side = math.sqrt(rng.uniform(_LEAST_AREA, 1))
    moved = rng.uniform(-0.5, 0.5, 2) * (1 - side) * CROP
    return dataclasses.replace(photo, zoom=photo.zoom * side, shift=(photo.shift + moved) / side)
