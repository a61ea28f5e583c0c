"""Known people: embeddings, one mean per star, and pictures to show."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image

from labkit.data import FaceFolder, decode_image
from labkit.gallery.compact import CompactScreen
from labkit.gallery.file import packed, read_gallery, unpacked, write_gallery
from labkit.gallery.likeness import Calibration
from labkit.gallery.search import as_rows, normalized, top_k
from labkit.utils import UserError, progress

PORTRAIT_SIZE, SMALL_SIZE = 192, 64
BAD_SHARE = 0.01
SYNTHETIC_NOTE = "All faces here are synthetic: rendered people who do not exist."
NAMING = ("identity", "number", "population", "name", "hangul", "synthetic")
"""Columns of `identities.csv` that say who a star is, not how the star looks."""
LARGE = 100_000
"""Images from which a gallery file also holds the compact copy that image searches screen."""


@dataclass(frozen=True)
class Match:
    """One answer of a search.

    Attributes:
        identity: number of the star in the gallery.
        name: the star's name as shown.
        similarity: cosine in [-1, 1].
        image: number of the image in an image-level search, else None.
        file: the image's file name; of the star's best picture in a star-level search.
    """

    identity: int
    name: str
    similarity: float
    image: int | None
    file: str


class Gallery:
    """Known people: embeddings, one mean per star, and pictures to show.

    Attributes:
        embeddings: float32 (n, d), one per image, length 1.
        labels: int64 (n,), index into `identities`, non-decreasing.
        means: float32 (m, d), per star the mean of its embeddings scaled to length 1.
        best: int64 (m,), per star the image nearest to its mean.
        identities: names of the stars' folders.
        files: names of the images, `identity/image.jpg`.
        details: per star a dict with what `identities.csv` says (`name`, `hangul`, …).
        synthetic: whether any star is a rendered person.
        weights_name, weights_path, weights_sha256: of the weights that made the embeddings; the
            path is kept relative to the gallery file.
        skipped: files that could not be read when it was built.
        calibration: what a similarity to a star means, or None; set it before `save` to keep it.
    """

    def __init__(self, arrays: dict[str, np.ndarray], info: dict):
        self.embeddings = arrays["embeddings"]
        self.labels = arrays["labels"]
        self.means = arrays["means"]
        self.best = arrays["best"]
        self._arrays = arrays
        self._compact = None
        if "codes" in arrays:
            compact = (arrays[name] for name in ("codes", "scales"))
            self._compact = CompactScreen(self.embeddings, *compact, float(arrays["error"][0]))
        self._info = info
        self.identities: list[str] = info["identities"]
        self.files: list[str] = info["files"]
        self.details: list[dict] = info["details"]
        self.synthetic: bool = info["synthetic"]
        self.weights_name: str = info["weights_name"]
        self.weights_path = Path(info["weights_path"])
        self.weights_sha256: str = info["weights_sha256"]
        self.skipped: list[str] = info["skipped"]
        kept = info.get("calibration")
        self.calibration: Calibration | None = Calibration.of(kept) if kept else None
        self.names = [
            str(detail.get("name") or folder)
            for detail, folder in zip(self.details, self.identities, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.identities)

    def __repr__(self) -> str:
        return f"Gallery({len(self)} stars, {len(self.files)} images, {self.weights_name})"

    @property
    def note(self) -> str:
        """A line to show with the pictures; empty when the people are real."""
        return SYNTHETIC_NOTE if self.synthetic else ""

    @property
    def attributes(self) -> dict[str, list[str]]:
        """What is known of the stars besides names, to colour a map by: column → m values."""
        columns = {name: None for detail in self.details for name in detail}
        found = {}
        for name in columns:
            values = [str(detail.get(name, "")) for detail in self.details]
            if name not in NAMING and 1 < len(set(values)) and any(values):
                found[name.replace("_", " ")] = values
        return found

    @classmethod
    def build(
        cls,
        folder: FaceFolder | str | Path,
        embedder,
        *,
        images_per_identity: int | None = None,
        batch_size: int = 128,
    ) -> "Gallery":
        """Embed a face folder.

        Args:
            folder: a face folder or its path. Names come from its `details`.
            embedder: an `Embedder`.
            images_per_identity: at most so many images of each star, spread over its files.
            batch_size: images decoded and embedded at a time.

        Raises:
            UserError: the folder is missing or empty, or more than 1 % of its images (and more
                than one) cannot be read; a star without a readable image is left out.
        """
        if not isinstance(folder, FaceFolder):
            folder = FaceFolder.scan(folder)
        chosen = _spread(folder, images_per_identity)
        embeddings, small, kept, skipped = _embed(folder, chosen, embedder, batch_size)
        labels, identities = _renumbered(folder, kept)
        starts = np.searchsorted(labels, np.arange(len(identities)))
        means = normalized(np.add.reduceat(embeddings, starts, axis=0, dtype=np.float64))
        closeness = np.einsum("nd,nd->n", embeddings, means[labels])
        order = np.lexsort((-closeness, labels))
        best = order[starts]
        portraits = [_jpeg(decode_image(folder.path(kept[i])), PORTRAIT_SIZE) for i in best]
        details = folder.details()
        arrays = {"embeddings": embeddings, "labels": labels, "means": means, "best": best}
        arrays["portraits"], arrays["portrait_ends"] = packed(portraits)
        arrays["small"], arrays["small_ends"] = packed(small)
        details = [details.get(identity, {}) for identity in identities]
        info = {
            "identities": identities,
            "files": [folder.name(i) for i in kept],
            "details": details,
            "synthetic": any(_truthy(detail.get("synthetic")) for detail in details),
            "weights_name": Path(embedder.weights_path).name,
            "weights_path": str(Path(embedder.weights_path).absolute()),
            "weights_sha256": embedder.weights_sha256,
            "skipped": skipped,
        }
        return cls(arrays, info)

    def save(self, path: str | Path) -> Path:
        """Write one .safetensors file, whole or not at all; gives the path."""
        arrays = dict(self._arrays)
        if len(self.files) >= LARGE and "codes" not in arrays:
            screen = CompactScreen.of(self.embeddings)
            arrays |= {"codes": screen.codes, "scales": screen.scales}
            arrays["error"] = np.array([screen.error])
        kept = asdict(self.calibration) if self.calibration else None
        return write_gallery(path, arrays, {**self._info, "calibration": kept})

    @classmethod
    def load(cls, path: str | Path) -> "Gallery":
        """Open a gallery file; arrays stay on disk until they are read (memory-mapped).

        Raises:
            UserError: the file is missing or not a gallery.
        """
        return cls(*read_gallery(path))

    def check(self, embedder) -> None:
        """UserError when the gallery was made with other weights than the embedder's."""
        if embedder.weights_sha256 != self.weights_sha256:
            raise UserError(
                f"the gallery was made with other weights ({self.weights_name}, "
                f"{self.weights_sha256[:8]}…) than {Path(embedder.weights_path).name} "
                f"({embedder.weights_sha256[:8]}…); build the gallery again with these weights"
            )

    def search(
        self, embeddings: np.ndarray, k: int = 5, *, level: str = "identity"
    ) -> list[list[Match]] | list[Match]:
        """The most alike stars or images by cosine similarity, as a full sort would find them.

        Args:
            embeddings: (m, d), or one embedding (d,).
            k: how many to find; at most as many as there are.
            level: "identity" compares with each star's mean embedding, "image" with all images.

        Returns:
            Per embedding a list of `Match`, most alike first; for one embedding (d,) its list.

        Raises:
            UserError: k is below 1, the level is unknown, or the size of the embeddings differs.
        """
        if level not in ("identity", "image"):
            raise UserError(f"unknown level {level!r} of a gallery search; use identity or image")
        if k < 1:
            raise UserError(f"k = {k} look-alikes; ask for at least 1")
        single = np.ndim(embeddings) == 1
        queries = normalized(embeddings)
        rows = self.means if level == "identity" else self.embeddings
        if queries.shape[1] != rows.shape[1]:
            raise UserError(
                f"embeddings of {queries.shape[1]} numbers do not fit a gallery of "
                f"{rows.shape[1]}; use the weights {self.weights_name}"
            )
        if level == "image" and self._compact is not None:
            numbers, similarities = self._compact.top_k(queries, k)
        else:
            numbers, similarities = top_k(queries, rows, k)
        answers = [
            [self._match(int(i), float(s), level) for i, s in zip(row, values, strict=True)]
            for row, values in zip(numbers, similarities, strict=True)
        ]
        return answers[0] if single else answers

    def _match(self, number: int, similarity: float, level: str) -> Match:
        image = number if level == "image" else None
        identity = int(self.labels[number]) if level == "image" else number
        file = self.files[number if level == "image" else int(self.best[identity])]
        return Match(identity, self.names[identity], similarity, image, file)

    def thumbnail(self, identity: int, *, image: int | None = None) -> Image.Image:
        """The star's best picture, up to 192 px; with `image`, that photo, up to 64 px."""
        return Image.open(io.BytesIO(self.thumbnail_jpeg(identity, image=image))).convert("RGB")

    def thumbnail_jpeg(self, identity: int, *, image: int | None = None) -> bytes:
        """The same picture as the bytes of a JPEG."""
        if image is None:
            return unpacked(self._arrays["portraits"], self._arrays["portrait_ends"], identity)
        return unpacked(self._arrays["small"], self._arrays["small_ends"], image)

    def thumbnails(self, level: str = "identity") -> list[bytes]:
        """JPEGs of all stars (best pictures), or with `level="image"` of all photos (small)."""
        if level == "identity":
            return [self.thumbnail_jpeg(k) for k in range(len(self))]
        return [self.thumbnail_jpeg(0, image=i) for i in range(len(self.files))]


