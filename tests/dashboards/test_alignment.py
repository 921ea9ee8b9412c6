"""Figures of alignment quality draw the results' own numbers, and the report tells the alarm."""

import dataclasses

import numpy as np
import pytest
import torch

import probes
from dashboards import Report, figure
from interp.store import ActivationStore

FAST = {"draws": 100, "permutations": 99}


@pytest.fixture(scope="module")
def results():
    """One of each kind, of a planted collapse at the last layer."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    tensors = {
        f"resid_post.{i}": torch.from_numpy(rng.normal(size=(80, 6)) + i * y[:, None])
        for i in range(3)
    }
    rows = {"text": [f"<b>{i}</b> %{{x}}" for i in range(80)], "label": y,
            "axiom": np.repeat(["<i>a", "b"], 40)}  # fmt: skip
    data = {"name": "d", "text_column": "text"}
    one = ActivationStore.from_tensors(tensors, rows, data=data)
    fallen = {**tensors, "resid_post.2": tensors["resid_post.2"].clone()}
    fallen["resid_post.2"][y == 0] += 2
    two = ActivationStore.from_tensors(fallen, rows, data=data)
    X = tensors["resid_post.2"]
    return {
        "aqi": probes.aqi(X, y, texts=rows["text"], name="d.label", **FAST),
        "layers": probes.aqi_by_layer(one, **FAST),
        "axioms": probes.aqi_by_axiom(X, y, rows["axiom"], name="d.label", **FAST),
        "pooling": probes.pool_layers(list(tensors.values()), y, list(tensors), pairs=100, **FAST),
        "delta": probes.delta_aqi_by_layer(one, two, models=("<old>", "new")),
        "map": probes.cluster_map(X, np.where(y, "safe", "unsafe"), texts=rows["text"]),
    }


def traces(fig):
    return {t.name: t for t in fig.data if t.name}


def test_by_layer(results):
    found = results["layers"]
    fig = figure(found)
    named = traces(fig)
    np.testing.assert_allclose(named["AQI"].y, found.value, rtol=1e-6)
    np.testing.assert_allclose(named["shuffled labels, 95 %"].y, found.null_high, rtol=1e-6)
    np.testing.assert_allclose(named["words alone"].y, found.words["score"], rtol=1e-5)
    band = fig.data[0]
    np.testing.assert_allclose(band.y, [*found.low, *found.high[::-1]], rtol=1e-6)
    alt = fig.layout.meta["alt"]
    assert f"highest {found.peak:.3f}" in alt and "40 safe and 40 unsafe rows" in alt
    nothing = dataclasses.replace(found, value=np.full(3, np.nan), peak=None, peak_hookpoint=None)
    assert "undefined at every hook point" in figure(nothing).layout.meta["alt"]


def test_by_axiom(results):
    found = results["axioms"]
    fig = figure(found)
    dots = [t for t in fig.data if t.error_x.array is not None]
    np.testing.assert_allclose([t.x[0] for t in dots], found.value, rtol=1e-6)
    up = [t.x[0] + t.error_x.array[0] for t in dots]
    np.testing.assert_allclose(up, found.high, rtol=1e-5)
    assert fig.layout.yaxis.ticktext[0] == "&lt;i&gt;a (20/20)"
    assert f"overall {found.value[-1]:.3f}" in fig.layout.meta["alt"]


def test_one_value_and_one_that_is_undefined(results):
    found = results["aqi"]
    fig = figure(found)
    assert fig.data[0].x[0] == pytest.approx(found.value)
    assert list(fig.layout.yaxis.ticktext) == ["AQI", "shuffled labels, 95 %", "words alone"]
    none = probes.aqi(np.ones((6, 2)), [1] * 6)
    assert "undefined, because there is one class" in figure(none).layout.meta["alt"]


def test_weights(results):
    found = results["pooling"]
    fig = figure(found)
    np.testing.assert_allclose(fig.data[0].y, found.weights, rtol=1e-6)
    assert f"Held-out AQI {found.held_out['value']:.3f}" in fig.layout.meta["alt"]


def test_the_difference_and_its_alarm(results):
    found = results["delta"]
    assert found.alarms == ("resid_post.2",)
    fig = figure(found)
    named = traces(fig)
    np.testing.assert_allclose(named["difference"].y, found.delta, rtol=1e-6)
    assert list(named["alarm"].x) == [2] and "AQI of &lt;old&gt;" in named
    assert "1 of 3 hook points raise the alarm" in fig.layout.meta["alt"]
    calm = dataclasses.replace(found, alarm=False, alarms=())
    assert "alarm" not in traces(figure(calm))
    single = dataclasses.replace(
        found, hookpoints=("x",), alarms=("x",),
        **{k: getattr(found, k)[2:] for k in ("first", "second", "delta", "low", "high")},
    )  # fmt: skip
    bar = traces(figure(single))["difference"].error_y
    assert bar.array[0] == pytest.approx(found.high[2] - found.delta[2], rel=1e-5)


def test_the_map(results):
    found = results["map"]
    fig = figure(found)
    safe = traces(fig)["safe (40)"]
    mine = np.array(found.labels) == "safe"
    np.testing.assert_array_equal(safe.x, found.xy[mine, 0])
    assert "<b>" not in safe.text[0] and "%{" not in safe.text[0]
    assert "For the eye only" in fig.layout.meta["alt"]


def test_the_report_tells_the_alarm_and_escapes_what_is_data(results, tmp_path):
    path = Report(list(results.values()), title="t").write(tmp_path / "r.html")
    text = path.read_text(encoding="utf-8")
    assert text.count("Alarm:") == 2  # in the overview, and beside its figure
    assert "<old>" not in text and "<i>a" not in text and "<b>3</b>" not in text
    assert "AQI by layer" in text and "For the eye only" in text
    calm = dataclasses.replace(results["delta"], alarm=False, alarms=())
    quiet = Report([calm], title="t").html()
    assert "Alarm:" not in quiet
