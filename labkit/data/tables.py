"""Tables that people make, as spreadsheets save them."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit.utils import UserError, printable, reason


def parse_table(data: bytes) -> list[tuple[int, list[str]]]:
    """Return (line number, cells without outer spaces) of the lines that are not empty.

    UTF-8, UTF-16 or CP949 (Korean Excel), with `,`, `;` or tabs. Raises ValueError with the line.
    """
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        try:
            text = data.decode("cp949")
        except UnicodeDecodeError:
            line = data.count(b"\n", 0, error.start) + 1
            raise ValueError(f"line {line}: not UTF-8; save it as CSV UTF-8") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    settings = dict(delimiter=max(",;\t", key=first.count), skipinitialspace=True, strict=True)
    reader = csv.reader(io.StringIO(text, newline=""), **settings)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return [(line, row) for line, row in rows if any(row)]


def read_rows(path: str | Path, what: str = "the table") -> list[tuple[int, list[str]]]:
    """Return `parse_table` of a file; UserError names the file and the line."""
    try:
        return parse_table(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {reason(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None


def read_table(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column in lower case → cell) of a file whose first line names `columns`.

    `a or b` in `columns` asks for one of the two. Raises UserError as `read_rows` does, and for
    lines that do not fit.
    """
    rows = read_rows(path) or [(1, [])]
    header = [name.lower() for name in rows[0][1]]
    if not all(set(column.split(" or ")) & set(header) for column in columns):
        wanted = f"the first line must name the columns {', '.join(columns)}"
        found = printable(", ".join(header), 80) or "nothing"
        raise UserError(f"{path}, line {rows[0][0]}: {wanted}; found {found}")
    for line, row in rows[1:]:
        if any(row[len(header) :]):
            raise UserError(f"{path}, line {line}: more cells than the first line has columns")
        yield line, dict(zip(header, [*row, *[""] * (len(header) - len(row))]))
