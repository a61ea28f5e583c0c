"""What can be told of every image of a face folder by looking at its pixels once.

Read by threads (the decoder works outside Python's lock), kept in pieces of 2,048 images in a
store, so that a run that was stopped goes on and the next script need not read the images again.
A piece is used again only while its images have the same names, sizes and times.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image

from labkit.data import FaceFolder, decode_image
from labkit.data.images import DAMAGED, FORMATS, what_is_wrong
from labkit.utils import UserError, atomic_path, progress, reason
from parts.near_duplicates import THUMB, candidates, likeness, perceptual_hash
from parts.tables import listed

PIECE = 2048
SIDE = 128  # pixels of the grey picture that sharpness is measured on, if it has as many
_VERSION = 3
_FIELDS = ("width", "height", "sharpness", "contrast", "bytes", "hash", "thumb", "problem")
_BLANK = np.zeros((THUMB, THUMB), np.uint8)


@dataclass
class Measures:
    """One row per image of a folder, in its order.

    Sharpness is the variance of the Laplacian of the grey picture at 128 px over the variance of
    the picture, so that neither contrast nor size counts. Blurred photos are near 0.
    """

    width: np.ndarray  # int32, pixels; 0 for an image that cannot be read
    height: np.ndarray
    sharpness: np.ndarray  # float32
    contrast: np.ndarray  # float32, standard deviation of the grey picture, 0 to 255
    bytes: np.ndarray  # int64, size of the file
    hash: np.ndarray  # uint64, the perceptual hash
    thumb: np.ndarray  # uint8 (n, 32, 32), grey
    problem: np.ndarray  # object (n,), why an image cannot be read, or ""

    def __len__(self) -> int:
        return len(self.width)

    @property
    def readable(self) -> np.ndarray:
        """bool (n,)."""
        return self.width > 0

    @property
    def telling(self) -> np.ndarray:
        """bool (n,): readable, and more than one flat colour, so that its hash means something."""
        return self.contrast >= 4

    def near_duplicates(
        self, radius: int, alike: float, *, among=True, apart: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of near-duplicates, int64 (m,) each.

        among: bool (n,), the images to look at. apart: (n,), whose values the two of a pair must
        not share.
        """
        numbers = np.flatnonzero(self.telling & among)
        i, j = (numbers[found] for found in candidates(self.hash[numbers], radius))
        if apart is not None:
            different = apart[i] != apart[j]
            i, j = i[different], j[different]
        near = np.zeros(len(i), bool)
        for k in range(0, len(i), PIECE):
            part = slice(k, k + PIECE)
            near[part] = likeness(self.thumb[i[part]], self.thumb[j[part]]) >= alike
        return i[near], j[near]

    @classmethod
    def joined(cls, parts: Sequence["Measures"]) -> "Measures":
        """Return the rows of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


def measure(
    folder: FaceFolder,
    *,
    store: Path | None = None,
    earlier: Sequence[Path] = (),
    desc: str = "reading images",
) -> Measures:
    """Look at every image of `folder`.

    store: folder for the pieces; nothing is kept without one. earlier: stores of other scripts,
    which are read only. Raises UserError when the disk is full.
    """
    parts: list[Measures] = []
    stores = [*([store] if store else []), *earlier]
    with (
        ThreadPoolExecutor(cpu_count()) as threads,
        progress(total=len(folder), desc=desc, unit="images") as bar,
    ):
        for start in range(0, len(folder), PIECE):
            numbers = range(start, min(start + PIECE, len(folder)))
            name = f"{piece_key(folder, numbers)}.npz"
            found = next(filter(None, (_read_piece(place / name) for place in stores)), None)
            if found is None:
                found = _measure_some([folder.path(i) for i in numbers], threads)
                if store:
                    with atomic_path(store / name) as temporary:
                        np.savez(temporary, **vars(found) | {"problem": found.problem.astype(str)})
            bar.update(len(numbers))
            parts.append(found)
    return Measures.joined(parts)


def piece_key(folder: FaceFolder, numbers: range) -> str:
    """Return a digest of the names, sizes and times of some images."""
    digest = blake2b(f"{_VERSION}\0".encode(), digest_size=16)
    for i in numbers:
        name = folder.name(i)
        try:
            about = os.stat(folder.root / name)
            told = f"{about.st_size} {about.st_mtime_ns}"
        except OSError:
            told = "-"
        digest.update(f"{name}\0{told}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _measure_some(paths: list[Path], threads: ThreadPoolExecutor) -> Measures:
    rows = threads.map(_look, paths)
    width, height, sharpness, contrast, size, thumbs, problem = zip(*rows)
    thumbs = np.stack(thumbs)
    return Measures(
        np.array(width, np.int32),
        np.array(height, np.int32),
        np.array(sharpness, np.float32),
        np.array(contrast, np.float32),
        np.array(size, np.int64),
        perceptual_hash(thumbs),
        thumbs,
        np.array([listed(text) for text in problem], object),
    )


def _look(path: Path) -> tuple:
    """Return (width, height, sharpness, contrast, bytes, thumb, problem) of one file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return _problem(0, f"cannot be read: {reason(error)}")
    if not data:
        return _problem(0, "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
        grey = decode_image(data, min_size=2 * SIDE).convert("L")
    except UserError as error:
        return _problem(len(data), str(error).removeprefix("the image "))
    except (*DAMAGED, Image.DecompressionBombError) as error:
        return _problem(len(data), what_is_wrong(error))
    side = min(SIDE, *grey.size)
    small = grey.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    thumb = np.asarray(small.resize((THUMB, THUMB), Image.Resampling.BOX))
    pixels = np.asarray(small, np.float32)
    return width, height, sharpness_of(pixels), float(pixels.std()), len(data), thumb, ""


def _problem(size: int, problem: str) -> tuple:
    return 0, 0, 0.0, 0.0, size, _BLANK, problem


def sharpness_of(pixels: np.ndarray) -> float:
    """Return the variance of the 4-neighbour Laplacian of a picture over that of the picture."""
    variance = float(pixels.var())
    if variance < 1 or min(pixels.shape) < 3:
        return 0.0
    inner = pixels[1:-1, 1:-1]
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    return float((around - 4 * inner).var()) / variance


def _read_piece(path: Path) -> Measures | None:
    try:
        with np.load(path) as stored:
            fields = {name: stored[name] for name in _FIELDS}
            return Measures(**fields | {"problem": fields["problem"].astype(object)})
    except (OSError, ValueError, KeyError, EOFError):
        return None
