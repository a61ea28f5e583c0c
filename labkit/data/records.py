"""Packed sets: images in one file, as insightface's trainers and MXNet's RecordIO keep them.

`train.rec` holds records, `train.idx` a line `number<TAB>position` for each. A record is a magic
number, a word with its part and length, and a body: the image header `IfQQ` (flag, label, id, id2),
`flag` more float32 labels, and the bytes of an image. A body with the magic number in it is cut
there into parts. Record 0 holds no image but two labels: images are the records from 1 to below the
first; from there to below the second is one record per identity, with the range of its images.
"""

import json
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit.utils import UserError, atomic_path, progress, read_file, reason, write_text

MAGIC, HEADER = struct.pack("<I", 0xCED7230A), struct.Struct("<IfQQ")
LENGTH_BITS, (WHOLE, FIRST, MIDDLE, LAST) = 29, range(4)
ELSEWHERE = "is not where the index says: is it that of another file?"
NAMES = "names.txt"  # of the images in the order of their records, which the format has not


class RecordFile:
    """The records of a `.rec` file: `positions` int64 (n,) in it of those with `numbers` (n,)."""

    def __init__(self, path: Path, numbers: np.ndarray, positions: np.ndarray):
        self.path, self.numbers, self.positions = path, numbers, positions
        self._file = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_file": None}  # an open file cannot go to another process

    def take(self, places: np.ndarray | slice) -> "RecordFile":
        """Return the records at these places of the two arrays."""
        return RecordFile(self.path, self.numbers[places], self.positions[places])

    def image(self, i: int) -> bytes:
        """Return the image in the record at place i; UserError names a damaged record."""
        return self._split(i, self._body(i))[1]

    def labels(self, i: int) -> tuple[float, ...]:
        """Return the labels in the record at place i, one or more; UserError as `image`."""
        block = self._read(i, int(self.positions[i]), 8 + HEADER.size + 8)
        if not block.startswith(MAGIC):
            raise self._damaged(i, ELSEWHERE)
        return self._split(i, block[8:])[0]

    def title(self, i: int) -> str:
        """Return how the record at place i is called in messages."""
        return f"record {self.numbers[i]} of {self.path}"

    def _split(self, i: int, body: bytes) -> tuple[tuple[float, ...], bytes]:
        try:
            flag, label, _, _ = HEADER.unpack_from(body)
            if not flag:
                return (label,), body[HEADER.size :]
            labels = np.frombuffer(body, "<f4", min(flag, 2), HEADER.size)
        except (struct.error, ValueError):
            raise self._damaged(i, "has no image header") from None
        return tuple(labels.tolist()), body[HEADER.size + 4 * flag :]

    def _body(self, i: int) -> bytes:
        position, parts = int(self.positions[i]), []
        while True:
            block = self._read(i, position, 16384)  # most records at once
            word = struct.unpack_from("<I", block.ljust(8, b"\0"), 4)[0]
            part, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
            if not block.startswith(MAGIC) or (part in (MIDDLE, LAST)) != bool(parts):
                raise self._damaged(i, ELSEWHERE)
            body = block[8 : 8 + length]
            if length > len(body):
                body += self._read(i, position + 8 + len(body), length - len(body))
            if length > len(body):
                raise self._damaged(i, "is cut short")
            parts.append(body)
            if part in (WHOLE, LAST):
                return MAGIC.join(parts)
            position += 8 + length + -length % 4

    def _read(self, i: int, position: int, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = open(self.path, "rb", buffering=0)
            if sys.platform != "win32":  # one file for all threads and forked workers
                return os.pread(self._file.fileno(), size, position)
            with open(self.path, "rb") as file:
                file.seek(position)
                return file.read(size)
        except (OSError, ValueError) as error:
            raise self._damaged(i, f"cannot be read: {reason(error)}") from None

    def _damaged(self, i: int, what: str) -> UserError:
        return UserError(f"{self.title(i)} {what}")


@dataclass(frozen=True)
class Record:
    """An image file in a packed set, read when it is asked for."""

    records: RecordFile
    place: int

    def read(self) -> bytes:
        """Return its bytes; UserError for a damaged record."""
        return self.records.image(self.place)

    def __str__(self) -> str:
        return self.records.title(self.place)


def find_records(path: Path) -> Path | None:
    """Return the `.rec` file that a path is or holds as `train.rec`; None when there is none."""
    if path.suffix.lower() == ".rec":
        return path
    return path / "train.rec" if (path / "train.rec").is_file() else None


def read_records(path: Path, cache=None) -> tuple[RecordFile, list[str], np.ndarray, list[str]]:
    """Return the images of a packed set by identity: records, identities, labels (n,), names.

    An identity is called by its label, and an image by its record (names: empty), unless
    `names.txt` beside the file says how they were called. cache: an .npz file that keeps the labels
    where record 0 does not give them. Raises UserError for files that do not belong together.
    """
    every = _read_index(path)
    labels, images = _ranges(every)
    if labels is None:
        labels = _labels_one_by_one(images, cache)
    if not len(labels):
        raise UserError(f"{path} holds no images")
    names_file = path.with_name(NAMES)
    names = read_file(names_file).decode("utf-8", "surrogateescape") if names_file.exists() else ""
    names = names.split("\n")[:-1]
    if names and len(names) != len(labels):
        raise UserError(f"{names_file} has {len(names):,} names for {len(labels):,} images")
    known, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    width = len(str(known[-1]))
    identities = [f"{label:0{width}d}" for label in known.tolist()]
    if names:
        identities = [names[i].split("/")[0] for i in first]
        if identities != sorted({name.split("/")[0] for name in names}):
            raise UserError(f"{names_file} and the labels in {path} do not agree on who is who")
    if (labels[1:] >= labels[:-1]).all():  # as in most sets: without copies of long arrays
        return images, identities, labels, names
    order = np.argsort(labels, kind="stable")
    return images.take(order), identities, labels[order], [names[i] for i in order if names]


def _read_index(path: Path) -> RecordFile:
    """Return all records that the `.idx` file beside `path` lists, by their numbers."""
    index = path.with_suffix(".idx")
    try:
        size, empty = path.stat().st_size, index.stat().st_size == 0
        values = np.zeros((0, 2)) if empty else np.loadtxt(index, dtype=np.int64, ndmin=2)
    except FileNotFoundError as error:
        missing = f"{error.filename or index} is missing"
        raise UserError(f"{missing}: a packed set is a .rec file with its .idx") from None
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {reason(error)}") from None
    except ValueError:
        raise UserError(f"{index} is no index: expected lines of a number and a position") from None
    if not len(values) or values.shape[1] != 2 or values.min() < 0:
        raise UserError(f"{index} is no index: expected lines of a number and a position")
    if (beyond := values[:, 1].max()) >= size:
        told = f"{index} names position {beyond:,}, but {path} ends at {size:,}"
        raise UserError(f"{told}: it is cut short, or the index is that of another file")
    if (values[1:, 0] < values[:-1, 0]).any():
        values = values[np.argsort(values[:, 0], kind="stable")]
    return RecordFile(path, values[:, 0], values[:, 1])


def _ranges(every: RecordFile) -> tuple[np.ndarray | None, RecordFile]:
    """Return the labels by the ranges of the identities, or None without, and the images."""
    if every.numbers[0] != 0 or len(about := every.labels(0)) < 2:
        return None, every
    end, last = map(int, about)
    starts = np.searchsorted(every.numbers, [1, end, last])
    images = every.take(slice(starts[0], starts[1]))
    ranges = [every.labels(k) for k in range(starts[1], starts[2])]
    begin = np.array([r[0] for r in ranges], np.int64)
    stop = np.array([r[-1] for r in ranges], np.int64)
    order = np.argsort(begin)
    begin, stop = begin[order], stop[order]
    filled = stop > begin
    begin, stop = begin[filled], stop[filled]
    whole = len(begin) and begin[0] == 1 and stop[-1] == end and (begin[1:] == stop[:-1]).all()
    if not whole or len(images.numbers) != end - 1:
        return None, images
    labels = np.array([images.labels(k - 1)[0] for k in begin], np.int64)
    one_each = len(np.unique(labels)) == len(labels)
    return (np.repeat(labels, stop - begin) if one_each else None), images


def _labels_one_by_one(images: RecordFile, cache) -> np.ndarray:
    """Return the labels in the headers of the images, int64 (n,), or those kept in `cache`."""
    about = images.path.stat()
    key = json.dumps(["labkit packed set 1", about.st_size, about.st_mtime_ns])
    if cache is not None:
        try:
            with np.load(cache) as stored:
                if str(stored["about"]) == key and len(stored["labels"]) == len(images.numbers):
                    return stored["labels"]
        except Exception:  # whatever NumPy raises for a file that is missing, damaged or another's
            pass
    places = progress(range(len(images.numbers)), desc="reading labels", unit="record")
    labels = np.fromiter((images.labels(i)[0] for i in places), np.int64, len(images.numbers))
    if cache is not None:
        with atomic_path(cache) as temporary:
            np.savez(temporary, about=key, labels=labels)
    return labels


def write_records(path: Path, images: Iterable[tuple[int, bytes]]) -> None:
    """Write images (label, bytes of its file), sorted by label, as `path` with its `.idx`.

    With record 0 and the ranges of the identities, so that reading needs no pass over the file.
    """
    positions, ranges, last = [0], [], None
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_record((0, 0)))
        for label, data in images:
            if label != last:
                ranges.append(len(positions))
            positions.append(file.tell())
            file.write(_record((label,), data))
            last = label
        end = len(positions)
        for limits in zip(ranges, [*ranges[1:], end]):
            positions.append(file.tell())
            file.write(_record(limits))
        file.seek(0)
        file.write(_record((end, len(positions))))
    index = "".join(f"{number}\t{position}\n" for number, position in enumerate(positions))
    write_text(path.with_suffix(".idx"), index)


def _record(labels: Sequence[float], image: bytes = b"") -> bytes:
    """Return a record; several labels stand behind the image header, one in it."""
    several = labels if len(labels) > 1 else ()
    header = HEADER.pack(len(several), 0 if several else labels[0], 0, 0)
    body = header + np.array(several, "<f4").tobytes() + image
    parts = [
        MAGIC + struct.pack("<I", kind << LENGTH_BITS | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in _parts(body)
    ]
    return b"".join(parts)


def _parts(body: bytes) -> list[tuple[int, bytes]]:
    """Cut a body where the magic number stands at a multiple of four bytes, as RecordIO does."""
    words = np.frombuffer(body[: len(body) // 4 * 4], "<u4")
    cuts = (4 * np.flatnonzero(words == struct.unpack("<I", MAGIC)[0])).tolist()
    if not cuts:
        return [(WHOLE, body)]
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(body)]
    kinds = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST]
    return [(kind, body[start:end]) for kind, start, end in zip(kinds, starts, ends)]
