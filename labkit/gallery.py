"""Known people in one file: embeddings, a mean per star, pictures to show, and the search."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from labkit.data import FaceFolder, decode_image
from labkit.data.images import jpeg_bytes
from labkit.likeness import Calibration
from labkit.utils import UserError, atomic_path, l2_normalize, progress, reason

KIND = "kstar-facelab gallery 1"
ARRAYS = {
    "embeddings": np.float32, "labels": np.int64, "means": np.float32, "best": np.int64,
    "portraits": np.uint8, "portrait_ends": np.int64, "small": np.uint8, "small_ends": np.int64,
}  # fmt: skip
TEXTS = "identities files details synthetic weights_name weights_path weights_sha256 skipped"
PORTRAIT_SIZE, SMALL_SIZE = 192, 64
SCORES_AT_A_TIME = 1 << 24
MAX_BAD_SHARE = 0.01
SYNTHETIC_NOTE = "All faces here are synthetic: rendered people who do not exist."
# Columns of `identities.csv` that say who a star is, not how the star looks.
NAMING = ("identity", "number", "population", "name", "hangul", "synthetic")


@dataclass(frozen=True)
class Match:
    """One answer of a search."""

    identity: int  # index of the star in the gallery
    name: str  # the star's name as shown
    similarity: float  # cosine in [-1, 1]
    image: int | None  # index of the image, in an image-level search
    file: str  # the image's file name; of the star's best picture in a star-level search


def top_k(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows most similar to each query, as a full sort would find them.

    A matrix product in float32 finds candidates, which are sorted by their products in float64; of
    equal rows, the one of the lower index comes first. `queries` (m, d) and `rows` (n, d), which
    may be a memory map, are float32 of length 1. Returns indices of the rows, int64 (m, k), most
    similar first, and their cosines, float32 (m, k), with k at most n.
    """
    k = min(k, len(rows))
    indices = np.empty((len(queries), k), dtype=np.int64)
    similarities = np.empty((len(queries), k), dtype=np.float32)
    rounding = rows.shape[1] * np.finfo(np.float32).eps  # what two float32 products can be off
    height = max(1, SCORES_AT_A_TIME // len(rows))
    for start in range(0, len(queries), height):
        scores = queries[start : start + height] @ rows.T
        if not np.isfinite(scores).all():
            raise UserError("an embedding is not finite: train the network that made it again")
        for i, row in enumerate(scores, start):
            candidates = np.flatnonzero(row >= np.partition(row, -k)[-k] - rounding)
            near, query = rows[candidates].astype(np.float64), queries[i].astype(np.float64)
            exact = np.einsum(
                "nd,d->n", near, query
            )  # the same for equal rows, unlike near @ query
            order = np.argsort(-exact, kind="stable")[:k]
            indices[i], similarities[i] = candidates[order], exact[order]
    return indices, similarities


@dataclass(eq=False, repr=False)
class Gallery:
    """Known people (m stars, n images): embeddings, one mean per star, and pictures to show."""

    embeddings: np.ndarray  # float32 (n, d), of length 1
    labels: np.ndarray  # int64 (n,), the index of each image's star, non-decreasing
    means: np.ndarray  # float32 (m, d), per star the mean of its embeddings, scaled to length 1
    best: np.ndarray  # int64 (m,), per star the image nearest to its mean
    portraits: np.ndarray  # uint8, the stars' best pictures as JPEGs, one after the other
    portrait_ends: np.ndarray  # int64 (m,), where each of them ends
    small: np.ndarray  # uint8, all images as small JPEGs
    small_ends: np.ndarray  # int64 (n,)
    identities: list[str]  # names of the stars' folders
    files: list[str]  # names of the images, `identity/image.jpg`
    details: list[dict]  # per star what `identities.csv` says (`name`, `hangul`, …)
    synthetic: bool  # whether any star is a rendered person
    weights_name: str  # of the weights that made the embeddings
    weights_path: Path  # kept relative to the gallery file
    weights_sha256: str
    skipped: list[str]  # files that could not be read when it was built
    calibration: Calibration | None = None  # what a similarity means; set it before `save`

    def __len__(self) -> int:
        return len(self.identities)

    def __repr__(self) -> str:
        return f"Gallery({len(self)} stars, {len(self.files)} images, {self.weights_name})"

    @cached_property
    def names(self) -> list[str]:
        """Names of the stars as shown."""
        return [str(d.get("name") or self.identities[i]) for i, d in enumerate(self.details)]

    @property
    def note(self) -> str:
        """A line to show with the pictures; empty when the people are real."""
        return SYNTHETIC_NOTE if self.synthetic else ""

    @property
    def attributes(self) -> dict[str, list[str]]:
        """What is known of the stars besides names, to colour a map by: column → m values."""
        columns = {name: None for detail in self.details for name in detail if name not in NAMING}
        values = {name: [str(d.get(name, "")) for d in self.details] for name in columns}
        return {name.replace("_", " "): v for name, v in values.items() if len(set(v)) > 1}

    @classmethod
    def build(cls, folder: FaceFolder | str | Path, embedder) -> "Gallery":
        """Embed a face folder with an `Embedder`; names come from the folder's `details`.

        A star without a readable image is left out. Raises UserError when the folder is missing
        or empty, when more than 1 % of its images (and more than one) cannot be read.
        """
        folder = folder if isinstance(folder, FaceFolder) else FaceFolder.scan(folder)
        small, kept, skipped = _small_pictures(folder)
        embeddings = l2_normalize(embedder.files([folder.path(i) for i in kept]))
        weights = Path(embedder.weights_path).absolute()
        stars, starts, labels = np.unique(folder.labels[kept], True, True)
        means = l2_normalize(np.add.reduceat(embeddings, starts, axis=0, dtype=np.float64))
        closeness = np.einsum("nd,nd->n", embeddings, means[labels])
        best = np.lexsort((-closeness, labels))[starts]
        portraits = [_square(folder.path(kept[i]), PORTRAIT_SIZE) for i in best]
        known, identities = folder.details(), [folder.identities[i] for i in stars]
        details = [known.get(identity, {}) for identity in identities]
        synthetic = any(
            d.get("synthetic", "").strip().lower() in ("1", "true", "yes", "y") for d in details
        )
        return cls(
            embeddings, labels, means, best, *packed(portraits), *packed(small),
            identities, [folder.name(i) for i in kept], details, synthetic,
            weights.name, weights, embedder.weights_sha256, skipped,
        )  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write one .safetensors file, whole or not at all, and return its path."""
        from safetensors.numpy import save_file

        path = Path(path).absolute()
        info = {name: getattr(self, name) for name in TEXTS.split()}
        weights = self.weights_path
        if weights.drive == path.drive:  # relative, unless on another drive of Windows
            weights = Path(os.path.relpath(weights, path.parent))
        info["weights_path"] = weights.as_posix()
        info["calibration"] = self.calibration and asdict(self.calibration)
        tensors = {name: np.asarray(getattr(self, name), kind) for name, kind in ARRAYS.items()}
        tensors["names"] = np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)
        about = dict(kind=KIND, weights_name=self.weights_name, weights_sha256=self.weights_sha256)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=about)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Gallery":
        """Open a gallery file, its arrays as memory maps; UserError when missing or damaged."""
        try:
            arrays, info = _read(Path(path))
            texts = {name: info[name] for name in TEXTS.split()}
            calibration = info.get("calibration") and Calibration.from_dict(info["calibration"])
            gallery = cls(**arrays, **texts, calibration=calibration)
            gallery._check_sizes()
            return gallery
        except FileNotFoundError:
            what = f"the gallery {path} does not exist; make it with `labkit gallery`"
        except OSError as error:
            what = f"cannot read the gallery {path}: {reason(error)}"
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            what = f"{path} is not a gallery file or is damaged; run `labkit gallery` again"
        raise UserError(what)

    def _check_sizes(self) -> None:
        images, stars, size = len(self.files), len(self.names), self.means.shape[1]
        found = [self.embeddings, self.labels, self.means, self.best, self.portrait_ends]
        expected = [(images, size), (images,), (stars, size), (stars,), (stars,), (images,)]
        if [array.shape for array in (*found, self.small_ends)] != expected or stars != len(self):
            raise ValueError("the arrays do not fit together")
        for indices, limit in ((self.labels, stars), (self.best, images)):
            if not (0 <= indices.min() and indices.max() < limit):
                raise ValueError("an index of nothing")

    def check(self, embedder) -> None:
        """Raise UserError when the gallery was made with other weights than the embedder's."""
        if embedder.weights_sha256 != self.weights_sha256:
            ours, theirs = self.weights_sha256[:8], embedder.weights_sha256[:8]
            raise UserError(
                f"the gallery was made with other weights ({self.weights_name}, {ours}…) than "
                f"{Path(embedder.weights_path).name} ({theirs}…); build it again with these weights"
            )

    def search(self, embeddings: np.ndarray, k: int = 5, *, level: str = "identity") -> list:
        """Return the k most similar stars or images by cosine, as a full sort would find them.

        `embeddings` is (m, d), or one embedding (d,); `level` "identity" compares with each star's
        mean embedding, "image" with all images. Returns per embedding a list of `Match`, most
        similar first; for one embedding (d,) its list. Raises UserError for a k below 1, an
        unknown level, or embeddings of another size or that are not finite.
        """
        if level not in ("identity", "image"):
            raise UserError(f"unknown level {level!r} of a gallery search; use identity or image")
        if k < 1:
            raise UserError(f"k = {k} look-alikes; ask for at least 1")
        queries = l2_normalize(np.atleast_2d(embeddings))
        rows = self.means if level == "identity" else self.embeddings
        if queries.shape[1] != rows.shape[1]:
            sizes = f"{queries.shape[1]} numbers do not fit a gallery of {rows.shape[1]}"
            raise UserError(f"embeddings of {sizes}; use the weights {self.weights_name}")
        answers = [
            [self._match(int(i), float(s), level == "image") for i, s in zip(*found)]
            for found in zip(*top_k(queries, rows, k))
        ]
        return answers[0] if np.ndim(embeddings) == 1 else answers

    def _match(self, index: int, similarity: float, is_image: bool) -> Match:
        image = index if is_image else int(self.best[index])
        star, shown = int(self.labels[image]), image if is_image else None
        return Match(star, self.names[star], similarity, shown, self.files[image])

    def thumbnail(self, identity: int, *, image: int | None = None) -> Image.Image:
        """Return the star's best picture, up to 192 px; with `image`, that photo, up to 64 px."""
        return decode_image(self.thumbnail_jpeg(identity, image=image))

    def thumbnail_jpeg(self, identity: int, *, image: int | None = None) -> bytes:
        """Return the same picture as the bytes of a JPEG."""
        blobs, ends, i = self.portraits, self.portrait_ends, identity
        if image is not None:
            blobs, ends, i = self.small, self.small_ends, image
        if not 0 <= i < len(ends):
            raise UserError(f"the gallery has no picture {i}; it has {len(ends)}")
        return blobs[int(ends[i - 1]) if i else 0 : int(ends[i])].tobytes()

    def thumbnails(self, level: str = "identity") -> list[bytes]:
        """Return JPEGs of all stars (best pictures), or at level "image" of all images (small)."""
        if level == "image":
            return [self.thumbnail_jpeg(0, image=i) for i in range(len(self.files))]
        return [self.thumbnail_jpeg(k) for k in range(len(self))]


def packed(blobs: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return many blobs as one uint8 array, and where each ends, int64."""
    ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
    return np.frombuffer(b"".join(blobs), dtype=np.uint8), ends


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a gallery file as read-only memory maps, and its texts."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length if length < 1 << 24 else 0))
    if header["__metadata__"]["kind"] != KIND:
        raise ValueError("another kind of file")
    data, arrays = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length), {}
    for name, kind in {**ARRAYS, "names": np.uint8}.items():
        start, end = header[name]["data_offsets"]
        arrays[name] = data[start:end].view(kind).reshape(header[name]["shape"])
    info = json.loads(arrays.pop("names").tobytes())
    weights = path.absolute().parent / info["weights_path"]
    return arrays, info | {"weights_path": Path(os.path.normpath(weights))}


def _small_pictures(folder: FaceFolder) -> tuple[list[bytes], list[int], list[str]]:
    """Small JPEGs and indices of the readable images, and the names of the others."""
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda i: _square(folder.path(i), SMALL_SIZE), range(len(folder)))
        small = list(progress(found, total=len(folder), desc="reading the gallery", unit="image"))
    kept = [i for i, jpeg in enumerate(small) if jpeg]
    skipped = [folder.name(i) for i, jpeg in enumerate(small) if not jpeg]
    if len(skipped) > max(1, MAX_BAD_SHARE * len(folder)) or not kept:
        images = f"{len(skipped)} of {len(folder)} images in {folder.root}"
        raise UserError(f"{images} cannot be read, {skipped[0]} first; mend or remove them")
    return [small[i] for i in kept], kept, skipped


def _square(path: Path, side: int) -> bytes:
    """The middle square of an image, at most `side` pixels wide, as a JPEG; b"" if unreadable."""
    try:
        image = decode_image(path, min_size=side)
    except UserError:
        return b""
    side = min(side, *image.size)
    return jpeg_bytes(ImageOps.fit(image, (side, side)), quality=88)
