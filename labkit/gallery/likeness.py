"""What a similarity means: calibrated on pairs, shown as a sheet, explained on the face."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.data import PairList
from labkit.evaluate import embed_files
from labkit.gallery.search import normalized
from labkit.plots.style import LabFigure, text
from labkit.utils import UserError, write_json

QUANTILES = 1001


@dataclass(frozen=True)
class Calibration:
    """From a similarity to how unusual it is and how likely the same person.

    Attributes:
        slope, intercept: of the logistic curve, for even odds of the same person beforehand.
        quantiles: similarities of different people at evenly spaced ranks, smallest first.
        targets, imposters: how many pairs it was fitted on.
    """

    slope: float
    intercept: float
    quantiles: tuple[float, ...]
    targets: int
    imposters: int

    def percentile(self, similarity):
        """Percent of pairs of different people that are less alike; float or array in [0, 100]."""
        ranks = np.linspace(0, 100, len(self.quantiles))
        return np.interp(similarity, self.quantiles, ranks)

    def probability(self, similarity, prior: float = 0.5):
        """Chance of the same person, in [0, 1], given the chance `prior` before looking."""
        odds = self.slope * np.asarray(similarity, dtype=np.float64) + self.intercept
        odds = odds + np.log(prior / (1 - prior))
        return 1 / (1 + np.exp(-np.clip(odds, -60, 60)))

    def describe(self, similarity: float, among: int = 1) -> str:
        """One sentence for people: "closer than 99.2 % of pairs of different people, …".

        `among`: how many stars the answer was chosen from. The best of very many is close by
        chance alone, and the sentence says so when that is all there is to it.
        """
        percentile = float(self.percentile(similarity))
        chance = float(self.probability(similarity))
        if percentile < 50:
            return "not much alike: many pairs of different people are closer"
        if percentile >= 99.9:
            sentence = "closer than nearly every pair of different people"
        else:
            sentence = f"closer than {percentile:.1f} % of pairs of different people"
        if among > 1 and (percentile / 100) ** among < 0.5:
            return f"{sentence}, but among {among:,} stars most people find one this close"
        if percentile >= 95:
            sentence += f"; chance of the same person {_percent(chance)} at even odds"
        return sentence

    @classmethod
    def of(cls, values: dict) -> "Calibration":
        """From the attributes by name, such as `dataclasses.asdict` gives them."""
        return cls(**{**values, "quantiles": tuple(float(v) for v in values["quantiles"])})

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote; UserError when missing or of another kind."""
        try:
            return cls.of(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"the calibration file {path} does not exist") from None
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(
                f"{path} is not a calibration file; fit it again on validation scores"
            ) from None