def _truthy(value) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes", "y")


def _spread(folder: FaceFolder, limit: int | None) -> np.ndarray:
    """Numbers of the images to use: at most `limit` of each identity, evenly over its files."""
    if limit is None:
        return np.arange(len(folder))
    if limit < 1:
        raise UserError(f"images_per_identity = {limit}; use at least 1")
    chosen = []
    for k in range(len(folder.identities)):
        images = np.asarray(folder.indices_of(k))
        places = np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(int)
        chosen.append(images[places])
    return np.concatenate(chosen)


def _embed(folder: FaceFolder, chosen: np.ndarray, embedder, batch_size: int):
    """Embeddings, small JPEGs and numbers of the readable images, and the names of the others."""
    vectors, small, kept, skipped = [], [], [], []
    batches = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    threads = min(16, cpu_count())
    with (
        ThreadPoolExecutor(threads) as pool,
        progress(total=len(chosen), desc="gallery", unit="image") as bar,
    ):

        def read(batch):
            return [pool.submit(_decoded, folder.path(i)) for i in batch]

        waiting = read(batches[0])
        for number, batch in enumerate(batches):
            results = [future.result() for future in waiting]
            waiting = read(batches[number + 1]) if number + 1 < len(batches) else []
            good = [(i, *result) for i, result in zip(batch, results, strict=True) if result]
            skipped += [folder.name(i) for i, r in zip(batch, results, strict=True) if not r]
            if good:
                vectors.append(as_rows(embedder([image for _, image, _ in good])))
                small += [jpeg for _, _, jpeg in good]
                kept += [int(i) for i, _, _ in good]
            bar.update(len(batch))
    if len(skipped) > max(1, BAD_SHARE * len(chosen)) or not kept:
        raise UserError(
            f"{len(skipped)} of {len(chosen)} images in {folder.root} cannot be read, "
            f"{skipped[0]} first; mend or remove them"
        )
    return normalized(np.concatenate(vectors)), small, np.array(kept), skipped


def _decoded(path: Path) -> tuple[Image.Image, bytes] | None:
    try:
        image = decode_image(path)
    except UserError:
        return None
    return image, _jpeg(image, SMALL_SIZE)


def _renumbered(folder: FaceFolder, kept: np.ndarray) -> tuple[np.ndarray, list[str]]:
    present, labels = np.unique(folder.labels[kept], return_inverse=True)
    return labels.astype(np.int64), [folder.identities[k] for k in present]


def _jpeg(image: Image.Image, side: int) -> bytes:
    """The middle square, at most `side` pixels wide, as a JPEG."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    small = image.resize((min(side, edge),) * 2, Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
