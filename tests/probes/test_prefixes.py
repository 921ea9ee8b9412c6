"""Prefix curves: a nested representation, its controls, and where they must agree."""

import numpy as np
import pytest

from interp.errors import ParameterError
from probes.geometry import prefix_curve


@pytest.fixture(scope="module")
def nested():
    """Two dimensions that say the class, then fourteen louder ones that do not."""
    draw = np.random.default_rng(0)
    y = np.arange(240) % 2
    X = draw.normal(size=(240, 16)) * np.r_[1, 1, np.full(14, 8.0)]
    X[:, :2] += 3 * (2 * y[:, None] - 1)
    return X, y


def test_first_dimensions_say_it_and_other_orders_need_more(nested):
    curve = prefix_curve(*nested)
    at = curve.x.tolist().index(2)
    assert curve.x.tolist() == [1, 2, 4, 8, 16]
    for name in ("probe", "neighbour"):
        assert curve.lines[name][at] > 0.95
        assert curve.lines[f"{name}, PCA"][at] < 0.75  # the louder dimensions come first
        assert curve.lines[f"{name}, permuted"][at] < 0.9
    backwards = prefix_curve(nested[0][:, ::-1].copy(), nested[1])
    assert backwards.lines["probe"][at] < 0.7


def test_all_orders_agree_on_all_dimensions_and_controls_do_not_see_the_order(nested):
    X, y = nested
    curve = prefix_curve(X, y)
    for name in ("probe", "neighbour"):
        for control in ("PCA", "permuted"):
            assert curve.lines[f"{name}, {control}"][-1] == pytest.approx(curve.lines[name][-1])
    order = np.random.default_rng(1).permutation(16)
    moved = prefix_curve(X[:, order] + 5, y)
    np.testing.assert_allclose(moved.lines["probe, PCA"], curve.lines["probe, PCA"])
    assert (moved.lines["probe"] != curve.lines["probe"]).any()


def test_each_length_is_ridge_regression_on_that_prefix(nested):
    from sklearn.linear_model import Ridge

    from probes.prefixes import FOLDS, RIDGE
    from probes.splits import grouped_folds

    X, y = nested
    fold = grouped_folds(y, None, folds=FOLDS, seed=0)
    X = X + 4.0 * (fold == 0)[:, None]  # what is held out has a mean of its own, and no say
    train = X[fold != 0] - X[fold != 0].mean(0)
    strength = RIDGE * (train**2).sum(0).mean()
    for m, accuracy in zip(
        (1, 3, 16), prefix_curve(X, y, lengths=[1, 3, 16]).lines["probe"], strict=True
    ):
        ridge = Ridge(alpha=strength).fit(X[fold != 0][:, :m], y[fold != 0])
        said = ridge.predict(X[fold == 0][:, :m]) > 0.5
        assert accuracy == pytest.approx((said == y[fold == 0]).mean())


def test_shuffled_labels_are_at_chance_and_groups_stay_together(nested):
    X, y = nested
    draw = np.random.default_rng(2)
    assert abs(prefix_curve(X, draw.permutation(y)).lines["probe"].mean() - 0.5) < 0.12
    # Each row twice: a split that parts the two lets the nearest neighbour answer any label.
    noise = draw.normal(size=(60, 5))
    twice, labels = np.repeat(noise, 2, axis=0), np.repeat(draw.permutation(60) % 2, 2)
    leaky = prefix_curve(twice, labels).lines["neighbour"][-1]
    kept = prefix_curve(twice, labels, groups=np.repeat(np.arange(60), 2)).lines["neighbour"][-1]
    assert leaky > kept + 0.15


def test_what_has_no_curve_and_what_is_refused(nested):
    X, y = nested
    assert "one class" in prefix_curve(X, np.zeros(240)).reason
    assert "one point" in prefix_curve(np.ones((240, 3)), y).reason
    assert "only one row" in prefix_curve(X[:5], [0, 0, 1, 1, 2]).reason
    assert prefix_curve(X, y, rows=100).lines["probe"][1] > 0.9
    for lengths in ([2, 2], [0, 3], [4, 17], []):
        with pytest.raises(ParameterError, match="lengths must rise from 1 to 16"):
            prefix_curve(X, y, lengths=np.array(lengths))


def test_rows_to_learn_from_that_are_one_point_have_no_curve():
    from probes.prefixes import FOLDS
    from probes.splits import grouped_folds

    y = np.arange(40) % 2
    held = np.flatnonzero(grouped_folds(y, None, folds=FOLDS, seed=0) == 0)
    X = np.zeros((40, 3))
    X[held[0]] = 1.0
    assert "rows to learn from" in prefix_curve(X, y).reason
    X[np.setdiff1d(np.arange(40), held)[0]] = 1.0
    assert prefix_curve(X, y).reason is None
