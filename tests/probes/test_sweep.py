import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.splits import grouped_folds
from probes.sweep import held_out

STRENGTHS = (1e-3, 1e-1, 10.0)


def make(k=2, n=120, d=15):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)) * 5 + 3
    y = (X[:, :k] / 5 + rng.gumbel(size=(n, k))).argmax(1)
    return X, y, grouped_folds(y, folds=4)


def probe(C):
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-10, max_iter=10000))


@pytest.mark.parametrize("k", [2, 3])
def test_is_nested_cross_validation_with_scikit_learn(k):
    X, y, fold = make(k)
    labels = np.stack([y, np.random.default_rng(1).permutation(y)])
    found = held_out(torch.from_numpy(X), labels, fold, k, STRENGTHS)
    assert found.converged
    for row, truth in enumerate(labels):
        for a in range(4):
            losses = []
            for C in STRENGTHS:
                loss = 0.0
                for b in set(range(4)) - {a}:
                    inner = (fold != a) & (fold != b)
                    fitted = probe(C).fit(X[inner], truth[inner])
                    guess = fitted.predict_proba(X[fold == b])
                    loss += log_loss(truth[fold == b], guess, normalize=False, labels=range(k))
                losses.append(loss)
            C = STRENGTHS[int(np.argmin(losses))]
            assert found.strength[row, a] == C
            fitted = probe(C).fit(X[fold != a], truth[fold != a])
            margin = found.margin[row][:, fold == a]
            expected = fitted.decision_function(X[fold == a])
            np.testing.assert_allclose(
                margin[0] if k == 2 else margin.T, expected, atol=2e-4 * np.abs(expected).max()
            )
            np.testing.assert_array_equal(
                found.predicted[row, fold == a], fitted.predict(X[fold == a])
            )


def test_held_out_rows_reach_no_training():
    X, y, fold = make()
    before = held_out(torch.from_numpy(X), y[None], fold, 2, STRENGTHS)
    X, y = X.copy(), y.copy()
    X[fold == 1] *= -7
    after = held_out(torch.from_numpy(X), y[None], fold, 2, STRENGTHS)
    # The probe that answers fold 1 did not see it: same strength, and margins of the new rows
    # are the same affine function of them.
    assert before.strength[0, 1] == after.strength[0, 1]
    one, other = before.margin[0, 0, fold == 1], after.margin[0, 0, fold == 1]
    slope = np.polyfit(one, other, 1)
    np.testing.assert_allclose(np.polyval(slope, one), other, rtol=1e-6)
    assert (before.margin[0, 0, fold == 0] != after.margin[0, 0, fold == 0]).all()


def test_one_strength_is_taken_as_it_is():
    X, y, fold = make()
    assert (held_out(torch.from_numpy(X), y[None], fold, 2, (0.5,)).strength == 0.5).all()


def test_a_class_that_two_folds_hold_between_them_can_still_be_probed():
    X, _, _ = make(n=40)
    y = np.array([0] * 38 + [1] * 2)
    fold = np.arange(40) % 4
    found = held_out(torch.from_numpy(X[:40]), y[None], fold, 2, STRENGTHS)
    assert np.isfinite(found.margin).all()
