"""Score files: `score,label,file1,file2`, or `score,file1,file2` for a blind list.

CSV without a header, one line per pair, larger scores for more alike faces.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit.data import PairList, bad_lines
from labkit.data.pairs import check_relative
from labkit.utils import UserError, atomic_path, reason
from labkit.utils import printable as shown

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST_NUMBER = 40  # signs of a score
MOST_PAIRS_SHOWN = 5


@dataclass
class ScoreFile:
    """Scores with the pairs that they belong to.

    scores: float64 (n,). pairs: the `PairList` in the same order; its `labels` are None for a
    blind file. path: where it was read, for messages.
    """

    scores: np.ndarray
    pairs: PairList
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def labels(self) -> np.ndarray | None:
        """int8 (n,), or None for a blind file."""
        return self.pairs.labels

    def with_labels(self, pairs: PairList) -> "ScoreFile":
        """These scores in the order and with the labels of a labelled list of the same pairs.

        Pairs are matched by their two names, whichever comes first. Raises UserError when the
        list is blind, when a pair of either side is missing from the other, or when this file
        has labels that contradict the list's.
        """
        what = str(self.path or "the score file")
        if pairs.labels is None:
            raise UserError("the list of labels is blind itself: give one with labels")
        number = {name: i for i, name in enumerate(pairs.files)}
        of_file = np.array([number.get(name, -1) for name in self.pairs.files], np.int64)
        left, right = of_file[self.pairs.left], of_file[self.pairs.right]
        n = len(pairs.files)
        wanted = np.minimum(pairs.left, pairs.right) * n + np.maximum(pairs.left, pairs.right)
        given = np.minimum(left, right) * n + np.maximum(left, right)
        given[(left < 0) | (right < 0)] = -1
        order = np.argsort(given, kind="stable")
        place = np.minimum(np.searchsorted(given[order], wanted), len(given) - 1)
        missing = given[order][place] != wanted
        extra = ~np.isin(given, wanted)
        problems = []
        if missing.any():
            problems.append(f"lacks {_some(pairs, missing)} of the labelled list")
        if extra.any():
            problems.append(f"has {_some(self.pairs, extra)} that the labelled list lacks")
        if problems:
            raise UserError(f"{what} does not fit: it " + ", and ".join(problems))
        if len(given) != len(wanted):
            raise UserError(f"{what} has {len(given):,} lines for {len(wanted):,} pairs")
        found = order[place]
        if self.labels is not None and (wrong := self.labels[found] != pairs.labels).any():
            raise UserError(f"{what} has another label for {_some(pairs, wrong)} than the list")
        return ScoreFile(self.scores[found], pairs, self.path)


def _some(pairs: PairList, chosen: np.ndarray) -> str:
    """`3 pairs (a/1.jpg,b/1.jpg; …)`."""
    at = np.flatnonzero(chosen)
    names = [",".join(map(shown, pairs.name_pair(i))) for i in at[:MOST_PAIRS_SHOWN]]
    dots = "; …" if len(at) > MOST_PAIRS_SHOWN else ""
    return f"{len(at):,} pair{'s'[: len(at) > 1]} ({'; '.join(names)}{dots})"


def write_scores(path: str | Path, scores: np.ndarray, pairs: PairList) -> None:
    """Write a score file, labelled when `pairs` is, whole or not at all.

    Nine significant digits, which give a float32 back exactly. Raises UserError when the numbers
    of scores and pairs differ or a score is not finite.
    """
    scores = np.asarray(scores)
    if scores.shape != (len(pairs),):
        raise UserError(f"{scores.size} scores for {len(pairs)} pairs: give one score per pair")
    if not np.isfinite(scores).all():
        i = int(np.flatnonzero(~np.isfinite(scores))[0])
        names = " and ".join(pairs.name_pair(i))
        raise UserError(f"the score of {names} is {scores[i]}: every score must be a number")
    left = (pairs.files[i] for i in pairs.left)
    right = (pairs.files[i] for i in pairs.right)
    numbers = (f"{score:.9g}" for score in scores)
    columns = [numbers, left, right]
    if pairs.labels is not None:
        columns.insert(1, (int(label) for label in pairs.labels))
    with atomic_path(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(zip(*columns))


def read_scores(path: str | Path) -> ScoreFile:
    """Read a labelled or blind score file.

    Raises UserError that names the file and all its bad lines (the first 20 are shown): a wrong
    number of columns, a score that is not a finite number, a label other than 1 and 0, a name
    that leaves the folder, an image compared with itself, a pair that came before (with the same
    or with the other label).
    """
    path = Path(path)
    problems: list[str] = []
    scores: list[float] = []
    labels: list[int] = []
    lefts: list[str] = []
    rights: list[str] = []
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    safe: set[str] = set()
    columns = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if not row:
                    continue
                columns = columns or (len(row) if len(row) in (3, 4) else 0)
                try:
                    score, label, left, right = _parse(row, columns, safe)
                    pair = (left, right) if left < right else (right, left)
                    line, earlier = seen.setdefault(pair, (reader.line_num, label))
                    if line != reader.line_num:
                        again = "already" if earlier == label else "with the other label"
                        raise ValueError(f"this pair is {again} on line {line}")
                except ValueError as error:
                    problems.append(f"line {reader.line_num}: {error}")
                    continue
                scores.append(score)
                labels.append(label)
                lefts.append(left)
                rights.append(right)
    except OSError as error:
        raise UserError(f"cannot read the score file {path}: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from None
    if problems:
        raise UserError(bad_lines(path, problems))
    if not scores:
        raise UserError(f"{path} holds no scores")
    pairs = PairList.from_names(lefts, rights, labels if columns == 4 else None)
    return ScoreFile(np.array(scores), pairs, path)


def _parse(row: list[str], columns: int, safe: set[str]) -> tuple[float, int, str, str]:
    row = [column.strip() for column in row]
    if len(row) != columns or not columns:
        expected = {
            3: "3 columns (score, file, file), as the lines before",
            4: "4 columns (score, label, file, file), as the lines before",
        }.get(columns, "4 columns (score, label, file, file), or 3 without the label")
        raise ValueError(f"expected {expected}, found {len(row)}")
    score, left, right = row[0], row[-2], row[-1]
    if not NUMBER.fullmatch(score) or len(score) > LONGEST_NUMBER or abs(float(score)) == np.inf:
        raise ValueError(f"the score must be a finite number, found '{shown(score)}'")
    label = row[1] if columns == 4 else "0"
    if label not in ("0", "1"):
        raise ValueError(f"the label must be 1 or 0, found '{shown(label)}'")
    for name in (left, right):
        if name not in safe:
            check_relative(name)
            safe.add(name)
    if left == right:
        raise ValueError(f"{shown(left)} is compared with itself")
    return float(score), int(label), left, right
