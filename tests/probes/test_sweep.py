import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.linear import LinearProbe
from probes.splits import grouped_folds
from probes.sweep import Weighing, held_out

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


@pytest.mark.parametrize("kind", ["logistic", "ridge", "lda", "difference_of_means"])
def test_every_kind_answers_as_its_estimator(kind):
    X, y, fold = make(k=3)
    found = held_out(torch.from_numpy(X), y[None], fold, 3, (0.5,), kind=kind, whole=True)
    scaled = kind != "difference_of_means"
    for a in range(4):
        probe = LinearProbe(0.5, kind=kind, standardize=scaled).fit(X[fold != a], y[fold != a])
        expected = probe.decision_function(X[fold == a]).T
        np.testing.assert_allclose(
            found.margin[0][:, fold == a], expected, atol=1e-4 * np.abs(expected).max()
        )
        if found.probability is not None:
            np.testing.assert_allclose(
                found.probability[:, fold == a], probe.predict_proba(X[fold == a]).T, atol=1e-4
            )
    everything = LinearProbe(0.5, kind=kind, standardize=scaled).fit(X, y)
    np.testing.assert_allclose(
        found.coef, everything.coef_, atol=1e-4 * np.abs(everything.coef_).max()
    )
    assert np.isnan(found.strength).any() == (kind == "difference_of_means")
    assert (found.probability is None) == (kind == "ridge")


@pytest.mark.parametrize("kind", ["logistic", "ridge", "lda", "nearest_centroid"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_weights_are_those_of_the_estimator(kind, class_weight):
    X, y, fold = make()
    y = np.where(np.arange(120) % 3 == 0, y, 0)
    sample = np.random.default_rng(1).uniform(0, 2, 120)
    weighing = Weighing(
        sample, np.array([3.0, 0.5]) if isinstance(class_weight, dict) else class_weight
    )
    found = held_out(torch.from_numpy(X), y[None], fold, 2, (0.5,), kind=kind, weighing=weighing)
    plain = held_out(torch.from_numpy(X), y[None], fold, 2, (0.5,), kind=kind)
    assert np.abs(found.margin - plain.margin).max() > 1e-3
    for a in range(4):
        probe = LinearProbe(0.5, kind=kind, standardize=True, class_weight=class_weight)
        probe.fit(X[fold != a], y[fold != a], sample[fold != a])
        expected = probe.decision_function(X[fold == a])
        np.testing.assert_allclose(
            found.margin[0, 0, fold == a], expected, atol=2e-3 * np.abs(expected).max()
        )


def test_strengths_are_chosen_for_every_penalised_kind():
    X, y, fold = make(d=60)
    for kind in ("ridge", "lda"):
        found = held_out(torch.from_numpy(X), y[None], fold, 2, (1e-6, 1e-3, 1e3), kind=kind)
        assert (found.strength == 1e-3).all()
        worst = held_out(torch.from_numpy(X), y[None], fold, 2, (1e3,), kind=kind)
        assert (found.predicted == y).mean() > (worst.predicted == y).mean()


def test_half_precision_rows_are_worked_on_in_float64():
    X, y, fold = make()
    half = torch.from_numpy(X).float()
    one = held_out(half, y[None], fold, 2, (0.5,))
    other = held_out(half.double(), y[None], fold, 2, (0.5,))
    np.testing.assert_array_equal(one.margin, other.margin)
