"""Pair lists: which images to compare, and which of the pairs show one person.

A list is a CSV without a header: `1,a/1.jpg,a/2.jpg` is a target pair, `0,a/1.jpg,b/1.jpg` an
imposter pair. A blind list lacks the label. Tabs, semicolons or spaces may stand for the commas, as
in VoxCeleb's lists, and LFW's `pairs.txt` is read as it is.
"""

import csv
import io
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from labkit.data.folders import IMAGE_EXTENSIONS, FaceFolder
from labkit.utils import UserError, printable, reason, write_csv

MAX_BAD_LINES_SHOWN = 20
normal_name = posixpath.normpath  # as a folder's listing has it: `./a//1.jpg` is `a/1.jpg`
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", " ": "spaces"}


class PairList:
    """Pairs of images to compare.

    files: names of the images, unique and sorted, relative to the test folder. left, right:
    int64 (n,), the two images of each pair as indices into `files`. labels: int8 (n,), 1 for a
    target pair and 0 for an imposter; None in a blind list. folds: int64 (n,), from 0, of LFW's
    lists; None in others.
    """

    def __init__(self, files, left: np.ndarray, right: np.ndarray, labels=None, folds=None):
        self.files, self.left, self.right, self.labels = files, left, right, labels
        self.folds = folds

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
        rows = read_csv_rows(path, "pair list", (2, 3))
        first = rows[0][1] if rows else []
        lfw = len(first) <= 2 and all(column.isdecimal() for column in first)
        if not rows[lfw:]:
            raise UserError(f"{path} holds no pairs")
        folds = _lfw_folds(path, first, len(rows) - 1) if lfw else None
        blind = len(first) == 2 and not lfw
        columns = "two columns (file, file)" if blind else "three columns (label, file, file)"
        exists = cache(lambda name: root is None or os.path.isfile(os.path.join(root, name)))

        def parse(row: list[str]) -> tuple[str, str, int]:
            row = _lfw_pair(row, exists) if lfw else row
            if len(row) != (2 if blind else 3):
                raise ValueError(f"expected {columns}, found {len(row)}")
            pair = parse_pair(row)
            if missing := [name for name in pair[:2] if not exists(name)]:
                raise ValueError(f"{printable(missing[0], 80)} is not in {root}")
            return pair

        left, right, labels = zip(*parse_pairs(path, rows[lfw:], parse))
        return cls.from_names(left, right, None if blind else labels, folds)

    def write(self, path: str | Path) -> None:
        """Write the list as CSV, whole or not at all."""
        rows = map(self.name_pair, range(len(self)))
        if self.labels is not None:
            rows = ((label, *names) for label, names in zip(self.labels.tolist(), rows))
        write_csv(path, rows)

    def __len__(self) -> int:
        return len(self.left)

    def name_pair(self, i: int) -> tuple[str, str]:
        """Return the two file names of pair i."""
        return self.files[self.left[i]], self.files[self.right[i]]

    def file_identities(self) -> list[str]:
        """Return the identity of each file, the first folder of its name."""
        return [name.split("/", 1)[0] for name in self.files]

    def identities(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the identities of the left and the right images, str (n,) each."""
        of_file = np.array(self.file_identities())
        return of_file[self.left], of_file[self.right]

    @cached_property
    def people(self) -> tuple[list[str], str]:
        """The person of each file, and what tells who is who: "the folders of the images", or so.

        It is the first folder of the name or, where that contradicts a label, another folder, the
        file's name less its number, or the first of the files that target pairs join. Raises
        UserError where all of these contradict labels.
        """
        if self.labels is None:
            return self.file_identities(), "the folders of the images"

        def guesses():
            parts = [name.split("/") for name in self.files]
            depth = min(map(len, parts)) - 1
            for level in [*range(depth), -2] if depth else []:
                yield [part[level] for part in parts], "the folders of the images"
            number = re.compile(r"[\W_]*\d+(\.\w+)?$")
            yield [number.sub("", part[-1]) for part in parts], "the names of the images"
            yield [self.files[i] for i in self.joined_files()], "the target pairs"

        for of_file, told_by in guesses():
            if not len(wrong := self.contradictions(of_file)):
                return of_file, told_by
        bad = self.contradictions(self.file_identities())
        one, two = (" and ".join(map(printable, self.name_pair(i))) for i in (bad[0], wrong[0]))
        why = f"folders contradict {len(bad):,} labels, first that of {one}"
        raise UserError(f"cannot tell who is who: {why}, and target pairs join imposters, {two}")

    def contradictions(self, of_file: Sequence[str]) -> np.ndarray:
        """Return the indices of the pairs whose label contradicts the persons of the files."""
        who = np.unique(of_file, return_inverse=True)[1]
        return np.flatnonzero((who[self.left] == who[self.right]) != (self.labels == 1))

    def joined_files(self) -> np.ndarray:
        """Return for each file the first one of its person, by the target pairs: int64 (files,)."""
        pairs, n = self.labels == 1, len(self.files)
        graph = coo_array((self.labels[pairs], (self.left[pairs], self.right[pairs])), shape=(n, n))
        group = connected_components(graph, directed=False)[1]
        return np.unique(group, return_index=True)[1][group]

    def check_labels(self, path: str | Path) -> None:
        """Raise UserError that names `path` unless there are both target and imposter pairs."""
        if self.labels is None:
            raise UserError(f"{path} has no labels: expected three columns (label, file, file)")
        if self.labels.min() == self.labels.max():
            raise UserError(f"{path} needs both target and imposter pairs")


def read_csv_rows(path: str | Path, kind: str, widths: Sequence[int]) -> list:
    """Return (line number, columns without outer spaces) of the lines that are not empty.

    Of the `SEPARATORS`, the one in most lines is taken. Raises UserError for a file that is
    unreadable, or without a line of as many columns as `widths` allows.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            text = file.read()
        lines = text.split("\n", 1000)[:1000]
        mark = max(SEPARATORS, key=lambda mark: sum(mark in line.strip() for line in lines))
        if mark == " ":  # one or more of them
            text = re.sub(r" *([ \r\n]) *", r"\1", text.strip(" "))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        rows = [(reader.line_num, [text.strip() for text in row]) for row in reader if row]
    except OSError as error:
        raise UserError(f"cannot read the {kind} {path}: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from None
    if rows and not any(len(row) in widths for _, row in rows):
        told = f"no line has {' or '.join(map(str, widths))} columns with {SEPARATORS[mark]}"
        raise UserError(f"{path}: {told} between them; separate them by commas, tabs or spaces")
    return rows


def _lfw_folds(path: str | Path, header: list[str], pairs: int) -> np.ndarray:
    """The fold of each pair, int64 (pairs,); the header is [folds,] pairs of a kind in each."""
    folds, each = [1, *map(int, header)][-2:]
    if pairs != 2 * folds * each:
        raise UserError(f"{path} has {pairs:,} pairs, by its first line {2 * folds * each:,}")
    return np.arange(pairs) // (2 * each)


def _lfw_pair(row: list[str], exists: Callable) -> list[str]:
    """[label, left, right] of LFW's `name 1 2` (a target pair) or `name 1 other 2`."""
    name, number, *other, second = row if len(row) in (3, 4) else [""] * 3
    if not (number + second).isdecimal():
        raise ValueError(f"expected `name 1 2` or `name 1 other 2`, found {len(row)} columns")
    label, files = "0" if other else "1", []
    for person, k in ((name, number), (*(other or [name]), second)):
        photo = f"{person}/{person}_{int(k):04d}"
        found = (photo + ending for ending in IMAGE_EXTENSIONS if exists(photo + ending))
        files.append(next(found, f"{photo}.jpg"))
    return [label, *files]


def parse_pairs(path: str | Path, rows: list[tuple[int, list[str]]], parse: Callable) -> list:
    """Return what `parse` makes of the columns of each row: (left, right, label, …).

    Raises UserError that lists the rows for which `parse` raised ValueError, and those whose pair
    came before, in this or the other order.
    """
    problems, parsed = [], []
    seen: dict[tuple[str, ...], tuple[int, int]] = {}
    for line, row in rows:
        try:
            values = left, right, label, *_ = parse(row)
            pair = (left, right) if left < right else (right, left)
            earlier, other = seen.setdefault(pair, (line, label))
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
    for name in (left, right):
        bad = name[:1] == "/" or ".." in name.split("/") or "\\" in name or "\0" in name
        if bad or normal_name(name) == ".":
            raise ValueError(f"'{printable(name)}' is not a path inside the test folder")
    left, right = normal_name(left), normal_name(right)
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
