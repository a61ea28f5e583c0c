"""Face folders: ROOT/identity/image.jpg, an image at any depth below its identity.

A packed set (`labkit.data.records`) is one as well: what reads images asks for their `source`.
"""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.data.images import IMAGE_EXTENSIONS, Source
from labkit.data.records import Record, RecordFile, find_records, read_records
from labkit.data.tables import read_table
from labkit.utils import UserError, atomic_path, reason

LITTER = """@eadir @recycle #recycle #snapshot $recycle.bin __macosx lost+found thumbs.db
desktop.ini contact_sheet.jpg""".split()  # what systems and `labkit synth` leave, if not hidden
OUTSIDE = "pictures outside of the folders of people"


class FaceFolder:
    """A folder of identities with their images.

    identities: their names, sorted. labels: int64 (n,), non-decreasing; image i shows
    `identities[labels[i]]`. starts: int64 (identities + 1,), where the images of each begin, and n.
    names: the images' paths relative to `root`. passed_over: what else is there, kind → how many.
    """

    def __init__(
        self,
        root: str | Path,
        identities: list[str],
        labels: np.ndarray,
        names: Sequence[str] | np.ndarray,
        records: RecordFile | None = None,
    ):
        self.root, self.identities, self.labels = Path(root), identities, labels
        # One array of bytes: millions of names cost little, and forked workers share them.
        self._names = names if isinstance(names, np.ndarray) else _encoded(names)
        self.starts = np.searchsorted(labels, np.arange(len(identities) + 1))
        self.passed_over: dict[str, int] = {}
        self._parts, self._records = [self.root], records

    @classmethod
    def _of_images(cls, root: Path, images: dict[str, list[str]]) -> "FaceFolder":
        identities = sorted(images)
        labels = np.repeat(np.arange(len(images)), [len(images[name]) for name in identities])
        return cls(root, identities, labels, [i for k in identities for i in sorted(images[k])])

    @classmethod
    def scan(cls, root: str | Path, *, extensions: str | None = None, cache=None) -> "FaceFolder":
        """List the images below `root`, or in a packed set; people without an image are left out.

        Links to folders are followed. extensions: what names end in, such as "jpg,png"; every kind
        that can be read when left out. cache: an .npz file that keeps the listing until a folder
        at or below `root` changes. Raises UserError when `root` is missing, unreadable or empty.
        """
        root, endings = Path(root), IMAGE_EXTENSIONS
        if packed := find_records(root):
            records, *listing = read_records(packed, cache)
            return cls(packed.parent, *listing, records)
        if extensions is not None:
            endings = tuple(f".{ending.strip(' .').lower()}" for ending in extensions.split(","))
        key = ["labkit face folder 4", str(root.resolve()), *endings]
        if cache is not None and (folder := _read_cache(cache, root, key)):
            return folder
        images: dict[str, list[str]] = {}
        times, passed_over = {}, Counter()
        for path, _, files in _walk(root, passed_over):
            below = Path(path).relative_to(root).as_posix()
            times[below] = os.stat(path).st_mtime_ns
            for name in files:
                is_image = name.lower().endswith(endings)
                if below == ".":
                    passed_over[OUTSIDE] += is_image
                elif is_image:
                    images.setdefault(below.split("/")[0], []).append(f"{below}/{name}")
                else:
                    passed_over[Path(name).suffix.lower() or "without an ending"] += 1
        passed_over = dict(+passed_over)
        if not images:
            found = ", ".join(passed_over) or "nothing"
            raise UserError(f"{root} holds no images: expected {root}/NAME/x.jpg, found {found}")
        folder = cls._of_images(root, images)
        folder.passed_over = passed_over
        if cache is not None:
            about = json.dumps([key, times, folder.identities, passed_over])
            with atomic_path(cache) as temporary:
                np.savez(temporary, about=about, labels=folder.labels, names=folder._names)
        return folder

    @classmethod
    def union(cls, folders: Sequence["FaceFolder"]) -> "FaceFolder":
        """Join folders into one at their common parent; UserError for an identity in two."""
        root = Path(os.path.commonpath([folder.root.resolve() for folder in folders]))
        images: dict[str, list[str]] = {}
        for folder in folders:
            if folder._records:
                folder.path(0)
            prefix = folder.root.resolve().relative_to(root).as_posix()
            for label, identity in enumerate(folder.identities):
                if identity in images:
                    raise UserError(f"{identity} is in two folders of {root}: rename one of them")
                images[identity] = [f"{prefix}/{folder.name(i)}" for i in folder.indices_of(label)]
        union = cls._of_images(root, images)
        union._parts = [folder.root for folder in folders]
        return union

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """Return the path of image i relative to the root: `identity/image.jpg`."""
        if self._records and not len(self._names):
            return f"{self.identities[self.labels[i]]}/{self._records.numbers[i]}.jpg"
        return os.fsdecode(self._names[i])

    def path(self, i: int) -> Path:
        """Return the path of image i; UserError for a packed set, which has none."""
        if self._records:
            raise UserError(
                f"{self._records.path} is a packed set: data_scripts/pack.py unpacks it"
            )
        return self.root / self.name(i)

    def source(self, i: int) -> Source:
        """Return where the file of image i is: its path, or its record in a packed set."""
        return Record(self._records, i) if self._records else self.path(i)

    def indices_of(self, identity: int) -> range:
        """Return the indices of the images of `identities[identity]`."""
        return range(int(self.starts[identity]), int(self.starts[identity + 1]))

    def counts(self) -> np.ndarray:
        """Return the images per identity, int64 (identities,)."""
        return np.diff(self.starts)

    @property
    def note(self) -> str:
        """A line for people about what was passed over; empty when there was nothing."""
        parts = [f"{count:,} {kind}" for kind, count in sorted(self.passed_over.items())]
        return f"{self.root}: passed over {', '.join(parts)}" if parts else ""

    def check_skipped(self, unreadable: Sequence[str]) -> None:
        """Raise UserError when more than 1 % of the images, and more than one, or all are so."""
        if len(unreadable) > max(1, 0.01 * len(self)) or len(unreadable) == len(self):
            images = f"{len(unreadable)} of {len(self)} images in {self.root}"
            raise UserError(f"{images} cannot be read, {unreadable[0]} first; mend or remove them")

    def digest(self) -> str:
        """Return 32 hexadecimal digits that are the same for the same identities and files."""
        digest = blake2b(digest_size=16)
        packed = (
            [self._records.numbers, self._records.positions, self.labels] if self._records else []
        )
        for names in (_encoded(self.identities), self._names, *packed):
            digest.update(f"{names.dtype.itemsize} {len(names)} ".encode() + names.tobytes())
        return digest.hexdigest()

    def details(self) -> dict[str, dict[str, str]]:
        """Return what `identities.csv` says of the people: identity → column → value.

        It, or VGGFace2's `identity_meta.csv`, lies in the folder or beside it; the kit shows
        `name` and `hangul`. Raises UserError with the line for a table it cannot read.
        """
        people: dict[str, dict[str, str]] = {}
        own = {unicodedata.normalize("NFC", name): name for name in self.identities}
        places = [*(part.parent for part in self._parts), *self._parts]
        tables = [p / name for p in places for name in ("identity_meta.csv", "identities.csv")]
        for table in filter(Path.exists, tables):
            for _, row in read_table(table, ["identity or class_id"]):
                name = unicodedata.normalize("NFC", row.pop("identity", "") or row["class_id"])
                people[own.get(name, name)] = {k: value for k, value in row.items() if value}
        return people


