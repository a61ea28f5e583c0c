"""Where raw images come from: a folder of identities, or a tar archive read as a stream."""

import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from lzma import LZMAError
from pathlib import Path

from labkit.data import IMAGE_EXTENSIONS, is_litter
from labkit.utils import UserError, reason
from parts.names import repaired, safe_parts

# Of the formats that `labkit.crop.read_photo` reads, or says what it needs to.
RAW_EXTENSIONS = (*IMAGE_EXTENSIONS, ".avif", ".heic", ".heif")
MAX_BYTES = 100_000_000  # of an image file
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


@dataclass
class Raw:
    """One image of a source, or the reason why it is none."""

    name: str  # what to call it in the log
    parts: tuple[str, ...] = ()  # the folders and the file; the first folder is the identity
    content: str | bytes | None = None  # its path, or its bytes
    problem: str = ""  # why it cannot be used; then there are no parts and no content
    target: Path | None = None  # where its crop goes, for the script to set
    above: tuple[str, ...] = ()  # the folders above the first of `parts`


class Tree:
    """The images of a folder `ROOT/identity/…/image`, identity by identity, in order of names."""

    problem = ""

    def __init__(self, path: Path, level: int | None = None):
        self.path, self.level = path, level

    def other_kinds(self) -> set[str]:
        """Return what the names of the files end in."""
        files = (path for path in self.path.rglob("*") if path.is_file())
        return {path.suffix or path.name for path in islice(files, 1000)}

    def total(self) -> int:
        """Return how many images there are."""
        return sum(1 for name in self._identities() for _ in self._below(name))

    def images(self, wanted: Callable[[Raw], bool]) -> Iterator[Raw]:
        """Yield the images that are `wanted`, which is asked about each before it is read."""
        identities = self._identities()
        if not self.level and len(identities) == 1:
            below = {
                name.split("/")[1] for name in self._below(identities[0]) if name.count("/") > 1
            }
            if len(below) > 1:
                inside = f"{self.path / identities[0]}"
                raise UserError(
                    f"all pictures of {self.path} lie in {identities[0]}, which would be one "
                    f"person: give {inside} when its folders are the people, or --level 1"
                )
        for identity in identities:
            for name in sorted(self._below(identity)):
                path = f"{self.path}/{name}"
                raw = Raw(path, tuple(repaired(name).split("/")), path)
                if wanted(raw):
                    yield raw

    def _identities(self) -> list[str]:
        return sorted(entry.name for entry in self._entries("") if entry.is_dir())

    def _below(self, folder: str) -> Iterator[str]:
        for entry in self._entries(folder):
            if entry.name.lower().endswith(RAW_EXTENSIONS):
                yield f"{folder}/{entry.name}"
            elif entry.is_dir(follow_symlinks=False):
                yield from self._below(f"{folder}/{entry.name}")

    def _entries(self, below: str) -> Iterator[os.DirEntry]:
        try:
            with os.scandir(self.path / below) as entries:
                yield from (entry for entry in entries if not is_litter(entry.name))
        except OSError as error:
            raise UserError(f"cannot read {self.path / below}: {reason(error)}") from None


class Archive:
    """The images of a tar, tar.gz, tar.bz2 or tar.xz, in its order, without unpacking it.

    An image belongs to the folder that it lies in, whatever that lies in: `train/n000002/1.jpg`
    to `n000002`. `problem` is set when the archive could not be read to its end.

    beside: endings of other files to yield, with their whole paths, and images outside of folders.
    """

    def __init__(self, path: Path, level: int | None = None, beside: tuple[str, ...] = ()):
        self.path, self.level, self.beside, self.problem = path, level, beside, ""
        self._file = None

    def other_kinds(self) -> set[str]:
        """Return nothing: what is no image in an archive is left out one by one."""
        return set()

    def fraction(self) -> float:
        """Return how much of the archive has been read, from 0 to 1."""
        return self._file.tell() / max(self.path.stat().st_size, 1)

    def images(self, wanted: Callable[[Raw], bool]) -> Iterator[Raw]:
        """Yield the images that are `wanted`, which is asked about each before it is read."""
        try:
            with open(self.path, "rb") as self._file:
                packed = self._file.read(6).startswith(_COMPRESSED)
                self._file.seek(0)
                with tarfile.open(
                    fileobj=self._file,
                    mode="r|*" if packed else "r:",
                    bufsize=1 << 20,
                    tarinfo=_Strict,
                    errorlevel=0,
                ) as tar:
                    while (member := tar.next()) is not None:
                        tar.members.clear()  # else a gigabyte for each million of members
                        raw = self._image(member)
                        if raw is None or not wanted(raw):
                            continue
                        raw.content = tar.extractfile(member).read()
                        if len(raw.content) < member.size:
                            raise _Damaged("unexpected end of data")
                        yield raw
        except _NoArchive as error:
            raise UserError(f"{self.path} is not a tar archive or a folder: {error}") from None
        except (tarfile.TarError, zlib.error, LZMAError, EOFError, _Damaged, OSError) as error:
            why = reason(error) if isinstance(error, OSError) else error or type(error).__name__
            self.problem = f"archive is cut short or damaged: {why}"

    def _image(self, member: tarfile.TarInfo) -> Raw | None:
        if member.isdir():
            return None
        name = repaired(member.name)
        log_name = f"{self.path.name}/{name}"
        try:
            parts = safe_parts(name)
        except ValueError as error:
            return Raw(log_name, problem=f"unsafe name: {error}")
        if any(map(is_litter, parts)):
            return None
        if not parts[-1].lower().endswith((*RAW_EXTENSIONS, *self.beside)):
            return Raw(log_name, problem="not an image")
        if not member.isreg():
            return Raw(log_name, problem="a link or special file")
        if len(parts) < 2 and not self.beside:
            return Raw(log_name, problem="not in a folder of an identity")
        if member.size > MAX_BYTES:
            return Raw(log_name, problem=f"too large: {member.size / 1e6:,.0f} MB")
        if self.level or self.beside:
            return Raw(log_name, parts)
        return Raw(log_name, parts[-2:], above=parts[:-2])


class _Damaged(Exception):
    """The archive cannot be read any further."""


class _NoArchive(Exception):
    """The archive cannot be read at all."""


class _Strict(tarfile.TarInfo):
    """tarfile takes a bad or missing header for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise (_Damaged if archive.offset else _NoArchive)(str(error)) from None


def open_source(path: Path, level: int | None = None) -> Tree | Archive:
    """Return a folder as a tree, a file as an archive; UserError when there is neither.

    level: which folder of a path is the person, from 1; None for the first of a tree's, and the
    last of an archive's.
    """
    if path.is_dir():
        return Tree(path, level)
    if path.is_file():
        return Archive(path, level)
    raise UserError(f"{path} does not exist: give a folder of identities or a tar archive")
