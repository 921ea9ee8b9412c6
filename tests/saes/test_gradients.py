"""Gradients of every loss by central differences of its formula, in numpy: no autograd in sight.

What a loss holds fixed (AuxK's residual and scale, the gate's decoder) is taken at the point of
expansion; all else moves.
"""

import math

import numpy as np
import pytest
import torch

from saes import ARCHITECTURES, JumpReLUConfig, JumpReLUSAE

DEAD = [2, 5, 6, 11, 17, 23]
STEP = 1e-6
"""Of the differences: their error is about 1e-10 of a loss near 10."""


def mean_square(a, b):
    return ((a - b) ** 2).sum() / len(a)


def kept(pre, k):
    """The positive ones of the k largest of each row."""
    order = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    mask = np.zeros_like(pre)
    np.put_along_axis(mask, order, 1.0, axis=1)
    return mask * np.maximum(pre, 0)


def before(sae, p, x):
    x = x if sae.transcodes else x - p["b_dec"].reshape(-1)
    return x @ p["encoder"].T + p["b_enc"]


def topk_output(sae, p, x, k):
    output = kept(before(sae, p, x), k) @ p["decoder"] + p["b_dec"]
    return output + x @ p["W_skip"].T if "W_skip" in p else output


def auxk(sae, p, x, y, held):
    """The residual that dead latents are to explain, and the scale, are those of ``held``."""
    e = y - held
    scale = mean_square(y, y.mean(0)) / mean_square(e, e.mean(0))
    z = kept(before(sae, p, x)[:, DEAD], min(sae.config.k_aux or y.shape[1] // 2, len(DEAD)))
    return sae.config.auxk * scale * mean_square(z @ p["decoder"][DEAD], e)


def topk(sae, p, fixed, x, y):
    k, held = sae.config.k, topk_output(sae, fixed, x, sae.config.k)
    loss = mean_square(topk_output(sae, p, x, k), y) + auxk(sae, p, x, y, held)
    if sae.config.multi_k:
        loss += mean_square(topk_output(sae, p, x, min(4 * k, sae.n_latents)), y) / 8
    return loss


def batch_topk(sae, p, fixed, x, y):
    def latents(at):
        pre = before(sae, at, x)
        return kept(pre.reshape(1, -1), sae.config.k * len(x)).reshape(pre.shape)

    z = latents(p)
    held = latents(fixed) @ fixed["decoder"] + fixed["b_dec"]
    prefixes = sae.config.prefixes if sae.architecture == "matryoshka" else (sae.n_latents,)
    nested = (mean_square(z[:, :m] @ p["decoder"][:m] + p["b_dec"], y) for m in prefixes)
    return sum(nested) + auxk(sae, p, x, y, held)


def relu(sae, p, fixed, x, y):
    z = np.maximum(before(sae, p, x), 0)
    layers = p["decoder"].reshape(sae.n_latents, -1, sae.out_shape[-1])
    length = np.sqrt((layers**2).sum(2)).sum(1)
    output = z @ p["decoder"] + p["b_dec"].reshape(-1)
    return mean_square(output, y) + sae.config.l1 * (z @ length).mean()


def gated(sae, p, fixed, x, y):
    u = (x - p["b_dec"]) @ p["encoder"].T
    gate = u + p["b_enc"]
    z = np.maximum(np.exp(p["r_mag"]) * u + p["b_mag"], 0) * (gate > 0)
    gates = np.maximum(gate, 0)
    alone = gates @ fixed["decoder"] + fixed["b_dec"]
    sparsity = sae.config.l1 * gates.sum(1).mean()
    return mean_square(z @ p["decoder"] + p["b_dec"], y) + sparsity + mean_square(alone, y)


def jumprelu(sae, p, fixed, x, y):
    """As a function of all but the thresholds: L0 is flat, and a latent is p above its own."""
    pre = before(sae, p, x)
    z = np.where(pre > np.exp(fixed["log_threshold"]), pre, 0)
    return mean_square(z @ p["decoder"] + p["b_dec"], y)


CASES = [
    ("topk", topk, {}, None),
    ("topk", topk, {"k": 17}, None),
    ("topk", topk, {"multi_k": True, "k_aux": 3}, None),
    ("topk", topk, {"multi_k": True, "k": 8}, 5),
    ("batch_topk", batch_topk, {}, None),
    ("batch_topk", batch_topk, {"k": 17}, 5),
    ("matryoshka", batch_topk, {}, None),
    ("transcoder", topk, {"skip": True, "multi_k": True}, 5),
    ("relu", relu, {}, None),
    ("relu", relu, {}, 5),
    ("gated", gated, {}, None),
    ("jumprelu", jumprelu, {}, None),
    ("jumprelu", jumprelu, {"l0_target": 3.0}, 5),
    ("crosscoder", relu, {}, None),
]


def numpy_of(sae):
    return {k: v.detach().numpy().copy() for k, v in sae.named_parameters()}


def differences(f, p, key):
    """Central differences of f in every entry of p[key]."""
    found = np.zeros_like(p[key])
    for at in np.ndindex(found.shape):
        sides = []
        for sign in (1, -1):
            moved = p[key].copy()
            moved[at] += sign * STEP
            sides.append(f({**p, key: moved}))
        found[at] = (sides[0] - sides[1]) / (2 * STEP)
    return found


def set_up(small, batch, name, fields, d_out):
    sae = small(name, d_out=d_out, **fields).double()
    x = batch(sae, 40)
    y = batch(sae, 40, seed=3, out=True) if sae.transcodes else x
    loss = sae.loss(x, y if sae.transcodes else None, dead=torch.tensor(DEAD))
    loss.total.backward()
    return sae, loss, x.flatten(1).numpy(), y.flatten(1).numpy()


def test_every_architecture_has_a_case():
    elsewhere = {"codebook", "vl"}  # in tests/saes/codebook/test_layer.py and test_vl.py
    assert {name for name, *_ in CASES} == set(ARCHITECTURES) - elsewhere


@pytest.mark.parametrize(("name", "formula", "fields", "d_out"), CASES)
def test_gradients_are_the_slopes_of_the_formula(name, formula, fields, d_out, small, batch):
    sae, loss, x, y = set_up(small, batch, name, fields, d_out)
    p = numpy_of(sae)
    fixed = numpy_of(sae)
    value = formula(sae, p, fixed, x, y)
    if name == "jumprelu":  # whose formula leaves out what is flat
        value += loss.parts["sparsity"].item()
    assert value == pytest.approx(loss.total.item(), rel=1e-10)
    for key, parameter in sae.named_parameters():
        if key == "log_threshold":
            continue  # a step has no slope: below
        slopes = differences(lambda q: formula(sae, q, fixed, x, y), p, key)
        assert np.abs(slopes).max() > 1e-3, key
        np.testing.assert_allclose(parameter.grad.numpy(), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "formula"), [("topk", topk), ("gated", gated)])
def test_what_is_held_fixed_matters(name, formula, small, batch):
    """The check above would see it move: the decoder's slope is then another."""
    sae, _, x, y = set_up(small, batch, name, {}, None)
    p = numpy_of(sae)
    slopes = differences(lambda q: formula(sae, q, q, x, y), p, "decoder")
    assert np.abs(slopes - sae.decoder.grad.numpy()).max() > 1e-2


@pytest.mark.parametrize("l0_target", [None, 3.0])
def test_jumprelu_thresholds_move_by_the_documented_estimate(l0_target, small, batch):
    """d latent / dt = -(t / e) K and d L0 / dt = -(1 / e) K, with slopes of the rest in numpy."""
    sae, loss, x, y = set_up(small, batch, "jumprelu", {"l0_target": l0_target, "l0": 0.7}, None)
    p, e = numpy_of(sae), sae.config.bandwidth
    t = np.exp(p["log_threshold"])
    pre = before(sae, p, x)
    near = np.abs((pre - t) / e) < 0.5
    z = np.where(pre > t, pre, 0)
    by_z = differences(lambda q: mean_square(q["z"] @ p["decoder"] + p["b_dec"], y), {"z": z}, "z")
    l0 = (pre > t).sum(1).mean()
    by_l0 = 0.7 if l0_target is None else 0.7 * 2 * (l0 / l0_target - 1) / l0_target
    slope = (by_z * -(t / e) * near).sum(0) + by_l0 * -(1 / e) * near.sum(0) / len(x)
    np.testing.assert_allclose(sae.log_threshold.grad.numpy(), slope * t, rtol=1e-5, atol=1e-6)
    assert near.any(0).sum() > 12 and np.abs(slope).max() > 0.1


@pytest.mark.parametrize("v", [0.7, 1.0, 1.3])
def test_the_jumprelu_estimate_is_the_slope_of_the_mean_loss(v):
    """One latent and x uniform on (0, 1): the mean loss has a slope in t, and it is this.

    Mean over x of (v x [x > t] - x)^2 + l0 [x > t] has the slope t^2 v (2 - v) - l0. The kernel's
    half above t sees x larger by e / 4 and the half below smaller, which moves the estimate by
    -t v^2 e / 4.
    """
    t, e, l0 = 0.5, 0.02, 0.3
    config = JumpReLUConfig(n_latents=1, l0=l0, bandwidth=e, first_threshold=t)
    sae = JumpReLUSAE(config, 1).double()
    with torch.no_grad():
        sae.encoder.fill_(1)
        sae.decoder.fill_(v)
        sae.log_threshold.fill_(math.log(t))
    x = (torch.arange(100_000, dtype=torch.float64) + 0.5)[:, None] / 100_000
    sae.loss(x).total.backward()
    slope = float(sae.log_threshold.grad) / t
    exact = t**2 * v * (2 - v) - l0
    assert slope == pytest.approx(exact - t * v**2 * e / 4, rel=1e-4)

    def mean_loss(at):
        return float(((v * x * (x > at) - x) ** 2 + l0 * (x > at)).mean())

    assert (mean_loss(t + 0.01) - mean_loss(t - 0.01)) / 0.02 == pytest.approx(exact, rel=1e-2)