def find_images(root: str | Path) -> Callable[[str], Source | None]:
    """Return what gives the source of an image by its name below `root`; None for a missing one."""
    if not find_records(Path(root)):
        return lambda name: path if os.path.isfile(path := os.path.join(root, name)) else None
    folder = FaceFolder.scan(root)
    found = {folder.name(i): i for i in range(len(folder))}
    return lambda name: folder.source(found[name]) if name in found else None


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is passed over: hidden, or in `LITTER`."""
    return name.startswith(".") or name.lower() in LITTER


def _walk(root: Path, passed_over: Counter) -> Iterator[tuple[str, list, list]]:
    """As os.walk without litter, and into links to folders unless they lead back to `root`."""

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"the folder {error.filename} does not exist")
        raise UserError(f"cannot read the folder {error.filename}: {reason(error)}")

    own = root.resolve()
    for path, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        passed_over.update(name for name in folders if name.lower() in LITTER)
        folders[:] = [name for name in folders if not is_litter(name)]
        for link in filter(os.path.islink, [os.path.join(path, name) for name in folders]):
            place = Path(link).resolve()
            if place.is_relative_to(own) or own.is_relative_to(place):
                folders.remove(os.path.basename(link))
                passed_over["links to folders that are read anyway"] += 1
        yield path, folders, [name for name in files if not is_litter(name)]


def _read_cache(cache: str | Path, root: Path, key: list[str]) -> FaceFolder | None:
    try:
        with np.load(cache) as stored:
            made_for, times, identities, passed_over = json.loads(str(stored["about"]))
            if made_for == key and times == {f: os.stat(root / f).st_mtime_ns for f in times}:
                folder = FaceFolder(root, identities, stored["labels"], stored["names"])
                folder.passed_over = passed_over
                return folder
    except Exception:  # whatever NumPy raises for a file that is missing, damaged or another's
        return None


def _encoded(names: Iterable[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], dtype="S")
