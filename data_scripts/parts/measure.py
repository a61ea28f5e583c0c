"""What can be told of every image of a face folder by looking at its pixels once.

Read by threads (the decoder works outside Python's lock), kept in pieces of 2,048 images in a
store, so that a run that was stopped goes on and the next script need not read the images again.
A piece is used again only while its images have the same names, sizes and times.
"""

import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image

from labkit.data import FaceFolder, decode_image
from labkit.data.images import DAMAGED, what_is_wrong
from labkit.utils import UserError, progress, reason
from parts.job import place
from parts.near_duplicates import THUMB, likeness, perceptual_hash

PIECE = 2048
SIDE = 128
"""Sharpness is measured on the grey picture at this many pixels, or at its own size if smaller."""
_VERSION = 1
_FIELDS = ("width", "height", "sharpness", "contrast", "brightness", "bytes", "hash", "thumb")


@dataclass
class Measures:
    """One row per image of a folder, in its order.

    width, height: int32, pixels; 0 for an image that cannot be read.
    sharpness: float32; variance of the Laplacian of the grey picture at 128 px over the variance
        of the picture, so that neither contrast nor size counts. Blurred photos are near 0.
    contrast, brightness: float32; standard deviation and mean of the grey picture, 0 to 255.
    bytes: int64, size of the file.
    hash: uint64, the perceptual hash. thumb: uint8 (n, 32, 32), grey.
    problem: why an image cannot be read, or "".
    """

    width: np.ndarray
    height: np.ndarray
    sharpness: np.ndarray
    contrast: np.ndarray
    brightness: np.ndarray
    bytes: np.ndarray
    hash: np.ndarray
    thumb: np.ndarray
    problem: list[str]

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

    def likeness(self, i: np.ndarray, j: np.ndarray, *, block: int = 2048) -> np.ndarray:
        """How alike the images of each pair are, float32 (m,); see `near_duplicates.likeness`."""
        parts = [
            likeness(self.thumb[i[k : k + block]], self.thumb[j[k : k + block]])
            for k in range(0, len(i), block)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    @classmethod
    def joined(cls, parts: Sequence["Measures"]) -> "Measures":
        """The rows of several, one after the other."""
        fields = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS}
        return cls(**fields, problem=[text for part in parts for text in part.problem])


def measure(
    folder: FaceFolder,
    *,
    store: Path | None = None,
    partial: Path | None = None,
    earlier: Sequence[Path] = (),
    workers: int | None = None,
    desc: str = "reading images",
) -> Measures:
    """Look at every image of `folder`.

    store: folder for the pieces; nothing is kept without one. partial: where a file of the store
    is begun. earlier: stores of other scripts, which are read only. Raises UserError when the
    disk is full.
    """
    starts = range(0, len(folder), PIECE)
    parts: list[Measures] = []
    with (
        ThreadPoolExecutor(workers or cpu_count()) as threads,
        progress(total=len(folder), desc=desc, unit="images") as bar,
    ):
        for start in starts:
            numbers = range(start, min(start + PIECE, len(folder)))
            key = piece_key(folder, numbers)
            name = f"{key}.npz"
            found = None
            for place_of in (*((store,) if store else ()), *earlier):
                found = found or _read_piece(place_of / name, len(numbers))
            if found is None:
                found = _measure_some(folder, numbers, threads, bar)
                if store:
                    place(partial or store, store / name, _as_bytes(found))
            else:
                bar.update(len(numbers))
            parts.append(found)
    return Measures.joined(parts)


def piece_key(folder: FaceFolder, numbers: range) -> str:
    """A digest of the names, sizes and times of some images."""
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


def _measure_some(folder, numbers: range, threads: ThreadPoolExecutor, bar) -> Measures:
    rows = []
    for row in _in_order(threads, (folder.path(i) for i in numbers)):
        rows.append(row)
        bar.update()
    numbers_of = list(zip(*(row[:6] for row in rows), strict=True))
    kinds = (np.int32, np.int32, np.float32, np.float32, np.float32, np.int64)
    fields = [np.array(column, kind) for column, kind in zip(numbers_of, kinds, strict=True)]
    thumbs = np.stack([row[6] for row in rows])
    return Measures(*fields, perceptual_hash(thumbs), thumbs, [row[7] for row in rows])


def _in_order(threads: ThreadPoolExecutor, paths: Iterator[Path], ahead: int = 256) -> Iterator:
    waiting = deque(threads.submit(_look, path) for path in islice(paths, ahead))
    try:
        while waiting:
            done = waiting.popleft()
            waiting.extend(threads.submit(_look, path) for path in islice(paths, 1))
            yield done.result()
    finally:
        for job in waiting:
            job.cancel()


def _look(path: Path) -> tuple:
    """(width, height, sharpness, contrast, brightness, bytes, thumb, problem) of one file."""
    blank = np.zeros((THUMB, THUMB), np.uint8)
    try:
        data = path.read_bytes()
    except OSError as error:
        return 0, 0, 0, 0, 0, 0, blank, f"cannot be read: {reason(error)}"
    if not data:
        return 0, 0, 0, 0, 0, 0, blank, "empty file"
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if opened.format not in ("JPEG", "PNG"):
                kind = opened.format
                return 0, 0, 0, 0, 0, len(data), blank, f"a {kind} file by another name"
        grey = decode_image(data, min_size=2 * SIDE).convert("L")
    except UserError as error:
        return 0, 0, 0, 0, 0, len(data), blank, str(error).removeprefix("the image ")
    except (*DAMAGED, Image.DecompressionBombError) as error:
        return 0, 0, 0, 0, 0, len(data), blank, what_is_wrong(error)
    side = min(SIDE, *grey.size)
    small = grey.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    thumb = np.asarray(small.resize((THUMB, THUMB), Image.Resampling.BOX))
    pixels = np.asarray(small, np.float32)
    spread = float(pixels.std())
    return (
        width,
        height,
        sharpness_of(pixels),
        spread,
        float(pixels.mean()),
        len(data),
        thumb,
        "",
    )


def sharpness_of(pixels: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian over the variance of the picture, float32 (h, w)."""
    variance = float(pixels.var())
    if variance < 1 or min(pixels.shape) < 3:
        return 0.0
    inner = pixels[1:-1, 1:-1]
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    return float((around - 4 * inner).var()) / variance


def _as_bytes(found: Measures) -> bytes:
    file = io.BytesIO()
    problems = np.array([text.encode("utf-8", "replace") for text in found.problem])
    np.savez(file, problem=problems, **{name: getattr(found, name) for name in _FIELDS})
    return file.getvalue()


def _read_piece(path: Path, rows: int) -> Measures | None:
    try:
        with np.load(path) as stored:
            fields = {name: stored[name] for name in _FIELDS}
            problem = [text.decode("utf-8") for text in stored["problem"]]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return Measures(**fields, problem=problem) if len(problem) == rows else None
