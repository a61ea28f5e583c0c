"""Metrics against brute force, scikit-learn and the properties that they must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from labkit import metrics
from labkit.utils import UserError

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


def voxceleb_trainer_eer(scores, labels) -> float:
    """Scikit-learn's default ROC, the nearest threshold, the larger rate."""
    fpr, tpr, _ = sk.roc_curve(labels, scores, pos_label=1)
    fnr = 1 - tpr
    nearest = np.nanargmin(np.absolute(fnr - fpr))
    return 100 * max(fpr[nearest], fnr[nearest])


@given(tied_lists)
@settings(max_examples=100, deadline=None)
def test_equal_error_rates_equal_a_brute_force_search_and_scikit_learn(rows):
    scores, labels = arrays(rows)
    eer, threshold = metrics.eer(scores, labels), metrics.eer_threshold(scores, labels)
    assert eer == pytest.approx(brute_force_eer(scores, labels), abs=1e-9)
    far, frr = rates_at(scores, labels, threshold)  # of a point beside the crossing
    assert min(far, frr) - 1e-9 <= eer / 100 <= max(far, frr) + 1e-9
    assert metrics.voxceleb_eer(scores, labels) == voxceleb_trainer_eer(scores, labels)


adversarial = {
    "one target among many": lambda rng: (rng.normal(size=500), np.arange(500) == 77),
    "one imposter among many": lambda rng: (rng.normal(size=500), np.arange(500) != 77),
    "neighbouring floats": lambda rng: (
        np.nextafter(1.0, rng.choice([0.0, 1.0, 2.0], 400)), rng.integers(0, 2, 400),
    ),
    "neighbouring float32s": lambda rng: (
        np.nextafter(np.float32(0.7), rng.choice(np.float32([0, 1, 0.7]), 400)),
        rng.integers(0, 2, 400),
    ),
    "both zeros": lambda rng: (rng.choice([0.0, -0.0, 1e-310], 200), rng.integers(0, 2, 200)),
    "largest floats": lambda rng: (
        rng.choice([-1.7e308, 1.7e308, 0.0], 200), rng.integers(0, 2, 200),
    ),
    "wholly wrong": lambda rng: (-np.arange(100.0), np.arange(100) < 50),
    "few values": lambda rng: (np.round(rng.normal(size=3000)), rng.integers(0, 2, 3000)),
    "float16": lambda rng: (rng.normal(size=2000).astype(np.float16), rng.integers(0, 2, 2000)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # scikit-learn's own sum
@pytest.mark.parametrize("name", adversarial)
def test_adversarial_lists_against_brute_force_and_scikit_learn(name):
    for seed in range(3):
        scores, labels = adversarial[name](np.random.default_rng(seed))
        labels = (np.asarray(labels) > 0).astype(int)
        expected = scores.astype(np.float64)
        assert metrics.eer(scores, labels) == pytest.approx(
            brute_force_eer(expected.tolist(), labels.tolist()), abs=1e-9
        )
        assert metrics.voxceleb_eer(scores, labels) == voxceleb_trainer_eer(expected, labels)
        threshold = metrics.eer_threshold(scores, labels)
        assert expected.min() <= threshold <= expected.max()


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
    cost = np.min(0.1 * (1 - tpr) + 0.9 * fpr) / 0.1
    assert metrics.min_dcf(scores, labels, p_target=0.1) == pytest.approx(cost)
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


@pytest.mark.parametrize(
    ("scores", "labels", "eer", "threshold", "auc", "cost"),
    [
        ([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0, 0.4, 1, 0),
        ([0.9, 0.1], [1, 0], 0, 0.5, 1, 0),
        ([0.1, 0.9], [1, 0], 100, 0.5, 0, 1),
        ([0.3] * 9, [1, 0, 0, 1, 0, 0, 0, 0, 0], 50, 0.3, 0.5, 1),  # guessing
    ],
)
def test_lists_whose_numbers_are_known(scores, labels, eer, threshold, auc, cost):
    assert metrics.eer(scores, labels) == eer
    assert metrics.eer_threshold(scores, labels) == pytest.approx(threshold)
    assert metrics.auc(scores, labels) == auc
    assert metrics.min_dcf(scores, labels) == cost


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([], [], "no target pair"),
        ([0.1, 0.2], [1, 1], "no imposter pair"),
        ([0.1, 0.2], [0, 0], "no target pair"),
        ([0.1, np.nan, 0.3], [1, 0, 1], "score number 2 is nan"),
        ([0.1, np.inf], [1, 0], "score number 2 is inf"),
        ([0.1, 0.2, 0.3], [1, 0], "one label per score"),
        ([0.1, 0.2], [1, 2], "label number 2 is 2"),
        ([0.1, 0.2], [1, np.nan], "label number 2 is nan"),
        (["a", "b"], [1, 0], "must be numbers"),
    ],
)
def test_bad_input_is_named(scores, labels, words):
    for function in (metrics.eer, metrics.roc, metrics.bootstrap_ci):
        with pytest.raises(UserError, match=words):
            function(scores, labels)


@pytest.mark.parametrize(
    ("function", "settings", "words"),
    [
        (metrics.tar_at_far, {"fars": [1.5]}, "false-accept rate must be"),
        (metrics.min_dcf, {"p_target": 0}, "p_target"),
        (metrics.bootstrap_ci, {"level": 95}, "level"),
        (metrics.bootstrap_ci, {"samples": 0}, "samples"),
        (metrics.bootstrap_ci, {"left_ids": [1, 2]}, "give left_ids and right_ids"),
        (metrics.bootstrap_ci, {"left_ids": [1], "right_ids": [2]}, "one entry for each of the 2"),
    ],
)
def test_impossible_settings_are_named(function, settings, words):
    with pytest.raises(UserError, match=words):
        function([0.1, 0.9], [0, 1], **settings)


@pytest.mark.parametrize(("files", "pairs"), [(1, 0), (2, 1), (30, 900), (30, 20), (400, 3000)])
def test_pair_similarities_are_the_cosines_of_the_pairs(files, pairs):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(files, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = rng.integers(0, files, (2, pairs))
    found = metrics.pair_similarities(rows, left, right)
    assert found.dtype == np.float32 and found.shape == (pairs,)
    expected = [float(rows[a] @ rows[b]) for a, b in zip(left, right)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
