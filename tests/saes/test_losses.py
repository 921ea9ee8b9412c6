"""Every loss and all its gradients against dense float64 arithmetic written out here."""

import pytest
import torch
from torch.testing import assert_close

from saes import ARCHITECTURES

DEAD = torch.tensor([2, 5, 6, 11, 17, 23])


def squared(a, b):
    return (a - b).pow(2).sum() / len(a)


def largest(pre, k):
    """Where the k largest of each row are, by a plain sort."""
    order = pre.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(pre, dtype=torch.bool).scatter(1, order, True)


def pre_codes(sae, x):
    return (x if sae.transcodes else x - sae.b_dec.flatten()) @ sae.encoder.T + sae.b_enc


def auxk(sae, x, y, output, dead):
    e = (y - output).detach()
    pre = pre_codes(sae, x)[:, dead]
    z = torch.where(
        largest(pre, min(sae.config.k_aux or y.shape[1] // 2, len(dead))), pre.relu(), 0
    )
    scale = squared(y, y.mean(0, keepdim=True)) / squared(e, e.mean(0, keepdim=True))
    return sae.config.auxk * scale.detach() * squared(z @ sae.decoder[dead], e)


def topk(sae, x, y, dead):
    def at(k):
        pre = pre_codes(sae, x)
        output = torch.where(largest(pre, k), pre.relu(), 0) @ sae.decoder + sae.b_dec
        return output if getattr(sae, "W_skip", None) is None else output + x @ sae.W_skip.T

    output = at(sae.config.k)
    parts = {"reconstruction": squared(output, y), "auxk": auxk(sae, x, y, output, dead)}
    if sae.config.multi_k:
        parts["multi_k"] = squared(at(min(4 * sae.config.k, sae.n_latents)), y) / 8
    return parts


def batch_topk(sae, x, y, dead):
    pre = pre_codes(sae, x)
    chosen = largest(pre.reshape(1, -1), sae.config.k * len(x)).view_as(pre)
    z = torch.where(chosen, pre.relu(), 0)
    output = z @ sae.decoder + sae.b_dec
    parts = {"reconstruction": squared(output, y), "auxk": auxk(sae, x, y, output, dead)}
    if sae.architecture == "matryoshka":
        parts["prefixes"] = sum(
            squared(z[:, :m] @ sae.decoder[:m] + sae.b_dec, y) for m in sae.config.prefixes[:-1]
        )
    return parts


def relu(sae, x, y, dead):
    z = pre_codes(sae, x).clamp_min(0)
    layers = sae.decoder.view(sae.n_latents, -1, sae.out_shape[-1])
    lengths = layers.pow(2).sum(2).sqrt().sum(1)
    return {
        "reconstruction": squared(z @ sae.decoder + sae.b_dec.flatten(), y),
        "sparsity": sae.config.l1 * (z * lengths).sum() / len(x),
    }


def gated(sae, x, y, dead):
    u = (x - sae.b_dec) @ sae.encoder.T
    gate = u + sae.b_enc
    z = torch.where(gate > 0, (u * torch.exp(sae.r_mag) + sae.b_mag).clamp_min(0), 0)
    gates = gate.clamp_min(0)
    frozen = gates @ sae.decoder.detach() + sae.b_dec.detach()
    return {
        "reconstruction": squared(z @ sae.decoder + sae.b_dec, y),
        "sparsity": sae.config.l1 * gates.sum() / len(x),
        "gate": squared(frozen, y),
    }


def jumprelu(sae, x, y, dead):
    """The estimates enter as slopes: a term that is 0 and has the stated derivative."""
    pre, e = pre_codes(sae, x), sae.config.bandwidth
    t = sae.log_threshold.exp()
    kernel = (((pre - t) / e).abs() < 0.5).double().detach()
    above, move = (pre > t).double().detach(), t - t.detach()
    z = pre * above - (t / e).detach() * kernel * move
    l0 = (above - kernel / e * move).sum() / len(x)
    if sae.config.l0_target is not None:
        l0 = (l0 / sae.config.l0_target - 1) ** 2
    return {
        "reconstruction": squared(z @ sae.decoder + sae.b_dec, y),
        "sparsity": sae.config.l0 * l0,
    }


def codebook(sae, x, y, dead):
    """The mean of the k codes nearest by cosine."""
    cosine = torch.nn.functional.cosine_similarity(
        (x - sae.b_dec)[:, None], sae.codes[None], dim=2
    ).detach()
    z = largest(cosine, sae.config.k).double() / sae.config.k
    return {"reconstruction": squared(z @ sae.codes + sae.b_dec, y)}


CASES = [
    ("topk", topk, {}),
    ("topk", topk, {"k": 17}),  # many rows have fewer positive pre-activations
    ("topk", topk, {"multi_k": True}),
    ("topk", topk, {"multi_k": True, "k": 8, "k_aux": 2}),
    ("batch_topk", batch_topk, {}),
    ("batch_topk", batch_topk, {"k": 17, "k_aux": 50}),
    ("matryoshka", batch_topk, {}),
    ("matryoshka", batch_topk, {"k": 17, "prefixes": (1, 23, 24)}),
    ("transcoder", topk, {}),
    ("transcoder", topk, {"skip": True, "multi_k": True}),
    ("relu", relu, {}),
    ("gated", gated, {}),
    ("jumprelu", jumprelu, {}),
    ("jumprelu", jumprelu, {"l0_target": 3.0, "l0": 0.7}),
    ("crosscoder", relu, {}),
    ("codebook", codebook, {}),
]


def both(small, batch, name, reference, fields, d_out=None):
    sae = small(name, d_out=d_out, **fields).double()
    x = batch(sae, 60)
    y = batch(sae, 60, seed=3, out=True) if sae.transcodes else x
    ours = sae.loss(x, y if sae.transcodes else None, dead=DEAD)
    return sae, ours, reference(sae, x.flatten(1), y.flatten(1), DEAD)


def gradients(total, sae):
    names, parameters = zip(*sae.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def test_every_architecture_has_a_case():
    elsewhere = {"vl"}  # of pairs, in test_vl.py
    assert {name for name, *_ in CASES} == set(ARCHITECTURES) - elsewhere


@pytest.mark.parametrize(("name", "reference", "fields"), CASES)
def test_losses_and_gradients_are_those_of_the_formula(name, reference, fields, small, batch):
    sae, ours, theirs = both(small, batch, name, reference, fields)
    assert ours.parts.keys() == theirs.keys()
    for part, value in theirs.items():
        assert value > 0, part
        assert_close(ours.parts[part], value)
    got, expected = gradients(ours.total, sae), gradients(sum(theirs.values()), sae)
    for key in expected:
        assert expected[key].any(), key
        assert_close(
            got[key], expected[key], rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}"
        )
    # each part matters to some gradient: the check above sees all of them
    for part in theirs if len(theirs) > 1 else ():
        without = gradients(sum(v for k, v in theirs.items() if k != part), sae)
        moved = [k for k, g in without.items() if g is None or not torch.allclose(g, expected[k])]
        assert moved, part


@pytest.mark.parametrize("d_out", [8, 5])
@pytest.mark.parametrize("name", ["topk", "batch_topk", "relu", "jumprelu", "transcoder"])
def test_any_architecture_transcodes(name, d_out, small, batch):
    reference = next(r for n, r, _ in CASES if n == name)
    sae, ours, theirs = both(small, batch, name, reference, {}, d_out)
    assert sae.transcodes and sae.decoder.shape == (24, d_out)
    got, expected = gradients(ours.total, sae), gradients(sum(theirs.values()), sae)
    for key in expected:
        assert_close(got[key], expected[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka", "transcoder"])
def test_auxk_teaches_the_encoder_of_the_dead_and_of_no_other(name, small, batch, loss_of):
    sae = small(name)
    x = batch(sae, 60)
    part = loss_of(sae, x, dead=DEAD).parts["auxk"]
    grads = gradients(part, sae)
    for key in ("encoder", "decoder", "b_enc"):
        rows = grads[key].view(24, -1).abs().sum(1)
        assert (rows[DEAD] > 0).all(), key
        rows[DEAD] = 0
        assert not rows.any(), key
    assert (grads["b_dec"] is None) == sae.transcodes, "b_dec is taken off the dead latents' input"


def test_auxk_has_the_scale_of_the_reconstruction(small, batch):
    sae = small("topk")
    x = batch(sae, 60)
    one = sae.loss(x, dead=DEAD)
    with torch.no_grad():  # an SAE of ten times the activations
        sae.b_enc *= 10
        sae.b_dec *= 10
    ten = sae.loss(10 * x, dead=DEAD)
    for part in ("reconstruction", "auxk"):
        assert_close(ten.parts[part], 100 * one.parts[part])


@pytest.mark.parametrize("mean", [0.0, 100.0, 1000.0])
def test_auxk_in_float32_where_means_are_large(mean, small):
    """A feature of great mean and little variance is common in language models."""
    sae = small("topk")
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(400, 8, generator=generator)
    x = x + mean * torch.randn(8, generator=generator)
    ours = sae.loss(x, dead=DEAD).parts["auxk"]
    theirs = sae.double().loss(x.double(), dead=DEAD).parts["auxk"]
    assert_close(ours.double(), theirs, rtol=1e-3, atol=0)
    assert theirs > 0


@pytest.mark.parametrize("dead", [None, torch.tensor([], dtype=torch.long)])
def test_auxk_is_nothing_where_nothing_is_dead(dead, small, batch):
    sae = small("topk")
    loss = sae.loss(batch(sae, 60), dead=dead)
    assert loss.parts["auxk"] == 0
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in sae.parameters())


def test_auxk_is_nothing_where_nothing_is_left_to_explain(small):
    sae = small("topk", fresh=True)
    loss = sae.loss(torch.zeros(6, 8), dead=DEAD)  # output is exactly 0 too
    assert loss.parts["reconstruction"] == 0 and loss.parts["auxk"] == 0
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in sae.parameters())


def test_penalty_scale_warms_the_penalty_and_nothing_else(small, batch, loss_of):
    for name in sorted(set(ARCHITECTURES) - {"vl"}):
        sae = small(name)
        x = batch(sae, 60)
        full, half = loss_of(sae, x), loss_of(sae, x, penalty_scale=0.5)
        for part, value in full.parts.items():
            assert_close(half.parts[part], 0.5 * value if part == "sparsity" else value)


def test_k_in_a_schedule_is_the_k_of_another_config(small, batch):
    for name in ("topk", "batch_topk", "matryoshka"):
        sae, other = small(name), small(name, k=7)
        x = batch(sae, 60)
        assert_close(sae.loss(x, k=7, dead=DEAD).parts, other.loss(x, dead=DEAD).parts)
        assert sae.config.k == 3
