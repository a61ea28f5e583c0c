"""Scores of a pair list, and what they say: the numbers, and who and what is hard."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageOps

from labkit import metrics
from labkit.data import PairList, decode_image
from labkit.embed import check_embeddings
from labkit.utils import UserError, l2_normalize, progress

FARS = (0.1, 0.01, 0.001)
MAX_HARDEST = 12


def direction_hint(eer: float) -> str:
    """Return what an EER (percent) above 50 % says of the scores; nothing for others."""
    says = "worse than guessing: a larger score must mean more alike (for distances, a minus sign)"
    return f"An EER above 50 % is {says}." if eer > 50 else ""


def embed_files(embedder, paths: Sequence[str | Path], *, flip: bool = False) -> np.ndarray:
    """Embed image files, each once: (n, d), rows of length 1.

    With `flip`, the mean of the embeddings of the picture and of its horizontal flip, normalized.
    `embedder` is an `Embedder` or anything with its `files` method and call.
    """
    if not flip:
        return np.asarray(embedder.files(paths))
    parts = []
    with progress(total=len(paths), desc="embedding with flips", unit="image") as bar:
        for start in range(0, len(paths), embedder.batch_size):
            images = [decode_image(path) for path in paths[start : start + embedder.batch_size]]
            flipped = [ImageOps.mirror(image) for image in images]
            parts.append(np.asarray(embedder(images)) + np.asarray(embedder(flipped)))
            bar.update(len(images))
    return l2_normalize(np.concatenate(parts))


def score_pairs(embedder, pairs: PairList, root: str | Path, *, flip: bool = False) -> np.ndarray:
    """Return the cosine of each pair, float32 (n,) in [-1, 1]; each image is embedded once.

    `root` is the test folder. For `flip`, see `embed_files`. Raises UserError for a file that is
    missing or unreadable, and for an embedding that is zero or not finite.
    """
    root = Path(root)
    missing = [name for name in pairs.files if not os.path.isfile(root / name)]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(pairs.files):,} images of the pair list are not in {root}, "
            f"first {missing[0]}"
        )
    embeddings = embed_files(embedder, [root / name for name in pairs.files], flip=flip)
    return score_embeddings(embeddings, pairs)


def score_embeddings(embeddings: np.ndarray, pairs: PairList) -> np.ndarray:
    """Return the cosine of each pair, float32 (n,) in [-1, 1].

    `embeddings` (files, d) of any floating type are those of `pairs.files`, in that order, and
    need not be normalized. Raises UserError for a wrong number of embeddings and for one that is
    zero or not finite.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or len(embeddings) != len(pairs.files):
        raise UserError(
            f"expected embeddings of the {len(pairs.files)} files of the pair list, "
            f"got an array of shape {embeddings.shape}"
        )
    check_embeddings(embeddings, pairs.files)
    return metrics.pair_similarities(l2_normalize(embeddings), pairs.left, pairs.right)


