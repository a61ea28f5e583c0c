"""How sure a number is: bootstrap intervals, and tests of two systems on one list."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from labkit.errors import UserError
from labkit.metrics.rates import check_scores, eer, reference_eer
from labkit.metrics.resampling import Units, WeightedEer


def bootstrap(
    scores,
    labels,
    left_ids=None,
    right_ids=None,
    statistic: Callable = eer,
    samples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """`statistic` on `samples` bootstrap draws of the list: float64 (samples,).

    With the identities of each pair's two images (any labels, each (n,)) it draws identities
    with replacement: a pair of two identities weighs the product of their counts, a pair of one
    identity weighs its count. Without, it draws pairs. Draws that lack target or imposter pairs
    are drawn again. Draws are the same for every list of scores with the same labels,
    identities and seed.
    """
    scores, target = check_scores(scores, labels)
    if samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}")
    units = Units(len(scores), left_ids, right_ids)
    draws = units.draws(target, samples, seed)
    if statistic is eer:
        weighted = WeightedEer(scores, target, units)
        return np.array([weighted(counts) for counts in draws])
    values = []
    for counts in draws:
        repeat = np.repeat(np.arange(len(scores)), counts[units.left] * counts[units.right])
        values.append(float(statistic(scores[repeat], target[repeat])))
    return np.array(values)


def bootstrap_ci(
    scores,
    labels,
    left_ids=None,
    right_ids=None,
    statistic: Callable = eer,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of `statistic`; see `bootstrap` for what is drawn.

    Give the identities whenever they are known: pairs that share a person are not independent,
    and an interval that resamples pairs is then too narrow (ISO/IEC 19795-1).

    For an EER, the estimate plus and minus t standard errors on the log-odds scale: on lists of
    a few dozen people plain percentiles sit too low and cover too seldom. For any other
    statistic, percentiles, moved outwards for small numbers of identities (Hesterberg, "What
    teachers should know about the bootstrap", 2015, section 4.4).
    """
    values = bootstrap(scores, labels, left_ids, right_ids, statistic, samples, seed)
    reach = _reach(level, labels, left_ids, right_ids)
    if statistic not in (eer, reference_eer):
        return _percentiles(values, reach)
    estimate = statistic(scores, labels)
    targets = int(np.count_nonzero(labels))
    half_a_pair = 50.0 / min(targets, len(labels) - targets)

    def log_odds(percent):
        percent = np.clip(percent, half_a_pair, 100.0 - half_a_pair)
        return np.log(percent / (100.0 - percent))

    step = reach * np.std(log_odds(values))
    low, high = 100.0 / (1.0 + np.exp(-(log_odds(estimate) + np.array([-step, step]))))
    return min(float(low), estimate), max(float(high), estimate)


def _reach(level: float, labels, left_ids, right_ids) -> float:
    """How many bootstrap standard errors make an interval: Student's t, with the bootstrap's
    own shortfall of sqrt((n - 1) / n) made good, for n identities or pairs."""
    if not 0.0 < level < 1.0:
        raise UserError(f"level must be between 0 and 1, got {level}")
    if left_ids is None:
        n = len(labels)
    else:
        n = len(np.union1d(np.asarray(left_ids), np.asarray(right_ids)))
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
    """How two systems differ on one list. `difference` is b - a, `low` to `high` its interval.

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

    def __str__(self) -> str:
        return self.summary()

    def summary(self, name_a: str = "A", name_b: str = "B") -> str:
        """One sentence for statistics where less is better, such as the EER."""
        word = "better" if self.difference < 0 else "worse"
        low, high = sorted((abs(self.low), abs(self.high)))
        if not self.significant:
            return (
                f"{name_b} and {name_a} cannot be told apart: {self.b:.2f} against {self.a:.2f}, "
                f"difference {self.difference:+.2f}, {self.level:.0%} interval {self.low:+.2f} "
                f"to {self.high:+.2f} (p = {self.p_value:.3f})"
            )
        return (
            f"{name_b} is {word} than {name_a} by {abs(self.difference):.2f} points "
            f"({self.b:.2f} against {self.a:.2f}), {self.level:.0%} interval "
            f"{low:.2f} to {high:.2f} (p = {self.p_value:.3f})"
        )


def paired_difference(
    scores_a,
    scores_b,
    labels,
    left_ids=None,
    right_ids=None,
    statistic: Callable = eer,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems on the same list: both see each bootstrap draw (see `bootstrap`)."""
    a = bootstrap(scores_a, labels, left_ids, right_ids, statistic, samples, seed)
    b = bootstrap(scores_b, labels, left_ids, right_ids, statistic, samples, seed)
    differences = b - a
    tail = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    value_a, value_b = float(statistic(scores_a, labels)), float(statistic(scores_b, labels))
    low, high = _percentiles(differences, _reach(level, labels, left_ids, right_ids))
    return PairedDifference(
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        low=low,
        high=high,
        p_value=min(1.0, 2.0 * (int(tail) + 1) / (samples + 1)),
        level=level,
    )
