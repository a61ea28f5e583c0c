"""Score files: `score,label,file1,file2`, or `score,file1,file2` for a blind list.

CSV without a header, one line per pair, larger scores for more alike faces.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit.data import PairList
from labkit.data.pairs import parse_pair, parse_pairs, read_csv_rows
from labkit.utils import UserError, printable, write_csv

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST_NUMBER = 40  # characters of a score
MAX_PAIRS_SHOWN = 5


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
        """Return these scores in the order and with the labels of a labelled list of the pairs.

        Pairs are matched by their two names, whichever comes first. Raises UserError when the
        list is blind, when a pair of either side is missing from the other, or when this file
        has labels that contradict the list's.
        """
        if pairs.labels is None:
            raise UserError("the list of labels is blind itself: give one with labels")
        what = self.path or "the score file"
        place = {pair: i for i, pair in enumerate(_ordered_pairs(self.pairs))}
        wanted = _ordered_pairs(pairs)
        problems = []
        if missing := [pair for pair in wanted if pair not in place]:
            problems.append(f"lacks {_some(missing)} of the labelled list")
        if extra := sorted(place.keys() - set(wanted)):
            problems.append(f"has {_some(extra)} that the labelled list lacks")
        if problems:
            raise UserError(f"{what} does not fit: it {', and '.join(problems)}")
        order = np.array([place[pair] for pair in wanted])
        if self.labels is not None and (wrong := self.labels[order] != pairs.labels).any():
            told = _some([wanted[i] for i in np.flatnonzero(wrong)])
            raise UserError(f"{what} has another label for {told} than the list")
        return ScoreFile(self.scores[order], pairs, self.path)


def _ordered_pairs(pairs: PairList) -> list[tuple[str, ...]]:
    return [tuple(sorted(pairs.name_pair(i))) for i in range(len(pairs))]


def _some(pairs: Sequence[tuple[str, ...]]) -> str:
    """`3 pairs (a/1.jpg,b/1.jpg; …)`."""
    names = [",".join(map(printable, pair)) for pair in pairs[:MAX_PAIRS_SHOWN]]
    names += ["…"] * (len(pairs) > MAX_PAIRS_SHOWN)
    return f"{len(pairs):,} pair{'s'[: len(pairs) > 1]} ({'; '.join(names)})"


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
    columns = [(f"{score:.9g}" for score in scores)]
    if pairs.labels is not None:
        columns.append(pairs.labels.tolist())
    rows = zip(*columns, map(pairs.name_pair, range(len(pairs))))
    write_csv(path, ((*values, *names) for *values, names in rows))


def read_scores(path: str | Path) -> ScoreFile:
    """Read a labelled or blind score file.

    Raises UserError that names the file and all its bad lines (the first 20 are shown): a wrong
    number of columns, a score that is not a finite number, a label other than 1 and 0, a name
    that leaves the folder, an image compared with itself, a pair that came before (with the same
    or with the other label).
    """
    rows = read_csv_rows(path, "score file", (3, 4))
    if not rows:
        raise UserError(f"{path} holds no scores")
    columns = next((len(row) for _, row in rows if len(row) in (3, 4)), 4)
    expected = "4 columns (score, label, file, file)" if columns == 4 else "3 (score, file, file)"

    def parse(row: list[str]) -> tuple[str, str, int, float]:
        if len(row) != columns:
            raise ValueError(f"expected {expected}, found {len(row)}")
        score, *pair = row
        if not NUMBER.fullmatch(score) or len(score) > LONGEST_NUMBER or np.isinf(float(score)):
            raise ValueError(f"the score must be a finite number, found '{printable(score)}'")
        return *parse_pair(pair), float(score)

    left, right, labels, scores = zip(*parse_pairs(path, rows, parse))
    pairs = PairList.from_names(left, right, labels if columns == 4 else None)
    return ScoreFile(np.array(scores), pairs, Path(path))
