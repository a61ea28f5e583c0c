"""Score files that students submit for a blind list, checked before they are believed.

A submission is a score file `score,file1,file2` with every pair of the blind list once, in any
order, either name first. Nothing in it is trusted: not its name, not its size, not its bytes.
"""

import csv
import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.data import PairList, bad_lines, is_litter
from labkit.data.pairs import normal_name
from labkit.data.tables import read_rows
from labkit.evaluate.scorefiles import NUMBER
from labkit.evaluate.verification import direction_hint
from labkit.utils import UserError, printable, reason

MAX_PROBLEMS = 20
MAX_NUMBER = 40  # characters of a score
LINE_ALLOWANCE = 2  # a line may be so many times as long as its names need
FIXED_ALLOWANCE = 1 << 16  # bytes
MAGIC = {
    b"PK\x03\x04": "it is a zip archive or a spreadsheet (.xlsx): export it as plain CSV",
    b"\xd0\xcf\x11\xe0": "it is an old Excel file (.xls): export it as plain CSV",
    b"\xff\xfe": "it is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "it is UTF-16 text: save it as UTF-8",
}


@dataclass
class Key:
    """The labels of a blind list, and who is in its images; staff keep it."""

    pairs: PairList  # labelled, with the names that the blind list has
    left: np.ndarray  # int64 (n,), number of the person in each pair's first image
    right: np.ndarray
    people: int
    known_by: str  # how we know who is who, for the report
    number: dict[frozenset[str], int] = field(init=False, repr=False)
    size_limit: int = field(init=False)

    def __post_init__(self):
        names = [self.pairs.name_pair(i) for i in range(len(self.pairs))]
        self.number = {frozenset(pair): i for i, pair in enumerate(names)}
        longest = sum(len(a.encode()) + len(b.encode()) + MAX_NUMBER + 8 for a, b in names)
        self.size_limit = LINE_ALLOWANCE * longest + FIXED_ALLOWANCE

    @classmethod
    def read(cls, path: str | Path, identities: str | Path | None = None) -> "Key":
        """Read the key: a labelled pair list `label,file1,file2` in the blind list's names.

        Who is in an image is told, in this order, by `identities`, a CSV `file,original` (the
        original name `identity/image.jpg`, or the identity alone; a first line
        `anonymous,original` is skipped), or as `PairList.people` has it: by the names or the
        target pairs. Raises UserError for files that cannot be read, when `identities` lacks an
        image or contradicts a label, and where `people` does.
        """
        pairs = PairList.read(path)
        pairs.check_labels(path)
        if identities is not None:
            of_file = _read_identities(Path(identities), pairs)
            known_by = "people as listed by the staff"
            wrong = pairs.contradictions(of_file)
            if len(wrong):
                a, b = pairs.name_pair(wrong[0])
                what = f"contradicts {len(wrong):,} labels of {path}"
                raise UserError(f"{identities} {what}, first {printable(a)} and {printable(b)}")
        else:
            of_file, told_by = pairs.people
            known_by = f"people by {told_by}"
        names, number = np.unique(of_file, return_inverse=True)
        return cls(pairs, number[pairs.left], number[pairs.right], len(names), known_by)

    @classmethod
    def of_blind(cls, path: str | Path) -> "Key":
        """Return a key without labels, to check submissions only."""
        pairs = PairList.read(path)
        nobody = np.zeros(len(pairs), np.int64)
        return cls(pairs, nobody, nobody, 0, "nobody")

    def hint(self, scores: np.ndarray) -> str:
        """Return `direction_hint` of the scores, or what it would say if there were labels."""
        if self.pairs.labels is None:
            return "A larger score must mean more alike."
        return direction_hint(metrics.eer(scores, self.pairs.labels))


@dataclass
class Submission:
    """One score file after the check."""

    path: Path
    scores: np.ndarray | None  # float64 (n,) in the key's order; None when anything is wrong
    problems: list[str]  # what is wrong, in plain words, the first 20 and how many more

    def __str__(self) -> str:
        """Return one line for people: the file and what is wrong with it."""
        return f"{printable(self.path.name, 60)}: {'; '.join(self.problems)}"


def find_submissions(places: Sequence[Path]) -> list[Path]:
    """Return the submissions: each place is a file, or a folder whose entries are submissions.

    Sorted by name; hidden entries of a folder are left out. Raises UserError for a place that is
    not there, and when there is none at all.
    """
    found: list[Path] = []
    for place in places:
        try:
            if place.is_dir() and not place.is_symlink():
                found += sorted(path for path in place.iterdir() if not is_litter(path.name))
            else:
                place.lstat()
                found.append(place)
        except OSError as error:
            raise UserError(f"cannot read {printable(place, 200)}: {reason(error)}") from None
    if not found:
        raise UserError(f"no submissions in {', '.join(map(str, places))}")
    return list(dict.fromkeys(found))


