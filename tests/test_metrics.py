"""Metrics against brute force, scikit-learn and the properties that they must have."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from labkit import metrics
from labkit.errors import UserError
from labkit.metrics.resampling import Units, WeightedEer

# Few distinct values, so that most lists have ties; differences far above rounding.
tied_lists = st.lists(
    st.tuples(st.integers(-6, 6), st.integers(0, 1)), min_size=2, max_size=40
).filter(lambda rows: len({label for _, label in rows}) == 2)


def arrays(rows) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*rows)
    return np.array(scores) / 7, np.array(labels)


def rates_at(scores, labels, threshold) -> tuple[float, float]:
    """FAR and FRR by counting, one pair at a time."""
    accepted = [s >= threshold for s in scores]
    imposters = [a for a, label in zip(accepted, labels) if label == 0]
    targets = [a for a, label in zip(accepted, labels) if label == 1]
    return sum(imposters) / len(imposters), sum(not a for a in targets) / len(targets)


def brute_force_eer(scores, labels) -> float:
    """Walk down all thresholds and interpolate where FAR - FRR changes its sign."""
    points = [rates_at(scores, labels, t) for t in [np.inf, *sorted(set(scores), reverse=True)]]
    for (far0, frr0), (far1, frr1) in zip(points, points[1:]):
        if far1 >= frr1:
            before, after = far0 - frr0, far1 - frr1
            return 100 * (far0 + (far1 - far0) * before / (before - after))
    raise AssertionError("no crossing")


def reference_trainer_eer(scores, labels) -> float:
    """Scikit-learn's default ROC, the nearest threshold, the larger rate."""
    fpr, tpr, _ = sk.roc_curve(labels, scores, pos_label=1)
    fnr = 1 - tpr
    nearest = np.nanargmin(np.absolute(fnr - fpr))
    return 100 * max(fpr[nearest], fnr[nearest])


