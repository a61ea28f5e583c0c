"""Pairs of image numbers: targets, random imposters, and imposters that are hard to tell.

All of it works on whole arrays, so that a list of millions takes seconds.
"""

from collections.abc import Sequence

import numpy as np

from labkit.data import FaceFolder, make_pairs
from labkit.utils import UserError

NEIGHBOURS = 5  # nearest other identities that the hard imposters of an identity are drawn from
_DRAWS = 3  # for each imposter that is wanted, since some come twice


def random_pairs(folder: FaceFolder, per_image: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `labkit.data.make_pairs` as indices: targets and imposters, int64 (m, 2)."""
    made = make_pairs(folder, per_image=per_image, seed=seed)
    index = {folder.name(i): i for i in range(len(folder))}
    indices = np.array([index[name] for name in made.files], np.int64)
    pairs = np.stack([indices[made.left], indices[made.right]], axis=1)
    return pairs[made.labels == 1], pairs[made.labels == 0]


def balanced(
    targets: np.ndarray,
    imposters: np.ndarray,
    hard: np.ndarray,
    share: float,
    n: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw as many imposters as targets, `share` of them hard if there are enough; no pair twice.

    n: number of images. Returns pairs int64 (m, 2), labels int8 (m,) and how many are hard.
    """
    wanted = min(len(targets), len(imposters) + len(hard))
    some = _shuffled(hard, rng)[: round(share * wanted)]
    rest = imposters[~np.isin(_keys(imposters, n), _keys(some, n))]
    rest = _shuffled(rest, rng)[: wanted - len(some)]
    wanted = len(some) + len(rest)
    targets = _shuffled(targets, rng)[:wanted]
    pairs = np.concatenate([targets, some, rest])
    labels = np.repeat(np.array([1, 0], np.int8), [len(targets), wanted])
    order = rng.permutation(len(pairs))
    pairs = pairs[order]
    swapped = rng.random(len(pairs)) < 0.5  # the order of the two says nothing
    pairs[swapped] = pairs[swapped, ::-1]
    return pairs, labels[order], len(some)


def of_same_attributes(
    folder: FaceFolder, columns: Sequence[str], wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """Return different imposter pairs whose people are alike in all columns, int64 (m, 2).

    From `identities.csv`; numbers with more than 8 values are cut into quarters. People of whom a
    column is not known have no hard imposters. UserError without the table or the column.
    """
    group = attribute_groups(folder, columns)[folder.labels]
    known = np.flatnonzero(group >= 0)
    if not len(known):
        return np.empty((0, 2), np.int64)
    order = known[np.argsort(group[known], kind="stable")]
    left = known[_spread(len(known), 2 * _DRAWS * wanted, rng)]
    first = np.searchsorted(group[order], group[left])
    size = np.searchsorted(group[order], group[left], side="right") - first
    right = order[first + rng.integers(0, size)]
    strangers = folder.labels[left] != folder.labels[right]
    return _different(left[strangers], right[strangers], len(folder))[:wanted]


def attribute_groups(folder: FaceFolder, columns: Sequence[str]) -> np.ndarray:
    """Return the group of each identity by its attributes, int64; -1 where one is not known."""
    about = folder.details()
    known = sorted({column for row in about.values() for column in row})
    if not known:
        raise UserError(
            f"{folder.root} has no identities.csv (identity,gender,…): leave out --hard"
        )
    group = np.zeros(len(folder.identities), np.int64)
    for column in columns:
        if column not in known:
            table = f"identities.csv of {folder.root}"
            raise UserError(f"{table} has no column '{column}': it has {', '.join(known)}")
        values = [about.get(name, {}).get(column, "").strip() for name in folder.identities]
        codes = _codes(values)
        group = np.where((group < 0) | (codes < 0), -1, group * (codes.max() + 1) + codes)
    return group


def _codes(values: list[str]) -> np.ndarray:
    """Return a number for each different value, or quarter of the numbers; -1 for an empty one."""
    told = np.array([value.lower() for value in values])
    codes = np.unique(told, return_inverse=True)[1]
    try:
        numbers = told[told != ""].astype(np.float64)
        if len(np.unique(numbers)) > 8 and np.isfinite(numbers).all():
            edges = np.quantile(numbers, [0.25, 0.5, 0.75])
            codes[told != ""] = np.searchsorted(edges, numbers, side="right")
    except ValueError:
        pass
    return np.where(told == "", -1, codes)


def of_near_identities(
    folder: FaceFolder, centres: np.ndarray, wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """Return different imposter pairs of people whose embeddings are near, int64 (m, 2).

    centres: float32 (identities, d), rows of length 1. Each image meets images of the 5 identities
    whose centres are nearest to its own person's.
    """
    near = nearest_identities(centres, NEIGHBOURS)
    left = _spread(len(folder), _DRAWS * wanted, rng)
    other = near[folder.labels[left], rng.integers(0, near.shape[1], len(left))]
    right = folder.starts[other] + rng.integers(0, folder.counts()[other])
    return _different(left, right, len(folder))[:wanted]


def nearest_identities(centres: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest others of each identity by cosine, int64 (identities, k)."""
    n = len(centres)
    k = min(k, n - 1)
    near = []
    for rows in np.array_split(np.arange(n), 1 + n * n // (1 << 24)):
        likeness = centres[rows] @ centres.T
        likeness[np.arange(len(rows)), rows] = -2
        near.append(np.argpartition(-likeness, k - 1, axis=1)[:, :k])
    return np.concatenate(near)


def _spread(n: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return `wanted` numbers below n, each as often as any other, in random order."""
    return np.resize(rng.permutation(n), wanted)


def _shuffled(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return pairs[rng.permutation(len(pairs))]


def _keys(pairs: np.ndarray, n: int) -> np.ndarray:
    return pairs.min(axis=1, initial=n) * n + pairs.max(axis=1, initial=0)


def _different(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """Return the different unordered pairs, int64 (m, 2), in the order in which they come."""
    pairs = np.stack([left, right], axis=1)
    return pairs[np.sort(np.unique(_keys(pairs, n), return_index=True)[1])]
