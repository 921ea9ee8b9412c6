"""The generalized discrimination value: published numbers, invariances, and what it is not."""

import numpy as np
import pytest
import torch

from probes.geometry import gdv


@pytest.fixture
def blobs():
    draw = np.random.default_rng(0)
    y = np.arange(120) % 2
    return draw.normal(size=(120, 10)) + y[:, None] * np.linspace(0, 2, 10), y


def points(*groups):
    """Classes that are one repeated point each: (point, rows) a class."""
    X = np.concatenate([np.tile(np.atleast_1d(p), (n, 1)) for p, n in groups]).astype(float)
    return X, np.repeat(np.arange(len(groups)), [n for _, n in groups])


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(0, 10), (1, 10)], -1.0),
        ([(0, 10), (1, 30)], -1.1547),
        ([(np.eye(3)[i], 5) for i in range(3)], -0.8660),
        ([(np.eye(10)[i], 4) for i in range(10)], -0.7454),
        ([(0, 5), (1, 5), (2, 5)], -0.8165),
    ],
)
def test_classes_that_are_points(groups, expected):
    assert gdv(*points(*groups)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("k", [3, 5, 10])
def test_balanced_corners_of_a_simplex_have_a_closed_form(k):
    found = gdv(*points(*[(np.eye(k)[i], 3) for i in range(k)]))
    assert found == pytest.approx(-np.sqrt(k / (2 * (k - 1))), abs=1e-7)


def test_a_dead_dimension_dilutes_it_and_is_counted():
    X, y = points(*[((v, 1 - v, v), 8) for v in (0, 1)])
    found = gdv(np.c_[X, np.full(len(X), 7.0)], y)
    assert found == pytest.approx(-np.sqrt(3 / 4), abs=1e-7)
    assert found.parts["live"] == 3
    assert found.parts["over_live"] == pytest.approx(float(gdv(X, y))) == pytest.approx(-1)


def test_labels_that_mean_nothing_give_about_zero(blobs):
    X, y = blobs
    shuffled = np.random.default_rng(1).permutation(y)
    assert abs(gdv(X, shuffled)) < 0.01
    assert gdv(X, y) < -0.05  # the arm that shows the same rows have structure


def test_what_it_does_not_change_under_and_what_it_does(blobs):
    X, y = blobs
    draw = np.random.default_rng(2)
    clean = float(gdv(X, y))
    assert gdv(X * draw.uniform(0.1, 9, X.shape[1]) + 5, y) == pytest.approx(clean, abs=1e-9)
    assert gdv(X[:, draw.permutation(X.shape[1])], y) == pytest.approx(clean, abs=1e-9)
    order = draw.permutation(len(X))
    assert gdv(X[order], y[order]) == pytest.approx(clean, abs=1e-9)
    turned = np.linalg.qr(draw.normal(size=(X.shape[1],) * 2))[0]
    stretched = X * np.geomspace(1, 30, X.shape[1])
    assert abs(gdv(stretched @ turned, y) - gdv(stretched, y)) > 1e-3  # not of rotation


def test_it_is_the_formula(blobs):
    X, y = blobs
    Z = (X - X.mean(0)) / (2 * X.std(0))
    D = np.linalg.norm(Z[:, None] - Z[None], axis=2)
    intra = [
        D[np.ix_(y == c, y == c)].sum() / ((y == c).sum() * ((y == c).sum() - 1)) for c in (0, 1)
    ]
    inter = D[np.ix_(y == 0, y == 1)].mean()
    expected = (np.mean(intra) - inter) / np.sqrt(X.shape[1])
    assert gdv(torch.from_numpy(X), y.astype(str)) == pytest.approx(expected, abs=1e-12)


def test_a_class_of_one_row_is_left_out(blobs):
    X, y = blobs
    found = gdv(X, np.where(np.arange(len(y)) == 0, 9, y))
    assert np.isfinite(found) and found.parts["skipped"] == 1
    alone = gdv(X[:4], [0, 1, 2, 2])
    assert np.isnan(alone) and "two are needed" in alone.reason
