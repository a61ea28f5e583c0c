"""The spreadsheet of a submission: columns `File` and `Accept` (Y or N, O or X, 예 or 아니오)."""

import io
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from labkit.data.tables import parse_table
from labkit.utils import UserError

ENDINGS = (".xlsx", ".xlsm", ".csv", ".tsv")
OLD_ENDINGS = (".xls", ".ods", ".numbers")
MAX_ROWS = 500_000
MAX_LISTS = 20  # spreadsheets of one submission
MAX_ALIKE = 100  # images that a row may mean, beyond which it is not looked into
MAX_BYTES = 50_000_000  # of a spreadsheet, unpacked
_YES = {"y", "yes", "true", "1", "1.0", "o", "○", "◯", "〇", "예", "네"}
_NO = {"n", "no", "false", "0", "0.0", "x", "×", "✕", "아니오", "아니요"}


class NoList(Exception):
    """A table that cannot be read, or one without the two columns; the text says why."""


@dataclass
class AcceptList:
    """The rows of a submission's spreadsheets."""

    rows: dict[str, bool] = field(default_factory=dict)  # file as written → accepted or not
    problems: list[tuple[str, str]] = field(default_factory=list)  # (row, why) of unusable rows

    def add(self, data: bytes, name: str) -> None:
        """Take in a spreadsheet; `NoList` when it is none."""
        table = enumerate(_xlsx(data), 1) if data[:2] == b"PK" else _csv(data)
        file_column = accept_column = None
        for number, row in table:
            cells = ["" if cell is None else str(cell).strip() for cell in row]
            if number > MAX_ROWS:
                raise NoList(f"more than {MAX_ROWS:,} rows")
            header = [cell.casefold() for cell in cells]
            if "file" in header and "accept" in header:
                file_column, accept_column = header.index("file"), header.index("accept")
            elif file_column is not None and any(cells):
                self._row(cells, file_column, accept_column, f"{name}, row {number}")
        if file_column is None:
            raise NoList("no columns File and Accept")

    def _row(self, cells: Sequence[str], file_column: int, accept_column: int, where: str) -> None:
        padded = [*cells, *[""] * (1 + max(file_column, accept_column) - len(cells))]
        file = padded[file_column]
        said = unicodedata.normalize("NFKC", padded[accept_column]).strip().casefold()
        if not file:
            self.problems.append((where, "row without a file"))
        elif said not in _YES | _NO:
            self.problems.append((where, f"Accept is neither Y nor N: '{said[:20]}' for {file}"))
        elif self.rows.setdefault(file, said in _YES) != (said in _YES):
            self.problems.append((where, f"listed with Y and with N, taken as N: {file}"))
            self.rows[file] = False


def _csv(data: bytes) -> list[tuple[int, list[str]]]:
    if len(data) > MAX_BYTES:
        raise NoList("too large")
    try:
        return parse_table(data)
    except ValueError as error:
        raise NoList(f"not a CSV file: {error}") from None


def _xlsx(data: bytes) -> Iterable[Sequence[object]]:
    try:
        import openpyxl
    except ImportError:
        raise UserError("a list is an .xlsx file: pip install openpyxl to read it") from None
    try:
        _check_parts(data)
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        for sheet in book.worksheets:
            yield from sheet.iter_rows(max_col=64, max_row=MAX_ROWS + 1, values_only=True)
    except NoList:
        raise
    except Exception as error:  # openpyxl lets through whatever a bad file makes it stumble over
        raise NoList(f"broken spreadsheet: {type(error).__name__}") from None


def _check_parts(data: bytes) -> None:
    """Bound an .xlsx (a zip file of XML), and refuse entities, before a parser sees it."""
    left = MAX_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        for part in parts.infolist():
            with parts.open(part) as file:
                content = file.read(left + 1)
            left -= len(content)
            if left < 0:
                raise NoList(f"unpacks to more than {MAX_BYTES / 1e6:,.0f} MB")
            if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
                raise NoList("holds XML entities")


class Matcher:
    """Finds the image that a row of a spreadsheet means, by the ends of the paths.

    A spreadsheet names files as they lay on its writer's disk (`C:\\Users\\…\\cropped\\IU\\1.jpg`).
    The image is the one whose path agrees in the most last parts, whatever the Unicode form: two of
    them at least, or the bare name when only one image has it. Case counts between equals.
    """

    def __init__(self, paths: Iterable[Sequence[str]]):
        self._cased = [tuple(unicodedata.normalize("NFC", part) for part in p) for p in paths]
        self._paths = [tuple(_plain(part) for part in parts) for parts in self._cased]
        self._by_end: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, parts in enumerate(self._paths):
            for end in {parts[-1:], parts[-2:]}:
                self._by_end[end].append(number)

    def find(self, file: str) -> int | None:
        """Return the number of the image, None when there is none; ValueError for several."""
        cased = re.split(r"[\\/]+", unicodedata.normalize("NFC", file.strip()))
        cased = [part for part in cased if part not in ("", ".", "..")]
        wanted = [_plain(part) for part in cased]
        found = self._by_end.get(tuple(wanted[-2:]), [])
        if len(found) < 2:
            return found[0] if found else None
        if len(found) > MAX_ALIKE:
            raise ValueError(f"{len(found):,} images fit")
        agreeing = [
            (_agreeing(self._paths[number], wanted), _agreeing(self._cased[number], cased))
            for number in found
        ]
        best = [number for number, n in zip(found, agreeing) if n == max(agreeing)]
        if len(best) > 1:
            raise ValueError(f"{len(best)} images fit")
        return best[0]


def _agreeing(path: Sequence[str], wanted: Sequence[str]) -> int:
    pairs = zip(reversed(path), reversed(wanted))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _plain(part: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part.strip()).casefold())
