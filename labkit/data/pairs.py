"""Pair lists: which images to compare, and which of the pairs show one person.

A list is a CSV without a header: `1,a/1.jpg,a/2.jpg` is a target pair, `0,a/1.jpg,b/1.jpg` an
imposter pair. A blind list lacks the label. Tabs, semicolons or spaces may stand for the commas, as
in VoxCeleb's lists, and LFW's `pairs.txt`, a folder of CFP's splits (`Protocol/Split/FP`) and a
verification set (`lfw.bin`) are read as they are.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from labkit.data.bins import read_bin
from labkit.data.folders import FaceFolder, find_images
from labkit.data.images import IMAGE_EXTENSIONS, Source
from labkit.data.tables import read_rows
from labkit.utils import UserError, printable, write_csv

MAX_BAD_LINES_SHOWN = 20
normal_name = posixpath.normpath  # as a folder's listing has it: `./a//1.jpg` is `a/1.jpg`


@dataclass(eq=False)
class PairList:
    """Pairs of images to compare."""

    files: list[str]  # names of the images, unique and sorted, relative to the test folder
    left: np.ndarray  # int64 (n,), the first image of each pair as an index into `files`
    right: np.ndarray  # int64 (n,), the second one
    labels: np.ndarray | None = None  # int8 (n,), 1 for a target pair, 0 for an imposter
    folds: np.ndarray | None = None  # int64 (n,), from 0, where a protocol has them
    sources: dict[str, bytes] | None = None  # the image files, where they come with the list

    @classmethod
    def from_names(cls, left: Sequence[str], right: Sequence[str], labels=None, folds=None):
        """Make a pair list from the names of the left and the right images."""
        index = {name: i for i, name in enumerate(sorted({*left, *right}))}
        sides = (np.array([index[name] for name in side], dtype=np.int64) for side in (left, right))
        labels = None if labels is None else np.asarray(labels, np.int8)
        return cls(list(index), *sides, labels, folds)

    @classmethod
    def read(cls, path: str | Path, root: str | Path | None = None) -> "PairList":
        """Read a labelled or blind list of files below `root`; UserError names the bad lines."""
        if Path(path).suffix.lower() == ".bin":
            return cls._of_bin(path)
        if Path(path).is_dir():
            return _read_cfp(Path(path))
        rows, folds = read_columns(path, "pair list", (2, 3)), None
        lfw = bool(rows) and all(column.isdecimal() for column in rows[0][1])
        header = rows.pop(0)[1] if lfw else []
        if not rows:
            raise UserError(f"{path} holds no pairs")
        if lfw:
            count, each = [1, *map(int, header)][-2:]  # of folds; of pairs of each kind in one
            if len(rows) != (expected := 2 * count * each):
                raise UserError(f"{path} has {len(rows):,} pairs, by its first line {expected:,}")
            folds = np.arange(len(rows)) // (2 * each)
        blind = len(rows[0][1]) == 2
        columns = "two columns (file, file)" if blind else "three columns (label, file, file)"
        exists = cache(find_images(root)) if root else lambda name: True

        def parse(row: list[str]) -> tuple[str, str, int]:
            row = _lfw_pair(row, exists) if lfw else row
            if len(row) != (2 if blind else 3):
                raise ValueError(f"expected {columns}, found {len(row)}")
            pair = parse_pair(row)
            if missing := [name for name in pair[:2] if not exists(name)]:
                raise ValueError(f"{printable(missing[0], 80)} is not in {root}")
            return pair

        left, right, labels = zip(*parse_pairs(path, rows, parse))
        return cls.from_names(left, right, None if blind else labels, folds)

    @classmethod
    def _of_bin(cls, path: str | Path) -> "PairList":
        images, labels = read_bin(path)
        first = {data: f"{i:06d}.jpg" for i, data in reversed([*enumerate(images)])}
        names = [first[data] for data in images]  # a picture of several pairs is one file
        folds = np.arange(len(labels)) * 10 // len(labels)
        made = cls.from_names(names[::2], names[1::2], labels, folds)
        made.sources = {name: data for data, name in first.items()}
        return made

    def find(self, root: str | Path | None) -> Callable[[str], Source | None]:
        """Return what gives the source of a file by its name; `root` is the test folder."""
        return self.sources.get if self.sources else find_images(root)

    def rows(self) -> Iterator[tuple]:
        """Yield ([label,] left, right) of each pair, as the lines of a list have it."""
        for i in range(len(self)):
            label = () if self.labels is None else (int(self.labels[i]),)
            yield *label, *self.name_pair(i)

    def write(self, path: str | Path) -> None:
        """Write the list as CSV, whole or not at all."""
        write_csv(path, self.rows())

    def __len__(self) -> int:
        return len(self.left)

    def name_pair(self, i: int) -> tuple[str, str]:
        """Return the two file names of pair i."""
        return self.files[self.left[i]], self.files[self.right[i]]

    def identities(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the `people` in the left and the right images, str (n,) each."""
        of_file = np.array(self.people[0])
        return of_file[self.left], of_file[self.right]

    @cached_property
    def people(self) -> tuple[list[str], str]:
        """The person of each file of a labelled list, and what tells who is who, in words.

        That is the first of folders, names and target pairs that agrees with all labels; UserError
        if none does.
        """
        parts = [name.split("/") for name in self.files]
        levels, number = range(min(map(len, parts)) - 1), re.compile(r"[\W_]*\d+(\.\w+)?$")
        same, n = self.labels == 1, len(self.files)
        graph = coo_array((self.labels[same], (self.left[same], self.right[same])), shape=(n, n))
        group = connected_components(graph, directed=False)[1]
        first = np.unique(group, return_index=True)[1][group]
        guesses = [([part[k] for part in parts], "the folders of the images") for k in levels]
        guesses += [([number.sub("", part[-1]) for part in parts], "the names of the images")]
        guesses += [([self.files[i] for i in first], "the target pairs")]
        wrong = [self.contradictions(of_file) for of_file, _ in guesses]
        for guess, bad in zip(guesses, wrong):
            if not len(bad):
                return guess
        a, b = map(printable, self.name_pair(wrong[0][0]))
        what = f"folders or names contradict {len(wrong[0]):,} labels, first that of {a} and {b}"
        raise UserError(f"cannot tell who is who: {what}; target pairs contradict others")

    def contradictions(self, of_file: Sequence[str]) -> np.ndarray:
        """Return the indices of the pairs whose label contradicts the persons of the files."""
        who = np.unique(of_file, return_inverse=True)[1]
        return np.flatnonzero((who[self.left] == who[self.right]) != (self.labels == 1))

    def check_labels(self, path: str | Path) -> None:
        """Raise UserError that names `path` unless there are both target and imposter pairs."""
        if self.labels is None:
            raise UserError(f"{path} has no labels: expected three columns (label, file, file)")
        if self.labels.min() == self.labels.max():
            raise UserError(f"{path} needs both target and imposter pairs")


