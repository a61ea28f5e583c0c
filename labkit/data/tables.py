"""Tables that people make, as spreadsheets save them."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from labkit.utils import UserError, printable, reason


def parse_table(data: bytes) -> list[tuple[int, list[str]]]:
    """Return (line number, cells without outer spaces) of the lines that are not empty.

    UTF-8, UTF-16 or CP949 (Korean Excel), with `,`, `;` or tabs. Raises ValueError with the line.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text, bad, _ = data.decode("cp949", "replace").partition("\ufffd")
        if bad:
            line = text.count("\n") + 1
            raise ValueError(f"line {line}: text of unknown encoding; save it as UTF-8") from None
    lines = list(io.StringIO(text, newline=""))
    separator = max(",;\t", key=next(filter(str.strip, lines), "").count)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return [(line, row) for line, row in rows if any(row)]


def read_rows(path: str | Path, what: str = "the table") -> list[tuple[int, list[str]]]:
    """Return `parse_table` of a file; UserError names the file and the line."""
    try:
        return parse_table(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise UserError(f"cannot read {what} {path}: {why}") from None


def read_table(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column in lower case → cell) of a file whose first line names `columns`.

    `a or b` asks for one of the two. Raises UserError as `read_rows`, and for a line too long.
    """
    (first, header), *rows = read_rows(path) or [(1, [])]
    header = [name.lower() for name in header]
    if any(set(column.split(" or ")).isdisjoint(header) for column in columns):
        wanted = f"the first line must name the columns {', '.join(columns)}"
        found = printable(", ".join(header), 80) or "nothing"
        raise UserError(f"{path}, line {first}: {wanted}; found {found}")
    for line, row in rows:
        if any(row[len(header) :]):
            raise UserError(f"{path}, line {line}: more cells than the first line has columns")
        yield line, dict(zip_longest(header, row[: len(header)], fillvalue=""))
