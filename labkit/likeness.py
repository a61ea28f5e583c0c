"""What a similarity means: calibrated on pairs, explained on the face."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import expit

from labkit.data import PairList
from labkit.metrics import check_scores
from labkit.utils import UserError, l2_normalize

QUANTILES = 1001


@dataclass(frozen=True)
class Calibration:
    """From a similarity to how unusual it is and how likely the same person."""

    slope: float  # of the logistic curve, for even odds of the same person beforehand
    intercept: float
    quantiles: tuple[float, ...]  # similarities of different people at evenly spaced ranks
    targets: int  # how many pairs of each kind it was fitted on
    imposters: int

    @classmethod
    def from_dict(cls, values: dict) -> "Calibration":
        """Make one from its attributes by name, as `dataclasses.asdict` gives them."""
        return cls(**{**values, "quantiles": tuple(map(float, values["quantiles"]))})

    def percentile(self, similarity):
        """Percent of pairs of different people that are less alike; float or array in [0, 100]."""
        return np.interp(similarity, self.quantiles, np.linspace(0, 100, len(self.quantiles)))

    def probability(self, similarity, prior: float = 0.5):
        """Chance of the same person, in [0, 1], given the chance `prior` before looking."""
        odds = self.slope * np.asarray(similarity, dtype=np.float64) + self.intercept
        return expit(odds + np.log(prior / (1 - prior)))

    def describe(self, similarity: float, among: int = 1) -> str:
        """Return one phrase for people: "closer than 99.2 % of pairs of different people, …".

        `among` is the number of stars that the answer was chosen from. The best of very many is
        close by chance alone, and the phrase says so when that is all there is to it.
        """
        percentile = float(self.percentile(similarity))
        if percentile < 50:
            return "not much alike: many pairs of different people are closer"
        if percentile >= 99.9:
            phrase = "closer than nearly every pair of different people"
        else:
            phrase = f"closer than {percentile:.1f} % of pairs of different people"
        if among > 1 and (percentile / 100) ** among < 0.5:
            return f"{phrase}, but among {among:,} stars most people find one this close"
        if percentile >= 95:
            chance = float(self.probability(similarity))
            percent = f"{100 * chance:.0f} %" if 0.01 <= chance else "below 1 %"
            percent = percent if chance <= 0.99 else "above 99 %"
            phrase += f"; chance of the same person {percent} at even odds"
        return phrase


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit on labelled scores: Platt's logistic curve, both kinds of pairs weighing the same.

    With Platt's smoothed targets (1999, "Probabilistic outputs for support vector machines",
    equation 14), so that separable scores stay finite: each pair counts a little as the other
    kind too. `scores` and `labels` (1 for the same person, else 0) are (n,). Raises UserError
    when a score is not finite or a kind of pairs is missing.
    """
    from sklearn.linear_model import LogisticRegression

    scores, same = check_scores(np.asarray(scores, dtype=np.float64), labels)
    targets, imposters = int(same.sum()), int((~same).sum())
    smoothed = np.where(same, (targets + 1) / (targets + 2), 1 / (imposters + 2))
    weights = np.where(same, 0.5 / targets, 0.5 / imposters)
    curve = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    twice, kinds = np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores))
    curve.fit(twice, kinds, np.concatenate([weights * smoothed, weights * (1 - smoothed)]))
    slope, intercept = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    quantiles = np.quantile(scores[~same], np.linspace(0, 1, QUANTILES)).tolist()
    return Calibration(slope, intercept, tuple(quantiles), targets, imposters)


def calibrate(embedder, pairs: PairList, root: str | Path) -> Calibration:
    """Fit on a labelled pair list, compared as a look-alike search compares.

    A search compares a photo with the mean of a star's photos, which is steadier than any one of
    them and so closer to everybody. Of each pair, the left photo is compared with the mean of all
    the listed photos of the right one's person, itself left out. `root` is the images' folder.
    Raises UserError for a blind list, an unreadable file, or a list with one kind of pairs alone.
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

    A grey patch of 2x2 of `cells` by `cells` squares is moved over the face; where the similarity
    falls, that part mattered (Zeiler and Fergus 2014, section 4.2). `star` (d,) is the star's mean
    embedding. Returns float32 (cells, cells): the mean fall of the cosine when that square is
    covered, above 0 where it speaks for the match.
    """
    steps = cells - 1
    width, height = face.width / cells, face.height / cells
    covered = [face]
    for row, column in np.ndindex(steps, steps):
        picture = face.copy()
        corners = (column * width, row * height, (column + 2) * width, (row + 2) * height)
        picture.paste((128, 128, 128), tuple(map(round, corners)))
        covered.append(picture)
    similarities = embedder(covered) @ np.asarray(star, dtype=np.float32)
    falls = (similarities[0] - similarities[1:]).reshape(steps, steps)
    total, seen = np.zeros((cells, cells)), np.zeros((cells, cells))
    for part in np.ndindex(2, 2):
        window = tuple(slice(start, start + steps) for start in part)
        total[window] += falls
        seen[window] += 1
    return (total / seen).astype(np.float32)
