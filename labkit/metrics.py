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
        raise UserError(
            f"give one label per score: got scores {scores.shape} and labels {labels.shape}"
        )
    if scores.dtype not in (np.float32, np.float64):
        try:
            scores = scores.astype(np.float64)
        except (TypeError, ValueError):
            raise UserError(f"scores must be numbers, got an array of {scores.dtype}") from None
    if not np.isfinite(scores).all():
        at = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"score number {at + 1} is {scores[at]}: every score must be a number")
    target, imposter = labels == 1, labels == 0
    if not (target | imposter).all():
        at = int(np.flatnonzero(~(target | imposter))[0])
        raise UserError(f"label number {at + 1} is {labels[at]}: it must be 1 (target) or 0")
    for kind, found in (("target pair (label 1)", target), ("imposter pair (label 0)", imposter)):
        if not found.any():
            raise UserError(f"no {kind}: an error rate needs target and imposter pairs")
    return scores, target


def _sorted_classes(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Target scores and imposter scores, each sorted upwards."""
    scores, target = check_scores(scores, labels)
    return np.sort(scores[target]), np.sort(scores[~target])


def _counts(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False accepts and true accepts (int64) at each distinct score, and at infinity, downwards."""
    targets, imposters = _sorted_classes(scores, labels)
    merged = np.sort(np.concatenate([targets, imposters]))
    thresholds = merged[np.append(True, merged[1:] != merged[:-1])][::-1]
    false_accepts = len(imposters) - np.searchsorted(imposters, thresholds)
    true_accepts = len(targets) - np.searchsorted(targets, thresholds)
    return np.append(0, false_accepts), np.append(0, true_accepts), np.append(np.inf, thresholds)


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
    """EER (fraction) and its threshold."""
    false_accepts, true_accepts, thresholds = _counts(scores, labels)
    imposters, targets = false_accepts[-1], true_accepts[-1]
    # FAR - FRR times both numbers of pairs: integers, so that the sign is exact. It rises.
    excess = false_accepts * targets - (targets - true_accepts) * imposters
    k = int(np.argmax(excess >= 0))
    at = float(thresholds[k])
    if excess[k] == 0:
        below = thresholds[min(k + 1, len(thresholds) - 1)]
        return float(false_accepts[k] / imposters), at / 2 + float(below) / 2
    step = excess[k] / (excess[k] - excess[k - 1])
    rate = (false_accepts[k] + step * (false_accepts[k - 1] - false_accepts[k])) / imposters
    if k == 1:  # the threshold above is infinite
        return float(rate), at
    # Weighted, not added to: the difference of two scores may be more than a float can hold.
    return float(rate), float((1 - step) * at + step * float(thresholds[k - 1]))


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
    wins = int(np.searchsorted(imposters, targets, side="left").sum(dtype=np.int64))
    wins_and_ties = int(np.searchsorted(imposters, targets, side="right").sum(dtype=np.int64))
    return (wins + wins_and_ties) / (2.0 * len(targets) * len(imposters))


def threshold_at_far(scores, labels, far: float) -> float:
    """Return the lowest score that, as a threshold, keeps FAR at or below `far` (a fraction).

    When even the highest score is too low, the next larger number after it.
    """
    if not 0.0 <= far <= 1.0:
        raise UserError(f"a false-accept rate must be a fraction from 0 to 1, got {far}")
    targets, imposters = _sorted_classes(scores, labels)
    number = len(imposters)
    allowed = min(int(far * number) + 1, number)  # imposters that may be accepted
    while allowed / number > far:
        allowed -= 1
    if allowed == number:
        return float(min(targets[0], imposters[0]))
    refused = imposters[number - 1 - allowed]
    above = [c[i] for c in (targets, imposters) if (i := c.searchsorted(refused, "right")) < len(c)]
    return float(min(above) if above else np.nextafter(refused, np.inf))


def tar_at_far(scores, labels, fars: Sequence[float] = (0.1, 0.01, 0.001)) -> np.ndarray:
    """Return the true-accept rates, float64 (len(fars),), at false-accept rates of at most `fars`.

    Each is the best that some threshold reaches; nothing is interpolated.
    """
    targets, _ = _sorted_classes(scores, labels)
    thresholds = [threshold_at_far(scores, labels, far) for far in np.atleast_1d(fars)]
    return 1.0 - np.searchsorted(targets, thresholds) / len(targets)


def min_dcf(
    scores, labels, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Return the minimum normalized detection cost, at most 1 (NIST speaker evaluations).

    The smallest c_miss * p_target * FRR + c_fa * (1 - p_target) * FAR over all thresholds,
    divided by the cost of the better of accepting everything and rejecting everything.
    """
    if not (0.0 < p_target < 1.0 and c_miss > 0 and c_fa > 0):
        raise UserError("p_target must be between 0 and 1, c_miss and c_fa must be positive")
    far, frr, _ = det(scores, labels)
    miss, accept = c_miss * p_target, c_fa * (1.0 - p_target)
    return float(np.min(miss * frr + accept * far) / min(miss, accept))


def rank_k(similarity, probe_labels, gallery_labels, k: int | Sequence[int] = 1):
    """Return the rank-k identification rate: how many probes have their identity in the best k.

    similarity: (probes, gallery images), larger is more alike; the labels name the identity of
    each row and column. An identity is as similar as its best gallery image, and one that ties
    with the probe's own ranks before it, so that constant scores earn nothing. Returns a float in
    [0, 1], or a float64 array for several k (a CMC curve). Raises UserError for shapes that do
    not fit, NaN, k < 1, and probes whose identity is not in the gallery.
    """
    similarity, probe_labels = np.asarray(similarity), np.asarray(probe_labels)
    expected = len(probe_labels), len(gallery_labels)
    if similarity.shape != expected or 0 in expected:
        raise UserError(
            f"similarity must be (probes, gallery images) = {expected}, got {similarity.shape}"
        )
    if np.isnan(similarity).any() or np.min(k) < 1:
        raise UserError(f"similarity must not hold NaN and k must be at least 1, got k = {k}")
    identities, column = np.unique(gallery_labels, return_inverse=True)
    missing = ~np.isin(probe_labels, identities)
    if missing.any():
        raise UserError(
            f"{np.count_nonzero(missing)} probes have no image of their identity in the gallery, "
            f"first {probe_labels[missing][0]}"
        )
    best = np.stack([similarity[:, column == i].max(1) for i in range(len(identities))], axis=1)
    own = best[np.arange(len(best)), np.searchsorted(identities, probe_labels)]
    rank = (best >= own[:, None]).sum(axis=1)
    rates = (rank[:, None] <= np.atleast_1d(k)).mean(axis=0)
    return float(rates[0]) if np.ndim(k) == 0 else rates


def pair_similarities(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, float32 (n,).

    embeddings: float32 (m, d), rows of length 1. left, right: int (n,), indices of rows.
    """

    def cosines(start: int) -> np.ndarray:
        part = slice(start, start + 1024)  # so many rows stay in a processor's caches
        return np.einsum("nd,nd->n", embeddings[left[part]], embeddings[right[part]])

    if len(embeddings) <= 8192 and len(left) > len(embeddings) ** 2 / 20:
        # Many pairs of few images: one matrix product, of 256 MB at most, is the fastest way.
        similarities = (embeddings @ embeddings.T)[left, right]
    else:
        with ThreadPoolExecutor(4) as pool:
            similarities = np.concatenate([*pool.map(cosines, range(0, len(left) or 1, 1024))])
    return np.clip(similarities, -1, 1, out=similarities)


def bootstrap(
    scores, labels, left_ids=None, right_ids=None, statistic=eer, samples=1000, seed=0
) -> np.ndarray:
    """Return `statistic` on `samples` bootstrap draws of the list: float64 (samples,).

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
    number, left, right = _units(len(scores), left_ids, right_ids)
    order = np.argsort(scores, kind="stable")
    scores, target, left, right = scores[order], target[order], left[order], right[order]
    first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))  # of each run of ties
    rng = np.random.default_rng(seed)
    values = []
    while len(values) < samples:
        counts = np.bincount(rng.integers(0, number, number), minlength=number + 1)
        counts[-1] = 1
        weights = counts[left] * counts[right]
        targets = np.cumsum(weights * target)
        imposters = np.cumsum(weights) - targets
        if targets[-1] == 0 or imposters[-1] == 0:
            continue
        if statistic is eer:
            values.append(_eer_of_counts(targets, imposters, first))
        else:
            repeat = np.repeat(np.arange(len(scores)), weights)
            values.append(float(statistic(scores[repeat], target[repeat])))
    return np.array(values)


def _units(pairs: int, left_ids, right_ids) -> tuple[int, np.ndarray, np.ndarray]:
    """How many units are drawn, and the units of each pair, whose draws are multiplied.

    The right one is a dummy, always drawn once, in pairs of one person or pairs drawn as such.
    """
    if (left_ids is None) != (right_ids is None):
        raise UserError("left_ids and right_ids must be given together")
    if left_ids is None:
        return pairs, np.arange(pairs), np.full(pairs, pairs)
    left_ids, right_ids = np.asarray(left_ids), np.asarray(right_ids)
    if left_ids.shape != (pairs,) or right_ids.shape != (pairs,):
        raise UserError(
            f"left_ids and right_ids must have one entry for each of the {pairs} scores, "
            f"got shapes {left_ids.shape} and {right_ids.shape}"
        )
    names, codes = np.unique(np.concatenate([left_ids, right_ids]), return_inverse=True)
    left, right = codes[:pairs], codes[pairs:]
    return len(names), left, np.where(left == right, len(names), right)


def _eer_of_counts(targets: np.ndarray, imposters: np.ndarray, first: np.ndarray) -> float:
    """EER in percent from running counts in rising order of scores; first: of each score."""
    rejected = np.append(np.append(0, targets)[first], targets[-1])
    accepted = imposters[-1] - np.append(np.append(0, imposters)[first], imposters[-1])
    # The last threshold at which FAR is not below FRR, and the next one.
    k = np.count_nonzero(accepted * targets[-1] >= rejected * imposters[-1]) - 1
    fa, fr = accepted[k : k + 2] / imposters[-1], rejected[k : k + 2] / targets[-1]
    d0, d1 = fa - fr
    return 100.0 * float(fa[0] + d0 / (d0 - d1) * (fa[1] - fa[0]))


def bootstrap_ci(
    scores, labels, left_ids=None, right_ids=None, statistic=eer, level=0.95, draws=None, **options
) -> tuple[float, float]:
    """Return the bootstrap interval (low, high) of `statistic`; see `bootstrap` for the draws.

    Give the identities whenever they are known: an interval that resamples pairs is too narrow.
    The options are `samples` and `seed`, or give the `draws` that `bootstrap` returned.

    For an EER, the estimate plus and minus t standard errors on the log-odds scale: with a few
    dozen people plain percentiles sit too low and cover too seldom. No bootstrap can draw an error
    that the list does not hold: where its tail has no error at all, the interval goes from 0 to
    at least `zero_error_bound`, and where the tail has errors alone, the same from the other end.
    For any other statistic, percentiles, moved outwards for small numbers of identities
    (Hesterberg, "What teachers should know about the bootstrap", 2015, section 4.4).
    """
    if draws is None:
        draws = bootstrap(scores, labels, left_ids, right_ids, statistic, **options)
    fewest = min(np.count_nonzero(labels), len(labels) - np.count_nonzero(labels))
    people = _people(left_ids, right_ids)
    reach = _reach(level, people or len(labels))
    if statistic not in (eer, voxceleb_eer):
        return _percentiles(draws, reach)
    estimate, half_a_pair = statistic(scores, labels), 50.0 / fewest

    def log_odds(percent):
        percent = np.clip(percent, half_a_pair, 100.0 - half_a_pair)
        return np.log(percent / (100.0 - percent))

    step = reach * np.std(log_odds(draws))
    low, high = 100.0 / (1.0 + np.exp(-(log_odds(estimate) + np.array([-step, step]))))
    bound = 100.0 * zero_error_bound(people or fewest, level)
    if np.mean(draws <= 0.0) > (1.0 - level) / 2:
        low, high = 0.0, max(high, bound)
    if np.mean(draws >= 100.0) > (1.0 - level) / 2:
        low, high = min(low, 100.0 - bound), 100.0
    return min(float(low), estimate), max(float(high), estimate)


def zero_error_bound(trials: int, level: float = 0.95) -> float:
    """Return the highest error rate that no error in so many independent trials allows.

    The upper end of the exact two-sided interval (Clopper and Pearson, 1934); one-sided at 95 %,
    the "rule of three" of ISO/IEC 19795-1. Trials are people where people are resampled.
    """
    return 1.0 - ((1.0 - level) / 2) ** (1.0 / trials)


def _people(left_ids, right_ids) -> int:
    """How many different identities there are; 0 when none are given."""
    return 0 if left_ids is None else len(np.union1d(left_ids, right_ids))


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


def _percentiles(values: np.ndarray, reach: float) -> tuple[float, float]:
    tail = NormalDist().cdf(-reach)
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """How two systems differ on one list: `difference` is b - a, `low` to `high` its interval.

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
        """Return one sentence, for statistics where less is better, such as the EER."""
        if not self.significant:
            return (
                f"{name_b} and {name_a} cannot be told apart: {self.b:.2f} against {self.a:.2f}, "
                f"difference {self.difference:+.2f}, {self.level:.0%} interval {self.low:+.2f} "
                f"to {self.high:+.2f} (p = {self.p_value:.3f})"
            )
        low, high = sorted((abs(self.low), abs(self.high)))
        return (
            f"{name_b} is {'better' if self.difference < 0 else 'worse'} than {name_a} by "
            f"{abs(self.difference):.2f} points ({self.b:.2f} against {self.a:.2f}), "
            f"{self.level:.0%} interval {low:.2f} to {high:.2f} (p = {self.p_value:.3f})"
        )


def paired_difference(
    scores_a, scores_b, labels, left_ids=None, right_ids=None,
    statistic=eer, level=0.95, draws=None, **options
) -> PairedDifference:  # fmt: skip
    """Compare two systems on the same list: both see each bootstrap draw (see `bootstrap`).

    The options are `samples` and `seed`, or give as `draws` what `bootstrap` returned for the two
    with the same seed.
    """
    a, b = draws or [
        bootstrap(scores, labels, left_ids, right_ids, statistic, **options)
        for scores in (scores_a, scores_b)
    ]
    tail = min(np.count_nonzero(b <= a), np.count_nonzero(b >= a))
    value_a, value_b = float(statistic(scores_a, labels)), float(statistic(scores_b, labels))
    reach = _reach(level, _people(left_ids, right_ids) or len(labels))
    low, high = _percentiles(b - a, reach)
    p_value = min(1.0, 2.0 * (int(tail) + 1) / (len(a) + 1))
    return PairedDifference(value_a, value_b, value_b - value_a, low, high, p_value, level)
