"""Face folders: ROOT/identity/image.jpg, an image at any depth below its identity."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.data.images import IMAGE_EXTENSIONS
from labkit.data.tables import read_table
from labkit.utils import UserError, atomic_path, reason

LITTER = (
    "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
    "__macosx", "lost+found", "thumbs.db", "desktop.ini",
)  # fmt: skip
"""Names of what systems leave behind on their own, in lower case, besides hidden names."""

OUTSIDE = "pictures outside of the folders of people"


class FaceFolder:
    """A folder of identities with their images.

    identities: their names, sorted. labels: int64 (n,), non-decreasing; image i shows
    `identities[labels[i]]`. starts: int64 (identities + 1,), where the images of each identity
    begin, and n. names: the images' paths relative to the folder `root`. passed_over: what else
    `scan` has found there, kind → how many.
    """

    def __init__(self, root: str | Path, identities: list[str], labels: np.ndarray, names):
        self.root, self.identities, self.labels = Path(root), identities, labels
        # One array of bytes: millions of names cost little, and forked workers share them.
        self._names = names if isinstance(names, np.ndarray) else _encoded(names)
        self.starts = np.searchsorted(labels, np.arange(len(identities) + 1))
        self._parts = [self.root]
        self.passed_over: dict[str, int] = {}

    @classmethod
    def _of_images(cls, root: Path, images: dict[str, list[str]]) -> "FaceFolder":
        identities = sorted(images)
        labels = np.repeat(np.arange(len(images)), [len(images[name]) for name in identities])
        return cls(root, identities, labels, [i for name in identities for i in images[name]])

    @classmethod
    def scan(cls, root: str | Path, *, extensions: str | None = None, cache=None) -> "FaceFolder":
        """List the images below `root`; identities without an image are left out.

        Links to folders are followed, once each. extensions: what names end in, upper or lower
        case, such as "jpg,png"; every kind that can be read when left out. cache: an .npz file
        that keeps the listing until a folder at or below `root` changes. Raises UserError when
        the folder is missing, unreadable or without images.
        """
        root, endings = Path(root), IMAGE_EXTENSIONS
        if extensions is not None:
            endings = tuple(f".{ending.strip(' .').lower()}" for ending in extensions.split(","))
        key = _encoded(["labkit face folder 3", str(root.resolve()), *endings])
        if cache is not None and (folder := _read_cache(Path(cache), root, key)):
            return folder
        seen, passed_over = _holders(root), Counter()
        _, names, files = next(_walk(root, seen, passed_over))
        passed_over[OUTSIDE] = sum(name.lower().endswith(endings) for name in files)
        times = {"": os.stat(root).st_mtime_ns}
        images: dict[str, list[str]] = {}
        for identity in names:
            found = []
            for path, _, files in _walk(root / identity, seen, passed_over):
                below = Path(path).relative_to(root).as_posix()
                times[below] = os.stat(path).st_mtime_ns
                for name in files:
                    if name.lower().endswith(endings):
                        found.append(f"{below}/{name}")
                    else:
                        passed_over[Path(name).suffix.lower() or "without an ending"] += 1
            if found:
                images[identity] = sorted(found)
        if not images:
            found = ", ".join(+passed_over) or "nothing"
            raise UserError(f"{root} holds no images: expected {root}/NAME/x.jpg, found {found}")
        folder = cls._of_images(root, images)
        folder.passed_over = dict(+passed_over)
        if cache is not None:
            listing = dict(identities=_encoded(folder.identities), labels=folder.labels)
            changed = dict(folders=_encoded(times), times=list(times.values()))
            changed["passed_over"] = json.dumps(folder.passed_over)
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
        for names in (_encoded(self.identities), self._names):
            digest.update(f"{names.dtype.itemsize} {len(names)} ".encode())
            digest.update(np.ascontiguousarray(names).view(np.uint8))
        return digest.hexdigest()

    def details(self) -> dict[str, dict[str, str]]:
        """Return what `identities.csv` says of the people: identity → column → value.

        It, or VGGFace2's `identity_meta.csv`, is looked for in the folder and beside it; the kit
        shows `name` and `hangul`. Raises UserError with the line for a table it cannot read.
        """
        people: dict[str, dict[str, str]] = {}
        own = {unicodedata.normalize("NFC", name): name for name in self.identities}
        for place in [*(part.parent for part in self._parts), *self._parts]:
            for table in (place / "identity_meta.csv", place / "identities.csv"):
                rows = read_table(table, ["identity or class_id"]) if table.exists() else ()
                for _, row in rows:
                    name = unicodedata.normalize("NFC", row.pop("identity", "") or row["class_id"])
                    people[own.get(name, name)] = {k: value for k, value in row.items() if value}
        return people


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is passed over: hidden, or in `LITTER`."""
    return name.startswith(".") or name.lower() in LITTER


def identity_names(root: Path) -> list[str]:
    """Return the names of the folders in `root`, sorted, without litter."""
    return sorted(next(_walk(root, _holders(root), Counter()))[1])


def _holders(root: Path) -> set[str]:
    """Return the folder and those around it: a link to one of them leads in a circle."""
    place = root.resolve()
    return {str(folder) for folder in (place, *place.parents)}


def _walk(top: Path, seen: set[str], passed_over: Counter) -> Iterator[tuple[str, list, list]]:
    """As os.walk without litter, and into links to folders that are not `seen` yet."""

    def refuse(error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError)
        text = "the folder {} does not exist" if missing else "cannot read the folder {}: {}"
        raise UserError(text.format(error.filename, reason(error))) from None

    for path, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        litter = {name for name in (*folders, *files) if is_litter(name)}
        passed_over.update(name for name in litter if not name.startswith("."))
        below = [(os.path.join(path, name), name) for name in folders if name not in litter]
        folders.clear()
        for folder, name in sorted(below, key=lambda found: (os.path.islink(found[0]), found)):
            if (place := os.path.realpath(folder)) in seen:
                passed_over["links to folders that are read anyway"] += 1
            else:
                seen.add(place)
                folders.append(name)
        yield path, folders, [name for name in files if name not in litter]


def _read_cache(cache: Path, root: Path, key: np.ndarray) -> FaceFolder | None:
    try:
        with np.load(cache) as stored:
            times = [os.stat(root / os.fsdecode(f)).st_mtime_ns for f in stored["folders"]]
            if np.array_equal(stored["key"], key) and np.array_equal(stored["times"], times):
                identities = [os.fsdecode(name) for name in stored["identities"]]
                folder = FaceFolder(root, identities, stored["labels"], stored["names"])
                folder.passed_over = json.loads(str(stored["passed_over"]))
                return folder
    except Exception:  # whatever NumPy raises for a file that is missing, damaged or another's
        return None


def _encoded(names: Iterable[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], dtype="S")
