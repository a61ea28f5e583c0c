"""Error rates from scores and labels.

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

import numpy as np

from labkit.utils import UserError


def check_scores(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Scores as a float array and labels as a boolean array, both (n,), after all checks."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or labels.ndim != 1:
        raise UserError(
            f"scores and labels must be flat lists, got shapes {scores.shape} and {labels.shape}"
        )
    if len(scores) != len(labels):
        raise UserError(f"{len(scores)} scores but {len(labels)} labels: give one label per score")
    if len(scores) == 0:
        raise UserError("no scores: an error rate needs at least one target and one imposter pair")
    if scores.dtype not in (np.float32, np.float64):
        try:
            scores = scores.astype(np.float64)
        except (TypeError, ValueError):
            raise UserError(f"scores must be numbers, got an array of {scores.dtype}") from None
    if not np.isfinite(scores).all():
        at = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"score number {at + 1} is {scores[at]}: every score must be a number")
    target = labels == 1
    targets = int(np.count_nonzero(target))
    if targets + int(np.count_nonzero(labels == 0)) != len(labels):
        at = int(np.flatnonzero(~target & (labels != 0))[0])
        raise UserError(f"label number {at + 1} is {labels[at]}: it must be 1 (target) or 0")
    if targets == 0:
        raise UserError("no target pair (label 1): an error rate needs target and imposter pairs")
    if targets == len(labels):
        raise UserError("no imposter pair (label 0): an error rate needs target and imposter pairs")
    return scores, target


def _sorted_classes(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Target scores and imposter scores, each sorted upwards."""
    scores, target = check_scores(scores, labels)
    return np.sort(scores[target]), np.sort(scores[~target])


def _crossing(targets: np.ndarray, imposters: np.ndarray) -> tuple[float, float]:
    """EER (fraction) and its threshold from sorted scores, by bisection over the thresholds.

    FAR - FRR falls as the threshold rises. With integer counts its sign is exact.
    """

    def counts(threshold) -> tuple[int, int]:
        false_accepts = len(imposters) - int(np.searchsorted(imposters, threshold))
        return false_accepts, int(np.searchsorted(targets, threshold))

    def excess(false_accepts: int, false_rejects: int) -> int:
        return false_accepts * len(targets) - false_rejects * len(imposters)

    candidates = []
    for values in (targets, imposters):
        low, high = -1, len(values) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if excess(*counts(values[middle])) >= 0:
                low = middle
            else:
                high = middle - 1
        if low >= 0:
            candidates.append(values[low])
    at = max(candidates)
    above = [
        values[i]
        for values in (targets, imposters)
        if (i := int(np.searchsorted(values, at, side="right"))) < len(values)
    ]
    below = [
        values[i - 1]
        for values in (targets, imposters)
        if (i := int(np.searchsorted(values, at))) > 0
    ]
    fa0, fr0 = counts(at)
    fa1, fr1 = counts(min(above)) if above else (0, len(targets))
    d0, d1 = excess(fa0, fr0), excess(fa1, fr1)
    if d0 == 0:
        threshold = float(at) / 2 + float(max(below)) / 2 if below else float(at)
        return fa0 / len(imposters), threshold
    step = d0 / (d0 - d1)
    # Weighted, not added to: the difference of two scores may be more than a float can hold.
    threshold = (1 - step) * float(at) + step * float(min(above)) if above else float(at)
    return (fa0 + step * (fa1 - fa0)) / len(imposters), threshold


def eer(scores, labels) -> float:
    """Equal error rate in percent: where FAR equals FRR on the linearly interpolated ROC.

    The ROC is joined by straight lines between neighbouring thresholds, and the EER is read off
    where it crosses FAR = FRR.
    """
    return 100.0 * _crossing(*_sorted_classes(scores, labels))[0]


def eer_threshold(scores, labels) -> float:
    """The threshold at the EER, interpolated as the EER is.

    Where a whole range of thresholds gives FAR = FRR exactly (two classes that do not overlap,
    for instance), the middle of that range.
    """
    return _crossing(*_sorted_classes(scores, labels))[1]


