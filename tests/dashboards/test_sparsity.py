"""Figures of sparsity, thinning and flow draw the results' own numbers and say them in words."""

import dataclasses

import numpy as np
import pytest
import torch

import probes
from dashboards import Report, figure


def relu(n, d, shift=0.0, seed=0):
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift).relu()


@pytest.fixture
def sparse():
    acts = {"mlp_act.0": relu(200, 30, -1), "mlp_act.1": relu(200, 250, -2)}
    acts["mlp_act.0"][:, :6] = 0
    initial = {"mlp_act.0": relu(200, 30), "mlp_act.1": relu(200, 250)}
    return probes.sparsity(acts, "exact", initial=initial, name="texts")


@pytest.fixture
def thinned(gpt2, texts):
    return probes.density_curve(gpt2, texts, (0.5, 0.1), noise=0.1, draws=20, name="texts")


@pytest.fixture
def flow():
    x = {"resid_post.0": relu(60, 16) - 0.3, "resid_post.1": relu(60, 16, seed=1) - 0.3}
    return probes.hidden_flow(x, name="texts")


def trace(fig, **wanted):
    (found,) = [t for t in fig.data if all(getattr(t, k) == v for k, v in wanted.items())]
    return found


def test_bars_are_the_density_beside_random_weights(sparse):
    fig = figure(sparse)
    np.testing.assert_allclose(trace(fig, type="bar").y, sparse.density, rtol=1e-6)
    np.testing.assert_allclose(
        trace(fig, name="random weights").y, sparse.initial_density, rtol=1e-6
    )
    alt = fig.layout.meta["alt"]
    assert f"mlp_act.0 {sparse.density[0]:.3f} (random weights" in alt
    assert f"{sum(sparse.dead)} never fire" in alt and sparse.dead[0] == 6
    alone = figure(dataclasses.replace(sparse, initial_density=None))
    assert "random" not in alone.layout.meta["alt"] and len(alone.data) == len(fig.data) - 1


def test_the_strip_holds_every_neuron_in_falling_order(sparse):
    strip = trace(figure(sparse), type="heatmap")
    assert strip.z.shape == (2, 100)
    rates = strip.customdata
    assert (np.diff(rates, axis=1) <= 1e-7).all()
    assert rates[1].mean() == pytest.approx(sparse.rates[1].mean(), rel=0.02)
    assert (rates[0][-20:] == 0).all() and (rates[0][:79] > 0).all()  # 6 of 30 are dead
    assert strip.z.min() >= strip.zmin


def test_an_undefined_density_is_said():
    acts = {"expert.0": relu(20, 4), "expert.1": torch.zeros(0, 4)}
    fig = figure(probes.sparsity(acts, "exact"))
    assert "expert.1 undefined" in fig.layout.meta["alt"]


def test_the_curves_are_the_losses(thinned):
    fig = figure(thinned)
    for row, name in enumerate(("clean input", "noisy input")):
        line = trace(fig, name=name)
        np.testing.assert_allclose(line.y, thinned.loss[row], rtol=1e-6)
        np.testing.assert_allclose(line.x, thinned.realised[row].mean(1), rtol=1e-6)
    layer = trace(fig, name="mlp_act.2")
    np.testing.assert_allclose(layer.y, thinned.realised[0, :, 2], rtol=1e-6)
    assert f"0.1 asked ({thinned.realised[0, 2].mean():.3f} realised)" in fig.layout.meta["alt"]


def test_the_flow_stands_beside_its_controls(flow):
    fig = figure(flow)
    np.testing.assert_allclose(trace(fig, name="neighbouring tokens").y, flow.jaccard, rtol=1e-6)
    np.testing.assert_allclose(
        trace(fig, name="shuffled tokens").y, flow.jaccard_shuffled, rtol=1e-6
    )
    rotated = trace(fig, name="rotated", mode="lines+markers")
    np.testing.assert_allclose(rotated.y, flow.rotated["jaccard"], rtol=1e-6)
    np.testing.assert_allclose(trace(fig, name="specialised").y, flow.specialised / 16)


def test_a_report_holds_all_three(sparse, thinned, flow, tmp_path):
    page = Report([sparse, thinned, flow]).write(tmp_path / "r.html").read_text(encoding="utf-8")
    for said in ("A neuron is active by exact", "without any training for it", "MoHD-style: the",
                 "200 tokens", "answers"):  # fmt: skip
        assert said in page
    odd = dataclasses.replace(thinned, hookpoints=("a & <b>", *thinned.hookpoints[1:]))
    page = Report([odd]).write(tmp_path / "o.html").read_text(encoding="utf-8")
    assert "At a &amp; &lt;b&gt;, " in page  # escaped once
    evil = dataclasses.replace(sparse, name="<script>alert(1)</script>")
    page = Report([evil]).write(tmp_path / "e.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
