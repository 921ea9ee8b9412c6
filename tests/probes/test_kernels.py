"""CKA: published numbers, invariances, its bias, and the stream."""

import numpy as np
import pytest
import torch

from interp.errors import ParameterError, ShapeError
from probes.geometry import KernelSums, cka, kernel_unit, one_hot

SQUARE = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], float)
FIRST, XOR = SQUARE[:, :1], SQUARE[:, :1] * SQUARE[:, 1:]


@pytest.mark.parametrize(
    ("X", "Y", "expected"),
    [
        (SQUARE, FIRST, 1 / np.sqrt(2)),
        (SQUARE, XOR, 0.0),
        (np.c_[SQUARE, XOR], XOR, 1 / np.sqrt(3)),
        (SQUARE, SQUARE, 1.0),
    ],
)
def test_the_square_and_its_labels(X, Y, expected):
    assert cka(X, Y, unbiased=False) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "d", "biased"), [(50, 50, 0.50), (50, 500, 0.91), (500, 50, 0.09)])
def test_noise_is_alike_only_to_the_biased_one(n, d, biased):
    draw = np.random.default_rng(0)
    pairs = [(draw.normal(size=(n, d)), draw.normal(size=(n, d))) for _ in range(24)]
    assert np.mean([cka(X, Y, unbiased=False) for X, Y in pairs]) == pytest.approx(biased, abs=0.01)
    assert abs(np.mean([cka(X, Y) for X, Y in pairs])) < 0.01


def pair(n, p, q, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(n, p))
    return X, X @ draw.normal(size=(p, q)) + draw.normal(size=(n, q))


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("n", [12, 80])
def test_rotation_scale_and_shift_change_nothing_and_the_scale_of_one_dimension_does(unbiased, n):
    X, Y = pair(n, 20, 15)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))[0]
    clean = float(cka(X, Y, unbiased=unbiased))
    assert cka(3 * X @ turned + 7, Y, unbiased=unbiased) == pytest.approx(clean, abs=1e-9)
    order = np.random.default_rng(2).permutation(n)
    assert cka(X[order], Y[order], unbiased=unbiased) == pytest.approx(clean, abs=1e-9)
    assert cka(Y, X, unbiased=unbiased) == pytest.approx(clean, abs=1e-12)
    stretched = X * np.r_[20.0, np.ones(19)]
    assert abs(cka(stretched, Y, unbiased=unbiased) - clean) > 0.01
    assert abs(cka(X[order], Y, unbiased=unbiased) - clean) > 0.01  # rows no longer paired


@pytest.mark.parametrize("unbiased", [True, False])
def test_products_of_widths_of_rows_and_of_units_agree(unbiased):
    X, Y = pair(60, 9, 7)
    by_widths = KernelSums().update(X, Y).result(unbiased=unbiased)
    wide = np.c_[X, np.zeros((60, 80))]  # more columns than rows: products of rows
    assert cka(wide, Y, unbiased=unbiased) == pytest.approx(float(by_widths), abs=1e-10)
    a, b = kernel_unit(X, unbiased=unbiased), kernel_unit(Y, unbiased=unbiased)
    assert a.vector @ b.vector == pytest.approx(float(by_widths), abs=1e-10)


def test_the_unbiased_hsic_is_that_of_song_et_al():
    X, Y = pair(7, 3, 2)
    hsic = {}
    for name, (A, B) in {"xy": (X, Y), "xx": (X, X), "yy": (Y, Y)}.items():
        K, L = A @ A.T, B @ B.T
        np.fill_diagonal(K, 0), np.fill_diagonal(L, 0)
        n, one = 7, np.ones(7)
        hsic[name] = (
            np.trace(K @ L)
            + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * one @ K @ L @ one
        )
    expected = hsic["xy"] / np.sqrt(hsic["xx"] * hsic["yy"])
    assert cka(X, Y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_stream_is_the_whole_in_any_cut(unbiased):
    X, Y = pair(90, 8, 6)
    whole = float(cka(X, Y, unbiased=unbiased))
    parts = [KernelSums(), KernelSums()]
    for i, rows in enumerate(np.array_split(np.arange(90), 5)):
        parts[i % 2].update(X[rows], torch.from_numpy(Y[rows]))
    joined = parts[0].merge(parts[1])
    assert joined.result(unbiased=unbiased) == pytest.approx(whole, abs=1e-10)
    assert abs(parts[1].result(unbiased=unbiased) - whole) > 1e-6  # a part is not the whole


def test_far_from_zero_a_centre_keeps_the_digits():
    X, Y = pair(200, 5, 4)
    X = X + 1e6
    centre = (torch.full((5,), 1e6, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert KernelSums(centre).update(X, Y).result() == pytest.approx(float(cka(X, Y)), abs=1e-6)


def test_labels_as_a_kernel():
    assert one_hot(["b", "a", "b"], 3).tolist() == [[0, 1], [1, 0], [0, 1]]
    y = np.repeat([0, 1], 20)
    assert cka(np.where(y, 3.0, -1.0)[:, None], one_hot(y, 40)) == pytest.approx(1, abs=1e-9)


def test_what_has_no_alignment():
    X, Y = pair(20, 3, 3)
    assert "one point" in cka(X, np.ones((20, 2))).reason
    assert "too few" in cka(X[:3], Y[:3]).reason and "too few" in KernelSums().result().reason
    assert "alike" in cka(np.eye(20), Y).reason  # all rows equally far from each other
    with pytest.raises(ShapeError, match="20 and 19 rows"):
        cka(X, Y[:19])


def test_a_stream_says_why_it_is_nan_and_joins_only_the_same_centre():
    X, Y = pair(20, 3, 3)
    bad = X.copy()
    bad[2, 1] = np.nan
    for sums in (KernelSums().update(bad, Y), KernelSums().update(X, bad)):
        found = KernelSums().update(X, Y).merge(sums).result()
        assert np.isnan(found) and found.reason == "1 rows are not finite."
    centre = (torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    about = KernelSums(centre).update(X, Y)
    assert np.isfinite(about.merge(KernelSums(centre).update(X, Y)).result())
    with pytest.raises(ParameterError, match="different centres"):
        about.merge(KernelSums().update(X, Y))
