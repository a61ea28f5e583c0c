"""Face folders: ROOT/identity/image.jpg, an image at any depth below its identity."""

import csv
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.utils import UserError, atomic_path, reason

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
CACHE_FORMAT = "labkit face folder 2"


class FaceFolder:
    """A folder of identities with their images.

    root: the folder. identities: names of the identities, sorted. labels: int64 (n,),
    non-decreasing; image i shows `identities[labels[i]]`. starts: int64 (identities + 1,), where
    the images of each identity begin, and n. names: the images' paths relative to the root, str
    or an array of bytes.
    """

    def __init__(self, root: str | Path, identities: list[str], labels: np.ndarray, names):
        self.root, self.identities, self.labels = Path(root), identities, labels
        # One array of bytes: millions of names cost little, and forked workers share them.
        self._names = names if isinstance(names, np.ndarray) else _encoded(names)
        self.starts = np.searchsorted(labels, np.arange(len(identities) + 1))
        self._parts = [self.root]

    @classmethod
    def scan(
        cls,
        root: str | Path,
        *,
        extensions: str | Sequence[str] = IMAGE_EXTENSIONS,
        cache: str | Path | None = None,
    ) -> "FaceFolder":
        """List the images below `root`; identities without an image are left out.

        Hidden files and files directly in `root` are ignored. extensions: what names end in, such
        as `jpg,png`, upper or lower case. cache: an .npz file that keeps the listing until a
        folder at or below `root` changes.
        Raises UserError when the folder is missing, unreadable or holds no image.
        """
        root = Path(root)
        endings = extensions.split(",") if isinstance(extensions, str) else extensions
        extensions = tuple(f".{ending.strip(' .').lower()}" for ending in endings)
        key = _encoded([CACHE_FORMAT, str(root.resolve()), *extensions])
        if cache is not None and (folder := _read_cache(Path(cache), root, key)):
            return folder
        times = {"": os.stat(root).st_mtime_ns if root.exists() else 0}
        identities: list[str] = []
        counts: list[int] = []
        names: list[str] = []
        for identity in identity_names(root):
            if found := _images_below(root, identity, extensions, times):
                identities.append(identity)
                counts.append(len(found))
                names += sorted(found)
        if not identities:
            raise UserError(
                f"{root} holds no images: expected {root}/IDENTITY/image.jpg "
                f"({', '.join(extensions)})"
            )
        folder = cls(root, identities, np.repeat(np.arange(len(identities)), counts), names)
        if cache is not None:
            with atomic_path(cache) as temporary, open(temporary, "wb") as file:
                np.savez(
                    file,
                    key=key,
                    identities=_encoded(identities),
                    labels=folder.labels,
                    names=folder._names,
                    folders=_encoded(times),
                    times=np.array(list(times.values())),
                )
        return folder

    @classmethod
    def union(cls, folders: Sequence["FaceFolder"]) -> "FaceFolder":
        """Join several folders into one whose names are relative to their common parent.

        Raises UserError when an identity is in two of them.
        """
        root = Path(os.path.commonpath([folder.root.resolve() for folder in folders]))
        owner = {name: folder for folder in folders for name in folder.identities}
        if len(owner) < sum(len(folder.identities) for folder in folders):
            raise UserError(f"below {root} an identity is in two folders: rename one of them")
        counts: list[int] = []
        names: list[str] = []
        for identity in sorted(owner):
            folder = owner[identity]
            prefix = folder.root.resolve().relative_to(root).as_posix()
            images = folder.indices_of(bisect_left(folder.identities, identity))
            names += [f"{prefix}/{folder.name(i)}" for i in images]
            counts.append(len(images))
        union = cls(root, sorted(owner), np.repeat(np.arange(len(owner)), counts), names)
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

    def digest(self) -> str:
        """Return 32 hexadecimal digits that are the same for the same identities and files."""
        digest = blake2b(digest_size=16)
        for names in (_encoded(self.identities), self._names):
            digest.update(f"{names.dtype.itemsize} {len(names)} ".encode())
            digest.update(np.ascontiguousarray(names).view(np.uint8))
        return digest.hexdigest()

    def details(self) -> dict[str, dict[str, str]]:
        """Return what `identities.csv` says of the people: identity → column → value.

        The table is looked for in the folder and beside it; columns that the kit shows are
        `name`, `hangul` and `synthetic`. Empty without one.
        """
        return {name: row for part in self._parts for name, row in _read_identities(part).items()}


def identity_names(root: Path) -> list[str]:
    """Return the names of the folders in `root`, sorted, without hidden ones."""
    if not root.exists():
        raise UserError(f"the folder {root} does not exist")
    return sorted(next(_walk(root))[1])


def _images_below(root: Path, identity: str, extensions, times: dict[str, int]) -> list[str]:
    """List the images of one identity, and note in `times` when each folder last changed."""
    found = []
    for path, _, files in _walk(root / identity):
        folder = Path(path).relative_to(root).as_posix()
        times[folder] = os.stat(path).st_mtime_ns
        found += [f"{folder}/{name}" for name in files if name.lower().endswith(extensions)]
    return found


def _walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as `os.walk`, past hidden files and folders; UserError for an unreadable folder."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {reason(error)}") from None

    for path, below, files in os.walk(top, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        yield path, below, [name for name in files if not name.startswith(".")]


def _read_cache(cache: Path, root: Path, key: np.ndarray) -> FaceFolder | None:
    """Return the cached listing, or None when there is none, or a folder has changed since."""
    try:
        with np.load(cache) as stored:
            if not np.array_equal(stored["key"], key):
                return None
            for folder, time in zip(stored["folders"], stored["times"].tolist()):
                if os.stat(root / os.fsdecode(folder)).st_mtime_ns != time:
                    return None
            identities = [os.fsdecode(name) for name in stored["identities"]]
            return FaceFolder(root, identities, stored["labels"], stored["names"])
    except Exception:  # whatever NumPy raises for a file that is missing, damaged or another's
        return None


def _encoded(names: Iterable[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], dtype="S")


def _read_identities(root: Path) -> dict[str, dict[str, str]]:
    for path in (root / "identities.csv", root.parent / "identities.csv"):
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("identity")]
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        if rows:
            return {row.pop("identity"): {k: v for k, v in row.items() if k and v} for row in rows}
    return {}
