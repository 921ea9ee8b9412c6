import numpy as np
import pytest
from sklearn import metrics

from probes.scores import area_under_curve, bootstrap_weights, f1_score, weighted_interval


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
