"""Hand-ins for a blind list: the staff's key, and files that are checked before they are believed.

A hand-in is a score file `score,file1,file2` with every pair of the blind list once, in any order,
either name first. Nothing in it is trusted: not its name, not its size, not its bytes.
"""

import csv
import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labkit.data import PairList, bad_lines
from labkit.data.pairs import MAX_BAD_LINES_SHOWN
from labkit.evaluate.scorefiles import LONGEST_NUMBER, NUMBER
from labkit.utils import UserError, reason
from labkit.utils import printable as shown

LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)
LINE_ALLOWANCE = 2  # a line may be so many times as long as its names need
FIXED_ALLOWANCE = 1 << 16  # bytes
MAGIC = {
    b"PK\x03\x04": "it is a zip archive or a spreadsheet (.xlsx): export it as plain CSV",
    b"%PDF": "it is a PDF, not a CSV file",
    b"\xd0\xcf\x11\xe0": "it is an old Excel file (.xls): export it as plain CSV",
    b"\x1f\x8b": "it is a gzip archive: unpack it first",
    b"\xff\xfe": "it is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "it is UTF-16 text: save it as UTF-8",
}


@dataclass
class Key:
    """What the staff keep: the labels of a blind list, and who is in its images.

    pairs: the labelled list, with the names that the blind list has. left, right: int64 (n,),
    number of the person in each pair's images. people: how many there are. known_by: how we
    know who is who, for the report.
    """

    pairs: PairList
    left: np.ndarray
    right: np.ndarray
    people: int
    known_by: str
    _of_pair: dict[tuple[str, str], int] = field(init=False, repr=False)
    _names: frozenset[str] = field(init=False, repr=False)
    size_limit: int = field(init=False)

    def __post_init__(self):
        names = [self.pairs.name_pair(i) for i in range(len(self.pairs))]
        self._of_pair = {_ordered(*pair): i for i, pair in enumerate(names)}
        self._names = frozenset(self.pairs.files)
        # Every name may be quoted, and every sign of it doubled or four bytes long.
        longest = sum(len(a.encode()) + len(b.encode()) + LONGEST_NUMBER + 8 for a, b in names)
        self.size_limit = LINE_ALLOWANCE * longest + FIXED_ALLOWANCE

    @classmethod
    def read(cls, path: str | Path, identities: str | Path | None = None) -> "Key":
        """Read the key: a labelled pair list `label,file1,file2` in the blind list's names.

        Who is in an image is told, in this order, by `identities`, a CSV `file,original` (the
        original name `identity/image.jpg`, or the identity alone; a first line
        `anonymous,original` is skipped); by the first folder of the names, where that agrees
        with every label; or else by the target pairs, which join images of one person.
        Raises UserError for files that cannot be read, and when `identities` lacks an image or
        contradicts a label.
        """
        pairs = PairList.read(path)
        pairs.check_labels(path)
        if identities is not None:
            of_file = _read_identities(Path(identities), pairs)
            known_by = "people as listed by the staff"
            wrong = _contradictions(pairs, of_file)
            if len(wrong):
                a, b = pairs.name_pair(wrong[0])
                raise UserError(
                    f"{identities} contradicts {len(wrong):,} labels of {path}, first that of "
                    f"{shown(a)} and {shown(b)}: are these files of one list?"
                )
        else:
            of_file = pairs.file_identities()
            known_by = "people by the folders of the images"
            if any("/" not in name for name in pairs.files) or len(_contradictions(pairs, of_file)):
                of_file = pairs.joined_files()
                known_by = "people as joined by the target pairs"
        names, number = np.unique(of_file, return_inverse=True)
        return cls(pairs, number[pairs.left], number[pairs.right], len(names), known_by)

    @classmethod
    def of_blind(cls, path: str | Path) -> "Key":
        """A key without labels, to check hand-ins only; labels in the list are left unused."""
        pairs = PairList.read(path)
        nobody = np.zeros(len(pairs), np.int64)
        return cls(pairs, nobody, nobody, 0, "nobody")


@dataclass
class HandIn:
    """One hand-in after the check.

    name: the file's name without its ending, as it was given (never print it raw). scores:
    float64 (n,) in the key's order, or None when anything is wrong. problems: what is wrong, in
    plain words, at most 20 of `problem_count`.
    """

    name: str
    scores: np.ndarray | None
    problems: list[str]
    problem_count: int

    @property
    def good(self) -> bool:
        return self.scores is not None

    def told(self) -> list[str]:
        """The problems for people: neighbours with one reason together, then how many more."""
        found: list[list] = []  # first line, last line, reason
        for problem in self.problems:
            line = LINE.fullmatch(problem)
            if line and found and found[-1][2] == line[2]:
                found[-1][1] = line[1]
            else:
                found.append([line[1], line[1], line[2]] if line else [None, None, problem])
        more = self.problem_count - len(self.problems)
        return [
            reason if first is None
            else f"line {first}: {reason}" if first == last
            else f"lines {first} to {last}: {reason}"
            for first, last, reason in found
        ] + [f"and {more:,} more"] * (more > 0)  # fmt: skip


