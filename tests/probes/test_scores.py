import numpy as np
import pytest
from sklearn import metrics

from probes.scores import (
    accuracy_in_draws,
    area_interval,
    area_under_curve,
    bootstrap_weights,
    calibration_bins,
    calibration_error,
    calibration_interval,
    calibration_of_bins,
    f1_interval,
    f1_score,
    hits_of_groups,
    weighted_interval,
)


def test_f1_is_scikit_learns():
    rng = np.random.default_rng(0)
    for k, average in ((2, "binary"), (4, "macro")):
        y, p = rng.integers(0, k, 100), rng.integers(0, k, 100)
        assert f1_score(y, p, k) == pytest.approx(metrics.f1_score(y, p, average=average))
    assert np.isnan(f1_score([0, 0], [0, 0], 2))


def test_area_is_the_mean_over_the_folds():
    rng = np.random.default_rng(0)
    y, score, fold = rng.integers(0, 2, 200), rng.standard_normal(200), np.arange(200) % 4
    score = np.round(score, 1)  # ties
    expected = [metrics.roc_auc_score(y[fold == k], score[fold == k]) for k in range(4)]
    assert area_under_curve(y, score, fold) == pytest.approx(np.mean(expected))
    # A shift of one fold's scores says nothing of its ranking.
    assert area_under_curve(y, score + 5 * fold, fold) == pytest.approx(np.mean(expected))


def test_area_of_many_classes_is_one_against_the_rest():
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 3, 90), rng.dirichlet(np.ones(3), 90)
    expected = metrics.roc_auc_score(y, score, multi_class="ovr")
    assert area_under_curve(y, score.T, np.zeros(90)) == pytest.approx(expected)


def test_area_without_a_second_class_is_nan():
    assert np.isnan(area_under_curve([1, 1, 0, 0], np.arange(4.0), [0, 0, 1, 1]))


def test_interval_over_rows_is_the_binomials():
    right = np.arange(400) % 4 > 0
    weights = bootstrap_weights(np.arange(400), draws=2000, seed=0)
    low, high = weighted_interval(right, np.arange(400), weights)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.01)
    assert high == pytest.approx(0.75 + half, abs=0.01)


def test_hits_are_counted_by_group_in_the_smallest_integers():
    right = np.array([[1, 0, 1, 1], [0, 0, 0, 1]], dtype=bool)
    hits, sizes = hits_of_groups(right, np.array([0, 2, 2, 1]))
    assert hits.tolist() == [[1, 1, 1], [0, 1, 0]] and sizes.tolist() == [1, 1, 2]
    assert hits.dtype == sizes.dtype == np.uint8
    for n, dtype in ((255, np.uint8), (256, np.uint16), (70_000, np.uint32)):
        hits, sizes = hits_of_groups(np.ones((1, n), dtype=bool), np.zeros(n, dtype=int))
        assert hits.dtype == dtype and hits[0, 0] == sizes[0] == n
    # Group 2 twice, group 0 once: 2 * 1 + 1 of 2 * 2 + 1 rows.
    drawn = accuracy_in_draws(
        np.array([[1, 1, 1]], dtype=np.uint8),
        np.array([1, 1, 2]),
        np.array([[1.0, 0, 2], [1, 1, 1]]),
    )
    np.testing.assert_array_equal(drawn, [[3 / 5], [3 / 4]])


def test_interval_over_groups_counts_groups_not_rows():
    groups = np.repeat(np.arange(40), 10)
    right = np.repeat(np.arange(40) % 4 > 0, 10)
    weights = bootstrap_weights(groups, draws=2000, seed=0)
    low, high = weighted_interval(right, groups, weights)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 40)
    assert high - low == pytest.approx(2 * half, rel=0.1)


def test_one_group_gives_a_point():
    ids = np.zeros(10, dtype=int)
    weights = bootstrap_weights(ids, draws=10, seed=0)
    assert weighted_interval(np.arange(10) < 3, ids, weights) == pytest.approx((0.3, 0.3))


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.85, 0.62, 0.55])
    probability = np.stack([1 - confidence, confidence])
    assert calibration_error([1, 0, 1, 1], probability, bins=10) == pytest.approx(0.4325)
    # Bins are open below and closed above: 0.6 and 0.55 share one, 0.6 and 0.65 do not.
    edge = np.array([[0.4, 0.45], [0.6, 0.55]])
    assert calibration_error([1, 0], edge, bins=10) == pytest.approx(abs(1 - 0.6 - 0.55) / 2)
    apart = np.array([[0.4, 0.35], [0.6, 0.65]])
    assert calibration_error([1, 0], apart, bins=10) == pytest.approx((0.4 + 0.65) / 2)
    assert np.isnan(calibration_error([], np.zeros((2, 0))))


