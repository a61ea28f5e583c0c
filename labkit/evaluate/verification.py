"""What a system reaches on a labelled pair list: the numbers, and who and what is hard."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.data import PairList
from labkit.utils import UserError

FARS = (0.1, 0.01, 0.001)
HARDEST = 12


@dataclass
class IdentityErrors:
    """Errors by identity: who is hard. All arrays (identities,).

    names: the identities. targets, imposters: numbers of pairs with a photo of theirs. eer:
    percent, over those pairs alone (NaN when one kind is missing). frr, far: rates at the
    threshold of the whole list's EER (NaN without such pairs).
    """

    names: list[str]
    targets: np.ndarray
    imposters: np.ndarray
    eer: np.ndarray
    frr: np.ndarray
    far: np.ndarray

    @classmethod
    def from_scores(cls, scores: np.ndarray, pairs: PairList, threshold: float) -> "IdentityErrors":
        names, left, right = identities_of(pairs)
        n = len(names)
        # A pair belongs to both its identities, but only once where they are the same.
        index = np.arange(len(pairs))
        two = left != right
        who = np.concatenate([left, right[two]])
        index = np.concatenate([index, index[two]])
        target, accepted = pairs.labels[index] == 1, scores[index] >= threshold
        targets = np.bincount(who[target], minlength=n)
        imposters = np.bincount(who[~target], minlength=n)
        rejected = np.bincount(who[target & ~accepted], minlength=n)
        let_in = np.bincount(who[~target & accepted], minlength=n)
        order = np.argsort(who, kind="stable")
        parts = np.split(index[order], np.cumsum(np.bincount(who, minlength=n))[:-1])
        eers = np.full(n, np.nan)
        for k in np.flatnonzero((targets > 0) & (imposters > 0)):
            eers[k] = metrics.eer(scores[parts[k]], pairs.labels[parts[k]])
        with np.errstate(invalid="ignore", divide="ignore"):
            return cls(names, targets, imposters, eers, rejected / targets, let_in / imposters)

    def hardest(self, count: int = 20) -> np.ndarray:
        """Numbers of the identities with the highest EER, hardest first."""
        ranked = np.argsort(-np.nan_to_num(self.eer, nan=-1.0), kind="stable")
        return ranked[~np.isnan(self.eer[ranked])][:count]


def identities_of(pairs: PairList) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The identities of a pair list, and the number of each pair's left and right one (n,).

    The identity is the first folder of a name. Where no name has a folder (the anonymous images
    of a blind test, with labels), target pairs join the images of one person, who goes by the
    first of them.
    """
    of_file = pairs.file_identities()
    if pairs.labels is not None and not any("/" in name for name in pairs.files):
        of_file = [pairs.files[k] for k in pairs.joined_files()]
    names, number = np.unique(of_file, return_inverse=True)
    return names.tolist(), number[pairs.left], number[pairs.right]


