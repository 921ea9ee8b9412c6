"""Information by bins and by kernel: the numbers of the methods, invariances, what saturates."""

import math

import numpy as np
import pytest
import torch

from interp.errors import DataError, ParameterError, ShapeError
from interp.store import ActivationStore
from probes.information import BinCounter, entropy, kernel_information
from probes.plane import information_plane

RNG = np.random.default_rng(0)
NAT = math.log2(math.e)


def test_eight_points_far_apart_hold_three_bits_and_equal_points_none():
    far = 100.0 * np.arange(8.0)[:, None]
    found = kernel_information(far, noise=1.0)
    assert found.xt == pytest.approx(3.0, abs=1e-12) == found.xt_low
    same = kernel_information(np.full((8, 3), 7.25), noise=1.0)
    assert same.xt == 0 == same.xt_low
    near = kernel_information(far / 100, noise=1.0)
    assert near.xt_low < near.xt < 2  # the arm in which they overlap
    assert BinCounter(0, 800, bins=8).update(far).result().xt == 3.0
    assert BinCounter(0, 800, bins=8).update(np.full((8, 3), 7.25)).result().xt == 0.0


def test_two_points_by_hand():
    found = kernel_information(np.array([[0.0], [1.0]]), noise=1.0)
    assert found.xt / NAT == pytest.approx(0.21907, abs=5e-6)
    assert found.xt_low / NAT == pytest.approx(0.06055, abs=5e-6)
    assert found.xt / NAT == pytest.approx(-math.log((1 + math.exp(-0.5)) / 2), rel=1e-12)
    assert found.xt_low / NAT == pytest.approx(-math.log((1 + math.exp(-0.125)) / 2), rel=1e-12)


