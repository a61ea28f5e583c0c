"""The list that cleaning writes, a person corrects, and splitting applies.

A CSV with the header `file,keep,reason,detail`; `keep` is Y or N. Files that are not in it are
kept. A spreadsheet may have saved it: a byte-order mark, other line ends and `;` between the
columns are taken as well.
"""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.data import bad_lines
from labkit.utils import UserError, reason, write_text
from parts.journal import csv_text

LIST_FILE = "clean.csv"
HEADER = ("file", "keep", "reason", "detail")
_YES, _NO = {"y", "yes", "1", "true"}, {"n", "no", "0", "false"}


@dataclass(frozen=True)
class Finding:
    """One image that is on the list: whether it is to be kept, and why it was found."""

    file: str
    keep: bool
    reason: str
    detail: str = ""

    def kept(self, keep: bool) -> "Finding":
        return replace(self, keep=keep)


def listed(name: str) -> str:
    """A file's name as it stands in lists: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_list(path: str | Path, findings: list[Finding]) -> None:
    """Write the list, whole or not at all."""
    rows = ((listed(f.file), "Y" if f.keep else "N", f.reason, f.detail) for f in findings)
    write_text(path, csv_text([HEADER, *rows]))


def list_path(path: str | Path) -> Path:
    """The list itself, given it or the folder that cleaning wrote it into."""
    path = Path(path)
    return path / LIST_FILE if path.is_dir() else path


def read_list(path: str | Path) -> dict[str, Finding]:
    """The findings by `listed` name.

    Raises UserError that names the file and its bad lines: a missing column, a `keep` that is
    neither Y nor N, a file that came before with the other answer.
    """
    path = list_path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no list {path}: run clean.py first") from None
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as CSV UTF-8") from None
    first = text.split("\n", 1)[0]
    columns = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=columns)
    found: dict[str, Finding] = {}
    problems: list[str] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if "file" not in header or "keep" not in header:
            raise UserError(f"{path}: the first line must name the columns {','.join(HEADER)}")
        for row in reader:
            if not any(row):
                continue
            try:
                finding = _parse(dict(zip(header, row)))
                earlier = found.setdefault(finding.file, finding)
                if earlier.keep != finding.keep:
                    raise ValueError(f"{finding.file} came before with the other answer")
            except ValueError as error:
                problems.append(f"line {reader.line_num}: {error}")
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None
    if problems:
        raise UserError(bad_lines(path, problems))
    return found


def _parse(row: dict[str, str]) -> Finding:
    file, keep = row.get("file", ""), row.get("keep", "").strip().lower()
    if not file:
        raise ValueError("no file is named")
    if keep not in _YES | _NO:
        raise ValueError(f"keep must be Y or N, found '{row.get('keep', '')}'")
    if file[0] == "'" and file[1:2] in ("=", "+", "-", "@", "\t", "\r"):
        file = file[1:]  # as `csv_text` writes a name that a spreadsheet would run
    return Finding(file, keep in _YES, row.get("reason", ""), row.get("detail", ""))
