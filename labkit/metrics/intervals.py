"""How sure a number is: bootstrap intervals, and tests of two systems on one list."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from labkit.metrics.rates import check_scores, eer, reference_eer
from labkit.metrics.resampling import Units, WeightedEer
from labkit.utils import UserError


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
    draws: np.ndarray | None = None,
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of `statistic`; see `bootstrap` for what is drawn.

    Give the identities whenever they are known: pairs that share a person are not independent,
    and an interval that resamples pairs is then too narrow (ISO/IEC 19795-1). `draws` is what
    `bootstrap` returned for the same list, when it is at hand.

    For an EER, the estimate plus and minus t standard errors on the log-odds scale: on lists of
    a few dozen people plain percentiles sit too low and cover too seldom. No bootstrap can draw
    an error that the list does not hold: where its tail has no error at all, the interval goes
    from 0 to at least the bound of the rule of three (see `zero_error_bound`), and where the
    tail has errors alone, the same from the other end.
    For any other statistic, percentiles, moved outwards for small numbers of identities
    (Hesterberg, "What teachers should know about the bootstrap", 2015, section 4.4).
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"level must be between 0 and 1, got {level}")
    if draws is None:
        draws = bootstrap(scores, labels, left_ids, right_ids, statistic, samples, seed)
    targets = int(np.count_nonzero(labels))
    fewest = min(targets, len(labels) - targets)
    people = None
    if left_ids is not None:
        people = len(np.union1d(np.asarray(left_ids), np.asarray(right_ids)))
    reach = _reach(level, len(labels) if people is None else people)
    if statistic not in (eer, reference_eer):
        return _percentiles(draws, reach)
    estimate = statistic(scores, labels)
    half_a_pair = 50.0 / fewest

    def log_odds(percent):
        percent = np.clip(percent, half_a_pair, 100.0 - half_a_pair)
        return np.log(percent / (100.0 - percent))

    step = reach * np.std(log_odds(draws))
    low, high = 100.0 / (1.0 + np.exp(-(log_odds(estimate) + np.array([-step, step]))))
    tail = (1.0 - level) / 2
    bound = 100.0 * zero_error_bound(fewest if people is None else people, level)
    if np.mean(draws <= 0.0) > tail:
        low, high = 0.0, max(high, bound)
    if np.mean(draws >= 100.0) > tail:
        low, high = min(low, 100.0 - bound), 100.0
    return min(float(low), estimate), max(float(high), estimate)


def zero_error_bound(trials: int, level: float = 0.95) -> float:
    """The highest error rate, in [0, 1], that no error in so many independent trials allows.

    The upper end of the exact two-sided interval (Clopper and Pearson, 1934): 1 - tail^(1/n),
    with tail = (1 - level) / 2. One-sided at 95 % this is close to 3 / n, the "rule of three"
    (ISO/IEC 19795-1, annex on sample size). Trials are people where people are resampled: the
    pairs of one person stand or fall together.
    """
    if trials < 1:
        raise UserError(f"trials must be at least 1, got {trials}")
    return 1.0 - ((1.0 - level) / 2) ** (1.0 / trials)


def _reach(level: float, n: int) -> float:
    """How many bootstrap standard errors make an interval: Student's t, with the bootstrap's
    own shortfall of sqrt((n - 1) / n) made good, for n identities or pairs."""
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
    draws: tuple[np.ndarray, np.ndarray] | None = None,
) -> PairedDifference:
    """Compare two systems on the same list: both see each bootstrap draw (see `bootstrap`).

    `draws` are what `bootstrap` returned for the two with the same seed, when they are at hand.
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"level must be between 0 and 1, got {level}")
    if draws is None:
        draws = tuple(
            bootstrap(scores, labels, left_ids, right_ids, statistic, samples, seed)
            for scores in (scores_a, scores_b)
        )
    differences = draws[1] - draws[0]
    tail = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    value_a, value_b = float(statistic(scores_a, labels)), float(statistic(scores_b, labels))
    n = len(labels)
    if left_ids is not None:
        n = len(np.union1d(np.asarray(left_ids), np.asarray(right_ids)))
    low, high = _percentiles(differences, _reach(level, n))
    return PairedDifference(
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        low=low,
        high=high,
        p_value=min(1.0, 2.0 * (int(tail) + 1) / (len(differences) + 1)),
        level=level,
    )