def gaussian_list(n=4000, separation=2.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    return (rng.normal(size=n) + separation * labels).astype(dtype), labels


@given(tied_lists)
@settings(max_examples=80, deadline=None)
def test_eer_equals_a_brute_force_search(rows):
    scores, labels = arrays(rows)
    assert metrics.eer(scores, labels) == pytest.approx(brute_force_eer(scores, labels), abs=1e-9)


@given(tied_lists)
@settings(max_examples=50, deadline=None)
def test_eer_is_unchanged_by_an_increasing_map(rows):
    scores, labels = arrays(rows)
    for mapped in (3 * scores + 5, np.exp(scores), scores**3, np.sign(scores) * scores**2):
        assert metrics.eer(mapped, labels) == metrics.eer(scores, labels)


@given(tied_lists)
@settings(max_examples=50, deadline=None)
def test_eer_is_mirrored_when_scores_are_negated_or_labels_swapped(rows):
    scores, labels = arrays(rows)
    eer = metrics.eer(scores, labels)
    assert metrics.eer(-scores, 1 - labels) == pytest.approx(eer, abs=1e-9)
    assert metrics.eer(-scores, labels) == pytest.approx(100 - eer, abs=1e-9)
    assert metrics.eer(scores, 1 - labels) == pytest.approx(100 - eer, abs=1e-9)


@given(tied_lists, st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_pairs_and_repeating_the_list_change_nothing(rows, random):
    scores, labels = arrays(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert metrics.eer(*arrays(shuffled)) == metrics.eer(scores, labels)
    assert metrics.eer(*arrays(rows * 3)) == pytest.approx(metrics.eer(scores, labels), abs=1e-9)


@given(tied_lists)
@settings(max_examples=80, deadline=None)
def test_reference_eer_is_the_figure_of_the_reference_trainer(rows):
    scores, labels = arrays(rows)
    assert metrics.reference_eer(scores, labels) == reference_trainer_eer(scores, labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference_eer_on_a_long_list_without_ties(dtype):
    scores, labels = gaussian_list(20_000, dtype=dtype)
    assert metrics.reference_eer(scores, labels) == reference_trainer_eer(scores, labels)


@given(tied_lists)
@settings(max_examples=50, deadline=None)
def test_roc_auc_and_dcf_equal_scikit_learn(rows):
    scores, labels = arrays(rows)
    far, tar, thresholds = metrics.roc(scores, labels)
    fpr, tpr, expected = sk.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_array_equal(far, fpr)
    np.testing.assert_array_equal(tar, tpr)
    np.testing.assert_array_equal(thresholds, expected)
    assert metrics.auc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores))
    cost = np.min(0.1 * 5 * (1 - tpr) + 0.9 * 2 * fpr) / min(0.1 * 5, 0.9 * 2)
    assert metrics.min_dcf(scores, labels, 0.1, 5, 2) == pytest.approx(cost)
    det_far, frr, _ = metrics.det(scores, labels)
    np.testing.assert_array_equal(det_far, far)
    np.testing.assert_allclose(frr, 1 - tpr)


@given(tied_lists, st.sampled_from([0.0, 0.001, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]))
@settings(max_examples=50, deadline=None)
def test_rates_and_thresholds_at_a_given_rate_are_the_best_allowed(rows, rate):
    scores, labels = arrays(rows)
    far, tar, thresholds = metrics.roc(scores, labels)
    best = max(t for f, t in zip(far, tar) if f <= rate)
    assert metrics.tar_at_far(scores, labels, [rate])[0] == pytest.approx(best)

    threshold = metrics.threshold_at_far(scores, labels, rate)
    assert rates_at(scores, labels, threshold)[0] <= rate
    lower = [t for t in set(scores) if t < threshold]
    assert not lower or rates_at(scores, labels, max(lower))[0] > rate

    threshold = metrics.threshold_at_frr(scores, labels, rate)
    assert rates_at(scores, labels, threshold)[1] <= rate
    higher = [t for t in set(scores) if t > threshold]
    assert not higher or rates_at(scores, labels, min(higher))[1] > rate


@given(tied_lists)
@settings(max_examples=50, deadline=None)
def test_the_rates_at_the_eer_threshold_are_those_of_a_point_beside_the_crossing(rows):
    scores, labels = arrays(rows)
    eer, threshold = metrics.eer(scores, labels) / 100, metrics.eer_threshold(scores, labels)
    far, frr = rates_at(scores, labels, threshold)
    assert min(far, frr) - 1e-9 <= eer <= max(far, frr) + 1e-9


def test_separated_classes_have_no_error_and_a_threshold_between_them():
    scores, labels = [0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]
    assert metrics.eer(scores, labels) == 0
    assert metrics.eer_threshold(scores, labels) == pytest.approx(0.4)
    assert metrics.auc(scores, labels) == 1
    assert metrics.min_dcf(scores, labels) == 0


def test_two_pairs():
    assert metrics.eer([0.9, 0.1], [1, 0]) == 0
    assert metrics.eer([0.1, 0.9], [1, 0]) == 100
    assert metrics.eer([0.5, 0.5], [1, 0]) == 50


def test_constant_scores_are_guessing():
    scores, labels = np.full(9, 0.3), [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert metrics.eer(scores, labels) == 50
    assert metrics.auc(scores, labels) == 0.5
    assert metrics.min_dcf(scores, labels) == 1
    assert metrics.eer_threshold(scores, labels) == pytest.approx(0.3)
    assert list(metrics.tar_at_far(scores, labels, [0.5, 1.0])) == [0, 1]


def test_gaussian_scores_give_the_known_eer_and_auc():
    scores, labels = gaussian_list(400_000)
    assert metrics.eer(scores, labels) == pytest.approx(100 * NormalDist().cdf(-1), abs=0.2)
    assert metrics.auc(scores, labels) == pytest.approx(NormalDist().cdf(2**0.5), abs=2e-3)


@pytest.mark.parametrize("kind", [list, np.float32, np.float16, np.int64])
def test_any_kind_of_numbers_will_do(kind):
    scores, labels = np.array([3, 1, 2, 0]), np.array([True, False, True, False])
    given = scores.tolist() if kind is list else scores.astype(kind)
    assert metrics.eer(given, labels) == 0


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([], [], "no scores"),
        ([0.1, 0.2], [1, 1], "no imposter pair"),
        ([0.1, 0.2], [0, 0], "no target pair"),
        ([0.1, np.nan, 0.3], [1, 0, 1], "score number 2 is nan"),
        ([0.1, np.inf], [1, 0], "score number 2 is inf"),
        ([0.1, 0.2, 0.3], [1, 0], "3 scores but 2 labels"),
        ([[0.1, 0.2]], [1, 0], "flat lists"),
        ([0.1, 0.2], [1, 2], "label number 2 is 2"),
        ([0.1, 0.2], [1, np.nan], "label number 2 is nan"),
        (["a", "b"], [1, 0], "must be numbers"),
    ],
)
def test_bad_input_is_named(scores, labels, words):
    for function in (metrics.eer, metrics.reference_eer, metrics.roc, metrics.auc):
        with pytest.raises(UserError, match=words):
            function(scores, labels)
    with pytest.raises(UserError, match=words):
        metrics.bootstrap_ci(scores, labels)


def test_impossible_settings_are_named():
    scores, labels = [0.1, 0.9], [0, 1]
    for call, words in (
        (lambda: metrics.tar_at_far(scores, labels, [1.5]), "false-accept rate must be"),
        (lambda: metrics.threshold_at_frr(scores, labels, -0.1), "false-reject rate must be"),
        (lambda: metrics.min_dcf(scores, labels, p_target=0), "p_target"),
        (lambda: metrics.min_dcf(scores, labels, c_fa=0), "c_fa must be positive"),
        (lambda: metrics.bootstrap_ci(scores, labels, level=95), "level"),
        (lambda: metrics.bootstrap_ci(scores, labels, samples=0), "samples"),
        (lambda: metrics.bootstrap_ci(scores, labels, left_ids=[1, 2]), "given together"),
        (lambda: metrics.bootstrap_ci(scores, labels, [1], [2]), "one entry for each of the 2"),
        (lambda: metrics.bootstrap_ci(scores, labels, [1, 1], [1, 1], samples=5), None),
    ):
        if words is None:
            call()
        else:
            with pytest.raises(UserError, match=words):
                call()


def test_rank_k_counts_identities_and_gives_nothing_for_ties():
    similarity = np.array(
        [
            [0.9, 0.8, 0.1, 0.2],  # its own "a" is best
            [0.5, 0.9, 0.6, 0.7],  # own "c" (0.7) is behind "a" (0.9), before "b" (0.6)
            [0.5, 0.5, 0.5, 0.5],  # a tie of three
        ]
    )
    gallery, probes = ["a", "a", "b", "c"], ["a", "c", "b"]
    assert metrics.rank_k(similarity, probes, gallery) == pytest.approx(1 / 3)
    rates = metrics.rank_k(similarity, probes, gallery, k=[1, 2, 3])
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 1])
    with pytest.raises(UserError, match="no image of their identity"):
        metrics.rank_k(similarity, ["a", "c", "x"], gallery)
    with pytest.raises(UserError, match="shape"):
        metrics.rank_k(similarity[:2], probes, gallery)
    with pytest.raises(UserError, match="NaN"):
        metrics.rank_k(similarity * np.nan, probes, gallery)
    with pytest.raises(UserError, match="k must be"):
        metrics.rank_k(similarity, probes, gallery, k=0)


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


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("by_identity", [False, True])
def test_the_eer_of_a_draw_is_that_of_the_list_with_its_pairs_repeated(by_identity, ties):
    scores, labels, left, right = identity_list()
    if ties:
        scores = np.round(scores)
    units = Units(len(scores), left, right) if by_identity else Units(len(scores))
    weighted = WeightedEer(scores, labels, units)
    everyone = np.ones(units.number + 1, dtype=int)
    assert weighted(everyone) == pytest.approx(metrics.eer(scores, labels), abs=1e-9)
    for counts in units.draws(labels, 60, seed=1):
        if by_identity:
            times = [counts[a] if a == b else counts[a] * counts[b] for a, b in zip(left, right)]
        else:
            times = counts[:-1]
        expected = metrics.eer(np.repeat(scores, times), np.repeat(labels, times))
        assert weighted(counts) == pytest.approx(expected, abs=1e-9)


