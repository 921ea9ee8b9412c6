"""Pooling by hand, both padding sides; nothing from a pad."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import DataError, ParameterError, ShapeError
from interp.pooling import POOLS, LayerPool, fit_layer_pool, pool

X = torch.tensor([[[1.0, 8.0], [5.0, 2.0], [3.0, 5.0]], [[4.0, 1.0], [7.0, -2.0], [9.0, 9.0]]])
RIGHT = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
LEFT = torch.tensor([[1, 1, 1], [0, 1, 1]]).bool()
BY_HAND = {
    "right": {
        "last": [[3, 5], [7, -2]],
        "first": [[1, 8], [4, 1]],
        "mean": [[3, 5], [5.5, -0.5]],
        "weighted_mean": [[20 / 6, 27 / 6], [18 / 3, -3 / 3]],
        "max": [[5, 8], [7, 1]],
        "all": [[1, 8], [5, 2], [3, 5], [4, 1], [7, -2]],
    },
    "left": {
        "last": [[3, 5], [9, 9]],
        "first": [[1, 8], [7, -2]],
        "mean": [[3, 5], [8, 3.5]],
        "weighted_mean": [[20 / 6, 27 / 6], [25 / 3, 16 / 3]],
        "max": [[5, 8], [9, 9]],
        "all": [[1, 8], [5, 2], [3, 5], [7, -2], [9, 9]],
    },
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("how", POOLS)
def test_by_hand(side, how):
    mask = RIGHT if side == "right" else LEFT
    torch.testing.assert_close(pool(X, mask, how), torch.tensor(BY_HAND[side][how]).float())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("how", POOLS)
def test_a_pad_never_enters(how, side, bad):
    mask = RIGHT if side == "right" else LEFT
    x = X.clone()
    x[~mask] = bad
    assert torch.equal(pool(x, mask, how), pool(X, mask, how))
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
    st.sampled_from(["last", "first", "mean", "weighted_mean", "max"]),
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
    with pytest.raises(
        ParameterError, match="last, first, mean, weighted_mean, max, all; got 'sum'"
    ):
        pool(X, RIGHT, "sum")
    with pytest.raises(ParameterError, match="row 1 has no real position"):
        pool(X, torch.tensor([[1, 0, 0], [0, 0, 0]]).bool(), "mean")


@pytest.mark.parametrize("how", [h for h in POOLS if h != "all"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_constant_sequence_is_its_own_pool(how, side):
    row = torch.tensor([0.3, -2.5, 7.0], dtype=torch.float64)
    mask = RIGHT if side == "right" else LEFT
    torch.testing.assert_close(pool(row.expand(2, 3, 3), mask, how), row.expand(2, 3))
    if how != "last":  # a sequence that is not constant is told apart from its last row
        assert not torch.allclose(pool(X, RIGHT, how), pool(X, RIGHT, "last"))


def test_position_weights_depend_on_the_order_and_the_mean_does_not():
    turned = X.flip(1)
    assert torch.equal(pool(X, None, "mean"), pool(turned, None, "mean"))
    assert not torch.allclose(pool(X, None, "weighted_mean"), pool(turned, None, "weighted_mean"))


def planted(seed=0, n=240, layers=3, d=8):
    """Two classes that the first layer tells apart, and the mean of all layers does not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, layers, d, generator=generator)
    y = torch.arange(n) % 2
    x[:, 0, 0] += 3.0 * (2 * y - 1)
    x[:, 1, 0] -= 3.0 * (2 * y - 1)
    return x, y


def centroid_accuracy(train, y, test, y_test):
    centres = torch.stack([train[y == k].mean(0) for k in (0, 1)])
    return float((torch.cdist(test, centres).argmin(1) == y_test).float().mean())


def test_a_trained_layer_pool_finds_the_layer_that_the_untrained_mean_cancels():
    (x, y), (held, held_y) = planted(), planted(seed=1)
    learned = fit_layer_pool(x, y, steps=60)
    fresh = LayerPool(3, 8)
    assert centroid_accuracy(learned(x), y, learned(held), held_y) > 0.9
    assert centroid_accuracy(fresh(x), y, fresh(held), held_y) < 0.7
    torch.testing.assert_close(learned(x).norm(dim=1), torch.ones(len(x)))
    assert not any(p.requires_grad for p in learned.parameters())


def test_an_untrained_layer_pool_is_the_direction_of_the_mean_of_the_layers():
    x, _ = planted()
    same = x[:, :1].expand(-1, 3, -1)
    torch.testing.assert_close(LayerPool(3, 8)(same), torch.nn.functional.normalize(x[:, 0], dim=1))


def test_a_layer_pool_is_its_seed_s_and_leaves_the_global_generator_alone():
    x, y = planted()
    state = torch.get_rng_state()
    one, two = (fit_layer_pool(x, y, steps=3, seed=4) for _ in range(2))
    assert torch.equal(one(x), two(x)) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one(x), fit_layer_pool(x, y, steps=3, seed=5)(x))


def test_layer_pools_refuse_what_does_not_fit():
    x, y = planted()
    with pytest.raises(ParameterError, match="heads that divide d; got layers 3, d 8"):
        LayerPool(3, 8, heads=3)
    with pytest.raises(ShapeError, match=r"takes \[n, 3, 8\]; got \[240, 2, 8\]"):
        LayerPool(3, 8)(x[:, :2])
    with pytest.raises(DataError, match="two classes or more"):
        fit_layer_pool(x, torch.zeros_like(y))
    with pytest.raises(ShapeError, match="a class a row"):
        fit_layer_pool(x, y[:-1])
