import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from interp.errors import ParameterError, UndefinedMeasure
from probes import LinearProbe, released_split
from probes.closed import CLOSED
from probes.linear import KINDS
from probes.scores import area_under_curve, f1_score

PROBES = [
    LinearProbe(),
    LinearProbe(standardize=True),
    *(LinearProbe(kind=kind) for kind in CLOSED),
    LinearProbe(kind="lda", standardize=True),
]


def excused(probe):
    if probe.kind != "nearest_centroid":
        return {}
    return {"check_class_weight_classifiers": "the mean of a class does not move with its weight"}


@parametrize_with_checks(PROBES, expected_failed_checks=excused)
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def make(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, (2 * X[:, :k] + rng.gumbel(size=(n, k))).argmax(1)


def reference(**options):
    return LogisticRegression(tol=1e-10, max_iter=10000, **options)


def apart(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("n", "d"), [(150, 12), (50, 90)])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_its_optimum_is_scikit_learns(n, d, k, C):
    X, y = make(n, d, k)
    ours, theirs = LinearProbe(C).fit(X, y), reference(C=C).fit(X, y)
    assert apart(ours.coef_, theirs.coef_) < 1e-4
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    assert ours.converged_
    assert ours.error_ <= ours.tol
    assert apart(LinearProbe(2 * C).fit(X, y).coef_, theirs.coef_) > 1e-2  # the test can fail


@pytest.mark.parametrize("k", [2, 3])
def test_weights_mean_what_they_mean_in_scikit_learn(k):
    X, y = make(120, 8, k)
    weight = np.random.default_rng(1).uniform(0, 2, len(y))
    for option in ("balanced", {0: 3.0, 1: 0.5}):
        ours = LinearProbe(class_weight=option).fit(X, y, weight)
        theirs = reference(class_weight=option).fit(X, y, weight)
        assert apart(ours.coef_, theirs.coef_) < 1e-4


def test_standardising_is_a_scaler_before_the_probe():
    X, y = make(120, 8, 2)
    X = X * 10.0 ** np.arange(-3, 5) + 50
    ours = LinearProbe(standardize=True).fit(X, y)
    theirs = make_pipeline(StandardScaler(), reference()).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(ours.coef_, theirs[-1].coef_ / theirs[0].scale_, rtol=1e-3, atol=0)


def test_a_constant_feature_gets_no_weight():
    X, y = make(60, 3, 2)
    X[:, 1] = 0.1
    assert LinearProbe(standardize=True).fit(X, y).coef_[0, 1] == pytest.approx(0, abs=1e-12)


def test_a_rotation_leaves_the_unstandardised_probe_as_it_is():
    X, y = make(150, 10, 3)
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    X = X * np.arange(1, 11)
    plain, turned = LinearProbe().fit(X, y), LinearProbe().fit(X @ Q, y)
    np.testing.assert_allclose(plain.predict_proba(X), turned.predict_proba(X @ Q), atol=1e-6)
    one, other = (LinearProbe(standardize=True).fit(Z, y) for Z in (X, X @ Q))
    assert np.abs(one.predict_proba(X) - other.predict_proba(X @ Q)).max() > 1e-4


def test_released_recipe_of_concept_depth():
    """The published check; its AUC and coefficient are those of lbfgs stopped at 1e-4."""
    X = np.random.RandomState(0).randn(200, 16)
    X[100:, 0] += 1.0
    y = np.repeat([0, 1], 100)
    train, test = released_split(200)
    assert y[test].sum() == 40
    for probe, area, weight in (
        (LogisticRegression(), 0.661250, 1.14448),
        (LinearProbe(), 0.660625, 1.14436),  # the optimum ranks one pair of 1,600 otherwise
    ):
        probe.fit(X[train], y[train])
        hit, score = probe.predict(X[test]), probe.decision_function(X[test])
        assert (hit == y[test]).mean() == pytest.approx(0.5875)
        assert f1_score(y[test], hit, 2) == pytest.approx(0.571429, abs=1e-6)
        assert area_under_curve(y[test], score, np.zeros(80)) == pytest.approx(area)
        assert probe.coef_[0, 0] == pytest.approx(weight, abs=1e-5)


def test_takes_tensors_and_frames():
    X, y = make(80, 5, 2)
    plain = LinearProbe().fit(X, y)
    tensor = LinearProbe().fit(torch.from_numpy(X), torch.from_numpy(y))
    np.testing.assert_array_equal(plain.coef_, tensor.coef_)
    np.testing.assert_array_equal(plain.predict(X), tensor.predict(torch.from_numpy(X)))
    half = LinearProbe().fit(torch.from_numpy(X).bfloat16().requires_grad_(), y)
    assert apart(half.coef_, plain.coef_) < 0.05
    frame = pd.DataFrame(X, columns=list("abcde"))
    assert LinearProbe().fit(frame, y).feature_names_in_.tolist() == list("abcde")


def test_works_in_searches_and_group_folds():
    X, y = make(90, 5, 2)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearProbe()), {"linearprobe__C": [1e-4, 1.0]}, cv=3
    ).fit(X, y)
    assert search.best_params_ == {"linearprobe__C": 1.0}
    scores = cross_val_score(
        LinearProbe(), X, y, groups=np.arange(90) // 3, cv=GroupKFold(3), error_score="raise"
    )
    assert scores.mean() > 0.7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [2, 3])
