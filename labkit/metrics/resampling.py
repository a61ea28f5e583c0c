"""Bootstrap resampling of scored pairs, by identity or by pair. NumPy alone.

Scores of pairs that share a person are not independent, so an interval that resamples pairs is
too narrow. Resampling the people themselves (ISO/IEC 19795-1, annex on bootstrap; Snijders and
Borgatti, "Non-parametric standard errors and tests for network statistics", 1999) keeps that
dependence: when person a is drawn c[a] times, a pair of a's own photos counts c[a] times and a
pair of a with b counts c[a] * c[b] times.
"""

from collections.abc import Iterator

import numpy as np

from labkit.utils import UserError

CUTS = (-1 / 20, -1 / 200, 1 / 200, 1 / 20)  # around the crossing, as shares of the list


class Units:
    """What a bootstrap draws again and again: identities, or single pairs when none are given.

    `left` and `right` (int64, one entry per pair) are unit numbers; a pair weighs
    `counts[left] * counts[right]`. A pair within one unit has as its right-hand unit the dummy
    number `number`, whose count is always 1, so that it weighs `counts[left]`.
    """

    def __init__(self, pairs: int, left_ids=None, right_ids=None):
        if (left_ids is None) != (right_ids is None):
            raise UserError("left_ids and right_ids must be given together")
        if left_ids is None:
            self.by_identity = False
            self.number = pairs
            self.left = np.arange(pairs)
            self.right = np.full(pairs, pairs)
            return
        left_ids, right_ids = np.asarray(left_ids), np.asarray(right_ids)
        if left_ids.shape != (pairs,) or right_ids.shape != (pairs,):
            raise UserError(
                f"left_ids and right_ids must have one entry for each of the {pairs} scores, "
                f"got shapes {left_ids.shape} and {right_ids.shape}"
            )
        self.by_identity = True
        self.number, codes = _codes(np.concatenate([left_ids, right_ids]))
        left, right = codes[:pairs], codes[pairs:]
        self.left = np.minimum(left, right)
        self.right = np.where(left == right, self.number, np.maximum(left, right))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Counts of one bootstrap draw: int64 (number + 1,), the dummy's 1 at the end."""
        counts = np.bincount(rng.integers(0, self.number, self.number), minlength=self.number + 1)
        counts[-1] = 1
        return counts

    def draws(self, labels: np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
        """Yield the counts of `samples` draws that hold both target and imposter pairs.

        The draws depend on labels, units and seed, never on scores: two systems on one list see
        the same draws.
        """
        rng = np.random.default_rng(seed)
        target = labels == 1
        kinds = [(self.left[target], self.right[target]), (self.left[~target], self.right[~target])]
        for _ in range(samples):
            counts = self.draw(rng)
            # Ends soon: whatever the list, at least a good tenth of all draws hold both kinds.
            while not all(_any_positive(counts, *kind) for kind in kinds):
                counts = self.draw(rng)
            yield counts


def _codes(ids: np.ndarray) -> tuple[int, np.ndarray]:
    """How many different identities there are, and the number of each entry's."""
    if ids.dtype.kind in "iu" and len(ids) and 0 <= ids.min() and ids.max() < 4 * len(ids):
        present = np.bincount(ids) > 0
        return int(np.count_nonzero(present)), (np.cumsum(present) - 1)[ids]
    names, codes = np.unique(ids, return_inverse=True)
    return len(names), codes


def _any_positive(counts: np.ndarray, left: np.ndarray, right: np.ndarray) -> bool:
    """Whether any pair has a positive weight; looks at a few pairs before it looks at all."""
    for part in (slice(0, 256), slice(256, None)):
        if np.any(counts[left[part]] * counts[right[part]]):
            return True
    return False


class WeightedEer:
    """The exact EER of one list of scores under many different draws.

    Scores are sorted once and cut into segments, narrow ones near the crossing of the whole list.
    For a draw, the weights of the segments say in which of them false accepts cross false
    rejects, and only that one is looked at score by score. Pairs of a segment that share label
    and identities are merged. The answer does not depend on where the cuts are.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray, units: Units):
        order = np.argsort(scores, kind="stable")
        self.scores = scores[order]
        self.target = labels[order] == 1
        self.left, self.right = units.left[order], units.right[order]
        n = len(order)
        rejected = np.cumsum(self.target)
        accepted = (n - rejected[-1]) - np.arange(n) + rejected
        crossing = _last_accepting(accepted, rejected, accepted[0], rejected[-1])
        cuts = np.clip([0, *(crossing + int(share * n) for share in CUTS)], 0, n - 1)
        cuts = np.unique(np.searchsorted(self.scores, self.scores[cuts]))
        self.cuts = np.append(cuts, n)
        segment = np.repeat(np.arange(len(cuts)), np.diff(self.cuts))
        kind = segment * 2 + self.target
        if units.by_identity:
            base = units.number + 1
            key = (kind * base + self.left) * base + self.right
            key, self.merged_count = np.unique(key, return_counts=True)
            self.merged_right = key % base
            self.merged_left = key // base % base
            self.merged_kind = key // base // base
        else:
            self.merged_count, self.merged_kind = 1, kind
            self.merged_left, self.merged_right = self.left, self.right

    def __call__(self, counts: np.ndarray) -> float:
        """EER in percent under the unit counts of one draw."""
        weights = counts[self.merged_left] * counts[self.merged_right] * self.merged_count
        sums = np.bincount(self.merged_kind, weights, minlength=2 * len(self.cuts) - 2)
        imposters, targets = sums[0::2], sums[1::2]
        all_imposters, all_targets = imposters.sum(), targets.sum()
        rejected = np.concatenate([[0.0], np.cumsum(targets)])
        accepted = all_imposters - np.concatenate([[0.0], np.cumsum(imposters)])
        s = _last_accepting(accepted, rejected, all_imposters, all_targets)

        part = slice(self.cuts[s], self.cuts[s + 1])
        scores, target = self.scores[part], self.target[part]
        weights = (counts[self.left[part]] * counts[self.right[part]]).astype(np.float64)
        new = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1], [True]]))
        below_targets = np.concatenate([[0.0], np.cumsum(weights * target)])[new]
        below_imposters = np.concatenate([[0.0], np.cumsum(weights * ~target)])[new]
        fa = (accepted[s] - below_imposters) / all_imposters
        fr = (rejected[s] + below_targets) / all_targets
        k = min(_last_accepting(fa, fr, 1.0, 1.0), len(fa) - 2)
        d0, d1 = fa[k] - fr[k], fa[k + 1] - fr[k + 1]
        step = d0 / (d0 - d1) if d0 > d1 else 0.0
        return 100.0 * float(fa[k] + step * (fa[k + 1] - fa[k]))


def _last_accepting(accepted, rejected, all_imposters, all_targets) -> int:
    """Index of the last threshold (in rising order) at which FAR is not below FRR."""
    return max(int(np.count_nonzero(accepted * all_targets >= rejected * all_imposters)) - 1, 0)
