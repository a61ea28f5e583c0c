"""Score files: `score,label,file1,file2`, or `score,file1,file2` for a blind list.

CSV without a header, one line per pair, larger scores for more alike faces.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit.data import PairList
from labkit.data.pairs import parse_pair, parse_pairs, read_columns
from labkit.utils import UserError, printable, write_csv

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass
class ScoreFile:
    """Scores, float64 (n,), of a `PairList`, read from a path; labels are None in a blind file."""

    scores: np.ndarray
    pairs: PairList
    path: Path

    def with_labels(self, pairs: PairList) -> "ScoreFile":
        """Return these scores in the order and with the labels of a labelled list of the pairs.

        Names may come in either order. Raises UserError when the list is blind, lacks a pair or
        has another, or contradicts labels of this file.
        """
        if pairs.labels is None:
            raise UserError("the list of labels is blind itself: give one with labels")
        place = {pair: i for i, pair in enumerate(_ordered_pairs(self.pairs))}
        wanted = _ordered_pairs(pairs)
        if odd := sorted(place.keys() ^ set(wanted)):
            first = " and ".join(map(printable, odd[0]))
            told = f"{len(odd):,} pairs are in one of the two only, first that of {first}"
            raise UserError(f"{self.path} does not fit the labelled list: {told}")
        order = np.array([place[pair] for pair in wanted])
        own = self.pairs.labels
        if own is not None and not np.array_equal(own[order], pairs.labels):
            raise UserError(f"{self.path} has other labels than the labelled list")
        return ScoreFile(self.scores[order], pairs, self.path)


def _ordered_pairs(pairs: PairList) -> list[tuple[str, ...]]:
    return [tuple(sorted(pairs.name_pair(i))) for i in range(len(pairs))]


def write_scores(path: str | Path, scores: np.ndarray, pairs: PairList) -> None:
    """Write a score file, labelled when `pairs` is, whole or not at all.

    Nine significant digits, which give a float32 back exactly. Raises UserError for a wrong
    number of scores and for one that is not finite.
    """
    scores = np.asarray(scores)
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise UserError(f"{path} needs a finite score for each of the {len(pairs)} pairs")
    rows = zip(scores.tolist(), pairs.rows())
    write_csv(path, ((f"{score:.9g}", *row) for score, row in rows))


def read_scores(path: str | Path) -> ScoreFile:
    """Read a labelled or blind score file.

    Raises UserError that names the file and its bad lines (the first 20), such as a score that is
    not a finite number or a pair that came before.
    """
    rows = read_columns(path, "score file", (3, 4))
    if not rows:
        raise UserError(f"{path} holds no scores")
    columns = next((len(row) for _, row in rows if len(row) in (3, 4)), 4)
    expected = "4 columns (score, label, file, file)" if columns == 4 else "3 (score, file, file)"

    def parse(row: list[str]) -> tuple[str, str, int, float]:
        if len(row) != columns:
            raise ValueError(f"expected {expected}, found {len(row)}")
        score, *pair = row
        if not NUMBER.fullmatch(score) or np.isinf(float(score)):
            raise ValueError(f"the score must be a finite number, found '{printable(score)}'")
        return *parse_pair(pair), float(score)

    left, right, labels, scores = zip(*parse_pairs(path, rows, parse))
    pairs = PairList.from_names(left, right, labels if columns == 4 else None)
    return ScoreFile(np.array(scores), pairs, Path(path))
