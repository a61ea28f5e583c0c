"""Face folders: ROOT/identity/image.jpg, an image at any depth below its identity."""

import csv
import os
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.utils import UserError, atomic_path, reason

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")


class _Strings:
    """Many short strings in two arrays, so that millions of them cost little and fork well."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, strings: Sequence[str]) -> "_Strings":
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        lengths = np.fromiter((len(item) for item in encoded), np.int64, len(encoded))
        return cls(blob, np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = self.ends[i - 1] if i > 0 else 0
        return self.blob[start : self.ends[i]].tobytes().decode("utf-8", "surrogateescape")


class FaceFolder:
    """The images of a face folder, grouped by identity.

    Attributes:
        root: the folder.
        identities: names of the identities, sorted.
        labels: int64 (n,), non-decreasing; image i shows `identities[labels[i]]`.
        starts: int64 (identities + 1,), where the images of each identity begin; then n.
    """

    def __init__(self, root: str | Path, identities: list[str], labels: np.ndarray, names):
        self.root = Path(root)
        self.identities = identities
        self.labels = labels
        self._names = names if isinstance(names, _Strings) else _Strings.of(names)
        self.starts = np.searchsorted(labels, np.arange(len(identities) + 1))
        self._parts: list[Path] = [self.root]

    @classmethod
    def scan(
        cls,
        root: str | Path,
        *,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        cache: str | Path | None = None,
    ) -> "FaceFolder":
        """List the images below `root`; identities without an image are left out.

        Hidden files and files directly in `root` are passed over. With `cache`, the listing is
        kept in that .npz file and read back while no folder below `root` has changed since.
        Raises UserError when the folder is missing, unreadable or holds no image.
        """
        root = Path(root)
        extensions = tuple(extension.lower() for extension in extensions)
        if cache is not None:
            cached = _read_scan(Path(cache), root, extensions)
            if cached is not None:
                return cached
        identities: list[str] = []
        labels: list[int] = []
        names: list[str] = []
        folders = [("", _mtime(root) if root.is_dir() else 0)]
        for identity in identity_names(root):
            found = sorted(_images_below(root, identity, extensions, folders))
            if found:
                labels.extend([len(identities)] * len(found))
                identities.append(identity)
                names.extend(found)
        if not identities:
            raise UserError(
                f"{root} holds no images: expected {root}/IDENTITY/image.jpg "
                f"({', '.join(extensions)})"
            )
        folder = cls(root, identities, np.asarray(labels, dtype=np.int64), names)
        if cache is not None:
            _write_scan(Path(cache), folder, extensions, folders)
        return folder

    @classmethod
    def union(cls, folders: Sequence["FaceFolder"]) -> "FaceFolder":
        """Several folders with a common parent as one, names relative to that parent.

        Raises UserError when an identity is in two of them.
        """
        root = Path(os.path.commonpath([folder.root.resolve() for folder in folders]))
        owner = {name: folder for folder in folders for name in folder.identities}
        if len(owner) < sum(len(folder.identities) for folder in folders):
            raise UserError(f"below {root} an identity is in two folders: rename one of them")
        labels: list[int] = []
        names: list[str] = []
        for number, identity in enumerate(sorted(owner)):
            folder = owner[identity]
            prefix = folder.root.resolve().relative_to(root).as_posix()
            images = folder.indices_of(bisect_left(folder.identities, identity))
            names.extend(f"{prefix}/{folder.name(i)}" for i in images)
            labels.extend([number] * len(images))
        union = cls(root, sorted(owner), np.asarray(labels, dtype=np.int64), names)
        union._parts = [folder.root for folder in folders]
        return union

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """Path of image i relative to the root, with forward slashes: `identity/image.jpg`."""
        return self._names[i]

    def path(self, i: int) -> Path:
        """Path of image i."""
        return self.root / self._names[i]

    def indices_of(self, identity: int) -> range:
        """Numbers of the images of identity number `identity`."""
        return range(int(self.starts[identity]), int(self.starts[identity + 1]))

    def counts(self) -> np.ndarray:
        """Images per identity, int64 (identities,)."""
        return np.diff(self.starts)

    def digest(self) -> str:
        """What tells this listing from another: the same identities and files give the same."""
        named = blake2b(digest_size=16)
        for strings in (_Strings.of(self.identities), self._names):
            named.update(strings.ends.astype(np.int64))
            named.update(strings.blob)
        return named.hexdigest()

    def details(self) -> dict[str, dict[str, str]]:
        """What is known of the people: identity → column → value, from `identities.csv`.

        The table is looked for in the folder and beside it; columns that the kit shows are
        `name`, `hangul` and `synthetic`. Empty without one.
        """
        return {name: row for part in self._parts for name, row in _read_identities(part).items()}


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


def _mtime(path: str | Path) -> int:
    return os.stat(path).st_mtime_ns


def identity_names(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted, hidden ones left out."""
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except FileNotFoundError:
        raise UserError(f"the folder {root} does not exist") from None
    except NotADirectoryError:
        raise UserError(f"{root} is a file, not a folder of faces") from None
    except OSError as error:
        raise UserError(f"cannot read the folder {root}: {reason(error)}") from None


def _images_below(root: Path, identity: str, extensions, folders) -> list[str]:
    """Names of the images of one identity; notes each folder read and when it last changed."""
    found = []
    waiting = [identity]
    while waiting:
        below = waiting.pop()
        try:
            folders.append((below, _mtime(root / below)))
            with os.scandir(root / below) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{below}/{entry.name}")
                    elif entry.name.lower().endswith(extensions):
                        found.append(f"{below}/{entry.name}")
        except OSError as error:
            raise UserError(f"cannot read the folder {root / below}: {reason(error)}") from None
    return found


def _write_scan(cache: Path, folder: FaceFolder, extensions, folders) -> None:
    identities = _Strings.of(folder.identities)
    folder_names = _Strings.of([name for name, _ in folders])
    with atomic_path(cache) as beside, open(beside, "wb") as file:
        np.savez(
            file,
            key=np.array([str(folder.root.resolve()), *extensions]),
            identities=identities.blob,
            identity_ends=identities.ends,
            names=folder._names.blob,
            name_ends=folder._names.ends,
            labels=folder.labels,
            folders=folder_names.blob,
            folder_ends=folder_names.ends,
            folder_times=np.array([time for _, time in folders], dtype=np.int64),
        )


def _read_scan(cache: Path, root: Path, extensions) -> FaceFolder | None:
    """The cached listing, or None when there is none or a folder has changed since."""
    try:
        with np.load(cache) as stored:
            if list(stored["key"]) != [str(root.resolve()), *extensions]:
                return None
            folders = _Strings(stored["folders"], stored["folder_ends"])
            times = stored["folder_times"]
            if any(_mtime(root / folders[i]) != times[i] for i in range(len(folders))):
                return None
            identities = _Strings(stored["identities"], stored["identity_ends"])
            names = _Strings(stored["names"], stored["name_ends"])
            labels = stored["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return FaceFolder(root, [identities[i] for i in range(len(identities))], labels, names)
