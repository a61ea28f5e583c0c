"""Numbers from scores and labels: error rates, and how sure they are. NumPy alone.

A score says how alike the two faces of a pair are: larger is more alike. A label is 1 for a
target pair (one person twice) and 0 for an imposter pair. A pair is accepted when its score is
at or above the threshold, so at threshold t

    FAR(t) = share of imposter pairs with score >= t     false-accept rate
    FRR(t) = share of target pairs with score < t        false-reject rate

Equal scores are accepted or rejected together. Rates are fractions in [0, 1]; only equal error
rates are in percent. Every function raises `UserError` for scores and labels that differ in
length, an empty list, a score that is not finite, a label other than 0 and 1, and a list that
lacks target or imposter pairs.
"""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from labkit.utils import UserError


def check_scores(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Check scores and labels; return floats and booleans (True for target pairs), both (n,)."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UserError(f"give one label per score, got shapes {scores.shape} and {labels.shape}")
    if scores.dtype not in (np.float32, np.float64):
        if scores.dtype.kind not in "bifu":
            raise UserError(f"scores must be numbers, got an array of {scores.dtype}")
        scores = scores.astype(np.float64)
    target, imposter = labels == 1, labels == 0
    if not (finite := np.isfinite(scores)).all():
        at = int(finite.argmin())
        raise UserError(f"score number {at + 1} is {scores[at]}: every score must be a number")
    if not (known := target | imposter).all():
        at = int(known.argmin())
        raise UserError(f"label number {at + 1} is {labels[at]}: it must be 1 (target) or 0")
    for kind, found in (("target pair (label 1)", target), ("imposter pair (label 0)", imposter)):
        if not found.any():
            raise UserError(f"no {kind}: an error rate needs target and imposter pairs")
    return scores, target


def _sorted_classes(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    scores, target = check_scores(scores, labels)
    return np.sort(scores[target]), np.sort(scores[~target])


def _counts(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False accepts and true accepts (int64) at each distinct score, and at infinity, downwards."""
    scores, target = check_scores(scores, labels)
    imposters = np.sort(scores[~target])
    rising = np.append(np.sort(scores), scores.dtype.type(np.inf))
    first = np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))[::-1]
    thresholds = rising[first]
    false_accepts = len(imposters) - imposters.searchsorted(thresholds)
    return false_accepts, len(scores) - first - false_accepts, thresholds


def roc(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ROC as (far, tar, thresholds), thresholds falling: one point per distinct score.

    The first point accepts nothing (threshold infinity, rates 0), the last accepts everything.
    TAR, the true-accept rate, is 1 - FRR. No point is dropped: scikit-learn's
    `roc_curve(..., drop_intermediate=False)` gives the same.
    """
    false_accepts, true_accepts, thresholds = _counts(scores, labels)
    return false_accepts / false_accepts[-1], true_accepts / true_accepts[-1], thresholds


def det(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points of the DET curve as (far, frr, thresholds), as `roc` does.

    Plot both rates on normal-deviate axes (Martin et al., "The DET curve in assessment of
    detection task performance", 1997).
    """
    far, tar, thresholds = roc(scores, labels)
    return far, 1.0 - tar, thresholds


def _crossing(scores, labels) -> tuple[float, float]:
    """EER (fraction) and its threshold, by bisection: FAR - FRR falls as the threshold rises."""
    classes = targets, imposters = _sorted_classes(scores, labels)

    def errors(threshold) -> tuple[int, int]:
        """False accepts, and FAR - FRR times both numbers of pairs, whose sign is thus exact."""
        accepted = len(imposters) - int(imposters.searchsorted(threshold))
        rejected = int(targets.searchsorted(threshold))
        return accepted, accepted * len(targets) - rejected * len(imposters)

    ends = [(c, bisect_right(c, 0, key=lambda score: -errors(score)[1])) for c in classes]
    at = max(c[end - 1] for c, end in ends if end > 0)  # the last score with FAR >= FRR
    above = min((c[end] for c, end in ends if end < len(c)), default=np.inf)
    (fa0, excess0), (fa1, excess1) = errors(at), errors(above)
    step = excess0 / (excess0 - excess1)
    rate = (fa0 + step * (fa1 - fa0)) / len(imposters)
    if excess0 == 0:
        below = max(c[end - 1] for c in classes if (end := c.searchsorted(at)) > 0)
        return rate, float(at) / 2 + float(below) / 2
    if above == np.inf:
        return rate, float(at)
    # Weighted, not added to: the difference of two scores may be more than a float can hold.
    return rate, (1 - step) * float(at) + step * float(above)


def eer(scores, labels) -> float:
    """Return the equal error rate in percent: where the ROC, joined by lines, has FAR = FRR."""
    return 100.0 * _crossing(scores, labels)[0]


def eer_threshold(scores, labels) -> float:
    """Return the threshold at the EER, interpolated as the EER is.

    Where a range of thresholds gives FAR = FRR exactly (two classes that do not overlap, for
    instance), the middle of that range.
    """
    return _crossing(scores, labels)[1]


def voxceleb_eer(scores, labels) -> float:
    """Return the EER in percent as the VoxCeleb trainer computes it, to compare with its figures.

    It is the larger of FAR and FRR at that point of scikit-learn's default `roc_curve` where the
    two are nearest, the highest threshold winning a tie. That curve leaves out points in the
    middle of a straight run, which can move the answer on small lists; so does this.
    """
    fps, tps, _ = _counts(scores, labels)
    keep = np.ones(len(fps), bool)
    keep[2:-1] = (np.diff(fps[1:], 2) != 0) | (np.diff(tps[1:], 2) != 0)
    far, frr = fps[keep] / fps[-1], 1.0 - tps[keep] / tps[-1]
    nearest = int(np.argmin(np.abs(frr - far)))
    return 100.0 * float(max(far[nearest], frr[nearest]))


def auc(scores, labels) -> float:
    """Return the area under the ROC in [0, 1]: the chance that a target scores above an imposter.

    A tie counts one half (the Mann-Whitney statistic).
    """
    targets, imposters = _sorted_classes(scores, labels)
    wins = [int(imposters.searchsorted(targets, side).sum()) for side in ("left", "right")]
    return sum(wins) / (2.0 * len(targets) * len(imposters))


def tar_at_far(scores, labels, fars: Sequence[float] = (0.1, 0.01, 0.001)) -> np.ndarray:
    """Return the true-accept rates, float64 (len(fars),), at false-accept rates of at most `fars`.

    Each is the best that some threshold reaches; nothing is interpolated.
    """
    if not all(0.0 <= far <= 1.0 for far in fars):
        raise UserError(f"a false-accept rate must be a fraction from 0 to 1, got {fars}")
    rates, tar, _ = roc(scores, labels)
    return tar[rates.searchsorted(fars, "right") - 1]


def threshold_at_far(scores, labels, far: float) -> float:
    """Return the lowest score that, as a threshold, keeps FAR at or below `far` (a fraction).

    When even the highest score is too low, the next larger number after it.
    """
    rates, _, thresholds = roc(scores, labels)
    at = rates.searchsorted(far, "right") - 1
    return float(thresholds[at] if at else np.nextafter(thresholds[1], np.inf))


def lfw_accuracy(scores, labels, folds) -> tuple[float, float]:
    """Return the accuracy in percent over folds, and its standard error, as papers report for LFW.

    Each fold is judged at the threshold that is most often right on all others (the lowest of
    several). folds: int (n,). Huang et al., "Labeled Faces in the Wild" (2007), view 2.
    """
    scores, target = check_scores(scores, labels)
    folds = np.asarray(folds)
    accuracies = []
    for fold in np.unique(folds):
        own = folds == fold
        order = np.argsort(scores[~own], kind="stable")
        others, is_target = scores[~own][order], target[~own][order]
        # Right decisions when the scores from each place on are accepted, in order of scores.
        right = is_target.sum() + np.append(0, np.cumsum(1 - 2 * is_target))
        thresholds, starts = np.unique(np.append(others, np.inf), return_index=True)
        threshold = thresholds[np.argmax(right[starts])]
        accuracies.append(np.mean((scores[own] >= threshold) == target[own]))
    accuracies = 100 * np.array(accuracies)
    return float(accuracies.mean()), float(accuracies.std(ddof=1) / len(accuracies) ** 0.5)


def open_set_rates(similarities, labels, gallery_labels, fpirs: Sequence[float] = (0.01, 0.1)):
    """Return rank-1 of identification and FNIR at `fpirs`, fractions, of an open-set search.

    similarities: float (probes, gallery). labels: int (probes,); a probe whose label is not in
    gallery_labels, int (gallery,), shows a stranger. Rank-1 is the share of the others whose best
    match is theirs. FPIR is the share of strangers for whom somebody is found, FNIR that of the
    others who are not found as the best match, both at the lowest threshold that keeps FPIR at most
    so high (NIST's FRVT 1:N). UserError without probes of both kinds.
    """
    similarities, labels = np.asarray(similarities), np.asarray(labels)
    best = similarities.argmax(axis=1)
    scores, known = similarities.max(axis=1), np.isin(labels, gallery_labels)
    if known.all() or not known.any():
        raise UserError("identification needs probes of people in the gallery, and of strangers")
    right = np.asarray(gallery_labels)[best[known]] == labels[known]
    strangers = np.sort(scores[~known])[::-1]
    fnirs = []
    for fpir in fpirs:
        allowed = int(fpir * len(strangers) + 1e-9)
        refused = strangers[allowed] if allowed < len(strangers) else -np.inf
        fnirs.append(1 - float((right & (scores[known] > refused)).mean()))
    return float(right.mean()), fnirs


def min_dcf(scores, labels, p_target: float = 0.05) -> float:
    """Return the minimum normalized detection cost, at most 1 (NIST speaker evaluations).

    The smallest p_target * FRR + (1 - p_target) * FAR over all thresholds, divided by the cost
    of the better of accepting everything and rejecting everything.
    """
    if not 0.0 < p_target < 1.0:
        raise UserError(f"p_target must be between 0 and 1, got {p_target}")
    far, frr, _ = det(scores, labels)
    return float(np.min(p_target * frr + (1 - p_target) * far) / min(p_target, 1 - p_target))


def pair_similarities(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, float32 (n,).

    embeddings: float32 (m, d), rows of length 1. left, right: int (n,), indices of rows.
    """
    cosines, step = np.empty(len(left), np.float32), 2048
    # Pairs of near rows one after the other, so that the rows stay in a processor's caches.
    order = np.lexsort((right // 512, left // 512))

    def fill(start: int) -> None:
        part = order[start : start + step]
        cosines[part] = np.einsum("nd,nd->n", embeddings[left[part]], embeddings[right[part]])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(0, len(left), step)))
    return np.clip(cosines, -1, 1, out=cosines)


def bootstrap(scores, labels, left_ids=None, right_ids=None, samples=1000, seed=0) -> np.ndarray:
    """Return the EER, in percent, of `samples` bootstrap draws of the list: float64 (samples,).

    With the identities of each pair's two images (any labels, each (n,)) it draws identities
    with replacement: drawn c times, a person counts c times in pairs of their own photos, and a
    pair of two people counts the product of their draws. This keeps the dependence of pairs that
    share a person (ISO/IEC 19795-1; Snijders and Borgatti, 1999). Without identities it draws
    pairs. A draw that lacks target or imposter pairs is repeated. Draws depend on labels,
    identities and seed alone, so that two systems on one list see the same.
    """
    scores, target = check_scores(scores, labels)
    if samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}")
    n = len(scores)
    if left_ids is None and right_ids is None:
        left_ids = right_ids = np.arange(n)
    if np.shape(left_ids) != (n,) or np.shape(right_ids) != (n,):
        raise UserError(f"give left_ids and right_ids, one entry for each of the {n} scores")
    names, codes = np.unique(np.concatenate([left_ids, right_ids]), return_inverse=True)
    number, left, right = len(names), codes[:n], codes[n:]
    right = np.where(left == right, number, right)  # one person: times a dummy, always drawn once
    order = np.argsort(scores, kind="stable")
    scores, target, left, right = scores[order], target[order], left[order], right[order]
    first = np.flatnonzero(scores != np.append(np.nan, scores[:-1]))  # of each run of ties
    thresholds = np.append(first, n)
    rng, values = np.random.default_rng(seed), []
    pairs, targets = np.zeros((2, n + 1), np.int64)  # below each threshold
    while len(values) < samples:
        counts = np.bincount(rng.integers(0, number, number), minlength=number + 1)
        counts[-1] = 1
        weights = counts[left] * counts[right]
        np.cumsum(weights, out=pairs[1:])
        np.cumsum(weights * target, out=targets[1:])
        if 0 < targets[-1] < pairs[-1]:
            values.append(_eer_of_counts(targets, pairs, thresholds))
    return np.array(values)


def _eer_of_counts(targets: np.ndarray, pairs: np.ndarray, thresholds: np.ndarray) -> float:
    """EER in percent from how many targets and pairs lie below each place of the sorted list."""
    totals = pairs[-1] - targets[-1], targets[-1]

    def errors(k: int) -> tuple:  # false accepts and false rejects
        rejected = targets[thresholds[k]]
        return totals[0] - (pairs[thresholds[k]] - rejected), rejected

    def excess(k: int):
        accepted, rejected = errors(k)
        return rejected * totals[0] - accepted * totals[1]

    k = bisect_right(range(len(thresholds)), 0, key=excess) - 1  # the last with FAR >= FRR
    (far0, frr0), (far1, frr1) = np.array([errors(k), errors(k + 1)]) / totals
    return 100.0 * float(far0 + (far0 - frr0) / (far0 - frr0 - (far1 - frr1)) * (far1 - far0))


def bootstrap_ci(
    scores, labels, left_ids=None, right_ids=None, level=0.95, draws=None, **options
) -> tuple[float, float]:
    """Return the bootstrap interval (low, high) of the EER in percent; see `bootstrap`.

    Give the identities whenever they are known: an interval that resamples pairs is too narrow.
    The options are `samples` and `seed`, or give the `draws` that `bootstrap` returned.

    It is the estimate plus and minus t standard errors on the log-odds scale: with a few
    dozen people plain percentiles sit too low and cover too seldom. No bootstrap can draw an error
    that the list does not hold: where its tail has no error at all, the interval goes from 0 to
    at least the highest rate that allows no error in so many independent trials (Clopper and
    Pearson, 1934; the "rule of three"), and where the tail has errors alone, from the other end.
    """
    if draws is None:
        draws = bootstrap(scores, labels, left_ids, right_ids, **options)
    fewest = min(np.count_nonzero(labels), len(labels) - np.count_nonzero(labels))
    people = 0 if left_ids is None else len(np.union1d(left_ids, right_ids))
    reach = _reach(level, people or len(labels))
    estimate, half_a_pair = eer(scores, labels), 50.0 / fewest

    def log_odds(percent):
        percent = np.clip(percent, half_a_pair, 100.0 - half_a_pair)
        return np.log(percent / (100.0 - percent))

    step = reach * np.std(log_odds(draws))
    low, high = 100.0 / (1.0 + np.exp(-(log_odds(estimate) + np.array([-step, step]))))
    bound = 100.0 * (1.0 - ((1.0 - level) / 2) ** (1.0 / (people or fewest)))
    if np.mean(draws <= 0.0) > (1.0 - level) / 2:
        low, high = 0.0, max(high, bound)
    if np.mean(draws >= 100.0) > (1.0 - level) / 2:
        low, high = min(low, 100.0 - bound), 100.0
    return min(float(low), estimate), max(float(high), estimate)


def _reach(level: float, n: int) -> float:
    """Standard errors to each side of an interval, for n identities or pairs.

    Student's t, with the bootstrap's own shortfall of sqrt((n - 1) / n) made good.
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"level must be between 0 and 1, got {level}")
    z, freedom = NormalDist().inv_cdf((1.0 + level) / 2), max(n - 1, 2)
    # Cornish and Fisher's expansion of Student's t (Abramowitz and Stegun, 26.7.5).
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t * ((freedom + 1) / freedom) ** 0.5


@dataclass(frozen=True)
class PairedDifference:
    """How the EERs of two systems differ: `difference` is b - a, `low` to `high` its interval.

    `p_value` is two-sided, for no difference; at least 1 / (samples + 1).
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    level: float = 0.95

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def summary(self, name_a: str = "A", name_b: str = "B") -> str:
        """Return one sentence."""
        verdict = "cannot be told apart from"
        if self.significant:
            verdict = "is better than" if self.difference < 0 else "is worse than"
        interval = f"{self.level:.0%} interval {self.low:+.2f} to {self.high:+.2f}"
        measured = f"{self.b:.2f} against {self.a:.2f}, difference {self.difference:+.2f}"
        return f"{name_b} {verdict} {name_a}: {measured}, {interval} (p = {self.p_value:.3f})"


def paired_difference(
    scores_a, scores_b, labels, left_ids=None, right_ids=None, level=0.95, draws=None, **options
) -> PairedDifference:
    """Compare two systems on the same list: both see each bootstrap draw (see `bootstrap`).

    The options are `samples` and `seed`, or give as `draws` what `bootstrap` returned for the two
    with the same seed. The interval has percentiles of the draws, moved outwards for few identities
    (Hesterberg, "What teachers should know about the bootstrap", 2015, section 4.4).
    """
    ids = labels, left_ids, right_ids
    a, b = draws or [bootstrap(scores, *ids, **options) for scores in (scores_a, scores_b)]
    tail = min(np.count_nonzero(b <= a), np.count_nonzero(b >= a))
    value_a, value_b = eer(scores_a, labels), eer(scores_b, labels)
    units = len(labels) if left_ids is None else len(np.union1d(left_ids, right_ids))
    outside = NormalDist().cdf(-_reach(level, units))
    low, high = np.quantile(b - a, [outside, 1.0 - outside]).tolist()
    p_value = min(1.0, 2.0 * (int(tail) + 1) / (len(a) + 1))
    return PairedDifference(value_a, value_b, value_b - value_a, low, high, p_value, level)