def test_every_kind_reads_and_searches(kind, k):
    X, y = make(150, 5, k)
    names = np.array(["a", "b", "c"])[y]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearProbe(kind=kind)),
        {"linearprobe__C": [1e-3, 1.0]},
        cv=GroupKFold(3),
    ).fit(X, names, groups=np.arange(150) // 3)
    assert search.best_score_ > 0.65
    probe = search.best_estimator_
    assert set(probe.predict(X)) == set(names)
    if kind in ("ridge", "nearest_centroid"):
        with pytest.raises(AttributeError):
            _ = probe.predict_proba
    else:
        p = probe.predict_proba(X)
        np.testing.assert_allclose(p.sum(1), 1)
        np.testing.assert_array_equal(probe.classes_[p.argmax(1)], probe.predict(X))


def test_direction_is_a_unit_vector_in_the_units_of_X():
    X, y = make(200, 6, 2)
    X[:, 0] *= 100
    probe = LinearProbe(standardize=True).fit(X, y)
    assert probe.direction_.shape == (6,)
    assert np.linalg.norm(probe.direction_) == pytest.approx(1)
    further = probe.decision_function(X + probe.direction_)
    assert (further > probe.decision_function(X)).all()
    many = LinearProbe().fit(*make(100, 6, 3)).direction_
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1)


def test_no_direction_without_coefficients():
    probe = LinearProbe().fit(np.ones((6, 3)), [0, 1, 0, 1, 1, 1])
    assert probe.intercept_[0] == pytest.approx(np.log(2), abs=1e-6)
    with pytest.warns(UndefinedMeasure, match="all zero"):
        assert np.isnan(probe.direction_).all()


def test_refuses_in_one_sentence():
    X, y = make(20, 3, 2)
    with pytest.raises(ParameterError, match="C must be positive; got -1"):
        LinearProbe(-1).fit(X, y)
    with pytest.raises(ParameterError, match="kind must be one of logistic, ridge"):
        LinearProbe(kind="svm").fit(X, y)
    with pytest.raises(ValueError, match="class 1 has no weight"):
        LinearProbe(kind="lda").fit(X, y, 1.0 - y)
    with pytest.raises(ValueError, match="one class"):
        LinearProbe().fit(X, np.zeros(20))
    with pytest.raises(ValueError, match="NaN"):
        LinearProbe().fit(np.where(X > 2, X, np.nan), y)
    with pytest.raises(NotFittedError):
        _ = LinearProbe().direction_
    with pytest.warns(ConvergenceWarning, match="took 1 Newton steps"):
        assert not LinearProbe(max_iter=1).fit(X, y).converged_


@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 90)])
def test_large_and_collinear_features_are_fitted(n, d):
    X, y = make(n, d, 2)
    X[:, -1] = X[:, 0]
    X[n // 2 :] = X[: n - n // 2]  # rows twice
    y[n // 2 :] = y[: n - n // 2]
    plain = LinearProbe(1.0).fit(X, y)
    large = LinearProbe(1e-8).fit(1e4 * X, y)  # the same problem in other units
    np.testing.assert_allclose(1e4 * large.coef_, plain.coef_, atol=1e-6)
    assert plain.converged_
    theirs = reference().fit(X, y)
    assert apart(plain.coef_, theirs.coef_) < 1e-4
    assert LinearProbe(100.0).fit(1e3 * X + 500, y).score(1e3 * X + 500, y) == 1
