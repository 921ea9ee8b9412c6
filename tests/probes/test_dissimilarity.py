"""RSA: ranks of distances, ties, invariances."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from interp.errors import ParameterError
from probes.dissimilarity import dissimilarities
from probes.geometry import one_hot, rsa


def pair(n=40, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(n, 6))
    return X, X @ draw.normal(size=(6, 4)) + draw.normal(size=(n, 4))


@pytest.mark.parametrize("distance", ["euclidean", "correlation"])
def test_it_is_scipy_s_spearman_of_scipy_s_distances(distance):
    X, Y = pair()
    expected = spearmanr(pdist(X, distance), pdist(Y, distance)).statistic
    assert rsa(X, Y, distance=distance) == pytest.approx(expected, abs=1e-12)


def test_ties_are_ties_so_labels_can_be_compared():
    X, _ = pair()
    y = np.arange(40) % 3
    different = pdist(y[:, None], "hamming")
    expected = spearmanr(pdist(X), different).statistic
    assert rsa(X, one_hot(y, 40)) == pytest.approx(expected, abs=1e-12)
    assert len(np.unique(dissimilarities(one_hot(y, 40)))) == 2


def test_rotation_scale_shift_and_order_change_nothing():
    X, Y = pair()
    draw = np.random.default_rng(1)
    turned = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    clean = float(rsa(X, Y))
    assert rsa(3 * X @ turned + 2, Y) == pytest.approx(clean, abs=1e-9)
    order = draw.permutation(40)
    assert rsa(X[order], Y[order]) == pytest.approx(clean, abs=1e-9)
    assert rsa(X, X) == pytest.approx(1) and abs(rsa(X[order], Y) - clean) > 0.05
    assert abs(rsa(X * np.r_[9, np.ones(5)], Y) - clean) > 0.01  # not of one dimension's scale
    by_row = float(rsa(X, Y, distance="correlation"))
    scaled = X * draw.uniform(1, 9, (40, 1)) + draw.normal(size=(40, 1))
    assert rsa(scaled, Y, distance="correlation") == pytest.approx(by_row, abs=1e-9)
    assert abs(rsa(X @ turned, Y, distance="correlation") - by_row) > 0.01


def test_a_draw_of_rows_is_the_seed_s_and_near_the_whole():
    X, Y = pair(400)
    some = [float(rsa(X, Y, rows=200, seed=s)) for s in range(20)]
    assert some[3] == rsa(X, Y, rows=200, seed=3) and len(set(some)) == 20
    error = np.std(some) / np.sqrt(20)
    assert abs(np.mean(some) - rsa(X, Y, rows=None)) < 4 * error


def test_what_has_none():
    X, Y = pair()
    assert "one point" in rsa(X, np.ones((40, 2))).reason
    assert "equally far" in rsa(np.eye(40), Y).reason
    X[3] = 5.0
    assert "constant" in rsa(X, Y, distance="correlation").reason and np.isfinite(rsa(X, Y))
    with pytest.raises(ParameterError, match="distance must be"):
        rsa(X, Y, distance="cosine")