def test_a_draw_far_from_the_whole_list_is_still_exact():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=500)
    labels = rng.integers(0, 2, 500)
    units = Units(500)
    weighted = WeightedEer(scores, labels, units)
    for strength in (-6, -3, 3, 6):
        counts = rng.poisson(np.exp(strength * scores * (labels - 0.5)))
        expected = metrics.eer(np.repeat(scores, counts), np.repeat(labels, counts))
        assert weighted(np.append(counts, 1)) == pytest.approx(expected, abs=1e-9)


def test_identities_may_be_names_or_numbers():
    scores, labels, left, right = identity_list()
    names = np.array([f"person {k}" for k in range(100, 112)])
    numbers = metrics.bootstrap_ci(scores, labels, left, right, samples=50)
    assert metrics.bootstrap_ci(scores, labels, names[left], names[right], samples=50) == numbers
    assert metrics.bootstrap_ci(scores, labels, left - 5, right - 5, samples=50) == numbers
    assert metrics.bootstrap_ci(scores, labels, right, left, samples=50) == numbers


def test_bootstrap_is_repeatable_and_takes_any_statistic():
    scores, labels, left, right = identity_list()
    first = metrics.bootstrap(scores, labels, left, right, samples=20, seed=5)
    again = metrics.bootstrap(scores, labels, left, right, samples=20, seed=5)
    np.testing.assert_array_equal(first, again)
    slow = metrics.bootstrap(
        scores, labels, left, right, lambda s, t: metrics.eer(s, t), samples=20, seed=5
    )
    np.testing.assert_allclose(first, slow)
    low, high = metrics.bootstrap_ci(scores, labels, left, right, metrics.auc, samples=100)
    assert low < metrics.auc(scores, labels) < high <= 1


