"""Scores of a pair list, and what they say: the numbers, and who and what is hard."""

from pathlib import Path

import numpy as np
from PIL import ImageOps

from labkit import metrics
from labkit.data import PairList, decode_image
from labkit.embed import check_embeddings
from labkit.utils import UserError, l2_normalize, progress

FARS = (0.1, 0.01, 0.001)


def direction_hint(eer: float) -> str:
    """Return what an EER (percent) above 50 % says of the scores; nothing for others."""
    says = "worse than guessing: a larger score must mean more alike (for distances, a minus sign)"
    return f"An EER above 50 % is {says}." if eer > 50 else ""


def score_pairs(embedder, pairs: PairList, root: str | Path, *, flip: bool = False) -> np.ndarray:
    """Return the cosine of each pair, float32 (n,) in [-1, 1]; each image is embedded once.

    `embedder` is an `Embedder` or anything with its `files` method and call, `root` the test
    folder. With `flip`, the embeddings of a picture and of its horizontal flip are averaged.
    Raises UserError for a file that is missing or unreadable.
    """
    paths = [Path(root) / name for name in pairs.files]
    if missing := [name for name, path in zip(pairs.files, paths) if not path.is_file()]:
        told = f"{len(missing):,} of {len(paths):,} images of the pair list are not in {root}"
        raise UserError(f"{told}, first {missing[0]}")
    if not flip:
        return score_embeddings(embedder.files(paths), pairs)
    sums, size = [], embedder.batch_size
    for start in progress(range(0, len(paths), size), desc="embedding with flips", unit="batch"):
        images = [decode_image(path) for path in paths[start : start + size]]
        sums.append(embedder(images) + embedder([ImageOps.mirror(image) for image in images]))
    return score_embeddings(l2_normalize(np.concatenate(sums)), pairs)


def score_embeddings(embeddings: np.ndarray, pairs: PairList) -> np.ndarray:
    """Return the cosine of each pair, float32 (n,) in [-1, 1].

    `embeddings` (files, d) are those of `pairs.files`, of any floating type and length. Raises
    UserError for a wrong number of embeddings and for one that is zero or not finite.
    """
    shape, files = np.shape(embeddings), len(pairs.files)
    if len(shape) != 2 or shape[0] != files:
        raise UserError(f"expected embeddings of {files} files, got an array of shape {shape}")
    check_embeddings(embeddings, pairs.files)
    return metrics.pair_similarities(l2_normalize(embeddings), pairs.left, pairs.right)


def identity_eer(scores: np.ndarray, pairs: PairList) -> dict[str, float]:
    """Return the EER of each identity's own pairs in percent, the highest first.

    An identity that lacks target or imposter pairs is left out.
    """
    names, index = np.unique(pairs.people[0], return_inverse=True)
    left, right, found = index[pairs.left], index[pairs.right], {}
    for k, name in enumerate(names.tolist()):
        own = (left == k) | (right == k)
        if 0 < pairs.labels[own].sum() < own.sum():
            found[name] = metrics.eer(scores[own], pairs.labels[own])
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class VerificationReport:
    """What one system reaches on one labelled pair list.

    Attributes:
        name, scores (n,), pairs, bootstrap (draws per interval, 0 for none), level, seed: as given.
        eer, voxceleb_eer: in percent. threshold: of the EER. hint: of `direction_hint`.
        eer_interval: (low, high) of the EER, by resampling identities, the one to quote.
        eer_pair_interval: by resampling pairs, for comparison. None without a bootstrap.
        auc, min_dcf: fractions. tar_at_far, threshold_at_far: by false-accept rate.
        targets, imposters, people: how many pairs and identities there are.
        identity_eer: see the function.
        hardest_targets, hardest_imposters: indices of pairs, hardest first.
    """

    def __init__(self, scores, pairs: PairList, name="system", bootstrap=1000, level=0.95, seed=0):
        if pairs.labels is None:
            raise UserError("this pair list is blind: a report needs labels")
        labels = pairs.labels
        scores, target = metrics.check_scores(scores, labels)
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
        self.people, self.identity_eer = len({*pairs.people[0]}), identity_eer(scores, pairs)
        rising = np.argsort(scores, kind="stable")
        self.hardest_targets = rising[target[rising]][:12]
        self.hardest_imposters = rising[~target[rising]][:-13:-1]
        self.eer_interval = self.eer_pair_interval = None
        if bootstrap:
            drawn = dict(samples=bootstrap, level=level, seed=seed)
            self.eer_interval = metrics.bootstrap_ci(scores, labels, *pairs.identities(), **drawn)
            self.eer_pair_interval = metrics.bootstrap_ci(scores, labels, **drawn)

    def to_dict(self) -> dict:
        """Return the numbers, ready for JSON."""
        return {
            "name": self.name,
            "eer": self.eer,
            "eer_interval": self.eer_interval,
            "eer_interval_by_pairs": self.eer_pair_interval,
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
            "images": len(self.pairs.files),
            "identities": self.people,
            "hint": self.hint,
            "hardest_identities": dict(list(self.identity_eer.items())[:10]),
        }

    def interval_text(self, by_pairs: bool = False) -> str:
        """Return `3.10 to 4.90`, the interval of the EER in percent; a dash without a bootstrap."""
        interval = self.eer_pair_interval if by_pairs else self.eer_interval
        return "{:.2f} to {:.2f}".format(*interval) if interval else "–"

    def summary(self) -> str:
        """Return a few lines for people."""
        rates = ", ".join(f"{tar:.1%} at {far:.1%}" for far, tar in self.tar_at_far.items())
        return (
            f"{self.name}: EER {self.eer:.2f} % ({self.level:.0%} interval {self.interval_text()}) "
            f"at threshold {self.threshold:.3f}\n"
            f"  {self.targets:,} target and {self.imposters:,} imposter pairs, "
            f"{len(self.pairs.files):,} images of {self.people:,} identities, "
            f"known by {self.pairs.people[1]}\n"
            f"  true accepts at a false-accept rate: {rates}\n"
            f"  AUC {self.auc:.4f}, minimum DCF {self.min_dcf:.3f}, "
            f"VoxCeleb trainer's EER {self.voxceleb_eer:.2f} %" + (self.hint and f"\n  {self.hint}")
        )