@pytest.mark.parametrize("method", ["bins", "kernel"])
def test_a_layer_that_is_the_balanced_label_tells_one_bit(method):
    y = np.arange(40) % 2
    plane = information_plane(1000.0 * y[:, None], y, method=method, noise=1.0)
    assert plane.xt[0, 0] == pytest.approx(1) and plane.ty[0, 0] == pytest.approx(1)
    other = information_plane(1000.0 * y[:, None], np.arange(40) // 20, method=method, noise=1.0)
    assert other.xt[0, 0] == pytest.approx(1) and other.ty[0, 0] == pytest.approx(0, abs=1e-9)


def test_what_lies_outside_the_bins_has_a_bin_of_its_own_at_its_end():
    x = np.array([[-3.0], [-1.0], [0.999], [1.0], [3.0]])
    found = BinCounter(-1, 1, bins=30).update(x).result()
    assert found.xt == pytest.approx(entropy([1, 1, 2, 1]))  # -3 is not the top bin, 3 is above it
    wrapped = (np.digitize(x[:, 0], np.linspace(-1, 1, 30)) - 1) % 30
    assert wrapped[0] == wrapped[3] == wrapped[4]  # what the released code makes of it


def test_bins_of_a_width_by_hand():
    x = np.array([[0.0, 0.1], [0.06, 0.13], [0.08, 0.1], [-0.01, 0.1]])
    assert BinCounter(width=0.07).update(x).result().xt == pytest.approx(entropy([2, 1, 1]))


@pytest.mark.parametrize("split", [1, 7, 50, 99])
def test_counts_of_batches_joined_are_those_of_one_pass(split):
    x, y = RNG.normal(size=(100, 2)), RNG.integers(0, 3, 100)
    whole = BinCounter(-2, 2, bins=4).update(x, y).result()
    apart = BinCounter(-2, 2, bins=4).update(x[split:], y[split:])
    parts = apart.merge(BinCounter(-2, 2, bins=4).update(x[:split], y[:split])).result()
    assert parts == whole or (math.isnan(whole.xt_low) and parts[:2] == whole[:2])
    assert parts.distinct == whole.distinct and 0 < whole.ty < whole.xt
    with pytest.raises(ParameterError, match="other bins"):
        BinCounter(-2, 2, bins=4).merge(BinCounter(-2, 2, bins=5))


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


X = RNG.normal(size=(120, 4))
Y = (X[:, 0] > 0).astype(int)
CHANGES = {
    "rotate": lambda x: x @ rotation(4),
    "scale": lambda x: 3.0 * x,
    "shift": lambda x: x + 5.0,
    "permute": lambda x: x[:, [2, 0, 3, 1]],
}


def numbers(x, method, **kwargs):
    plane = information_plane(x, Y, method=method, bins=4, noise=0.5, **kwargs)
    return plane.xt[0, 0], plane.ty[0, 0]


@pytest.mark.parametrize(
    ("method", "kwargs", "keeps"),
    [
        ("bins", {}, {"scale", "shift", "permute"}),
        ("bins", {"ends": (-2.0, 2.0)}, {"permute"}),
        ("kernel", {}, {"rotate", "shift", "permute"}),
        ("kernel", {"relative": True}, {"rotate", "scale", "shift", "permute"}),
    ],
)
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_invariances_hold_as_claimed_and_fail_where_they_are_not(method, kwargs, keeps, change):
    before, after = numbers(X, method, **kwargs), numbers(CHANGES[change](X), method, **kwargs)
    assert np.allclose(before, after, atol=1e-9) == (change in keeps)


def test_the_order_of_rows_changes_nothing_but_the_labels_must_follow():
    order = RNG.permutation(len(X))
    plain = information_plane(X, Y, method="kernel", noise=0.5)
    moved = information_plane(X[order], Y[order], method="kernel", noise=0.5)
    assert moved.ty[0, 0] == pytest.approx(plain.ty[0, 0])
    lost = information_plane(X[order], Y, method="kernel", noise=0.5)
    assert lost.ty[0, 0] < plain.ty[0, 0] - 0.1


def test_blocks_of_pairs_add_up_to_all_pairs(monkeypatch):
    whole = kernel_information(X, Y, noise=0.5)
    monkeypatch.setattr("probes.information.BLOCK", 32)
    parts = kernel_information(X, Y, noise=0.5)
    assert np.allclose(parts[:4], whole[:4], atol=1e-12)


def test_a_full_plane_says_that_it_is_full():
    wide, y = RNG.normal(size=(64, 200)), np.arange(64) % 2
    plane = information_plane({"wide": wide, "narrow": wide[:, :1]}, y, bins=4)
    assert plane.xt[0, 0] == plane.ceiling == 6.0 and plane.ty[0, 0] == plane.label_entropy == 1
    assert any("wide" in c and "narrow" not in c for c in plane.caveats[3:])
    assert any("log2 n" in c for c in plane.caveats)
    assert len(information_plane(wide[:, :1], y, bins=4).caveats) == 3


def test_steps_and_layers_of_a_training():
    steps = [{"a": X * s, "b": X[:, :2] * s} for s in (0.1, 1.0, 10.0)]
    plane = information_plane(steps, Y, steps=[0, 5, 50], method="kernel", noise=0.5)
    assert plane.xt.shape == (3, 2) and (np.diff(plane.xt, axis=0) > 0).all()
    frame = plane.to_frame()
    assert list(frame.step.unique()) == [0, 5, 50] and list(frame.layer[:2]) == ["a", "b"]
    one = information_plane(steps[1], Y, method="kernel", noise=0.5)
    assert np.array_equal(one.xt[0], plane.xt[1])


def test_a_store_is_read_as_its_layers(tmp_path):
    store = ActivationStore.from_tensors({"a": torch.from_numpy(X).float()}, {"y": Y})
    plane = information_plane(store, store.rows["y"], bins=4)
    assert plane.layers == ("a",) and plane.n == 120
    loaded = type(plane).load(plane.save(tmp_path / "plane.json"))
    assert np.array_equal(loaded.xt, plane.xt) and loaded.caveats == plane.caveats


@pytest.mark.parametrize("method", ["bins", "kernel"])
def test_degenerate_input_is_nan_with_its_reason(method):
    bad = X.copy()
    bad[3, 1] = np.nan
    plane = information_plane({"bad": bad, "good": X}, Y, method=method, bins=4)
    assert np.isnan([plane.xt[0, 0], plane.ty[0, 0]]).all() and np.isfinite(plane.xt[0, 1])
    assert "1 rows are not finite" in plane.reasons["bad, 0"]
    one = information_plane(X, np.zeros(120, dtype=int), method=method, bins=4)
    assert np.isnan(one.ty[0, 0]) and "one class only" in one.reasons["ty"] and one.xt[0, 0] > 0
    none = information_plane(X, method=method, bins=4)
    assert np.isnan(none.ty[0, 0]) and none.reasons["ty"] == "there are no labels."
    constant = information_plane(np.ones((120, 3)), Y, method=method, bins=4)
    assert constant.xt[0, 0] == 0 and constant.ty[0, 0] == pytest.approx(0, abs=1e-12)
    doubled = information_plane(np.repeat(X, 2, 0), np.repeat(Y, 2), method=method, bins=4)
    single = information_plane(X, Y, method=method, bins=4)
    assert doubled.xt[0, 0] == pytest.approx(single.xt[0, 0])  # duplicates add no information


def test_refusals():
    with pytest.raises(ParameterError, match="bins, kernel; got 'knn'"):
        information_plane(X, Y, method="knn")
    with pytest.raises(ParameterError, match="variance above 0"):
        kernel_information(X, noise=0)
    with pytest.raises(ParameterError, match="one a source; got 2 for 1"):
        information_plane([X], Y, steps=[0, 1])
    with pytest.raises(ShapeError, match="same layers and rows"):
        information_plane([{"a": X}, {"b": X}], Y, steps=[0, 1])
    with pytest.raises(DataError, match="119 labels for 120 rows"):
        information_plane(X, Y[:-1])
    with pytest.raises(ParameterError, match="width above 0"):
        BinCounter(width=-1)


def test_rows_that_are_drawn_keep_their_labels():
    y = np.random.default_rng(4).permutation(np.arange(200) % 2)
    for method in ("bins", "kernel"):
        found = information_plane(1000.0 * y[:, None], y, method=method, most=60, noise=1.0)
        share = entropy(np.bincount(y[np.sort(np.random.default_rng(0).permutation(200)[:60])]))
        assert found.n == 60 and found.ty[0, 0] == pytest.approx(share)
