"""Pooling by hand, both padding sides; nothing from a pad."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import ParameterError
from interp.pooling import POOLS, pool

X = torch.tensor([[[1.0, 8.0], [5.0, 2.0], [3.0, 5.0]], [[4.0, 1.0], [7.0, -2.0], [9.0, 9.0]]])
RIGHT = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
LEFT = torch.tensor([[1, 1, 1], [0, 1, 1]]).bool()
BY_HAND = {
    "right": {
        "last": [[3, 5], [7, -2]],
        "first": [[1, 8], [4, 1]],
        "mean": [[3, 5], [5.5, -0.5]],
        "max": [[5, 8], [7, 1]],
        "all": [[1, 8], [5, 2], [3, 5], [4, 1], [7, -2]],
    },
    "left": {
        "last": [[3, 5], [9, 9]],
        "first": [[1, 8], [7, -2]],
        "mean": [[3, 5], [8, 3.5]],
        "max": [[5, 8], [9, 9]],
        "all": [[1, 8], [5, 2], [3, 5], [7, -2], [9, 9]],
    },
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("how", POOLS)
def test_by_hand(side, how):
    mask = RIGHT if side == "right" else LEFT
    assert pool(X, mask, how).tolist() == BY_HAND[side][how]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("how", POOLS)
def test_a_pad_never_enters(how, side, bad):
    mask = RIGHT if side == "right" else LEFT
    x = X.clone()
    x[~mask] = bad
    assert pool(x, mask, how).tolist() == BY_HAND[side][how]
    if how == "mean" or (how == "max" and bad > 0):  # the arm that takes everything does see it
        assert not torch.equal(pool(x, None, how), pool(X, None, how))


@pytest.mark.parametrize("how", POOLS)
def test_no_mask_is_a_mask_of_ones(how):
    assert torch.equal(pool(X, None, how), pool(X, torch.ones(2, 3, dtype=torch.bool), how))


@pytest.mark.parametrize("how", POOLS)
def test_heads_are_pooled_each(how):
    heads = torch.stack([X, 2 * X], 2)  # [b, t, heads, d_head]
    found = pool(heads, RIGHT, how)
    assert torch.equal(found[..., 0, :], pool(X, RIGHT, how))
    assert torch.equal(found[..., 1, :], 2 * pool(X, RIGHT, how))


@pytest.mark.parametrize("masked", [True, False])
def test_a_bfloat16_mean_is_summed_in_float32(masked):
    x = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    mask = torch.ones(1, 4096, dtype=torch.bool) if masked else None
    found = pool(x, mask, "mean")
    assert found.dtype == torch.bfloat16 and float(found) == 1
    running = torch.zeros((), dtype=torch.bfloat16)
    for v in x.flatten():
        running += v
    assert float(running) == 256  # what a sum in bfloat16 comes to


def test_float16_does_not_overflow_in_the_mean():
    x = torch.full((1, 100, 1), 60000.0, dtype=torch.float16)
    assert float(pool(x, None, "mean")) == float(x[0, 0, 0])


@settings(deadline=None)  # the first call of an operation is slow
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.sampled_from(["last", "first", "mean", "max"]),
    st.integers(0, 3),
)
def test_more_padding_changes_nothing(lengths, how, more):
    t = max(lengths)
    x = torch.arange(len(lengths) * t * 2, dtype=torch.float64).reshape(len(lengths), t, 2).sin()
    mask = torch.tensor([[j < n for j in range(t)] for n in lengths])
    wider = torch.cat([x, torch.full((len(lengths), more, 2), 9.0, dtype=x.dtype)], 1)
    wide_mask = torch.cat([mask, torch.zeros(len(lengths), more, dtype=torch.bool)], 1)
    torch.testing.assert_close(pool(wider, wide_mask, how), pool(x, mask, how))


def test_refusals():
    with pytest.raises(ParameterError, match="last, first, mean, max, all; got 'sum'"):
        pool(X, RIGHT, "sum")
    with pytest.raises(ParameterError, match="row 1 has no real position"):
        pool(X, torch.tensor([[1, 0, 0], [0, 0, 0]]).bool(), "mean")
