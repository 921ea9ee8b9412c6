"""Pooled layers: sparse weights on the layer that separates, and no flattery on held-out rows."""

import numpy as np
import pytest
import torch

import probes
from interp.errors import DataError, ParameterError, ShapeError
from interp.store import ActivationStore
from probes.layer_pooling import LayerPooling, layers_of, learn_layer_weights, sparsemax

FAST = {"draws": 100, "permutations": 99, "pairs": 200, "steps": 100}


def layers(shifts, n=120, d=10, seed=0, scales=None):
    """A matrix a layer; safe rows are moved by its shift. Layers have noise of their own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    scales = scales or [1.0] * len(shifts)
    made = [
        s * (rng.normal(size=(n, d)) + a * y[:, None]) for a, s in zip(shifts, scales, strict=True)
    ]
    return made, y


def test_sparsemax_by_hand():
    for z, expected in (
        ([0.1, 1.1, 0.2], [0, 0.95, 0.05]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([3.0, 1.0, -1.0], [1, 0, 0]),
    ):
        found = sparsemax(torch.tensor(z, dtype=torch.float64))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    z = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = sparsemax(z)
    assert float(p.sum()) == pytest.approx(1) and (p >= 0).all() and (p == 0).any()
    np.testing.assert_allclose(sparsemax(z + 5).numpy(), p.numpy(), atol=1e-12)
    corners = torch.eye(9, dtype=torch.float64)  # the nearest point of the simplex: no corner is
    assert all(((p - z) @ (c - p)) >= -1e-12 for c in corners)
    assert torch.autograd.gradcheck(sparsemax, (z.requires_grad_(),))


@pytest.mark.parametrize("method", ["softmax", "sparsemax"])
def test_the_layer_that_separates_gets_the_weight(method):
    made, y = layers([0, 0, 2.0, 0], scales=[100, 1, 1, 0.01])  # its norm is not the largest
    found = probes.pool_layers(made, y, method=method, **FAST)
    assert found.weights.argmax() == 2 and found.weights[2] > 0.9
    assert found.weights.sum() == pytest.approx(1) and (found.weights >= 0).all()
    assert (found.weights == 0).any() == (method == "sparsemax")
    assert found.best_hookpoint == "2" and found.held_out["value"] > 0.3 > found.uniform
    assert found.held_out["low"] < found.held_out["value"] < found.held_out["high"]
    assert found.held_out["p"] == pytest.approx(0.01) and found.loss[-1] < found.loss[0]
    assert found.n_train + found.n_held_out == 120


def test_choosing_flatters_the_rows_it_saw_and_no_others():
    """Labels without meaning: the best of many layers is good on the rows that chose it."""
    options = {"draws": 0, "permutations": 0}
    chosen, held = [], []
    for seed in range(6):
        made, y = layers([0] * 12, n=40, d=4, seed=seed)
        found = probes.pool_layers(made, y, pairs=200, steps=20, seed=seed, **options)
        chosen.append(max(probes.aqi(m, y, **options).value for m in made))
        held += [found.held_out["value"], found.best]
    error = np.std(held, ddof=1) / np.sqrt(len(held))
    assert abs(np.mean(held)) < 3 * error < 0.06
    assert min(chosen) > 0.01 and np.mean(chosen) > 0.02 + np.mean(held)


def test_a_small_margin_asks_for_nothing():
    one = torch.eye(3, dtype=torch.float64)[None].repeat(5, 1, 1) * 100
    weights, loss = learn_layer_weights(one, margin=1.0)
    np.testing.assert_allclose(weights, 1 / 3)
    assert loss[0] == 0
    _, asked = learn_layer_weights(one, margin=20.0)
    assert asked[0] == pytest.approx(20 - 10 / np.sqrt(3))


def test_groups_are_not_split_and_settings_are_checked():
    made, y = layers([1.0, 0])
    groups = np.arange(120) // 4
    found = probes.pool_layers(made, y, groups=groups, **FAST)
    assert found.n_train % 4 == 0 and found.n_held_out % 4 == 0
    for options, reason in (
        ({"method": "max"}, "method must be"),
        ({"margin": 0}, "above 0"),
    ):
        with pytest.raises(ParameterError, match=reason):
            probes.pool_layers(made, y, **options)
    with pytest.raises(ShapeError, match="one shape"):
        probes.pool_layers([made[0], made[1][:, :3]], y)
    with pytest.raises(DataError, match="only one"):
        probes.pool_layers([m[:4] for m in made], [1, 0, 0, 0])


def test_what_cannot_be_pooled_is_refused():
    made, y = layers([1.0, 0])
    with pytest.raises(DataError, match="two classes; every row is safe"):
        probes.pool_layers(made, np.ones(120, int), **FAST)
    made[1][3] = np.nan
    with pytest.raises(DataError, match="a.1 has 1 rows that are not finite"):
        probes.pool_layers(made, y, ["a.0", "a.1"], **FAST)


def test_a_result_is_saved(tmp_path):
    made, y = layers([1.0, 0])
    found = probes.pool_layers(made, y, ["a.0", "a.1"], **FAST)
    again = LayerPooling.load(found.save(tmp_path / "p.json"))
    np.testing.assert_array_equal(again.weights, found.weights)
    assert again.metrics() == found.metrics() and set(found.metrics()["weights"]) == {"a.0", "a.1"}


def test_layers_of_one_role_and_width():
    tensors = {
        "embed": torch.ones(2, 4), "resid_post.0": torch.ones(2, 4),
        "resid_post.1": torch.ones(2, 4), "mlp_act.0": torch.ones(2, 8),
    }  # fmt: skip
    assert layers_of(ActivationStore.from_tensors(tensors)) == ["resid_post.0", "resid_post.1"]
    assert layers_of(ActivationStore.from_tensors({"embed": torch.ones(2, 4)})) == []
