"""Label errors: faces that are filed under the wrong person, judged by embeddings.

Each identity gets a robust centre. An image is a label error when it is far from its own (farther
than nearly all images are from their person's centre, and as far as strangers are) and near to
another's (as near as images are to their own person, and nearer than nine in ten correct images
come to anybody else). What far and near mean is measured on the folder itself, since it depends
on the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit.data import FaceFolder
from labkit.utils import atomic_path, l2_normalize, progress
from parts.measure import PIECE, piece_key

CORE = 0.6  # part of an identity's images, nearest to its medoid, that its centre is the mean of
MAX_FOR_MEDOID = 1000
SAME_PERSON = 0.9  # least cosine of the centres of identities that may be one person


@dataclass
class Verdicts:
    """Verdicts of the embeddings on each image, and identities that may be one person.

    own: float32 (n,), cosine with the own identity's centre, itself left out; nan where the image
        is its identity's only one. other: float32 (n,), the largest cosine with another identity's
        centre, and nearest: int64 (n,), whose; -1 with a single identity.
    wrong, odd: bool (n,); odd faces are far from their own and near nobody's.
    same: (identity, identity, cosine of the centres), the most alike first.
    """

    own: np.ndarray
    other: np.ndarray
    nearest: np.ndarray
    wrong: np.ndarray
    odd: np.ndarray
    same: list[tuple[int, int, float]]

    @property
    def nearest_own(self) -> float:
        """Return the part of the images that lie nearer to their own identity than to any other."""
        judged = np.isfinite(self.own) & np.isfinite(self.other)
        return float((self.own[judged] > self.other[judged]).mean()) if judged.any() else 1.0

    def typical(self, images: range) -> list[int]:
        """Return the images of an identity, given all of them, that are most like it."""
        rows = [i for i in images if np.isfinite(self.own[i]) and not self.wrong[i]]
        return sorted(rows, key=lambda i: -self.own[i])[:3]


def embed(folder: FaceFolder, readable: np.ndarray, embedder, store: Path | None) -> np.ndarray:
    """Return float16 (n, d), rows of length 1, of the readable images; zeros for the others.

    Kept in pieces as `measure` keeps its own, for these weights.
    """
    embedder.quiet = True
    found = np.zeros((len(folder), embedder.embedding_size), np.float16)
    with progress(total=len(folder), desc="embedding", unit="images") as bar:
        for start in range(0, len(folder), PIECE):
            numbers = range(start, min(start + PIECE, len(folder)))
            piece = found[start : numbers.stop]  # a view: what is written to it is found
            name = f"{piece_key(folder, numbers)}-{embedder.weights_sha256[:16]}.npy"
            path = store and store / name
            try:
                piece[:] = np.load(path)
            except (OSError, ValueError, EOFError, TypeError):  # not there, damaged, no store
                some = np.flatnonzero(readable[start : numbers.stop])
                if len(some):
                    piece[some] = embedder.files([folder.source(start + int(i)) for i in some])
                if path:
                    with atomic_path(path) as temporary:
                        np.save(temporary, piece)
            bar.update(len(numbers))
    return found


def centres(
    embeddings: np.ndarray, starts: np.ndarray, readable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust centre of each identity and each image's cosine with its own one.

    The medoid (the image with the largest median cosine with the others) is right as long as most
    images are; the centre is the mean of the 60 % nearest to it. For the cosine of an image that
    is in that mean, the image is taken out of it.

    Returns float32 (identities, d), rows of length 1 (zeros without a readable image), and
    float32 (n,), nan where there is nothing to compare with.
    """
    made = np.zeros((len(starts) - 1, embeddings.shape[1]), np.float32)
    own = np.full(len(embeddings), np.nan, np.float32)
    for k, (first, last) in enumerate(zip(starts[:-1], starts[1:])):
        numbers = first + np.flatnonzero(readable[first:last])
        if not len(numbers):
            continue
        rows = embeddings[numbers].astype(np.float32)
        sample = rows
        if len(rows) > MAX_FOR_MEDOID:
            sample = rows[np.linspace(0, len(rows) - 1, MAX_FOR_MEDOID).astype(int)]
        middle = sample[np.argmax(np.median(sample @ sample.T, axis=1))]
        core = np.argsort(-(rows @ middle), kind="stable")[: max(1, int(np.ceil(CORE * len(rows))))]
        total = rows[core].sum(axis=0)
        made[k] = l2_normalize(total)
        if len(rows) == 1:
            continue
        own[numbers] = rows @ made[k]
        own[numbers[core]] = np.einsum("ij,ij->i", rows[core], l2_normalize(total - rows[core]))
    return made, own


