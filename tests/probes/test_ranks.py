"""Ranks: published numbers, their order, invariances, and the stream."""

import numpy as np
import pytest
import torch

from interp.errors import ParameterError, ShapeError
from probes.geometry import (
    Spectrum,
    effective_rank,
    numerical_rank,
    participation_ratio,
    rank_curve,
    srank,
    stable_rank,
)

ALL = [effective_rank, participation_ratio, stable_rank, srank, numerical_rank]


def with_values(*s, n=12):
    """A matrix of these singular values."""
    draw = np.random.default_rng(0)
    U = np.linalg.qr(draw.normal(size=(n, len(s))))[0]
    V = np.linalg.qr(draw.normal(size=(len(s), len(s))))[0]
    return U @ np.diag(s) @ V


@pytest.mark.parametrize("rank", ALL)
def test_equal_values_count_as_many_and_one_as_one(rank):
    assert rank(with_values(1, 1, 1, 1), centre=False) == pytest.approx(4, abs=1e-9)
    assert rank(with_values(5, 0, 0), centre=False) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (effective_rank, 2**1.5),
        (participation_ratio, 2.0),
        (stable_rank, 1.5),
        (srank, 3),
        (numerical_rank, 3),
    ],
)
def test_two_one_one(rank, expected):
    assert rank(with_values(2, 1, 1), centre=False) == pytest.approx(expected, abs=1e-9)


def test_they_are_in_order():
    draw = np.random.default_rng(1)
    for _ in range(10):
        X = draw.normal(size=(30, 8)) * draw.uniform(0.01, 3, 8)
        values = [float(f(X)) for f in (stable_rank, participation_ratio, effective_rank)]
        assert 1 <= values[0] <= values[1] <= values[2] <= numerical_rank(X) == 8


@pytest.mark.parametrize("rank", ALL)
def test_rotation_scale_shift_and_order_change_nothing(rank):
    draw = np.random.default_rng(2)
    X = draw.normal(size=(30, 6)) * np.array([4, 2, 1, 1, 0.5, 0.1])
    turned = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    clean = float(rank(X))
    moved = 5 * X[draw.permutation(30)][:, draw.permutation(6)] @ turned + 3
    assert rank(moved) == pytest.approx(clean, abs=1e-8)
    if rank is not numerical_rank:  # the arm that shows the mean, and one scale, can matter
        assert abs(rank(X + 30, centre=False) - clean) > 0.1 * clean
        assert abs(rank(X * np.array([50, 1, 1, 1, 1, 1])) - clean) > 0.1 * clean


def test_the_spectrum_is_numpy_s_to_full_precision():
    X = with_values(1e3, 1, 1e-6, n=20)  # a product X'X would lose the last
    expected = np.linalg.svd(X, compute_uv=False)
    backward = 50 * np.finfo(float).eps * expected[0]  # what a stable factorisation promises
    found = Spectrum().update(X).result(centre=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=backward)
    lost = np.sqrt(np.abs(np.linalg.eigvalsh(X.T @ X)))[::-1]
    assert abs(lost[2] - expected[2]) > 100 * backward
    centred = np.linalg.svd(X - X.mean(0), compute_uv=False)
    np.testing.assert_allclose(Spectrum().update(X).result(), centred, rtol=0, atol=backward)


def test_the_stream_is_the_whole_in_any_cut():
    X = np.random.default_rng(3).normal(size=(70, 9)) + 4
    whole = Spectrum().update(X).result()
    parts = [Spectrum(), Spectrum()]
    for i, rows in enumerate(np.array_split(np.arange(70), 6)):
        parts[i % 2].update(torch.from_numpy(X[rows]))
    alone = parts[1].result()
    joined = parts[0].merge(parts[1])
    np.testing.assert_allclose(joined.result(), whole, rtol=1e-11)
    assert joined.n == 70 and abs(alone[0] - whole[0]) > 0.1
    with pytest.raises(ShapeError, match="9 and 4"):
        joined.update(X[:, :4])


def test_fewer_rows_than_dimensions_count_rows():
    X = np.random.default_rng(4).normal(size=(5, 40))
    assert numerical_rank(X) == 4 and effective_rank(X) <= 4
    assert numerical_rank(X, centre=False) == 5


def test_rounding_is_no_dimension():
    X = with_values(1, 1, 1e-9)
    assert numerical_rank(X, centre=False) == 3
    assert numerical_rank(X.astype(np.float32), centre=False) == 2


def test_the_curve_ends_at_one_and_is_that_of_the_variances():
    X = np.random.default_rng(5).normal(size=(200, 3)) * [3, 2, 1]
    curve = rank_curve(X)
    variances = np.sort(np.linalg.eigvalsh(np.cov(X.T)))[::-1]
    np.testing.assert_allclose(curve.lines["variance"], variances.cumsum() / variances.sum())
    assert curve.x.tolist() == [1, 2, 3] and curve.lines["variance"][-1] == pytest.approx(1)


def test_zero_has_none():
    for delta in (-1, 1, 2, float("nan")):
        with pytest.raises(ParameterError, match="delta of srank"):
            srank(np.eye(4), delta=delta)
    assert "one point" in effective_rank(np.zeros((4, 3))).reason
    assert "not zero" in stable_rank(np.zeros((4, 3)), centre=False).reason
    assert "2 rows are not finite" in srank(np.array([[np.nan, 1], [2, 3], [np.inf, 0]])).reason