def identities_of(pairs: PairList) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the identities of a pair list, and the index of each pair's left and right one (n,).

    They are the `people` of the list; UserError where names and target pairs contradict labels.
    """
    names, index = np.unique(pairs.people[0], return_inverse=True)
    return names.tolist(), index[pairs.left], index[pairs.right]


@dataclass
class IdentityErrors:
    """Errors by identity: who is hard. All arrays (identities,).

    names: the identities. targets, imposters: how many pairs have a photo of theirs. eer:
    percent, over those pairs alone (NaN when one kind is missing).
    """

    names: list[str]
    targets: np.ndarray
    imposters: np.ndarray
    eer: np.ndarray

    @classmethod
    def from_scores(cls, scores: np.ndarray, pairs: PairList) -> "IdentityErrors":
        """Measure each identity of a labelled list."""
        names, left, right = identities_of(pairs)
        # A pair belongs to both its identities, but only once where they are the same.
        two = np.flatnonzero(left != right)
        who, pair = np.concatenate([left, right[two]]), np.append(np.arange(len(pairs)), two)
        target = pairs.labels[pair] == 1
        targets = np.bincount(who[target], minlength=len(names))
        imposters = np.bincount(who[~target], minlength=len(names))
        by_identity = np.split(
            pair[np.argsort(who, kind="stable")], np.cumsum(targets + imposters)[:-1]
        )
        eers = np.full(len(names), np.nan)
        for k in np.flatnonzero((targets > 0) & (imposters > 0)):
            eers[k] = metrics.eer(scores[by_identity[k]], pairs.labels[by_identity[k]])
        return cls(names, targets, imposters, eers)

    def hardest(self, count: int = 20) -> np.ndarray:
        """Return the indices of the identities with the highest EER, hardest first."""
        ranked = np.argsort(-self.eer, kind="stable")  # NaN comes last
        return ranked[~np.isnan(self.eer[ranked])][:count]


class VerificationReport:
    """What one system reaches on one labelled pair list.

    Attributes:
        name, scores (n,), pairs, bootstrap, level, seed: as given.
        eer, voxceleb_eer: in percent. threshold: of the EER. hint: of `direction_hint`.
        eer_low, eer_high: the interval of the EER that resamples identities, the one to quote.
        eer_pair_low, eer_pair_high: the one that resamples pairs, for comparison.
        draws: the EERs (bootstrap,) of the draws of identities. Without a bootstrap it is None,
            as the four bounds are.
        auc, min_dcf: fractions. tar_at_far, threshold_at_far: by false-accept rate.
        targets, imposters, images: how many there are.
        identities: the `IdentityErrors`.
        hardest_targets, hardest_imposters: indices of pairs, hardest first.
    """

    def __init__(self, scores, pairs: PairList, name="system", bootstrap=1000, level=0.95, seed=0):
        if pairs.labels is None:
            raise UserError("this pair list is blind: a report needs labels")
        scores, target = metrics.check_scores(scores, pairs.labels)
        labels = pairs.labels
        self.name, self.scores, self.pairs = name, scores, pairs
        self.bootstrap, self.level, self.seed = bootstrap, level, seed
        self.eer = metrics.eer(scores, labels)
        self.hint = direction_hint(self.eer)
        self.threshold = metrics.eer_threshold(scores, labels)
        self.voxceleb_eer = metrics.voxceleb_eer(scores, labels)
        self.auc = metrics.auc(scores, labels)
        self.min_dcf = metrics.min_dcf(scores, labels)
        self.tar_at_far = dict(zip(FARS, metrics.tar_at_far(scores, labels, FARS).tolist()))
        self.threshold_at_far = {f: metrics.threshold_at_far(scores, labels, f) for f in FARS}
        self.targets, self.imposters = int(target.sum()), int((~target).sum())
        self.images = len(pairs.files)
        self.identities = IdentityErrors.from_scores(scores, pairs)
        rising = np.argsort(scores, kind="stable")
        falling = rising[::-1]
        self.hardest_targets = rising[target[rising]][:MAX_HARDEST]
        self.hardest_imposters = falling[~target[falling]][:MAX_HARDEST]
        self.draws = self.eer_low = self.eer_high = self.eer_pair_low = self.eer_pair_high = None
        if bootstrap:
            who, drawn = identities_of(pairs)[1:], {"samples": bootstrap, "seed": seed}
            self.draws = metrics.bootstrap(scores, labels, *who, **drawn)
            self.eer_low, self.eer_high = metrics.bootstrap_ci(
                scores, labels, *who, level=level, draws=self.draws
            )
            self.eer_pair_low, self.eer_pair_high = metrics.bootstrap_ci(
                scores, labels, level=level, **drawn
            )

    @classmethod
    def from_scores(cls, scores: np.ndarray, pairs: PairList, **options) -> "VerificationReport":
        """Measure scores (n,) of a labelled list; `bootstrap` draws per interval, 0 for none."""
        return cls(scores, pairs, **options)

    def to_dict(self) -> dict:
        """Return the numbers, ready for JSON."""
        drawn, errors = self.draws is not None, self.identities
        return {
            "name": self.name,
            "eer": self.eer,
            "eer_interval": [self.eer_low, self.eer_high] if drawn else None,
            "eer_interval_by_pairs": [self.eer_pair_low, self.eer_pair_high] if drawn else None,
            "interval_level": self.level,
            "bootstrap_draws": self.bootstrap,
            "reference_eer": self.voxceleb_eer,
            "threshold": self.threshold,
            "auc": self.auc,
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "threshold_at_far": {f"{far:g}": t for far, t in self.threshold_at_far.items()},
            "min_dcf": self.min_dcf,
            "target_pairs": self.targets,
            "imposter_pairs": self.imposters,
            "images": self.images,
            "identities": len(errors.names),
            "hint": self.hint,
            "hardest_identities": {
                errors.names[k]: float(errors.eer[k]) for k in errors.hardest(10)
            },
        }

    def interval_text(self, by_pairs: bool = False) -> str:
        """Return `3.10 to 4.90`, the interval of the EER in percent; a dash without a bootstrap."""
        low, high = self.eer_low, self.eer_high
        if by_pairs:
            low, high = self.eer_pair_low, self.eer_pair_high
        return "–" if low is None else f"{low:.2f} to {high:.2f}"

    def summary(self) -> str:
        """Return a few lines for people."""
        rates = ", ".join(f"{tar:.1%} at {far:.1%}" for far, tar in self.tar_at_far.items())
        interval = f" ({self.level:.0%} interval {self.interval_text()})" if self.bootstrap else ""
        return (
            f"{self.name}: EER {self.eer:.2f} %{interval} at threshold {self.threshold:.3f}\n"
            f"  {self.targets:,} target and {self.imposters:,} imposter pairs, "
            f"{self.images:,} images of {len(self.identities.names):,} identities, "
            f"known by {self.pairs.people[1]}\n"
            f"  true accepts at a false-accept rate: {rates}\n"
            f"  AUC {self.auc:.4f}, minimum DCF {self.min_dcf:.3f}, "
            f"VoxCeleb trainer's EER {self.voxceleb_eer:.2f} %" + (self.hint and f"\n  {self.hint}")
        )