def test_calibrated_probabilities_have_a_small_error_and_sharpened_ones_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 20000)
    y = (rng.random(20000) < p).astype(int)
    assert calibration_error(y, np.stack([1 - p, p])) < 0.015
    sharp = (p > 0.5) * 0.98 + 0.01
    assert calibration_error(y, np.stack([1 - sharp, sharp])) > 0.2


def rows(n=600, seed=0):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(0, 2, n), rng.integers(0, n // 4, n)
    score = np.round(y + rng.standard_normal(n), 1)  # ties
    return y, score, np.unique(groups, return_inverse=True)[1], np.arange(n) % 3


@pytest.mark.parametrize("k", [2, 3])
def test_intervals_are_those_of_repeated_groups(k):
    y, score, ids, fold = rows(120)
    y = np.random.default_rng(1).integers(0, k, 120)
    predicted = np.random.default_rng(2).integers(0, k, 120)
    scores = score if k == 2 else np.random.default_rng(3).standard_normal((3, 120)).round(1)
    weights = bootstrap_weights(ids, draws=40, seed=0)
    f1, area = [], []
    for w in weights.astype(int):
        at = np.repeat(np.arange(120), w[ids])
        f1.append(f1_score(y[at], predicted[at], k))
        area.append(area_under_curve(y[at], scores[..., at], fold[at]))
    found = f1_interval(y, predicted, k, ids, weights)
    assert found == pytest.approx(tuple(np.quantile(f1, [0.025, 0.975])))
    found = area_interval(y, scores, fold, ids, weights)
    assert found == pytest.approx(tuple(np.quantile(area, [0.025, 0.975])))


def test_intervals_cover_as_often_as_they_say():
    hits = dict.fromkeys(("area", "f1", "calibration"), 0)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 300)
        score = 2 * y - 1 + rng.standard_normal(300)  # the log odds are 2 * score
        ids = np.arange(300)
        weights = bootstrap_weights(ids, draws=200, seed=seed)
        low, high = area_interval(y, score, np.zeros(300), ids, weights)
        hits["area"] += low <= 0.92135 <= high  # Phi(sqrt(2))
        low, high = f1_interval(y, (score > 0).astype(int), 2, ids, weights)
        hits["f1"] += low <= 0.84134 <= high  # Phi(1): errors of both kinds are alike
        sharp = 1 / (1 + np.exp(-8 * score))
        probability = np.stack([1 - sharp, sharp])
        low, high = calibration_interval(y, probability, ids, weights)
        assert low <= calibration_error(y, probability) <= high
        hits["calibration"] += low <= 0.10885 <= high
    assert min(hits.values()) >= 88, hits


def test_areas_without_a_second_class_have_no_interval():
    ids = np.arange(4)
    weights = bootstrap_weights(ids, draws=10, seed=0)
    found = area_interval(
        np.array([1, 1, 0, 0]), np.arange(4.0), np.array([0, 0, 1, 1]), ids, weights
    )
    assert np.isnan(found).all()


def test_calibration_of_batches_is_that_of_the_whole():
    """Ten bins, open below and closed above: .95, .85, .62 and .55, all right but the second."""
    confidence, right = np.array([0.95, 0.85, 0.62, 0.55]), np.array([1, 0, 1, 1])
    sums = calibration_bins(confidence, right, bins=10)
    assert calibration_of_bins(sums, 4) == pytest.approx(0.4325, abs=1e-12)
    parts = calibration_bins(confidence[:1], right[:1], bins=10) + calibration_bins(
        confidence[1:], right[1:], bins=10
    )
    np.testing.assert_allclose(parts, sums, atol=1e-15)
    two = np.stack([confidence, 1 - confidence])
    assert calibration_error(1 - right, two, bins=10) == pytest.approx(0.4325, abs=1e-12)
    assert calibration_of_bins(sums, 4) != pytest.approx(
        calibration_of_bins(calibration_bins(confidence, right, bins=2), 4)
    )
    assert np.isnan(calibration_of_bins(np.zeros(10), 0))
