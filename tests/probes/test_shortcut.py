"""Shortcut bias: the means, the exact numbers on the probe grid, and models that are known."""

import numpy as np
import pytest
import torch

from interp.errors import ParameterError
from probes.shortcut import (
    mlp_fit,
    predictivity_mean,
    reliance,
    shortcut_bias,
    shortcut_data,
)


def test_means_of_the_predictivities():
    assert predictivity_mean(0.85) == pytest.approx(1.0364, abs=5e-5)
    assert predictivity_mean(0.9) == pytest.approx(1.2816, abs=5e-5)
    data = shortcut_data(20_000)
    right = ((data.z.sign() == data.y[:, None]).double().mean(0)).tolist()
    assert right == pytest.approx([0.85, 0.9], abs=0.01)


def test_the_exact_numbers_of_three_known_classifiers():
    data = shortcut_data(10)
    shortcut, core = (reliance(data.probe_z[:, i], data) for i in (0, 1))
    assert shortcut - core == pytest.approx(1.0, abs=1e-12)
    assert shortcut == pytest.approx(0.673, abs=5e-4) and core == pytest.approx(-0.327, abs=5e-4)
    assert reliance(data.probe_z @ torch.from_numpy(data.mu), data) == 0
    assert reliance(torch.ones(len(data.probe_z)), data) == pytest.approx(0.673 - 0.5, abs=2e-3)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_only_the_sign_of_a_prediction_counts(factor):
    data = shortcut_data(10)
    assert reliance(factor * data.probe_z[:, 0], data) == reliance(data.probe_z[:, 0], data)


def test_availability_amplifies_one_latent_s_inputs_and_leaves_the_latents_alone():
    plain, loud = shortcut_data(50), shortcut_data(50, availability=(4.0, 1.0))
    torch.testing.assert_close(loud.x[:, :8], 4 * plain.x[:, :8])
    assert torch.equal(loud.x[:, 8:], plain.x[:, 8:]) and torch.equal(loud.z, plain.z)
    assert torch.linalg.matrix_rank(plain.x).item() == 2
    nested = shortcut_data(50, nesting=(2, 0))
    assert torch.linalg.matrix_rank(nested.x[:, :8]).item() > 1  # the latent is bent
    assert not torch.equal(plain.x, shortcut_data(50, seed=1).x)


def test_a_linear_model_has_no_bias_until_the_core_is_hidden_deeper():
    grid = {"availability": (10.0,), "predictivity": (0.8,), "n": 512, "seeds": 2}
    plain = shortcut_bias(mlp_fit(()), model="linear", **grid)
    assert abs(plain.bias[0, 0]) < 0.1
    assert plain.accuracy[0, 0] == pytest.approx(plain.best[0], abs=0.03)
    nested = shortcut_bias(mlp_fit(()), nesting=(0, 4), model="linear", **grid)
    assert nested.bias[0, 0] > 0.2 and nested.accuracy[0, 0] < plain.accuracy[0, 0]
    assert len(plain.to_frame()) == 1 and np.isfinite(plain.spread).all()


def test_a_model_of_one_latent_over_the_grid(tmp_path):
    def read_shortcut(x, y, seed):
        w = torch.linalg.lstsq(x[:, :8], y[:, None].float(), driver="gelsd").solution
        return lambda x: (x[:, :8] @ w)[:, 0]

    found = shortcut_bias(read_shortcut, availability=(1.0, 2.0), predictivity=(0.9,), seeds=1)
    assert found.bias == pytest.approx(np.full((2, 1), 0.5), abs=0.02) and "spread" in found.reasons
    assert found.accuracy == pytest.approx(np.full((2, 1), 0.9), abs=0.03)
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.bias, found.bias) and np.isnan(loaded.spread).all()


def test_nothing_global_is_seeded_and_a_seed_repeats():
    state = torch.get_rng_state()
    one, two = (shortcut_data(20, seed=3, nesting=(1, 1)).x for _ in range(2))
    fitted = [mlp_fit((4,), steps=2)(one, torch.ones(20), 0)(one) for _ in range(2)]
    assert torch.equal(one, two) and torch.equal(*fitted)
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals():
    with pytest.raises(ParameterError, match=".5 to below 1; got 1"):
        predictivity_mean(1)
    with pytest.raises(ParameterError, match="predictivities above .5"):
        shortcut_bias(predictivity=(0.5,), seeds=1)
    with pytest.raises(ParameterError, match="an even d"):
        shortcut_data(10, d=3)
    with pytest.raises(ParameterError, match="one a probe item, 4096"):
        reliance(torch.ones(3), shortcut_data(4))
    with pytest.raises(ParameterError, match="needs an availability"):
        shortcut_bias(seeds=0)
