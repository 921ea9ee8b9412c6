"""What changed between two runs: signs, intervals that pair, and what cannot be compared."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import DataError, ParameterError
from interp.store import ActivationStore
from probes import DepthDifference, concept_depth, depth_difference, sparsity, sparsity_difference

NAMES = ("embed", *(f"resid_post.{i}" for i in range(4)))
QUICK = {"folds": 3, "strengths": 0.1, "permutations": 4, "random_features": False}


def store(onset, layers=4, seed=0, n=90):
    """A residual stream to which layer ``onset`` adds the label; the noise is the seed's."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X, tensors = rng.standard_normal((n, 6)), {}
    for i, name in enumerate(("embed", *(f"resid_post.{j}" for j in range(layers)))):
        X = X + 0.3 * rng.standard_normal(X.shape)
        if i == onset:
            X = X + 4.0 * y[:, None] * np.eye(6)[0]
        tensors[name] = torch.from_numpy(X)
    return ActivationStore.from_tensors(
        tensors, pd.DataFrame({"label": y, "pair": np.arange(n) // 2})
    )


@pytest.fixture(scope="module")
def early():
    return concept_depth(store(1), groups="pair", **QUICK)


@pytest.fixture(scope="module")
def late():
    return concept_depth(store(3), groups="pair", **QUICK)


def test_a_concept_that_comes_later_is_lower_where_it_is_not_yet(early, late):
    found = depth_difference(early, late, models=("a", "b"))
    assert found.hookpoints == NAMES
    assert np.array_equal(found.delta, late.accuracy - early.accuracy)
    assert (found.high[1:3] < 0).all()  # layers 0 and 1 of the second do not know it
    assert (found.low[3:] <= 0).all() and (found.high[3:] >= 0).all()
    assert found.points["onset_depth_shift"] > 0
    assert found.metrics()["largest"] == found.delta[np.abs(found.delta).argmax()]


def test_exchanging_the_runs_turns_every_sign(early, late):
    there, back = depth_difference(early, late), depth_difference(late, early)
    assert np.array_equal(there.delta, -back.delta)
    np.testing.assert_allclose(there.low, -back.high, atol=1e-12)
    assert there.points["peak_shift"] == -back.points["peak_shift"]


def test_a_run_does_not_differ_from_itself(early):
    found = depth_difference(early, early)
    assert not found.delta.any() and not found.low.any() and not found.high.any()


def test_the_pairing_narrows_the_interval(early):
    """Rows that are hard in both runs cancel: two intervals side by side would be wider."""
    again = concept_depth(store(1, seed=0), groups="pair", **{**QUICK, "strengths": 0.2})
    found = depth_difference(early, replace(again, strengths=early.strengths))
    alone = early.accuracy_high - early.accuracy_low
    assert (found.high - found.low)[1:].mean() < 0.5 * alone[1:].mean()


def test_models_of_other_depths_are_compared_by_fraction(early):
    deeper = concept_depth(store(1, layers=8), groups="pair", **QUICK)
    found = depth_difference(early, deeper)
    assert found.hookpoints == NAMES  # those that both have
    shift = deeper.onset_depth - early.onset_depth
    assert found.points["onset_depth_shift"] == pytest.approx(shift)
    renamed = replace(deeper, hookpoints=tuple(f"x.{i}" for i in range(9)))
    nothing = depth_difference(early, renamed)
    assert nothing.hookpoints == () and "share no hook point" in nothing.reasons["delta"]
    assert nothing.metrics()["largest"] is None


def test_other_rows_are_refused(early):
    with pytest.raises(DataError, match="same rows"):
        depth_difference(early, concept_depth(store(1, n=60), groups="pair", **QUICK))


def test_densities_are_compared_by_one_criterion():
    x = torch.ones(40, 6)
    x[::2] = 0  # every neuron is active in half of the rows
    first = sparsity({"a": x.clone(), "b": x.clone()}, "exact")
    x[:, :2] = 0  # two neurons fall silent
    second = sparsity({"b": x, "c": x}, "exact")
    found = sparsity_difference(first, second)
    assert found.hookpoints == ("b",) and found.delta[0] == pytest.approx(-1 / 6)
    assert (found.woke, found.died) == ((0,), (2,))
    assert sparsity_difference(second, first).woke == (2,)
    assert np.isnan(found.low).all() and "not independent" in found.reasons["low"]
    narrow = sparsity({"b": x[:, :3]}, "exact")
    assert sparsity_difference(first, narrow).woke == (-1,)
    assert sparsity_difference(first, narrow).to_frame().woke.isna().all()
    with pytest.raises(ParameterError, match="one criterion"):
        sparsity_difference(first, sparsity({"b": x}, "rel_eps"))
    with pytest.raises(DataError, match="share no hook point"):
        sparsity_difference(first, sparsity({"c": x}, "exact"))


def test_both_are_saved_and_read_back(early, late, tmp_path):
    found = depth_difference(early, late)
    again = DepthDifference.load(found.save(tmp_path / "d.json"))
    assert np.array_equal(again.low, found.low) and again.points == found.points
