"""Coding rates: hand-computed numbers, invariances, and the stream."""

import numpy as np
import pytest
import torch

from interp.errors import ParameterError, ShapeError
from probes.geometry import RateSums, class_rate_reduction, coding_rate, sparse_rate_reduction


def test_orthonormal_and_equal_tokens():
    assert coding_rate(np.eye(4), 0.01) == pytest.approx(2 * np.log(101))
    assert coding_rate(np.eye(4), 0.01) == pytest.approx(9.2302, abs=5e-5)
    equal = np.tile([[1.0, 0, 0, 0]], (4, 1))
    assert coding_rate(equal, 0.01) == pytest.approx(0.5 * np.log(401))
    assert coding_rate(equal, 0.01) == pytest.approx(2.9970, abs=5e-5)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_either_gram_matrix_gives_it(shape):
    Z = np.random.default_rng(0).normal(size=shape)
    n, d = shape
    expected = 0.5 * np.linalg.slogdet(np.eye(d) + d / (n * 0.3) * Z.T @ Z)[1]
    assert coding_rate(Z, 0.3) == pytest.approx(expected, rel=1e-12)
    assert coding_rate(torch.from_numpy(Z).float(), 0.3) == pytest.approx(expected, rel=1e-5)


def test_rotation_and_order_change_nothing_and_scale_and_shift_do():
    draw = np.random.default_rng(1)
    Z = draw.normal(size=(20, 6))
    turned = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    clean = float(coding_rate(Z))
    assert coding_rate((Z @ turned)[draw.permutation(20)]) == pytest.approx(clean, abs=1e-9)
    assert coding_rate(2 * Z) > clean + 1 and coding_rate(Z + 3) != pytest.approx(clean)
    lengths = draw.uniform(0.1, 9, (20, 1))
    unit = float(coding_rate(Z, unit_rows=True))
    assert coding_rate(Z * lengths, unit_rows=True) == pytest.approx(unit)


@pytest.mark.parametrize("unit_rows", [False, True])
def test_the_stream_is_the_whole_in_any_cut(unit_rows):
    Z = np.random.default_rng(2).normal(size=(60, 5))
    whole = float(coding_rate(Z, 0.1, unit_rows=unit_rows))
    parts = [RateSums(0.1, unit_rows=unit_rows), RateSums(0.1, unit_rows=unit_rows)]
    for i, rows in enumerate(np.array_split(np.arange(60), 5)):
        parts[i % 2].update(Z[rows])
    joined = parts[0].merge(parts[1])
    assert joined.result() == pytest.approx(whole, rel=1e-12)
    assert parts[1].result() != pytest.approx(whole, rel=1e-12)


def test_a_subspace_a_token_holds_is_cheap_and_another_is_not():
    Z = np.eye(4)[[0, 0, 1, 1]]  # two directions of the first subspace
    own, other = np.eye(4)[:, :2], np.eye(4)[:, 2:]
    found = sparse_rate_reduction(Z, np.stack([own, other]), 0.01, price=0.0)
    assert found.parts["R"] == pytest.approx(coding_rate(Z, 0.01))
    expected = 0.5 * 2 * np.log(1 + 2 / (4 * 0.01) * 2)  # two directions, each of two tokens
    assert found.parts["Rc"] == pytest.approx(expected)
    assert found == pytest.approx(found.parts["R"] - expected)
    assert found.parts["nonzero"] == pytest.approx(1 / 4)
    priced = sparse_rate_reduction(Z, np.stack([own, other]), 0.01, price=0.1)
    assert priced == pytest.approx(found - 0.1 * 1)  # one number of a token is not 0
    nothing = sparse_rate_reduction(Z, other[None], 0.01)
    assert nothing.parts["Rc"] == 0 < found.parts["Rc"]
    near = sparse_rate_reduction(Z + 1e-4, own[None], threshold=1e-3)
    assert near.parts["nonzero"] == pytest.approx(1 / 4)
    assert sparse_rate_reduction(Z + 1e-4, own[None]).parts["nonzero"] == 1


def test_classes_with_directions_of_their_own_are_worth_knowing():
    Z = np.repeat(np.eye(4)[:2], 5, axis=0)
    found = class_rate_reduction(Z, np.repeat([0, 1], 5), 0.01)
    one = 0.5 * np.log(1 + 4 / 0.01)
    whole = np.log(1 + 4 / (10 * 0.01) * 5)
    assert found == pytest.approx(whole - one) and found.parts["Rc"] == pytest.approx(one)
    spread = class_rate_reduction(np.eye(4)[[0, 1, 2, 2, 2, 2]], [0, 0, 1, 1, 1, 1], 0.01)
    two = np.log(1 + 4 / 0.02)  # two directions in two rows
    assert spread.parts["Rc"] == pytest.approx(2 / 6 * two + 4 / 6 * one)
    mixed = class_rate_reduction(Z, np.arange(10) % 2, 0.01)
    assert 0 <= mixed < 0.2 * found
    assert class_rate_reduction(Z, np.zeros(10)).reason


def test_what_has_no_rate_and_what_is_refused():
    Z = np.eye(3)
    zero = np.vstack([Z, np.zeros(3)])
    assert "1 rows are zero" in coding_rate(zero, unit_rows=True).reason
    assert np.isfinite(coding_rate(zero))
    assert (
        "no rows" in coding_rate(np.zeros((0, 3))).reason
        and "no rows" in RateSums().result().reason
    )
    assert RateSums().update([[np.nan, 1.0]]).result().reason
    assert sparse_rate_reduction(Z, np.zeros((1, 3, 2)), unit_rows=True).reason
    with pytest.raises(ParameterError, match="above 0; got 0"):
        coding_rate(Z, 0)
    with pytest.raises(ShapeError, match=r"\[K, 3, p\]"):
        sparse_rate_reduction(Z, np.eye(3))


def test_a_stream_joins_only_the_same_settings():
    a, b = RateSums(0.1).update(np.eye(3)), RateSums(0.2).update(np.eye(3))
    with pytest.raises(ParameterError, match="other settings"):
        a.merge(b)