def _percent(chance: float) -> str:
    if chance < 0.01:
        return "below 1 %"
    return "above 99 %" if chance > 0.99 else f"{100 * chance:.0f} %"


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit on a labelled list: Platt's logistic curve, target and imposter pairs weighing the same.

    Newton's method with Platt's smoothed targets (Platt 1999, "Probabilistic outputs for support
    vector machines"; Lin, Lin and Weng 2007), so that separable scores stay finite.

    Args:
        scores: similarities (n,).
        labels: 1 for the same person, 0 for different people (n,).

    Raises:
        UserError: a score is not finite, or one of the two kinds of pairs is missing.
    """
    scores = np.asarray(scores, dtype=np.float64).ravel()
    same = np.asarray(labels).ravel().astype(bool)
    if len(scores) != len(same):
        raise UserError(f"{len(scores)} scores but {len(same)} labels; give one label per score")
    if not np.isfinite(scores).all():
        raise UserError("a score to calibrate on is not a finite number")
    targets, imposters = int(same.sum()), int((~same).sum())
    if not targets or not imposters:
        missing = "the same person" if not targets else "different people"
        raise UserError(f"no pair of {missing} to calibrate on; use a list with both kinds")
    wanted = np.where(same, (targets + 1) / (targets + 2), 1 / (imposters + 2))
    weights = np.where(same, 0.5 / targets, 0.5 / imposters)
    slope, intercept = _fit_logistic(scores, wanted, weights)
    quantiles = np.quantile(scores[~same], np.linspace(0, 1, QUANTILES))
    return Calibration(slope, intercept, tuple(map(float, quantiles)), targets, imposters)


def calibrate(embedder, pairs: PairList, root: str | Path) -> Calibration:
    """Fit on a labelled pair list, compared as a look-alike search compares.

    A search compares a photo with the mean of a star's photos, which is steadier than any one of
    them and so closer to everybody. Of each pair, the left photo is compared with the mean of all
    the listed photos of the right one's person, itself left out.

    Args:
        embedder: an `Embedder`.
        pairs: a labelled list, such as the validation list.
        root: the folder of its images.

    Raises:
        UserError: a file is missing or unreadable, or one kind of pairs is.
    """
    if pairs.labels is None:
        raise UserError("a blind list cannot calibrate; give one with labels")
    vectors = normalized(embed_files(embedder, [Path(root) / name for name in pairs.files]))
    _, person = np.unique(pairs.file_identities(), return_inverse=True)
    sums = np.zeros((person.max() + 1, vectors.shape[1]))
    np.add.at(sums, person, vectors)
    own = (person[pairs.left] == person[pairs.right])[:, None]
    others = sums[person[pairs.right]] - np.where(own, vectors[pairs.left], 0)
    lengths = np.linalg.norm(others, axis=1)
    usable = lengths > 1e-6
    dots = np.einsum("nd,nd->n", vectors[pairs.left], others)
    return fit_calibration((dots / np.maximum(lengths, 1e-6))[usable], pairs.labels[usable])


def _fit_logistic(scores, wanted, weights, steps: int = 100) -> tuple[float, float]:
    centre, spread = scores.mean(), scores.std() or 1.0
    inputs = np.stack([(scores - centre) / spread, np.ones_like(scores)], axis=1)
    weights_of = np.zeros(2)

    def loss(parameters):
        odds = inputs @ parameters
        return float((weights * (np.logaddexp(0, odds) - wanted * odds)).sum())

    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights_of, -60, 60)))
        gradient = inputs.T @ (weights * (chance - wanted))
        curvature = inputs.T @ (inputs * (weights * chance * (1 - chance))[:, None])
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        size, here = 1.0, loss(weights_of)
        while loss(weights_of - size * step) > here and size > 1e-6:
            size /= 2
        weights_of = weights_of - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    slope = weights_of[0] / spread
    return float(slope), float(weights_of[1] - slope * centre)


def occlusion_map(embedder, face: Image.Image, star: np.ndarray, *, cells: int = 8) -> np.ndarray:
    """How much each part of the face speaks for the match (Zeiler and Fergus 2014, section 4.2).

    A grey patch is moved over the face; where the similarity falls, that part mattered.

    Args:
        embedder: called with a list of PIL images, gives float32 (n, d).
        face: a cut face.
        star: the star's mean embedding (d,).
        cells: the patch covers 2x2 of `cells` by `cells` squares.

    Returns:
        float32 (cells, cells): mean fall of the cosine when that square is covered; above 0
        where it speaks for the match.
    """
    steps = cells - 1
    width, height = face.width / cells, face.height / cells
    covered = [face]
    for row in range(steps):
        for column in range(steps):
            picture = face.copy()
            corners = (column * width, row * height, (column + 2) * width, (row + 2) * height)
            picture.paste((128, 128, 128), tuple(round(edge) for edge in corners))
            covered.append(picture)
    similarities = embedder(covered) @ np.asarray(star, dtype=np.float32)
    falls = (similarities[0] - similarities[1:]).reshape(steps, steps)
    total, seen = np.zeros((cells, cells)), np.zeros((cells, cells))
    for down in (0, 1):
        for across in (0, 1):
            total[down : down + steps, across : across + steps] += falls
            seen[down : down + steps, across : across + steps] += 1
    return (total / seen).astype(np.float32)


def lookalike_sheet(photo_crop: Image.Image, matches, gallery, *, calibration=None, title=None):
    """A matplotlib Figure: the cut face, then its stars with picture, name and similarity.

    Args:
        photo_crop: the cut face.
        matches: what `Gallery.search` gives for one embedding.
        gallery: the gallery that was searched.
        calibration: adds how unusual each likeness is; by default the gallery's own.
        title: headline of the sheet.
    """
    calibration = calibration or gallery.calibration
    shown = list(matches)[:5]
    figure = LabFigure(figsize=(2.3 * (len(shown) + 1), 3.5), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(shown) + 1, squeeze=False)[0]
    panels = [(photo_crop, "Your photo", "", None)]
    for rank, match in enumerate(shown, 1):
        picture = gallery.thumbnail(match.identity, image=match.image)
        panels.append(
            (
                picture,
                f"{rank}. {text(match.name, 20)}",
                f"similarity {match.similarity:.3f}",
                match,
            )
        )
    for axis, (picture, heading, line, match) in zip(axes, panels, strict=True):
        axis.imshow(np.asarray(picture.convert("RGB")))
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("#2563eb" if match is None else "#d1d5db")
            spine.set_linewidth(3 if match is None else 1)
        axis.set_title(heading, fontsize=11, fontweight="bold", color="#111827", parse_math=False)
        if match is not None:
            if calibration is not None:
                line += f"\ncloser than {float(calibration.percentile(match.similarity)):.1f} %"
            axis.set_xlabel(line, fontsize=9, color="#374151", labelpad=13)
            _likeness_bar(axis, match.similarity)
    figure.suptitle(title or "Your look-alikes among the stars", fontsize=13)
    notes = [gallery.note] if gallery.note else []
    if calibration is not None:
        notes.append("closer than … % of pairs of different people")
    if notes:
        figure.supxlabel("  ·  ".join(notes), fontsize=8, color="#6b7280")
    return figure


def _likeness_bar(axis, similarity: float) -> None:
    share = float(np.clip(similarity, 0, 1))
    for width, colour in ((1.0, "#e5e7eb"), (share, "#2563eb")):
        bar = axis.inset_axes((0, -0.045, 1, 0.03))
        bar.set_xlim(0, 1)
        bar.barh([0], [width], height=1, color=colour)
        bar.set_ylim(-0.5, 0.5)
        bar.axis("off")
