"""Face folders: ROOT/identity/image.jpg, an image at any depth below its identity."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.utils import UserError, atomic_path, reason

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")


class FaceFolder:
    """A folder of identities with their images.

    identities: their names, sorted. labels: int64 (n,), non-decreasing; image i shows
    `identities[labels[i]]`. starts: int64 (identities + 1,), where the images of each identity
    begin, and n. names: the images' paths relative to the folder `root`.
    """

    def __init__(self, root: str | Path, identities: list[str], labels: np.ndarray, names):
        self.root, self.identities, self.labels = Path(root), identities, labels
        # One array of bytes: millions of names cost little, and forked workers share them.
        self._names = names if isinstance(names, np.ndarray) else _encoded(names)
        self.starts = np.searchsorted(labels, np.arange(len(identities) + 1))
        self._parts = [self.root]

    @classmethod
    def _of_images(cls, root: Path, images: dict[str, list[str]]) -> "FaceFolder":
        identities = sorted(images)
        labels = np.repeat(np.arange(len(images)), [len(images[name]) for name in identities])
        return cls(root, identities, labels, [i for name in identities for i in images[name]])

    @classmethod
    def scan(cls, root: str | Path, *, extensions="jpg,jpeg,png", cache=None) -> "FaceFolder":
        """List the images below `root`; identities without an image are left out.

        Hidden files and files directly in `root` are ignored. extensions: what names end in,
        upper or lower case. cache: an .npz file that keeps the listing until a folder at or below
        `root` changes. Raises UserError when the folder is missing, unreadable or without images.
        """
        root = Path(root)
        endings = tuple(f".{ending.strip(' .').lower()}" for ending in extensions.split(","))
        key = _encoded(["labkit face folder 2", str(root.resolve()), *endings])
        if cache is not None and (folder := _read_cache(Path(cache), root, key)):
            return folder
        names, times = identity_names(root), {"": os.stat(root).st_mtime_ns}
        images: dict[str, list[str]] = {}
        for identity in names:
            found = []
            for path, _, files in _walk(root / identity):
                below = Path(path).relative_to(root).as_posix()
                times[below] = os.stat(path).st_mtime_ns
                found += [f"{below}/{name}" for name in files if name.lower().endswith(endings)]
            if found:
                images[identity] = sorted(found)
        if not images:
            raise UserError(f"{root} holds no images: expected {root}/IDENTITY/image{endings[0]}")
        folder = cls._of_images(root, images)
        if cache is not None:
            listing = dict(identities=_encoded(folder.identities), labels=folder.labels)
            changed = dict(folders=_encoded(times), times=list(times.values()))
            with atomic_path(cache) as temporary, open(temporary, "wb") as file:
                np.savez(file, key=key, names=folder._names, **listing, **changed)
        return folder

    @classmethod
    def union(cls, folders: Sequence["FaceFolder"]) -> "FaceFolder":
        """Join folders into one at their common parent; UserError for an identity in two."""
        root = Path(os.path.commonpath([folder.root.resolve() for folder in folders]))
        images: dict[str, list[str]] = {}
        for folder in folders:
            prefix = folder.root.resolve().relative_to(root).as_posix()
            for label, identity in enumerate(folder.identities):
                if identity in images:
                    raise UserError(
                        f"below {root}, {identity} is in two folders: rename one of them"
                    )
                images[identity] = [f"{prefix}/{folder.name(i)}" for i in folder.indices_of(label)]
        union = cls._of_images(root, images)
        union._parts = [folder.root for folder in folders]
        return union

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """Return the path of image i relative to the root: `identity/image.jpg`."""
        return os.fsdecode(self._names[i])

    def path(self, i: int) -> Path:
        """Return the path of image i."""
        return self.root / self.name(i)

    def indices_of(self, identity: int) -> range:
        """Return the indices of the images of `identities[identity]`."""
        return range(int(self.starts[identity]), int(self.starts[identity + 1]))

    def counts(self) -> np.ndarray:
        """Return the images per identity, int64 (identities,)."""
        return np.diff(self.starts)

    def check_skipped(self, unreadable: Sequence[str]) -> None:
        """Raise UserError when more than 1 % of the images, and more than one, or all are so."""
        if len(unreadable) > max(1, 0.01 * len(self)) or len(unreadable) == len(self):
            images = f"{len(unreadable)} of {len(self)} images in {self.root}"
            raise UserError(f"{images} cannot be read, {unreadable[0]} first; mend or remove them")

    def digest(self) -> str:
        """Return 32 hexadecimal digits that are the same for the same identities and files."""
        digest = blake2b(digest_size=16)
        for names in (_encoded(self.identities), self._names):
            digest.update(f"{names.dtype.itemsize} {len(names)} ".encode())
            digest.update(np.ascontiguousarray(names).view(np.uint8))
        return digest.hexdigest()

    def details(self) -> dict[str, dict[str, str]]:
        """Return what `identities.csv` says of the people: identity → column → value.

        The table is looked for in the folder and beside it; the kit shows `name` and `hangul`.
        """
        people: dict[str, dict[str, str]] = {}
        for place in [*(part.parent for part in self._parts), *self._parts]:
            with suppress(OSError, UnicodeDecodeError, csv.Error):
                table = io.StringIO((place / "identities.csv").read_text("utf-8-sig"))
                for row in csv.DictReader(table):
                    if name := row.pop("identity", None):
                        people[name] = {key: value for key, value in row.items() if key and value}
        return people


def identity_names(root: Path) -> list[str]:
    """Return the names of the folders in `root`, sorted, without hidden ones."""
    if not root.exists():
        raise UserError(f"the folder {root} does not exist")
    return sorted(next(_walk(root))[1])


def _walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {reason(error)}") from None

    for path, below, files in os.walk(top, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        yield path, below, [name for name in files if not name.startswith(".")]


def _read_cache(cache: Path, root: Path, key: np.ndarray) -> FaceFolder | None:
    try:
        with np.load(cache) as stored:
            times = [os.stat(root / os.fsdecode(f)).st_mtime_ns for f in stored["folders"]]
            if np.array_equal(stored["key"], key) and np.array_equal(stored["times"], times):
                identities = [os.fsdecode(name) for name in stored["identities"]]
                return FaceFolder(root, identities, stored["labels"], stored["names"])
    except Exception:  # whatever NumPy raises for a file that is missing, damaged or another's
        return None


def _encoded(names: Iterable[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], dtype="S")
