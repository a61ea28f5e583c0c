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
from labkit.utils import UserError, atomic_path, l2_normalize, progress

KIND = "kstar-facelab gallery 1"
ARRAYS = {
    "embeddings": np.float32, "labels": np.int64, "means": np.float32, "best": np.int64,
    "portraits": np.uint8, "portrait_ends": np.int64, "small": np.uint8, "small_ends": np.int64,
}  # fmt: skip
TEXTS = "identities files details synthetic weights_name weights_path weights_sha256 skipped"
NAMING = {"identity", "number", "population", "name", "hangul", "synthetic"}  # not looks


@dataclass(frozen=True)
class Match:
    """One answer of a search."""

    identity: int  # index of the star in the gallery
    name: str  # the star's name as shown
    similarity: float  # cosine in [-1, 1]
    image: int | None  # index of the image, in an image-level search
    file: str  # the image's file name; of the star's best picture in a star-level search


def top_k(query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows most similar to a query, as a full sort would find them.

    A product in float32 finds candidates, which are sorted by their products in float64, equal
    ones by index. `query` (d,) and `rows` (n, d) are float32 of length 1. Returns indices, int64
    (k,), and cosines, float32 (k,), with k at most n.
    """
    scores = rows @ query
    if not np.isfinite(scores).all():
        raise UserError("an embedding is not finite: train the network that made it again")
    k = min(k, len(rows))
    rounding = rows.shape[1] * np.finfo(np.float32).eps  # what two float32 products can be off
    candidates = np.flatnonzero(scores >= np.partition(scores, -k)[-k] - rounding)
    exact = (rows[candidates] * query.astype(np.float64)).sum(axis=1)
    order = np.argsort(-exact, kind="stable")[:k]
    return candidates[order], exact[order].astype(np.float32)


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
        rendered = "All faces here are synthetic: rendered people who do not exist."
        return rendered if self.synthetic else ""

    @property
    def attributes(self) -> dict[str, list[str]]:
        """What is known of the stars besides names, to colour a map by: column → m values."""
        columns = {name: None for detail in self.details for name in detail if name not in NAMING}
        values = {name: [str(d.get(name, "")) for d in self.details] for name in columns}
        return {name.replace("_", " "): v for name, v in values.items() if len(set(v)) > 1}

    @classmethod
    def build(cls, folder: FaceFolder | str | Path, embedder) -> "Gallery":
        """Embed a face folder with an `Embedder`; names come from the folder's `details`.

        A star without a readable image is left out. Raises UserError as `scan`, `check_skipped`.
        """
        folder = folder if isinstance(folder, FaceFolder) else FaceFolder.scan(folder)
        with ThreadPoolExecutor() as threads:
            found = threads.map(lambda i: _square(folder.source(i), 64), range(len(folder)))
            small = [*progress(found, total=len(folder), desc="reading the gallery", unit="image")]
        kept = [i for i, jpeg in enumerate(small) if jpeg]
        skipped = [folder.name(i) for i, jpeg in enumerate(small) if not jpeg]
        folder.check_skipped(skipped)
        embeddings = l2_normalize(embedder.files([folder.source(i) for i in kept]))
        stars, starts, labels = np.unique(folder.labels[kept], True, True)
        means = l2_normalize(np.add.reduceat(embeddings, starts, axis=0, dtype=np.float64))
        closeness = np.einsum("nd,nd->n", embeddings, means[labels])
        best = np.lexsort((-closeness, labels))[starts]
        portraits = [_square(folder.source(kept[i]), 192) for i in best]
        known, identities = folder.details(), [folder.identities[i] for i in stars]
        details = [known.get(identity, {}) for identity in identities]
        synthetic = {d.get("synthetic", "").lower() for d in details} & {"1", "true", "yes", "y"}
        weights = Path(embedder.weights_path).absolute()
        return cls(
            embeddings, labels, means, best, *packed(portraits), *packed([small[i] for i in kept]),
            identities, [folder.name(i) for i in kept], details, bool(synthetic),
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
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:  # maps, where framework="np" copies
                kind, names = file.metadata()["kind"], (*ARRAYS, "names")
                arrays = {name: file.get_tensor(name).numpy() for name in names}
            info = json.loads(arrays.pop("names").tobytes())
            weights = os.path.normpath(Path(path).absolute().parent / info["weights_path"])
            info["weights_path"] = Path(weights)
            if about := info.get("calibration"):  # files made before have "quantiles"
                rows = [about["quantiles"]] if "quantiles" in about else about["similarities"]
                info["calibration"] = Calibration(rows)
            gallery = cls(**arrays, **info)
            stars, images = gallery.labels.max() + 1, len(gallery.labels)
            lengths = [len(gallery), len(gallery.names), len(gallery.means), len(gallery.files)]
            if kind != KIND or lengths != [stars, stars, stars, images]:
                raise ValueError("the arrays do not fit together")
            return gallery
        except FileNotFoundError:
            what = "does not exist; make it with `labkit gallery`"
        except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError):
            what = "cannot be read as a gallery; run `labkit gallery` again"
        raise UserError(f"the gallery {path} {what}")

    def check(self, embedder) -> None:
        """Raise UserError when the gallery was made with other weights than the embedder's."""
        if embedder.weights_sha256 != self.weights_sha256:
            raise UserError(f"the gallery is of other weights, {self.weights_name}: build it again")

    def search(self, embeddings: np.ndarray, k: int = 5, *, level: str = "identity") -> list:
        """Return the k most similar stars or images by cosine, as a full sort would find them.

        Level "identity" compares with each star's mean embedding, "image" with all images. Returns
        a list of `Match`, most similar first, for one embedding (d,); for (m, d) a list of these.
        Raises UserError for a k below 1 or embeddings that do not fit.
        """
        if level not in ("identity", "image") or k < 1:
            raise UserError(f"no search for {k} of level {level!r}; ask for 1 identity or image")
        if np.ndim(embeddings) == 2:
            return [self.search(embedding, k, level=level) for embedding in embeddings]
        query, by_image = l2_normalize(embeddings), level == "image"
        rows = self.embeddings if by_image else self.means
        if query.shape != rows.shape[1:]:
            raise UserError(f"{query.size} numbers do not fit a gallery of {rows.shape[1]} each")
        matches = []
        for index, similarity in zip(*(values.tolist() for values in top_k(query, rows, k))):
            image = index if by_image else int(self.best[index])
            star, shown = int(self.labels[image]), image if by_image else None
            matches.append(Match(star, self.names[star], similarity, shown, self.files[image]))
        return matches

    def thumbnail(self, identity: int, *, image: int | None = None) -> Image.Image:
        """Return the star's best picture, up to 192 px; with `image`, that photo, up to 64 px."""
        found = (identity, "identity") if image is None else (image, "image")
        return decode_image(self.thumbnail_jpeg(*found))

    def thumbnail_jpeg(self, index: int, level: str = "identity") -> bytes:
        """Return the best picture of a star, or at level "image" a small photo, as a JPEG."""
        blobs, ends = self.portraits, self.portrait_ends
        if level == "image":
            blobs, ends = self.small, self.small_ends
        return blobs[ends[index - 1] if index else 0 : ends[index]].tobytes()

    def thumbnails(self, level: str = "identity") -> list[bytes]:
        """Return JPEGs of all stars (best pictures), or at level "image" of all images (small)."""
        count = len(self.files) if level == "image" else len(self)
        return [self.thumbnail_jpeg(i, level) for i in range(count)]


def packed(blobs: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return many blobs as one uint8 array, and where each ends, int64."""
    return np.frombuffer(b"".join(blobs), dtype=np.uint8), np.cumsum([*map(len, blobs)])


def _square(path: Path, side: int) -> bytes:
    """The middle square of an image, at most `side` pixels wide, as a JPEG; b"" if unreadable."""
    try:
        image = decode_image(path, min_size=side)
    except UserError:
        return b""
    side = min(side, *image.size)
    return jpeg_bytes(ImageOps.fit(image, (side, side)), quality=88)
