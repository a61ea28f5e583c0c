"""Tables of staff and students: cells made harmless, and read again."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit.data import tables

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


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield what `labkit.data.tables.read_table` does, the cells as `cell_text` gives them."""
    for line, row in tables.read_table(path, columns):
        yield line, {column: cell_text(cell) for column, cell in row.items()}