def _staircase(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of false accepts and true accepts (int64) at each distinct score, downwards."""
    targets, imposters = _sorted_classes(scores, labels)
    merged = np.sort(np.concatenate([targets, imposters]))
    keep = np.concatenate([[True], merged[1:] != merged[:-1]])
    thresholds = merged[keep][::-1]
    false_accepts = len(imposters) - np.searchsorted(imposters, thresholds)
    true_accepts = len(targets) - np.searchsorted(targets, thresholds)
    return false_accepts, true_accepts, thresholds


def roc(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC as (far, tar, thresholds), thresholds falling: one point per distinct score.

    The first point accepts nothing (threshold infinity, rates 0), the last accepts everything.
    All float64 of one length. TAR, the true-accept rate, is 1 - FRR. No point is dropped:
    scikit-learn's `roc_curve(..., drop_intermediate=False)` gives the same.
    """
    false_accepts, true_accepts, thresholds = _staircase(scores, labels)
    far = np.concatenate([[0.0], false_accepts / false_accepts[-1]])
    tar = np.concatenate([[0.0], true_accepts / true_accepts[-1]])
    return far, tar, np.concatenate([[np.inf], thresholds])


def det(scores, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points of the DET curve as (far, frr, thresholds), thresholds falling, as in `roc`.

    Plot both rates on normal-deviate axes (Martin et al., "The DET curve in assessment of
    detection task performance", 1997).
    """
    far, tar, thresholds = roc(scores, labels)
    return far, 1.0 - tar, thresholds


def reference_eer(scores, labels) -> float:
    """The reference trainer's EER in percent, for comparison with figures from it.

    It is the larger of FAR and FRR at that point of scikit-learn's default `roc_curve` where the
    two are nearest, the highest threshold winning a tie. That curve leaves out points in the
    middle of a straight run, which can move the answer on small lists; so does this.
    """
    fps, tps, _ = _staircase(scores, labels)
    if len(fps) > 2:
        corner = (np.diff(fps, 2) != 0) | (np.diff(tps, 2) != 0)
        keep = np.concatenate([[True], corner, [True]])
        fps, tps = fps[keep], tps[keep]
    far = np.concatenate([[0.0], fps / fps[-1]])
    frr = 1.0 - np.concatenate([[0.0], tps / tps[-1]])
    nearest = int(np.argmin(np.abs(frr - far)))
    return 100.0 * float(max(far[nearest], frr[nearest]))


def auc(scores, labels) -> float:
    """Area under the ROC in [0, 1]: the chance that a target scores above an imposter.

    A tie counts one half (the Mann-Whitney statistic).
    """
    targets, imposters = _sorted_classes(scores, labels)
    wins = np.searchsorted(imposters, targets, side="left").sum(dtype=np.int64)
    wins_and_ties = np.searchsorted(imposters, targets, side="right").sum(dtype=np.int64)
    return (int(wins) + int(wins_and_ties)) / (2.0 * len(targets) * len(imposters))


def _allowed(rate: float, number: int, name: str) -> int:
    """The largest count m with m / number <= rate."""
    if not 0.0 <= rate <= 1.0:
        raise UserError(f"{name} must be a fraction from 0 to 1, got {rate}")
    count = min(int(rate * number) + 1, number)
    while count / number > rate:
        count -= 1
    return count


def tar_at_far(scores, labels, fars: Sequence[float] = (0.1, 0.01, 0.001)) -> np.ndarray:
    """True-accept rates, float64 (len(fars),), at false-accept rates of at most `fars`.

    Each is the best rate that some threshold reaches without exceeding its FAR; nothing is
    interpolated.
    """
    targets, imposters = _sorted_classes(scores, labels)
    rates = []
    for far in np.atleast_1d(fars):
        allowed = _allowed(far, len(imposters), "a false-accept rate")
        if allowed == len(imposters):
            rates.append(1.0)
            continue
        first_refused = imposters[len(imposters) - 1 - allowed]
        rejected = np.searchsorted(targets, first_refused, side="right")
        rates.append(1.0 - rejected / len(targets))
    return np.array(rates)


def threshold_at_far(scores, labels, far: float) -> float:
    """The lowest score that, as a threshold, keeps FAR at or below `far` (a fraction).

    When even the highest score is too low, the next larger number after it.
    """
    targets, imposters = _sorted_classes(scores, labels)
    allowed = _allowed(far, len(imposters), "a false-accept rate")
    if allowed == len(imposters):
        return float(min(targets[0], imposters[0]))
    first_refused = imposters[len(imposters) - 1 - allowed]
    above = [
        values[i]
        for values in (targets, imposters)
        if (i := int(np.searchsorted(values, first_refused, side="right"))) < len(values)
    ]
    return float(min(above) if above else np.nextafter(first_refused, np.inf))


def threshold_at_frr(scores, labels, frr: float) -> float:
    """The highest score that, as a threshold, keeps FRR at or below `frr` (a fraction).

    With `frr` = 1 every target may be rejected: the next number after the highest score.
    """
    targets, imposters = _sorted_classes(scores, labels)
    allowed = _allowed(frr, len(targets), "a false-reject rate")
    if allowed == len(targets):
        return float(np.nextafter(max(targets[-1], imposters[-1]), np.inf))
    return float(targets[allowed])


def min_dcf(
    scores, labels, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Minimum normalized detection cost (NIST speaker recognition evaluations), at most 1.

    The smallest c_miss * p_target * FRR + c_fa * (1 - p_target) * FAR over all thresholds,
    divided by the cost of the better of accepting everything and rejecting everything.
    """
    if not 0.0 < p_target < 1.0:
        raise UserError(f"p_target must be between 0 and 1, got {p_target}")
    if not (c_miss > 0 and c_fa > 0):
        raise UserError(f"c_miss and c_fa must be positive, got {c_miss} and {c_fa}")
    far, frr, _ = det(scores, labels)
    miss, accept = c_miss * p_target, c_fa * (1.0 - p_target)
    return float(np.min(miss * frr + accept * far) / min(miss, accept))


def rank_k(similarity, probe_labels, gallery_labels, k: int | Sequence[int] = 1):
    """Rank-k identification rate: the share of probes whose own identity is among the best k.

    Args: `similarity` (probes, gallery images), larger is more alike; the labels name the
    identity of each row and column. An identity is as similar as its best gallery image, and
    one that ties with the probe's own ranks before it, so that constant scores earn nothing.
    Returns a float in [0, 1], or a float64 array for several k (a CMC curve). Raises UserError
    for shapes that do not fit, NaN, k < 1, and probes whose identity is not in the gallery.
    """
    similarity = np.asarray(similarity)
    probe_labels, gallery_labels = np.asarray(probe_labels), np.asarray(gallery_labels)
    expected = (len(probe_labels), len(gallery_labels))
    if similarity.shape != expected or 0 in expected:
        raise UserError(
            f"similarity has shape {similarity.shape}, but there are {expected[0]} probe and "
            f"{expected[1]} gallery labels"
        )
    if np.isnan(similarity).any():
        raise UserError("similarity holds NaN: every similarity must be a number")
    ks = np.atleast_1d(k)
    if (ks < 1).any():
        raise UserError(f"k must be at least 1, got {k}")
    order = np.argsort(gallery_labels, kind="stable")
    identities, starts = np.unique(gallery_labels[order], return_index=True)
    own = np.minimum(np.searchsorted(identities, probe_labels), len(identities) - 1)
    missing = identities[own] != probe_labels
    if missing.any():
        raise UserError(
            f"{np.count_nonzero(missing)} probes have no image of their identity in the gallery, "
            f"first {probe_labels[missing][0]}"
        )
    best = np.maximum.reduceat(similarity[:, order], starts, axis=1)
    rank = (best >= best[np.arange(len(own)), own][:, None]).sum(axis=1)
    rates = (rank[:, None] <= ks).mean(axis=0)
    return float(rates[0]) if np.ndim(k) == 0 else rates


def pair_similarities(
    embeddings: np.ndarray, left: np.ndarray, right: np.ndarray, *, block: int = 16384
) -> np.ndarray:
    """Return the cosine of each pair of rows, float32 (n,).

    embeddings: float32 (m, d), rows of length 1. left, right: int (n,), indices of rows.
    """
    similarities = np.empty(len(left), np.float32)
    for start in range(0, len(left), block):
        part = slice(start, start + block)
        np.einsum(
            "nd,nd->n", embeddings[left[part]], embeddings[right[part]], out=similarities[part]
        )
    return np.clip(similarities, -1, 1, out=similarities)
