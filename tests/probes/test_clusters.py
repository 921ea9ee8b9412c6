"""Cluster indices: hand-computed numbers, the identity, streaming, and what undefines them."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics

from interp.errors import DataError, ShapeError, UndefinedMeasure
from interp.store import ActivationStore
from probes import clusters
from probes.clusters import Moments, Spreads
from probes.distances import Distances, distances

INDICES = {
    name: getattr(clusters, name)
    for name in ("calinski_harabasz", "xie_beni", "davies_bouldin", "dunn", "silhouette")
}
A = [[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]]
B = [[0, 0], [0, 1], [1, 0], [1, 1], [4, 4], [4, 5], [6, 4]]
EXPECTED = {
    "A": (A, [0] * 3 + [1] * 3,
          (30.375, 0.03292181069958848, 0.2962962963, 2.25, 0.7133477792)),
    "B": (B, [0] * 4 + [1] * 3,
          (51.517857142857146, 0.023768259470165882, 0.30519670878508864, 1.8973665961010273,
           0.7562019218958136)),
}  # fmt: skip


@pytest.mark.parametrize("case", EXPECTED)
def test_reference_numbers(case):
    X, y, expected = EXPECTED[case]
    for kind in (np.array(X), torch.tensor(X, dtype=torch.float64)):
        found = [index(kind, y) for index in INDICES.values()]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    names = ["safe" if k else "unsafe" for k in y]
    assert clusters.silhouette(np.array(X), names) == pytest.approx(expected[4])


def test_a_shared_point():
    """The released code has a Dunn index of .001 here; the distance between the classes is 0."""
    X, y = np.array([[0, 0], [0, 1], [0, 0], [3, 3]]), [0, 0, 1, 1]
    assert clusters.dunn(X, y) == 0
    assert clusters.calinski_harabasz(X, y) == pytest.approx(0.6842105263)
    assert clusters.xie_beni(X, y) == pytest.approx(0.7307692308)
    assert clusters.davies_bouldin(X, y) == pytest.approx(1.4540469089)


def test_equal_centroids_are_never_a_good_score():
    X, y = np.array([[0, 0], [2, 0], [1, 1], [1, -1]]), [0, 0, 1, 1]
    assert clusters.calinski_harabasz(X, y) == 0
    assert metrics.davies_bouldin_score(X, y) == 0  # scikit-learn's best score
    for index in (clusters.xie_beni, clusters.davies_bouldin):
        with pytest.warns(UndefinedMeasure, match="centroids of 0 and 1 coincide"):
            assert np.isnan(index(X, y))
    X = X + np.array([1e3, 0.1])  # no longer equal to the last bit
    with pytest.warns(UndefinedMeasure, match="coincide"):
        assert np.isnan(clusters.davies_bouldin(X, y))


def test_chi_and_xb_of_two_classes_are_one_number():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 8))
    X[30:] += 1
    y = [0] * 30 + [1] * 20
    chi, xb = clusters.calinski_harabasz(X, y), clusters.xie_beni(X, y)
    assert chi == pytest.approx(11.779285241) and xb == pytest.approx(0.977988033)
    assert chi * xb == pytest.approx(30 * 20 * 48 / 2500, rel=1e-12)
    three = [0] * 25 + [1] * 15 + [2] * 10  # the identity is of two classes
    n1n2 = 25 * 25 * 48 / 2500
    product = clusters.calinski_harabasz(X, three) * clusters.xie_beni(X, three)
    assert product != pytest.approx(n1n2, rel=0.01)


@pytest.mark.parametrize("n1, n2", [(2, 2), (3, 40), (17, 20)])
def test_the_identity_at_any_counts(n1, n2):
    n = n1 + n2
    X = np.random.default_rng(n1).normal(3, 2, (n, 5))
    y = np.arange(n) < n1
    product = clusters.calinski_harabasz(X, y) * clusters.xie_beni(X, y)
    assert product == pytest.approx(n1 * n2 * (n - 2) / n**2, rel=1e-10)


def test_three_classes_are_as_in_scikit_learn():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 90)
    X = rng.normal(size=(90, 6)) + 2 * np.eye(6)[y]
    for name, other in (
        ("calinski_harabasz", metrics.calinski_harabasz_score),
        ("davies_bouldin", metrics.davies_bouldin_score),
        ("silhouette", metrics.silhouette_score),
    ):
        assert INDICES[name](X, y) == pytest.approx(other(X, y), rel=1e-10)
    D = metrics.pairwise_distances(X)
    same = y[:, None] == y[None]
    assert clusters.dunn(X, y) == pytest.approx(D[~same].min() / D[same].max(), rel=1e-10)
    alone = np.append(y[:40], 7)  # a class of one row counts as 0
    ours = clusters.silhouette(X[:41], alone)
    assert ours == pytest.approx(metrics.silhouette_score(X[:41], alone), rel=1e-10)


UNDEFINED = {
    "one class": (np.arange(8.0).reshape(4, 2), [1, 1, 1, 1], "one class only"),
    "n = K": (np.arange(6.0).reshape(3, 2), [0, 1, 2], "has one row"),
    "two rows": (np.arange(4.0).reshape(2, 2), [0, 1], "has one row"),
    "nan": (np.array([[0, 1], [np.nan, 2], [3, 3], [4, 5.0]]), [0, 0, 1, 1], "not finite"),
    "inf": (np.array([[0, 1], [np.inf, 2], [3, 3], [4, 5.0]]), [0, 0, 1, 1], "not finite"),
    "copies": (np.array([[0.1, 1]] * 3 + [[5, 5.3]] * 3), [0] * 3 + [1] * 3, "repeated point"),
    "all equal": (np.full((6, 2), 0.1), [0] * 3 + [1] * 3, "repeated point"),
    "no rows": (np.empty((0, 2)), [], "no rows"),
}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("case", UNDEFINED)
def test_undefined_is_nan_with_the_reason(name, case):
    X, y, reason = UNDEFINED[case]
    with pytest.warns(UndefinedMeasure, match=reason):
        assert np.isnan(INDICES[name](X, np.asarray(y)))


def test_random_labels_are_a_bad_score():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(400, 5)), rng.integers(0, 2, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {name: index(X, y) for name, index in INDICES.items()}
    assert found["calinski_harabasz"] < 5 and found["xie_beni"] > 10
    assert found["davies_bouldin"] > 5 and found["dunn"] < 0.2 and abs(found["silhouette"]) < 0.02


def test_constant_columns_change_nothing():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    wider = np.column_stack([X, np.full((40, 2), 7.25)])
    for index in INDICES.values():
        assert index(wider, y) == pytest.approx(index(X, y), rel=1e-9)


@pytest.fixture
def cloud():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 700)
    return rng.normal(50, 1, (700, 9)) + 0.7 * y[:, None], y


def batches(n, rng):
    """Places of all rows, shuffled, in batches of unequal sizes."""
    cuts = np.sort(rng.choice(np.arange(1, n), 6, replace=False))
    return np.split(rng.permutation(n), cuts)


@pytest.mark.parametrize("seed", [0, 1])
def test_streaming_moments_equal_one_shot(cloud, seed):
    X, y = cloud
    rng = np.random.default_rng(seed)
    parts = batches(len(X), rng)
    first, second = Moments(), Moments()
    for i, rows in enumerate(parts):
        (first if i % 2 else second).update(X[rows], y[rows])
    found = first.merge(second).result()
    assert found.counts.sum() == 700
    assert found.calinski_harabasz() == pytest.approx(clusters.calinski_harabasz(X, y), rel=1e-10)
    assert found.xie_beni() == pytest.approx(clusters.xie_beni(X, y), rel=1e-10)
    spread = Spreads(found)
    for rows in parts[:3]:
        spread.update(X[rows], y[rows])
    other = Spreads(found)
    for rows in parts[3:]:
        other.update(X[rows], y[rows])
    value = spread.merge(other).result()
    assert value == pytest.approx(clusters.davies_bouldin(X, y), rel=1e-10)
    half = Moments().update(X[:100], y[:100]).result()  # the arm that shows rows count
    assert half.xie_beni() != pytest.approx(found.xie_beni(), rel=1e-3)


def test_streaming_pairs_equal_one_shot(cloud):
    X, y = cloud
    whole = distances(X, y)
    parts = batches(len(X), np.random.default_rng(0))
    blocks = [(rows, torch.from_numpy(X[rows] - X.mean(0))) for rows in parts]
    first, second = Distances(y), Distances(y)
    for i in range(len(blocks)):
        for j in range(i, len(blocks)):
            (first if (i + j) % 2 else second).update(*blocks[i], *blocks[j])
    found = first.merge(second)
    np.testing.assert_allclose(found.silhouettes(), whole.silhouettes(), rtol=1e-9, atol=1e-12)
    assert found.dunn() == pytest.approx(whole.dunn(), rel=1e-12)
    small = distances(X, y, block=64)
    assert small.silhouette() == pytest.approx(whole.silhouette(), rel=1e-12)
    assert small.dunn() == pytest.approx(whole.dunn(), rel=1e-12)
    lost = Distances(y)
    lost.update(*blocks[0], *blocks[0])
    assert lost.silhouette() != pytest.approx(whole.silhouette(), rel=1e-3)


def test_single_precision_is_within_its_stated_error(cloud):
    X, y = cloud
    low = X.astype(np.float32)
    exact = low.astype(np.float64)
    assert clusters.silhouette(low, y) == pytest.approx(clusters.silhouette(exact, y), abs=2e-6)
    assert clusters.dunn(low, y) == pytest.approx(clusters.dunn(exact, y), rel=1e-9)
    for dtype in (torch.float16, torch.bfloat16):
        half = torch.from_numpy(X).to(dtype)
        ours, other = (f(h, y) for f in (clusters.xie_beni,) for h in (half, half.double()))
        assert ours == pytest.approx(other, rel=1e-12)


def test_a_shared_point_is_found_in_single_precision():
    """Far from the mean, the product form of a distance of 0 is not 0."""
    rng = np.random.default_rng(5)
    X = (1000 * rng.normal(size=(300, 64))).astype(np.float32)
    y = np.arange(300) % 2
    assert clusters.dunn(X, y) > 0.1
    X[7] = X[200]
    assert clusters.dunn(X, y) == 0


def test_a_store_is_read_as_a_matrix(cloud):
    X, y = cloud
    store = ActivationStore.from_tensors({"a": torch.from_numpy(X)})
    for index in INDICES.values():
        assert index(store["a"], y) == pytest.approx(index(X, y), rel=1e-12)


def test_wrong_shapes_and_missing_labels_are_refused():
    X = np.ones((4, 2))
    with pytest.raises(ShapeError, match="one class a row"):
        clusters.xie_beni(X, [0, 1])
    with pytest.raises(ShapeError, match="must be a matrix"):
        clusters.xie_beni(np.ones(4), [0, 1, 0, 1])
    with pytest.raises(DataError, match="2 rows have no class"):
        clusters.dunn(X, [0, np.nan, 1, np.nan])
    with pytest.raises(DataError, match="y mixes them"):
        clusters.dunn(X, np.array([0, "a", 1, "b"], dtype=object))
    with pytest.raises(ShapeError, match="one width"):
        Moments().update(X, [0, 1, 0, 1]).update(np.ones((2, 3)), [0, 1])


def test_two_pairs_of_points_by_hand():
    X, y = np.array([[0.0, 0], [0, 1], [4, 0], [4, 1]]), [0, 0, 1, 1]
    names = ("calinski_harabasz", "xie_beni", "davies_bouldin", "dunn")
    found = [getattr(clusters, name)(X, y) for name in names]
    assert found == pytest.approx([32, 0.015625, 0.25, 4], rel=1e-12)