def judge(
    embeddings: np.ndarray, labels: np.ndarray, starts: np.ndarray, readable: np.ndarray
) -> Verdicts:
    """Compare every image with every identity's centre, in blocks.

    embeddings: (n, d), rows of length 1. labels: int64 (n,), non-decreasing; starts as in
    `FaceFolder`. readable: bool (n,); other rows are not judged.
    """
    made, own = centres(embeddings, starts, readable)
    n = len(embeddings)
    other, nearest = np.full(n, np.nan, np.float32), np.full(n, -1, np.int64)
    strangers = []
    height = max(1, (1 << 24) // len(made))
    for start in range(0, n if len(made) > 1 else 0, height):
        rows = np.arange(start, min(start + height, n))
        likeness = embeddings[rows].astype(np.float32) @ made.T
        likeness[np.arange(len(rows)), labels[rows]] = -2
        nearest[rows] = likeness.argmax(axis=1)
        other[rows] = likeness[np.arange(len(rows)), nearest[rows]]
        some = likeness[:: max(1, len(rows) // 256)]
        strangers.append(some[some > -2])
    judged = readable & np.isfinite(own) & (nearest >= 0)
    if not judged.any():
        none = np.zeros(n, bool)
        return Verdicts(own, other, nearest, none, none, [])
    usual = own[judged]
    spread = 1.4826 * np.median(np.abs(usual - np.median(usual)))
    too_far = np.median(usual) - 2.5 * spread
    stranger = np.concatenate(strangers)
    far = judged & (own < too_far) & (own < np.quantile(stranger, 0.99))
    chance = np.quantile(other[judged & ~far], 0.9) if (judged & ~far).any() else 0.0
    near = other > np.maximum(own + spread, max(np.median(usual) - 2 * spread, chance))
    wrong = far & near
    odd = far & ~near & (own < np.median(usual) - 3.5 * spread) & (own < np.quantile(stranger, 0.9))
    return Verdicts(own, other, nearest, wrong, odd, _same_people(made, starts, usual))


def _same_people(made: np.ndarray, starts: np.ndarray, usual: np.ndarray) -> list:
    """Return pairs of identities whose centres are as alike as an image and its own centre."""
    limit = max(SAME_PERSON, float(np.quantile(usual, 0.9)))
    counts = np.diff(starts)
    found: list[tuple[int, int, float]] = []
    for rows in np.array_split(np.arange(len(made)), 1 + len(made) ** 2 // (1 << 24)):
        likeness = made[rows] @ made.T
        for row, b in zip(*np.nonzero(likeness >= limit)):
            a = rows[row]
            if a < b and min(counts[a], counts[b]) > 1:
                found.append((int(a), int(b), float(likeness[row, b])))
    return sorted(found, key=lambda pair: -pair[2])


def describe(verdicts: Verdicts, i: int, identities: Sequence[str]) -> str:
    """Return why image i was found, for the list."""
    own = f"cosine {verdicts.own[i]:.2f} with its own identity"
    if verdicts.wrong[i]:
        whose = identities[int(verdicts.nearest[i])]
        return f"{own}, {verdicts.other[i]:.2f} with {whose}"
    return f"{own}, near no other"
