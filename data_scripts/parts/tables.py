"""Tables of staff and students: CSV files read by their columns, cells made harmless."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit.utils import UserError, reason

_FORMULA_STARTS = tuple("=+-@＝＋－＠")


def spreadsheet_cell(text: str) -> str:
    """Return text that a spreadsheet shows as it is: a formula's start gets an apostrophe."""
    formula = text.lstrip().startswith(_FORMULA_STARTS) or text.startswith(("\t", "\r"))
    return f"'{text}" if formula else text


def listed(name: str) -> str:
    """Return a file's name as lists have it: bytes that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def cell_text(cell: str) -> str:
    """Return the text that `spreadsheet_cell` was given."""
    return cell[1:] if cell[:1] == "'" and spreadsheet_cell(cell[1:]) == cell else cell


def read_rows(path: Path, what: str = "the list") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of the lines of a CSV file that are not empty.

    A spreadsheet may have saved it: a byte-order mark and `;` between the columns are taken too.
    Raises UserError when it cannot be read or is not a UTF-8 CSV file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        delimiter = ";" if first.count(";") > first.count(",") else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from None


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column → cell) of a CSV file with a header that has these columns.

    `a or b` in `columns` asks for one of the two. Raises UserError as `read_rows` does, and for a
    missing column.
    """
    rows = read_rows(path)
    header = [name.lower() for name in next(rows, (0, []))[1]]
    if not all(set(column.split(" or ")) & set(header) for column in columns):
        raise UserError(f"{path}: the first line must name the columns {', '.join(columns)}")
    for line, row in rows:
        cells = [cell_text(cell) for cell in row]
        yield line, dict(zip(header, [*cells, *[""] * (len(header) - len(row))]))
