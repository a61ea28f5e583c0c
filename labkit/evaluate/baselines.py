"""Systems to compare a network with: three that know nothing about people, and a public one.

Each scores a list as a network does: `score_pairs(system, pairs, root)`.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from labkit.data import FaceFolder, centre_crop, decode_image
from labkit.data.images import Source
from labkit.utils import UserError, l2_normalize, map_ahead, progress


class ReferenceSystem:
    """Turns pictures into rows of length 1, with the call and the `files` of an `Embedder`.

    describe: takes an RGB picture whose shorter side has `min_size` pixels, returns numbers (d,).
    """

    def __init__(self, describe: Callable, min_size: int):
        self.describe, self.min_size, self.batch_size = describe, min_size, 64

    def __call__(self, images: Iterable[Image.Image]) -> np.ndarray:
        """Return float32 (n, d); a picture of one grey, all zeros, becomes an even row."""
        rows = np.array([self.describe(image) for image in images], np.float32)
        return l2_normalize(np.where(rows.any(axis=1, keepdims=True), rows, 1.0))

    def files(
        self, files: Sequence[Source], *, mirror: bool = False, desc: str = "describing"
    ) -> np.ndarray:
        """Return the same for image files, flipped with `mirror`; UserError names an unreadable."""

        def read(file: Source) -> Image.Image:
            image = decode_image(file, min_size=self.min_size)
            return ImageOps.mirror(image) if mirror else image

        with ThreadPoolExecutor(4) as pool:
            images = map_ahead(pool, read, files, 16)
            return self(progress(images, total=len(files), desc=desc, unit="image"))


def raw_pixels(image: Image.Image, size: int = 32) -> np.ndarray:
    """Return grey pixels less their mean: the cosine of two pictures is their correlation."""
    grey = np.asarray(centre_crop(image.convert("L"), size), np.float32).ravel()
    return grey - grey.mean()


def local_binary_patterns(image: Image.Image, size: int = 112, grid: int = 7) -> np.ndarray:
    """Return histograms of the uniform patterns in a grid of cells, float64 (grid * grid * 59,).

    Ahonen, Hadid and Pietikäinen, "Face description with local binary patterns" (2006). Square
    roots of the histograms, so that the cosine is the mean Bhattacharyya coefficient of the cells.
    """
    from skimage.feature import local_binary_pattern  # slow to import

    grey = np.asarray(centre_crop(image.convert("L"), size))
    patterns = local_binary_pattern(grey, 8, 2, method="nri_uniform").astype(int)
    row = np.arange(size) * grid // size
    bins = 59 * (row[:, None] * grid + row) + patterns
    counts = np.bincount(bins.ravel(), minlength=59 * grid**2).reshape(grid**2, 59)
    return np.sqrt(counts / counts.sum(axis=1, keepdims=True)).ravel()


def eigenfaces(folder: FaceFolder, seed: int = 0) -> ReferenceSystem:
    """Return a system of whitened principal components of training faces (Turk and Pentland, 1991).

    Fitted on at most 2,000 images of the folder, drawn with `seed`.
    """
    from sklearn.decomposition import PCA  # slow to import

    pixels = ReferenceSystem(lambda image: raw_pixels(image, 48), 96)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(folder))[:2000])
    faces = pixels.files([folder.source(int(i)) for i in chosen], desc="eigenfaces")
    size = min(100, len(faces) - 1)
    pca = PCA(size, whiten=True, svd_solver="randomized", random_state=seed).fit(faces)
    return ReferenceSystem(lambda image: pca.transform(pixels([image]))[0], 96)


def public_network() -> ReferenceSystem:
    """Return the ResNet of dlib's face recognition: 128 numbers, 3 million photographs.

    Faces are turned and cropped by their eyes and nose. Weights by King (public domain,
    github.com/davisking/dlib-models). Raises UserError when their package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")  # importing needs old setuptools
    if spec is None:
        raise UserError("the public network (100 MB) needs: pip install face-recognition-models")
    import dlib

    models = f"{spec.submodule_search_locations[0]}/models"
    network = dlib.face_recognition_model_v1(f"{models}/dlib_face_recognition_resnet_model_v1.dat")
    points = dlib.shape_predictor(f"{models}/shape_predictor_5_face_landmarks.dat")
    box = dlib.rectangle(32, 32, 223, 223)  # a face fills three quarters of a training image

    def describe(image: Image.Image):
        pixels = np.asarray(ImageOps.fit(image, (256, 256), Image.Resampling.BILINEAR))
        chip = dlib.get_face_chip(pixels, points(pixels, box), 150, 0.25)
        return network.compute_face_descriptor(chip)

    return ReferenceSystem(describe, 256)


def reference_systems(training_faces: str | Path, seed: int = 0) -> dict[str, ReferenceSystem]:
    """Return the systems by name, weakest first; without the extra, a printed line names it."""
    systems = {
        "raw pixels": ReferenceSystem(raw_pixels, 64),
        "eigenfaces": eigenfaces(FaceFolder.scan(training_faces), seed=seed),
        "local binary patterns": ReferenceSystem(local_binary_patterns, 112),
    }
    try:
        systems["public network"] = public_network()
    except UserError as error:
        print(error)
    return systems
