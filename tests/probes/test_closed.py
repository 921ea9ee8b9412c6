import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import NearestCentroid

from probes.closed import CLOSED, fit_closed

SHAPES = [(120, 9, 2), (120, 9, 4), (30, 50, 2), (30, 50, 3)]


def make(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * rng.uniform(0.5, 3, d) + 2
    return X, (X[:, :k] + rng.gumbel(size=(n, k))).argmax(1)


def fit(kind, X, y, C=1.0, weights=None):
    k = int(y.max()) + 1
    w = None if weights is None else torch.from_numpy(weights)[None]
    fits = fit_closed(
        kind,
        torch.from_numpy(X),
        torch.from_numpy(y)[None],
        torch.tensor([C], dtype=torch.float64),
        n_classes=k,
        weights=w,
    )
    return fits.coef[0].numpy(), fits.intercept[0].numpy()


@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_scikit_learns(n, d, k, weighted):
    X, y = make(n, d, k)
    w = np.random.default_rng(1).uniform(0, 2, n) if weighted else None
    coef, b = fit("ridge", X, y, C=0.2, weights=w)
    theirs = RidgeClassifier(alpha=1 / 0.4, solver="cholesky").fit(X, y, w)
    np.testing.assert_allclose(coef, np.atleast_2d(theirs.coef_), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(b, theirs.intercept_, rtol=1e-6)
    assert np.abs(fit("ridge", X, y, C=2.0, weights=w)[0] - theirs.coef_).max() > 1e-3


@pytest.mark.parametrize(("n", "d", "k"), SHAPES[:2])
def test_lda_without_shrinkage_is_scikit_learns(n, d, k):
    X, y = make(n, d, k)
    coef, b = fit("lda", X, y, C=1e12)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    margin, expected = X @ coef.T + b, theirs.decision_function(X)
    if k > 2:  # a shift common to the classes changes no probability
        margin, expected = (m - m.mean(1, keepdims=True) for m in (margin, expected))
    np.testing.assert_allclose(np.squeeze(margin), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("k", [2, 3])
def test_lda_in_the_dual_is_the_formula(k):
    X, y = make(25, 40, k)
    coef, b = fit("lda", X, y, C=0.3)
    means = np.stack([X[y == c].mean(0) for c in range(k)])
    within = sum((X[y == c] - means[c]).T @ (X[y == c] - means[c]) for c in range(k))
    inverse = np.linalg.inv((within + np.eye(40) / 0.6) / 25)
    centre = X.mean(0)
    scores = (X - centre) @ inverse @ (means - centre).T
    scores += np.log(np.bincount(y) / 25)
    scores -= np.einsum("cd,de,ce->c", means - centre, inverse, means - centre) / 2
    margin = X @ coef.T + b
    if k == 2:
        np.testing.assert_allclose(margin[:, 0], scores[:, 1] - scores[:, 0], rtol=1e-6)
    else:
        np.testing.assert_allclose(margin, scores, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_nearest_centroid_is_scikit_learns(n, d, k):
    X, y = make(n, d, k)
    coef, b = fit("nearest_centroid", X, y)
    margin = X @ coef.T + b
    answer = margin.argmax(1) if k > 2 else (margin[:, 0] > 0).astype(int)
    np.testing.assert_array_equal(answer, NearestCentroid().fit(X, y).predict(X))


@pytest.mark.parametrize("k", [2, 3])
def test_difference_of_means_by_the_formula(k):
    X, y = make(60, 5, k)
    coef, b = fit("difference_of_means", X, y)
    for row, c in enumerate([1] if k == 2 else range(k)):
        line = X[y == c].mean(0) - X[y != c].mean(0)
        cosine = coef[row] @ line / np.linalg.norm(coef[row]) / np.linalg.norm(line)
        assert cosine == pytest.approx(1)
        one = LinearDiscriminantAnalysis(solver="lsqr").fit((X @ line)[:, None], y == c)
        np.testing.assert_allclose(
            X @ coef[row] + b[row], one.decision_function((X @ line)[:, None]), rtol=1e-8
        )


@pytest.mark.parametrize("kind", CLOSED)
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_weights_repeat_rows_and_problems_do_not_touch(kind, n, d, k):
    X, y = make(n, d, k)
    count = np.random.default_rng(1).integers(0, 3, n)
    coef, b = fit(kind, X, y, weights=count.astype(float))
    repeated, again = fit(kind, np.repeat(X, count, 0), np.repeat(y, count))
    scale = np.abs(coef).max()
    np.testing.assert_allclose(coef, repeated, atol=1e-7 * scale)
    np.testing.assert_allclose(b, again, rtol=1e-6)
    # Three problems at once, each with labels and strength of its own.
    other = np.random.default_rng(2).permutation(y)
    fits = fit_closed(
        kind,
        torch.from_numpy(X),
        torch.from_numpy(np.stack([y, other, y])),
        torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64),
        n_classes=k,
        weights=torch.from_numpy(np.stack([count, np.ones(n), count]).astype(float)),
    )
    for i, (labels, C, w) in enumerate([(y, 0.1, count), (other, 1.0, None), (y, 10.0, count)]):
        alone = fit(kind, X, labels, C, None if w is None else w.astype(float))
        np.testing.assert_allclose(fits.coef[i], alone[0], atol=1e-7 * np.abs(alone[0]).max())
        np.testing.assert_allclose(fits.intercept[i], alone[1], rtol=1e-5, atol=1e-8)


def test_classes_with_one_mean_have_no_direction():
    X = np.tile([[1.0, 2.0], [3.0, 4.0]], (6, 1))
    y = np.repeat([0, 1], 6)
    for kind in CLOSED:
        coef, b = fit(kind, X, y)
        assert np.abs(coef).max() < 1e-9
        assert b[0] == pytest.approx(0, abs=1e-9)
