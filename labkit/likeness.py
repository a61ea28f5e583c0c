"""What a similarity means: measured by searches of strangers, explained on the face."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.stats import hypergeom

from labkit.data import PairList
from labkit.utils import UserError, l2_normalize

MAX_SIMILARITIES = 500_000  # that a gallery file keeps


@dataclass(frozen=True)
class Calibration:
    """How often a stranger finds somebody this close, so what a similarity found means.

    It is no chance that two photos show one person: nobody knows who is in the gallery.
    """

    similarities: list[list[float]]  # of each photo to the means of the other people, all strangers

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.array(self.similarities)

    def percentile(self, similarity):
        """Percent of comparisons of different people that are less alike; float or array."""
        return 100 * np.searchsorted(np.sort(self._rows, axis=None), similarity) / self._rows.size

    def measured(self, among: int) -> bool:
        """Whether searches among so many people were made, or larger ones must be estimated."""
        return among <= self._rows.shape[1] and len(self._rows) > 1

    def strangers(self, similarity: float, among: int) -> float:
        """Percent of searches among so many people in which a stranger finds one at least as close.

        The people are drawn from those that each photo was compared with; for a larger gallery,
        from a distribution with the photo's own mean and spread and the shape of all photos'.
        """
        rows = self._rows
        if among <= rows.shape[1]:
            closer = (rows >= similarity).sum(axis=1)
            nobody = hypergeom.pmf(0, rows.shape[1], closer, among)
        else:
            centres = rows.mean(axis=1, keepdims=True)
            spreads = np.maximum(rows.std(axis=1, keepdims=True), 1e-6)
            shape = np.sort((rows - centres) / spreads, axis=None)
            below = np.searchsorted(shape, (similarity - centres) / spreads) / shape.size
            nobody = below**among
        return 100 * float(1 - nobody.mean())

    def describe(self, similarity: float, among: int) -> str:
        """Return a phrase for people on the best match among so many known ones."""
        percentile, found = float(self.percentile(similarity)), self.strangers(similarity, among)
        if percentile < 50:
            return "not much alike: many pairs of different people are closer"
        pairs = f"{percentile:.1f} % of pairs" if percentile < 99.9 else "nearly every pair"
        fewest = max(1, 100 / self._rows.shape[1])  # less cannot be told with so few people
        share = f"{'' if self.measured(among) else 'about '}{found:.0f}"
        share = "more than 99" if found > 99 else share
        share = f"fewer than {ceil(fewest)}" if found < fewest else share
        phrase = f"closer than {pairs} of different people; among {among:,} a stranger finds one"
        return f"{phrase} this close in {share} of 100 searches"


def calibrate(embedder, pairs: PairList, root: str | Path) -> Calibration:
    """Search for each photo of a labelled list among all the other people in it, who are strangers.

    A photo is compared with the mean of a person's listed photos, as in a search. `root` is the
    images' folder. Raises UserError for a blind list, an unreadable file, or one person alone.
    """
    if pairs.labels is None:
        raise UserError("a blind list cannot calibrate; give one with labels")
    names, person = np.unique(pairs.people[0], return_inverse=True)
    if len(names) < 2:
        raise UserError("a list with one person cannot calibrate; it takes strangers")
    vectors = l2_normalize(embedder.files([Path(root) / name for name in pairs.files]))
    means = np.zeros((len(names), vectors.shape[1]))
    np.add.at(means, person, vectors)
    count = min(len(vectors), max(100, MAX_SIMILARITIES // len(names)))
    probes = np.linspace(0, len(vectors) - 1, count).astype(int)
    similarities = (vectors[probes] @ l2_normalize(means).T).astype(np.float64).round(4)
    strangers = person[probes, None] != np.arange(len(names))
    return Calibration(similarities[strangers].reshape(count, -1).tolist())


def occlusion_map(embedder, face: Image.Image, star: np.ndarray, *, cells: int = 8) -> np.ndarray:
    """Return how much each part of the face speaks for the match.

    A grey patch of 2x2 of `cells` by `cells` squares is moved over the face (Zeiler and Fergus
    2014, section 4.2). `star` (d,) is the star's mean embedding. Returns float32 (cells, cells):
    the mean fall of the cosine when that square is covered, above 0 where it speaks for the match.
    """
    steps, width, height = cells - 1, face.width / cells, face.height / cells
    covered = [face.copy() for _ in range(steps**2 + 1)]
    for picture, (row, column) in zip(covered[1:], np.ndindex(steps, steps)):
        corners = (column * width, row * height, (column + 2) * width, (row + 2) * height)
        picture.paste((128, 128, 128), tuple(map(round, corners)))
    similarities = embedder(covered) @ np.asarray(star, dtype=np.float32)
    falls = (similarities[0] - similarities[1:]).reshape(steps, steps).astype(np.float64)
    windows = sliding_window_view(np.pad(falls, 1, constant_values=np.nan), (2, 2))
    return np.nanmean(windows, axis=(2, 3)).astype(np.float32)