def check_submission(path: Path, key: Key) -> Submission:
    """Read one submission and say all that is wrong with it; never raise for what is in it."""
    try:
        text = _text(path, key.size_limit)
    except (OSError, ValueError) as error:
        why = f"it cannot be read: {reason(error)}" if isinstance(error, OSError) else str(error)
        return Submission(path, None, [why])
    scores = np.full(len(key.pairs), np.nan)
    line_of = np.zeros(len(key.pairs), np.int64)  # 0: not there
    names = set(key.pairs.files)
    problems: list[tuple[int, str]] = []
    lines = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in filter(None, reader):
            lines += 1
            try:
                at, score = _parse([column.strip() for column in row], key, names)
                if line_of[at]:
                    raise ValueError(f"this pair is already on line {line_of[at]}")
                line_of[at] = reader.line_num
                scores[at] = _number(score)
            except ValueError as error:
                header = lines == 1 and len(row) == 3 and not NUMBER.fullmatch(row[0].strip())
                hint = " (is this a header? A submission has none)" if header else ""
                problems.append((reader.line_num, f"{error}{hint}"))
    except csv.Error as error:
        problems.append((reader.line_num, f"not CSV ({error})"))
    missing = np.flatnonzero(line_of == 0)
    shown = _grouped(problems)
    if not lines and not problems:
        shown.append("it holds no line")
    if len(missing):
        first = ",".join(map(printable, key.pairs.name_pair(int(missing[0]))))
        many = f"{len(missing):,} of {len(line_of):,} pairs of the list"
        shown.append(f"{many} are missing, first {first}")
    return Submission(path, None if shown else scores, shown)


def _grouped(problems: list[tuple[int, str]]) -> list[str]:
    """Return problems of lines in words, neighbours with one reason together, the first 20."""
    shown = []
    for words, group in groupby(problems, key=lambda problem: problem[1]):
        lines = [line for line, _ in group]
        span = f"lines {lines[0]} to {lines[-1]}" if len(lines) > 1 else f"line {lines[0]}"
        shown.append(f"{span}: {words}")
    more = len(shown) - MAX_PROBLEMS
    return shown[:MAX_PROBLEMS] + [f"and {more:,} more"] * (more > 0)


def _text(path: Path, limit: int) -> str:
    """Return what is in an ordinary file; ValueError (or OSError) says why not.

    A link is refused because it could lead to the key.
    """
    about = os.lstat(path)
    if stat.S_ISLNK(about.st_mode):
        raise ValueError("it is a link, not a file")
    if stat.S_ISDIR(about.st_mode):
        raise ValueError("it is a folder: put the CSV file itself here")
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is not an ordinary file")
    if about.st_size > limit:
        raise ValueError(f"it is too large: {about.st_size:,} bytes, at most {limit:,} are read")
    data = path.read_bytes()
    if not data:
        raise ValueError("it is empty")
    for magic, words in MAGIC.items():
        if data.startswith(magic):
            raise ValueError(words)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"it is not UTF-8 text: line {line} cannot be read") from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise ValueError(f"it is not text: line {line} holds a zero byte")
    return text


def _parse(row: list[str], key: Key, names: set[str]) -> tuple[int, str]:
    """Return the number of the pair that a line names, and its score as text."""
    if len(row) != 3:
        hint = ""
        if len(row) == 4:
            hint = " (no labels, and a point in numbers, not a comma)"
        elif len(row) < 3 and any(mark in "".join(row) for mark in ";\t "):
            hint = " (columns are separated by commas)"
        raise ValueError(f"expected 3 columns (score, file, file), found {len(row)}{hint}")
    score, left, right = row[0], normal_name(row[1]), normal_name(row[2])
    at = key.number.get(frozenset((left, right)))
    if at is not None:
        return at, score
    for name in (left, right):
        if name not in names:
            raise ValueError(f"no image of the list is called '{printable(name)}'")
    if left == right:
        raise ValueError(f"{printable(left)} is compared with itself")
    raise ValueError(f"the list has no pair of {printable(left)} and {printable(right)}")


def _number(text: str) -> float:
    if len(text) <= MAX_NUMBER and NUMBER.fullmatch(text) and np.isfinite(float(text)):
        return float(text)
    raise ValueError(f"the score must be a finite number, found '{printable(text)}'")


def _read_identities(path: Path, pairs: PairList) -> list[str]:
    """Return who is in each of `pairs.files`."""
    known: dict[str, str] = {}
    problems = []
    for line, row in read_rows(path, "the identities"):
        if not known and not problems and row[0].lower() in ("anonymous", "file", "blind"):
            continue
        if len(row) != 2 or not all(row):
            problems.append(f"line {line}: expected two columns (file, original), found {len(row)}")
        elif known.setdefault(normal_name(row[0]), normal_name(row[1])) != normal_name(row[1]):
            problems.append(f"line {line}: {printable(row[0])} came before with another original")
    if problems:
        raise UserError(bad_lines(path, problems))
    missing = [name for name in pairs.files if name not in known]
    if missing:
        some = f"{len(missing):,} of the {len(pairs.files):,} images"
        raise UserError(f"{path} lacks {some} of the key, first {printable(missing[0])}")
    return [known[name].split("/", 1)[0] for name in pairs.files]
