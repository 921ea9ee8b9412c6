"""Prototypes: R1 and R2 by hand, streaming, invariances, and what is degenerate."""

import numpy as np
import pytest
import torch

from interp.errors import ParameterError, ShapeError
from probes.prototype_rows import Distortion, prototype_distances, prototypes

RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0, 0], [20, 0, 0], [0, 20, 0]])
Y = np.repeat([0, 1, 2], [10, 20, 30])
X = CENTRES[Y] + RNG.normal(size=(60, 3))


def test_prototypes_that_are_rows_and_rows_that_are_prototypes():
    some = prototypes(X, 5, vectors=X[:5])
    assert some.r1 == 0 and some.r2 > 0 and some.nearest.tolist() == [0, 1, 2, 3, 4]
    every = prototypes(X, 60, vectors=X)
    assert every.r1 == 0 == every.r2 and (every.sizes == 1).all()
    mean = prototypes(X, 1, vectors=X.mean(0)[None])
    assert mean.r2 == pytest.approx(X.var(0).sum(), rel=1e-12) == mean.variance and mean.r1 > 0


def test_by_hand():
    rows = np.array([[0.0], [1], [5]])
    r1, r2, nearest, place = prototype_distances(rows, np.array([[0.5], [5], [9]]))
    assert r1 == pytest.approx((0.25 + 0 + 16) / 3) and r2 == pytest.approx(0.5 / 3)
    assert nearest.tolist() == [0, 2, 2] and place.tolist() == [0, 0, 1]


@pytest.mark.parametrize("how", ["medoids", "centroids"])
def test_three_groups_are_found_with_their_classes(how, tmp_path):
    found = prototypes(X, 3, Y, how=how)
    assert sorted(found.sizes.tolist()) == [10, 20, 30] and found.purity == 1
    assert (found.r1 == 0) == (how == "medoids") and found.r2 < 0.05 * found.variance
    assert (found.counts.sum(1) == found.sizes).all()
    shuffled = prototypes(X, 3, np.random.default_rng(1).permutation(Y), how=how)
    assert shuffled.purity < 0.7
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.vectors, found.vectors) and len(found.to_frame()) == 3


@pytest.mark.parametrize("split", [1, 31, 59])
def test_batches_joined_are_one_pass(split):
    vectors, x = torch.from_numpy(CENTRES), torch.from_numpy(X)
    whole = Distortion(vectors).update(x).result()
    parts = Distortion(vectors).update(x[:split]).merge(Distortion(vectors).update(x[split:]))
    for a, b in zip(parts.result(), whole, strict=True):
        assert np.allclose(a, b, rtol=1e-12)


TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (lambda x: x @ TURN, 1.0),
        (lambda x: x + 1e4, 1.0),
        (lambda x: 3 * x, 9.0),
        (lambda x: x[:, [2, 0, 1]], 1.0),
    ],
)
def test_invariances_and_the_square_of_the_scale(change, factor):
    before = prototype_distances(X, CENTRES)
    after = prototype_distances(change(X), change(CENTRES))
    assert after[:2] == pytest.approx([factor * v for v in before[:2]], rel=1e-6)
    assert (after[2] == before[2]).all()
    if factor == 1.0:  # moving the rows alone is seen
        assert prototype_distances(change(X), CENTRES)[1] > 2 * before[1]


def test_degenerate_rows():
    bad = X.copy()
    bad[0, 0] = np.nan
    found = prototypes(bad, 3, Y)
    assert np.isnan([found.r1, found.r2]).all() and "1 rows are not finite" in found.reasons["r1"]
    same = prototypes(np.ones((6, 2)), 3)
    assert same.r1 == 0 == same.r2 and sorted(same.sizes.tolist()) == [0, 0, 6]
    assert np.isnan(same.purity)


def test_refusals():
    with pytest.raises(ParameterError, match="k from 1 to n = 60; got 'medoids', 61"):
        prototypes(X, 61)
    with pytest.raises(ShapeError, match=r"\[k, 3\]"):
        prototype_distances(X, np.ones((2, 4)))


def test_prototypes_that_are_given_need_no_k():
    found = prototypes(X[:6], vectors=X[:2])
    assert found.how == "given" and found.vectors.shape == (2, 3) and found.r1 == 0
    assert prototypes(np.full((6, 3), np.nan), vectors=X[:2]).vectors.shape == (2, 3)
    with pytest.raises(ParameterError, match="vectors that are finite"):
        prototypes(X, vectors=np.full((2, 3), np.nan))
