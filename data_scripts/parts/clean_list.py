"""The list that cleaning writes, a person corrects, and splitting applies.

A CSV with the header `file,keep,reason,detail`; `keep` is Y or N. Files that are not in it are
kept.
"""

from dataclasses import dataclass
from pathlib import Path

from labkit.data import bad_lines
from labkit.utils import UserError, write_csv
from parts.tables import listed, read_table, spreadsheet_cell

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


def write_list(path: str | Path, findings: list[Finding]) -> None:
    """Write the list, whole or not at all."""
    rows = ((listed(f.file), "Y" if f.keep else "N", f.reason, f.detail) for f in findings)
    write_csv(path, [HEADER, *([spreadsheet_cell(cell) for cell in row] for row in rows)])


def list_path(path: str | Path) -> Path:
    """Return the path of the list, given it or the folder that cleaning wrote it into."""
    path = Path(path)
    return path / LIST_FILE if path.is_dir() else path


def read_list(path: str | Path) -> dict[str, Finding]:
    """Return the findings by `listed` name; UserError names the file and its bad lines."""
    path = list_path(path)
    if not path.exists():
        raise UserError(f"there is no list {path}: run clean.py first")
    found: dict[str, Finding] = {}
    problems: list[str] = []
    for line, row in read_table(path, ("file", "keep")):
        file, keep = row["file"], row["keep"].lower()
        finding = Finding(file, keep in _YES, row.get("reason", ""), row.get("detail", ""))
        if not file:
            problems.append(f"line {line}: no file is named")
        elif keep not in _YES | _NO:
            problems.append(f"line {line}: keep must be Y or N, found '{row['keep']}'")
        elif found.setdefault(file, finding).keep != finding.keep:
            problems.append(f"line {line}: {file} came before with the other answer")
    if problems:
        raise UserError(bad_lines(path, problems))
    return found
