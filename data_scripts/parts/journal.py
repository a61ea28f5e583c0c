"""The files behind a job: a journal of finished items and a list of what was left out.

Both only ever grow, by whole lines: a write that a kill cut off is dropped at the next start, and
one that does not fit on the disk is taken back at once.
"""

import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.utils import UserError, reason


class Finished:
    """Which items are done: 8 bytes for each of the earlier runs', a set for those of this run."""

    def __init__(self, items: Sequence[int] = ()):
        self._before = np.sort(np.array(items, dtype=np.uint64))
        self._now: set[int] = set()

    def add(self, item: str) -> None:
        self._now.add(key_of(item))

    def __contains__(self, item: str) -> bool:
        key = key_of(item)
        if key in self._now:
            return True
        place = int(np.searchsorted(self._before, np.uint64(key)))
        return place < len(self._before) and int(self._before[place]) == key


def key_of(item: str) -> int:
    """A number for a name: among ten million, two have the same with a chance of 3 in a million."""
    digest = blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Appended:
    """A text file that grows by whole pieces, opened with `with`; UserError when it cannot."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "Appended":
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._end = _whole_lines(self._file)
            os.ftruncate(self._file, self._end)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        return self

    def __exit__(self, *_) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def append(self, text: str) -> None:
        """Add `text`, which ends with a line end, or nothing of it."""
        data = text.encode("utf-8", "backslashreplace")
        try:
            written = os.pwrite(self._file, data, self._end)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise cannot_write(self.path, error) from None
        self._end += len(data)


def _whole_lines(file: int) -> int:
    """The length of the file up to its last line end."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 65536)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def entries(journal: Path) -> Iterator[list]:
    """[item, counts, rows left out, note] of each finished item; UserError for a damaged line."""
    try:
        with open(journal, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                try:
                    item, counts, rows, note = json.loads(line)
                except ValueError:
                    raise UserError(
                        f"line {number} of {journal} is damaged: take that line out, and its item "
                        "is done again"
                    ) from None
                yield [item, counts, rows, note]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {journal}: {reason(error)}") from None


def entry(item: str, counts: dict, rows: list, note: object) -> str:
    """The journal's line for one finished item."""
    return json.dumps([item, counts, rows, note], separators=(",", ":")) + "\n"


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV; a cell that a spreadsheet would run as a formula gets a ' in front."""
    text = io.StringIO()
    harmless = (
        [f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in row]
        for row in rows
    )
    csv.writer(text, lineterminator="\n").writerows(harmless)
    return text.getvalue()


def cannot_write(path: str | Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {reason(error)}; free some space and run it again")