def test_even_the_smallest_list_can_be_resampled():
    low, high = metrics.bootstrap_ci([0.1, 0.9], [0, 1], ["a", "a"], ["b", "a"], samples=5)
    assert low == 0 <= high <= 100
    assert metrics.bootstrap_ci([0.9, 0.1], [0, 1], samples=5)[1] == 100


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


def test_intervals_by_pair_cover_when_people_do_not_matter():
    rng = np.random.default_rng(0)
    truth, hits = 100 * NormalDist().cdf(-1), 0
    for seed in range(100):
        labels = np.arange(300) % 2
        scores = rng.normal(size=300) + 2 * labels
        low, high = metrics.bootstrap_ci(scores, labels, samples=150, seed=seed)
        hits += low <= truth <= high
    assert 87 <= hits <= 100


def test_a_paired_test_finds_a_difference_that_separate_intervals_hide():
    scores, labels, left, right = identity_list(identities=40)
    rng = np.random.default_rng(1)
    worse = scores + rng.normal(size=len(scores)) * 0.9
    result = metrics.paired_difference(worse, scores, labels, left, right, samples=200)
    assert result.b == metrics.eer(scores, labels) and result.a == metrics.eer(worse, labels)
    assert result.difference == result.b - result.a < 0
    assert result.low < result.difference < result.high < 0
    assert result.significant and result.p_value < 0.05
    assert "B is better than A by" in result.summary()
    low_a, _ = metrics.bootstrap_ci(worse, labels, left, right, samples=200)
    _, high_b = metrics.bootstrap_ci(scores, labels, left, right, samples=200)
    assert low_a < high_b


def test_a_system_is_no_better_than_itself():
    scores, labels, left, right = identity_list()
    result = metrics.paired_difference(scores, 2 * scores + 1, labels, left, right, samples=50)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    assert not result.significant
    assert "cannot be told apart" in result.summary()


def test_a_paired_test_is_seldom_significant_without_a_difference():
    false_alarms = 0
    for seed in range(25):
        scores, labels, left, right = identity_list(identities=30, seed=seed)
        rng = np.random.default_rng(seed)
        a, b = (scores + rng.normal(size=len(scores)) * 0.5 for _ in range(2))
        result = metrics.paired_difference(a, b, labels, left, right, samples=99)
        false_alarms += result.significant
    assert false_alarms <= 4
