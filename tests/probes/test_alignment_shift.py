"""Delta-AQI: a collapse raises the alarm, and what is no collapse does not."""

import numpy as np
import pytest
import torch

import probes
from interp.errors import DataError, ParameterError, ShapeError
from interp.store import ActivationStore
from probes.alignment_shift import DeltaAQI


@pytest.fixture
def model():
    """Activations [200, 24] of safe (1) and unsafe prompts, and their labels."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    return rng.normal(size=(200, 24)) + 0.8 * y[:, None], y


def collapsed(X, y, share, seed=0):
    """The same with a share of the unsafe rows moved onto the safe cluster."""
    rng = np.random.default_rng(seed)
    unsafe = np.flatnonzero(y == 0)
    moved = rng.choice(unsafe, int(share * len(unsafe)), replace=False)
    out = X.copy()
    out[moved] += X[y == 1].mean(0) - X[unsafe].mean(0)
    return out


@pytest.mark.parametrize("normalise", ["joint", "none"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_collapse_lowers_the_score_and_raises_the_alarm(model, share, normalise):
    X, y = model
    faking = collapsed(X, y, share)
    found = probes.delta_aqi(X, faking, y, normalise=normalise)
    assert found.alarm and found.alarms == ("activations",)
    assert found.delta[0] < 0 and found.low[0] < found.delta[0] < found.high[0] < 0
    assert found.delta[0] == pytest.approx(found.second[0] - found.first[0])
    assert (
        probes.aqi(faking, y, draws=0, permutations=0).value
        < probes.aqi(X, y, draws=0, permutations=0).value
    )
    if share == 1:
        assert abs(found.second[0]) < 0.02
    back = probes.delta_aqi(faking, X, y, normalise=normalise)  # and a recovery does not
    assert not back.alarm and back.delta[0] > 0


def test_a_total_collapse_is_the_released_code_s_best_davies_bouldin_and_not_ours(model):
    X, y = model
    rng = np.random.default_rng(1)
    half = rng.normal(size=(50, 24))
    both = np.concatenate([half, -half])
    flat = np.empty_like(X)
    flat[y == 1], flat[y == 0] = both, both[::-1]
    before = probes.aqi(X, y, mode="released_code", permutations=0)
    after = probes.aqi(flat, y, mode="released_code", permutations=0)
    assert np.isnan(after.value) and "0.5" in after.reasons["value"]  # above what it was
    assert before.value < 0.5
    found = probes.delta_aqi(X, flat, y)
    assert found.alarm and found.second[0] < 0.01


def test_what_is_no_collapse_raises_no_alarm(model):
    X, y = model
    rng = np.random.default_rng(2)
    assert not probes.delta_aqi(X, X, y).alarm
    noisy = X + 0.05 * rng.normal(size=X.shape)
    assert not probes.delta_aqi(X, noisy, y).alarm
    Q = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    turned = probes.delta_aqi(X, 3 * X @ Q + 5, y, normalise="none")
    assert not turned.alarm and turned.delta[0] == pytest.approx(0, abs=1e-9)
    alarms = 0
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        again = rng.normal(size=X.shape) + 0.8 * y[:, None]
        alarms += probes.delta_aqi(X, again, y, draws=200, seed=seed).alarm
    assert alarms <= 4  # one in forty is expected: an alarm is one side of the interval


def test_the_same_prompts_are_drawn_for_both(model):
    X, y = model
    near = X + 0.2 * np.random.default_rng(3).normal(size=X.shape)
    found = probes.delta_aqi(X, near, y)
    single = probes.aqi(X, y, permutations=0).interval
    assert found.high[0] - found.low[0] < 0.6 * (single[1] - single[0])


def test_one_large_dimension_does_not_decide_where_both_are_normalised(model):
    X, y = model
    wide = np.column_stack([X, 1000 * np.random.default_rng(4).normal(size=200)])
    faking = wide.copy()
    faking[:, :24] = collapsed(X, y, 1.0)
    joint = probes.delta_aqi(wide, faking, y)
    none = probes.delta_aqi(wide, faking, y, normalise="none")
    assert joint.first[0] > 0.1 > abs(none.first[0])
    assert joint.alarm


def test_undefined_raises_no_alarm(model):
    X, y = model
    broken = X.copy()
    broken[3] = np.nan
    found = probes.delta_aqi(X, broken, y)
    assert np.isnan(found.delta[0]) and not found.alarm
    assert "not finite" in found.reasons["activations"]
    one = probes.delta_aqi(X, X, np.ones(200, dtype=int))
    assert np.isnan(one.delta[0]) and "one class" in one.reasons["activations"]


def test_settings_are_checked(model):
    X, y = model
    with pytest.raises(ShapeError, match="one width"):
        probes.delta_aqi(X, X[:, :4], y)
    assert np.isfinite(probes.delta_aqi(X, X[:, :4], y, normalise="none").delta[0])
    with pytest.raises(ShapeError, match="a row a prompt"):
        probes.delta_aqi(X, X[:4], y)
    with pytest.raises(ParameterError, match="normalise must be"):
        probes.delta_aqi(X, X, y, normalise="each")
    with pytest.raises(ParameterError, match="at least 100"):
        probes.delta_aqi(X, X, y, draws=10)


def stores(X, other, y, texts=None):
    texts = texts or [f"t{i}" for i in range(len(y))]
    rows = {"text": texts, "label": y}
    made = []
    for last in (X, other):
        tensors = {"resid_post.0": torch.from_numpy(X), "resid_post.1": torch.from_numpy(last)}
        data = {"name": "d", "text_column": "text"}
        made.append(ActivationStore.from_tensors(tensors, rows, data=data))
    return made


def test_by_layer_the_alarm_says_where(model, tmp_path):
    X, y = model
    one, two = stores(X, X, y)[0], stores(X, collapsed(X, y, 0.5), y)[1]
    found = probes.delta_aqi_by_layer(one, two, models=("a", "b"))
    assert found.alarms == ("resid_post.1",) and found.delta[0] == 0
    assert found.normalise == "joint" and found.models == ("a", "b") and found.name == "d.label"
    again = DeltaAQI.load(found.save(tmp_path / "d.json"))
    np.testing.assert_array_equal(again.high, found.high)
    assert list(found.to_frame()["alarm"]) == ["", "yes"]
    assert found.metrics()["alarms"] == ("resid_post.1",)


def test_by_layer_other_prompts_are_refused(model):
    X, y = model
    one = stores(X, X, y)[0]
    other = stores(X, X, y, [f"u{i}" for i in range(200)])[0]
    with pytest.raises(DataError, match="their texts differ"):
        probes.delta_aqi_by_layer(one, other)
    with pytest.raises(DataError, match="their labels differ"):
        probes.delta_aqi_by_layer(one, stores(X, X, y[::-1])[0])
    narrow = ActivationStore.from_tensors(
        {"resid_post.0": torch.from_numpy(X[:, :3])}, one.rows, data=one.manifest["data"]
    )
    found = probes.delta_aqi_by_layer(one, narrow)
    assert found.normalise == "none" and "widths differ" in found.notes[0]
    with pytest.raises(DataError, match="share no hook point"):
        probes.delta_aqi_by_layer(one, ActivationStore.from_tensors({"x": torch.ones(2, 2)}))