@dataclass
class VerificationReport:
    """What one system reaches on one labelled pair list. Build it with `from_scores`.

    eer, reference_eer and their bounds are in percent; auc, the values of tar_at_far and min_dcf
    are fractions. eer_low to eer_high is the interval that resamples identities, the one to
    quote; eer_pair_low to eer_pair_high resamples pairs and is there for comparison. Both are
    None without a bootstrap. draws are the EERs (bootstrap,) of the draws of identities.
    hardest_targets and hardest_imposters are pair numbers, hardest first.
    """

    name: str
    eer: float
    eer_low: float | None
    eer_high: float | None
    eer_pair_low: float | None
    eer_pair_high: float | None
    reference_eer: float
    threshold: float
    auc: float
    tar_at_far: dict[float, float]
    threshold_at_far: dict[float, float]
    min_dcf: float
    targets: int
    imposters: int
    images: int
    bootstrap: int
    level: float
    hardest_targets: np.ndarray = field(repr=False)
    hardest_imposters: np.ndarray = field(repr=False)
    identities: IdentityErrors = field(repr=False)
    scores: np.ndarray = field(repr=False)
    pairs: PairList = field(repr=False)
    draws: np.ndarray | None = field(repr=False)
    seed: int = 0

    @classmethod
    def from_scores(
        cls,
        scores: np.ndarray,
        pairs: PairList,
        *,
        name: str = "system",
        bootstrap: int = 1000,
        level: float = 0.95,
        seed: int = 0,
    ) -> "VerificationReport":
        """Measure scores (n,) of a labelled list; `bootstrap` draws per interval, 0 for none.

        The identity of an image is the first folder of its name.
        """
        if pairs.labels is None:
            raise UserError("this pair list is blind: a report needs labels")
        scores, target = metrics.check_scores(scores, pairs.labels)
        labels = pairs.labels
        low = high = pair_low = pair_high = draws = None
        if bootstrap:
            people = identities_of(pairs)[1:]
            options = {"samples": bootstrap, "seed": seed}
            draws = metrics.bootstrap(scores, labels, *people, **options)
            low, high = metrics.bootstrap_ci(scores, labels, *people, level=level, draws=draws)
            pair_low, pair_high = metrics.bootstrap_ci(scores, labels, level=level, **options)
        threshold = metrics.eer_threshold(scores, labels)
        rising = np.argsort(scores, kind="stable")
        falling = rising[::-1]
        return cls(
            name=name,
            eer=metrics.eer(scores, labels),
            eer_low=low,
            eer_high=high,
            eer_pair_low=pair_low,
            eer_pair_high=pair_high,
            reference_eer=metrics.reference_eer(scores, labels),
            threshold=threshold,
            auc=metrics.auc(scores, labels),
            tar_at_far=dict(zip(FARS, metrics.tar_at_far(scores, labels, FARS).tolist())),
            threshold_at_far={f: metrics.threshold_at_far(scores, labels, f) for f in FARS},
            min_dcf=metrics.min_dcf(scores, labels),
            targets=int(target.sum()),
            imposters=int((~target).sum()),
            images=len(pairs.files),
            bootstrap=bootstrap,
            level=level,
            hardest_targets=rising[target[rising]][:HARDEST],
            hardest_imposters=falling[~target[falling]][:HARDEST],
            identities=IdentityErrors.from_scores(scores, pairs, threshold),
            scores=scores,
            pairs=pairs,
            draws=draws,
            seed=seed,
        )

    def to_dict(self) -> dict:
        """The numbers, ready for JSON."""
        hard = self.identities.hardest(10)
        return {
            "name": self.name,
            "eer": self.eer,
            "eer_interval": None if self.eer_low is None else [self.eer_low, self.eer_high],
            "eer_interval_by_pairs": (
                None if self.eer_pair_low is None else [self.eer_pair_low, self.eer_pair_high]
            ),
            "interval_level": self.level,
            "bootstrap_draws": self.bootstrap,
            "reference_eer": self.reference_eer,
            "threshold": self.threshold,
            "auc": self.auc,
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "threshold_at_far": {f"{far:g}": t for far, t in self.threshold_at_far.items()},
            "min_dcf": self.min_dcf,
            "target_pairs": self.targets,
            "imposter_pairs": self.imposters,
            "images": self.images,
            "identities": len(self.identities.names),
            "hardest_identities": {
                self.identities.names[k]: float(self.identities.eer[k]) for k in hard
            },
        }

    def identity_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """The identity of each pair's left and right image, int64 (n,) each."""
        return identities_of(self.pairs)[1:]

    def interval_text(self) -> str:
        """`3.1 to 4.9`, the interval of the EER in percent; a dash without a bootstrap."""
        return "–" if self.eer_low is None else f"{self.eer_low:.2f} to {self.eer_high:.2f}"

    def summary(self) -> str:
        """A few lines for people."""
        rates = ", ".join(f"{tar:.1%} at {far:.1%}" for far, tar in self.tar_at_far.items())
        interval = (
            "" if self.eer_low is None else f" ({self.level:.0%} interval {self.interval_text()})"
        )
        return (
            f"{self.name}: EER {self.eer:.2f} %{interval} at threshold {self.threshold:.3f}\n"
            f"  {self.targets:,} target and {self.imposters:,} imposter pairs, "
            f"{self.images:,} images of {len(self.identities.names):,} identities\n"
            f"  true accepts at a false-accept rate: {rates}\n"
            f"  AUC {self.auc:.4f}, minimum DCF {self.min_dcf:.3f}, "
            f"reference trainer's EER {self.reference_eer:.2f} %"
        )

    def save(self, folder: str | Path, root: str | Path | None = None) -> dict[str, Path]:
        """Write summary.json, the figures, report.pdf and report.html; see `save_report`.

        With `root`, the test folder, the hardest pairs are shown as pictures. Returns the files
        by name. Nothing else in the folder is touched.
        """
        from labkit.evaluate.report import save_report  # matplotlib is slow to import

        return save_report([self], folder, root=root)
