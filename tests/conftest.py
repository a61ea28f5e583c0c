"""Small data made on the spot."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("LABKIT_PROGRESS", "none")


def pytest_collection_modifyitems(items):
    """Last those that begin with CUDA in this process: notebook_launcher refuses after it."""
    items.sort(key=lambda item: item.get_closest_marker("gpu") is not None)


def make_faces(root: Path, identities: int, images: int, *, size: int = 64, seed: int = 0) -> Path:
    """A face folder of colour patterns: one per identity, disturbed anew in each image."""
    rng = np.random.default_rng([seed, identities])
    for i in range(identities):
        folder = root / f"id{seed}{i:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        pattern = rng.integers(0, 256, (5, 5, 3))
        for j in range(images):
            pixels = np.clip(pattern + rng.normal(0, 30, pattern.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
            image.save(folder / f"{j:03d}.jpg")
    return root


@pytest.fixture
def faces(tmp_path) -> Path:
    """Twelve identities with six images each."""
    return make_faces(tmp_path / "faces", 12, 6)


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory) -> Path:
    """A data directory in order: the four face folders and three pair lists. Do not change it."""
    from labkit.data import FaceFolder, make_pairs

    root = tmp_path_factory.mktemp("data")
    for seed, (name, identities) in enumerate(
        [("pretrain", 12), ("train", 10), ("val", 8), ("test", 8)]
    ):
        make_faces(root / name, identities, 6, seed=seed)
    for name in ("val", "test"):
        make_pairs(FaceFolder.scan(root / name)).write(root / f"{name}_pairs.csv")
    blind = make_pairs(FaceFolder.scan(root / "test"), seed=1, labelled=False)
    blind.write(root / "test_blind.csv")
    return root