def read_columns(path: str | Path, kind: str, widths: Sequence[int]) -> list[tuple]:
    """Return (line number, columns) of each line; spaces may separate the columns too.

    Raises UserError for a file that is unreadable or has no line of one of the `widths`.
    """
    rows = read_rows(path, f"the {kind}")
    rows = [(line, row[0].split() if len(row) == 1 else row) for line, row in rows]
    if rows and not any(len(row) in widths for _, row in rows):
        told = f"{path}: no line has {' or '.join(map(str, widths))} columns"
        raise UserError(f"{told}; separate them by commas, tabs or spaces")
    return rows


def _read_cfp(folder: Path) -> PairList:
    """CFP's protocol: `FP/01/same.txt` to `10/diff.txt` number the pictures of 500 people.

    Each has 10 frontal pictures and 4 in profile; `FF` compares the first, `FP` both kinds.
    """
    kinds = {"FF": ("frontal", "frontal"), "FP": ("frontal", "profile")}.get(folder.name.upper())
    files = [f for f in sorted(folder.glob("*/*.txt")) if f.stem in ("same", "diff")]
    if not kinds or not files:
        told = "holds no FF/01/same.txt or the like of CFP's protocol"
        raise UserError(f"{folder} is a folder, which {told}; a pair list is a file")
    left, right, labels, folds = [], [], [], []
    for file in files:
        for line, row in read_columns(file, "pair list", (2,)):
            try:
                numbers = [int(column) - 1 for column in row]
                if len(numbers) != 2 or min(numbers) < 0:
                    raise ValueError
            except ValueError:
                raise UserError(f"{file}, line {line}: expected two numbers") from None
            for side, kind, number in zip((left, right), kinds, numbers):
                person, picture = divmod(number, dict(frontal=10, profile=4)[kind])
                side.append(f"{person + 1:03d}/{kind}/{picture + 1:02d}.jpg")
            labels.append(int(file.stem == "same"))
            folds.append(file.parent.name)
    return PairList.from_names(left, right, labels, np.unique(folds, return_inverse=True)[1])


