"""Groups of points: k-means against scikit-learn, silhouettes by hand, k by the silhouette."""

import warnings

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from interp.errors import DataError, ParameterError
from probes.multifaceted.grouping import group, k_means, silhouette_of, silhouettes


def blobs(sizes, gap=8.0, d=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return rng.standard_normal((len(labels), d)) + gap * np.eye(len(sizes), d)[labels], labels


def test_k_means_reaches_the_cost_of_scikit_learns():
    points, _ = blobs([30, 40, 50], gap=2.0)
    labels, centres = k_means(points, 4)
    mine = ((points - centres[labels]) ** 2).sum()
    theirs = KMeans(4, n_init=10, random_state=0).fit(points).inertia_
    assert mine <= theirs * 1.01
    one, _ = k_means(points, 4, starts=1, seed=3)
    assert not (one < 0).any() and len(np.unique(one)) == 4


def test_silhouettes_by_hand_and_against_scikit_learn():
    points = np.array([[0.0], [1.0], [10.0], [11.0]])
    labels = np.array([0, 0, 1, 1])
    apart = squareform(pdist(points))
    # row 0: a = 1, b = (10 + 11) / 2; row 1: a = 1, b = (9 + 10) / 2
    expected = [1 - 1 / 10.5, 1 - 1 / 9.5, 1 - 1 / 9.5, 1 - 1 / 10.5]
    assert np.allclose(silhouettes(apart, labels), expected)
    points, labels = blobs([9, 14, 20], gap=2.0)
    apart = squareform(pdist(points))
    assert np.isclose(silhouette_of(apart, labels), silhouette_score(points, labels))
    noisy = np.where(np.arange(43) < 5, -1, labels)
    assert np.isnan(silhouettes(apart, noisy)[:5]).all()
    assert np.isclose(silhouette_of(apart, noisy), silhouette_score(points[5:], labels[5:]))


def test_the_silhouette_is_undefined_for_one_group():
    apart = squareform(pdist(np.arange(4.0)[:, None]))
    assert np.isnan(silhouette_of(apart, np.zeros(4, int)))
    assert np.isnan(silhouette_of(apart, np.arange(4)))


@pytest.mark.parametrize("how", ["kmeans", "hdbscan"])
def test_planted_groups_are_found_and_numbered_by_size(how):
    points, truth = blobs([20, 60, 40])
    found = group(points, how, k=None, ks=range(2, 8))
    assert found.k == 3
    assert adjusted_rand_score(truth, found.labels) > 0.9
    sizes = np.bincount(found.labels[found.labels >= 0])
    assert (np.diff(sizes) <= 0).all()
    if how == "kmeans":
        assert max(found.tried, key=found.tried.get) == 3


def test_refusals_and_equal_points():
    with pytest.raises(DataError, match="7 facets need .* there are 5"):
        group(np.zeros((5, 2)), k=7, ks=())
    with pytest.raises(ParameterError, match="cluster must be one of kmeans, hdbscan; got 'x'"):
        group(np.zeros((5, 2)), "x", k=2, ks=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert group(np.zeros((9, 2)), k=2, ks=()).labels.tolist() == [0] * 9
        assert group(np.zeros((9, 2)), "hdbscan", k=None, ks=()).k <= 1
