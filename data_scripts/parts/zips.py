"""Zip archives from strangers, read within bounds and never unpacked.

Nothing is extracted to a path that an archive names. Refused by name, with the rest read on:
paths that leave the archive's folder, links and special files, encrypted members, members that are
too large, too tightly compressed, damaged, or packed by anything but deflate; archives in archives
beyond a depth; and whatever comes after the archive's share of bytes or members is used up. The
sizes that an archive declares are checked first and what really comes out is counted.
"""

import errno
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from labkit.data import is_litter
from labkit.utils import reason
from parts.names import decode, safe_parts

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, LookupError, ArithmeticError, TypeError, MemoryError),
)


@dataclass(frozen=True)
class Limits:
    """Bounds for one submission, all archives in it together."""

    members: int = 100_000  # files and folders
    member_bytes: int = 100_000_000  # of one file; an archive inside may be as large as the whole
    total_bytes: int = 4_000_000_000  # all that is read out of it
    ratio: int = 200  # size over compressed size of one file, from a megabyte on
    depth: int = 2  # archives inside archives
    archives: int = 100  # archives inside in all, each of which keeps a file open


class Refused(Exception):
    """Something that is not taken out of an archive; the text says why."""


@dataclass
class Entry:
    """One file of a submission."""

    name: str  # what to call it in the log
    parts: tuple[str, ...]  # its folders and its name, those of the archives around it before them
    root: int  # how many of the parts name the archive that it lies in and those around
    archive: zipfile.ZipFile = field(repr=False)
    member: zipfile.ZipInfo = field(repr=False)

    def ends_with(self, *endings: str) -> bool:
        """Return whether the file's name has one of these endings."""
        return self.parts[-1].lower().endswith(endings)


class Zips:
    """A zip file and the zip files in it; use it in a `with` block.

    What systems leave behind (`__MACOSX`, `Thumbs.db`) is passed over. Entering raises `Refused`
    when the outermost archive cannot be read at all.
    """

    def __init__(self, path: Path, limits: Limits):
        self.path, self.limits = path, limits
        self.entries: list[Entry] = []  # in the order of the archives
        self.refused: list[tuple[str, str]] = []  # (name, why) of what cannot be read
        self._bytes_left, self._members_left = limits.total_bytes, limits.members
        self._archives_left = limits.archives
        self._stack = ExitStack()

    def __enter__(self) -> "Zips":
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(self.path, "rb"))
            except OSError as error:
                raise Refused(f"cannot be read: {reason(error)}") from None
            self._look_into(file, stack, self.path.name, (), 0)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of a file; `Refused` when it is not what it said."""
        with _what_is_wrong():
            self._check_size(entry.member, self.limits.member_bytes)
            with entry.archive.open(entry.member) as file:
                data = file.read(entry.member.file_size + 1)
            self._use(len(data))
        return data

    def _look_into(self, file: IO, stack: ExitStack, name: str, around: tuple, depth: int) -> None:
        with _what_is_wrong():
            archive = stack.enter_context(zipfile.ZipFile(_Guarded(file)))
        for member in archive.infolist():
            self._members_left -= 1
            if self._members_left < 0:
                self.refused.append((name, f"too many members: above {self.limits.members:,}"))
                return
            own_name = _name(member)
            if own_name.endswith("/"):  # a folder
                continue
            inner = f"{name}/{own_name}"
            try:
                parts = _checked(member, own_name)
                if parts is None:
                    continue
                if parts[-1].lower().endswith(".zip"):
                    self._nested(archive, member, stack, inner, around + parts, depth + 1)
                else:
                    self.entries.append(Entry(inner, around + parts, len(around), archive, member))
            except Refused as error:
                self.refused.append((inner, str(error)))

    def _nested(self, archive, member, stack: ExitStack, name: str, parts: tuple, depth: int):
        if depth > self.limits.depth:
            raise Refused(f"archives too deep in each other: more than {self.limits.depth}")
        self._archives_left -= 1
        if self._archives_left < 0:
            raise Refused(f"too many archives in one: above {self.limits.archives}")
        with _what_is_wrong():
            self._check_size(member, self.limits.total_bytes)
            spooled = stack.enter_context(tempfile.TemporaryFile())
            with archive.open(member) as packed:
                while block := packed.read(1 << 20):
                    self._use(len(block))
                    spooled.write(block)
        around = parts[:-1] + (parts[-1][: -len(".zip")],)
        self._look_into(spooled, stack, name, around, depth)

    def _check_size(self, member: zipfile.ZipInfo, limit: int) -> None:
        if member.file_size > limit:
            raise Refused(f"too large: {member.file_size / 1e6:,.0f} MB")
        ratio = member.file_size / max(member.compress_size, 1)
        if member.file_size > 1_000_000 and ratio > self.limits.ratio:
            raise Refused(f"compressed too tightly: {ratio:,.0f} to 1")
        self._use(member.file_size, only_ask=True)

    def _use(self, count: int, only_ask: bool = False) -> None:
        if count > self._bytes_left:
            limit = self.limits.total_bytes / 1e6
            raise Refused(f"the submission holds too much: above {limit:,.0f} MB")
        self._bytes_left -= 0 if only_ask else count


def _checked(member: zipfile.ZipInfo, name: str) -> tuple[str, ...] | None:
    """Return the parts of a member's name, None for litter; `Refused` for what must not be read."""
    try:
        parts = safe_parts(name)
    except ValueError as error:
        raise Refused(f"unsafe name: {error}") from None
    if any(map(is_litter, parts)):
        return None
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise Refused("a link" if kind == stat.S_IFLNK else "a special file")
    if member.flag_bits & 0x2041:
        raise Refused("encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"packed by a method that is not read: number {member.compress_type}")
    return parts


def _name(member: zipfile.ZipInfo) -> str:
    """Return a member's name as its maker saw it, in whichever encoding that was."""
    if member.flag_bits & 0x800:
        return member.orig_filename
    return decode(member.orig_filename.encode("cp437", "replace"))


class _Guarded:
    """A file that refuses large reads: zipfile reads the list of members in one piece."""

    LARGEST = 128_000_000

    def __init__(self, file: IO):
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.close = file.close

    def read(self, count: int = -1) -> bytes:
        if count > self.LARGEST:
            raise Refused(f"its list of members is too long: {count / 1e6:,.0f} MB")
        return self._file.read(count)


@contextmanager
def _what_is_wrong() -> Iterator[None]:
    """Turn what zipfile raises for a bad archive into `Refused`; a full disk stays what it is."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        raise Refused(f"cannot be unpacked: {error}") from None
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = " ".join(str(error).split())[:120]
        raise Refused(f"damaged: {text or type(error).__name__}") from None
