"""Files that are either whole or not there, and the folder for what is built once."""

import csv
import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from labkit.errors import UserError, reason

_NO_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
CACHE_VARIABLE = "KSTAR_FACELAB_CACHE"


def cache_dir() -> Path:
    """The folder for files that are built once per user (made when missing).

    The environment variable KSTAR_FACELAB_CACHE overrides the system's usual place.
    """
    named = os.environ.get(CACHE_VARIABLE)
    path = Path(named).expanduser() if named else user_cache_path("kstar-facelab", appauthor=False)
    make_folder(path)
    return path


def make_folder(path: str | Path) -> Path:
    """Make the folder and its parents; UserError when it cannot be made."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {reason(error)}") from None
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    A reader sees the old file or the new one, never a part. After an error, or a kill, the old
    file is untouched. Raises UserError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=f".partial{path.suffix}", dir=path.parent
        )
    except OSError as error:
        raise _cannot_write(path, error) from None
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())
        os.replace(beside, path)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_WRITING:
            raise _cannot_write(path, error) from error
        if os.strerror(errno.ENOSPC) in str(error):  # a library's own error for a full disk
            raise _cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Keep other processes that ask for the same from a folder (made when missing).

    The system frees the lock when the process ends, however it ends. Raises UserError when
    another process holds it or the folder cannot be written.
    """
    lock = FileLock(make_folder(folder) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another run is writing to {folder}: wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise _cannot_write(Path(folder), error) from None
    try:
        yield
    finally:
        lock.release()


def _cannot_write(path: Path, error: OSError) -> UserError:
    what_to_do = (
        "free some space and run it again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "choose another folder"
    )
    return UserError(f"cannot write {path}: {reason(error)}; {what_to_do}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write the file whole or not at all."""
    with atomic_path(path) as beside:
        beside.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; file names that are no UTF-8 keep their bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: str | Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows as CSV, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