def find_hand_ins(places: Sequence[str | Path]) -> list[Path]:
    """The hand-ins: each place is a file, or a folder whose entries are hand-ins.

    Sorted by name; hidden entries of a folder are left out. Raises UserError for a place that is
    not there, and when there is none at all.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir() and not place.is_symlink():
            try:
                names = sorted(name for name in os.listdir(place) if not name.startswith("."))
            except OSError as error:
                raise UserError(f"cannot read the folder {place}: {reason(error)}") from None
            found += [place / name for name in names]
        elif os.path.lexists(place):
            found.append(place)
        else:
            raise UserError(f"there is no hand-in {shown(str(place))}")
    if not found:
        raise UserError(f"no hand-ins in {', '.join(shown(str(place)) for place in places)}")
    return list(dict.fromkeys(found))


def check_hand_in(path: str | Path, key: Key) -> HandIn:
    """Read one hand-in and say all that is wrong with it; never raises for what is in it."""
    path = Path(path)
    try:
        text = _text(_bytes(path, key.size_limit))
    except (ValueError, OSError) as error:
        words = f"it cannot be read: {reason(error)}" if isinstance(error, OSError) else str(error)
        return HandIn(path.stem, None, [words], 1)
    scores = np.full(len(key.pairs), np.nan)
    line_of = np.zeros(len(key.pairs), np.int64)  # 0: not there
    problems: list[str] = []
    count = 0

    def complain(words: str) -> None:
        nonlocal count
        count += 1
        if len(problems) < MAX_BAD_LINES_SHOWN:
            problems.append(words)

    lines = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if not row:
                continue
            lines += 1
            try:
                at, score = _parse(row, key)
                if line_of[at]:
                    raise ValueError(f"this pair is already on line {line_of[at]}")
                line_of[at] = reader.line_num
                scores[at] = _number(score)
            except ValueError as error:
                header = lines == 1 and len(row) == 3 and not NUMBER.fullmatch(row[0].strip())
                hint = " (is this a header? A hand-in has none)" if header else ""
                complain(f"line {reader.line_num}: {error}{hint}")
    except csv.Error as error:
        complain(f"line {reader.line_num}: not CSV ({error})")
    if not lines and not problems:
        complain("it holds no line")
    missing = np.flatnonzero(line_of == 0)
    if len(missing):
        first = ",".join(map(shown, key.pairs.name_pair(int(missing[0]))))
        words = f"{len(missing):,} of {len(line_of):,} pairs of the list are missing, first {first}"
        complain(words)
        if count > len(problems):  # worth a place among the first 20
            problems[-1] = words
    return HandIn(path.stem, scores if not count else None, problems, count)


def complaint(path: Path, hand_in: HandIn) -> str:
    """One line for people: the file and what is wrong with it."""
    return f"{shown(path.name, 60)}: {'; '.join(hand_in.told())}"


def _ordered(left: str, right: str) -> tuple[str, str]:
    return (left, right) if left < right else (right, left)


def _bytes(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of an ordinary file; ValueError (or OSError) says why not.

    A link is refused because it could lead to the key; opening does not follow one, nor wait for
    a pipe.
    """
    if path.is_symlink():
        raise ValueError("it is a link, not a file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_dir():
        raise ValueError("it is a folder: put the CSV file itself here")
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not an ordinary file")
        if about.st_size > limit:
            raise ValueError(
                f"it is too large: {about.st_size:,} bytes, where {limit:,} are more than enough"
            )
        with open(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise ValueError(f"it is too large: more than {limit:,} bytes")
    return data


def _text(data: bytes) -> str:
    if not data:
        raise ValueError("it is empty")
    for magic, words in MAGIC.items():
        if data.startswith(magic):
            raise ValueError(words)
    if (at := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, at) + 1
        raise ValueError(f"it is not text: line {line} holds a zero byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"it is not UTF-8 text: line {line} cannot be read") from None


def _parse(row: list[str], key: Key) -> tuple[int, str]:
    """The number of the pair that a line names, and its score as text."""
    row = [column.strip() for column in row]
    if len(row) != 3:
        hint = ""
        if len(row) == 4:
            hint = " (no labels, and a point in numbers, not a comma)"
        elif len(row) < 3 and any(mark in "".join(row) for mark in ";\t"):
            hint = " (columns are separated by commas)"
        raise ValueError(f"expected 3 columns (score, file, file), found {len(row)}{hint}")
    score, left, right = row
    at = key._of_pair.get(_ordered(left, right))
    if at is not None:
        return at, score
    for name in (left, right):
        if name not in key._names:
            raise ValueError(f"no image of the list is called '{shown(name)}'")
    if left == right:
        raise ValueError(f"{shown(left)} is compared with itself")
    raise ValueError(f"the list has no pair of {shown(left)} and {shown(right)}")


def _number(text: str) -> float:
    if len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text) and np.isfinite(float(text)):
        return float(text)
    raise ValueError(f"the score must be a finite number, found '{shown(text)}'")


def _read_identities(path: Path, pairs: PairList) -> list[str]:
    """Who is in each of `pairs.files`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except OSError as error:
        raise UserError(f"cannot read the identities {path}: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from None
    if rows and rows[0][1][0].lower() in ("anonymous", "file", "blind"):
        rows = rows[1:]
    known: dict[str, str] = {}
    problems = []
    for line, row in rows:
        if len(row) != 2 or not all(row):
            problems.append(f"line {line}: expected two columns (file, original), found {len(row)}")
        elif known.setdefault(row[0], row[1]) != row[1]:
            problems.append(f"line {line}: {shown(row[0])} came before with another original")
    if problems:
        raise UserError(bad_lines(path, problems))
    missing = [name for name in pairs.files if name not in known]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing):,} of the {len(pairs.files):,} images of the key, "
            f"first {shown(missing[0])}"
        )
    return [known[name].split("/", 1)[0] for name in pairs.files]


def _contradictions(pairs: PairList, of_file: Sequence[str]) -> np.ndarray:
    """Numbers of the pairs whose label does not agree with who is in the two images."""
    who = np.unique(np.asarray(of_file), return_inverse=True)[1]
    return np.flatnonzero((who[pairs.left] == who[pairs.right]) != (pairs.labels == 1))
