"""Variance explained: h = (3a, b) by hand, invariances, held-out honesty, unique shares."""

import numpy as np
import pytest
import torch

from interp.errors import DataError, ParameterError
from interp.store import ActivationStore
from probes.explained import FoldSums, variance_explained

GRID = np.array([(a, b) for a in (-1, 1) for b in (-1, 1)] * 25)
A, B = GRID.T
H = np.stack([3.0 * A, 1.0 * B], 1)


def test_two_features_by_hand():
    found = variance_explained(H, {"a": A, "b": B, "ab": A * B}, folds=1)
    assert found.raw[0].tolist() == pytest.approx([0.9, 0.1, 0.0], abs=1e-12)
    assert found.standardised[0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-12)
    assert found.unique[0].tolist() == pytest.approx([0.9, 0.1, 0.0], abs=1e-12)
    assert found.together[0] == pytest.approx(1) and found.interactions[0] == pytest.approx(0)
    assert np.allclose(found.by_unit["X"], [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert found.component_share["X"] == pytest.approx([0.9, 0.1])
    assert np.allclose(found.by_component["X"], [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_what_only_the_combination_tells_is_interaction():
    found = variance_explained(np.stack([A * B, A], 1) * 1.0, {"a": A, "b": B}, folds=1)
    assert found.raw[0].tolist() == pytest.approx([0.5, 0.0], abs=1e-12)
    assert found.interactions[0] == pytest.approx(0.5)
    single = variance_explained(H, {"a": A})
    assert np.isnan(single.interactions[0]) and "two features" in single.reasons["interactions"]
    number = variance_explained(H, {"a": A, "b": B.astype(float)})
    assert np.isnan(number.interactions[0])


def test_features_that_tell_the_same_share_it():
    found = variance_explained(H, {"a": A, "again": A, "b": B}, folds=1)
    assert found.unique[0].tolist() == pytest.approx([0, 0, 0.1], abs=1e-9)
    assert found.shared[0].tolist() == pytest.approx([0.9, 0.9, 0], abs=1e-9)
    assert found.together[0] == pytest.approx(1)


def test_held_out_a_feature_without_meaning_explains_nothing_and_in_sample_it_seems_to():
    rng = np.random.default_rng(0)
    x, junk = rng.normal(size=(200, 30)), rng.integers(0, 40, 200)
    assert variance_explained(x, {"junk": junk}, folds=1).raw[0, 0] > 0.15
    assert variance_explained(x, {"junk": junk}).raw[0, 0] < 0
    real = variance_explained(x + 2.0 * (junk % 2)[:, None], {"odd": junk % 2})
    assert 0.45 < real.raw[0, 0] < 0.55  # variance 1 of 2


def test_a_number_is_a_line_and_a_class_a_mean_each():
    t = np.linspace(-1, 1, 101)
    assert variance_explained(t[:, None] * [[2.0, 1.0]], {"t": t}).raw[0, 0] == pytest.approx(1)
    bent = (t**2)[:, None]
    assert variance_explained(bent, {"t": t}, folds=1).raw[0, 0] == pytest.approx(0, abs=1e-12)
    third = np.repeat([0, 1, 2], 30)
    x = np.array([0.0, 5.0, 1.0])[third][:, None]
    assert variance_explained(x, {"k": third}).raw[0, 0] == pytest.approx(1)


RNG = np.random.default_rng(1)
X = RNG.normal(size=(150, 6)) + np.outer(np.repeat([0, 1, 2], 50), [4, 0, 1, 0, 0, 0])
Y = {"k": np.repeat([0, 1, 2], 50), "v": RNG.integers(0, 2, 150)}
TURN = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
CHANGES = {
    "rotate": lambda x: x @ TURN,
    "scale": lambda x: 7.0 * x,
    "shift": lambda x: x + 100.0,
    "permute": lambda x: x[:, ::-1],
    "units": lambda x: x * np.array([1, 10, 1, 0.1, 1, 1]),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize(
    ("field", "keeps"),
    [
        ("raw", {"rotate", "scale", "shift", "permute"}),
        ("standardised", {"scale", "shift", "permute", "units"}),
    ],
)
def test_invariances_hold_as_claimed_and_fail_where_they_are_not(field, keeps, change):
    before, after = (getattr(variance_explained(x, Y), field) for x in (X, CHANGES[change](X)))
    assert np.allclose(before, after, atol=1e-9) == (change in keeps)


@pytest.mark.parametrize("split", [1, 60, 149])
def test_sums_of_batches_joined_are_those_of_one_pass(split):
    x, design = torch.from_numpy(X), torch.from_numpy(np.eye(3)[Y["k"]])
    fold = torch.arange(150) % 4
    whole = FoldSums(x.mean(0), 4).update(x, design, fold)
    a = FoldSums(x.mean(0), 4).update(x[split:], design[split:], fold[split:])
    b = FoldSums(x.mean(0), 4).update(x[:split], design[:split], fold[:split])
    for one, two in zip(a.merge(b).residuals([0, 1]), whole.residuals([0, 1]), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_held_out_equals_a_plain_loop_over_folds(monkeypatch):
    monkeypatch.setattr("probes.explained.BLOCK", 37)
    found = variance_explained(X, {"k": Y["k"]}, folds=3, seed=5)
    fold = np.random.default_rng(5).permutation(150) % 3
    left = around = 0.0
    for k in range(3):
        train, test = fold != k, fold == k
        means = np.stack([X[train & (Y["k"] == c)].mean(0) for c in range(3)])
        left += ((X[test] - means[Y["k"][test]]) ** 2).sum()
        around += ((X[test] - X[train].mean(0)) ** 2).sum()
    assert found.raw[0, 0] == pytest.approx(1 - left / around, rel=1e-10)


def test_groups_stay_on_one_side():
    groups = np.arange(150) // 5
    own = RNG.normal(size=(30, 6))[groups]
    leaky = variance_explained(own, {"group": groups})
    honest = variance_explained(own, {"group": groups}, groups=groups)
    assert leaky.raw[0, 0] > 0.99 and honest.raw[0, 0] < 0.01


def test_a_store_dead_units_and_a_far_mean(tmp_path):
    dead = np.concatenate([H, np.full((100, 1), 3.0)], 1) + 1e6
    store = ActivationStore.from_tensors({"l": torch.from_numpy(dead)}, {"a": A, "b": B})
    found = variance_explained(store, store.rows[["a", "b"]], folds=1)
    assert found.live.tolist() == [2] and found.standardised[0] == pytest.approx([0.5, 0.5])
    assert np.isnan(found.by_unit["l"][2]).all() and found.raw[0] == pytest.approx([0.9, 0.1])
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.by_unit["l"], found.by_unit["l"], equal_nan=True)


def test_degenerate_input_is_nan_with_its_reason():
    bad = H.copy()
    bad[0, 0] = np.inf
    found = variance_explained({"bad": bad, "flat": np.ones((100, 2)), "h": H}, {"a": A, "b": B})
    assert np.isnan(found.raw[:2]).all() and np.isfinite(found.raw[2]).all()
    assert "not finite" in found.reasons["bad"] and "no unit" in found.reasons["flat"]
    one = variance_explained(H, {"one": np.zeros(100, dtype=int), "b": B})
    assert np.isnan(one.raw[0, 0]) and one.raw[0, 1] > 0 and "one value" in one.reasons["one"]
    wide = variance_explained(RNG.normal(size=(20, 50)), {"y": np.arange(20) % 2})
    assert np.isfinite(wide.raw).all()  # n < d
    twice = variance_explained(np.repeat(H, 2, 0), {"a": np.repeat(A, 2)}, folds=1)
    assert twice.raw[0, 0] == pytest.approx(0.9)


def test_refusals():
    with pytest.raises(ParameterError, match="0 components or more; got 0, 10"):
        variance_explained(H, {"a": A}, folds=0)
    with pytest.raises(DataError, match="of one group"):
        variance_explained(H, {"a": A}, groups=np.zeros(100, int))
    with pytest.raises(DataError, match="at least one feature"):
        variance_explained(H, {})
    with pytest.raises(DataError, match="missing or not finite"):
        variance_explained(H, {"a": np.full(100, np.nan)})


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_a_number_does_not_matter(unit, monkeypatch):
    monkeypatch.setattr("probes.explained.BLOCK", 30)  # rows are taken about the first 30's mean
    t = np.random.default_rng(3).normal(size=150)
    moved = X + np.outer(t, np.ones(6))
    plain, other = (variance_explained(moved, {"t": s * t}).raw for s in (1.0, unit))
    assert plain[0, 0] > 0.2 and np.allclose(plain, other, atol=1e-9)
    with_class = [variance_explained(moved, {"t": s * t, **Y}).together for s in (1.0, unit)]
    assert np.allclose(*with_class, atol=1e-9)


def test_sums_about_other_points_are_not_joined():
    a, b = (FoldSums(torch.full((6,), v, dtype=torch.float64), 2) for v in (0.0, 1.0))
    with pytest.raises(ParameterError, match="other points or folds"):
        a.merge(b)
