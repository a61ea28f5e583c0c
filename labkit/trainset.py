"""What a run trains on: the one place where its settings become people and batches."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from labkit.config import TrainConfig
from labkit.data import FaceFolder, TrainingBatch, TrainingImages, train_loader
from labkit.data.loading import ClosableLoader
from labkit.synth.fresh import SCHEME, FreshFaces, RenderedPeople


class TrainingLoader:
    """The batches of one epoch after another: `len` is the steps of an epoch."""

    def __init__(self, loader: ClosableLoader, finish=None):
        self._loader, self._finish = loader, finish

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[TrainingBatch]:
        batches = iter(self._loader)
        return map(self._finish, batches) if self._finish else batches

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch to draw next, and the step to begin at."""
        self._loader.batch_sampler.set_epoch(epoch, first_step)

    def close(self) -> None:
        """End the worker processes; no batch comes after it."""
        self._loader.close()


class TrainingData:
    """The people and images that a run's settings name, and the loader of their batches.

    `train_dir` is a face folder, or `synth:POPULATION,identities=N,…` for rendered people who are
    photographed anew in each epoch (see `labkit.synth.fresh`), `max_images_per_class` times each.

    Attributes:
        where: the settings' `train_dir`, for messages.
        faces: the face folder, or the rendered people, who are counted alike.
        identities: how many people.
        images: how many images, in an epoch for rendered people.
        too_few: people with fewer images than `images_per_class`, who are in no batch.
    """

    def __init__(self, config: TrainConfig, faces: FaceFolder | RenderedPeople):
        self.config, self.faces = config, faces
        self.where = config.train_dir
        self.identities, self.images = len(faces.identities), len(faces)
        self.too_few = int((faces.counts() < config.images_per_class).sum())

    @classmethod
    def open(cls, config: TrainConfig, *, cache: str | Path | None = None) -> "TrainingData":
        """Find the data of `config.train_dir`; `cache` is a file that keeps a folder's listing.

        Raises UserError when there is none.
        """
        if config.train_dir.startswith(SCHEME):
            return cls(config, RenderedPeople.parse(config.train_dir, config.max_images_per_class))
        extensions = [f".{name.strip(' .')}" for name in config.train_extensions.split(",")]
        return cls(config, FaceFolder.scan(config.train_dir, extensions=extensions, cache=cache))

    def digest(self) -> str:
        """The same for the same people and images in the same order."""
        return self.faces.digest()

    def name(self, image: int) -> str:
        """What to call an image of a batch in a message."""
        return self.faces.name(image)

    def loader(
        self, device: torch.device | None = None, *, rank: int = 0, processes: int = 1
    ) -> TrainingLoader:
        """The batches of this process, out of `processes` that share each batch.

        device: where they are trained on; None for a look at them, without worker processes.
        Raises UserError when the batches that the settings ask for cannot be filled.
        """
        config, finish = self.config, None
        look = dict(image_size=config.image_size, mirror=config.mirror)
        on_gpu = device is not None and device.type == "cuda"
        rendered = isinstance(self.faces, RenderedPeople)
        if not rendered:
            images = TrainingImages(self.faces, **look)
        elif on_gpu:  # workers decide the photographs, the GPU draws them
            images = FreshFaces(self.faces, **look)
            finish = partial(images.develop, device=device)
        else:
            images = FreshFaces(self.faces, **look, device="cpu")
        workers = config.workers
        if workers is None and (device is None or (device.type == "cpu" and not rendered)):
            workers = 0  # beside training on a processor, decoding is little
        loader = train_loader(
            self.faces,
            images,
            batch_size=config.batch_size,
            images_per_class=config.images_per_class,
            max_images_per_class=config.max_images_per_class,
            workers=workers,
            seed=config.seed,
            rank=rank,
            processes=processes,
            pin_memory=on_gpu and not rendered,
            image_size=None if on_gpu and rendered else config.image_size,
        )
        return TrainingLoader(loader, finish)