def _lfw_pair(row: list[str], exists: Callable) -> list[str]:
    """[label, left, right] of LFW's `name 1 2` (a target pair) or `name 1 other 2`."""
    if len(row) not in (3, 4) or not (row[1] + row[-1]).isdecimal():
        raise ValueError("expected `name 1 2` or `name 1 other 2`")
    label, files = "1" if len(row) == 3 else "0", []
    for person, number in ((row[0], row[1]), (row[0 if label == "1" else 2], row[-1])):
        photo = f"{person}/{person}_{int(number):04d}"
        endings = (end for end in (".jpg", *IMAGE_EXTENSIONS) if exists(photo + end))
        files.append(photo + next(endings, ".jpg"))
    return [label, *files]


def parse_pairs(path: str | Path, rows: list[tuple[int, list[str]]], parse: Callable) -> list:
    """Return what `parse` makes of the columns of each row: (left, right, label, …).

    Raises UserError that lists the rows for which `parse` raised ValueError, and those whose pair
    came before, in this or the other order.
    """
    problems, parsed, seen = [], [], {}
    for line, row in rows:
        try:
            left, right, label, *_ = values = parse(row)
            earlier, other = seen.setdefault(frozenset((left, right)), (line, label))
            if earlier != line:
                kind = "already" if other == label else "with the other label"
                raise ValueError(f"this pair is {kind} on line {earlier}")
            parsed.append(values)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    if problems:
        raise UserError(bad_lines(path, problems))
    return parsed


def parse_pair(row: list[str]) -> tuple[str, str, int]:
    """Return (left, right, label) of the columns [label,] left, right; ValueError for bad ones."""
    *label, left, right = row
    if label and label[0] not in ("0", "1"):
        raise ValueError(f"the label must be 1 or 0, found '{printable(label[0])}'")
    left, right = normal_name(left), normal_name(right)
    for name in (left, right):
        if re.search(r"^/|^\.\.?(/|$)|[\\\0]", name):
            raise ValueError(f"'{printable(name)}' is not a path inside the test folder")
    if left == right:
        raise ValueError(f"{printable(left)} is compared with itself")
    return left, right, int(label[0]) if label else 0


def bad_lines(path: str | Path, problems: Sequence[str]) -> str:
    """Return one message for the bad lines of a file, the first 20 of them."""
    more = len(problems) - MAX_BAD_LINES_SHOWN
    shown = [*problems[:MAX_BAD_LINES_SHOWN], f"and {more:,} more"][: len(problems)]
    return f"{path} has {len(problems):,} bad line{'s'[: len(problems) > 1]}: {'; '.join(shown)}"


def make_pairs(
    folder: FaceFolder, *, per_image: int = 4, seed: int = 0, labelled: bool = True
) -> PairList:
    """Draw about `per_image` random pairs for each image, half target and half imposter.

    No pair comes twice. Raises UserError without two identities, or one with two images.
    """
    counts, labels, n = folder.counts(), folder.labels, len(folder)
    if len(counts) < 2 or counts.max() < 2:
        raise UserError(f"pairs need two identities, and two images of one: {folder.root} has not")
    rng = np.random.default_rng(seed)
    every = np.repeat(np.arange(n), max(1, per_image // 2))
    starts, own = folder.starts[labels[every]], counts[labels[every]]
    partner = starts + (every - starts + 1 + rng.integers(0, np.maximum(own - 1, 1))) % own
    targets = _unique_pairs(every[own > 1], partner[own > 1], n)
    right = rng.integers(0, n, size=3 * len(every) + 8)
    left = np.resize(rng.permutation(n), len(right))
    strangers = labels[left] != labels[right]
    imposters = _unique_pairs(left[strangers], right[strangers], n)[: len(targets)]
    pairs = np.concatenate([targets, imposters])
    truth = np.repeat([1, 0], [len(targets), len(imposters)])
    order = rng.permutation(len(pairs))
    left, right = ([folder.name(i) for i in side] for side in pairs[order].T)
    return PairList.from_names(left, right, truth[order] if labelled else None)


def _unique_pairs(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    key = np.minimum(left, right) * n + np.maximum(left, right)
    first = np.sort(np.unique(key, return_index=True)[1])
    return np.stack([left[first], right[first]], axis=1)
