"""What a similarity means: calibrated on pairs, explained on the face."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.special import expit

from labkit.data import PairList
from labkit.metrics import check_scores
from labkit.utils import UserError, l2_normalize


@dataclass(frozen=True)
class Calibration:
    """From a similarity to how unusual it is and how likely the same person."""

    slope: float  # of the logistic curve, for even odds of the same person beforehand
    intercept: float
    quantiles: list[float]  # similarities of different people at evenly spaced ranks
    targets: int  # how many pairs of each kind it was fitted on
    imposters: int

    def percentile(self, similarity):
        """Percent of pairs of different people that are less alike; float or array in [0, 100]."""
        return np.interp(similarity, self.quantiles, np.linspace(0, 100, len(self.quantiles)))

    def probability(self, similarity):
        """Chance of the same person, in [0, 1], at even odds before looking."""
        return expit(self.slope * np.asarray(similarity, dtype=np.float64) + self.intercept)

    def describe(self, similarity: float, among: int = 1) -> str:
        """Return one phrase for people: "closer than 99.2 % of pairs of different people, …".

        `among`: the number of stars it is the best of; of very many, one is close by chance alone.
        """
        percentile = float(self.percentile(similarity))
        phrase = f"closer than {percentile:.1f} % of pairs of different people"
        if percentile < 50:
            return "not much alike: many pairs of different people are closer"
        if percentile >= 99.9:
            phrase = "closer than nearly every pair of different people"
        if among > 1 and (percentile / 100) ** among < 0.5:
            return f"{phrase}, but among {among:,} stars most people find one this close"
        if percentile >= 95:
            percent = 100 * float(self.probability(similarity))
            chance = "above 99" if percent > 99 else f"{percent:.0f}"
            phrase += f"; chance of the same person {chance} % at even odds"
        return phrase


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit on labelled scores: Platt's logistic curve, both kinds of pairs weighing the same.

    Each pair counts a little as the other kind too, so that separable scores stay finite (Platt
    1999, "Probabilistic outputs for support vector machines", equation 14). `scores` and `labels`
    (1 for the same person, else 0) are (n,). Raises UserError as `metrics.check_scores` does.
    """
    from sklearn.linear_model import LogisticRegression

    scores, same = check_scores(np.asarray(scores, dtype=np.float64), labels)
    targets, imposters = int(same.sum()), int((~same).sum())
    smoothed = np.where(same, (targets + 1) / (targets + 2), 1 / (imposters + 2))
    weights = np.where(same, 0.5 / targets, 0.5 / imposters)
    curve = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    twice, kinds = np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores))
    curve.fit(twice, kinds, np.concatenate([weights * smoothed, weights * (1 - smoothed)]))
    quantiles = np.quantile(scores[~same], np.linspace(0, 1, 1001)).tolist()
    return Calibration(curve.coef_.item(), curve.intercept_.item(), quantiles, targets, imposters)


def calibrate(embedder, pairs: PairList, root: str | Path) -> Calibration:
    """Fit on a labelled pair list, compared as a look-alike search compares: photo with mean.

    Of each pair, the left photo is compared with the mean of all the listed photos of the right
    one's person, itself left out. `root` is the images' folder. Raises UserError for a blind list,
    an unreadable file, or a list with one kind of pairs alone.
    """
    if pairs.labels is None:
        raise UserError("a blind list cannot calibrate; give one with labels")
    vectors = l2_normalize(embedder.files([Path(root) / name for name in pairs.files]))
    _, person = np.unique(pairs.file_identities(), return_inverse=True)
    sums = np.zeros((person.max() + 1, vectors.shape[1]))
    np.add.at(sums, person, vectors)
    left, right = vectors[pairs.left], person[pairs.right]
    others = sums[right] - np.where((person[pairs.left] == right)[:, None], left, 0)
    lengths = np.linalg.norm(others, axis=1)
    usable = lengths > 1e-6  # not where the left photo is the person's only one
    cosines = np.einsum("nd,nd->n", left, others)[usable] / lengths[usable]
    return fit_calibration(cosines, pairs.labels[usable])


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
