"""Bootstrap intervals and paired tests: exact draws, coverage, repeatability."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binomtest

from labkit import metrics


def identity_list(identities=12, images=4, seed=0, effect=1.0, separation=2.0):
    """All pairs of a small world in which people differ in how hard they are."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(identities), images)
    left, right = np.triu_indices(len(who), 1)
    left_ids, right_ids = who[left], who[right]
    labels = (left_ids == right_ids).astype(int)
    hard, open_ = rng.normal(size=(2, identities)) * effect
    spread = (1 + effect**2) ** 0.5  # imposters have two half-effects, so that variances agree
    noise = rng.normal(size=len(left))
    target_scores = separation * spread + hard[left_ids] + noise
    imposter_scores = (open_[left_ids] + open_[right_ids]) / 2**0.5 + noise
    return np.where(labels == 1, target_scores, imposter_scores), labels, left_ids, right_ids


@pytest.mark.parametrize("separation", [-9.0, 0.0, 2.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("by_identity", [False, True])
def test_the_eer_of_a_draw_is_that_of_the_list_with_its_pairs_repeated(
    by_identity, ties, separation
):
    scores, labels, *ids = identity_list(separation=separation)
    scores = np.round(scores) if ties else scores
    people = ids if by_identity else [np.arange(len(scores))] * 2
    names, rng, expected = np.unique(people), np.random.default_rng(1), []
    while len(expected) < 40:
        drawn = rng.integers(0, len(names), len(names)).tolist()
        times = [drawn.count(a) * (1 if a == b else drawn.count(b)) for a, b in zip(*people)]
        if 0 < sum(np.repeat(labels, times)) < sum(times):
            expected.append(metrics.eer(np.repeat(scores, times), np.repeat(labels, times)))
    found = metrics.bootstrap(scores, labels, *(ids if by_identity else ()), samples=40, seed=1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_identities_may_be_names_or_numbers():
    scores, labels, left, right = identity_list()
    names = np.array([f"person {k}" for k in range(100, 112)])
    numbers = metrics.bootstrap_ci(scores, labels, left, right, samples=50)
    assert metrics.bootstrap_ci(scores, labels, names[left], names[right], samples=50) == numbers
    assert metrics.bootstrap_ci(scores, labels, right, left, samples=50) == numbers


def test_even_the_smallest_list_can_be_resampled():
    low, high = metrics.bootstrap_ci([0.1, 0.9], [0, 1], ["a", "a"], ["b", "a"], samples=5)
    assert low == 0 and high == pytest.approx(100 * (1 - 0.025**0.5))
    assert metrics.bootstrap_ci([0.9, 0.1], [0, 1], samples=5)[1] == 100


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_no_errors_in_the_list_are_no_proof_that_there_are_none(level):
    scores, labels, *ids = identity_list(identities=30, separation=20.0)
    assert metrics.eer(scores, labels) == 0

    def bound(trials):
        return pytest.approx(100 * binomtest(0, trials).proportion_ci(level, "exact").high)

    settings = {"samples": 200, "level": level}
    assert metrics.bootstrap_ci(scores, labels, *ids, **settings) == (0, bound(30))
    assert metrics.bootstrap_ci(scores, labels, **settings)[1] == bound(int(labels.sum()))
    low, high = metrics.bootstrap_ci(-scores, labels, *ids, **settings)
    assert (100 - low, high) == (bound(30), 100)
    # A single wrong pair is no better proof than none.
    scores[np.flatnonzero(labels == 1)[0]] = -99
    assert metrics.bootstrap_ci(scores, labels, *ids, **settings)[1] >= 9


def test_draws_at_hand_are_used_again():
    scores, labels, left, right = identity_list()
    other = scores + np.random.default_rng(0).normal(size=len(scores))
    both = [metrics.bootstrap(s, labels, left, right, samples=30, seed=4) for s in (scores, other)]
    options = {"samples": 30, "seed": 4}
    assert metrics.bootstrap_ci(scores, labels, left, right, draws=both[0]) == metrics.bootstrap_ci(
        scores, labels, left, right, **options
    )
    assert metrics.paired_difference(
        scores, other, labels, left, right, draws=tuple(both)
    ) == metrics.paired_difference(scores, other, labels, left, right, **options)


def coverage(worlds: int, by_identity: bool, **settings) -> float:
    """How often a 95 % interval holds the EER of the population behind the list."""
    truth = 100 * NormalDist().cdf(-settings["separation"] / 2)
    hits = 0
    for seed in range(worlds):
        scores, labels, left, right = identity_list(seed=seed, **settings)
        ids = (left, right) if by_identity else (None, None)
        low, high = metrics.bootstrap_ci(scores, labels, *ids, samples=120, seed=seed)
        hits += low <= truth <= high
    return hits / worlds


def test_intervals_by_identity_cover_and_intervals_by_pair_do_not():
    world = {"identities": 40, "images": 4, "effect": 1.0, "separation": 2.0}
    assert 0.88 <= coverage(60, True, **world) <= 1.0
    assert coverage(40, False, **world) < 0.75
    # Where lists often hold no error.
    world = {"identities": 10, "images": 4, "effect": 1.0, "separation": 4.0}
    assert coverage(60, True, **world) >= 0.93


def test_a_paired_test_finds_a_difference_that_separate_intervals_hide():
    scores, labels, left, right = identity_list(identities=40)
    rng = np.random.default_rng(1)
    worse = scores + rng.normal(size=len(scores)) * 0.9
    result = metrics.paired_difference(worse, scores, labels, left, right, samples=200)
    assert result.b == metrics.eer(scores, labels) and result.a == metrics.eer(worse, labels)
    assert result.difference == result.b - result.a < 0
    assert result.low < result.difference < result.high < 0
    assert result.significant and result.p_value < 0.05
    assert result.summary().startswith("B is better than A: ")
    low_a, _ = metrics.bootstrap_ci(worse, labels, left, right, samples=200)
    _, high_b = metrics.bootstrap_ci(scores, labels, left, right, samples=200)
    assert low_a < high_b


def test_a_system_is_no_better_than_itself():
    scores, labels, left, right = identity_list()
    result = metrics.paired_difference(scores, 2 * scores + 1, labels, left, right, samples=50)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    assert not result.significant
    assert "cannot be told apart" in result.summary()
