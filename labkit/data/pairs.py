"""Pair lists: which images to compare, and which of the pairs show one person.

A pair list is a CSV without a header: `1,a/1.jpg,a/2.jpg` is a target pair, `0,a/1.jpg,b/1.jpg`
an imposter pair. A blind list lacks the label.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from labkit.data.folders import FaceFolder
from labkit.utils import UserError, reason, write_csv

MOST_PROBLEMS_SHOWN = 20


class PairList:
    """Pairs of images to compare.

    Attributes:
        files: names of the images, unique and sorted, relative to the test folder.
        left, right: int64 (n,), the two images of each pair as indices into `files`.
        labels: int8 (n,), 1 for a target pair and 0 for an imposter; None in a blind list.
    """

    def __init__(
        self, files: list[str], left: np.ndarray, right: np.ndarray, labels: np.ndarray | None
    ):
        self.files, self.left, self.right, self.labels = files, left, right, labels

    def __len__(self) -> int:
        return len(self.left)

    def name_pair(self, i: int) -> tuple[str, str]:
        """The two file names of pair i."""
        return self.files[self.left[i]], self.files[self.right[i]]

    def file_identities(self) -> list[str]:
        """Identity of each file: the first folder of its name."""
        return [name.split("/", 1)[0] for name in self.files]

    def identities(self) -> tuple[np.ndarray, np.ndarray]:
        """Identity (the first folder of the name) of the left and right images, str (n,) each."""
        of_file = np.array(self.file_identities())
        return of_file[self.left], of_file[self.right]

    def joined_files(self) -> np.ndarray:
        """int64 (files,), equal for files that target pairs join, directly or by other files.

        Who is in an image, as far as the labels of anonymous files tell.
        """
        number = np.arange(len(self.files))
        target = self.labels == 1
        left, right = self.left[target], self.right[target]
        while True:
            lower = np.minimum(number[left], number[right])
            before = number.copy()
            np.minimum.at(number, left, lower)
            np.minimum.at(number, right, lower)
            number = number[number]
            if np.array_equal(number, before):
                return number

    @classmethod
    def from_names(
        cls, left: Sequence[str], right: Sequence[str], labels: Sequence[int] | None = None
    ) -> "PairList":
        """A pair list from the names of the left and the right images."""
        number = {name: i for i, name in enumerate(sorted({*left, *right}))}
        return cls(
            list(number),
            np.fromiter((number[name] for name in left), np.int64, len(left)),
            np.fromiter((number[name] for name in right), np.int64, len(right)),
            None if labels is None else np.asarray(labels, dtype=np.int8),
        )

    @classmethod
    def read(cls, path: str | Path, root: str | Path | None = None) -> "PairList":
        """Read a labelled or blind pair list; with `root`, every file must exist below it.

        Raises UserError that names the file and its bad lines (the first 20): a wrong number of
        columns, a label other than 0 and 1, an image compared with itself, a pair that came
        before, a path that is absolute or leaves the folder, a file that is not there.
        """
        path = Path(path)
        rows = _read_rows(path)
        if not rows:
            raise UserError(f"{path} holds no pairs")
        blind = len(rows[0][1]) == 2
        problems: list[str] = []
        seen: dict[tuple[str, str], tuple[int, str]] = {}
        missing: dict[str, bool] = {}
        lefts, rights, labels = [], [], []
        for line, row in rows:
            try:
                label, left, right = _parse_pair(row, blind)
                for name in (left, right) if root is not None else ():
                    if name not in missing:
                        missing[name] = not os.path.isfile(os.path.join(root, name))
                    if missing[name]:
                        raise ValueError(f"{shown(name, 80)} is not in {root}")
                pair = (left, right) if left < right else (right, left)
                earlier = seen.setdefault(pair, (line, label))
                if earlier[0] != line:
                    kind = "with the other label" if earlier[1] != label else "already"
                    raise ValueError(f"this pair is {kind} on line {earlier[0]}")
            except ValueError as error:
                problems.append(f"line {line}: {error}")
                continue
            lefts.append(left)
            rights.append(right)
            labels.append(int(label or 0))
        if problems:
            raise UserError(bad_lines(path, problems))
        return cls.from_names(lefts, rights, None if blind else labels)

    def check_labels(self, path: str | Path) -> None:
        """UserError that names `path` unless there are both target and imposter pairs."""
        if self.labels is None:
            raise UserError(f"{path} has no labels: expected three columns (label, file, file)")
        if self.labels.min() == self.labels.max():
            only = "target" if self.labels[0] else "imposter"
            raise UserError(f"{path} has {only} pairs only: an error rate needs both kinds")

    def write(self, path: str | Path) -> None:
        """Write the list as CSV, whole or not at all."""
        names = (self.name_pair(i) for i in range(len(self)))
        if self.labels is None:
            write_csv(path, names)
        else:
            write_csv(path, ((int(label), *pair) for label, pair in zip(self.labels, names)))


def bad_lines(path: Path, problems: Sequence[str]) -> str:
    """One readable message for the bad lines of a file, the first 20 of them."""
    shown = "; ".join(problems[:MOST_PROBLEMS_SHOWN])
    more = len(problems) - MOST_PROBLEMS_SHOWN
    rest = f"; and {more:,} more" if more > 0 else ""
    return f"{path} has {len(problems):,} bad line{'s'[: len(problems) > 1]}: {shown}{rest}"


def shown(value: object, length: int = 40) -> str:
    """A value from a file as it may be printed: on one line, without control signs, not long."""
    text = str(value)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= length else text[: length - 1] + "…"


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, columns) of the lines that are not empty."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise UserError(f"cannot read the pair list {path}: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from None


def _parse_pair(row: list[str], blind: bool) -> tuple[str | None, str, str]:
    row = [column.strip() for column in row]
    if len(row) != (2 if blind else 3):
        expected = "two columns (file, file)" if blind else "three columns (label, file, file)"
        raise ValueError(f"expected {expected}, found {len(row)}")
    label, left, right = (None, *row) if blind else row
    if label not in (None, "0", "1"):
        raise ValueError(f"the label must be 1 or 0, found '{shown(label)}'")
    for name in (left, right):
        check_relative(name)
    if left == right:
        raise ValueError(f"{shown(left)} is compared with itself")
    return label, left, right


def check_relative(name: str) -> None:
    """ValueError unless `name` is a relative path that stays in its folder."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"'{shown(name)}' is not a path inside the test folder")


def make_pairs(
    folder: FaceFolder, *, per_image: int = 4, seed: int = 0, labelled: bool = True
) -> PairList:
    """Random pairs: about `per_image` pairs for each image, half target and half imposter.

    No pair comes twice and no image meets itself. An identity with one image gives imposter
    pairs only. Raises UserError when the folder has a single identity, or no identity with two
    images.
    """
    counts = folder.counts()
    if len(counts) < 2:
        raise UserError(f"{folder.root} has one identity: imposter pairs need two")
    if counts.max() < 2:
        raise UserError(f"{folder.root} has one image of each identity: target pairs need two")
    rng = np.random.default_rng(seed)
    labels = folder.labels
    wanted = max(1, per_image // 2)
    every = np.repeat(np.arange(len(folder)), wanted)
    starts = folder.starts[labels[every]]
    own = counts[labels[every]]
    partner = starts + (every - starts + 1 + rng.integers(0, np.maximum(own - 1, 1))) % own
    targets = _unique_pairs(every[own > 1], partner[own > 1], len(folder))
    spread = rng.integers(0, len(folder), size=3 * len(every) + 8)
    left = np.resize(rng.permutation(len(folder)), len(spread))
    strangers = labels[left] != labels[spread]
    imposters = _unique_pairs(left[strangers], spread[strangers], len(folder))
    imposters = imposters[: len(targets)]
    pairs = np.concatenate([targets, imposters])
    truth = np.repeat([1, 0], [len(targets), len(imposters)])
    order = rng.permutation(len(pairs))
    pairs, truth = pairs[order], truth[order]
    return PairList.from_names(
        [folder.name(i) for i in pairs[:, 0]],
        [folder.name(i) for i in pairs[:, 1]],
        truth if labelled else None,
    )


def _unique_pairs(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """The different unordered pairs, int64 (m, 2), in the order in which they first come."""
    key = np.minimum(left, right) * n + np.maximum(left, right)
    first = np.sort(np.unique(key, return_index=True)[1])
    return np.stack([left[first], right[first]], axis=1)
